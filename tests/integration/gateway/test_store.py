"""The gateway and its database: one gateway at a time, migrations, and a Postgres that goes away."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from gateway.store import Database, DatabaseError, SecondReplica


async def query(dsn: str, sql: str, *arguments: Any) -> list[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        return list(await connection.fetch(sql, *arguments))
    finally:
        await connection.close()


async def test_a_second_gateway_on_one_database_is_refused_and_told_what_to_do(new_site: Any) -> None:
    first = await new_site()
    second = Database(dsn=first.dsn, pool_size=2)
    with pytest.raises(SecondReplica, match=r"another gateway works on this database.*stop it, or set gateway\.dsn"):
        await second.open(wait=0.3)
    await second.close()
    assert (await first.http.get("/_/proxy/health")).status_code == 200


async def test_the_database_is_free_when_the_first_gateway_has_stopped_or_was_killed(
    gateway_process: Any, new_site: Any, postgres_dsn: Any
) -> None:
    dsn = await asyncio.to_thread(postgres_dsn)
    for signum in (signal.SIGKILL, signal.SIGTERM):
        running = gateway_process(dsn)
        await asyncio.to_thread(running.start)
        assert await asyncio.to_thread(running.end, signum) == (-signum if signum == signal.SIGKILL else 0)
    assert (await (await new_site(dsn=dsn)).http.get("/_/proxy/health")).status_code == 200


async def test_a_gateway_whose_predecessor_is_about_to_stop_waits_for_it(gateway_process: Any, postgres_dsn: Any) -> None:
    dsn = await asyncio.to_thread(postgres_dsn)
    first, second = gateway_process(dsn), gateway_process(dsn)
    await asyncio.to_thread(first.start)
    second.launch()
    await asyncio.to_thread(first.end)
    await asyncio.to_thread(second.process.poll)
    async with httpx.AsyncClient(trust_env=False) as http, asyncio.timeout(20):
        while True:
            try:
                assert (await http.get(f"{second.url}/_/proxy/health")).status_code == 200
                break
            except httpx.HTTPError:
                await asyncio.sleep(0.05)


async def test_migrations_are_applied_once(new_site: Any) -> None:
    first = await new_site()
    before = await query(first.dsn, "select * from migrations order by name")
    assert [row["name"] for row in before] == sorted(
        path.name for path in (Path(__file__).parents[3] / "gateway/sql").glob("*.sql")
    )
    await asyncio.to_thread(first.running.stop)
    await new_site(dsn=first.dsn)
    assert await query(first.dsn, "select * from migrations order by name") == before


async def test_gateways_that_start_at_once_on_a_new_database_migrate_it_once(postgres_dsn: Any) -> None:
    dsn = await asyncio.to_thread(postgres_dsn)
    databases = [Database(dsn=dsn, pool_size=2) for _ in range(4)]
    opened = await asyncio.gather(*(database.open(wait=0.5) for database in databases), return_exceptions=True)
    assert sorted(type(error).__name__ for error in opened) == ["NoneType", "SecondReplica", "SecondReplica", "SecondReplica"]
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


async def test_a_gateway_whose_lock_was_taken_while_postgres_was_away_stops(own_postgres: Any, gateway_process: Any) -> None:
    """Two gateways with one truth each would be worse than one that has to be started again."""
    running = gateway_process(own_postgres.dsn)
    await asyncio.to_thread(running.start)
    rival = Database(dsn=own_postgres.dsn, pool_size=2)
    running.process.send_signal(signal.SIGSTOP)
    await asyncio.to_thread(own_postgres.stop)
    await asyncio.to_thread(own_postgres.start)
    await rival.open(wait=5)
    running.process.send_signal(signal.SIGCONT)
    async with httpx.AsyncClient(base_url=running.url, trust_env=False) as http:
        assert (await http.post("/_/proxy/tenants", json={"id": "late"})).status_code == 503
    assert await asyncio.to_thread(running.process.wait, 20) == 1
    assert "another gateway works on this database" in running.log.read_text()
    await rival.close()


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
