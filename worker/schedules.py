"""The schedule of reconcile runs: made, kept as the settings say, and made again when Temporal's history was lost."""

import logging
from datetime import timedelta

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleDescription,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError, RPCStatusCode

from upgrade_core.runs import RECONCILE, RECONCILE_RUN, RECONCILE_SCHEDULE, ReconcileRequest
from uplift_settings.tree import ReconcileSettings

_log = logging.getLogger(__name__)
_CATCH_UP = timedelta(minutes=1)
"""Runs that were missed for longer are not made up for; Temporal's own default is a year."""
LOOK_EVERY = 60.0
"""Seconds between looks at the schedule; it is changed by settings, and lost with Temporal's history."""
_RPC = timedelta(seconds=5)


async def ensure_schedule(client: Client, *, settings: ReconcileSettings, task_queue: str) -> None:
    """Make the schedule as the settings say. What operators set, a pause and its note, stays.

    Raises:
        RPCError: Temporal is away or refuses.
    """
    handle = client.get_schedule_handle(RECONCILE_SCHEDULE)
    try:
        description = await handle.describe(rpc_timeout=_RPC)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        description = None
    if settings.interval <= 0:
        if description is not None:
            await handle.delete(rpc_timeout=_RPC)
            _log.info("schedule %s is removed (reconcile.interval is 0)", RECONCILE_SCHEDULE)
        return
    wanted = _schedule(settings, task_queue)
    if description is None:
        try:
            await client.create_schedule(RECONCILE_SCHEDULE, wanted, rpc_timeout=_RPC)
        except ScheduleAlreadyRunningError:  # another worker's, a moment ago
            return
        _log.info("schedule %s is made: every %g s", RECONCILE_SCHEDULE, settings.interval)
    elif not await _is_as(description, wanted):

        def update(given: ScheduleUpdateInput) -> ScheduleUpdate:
            wanted.state = given.description.schedule.state
            return ScheduleUpdate(schedule=wanted)

        await handle.update(update, rpc_timeout=_RPC)
        _log.info("schedule %s is changed: every %g s", RECONCILE_SCHEDULE, settings.interval)


def _schedule(settings: ReconcileSettings, task_queue: str) -> Schedule:
    return Schedule(
        action=ScheduleActionStartWorkflow(
            RECONCILE,
            ReconcileRequest(repair=settings.repair),
            id=RECONCILE_RUN,
            task_queue=task_queue,
            static_summary="reconcile, by schedule",
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(seconds=settings.interval))]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=_CATCH_UP),
    )


async def _is_as(found: ScheduleDescription, wanted: Schedule) -> bool:
    action, mine = found.schedule.action, wanted.action
    if not isinstance(action, ScheduleActionStartWorkflow) or not isinstance(mine, ScheduleActionStartWorkflow):
        return False
    arguments = await found.data_converter.decode(list(action.args), [ReconcileRequest])
    return (action.workflow, action.id, action.task_queue, arguments) == (
        mine.workflow,
        mine.id,
        mine.task_queue,
        list(mine.args),
    ) and (
        found.schedule.spec.intervals,
        found.schedule.policy.overlap,
        found.schedule.policy.catchup_window,
    ) == (wanted.spec.intervals, wanted.policy.overlap, wanted.policy.catchup_window)
