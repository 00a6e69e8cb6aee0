"""Several gateways on one database: one truth, whichever is asked, whatever dies (protocol: the barrier)."""

import asyncio
import contextlib
import itertools
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import httpx
import pytest
from aiohttp import web

from gateway_client import GatewayError
from tests.wire.tcp_proxy import Line

LEASE = 3.0
SHORT = {
    "stop_grace": 10.0,  # what is parked or being let go when a replica leaves is let go there
    "lease": LEASE,
    "lease_renew": 0.2,
    "settle": 0.3,
    "database_timeout": 1.0,
    "grace": 20.0,
    "sweep_interval": 30.0,
    "release_rate": 300,
}
NO_ANSWER = (httpx.HTTPError, OSError)


@dataclass(frozen=True, kw_only=True)
class Replica:
    """One gateway process and how it is called."""

    running: Any
    site: Any

    async def start(self) -> None:
        if self.running.process is None or self.running.process.poll() is not None:
            await asyncio.to_thread(self.running.start)

    async def kill(self) -> None:
        await asyncio.to_thread(self.running.end, signal.SIGKILL)

    def send(self, signum: int) -> None:
        self.running.process.send_signal(signum)

    async def update(self, module: str, *, tenant: str | None = None, **more: Any) -> httpx.Response:
        wire = {"event": "UPDATE", **({} if tenant is None else {"tenant": tenant}), **more}
        found: httpx.Response = await self.site.http.post(f"/_/lifecycle/{module}", json=wire)
        return found

    async def hold(self, module: str, *, tenant: str | None = None, **more: Any) -> str:
        """UPDATE; the hold's id."""
        found = await self.update(module, tenant=tenant, **more)
        assert found.status_code == 202, found.text
        return str(found.json()["id"])

    async def resume(self, module: str, hold: str) -> None:
        found = await self.site.http.post(f"/_/lifecycle/{module}", json={"event": "RESUME", "hold": hold})
        assert found.status_code == 200, found.text

    async def state(self, hold: str, wait: float = 0) -> dict[str, Any]:
        found = await self.site.http.get(f"/_/lifecycle/delays/{hold}", params={"for": "holder", "wait": str(wait)})
        assert found.status_code == 200, found.text
        return dict(found.json())

    async def held(self, hold: str) -> None:
        """Wait until a hold is HELD."""
        found = await self.state(hold, 20)
        assert (found["state"], found["lifecycle"]) == ("HELD", "RESUME"), found


@dataclass(frozen=True, kw_only=True)
class Wired:
    """A tenant with one module."""

    tenant: str
    module: str
    path: str

    async def ask(self, replica: Replica, path: str = "", **headers: str) -> httpx.Response:
        found: httpx.Response = await replica.site.get(self.tenant, self.path + path, **headers)
        return found

    def begin(self, replica: Replica, path: str = "", **headers: str) -> "asyncio.Task[httpx.Response]":
        return asyncio.create_task(self.ask(replica, path, **headers))

    async def parked(self, replica: Replica) -> int:
        return int(await replica.site.parked(self.tenant))


@pytest.fixture(scope="module")
async def database(postgres_dsn: Any) -> str:
    return str(await asyncio.to_thread(postgres_dsn))


@pytest.fixture(scope="module")
async def cluster(
    database: str, tmp_path_factory: Any, gateway_process_kind: Any, site_kind: Any
) -> AsyncIterator[list[Replica]]:
    """Replicas that the tests of this file share; who killed one need not start it again."""
    folder: Path = tmp_path_factory.mktemp("replicas")
    made = []
    for number in range(3):
        running = gateway_process_kind(database, folder, node=f"replica-{number}", **SHORT)
        made.append(Replica(running=running, site=site_kind(running.url, database)))
    yield made
    for each in made:
        await each.site.close()
        if each.running.process is not None:
            each.send(signal.SIGCONT)
            await each.kill()


@pytest.fixture
async def pair(cluster: list[Replica]) -> AsyncIterator[tuple[Replica, Replica]]:
    """Two replicas that run."""
    await asyncio.gather(*(each.start() for each in cluster[:2]))
    yield cluster[0], cluster[1]
    for each in cluster[:2]:
        each.send(signal.SIGCONT)


