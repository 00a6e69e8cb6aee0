"""Runs that were terminated, and hold points: found, told, and settled by `uplift resolve` (requirements D2, D3, D4)."""

import asyncio
import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from temporalio.client import Client
from temporalio.service import RPCError

from examples.descriptors import descriptor
from module_data import PostgresData

ROOT = Path(__file__).parents[2]
ONE, TWO = "mod-users-1.0.0", "mod-users-2.0.0"
FOUND_WITHIN = 30.0


@pytest.fixture
async def users(stack: Any) -> str:
    """A tenant with users in 1.0.0."""
    for module in (ONE, TWO):
        await stack.register(descriptor("mod-users", module.rsplit("-", 1)[1], python=sys.executable))
    tenant: str = await stack.tenant()
    assert (await stack.install(tenant, ONE))["status"] == "done"
    for number in range(20):
        body = {"name": f"Ada Lovelace {number}", "seq": number}
        await stack.ok("PUT", f"/users/{uuid.uuid4()}", body, **{"X-Okapi-Tenant": tenant})
    return tenant


async def resolve(stack: Any, *arguments: str) -> tuple[int, str]:
    """`uplift resolve` as an operator types it: exit status and what it printed."""
    command = (sys.executable, "-m", "uplift_cli.main", "resolve", *arguments, "--home", str(stack.home))
    done = await asyncio.to_thread(
        lambda: subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    )
    return done.returncode, done.stdout


async def terminate(stack: Any, *runs: str) -> None:
    client: Client = await stack.temporal()
    for run in runs:
        await client.get_workflow_handle(run).terminate("by a test")


async def fingerprint(stack: Any, tenant: str) -> str:
    return await PostgresData(dsn=stack.modules_dsn()).fingerprint(f"{tenant}_mod_users")


async def migrating(stack: Any, tenant: str, seconds: float) -> tuple[str, str]:
    """A job whose module has changed rows already: its path and its id."""
    before = await fingerprint(stack, tenant)
    job = await stack.begin(tenant, TWO, query=f"tenantParameters=migrationSeconds%3D{seconds:g}")
    await stack.until(job, lambda row: row["phase"] == "migrating")
    while await fingerprint(stack, tenant) == before:
        await asyncio.sleep(0.1)
    return job, job.rsplit("/", 1)[1]


async def check_nothing_is_left(stack: Any, tenant: str, job: str) -> None:
    assert await stack.holds(tenant) == []
    await stack.until("/_/lifecycle/problems", lambda found: [each for each in found if job in each["remedy"]] == [])
    assert "there is nothing to decide" in (await resolve(stack, job))[1]


@pytest.mark.soak
async def test_a_group_terminated_in_mid_migration_goes_back_to_the_old_version(stack: Any, users: str) -> None:
    before = await fingerprint(stack, users)
    path, job = await migrating(stack, users, 30)
    await terminate(stack, f"{job}/1-mod-users")
    ended = await stack.ended(path)
    parked = asyncio.create_task(stack.ask(users, "/users/count"))
    await stack.until(f"/_/lifecycle/links?tenant={users}", lambda links: links[0]["parked"] == 1)
    (copy,) = [each for each in await stack.ok("GET", f"/_/snapshots?tenant={users}") if each["job"] == job]
    kept = await asyncio.to_thread(Path(copy["path"]).exists)

    shown = await resolve(stack, job)
    refused = await resolve(stack, job, "new")
    code, told = await resolve(stack, job, "old", "--reason", "the run was terminated")
    after = await stack.ok("GET", path)

    assert ended["outcome"] == "rollback_failed"
    assert (shown[0], "under way" in shown[1], f"uplift resolve {job} old" in shown[1]) == (0, True, True), shown
    assert (refused[0], "tenant init of mod-users-2.0.0 is under way" in refused[1]) == (1, True), refused
    assert (code, f"old: job {job} has ended as rolled_back" in told) == (0, True), told
    assert (await parked).json() == {"count": 20}
    assert kept
    assert await fingerprint(stack, users) == before
    assert await stack.enabled(users) == [ONE]
    assert await stack.instances(TWO) == []
    assert "as old: the run was terminated" in after["warnings"][0]["message"]
    assert [error["type"] for error in after["errors"]].count("StillHeld") == 0
    await check_nothing_is_left(stack, users, job)
    assert (await stack.install(users, TWO))["status"] == "done"


