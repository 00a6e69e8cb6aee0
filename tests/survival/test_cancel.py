"""Cancel in the Temporal UI is abort, at every moment of a run and of its undo (requirements D2, D3).

The moments are those of the kill matrix. Before the switch everything is undone; once it has begun the new version stays, since
its users write; what is undone already goes on being undone.
"""

import asyncio
import contextlib
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError

from tests.survival.case import DONE, check_data, check_neighbour, check_record, still_written, switched, tenant_of
from tests.survival.leftovers import settled
from tests.survival.moments import MOMENTS, Moment
from tests.survival.platform import PATIENCE
from uplift_cli.demo.check import Checker
from uplift_settings.tree import TemporalSettings
from worker.temporal import connect

_BEFORE_THE_SWITCH = ("acquire", "update", "snapshot", "init", "verify")
_SWITCHING = ("switch", "watch")


def outcomes(moment: Moment) -> tuple[str, ...]:
    """How a run may end that is cancelled there."""
    if moment.fails:
        return ("rolled_back", "aborted")  # and its first error says why it failed
    return ("aborted",) if moment.step in (*_BEFORE_THE_SWITCH, *_SWITCHING) else ("aborted", *DONE)


@pytest.mark.soak
@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.name.replace(" ", "-"))
async def test_a_cancel_is_an_abort(stacks: Any, moment: Moment) -> None:
    platform, neighbour = await stacks.get(0.0)
    platform.broken = True
    async with tenant_of(platform, moment, neighbour) as (case, run):
        checker = Checker(dsn=platform.dsn())
        structure = await checker.structure(case.tenant)
        temporal = await connect(TemporalSettings(address=f"127.0.0.1:{platform.record.ports['temporal']}"))
        async with case.held:
            await asyncio.wait_for(moment.reach(case), PATIENCE)
            ended = (await platform.job(case.tenant, run.job))["complete"]  # old versions retire after their job
            if not ended:
                await _cancel(temporal, run.job, f"{run.job}/1-mod-users")
        job = await platform.until(lambda: platform.job(case.tenant, run.job), lambda row: row["complete"])
        await still_written(case.writer, neighbour)

        assert job["outcome"] in outcomes(moment), job
        await check_record(case, job, error=moment.fails)
        assert switched(job) == (moment.step not in _BEFORE_THE_SWITCH and not moment.fails)
        await check_data(case, job, moment, checker, structure)
        await check_neighbour(neighbour, checker)
        assert case.writer.failures == []
        assert await settled(platform) == []
    platform.broken = False


async def _cancel(temporal: Client, job: str, group: str) -> None:
    """Cancel a job's run, and wait until the run of its group, if it is open, has been told: what is held goes on then."""
    await temporal.get_workflow_handle(job).cancel()
    handle = temporal.get_workflow_handle(group)
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(RPCError):  # it has not begun
            while (await handle.describe()).status is WorkflowExecutionStatus.RUNNING:
                events = (await handle.fetch_history()).events
                if any(event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED for event in events):
                    return
                await asyncio.sleep(0.03)