@pytest.fixture
def wire(name: Any) -> Callable[..., Awaitable[Wired]]:
    """A tenant with one module at an address."""

    async def make(replica: Replica, url: str) -> Wired:
        product = name("m")
        module = await replica.site.register(f"{product}-1.0.0", url)
        return Wired(tenant=await replica.site.tenant(module), module=module, path=f"/{product}")

    return make


async def query(dsn: str, sql: str, *arguments: Any) -> list[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        return list(await connection.fetch(sql, *arguments))
    finally:
        await connection.close()


# One truth


async def test_what_is_written_at_one_replica_is_there_at_the_other_at_once(
    pair: tuple[Replica, Replica], upstream: Any, name: Any
) -> None:
    for here, there in itertools.islice(itertools.cycle((pair, pair[::-1])), 6):
        product = name("m")
        module = await here.site.register(f"{product}-1.0.0", upstream.url)
        assert (await there.site.http.get(f"/_/proxy/modules/{module}")).status_code == 200
        assert len((await there.site.http.get(f"/_/discovery/modules/{module}")).json()) == 1
        tenant = await here.site.tenant()
        assert (await there.site.get(tenant, f"/{product}")).status_code == 404
        await here.site.enable(tenant, module)
        assert (await there.site.get(tenant, f"/{product}")).status_code == 200
        assert (await here.site.http.put(f"/_/lifecycle/routing/{tenant}", json={"routing": "newest"})).status_code == 200
        assert (await there.site.http.get(f"/_/lifecycle/routing/{tenant}")).json() == {"routing": "newest"}
        gone = await here.site.http.post(f"/_/lifecycle/{module}", json={"event": "DISCONNECT", "instance": f"{module}-i"})
        assert gone.json() == {"instance": f"{module}-i", "inFlight": 0}
        assert (await there.site.get(tenant, f"/{product}", Prefer="wait=0")).headers["X-Okapi-Lifecycle"] == "DELAY"


async def test_a_hold_is_set_at_one_replica_seen_at_the_other_and_opened_there(
    pair: tuple[Replica, Replica], upstream: Any, wire: Any, until: Any
) -> None:
    first, second = pair
    wired = await wire(first, upstream.url)
    hold = await first.hold(wired.module)
    found = await wired.ask(second, **{"X-Okapi-Lifecycle": "delay"})
    assert (found.status_code, found.headers["Location"]) == (503, f"/_/lifecycle/delays/{hold}")
    await second.held(hold)
    waiting = [wired.begin(each) for each in pair for _ in range(5)]
    await until(lambda: wired.parked(first))
    await until(lambda: wired.parked(second))
    await second.resume(wired.module, hold)
    assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}
    assert (await first.state(hold))["state"] == "OPEN"


class Watch:
    """What a module must not see: a request between HELD and RESUME, or one that was sent after UPDATE had returned."""

    def __init__(self) -> None:
        self.round = 0
        self.updated = self.held = False
        self.faults: list[str] = []
        self.served = 0

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        sent_in = request.headers.get("X-Sent-After-Update")
        if self.held:
            self.faults.append(f"{request.raw_path} arrived in round {self.round} while it was held")
        if self.updated and sent_in == str(self.round):
            self.faults.append(f"{request.raw_path} was sent after UPDATE {sent_in} had returned, and arrived before its RESUME")
        await asyncio.sleep(0.002)
        self.served += 1
        return web.json_response({})

    @property
    def mark(self) -> dict[str, str]:
        return {"X-Sent-After-Update": str(self.round)} if self.updated else {}


@contextlib.asynccontextmanager
async def hammering(replicas: list[Replica], wired: Wired, watch: Watch, *, clients: int = 6) -> AsyncIterator[Counter[int]]:
    """Requests at every replica, one after the other by each client."""
    answers: Counter[int] = Counter()
    over = asyncio.Event()

    async def client(http: aiohttp.ClientSession, url: str) -> None:
        while not over.is_set():
            async with http.get(url, headers={"X-Okapi-Tenant": wired.tenant, "Prefer": "wait=30", **watch.mark}) as found:
                await found.read()
                answers[found.status] += 1

    async with aiohttp.ClientSession() as http:
        tasks = [
            asyncio.create_task(client(http, f"{replica.site.url}{wired.path}/{number}"))
            for replica in replicas
            for number in range(clients)
        ]
        try:
            yield answers
        finally:
            over.set()
            await asyncio.gather(*tasks)


