"""Order and concurrency: jobs that meet, tenants that share an instance, arrivals and departures while a version retires.

Requirements A5, B7, C2, E1.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import psutil
import pytest
from temporalio.service import RPCError

from upgrade_core.runs import module_run_id

FEW = 10
MANY = 100
CONFIG = """
[gateway]
settle = 0.5
grace = 3
[deploy]
retire_after = 2
stop_grace = 3
health_wait = 20
[init]
quiet = 1
"""


@pytest.fixture(scope="module")
async def stack(stacks: Any) -> AsyncIterator[Any]:
    """A stack whose old versions have a grace that one can act in."""
    async with stacks(CONFIG) as running:
        yield running


async def two_versions(stack: Any, tenants: int = 1, **options: Any) -> tuple[str, str, list[str]]:
    """A product of which tenants have the first of two versions: (first, second, tenants)."""
    product = stack.product()
    old, new = f"{product}-1.0.0", f"{product}-2.0.0"
    await stack.register(*(stack.descriptor(product, version, **options) for version in ("1.0.0", "2.0.0")))
    names = [await stack.tenant() for _ in range(tenants)]
    assert {job["outcome"] for job in await all_at_once(stack, names, old)} == {"done"}
    return old, new, names


async def all_at_once(stack: Any, names: list[str], module: str) -> list[dict[str, Any]]:
    """The jobs that take tenants to a version, when the last has ended."""
    begun = await asyncio.gather(*(stack.begin(name, module) for name in names))
    return list(await asyncio.gather(*(stack.ended(path, within=60 + 2 * len(names)) for path in begun)))


async def until_own_event(stack: Any, module: str, event: str, times: int = 1) -> list[int]:
    """Process ids, when a module's processes have written an event so often."""
    async with asyncio.timeout(60):
        while len(found := await stack.own_events(module, event)) < times:
            await asyncio.sleep(0.02)
    return found


async def until_in_history(stack: Any, run: str, words: str) -> None:
    """Wait until a run shows something in its history, such as the timer of the grace."""
    handle = (await stack.temporal()).get_workflow_handle(run)
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(RPCError):  # it has not begun yet
                if words in str((await handle.fetch_history()).events):
                    return
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def draining(stack: Any) -> AsyncIterator[None]:
    """While the block runs nothing counts as quiet, as when a replica died without a word."""
    connection = await asyncpg.connect(stack.modules_dsn("uplift"))
    try:
        await connection.execute("insert into ghosts values ('the-test', 'the-test', now() + interval '1 hour')")
        try:
            yield
        finally:
            await connection.execute("delete from ghosts where generation = 'the-test'")
    finally:
        await connection.close()


async def test_two_jobs_for_one_tenant_run_in_the_order_in_which_they_came(stack: Any) -> None:
    """The second plans when it is its turn: it finds what the first has done (requirement C2)."""
    old, new, (tenant,) = await two_versions(stack)

    jobs = [await stack.begin(tenant, module, query="tenantParameters=do%3Djob,seconds%3D0.5") for module in (new, old, new)]
    waiting = [(await stack.ok("GET", job))["phase"] for job in jobs[1:]]
    ended = [await stack.ended(job) for job in jobs]

    assert waiting == ["queued", "queued"]
    assert [job["outcome"] for job in ended] == ["done"] * 3
    assert [(job["modules"][0]["from"], job["modules"][0]["id"]) for job in ended] == [(old, new), (new, old), (old, new)]
    assert await stack.enabled(tenant) == [new]


@pytest.mark.soak
async def test_a_job_that_is_aborted_while_it_waits_for_another_leaves_that_one_alone(stack: Any) -> None:
    old, new, (tenant,) = await two_versions(stack)
    first = await stack.begin(tenant, new, query="tenantParameters=do%3Djob,seconds%3D1")
    second = await stack.begin(tenant, old)

    await stack.http.delete(second)
    aborted, done = await stack.ended(second), await stack.ended(first)

    assert (aborted["outcome"], done["outcome"]) == ("aborted", "done")
    assert await stack.enabled(tenant) == [new]


