"""`GroupChange`: the order of its steps, and its undo at every one of them (requirements D1, D2)."""

import asyncio
import contextlib
from typing import Any

import pytest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError

from activities.signatures import Checked, InitState, UndoResult, Verdict
from upgrade_core.plan import Change, Group, Kind
from upgrade_core.runs import GroupRequest
from workflows.group_change import GroupChange

UPGRADE = Change(kind=Kind.UPGRADE, product="mod-a", bound="mod-a-1.0.0", version_from="mod-a-1.0.0", version_to="mod-a-2.0.0")
DISABLE = Change(kind=Kind.DISABLE, product="mod-a", bound="mod-a-1.0.0", version_from="mod-a-1.0.0")
PURGE = Change(kind=Kind.PURGE, product="mod-a", bound="mod-a-1.0.0", version_from="mod-a-1.0.0")
FORWARD = ["check", "acquire", "update", "snapshot", "init", "verify", "switch", "release"]
UNDO_AT = {
    "check": [],
    "acquire": ["give_back"],
    "update": ["resume_old", "give_back"],
    "snapshot": ["resume_old", "give_back"],
    "init": ["undo_init", "resume_old", "give_back"],
    "verify": ["undo_init", "resume_old", "give_back"],
}


def request(change: Change = UPGRADE) -> GroupRequest:
    return GroupRequest(job="job", tenant="diku", group=Group(key="1-mod-a", changes=(change,)))


async def start(temporal: Client, queue: str, new_id: str, change: Change = UPGRADE) -> Any:
    return await temporal.start_workflow(GroupChange.run, request(change), id=new_id, task_queue=queue)


