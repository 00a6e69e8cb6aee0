"""The clock of the gateway's Postgres is set while gateways run: forward or back by an hour (requirement A6, ADR 0015).

For the rows, a clock that was set forward by an hour is the same as rows that are an hour older, so most of these move the rows.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest

HOUR = 3_600
COUNT_ANEW = "all leases count anew"
QUIET = {"lease": 60.0, "lease_renew": 0.3, "settle": 0.5, "grace": 60.0}


@pytest.fixture(scope="module")
async def database(postgres_dsn: Callable[[], str]) -> AsyncIterator[Any]:
    """A connection to a fresh database of gateways."""
    connection = await asyncpg.connect(dsn := postgres_dsn())
    yield dsn, connection
    await connection.close()


@pytest.fixture(scope="module")
async def gateway(database: Any, gateway_process_kind: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    """One gateway on it."""
    running = gateway_process_kind(database[0], tmp_path_factory.mktemp("gateway"), node="one", **QUIET)
    await asyncio.to_thread(running.start)
    yield running
    running.end(signal.SIGKILL)


@pytest.fixture
async def site(database: Any, gateway: Any, site_of: Any) -> AsyncIterator[Any]:
    """Its API."""
    called = site_of(gateway.url, database[0])
    yield called
    await called.close()


async def set_clock(connection: Any, seconds: int) -> None:
    """What the rows are when the clock was set by so much."""
    by = f"interval '{seconds} seconds'"
    async with connection.transaction():
        await connection.execute(f"update nodes set until = until - {by}, renewed = renewed - {by}")
        await connection.execute(f"update ghosts set until = until - {by}")
        await connection.execute(f"update outbox set due = due - {by}, claimed_until = claimed_until - {by}")


async def set_and_noticed(
    connection: Any, seconds: int, gateway: Any, until: Callable[[Callable[[], Any]], Awaitable[Any]]
) -> None:
    """Set it, and wait until a gateway has said so."""
    before = gateway.log.read_text().count(COUNT_ANEW)
    await set_clock(connection, seconds)
    await until(lambda: gateway.log.read_text().count(COUNT_ANEW) > before)


async def wired(site: Any, name: Any, upstream: Any) -> tuple[str, str, str]:
    """A tenant with a module: (tenant, module, path)."""
    product = name("m")
    module = await site.register(f"{product}-1.0.0", upstream.url)
    return await site.tenant(module), module, f"/{product}"


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
async def test_requests_at_work_are_not_cut_when_the_databases_clock_is_set(
    database: Any, gateway: Any, site: Any, name: Any, upstream: Any, until: Any, seconds: int
) -> None:
    tenant, _, path = await wired(site, name, upstream)
    upstream.answer = upstream.slowly
    request = asyncio.create_task(site.get(tenant, path))
    await until(lambda: upstream.requests)

    await set_and_noticed(database[1], seconds, gateway, until)
    upstream.gate.set()

    assert (await request).status_code == 200
    assert "the lease had run out" not in gateway.log.read_text()


async def test_a_replica_that_routes_is_not_counted_as_gone_by_a_clock_that_was_set_forward(
    database: Any, gateway: Any, site: Any, gateway_process: Any, site_of: Any, name: Any, upstream: Any, until: Any
) -> None:
    """It stands still with a request at work, its lease runs by its own clock: no hold counts before it says so."""
    dsn, connection = database
    routing = await asyncio.to_thread(gateway_process(dsn, node="routing", **QUIET).start)
    near, far = site, site_of(routing.url, dsn)
    tenant, module, path = await wired(near, name, upstream)
    upstream.answer = upstream.slowly
    request = asyncio.create_task(far.get(tenant, path))
    await until(lambda: upstream.requests)
    routing.process.send_signal(signal.SIGSTOP)

    before = gateway.log.read_text().count(COUNT_ANEW)
    await set_clock(connection, HOUR)
    hold = asyncio.create_task(near.http.post(f"/_/lifecycle/{module}", json={"event": "UPDATE", "tenant": tenant}))
    await until(lambda: gateway.log.read_text().count(COUNT_ANEW) > before)
    living = await connection.fetch("select name from nodes where until > clock_timestamp() order by name")
    ghosts = await connection.fetch("select name from ghosts")
    routing.process.send_signal(signal.SIGCONT)
    set_hold = (await hold).json()["id"]
    state = (await near.http.get(f"/_/lifecycle/delays/{set_hold}", params={"for": "holder"})).json()
    upstream.gate.set()
    answered = await request
    held = (await near.http.get(f"/_/lifecycle/delays/{set_hold}", params={"for": "holder", "wait": "20"})).json()
    await far.close()
    await asyncio.to_thread(routing.end)

    assert [row["name"] for row in living] == ["one", "routing"]
    assert ghosts == []
    assert state["state"] == "DRAINING"
    assert (answered.status_code, held["state"]) == (200, "HELD")


async def test_no_hold_waits_for_the_past_after_a_clock_was_set_back(database: Any, site: Any, name: Any, upstream: Any) -> None:
    """What a replica had sent that died is waited for `settle` seconds, not for an hour."""
    tenant, module, _ = await wired(site, name, upstream)
    await database[1].execute("insert into ghosts (generation, name, until) values ('g', 'gone', clock_timestamp())")

    await set_clock(database[1], -HOUR)
    hold = (await site.http.post(f"/_/lifecycle/{module}", json={"event": "UPDATE", "tenant": tenant})).json()["id"]
    held = (await site.http.get(f"/_/lifecycle/delays/{hold}", params={"for": "holder", "wait": "20"})).json()

    assert held["state"] == "HELD"


async def test_what_was_put_off_is_due_after_a_clock_was_set_back(database: Any, gateway: Any, until: Any) -> None:
    """A delivery that failed is tried again soon, not an hour later; one that nobody has taken stays free."""
    connection = database[1]
    await connection.execute(
        "insert into outbox (id, kind, target, payload, subject, due) values"
        " (gen_random_uuid(), 'notify', 'nobody', '{}', 's', now() + interval '2 seconds')"
    )

    await set_and_noticed(connection, -HOUR, gateway, until)
    row = await connection.fetchrow("delete from outbox where subject = 's' returning due <= now() as due, claimed_until")

    assert row is not None
    assert (row["due"], row["claimed_until"]) == (True, None)


async def test_a_lease_that_has_really_run_out_is_lost(gateway_process: Any, postgres_dsn: Any, until: Any) -> None:
    """Nobody takes a replica that stood still beyond its lease for one whose database's clock was set."""
    dsn = postgres_dsn()
    slow = await asyncio.to_thread(gateway_process(dsn, **{**QUIET, "lease": 1.0}).start)
    connection = await asyncpg.connect(dsn)
    slow.process.send_signal(signal.SIGSTOP)

    await until_true(connection, "select until < clock_timestamp() - interval '1 second' from nodes")
    slow.process.send_signal(signal.SIGCONT)
    await until(lambda: "the lease had run out; joining anew" in slow.log.read_text())
    await connection.close()

    assert COUNT_ANEW not in slow.log.read_text()


async def until_true(connection: Any, question: str) -> None:
    async with asyncio.timeout(30):
        while not await connection.fetchval(question):
            await asyncio.sleep(0.05)
