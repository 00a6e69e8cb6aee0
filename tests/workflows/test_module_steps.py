"""Prechecks before the hold, and post steps after the last switch of a job."""

import asyncio
from typing import Any

import pytest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ApplicationError

from activities.signatures import Begun, Checked, ModuleStepState
from upgrade_core.module_steps import StepEffect, StepKind
from upgrade_core.plan import Change, Group, Kind, Plan
from upgrade_core.runs import GroupRequest, ResolveRequest, TenantJobRequest
from workflows.group_change import GroupChange
from workflows.resolve_job import ResolveJob
from workflows.tenant_job import TenantJob

PLAIN = ModuleStepState(effect=StepEffect.DONE)


def bad(*errors: str) -> ModuleStepState:
    return ModuleStepState(effect=StepEffect.FAILED, errors=errors)


def change(product: str) -> Change:
    one, two = f"{product}-1.0.0", f"{product}-2.0.0"
    return Change(kind=Kind.UPGRADE, product=product, bound=one, version_from=one, version_to=two)


async def group(temporal: Client, queue: str, new_id: str, *products: str) -> Any:
    changes = tuple(change(product) for product in products)
    request = GroupRequest(job="job", tenant="diku", group=Group(key="1-g", changes=changes))
    return await temporal.start_workflow(GroupChange.run, request, id=new_id, task_queue=queue)


async def job(temporal: Client, queue: str, new_id: str, script: Any, *products: str, **options: Any) -> Any:
    groups = tuple(Group(key=f"{place}-{product}", changes=(change(product),)) for place, product in enumerate(products, 1))
    script.answers["begin"] = Begun(tenant="diku", plan=Plan(digest="d", groups=groups), **options)
    return await temporal.start_workflow(TenantJob.run, TenantJobRequest(job=new_id, tenant="diku"), id=new_id, task_queue=queue)


def steps(script: Any, kind: StepKind) -> list[tuple[str, int]]:
    return [(request.module, request.index) for request in script.requests.get(kind, [])]


def warnings(script: Any) -> list[tuple[str, str]]:
    return [(told.code, told.message) for told in script.requests["finish"][-1].warnings]


