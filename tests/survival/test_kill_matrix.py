"""kill -9 of every component at every moment of a run: it ends as it would have, and nothing is left (requirements D2, D3).

`make soak` runs all of it and keeps the table in `docs/reference/survival.md`; a part of it runs in `make test`.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.survival.case import Run, check_data, check_neighbour, check_record, still_written, tenant_of
from tests.survival.leftovers import settled
from tests.survival.matrix import Cell, matrix
from tests.survival.moments import Case
from tests.survival.platform import PATIENCE
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
        await check_record(
            case, job, error=moment.fails or ("Tenant operation failed for module" if cell.migration_fails else "")
        )
        await check_data(case, job, moment, checker, structure)
        await check_neighbour(neighbour, checker, spared=not cell.shares_fate)
        assert await settled(platform) == []
    platform.broken = False


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
