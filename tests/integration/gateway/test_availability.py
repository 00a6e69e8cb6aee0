"""A module that drops out costs its users time, not errors; nothing is carried out twice (requirement A8, protocol)."""

import asyncio
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest
from aiohttp import web

from tests.ports import free_port

PROGRAM = Path(__file__).parents[1] / "stand_ins" / "module.py"
QUICK_BACK = {"probe_interval": 0.05, "hold_max": 20.0, "ttl": 30.0}


async def head(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)


class ModuleProcess:
    """A module that a test may kill; it comes back at the same address."""

    def __init__(self, done: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._done = done
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "ModuleProcess":
        self._process = subprocess.Popen([sys.executable, PROGRAM, str(self.port), str(self._done)])
        return self

    async def ready(self) -> None:
        async with asyncio.timeout(15):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except ConnectionError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    return

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def done(self) -> list[str]:
        """What it carried out."""
        return self._done.read_text().split() if self._done.exists() else []


@pytest.fixture
def module_process(tmp_path: Path) -> Iterator[Callable[[], ModuleProcess]]:
    """Modules as processes, started."""
    made: list[ModuleProcess] = []

    def make() -> ModuleProcess:
        made.append(ModuleProcess(tmp_path / f"done{len(made)}").start())
        return made[-1]

    yield make
    for each in made:
        each.kill()


class Load:
    """Requests without a pause, from several clients at once."""

    def __init__(self, url: str, tenant: str, product: str) -> None:
        self.found: Counter[tuple[str, int]] = Counter()
        self.posted: dict[str, int] = {}
        self.may_post = asyncio.Event()
        self.may_post.set()
        self.posting = 0
        self._url = url
        self._tenant = tenant
        self._product = product
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers={"X-Okapi-Tenant": self._tenant})
        self._tasks = [asyncio.create_task(self._get()) for _ in range(4)]
        self._tasks += [asyncio.create_task(self._post(number)) for number in range(3)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        self.may_post.set()
        try:
            async with asyncio.timeout(30):
                await asyncio.gather(*self._tasks)
        finally:
            await self._session.close()

    async def _get(self) -> None:
        while not self._stopping:
            async with self._session.get(f"{self._url}/{self._product}/x") as answer:
                await answer.read()
            self.found["GET", answer.status] += 1

    async def _post(self, client: int) -> None:
        number = 0
        while not self._stopping:
            await self.may_post.wait()
            number += 1
            path = f"/{self._product}/{client}-{number}"
            self.posting += 1
            try:
                async with self._session.post(self._url + path, data=b"x" * 100) as answer:
                    await answer.read()
            finally:
                self.posting -= 1
            self.posted[path] = answer.status
            self.found["POST", answer.status] += 1


async def missing_is_told(site: Any, tenant: str, product: str, word: str) -> bool:
    found = await site.get(tenant, f"/{product}", Prefer="wait=0")
    return bool(found.headers.get("X-Okapi-Lifecycle") == word)


# Killed and back


async def test_a_module_killed_and_restarted_ten_times_under_load_costs_time_and_no_errors(
    new_site: Any, module_process: Any, until: Any
) -> None:
    site = await new_site(**QUICK_BACK)
    module = module_process()
    await module.ready()
    tenant, product = await site.wired(module.url)
    async with Load(site.url, tenant, product) as load:
        for _ in range(10):
            seen = load.found.copy()
            await until(lambda seen=seen: (load.found - seen)["GET", 200] > 20 and (load.found - seen)["POST", 201] > 5)
            load.may_post.clear()  # a POST that may have been carried out cannot be sent again: that is another test
            await until(lambda: not load.posting)
            module.kill()
            load.may_post.set()
            await until(lambda: parked(site, tenant))
            module.start()
    assert set(load.found) == {("GET", 200), ("POST", 201)}
    assert Counter(module.done()) == Counter(list(load.posted)), "each POST was carried out once"


async def parked(site: Any, tenant: str) -> int:
    return int(await site.parked(tenant))


async def test_a_post_that_the_kill_may_have_hit_gets_a_502_and_is_not_sent_again(
    new_site: Any, module_process: Any, until: Any
) -> None:
    site = await new_site(**QUICK_BACK)
    module = module_process()
    await module.ready()
    tenant, product = await site.wired(module.url)
    async with Load(site.url, tenant, product) as load:
        for _ in range(5):
            seen = load.found.copy()
            await until(lambda seen=seen: (load.found - seen)["POST", 201] > 5)
            module.kill()
            module.start()
    assert set(load.found) <= {("GET", 200), ("POST", 201), ("POST", 502)}
    done = Counter(module.done())
    assert set(done.values()) == {1}
    assert {path for path, status in load.posted.items() if status == 201} <= set(done)


async def test_with_a_second_instance_the_death_of_one_is_not_noticed(new_site: Any, module_process: Any, until: Any) -> None:
    site = await new_site(hold_max=0.0)  # nobody is parked
    first, second = module_process(), module_process()
    await first.ready()
    await second.ready()
    tenant, product = await site.wired(first.url)
    await add(site, product, second.url)
    async with Load(site.url, tenant, product) as load:
        await until(lambda: load.found["POST", 201] > 20)
        load.may_post.clear()
        await until(lambda: not load.posting)
        first.kill()
        load.may_post.set()
        seen = load.found.copy()
        await until(lambda: (load.found - seen)["GET", 200] > 50 and (load.found - seen)["POST", 201] > 20)
    assert set(load.found) == {("GET", 200), ("POST", 201)}
    assert first.done()
    assert second.done()


async def add(site: Any, product: str, url: str) -> str:
    instance = f"{product}-{url.rsplit(':', 1)[1]}"
    wire = {"srvcId": f"{product}-1.0.0", "instId": instance, "url": url}
    assert (await site.http.post("/_/discovery/modules", json=wire)).status_code == 201
    return instance


async def is_told(site: Any, key: str, *, told: bool = True) -> bool:
    """Whether the administrator can see a problem."""
    return (key in [problem["key"] for problem in (await site.http.get("/_/lifecycle/problems")).json()]) is told


# UP, LOST, CLOSED


async def test_lost_becomes_closed_after_the_ttl_and_up_again_by_itself(new_site: Any, module_process: Any, until: Any) -> None:
    site = await new_site(ttl=0.5, probe_interval=0.05)
    module = module_process()
    await module.ready()
    tenant, product = await site.wired(module.url)
    assert (await site.get(tenant, f"/{product}")).status_code == 200
    module.kill()
    await until(lambda: missing_is_told(site, tenant, product, "DELAY"))
    found = await site.get(tenant, f"/{product}")
    assert (found.status_code, found.headers["X-Okapi-Lifecycle"]) == (503, "MISSING"), "who was parked hears it too"
    assert "Retry-After" not in found.headers
    await until(lambda: is_told(site, f"closed:{product}-1.0.0"))
    module.start()
    await until(lambda: is_up(site, tenant, product))
    await until(lambda: is_told(site, f"closed:{product}-1.0.0", told=False))


async def is_up(site: Any, tenant: str, product: str) -> bool:
    return bool((await site.get(tenant, f"/{product}", Prefer="wait=0")).status_code == 200)


async def test_a_version_that_never_had_an_instance_is_closed(site: Any, name: Any) -> None:
    product = name("m")
    tenant = await site.tenant(await site.register(f"{product}-1.0.0"))
    assert await missing_is_told(site, tenant, product, "MISSING")


async def test_aware_and_plain_requesters_side_by_side(new_site: Any, module_process: Any, until: Any) -> None:
    site = await new_site(**QUICK_BACK)
    module = module_process()
    await module.ready()
    tenant, product = await site.wired(module.url)
    module.kill()
    plain = asyncio.create_task(site.get(tenant, f"/{product}"))
    await until(lambda: parked(site, tenant))
    aware = await site.get(tenant, f"/{product}", **{"X-Okapi-Lifecycle": "delay"})
    assert (aware.status_code, aware.headers["X-Okapi-Lifecycle"]) == (503, "DELAY")
    assert 1 <= int(aware.headers["Retry-After"]) <= 5
    problem = aware.json()
    assert (problem["lifecycle"], problem["tenant"], problem["module"]) == ("DELAY", tenant, f"{product}-1.0.0")
    assert problem["since"] < problem["until"]
    (link,) = await site.links(tenant)
    assert (link["availability"], link["since"], link["until"]) == ("LOST", problem["since"], problem["until"])
    place = aware.headers["Location"]
    state = (await site.http.get(place)).json()
    assert (state["lifecycle"], state["state"], state["tenant"], state["product"]) == ("DELAY", "LOST", tenant, product)
    waiting = asyncio.create_task(site.http.get(place, params={"wait": "20"}))
    module.start()
    assert (await plain).status_code == 200
    assert (await waiting).json()["lifecycle"] == "RESUME"
    assert (await site.get(tenant, f"/{product}", **{"X-Okapi-Lifecycle": "delay"})).status_code == 200


async def test_the_place_to_wait_says_missing_when_the_ttl_is_over(new_site: Any, until: Any) -> None:
    site = await new_site(ttl=0.5)
    tenant, product = await site.wired("http://127.0.0.1:1")
    aware = await site.get(tenant, f"/{product}", **{"X-Okapi-Lifecycle": "delay"})
    state = (await site.http.get(aware.headers["Location"], params={"wait": "10"})).json()
    assert (state["lifecycle"], state["state"]) == ("MISSING", "CLOSED")


async def test_every_replica_knows_the_place_to_wait(new_site: Any) -> None:
    site = await new_site()
    other = await new_site(dsn=site.dsn)
    tenant, product = await site.wired("http://127.0.0.1:1")
    place = (await site.get(tenant, f"/{product}", **{"X-Okapi-Lifecycle": "delay"})).headers["Location"]
    assert (await other.http.get(place)).json()["lifecycle"] == "RESUME", "it has not tried yet, so there it is worth a try"
    assert await missing_is_told(other, tenant, product, "DELAY")
    assert (await other.http.get(place)).json()["lifecycle"] == "DELAY"


async def test_an_id_that_was_not_made_here_tells_nothing(site: Any) -> None:
    state = (await site.http.get("/_/lifecycle/delays/lost.c3VwZXJ0ZW5hbnQ")).json()
    assert (state["lifecycle"], state.get("tenant")) == ("RESUME", None)


async def test_those_parked_on_a_lost_version_follow_an_update_to_the_new_one(site: Any, upstream: Any, until: Any) -> None:
    tenant, product = await site.wired("http://127.0.0.1:1")
    waiting = asyncio.create_task(site.get(tenant, f"/{product}"))
    await until(lambda: parked(site, tenant))
    newer = await site.register(f"{product}-1.1.0", upstream.url)
    job = await site.job(tenant, newer)
    await job.held(newer)
    await job.switch(newer)
    assert (await waiting).status_code == 200
    await job.finish()


# Leaving and coming


async def test_disconnect_of_the_last_one_is_lost_and_its_requests_finish(site: Any, upstream: Any, until: Any) -> None:
    upstream.answer = upstream.slowly
    tenant, product = await site.wired(upstream.url)
    module, instance = f"{product}-1.0.0", f"{product}-1.0.0-i"
    at_work = asyncio.create_task(site.get(tenant, f"/{product}/old"))
    await until(lambda: upstream.requests)
    leaving = asyncio.create_task(
        site.http.post(f"/_/lifecycle/{module}", json={"event": "DISCONNECT", "instance": instance, "grace": 10})
    )
    pool = site.running.platform.table.pool
    await until(lambda: pool.availability(module) == "LOST")
    assert await missing_is_told(site, tenant, product, "DELAY")
    assert not leaving.done()
    upstream.gate.set()
    assert (await at_work).status_code == 200
    assert (await leaving).json() == {"instance": instance, "inFlight": 0}
    waiting = asyncio.create_task(site.get(tenant, f"/{product}/new"))
    await until(lambda: parked(site, tenant))
    await add(site, product, upstream.url)
    assert (await waiting).status_code == 200


@pytest.mark.parametrize("how", ["RESUME", "registration", "deployer"])
async def test_who_says_that_it_is_well_gets_requests_at_once(new_site: Any, new_upstream: Any, until: Any, how: str) -> None:
    site = await new_site(probe_interval=1000)
    module = await new_upstream()
    tenant, product = await site.wired(module.url)
    instance = next(iter(site.running.platform.table.pool))

    async def drop() -> None:
        site.running.platform.table.pool.drop(instance, times_seen=instance.times_seen, why="the test says so")

    module.health = 500
    await site.running.inside(drop())
    waiting = asyncio.create_task(site.get(tenant, f"/{product}"))
    await until(lambda: parked(site, tenant))
    if how == "RESUME":
        wire = {"event": "RESUME", "instance": f"{product}-1.0.0-i"}
        assert (await site.http.post(f"/_/lifecycle/{product}-1.0.0", json=wire)).status_code == 200
    elif how == "deployer":
        wire = {"id": f"{product}-1.0.0-i", "module": f"{product}-1.0.0", "url": module.url, "node": "n", "generation": "2"}
        found = await site.http.put(f"/_/versions/{product}-1.0.0/instances/{product}-1.0.0-i", json=wire)
        assert found.status_code == 204
    else:
        wire = {"srvcId": f"{product}-1.0.0", "instId": f"{product}-1.0.0-i", "url": module.url}
        assert (await site.http.post("/_/discovery/modules", json=wire)).status_code == 201
    assert (await waiting).status_code == 200


async def test_those_parked_of_all_tenants_are_let_go_in_the_order_they_came(new_site: Any, upstream: Any, until: Any) -> None:
    site = await new_site(release_rate=50)
    product_tenant, product = await site.wired(upstream.url)
    second = await site.tenant(f"{product}-1.0.0")
    instance = f"{product}-1.0.0-i"
    gone = await site.http.delete(f"/_/discovery/modules/{product}-1.0.0/{instance}")
    assert gone.status_code == 204
    waiting = []
    for number in range(10):
        waiting.append(asyncio.create_task(site.get((product_tenant, second)[number % 2], f"/{product}/{number}")))
        await until(lambda number=number: all_parked(site, number + 1))
    await add(site, product, upstream.url)
    assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}
    assert [request.raw_path for request in upstream.requests] == [f"/{product}/{number}" for number in range(10)]