async def test_prechecks_are_done_on_what_is_deployed_before_anybody_is_held(
    temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    script.answers["check"] = Checked(calls_init=False, prechecks=2)
    await (await group(temporal, queue, new_id, "mod-a")).result()

    assert script.calls == ["check", "acquire", "precheck", "precheck", "close", "update", "switch", "release"]
    assert steps(script, StepKind.PRECHECK) == [("mod-a-2.0.0", 0), ("mod-a-2.0.0", 1)]
    assert {request.bound for request in script.requests["precheck"]} == {"mod-a-1.0.0"}


async def test_a_precheck_that_fails_refuses_the_change_and_nobody_was_held(
    temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    """All that speaks against it is told at once."""
    script.answers["check"] = Checked(prechecks=2)
    script.answers["precheck"] = [bad("GET /d: 3 duplicates"), PLAIN, PLAIN, bad("GET /e: full")]
    with pytest.raises(WorkflowFailureError) as caught:
        await (await group(temporal, queue, new_id, "mod-a", "mod-b")).result()

    assert isinstance(caught.value.cause, ApplicationError)
    assert (
        caught.value.cause.message == "precheck 1 of mod-a-2.0.0: GET /d: 3 duplicates; precheck 2 of mod-b-2.0.0: GET /e: full"
    )
    assert caught.value.cause.details[1] == "PrecheckFailed"
    assert not {"update", "resume_old"} & set(script.calls)
    assert script.calls[-3:] == ["close", "give_back", "give_back"]


async def test_the_job_of_a_precheck_is_followed_and_its_warnings_are_kept(
    temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    script.answers["check"] = Checked(calls_init=False, prechecks=1)
    script.answers["precheck"] = ModuleStepState(effect=StepEffect.FOLLOW, job_path="/d/7", warnings=("slow",))
    script.answers["follow_precheck"] = ModuleStepState(effect=StepEffect.DONE, warnings=("slow", "odd"))
    result = await (await group(temporal, queue, new_id, "mod-a")).result()

    assert script.requests["follow_precheck"][0].state.job_path == "/d/7"
    assert result.warnings == ("slow", "odd")


async def test_a_cancel_at_a_precheck_is_undone(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    script.answers["check"] = Checked(prechecks=1)
    script.block = "precheck"
    handle = await group(temporal, queue, new_id, "mod-a")
    await script.blocked.wait()
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()

    assert (await handle.describe()).status is WorkflowExecutionStatus.CANCELED
    assert script.calls == ["check", "acquire", "precheck", "close", "give_back"]


async def test_what_the_prechecks_went_through_is_closed_once(
    temporal: Client, script: Any, queue: str, final: Any, new_id: str
) -> None:
    script.answers["check"] = Checked(prechecks=1)
    script.answers["update"] = final("no")
    with pytest.raises(WorkflowFailureError):
        await (await group(temporal, queue, new_id, "mod-a")).result()

    assert script.calls == ["check", "acquire", "precheck", "close", "update", "resume_old", "give_back"]


async def test_post_steps_are_done_when_everything_is_switched_and_released(
    temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    """A reindex keeps no users, no old version and no other group waiting, and meets no hold of the job."""
    script.answers["check"] = Checked(calls_init=False, post_steps=2)
    handle = await job(temporal, queue, new_id, script, "mod-a", "mod-b")
    assert await handle.result() == "done"

    assert script.calls[-6:] == ["release", "post_step", "post_step", "post_step", "post_step", "finish"]
    assert steps(script, StepKind.POST_STEP) == [(f"mod-{p}-2.0.0", n) for p in "ab" for n in range(2)]
    assert [request.phase for request in script.requests["set_phase"]] == ["post_steps"]


async def test_a_post_step_that_fails_is_a_warning_and_never_an_undo(
    temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    """What stands behind it in the list may rely on it, and is not done; other modules are not concerned."""
    script.answers["check"] = Checked(calls_init=False, post_steps=2)
    script.answers["post_step"] = [bad("POST /r: disk full"), PLAIN, PLAIN]
    handle = await job(temporal, queue, new_id, script, "mod-a", "mod-b")
    assert await handle.result() == "done_with_warnings"

    text = "post step 1 of mod-a-2.0.0: POST /r: disk full; 1 more of its post steps not done"
    assert warnings(script) == [("mod-a", text)]
    assert steps(script, StepKind.POST_STEP) == [("mod-a-2.0.0", 0), ("mod-b-2.0.0", 0), ("mod-b-2.0.0", 1)]
    assert not {"undo_init", "resume_old", "give_back"} & set(script.calls)


async def test_a_post_step_that_breaks_is_a_warning_too(
    temporal: Client, script: Any, queue: str, final: Any, new_id: str
) -> None:
    script.answers["check"] = Checked(calls_init=False, post_steps=1)
    script.answers["post_step"] = final("the module is not registered any more")
    handle = await job(temporal, queue, new_id, script, "mod-a")
    assert await handle.result() == "done_with_warnings"

    assert warnings(script) == [("mod-a", "post step 1 of mod-a-2.0.0: the module is not registered any more")]


async def test_the_job_of_a_post_step_is_followed(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    script.answers["check"] = Checked(calls_init=False, post_steps=1)
    script.answers["post_step"] = ModuleStepState(effect=StepEffect.FOLLOW, job_path="/r/7")
    script.answers["follow_post_step"] = bad("POST /r: lost")
    handle = await job(temporal, queue, new_id, script, "mod-a")
    await handle.result()

    assert script.requests["follow_post_step"][0].state.job_path == "/r/7"
    assert warnings(script) == [("mod-a", "post step 1 of mod-a-2.0.0: POST /r: lost")]


async def test_what_was_switched_gets_its_post_steps_although_a_later_group_failed(
    temporal: Client, script: Any, queue: str, final: Any, new_id: str
) -> None:
    script.answers["check"] = [Checked(calls_init=False, post_steps=1), final("no")]
    handle = await job(temporal, queue, new_id, script, "mod-a", "mod-b")
    with pytest.raises(WorkflowFailureError):
        await handle.result()

    assert steps(script, StepKind.POST_STEP) == [("mod-a-2.0.0", 0)]
    assert script.requests["finish"][0].outcome == "rolled_back"


async def test_an_abort_at_a_post_step_ends_the_job_and_says_what_was_not_done(
    temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    script.answers["check"] = Checked(calls_init=False, post_steps=2)
    script.block = "post_step"
    handle = await job(temporal, queue, new_id, script, "mod-a")
    await script.blocked.wait()
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()

    (end,) = script.requests["finish"]
    assert end.outcome == "aborted"
    text = "aborted when 0 of 2 post steps of mod-a-2.0.0 were done; what works on is not looked at any more"
    assert warnings(script) == [("mod-a", text)]
    assert not {"undo_init", "resume_old", "give_back"} & set(script.calls)


async def test_an_abort_before_the_end_leaves_the_post_steps_out_and_says_so(
    temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    script.answers["check"] = [Checked(calls_init=False, post_steps=1), Checked()]
    script.block = "init"
    handle = await job(temporal, queue, new_id, script, "mod-a", "mod-b")
    await script.blocked.wait()
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()

    assert steps(script, StepKind.POST_STEP) == []
    assert warnings(script) == [("mod-a", "aborted: 1 post steps of mod-a-2.0.0 were not done")]


async def test_modules_have_their_post_steps_as_many_at_a_time_as_the_job_may(
    temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    script.answers["check"] = Checked(calls_init=False, post_steps=1)
    script.pause = "post_step"
    handle = await job(temporal, queue, new_id, script, "mod-a", "mod-b", parallel=2)
    await script.paused.wait()
    async with asyncio.timeout(10):
        while script.calls.count("post_step") < 2:
            await asyncio.sleep(0.02)
    script.go_on.set()

    assert await handle.result() == "done"


async def test_a_person_who_goes_on_after_a_lost_run_gets_the_post_steps_too(
    temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    begun = Begun(tenant="diku", plan=Plan(digest="d", groups=(Group(key="1-g", changes=(change("mod-a"),)),)))
    script.answers.update(begin=begun, recall=Checked(calls_init=False, post_steps=1))
    request = ResolveRequest(job=new_id, tenant="diku", decision="new", groups=("1-g",), let_go=0)
    await temporal.execute_workflow(ResolveJob.run, request, id=f"{new_id}/resolve-1", task_queue=queue)

    assert script.calls[-3:] == ["release", "post_step", "finish"]
