"""Rows as values."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, TypeVar

_Row = TypeVar("_Row")
EVERY_TENANT = "*"
"""What a module-wide hold has for a tenant."""


def row_of(kind: type[_Row], columns: Mapping[str, Any]) -> _Row:
    """A value of a row as JSON; columns that a newer gateway has added are none of our business."""
    return kind(**{field.name: columns[field.name] for field in fields(kind)})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantRow:
    """A tenant; `routing` is `pinned` or `newest` (requirement A5)."""

    id: str
    name: str | None = None
    description: str | None = None
    routing: str = "pinned"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRow:
    """An instance; `node` is None for those that the site registered."""

    id: str
    module: str
    url: str
    node: str | None = None
    generation: str | None = None
    descriptor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldRow:
    """A hold; see `upgrade_core.protocol`.

    Attributes:
        tenant: The tenant, or `*` for all.
        until: When waiters are told MISSING instead of DELAY; the hold stays.
        holder: Who alone opens it: `job <id>`, `module <instance>` or `operator <name>`.
        grace: Seconds that old requests get.
        origin: The replica that took the UPDATE.
    """

    id: str
    job: str | None
    tenant: str
    product: str
    state: str
    reason: str
    since: datetime
    until: datetime | None
    holder: str
    grace: float
    origin: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """An install job; `request`, `plan`, `modules`, `errors`, `warnings` and `resolution` are parsed JSON.

    Attributes:
        run: Workflow id of the run that took the job over; None: its first one, which has the job's id.
        resolution: The decision that this run carries out: `decision`, `groups`, `number`.
    """

    id: str
    tenant: str
    request: dict[str, Any]
    plan: dict[str, Any] | None
    modules: list[dict[str, Any]]
    state: str
    started: bool
    abort_requested: bool
    status: str
    outcome: str | None
    phase: str
    errors: list[dict[str, Any]]
    warnings: list[dict[str, Any]]
    held_seconds: float
    start_date: datetime
    end_date: datetime | None
    run: str | None = None
    resolution: dict[str, Any] | None = None

    @property
    def run_id(self) -> str:
        """Workflow id of the run that works on it, or did at last."""
        return self.run or self.id


@dataclass(frozen=True, slots=True, kw_only=True)
class IntentRow:
    """That tenant init is about to be, or was, asked for."""

    key: str
    job: str
    tenant: str
    product: str
    module: str
    instance: str
    generation: str | None
    state: str
    job_path: str | None
    asked: int
    answer: dict[str, Any] | None
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayRow:
    """A secret path prefix; see `gateway.routing`."""

    token: str
    job: str
    tenant: str
    product: str
    module: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRow:
    """A copy of a tenant's data of one module."""

    id: str
    job: str
    tenant: str
    product: str
    module: str | None
    node: str
    dsn: str
    schema: str
    path: str
    size: int
    digest: str
    existed: bool
    taken: datetime
    expires: datetime | None
