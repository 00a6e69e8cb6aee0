"""The only code that speaks SQL to the gateway's database."""

from gateway.store.changes import Changed, ChangeStore, Picture
from gateway.store.credentials import CredentialStore
from gateway.store.database import Database
from gateway.store.deployments import Deployment, DeploymentStore
from gateway.store.errors import DatabaseError, Outdated
from gateway.store.held_times import HeldTimeStore
from gateway.store.holds import HeldByAnother, HoldStore, NewHold
from gateway.store.instances import DISCOVERY, InstanceStore
from gateway.store.jobs import STILL_HELD, JobStore, check_run
from gateway.store.migrations import Migrations
from gateway.store.moves import Move
from gateway.store.nodes import NodeStore, Quiet
from gateway.store.outbox import OutboxStore
from gateway.store.plans import PlanRow, PlanStore
from gateway.store.problems import ProblemStore
from gateway.store.reconcile import ReconcileRow, ReconcileStore
from gateway.store.registry import Conflict, RegistryStore, UsedByJob
from gateway.store.rows import EVERY_TENANT, HoldRow, InstanceRow, IntentRow, JobRow, OverlayRow, SnapshotRow, TenantRow, row_of
from gateway.store.runs import RunStore
from gateway.store.totals import Totals, TotalsStore

__all__ = [
    "DISCOVERY",
    "EVERY_TENANT",
    "STILL_HELD",
    "ChangeStore",
    "Changed",
    "Conflict",
    "CredentialStore",
    "Database",
    "DatabaseError",
    "Deployment",
    "DeploymentStore",
    "HeldByAnother",
    "HeldTimeStore",
    "HoldRow",
    "HoldStore",
    "InstanceRow",
    "InstanceStore",
    "IntentRow",
    "JobRow",
    "JobStore",
    "Migrations",
    "Move",
    "NewHold",
    "NodeStore",
    "OutboxStore",
    "Outdated",
    "OverlayRow",
    "Picture",
    "PlanRow",
    "PlanStore",
    "ProblemStore",
    "Quiet",
    "ReconcileRow",
    "ReconcileStore",
    "RegistryStore",
    "RunStore",
    "SnapshotRow",
    "TenantRow",
    "Totals",
    "TotalsStore",
    "UsedByJob",
    "check_run",
    "row_of",
]
