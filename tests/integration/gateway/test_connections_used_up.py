"""Others have taken every connection of the gateway's Postgres (requirement D3)."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest


@pytest.fixture
async def limited(postgres_dsn: Callable[[], str]) -> AsyncIterator[tuple[str, Any]]:
    """A gateway's database whose role is bound by connection limits, which the operator's is not: its DSN, and the operator."""
    parts = urlsplit(postgres_dsn())
    database = parts.path[1:]
    operator = await asyncpg.connect(parts.geturl())
    await operator.execute(f'create role "{database}" login password \'x\'; alter database "{database}" owner to "{database}"')
    await operator.execute(f'grant all on schema public to "{database}"')
    yield parts._replace(netloc=f"{database}:x@{parts.hostname}:{parts.port}").geturl(), operator
    await operator.close()
    admin = await asyncpg.connect(parts._replace(path="/postgres").geturl())
    await admin.execute(f'drop database "{database}" with (force)')
    await admin.execute(f'drop role "{database}"')
    await admin.close()


async def test_without_a_connection_users_go_on_operators_are_told_why_and_it_recovers_by_itself(
    limited: tuple[str, Any], gateway_process: Any, site_of: Any, name: Any, upstream: Any, until: Any
) -> None:
    dsn, operator = limited
    gateway = await asyncio.to_thread(gateway_process(dsn).start)
    site = site_of(gateway.url, dsn)
    product = name("m")
    tenant = await site.tenant(await site.register(f"{product}-1.0.0", upstream.url))
    role = urlsplit(dsn).username

    await operator.execute(f'alter role "{role}" connection limit 0')
    await operator.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = $1", role)
    await until(lambda: "too many connections for role" in gateway.log.read_text())
    refused = await site.http.post("/_/proxy/tenants", json={"id": "later"})
    users = [(await site.get(tenant, f"/{product}")).status_code for _ in range(20)]
    await operator.execute(f'alter role "{role}" connection limit 50')

    async def accepted() -> bool:
        return bool((await site.http.post("/_/proxy/tenants", json={"id": "later"})).status_code == 201)

    await until(accepted)
    still = (await site.get(tenant, f"/{product}")).status_code
    await site.close()

    assert refused.status_code == 503
    assert "too many connections for role" in refused.text
    assert "raise max_connections" in refused.text
    assert (set(users), still) == ({200}, 200)
