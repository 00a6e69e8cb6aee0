"""Several instances share the load, and who is not well gets none of it (requirement E4)."""

import asyncio
import random
from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.instances import Pool
from gateway.store import InstanceRow
from upgrade_core.protocol import Availability, Effect

MODULE = "mod-a-1.0.0"


async def add(site: Any, product: str, url: str) -> str:
    instance = f"{product}-{url.rsplit(':', 1)[1]}"
    wire = {"srvcId": f"{product}-1.0.0", "instId": instance, "url": url}
    assert (await site.http.post("/_/discovery/modules", json=wire)).status_code == 201
    return instance


async def test_idle_instances_take_turns(site: Any, new_upstream: Any) -> None:
    first, second = await new_upstream("first"), await new_upstream("second")
    tenant, product = await site.wired(first.url)
    await add(site, product, second.url)
    for _ in range(10):
        await site.get(tenant, f"/{product}")
    assert (len(first.requests), len(second.requests)) == (5, 5)


async def test_a_slow_instance_gets_less(site: Any, new_upstream: Any, until: Any) -> None:
    slow, first, second = await new_upstream("slow"), await new_upstream("first"), await new_upstream("second")
    slow.answer = slow.slowly
    tenant, product = await site.wired(slow.url)
    await add(site, product, first.url)
    await add(site, product, second.url)
    at_work: set[asyncio.Task[Any]] = set()
    for _ in range(60):
        at_work.add(asyncio.create_task(site.get(tenant, f"/{product}")))
        await until(lambda: sum(not task.done() for task in at_work) == len(slow.requests))
    assert len(slow.requests) < 5, "only when both of the two chosen were it"
    assert min(len(first.requests), len(second.requests)) > 10
    slow.gate.set()
    assert {answer.status_code for answer in await asyncio.gather(*at_work)} == {200}


async def test_the_trace_tells_who_served(site: Any, new_upstream: Any) -> None:
    first, second = await new_upstream("first"), await new_upstream("second")
    tenant, product = await site.wired(first.url)
    instance = await add(site, product, second.url)
    traces = {
        answer.json()["name"]: answer.headers["X-Okapi-Trace"]
        for answer in [await site.get(tenant, f"/{product}/a?secret=1") for _ in range(2)]
    }
    assert traces["first"].startswith(f"GET {product}-1.0.0 {product}-1.0.0-i/{product}/a.. : 200 ")
    assert traces["second"].startswith(f"GET {product}-1.0.0 {instance}/{product}/a.. : 200 ")
    assert "127.0.0.1" not in str(traces)


async def test_a_trace_of_the_module_itself_stays(new_site: Any, raw_upstream: Any) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nX-Okapi-Trace: GET inner : 200 1us\r\nContent-Length: 0\r\n\r\n")

    module = await raw_upstream(serve)
    site, silent = await new_site(), await new_site(trace_headers=False)
    traces = []
    for one in (site, silent):
        tenant, product = await one.wired(module.url)
        traces.append((await one.get(tenant, f"/{product}")).headers.get_list("X-Okapi-Trace"))
    assert [len(found) for found in traces] == [2, 1]
    assert traces[0][0] == traces[1][0] == "GET inner : 200 1us"


# Health


async def test_an_instance_that_fails_its_health_checks_gets_nothing_until_it_is_well(
    new_site: Any, new_upstream: Any, until: Any
) -> None:
    site = await new_site(health_interval=0.05, probe_interval=0.05, health_failures=3)
    first, second = await new_upstream("first"), await new_upstream("second")
    tenant, product = await site.wired(first.url)
    await add(site, product, second.url)
    pool = site.running.platform.table.pool
    first.health = 503
    checks = first.health_checks
    await until(lambda: not all(instance.in_service for instance in pool))
    assert first.health_checks - checks >= 3
    assert {(await site.get(tenant, f"/{product}")).json()["name"] for _ in range(6)} == {"second"}
    first.health = 404
    await until(lambda: all(instance.in_service for instance in pool))
    assert {(await site.get(tenant, f"/{product}")).json()["name"] for _ in range(6)} == {"first", "second"}


async def test_a_check_without_an_answer_is_a_miss(new_site: Any, raw_upstream: Any, until: Any) -> None:
    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    site = await new_site(health_interval=0.05, health_timeout=0.05, health_failures=2)
    module = await raw_upstream(serve)
    _, product = await site.wired(module.url)
    pool = site.running.platform.table.pool
    await until(lambda: pool.availability(f"{product}-1.0.0") == Availability.LOST)


