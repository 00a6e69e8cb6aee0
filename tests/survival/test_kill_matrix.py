"""kill -9 of every component at every moment of a run: it ends as it would have, and nothing is left (requirements D2, D3).

`make soak` runs all of it and keeps the table in `docs/reference/survival.md`; a part of it runs in `make test`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.survival.leftovers import settled
from tests.survival.moments import MOMENTS, Case, Moment
from tests.survival.platform import PARTS, PATIENCE, Platform
from tests.survival.writer import Writer
from uplift_cli.demo.check import Checker

COMPONENTS = (*PARTS, "old-instance", "new-instance", "everything")
DELAYS = (5.0, 60.0)
"""Seconds after which what was killed comes back, for one moment of each component; for all the others it is at once."""
DELAYED = "init during"
QUICK = {
    ("worker", "update during"),
    ("worker", "switch after"),
    ("gateway", "update after"),
    ("gateway", "undo init from the copy during"),
    ("temporal", "init during"),
    ("temporal", "undo update before"),
    ("postgres", "switch during"),
    ("old-instance", "update during"),
    ("new-instance", "init during"),
    ("everything", "init during"),
    ("everything", "undo init in reverse during"),
    ("worker", "retire during"),
}
"""What `make test` runs: each component, and each of update, init, switch and undo, at least once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """How a run ends.

    Attributes:
        outcomes: Which ones are right; the first is that of a run in which nothing is killed.
        why: Why another one than the first is right.
    """

    outcomes: tuple[str, ...]
    why: str = ""


def expected(component: str, moment: Moment) -> Expected:
    """How the run ends: as without the kill, or rolled back where the module under migration was killed, or its data."""
    if moment.fails:
        return Expected(outcomes=("rolled_back",))
    if (component, moment.name) == ("postgres", "init during"):
        return Expected(outcomes=("rolled_back",), why="the module's migration failed: its database was killed under it")
    return Expected(outcomes=("done",))


def cases() -> Iterator[Any]:
    """A parameter for each (component, moment) that there is, and for each delay."""
    for moment in MOMENTS:
        for component in COMPONENTS:
            if component not in moment.absent:
                marks = [] if (component, moment.name) in QUICK else [pytest.mark.soak]
                yield _case(component, moment, 0.0, marks)
    for delay in DELAYS:
        for moment in MOMENTS:
            if moment.name == DELAYED:
                for component in COMPONENTS:
                    yield _case(component, moment, delay, [pytest.mark.soak])


def _case(component: str, moment: Moment, delay: float, marks: list[Any]) -> Any:
    name = f"{component}-{moment.name}".replace(" ", "-") + (f"-back-after-{delay:g}s" if delay else "")
    group = pytest.mark.xdist_group(f"back after {delay:g} s") if delay else None
    return pytest.param(delay, component, moment, id=name, marks=[*marks, *([group] if group else [])])


@pytest.mark.parametrize(("comeback", "component", "moment"), tuple(cases()))
async def test_a_run_survives(
    stacks: Any, comeback: float, component: str, moment: Moment, record_property: Callable[[str, object], None]
) -> None:
    platform, neighbour = await stacks.get(comeback)
    for name, value in (("component", component), ("moment", moment.name), ("comeback", comeback)):
        record_property(name, value)
    platform.broken = True
    async with tenant_of(platform, moment, neighbour) as (case, run):
        checker = Checker(dsn=platform.dsn())
        structure = await checker.structure(case.tenant)
        async with case.held:
            await asyncio.wait_for(moment.reach(case), PATIENCE)
            pids = platform.pids(component, old=case.old, new=case.new)
            assert pids, f"{component} does not run"
            calls = len(platform.proxy.seen)
            platform.caller.kill_under_way = True
            platform.kill(pids)
        record_property("seconds", await goes_on(case, run, pids, since=calls))
        job = await platform.until(
            lambda: platform.job(case.tenant, run.job), lambda row: row["complete"], within=PATIENCE + 3 * comeback
        )
        record_property("outcome", job["outcome"])
        await platform.until(lambda: asyncio.sleep(0, platform.back(pids) or not platform.needed(pids)), bool)
        await still_written(case.writer, neighbour)
        platform.caller.kill_under_way = False

        assert job["outcome"] in expected(component, moment).outcomes, job
        await check_record(case, job, moment)
        await check_data(case, job, moment, checker, structure)
        await check_neighbour(neighbour, component, checker)
        assert await settled(platform) == []
    platform.broken = False