def all_parked(site: Any, number: int) -> bool:
    return bool(site.running.platform.table.parked_total == number)


# Once, or again


@pytest.fixture
async def breaker(raw_upstream: Any) -> tuple[Any, list[bytes]]:
    """A module that answers a first request on a connection and closes at the next: as one whose idle time was just over."""
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await head(reader)
        if b" /admin/health " in first:
            return  # not well
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        second = await head(reader)
        got.append(second.partition(b" ")[0])
        if b"x-read-all" in second.lower():
            await body_of(second, reader)

    return await raw_upstream(serve), got


async def body_of(head: bytes, reader: asyncio.StreamReader) -> None:
    """Read a request's body, however it is framed: one that the gateway has whole has a length."""
    length = re.search(rb"(?i)content-length: (\d+)", head)
    if length is None:
        await reader.readuntil(b"0\r\n\r\n")
    else:
        await reader.readexactly(int(length[1]))


async def broken_then(site: Any, upstream: Any, breaker: Any, method: str, body: Any, **headers: str) -> tuple[Any, Any, str]:
    """A tenant whose next request meets a connection that is about to be closed; the second instance is well."""
    module, got = breaker
    tenant, product = await site.wired(module.url)
    assert (await site.get(tenant, f"/{product}")).text == "ok"
    await add(site, product, upstream.url)
    pool = site.running.platform.table.pool
    second = next(instance for instance in pool if instance.row.url == upstream.url)
    second.last_turn = 10**6  # the other one's turn
    answer = await site.http.request(method, f"/{product}/x", headers={"X-Okapi-Tenant": tenant, **headers}, content=body)
    assert got == [method.encode()]
    return answer, tenant, product


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE", "PUT"])
async def test_an_idempotent_request_that_broke_off_goes_to_the_next_instance(
    site: Any, upstream: Any, breaker: Any, method: str
) -> None:
    body = b"small" * 1000 if method == "PUT" else None
    answer, _, _ = await broken_then(site, upstream, breaker, method, body)
    assert answer.status_code == 200
    assert [request.method for request in upstream.requests] == [method]
    assert upstream.bodies == [body or b""]