async def test_the_descriptor_may_name_another_path(new_site: Any, raw_upstream: Any, until: Any, name: Any) -> None:
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")[0])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    module = await raw_upstream(serve)
    site = await new_site(health_interval=0.05)
    await site.register(f"{name('m')}-1.0.0", module.url, metadata={"uplift": {"health": "/manage/health?deep=1"}})
    await until(lambda: asked)
    assert set(asked) == {b"GET /manage/health?deep=1 HTTP/1.1"}


async def test_an_instance_that_is_gone_is_not_looked_at(new_site: Any, upstream: Any, until: Any) -> None:
    site = await new_site(health_interval=0.02)
    _, product = await site.wired(upstream.url)
    await until(lambda: upstream.health_checks)
    assert (await site.http.delete(f"/_/discovery/modules/{product}-1.0.0/{product}-1.0.0-i")).status_code == 204
    assert list(site.running.platform.table.pool) == []
    checks = upstream.health_checks
    await asyncio.sleep(0.2)
    assert upstream.health_checks <= checks + 1


# The pool by itself


def row(number: int, url: str = "http://a") -> InstanceRow:
    return InstanceRow(id=f"i{number}", module=MODULE, url=url)


@given(
    st.lists(st.tuples(st.sampled_from(["put", "remove", "drop", "seen", "again"]), st.integers(0, 3)), max_size=40),
    st.integers(0, 10**6),
)
async def test_whatever_happens_the_chosen_is_in_service_and_up_means_that_there_is_one(
    steps: list[tuple[str, int]], seed: int
) -> None:
    pool = Pool(ttl=1000, chance=random.Random(seed))
    effects: list[Effect] = []
    pool.on_effects = lambda _, told: effects.extend(told)
    model: dict[str, bool] = {}
    for position, (what, number) in enumerate(steps):
        before = any(model.values())
        effects.clear()
        known = next((instance for instance in pool if instance.row.id == f"i{number}"), None)
        if what == "put":
            pool.put(row(number), seen=str(position))
            model[f"i{number}"] = True
        elif what == "remove":
            pool.remove(f"i{number}")
            model.pop(f"i{number}", None)
        elif known is not None and what == "drop":
            pool.drop(known, times_seen=known.times_seen, why="")
            model[f"i{number}"] = False
        elif known is not None and what == "seen":
            pool.seen(known)
            model[f"i{number}"] = True
        elif known is not None:
            pool.put(known.row, seen=known.seen)  # the same row again says nothing
        assert {instance.row.id: instance.in_service for instance in pool} == model
        chosen = pool.choose(MODULE)
        assert (pool.availability(MODULE) == Availability.UP) == any(model.values()) == (chosen is not None)
        assert chosen is None or chosen.in_service
        assert (Effect.START_TTL in effects) == (before and not any(model.values()))
        assert (Effect.RELEASE in effects) == (not before and any(model.values()))
    pool.close()


async def test_a_failure_of_an_earlier_process_does_not_drop_the_new_one() -> None:
    pool = Pool(ttl=1000)
    pool.put(row(1), seen=None)
    (instance,) = pool
    before = instance.times_seen
    pool.put(row(1), seen="2030-01-01")
    pool.drop(instance, times_seen=before, why="")
    pool.missed(instance, times_seen=before, most=1, why="")
    assert pool.availability(MODULE) == Availability.UP


async def test_who_was_tried_is_avoided_as_long_as_there_is_another() -> None:
    pool = Pool(ttl=1000)
    for number in range(3):
        pool.put(row(number), seen=None)
    first, second, third = pool
    assert {pool.choose(MODULE, {first, second}) for _ in range(10)} == {third}
    assert pool.choose(MODULE, {first, second, third}) is None


async def test_of_two_the_less_busy_one_is_chosen() -> None:
    pool = Pool(ttl=1000, chance=random.Random(1))
    for number in range(10):
        pool.put(row(number), seen=None)
    found: Counter[str] = Counter()
    for _ in range(1000):
        chosen = pool.choose(MODULE)
        assert chosen is not None
        chosen.in_flight += 1
        found[chosen.row.id] += 1
    assert max(found.values()) - min(found.values()) <= 6, "one choice by chance alone would differ by 30 or more"
