"""A failing migration leaves no trace: schema and rows as before, compared as dumps (requirements D2, E5)."""

import asyncio
import sys
import uuid
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from examples.descriptors import descriptor
from module_data import PostgresData

ONE, TWO = "mod-users-1.0.0", "mod-users-2.0.0"


@pytest.fixture
async def users(stack: Any) -> str:
    """A tenant with users in 1.0.0."""
    for version in ("1.0.0", "2.0.0", "2.2.0", "3.0.0", "4.0.0"):
        await stack.register(descriptor("mod-users", version, python=sys.executable))
    tenant: str = await stack.tenant()
    assert (await stack.install(tenant, ONE))["status"] == "done"
    for number in range(40):
        await stack.ok(
            "PUT", f"/users/{uuid.uuid4()}", {"name": f"Ada Lovelace {number}", "seq": number}, **{"X-Okapi-Tenant": tenant}
        )
    return tenant


def data(stack: Any) -> PostgresData:
    return PostgresData(dsn=stack.modules_dsn())


async def check_nothing_changed(stack: Any, tenant: str, before: str, module: str) -> None:
    assert await data(stack).fingerprint(f"{tenant}_mod_users") == before
    assert await stack.enabled(tenant) == [ONE]
    assert (await stack.ask(tenant, "/users/count")).json() == {"count": 40}
    assert await stack.instances(module) == []
    assert await stack.holds(tenant) == []


@pytest.mark.parametrize(
    ("module", "fail", "text"),
    [
        ("mod-users-3.0.0", "job", "the migration failed after"),
        pytest.param("mod-users-3.0.0", "500", "failed with 500", marks=pytest.mark.soak),
        pytest.param("mod-users-3.0.0", "400", "failed with 400", marks=pytest.mark.soak),
        ("mod-users-2.2.0", "", "check GET /users/count: expected 200, got 500"),
    ],
)
async def test_a_failing_migration_leaves_schema_and_rows_as_before(
    stack: Any, users: str, module: str, fail: str, text: str
) -> None:
    before = await data(stack).fingerprint(f"{users}_mod_users")

    job = await stack.begin(users, module, query=f"tenantParameters=migrationSeconds%3D0.5,fail%3D{fail}")
    await stack.until(job, lambda row: row["phase"] == "migrating" or row["complete"])
    parked = await stack.ask(users, "/users/count")
    ended = await stack.ended(job)

    assert (ended["status"], ended["outcome"]) == ("error", "rolled_back")
    assert text in ended["errors"][0]["message"]
    assert parked.json() == {"count": 40}
    await check_nothing_changed(stack, users, before, module)


async def test_an_abort_in_mid_migration_leaves_schema_and_rows_as_before(stack: Any, users: str) -> None:
    """Cancel in the Temporal UI is an abort (requirement C1); undo never starts under a running migration."""
    before = await data(stack).fingerprint(f"{users}_mod_users")
    job = await stack.begin(users, TWO, query="tenantParameters=migrationSeconds%3D30")
    await stack.until(job, lambda row: row["phase"] == "migrating")
    while await data(stack).fingerprint(f"{users}_mod_users") == before:
        await asyncio.sleep(0.1)

    await (await stack.temporal()).get_workflow_handle(job.rsplit("/", 1)[1]).cancel()
    ended = await stack.ended(job)

    assert ended["outcome"] == "aborted"
    await check_nothing_changed(stack, users, before, TWO)


@pytest.mark.soak
async def test_an_abort_does_not_disturb_others_on_the_same_new_instance(stack: Any, users: str) -> None:
    """The instance is shared, so its process is left alone: the sessions in the tenant's schema are ended instead."""
    other = await stack.tenant()
    await stack.install(other, TWO)
    (instance,) = await stack.instances(TWO)
    before = await data(stack).fingerprint(f"{users}_mod_users")
    job = await stack.begin(users, TWO, query="tenantParameters=migrationSeconds%3D30")
    await stack.until(job, lambda row: row["phase"] == "migrating")

    await stack.http.delete(job)
    ended = await stack.ended(job)

    assert ended["outcome"] == "aborted"
    assert await data(stack).fingerprint(f"{users}_mod_users") == before
    assert await stack.instances(TWO) == [instance]
    assert (await stack.ask(other, "/users/count")).json() == {"count": 0}


async def test_undo_of_an_install_drops_the_schema_that_was_not_there(stack: Any, users: str) -> None:
    tenant = await stack.tenant()

    job = await stack.install(tenant, "mod-users-2.2.0")

    assert (job["outcome"], users != tenant) == ("rolled_back", True)
    assert await data(stack).fingerprint(f"{tenant}_mod_users") == "absent"