@pytest.mark.parametrize("every_tenant", [False, True], ids=["one tenant", "all tenants"])
async def test_no_request_reaches_the_module_after_update_whichever_replica_is_asked(
    cluster: list[Replica], upstream: Any, wire: Any, every_tenant: bool
) -> None:
    await asyncio.gather(*(each.start() for each in cluster))
    wired = await wire(cluster[0], upstream.url)
    watch = Watch()
    upstream.answer = watch.answer
    async with hammering(cluster, wired, watch) as answers:
        for number in range(12):
            holder, opener = cluster[number % 3], cluster[(number + 1) % 3]
            before = watch.served
            watch.round += 1
            hold = await holder.hold(wired.module, tenant=None if every_tenant else wired.tenant)
            watch.updated = True
            await opener.held(hold)
            watch.held = True
            await asyncio.sleep(0.03)  # as long as the update takes
            watch.held = watch.updated = False
            await opener.resume(wired.module, hold)
            async with asyncio.timeout(10):
                while watch.served == before:
                    await asyncio.sleep(0.001)
    assert watch.faults == []
    assert set(answers) == {200}


# What another replica has at work


async def test_a_request_in_flight_at_one_replica_keeps_the_hold_of_another_draining(
    pair: tuple[Replica, Replica], upstream: Any, wire: Any, until: Any
) -> None:
    first, second = pair
    wired = await wire(first, upstream.url)
    upstream.answer = upstream.slowly
    old = wired.begin(second)
    await until(lambda: upstream.requests)
    hold = await first.hold(wired.module)
    assert (await first.state(hold, 0.5))["state"] == "DRAINING"
    upstream.gate.set()
    assert (await old).status_code == 200
    await first.held(hold)
    await first.resume(wired.module, hold)


async def test_what_is_left_at_another_replica_after_the_grace_is_cut(
    pair: tuple[Replica, Replica], upstream: Any, wire: Any, until: Any
) -> None:
    first, second = pair
    wired = await wire(first, upstream.url)
    upstream.answer = upstream.slowly
    old = wired.begin(second)
    await until(lambda: upstream.requests)
    hold = await first.hold(wired.module, grace=0.2)
    found = await old
    assert (found.status_code, found.headers["X-Okapi-Lifecycle"]) == (503, "MISSING")
    await first.held(hold)
    assert upstream.broken == [wired.path]
    await first.resume(wired.module, hold)


async def test_a_part_of_work_in_flight_at_another_replica_is_let_through_and_a_forged_one_is_not(
    pair: tuple[Replica, Replica], upstream: Any, wire: Any, until: Any
) -> None:
    first, second = pair
    wired = await wire(first, upstream.url)
    stranger = await wire(first, upstream.url)
    await wired.ask(first)
    await stranger.ask(first)
    chains = [request.headers["X-Okapi-Request-Id"] for request in upstream.requests]
    upstream.answer = upstream.slowly
    outer = wired.begin(first)
    await until(lambda: len(upstream.requests) == 3)
    hold = await first.hold(wired.module)
    own = upstream.requests[-1].headers["X-Okapi-Request-Id"]
    inner = wired.begin(second, "/inner", **{"X-Okapi-Request-Id": f"{own};123456/x"})
    await until(lambda: len(upstream.requests) == 4)
    number = own.partition("/")[0]
    for forged in (f"{number[:-1]}x/y", f"{'0' * len(number)}/y", number[:12], chains[1]):
        found = await wired.ask(second, "/forged", Prefer="wait=0", **{"X-Okapi-Request-Id": forged})
        assert (found.status_code, found.headers["X-Okapi-Lifecycle"]) == (503, "DELAY")
    reader, writer = await second.site.connect()
    head = f"GET {wired.path} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {wired.tenant}\r\nPrefer: wait=0\r\nX-Okapi-Request-Id: "
    writer.write(head.encode() + b"\xff\r\n\r\n")
    assert b" 503 " in await reader.readline()
    assert (await second.state(hold))["state"] == "DRAINING"
    upstream.gate.set()
    assert [answer.status_code for answer in await asyncio.gather(outer, inner)] == [200, 200]
    await second.held(hold)
    late = await wired.ask(second, "/late", Prefer="wait=0", **{"X-Okapi-Request-Id": own})
    assert late.status_code == 503, "it is HELD: nothing old is at work"
    await first.resume(wired.module, hold)


