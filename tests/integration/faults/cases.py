"""For each activity: what comes before it, and its request."""

import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from activities import options
from activities.options import Options
from activities.signatures import (
    FinishStep,
    FollowModuleStep,
    FollowRequest,
    InitState,
    JobRef,
    ModuleRef,
    ModuleStepRequest,
    ModuleStepState,
    NodeRef,
    PhaseStep,
    RepairStep,
    ReportStep,
    TellStep,
    Told,
    Views,
)
from deployers import Launch
from gateway_client import Instance, IntentRequest
from tests.integration.faults.world import SERVER, Subject, World
from upgrade_core.descriptors import Undo
from upgrade_core.module_steps import StepEffect, StepKind
from upgrade_core.reconcile import Difference, Found, Kind, NodeView, Repair, Report, Verb

Method = Callable[[Any], Awaitable[Any]]


@dataclass(frozen=True)
class Ready:
    """An activity that may run now, and what it is asked."""

    method: Method
    request: Any


def _all(result: Any, _: Subject) -> Any:
    return result


@dataclass(frozen=True, kw_only=True)
class Case:
    """One situation of an activity.

    Attributes:
        name: The activity's, as workflows call it.
        ready: Brings a subject to the point before it.
        options: Its options.
        subject: How its subject is made.
        twice_at_once: Whether two attempts may run at the same time.
        of: What a result says of the subject, where it says something of others, too.
    """

    name: str
    ready: Callable[[World, Subject], Awaitable[Ready]]
    options: Options
    subject: dict[str, Any]
    title: str = ""
    twice_at_once: bool = False
    of: Callable[[Any, Subject], Any] = _all

    @property
    def id(self) -> str:
        return f"{self.name}{f' {self.title}' if self.title else ''}"


async def begin(world: World, subject: Subject) -> Ready:
    return Ready(world.steps.begin, JobRef(job=subject.job.id))


async def acquire(world: World, subject: Subject) -> Ready:
    return Ready(world.steps.acquire, subject.request)


async def give_back(world: World, subject: Subject) -> Ready:
    await world.steps_undisturbed(acquire, subject)
    return Ready(world.steps.give_back, subject.request)


async def update(world: World, subject: Subject) -> Ready:
    return Ready(world.steps.update, subject.group)


async def show(world: World, subject: Subject) -> Ready:
    await world.steps_undisturbed(update, subject)
    return Ready(world.steps.show, subject.request)


async def switch(world: World, subject: Subject) -> Ready:
    await world.steps_undisturbed(update, subject)
    return Ready(world.steps.switch, subject.group)


async def resume_old(world: World, subject: Subject) -> Ready:
    await world.steps_undisturbed(update, subject)
    return Ready(world.steps.resume_old, subject.group)


async def release(world: World, subject: Subject) -> Ready:
    await world.steps_undisturbed(acquire, subject)
    await world.steps_undisturbed(switch, subject)
    return Ready(world.steps.release, subject.group)


async def set_phase(world: World, subject: Subject) -> Ready:
    return Ready(world.steps.set_phase, PhaseStep(job=subject.job.id, phase="undoing", subject=subject.new, message="why"))


async def finish(world: World, subject: Subject) -> Ready:
    await world.steps_undisturbed(take, subject)
    told = (Told(message="odd", type="Warning", code="w"),)
    return Ready(world.steps.finish, FinishStep(job=subject.job.id, outcome="done_with_warnings", warnings=told))


async def check(world: World, subject: Subject) -> Ready:
    return Ready(world.checks.check, subject.request)


async def recall(world: World, subject: Subject) -> Ready:
    await world.steps_undisturbed(take, subject)
    return Ready(world.checks.recall, subject.request)


async def verify(world: World, subject: Subject) -> Ready:
    await world.steps_undisturbed(update, subject)
    return Ready(world.checks.verify, world.checked(subject))


async def tell(world: World, subject: Subject) -> Ready:
    """The new version is told of itself and of all that is enabled, past the hold."""
    await world.steps_undisturbed(update, subject)
    return Ready(world.permissions.tell, telling(subject, subject.new, modules=(subject.new,), enabled=True, overlay=True))


async def tell_old(world: World, subject: Subject) -> Ready:
    return Ready(world.permissions.tell_old, telling(subject, subject.old, modules=(subject.old,), gone=(subject.new,)))


def telling(subject: Subject, teller: str, **what: Any) -> TellStep:
    return TellStep(job=subject.job.id, tenant=subject.tenant, group="g", teller=teller, **what)