@pytest.mark.soak
async def test_a_job_terminated_with_its_group_goes_on_to_the_new_version_by_force(stack: Any, users: str) -> None:
    """The module's own migration went on to its end, unseen: who says `new` has looked. Temporal died in between: no matter."""
    path, job = await migrating(stack, users, 2)
    await terminate(stack, job, f"{job}/1-mod-users")
    await stack.kill("temporal")
    found = f"hold-left:{job}:mod-users:1-mod-users"
    async with asyncio.timeout(FOUND_WITHIN):
        await stack.until("/_/lifecycle/problems", lambda problems: found in [each["key"] for each in problems])
    ended = await stack.ended(path)
    parked = asyncio.create_task(stack.ask(users, "/users/count"))
    connection = await asyncpg.connect(stack.modules_dsn())
    try:
        async with asyncio.timeout(FOUND_WITHIN):
            while await connection.fetchval(
                "select count(*) from information_schema.columns where table_schema = $1 and column_name = 'name'",
                f"{users}_mod_users",
            ):
                await asyncio.sleep(0.1)
    finally:
        await connection.close()

    code, told = await resolve(stack, job, "new", "--force")

    assert "RunLost" in [error["type"] for error in ended["errors"]]
    assert (code, f"new: job {job} has ended as done_with_warnings" in told) == (0, True), told
    assert (await parked).json() == {"count": 20}
    assert await stack.enabled(users) == [TWO]
    row = (await stack.ask(users, "/users?limit=1")).json()["users"][0]
    assert row["first_name"] == "Ada"
    await check_nothing_is_left(stack, users, job)


@pytest.mark.soak
async def test_runs_terminated_between_init_and_switch_are_settled_either_way(stack: Any) -> None:
    product = stack.product()
    hangs = {"method": "GET", "path": f"/{product}/hangs?seconds=60"}
    await stack.register(stack.descriptor(product, "1.0.0"), stack.descriptor(product, "2.0.0", checks=[hangs]))
    tenants = [await stack.tenant() for _ in range(2)]
    jobs = {}
    for tenant, decision in zip(tenants, ("old", "new"), strict=True):
        await stack.install(tenant, f"{product}-1.0.0")
        path = await stack.begin(tenant, f"{product}-2.0.0", query="tenantParameters=do%3D200")
        jobs[decision] = (tenant, path, path.rsplit("/", 1)[1])
    for tenant, _, job in jobs.values():
        while not stack.recorded(f"{product}-2.0.0", path=f"/{product}/hangs", tenant=tenant):
            await asyncio.sleep(0.05)
        await terminate(stack, job, f"{job}/1-{product}")
    for _, path, _ in jobs.values():
        await stack.ended(path)

    ends = await asyncio.gather(*(resolve(stack, job, decision) for decision, (_, _, job) in jobs.items()))

    assert [code for code, _ in ends] == [0, 0], ends
    assert [await stack.enabled(tenant) for tenant in tenants] == [[f"{product}-1.0.0"], [f"{product}-2.0.0"]]
    assert [(await stack.ask(tenant, f"/{product}/x")).json()["id"] for tenant in tenants] == [
        f"{product}-1.0.0",
        f"{product}-2.0.0",
    ]
    assert len(await stack.inits(f"{product}-2.0.0", jobs["new"][0])) == 1
    for tenant, _, job in jobs.values():
        await check_nothing_is_left(stack, tenant, job)


