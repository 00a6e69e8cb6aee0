"""kill -9 in mid-migration, with modules that say what they were asked (requirement D3); tests/survival has the rest."""

import asyncio
import os
import signal
from typing import Any

import psutil
import pytest

from deployers.process_tree import observe


async def migrating(stack: Any, seconds: float = 2.0, do: str = "job", **options: Any) -> tuple[str, str, str]:
    """A tenant whose upgrade is migrating: (tenant, product, path of the job)."""
    tenant, product = await stack.tenant(), stack.product()
    await stack.register(*(stack.descriptor(product, version, **options) for version in ("1.0.0", "2.0.0")))
    await stack.install(tenant, f"{product}-1.0.0")
    job = await stack.begin(tenant, f"{product}-2.0.0", query=f"tenantParameters=do%3D{do},seconds%3D{seconds:g}")
    await stack.until(job, lambda row: row["phase"] == "migrating")
    return tenant, product, job


@pytest.mark.soak
async def test_a_failing_run_is_undone_although_everything_was_killed(stack: Any) -> None:
    """Requirement D2."""
    tenant, product, job = await migrating(stack, do="joberror")

    await stack.kill("worker", "gateway", "temporal")
    ended = await stack.ended(job)

    assert ended["outcome"] == "rolled_back"
    assert await stack.enabled(tenant) == [f"{product}-1.0.0"]
    assert (await stack.ask(tenant, f"/{product}/x")).json()["id"] == f"{product}-1.0.0"
    assert await stack.instances(f"{product}-2.0.0") == []


@pytest.mark.soak
async def test_a_synchronous_init_is_not_asked_for_twice_when_the_worker_dies(stack: Any) -> None:
    """Requirement C4: the answer is lost with the worker; a module that says that it may be asked again is, once it is quiet."""
    tenant, product, job = await migrating(stack, do="200", dialect="uplift", seconds=3, rerunnable=True)
    await until_inits(stack, f"{product}-2.0.0", 1)
    await stack.kill("worker")
    ended = await stack.ended(job)

    inits = await asyncio.to_thread(stack.recorded, f"{product}-2.0.0", path="/_/tenant", tenant=tenant)
    assert ended["status"] == "done", ended
    assert [line["method"] for line in inits] == ["POST", "POST"]
    assert inits[1]["at"] - inits[0]["at"] > 1


@pytest.mark.soak
async def test_a_module_killed_in_mid_migration_is_started_again_and_asked_again(stack: Any) -> None:
    """Its job is gone with it; nobody else uses the instance and it says that it may be asked again."""
    tenant, product, job = await migrating(stack, do="hang", rerunnable=True)
    (instance,) = await stack.instances(f"{product}-2.0.0")
    await kill_instance(stack, f"{product}-2.0.0")

    await stack.until(
        f"/_/versions/{product}-2.0.0",
        lambda row: row["instances"] and row["instances"][0]["generation"] != instance["generation"],
    )
    await until_inits(stack, f"{product}-2.0.0", 2)
    await stack.http.delete(job)
    ended = await stack.ended(job)

    assert ended["outcome"] == "aborted"
    assert await stack.enabled(tenant) == [f"{product}-1.0.0"]


async def test_instances_outlive_the_worker_and_are_not_started_twice(stack: Any) -> None:
    tenant, product = await stack.tenant(), stack.product()
    await stack.register(stack.descriptor(product, "1.0.0"))
    await stack.install(tenant, f"{product}-1.0.0")
    before = await pids_of(stack, f"{product}-1.0.0")

    await stack.kill("worker")
    other = await stack.tenant()
    await stack.install(other, f"{product}-1.0.0")

    assert await pids_of(stack, f"{product}-1.0.0") == before
    assert len(before) == 1


async def test_a_killed_instance_is_started_again_on_its_node(stack: Any) -> None:
    tenant, product = await stack.tenant(), stack.product()
    module = f"{product}-1.0.0"
    await stack.register(stack.descriptor(product, "1.0.0"))
    await stack.install(tenant, module)
    (before,) = await stack.instances(module)

    await kill_instance(stack, module)
    after = await stack.until(f"/_/versions/{module}", lambda row: row["instances"][0]["generation"] != before["generation"])

    assert len(after["instances"]) == 1
    assert (await stack.ask(tenant, f"/{product}/x")).status_code == 200


async def test_a_job_posted_while_temporal_is_down_is_readable_and_runs_later(stack: Any) -> None:
    """The row is committed before its run starts; a sweeper starts what was left behind."""
    tenant, product = await stack.tenant(), stack.product()
    await stack.register(stack.descriptor(product, "1.0.0"))
    rows = await stack.status()
    os.kill(rows["temporal"]["pid"], signal.SIGSTOP)
    try:
        job = await stack.begin(tenant, f"{product}-1.0.0")
        waiting = await stack.ok("GET", job)
    finally:
        os.kill(rows["temporal"]["pid"], signal.SIGCONT)
    ended = await stack.ended(job)

    assert (waiting["status"], waiting["complete"]) == ("running", False)
    assert ended["status"] == "done"


async def pids_of(stack: Any, module: str) -> list[int]:
    """Processes of a recorder."""
    return await asyncio.to_thread(
        lambda: sorted(
            process.pid
            for process in psutil.process_iter(["cmdline"])
            if {module, str(stack.log)} <= set(process.info["cmdline"] or []) and observe(process.pid)
        )
    )


async def kill_instance(stack: Any, module: str) -> None:
    for pid in await pids_of(stack, module):
        os.kill(pid, signal.SIGKILL)


async def until_inits(stack: Any, module: str, times: int) -> None:
    async with asyncio.timeout(60):
        while len(await stack.inits(module)) < times:
            await asyncio.sleep(0.05)
