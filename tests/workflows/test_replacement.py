"""A run meets workers of one build after the other, with and without worker versioning (requirement D3)."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from temporalio.api.enums.v1 import WorkflowTaskFailedCause
from temporalio.api.workflowservice.v1 import SetWorkerDeploymentCurrentVersionRequest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

from activities.signatures import Placement, Retirement, UndoResult
from upgrade_core.plan import Change, Group, Kind
from upgrade_core.runs import GroupRequest, ModuleVersionRequest
from worker.builds import DEPLOYMENT, BuildNotCurrent, deployment_config, make_current, workflows_of
from worker.temporal import WORKFLOWS, workflow_runner
from workflows.group_change import GroupChange
from workflows.module_version import ModuleVersion

CHECKED = '        self._note("✓ checked")\n'
ONE_STEP_MORE = f"{CHECKED}        await workflow.sleep(0.01)\n"
PATCHED = f'{CHECKED}        if not workflow.patched("no sleep"):\n            await workflow.sleep(0.01)\n'
REFUSED = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR
GROUP = Group(
    key="1-a", changes=(Change(kind=Kind.UPGRADE, product="a", bound="a-1.0.0", version_from="a-1.0.0", version_to="a-2.0.0"),)
)


@pytest.fixture
def builds(variant: Callable[[str, str, str], type]) -> dict[str, type]:
    """The pipeline in three builds: with one step more, as it is, and as it is but behind a patch."""
    return {
        "older": variant("group_change", CHECKED, ONE_STEP_MORE),
        "newer": GroupChange,
        "newer, patched": variant("group_change", CHECKED, PATCHED),
    }


@pytest.fixture
def run_on(temporal: Client, scripted: Any) -> Callable[[str, type], Any]:
    """Runs a worker with a build of the pipeline, in turn."""

    @asynccontextmanager
    async def work(queue: str, workflow: type) -> AsyncIterator[None]:
        async with Worker(
            temporal, task_queue=queue, workflows=[workflow], activities=scripted, workflow_runner=workflow_runner(),
            max_cached_workflows=0,
        ):  # fmt: skip
            yield

    return work


@pytest.mark.parametrize(
    ("begins", "meanwhile", "ends"),
    [("older", "newer", "newer, patched"), ("newer, patched", "older", "newer, patched"), ("older", "newer", "older")],
)
async def test_a_run_waits_on_a_build_that_it_does_not_fit_and_ends_on_one_that_it_does(
    temporal: Client, script: Any, run_on: Any, builds: dict[str, type], final: Any, begins: str, meanwhile: str, ends: str
) -> None:
    queue = run = str(uuid.uuid4())
    script.answers |= {"init": final("broken"), "undo_init": UndoResult(done=False, left=("the data",))}
    request = GroupRequest(job="j", tenant="diku", group=GROUP)
    async with run_on(queue, builds[begins]):
        handle = await temporal.start_workflow(
            GroupChange.run, request, id=run, task_queue=queue, task_timeout=timedelta(seconds=1)
        )
        await seen(lambda: any(each.phase == "needs_operator" for each in script.requests.get("set_phase", [])))
    async with run_on(queue, builds[meanwhile]):
        await handle.cancel()
        await refused(handle)
        status = (await handle.describe()).status
    async with run_on(queue, builds[ends]):
        await handle.execute_update(GroupChange.resolve, "skip")
        with pytest.raises(WorkflowFailureError) as error:
            await handle.result()

    assert status is WorkflowExecutionStatus.RUNNING
    assert isinstance(error.value.cause, ApplicationError)
    assert (error.value.cause.type, error.value.cause.details[0]) == ("RollbackFailed", ["the data"])


async def seen(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.02)


async def refused(handle: Any) -> None:
    """Until a workflow task has failed because the run's history does not fit."""
    async with asyncio.timeout(30):
        while REFUSED not in [each.workflow_task_failed_event_attributes.cause for each in (await handle.fetch_history()).events]:
            await asyncio.sleep(0.05)


@asynccontextmanager
async def worker(temporal: Client, queue: str, scripted: Any, build: str = "") -> AsyncIterator[None]:
    """A worker as the product makes it, of a build or of none."""
    async with Worker(
        temporal, task_queue=queue, workflows=workflows_of(build, WORKFLOWS), activities=scripted,
        workflow_runner=workflow_runner(), deployment_config=deployment_config(build), max_cached_workflows=0,
    ):  # fmt: skip
        yield


async def test_runs_go_on_when_builds_are_named_and_when_that_is_given_up_again(
    temporal: Client, script: Any, scripted: Any, new_id: str
) -> None:
    """As `docs/how-to/replace-the-worker.md` says."""
    queue, build = str(uuid.uuid4()), f"b-{new_id}"
    script.answers |= {"place": Placement(), "retire": [Retirement(marked=False, needed_by=("x",)), Retirement(marked=True)]}
    async with worker(temporal, queue, scripted):
        handle = await temporal.start_workflow(
            ModuleVersion.run, ModuleVersionRequest(module="a"), id=new_id, task_queue=queue, task_timeout=timedelta(seconds=1)
        )
        await seen(lambda: script.calls == ["place"])
    async with worker(temporal, queue, scripted, build):
        became = await make_current(temporal, build=build)
        await handle.signal(ModuleVersion.unneeded, True)
        await seen(lambda: script.calls == ["place", "retire"])
    request = SetWorkerDeploymentCurrentVersionRequest(namespace=temporal.namespace, deployment_name=DEPLOYMENT)
    await temporal.workflow_service.set_worker_deployment_current_version(request)
    async with worker(temporal, queue, scripted):
        await handle.signal(ModuleVersion.unneeded, True)
        result = await handle.result()

    assert (became, result) == (True, "retired")


async def test_a_build_that_nobody_polls_for_is_not_made_current(temporal: Client) -> None:
    with pytest.raises(BuildNotCurrent, match=r"build nowhere \(worker.build\) the current one"):
        await make_current(temporal, build="nowhere", deadline=0.1)