async def test_what_was_opened_for_the_checks_is_closed_although_tenant_init_was_not_called(stack: Any) -> None:
    """Requirement D2: nothing new is left behind, the secret prefix included. The site's own instance does not retire with it."""
    tenant, product = await stack.tenant(), stack.product()
    fails = {"method": "GET", "path": f"/{product}/x", "status": 418}
    new = stack.descriptor(product, "2.0.0", checks=[fails])
    del new["launchDescriptor"]
    await stack.register(stack.descriptor(product, "1.0.0"), new)
    await stack.install(tenant, f"{product}-1.0.0")
    (ours,) = await stack.instances(f"{product}-1.0.0")
    body = {"srvcId": f"{product}-2.0.0", "instId": f"site-{product}", "url": ours["url"]}
    await stack.ok("POST", "/_/discovery/modules", body)

    job = await stack.install(tenant, f"{product}-2.0.0", query="invoke=false")

    (check,) = await asyncio.to_thread(stack.recorded, f"{product}-1.0.0", path=f"/{product}/x", tenant=tenant)
    prefix = check["url"].removeprefix(stack.url)
    assert (job["outcome"], prefix.startswith("/_/overlay/")) == ("rolled_back", True)
    assert (await stack.http.get(f"{prefix}/{product}/x")).status_code == 404


async def test_a_snapshot_that_would_not_be_whole_is_refused_before_anybody_is_held(stack: Any, users: str) -> None:
    connection = await asyncpg.connect(stack.modules_dsn())
    await connection.execute(f"create view public.v_{users} as select id from {users}_mod_users.users")
    try:
        job = await stack.install(users, TWO)
    finally:
        await connection.execute(f"drop view public.v_{users}")
        await connection.close()

    assert job["heldSeconds"] == 0
    assert "would not be whole" in job["errors"][0]["message"]
    assert f"v_{users}" in job["errors"][0]["message"]


@pytest.mark.soak
async def test_snapshots_are_kept_for_their_time_then_removed(stack: Any, users: str) -> None:
    job = await stack.begin(users, TWO, query="tenantParameters=migrationSeconds%3D1")
    await stack.until(job, lambda row: row["phase"] == "migrating")
    (copy,) = [row for row in await stack.ok("GET", f"/_/snapshots?tenant={users}") if row["existed"]]
    there = await asyncio.to_thread(Path(copy["path"]).exists)
    await stack.ended(job)
    await stack.until(f"/_/snapshots?tenant={users}", lambda rows: rows == [])

    assert there
    assert not await asyncio.to_thread(Path(copy["path"]).exists)


async def test_no_secret_is_in_any_history_or_answer(stack: Any, users: str) -> None:
    secret = (stack.home / "postgres.password").read_text().strip()
    job = await stack.install(users, TWO)
    client = await stack.temporal()
    texts = [str(job), str(await stack.ok("GET", "/_/snapshots")), str(await stack.ok("GET", "/_/versions"))]
    async for execution in client.list_workflows(f"UpliftTenant = '{users}'"):
        history = await client.get_workflow_handle(execution.id, run_id=execution.run_id).fetch_history()
        texts.append(history.to_json())

    assert len(texts) > 4
    assert [text[:80] for text in texts if secret in text] == []


async def test_the_rows_are_migrated_when_it_goes_well(stack: Any, users: str) -> None:
    job = await stack.install(users, TWO)

    connection = await asyncpg.connect(stack.modules_dsn())
    rows = await connection.fetch(f"select first_name, last_name, seq from {users}_mod_users.users order by seq")
    await connection.close()
    assert job["outcome"].startswith("done")
    assert [tuple(row) for row in rows] == [("Ada", f"Lovelace {number}", number) for number in range(40)]


@pytest.mark.soak
async def test_a_module_that_dies_in_mid_migration_is_restored_and_asked_once_more(stack: Any, users: str) -> None:
    """Its job stays incomplete for ever: the new process and a quiet schema say that it is over (requirements C4, D3)."""
    job = await stack.begin(users, TWO, query="tenantParameters=migrationSeconds%3D3")
    await stack.until(job, lambda row: row["phase"] == "migrating")
    (before,) = await stack.instances(TWO)
    killed = await asyncio.to_thread(kill_processes, "examples.users", before["url"].rsplit(":", 1)[1])
    await stack.until(f"/_/versions/{TWO}", lambda row: row["instances"][0]["generation"] != before["generation"])

    ended = await stack.ended(job)

    assert killed
    assert ended["status"] == "done", ended["errors"]
    assert (await stack.ask(users, "/users/count")).json() == {"count": 40}
    assert await stack.enabled(users) == [TWO]


async def test_a_reversible_module_takes_its_own_migration_back(stack: Any, users: str) -> None:
    job = await stack.install(users, "mod-users-2.2.0", query="undo=reversible")

    row = (await stack.ask(users, "/users?limit=1")).json()["users"][0]
    assert job["outcome"] == "rolled_back"
    assert "first_name" not in row
    assert row["name"].startswith("Ada Lovelace")
    assert await stack.enabled(users) == [ONE]


def kill_processes(*words: str) -> list[int]:
    killed = []
    for process in psutil.process_iter(["cmdline"]):
        if set(words) <= set(process.info["cmdline"] or []):
            process.kill()
            killed.append(process.pid)
    return killed
