"""A real Temporal server, and scripted activities behind the real signatures."""

import asyncio
import inspect
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from temporalio import activity
from temporalio.client import Client
from temporalio.common import SearchAttributeKey
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from activities.signatures import (
    Begun,
    ChangeRequest,
    Checked,
    CheckedChange,
    CheckSteps,
    Copied,
    DeploySteps,
    FinishStep,
    FollowModuleStep,
    FollowRequest,
    GatewaySteps,
    GroupStep,
    InitState,
    JobRef,
    ModuleRef,
    ModuleStepRequest,
    ModuleSteps,
    ModuleStepState,
    NodeReconcileSteps,
    NodeRef,
    PermissionSteps,
    PhaseStep,
    Placement,
    Reach,
    ReconcileSteps,
    Repaired,
    RepairStep,
    ReportStep,
    Retirement,
    SnapshotSteps,
    TellStep,
    TenantInitSteps,
    UndoResult,
    Verdict,
    Views,
)
from upgrade_core.module_steps import StepEffect
from upgrade_core.reconcile import Found, NodeView
from upgrade_core.runs import ATTRIBUTES
from uplift_cli.stack.temporal_binary import require
from worker.temporal import WORKFLOWS, workflow_runner


@pytest.fixture(scope="session")
async def temporal() -> AsyncIterator[Client]:
    """A client of a dev server that knows our search attributes."""
    binary = await asyncio.to_thread(require)
    async with await WorkflowEnvironment.start_local(
        data_converter=pydantic_data_converter,
        dev_server_existing_path=str(binary),
        search_attributes=[SearchAttributeKey.for_keyword(name) for name in ATTRIBUTES],
        dev_server_log_level="error",
        dev_server_extra_args=["--dynamic-config-value", "system.enableActivityEagerExecution=true"],
    ) as environment:
        yield environment.client


@dataclass
class Script:
    """What the activities answer, and what they were asked.

    Attributes:
        calls: Names of the activities in the order they began, set_phase left out.
        trace: Their names and requests in that order.
        answers: Name to an answer, a list of answers in turn, a function of the request that gives it (which may
            be waited for), or an exception to raise.
        block: Name of the activity that waits until it is cancelled.
        deaf: Whether it then completes all the same.
        blocked: Set when it waits.
        pause: Name of the activity that waits for `go_on`, and is told of a cancel if one reaches it (`cut`).
        paused: Set when it waits.
    """

    calls: list[str] = field(default_factory=list)
    trace: list[tuple[str, Any]] = field(default_factory=list)
    requests: dict[str, list[Any]] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    block: str = ""
    deaf: bool = False
    blocked: asyncio.Event = field(default_factory=asyncio.Event)
    cut: list[str] = field(default_factory=list)
    pause: str = ""
    paused: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def do(self, name: str, request: Any, default: Any) -> Any:
        if name != "set_phase":
            self.calls.append(name)
            self.trace.append((name, request))
        self.requests.setdefault(name, []).append(request)
        if name == self.block:
            self.block = ""
            self.blocked.set()
            try:
                while True:
                    activity.heartbeat()
                    await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                self.cut.append(name)
                if not self.deaf:
                    raise
        if name == self.pause:
            self.pause = ""
            self.paused.set()
            try:
                while not self.go_on.is_set():
                    activity.heartbeat()
                    await asyncio.sleep(0.05)
                activity.heartbeat()
                await asyncio.sleep(0.3)  # a cancel comes with the answer to a heartbeat
            except asyncio.CancelledError:
                self.cut.append(name)
                raise
        answer = self.answers.get(name, default)
        if isinstance(answer, list):
            answer = answer.pop(0) if answer else default
        if callable(answer):
            answer = answer(request)
        if inspect.isawaitable(answer):
            answer = await answer
        if isinstance(answer, Exception):
            raise answer
        return answer


class Stage:
    """The script that is played now; tests run one after the other on the same workers."""

    script: Script


