"""`ResolveJob`: what a lost run left held goes back to the old version or on to the new one (requirements D2, D3)."""

import asyncio
from typing import Any

import pytest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError

from activities.signatures import Begun, Checked, FinishStep, Told, UndoResult
from upgrade_core.descriptors import Undo
from upgrade_core.plan import Change, Group, Kind, Plan
from upgrade_core.runs import ResolveRequest
from workflows.resolve_job import ResolveJob


def group(number: int, product: str, kind: Kind = Kind.UPGRADE) -> Group:
    old, new = f"{product}-1.0.0", f"{product}-2.0.0" if kind is Kind.UPGRADE else None
    change = Change(kind=kind, product=product, bound=old, version_from=old, version_to=new)
    return Group(key=f"{number}-{product}", changes=(change,))


def begun(*groups: Group) -> Begun:
    return Begun(tenant="diku", plan=Plan(digest="d", groups=groups), parameters=(("loud", None),))


async def start(temporal: Client, queue: str, new_id: str, decision: str, *groups: str) -> Any:
    request = ResolveRequest(job="job", tenant="diku", decision=decision, groups=groups or ("1-a",), let_go=0)
    return await temporal.start_workflow(ResolveJob.run, request, id=new_id, task_queue=queue)


def finish_of(script: Any) -> FinishStep:
    (finished,) = script.requests["finish"]
    return finished  # type: ignore[no-any-return]


def phases(script: Any) -> list[str]:
    return [request.phase for request in script.requests["set_phase"]]


@pytest.fixture(autouse=True)
def one_group(script: Any) -> None:
    script.answers["begin"] = begun(group(1, "a"))


