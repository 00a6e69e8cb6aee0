"""Who is told of a hold: modules that provide the system interface `_lifecycle` 1.0, by a POST to each of their instances.

The held module itself hears UPDATE, then RESUME: whatever it does in the background must rest meanwhile. Modules of the same
tenants that depend on it hear DELAY, then RESUME, or MISSING when the hold has passed its time.
"""

import uuid
from collections.abc import Iterable
from dataclasses import replace

from gateway.outbox import push_message
from gateway.platform import Platform
from gateway.store import EVERY_TENANT
from gateway.store.outbox import Message
from upgrade_core.descriptors import ModuleDescriptor
from upgrade_core.versions import interface_satisfies

_INTERFACE = "_lifecycle"
_NAMESPACE = uuid.UUID("4f2c5a58-3f0e-4d3c-9d0e-6a8f6b7f3c11")
_LIFETIME = 60.0
"""Seconds after which what a dependent was to be told is old news."""


class Pushes:
    """Makes the messages of a hold, from the routing table."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def held(self, hold: str, *, tenant: str, product: str, sender: str | None, grace: float) -> list[Message]:
        """UPDATE: the module's own instances must have understood before the hold is HELD, as far as they do within the grace."""
        own = self._tell(self._own(tenant, product, sender), "UPDATE", hold, tenant, product, subject=hold, lifetime=grace)
        return own + self._tell(self._dependents(tenant, product), "DELAY", hold, tenant, product)

    def resumed(self, hold: str, *, tenant: str, product: str, sender: str | None) -> list[Message]:
        """RESUME: everybody who was told."""
        told = {**self._own(tenant, product, sender), **self._dependents(tenant, product)}
        return self._tell(told, "RESUME", hold, tenant, product)

    def overdue(self, hold: str, *, tenant: str, product: str) -> list[Message]:
        """The hold has passed its time: nothing is promised any more."""
        return self._tell(self._dependents(tenant, product), "MISSING", hold, tenant, product)

    def _own(self, tenant: str, product: str, sender: str | None) -> dict[str, tuple[str, str]]:
        table = self._platform.table
        versions = {bound[product] for bound in self._bindings(tenant) if product in bound}
        if sender in table.modules:
            versions.add(sender)
        return self._listening(versions)

    def _dependents(self, tenant: str, product: str) -> dict[str, tuple[str, str]]:
        table = self._platform.table
        found = set()
        for bound in self._bindings(tenant):
            held = table.modules.get(bound.get(product, ""))
            if held is not None:
                found |= {
                    module
                    for other, module in bound.items()
                    if other != product and module in table.modules and _depends(table.modules[module], held)
                }
        return self._listening(found)

    def _bindings(self, tenant: str) -> Iterable[dict[str, str]]:
        bindings = self._platform.table.bindings
        return bindings.values() if tenant == EVERY_TENANT else [bindings.get(tenant, {})]

    def _listening(self, modules: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Instance to (module id, URL to push to), for modules that want to be told."""
        table = self._platform.table
        return {
            row.id: (module, row.url + path)
            for module in sorted(modules)
            if module in table.modules and (path := push_path(table.modules[module])) is not None
            for row in table.instances.get(module, [])
        }

    def _tell(
        self,
        told: dict[str, tuple[str, str]],
        event: str,
        hold: str,
        tenant: str,
        product: str,
        *,
        subject: str = "",
        lifetime: float = _LIFETIME,
    ) -> list[Message]:
        headers = {"X-Okapi-Url": self._platform.url} | ({} if tenant == EVERY_TENANT else {"X-Okapi-Tenant": tenant})
        messages = []
        for instance, (module, url) in told.items():
            own = module.startswith(product + "-") and self._platform.table.modules[module].product == product
            body = {
                "event": event,
                "module": module if own else product,
                "tenant": tenant,
                "delay": f"/_/lifecycle/delays/{hold}",
            }
            message = push_message(url=url, body=body, headers=headers, subject=subject, lifetime=lifetime)
            messages.append(replace(message, id=str(uuid.uuid5(_NAMESPACE, f"{hold} {event} {instance}"))))
        return messages


def push_path(module: ModuleDescriptor) -> str | None:
    """Where a module takes pushes; None if it does not."""
    interface = module.interface(_INTERFACE)
    if interface is None or not interface_satisfies(interface.version, "1.0"):
        return None
    return next((handler.pattern for handler in interface.handlers if {"POST", "*"} & set(handler.methods)), None)


def _depends(module: ModuleDescriptor, on: ModuleDescriptor) -> bool:
    provided = {interface.id for interface in on.provides if not interface.is_system}
    return any(need.id in provided for need in (*module.requires, *module.optional))
