"""kill -9 of every component at every moment of a run: it ends as it would have, and nothing is left (requirements D2, D3).

`make soak` runs all of it and keeps the table in `docs/reference/survival.md`; a part of it runs in `make test`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.survival.leftovers import settled
from tests.survival.matrix import Cell, matrix
from tests.survival.moments import Case, Moment
from tests.survival.platform import PATIENCE, Platform
from tests.survival.writer import Writer
from uplift_cli.demo.check import Checker


def cases() -> tuple[Any, ...]:
    """A parameter for each case; those that want another stack are done by one process, one after the other."""
    return tuple(
        pytest.param(
            cell,
            id=cell.name,
            marks=[
                pytest.mark.matrix,
                *([] if cell.quick else [pytest.mark.soak]),
                *([pytest.mark.xdist_group(f"back after {cell.comeback:g} s")] if cell.comeback else []),
            ],
        )
        for cell in matrix()
    )


@pytest.mark.parametrize("cell", cases())
async def test_a_run_survives(stacks: Any, cell: Cell, record_property: Callable[[str, object], None]) -> None:
    moment, component, comeback = cell.moment, cell.component, cell.comeback
    for name, value in (("component", component), ("moment", moment.name), ("comeback", comeback)):
        record_property(name, value)
    platform, neighbour = await stacks.get(comeback)
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

        assert job["outcome"] == cell.outcome, job
        await check_record(case, job, cell)
        await check_data(case, job, moment, checker, structure)
        await check_neighbour(neighbour, cell, checker)
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
        platform.caller.kill_under_way = False
    # Where the case failed the stack is given up, and looked at as it is.
    await platform.remove(tenant)


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
        await asyncio.sleep(0.1)
    raise AssertionError(f"nothing goes on; back: {back}")


async def still_written(*writers: Writer) -> None:
    """Wait until each has written something more."""
    goals = [writer.acknowledged + 3 for writer in writers]
    async with asyncio.timeout(PATIENCE):
        while any(writer.acknowledged < goal for writer, goal in zip(writers, goals, strict=True)):
            await asyncio.sleep(0.1)


async def check_record(case: Case, job: dict[str, Any], cell: Cell) -> None:
    """The job's record tells the truth."""
    done = job["outcome"] == "done"
    enabled = [row["id"] for row in await case.platform.ok("GET", f"/_/proxy/tenants/{case.tenant}/modules")]
    assert enabled == [case.new if done else case.old]
    assert job["status"] == ("done" if done else "error")
    assert bool(job.get("errors")) is not done
    if cell.moment.fails or cell.migration_fails:
        assert (cell.moment.fails or "Tenant operation failed for module") in job["errors"][0]["message"]


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


async def check_neighbour(neighbour: Writer, cell: Cell, checker: Checker) -> None:
    """Another tenant on the old version had no failed request, as long as its module had its database."""
    await neighbour.stop()
    if not cell.shares_fate:
        assert neighbour.failures == []
    findings = await checker.compare(neighbour.tenant, neighbour.ledger, loans=False)
    assert findings.good, findings.sentences