async def test_old_does_what_the_undo_would_have_done(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    outcome = await (await start(temporal, queue, new_id, "old")).result()

    assert script.calls == ["begin", "recall", "undo_init", "resume_old", "give_back", "finish"]
    assert outcome == "rolled_back"
    assert finish_of(script) == FinishStep(job="job", outcome="rolled_back")


async def test_the_undo_is_the_one_of_the_lost_run_by_its_key(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    await (await start(temporal, queue, new_id, "old")).result()

    (undo,) = script.requests["undo_init"]
    assert (undo.job, undo.group, undo.key, undo.parameters) == ("job", "1-a", "job:a:init", (("loud", None),))
    assert undo.checked.copies


async def test_new_switches_after_making_sure_that_nothing_migrates(
    temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    outcome = await (await start(temporal, queue, new_id, "new")).result()

    assert script.calls == ["begin", "recall", "acquire", "settle", "switch", "release", "finish"]
    assert outcome == "done_with_warnings"


@pytest.mark.parametrize(
    ("decision", "kind", "steps"),
    [
        ("old", Kind.DISABLE, ["recall", "undo_init", "resume_old"]),
        ("new", Kind.DISABLE, ["recall", "settle", "switch", "release"]),
        ("old", Kind.PURGE, ["recall", "undo_init", "resume_old", "give_back"]),
        ("new", Kind.PURGE, ["recall", "acquire", "settle", "switch", "release"]),
    ],
)
async def test_what_has_no_new_version_claims_none(
    decision: str, kind: Kind, steps: list[str], temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    script.answers["begin"] = begun(group(1, "a", kind))
    await (await start(temporal, queue, new_id, decision)).result()

    assert script.calls == ["begin", *steps, "finish"]


@pytest.mark.parametrize(("decision", "step"), [("old", "undo_init"), ("new", "settle")])
async def test_an_init_that_is_not_called_is_neither_undone_nor_settled(
    decision: str, step: str, temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    script.answers["recall"] = Checked(calls_init=False)
    await (await start(temporal, queue, new_id, decision)).result()

    assert step not in script.calls


@pytest.mark.parametrize("there", [True, False])
async def test_a_module_that_takes_its_own_migration_back_is_there_again_if_it_can_be(
    there: bool, temporal: Client, script: Any, queue: str, final: Any, new_id: str
) -> None:
    script.answers["recall"] = Checked(undo=Undo.REVERSIBLE)
    if not there:
        script.answers["acquire"] = final("cannot deploy a-2.0.0", "DeployFailed")
    await (await start(temporal, queue, new_id, "old")).result()

    assert script.calls == ["begin", "recall", "acquire", "undo_init", "resume_old", "give_back", "finish"]
    assert [warning.message for warning in finish_of(script).warnings] == ([] if there else ["a-2.0.0: cannot deploy a-2.0.0"])


async def test_a_record_that_cannot_be_told_the_phase_stops_nothing(
    temporal: Client, script: Any, queue: str, final: Any, new_id: str
) -> None:
    script.answers["set_phase"] = final("no such job")
    assert await (await start(temporal, queue, new_id, "old")).result() == "rolled_back"


async def test_groups_are_taken_back_last_first_and_only_those_that_are_held(
    temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    """What is not held any more was switched or undone: its data is in use and is not touched; its claim is given back."""
    script.answers["begin"] = begun(group(1, "a"), group(2, "b"), group(3, "c"))
    await (await start(temporal, queue, new_id, "old", "1-a", "3-c")).result()

    assert [request.group for request in script.requests["resume_old"]] == ["3-c", "1-a"]
    assert [request.group for request in script.requests["undo_init"]] == ["3-c", "1-a"]
    assert [request.group for request in script.requests["give_back"]] == ["3-c", "1-a", "2-b"]


async def test_new_versions_are_opened_in_the_order_of_the_plan(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    script.answers["begin"] = begun(group(1, "a"), group(2, "b"))
    await (await start(temporal, queue, new_id, "new", "1-a", "2-b")).result()

    assert [request.group for request in script.requests["switch"]] == ["1-a", "2-b"]


async def test_what_cannot_be_undone_waits_for_a_person_who_has_it_tried_again(
    temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    script.answers["undo_init"] = [UndoResult(done=False, left=("it may still be migrating",)), UndoResult()]
    handle = await start(temporal, queue, new_id, "old")
    answer = await resolve(handle, "retry")

    assert (answer, await handle.result()) == ("retry: it may still be migrating", "rolled_back")
    assert phases(script) == ["resolving", "needs_operator", "undoing"]


async def test_a_person_is_told_why_by_a_query(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    script.answers["undo_init"] = [UndoResult(done=False, left=("it may still be migrating",)), UndoResult()]
    handle = await start(temporal, queue, new_id, "old")
    while not (found := await handle.query(ResolveJob.hold_point)).why:
        await tick()
    await resolve(handle, "retry")
    await handle.result()

    assert found.why == "it may still be migrating"
    assert (await handle.query(ResolveJob.hold_point)).why == ""


async def test_what_a_person_leaves_undone_is_told_as_a_failed_rollback(
    temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    script.answers["undo_init"] = UndoResult(done=False, left=("schema s is half changed",))
    handle = await start(temporal, queue, new_id, "old")
    await resolve(handle, "skip")
    with pytest.raises(WorkflowFailureError):
        await handle.result()

    assert script.calls[-3:] == ["resume_old", "give_back", "finish"]
    assert finish_of(script).outcome == "rollback_failed"
    assert finish_of(script).errors == (Told(message="schema s is half changed", type="Left", code="rollback_failed"),)


async def test_a_switch_waits_for_a_person_while_something_may_migrate(
    temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    script.answers["settle"] = UndoResult(done=False, left=("it may still be migrating",))
    handle = await start(temporal, queue, new_id, "new")
    while "needs_operator" not in phases_so_far(script):
        await tick()
    before = list(script.calls)
    await resolve(handle, "skip")
    await handle.result()

    assert "switch" not in before
    assert finish_of(script).warnings == (Told(message="it may still be migrating", type="Warning"),)


async def test_an_abort_ends_with_the_group_that_is_at_work(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    """A group is settled whole; the ones after it stay held, which the gateway says."""
    script.answers["begin"] = begun(group(1, "a"), group(2, "b"))
    script.answers["undo_init"] = [ApplicationError("not yet"), UndoResult()]
    handle = await start(temporal, queue, new_id, "old", "1-a", "2-b")
    while "undo_init" not in script.calls:
        await tick()
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()

    assert (await handle.describe()).status is WorkflowExecutionStatus.CANCELED
    assert [request.group for request in script.requests["resume_old"]] == ["2-b"]
    assert finish_of(script).outcome == "aborted"


async def test_a_step_that_fails_for_good_ends_the_job_with_its_reason(
    temporal: Client, script: Any, queue: str, final: Any, new_id: str
) -> None:
    """Nothing is opened: the gateway finds the hold that stands, and a person decides anew."""
    script.answers["acquire"] = final("cannot deploy a-2.0.0", "DeployFailed")
    with pytest.raises(WorkflowFailureError):
        await (await start(temporal, queue, new_id, "new")).result()

    assert "switch" not in script.calls
    assert finish_of(script).errors == (Told(message="cannot deploy a-2.0.0", type="DeployFailed", code="failed"),)


async def resolve(handle: Any, decision: str) -> str:
    while True:
        try:
            return str(await handle.execute_update(ResolveJob.resolve, decision))
        except WorkflowUpdateFailedError:
            await tick()


def phases_so_far(script: Any) -> list[str]:
    return [request.phase for request in script.requests.get("set_phase", [])]


async def tick() -> None:
    await asyncio.sleep(0.02)