async def test_what_may_have_been_carried_out_is_loose(new_site: Any, upstream: Any, breaker: Any) -> None:
    site = await new_site(settle=1000)
    _, tenant, product = await broken_then(site, upstream, breaker, "GET", None)
    link = site.running.platform.table.link(tenant, product)
    assert link.flow.loose_until > 0


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_any_other_request_that_broke_off_is_a_502(site: Any, upstream: Any, breaker: Any, method: str) -> None:
    answer, _, product = await broken_then(site, upstream, breaker, method, b"x")
    assert answer.status_code == 502
    assert answer.text == f"{product}-1.0.0 broke off before its answer; whether the request was carried out is not known"
    assert upstream.requests == []


async def test_a_body_too_large_to_keep_is_sent_once(new_site: Any, upstream: Any, breaker: Any) -> None:
    site = await new_site(repeat_max=1000)

    async def body() -> Any:
        for _ in range(20):
            yield b"x" * 100

    answer, _, _ = await broken_then(site, upstream, breaker, "PUT", body(), **{"X-Read-All": "1"})
    assert answer.status_code == 502
    assert upstream.requests == []


async def test_a_streamed_body_that_is_small_is_sent_again_whole(site: Any, upstream: Any, breaker: Any) -> None:
    async def body() -> Any:
        for number in range(20):
            yield b"%d;" % number

    answer, _, _ = await broken_then(site, upstream, breaker, "PUT", body(), **{"X-Read-All": "1"})
    assert answer.status_code == 200
    assert upstream.bodies == [b"".join(b"%d;" % number for number in range(20))]


