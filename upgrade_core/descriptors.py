"""Module descriptors as the rules see them: only what decisions need, parsed once from the wire's JSON.

The wire keeps the whole descriptor unchanged (FOLIO's files come back as they were sent); this is the part that routing,
resolution and pipelines read. `metadata.uplift` carries what Uplift adds:

```json
{"undo": "snapshot", "rerunnable": true, "upgrade_from": ">=1.0,<3", "soak": 0,
 "data": {"dsn": "env:USERS_DB", "schema": "{tenant}_{product_}"},
 "checks": [{"method": "GET", "path": "/users/count", "status": 200, "json": {"ok": true}}],
 "prechecks": [{"path": "/users/duplicates", "on": "old", "json": {"count": 0}}],
 "post_steps": [{"path": "/users/reindex", "job": {"path": "/users/reindex/{id}", "done": {"state": "done"}}}],
 "data_version": "/users/_version", "health": "/admin/health"}
```
"""

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from upgrade_core.errors import InvalidDescriptor, InvalidId
from upgrade_core.ids import ModuleId, split_module_id
from upgrade_core.paths import check_path_pattern
from upgrade_core.versions import InterfaceVersion

_ENTRY_TYPES = frozenset(
    {
        "request-response", "request-only", "headers", "redirect", "internal", "request-response-1.0", "request-log",
        "system",
    }
)  # fmt: skip
INTERNAL = "internal"
"""Type of an interface that only the gateway's own module may provide: who registers others refuses it."""
_INTERFACE_TYPES = frozenset({"proxy", "system", "multiple", INTERNAL})
TENANT_PERMISSIONS = "_tenantPermissions"
"""System interface of a permissions module."""
HEALTH = "/admin/health"
"""Where modules of FOLIO say that they are well."""
MAX_TEXT = 2_000
"""Longest path, specifier or pattern that is taken over from a descriptor into a run's payload, in characters."""
MAX_CHECKS = 50
"""Most checks, prechecks or post steps of a module."""
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH")


