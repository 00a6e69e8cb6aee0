"""Rows as values."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantRow:
    """A tenant."""

    id: str
    name: str | None = None
    description: str | None = None


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
    """A hold; see `upgrade_core.protocol`."""

    id: str
    job: str | None
    tenant: str
    product: str
    state: str
    reason: str
    since: datetime
    until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """An install job; `request`, `plan`, `modules`, `errors` and `warnings` are parsed JSON."""

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
