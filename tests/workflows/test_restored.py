"""Runs on a database that is not the one they worked on: a hold point at every step, and nothing blind (requirement D3)."""

import asyncio
from typing import Any

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError

from activities.signatures import Begun, Checked, InitState
from upgrade_core.known import Fact, FactKind
from upgrade_core.plan import Change, Group, Kind, Plan
from upgrade_core.runs import DATABASE_DIFFERS, GroupRequest, TenantJobRequest
from workflows.group_change import GroupChange
from workflows.tenant_job import TenantJob

UPGRADE = Change(kind=Kind.UPGRADE, product="mod-a", bound="mod-a-1.0.0", version_from="mod-a-1.0.0", version_to="mod-a-2.0.0")
OTHER = Change(kind=Kind.INSTALL, product="mod-b", version_to="mod-b-1.0.0")
FORWARD = ["check", "acquire", "update", "snapshot", "init", "verify", "switch", "release"]
TOLD = FORWARD[1:]
UNDO = ["undo_init", "resume_old", "give_back"]
PLAN = Fact(kind=FactKind.PLAN, key="digest", about="diku")
HOLD = "job:mod-a:1-mod-a"
INTENT = "job:mod-a:init"


@pytest.fixture
def differs(final: Any) -> ApplicationError:
    """What a step fails with where the gateway answers 412."""
    return final("no hold stands", DATABASE_DIFFERS)


async def group(temporal: Client, queue: str, new_id: str) -> Any:
    request = GroupRequest(job="job", tenant="diku", group=Group(key="1-mod-a", changes=(UPGRADE,)), known=(PLAN,))
    return await temporal.start_workflow(GroupChange.run, request, id=new_id, task_queue=queue)


async def job(temporal: Client, queue: str, new_id: str, script: Any, **begun: Any) -> Any:
    groups = (Group(key="1-mod-a", changes=(UPGRADE,)), Group(key="2-mod-b", changes=(OTHER,)))
    script.answers["begin"] = Begun(tenant="diku", plan=Plan(digest="digest", groups=groups), **begun)
    return await temporal.start_workflow(TenantJob.run, TenantJobRequest(job=new_id, tenant="diku"), id=new_id, task_queue=queue)


