"""What workflows see of activities: names, one request value each, and results. Names are wire format; values only grow."""

from dataclasses import dataclass

from temporalio import activity

from upgrade_core.descriptors import Undo
from upgrade_core.known import Fact
from upgrade_core.module_steps import StepEffect, StepKind
from upgrade_core.plan import Change, Plan
from upgrade_core.reconcile import Found, NodeView, Repair, Report


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRef:
    """Names a job."""

    job: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """What a run needs to know of its job."""

    tenant: str
    plan: Plan
    parameters: tuple[tuple[str, str | None], ...] = ()
    deploy: bool | None = None
    invoke: str = "true"
    ignore_errors: bool = False
    parallel: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRequest:
    """One step of one change.

    Attributes:
        group: Key of the change's group.
        deploy: Whether a version without an instance is deployed; None: if it has a launch descriptor.
        invoke: `true`, `false`, or an expression that must match the module id for tenant init to be called.
        known: What the run knows to be on record; see `activities.knowing`.
    """

    job: str
    tenant: str
    group: str
    change: Change
    deploy: bool | None = None
    invoke: str = "true"
    known: tuple[Fact, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What `check` found out about a change.

    Attributes:
        needs_instance: Whether anything is called on an instance of the version to go to.
        calls_init: Whether its dialect of tenant init has a call for this change.
        undo: The undo mode that holds.
        dsn: Where its data is, by reference; empty if unknown.
        schema: Schema of the tenant's data; empty if unknown.
        copies: Whether a snapshot is taken before tenant init.
        copies_at_once: How many copies of a group may be taken at once.
        init_module: The module whose instance is asked for tenant init.
        verifies: Whether there are checks to run before the switch.
        soak: Seconds to watch the new version after the switch.
        warnings: What the operator should know.
        tells: The enabled permissions module that is told of the change; empty: there is none, or it is not to be called.
        is_told: Whether the version to go to is a permissions module, which is told of its own sets and those of others.
        prechecks: How many prechecks the version to go to has.
        post_steps: How many post steps it has.
    """

    needs_instance: bool = True
    calls_init: bool = True
    undo: Undo = Undo.MODULE
    dsn: str = ""
    schema: str = ""
    copies: bool = False
    copies_at_once: int = 1
    init_module: str = ""
    verifies: bool = False
    soak: float = 0.0
    warnings: tuple[str, ...] = ()
    tells: str = ""
    is_told: bool = False
    prechecks: int = 0
    post_steps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedChange:
    """A step of a change that `check` has looked at.

    Attributes:
        key: Key of the step's request, the same for every retry.
        asks: How often tenant init (in `undo`: its reverse) may have been asked for: more than once only when a person
            decided so.
        parameters: Key and value pairs for tenant init.
        known: What the run knows to be on record.
    """

    job: str
    tenant: str
    group: str
    change: Change
    checked: Checked
    key: str = ""
    asks: int = 1
    parameters: tuple[tuple[str, str | None], ...] = ()
    known: tuple[Fact, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStep:
    """A step of a whole group.

    Attributes:
        changes: The group's changes.
        quiet: (dsn reference, schema) pairs that must be without locks before the step is over.
        known: What the run knows to be on record.
    """

    job: str
    tenant: str
    group: str
    changes: tuple[Change, ...]
    quiet: tuple[tuple[str, str], ...] = ()
    known: tuple[Fact, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InitState:
    """Where a tenant init is.

    Attributes:
        effect: `done`, `follow`, `refused`, `failed`, or `unknown` (nobody can say whether it ran; a person decides).
        job_path: Where its job is looked at.
        instance: The instance that was asked.
        asked: How often it was asked for so far.
    """

    effect: str
    outcome: str = ""
    job_path: str = ""
    instance: str = ""
    messages: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    asked: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowRequest:
    """A tenant-init job to follow to its end."""

    step: CheckedChange
    state: InitState


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoResult:
    """What undoing tenant init came to.

    Attributes:
        done: Whether everything is as before; otherwise a person decides.
        left: What is left, one sentence each.
        warnings: What the operator should know.
        asked: How often the module was asked to take its migration back so far.
    """

    done: bool = True
    left: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    asked: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """A snapshot that was taken."""

    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the checks said; empty failures mean that all are well."""

    failures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TellStep:
    """What a permissions module is told, in this order. Telling the same again changes nothing.

    Attributes:
        group: Key of the group on whose behalf it is told.
        teller: The permissions module, by its id.
        modules: Module ids whose sets it is told.
        gone: Module ids that it is told to have no sets any more.
        enabled: Whether it is also told the sets of all that the tenant has enabled.
        changed: Changes of the group that are done already: what they go to is told, not what they leave.
        overlay: Whether it is itself part of the group, so that what it calls must get past the hold.
        known: What the run knows to be on record.
    """

    job: str
    tenant: str
    group: str
    teller: str
    modules: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    enabled: bool = False
    changed: tuple[Change, ...] = ()
    overlay: bool = False
    known: tuple[Fact, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleStepRequest:
    """One of a version's prechecks or post steps.

    Attributes:
        module: The version whose descriptor has it.
        kind: Which list it is in.
        index: Its place there, from 0.
        bound: Module id that the tenant has enabled now; None: none. A precheck of the old version is left out then.
        known: What the run knows to be on record.
    """

    job: str
    tenant: str
    module: str
    kind: StepKind
    index: int
    bound: str | None = None
    known: tuple[Fact, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleStepState:
    """Where a precheck or post step is.

    Attributes:
        effect: `done`, `follow` or `failed`.
        job_path: Where its job is looked at.
        begun: When it was asked for, in seconds since 1970.
    """

    effect: StepEffect
    job_path: str = ""
    begun: float = 0.0
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowModuleStep:
    """The job of a precheck or post step, to follow to its end."""

    step: ModuleStepRequest
    state: ModuleStepState


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An error or warning for the job (requirement C3)."""

    message: str
    type: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishStep:
    """The end of a job; `known` is what the run knows to be on record."""

    job: str
    outcome: str
    errors: tuple[Told, ...] = ()
    warnings: tuple[Told, ...] = ()
    known: tuple[Fact, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseStep:
    """What a job is doing, for people.

    Attributes:
        subject: The line of the job that it is about.
        message: What its line is told.
        others: Lines that it is about, too.
        others_message: What those are told.
        known: What the run knows to be on record.
    """

    job: str
    phase: str
    subject: str = ""
    message: str = ""
    others: tuple[str, ...] = ()
    others_message: str = ""
    known: tuple[Fact, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleRef:
    """Names a module version, and on which node.

    Attributes:
        now: Whether to leave out the grace of the old version (undo).
    """

    module: str
    node: str = ""
    now: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a version's instance runs; an empty node: nothing of ours is to be done."""

    node: str = ""
    retire_after: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retirement:
    """Whether a version was marked as on its way out.

    Attributes:
        nodes: The nodes whose instances are to be stopped.
        needed_by: Who needs it, if it was not.
    """

    marked: bool
    nodes: tuple[str, ...] = ()
    needed_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What a reconcile run looks at.

    Attributes:
        nodes: The nodes.
        settle: Seconds between its two looks.
        node_wait: Seconds that a look at a node may take.
    """

    nodes: tuple[str, ...] = ()
    settle: float = 10.0
    node_wait: float = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRef:
    """Names a node."""

    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """What the nodes have."""

    nodes: tuple[NodeView, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairStep:
    """One repair of a reconcile run."""

    repair: Repair


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """Whether a repair was made; if not, why not."""

    done: bool
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportStep:
    """What a reconcile run came to."""

    report: Report


class GatewaySteps:
    """Steps that the gateway does."""

    @activity.defn(name="gateway.begin")
    async def begin(self, request: JobRef) -> Begun:
        """Fix the plan of a job."""
        raise NotImplementedError

    @activity.defn(name="gateway.acquire")
    async def acquire(self, request: ChangeRequest) -> None:
        """Claim the new version and wait until an instance of it is healthy."""
        raise NotImplementedError

    @activity.defn(name="gateway.give_back")
    async def give_back(self, request: ChangeRequest) -> None:
        """Undo of `acquire`: the claim is given back, and what nobody else needs is gone."""
        raise NotImplementedError

    @activity.defn(name="gateway.update")
    async def update(self, request: GroupStep) -> None:
        """UPDATE on the group's links, and wait until nothing of the old versions is at work."""
        raise NotImplementedError

    @activity.defn(name="gateway.show")
    async def show(self, request: ChangeRequest) -> None:
        """Let the others of the group reach a new version that has no tenant init; the others are reached from theirs on."""
        raise NotImplementedError

    @activity.defn(name="gateway.switch")
    async def switch(self, request: GroupStep) -> None:
        """Bind to the new versions and RESUME, in one transaction."""
        raise NotImplementedError

    @activity.defn(name="gateway.resume_old")
    async def resume_old(self, request: GroupStep) -> None:
        """Undo of `update`: RESUME on the old versions."""
        raise NotImplementedError

    @activity.defn(name="gateway.release")
    async def release(self, request: GroupStep) -> None:
        """Give the claims back; what nobody needs any more retires after its grace."""
        raise NotImplementedError

    @activity.defn(name="gateway.set_phase")
    async def set_phase(self, request: PhaseStep) -> None:
        """Tell people what a job is doing."""
        raise NotImplementedError

    @activity.defn(name="gateway.finish")
    async def finish(self, request: FinishStep) -> None:
        """End a job."""
        raise NotImplementedError


class CheckSteps:
    """Looking before and after."""

    @activity.defn(name="checks.check")
    async def check(self, request: ChangeRequest) -> Checked:
        """Everything that can be found out before anybody is held."""
        raise NotImplementedError

    @activity.defn(name="checks.recall")
    async def recall(self, request: ChangeRequest) -> Checked:
        """What `check` had found out, from what the lost run left: nothing is judged anew, since the data may be half changed."""
        raise NotImplementedError

    @activity.defn(name="checks.verify")
    async def verify(self, request: CheckedChange) -> Verdict:
        """The descriptor's checks through the overlay, as the tenant."""
        raise NotImplementedError


class TenantInitSteps:
    """Tenant init and its undo."""

    @activity.defn(name="tenant_init.start")
    async def start(self, request: CheckedChange) -> InitState:
        """Ask for tenant init, once."""
        raise NotImplementedError

    @activity.defn(name="tenant_init.follow")
    async def follow(self, request: FollowRequest) -> InitState:
        """Follow its job to the end."""
        raise NotImplementedError

    @activity.defn(name="tenant_init.undo")
    async def undo(self, request: CheckedChange) -> UndoResult:
        """Take back what tenant init did, never under a running migration."""
        raise NotImplementedError

    @activity.defn(name="tenant_init.settle")
    async def settle(self, request: CheckedChange) -> UndoResult:
        """Take tenant init for done, because a person says so: nothing migrates any more, the data is the new version's."""
        raise NotImplementedError


class PermissionSteps:
    """Telling permissions modules (`_tenantPermissions`)."""

    @activity.defn(name="permissions.tell")
    async def tell(self, request: TellStep) -> None:
        """Tell a permissions module which sets modules have now."""
        raise NotImplementedError

    @activity.defn(name="permissions.tell_old")
    async def tell_old(self, request: TellStep) -> UndoResult:
        """Undo of `tell`: tell it which sets they had."""
        raise NotImplementedError


class ModuleSteps:
    """What descriptors ask for before the hold (`prechecks`) and after the switch (`post_steps`)."""

    @activity.defn(name="module_steps.start")
    async def start(self, request: ModuleStepRequest) -> ModuleStepState:
        """Send its request."""
        raise NotImplementedError

    @activity.defn(name="module_steps.follow")
    async def follow(self, request: FollowModuleStep) -> ModuleStepState:
        """Follow the job that it began to its end."""
        raise NotImplementedError

    @activity.defn(name="module_steps.close")
    async def close(self, request: ChangeRequest) -> None:
        """Close what a change's prechecks reached the new version through."""
        raise NotImplementedError


class SnapshotSteps:
    """Copies of a tenant's data."""

    @activity.defn(name="snapshots.take")
    async def take(self, request: CheckedChange) -> Copied:
        """Copy the data that nobody writes to now."""
        raise NotImplementedError


class DeploySteps:
    """Instances of module versions."""

    @activity.defn(name="deploy.place")
    async def place(self, request: ModuleRef) -> Placement:
        """Choose the node for a version's instance."""
        raise NotImplementedError

    @activity.defn(name="deploy.start")
    async def start(self, request: ModuleRef) -> None:
        """Start an instance on this node, or adopt it, and register it when it is healthy."""
        raise NotImplementedError

    @activity.defn(name="deploy.retire")
    async def retire(self, request: ModuleRef) -> Retirement:
        """Mark a version as on its way out if nobody needs it."""
        raise NotImplementedError

    @activity.defn(name="deploy.stop")
    async def stop(self, request: ModuleRef) -> None:
        """Stop the instances of a version on this node."""
        raise NotImplementedError

    @activity.defn(name="deploy.retired")
    async def retired(self, request: ModuleRef) -> None:
        """Say that a version is gone."""
        raise NotImplementedError


class ReconcileSteps:
    """Comparing what rows, runs, processes and files say (requirement D3)."""

    @activity.defn(name="reconcile.begin")
    async def begin(self) -> Reach:
        """Which nodes are to be looked at."""
        raise NotImplementedError

    @activity.defn(name="reconcile.compare")
    async def compare(self, request: Views) -> Found:
        """Compare what the nodes have with the gateway's rows and Temporal's open runs."""
        raise NotImplementedError

    @activity.defn(name="reconcile.repair")
    async def repair(self, request: RepairStep) -> Repaired:
        """Repair one difference, if it is still one."""
        raise NotImplementedError

    @activity.defn(name="reconcile.report")
    async def report(self, request: ReportStep) -> None:
        """Tell the gateway what a run came to."""
        raise NotImplementedError


class NodeReconcileSteps:
    """As `ReconcileSteps`, on one node."""

    @activity.defn(name="reconcile.node")
    async def look(self, request: NodeRef) -> NodeView:
        """Processes and files of this node."""
        raise NotImplementedError

    @activity.defn(name="reconcile.repair_on_node")
    async def repair(self, request: RepairStep) -> Repaired:
        """Repair one difference of this node, if it is still one."""
        raise NotImplementedError
