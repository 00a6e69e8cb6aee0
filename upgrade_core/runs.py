"""The values that start runs, and the names that the gateway, the workflows and the Temporal UI share.

Payloads only grow: new members have defaults; names are wire format.
"""

from dataclasses import dataclass

from upgrade_core.known import Fact
from upgrade_core.plan import Group

TENANT_JOB = "TenantJob"
GROUP_CHANGE = "GroupChange"
MODULE_VERSION = "ModuleVersion"
RESOLVE_JOB = "ResolveJob"
RECONCILE = "Reconcile"
KNOWING = "steps-are-told-what-the-run-knows"
"""Name of the patch since which runs keep what they know (`upgrade_core.known`)."""
SEVERAL = "groups-of-several-changes"
"""Name of the patch since which what leaves in a group is asked to last, and what has no tenant init is shown to the others."""
TELLING = "tenant-permissions"
"""Name of the patch since which groups tell the permissions module."""
STEPPING = "module-steps"
"""Name of the patch since which prechecks and post steps are done."""
DATABASE_DIFFERS = "DatabaseDiffers"
"""Type of the failure of a step whose run did what the gateway's database does not know (412)."""

RUN_HEADER = "X-Uplift-Run"
"""Names the run on whose behalf a step calls the gateway, percent-encoded: one that was replaced by another is refused."""

RECONCILE_RUN = "reconcile"
"""Workflow id of a reconcile run that somebody asked for; a scheduled one's begins with it."""
RECONCILE_SCHEDULE = "uplift-reconcile"
"""Id of the schedule of reconcile runs."""

ATTRIBUTES = (
    "UpliftTenant",
    "UpliftModule",
    "UpliftFrom",
    "UpliftTo",
    "UpliftPhase",
    "UpliftOutcome",
    "UpliftRollout",
    "UpliftActor",
)
"""Search attributes, all of type Keyword, registered by the worker; see `worker.ensuring`."""


def module_run_id(module: str) -> str:
    """Workflow id of the one run that looks after a module version."""
    return f"module/{module}"


def group_run_id(job: str, group: str) -> str:
    """Workflow id of the run of one group of a job."""
    return f"{job}/{group}"


def resolve_run_id(job: str, number: int) -> str:
    """Workflow id of the run that carries out the n-th decision about what a job left held."""
    return f"{job}/resolve-{number}"


def node_queue(task_queue: str, node: str) -> str:
    """Task queue that only one node's workers poll: its instances are touched there."""
    return f"{task_queue}-node-{node}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantJobRequest:
    """Input of `TenantJob`; the workflow's id is the job's id."""

    job: str
    tenant: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRequest:
    """Input of `GroupChange`.

    Attributes:
        deploy: Whether versions without an instance are deployed; None: those that have a launch descriptor are.
        invoke: `true`, `false`, or a regular expression that must match the whole module id for tenant init to be called.
        known: What the job knows to be on record: its plan, and what its earlier groups did.
    """

    job: str
    tenant: str
    group: Group
    parameters: tuple[tuple[str, str | None], ...] = ()
    deploy: bool | None = None
    invoke: str = "true"
    known: tuple[Fact, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupResult:
    """What a group came to when it was switched.

    Attributes:
        about: The product of each warning.
        known: What is on record of it from now on.
        post_steps: Module ids that have post steps, and how many.
    """

    warnings: tuple[str, ...] = ()
    about: tuple[str, ...] = ()
    known: tuple[Fact, ...] = ()
    post_steps: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleVersionRequest:
    """Input of `ModuleVersion`.

    Attributes:
        deployed: Whether it was deployed before a continue-as-new.
        node: Where it is to be deployed; empty: where the first worker is free.
    """

    module: str
    deployed: bool = False
    node: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolveRequest:
    """Input of `ResolveJob`.

    Attributes:
        decision: `old` or `new`.
        groups: Keys of the groups of the job's plan that had a hold when it was decided.
        let_go: Seconds to wait first: steps of the lost run notice by their heartbeats, each second, that it is gone, and what
            they still do must not meet what this one does.
    """

    job: str
    tenant: str
    decision: str
    groups: tuple[str, ...] = ()
    let_go: float = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldPointState:
    """What the query `hold_point` answers.

    Attributes:
        why: Why a person has to decide; empty: the run waits for nobody.
    """

    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileRequest:
    """Input of `Reconcile`.

    Attributes:
        request: Id of who asked for it on demand; empty: the schedule.
        repair: Whether differences that are harmless to repair are repaired.
    """

    request: str = ""
    repair: bool = True
