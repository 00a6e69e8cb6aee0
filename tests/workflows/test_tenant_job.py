"""`TenantJob`: groups in their order, and an end that is always written down (requirements C1-C3)."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ApplicationError

from activities.signatures import Begun, Checked, FinishStep, InitState, Told
from upgrade_core.plan import Change, Group, Kind, Plan
from upgrade_core.runs import TenantJobRequest
from workflows.tenant_job import TenantJob


def group(number: int, product: str, after: tuple[str, ...] = ()) -> Group:
    change = Change(kind=Kind.INSTALL, product=product, version_to=f"{product}-1.0.0")
    return Group(key=f"{number}-{product}", changes=(change,), after=after)


def begun(*groups: Group, ignore_errors: bool = False, parallel: int = 1) -> Begun:
    plan = Plan(digest="d", groups=groups)
    return Begun(tenant="diku", plan=plan, ignore_errors=ignore_errors, parallel=parallel)


async def start(temporal: Client, queue: str, new_id: str) -> Any:
    return await temporal.start_workflow(TenantJob.run, TenantJobRequest(job=new_id, tenant="diku"), id=new_id, task_queue=queue)


def subjects(script: Any, name: str) -> list[str]:
    return [request.change.subject for request in script.requests.get(name, [])]


def finish_of(script: Any) -> FinishStep:
    (finished,) = script.requests["finish"]
    return replace(finished, known=())


@pytest.fixture(autouse=True)
def nothing_to_copy(script: Any) -> None:
    script.answers["check"] = Checked(copies=False, verifies=False)


async def test_groups_run_one_after_the_other(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    script.answers["begin"] = begun(group(1, "a"), group(2, "b"))
    outcome = await (await start(temporal, queue, new_id)).result()

    assert outcome == "done"
    assert subjects(script, "init") == ["a-1.0.0", "b-1.0.0"]
    assert script.calls.index("release") < len(script.calls) - 1 - script.calls[::-1].index("check")
    assert finish_of(script) == FinishStep(job=new_id, outcome="done")


async def test_a_job_without_anything_to_do_is_done(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    script.answers["begin"] = begun()
    await (await start(temporal, queue, new_id)).result()

    assert finish_of(script).outcome == "done"


async def test_warnings_of_a_module_end_in_the_job(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    """Requirement C3."""
    script.answers["begin"] = begun(group(1, "a"))
    script.answers["init"] = InitState(effect="done", warnings=("index is missing",))
    await (await start(temporal, queue, new_id)).result()

    assert finish_of(script).outcome == "done_with_warnings"
    assert finish_of(script).warnings == (Told(message="index is missing", type="Warning", code="a"),)


async def test_a_failure_starts_nothing_further(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    script.answers["begin"] = begun(group(1, "a"), group(2, "b"), group(3, "c"))
    script.answers["init"] = [InitState(effect="done"), InitState(effect="failed", errors=("disk full",))]
    with pytest.raises(WorkflowFailureError) as caught:
        await (await start(temporal, queue, new_id)).result()

    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == "rolled_back"
    assert subjects(script, "check") == ["a-1.0.0", "b-1.0.0"]
    assert finish_of(script).errors == (Told(message="disk full", type="TenantInitFailed", code="rolled_back"),)


async def test_with_ignore_errors_only_what_depends_on_a_failure_is_left_out(
    temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    """Okapi hangs here; we end."""
    script.answers["begin"] = begun(group(1, "a"), group(2, "b", ("1-a",)), group(3, "c"), ignore_errors=True)
    script.answers["init"] = [InitState(effect="failed", errors=("disk full",)), InitState(effect="done")]
    with pytest.raises(WorkflowFailureError):
        await (await start(temporal, queue, new_id)).result()

    assert subjects(script, "check") == ["a-1.0.0", "c-1.0.0"]
    assert finish_of(script).outcome == "rolled_back"


async def test_parallel_groups_wait_only_for_what_they_depend_on(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    script.answers["begin"] = begun(group(1, "a"), group(2, "b", ("1-a",)), group(3, "c"), parallel=3)
    script.block = "acquire"
    handle = await start(temporal, queue, new_id)
    await script.blocked.wait()
    while len(script.requests.get("switch", [])) < 1:
        await asyncio.sleep(0.02)
    first_blocked = script.requests["acquire"][0].change.product
    others = {"a": "c", "c": "a"}
    switched = script.requests["switch"][0].changes[0].product
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()

    assert first_blocked in others
    assert switched == others[first_blocked]


async def test_a_cancel_undoes_and_is_told_as_aborted(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    """Cancel in the Temporal UI is an abort."""
    script.answers["begin"] = begun(group(1, "a"), group(2, "b"))
    script.block = "init"
    handle = await start(temporal, queue, new_id)
    await script.blocked.wait()
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    description = await handle.describe()

    assert description.status is WorkflowExecutionStatus.CANCELED
    assert finish_of(script).outcome == "aborted"
    assert script.calls[-4:] == ["undo_init", "resume_old", "give_back", "finish"]
    assert subjects(script, "check") == ["a-1.0.0"]


async def test_a_plan_that_cannot_be_made_any_more_fails_the_job(
    temporal: Client, script: Any, queue: str, final: Any, new_id: str
) -> None:
    script.answers["begin"] = final("Module a-1.0.0 not found", "GatewayRefused")
    with pytest.raises(WorkflowFailureError):
        await (await start(temporal, queue, new_id)).result()

    assert finish_of(script).outcome == "failed"
    assert finish_of(script).errors[0].message == "Module a-1.0.0 not found"


async def test_the_end_is_written_however_often_it_takes(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    script.answers["begin"] = begun(group(1, "a"))
    script.answers["finish"] = [ApplicationError("gateway away"), ApplicationError("gateway away"), None]
    await (await start(temporal, queue, new_id)).result()

    assert len(script.requests["finish"]) == 3


async def test_search_attributes_and_details_show_the_state(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    """Requirement D4: operators inspect runs in the Temporal UI."""
    script.answers["begin"] = begun(group(1, "a"))
    handle = await start(temporal, queue, new_id)
    await handle.result()
    description = await handle.describe()

    attributes = {pair.key.name: pair.value for pair in description.typed_search_attributes}
    assert attributes["UpliftPhase"] == "ended"
    assert attributes["UpliftOutcome"] == "done"
