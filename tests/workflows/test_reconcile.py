"""`Reconcile`: two looks, repairs of what both found, a report (requirement D3)."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.service import RPCError

from activities.signatures import Reach, Repaired
from upgrade_core.reconcile import Difference, Found, Kind, Repair, Report, Verb
from upgrade_core.runs import RECONCILE_SCHEDULE, ReconcileRequest
from uplift_settings.tree import ReconcileSettings
from worker.schedules import ensure_schedule
from workflows.reconcile import Reconcile

CLAIM = Difference(
    key="claim:a:j", kind=Kind.CLAIM, message="m", remedy="r", repair=Repair(verb=Verb.GIVE_BACK, job="j", module="a")
)
PROCESS = Difference(
    key="process:here:i", kind=Kind.PROCESS, message="m", remedy="r", node="here",
    repair=Repair(verb=Verb.STOP_PROCESS, node="here", module="b", subject="i", generation="g"),
)  # fmt: skip
HOLD = Difference(key="hold:h", kind=Kind.HOLD, message="m", remedy="r")


async def run(temporal: Client, script: Any, queue: str, new_id: str, **request: Any) -> Report:
    await temporal.execute_workflow(Reconcile.run, ReconcileRequest(**request), id=new_id, task_queue=queue)
    report: Report = script.requests["report"][-1].report
    return report


async def test_it_looks_twice_at_every_node_and_reports(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    report = await run(temporal, script, queue, new_id, request="me")

    assert script.calls == ["reach", "look", "compare", "look", "compare", "report"]
    assert (report.request, report.looked, report.differences, report.repaired) == ("me", ("here",), (), ())
    assert report.started <= report.ended


async def test_it_repairs_what_both_looks_found_where_that_belongs(
    temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    found = Found(differences=(CLAIM, HOLD, PROCESS))
    script.answers["compare"] = [found, found]

    report = await run(temporal, script, queue, new_id)

    assert script.calls[-3:] == ["repair", "repair_on_node", "report"]
    assert (report.differences, report.repaired) == ((HOLD,), (CLAIM, PROCESS))


async def test_what_only_one_look_found_is_left_alone(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    script.answers["compare"] = [Found(differences=(CLAIM,)), Found(differences=(HOLD,))]

    report = await run(temporal, script, queue, new_id)

    assert (report.differences, report.repaired) == ((), ())
    assert "repair" not in script.calls


async def test_a_dry_run_only_tells(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    found = Found(differences=(CLAIM,), more=7)
    script.answers["compare"] = [found, found]

    report = await run(temporal, script, queue, new_id, repair=False)

    assert (report.differences, report.repair, report.more) == ((CLAIM,), False, 7)
    assert "repair" not in script.calls


@pytest.mark.parametrize(("answer", "why"), [(Repaired(done=False, why="needed"), "needed"), (None, "broken")])
async def test_a_repair_that_cannot_be_made_is_told_with_the_reason(
    temporal: Client, script: Any, queue: str, new_id: str, final: Any, answer: Any, why: str
) -> None:
    found = Found(differences=(CLAIM,))
    script.answers |= {"compare": [found, found], "repair": answer or final("broken")}

    report = await run(temporal, script, queue, new_id)

    assert [each.remedy for each in report.differences] == [f"r; not done: {why}"]
    assert report.repaired == ()


async def test_a_node_that_cannot_be_looked_at_is_silent_and_the_others_are_compared(
    temporal: Client, script: Any, queue: str, new_id: str, final: Any
) -> None:
    script.answers |= {"reach": Reach(nodes=("here", "there"), settle=0.0, node_wait=0.5), "look": final("no worker")}
    handle = await temporal.start_workflow(Reconcile.run, ReconcileRequest(), id=new_id, task_queue=queue)
    await handle.result()  # nobody polls for `there`: the look's own time ends it
    report: Report = script.requests["report"][-1].report

    assert (report.looked, report.silent) == ((), ("here", "there"))
    assert {view.node for view in script.requests["compare"][-1].nodes if view.silent} == {"here", "there"}


async def test_a_cancel_ends_it_without_a_report(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    script.answers["reach"] = Reach(nodes=(), settle=3600.0)
    handle = await temporal.start_workflow(Reconcile.run, ReconcileRequest(), id=new_id, task_queue=queue)
    async with asyncio.timeout(20):
        while "compare" not in script.calls:
            await asyncio.sleep(0.02)
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()

    assert "report" not in script.calls


async def test_the_schedule_is_made_changed_and_removed_as_the_settings_say(temporal: Client) -> None:
    handle = temporal.get_schedule_handle(RECONCILE_SCHEDULE)

    await ensure_schedule(temporal, settings=ReconcileSettings(interval=3600), task_queue="nowhere")
    made = (await handle.describe()).schedule
    await handle.pause(note="by an operator")
    await ensure_schedule(temporal, settings=ReconcileSettings(interval=1800, repair=False), task_queue="nowhere")
    changed = (await handle.describe()).schedule
    await ensure_schedule(temporal, settings=ReconcileSettings(interval=0), task_queue="nowhere")
    with pytest.raises(RPCError, match="not found"):
        await handle.describe()

    assert [each.spec.intervals[0].every for each in (made, changed)] == [timedelta(hours=1), timedelta(minutes=30)]
    assert made.policy.catchup_window == timedelta(minutes=1)
    assert (changed.state.paused, changed.state.note) == (True, "by an operator")


async def test_a_schedule_that_is_as_wanted_is_not_written_again(temporal: Client) -> None:
    settings = ReconcileSettings(interval=3600)
    await ensure_schedule(temporal, settings=settings, task_queue="nowhere")
    handle = temporal.get_schedule_handle(RECONCILE_SCHEDULE)
    before = (await handle.describe()).info.last_updated_at

    await ensure_schedule(temporal, settings=settings, task_queue="nowhere")
    after = (await handle.describe()).info.last_updated_at
    await handle.delete()

    assert before == after


async def test_a_schedule_that_was_lost_is_made_again(temporal: Client) -> None:
    settings = ReconcileSettings(interval=3600)
    handle = temporal.get_schedule_handle(RECONCILE_SCHEDULE)
    await ensure_schedule(temporal, settings=settings, task_queue="nowhere")
    await handle.delete()

    await ensure_schedule(temporal, settings=settings, task_queue="nowhere")

    assert (await handle.describe()).schedule.spec.intervals
    await handle.delete()
