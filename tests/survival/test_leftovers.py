"""What is left over is found: each thing that a run might leave is left on purpose."""

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from deployers.commands import GENERATION_MARK, INSTANCE_MARK
from tests.survival.leftovers import leftovers
from tests.survival.platform import GATEWAY_DATABASE, MODULES_DATABASE, Platform
from upgrade_core.runs import TENANT_JOB, TenantJobRequest
from uplift_settings.tree import TemporalSettings
from worker.temporal import connect

ROWS = {
    "job planted is active, in phase queued": """
        insert into jobs (id, tenant, request, modules, state, started) values ('planted', 'TENANT', '{}', '[]', 'active', true)
    """,
    "hold planted of TENANT on mod-x is HELD by planted": """
        insert into holds (id, job, tenant, product, state, reason, holder)
            values ('planted', 'JOB', 'TENANT', 'mod-x', 'HELD', 'planted', 'planted')
    """,
    "overlay of job planted on mod-x of TENANT is open": """
        insert into overlays (token, job, tenant, product, module, state)
            values ('planted', 'planted', 'TENANT', 'mod-x', 'mod-users-1.0.0', 'open')
    """,
    "overlay of job planted stands for mod-users-1.0.0, which TENANT does not have": """
        insert into overlays (token, job, tenant, product, module, state)
            values ('planted', 'planted', 'TENANT', 'mod-x', 'mod-users-1.0.0', 'alias')
    """,
    "job planted claims mod-users-3.0.0": "insert into claims (job, module) values ('planted', 'mod-users-3.0.0')",
    "intent planted of TENANT on mod-x is asked": """
        insert into intents (key, job, tenant, product, module, instance, state)
            values ('planted', 'planted', 'TENANT', 'mod-x', 'mod-users-1.0.0', '-', 'asked')
    """,
    "snapshot planted of TENANT is kept for ever: its time has not begun": """
        insert into snapshots (id, job, tenant, product, node, dsn, schema, path, size, digest, existed)
            values ('planted', 'planted', 'TENANT', 'mod-x', 'elsewhere', '', '', '/nowhere/planted', 0, '', true)
    """,
    "snapshot file /nowhere/planted is not there": """
        insert into snapshots (id, job, tenant, product, node, dsn, schema, path, size, digest, existed, expires)
            values ('planted', 'planted', 'TENANT', 'mod-x', 'elsewhere', '', '', '/nowhere/planted', 0, '', true, 'infinity')
    """,
    "mod-users-3.0.0 is being retired": "insert into retirements (module) values ('mod-users-3.0.0')",
    "instance planted of mod-users-3.0.0 has no process": """
        insert into instances (id, module, url, node, generation)
            values ('planted', 'mod-users-3.0.0', 'http://127.0.0.1:9', 'elsewhere', 'planted')
    """,
    "nobody needs mod-users-3.0.0, which has instance planted": """
        insert into instances (id, module, url, node, generation)
            values ('planted', 'mod-users-3.0.0', 'http://127.0.0.1:9', 'elsewhere', 'planted')
    """,
    "the secret of instance planted is kept, which is not there": """
        insert into instance_secrets (instance, module, hash) values ('planted', 'mod-users-3.0.0', 'planted')
    """,
}
"""What is told of a row, and how to leave it there."""
_KEYS = {"overlays": "token", "intents": "key", "claims": "job", "retirements": "module", "instance_secrets": "instance"}


@asynccontextmanager
async def planted(platform: Platform, tenant: str, insert: str) -> AsyncIterator[None]:
    job = (await platform.ok("GET", f"/_/proxy/tenants/{tenant}/install"))[0]["id"]
    table = insert.split()[2]
    async with platform.connection(GATEWAY_DATABASE) as connection:
        await connection.execute(insert.replace("TENANT", tenant).replace("JOB", job))
        try:
            yield
        finally:
            await connection.execute(f"delete from {table} where {_KEYS.get(table, 'id')} in ('planted', 'mod-users-3.0.0')")


@pytest.fixture
async def site(stacks: Any) -> tuple[Platform, str]:
    """A stack, and a tenant on it."""
    platform, neighbour = await stacks.get(0.0)
    return platform, neighbour.tenant


async def test_nothing_is_left_over_where_nothing_happened(site: Any) -> None:
    assert await leftovers(site[0]) == []


@pytest.mark.parametrize("sentence", ROWS)
async def test_a_row_is_found(site: Any, sentence: str) -> None:
    platform, tenant = site
    async with planted(platform, tenant, ROWS[sentence]):
        assert sentence.replace("TENANT", tenant) in await leftovers(platform)


async def test_what_a_tenant_left_is_not_told_of_another(site: Any) -> None:
    platform, tenant = site
    sentence = "intent planted of TENANT on mod-x is asked"
    async with planted(platform, tenant, ROWS[sentence]):
        assert await leftovers(platform, tenant) == [sentence.replace("TENANT", tenant)]
        assert await leftovers(platform, "another") == []


async def test_a_file_is_found(site: Any) -> None:
    platform, tenant = site
    file = platform.home / "snapshots" / tenant / "planted.dump.part"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    try:
        assert await leftovers(platform, tenant) == [f"file {file} belongs to no snapshot"]
    finally:
        file.unlink()


async def test_a_process_is_found(site: Any) -> None:
    platform, _ = site
    log = platform.home / "instances" / "planted.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            (sys.executable, "-c", "input()"),
            stdin=subprocess.PIPE, stdout=output, env={INSTANCE_MARK: "planted", GENERATION_MARK: "planted"},
        )  # fmt: skip
    try:
        assert await leftovers(platform) == [f"process {process.pid} of planted is not registered"]
    finally:
        process.kill()
        process.communicate()
        log.unlink()


async def test_a_session_of_our_tools_is_found(site: Any) -> None:
    platform, _ = site
    async with platform.connection(MODULES_DATABASE) as connection:
        await connection.execute("set application_name = 'uplift restore planted'")
        (found,) = await leftovers(platform)
    assert "(uplift restore planted) is still in the modules' database" in found


async def test_an_open_run_is_found(site: Any) -> None:
    platform, tenant = site
    client = await connect(TemporalSettings(address=f"127.0.0.1:{platform.record.ports['temporal']}"))
    run = await client.start_workflow(
        TENANT_JOB, TenantJobRequest(job="planted", tenant=tenant), id="planted", task_queue="nobody polls it"
    )
    try:
        found: list[str] = await platform.until(lambda: leftovers(platform), bool)
    finally:
        await run.terminate()
    assert found == ["workflow planted is open"]