@pytest.mark.soak
@pytest.mark.parametrize("tenants", [FEW, MANY])
async def test_many_tenants_at_once_share_one_deployment_of_the_new_version(stack: Any, tenants: int) -> None:
    """Deployed once, not once for each; the old version goes once, after the last has left (requirement E1)."""
    old, new, names = await two_versions(stack, tenants)

    jobs = await all_at_once(stack, names, new)

    await stack.until(f"/_/versions/{old}", lambda version: not version["instances"] and not version["retiring"])
    assert [job["outcome"] for job in jobs] == ["done"] * tenants
    assert len(await stack.own_events(new, "start")) == 1
    assert len(await stack.own_events(old, "stopping")) == 1
    assert len(await stack.own_events(old, "start")) == 1
    asked = await asyncio.gather(*(stack.ask(name, f"/{new.rpartition('-')[0]}/x") for name in names))
    assert {answer.json()["id"] for answer in asked} == {new}


@pytest.mark.soak
async def test_a_deployment_that_fails_fails_every_job_that_waits_for_it(stack: Any) -> None:
    """Every job is told why, every tenant stays on the old version (requirement D2)."""
    product = stack.product()
    old, new = f"{product}-1.0.0", f"{product}-2.0.0"
    await stack.register(stack.descriptor(product, "1.0.0"), stack.descriptor(product, "2.0.0", start="exit"))
    names = [await stack.tenant() for _ in range(5)]
    await asyncio.gather(*(stack.install(name, old) for name in names))

    jobs = await asyncio.gather(*(stack.install(name, new) for name in names))

    assert {job["outcome"] for job in jobs} == {"rolled_back"}
    assert all("cannot find my configuration" in job["errors"][0]["message"] for job in jobs)
    assert [await stack.enabled(name) for name in names] == [[old]] * 5
    assert (await stack.instances(new), len(await stack.instances(old))) == ([], 1)


@pytest.mark.soak
async def test_a_tenant_that_arrives_in_the_grace_of_a_version_finds_the_same_process(stack: Any) -> None:
    """The version stays for it, and goes a grace after it, too, has left (requirement E1)."""
    old, new, (leaving,) = await two_versions(stack)
    arriving = await stack.tenant()
    await stack.install(leaving, new)
    await until_in_history(stack, module_run_id(old), "grace of the old version")

    arrived = await stack.install(arriving, old)
    await until_in_history(stack, module_run_id(old), "deploy.retire")
    stays = await stack.ask(arriving, f"/{old.rpartition('-')[0]}/x")
    left = await stack.install(arriving, new)
    await until_own_event(stack, old, "stopping")

    assert [job["outcome"] for job in (arrived, left)] == ["done", "done"]
    assert stays.json()["id"] == old
    assert len(await stack.own_events(old, "start")) == 1


async def test_a_downgrade_in_the_grace_takes_the_running_old_process_again(stack: Any) -> None:
    """The same process: nothing is started, nobody waits for a start (requirement E1)."""
    old, new, (tenant,) = await two_versions(stack)
    (before,) = await stack.instances(old)
    await stack.install(tenant, new)
    await until_in_history(stack, module_run_id(old), "grace of the old version")

    job = await stack.install(tenant, old)
    (after,) = await stack.instances(old)

    assert (job["outcome"], job["modules"][0]["from"]) == ("done", new)
    assert after == before
    assert await until_own_event(stack, new, "stopping") == await stack.own_events(new, "start")
    assert await stack.own_events(old, "stopping") == []
    assert len(await stack.own_events(old, "start")) == 1


@pytest.mark.soak
async def test_a_tenant_that_arrives_while_a_version_drains_gets_a_process_of_its_own_when_that_one_is_gone(stack: Any) -> None:
    """Marked as retiring, it is not given to anybody; who comes waits and holds nobody meanwhile (requirements A6, E1)."""
    old, new, (leaving,) = await two_versions(stack)
    arriving = await stack.tenant()
    await stack.install(leaving, new)
    async with draining(stack):
        await stack.until(f"/_/versions/{old}", lambda version: version["retiring"])
        job = await stack.begin(arriving, old)
        await until_in_history(stack, f"{job.rpartition('/')[2]}/1-{old.rpartition('-')[0]}", "gateway.acquire")
        during = await stack.ok("GET", f"/_/versions/{old}")
    ended = await stack.ended(job)

    first, second = await stack.own_events(old, "start")
    assert (during["retiring"], during["neededBy"]) == (True, [])
    assert ended["outcome"] == "done"
    assert await stack.own_events(old, "stopping") == [first]
    assert first != second
    assert (await stack.ask(arriving, f"/{old.rpartition('-')[0]}/x")).json()["id"] == old