@pytest.mark.soak
async def test_a_terminated_group_of_a_job_that_goes_on_is_found(stack: Any) -> None:
    """Its siblings may work for hours: nobody waits for them to be told."""
    tenant, one, other = await stack.tenant(), stack.product(), stack.product()
    await stack.register(*(stack.descriptor(product, "1.0.0") for product in (one, other)))
    path = await stack.begin(
        tenant, f"{one}-1.0.0", f"{other}-1.0.0", query="parallel=2&ignoreErrors=true&tenantParameters=do%3Dhang"
    )
    job = path.rsplit("/", 1)[1]
    for product in (one, other):
        while not await stack.inits(f"{product}-1.0.0", tenant):
            await asyncio.sleep(0.05)
    groups = {hold["product"]: hold for hold in (await stack.ok("GET", f"/_/runs/{job}/resolve"))["held"]}
    await terminate(stack, f"{job}/{groups[one]['group']}")

    async with asyncio.timeout(FOUND_WITHIN):
        keys = await stack.until(
            "/_/lifecycle/problems", lambda found: [each["key"] for each in found if each["key"].startswith(f"hold-left:{job}")]
        )
    at_work = await stack.ok("GET", path)
    refused = await resolve(stack, job, "old")
    await stack.http.delete(path)
    await stack.ended(path)
    code, told = await resolve(stack, job, "old")

    assert [each["key"] for each in keys if each["key"].startswith(f"hold-left:{job}")] == [f"hold-left:{groups[one]['hold']}"]
    assert not at_work["complete"]
    assert (refused[0], "is at work" in refused[1]) == (1, True), refused
    assert (code, await stack.enabled(tenant)) == (0, []), told
    await check_nothing_is_left(stack, tenant, job)


@pytest.mark.parametrize(
    ("decision", "outcome"), [("skip", "rollback_failed"), pytest.param("retry", "needs_operator", marks=pytest.mark.soak)]
)
async def test_a_hold_point_is_shown_and_decided(stack: Any, decision: str, outcome: str) -> None:
    tenant, product = await stack.tenant(), stack.product()
    await stack.register(*(stack.descriptor(product, version, undo="forward_only") for version in ("1.0.0", "2.0.0")))
    await stack.install(tenant, f"{product}-1.0.0")
    path = await stack.begin(tenant, f"{product}-2.0.0", query="tenantParameters=do%3D500")
    await stack.until(path, lambda row: row["phase"] == "needs_operator")
    job = path.rsplit("/", 1)[1]

    shown = json.loads((await resolve(stack, job, "--json"))[1])
    unfit = await resolve(stack, job, "old")
    code, told = await resolve(stack, job, decision, "--reason", "looked at it")
    if decision == "retry":
        await stack.until(path, lambda row: row["phase"] == outcome)
        await resolve(stack, job, "skip")
    ended = await stack.ended(path)

    assert shown["possible"] == ["retry", "skip"]
    assert shown["waiting"] == [{"run": f"{job}/1-{product}", "why": f"{product}-2.0.0 only goes forward: a person decides"}]
    assert (unfit[0], "retry or skip is possible" in unfit[1]) == (1, True), unfit
    assert (code, decision in told) == (0, True)
    assert ended["outcome"] == "rollback_failed"
    assert f"as {decision}: looked at it" in ended["warnings"][0]["message"]


# Cancel is abort


async def cancel(stack: Any, path: str) -> dict[str, Any]:
    """Cancel in the Temporal UI, and the job when it has ended."""
    client: Client = await stack.temporal()
    await client.get_workflow_handle(path.rsplit("/", 1)[1]).cancel()
    ended: dict[str, Any] = await stack.ended(path)
    return ended


@pytest.mark.soak
async def test_cancel_is_abort_while_old_requests_are_drained(stack: Any) -> None:
    tenant, product = await stack.tenant(), stack.product()
    await stack.register(*(stack.descriptor(product, version) for version in ("1.0.0", "2.0.0")))
    await stack.install(tenant, f"{product}-1.0.0")
    old = asyncio.create_task(stack.ask(tenant, f"/{product}/x?seconds=60"))  # so that it takes the whole grace
    await stack.until(f"/_/lifecycle/links?tenant={tenant}", lambda links: links != [])
    path = await stack.begin(tenant, f"{product}-2.0.0")
    await stack.until(path, lambda row: row["phase"] == "updating")

    ended = await cancel(stack, path)
    old.cancel()

    assert ended["outcome"] == "aborted"
    assert await stack.enabled(tenant) == [f"{product}-1.0.0"]
    assert (await stack.ask(tenant, f"/{product}/x")).json()["id"] == f"{product}-1.0.0"