async def test_parts_of_old_work_get_the_grace_of_the_hold_and_no_more(
    pair: tuple[Replica, Replica], upstream: Any, wire: Any, until: Any
) -> None:
    first, second = pair
    wired = await wire(first, upstream.url)
    upstream.answer = upstream.slowly
    outer = wired.begin(first)
    await until(lambda: upstream.requests)
    chain = {"X-Okapi-Request-Id": upstream.requests[0].headers["X-Okapi-Request-Id"]}
    hold = await first.hold(wired.module, grace=1.0)
    inner = wired.begin(second, "/inner", **chain)
    await until(lambda: len(upstream.requests) == 2)
    assert [answer.headers["X-Okapi-Lifecycle"] for answer in await asyncio.gather(outer, inner)] == ["MISSING", "MISSING"]
    late = await wired.ask(second, "/late", Prefer="wait=0", **chain)
    assert late.headers["X-Okapi-Lifecycle"] == "DELAY"
    assert len(upstream.requests) == 2
    await second.held(hold)
    await first.resume(wired.module, hold)


async def test_disconnect_waits_for_the_requests_of_every_replica(
    pair: tuple[Replica, Replica], new_upstream: Any, wire: Any, until: Any
) -> None:
    first, second = pair
    leaves, stays = await new_upstream("leaves"), await new_upstream("stays")
    wired = await wire(first, leaves.url)
    leaves.answer = leaves.slowly
    old = wired.begin(second)
    await until(lambda: leaves.requests)
    more = {"srvcId": wired.module, "instId": f"{wired.module}-more", "url": stays.url}
    assert (await first.site.http.post("/_/discovery/modules", json=more)).status_code == 201
    signal_ = {"event": "DISCONNECT", "instance": f"{wired.module}-i"}
    leaving = asyncio.create_task(first.site.http.post(f"/_/lifecycle/{wired.module}", json=signal_))
    await until(lambda: first_has_only(first, wired, f"{wired.module}-more"))
    for each in pair:
        assert {(await wired.ask(each)).json()["name"] for _ in range(4)} == {"stays"}
    assert not leaving.done()
    leaves.gate.set()
    assert (await old).json()["name"] == "leaves"
    assert (await leaving).json()["inFlight"] == 0
    assert len(leaves.requests) == 1


@pytest.mark.soak
async def test_disconnect_does_not_wait_for_a_replica_that_came_later(
    pair: tuple[Replica, Replica], cluster: list[Replica], new_upstream: Any, wire: Any, until: Any
) -> None:
    first, second = pair
    third = cluster[2]
    await third.start()
    await asyncio.to_thread(third.running.end)
    leaves, stays = await new_upstream("leaves"), await new_upstream("stays")
    wired = await wire(first, leaves.url)
    leaves.answer = leaves.slowly
    old = wired.begin(second)
    await until(lambda: leaves.requests)
    more = {"srvcId": wired.module, "instId": f"{wired.module}-more", "url": stays.url}
    assert (await first.site.http.post("/_/discovery/modules", json=more)).status_code == 201
    signal_ = {"event": "DISCONNECT", "instance": f"{wired.module}-i"}
    leaving = asyncio.create_task(first.site.http.post(f"/_/lifecycle/{wired.module}", json=signal_))
    await until(lambda: first_has_only(first, wired, f"{wired.module}-more"))
    await third.start()
    assert not leaving.done()
    leaves.gate.set()
    assert (await old).status_code == 200
    assert (await leaving).json()["inFlight"] == 0


async def first_has_only(replica: Replica, wired: Wired, instance: str) -> bool:
    found = (await replica.site.http.get(f"/_/discovery/modules/{wired.module}")).json()
    return [each["instId"] for each in found] == [instance]