@dataclass(kw_only=True)
class Run:
    """The job of a case."""

    job: str = ""


@asynccontextmanager
async def tenant_of(platform: Platform, moment: Moment, neighbour: Writer) -> AsyncIterator[tuple[Case, Run]]:
    """A tenant on the old version whose users write, as the neighbour's do; afterwards everything is as before."""
    tenant, run = await platform.tenant(), Run()
    old, new = f"mod-users-{moment.since}", f"mod-users-{moment.version}"
    await platform.install(tenant, old)
    writer = Writer(caller=platform.caller, tenant=tenant)

    async def begin() -> None:
        run.job = await platform.begin(tenant, new)

    platform.proxy.seen.clear()
    neighbour.failures.clear()
    neighbour.start()
    writer.start()
    try:
        yield Case(platform=platform, tenant=tenant, old=old, new=new, writer=writer, begin=begin), run
    finally:
        platform.caller.kill_under_way = True
        platform.proxy.clear()
        await writer.stop()
        await neighbour.stop()
        await platform.remove(tenant)
        platform.caller.kill_under_way = False


async def goes_on(case: Case, run: Run, pids: dict[str, int], *, since: int) -> float:
    """Seconds from the moment when all that was killed is back to the next call of the run that is answered."""
    platform, loop = case.platform, asyncio.get_running_loop()
    back: float | None = None
    deadline = loop.time() + PATIENCE + 3 * platform.comeback
    while loop.time() < deadline:
        now = loop.time()
        if back is None and platform.back(pids):
            back = now
        if any(each.status is not None and f"/{run.job}/" in each.path for each in platform.proxy.seen[since:]):
            return max(0.0, now - back) if back is not None else 0.0
        if (await platform.job(case.tenant, run.job))["complete"] and (back is not None or not platform.needed(pids)):
            return max(0.0, now - back) if back is not None else 0.0
        await asyncio.sleep(0.05)
    raise AssertionError(f"nothing goes on; back: {back}")


async def still_written(*writers: Writer) -> None:
    """Wait until each has written something more."""
    goals = [writer.acknowledged + 3 for writer in writers]
    async with asyncio.timeout(PATIENCE):
        while any(writer.acknowledged < goal for writer, goal in zip(writers, goals, strict=True)):
            await asyncio.sleep(0.05)


async def check_record(case: Case, job: dict[str, Any], moment: Moment) -> None:
    """The job's record tells the truth."""
    done = job["outcome"] == "done"
    enabled = [row["id"] for row in await case.platform.ok("GET", f"/_/proxy/tenants/{case.tenant}/modules")]
    assert enabled == [case.new if done else case.old]
    assert job["status"] == ("done" if done else "error")
    assert bool(job.get("errors")) is not done
    if moment.fails:
        assert moment.fails in job["errors"][0]["message"]


async def check_data(case: Case, job: dict[str, Any], moment: Moment, checker: Checker, structure: tuple[str, ...]) -> None:
    """Tenant init took effect once, or not at all; every acknowledged write is there."""
    await case.writer.stop()
    findings = await checker.compare(case.tenant, case.writer.ledger, loans=False)
    assert findings.good, findings.sentences
    async with case.platform.connection() as connection:
        effective = [
            row["version"] for row in await connection.fetch(f"select version from {case.schema}.migrations order by number")
        ]
    if job["outcome"] == "done":
        assert effective == [moment.since, moment.version]
    else:
        in_reverse = [moment.since, moment.version, moment.since]
        assert effective in ([moment.since], in_reverse if moment.version == "2.2.0" else [moment.since])
        if moment.version != "2.2.0":  # a copy gives the columns back in their order, the reverse migration does not
            assert await checker.structure(case.tenant) == structure


async def check_neighbour(neighbour: Writer, component: str, checker: Checker) -> None:
    """Another tenant on the old version had no failed request, as long as its module had its database."""
    await neighbour.stop()
    if component not in ("postgres", "everything"):
        assert neighbour.failures == []
    findings = await checker.compare(neighbour.tenant, neighbour.ledger, loans=False)
    assert findings.good, findings.sentences
