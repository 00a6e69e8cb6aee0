"""What is compared: the gateway's rows, Temporal's open runs, the processes and files of each node."""

import re
from dataclasses import dataclass, field

from upgrade_core.runs import MODULE_VERSION

_JOB_ID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_JOB = re.compile(_JOB_ID, re.ASCII)
_COPY = re.compile(rf"(?P<job>{_JOB_ID})-(?P<product>[^/]+)\.dump(?P<part>\.part)?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenJob:
    """A job that has not ended; `started`: its run was handed over to Temporal."""

    id: str
    started: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A job says that it needs an instance of a version."""

    module: str
    job: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A tenant init that has not ended; `alive`: the very process that was asked is registered still."""

    key: str
    job: str
    tenant: str
    product: str
    module: str
    alive: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """An overlay that is open or closing, without its token, which is a secret."""

    job: str
    tenant: str
    product: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldLink:
    """A hold that belongs to a job."""

    id: str
    job: str
    tenant: str
    product: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """A registered instance that was deployed by us."""

    id: str
    module: str
    node: str
    generation: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A version that tenants have.

    Attributes:
        tenants: How many.
        some: The first of them.
        served: Whether an instance of it is registered, or it needs none.
    """

    module: str
    tenants: int = 1
    some: tuple[str, ...] = ()
    served: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Stale:
    """Idle tenants that have one version while their data is at another one, which tenant init has never been asked to leave."""

    module: str
    data: str
    tenants: int = 1
    some: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The row of a copy.

    Attributes:
        kept: Whether the time that it is kept has begun.
    """

    id: str
    job: str
    node: str
    kept: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """What the gateway's database says, at one moment.

    Attributes:
        jobs: Those that have not ended.
        intents: Those that have not ended.
        snapshots: Those whose time has not begun.
        retiring: Versions that are marked as on their way out.
        asked_for: Versions that were deployed by discovery: they are needed without a tenant.
        nodes: Nodes that a worker was heard of on, or that have instances.
        oldest_job: Seconds since the oldest open job was asked for; 0 without one.
    """

    jobs: tuple[OpenJob, ...] = ()
    claims: tuple[Claim, ...] = ()
    intents: tuple[Intent, ...] = ()
    overlays: tuple[Overlay, ...] = ()
    holds: tuple[HeldLink, ...] = ()
    instances: tuple[Deployed, ...] = ()
    bound: tuple[Bound, ...] = ()
    stale: tuple[Stale, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()
    retiring: tuple[str, ...] = ()
    asked_for: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    oldest_job: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRun:
    """A run that Temporal has open; `type` is its workflow's name."""

    id: str
    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """An instance that runs on a node by the deployer's own record."""

    instance: str
    module: str
    generation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyFile:
    """A file with a name that our copies have.

    Attributes:
        path: Below the folder of copies.
        age: Seconds since it was written to.
        part: Whether it is a half copy.
        over: Whether it is older than any copy is kept.
    """

    path: str
    job: str
    age: float
    part: bool = False
    over: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """What a node has.

    Attributes:
        silent: Whether no worker of it answered: nothing is known.
        trouble: What could not be read there.
        lost: Rows of copies on this node whose file is not there.
        files: Files of copies that no row names.
    """

    node: str
    silent: bool = False
    trouble: str = ""
    processes: tuple[Process, ...] = ()
    lost: tuple[Snapshot, ...] = ()
    files: tuple[CopyFile, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Everything that is compared."""

    ledger: Ledger = field(default_factory=Ledger)
    runs: tuple[OpenRun, ...] = ()
    nodes: tuple[NodeView, ...] = ()


def read_copy_name(name: str) -> tuple[str, bool] | None:
    """The job of a file that our copies may be in, and whether it is a half one; None for any other file."""
    found = _COPY.fullmatch(name)
    return None if found is None else (found["job"], found["part"] is not None)


def job_of(run: OpenRun) -> str | None:
    """The job that a run works for; None for one that works for no job."""
    job = run.id.partition("/")[0]
    return job if run.type != MODULE_VERSION and _JOB.fullmatch(job) else None