@pytest.mark.soak
async def test_a_replica_that_comes_or_goes_while_it_drains_changes_nothing(
    pair: tuple[Replica, Replica], cluster: list[Replica], upstream: Any, wire: Any, until: Any
) -> None:
    first, second = pair
    third = cluster[2]
    await third.start()
    await asyncio.to_thread(third.running.end)
    wired = await wire(first, upstream.url)
    upstream.answer = upstream.slowly
    old = wired.begin(second)
    await until(lambda: upstream.requests)
    hold = await first.hold(wired.module)
    await third.start()
    assert (await wired.ask(third, Prefer="wait=0")).headers["X-Okapi-Lifecycle"] == "DELAY"
    await asyncio.to_thread(third.running.end)
    assert (await second.state(hold))["state"] == "DRAINING"
    upstream.gate.set()
    assert (await old).status_code == 200
    await first.held(hold)
    await first.resume(wired.module, hold)


# Replicas that die


@pytest.mark.parametrize("again", [pytest.param(True, marks=pytest.mark.soak), False], ids=["restarted", "gone"])
async def test_what_a_killed_replica_had_sent_is_loose_before_the_link_is_held(
    pair: tuple[Replica, Replica], upstream: Any, wire: Any, until: Any, again: bool
) -> None:
    first, second = pair
    wired = await wire(first, upstream.url)
    upstream.answer = upstream.slowly
    old = wired.begin(second)
    await until(lambda: upstream.requests)
    hold = await first.hold(wired.module)
    await second.kill()
    with pytest.raises(NO_ANSWER):
        await old
    assert (await first.state(hold))["state"] == "DRAINING", "what the dead replica had sent may still be at work"
    if again:
        await second.start()
        assert (await wired.ask(second, Prefer="wait=0")).headers["X-Okapi-Lifecycle"] == "DELAY"
    await first.held(hold)
    await first.resume(wired.module, hold)
    upstream.gate.set()
    assert (await wired.ask(first)).status_code == 200


@pytest.mark.parametrize("again", [pytest.param(True, marks=pytest.mark.soak), False], ids=["restarted", "gone"])
async def test_update_waits_for_a_replica_that_does_not_answer_until_it_is_replaced_or_its_lease_has_ended(
    pair: tuple[Replica, Replica], upstream: Any, wire: Any, until: Any, again: bool
) -> None:
    first, second = pair
    wired = await wire(first, upstream.url)
    second.send(signal.SIGSTOP)
    hold = asyncio.create_task(first.hold(wired.module))
    assert (await asyncio.wait({hold}, timeout=0.5))[0] == set()
    await second.kill()
    if again:
        await second.start()
    found = await hold
    await first.held(found)
    await first.resume(wired.module, found)


async def test_update_returns_when_every_replica_has_applied_it(
    pair: tuple[Replica, Replica], database: str, gateway_process: Any, site_of: Any, upstream: Any, wire: Any, until: Any
) -> None:
    second = pair[1]
    running = gateway_process(database, node="patient", **{**SHORT, "lease": 60, "lease_renew": 10})
    await asyncio.to_thread(running.start)
    patient = Replica(running=running, site=site_of(running.url))
    wired = await wire(patient, upstream.url)
    second.send(signal.SIGSTOP)
    queued = wired.begin(second)  # the kernel takes it
    holding = asyncio.create_task(patient.hold(wired.module))
    await until(lambda: patient.site.links(wired.tenant), within=2)
    assert (await asyncio.wait({holding}, timeout=0.3))[0] == set(), "one that lives does not know it yet"
    second.send(signal.SIGCONT)
    hold = await holding
    newer = wired.begin(second, "/newer")
    await until(lambda: wired.parked(second))
    await patient.held(hold)
    assert f"{wired.path}/newer" not in [request.raw_path for request in upstream.requests]
    await patient.resume(wired.module, hold)
    assert [answer.status_code for answer in await asyncio.gather(queued, newer)] == [200, 200]
    await asyncio.to_thread(running.end)  # in order: its lease is long
    await patient.site.close()