def activities(stage: Stage) -> list[Callable[..., Awaitable[Any]]]:
    class Gateway(GatewaySteps):
        @activity.defn(name="gateway.begin")
        async def begin(self, request: JobRef) -> Begun:
            return await stage.script.do("begin", request, None)

        @activity.defn(name="gateway.acquire")
        async def acquire(self, request: ChangeRequest) -> None:
            await stage.script.do("acquire", request, None)

        @activity.defn(name="gateway.give_back")
        async def give_back(self, request: ChangeRequest) -> None:
            await stage.script.do("give_back", request, None)

        @activity.defn(name="gateway.update")
        async def update(self, request: GroupStep) -> None:
            await stage.script.do("update", request, None)

        @activity.defn(name="gateway.show")
        async def show(self, request: ChangeRequest) -> None:
            await stage.script.do("show", request, None)

        @activity.defn(name="gateway.switch")
        async def switch(self, request: GroupStep) -> None:
            await stage.script.do("switch", request, None)

        @activity.defn(name="gateway.resume_old")
        async def resume_old(self, request: GroupStep) -> None:
            await stage.script.do("resume_old", request, None)

        @activity.defn(name="gateway.release")
        async def release(self, request: GroupStep) -> None:
            await stage.script.do("release", request, None)

        @activity.defn(name="gateway.set_phase")
        async def set_phase(self, request: PhaseStep) -> None:
            await stage.script.do("set_phase", request, None)

        @activity.defn(name="gateway.finish")
        async def finish(self, request: FinishStep) -> None:
            await stage.script.do("finish", request, None)

    class Checks(CheckSteps):
        @activity.defn(name="checks.check")
        async def check(self, request: ChangeRequest) -> Checked:
            default = Checked(copies=True, verifies=True, init_module=request.change.subject, dsn="env:X", schema="s")
            return await stage.script.do("check", request, default)

        @activity.defn(name="checks.recall")
        async def recall(self, request: ChangeRequest) -> Checked:
            return await stage.script.do("recall", request, Checked(copies=True, init_module=request.change.subject))

        @activity.defn(name="checks.verify")
        async def verify(self, request: CheckedChange) -> Verdict:
            return await stage.script.do("verify", request, Verdict())

    class Init(TenantInitSteps):
        @activity.defn(name="tenant_init.start")
        async def start(self, request: CheckedChange) -> InitState:
            return await stage.script.do("init", request, InitState(effect="done", outcome="upgraded"))

        @activity.defn(name="tenant_init.follow")
        async def follow(self, request: FollowRequest) -> InitState:
            return await stage.script.do("follow", request, InitState(effect="done", outcome="upgraded"))

        @activity.defn(name="tenant_init.undo")
        async def undo(self, request: CheckedChange) -> UndoResult:
            return await stage.script.do("undo_init", request, UndoResult())

        @activity.defn(name="tenant_init.settle")
        async def settle(self, request: CheckedChange) -> UndoResult:
            return await stage.script.do("settle", request, UndoResult())

    class Permissions(PermissionSteps):
        @activity.defn(name="permissions.tell")
        async def tell(self, request: TellStep) -> None:
            await stage.script.do("tell", request, None)

        @activity.defn(name="permissions.tell_old")
        async def tell_old(self, request: TellStep) -> UndoResult:
            return await stage.script.do("tell_old", request, UndoResult())

    class Errands(ModuleSteps):
        @activity.defn(name="module_steps.start")
        async def start(self, request: ModuleStepRequest) -> ModuleStepState:
            return await stage.script.do(request.kind, request, ModuleStepState(effect=StepEffect.DONE))

        @activity.defn(name="module_steps.follow")
        async def follow(self, request: FollowModuleStep) -> ModuleStepState:
            return await stage.script.do(f"follow_{request.step.kind}", request, ModuleStepState(effect=StepEffect.DONE))

        @activity.defn(name="module_steps.close")
        async def close(self, request: ChangeRequest) -> None:
            await stage.script.do("close", request, None)

    class Snapshots(SnapshotSteps):
        @activity.defn(name="snapshots.take")
        async def take(self, request: CheckedChange) -> Copied:
            return await stage.script.do("snapshot", request, Copied())

    class Deploy(DeploySteps):
        @activity.defn(name="deploy.place")
        async def place(self, request: ModuleRef) -> Placement:
            return await stage.script.do("place", request, Placement(node="here"))

        @activity.defn(name="deploy.start")
        async def start(self, request: ModuleRef) -> None:
            await stage.script.do("start", request, None)

        @activity.defn(name="deploy.retire")
        async def retire(self, request: ModuleRef) -> Retirement:
            return await stage.script.do("retire", request, Retirement(marked=True, nodes=("here",)))

        @activity.defn(name="deploy.stop")
        async def stop(self, request: ModuleRef) -> None:
            await stage.script.do("stop", request, None)

        @activity.defn(name="deploy.retired")
        async def retired(self, request: ModuleRef) -> None:
            await stage.script.do("retired", request, None)

    class Reconcile(ReconcileSteps):
        @activity.defn(name="reconcile.begin")
        async def begin(self) -> Reach:
            return await stage.script.do("reach", None, Reach(nodes=("here",), settle=0.0))

        @activity.defn(name="reconcile.compare")
        async def compare(self, request: Views) -> Found:
            return await stage.script.do("compare", request, Found())

        @activity.defn(name="reconcile.repair")
        async def repair(self, request: RepairStep) -> Repaired:
            return await stage.script.do("repair", request, Repaired(done=True))

        @activity.defn(name="reconcile.report")
        async def report(self, request: ReportStep) -> None:
            await stage.script.do("report", request, None)

    class NodeReconcile(NodeReconcileSteps):
        @activity.defn(name="reconcile.node")
        async def look(self, request: NodeRef) -> NodeView:
            return await stage.script.do("look", request, NodeView(node=request.node))

        @activity.defn(name="reconcile.repair_on_node")
        async def repair(self, request: RepairStep) -> Repaired:
            return await stage.script.do("repair_on_node", request, Repaired(done=True))

    gateway, checks, init, snapshots, deploy = Gateway(), Checks(), Init(), Snapshots(), Deploy()
    reconcile, node, permissions, errands = Reconcile(), NodeReconcile(), Permissions(), Errands()
    return [
        gateway.begin, gateway.acquire, gateway.give_back, gateway.update, gateway.show, gateway.switch, gateway.resume_old,
        gateway.release, gateway.set_phase, gateway.finish, checks.check, checks.recall, checks.verify, init.start, init.follow,
        init.undo, init.settle, snapshots.take, deploy.place, deploy.start, deploy.retire, deploy.stop, deploy.retired,
        reconcile.begin, reconcile.compare, reconcile.repair, reconcile.report, node.look, node.repair,
        permissions.tell, permissions.tell_old, errands.start, errands.follow, errands.close,
    ]  # fmt: skip