async def test_a_request_that_kills_every_instance_does_not_go_round_for_ever(new_site: Any, raw_upstream: Any) -> None:
    sent: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await head(reader)
        if b" /admin/health " in line:
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        else:
            sent.append(line)

    module = await raw_upstream(serve)
    site = await new_site(probe_interval=0.02, repeat_most=2)
    tenant, product = await site.wired(module.url)
    found = await site.get(tenant, f"/{product}")
    assert found.status_code == 502
    assert len(sent) == 3


async def test_a_post_with_a_body_waits_for_the_module_unsent(site: Any, upstream: Any, until: Any) -> None:
    tenant, product = await site.wired("http://127.0.0.1:1")
    body = bytes(range(256)) * 1000
    waiting = asyncio.create_task(site.http.post(f"/{product}", headers={"X-Okapi-Tenant": tenant}, content=body))
    await until(lambda: parked(site, tenant))
    await add(site, product, upstream.url)
    assert (await waiting).status_code == 200
    assert upstream.bodies == [body]


async def test_a_client_that_breaks_off_its_upload_takes_no_instance_out(site: Any, upstream: Any, until: Any) -> None:
    async def swallow(request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        return web.Response()

    upstream.answer = swallow
    tenant, product = await site.wired(upstream.url)
    _, writer = await site.connect()
    writer.write(f"PUT /{product} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\nContent-Length: 1000\r\n\r\nhello".encode())
    await until(lambda: upstream.requests)
    writer.transport.abort()
    await until(lambda: upstream.broken)
    assert await is_up(site, tenant, product)
    assert upstream.health_checks == 0


async def test_a_parked_client_that_leaves_behind_its_body_takes_no_instance_out(site: Any, upstream: Any, until: Any) -> None:
    tenant, product = await site.wired("http://127.0.0.1:1")
    _, writer = await site.connect()
    size = 10 * 2**20
    writer.write(f"PUT /{product} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\nContent-Length: {size}\r\n\r\n".encode())
    writer.write(bytes(2**16))
    await until(lambda: parked(site, tenant))
    writer.transport.abort()
    await add(site, product, upstream.url)
    await until(lambda: all_parked_of(site, tenant, 0))
    assert await is_up(site, tenant, product)
    assert [request.method for request in upstream.requests] == ["GET"]
    assert upstream.health_checks == 0


async def all_parked_of(site: Any, tenant: str, number: int) -> bool:
    return bool(await parked(site, tenant) == number)


async def test_what_broke_off_under_a_hold_does_not_go_to_the_next_instance_of_the_old_version(
    site: Any, raw_upstream: Any, upstream: Any, until: Any
) -> None:
    got: list[bytes] = []
    leave = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        got.append(await head(reader))
        await leave.wait()

    module = await raw_upstream(serve)
    tenant, product = await site.wired(module.url)
    waiting = asyncio.create_task(site.get(tenant, f"/{product}"))
    await until(lambda: got)
    await add(site, product, upstream.url)
    hold = f"hold-of-{tenant}"
    wire = {"event": "UPDATE", "tenant": tenant, "hold": hold, "grace": 60}
    assert (await site.http.post(f"/_/lifecycle/{product}-1.0.0", json=wire)).status_code == 202
    leave.set()
    await until(lambda: parked(site, tenant))
    place = f"/_/lifecycle/delays/{hold}?for=holder&wait=10"
    assert (await site.http.get(place)).json()["state"] == "HELD", "after what was loose has settled"
    assert upstream.requests == []
    wire = {"event": "RESUME", "hold": hold}
    assert (await site.http.post(f"/_/lifecycle/{product}-1.0.0", json=wire)).status_code == 200
    assert (await waiting).status_code == 200
    assert len(upstream.requests) == 1


# Waiting for the lease


async def test_those_who_wait_for_the_lease_are_parked_like_all_others(new_site: Any, upstream: Any, until: Any) -> None:
    site = await new_site(parked_per_tenant=3, lease_renew=1000, release_rate=50)
    tenant, product = await site.wired(upstream.url)
    membership = site.running.platform.membership

    async def lose() -> None:
        membership._lease_until = 0.0
        membership._on_lease_end()

    async def regain() -> None:
        membership._hold_lease(asyncio.get_running_loop().time())

    await site.running.inside(lose())
    waiting = []
    for number in range(3):
        waiting.append(asyncio.create_task(site.get(tenant, f"/{product}/{number}")))
        await until(lambda number=number: all_parked(site, number + 1))
    beyond = await site.get(tenant, f"/{product}/beyond")
    assert (beyond.status_code, beyond.headers["X-Okapi-Lifecycle"]) == (503, "DELAY")
    assert "Retry-After" in beyond.headers
    await site.running.inside(regain())
    assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}
    assert [request.raw_path for request in upstream.requests] == [f"/{product}/{number}" for number in range(3)]