async def test_cancel_is_abort_while_the_data_is_copied(stack: Any, users: str) -> None:
    """Somebody's lock keeps the copy waiting; it comes after `check`, which would wait for it, too."""
    before = await fingerprint(stack, users)
    connection = await asyncpg.connect(stack.modules_dsn())
    try:
        path = await stack.begin(users, TWO)
        await stack.until(path, lambda row: row["phase"] == "deploying")
        async with connection.transaction():
            await connection.execute(f"lock table {users}_mod_users.users in access exclusive mode")
            await attribute(stack, f"{path.rsplit('/', 1)[1]}/1-mod-users", "copying")
            ended = await cancel(stack, path)
    finally:
        await connection.close()

    assert ended["outcome"] == "aborted"
    assert await fingerprint(stack, users) == before
    assert await stack.enabled(users) == [ONE]


@pytest.mark.soak
async def test_cancel_is_abort_while_it_is_verified_and_comes_too_late_for_the_undo(stack: Any) -> None:
    tenant, product = await stack.tenant(), stack.product()
    hangs = {"method": "GET", "path": f"/{product}/hangs?seconds=60"}
    await stack.register(stack.descriptor(product, "1.0.0"), stack.descriptor(product, "2.0.0", checks=[hangs]))
    await stack.install(tenant, f"{product}-1.0.0")
    path = await stack.begin(tenant, f"{product}-2.0.0", query="tenantParameters=do%3D200")
    while not stack.recorded(f"{product}-2.0.0", path=f"/{product}/hangs", tenant=tenant):
        await asyncio.sleep(0.05)
    client: Client = await stack.temporal()
    handle = client.get_workflow_handle(path.rsplit("/", 1)[1])
    await handle.cancel()
    while not (row := await stack.ok("GET", path))["complete"]:
        try:
            await handle.cancel()  # again and again, whatever undo is at work
        except RPCError:
            break
    ended = await stack.ended(path)

    assert (row["id"], ended["outcome"]) == (ended["id"], "aborted")
    assert await stack.enabled(tenant) == [f"{product}-1.0.0"]
    assert await stack.instances(f"{product}-2.0.0") == []
    assert await stack.holds(tenant) == []


@pytest.mark.soak
async def test_cancel_at_a_hold_point_of_the_undo_leaves_it_to_the_person(stack: Any) -> None:
    tenant, product = await stack.tenant(), stack.product()
    await stack.register(*(stack.descriptor(product, version, undo="forward_only") for version in ("1.0.0", "2.0.0")))
    await stack.install(tenant, f"{product}-1.0.0")
    path = await stack.begin(tenant, f"{product}-2.0.0", query="tenantParameters=do%3D500")
    await stack.until(path, lambda row: row["phase"] == "needs_operator")
    job = path.rsplit("/", 1)[1]
    client: Client = await stack.temporal()
    await client.get_workflow_handle(job).cancel()
    await attribute(stack, f"{job}/1-{product}", "needs_operator")
    waiting = json.loads((await resolve(stack, job, "--json"))[1])
    await resolve(stack, job, "skip")
    ended = await stack.ended(path)

    assert waiting["possible"] == ["retry", "skip"]
    assert ended["outcome"] == "rollback_failed"


async def attribute(stack: Any, run: str, phase: str) -> None:
    """Wait until the search attribute UpliftPhase of a run is so."""
    client: Client = await stack.temporal()
    async with asyncio.timeout(30):
        while True:
            try:
                found = await client.get_workflow_handle(run).describe()
                if phase in [pair.value for pair in found.typed_search_attributes if pair.key.name == "UpliftPhase"]:
                    return
            except RPCError:
                pass
            await asyncio.sleep(0.03)
