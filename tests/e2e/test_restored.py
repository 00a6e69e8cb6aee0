"""The gateway's database restored from a copy in mid-run, and Temporal's history lost (requirements D3, B8, C2)."""

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from uplift_cli.stack.postgres import programs

PATIENCE = 60.0
CONFIG = """
[gateway]
settle = 0.2
grace = 1
sweep_interval = 0.5
[deploy]
retire_after = 1
stop_grace = 2
health_wait = 20
[init]
quiet = 1
[worker]
compare_interval = 1
keeper_interval = 0.2
"""


class Copies:
    """Copies of a stack's gateway database, and putting one in its place."""

    def __init__(self, stack: Any) -> None:
        self._stack = stack
        self._server = stack.modules_dsn().rsplit("/", 1)[0]

    def dsn(self, database: str) -> str:
        return f"{self._server}/{database}"

    async def take(self, name: str) -> str:
        """A copy as of now, in a database beside it; gives its name."""
        connection = await asyncpg.connect(self.dsn("postgres"))
        await connection.execute(f'create database "{name}"')
        await connection.close()
        file = self._stack.home / f"{name}.dump"
        await asyncio.to_thread(self._run, "pg_dump", "--format=custom", f"--file={file}", f"--dbname={self.dsn('uplift')}")
        await asyncio.to_thread(self._run, "pg_restore", f"--dbname={self.dsn(name)}", "--no-owner", str(file))
        return name

    async def put(self, name: str, *, kill: bool = True) -> None:
        """Make a copy the gateway's database; the gateway is killed, or lives on."""
        if kill:
            await self._stack.kill("gateway")
        connection = await asyncpg.connect(self.dsn("postgres"))
        await connection.execute("drop database uplift with (force)")
        await connection.execute(f'alter database "{name}" rename to uplift')
        await connection.close()

    @staticmethod
    def _run(program: str, *arguments: str) -> None:
        subprocess.run([str(programs() / program), *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
async def own(stack_kind: Any, start_stack: Any) -> AsyncIterator[Any]:
    """A stack whose database and history these tests may take away."""
    home = Path(tempfile.mkdtemp(prefix="uplift-restored-"))
    (home / "uplift.toml").write_text(CONFIG)
    log = home / "recorder.jsonl"
    log.touch()
    process, url = await start_stack(home)
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, limits=httpx.Limits(max_connections=None)) as http:
        stack = stack_kind(home=home, url=url, process=process, http=http, log=log)
        yield stack
        await stack.down()
    shutil.rmtree(home)


async def installed(stack: Any, **uplift: Any) -> tuple[str, str]:
    """A tenant with version 1 of a product, and version 2 registered."""
    tenant, product = await stack.tenant(), stack.product()
    await stack.register(*(stack.descriptor(product, version, **uplift) for version in ("1.0.0", "2.0.0")))
    await stack.install(tenant, f"{product}-1.0.0")
    return tenant, product


async def upgrading(stack: Any, tenant: str, product: str, seconds: float) -> str:
    """Path of an upgrade that is migrating."""
    job: str = await stack.begin(tenant, f"{product}-2.0.0", query=f"tenantParameters=do%3Djob,seconds%3D{seconds:g}")
    await stack.until(job, lambda row: row["phase"] == "migrating")
    return job


async def at_hold_point(stack: Any, job: str, product: str) -> Any:
    """The run of the group, when it waits for a person."""
    client = await stack.temporal()
    handle = client.get_workflow_handle(f"{job.rsplit('/', 1)[1]}/1-{product}")
    async with asyncio.timeout(PATIENCE):
        while True:
            found = {pair.key.name: pair.value for pair in (await handle.describe()).typed_search_attributes}
            if found["UpliftPhase"] == "needs_operator":
                return handle
            await asyncio.sleep(0.1)


async def told(stack: Any, key: str) -> dict[str, Any]:
    """A problem that stands."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = [each for each in await stack.ok("GET", "/_/lifecycle/problems") if each["key"] == key]
            if found:
                return dict(found[0])
            await asyncio.sleep(0.1)


@pytest.mark.soak
async def test_a_run_in_mid_init_waits_for_the_right_database_and_goes_on(own: Any) -> None:
    copies = Copies(own)
    tenant, product = await installed(own)
    old = await copies.take("before_the_job")
    job = await upgrading(own, tenant, product, 8)
    right = await copies.take("in_mid_init")
    await copies.put(old)
    handle = await at_hold_point(own, job, product)
    details = str(await handle.query("__temporal_workflow_metadata"))
    problem = await told(own, f"database-restored:{job.rsplit('/', 1)[1]}")
    await copies.put(right)
    await handle.execute_update("resolve", "retry")
    ended = await own.ended(job)

    assert f"requests to {product} are not held, they go to {product}-1.0.0" in details
    assert "the job's record is missing" in problem["message"]
    assert ended["outcome"] == "done"
    assert await own.enabled(tenant) == [f"{product}-2.0.0"]
    assert len(await own.inits(f"{product}-2.0.0", tenant)) == 1


@pytest.mark.soak
async def test_a_run_after_its_switch_gives_nothing_back_on_a_database_from_before(own: Any) -> None:
    copies = Copies(own)
    tenant, product = await installed(own, soak=5)
    job = await upgrading(own, tenant, product, 2)
    old = await copies.take("before_the_switch")
    await own.until(f"/_/proxy/tenants/{tenant}/modules", lambda rows: [row["id"] for row in rows] == [f"{product}-2.0.0"])
    await copies.put(old, kill=False)
    handle = await at_hold_point(own, job, product)
    held = await own.ok("GET", f"/_/lifecycle/links?tenant={tenant}")
    replica = await told(own, "database-restored")
    await handle.execute_update("resolve", "skip")
    ended = await own.ended(job)

    assert [link["hold"] for link in held] == ["HELD"]
    assert "is an older copy of itself" in replica["message"]
    assert (ended["status"], ended["outcome"]) == ("error", "rollback_failed")
    assert f"the tenant has {product}-1.0.0 enabled, it was switched to {product}-2.0.0" in ended["errors"][0]["message"]
    assert ended["errors"][1]["type"] == "StillHeld"


@pytest.mark.soak
async def test_a_job_whose_run_ended_after_the_copy_is_told_as_such(own: Any) -> None:
    """The record in the copy waits for its turn; Temporal has ended its run long ago."""
    tenant, product = await installed(own)
    ended = await own.install(tenant, f"{product}-2.0.0")
    connection = await asyncpg.connect(Copies(own).dsn("uplift"))
    await connection.execute(
        "update jobs set state = 'active', status = 'running', outcome = null, phase = 'queued', started = false,"
        " end_date = null where id = $1",
        ended["id"],
    )
    await connection.close()
    again = await own.ended(f"/_/proxy/tenants/{tenant}/install/{ended['id']}")

    assert again["status"] == "error"
    assert "its run ended as COMPLETED, which this database does not know" in again["errors"][0]["message"]
    assert await told(own, f"database-restored:{ended['id']}")


@pytest.mark.soak
async def test_the_loss_of_temporals_history_ends_jobs_and_keeps_the_rest_going(own: Any) -> None:
    tenant, product = await installed(own)
    other = own.product()
    await own.register(own.descriptor(other, "1.0.0"))
    job = await upgrading(own, tenant, product, 40)
    queued = await own.begin(tenant, f"{other}-1.0.0")
    for file in own.home.glob("temporal.sqlite*"):
        file.unlink()
    await own.kill("temporal")
    loop = asyncio.get_running_loop()
    begun = loop.time()
    ended = await own.ended(job)
    seconds = loop.time() - begun
    links = await own.ok("GET", f"/_/lifecycle/links?tenant={tenant}")
    (hold,) = [link["holdId"] for link in links if link["hold"] == "HELD"]
    after = await own.ended(queued)
    lost = await told(own, f"run-lost:{ended['id']}")
    left = await told(own, f"hold-left:{hold}")
    await own.install(tenant, f"{other}-1.0.0", action="disable")
    await own.until(f"/_/versions/{other}-1.0.0", lambda row: not row["instances"])

    assert (ended["status"], ended["outcome"]) == ("error", "rollback_failed")
    assert ended["errors"][0]["message"].startswith("run lost: Temporal does not know its run")
    assert seconds < 30
    assert f"{product}-1.0.0" in await own.enabled(tenant)
    assert after["status"] == "done"
    assert (lost["kind"], left["kind"]) == ("run-lost", "hold-left")
