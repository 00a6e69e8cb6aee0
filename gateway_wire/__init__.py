"""Wire models of the routes that runs use. Member names are camelCase on the wire.

Unknown members are refused in requests, so that a misspelt one cannot be taken for its default, and ignored in answers, so that
an old worker can read a newer gateway.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from upgrade_core.plan import Plan
from upgrade_core.reconcile import Ledger, Report, Verb

Text = Annotated[str, Field(min_length=1, max_length=2_000)]
Id = Annotated[str, Field(min_length=1, max_length=300)]


class Wire(BaseModel):
    """A body of a request."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


class Notice(Wire):
    """An error or a warning of a job (requirement C3)."""

    message: str
    type: str = ""
    code: str = ""
    parameters: tuple[dict[str, str], ...] = ()


class BeginAnswer(_Answer):
    """What a run needs to know of its job."""

    tenant: str
    plan: Plan
    parameters: tuple[tuple[str, str | None], ...] = ()
    deploy: bool | None = None
    invoke: str = "true"
    ignore_errors: bool = False
    parallel: int = 1


class ChangeRef(Wire):
    """Names one change of a job: its product and its line."""

    product: Id
    subject: Id


class ClaimRequest(Wire):
    """A job needs an instance of a module version."""

    module: Id
    subject: Id


class Instance(_Answer):
    """An instance; `node` is None for those that the site registered."""

    id: Id
    module: Id
    url: Text
    node: str | None = None
    generation: str | None = None


class Version(_Answer):
    """One module version: its instances and who needs it."""

    module: str
    instances: tuple[Instance, ...] = ()
    needed_by: tuple[str, ...] = ()
    in_flight: int = 0
    retiring: bool = False


class HoldRequest(Wire):
    """UPDATE on the links of a group at once."""

    group: Id
    changes: Annotated[tuple[ChangeRef, ...], Field(min_length=1)]
    grace: Annotated[float, Field(ge=0, le=3600)] | None = None
    reason: str = "upgrade"


class HoldState(_Answer):
    """A hold, as a place to wait sees it: DELAY until nothing of the old version is at work, RESUME when the holder may begin."""

    id: str
    lifecycle: Literal["DELAY", "RESUME", "MISSING"]
    state: str
    tenant: str | None = None
    product: str | None = None
    holder: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    in_flight: int = 0
    loose: bool = False
    parked: int = 0


class MoveRequest(Wire):
    """What becomes of one product when holds are opened; see `gateway.store.runs.Move`."""

    product: Id
    subject: Id
    bind: bool = False
    module: str | None = None
    purged: bool = False


class OpenRequest(Wire):
    """RESUME for a group, with the switch of its bindings where `bind` says so, in one transaction."""

    group: Id
    moves: Annotated[tuple[MoveRequest, ...], Field(min_length=1)]
    stage: str = "done"


class IntentRequest(Wire):
    """Tenant init is about to be asked for.

    Attributes:
        attempt: Names who is about to ask, so that a repeated request of theirs gets `fresh` again; empty: nobody in particular.
    """

    key: Id
    product: Id
    subject: Id
    module: Id
    instance: Id
    generation: str | None = None
    attempt: str = ""


class InitReport(Wire):
    """What became of a tenant init.

    Attributes:
        asked_again: It is about to be asked for once more, by `attempt`; a repeated report of the same attempt counts once.
        attempt: See `IntentRequest`.
        data_version: The module id that the tenant's data is at from now on; None: not changed.
    """

    state: Literal["asked", "following", "ended"]
    subject: Id
    job_path: str | None = None
    effect: str = ""
    outcome: str = ""
    messages: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    progress: str = ""
    asked_again: bool = False
    attempt: str = ""
    instance: str | None = None
    generation: str | None = None
    data_version: str | None = None


class IntentState(_Answer):
    """An intent; `fresh` is False where it stood already and another attempt wrote it: the call may have been made."""

    key: str
    state: Literal["asked", "following", "ended"]
    fresh: bool = True
    instance: str = ""
    generation: str | None = None
    job_path: str | None = None
    asked: int = 1
    answer: InitReport | None = None
    since: datetime | None = None


class OverlayRequest(Wire):
    """A secret prefix under which a tenant's new version is reached past its hold."""

    product: Id
    module: Id


class Overlay(_Answer):
    """An overlay's address, without a trailing slash."""

    url: str


class Snapshot(_Answer):
    """A copy of a tenant's data of one module."""

    id: Id
    job: Id
    tenant: Id
    product: Id
    module: str | None = None
    node: Id
    dsn: str
    schema_name: str
    path: str = ""
    size: int = 0
    digest: str = ""
    existed: bool = True
    taken: datetime | None = None
    expires: datetime | None = None


class SnapshotPatch(Wire):
    """How long the copies of a job are kept from now on, in seconds."""

    keep: Annotated[float, Field(ge=0)]


class FinishRequest(Wire):
    """The end of a job."""

    outcome: Literal["done", "done_with_warnings", "rolled_back", "rollback_failed", "aborted", "failed"]
    errors: tuple[Notice, ...] = ()
    warnings: tuple[Notice, ...] = ()


class LedgerAnswer(_Answer):
    """What the gateway's database says, for reconcile runs."""

    ledger: Ledger


class RepairRequest(Wire):
    """One repair that the gateway does; see `upgrade_core.reconcile.Repair`.

    Attributes:
        keep: Seconds that a copy is kept from now on.
    """

    verb: Verb
    job: Id
    module: str = ""
    product: str = ""
    subject: str = ""
    keep: Annotated[float, Field(ge=0, le=1e9)] = 0.0


class RepairAnswer(_Answer):
    """Whether it is repaired, now or before."""

    done: bool


class ReconcileReport(Wire):
    """What a reconcile run came to."""

    report: Report
