"""For each activity: what comes before it, and its request."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from activities import options
from activities.options import Options
from activities.signatures import FinishStep, FollowRequest, InitState, JobRef, ModuleRef, PhaseStep, Told
from gateway_client import Instance
from tests.integration.faults.world import SERVER, Subject, World
from upgrade_core.descriptors import Undo

Method = Callable[[Any], Awaitable[Any]]


@dataclass(frozen=True)
class Ready:
    """An activity that may run now, and what it is asked."""

    method: Method
    request: Any


@dataclass(frozen=True, kw_only=True)
class Case:
    """One situation of an activity.

    Attributes:
        name: The activity's, as workflows call it.
        ready: Brings a subject to the point before it.
        options: Its options.
        subject: How its subject is made.
        twice_at_once: Whether two attempts may run at the same time.
    """

    name: str
    ready: Callable[[World, Subject], Awaitable[Ready]]
    options: Options
    subject: dict[str, Any]
    title: str = ""
    twice_at_once: bool = False

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


async def verify(world: World, subject: Subject) -> Ready:
    await world.steps_undisturbed(update, subject)
    return Ready(world.checks.verify, world.checked(subject))


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


SNAPSHOT: dict[str, Any] = {"undo": Undo.SNAPSHOT}
REVERSIBLE: dict[str, Any] = {"undo": Undo.REVERSIBLE, "rerunnable": True}
LAUNCHED: dict[str, Any] = {"launch": SERVER}

CASES = (
    Case(name="gateway.begin", ready=begin, options=options.SHORT, subject=SNAPSHOT),
    Case(name="gateway.acquire", ready=acquire, options=options.ACQUIRE, subject=SNAPSHOT, twice_at_once=True),
    Case(name="gateway.give_back", ready=give_back, options=options.UNDO, subject=SNAPSHOT),
    Case(name="gateway.update", ready=update, options=options.UPDATE, subject=SNAPSHOT, twice_at_once=True),
    Case(name="gateway.switch", ready=switch, options=options.SHORT, subject=SNAPSHOT),
    Case(name="gateway.resume_old", ready=resume_old, options=options.UNDO, subject=SNAPSHOT),
    Case(name="gateway.release", ready=release, options=options.SHORT, subject=SNAPSHOT),
    Case(name="gateway.set_phase", ready=set_phase, options=options.SHORT, subject=SNAPSHOT),
    Case(name="gateway.finish", ready=finish, options=options.SHORT, subject=SNAPSHOT),
    Case(name="checks.check", ready=check, options=options.CHECK, subject=SNAPSHOT),
    Case(name="checks.verify", ready=verify, options=options.VERIFY, subject=SNAPSHOT | {"checked": "/a"}),
    Case(name="snapshots.take", ready=take, options=options.COPY, subject=SNAPSHOT),
    Case(name="tenant_init.start", ready=start, options=options.INIT, subject=SNAPSHOT),
    Case(name="tenant_init.start", title="of a job", ready=start, options=options.INIT, subject=SNAPSHOT | {"how": "job"}),
    Case(name="tenant_init.start", title="without a copy", ready=start_without_copy, options=options.INIT, subject=REVERSIBLE),
    Case(name="tenant_init.follow", ready=follow, options=options.FOLLOW, subject=SNAPSHOT | {"how": "job"}, twice_at_once=True),
    Case(name="tenant_init.undo", ready=undo, options=options.UNDO, subject=SNAPSHOT),
    Case(name="tenant_init.undo", title="reversible", ready=undo_reversible, options=options.UNDO, subject=REVERSIBLE),
    Case(name="tenant_init.undo", title="of nothing", ready=undo_of_nothing, options=options.UNDO, subject=SNAPSHOT),
    Case(name="deploy.place", ready=place, options=options.SHORT, subject=LAUNCHED),
    Case(name="deploy.start", ready=deployed, options=options.DEPLOY, subject=LAUNCHED),
    Case(name="deploy.retire", ready=retire, options=options.SHORT, subject=LAUNCHED),
    Case(name="deploy.stop", ready=stop, options=options.DEPLOY, subject=LAUNCHED),
    Case(name="deploy.retired", ready=retired, options=options.SHORT, subject=LAUNCHED),
)