class Undo(StrEnum):
    """How a failed tenant init of a module is undone (`metadata.uplift.undo`)."""

    SNAPSHOT = "snapshot"
    MODULE = "module"
    REVERSIBLE = "reversible"
    COMPATIBLE = "compatible"
    FORWARD_ONLY = "forward_only"


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """A routing entry: which requests a module answers."""

    methods: tuple[str, ...]
    pattern: str
    prefix_match: bool = False
    type: str = "request-response"
    delegates_cors: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """A provided interface."""

    id: str
    version: str
    type: str = "proxy"
    handlers: tuple[Handler, ...] = ()

    @property
    def is_system(self) -> bool:
        """Whether it plays no part in dependencies: by type, or by an id that starts with `_` (Okapi)."""
        return self.type != "proxy" or self.id.startswith("_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """A required or optional interface; `version` may hold blank-separated alternatives."""

    id: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchDescriptor:
    """How an instance is started, in Okapi's terms."""

    exec: str | None = None
    cmdline_start: str | None = None
    cmdline_stop: str | None = None
    docker_image: str | None = None
    env: tuple[tuple[str, str], ...] = ()

    @property
    def is_process(self) -> bool:
        """Whether plain processes carry it out."""
        return self.docker_image is None and (self.exec is not None or self.cmdline_start is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A smoke check: this request, as the tenant, must be answered so.

    Attributes:
        json: Canonical JSON text that the answer's object must contain; None: the body does not matter.
    """

    method: str
    path: str
    status: int = 200
    json: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepJob:
    """Where the work that a step began is looked at, for modules that do not answer 202 with a Location.

    Attributes:
        path: Its path; `{id}` is the `id` of the answer that began it.
        done: Canonical JSON text that the job's object contains when it has ended well.
        failed: As `done`, when it has failed; None: nothing says so.
    """

    path: str
    done: str
    failed: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleStep:
    """A request of `prechecks` or `post_steps`: sent as the tenant, and followed to its end where it begins a job.

    Attributes:
        body: JSON text that is sent; None: nothing is.
        status: The status it must be answered with; None: any from 200 to 299.
        json: Canonical JSON text that the answer's object, or its job's at the end, must contain; None: it does not matter.
        on_old: Whether the version that the tenant has is asked (prechecks only).
        job: Where its job is looked at; None: at the Location of a 202.
    """

    method: str
    path: str
    body: str | None = None
    status: int | None = None
    json: str | None = None
    on_old: bool = False
    job: StepJob | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpliftMetadata:
    """`metadata.uplift` of a descriptor.

    Attributes:
        prechecks: What must be well before anybody is held.
        post_steps: What is done when the tenant has the version.
        health: Path that a well instance answers with less than 500; FOLIO's habit where the descriptor does not say.
    """

    undo: Undo | None = None
    rerunnable: bool = False
    upgrade_from: str = ""
    soak: float = 0.0
    data_dsn: str = ""
    data_schema: str = ""
    checks: tuple[Check, ...] = ()
    prechecks: tuple[ModuleStep, ...] = ()
    post_steps: tuple[ModuleStep, ...] = ()
    data_version: str = ""
    health: str = HEALTH


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleDescriptor:
    """A module as decisions see it.

    Attributes:
        filters_auth: Whether it decides who may call the others: it has a filter of the phase `auth`.
    """

    id: str
    product: str
    requires: tuple[Requirement, ...] = ()
    optional: tuple[Requirement, ...] = ()
    provides: tuple[Interface, ...] = ()
    replaces: tuple[str, ...] = ()
    launch: LaunchDescriptor | None = None
    uplift: UpliftMetadata = UpliftMetadata()
    filters_auth: bool = False

    @property
    def module_id(self) -> ModuleId:
        """The parsed id."""
        return ModuleId.parse(self.id)

    def interface(self, interface_id: str) -> Interface | None:
        """The provided interface of that id, or None."""
        return next((provided for provided in self.provides if provided.id == interface_id), None)

    @property
    def is_permissions_module(self) -> bool:
        """Whether it is told which permission sets the others define; an interface of another type is no such interface."""
        provided = self.interface(TENANT_PERMISSIONS)
        return provided is not None and provided.type == "system"

    @property
    def is_exclusive(self) -> bool:
        """Whether nothing else goes on while it comes, moves or goes: all others call it, or are told to it (Okapi's rule)."""
        return self.filters_auth or self.is_permissions_module

    @property
    def needs_instance(self) -> bool:
        """Whether anything of it is called over HTTP. UI modules only require; nothing runs for them."""
        return self.launch is not None or any(provided.handlers for provided in self.provides)


def parse_descriptor(wire: Mapping[str, Any]) -> ModuleDescriptor:
    """Read a descriptor whose members have the right types (the wire model saw to that).

    Raises:
        InvalidDescriptor: It contradicts itself; the message is Okapi's where Okapi has one.
        InvalidId: Its id or a version cannot be read.
    """
    module_id = str(wire.get("id") or "")
    product = ModuleId.parse(module_id).product
    provides = tuple(_interface(item, module_id) for item in wire.get("provides") or ())
    for position, provided in enumerate(provides):
        if any(provided.id == earlier.id for earlier in provides[:position]):
            raise InvalidDescriptor(f"Interface {provided.id} provided multiple times")
    for section in ("requires", "optional"):
        for item in wire.get(section) or ():
            if item.get("handlers"):
                raise InvalidDescriptor(f"No handlers allowed in '{section}' section for module {module_id}")
    for entry in wire.get("filters") or ():
        _handler(entry, module_id, needs_permissions=False)
    for name in wire.get("replaces") or ():
        if split_module_id(name)[1] is not None:
            raise InvalidDescriptor(f"No semantic version for: {name}")
    metadata = wire.get("metadata") or {}
    return ModuleDescriptor(
        id=module_id,
        product=product,
        requires=tuple(_requirement(item, module_id) for item in wire.get("requires") or ()),
        optional=tuple(_requirement(item, module_id) for item in wire.get("optional") or ()),
        provides=provides,
        replaces=tuple(wire.get("replaces") or ()),
        launch=parse_launch(wire.get("launchDescriptor")),
        uplift=parse_uplift(metadata.get("uplift")),
        filters_auth=any(entry.get("phase") == "auth" for entry in wire.get("filters") or ()),
    )


def bad_interface_type(kind: str, module_id: str) -> InvalidDescriptor:
    """Okapi's refusal of a type of interface."""
    return InvalidDescriptor(f"Bad interface type '{kind}' for module {module_id}")


def parse_uplift(wire: Any) -> UpliftMetadata:
    """Read `metadata.uplift`; unknown members are refused, since a misspelt undo mode would cost data.

    Raises:
        InvalidDescriptor: With the member's name.
    """
    if wire is None:
        return UpliftMetadata()
    where = "metadata.uplift"
    members = {
        "undo", "rerunnable", "upgrade_from", "soak", "data", "checks", "prechecks", "post_steps", "data_version", "health",
    }  # fmt: skip
    wire = _object(wire, where, members)
    undo = wire.get("undo")
    if undo is not None and undo not in tuple(Undo):  # what JSON holds need not be hashable
        raise InvalidDescriptor(f"{where}.undo: {undo!r} is none of {', '.join(Undo)}")
    rerunnable = wire.get("rerunnable", False)
    if not isinstance(rerunnable, bool):
        raise InvalidDescriptor(f"{where}.rerunnable: must be true or false")
    soak = wire.get("soak", 0)
    if isinstance(soak, bool) or not isinstance(soak, int | float) or not 0 <= soak <= 86_400:  # noqa: PLR2004 - NaN too
        raise InvalidDescriptor(f"{where}.soak: must be seconds from 0 to 86400")
    upgrade_from = _text(wire.get("upgrade_from", ""), f"{where}.upgrade_from")
    try:
        SpecifierSet(upgrade_from)
    except InvalidSpecifier as error:
        raise InvalidDescriptor(f"{where}.upgrade_from: {upgrade_from!r} is no version range like '>=1.0,<3'") from error
    data = _object(wire.get("data", {}), f"{where}.data", {"dsn", "schema"})
    dsn = _text(data.get("dsn", ""), f"{where}.data.dsn")
    if dsn and not dsn.startswith(("env:", "file:")):
        raise InvalidDescriptor(f"{where}.data.dsn: must be a reference, env:NAME or file:PATH, since descriptors are public")
    return UpliftMetadata(
        undo=Undo(undo) if undo is not None else None,
        rerunnable=rerunnable,
        upgrade_from=upgrade_from,
        soak=float(soak),
        data_dsn=dsn,
        data_schema=_text(data.get("schema", ""), f"{where}.data.schema"),
        checks=tuple(_check(item, at) for at, item in _listed(wire, where, "checks", "checks")),
        prechecks=tuple(_precheck(item, at) for at, item in _listed(wire, where, "prechecks", "checks")),
        post_steps=tuple(_post_step(item, at) for at, item in _listed(wire, where, "post_steps", "steps")),
        data_version=_path(wire.get("data_version", ""), f"{where}.data_version"),
        health=_path(wire.get("health", ""), f"{where}.health") or HEALTH,
    )


@functools.lru_cache(maxsize=4_096)
def accepts_upgrade_from(specifier: str, version: str) -> bool:
    """Whether a range of `metadata.uplift.upgrade_from` holds a version.

    Versions are compared as PEP 440 has them, pre-releases included; one that PEP 440 cannot read is compared by its numbers.
    """
    if not specifier:
        return True
    try:
        parsed = Version(version)
    except InvalidVersion:
        parsed = Version(version.partition("-")[0].partition("+")[0])
    return SpecifierSet(specifier).contains(parsed, prereleases=True)


def _interface(wire: Mapping[str, Any], module_id: str) -> Interface:
    if not wire.get("id"):
        raise InvalidDescriptor(f"id is missing for module {module_id}")
    version = _version(wire, module_id)
    InterfaceVersion.parse(version.split()[0])
    kind = wire.get("interfaceType") or "proxy"
    if kind not in _INTERFACE_TYPES:
        raise bad_interface_type(kind, module_id)
    needs_permissions = kind != "system" and not wire["id"].startswith("_")
    return Interface(
        id=wire["id"],
        version=version,
        type=kind,
        handlers=tuple(_handler(item, module_id, needs_permissions=needs_permissions) for item in wire.get("handlers") or ()),
    )


def _handler(wire: Mapping[str, Any], module_id: str, *, needs_permissions: bool) -> Handler:
    pattern, path = wire.get("pathPattern"), wire.get("path")
    if not pattern and not path:
        raise InvalidDescriptor("Bad routing entry, needs a pathPattern or at least a path")
    if pattern:
        check_path_pattern(pattern)
    kind = wire.get("type") or "request-response"
    if kind not in _ENTRY_TYPES:
        raise InvalidDescriptor(f"Invalid entry type: {kind}")
    if kind == "redirect" and not wire.get("redirectPath"):
        raise InvalidDescriptor("Redirect entry without redirectPath")
    if needs_permissions and kind != "system" and wire.get("permissionsRequired") is None:
        raise InvalidDescriptor(f"Module '{module_id}' handler {pattern or path}: Missing field permissionsRequired")
    return Handler(
        methods=tuple(wire.get("methods") or ()),
        pattern=pattern or path or "",
        prefix_match=not pattern,
        type=kind,
        delegates_cors=bool(wire.get("delegateCORS")),
    )


def _requirement(wire: Mapping[str, Any], module_id: str) -> Requirement:
    if not wire.get("id"):
        raise InvalidDescriptor(f"id is missing for module {module_id}")
    version = _version(wire, module_id)
    for alternative in version.split():
        InterfaceVersion.parse(alternative)
    return Requirement(id=wire["id"], version=version)


def _version(wire: Mapping[str, Any], module_id: str) -> str:
    version = str(wire.get("version") or "").strip()
    if not version:
        raise InvalidDescriptor(f"version is missing for module {module_id}")
    return version


def parse_launch(wire: Mapping[str, Any] | None) -> LaunchDescriptor | None:
    """Read a launch descriptor; None of an empty one."""
    if not wire:
        return None
    return LaunchDescriptor(
        exec=wire.get("exec"),
        cmdline_start=wire.get("cmdlineStart"),
        cmdline_stop=wire.get("cmdlineStop"),
        docker_image=wire.get("dockerImage"),
        env=tuple((item["name"], item.get("value") or "") for item in wire.get("env") or ()),
    )


def _listed(wire: Mapping[str, Any], where: str, member: str, what: str) -> Iterator[tuple[str, Any]]:
    """The items of a list, each with the place where it stands."""
    items = wire.get(member, [])
    if not isinstance(items, list) or len(items) > MAX_CHECKS:
        raise InvalidDescriptor(f"{where}.{member}: must be a list of at most {MAX_CHECKS} {what}")
    return ((f"{where}.{member}[{index}]", item) for index, item in enumerate(items))


def _check(wire: Any, where: str) -> Check:
    wire = _object(wire, where, {"method", "path", "status", "json"})
    return Check(
        method=_method(wire, where, "GET"),
        path=_needed_path(wire, where),
        status=_status(wire.get("status", 200), where),
        json=_json(wire, where, "json"),
    )


def _precheck(wire: Any, where: str) -> ModuleStep:
    wire = _object(wire, where, {"method", "path", "body", "status", "json", "job", "on"})
    on = wire.get("on", "new")
    if on not in ("old", "new"):
        raise InvalidDescriptor(f"{where}.on: must be old or new: the version that is asked")
    return _step(wire, where, method="GET", on_old=on == "old")


def _post_step(wire: Any, where: str) -> ModuleStep:
    wire = _object(wire, where, {"method", "path", "body", "status", "json", "job"})
    return _step(wire, where, method="POST", on_old=False)


def _step(wire: Mapping[str, Any], where: str, *, method: str, on_old: bool) -> ModuleStep:
    return ModuleStep(
        method=_method(wire, where, method),
        path=_needed_path(wire, where),
        body=_json(wire, where, "body"),
        status=_status(wire["status"], where) if "status" in wire else None,
        json=_json(wire, where, "json"),
        on_old=on_old,
        job=_step_job(wire["job"], f"{where}.job") if "job" in wire else None,
    )


def _step_job(wire: Any, where: str) -> StepJob:
    wire = _object(wire, where, {"path", "done", "failed"})
    for name in ("done", "failed"):
        if (name in wire or name == "done") and not (isinstance(wire.get(name), Mapping) and wire[name]):
            raise InvalidDescriptor(f"{where}.{name}: must be an object, not empty, that the job's object contains then")
    done = _json(wire, where, "done")
    assert done is not None
    return StepJob(path=_needed_path(wire, where), done=done, failed=_json(wire, where, "failed"))


def _method(wire: Mapping[str, Any], where: str, default: str) -> str:
    method = wire.get("method", default)
    if method not in _METHODS:
        raise InvalidDescriptor(f"{where}.method: {method!r} is no HTTP method")
    return str(method)


def _status(status: Any, where: str) -> int:
    if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599:  # noqa: PLR2004
        raise InvalidDescriptor(f"{where}.status: must be an HTTP status from 200 to 599")
    return status


def _needed_path(wire: Mapping[str, Any], where: str) -> str:
    path = _path(wire.get("path", ""), f"{where}.path")
    if not path:
        raise InvalidDescriptor(f"{where}.path: is missing")
    return path


def _json(wire: Mapping[str, Any], where: str, member: str) -> str | None:
    """A member's canonical JSON text; None where it is not there."""
    if member not in wire:
        return None
    text = json.dumps(wire[member], sort_keys=True)
    if len(text) > MAX_TEXT:
        raise InvalidDescriptor(f"{where}.{member}: must not exceed {MAX_TEXT} characters")
    return text


def _object(wire: Any, where: str, members: set[str]) -> Mapping[str, Any]:
    if not isinstance(wire, Mapping):
        raise InvalidDescriptor(f"{where}: must be an object")
    for name in _unknown(wire, members):
        raise InvalidDescriptor(f"{where}.{name}: unknown member; known are {', '.join(sorted(members))}")
    return wire


def _unknown(wire: Mapping[str, Any], members: set[str]) -> Iterator[str]:
    return (name for name in wire if name not in members)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise InvalidDescriptor(f"{where}: must be a text of at most {MAX_TEXT} characters")
    return value


def _path(value: Any, where: str) -> str:
    text = _text(value, where)
    if text and not text.startswith("/"):
        raise InvalidDescriptor(f"{where}: must start with /")
    return text


__all__ = [
    "HEALTH",
    "INTERNAL",
    "TENANT_PERMISSIONS",
    "Check",
    "Handler",
    "Interface",
    "InvalidDescriptor",
    "InvalidId",
    "LaunchDescriptor",
    "ModuleDescriptor",
    "ModuleStep",
    "Requirement",
    "StepJob",
    "Undo",
    "UpliftMetadata",
    "accepts_upgrade_from",
    "bad_interface_type",
    "parse_descriptor",
    "parse_uplift",
]