async def test_an_upgrade_does_its_steps_in_order(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    result = await (await start(temporal, queue, new_id)).result()

    assert script.calls == FORWARD
    assert result.warnings == ()


async def test_what_has_nothing_to_do_is_left_out(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    script.answers["check"] = Checked(needs_instance=False, calls_init=False)
    await (await start(temporal, queue, new_id)).result()

    assert script.calls == ["check", "update", "switch", "release"]


@pytest.mark.parametrize(
    ("change", "steps"),
    [
        (DISABLE, ["check", "update", "init", "switch", "release"]),
        (PURGE, ["check", "acquire", "update", "snapshot", "init", "switch", "release"]),
    ],
)
async def test_disable_and_purge_take_their_own_steps(
    change: Change, steps: list[str], temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    script.answers["check"] = Checked(copies=change.kind is Kind.PURGE, init_module="mod-a-1.0.0")
    await (await start(temporal, queue, new_id, change)).result()

    assert script.calls == steps


@pytest.mark.parametrize("step", list(UNDO_AT))
async def test_a_failure_at_any_step_is_undone_newest_first(
    step: str, temporal: Client, script: Any, queue: str, final: Any, new_id: str
) -> None:
    script.answers[step] = final(f"{step} broke")
    with pytest.raises(WorkflowFailureError) as caught:
        await (await start(temporal, queue, new_id)).result()

    cause = caught.value.cause
    assert isinstance(cause, ApplicationError)
    assert (cause.type, cause.message) == ("RolledBack", f"{step} broke")
    assert script.calls == FORWARD[: FORWARD.index(step) + 1] + UNDO_AT[step]


@pytest.mark.parametrize("step", list(UNDO_AT))
async def test_a_cancel_at_any_step_lets_it_end_and_is_undone(
    step: str, temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    script.block = step
    handle = await start(temporal, queue, new_id)
    await script.blocked.wait()
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    description = await handle.describe()

    assert description.status is WorkflowExecutionStatus.CANCELED
    assert script.calls == FORWARD[: FORWARD.index(step) + 1] + UNDO_AT[step]
    if step != "check":  # a look without effect is not waited for
        assert script.cut == [step]


@pytest.mark.parametrize("step", [step for step in UNDO_AT if step != "check"])
async def test_a_cancel_is_not_lost_when_the_step_completes_all_the_same(
    step: str, temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    script.block, script.deaf = step, True
    handle = await start(temporal, queue, new_id)
    await script.blocked.wait()
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    description = await handle.describe()

    assert description.status is WorkflowExecutionStatus.CANCELED
    assert script.calls == FORWARD[: FORWARD.index(step) + 1] + UNDO_AT[step]


@pytest.mark.parametrize("step", ["undo_init", "resume_old", "give_back"])
async def test_a_cancel_during_the_undo_cuts_nothing(
    step: str, temporal: Client, script: Any, queue: str, final: Any, new_id: str
) -> None:
    """The undo is shielded: it is tried again until it is done."""
    script.answers["verify"] = final("no good")
    script.answers[step] = [ApplicationError("not yet"), UndoResult() if step == "undo_init" else None]
    handle = await start(temporal, queue, new_id)
    while step not in script.calls:
        await _tick()
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()

    undone = [name for name in script.calls if name in UNDO_AT["verify"]]
    twice = [name for name in UNDO_AT["verify"] for _ in range(2 if name == step else 1)]
    assert undone == twice


@pytest.mark.parametrize("step", ["undo_init", "resume_old", "give_back"])
async def test_a_cancel_while_an_undo_is_at_work_does_not_reach_it(
    step: str, temporal: Client, script: Any, queue: str, final: Any, new_id: str
) -> None:
    script.answers["verify"] = final("no good")
    script.pause = step
    handle = await start(temporal, queue, new_id)
    await script.paused.wait()
    await handle.cancel()
    script.go_on.set()
    with pytest.raises(WorkflowFailureError):
        await handle.result()

    assert script.cut == []
    assert [name for name in script.calls if name in UNDO_AT["verify"]] == UNDO_AT["verify"]


@pytest.mark.parametrize("told", [False, True], ids=["while people are told of it", "when they were told of it"])
async def test_a_cancel_at_a_hold_point_of_init_is_undone_and_leaves_nothing_to_decide(
    temporal: Client, script: Any, queue: str, new_id: str, told: bool
) -> None:
    script.answers["init"] = InitState(effect="unknown", errors=("who knows",))
    script.pause = "undo_init"
    if not told:
        script.block = "set_phase"
    handle = await start(temporal, queue, new_id)
    if not told:
        await script.blocked.wait()
    while not (await handle.query(GroupChange.hold_point)).why or (
        told and (await handle.describe()).raw_description.pending_activities
    ):
        await _tick()
    await handle.cancel()
    await script.paused.wait()
    with pytest.raises(WorkflowUpdateFailedError):
        await handle.execute_update(GroupChange.resolve, "retry")
    script.go_on.set()
    with pytest.raises(WorkflowFailureError):
        await handle.result()

    assert (await handle.describe()).status is WorkflowExecutionStatus.CANCELED
    assert script.calls[-3:] == UNDO_AT["init"]


async def test_a_cancel_at_a_hold_point_of_the_undo_leaves_it_to_the_person(
    temporal: Client, script: Any, queue: str, final: Any, new_id: str
) -> None:
    script.answers["verify"] = final("no good")
    script.answers["undo_init"] = UndoResult(done=False, left=("schema s is half changed",))
    handle = await start(temporal, queue, new_id)
    while not (await handle.query(GroupChange.hold_point)).why:
        await _tick()
    await handle.cancel()
    await _resolve(handle, "skip")
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()

    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == "RollbackFailed"
    assert script.calls[-2:] == ["resume_old", "give_back"]


@pytest.mark.parametrize(("decision", "phase"), [("retry", "migrating"), ("skip", "undoing")])
async def test_after_a_decision_the_job_says_what_it_does_now(
    decision: str, phase: str, temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    script.answers["init"] = [InitState(effect="unknown", errors=("who knows",)), InitState(effect="done")]
    handle = await start(temporal, queue, new_id)
    await _resolve(handle, decision)
    with contextlib.suppress(WorkflowFailureError):
        await handle.result()

    assert [request.phase for request in script.requests["set_phase"]][:2] == ["needs_operator", phase]


async def test_a_cancel_during_the_switch_comes_too_late(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    """After the switch nothing restores by itself: users have written."""
    script.answers["switch"] = [ApplicationError("the gateway restarts"), ApplicationError("again"), None]
    handle = await start(temporal, queue, new_id)
    while "switch" not in script.calls:
        await _tick()
    await handle.cancel()
    with contextlib.suppress(WorkflowFailureError):
        await handle.result()

    assert not set(script.calls) & {"undo_init", "resume_old", "give_back"}
    assert script.calls.count("switch") == 3


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (InitState(effect="refused", errors=("from 1 to 2?",)), "TenantInitRefused"),
        (InitState(effect="failed", errors=("disk full",)), "TenantInitFailed"),
    ],
)
async def test_a_refused_or_failed_init_is_undone_and_told(
    state: InitState, kind: str, temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    """Requirement B2."""
    script.answers["init"] = state
    with pytest.raises(WorkflowFailureError) as caught:
        await (await start(temporal, queue, new_id)).result()

    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.message == state.errors[0]
    assert caught.value.cause.details[1] == kind
    assert script.calls[-3:] == ["undo_init", "resume_old", "give_back"]


async def test_a_job_is_followed(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    script.answers["init"] = InitState(effect="follow", job_path="/_/tenant/7")
    await (await start(temporal, queue, new_id)).result()

    assert script.calls[4:6] == ["init", "follow"]
    assert script.requests["follow"][0].state.job_path == "/_/tenant/7"


async def test_failed_checks_are_undone_and_named(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    script.answers["verify"] = Verdict(failures=("GET /a: 500", "GET /b: 404"))
    with pytest.raises(WorkflowFailureError) as caught:
        await (await start(temporal, queue, new_id)).result()

    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.message == "GET /a: 500; GET /b: 404"


async def test_an_unknown_init_waits_for_a_person_who_lets_it_be_asked_again(
    temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    script.answers["init"] = [InitState(effect="unknown", errors=("who knows",), asked=2), InitState(effect="done")]
    handle = await start(temporal, queue, new_id)
    answer = await _resolve(handle, "retry")
    await handle.result()

    assert answer == "retry: who knows"
    assert script.calls.count("init") == 2
    first, second = script.requests["init"]
    assert (second.key, first.asks, second.asks) == (first.key, 1, 3)
    assert "undo_init" not in script.calls


async def test_a_decision_without_a_hold_point_is_refused(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    script.block = "init"
    handle = await start(temporal, queue, new_id)
    await script.blocked.wait()
    with pytest.raises(WorkflowUpdateFailedError):
        await handle.execute_update(GroupChange.resolve, "retry")
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()


async def test_what_a_person_leaves_undone_is_told_as_a_failed_rollback(
    temporal: Client, script: Any, queue: str, final: Any, new_id: str
) -> None:
    script.answers["verify"] = final("no good")
    script.answers["undo_init"] = UndoResult(done=False, left=("schema s is half changed",))
    handle = await start(temporal, queue, new_id)
    await _resolve(handle, "skip")
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()

    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == "RollbackFailed"
    assert caught.value.cause.details[0] == ["schema s is half changed"]
    assert script.calls[-2:] == ["resume_old", "give_back"]


async def test_a_person_who_says_retry_lets_the_module_be_asked_to_take_it_back_once_more(
    temporal: Client, script: Any, queue: str, final: Any, new_id: str
) -> None:
    script.answers["verify"] = final("no good")
    script.answers["undo_init"] = [UndoResult(done=False, left=("it broke off",), asked=2), UndoResult()]
    handle = await start(temporal, queue, new_id)
    await _resolve(handle, "retry")
    with pytest.raises(WorkflowFailureError):
        await handle.result()

    assert [request.asks for request in script.requests["undo_init"]] == [1, 3]


async def test_soak_is_waited_for_after_the_switch(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    script.answers["check"] = Checked(soak=0.2)
    handle = await start(temporal, queue, new_id)
    await handle.result()

    assert await _soaks(handle)
    assert script.calls[-2:] == ["switch", "release"]


async def _resolve(handle: Any, decision: str) -> str:
    while True:
        try:
            return str(await handle.execute_update(GroupChange.resolve, decision))
        except WorkflowUpdateFailedError:
            await _tick()


async def _tick() -> None:
    await asyncio.sleep(0.02)


async def test_an_abort_while_the_new_version_is_watched_keeps_it(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    """After the switch users have written: nothing is undone, and the claims are given back all the same."""
    script.answers["check"] = Checked(soak=3600)
    handle = await start(temporal, queue, new_id)
    while not await _soaks(handle):
        await _tick()
    await handle.cancel()
    result = await handle.result()

    assert script.calls[-2:] == ["switch", "release"]
    assert "stays" in result.warnings[0]


@pytest.mark.parametrize("soak", [0, 3600])
async def test_an_abort_while_it_switches_keeps_the_new_version_and_ends_its_watch(
    soak: float, temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    """The switch is not cut, and the cancel that it did not see is not forgotten: nobody waits for the soak."""
    script.answers["check"] = Checked(soak=soak)
    script.pause = "switch"
    handle = await start(temporal, queue, new_id)
    await script.paused.wait()
    await handle.cancel()
    script.go_on.set()
    result = await handle.result()

    assert script.cut == []
    assert script.calls[-2:] == ["switch", "release"]
    assert "stays" in result.warnings[0]
    assert not await _soaks(handle)


async def _soaks(handle: Any) -> bool:
    return any([event.HasField("timer_started_event_attributes") async for event in handle.fetch_history_events()])
