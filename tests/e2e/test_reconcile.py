"""Every difference that a reconcile run repairs, made for real; what it only tells; and a run under way (requirement D3)."""

import asyncio
import json
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from deployers import Launch, ProcessDeployer
from upgrade_core.runs import RECONCILE_SCHEDULE
from uplift_settings.tree import DeploySettings

ROOT = Path(__file__).parents[2]
LONG_AGO = 1_000_000_000


@pytest.fixture
async def rows(stack: Any) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(stack.modules_dsn("uplift"))
    yield connection
    await connection.close()


async def reconcile(stack: Any, *options: str) -> tuple[int, dict[str, Any]]:
    """`uplift reconcile`: its exit status and report."""
    done = await asyncio.to_thread(
        lambda: subprocess.run(
            (sys.executable, "-m", "uplift_cli.main", "reconcile", "--home", str(stack.home), "--json", *options),
            cwd=ROOT, capture_output=True, text=True, check=False,
        )
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


def keys(found: list[dict[str, Any]]) -> set[str]:
    return {each["key"] for each in found}


async def enabled(stack: Any) -> tuple[str, str, str]:
    """A tenant with version 1.0.0 of a product: the tenant, the product and the job that has ended."""
    tenant, product = await stack.tenant(), stack.product()
    await stack.register(*(stack.descriptor(product, version) for version in ("1.0.0", "2.0.0", "3.0.0")))
    job = await stack.install(tenant, f"{product}-1.0.0")
    return tenant, product, job["id"]


async def leave(rows: Any, stack: Any, *, tenant: str, product: str, job: str) -> tuple[set[str], Path]:
    """What an ended job could leave behind: the keys of the differences, and a copy's file that its row names."""
    other, key = f"{product}-2.0.0", f"intent-{job}"
    await rows.execute("insert into claims (module, job) values ($1, $2)", other, job)
    await rows.execute("insert into retirements (module) values ($1)", f"{product}-3.0.0")
    await rows.execute("update overlays set state = 'open', module = $2 where job = $1", job, other)
    await rows.execute(
        "insert into intents (key, job, tenant, product, module, instance, generation, state)"
        " values ($1, $2, $3, $4, $5, 'gone', 'g', 'following')",
        key, job, tenant, product, other,
    )  # fmt: skip
    kept = stack.home / "snapshots" / tenant / f"{job}-{product}.dump"
    kept.parent.mkdir(parents=True)
    kept.touch()
    await rows.execute(
        "insert into snapshots (id, job, tenant, product, node, dsn, schema, path, size, digest, existed)"
        " values ($1, $2, $3, $4, 'host', 'env:X', 's', $5, 0, '', true)",
        f"{job}-{product}", job, tenant, product, str(kept),
    )  # fmt: skip
    found = {
        f"claim:{other}:{job}", f"retirement:{product}-3.0.0", f"overlay:{job}:{product}", f"intent:{key}",
        f"snapshot:{job}-{product}",
    }  # fmt: skip
    return found, kept


async def stray(stack: Any) -> tuple[str, ProcessDeployer]:
    """A process with a record of the stack's own deployer, which nobody registered."""
    product = stack.product()
    descriptor = stack.descriptor(product, "1.0.0")
    await stack.register(descriptor)
    instance = f"{product}-1.0.0@host"
    deployer = ProcessDeployer(settings=DeploySettings(stop_grace=2), folder=stack.home / "instances")
    await deployer.start(Launch(inst_id=instance, module_id=f"{product}-1.0.0", exec=descriptor["launchDescriptor"]["exec"]))
    return instance, deployer


async def test_what_was_left_behind_is_told_by_a_dry_run_and_repaired_by_the_next(stack: Any, rows: Any) -> None:
    tenant, product, job = await enabled(stack)
    wanted, kept = await leave(rows, stack, tenant=tenant, product=product, job=job)
    instance, deployer = await stray(stack)
    nobodys, mine = kept.with_name(f"{uuid.uuid4()}-{product}.dump"), kept.with_name("mine.dump")
    for file in (nobodys, mine):
        file.touch()
        os.utime(file, (LONG_AGO, LONG_AGO))
    wanted |= {f"process:host:{instance}", f"file:host:{tenant}/{nobodys.name}"}

    code, told = await reconcile(stack, "--dry-run")
    still_there = (await deployer.find(instance)) is not None and nobodys.exists()
    _, made = await reconcile(stack)

    assert (code, told["repaired"], told["looked"]) == (1, [], ["host"])
    assert wanted <= keys([each for each in told["differences"] if each["repair"]])
    assert still_there
    assert wanted <= keys(made["repaired"])
    assert wanted & keys(made["differences"]) == set()
    assert await deployer.find(instance) is None
    assert (nobodys.exists(), mine.exists()) == (False, True)
    assert await rows.fetchval("select count(*) from claims where job = $1", job) == 0
    assert await rows.fetchval("select count(*) from overlays where job = $1 and state <> 'alias'", job) == 0
    assert await rows.fetchval("select state from intents where key = $1", f"intent-{job}") == "ended"
    await gone(rows, "select count(*) from retirements where module = $1", f"{product}-3.0.0")
    await gone(rows, "select count(*) from snapshots where job = $1", job)  # its time was a second
    assert not kept.exists()
    assert (await stack.ask(tenant, f"/{product}/x")).json()["id"] == f"{product}-1.0.0"
    assert wanted & {each["key"].removeprefix("difference:") for each in await stack.problems()} == set()


@pytest.mark.soak
async def test_what_a_person_decides_is_told_and_left_as_it_is(stack: Any, rows: Any) -> None:
    tenant, product, job = await enabled(stack)
    hold, key = f"hold-{job}", f"intent-{job}"
    await rows.execute("update data_versions set module = $2 where tenant = $1", tenant, f"{product}-0.9.0")
    await rows.execute(
        "insert into holds (id, job, tenant, product, state, reason, holder) values ($1, $2, $3, $4, 'HELD', 'test', $5)",
        hold, job, tenant, product, f"job {job}",
    )  # fmt: skip
    await rows.execute(
        "insert into intents (key, job, tenant, product, module, instance, state) values ($1, $2, $3, $4, $5, 'gone', 'asked')",
        key, job, tenant, product, f"{product}-1.0.0",
    )  # fmt: skip
    data = f"data:{product}-1.0.0:{product}-0.9.0"

    code, made = await reconcile(stack)
    problems = {each["key"] for each in await stack.problems()}
    left = await rows.fetchrow(
        "select (select state from holds where id = $1) as hold, (select state from intents where key = $2) as intent,"
        " (select module from data_versions where tenant = $3) as data",
        hold, key, tenant,
    )  # fmt: skip
    await rows.execute("delete from holds where id = $1", hold)
    await rows.execute("update data_versions set module = $2 where tenant = $1", tenant, f"{product}-1.0.0")

    assert code == 1
    assert {f"hold:{hold}", f"intent:{key}", data} <= keys([each for each in made["differences"] if not each["repair"]])
    assert dict(left) == {"hold": "HELD", "intent": "asked", "data": f"{product}-0.9.0"}
    assert {f"difference:intent:{key}", f"difference:{data}"} <= problems

    _, made = await reconcile(stack)

    assert f"intent:{key}" in keys(made["repaired"])  # nothing is held any more, and the process that was asked is gone
    assert f"difference:{data}" not in {each["key"] for each in await stack.problems()}


@pytest.mark.soak
async def test_a_run_under_way_is_no_difference_and_is_not_touched(stack: Any) -> None:
    tenant, product, _ = await enabled(stack)
    job = await stack.begin(tenant, f"{product}-2.0.0", query="tenantParameters=do%3Djob,seconds%3D300")
    row = await stack.until(job, lambda row: row["phase"] == "migrating")

    _, made = await reconcile(stack)
    now = await stack.ok("GET", job)
    await stack.http.delete(job)
    ended = await stack.ended(job)

    of_job = [each for each in (*made["differences"], *made["repaired"]) if row["id"] in each["key"] or product in each["key"]]
    assert of_job == []
    assert now["phase"] == "migrating"
    assert ended["outcome"] == "aborted"


@pytest.mark.soak
async def test_the_worker_keeps_a_schedule_of_reconcile_runs(stack: Any) -> None:
    client = await stack.temporal()

    schedule = (await client.get_schedule_handle(RECONCILE_SCHEDULE).describe()).schedule

    assert schedule.spec.intervals[0].every == timedelta(hours=1)


async def gone(rows: Any, count: str, *values: str) -> None:
    async with asyncio.timeout(30):
        while await rows.fetchval(count, *values):
            await asyncio.sleep(0.1)