def module_step(subject: Subject, kind: StepKind) -> ModuleStepRequest:
    return ModuleStepRequest(job=subject.job.id, tenant=subject.tenant, module=subject.new, kind=kind, index=0, bound=subject.old)


async def precheck(world: World, subject: Subject) -> Ready:
    return Ready(world.module_steps.start, module_step(subject, StepKind.PRECHECK))


async def follow_precheck(world: World, subject: Subject) -> Ready:
    state: ModuleStepState = await world.steps_undisturbed(precheck, subject)
    assert state.effect is StepEffect.FOLLOW
    return Ready(world.module_steps.follow, FollowModuleStep(step=module_step(subject, StepKind.PRECHECK), state=state))


async def close_precheck(world: World, subject: Subject) -> Ready:
    await world.steps_undisturbed(precheck, subject)
    return Ready(world.module_steps.close, subject.request)


def without_times(result: ModuleStepState, _: Subject) -> ModuleStepState:
    return replace(result, begun=0.0)


async def take(world: World, subject: Subject) -> Ready:
    await world.steps_undisturbed(update, subject)
    return Ready(world.copies.take, world.checked(subject))


async def start(world: World, subject: Subject) -> Ready:
    await world.steps_undisturbed(take, subject)
    return Ready(world.init.start, world.checked(subject))


async def start_without_copy(world: World, subject: Subject) -> Ready:
    await world.steps_undisturbed(update, subject)
    return Ready(world.init.start, world.checked(subject))


async def follow(world: World, subject: Subject) -> Ready:
    state: InitState = await world.steps_undisturbed(start, subject)
    assert state.effect == "follow"
    return Ready(world.init.follow, FollowRequest(step=world.checked(subject), state=state))


async def undo(world: World, subject: Subject) -> Ready:
    await world.steps_undisturbed(start, subject)
    return Ready(world.init.undo, world.checked(subject))


async def undo_reversible(world: World, subject: Subject) -> Ready:
    await world.steps_undisturbed(start_without_copy, subject)
    return Ready(world.init.undo, world.checked(subject))


async def undo_of_nothing(world: World, subject: Subject) -> Ready:
    await world.steps_undisturbed(take, subject)
    return Ready(world.init.undo, world.checked(subject))


async def settle(world: World, subject: Subject) -> Ready:
    """The answer of tenant init was lost with its run."""
    request = world.checked(subject)
    await world.steps_undisturbed(take, subject)
    wanted = IntentRequest(
        key=request.key,
        product=subject.product,
        subject=subject.new,
        module=subject.new,
        instance=f"{subject.new}-i",
        attempt="a",
    )
    await world.site.runs.begin_intent(subject.job.id, wanted)
    return Ready(world.init.settle, request)


async def place(world: World, subject: Subject) -> Ready:
    return Ready(world.deploy.place, ModuleRef(module=subject.new))


async def deployed(world: World, subject: Subject) -> Ready:
    return Ready(world.deploy.start, ModuleRef(module=subject.new, node="n"))


async def retire(world: World, subject: Subject) -> Ready:
    await world.site.runs.put_instance(
        Instance(id=f"{subject.new}@n", module=subject.new, url="http://127.0.0.1:1", node="n", generation="1")
    )
    return Ready(world.deploy.retire, ModuleRef(module=subject.new))


async def stop(world: World, subject: Subject) -> Ready:
    await world.steps_undisturbed(deployed, subject)
    return Ready(world.deploy.stop, ModuleRef(module=subject.new, node="n"))


async def retired(world: World, subject: Subject) -> Ready:
    await world.steps_undisturbed(retire, subject)
    return Ready(world.deploy.retired, ModuleRef(module=subject.new))


async def begin_reconcile(world: World, subject: Subject) -> Ready:
    await world.site.runs.put_node("n")

    async def begin(_: None) -> Any:
        return await world.reconcile.begin()

    return Ready(begin, None)


async def compare(world: World, subject: Subject) -> Ready:
    """What the job left is found: a claim."""
    await give_back_claim(world, subject)
    return Ready(world.reconcile.compare, Views(nodes=(NodeView(node="n"),)))


def found_of(result: Found, subject: Subject) -> list[Difference]:
    return [difference for difference in result.differences if subject.product in difference.key]


async def give_back_claim(world: World, subject: Subject) -> Ready:
    await world.steps_undisturbed(acquire, subject)
    return await _repair(world, subject, Verb.GIVE_BACK)


async def close_overlay(world: World, subject: Subject) -> Ready:
    await subject.job.overlay(subject.new)
    return await _repair(world, subject, Verb.CLOSE_OVERLAY)


