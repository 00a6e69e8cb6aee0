"""The gateway and its database: names of replicas, migrations, and a Postgres that goes away."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from gateway.store import Database, DatabaseError

MIGRATIONS = Path(__file__).parents[3] / "gateway/sql"


async def query(dsn: str, sql: str, *arguments: Any) -> list[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        return list(await connection.fetch(sql, *arguments))
    finally:
        await connection.close()


async def test_two_gateways_on_one_database_work_side_by_side(new_site: Any, upstream: Any, name: Any) -> None:
    first = await new_site()
    second = await new_site(dsn=first.dsn)
    module = await first.register(f"{name('m')}-1.0.0", upstream.url)
    tenant = await second.tenant(module)
    for each in (first, second):
        assert (await each.get(tenant, f"/{module.removesuffix('-1.0.0')}")).status_code == 200


async def test_a_gateway_whose_name_was_taken_by_another_ends(gateway_process: Any, postgres_dsn: Any) -> None:
    dsn = await asyncio.to_thread(postgres_dsn)
    first, second = gateway_process(dsn, node="the-name", lease_renew=60), gateway_process(dsn, node="the-name")
    await asyncio.to_thread(first.start)
    await asyncio.to_thread(second.start)
    assert await asyncio.to_thread(first.process.wait, 20) == 1, "it is told at once, not with its next renewal"
    log = first.log.read_text()
    assert "another gateway runs as the-name on this database: give each its own name with gateway.node" in log
    assert "Traceback" not in log
    assert [row["name"] for row in await query(dsn, "select name from nodes")] == ["the-name"]
    assert second.process.poll() is None


async def test_a_gateway_that_leaves_gives_its_lease_back_and_a_killed_one_does_not(
    gateway_process: Any, postgres_dsn: Any
) -> None:
    dsn = await asyncio.to_thread(postgres_dsn)
    for signum, left in ((signal.SIGTERM, []), (signal.SIGKILL, ["the-name"])):
        running = gateway_process(dsn, node="the-name")
        await asyncio.to_thread(running.start)
        assert await asyncio.to_thread(running.end, signum) == (-signum if signum == signal.SIGKILL else 0)
        assert [row["name"] for row in await query(dsn, "select name from nodes")] == left
    await asyncio.to_thread(gateway_process(dsn, node="the-name").start)
    assert [row["name"] for row in await query(dsn, "select name from ghosts")] == ["the-name"]


async def test_migrations_are_applied_once(new_site: Any) -> None:
    first = await new_site()
    wanted = sorted(path.name for path in MIGRATIONS.glob("*.sql"))
    before: list[Any] = []
    async with asyncio.timeout(20):
        while [row["name"] for row in before] != wanted:  # the second halves wait until no older replica lives
            before = await query(first.dsn, "select * from migrations order by name")
    await asyncio.to_thread(first.running.stop)
    await new_site(dsn=first.dsn)
    assert await query(first.dsn, "select * from migrations order by name") == before


async def test_gateways_that_start_at_once_on_a_new_database_migrate_it_once(postgres_dsn: Any) -> None:
    dsn = await asyncio.to_thread(postgres_dsn)
    databases = [Database(dsn=dsn, pool_size=2) for _ in range(4)]
    await asyncio.gather(*(database.open(wait=5) for database in databases))
    rows = await query(dsn, "select name from migrations")
    assert sorted(row["name"] for row in rows) == sorted(path.name for path in MIGRATIONS.glob("*_pre_*.sql"))
    for database in databases:
        await database.close()


async def test_the_database_of_a_newer_gateway_is_refused(new_site: Any) -> None:
    first = await new_site()
    await asyncio.to_thread(first.running.stop)
    await query(first.dsn, "insert into migrations (name) values ('9999_post_future.sql')")
    database = Database(dsn=first.dsn, pool_size=2)
    with pytest.raises(DatabaseError, match=r"newer gateway \(9999_post_future\.sql\); run that version or a newer one"):
        await database.open(wait=0.3)
    await database.close()


async def test_a_database_that_is_not_there_is_named_and_no_secret_is_said() -> None:
    database = Database(dsn="postgresql://me:hush@127.0.0.1:1/gone", pool_size=2)
    with pytest.raises(DatabaseError) as refused:
        await database.open(wait=0)
    assert "cannot connect to the gateway's database" in str(refused.value)
    assert "hush" not in str(refused.value)
    await database.close()


async def test_what_was_registered_is_there_after_a_restart(new_site: Any, upstream: Any, name: Any) -> None:
    first = await new_site()
    module = await first.register(f"{name('m')}-1.0.0", upstream.url)
    tenant = await first.tenant(module)
    wanted = [
        (await first.http.get(path)).text
        for path in (
            "/_/proxy/modules?full=true",
            "/_/proxy/tenants",
            "/_/discovery/modules",
            f"/_/proxy/tenants/{tenant}/install",
        )
    ]
    await asyncio.to_thread(first.running.stop)
    second = await new_site(dsn=first.dsn)
    found = [
        (await second.http.get(path)).text
        for path in (
            "/_/proxy/modules?full=true",
            "/_/proxy/tenants",
            "/_/discovery/modules",
            f"/_/proxy/tenants/{tenant}/install",
        )
    ]
    assert found == wanted
    assert (await second.get(tenant, f"/{module.removesuffix('-1.0.0')}")).status_code == 200


async def test_users_do_not_notice_that_postgres_restarts_and_the_admin_api_recovers(
    own_postgres: Any, gateway_process: Any, site_of: Any, upstream: Any, name: Any
) -> None:
    running = gateway_process(own_postgres.dsn)
    await asyncio.to_thread(running.start)
    site = site_of(running.url)
    module = await site.register(f"{name('m')}-1.0.0", upstream.url)
    tenant = await site.tenant(module)
    path = f"/{module.removesuffix('-1.0.0')}"
    await query(own_postgres.dsn, "insert into tenants (id) values ('unheard')")  # as if its answer had been lost
    await asyncio.to_thread(own_postgres.stop)
    assert (await site.get(tenant, path)).status_code == 200
    found = await site.http.post("/_/proxy/tenants", json={"id": "late"})
    assert (found.status_code, "the gateway's database" in found.text) == (503, True)
    assert (await site.http.get(f"/_/proxy/modules/{module}")).status_code == 200, "reads need no database"
    await asyncio.to_thread(own_postgres.start)
    async with asyncio.timeout(20):
        while (await site.http.post("/_/proxy/tenants", json={"id": "late"})).status_code == 503:
            assert (await site.get(tenant, path)).status_code == 200
            await asyncio.sleep(0.05)
    assert (await site.http.get("/_/proxy/tenants/late")).status_code == 200
    assert (await site.http.get("/_/proxy/tenants/unheard")).status_code == 200
    assert (await site.get(tenant, path)).status_code == 200
    assert running.process.poll() is None
    await site.close()


@pytest.mark.soak
async def test_a_gateway_whose_name_was_taken_while_it_stood_still_ends(own_postgres: Any, gateway_process: Any) -> None:
    """Two processes that take themselves for one replica would be worse than one that has to be started again."""
    first = gateway_process(own_postgres.dsn, node="the-name")
    await asyncio.to_thread(first.start)
    first.process.send_signal(signal.SIGSTOP)
    await asyncio.to_thread(own_postgres.stop)
    await asyncio.to_thread(own_postgres.start)
    await asyncio.to_thread(gateway_process(own_postgres.dsn, node="the-name").start)
    first.process.send_signal(signal.SIGCONT)
    assert await asyncio.to_thread(first.process.wait, 20) == 1
    assert "another gateway runs as the-name" in first.log.read_text()


def test_a_gateway_off_loopback_wants_a_token(gateway_process: Any) -> None:
    running = gateway_process("postgresql://nobody@127.0.0.1:1/none")
    running.env["UPLIFT_GATEWAY__HOST"] = "0.0.0.0"
    running.launch()
    assert running.process.wait(20) == 1
    assert "set gateway.tokens_file" in running.log.read_text()


async def test_the_admin_api_asks_for_its_token_and_the_data_path_does_not(new_site: Any, upstream: Any, name: Any) -> None:
    site = await new_site(token="a secret")
    tenant = await site.tenant(await site.register(f"{name('m')}-1.0.0", upstream.url))
    async with httpx.AsyncClient(base_url=site.url, trust_env=False) as stranger:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": b"Bearer \xff"}):
            found = await stranger.get("/_/proxy/tenants", headers=headers)
            assert (found.status_code, "gateway.token_file" in found.text) == (401, True)
        assert (await stranger.get("/nothing", headers={"X-Okapi-Tenant": tenant})).status_code == 404


def test_the_gateway_says_which_port_is_taken(gateway_process: Any, postgres_dsn: Any) -> None:
    first = gateway_process().start()
    second = gateway_process()
    second.env["UPLIFT_GATEWAY__PORT"] = first.env["UPLIFT_GATEWAY__PORT"]
    second.launch()
    assert second.process.wait(20) == 1
    assert "(gateway.host, gateway.port)" in second.log.read_text()