async def test_an_update_whose_replica_died_is_asked_for_again_at_another_and_is_the_same(
    pair: tuple[Replica, Replica], cluster: list[Replica], upstream: Any, wire: Any, until: Any, name: Any
) -> None:
    first, second = pair
    third = cluster[2]
    await third.start()
    wired = await wire(first, upstream.url)
    third.send(signal.SIGSTOP)  # so that UPDATE cannot return
    wanted = f"hold-of-mine-{name('h')}"
    lost = asyncio.create_task(first.update(wired.module, hold=wanted))
    await asyncio.wait({lost}, timeout=0.1)
    await first.kill()
    with pytest.raises(NO_ANSWER):
        await lost
    third.send(signal.SIGCONT)
    assert await second.hold(wired.module, hold=wanted) == wanted
    await second.held(wanted)
    await first.start()
    assert (await first.state(wanted))["state"] == "HELD"
    await first.resume(wired.module, wanted)
    assert (await wired.ask(second)).status_code == 200


async def test_a_hold_outlives_the_replica_that_took_it(
    pair: tuple[Replica, Replica], upstream: Any, wire: Any, until: Any
) -> None:
    first, second = pair
    wired = await wire(first, upstream.url)
    hold = await first.hold(wired.module)
    await first.held(hold)
    await first.kill()
    waiting = wired.begin(second)
    await until(lambda: wired.parked(second))
    assert (await second.state(hold))["state"] == "HELD"
    await first.start()
    assert (await wired.ask(first, Prefer="wait=0")).status_code == 503
    await first.resume(wired.module, hold)
    assert (await waiting).status_code == 200


@pytest.mark.parametrize("late", [pytest.param(False, marks=pytest.mark.soak), True], ids=["before", "while"])
async def test_a_switch_whose_replica_died_is_asked_for_again_at_another_and_is_made_once(
    pair: tuple[Replica, Replica], new_upstream: Any, wire: Any, until: Any, name: Any, late: bool
) -> None:
    first, second = pair
    old, new = await new_upstream("old"), await new_upstream("new")
    wired = await wire(first, old.url)
    newer = await first.site.register(wired.module.replace("-1.0.0", "-2.0.0"), new.url)
    job = await first.site.job(wired.tenant, newer)
    old.answer = old.slowly
    request = wired.begin(first)  # its own sockets are counted apart
    await until(lambda: old.requests)
    (state,) = await job.hold(newer)
    old.gate.set()
    await request
    await first.held(state.id)
    waiting = wired.begin(second)
    await until(lambda: wired.parked(second))
    switching = asyncio.create_task(job.switch(newer))
    if late:
        await asyncio.wait({switching}, timeout=0.02)
    await first.kill()
    await asyncio.gather(switching, return_exceptions=True)
    again = type(job)(id=job.id, tenant=job.tenant, runs=second.site.runs)
    await again.switch(newer)
    assert (await waiting).json()["name"] == "new"
    assert (await wired.ask(second)).json()["name"] == "new"
    await first.start()
    assert (await wired.ask(first)).json()["name"] == "new"
    assert len(old.requests) == 1


async def test_a_replica_that_was_stopped_past_its_lease_sends_nothing_by_its_old_table(
    pair: tuple[Replica, Replica], upstream: Any, wire: Any, until: Any
) -> None:
    first, second = pair
    wired = await wire(first, upstream.url)
    assert (await wired.ask(second)).status_code == 200
    second.send(signal.SIGSTOP)
    queued = [wired.begin(second, f"/{number}") for number in range(20)]  # the kernel takes them
    hold = await first.hold(wired.module)
    await first.held(hold)
    seen = len(upstream.requests)
    second.send(signal.SIGCONT)
    early = [wired.begin(second, f"/{number}") for number in range(20, 30)]
    await until(lambda: parked_is(wired, second, 30))
    assert len(upstream.requests) == seen
    await first.resume(wired.module, hold)
    assert {answer.status_code for answer in await asyncio.gather(*queued, *early)} == {200}


async def parked_is(wired: Wired, replica: Replica, number: int) -> bool:
    return await wired.parked(replica) == number