@pytest.mark.parametrize("step", TOLD)
async def test_a_step_that_the_database_does_not_know_waits_and_is_tried_again(
    step: str, differs: ApplicationError, temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    script.answers[step] = [differs]
    handle = await group(temporal, queue, new_id)
    answer = await resolve(handle, "retry")
    await handle.result()

    assert "no hold stands" in answer
    assert script.calls == sorted([*FORWARD, step], key=FORWARD.index)


@pytest.mark.parametrize("step", TOLD)
async def test_skip_ends_the_run_and_touches_nothing_more(
    step: str, differs: ApplicationError, temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    script.answers[step] = differs
    handle = await group(temporal, queue, new_id)
    await resolve(handle, "skip")
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()

    assert isinstance(caught.value.cause, ApplicationError)
    assert (caught.value.cause.type, caught.value.cause.details[1]) == ("RollbackFailed", DATABASE_DIFFERS)
    assert script.calls == FORWARD[: FORWARD.index(step) + 1]


async def test_skip_lists_what_is_not_undone(
    differs: ApplicationError, temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    script.answers["verify"] = differs
    handle = await group(temporal, queue, new_id)
    await resolve(handle, "skip")
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()

    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.message.startswith("no hold stands")
    assert caught.value.cause.details[0] == [
        "undo init of mod-a-2.0.0 (module)", "RESUME on the old version", "give mod-a-2.0.0 back",
    ]  # fmt: skip


@pytest.mark.parametrize("step", UNDO)
async def test_an_undo_waits_at_each_of_its_steps(
    step: str, differs: ApplicationError, temporal: Client, script: Any, queue: str, final: Any, new_id: str
) -> None:
    script.answers["verify"] = final("no good")
    script.answers[step] = [differs]
    handle = await group(temporal, queue, new_id)
    await resolve(handle, "retry")
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()

    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.message == "no good"
    assert script.calls[6:] == sorted([*UNDO, step], key=UNDO.index)


async def test_an_undo_that_is_skipped_goes_no_further(
    differs: ApplicationError, temporal: Client, script: Any, queue: str, final: Any, new_id: str
) -> None:
    script.answers["verify"] = final("no good")
    script.answers["undo_init"] = differs
    handle = await group(temporal, queue, new_id)
    await resolve(handle, "skip")
    with pytest.raises(WorkflowFailureError):
        await handle.result()

    assert script.calls[-1] == "undo_init"


async def test_a_cancel_at_the_hold_point_undoes_nothing_before_a_person_decides(
    differs: ApplicationError, temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    script.answers["init"] = [differs]
    handle = await group(temporal, queue, new_id)
    await until(lambda: "set_phase" in script.requests)
    await handle.cancel()
    before = list(script.calls)
    await resolve(handle, "retry")
    with pytest.raises(WorkflowFailureError):
        await handle.result()

    assert before == ["check", "acquire", "update", "snapshot", "init"]
    assert script.calls[5:] == UNDO


async def test_a_hold_point_is_there_although_the_job_has_no_record(
    differs: ApplicationError, temporal: Client, script: Any, queue: str, final: Any, new_id: str
) -> None:
    script.answers["init"] = [differs]
    script.answers["set_phase"] = [final("no job", "GatewayRefused")]
    handle = await group(temporal, queue, new_id)
    await resolve(handle, "retry")
    await handle.result()

    assert script.calls[-1] == "release"


async def test_each_step_is_told_what_the_steps_before_it_did(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    await (await group(temporal, queue, new_id)).result()
    kinds = {step: [fact.kind.value for fact in script.requests[step][0].known] for step in TOLD}

    held = ["plan", "claim", "held", "copy"]
    assert kinds == {
        "acquire": ["plan"],
        "update": ["plan", "claim"],
        "snapshot": ["plan", "claim", "held"],
        "init": held,
        "verify": [*held, "intent", "init-ended"],
        "switch": ["plan", "claim", "may-be-open", "copy", "intent", "init-ended"],
        "release": ["plan", "opened", "bound"],
    }


async def test_following_knows_that_init_was_asked_for(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    script.answers["init"] = InitState(effect="follow", job_path="/_/tenant/7")
    await (await group(temporal, queue, new_id)).result()

    assert Fact(kind=FactKind.INTENT, key=INTENT, about="mod-a") in script.requests["follow"][0].step.known


async def test_an_undo_gives_its_knowledge_back_step_by_step(
    temporal: Client, script: Any, queue: str, final: Any, new_id: str
) -> None:
    script.answers["verify"] = final("no good")
    with pytest.raises(WorkflowFailureError):
        await (await group(temporal, queue, new_id)).result()
    kinds = {step: [fact.kind.value for fact in script.requests[step][0].known] for step in UNDO}

    assert kinds == {
        "undo_init": ["plan", "claim", "held", "copy", "intent", "init-ended"],
        "resume_old": ["plan", "claim", "may-be-open", "copy", "intent", "init-ended"],
        "give_back": ["plan", "opened", "copy", "intent", "init-ended"],
    }


async def test_later_groups_and_the_end_know_what_earlier_groups_opened(
    temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    script.answers["check"] = Checked(calls_init=False)
    await (await job(temporal, queue, new_id, script)).result()
    second = script.requests["acquire"][1].known
    end = script.requests["finish"][0].known

    assert second == (PLAN, Fact(kind=FactKind.OPENED, key=f"{new_id}:mod-a:1-mod-a", about="mod-a"))
    assert end == (PLAN, Fact(kind=FactKind.OPENED, key=f"{new_id}:mod-b:2-mod-b", about="mod-b"))


@pytest.mark.parametrize("ignore_errors", [False, True])
async def test_a_job_begins_no_group_after_one_was_let_be(
    ignore_errors: bool, differs: ApplicationError, temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    script.answers["init"] = differs
    handle = await job(temporal, queue, new_id, script, ignore_errors=ignore_errors)
    await until(lambda: "set_phase" in script.requests)
    await resolve(temporal.get_workflow_handle(f"{new_id}/1-mod-a"), "skip")
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    (end,) = script.requests["finish"]

    assert script.calls[-2:] == ["init", "finish"]
    assert (end.outcome, end.errors[0].type, end.known) == ("rollback_failed", DATABASE_DIFFERS, ())


async def test_a_job_is_not_ended_on_another_database(
    differs: ApplicationError, temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    script.answers["finish"] = [differs]
    handle = await job(temporal, queue, new_id, script)
    await until(lambda: "finish" in script.calls)
    answer = await resolve(handle, "retry")

    assert await handle.result() == "done"
    assert "no hold stands" in answer


async def test_a_job_that_is_let_be_ends_as_an_error(
    differs: ApplicationError, temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    script.answers["finish"] = [differs]
    handle = await job(temporal, queue, new_id, script)
    await until(lambda: "finish" in script.calls)
    await resolve(handle, "skip")
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    end = script.requests["finish"][-1]

    assert (end.outcome, end.errors[0].type, end.known) == ("failed", DATABASE_DIFFERS, ())


async def resolve(handle: Any, decision: str) -> str:
    async with asyncio.timeout(30):
        while True:
            try:
                return str(await handle.execute_update("resolve", decision))
            except WorkflowUpdateFailedError:
                await asyncio.sleep(0.02)


async def until(fact: Any) -> None:
    async with asyncio.timeout(30):
        while not fact():
            await asyncio.sleep(0.02)
