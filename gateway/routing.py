"""The routing table: what the data path knows of the platform, in memory. Only `gateway.follower` changes it, from the rows."""

import json
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from gateway.instances import Pool
from gateway.links import Flow, Link, Place
from gateway.listing import Listing
from gateway.matching import Entry, Routes
from gateway.store import EVERY_TENANT, Changed, InstanceRow, OverlayRow, TenantRow, row_of
from upgrade_core.descriptors import HEALTH, ModuleDescriptor
from upgrade_core.protocol import Availability, Hold


@dataclass(slots=True, eq=False, kw_only=True)
class OverlayRoute(Place):
    """A secret prefix: the tenant's table with one product replaced, past its hold (`open`), or an alias of it afterwards."""

    row: OverlayRow
    flow: Flow = field(default_factory=Flow)


class RoutingTable:
    """Modules, tenants, bindings, instances, links and overlays.

    Args:
        ttl: Seconds that a version without an instance in service is LOST before it is CLOSED.
    """

    def __init__(self, *, ttl: float) -> None:
        self.pool = Pool(ttl=ttl)
        self.modules: dict[str, ModuleDescriptor] = {}
        self.texts: dict[str, str] = {}
        self.listing = Listing()
        self.tenants: dict[str, TenantRow] = {}
        self.bindings: dict[str, dict[str, str]] = {}
        self.instances: dict[str, list[InstanceRow]] = {}
        self.overlays: dict[str, OverlayRoute] = {}
        self.retiring: set[str] = set()
        self.stars: dict[str, Link] = {}
        """Module-wide holds that stand, by product."""
        self.parked_total = 0
        self.parkings = 0
        """How often a request was parked since the start."""
        self.parked_bytes = 0
        self.parked_by_tenant: dict[str, int] = {}
        self.parked_bytes_by_tenant: dict[str, int] = {}
        self.releasing: dict[str, Place] = {}
        """Queues of requests that are being let go, by product."""
        self._leaving: list[Flow] = []
        self._links: dict[tuple[str, str], Link] = {}
        self._routes = Routes()
        self._chosen = Routes(multiple=True)
        self._routed: set[str] = set()
        """Modules whose handlers are looked for: they are, or were, bound or in an overlay."""

    def known(self, kind: str) -> Iterable[tuple[str, str]]:
        """Keys of a kind of rows that are in memory."""
        match kind:
            case "tenant":
                return [(tenant, "") for tenant in self.tenants]
            case "module":
                return [(module, "") for module in self.modules]
            case "binding":
                return [(tenant, product) for tenant, bound in self.bindings.items() for product in bound]
            case "retirement":
                return [(module, "") for module in self.retiring]
            case "instance":
                return [(row.id, "") for rows in self.instances.values() for row in rows]
            case "overlay":
                return [(token, "") for token in self.overlays]
            case _:
                return [(link.tenant, link.product) for link in self.all_links() if link.row is not None]

    def apply(self, change: Changed) -> None:
        """Take one changed row, of any kind but `hold`, into memory."""
        row = change.row
        match change.kind:
            case "tenant":
                if row is None:
                    self.forget_tenant(change.a)
                else:
                    self.tenants[change.a] = row_of(TenantRow, row)
            case "module":
                if row is None:
                    self.remove_module(change.a)
                elif self.texts.get(change.a) != row["descriptor"]:
                    self.add_module(change.a, row["descriptor"])
            case "binding":
                self.bind(change.a, change.b, None if row is None else row["module"])
            case "retirement":
                if row is None:
                    self.retiring.discard(change.a)
                else:
                    self.retiring.add(change.a)
            case "instance":
                self.remove_instance(change.a)
                if row is None:
                    self.pool.remove(change.a)
                else:
                    instance = _instance(row)
                    self.put_instance(instance)
                    self.pool.put(instance, seen=row["seen"])
            case "overlay":
                if row is None or row["state"] == "closing":
                    self.close_overlay(change.a)
                else:
                    self.put_overlay(row_of(OverlayRow, row))

    def add_module(self, module: str, text: str) -> None:
        """Know a registered module."""
        self.modules[module] = self.listing.add(text).module
        self.texts[module] = text
        if module in self._routed:
            self._add_routes(module)

    def remove_module(self, module: str) -> None:
        """Know it no more."""
        known = self.modules.pop(module, None)
        if known is not None:
            self._routed.discard(module)
            self._routes.remove(module, known.product)
            self._chosen.remove(module, known.product)
        self.texts.pop(module, None)
        self.listing.remove(module)

    def bind(self, tenant: str, product: str, module: str | None) -> None:
        """Route a tenant's product to a version, or nowhere."""
        if module is None:
            self.bindings.get(tenant, {}).pop(product, None)
        else:
            self.bindings.setdefault(tenant, {})[product] = module
        if module is not None or (tenant, product) in self._links:
            link = self.link(tenant, product)
            if link.module != module and link.hold is Hold.OPEN:
                link.wake()  # they waited for an instance of another version
            link.module = module
            link.tell_changed()
        if module is not None:
            self._route(module)

    def forget_tenant(self, tenant: str) -> None:
        """A tenant is gone."""
        self.tenants.pop(tenant, None)
        self.bindings.pop(tenant, None)
        for key in [key for key in self._links if key[0] == tenant]:
            link = self._links.pop(key)
            self._leaving.append(link.flow)
            link.wake()
            link.tell_changed()

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

    def star(self, product: str) -> Link:
        """The link of a product for all tenants at once; kept while it is held."""
        found = self.stars.get(product)
        if found is None:
            found = self.stars[product] = Link(tenant=EVERY_TENANT, product=product)
        return found

    def is_held(self, tenant: str, product: str) -> bool:
        """Whether a tenant's link, or the product as a whole, is held now."""
        link = self._links.get((tenant, product))
        return product in self.stars or (link is not None and link.hold is not Hold.OPEN)

    def links(self, tenant: str | None = None) -> Iterator[Link]:
        """All links of tenants, or those of one tenant."""
        return (link for link in self._links.values() if tenant is None or link.tenant == tenant)

    def all_links(self) -> list[Link]:
        """All links, those for all tenants among them."""
        return [*self._links.values(), *self.stars.values()]

    def flows_of(self, link: Link) -> list[Flow]:
        """Where the requests on a link are counted."""
        if not link.every_tenant:
            return [link.flow]
        return [other.flow for other in self._links.values() if other.product == link.product]

    def flows(self) -> list[Flow]:
        """All flows."""
        self._leaving = [flow for flow in self._leaving if flow.in_flight]
        return [
            *(link.flow for link in self._links.values()),
            *(route.flow for route in self.overlays.values()),
            *self._leaving,
        ]

    def match(self, tenant: str, method: str, path: str, *, chosen: str = "") -> Entry | None:
        """The handler that answers a tenant's request.

        Args:
            tenant: Whose versions count.
            method: Of the request.
            path: Raw, without query and fragment.
            chosen: Id of the module that is asked, one of those that provide an interface at once; empty: any other.
        """
        return self._match(self.bindings.get(tenant, {}), method, path, chosen)

    def inside(self, overlay: OverlayRoute) -> dict[str, OverlayRoute]:
        """What an overlay replaces: its product, and those of the same job that are ready too; nothing once it is an alias."""
        row = overlay.row
        if row.state != "open":
            return {}
        return {
            other.row.product: other for other in self.overlays.values() if other.row.job == row.job and other.row.state == "open"
        }

    def match_overlay(
        self, tenant: str, inside: dict[str, OverlayRoute], method: str, path: str, *, chosen: str = ""
    ) -> Entry | None:
        """As `match`, with the products of an overlay replaced."""
        bound = self.bindings.get(tenant, {}) | {product: route.row.module for product, route in inside.items()}
        return self._match(bound, method, path, chosen)

    def availability(self, module: str) -> Availability:
        """Whether an instance of a version answers, as this replica sees it."""
        return self.pool.availability(module)

    def runs_nowhere(self, module: str) -> bool:
        """Whether nothing of a version is called over HTTP: a UI module, or the built-in one."""
        known = self.modules.get(module)
        return known is not None and not known.needs_instance

    def health_path(self, module: str) -> str:
        """Where an instance of a version says that it is well."""
        known = self.modules.get(module)
        return HEALTH if known is None else known.uplift.health

    def places(self) -> list[Place]:
        """Where requests may be parked on this table."""
        return [*self.all_links(), *self.overlays.values()]

    def places_of(self, module: str) -> list[Place]:
        """Where those may wait who need an instance of a version.

        On a link that is HELD all wait for its RESUME first; while it drains, parts of old work may wait there for an instance.
        """
        bound = [link for link in self._links.values() if link.module == module]
        stars = [self.stars[product] for product in {link.product for link in bound} if product in self.stars]
        return [
            *(link for link in (*bound, *stars) if link.hold is not Hold.HELD),
            *(route for route in self.overlays.values() if route.row.module == module),
        ]

    def in_flight(self, module: str) -> int:
        """Requests at work in a module version, over all tenants and overlays."""
        return sum(exchange.module == module for flow in self.flows() for exchange in flow.in_flight.values())

    def in_flight_to(self, instance: str) -> int:
        """Requests at work in an instance."""
        return sum(exchange.instance == instance for flow in self.flows() for exchange in flow.in_flight.values())

    async def wait_gone(self, target: str) -> None:
        """Wait until nothing is at work in a module version or an instance."""
        while self.in_flight(target) or self.in_flight_to(target):
            for flow in self.flows():
                await flow.wait_gone(target)

    def close_overlay(self, token: str) -> None:
        """Nothing new goes through an overlay."""
        route = self.overlays.pop(token, None)
        if route is not None:
            self._leaving.append(route.flow)
            route.wake()

    def put_overlay(self, row: OverlayRow) -> OverlayRoute:
        """An overlay opens or becomes an alias."""
        found = self.overlays.get(row.token)
        if found is None:
            found = self.overlays[row.token] = OverlayRoute(row=row)
        found.row = row
        self._route(row.module)
        return found

    def _match(self, bound: dict[str, str], method: str, path: str, chosen: str) -> Entry | None:
        if not chosen:
            return self._routes.match(bound, method, path)
        return self._chosen.match({product: module for product, module in bound.items() if module == chosen}, method, path)

    def _route(self, module: str) -> None:
        """Requests may go to a version from now on."""
        if module not in self._routed:
            self._routed.add(module)
            self._add_routes(module)

    def _add_routes(self, module: str) -> None:
        known = self.modules.get(module)
        if known is not None:
            self._routes.add(known)
            self._chosen.add(known)


def _instance(row: dict[str, Any]) -> InstanceRow:
    descriptor = row["descriptor"]
    return InstanceRow(
        id=row["id"],
        module=row["module"],
        url=row["url"],
        node=row["node"],
        generation=row["generation"],
        descriptor=None if descriptor is None else json.dumps(descriptor),
    )


def new_token() -> str:
    """A secret that nobody guesses."""
    return secrets.token_urlsafe(24)