@pytest.mark.parametrize("released", [pytest.param(False, marks=pytest.mark.soak), True], ids=["parked", "being released"])
async def test_parked_requests_are_all_answered_when_their_replica_leaves(
    pair: tuple[Replica, Replica], upstream: Any, wire: Any, until: Any, released: bool
) -> None:
    first, second = pair
    wired = await wire(first, upstream.url)
    hold = await first.hold(wired.module)
    await first.held(hold)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:

        async def ask(number: int) -> str:
            headers = {"X-Okapi-Tenant": wired.tenant}
            async with http.get(f"{second.site.url}{wired.path}/{number}", headers=headers) as found:
                await found.read()
                return "served" if found.status == 200 else f"{found.status} {found.headers.get('X-Okapi-Lifecycle')}"

        waiting = [asyncio.create_task(ask(number)) for number in range(1000)]
        await until(lambda: parked_is(wired, second, 1000), within=30)
        if released:
            await first.resume(wired.module, hold)
        second.send(signal.SIGTERM)
        if not released:
            await first.resume(wired.module, hold)
        answers = Counter(await asyncio.gather(*waiting))
    assert set(answers) <= {"served", "503 DELAY"}, answers
    assert answers.total() == 1000
    paths = [request.raw_path for request in upstream.requests]
    assert len(paths) == len(set(paths)) == answers["served"], "each was executed at most once"
    assert await asyncio.to_thread(second.running.process.wait, 20) == 0


# A database that is away


@pytest.fixture
async def line(database: str) -> AsyncIterator[Line]:
    made = await Line(database).start()
    yield made
    await made.stop()


@pytest.mark.soak
async def test_a_replica_that_is_cut_off_from_the_database_fences_itself_and_update_waits_for_just_that(
    pair: tuple[Replica, Replica], line: Line, gateway_process: Any, site_of: Any, upstream: Any, wire: Any, until: Any
) -> None:
    first = pair[0]
    running = gateway_process(line.dsn, node="far", **SHORT)
    await asyncio.to_thread(running.start)
    far = Replica(running=running, site=site_of(running.url))
    wired = await wire(first, upstream.url)
    upstream.answer = upstream.slowly
    old = wired.begin(far)
    await until(lambda: upstream.requests)
    upstream.answer = upstream._echo
    line.cut()
    assert (await wired.ask(far)).status_code == 200, "its lease runs"
    await asyncio.sleep(3 * SHORT["lease_renew"])  # so that it has been silent for a while
    holding = asyncio.create_task(first.hold(wired.module))
    while not holding.done() and not old.done():
        found = await wired.ask(first, Prefer="wait=1")
        assert holding.done() or old.done() or found.status_code == 200, "it is not held while it waits"
    found = await old
    assert (found.status_code, found.headers["X-Okapi-Lifecycle"]) == (503, "MISSING")
    hold = await holding
    seen = len(upstream.requests)
    found = await wired.ask(far, Prefer="wait=0")
    assert (found.status_code, found.headers["X-Okapi-Lifecycle"]) == (503, "DELAY")
    waiting = [wired.begin(far, f"/{number}") for number in range(5)]
    place = f"/_/lifecycle/delays/{hold}?for=holder"
    assert (await far.site.http.get(place)).status_code == 503, "it cannot know whether its holder may begin"
    assert (await far.site.http.post("/_/proxy/tenants", json={"id": "lost"})).status_code == 503
    await first.held(hold)
    assert len(upstream.requests) == seen
    line.mend()
    await until(lambda: parked_is(wired, far, 5))
    assert (await far.state(hold))["state"] == "HELD"
    await far.resume(wired.module, hold)
    assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}
    assert (await first.site.http.get("/_/proxy/tenants/lost")).status_code == 404
    await asyncio.to_thread(running.end)
    await far.site.close()


@pytest.fixture
def own_pair(own_postgres: Any, gateway_process: Any, site_of: Any) -> Iterator[Any]:
    """Two replicas on a Postgres that may be stopped."""

    async def start(**settings: Any) -> list[Replica]:
        made = []
        for node in ("one", "two"):
            running = gateway_process(own_postgres.dsn, node=node, **{**SHORT, **settings})
            made.append(Replica(running=running, site=site_of(running.url, own_postgres.dsn)))
        await asyncio.gather(*(each.start() for each in made))
        return made

    return start


