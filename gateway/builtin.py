"""The built-in module `okapi-<version>`: what Okapi's clients and modules expect to find registered and enabled.

A tenant that has it enabled may call Okapi's routes under its own tenant header; the supertenant always has it. Modules require
its interface `okapi`, and its permission sets are what an administrator's user is given. Names and interfaces are Okapi 7.0.0's.
"""

import re
from typing import Any

from upgrade_core.descriptors import INTERNAL

BUILT_IN = "okapi"
"""Its product."""
_INTERFACE_VERSION = "1.9"

_SETS: dict[str, tuple[str, ...]] = {
    "okapi.deploy": (
        "okapi.deployment.post", "okapi.deployment.get", "okapi.deployment.delete", "okapi.discovery.post", "okapi.discovery.get",
        "okapi.discovery.put", "okapi.discovery.delete", "okapi.discovery.nodes.put", "okapi.discovery.health.get",
        "okapi.discovery.nodes.get",
    ),
    "okapi.modules": (
        "okapi.proxy.modules.list", "okapi.proxy.modules.get", "okapi.proxy.modules.post", "okapi.proxy.modules.put",
        "okapi.proxy.modules.delete", "okapi.proxy.pull.modules.post", "okapi.proxy.cleanup.modules",
    ),
    "okapi.tenants": (
        "okapi.proxy.tenants.list", "okapi.proxy.tenants.get", "okapi.proxy.tenants.post", "okapi.proxy.tenants.put",
        "okapi.proxy.tenants.delete",
    ),
    "okapi.tenantmodules": (
        "okapi.proxy.tenants.modules.list", "okapi.proxy.tenants.modules.post", "okapi.proxy.tenants.modules.enabled.get",
        "okapi.proxy.tenants.modules.enabled.post", "okapi.proxy.tenants.modules.enabled.delete",
        "okapi.proxy.tenants.upgrade.post", "okapi.proxy.tenants.install.list", "okapi.proxy.tenants.install.get",
        "okapi.proxy.tenants.install.delete", "okapi.proxy.tenants.install.post",
    ),
    "okapi.timers": (
        "okapi.proxy.tenants.timers.list", "okapi.proxy.tenants.timers.patch", "okapi.proxy.tenants.timers.get",
        "okapi.proxy.self.timers.patch",
    ),
    "okapi.interfaces": ("okapi.proxy.tenants.interfaces.list", "okapi.proxy.tenants.interfaces.get"),
    "okapi.env": ("okapi.env.post", "okapi.env.delete", "okapi.env.list", "okapi.env.get"),
    "okapi.readonly": (
        "okapi.proxy.modules.list", "okapi.proxy.modules.get", "okapi.proxy.tenants.list", "okapi.proxy.tenants.get",
        "okapi.proxy.tenants.modules.list", "okapi.proxy.tenants.modules.enabled.get", "okapi.interfaces", "okapi.version.get",
    ),
    "okapi.all": (
        "okapi.deploy", "okapi.modules", "okapi.tenants", "okapi.tenantmodules", "okapi.timers", "okapi.interfaces",
        "okapi.version.get", "okapi.env",
    ),
}  # fmt: skip


def built_in_descriptor(version: str) -> dict[str, Any]:
    """Its descriptor.

    Args:
        version: Ours (PEP 440), e.g. `1.2.0` or `1.2.0.dev3`.
    """
    single = dict.fromkeys(name for names in _SETS.values() for name in names if name not in _SETS)
    return {
        "id": f"{BUILT_IN}-{_semantic(version)}",
        "name": "Okapi",
        "provides": [
            {"id": "okapi", "version": _INTERFACE_VERSION},
            {"id": "okapi-proxy", "version": _INTERFACE_VERSION, "interfaceType": INTERNAL},
        ],
        "permissionSets": [
            *({"permissionName": name, "displayName": name} for name in single),
            *({"permissionName": name, "displayName": name, "subPermissions": list(names)} for name, names in _SETS.items()),
        ],
    }


def _semantic(version: str) -> str:
    """A version of ours as a module's: `1.2.0.dev3` is `1.2.0-dev3`, before `1.2.0`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)*)[.\-_]?([^+]*)(\+.*)?", version, re.ASCII)
    assert found is not None, f"{version!r} is no version"
    numbers, before, local = found.groups()
    return numbers + (f"-{before}" if before else "") + (local or "")


__all__ = ["BUILT_IN", "built_in_descriptor"]