# Holds and overlays at the same time


async def test_a_lost_version_under_a_hold_waits_for_both(site: Any, upstream: Any, until: Any) -> None:
    tenant, product = await site.wired("http://127.0.0.1:1")
    module = f"{product}-1.0.0"
    waiting = asyncio.create_task(site.get(tenant, f"/{product}/first"))
    await until(lambda: parked(site, tenant))
    held = await site.http.post(f"/_/lifecycle/{module}", json={"event": "UPDATE", "tenant": "*", "hold": f"hold-of-{product}"})
    assert held.status_code == 202
    assert (await site.http.get(held.headers["Location"] + "&wait=10")).json()["state"] == "HELD"
    late = asyncio.create_task(site.get(tenant, f"/{product}/second"))
    await add(site, product, upstream.url)
    star = site.running.platform.table.stars[product]
    await until(lambda: len(star.waiters) == 2)
    assert upstream.requests == []
    assert (
        await site.http.post(f"/_/lifecycle/{module}", json={"event": "RESUME", "hold": f"hold-of-{product}"})
    ).status_code == 200
    assert [(await each).status_code for each in (waiting, late)] == [200, 200]
    assert [request.raw_path for request in upstream.requests] == [f"/{product}/first", f"/{product}/second"]


@pytest.mark.parametrize("back", [True, False], ids=["back", "undone"])
async def test_a_request_inside_an_overlay_waits_for_the_new_version(site: Any, upstream: Any, until: Any, back: bool) -> None:
    tenant, product = await site.wired(upstream.url)
    newer = await site.register(f"{product}-2.0.0", "http://127.0.0.1:1")
    job = await site.job(tenant, newer)
    await job.held(newer)
    url = await job.overlay(newer)
    waiting = asyncio.create_task(site.http.get(f"{url}/{product}"))
    table = site.running.platform.table
    await until(lambda: table.parked_by_tenant.get(tenant))
    if back:
        wire = {"srvcId": newer, "instId": f"{newer}-back", "url": upstream.url}
        assert (await site.http.post("/_/discovery/modules", json=wire)).status_code == 201
        assert (await waiting).status_code == 200
        assert upstream.requests[0].headers["X-Okapi-Url"] == url
    else:
        await job.runs.close_overlay(job.id, product)
        assert (await waiting).status_code == 404
    await job.resume(f"{product}-1.0.0")
    await job.finish()


async def test_a_tenant_that_is_deleted_leaves_nobody_parked(site: Any, until: Any) -> None:
    tenant, product = await site.wired("http://127.0.0.1:1")
    waiting = asyncio.create_task(site.get(tenant, f"/{product}"))
    await until(lambda: parked(site, tenant))
    assert (await site.http.delete(f"/_/proxy/tenants/{tenant}")).status_code == 204
    assert (await waiting).status_code in (400, 404)
