"""Wire models of Okapi's routes. They check types and refuse unknown members; the core reads the meaning."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from upgrade_core.ids import MAX_MODULE_ID

_Id = Annotated[str, StringConstraints(min_length=1, max_length=MAX_MODULE_ID)]
_Name = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]


class Strict(BaseModel):
    """Unknown members are refused, as Okapi does; types are not coerced."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class RoutingEntryWire(Strict):
    """A handler or filter."""

    methods: list[str] | None = None
    pathPattern: str | None = None  # noqa: N815 - wire name
    path: str | None = None
    rewritePath: str | None = None  # noqa: N815
    phase: str | None = None
    level: str | None = None
    type: str | None = None
    redirectPath: str | None = None  # noqa: N815
    unit: str | None = None
    delay: str | None = None
    schedule: dict[str, Any] | None = None
    permissionsRequired: list[str] | None = None  # noqa: N815
    permissionsDesired: list[str] | None = None  # noqa: N815
    permissionsRequiredTenant: list[str] | None = None  # noqa: N815
    modulePermissions: list[str] | None = None  # noqa: N815
    delegateCORS: bool | None = None  # noqa: N815


class InterfaceWire(Strict):
    """An entry of `provides`, `requires` or `optional`."""

    id: _Name | None = None
    version: str | None = None
    interfaceType: str | None = None  # noqa: N815
    handlers: list[RoutingEntryWire] | None = None
    scope: list[str] | None = None


class EnvWire(Strict):
    """An environment variable."""

    name: Annotated[str, StringConstraints(min_length=1, pattern=r"^[^=\x00]+$")]
    value: _Name | None = None
    description: str | None = None
    required: bool | None = None


class LaunchWire(Strict):
    """A launch descriptor."""

    exec: _Name | None = None
    cmdlineStart: _Name | None = None  # noqa: N815
    cmdlineStop: _Name | None = None  # noqa: N815
    waitIterations: int | None = None  # noqa: N815
    dockerImage: str | None = None  # noqa: N815
    dockerPull: bool | None = None  # noqa: N815
    dockerCMD: list[str] | None = None  # noqa: N815
    dockerArgs: dict[str, Any] | None = None  # noqa: N815
    env: list[EnvWire] | None = None


class PermissionWire(BaseModel):
    """A permission; real descriptors hold odd types here, which are kept as they are."""

    model_config = ConfigDict(extra="allow")

    permissionName: str  # noqa: N815


class ModuleDescriptorWire(Strict):
    """A module descriptor."""

    id: _Id
    name: str | None = None
    tags: list[str] | None = None
    requires: list[InterfaceWire] | None = None
    optional: list[InterfaceWire] | None = None
    provides: list[InterfaceWire] | None = None
    filters: list[RoutingEntryWire] | None = None
    permissionSets: list[PermissionWire] | None = None  # noqa: N815
    env: list[EnvWire] | None = None
    metadata: dict[str, Any] | None = None
    uiDescriptor: dict[str, Any] | None = None  # noqa: N815
    launchDescriptor: LaunchWire | None = None  # noqa: N815
    replaces: list[str] | None = None


class TenantWire(Strict):
    """A tenant."""

    id: str | None = None
    name: _Name | None = None
    description: _Name | None = None


class TenantModuleWire(BaseModel):
    """A line of an install request, or what a binding route is told, of which only the id counts.

    The answer of a simulation may be sent back, so what it adds is let through.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)

    id: _Id
    from_: str | None = Field(default=None, alias="from")
    action: Literal["enable", "disable", "uptodate", "suggest", "conflict"] | None = None
    message: str | None = None
    stage: str | None = None
    errors: list[Any] | None = None
    warnings: list[Any] | None = None
    messages: list[Any] | None = None
    outcome: str | None = None
    progress: str | None = None


class DeploymentWire(Strict):
    """A deployment descriptor."""

    srvcId: str | None = None  # noqa: N815
    instId: _Name | None = None  # noqa: N815
    nodeId: str | None = None  # noqa: N815
    url: str | None = None
    descriptor: LaunchWire | None = None


class NodeWire(Strict):
    """A node descriptor."""

    nodeId: str | None = None  # noqa: N815
    url: str | None = None
    nodeName: str | None = None  # noqa: N815


class EnvironmentWire(Strict):
    """An entry of `/_/env`."""

    name: str | None = None
    value: _Name | None = None
    description: _Name | None = None


class SignalWire(Strict):
    """What a module or an operator signals (requirement A4).

    Attributes:
        hold: UPDATE: the id that the sender chose for its hold, so that a retry is the same one; RESUME: the hold to open.
        ttl: Seconds after which requesters are told MISSING instead of DELAY; the hold stays.
        grace: Seconds that old requests get.
    """

    event: Literal["UPDATE", "RESUME", "DISCONNECT"]
    instance: Annotated[str, StringConstraints(min_length=1, max_length=300, pattern=r"^[^\x00]+$")] | None = None
    tenant: Annotated[str, StringConstraints(min_length=1, max_length=300, pattern=r"^[^\x00]+$")] | None = None
    hold: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{8,300}$")] | None = None
    ttl: Annotated[float, Field(gt=0, le=1e8, strict=False)] | None = None
    grace: Annotated[float, Field(ge=0, le=3600, strict=False)] | None = None
    reason: Annotated[str, StringConstraints(max_length=2_000, pattern=r"^[^\x00]*$")] = "update"


class RoutingWire(Strict):
    """Which version a tenant's requests go to."""

    routing: Literal["pinned", "newest"]


class ResolveWire(Strict):
    """What a person decides about a job that cannot go on by itself.

    Attributes:
        reason: Why, for those who read the job.
        force: `new` although tenant init did not end well.
    """

    decision: Literal["retry", "skip", "old", "new"]
    reason: Annotated[str, StringConstraints(max_length=2_000, pattern=r"^[^\x00]*$")] = ""
    force: bool = False


class PhaseWire(Strict):
    """What a run is doing."""

    phase: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    subject: str = ""
    stage: str = ""
    message: str = ""


class DataVersionWire(Strict):
    """The version that a tenant's data is at."""

    module: _Id | None = None
