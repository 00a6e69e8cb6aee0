"""The only code that speaks SQL to the gateway's database."""

from gateway.store.database import Database, DatabaseError, SecondReplica
from gateway.store.instances import InstanceStore
from gateway.store.jobs import JobStore
from gateway.store.outbox import OutboxStore
from gateway.store.problems import ProblemStore
from gateway.store.registry import Conflict, RegistryStore
from gateway.store.rows import HoldRow, InstanceRow, IntentRow, JobRow, OverlayRow, SnapshotRow, TenantRow
from gateway.store.runs import RunStore

__all__ = [
    "Conflict",
    "Database",
    "DatabaseError",
    "HoldRow",
    "InstanceRow",
    "InstanceStore",
    "IntentRow",
    "JobRow",
    "JobStore",
    "OutboxStore",
    "OverlayRow",
    "ProblemStore",
    "RegistryStore",
    "RunStore",
    "SecondReplica",
    "SnapshotRow",
    "TenantRow",
]