@pytest.mark.soak
async def test_a_tenant_that_arrives_while_the_process_is_being_stopped_gets_a_new_one(stack: Any) -> None:
    """It is started when the old one has ended, never beside it (requirement E1)."""
    old, new, (leaving,) = await two_versions(stack, slow_stop=1.5)
    arriving = await stack.tenant()
    await stack.install(leaving, new)
    (stopping,) = await until_own_event(stack, old, "stopping")

    job = await stack.begin(arriving, old)
    alive = psutil.pid_exists(stopping)
    ended = await stack.ended(job)

    first, second = await stack.own_events(old, "start")
    assert alive
    assert ended["outcome"] == "done"
    assert (first, psutil.pid_exists(first)) == (stopping, False)
    assert (await stack.ask(arriving, f"/{old.rpartition('-')[0]}/x")).json()["id"] == old
    assert psutil.pid_exists(second)


@pytest.mark.soak
async def test_tenants_come_and_go_while_a_version_retires_again_and_again(stack: Any) -> None:
    """Whatever a retirement meets, every job ends well and every tenant is served by what it has (requirements A5, E1)."""
    old, new, names = await two_versions(stack, 4, slow_stop=0.3)

    async def wander(tenant: str, number: int) -> list[str]:
        outcomes = []
        for turn in range(3):
            wanted = (new, old)[(turn + number) % 2]
            job = await stack.install(tenant, wanted)
            answer = await stack.ask(tenant, f"/{old.rpartition('-')[0]}/x")
            outcomes.append(f"{job['outcome']} {answer.status_code} {answer.json()['id'] == wanted}")
        return outcomes

    found = await asyncio.gather(*(wander(name, number) for number, name in enumerate(names)))
    left = await asyncio.gather(*(stack.install(name, new) for name in names))
    await stack.until(f"/_/versions/{old}", lambda version: not version["instances"] and not version["retiring"])

    assert {outcome for outcomes in found for outcome in outcomes} == {"done 200 True"}
    assert {job["outcome"] for job in left} == {"done"}
    assert sorted(await stack.own_events(old, "start")) == sorted(await stack.own_events(old, "stopping"))


async def test_an_upgrade_that_is_asked_for_while_the_old_version_is_being_installed_waits_for_it(stack: Any) -> None:
    """Two tenant inits, one after the other, the second knows what it comes from (requirements B2, C2)."""
    tenant, product = await stack.tenant(), stack.product()
    old, new = f"{product}-1.0.0", f"{product}-2.0.0"
    await stack.register(*(stack.descriptor(product, version) for version in ("1.0.0", "2.0.0")))
    installing = await stack.begin(tenant, old, query="tenantParameters=do%3Djob,seconds%3D1")
    await stack.until(installing, lambda row: row["phase"] == "migrating")

    upgraded = await stack.install(tenant, new)

    installed = await stack.ok("GET", installing)
    assert (installed["outcome"], upgraded["outcome"]) == ("done", "done")
    assert [body.get("module_from") for body in await stack.inits(new, tenant)] == [old]
    looks = [line["at"] for line in stack.recorded(old, path="/_/tenant/", tenant=tenant)]
    (init,) = [line["at"] for line in stack.recorded(new, path="/_/tenant", tenant=tenant) if line["method"] == "POST"]
    assert max(looks) < init


@pytest.mark.soak
async def test_an_upgrade_that_is_asked_for_while_the_old_version_is_being_deployed_waits_for_it(stack: Any) -> None:
    tenant, product = await stack.tenant(), stack.product()
    old, new = f"{product}-1.0.0", f"{product}-2.0.0"
    await stack.register(stack.descriptor(product, "1.0.0", start="late"), stack.descriptor(product, "2.0.0"))
    installing = await stack.begin(tenant, old)
    await stack.until(installing, lambda row: row["phase"] == "deploying")

    upgraded = await stack.install(tenant, new)

    assert (await stack.ok("GET", installing))["outcome"] == "done"
    assert (upgraded["outcome"], upgraded["modules"][0]["from"]) == ("done", old)
    assert await stack.enabled(tenant) == [new]
