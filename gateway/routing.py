"""The routing table: what the data path knows of the platform, in memory, rebuilt from the rows at every start."""

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from gateway.links import Flow, Link
from gateway.matching import Entry, Matcher
from gateway.store import InstanceRow, OverlayRow, TenantRow
from upgrade_core.descriptors import ModuleDescriptor, parse_descriptor
from upgrade_core.protocol import Availability

_MATCHERS_KEPT = 256


@dataclass(slots=True, eq=False)
class OverlayRoute:
    """A secret prefix: the tenant's table with one product replaced, past its hold (`open`), or an alias of it afterwards."""

    row: OverlayRow
    flow: Flow = field(default_factory=Flow)


class RoutingTable:
    """Modules, tenants, bindings, instances, links and overlays."""

    def __init__(self) -> None:
        self.modules: dict[str, ModuleDescriptor] = {}
        self.texts: dict[str, str] = {}
        self.tenants: dict[str, TenantRow] = {}
        self.bindings: dict[str, dict[str, str]] = {}
        self.instances: dict[str, list[InstanceRow]] = {}
        self.overlays: dict[str, OverlayRoute] = {}
        self.retiring: set[str] = set()
        self.parked_total = 0
        self.parked_bytes = 0
        self.parked_by_tenant: dict[str, int] = {}
        self._links: dict[tuple[str, str], Link] = {}
        self._matchers: dict[tuple[str, ...], Matcher] = {}
        self._by_tenant: dict[str, Matcher] = {}
        self._turn = 0

    def add_module(self, module: str, text: str) -> None:
        """Know a registered module."""
        self.modules[module] = parse_descriptor(json.loads(text))
        self.texts[module] = text

    def remove_module(self, module: str) -> None:
        """Know it no more."""
        self.modules.pop(module, None)
        self.texts.pop(module, None)

    def bind(self, tenant: str, product: str, module: str | None) -> None:
        """Route a tenant's product to a version, or nowhere."""
        bound = self.bindings.setdefault(tenant, {})
        if module is None:
            bound.pop(product, None)
        else:
            bound[product] = module
        self.link(tenant, product).module = module
        self._by_tenant.pop(tenant, None)

    def forget_tenant(self, tenant: str) -> None:
        """A tenant is gone."""
        self.tenants.pop(tenant, None)
        self.bindings.pop(tenant, None)
        self._by_tenant.pop(tenant, None)
        for key in [key for key in self._links if key[0] == tenant]:
            del self._links[key]

    def put_instance(self, instance: InstanceRow) -> None:
        """An instance is there, or has a new process."""
        others = [other for other in self.instances.get(instance.module, []) if other.id != instance.id]
        self.instances[instance.module] = [*others, instance]

    def remove_instance(self, instance: str) -> None:
        """An instance is gone."""
        for module, known in list(self.instances.items()):
            left = [other for other in known if other.id != instance]
            if left:
                self.instances[module] = left
            else:
                del self.instances[module]

    def instance(self, instance: str) -> InstanceRow | None:
        """The instance of an id."""
        return next((found for known in self.instances.values() for found in known if found.id == instance), None)

    def enabled(self, tenant: str) -> tuple[str, ...]:
        """Ids of a tenant's enabled modules, sorted."""
        return tuple(sorted(self.bindings.get(tenant, {}).values()))

    def link(self, tenant: str, product: str) -> Link:
        """The link of a tenant and product; made where there is none yet."""
        key = (tenant, product)
        found = self._links.get(key)
        if found is None:
            found = self._links[key] = Link(tenant=tenant, product=product, module=self.bindings.get(tenant, {}).get(product))
        return found

    def links(self, tenant: str | None = None) -> Iterator[Link]:
        """All links, or those of one tenant."""
        return (link for link in self._links.values() if tenant is None or link.tenant == tenant)

    def match(self, tenant: str, method: str, path: str) -> Entry | None:
        """The handler that answers a tenant's request."""
        matcher = self._by_tenant.get(tenant)
        if matcher is None:
            matcher = self._by_tenant[tenant] = self._matcher(self.enabled(tenant))
        return matcher.match(method, path)

    def inside(self, overlay: OverlayRoute) -> dict[str, OverlayRoute]:
        """What an overlay replaces: its product, and those of the same job that are ready too; nothing once it is an alias."""
        row = overlay.row
        if row.state != "open":
            return {}
        return {
            other.row.product: other for other in self.overlays.values() if other.row.job == row.job and other.row.state == "open"
        }

    def match_overlay(self, tenant: str, inside: dict[str, OverlayRoute], method: str, path: str) -> Entry | None:
        """As `match`, with the products of an overlay replaced."""
        bound = self.bindings.get(tenant, {}) | {product: route.row.module for product, route in inside.items()}
        return self._matcher(tuple(sorted(bound.values()))).match(method, path)

    def choose_instance(self, module: str) -> InstanceRow | None:
        """An instance of a version, in turn; None if there is none."""
        known = self.instances.get(module)
        if not known:
            return None
        self._turn += 1
        return known[self._turn % len(known)]

    def availability(self, module: str) -> Availability:
        """UP with an instance, CLOSED without."""
        return Availability.UP if self.instances.get(module) else Availability.CLOSED

    def in_flight(self, module: str) -> int:
        """Requests at work in a module version, over all tenants and overlays."""
        flows = [link.flow for link in self._links.values()] + [overlay.flow for overlay in self.overlays.values()]
        return sum(exchange.module == module for flow in flows for exchange in flow.in_flight.values())

    def put_overlay(self, row: OverlayRow) -> OverlayRoute:
        """An overlay opens or becomes an alias."""
        found = self.overlays.get(row.token)
        if found is None:
            found = self.overlays[row.token] = OverlayRoute(row=row)
        found.row = row
        return found

    def close_inside(self, job: str, product: str) -> None:
        """After the switch an overlay is an alias of the tenant's table."""
        for route in self.overlays.values():
            if (route.row.job, route.row.product) == (job, product):
                route.row = replace(route.row, state="alias")

    def _matcher(self, enabled: tuple[str, ...]) -> Matcher:
        matcher = self._matchers.get(enabled)
        if matcher is None:
            if len(self._matchers) >= _MATCHERS_KEPT:
                self._matchers.clear()
            matcher = self._matchers[enabled] = Matcher(
                tuple(self.modules[module] for module in enabled if module in self.modules)
            )
        return matcher


def new_token() -> str:
    """A secret that nobody guesses."""
    return secrets.token_urlsafe(24)