@pytest.mark.soak
async def test_postgres_may_restart_in_every_state_of_a_hold(
    own_postgres: Any, own_pair: Any, new_upstream: Any, wire: Any, until: Any
) -> None:
    first, second = await own_pair(lease=20)
    old, new = await new_upstream("old"), await new_upstream("new")
    wired = await wire(first, old.url)
    newer = await first.site.register(wired.module.replace("-1.0.0", "-2.0.0"), new.url)
    job = await first.site.job(wired.tenant, newer)

    async def restart() -> None:
        await asyncio.to_thread(own_postgres.stop)
        await asyncio.to_thread(own_postgres.start)

    async def at_last(work: Callable[[], Awaitable[Any]]) -> Any:
        """As a run does it: again until it is done."""
        async with asyncio.timeout(20):
            while True:
                try:
                    return await work()
                except (GatewayError, AssertionError) as error:
                    if "database" not in str(error):
                        raise
                    await asyncio.sleep(0.05)

    old.answer = old.slowly
    request = wired.begin(second)
    await until(lambda: old.requests)
    restarting = asyncio.create_task(restart())  # at UPDATE
    (state,) = await at_last(lambda: job.hold(newer))
    await restarting
    assert (await at_last(lambda: first.state(state.id)))["state"] == "DRAINING"
    await restart()  # while DRAINING
    parked = [wired.begin(each) for each in (first, second)]
    old.gate.set()
    assert (await request).json()["name"] == "old"
    await until(lambda: held_at(first, state.id))
    await restart()  # while HELD
    await until(lambda: held_at(second, state.id))
    assert not any(task.done() for task in parked)
    restarting = asyncio.create_task(restart())  # at the switch
    await at_last(lambda: job.switch(newer))
    await restarting
    assert {answer.json()["name"] for answer in await asyncio.gather(*parked)} == {"new"}
    for each in (first, second):
        assert (await wired.ask(each)).json()["name"] == "new"
        assert each.running.process.poll() is None
        await each.site.close()
    assert len(old.requests) == 1


async def held_at(replica: Replica, hold: str) -> bool:
    found = await replica.site.http.get(f"/_/lifecycle/delays/{hold}", params={"for": "holder"})
    return found.status_code == 200 and found.json()["state"] == "HELD"


@pytest.mark.soak
async def test_while_postgres_is_away_they_route_as_long_as_the_lease_runs_and_afterwards_all_is_as_it_was(
    own_postgres: Any, own_pair: Any, upstream: Any, wire: Any, until: Any, name: Any
) -> None:
    replicas = await own_pair()
    first, second = replicas
    wired = await wire(first, upstream.url)
    held = await wire(second, upstream.url)
    hold = await first.hold(held.module)
    await first.held(hold)
    written: list[str] = []

    async def write() -> None:
        for number in itertools.count():
            wire_ = {"id": f"w{number}"}
            if (await replicas[number % 2].site.http.post("/_/proxy/tenants", json=wire_)).status_code == 201:
                written.append(wire_["id"])

    writing = asyncio.create_task(write())
    await until(lambda: len(written) >= 5)
    await asyncio.to_thread(own_postgres.stop)
    for each in replicas:
        assert (await wired.ask(each)).status_code == 200
        assert (await held.ask(each, Prefer="wait=0")).headers["X-Okapi-Lifecycle"] == "DELAY"
        found = await each.site.http.post("/_/proxy/tenants", json={"id": "late"})
        assert (found.status_code, "the gateway's database" in found.text) == (503, True)
    for each in replicas:
        await until(lambda each=each: refuses(wired, each))
    seen = len(upstream.requests)
    parked = [wired.begin(each) for each in replicas for _ in range(3)]
    await asyncio.wait(parked, timeout=0.2)
    assert not any(task.done() for task in parked)
    assert len(upstream.requests) == seen
    await asyncio.to_thread(own_postgres.start)
    assert {answer.status_code for answer in await asyncio.gather(*parked)} == {200}
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    for each in replicas:
        known = {tenant["id"] for tenant in (await each.site.http.get("/_/proxy/tenants")).json()}
        assert set(written) <= known, "nothing that was acknowledged is lost"
        assert (await each.state(hold))["state"] == "HELD"
    assert (await held.ask(second, Prefer="wait=0")).status_code == 503
    await second.resume(held.module, hold)
    assert (await held.ask(first)).status_code == 200
    for each in replicas:
        await each.site.close()


async def refuses(wired: Wired, replica: Replica) -> bool:
    return (await wired.ask(replica, Prefer="wait=0")).status_code == 503