async def end_intent(world: World, subject: Subject) -> Ready:
    key = world.checked(subject).key
    wanted = IntentRequest(
        key=key, product=subject.product, subject=subject.new, module=subject.new, instance="gone", attempt="a"
    )
    await world.site.runs.begin_intent(subject.job.id, wanted)
    return await _repair(world, subject, Verb.END_INTENT, key)


async def keep_snapshot(world: World, subject: Subject) -> Ready:
    await world.steps_undisturbed(take, subject)
    await world.steps_undisturbed(resume_old, subject)
    return await _repair(world, subject, Verb.KEEP_SNAPSHOT, f"{subject.job.id}-{subject.product}")


async def _repair(world: World, subject: Subject, verb: Verb, what: str = "") -> Ready:
    """The job ends, and leaves what is to be repaired."""
    await subject.job.finish()
    repair = Repair(verb=verb, job=subject.job.id, module=subject.new, product=subject.product, subject=what)
    return Ready(world.reconcile.repair, RepairStep(repair=repair))


async def tell_unneeded(world: World, subject: Subject) -> Ready:
    return Ready(world.reconcile.repair, RepairStep(repair=Repair(verb=Verb.TELL_UNNEEDED, module=subject.new)))


async def finish_retirement(world: World, subject: Subject) -> Ready:
    await world.steps_undisturbed(retire, subject)
    return Ready(world.reconcile.repair, RepairStep(repair=Repair(verb=Verb.FINISH_RETIREMENT, module=subject.new)))


async def report(world: World, subject: Subject) -> Ready:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    difference = Difference(
        key=f"{Kind.UNSERVED}:{subject.new}", kind=Kind.UNSERVED, message="a fact", remedy="a remedy", module=subject.new
    )
    return Ready(world.reconcile.report, ReportStep(report=Report(started=now, ended=now, differences=(difference,))))


async def look_at_node(world: World, subject: Subject) -> Ready:
    await stop_process(world, subject)
    await remove_file(world, subject)
    return Ready(world.reconcile_here.look, NodeRef(node="n"))


def node_of(result: NodeView, subject: Subject) -> list[Any]:
    processes = [each.instance for each in result.processes if each.module == subject.new]
    return [result.trouble, processes, [file.path for file in result.files if file.job == subject.job.id]]


async def stop_process(world: World, subject: Subject) -> Ready:
    """One that runs and is not registered."""
    script = world.folder / f"{subject.product}.py"
    running = await world.deployer.start(
        Launch(inst_id=f"{subject.new}@n", module_id=subject.new, exec=f"{sys.executable} -S {script} %p")
    )
    repair = Repair(verb=Verb.STOP_PROCESS, node="n", module=subject.new, subject=running.inst_id, generation=running.generation)
    return Ready(world.reconcile_here.repair, RepairStep(repair=repair))


async def remove_file(world: World, subject: Subject) -> Ready:
    """A copy from long ago that no row names."""
    await subject.job.finish()
    path = f"{subject.tenant}/{subject.job.id}-{subject.product}.dump"
    file = world.folder / "copies" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    os.utime(file, (1_000_000_000, 1_000_000_000))
    repair = Repair(verb=Verb.REMOVE_FILE, node="n", job=subject.job.id, subject=path)
    return Ready(world.reconcile_here.repair, RepairStep(repair=repair))


SNAPSHOT: dict[str, Any] = {"undo": Undo.SNAPSHOT}
REVERSIBLE: dict[str, Any] = {"undo": Undo.REVERSIBLE, "rerunnable": True}
LAUNCHED: dict[str, Any] = {"launch": SERVER}
TOLD: dict[str, Any] = {"undo": Undo.MODULE, "permissions": "2.1"}
STEPPED: dict[str, Any] = {"undo": Undo.MODULE, "stepped": "/steps"}