@pytest.fixture(scope="session")
def stage() -> Stage:
    return Stage()


@pytest.fixture
def script(stage: Stage) -> Script:
    stage.script = Script()
    return stage.script


@pytest.fixture
def final() -> Callable[..., ApplicationError]:
    """A failure that no retry mends."""

    def make(message: str, kind: str = "Broken") -> ApplicationError:
        return ApplicationError(message, type=kind, non_retryable=True)

    return make


@pytest.fixture(scope="session")
async def queue(temporal: Client, stage: Stage) -> AsyncIterator[str]:
    """The task queue of workers that play the script. Every workflow task is a full replay."""
    name = f"q-{uuid.uuid4()}"
    async with (
        Worker(
            temporal,
            task_queue=name,
            workflows=list(WORKFLOWS),
            activities=activities(stage),
            workflow_runner=workflow_runner(),
            workflow_failure_exception_types=[AssertionError, TypeError, KeyError, AttributeError, ValueError],
            max_cached_workflows=0,
            max_heartbeat_throttle_interval=timedelta(seconds=0.1),
        ),
        Worker(temporal, task_queue=f"{name}-node-here", activities=activities(stage)),
    ):
        yield name


@pytest.fixture(scope="session")
def scripted(stage: Stage) -> list[Callable[..., Awaitable[Any]]]:
    """The activities that play the script, for workers of a test's own."""
    return activities(stage)


@pytest.fixture
def variant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str, str], type]]:
    """Makes a workflow whose source differs: where it is, what stands there, what stands there then.

    It gets a file of its own, since the sandbox imports it anew for each run.
    """
    made: list[str] = []

    def make(module: str, old: str, new: str) -> type:
        file = import_module(f"workflows.{module}").__file__
        assert file is not None
        source = Path(file).read_text(encoding="utf-8")
        assert source.count(old) == 1, f"workflows/{module}.py has changed, and has this no more: {old}"
        name = f"changed_{module}_{uuid.uuid4().hex}"
        (tmp_path / f"{name}.py").write_text(source.replace(old, new), encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        made.append(name)
        workflow: type = getattr(import_module(name), module.title().replace("_", ""))
        return workflow

    yield make
    for name in made:
        del sys.modules[name]


@pytest.fixture
def new_id() -> str:
    return str(uuid.uuid4())
