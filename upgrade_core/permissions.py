"""`_tenantPermissions`: telling a tenant's permissions module which permission sets its modules define.

| interface | enable, upgrade | disable |
|---|---|---|
| 1.0 | the descriptor's sets without their `replaces` | nothing is told |
| 1.1 | also a set for each handler and filter with `modulePermissions` | nothing is told |
| 2.0 | as 1.1, with `replaces` of the sets | an empty list |
| 2.1 | as 2.0, with `replaces` of the module | an empty list |

The body is `{"moduleId", "perms", "replaces"}`; members without a value are left out. Source: Okapi's `TenantManager` and
`ModuleDescriptor`, with their texts.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from upgrade_core.descriptors import TENANT_PERMISSIONS, ModuleDescriptor
from upgrade_core.errors import InvalidDescriptor
from upgrade_core.plan import Change
from upgrade_core.tenant_init import Call

_VERSIONS = ("1.0", "1.1", "2.0", "2.1")
_MEMBERS = ("permissionName", "replaces", "displayName", "description", "subPermissions", "visible")
"""Members of a permission set that are told, in Okapi's order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PermissionSet:
    """A permission set of a module.

    Attributes:
        text: Its members but `replaces`, as canonical JSON text: real descriptors hold odd types, which are kept.
        replaces: Names of the sets that it replaces; None: it does not say.
    """

    text: str
    replaces: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PermissionList:
    """What a module's descriptor says of permissions.

    Attributes:
        module: The module id.
        sets: Its sets; None: it says nothing of sets.
        generated: A set for each handler and filter that has `modulePermissions`.
        replaces: Products that it replaces; None: it does not say.
    """

    module: str
    sets: tuple[PermissionSet, ...] | None = None
    generated: tuple[PermissionSet, ...] = ()
    replaces: tuple[str, ...] | None = None


def parse_permissions(wire: Mapping[str, Any]) -> PermissionList:
    """The permissions of a registered descriptor."""
    module = str(wire["id"])
    given = wire.get("permissionSets")
    return PermissionList(
        module=module,
        sets=None if given is None else tuple(_set(each) for each in given),
        generated=tuple(_generated(wire, module)),
        replaces=tuple(wire.get("replaces") or ()) or None,
    )


def permissions_call(teller: ModuleDescriptor, told: PermissionList, *, gone: bool = False) -> Call | None:
    """The request that tells a permissions module about the sets of a module; None where its version has none.

    Args:
        teller: The permissions module.
        told: The module that it is told about.
        gone: Whether the tenant does not have that module any more: an empty list is told.

    Raises:
        InvalidDescriptor: The interface is of a version that nobody knows, or has no path.
    """
    provided = teller.interface(TENANT_PERMISSIONS)
    if provided is None or not teller.is_permissions_module:
        raise InvalidDescriptor(f"Module {teller.id} does not provide {TENANT_PERMISSIONS}")
    if provided.version not in _VERSIONS:
        raise InvalidDescriptor(f"Unknown version of {TENANT_PERMISSIONS} interface in use {provided.version}.")
    first = provided.version.startswith("1.")
    if gone and first:
        return None
    path = next((each.pattern for each in reversed(provided.handlers) if {"POST", "*"} & set(each.methods)), None)
    if path is None:
        raise InvalidDescriptor(f"Bad {TENANT_PERMISSIONS} interface in module {teller.id}. No path to POST to")
    body: dict[str, Any] = {"moduleId": told.module}
    if gone:
        body["perms"] = []
        return Call(method="POST", path=path, body=json.dumps(body))
    sets = told.sets
    if told.generated and provided.version != "1.0":
        sets = (*(sets or ()), *told.generated)
    if sets is not None:
        body["perms"] = [_wire(each, replaces=not first) for each in sets]
    if provided.version == "2.1" and told.replaces is not None:
        body["replaces"] = list(told.replaces)
    return Call(method="POST", path=path, body=json.dumps(body))


def backlog(enabled: Iterable[str], changed: Iterable[Change]) -> tuple[str, ...]:
    """The modules whose sets a permissions module has missed, in the order of their ids.

    Args:
        enabled: Ids of what the tenant has enabled.
        changed: Changes of the group that are done so far: their products are told as they will be.
    """
    changed = tuple(changed)
    gone = {change.bound for change in changed}
    come = {change.version_to for change in changed if change.version_to is not None}
    return tuple(sorted({*(module for module in enabled if module not in gone), *come}))


def _set(wire: Mapping[str, Any]) -> PermissionSet:
    members = {name: wire[name] for name in _MEMBERS if wire.get(name) is not None}
    replaces = members.pop("replaces", None)
    if isinstance(visible := members.get("visible"), str):  # Okapi reads it as a truth value
        members["visible"] = visible.strip().lower() == "true"
    return PermissionSet(text=json.dumps(members), replaces=None if replaces is None else tuple(replaces))


def _generated(wire: Mapping[str, Any], module: str) -> Iterator[PermissionSet]:
    """One for each handler and filter that has permissions of its own."""
    handlers = [entry for provided in wire.get("provides") or () for entry in provided.get("handlers") or ()]
    for entry in (*handlers, *(wire.get("filters") or ())):
        if not entry.get("modulePermissions"):
            continue
        methods = entry.get("methods")
        listed = "null" if methods is None else f"[{', '.join(methods)}]"
        name = f"SYS#{module}#{entry.get('path') or entry.get('pathPattern')}#{listed}"
        members = {
            "permissionName": name,
            "displayName": f"System generated: {name}",
            "description": "System generated permission set",
            "subPermissions": entry["modulePermissions"],
            "visible": False,
        }
        yield PermissionSet(text=json.dumps(members))


def _wire(each: PermissionSet, *, replaces: bool) -> dict[str, Any]:
    members: dict[str, Any] = json.loads(each.text)
    if replaces and each.replaces is not None:
        members["replaces"] = list(each.replaces)
    return {name: members[name] for name in _MEMBERS if name in members}


__all__ = [
    "PermissionList",
    "PermissionSet",
    "backlog",
    "parse_permissions",
    "permissions_call",
]
