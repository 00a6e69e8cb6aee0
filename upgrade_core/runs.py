"""The values that start runs, and the names that the gateway, the workflows and the Temporal UI share.

Payloads only grow: new members have defaults; names are wire format.
"""

from dataclasses import dataclass

from upgrade_core.plan import Group

TENANT_JOB = "TenantJob"
GROUP_CHANGE = "GroupChange"
MODULE_VERSION = "ModuleVersion"
RECONCILE = "Reconcile"

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
"""Search attributes, all of type Keyword, registered by the worker at its start."""


def module_run_id(module: str) -> str:
    """Workflow id of the one run that looks after a module version."""
    return f"module/{module}"


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
    """

    job: str
    tenant: str
    group: Group
    parameters: tuple[tuple[str, str | None], ...] = ()
    deploy: bool | None = None
    invoke: str = "true"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupResult:
    """What a group came to when it was switched."""

    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleVersionRequest:
    """Input of `ModuleVersion`.

    Attributes:
        deployed: Whether it was deployed before a continue-as-new.
    """

    module: str
    deployed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileRequest:
    """Input of `Reconcile`.

    Attributes:
        request: Id of who asked for it on demand; empty: the schedule.
        repair: Whether differences that are harmless to repair are repaired.
    """

    request: str = ""
    repair: bool = True