CASES = (
    Case(name="gateway.begin", ready=begin, options=options.SHORT, subject=SNAPSHOT),
    Case(name="gateway.acquire", ready=acquire, options=options.ACQUIRE, subject=SNAPSHOT, twice_at_once=True),
    Case(name="gateway.give_back", ready=give_back, options=options.UNDO, subject=SNAPSHOT),
    Case(name="gateway.update", ready=update, options=options.UPDATE, subject=SNAPSHOT, twice_at_once=True),
    Case(name="gateway.show", ready=show, options=options.SHORT, subject=SNAPSHOT),
    Case(name="gateway.switch", ready=switch, options=options.SHORT, subject=SNAPSHOT),
    Case(name="gateway.resume_old", ready=resume_old, options=options.UNDO, subject=SNAPSHOT),
    Case(name="gateway.release", ready=release, options=options.RELEASE, subject=SNAPSHOT),
    Case(name="gateway.set_phase", ready=set_phase, options=options.SHORT, subject=SNAPSHOT),
    Case(name="gateway.finish", ready=finish, options=options.SHORT, subject=SNAPSHOT),
    Case(name="checks.check", ready=check, options=options.CHECK, subject=SNAPSHOT),
    Case(name="checks.recall", ready=recall, options=options.SHORT, subject=SNAPSHOT),
    Case(name="checks.verify", ready=verify, options=options.VERIFY, subject=SNAPSHOT | {"checked": "/a"}),
    Case(name="snapshots.take", ready=take, options=options.COPY, subject=SNAPSHOT),
    Case(name="tenant_init.start", ready=start, options=options.INIT, subject=SNAPSHOT),
    Case(name="tenant_init.start", title="of a job", ready=start, options=options.INIT, subject=SNAPSHOT | {"how": "job"}),
    Case(name="tenant_init.start", title="without a copy", ready=start_without_copy, options=options.INIT, subject=REVERSIBLE),
    Case(name="tenant_init.follow", ready=follow, options=options.FOLLOW, subject=SNAPSHOT | {"how": "job"}, twice_at_once=True),
    Case(name="tenant_init.undo", ready=undo, options=options.UNDO, subject=SNAPSHOT),
    Case(name="tenant_init.undo", title="reversible", ready=undo_reversible, options=options.UNDO, subject=REVERSIBLE),
    Case(name="tenant_init.undo", title="of nothing", ready=undo_of_nothing, options=options.UNDO, subject=SNAPSHOT),
    Case(name="tenant_init.settle", ready=settle, options=options.UNDO, subject=SNAPSHOT),
    Case(name="permissions.tell", ready=tell, options=options.TELL, subject=TOLD),
    Case(name="permissions.tell_old", ready=tell_old, options=options.UNDO, subject=TOLD),
    Case(name="module_steps.start", ready=precheck, options=options.STEP, subject=STEPPED, of=without_times),
    Case(name="module_steps.follow", ready=follow_precheck, options=options.STEP, subject=STEPPED, of=without_times),
    Case(name="module_steps.close", ready=close_precheck, options=options.UNDO, subject=STEPPED),
    Case(name="deploy.place", ready=place, options=options.SHORT, subject=LAUNCHED),
    Case(name="deploy.start", ready=deployed, options=options.DEPLOY, subject=LAUNCHED),
    Case(name="deploy.retire", ready=retire, options=options.SHORT, subject=LAUNCHED),
    Case(name="deploy.stop", ready=stop, options=options.DEPLOY, subject=LAUNCHED),
    Case(name="deploy.retired", ready=retired, options=options.SHORT, subject=LAUNCHED),
    Case(name="reconcile.begin", ready=begin_reconcile, options=options.COMPARE, subject=SNAPSHOT),
    Case(name="reconcile.compare", ready=compare, options=options.COMPARE, subject=SNAPSHOT, of=found_of),
    Case(name="reconcile.repair", title="give back", ready=give_back_claim, options=options.REPAIR, subject=SNAPSHOT),
    Case(name="reconcile.repair", title="close overlay", ready=close_overlay, options=options.REPAIR, subject=SNAPSHOT),
    Case(name="reconcile.repair", title="end intent", ready=end_intent, options=options.REPAIR, subject=SNAPSHOT),
    Case(name="reconcile.repair", title="keep snapshot", ready=keep_snapshot, options=options.REPAIR, subject=SNAPSHOT),
    Case(name="reconcile.repair", title="tell unneeded", ready=tell_unneeded, options=options.REPAIR, subject=LAUNCHED),
    Case(name="reconcile.repair", title="finish retirement", ready=finish_retirement, options=options.REPAIR, subject=LAUNCHED),
    Case(name="reconcile.report", ready=report, options=options.COMPARE, subject=SNAPSHOT),
    Case(name="reconcile.node", ready=look_at_node, options=options.node_look(20.0), subject=LAUNCHED, of=node_of),
    Case(
        name="reconcile.repair_on_node",
        title="stop process",
        ready=stop_process,
        options=options.REPAIR_ON_NODE,
        subject=LAUNCHED,
    ),
    Case(
        name="reconcile.repair_on_node", title="remove file", ready=remove_file, options=options.REPAIR_ON_NODE, subject=LAUNCHED
    ),
)
