"""What the in-memory gateway knows: modules, instances, bindings and links, moved by the protocol's tables.

Nothing runs in the background: what time brings about (a grace, a TTL) is made true when somebody looks, and who waits wakes at
the next such moment.
"""

import asyncio
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from upgrade_core.descriptors import ModuleDescriptor
from upgrade_core.errors import IllegalSignal
from upgrade_core.ids import product_of
from upgrade_core.paths import literal_prefix, pattern_to_regex
from upgrade_core.protocol import Availability, Hold, Reply, Signal, on_availability, on_hold, reply_to

ALL = "*"
"""All tenants."""


class Refused(Exception):
    """An answer other than success; nothing was changed."""

    def __init__(self, status: int, text: str, **facts: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.facts = facts


@dataclass(slots=True, kw_only=True)
class MemoryInstance:
    """An instance."""

    id: str
    module: str
    url: str
    well: bool = True


@dataclass(slots=True, kw_only=True, eq=False)
class MemoryHold:
    """A hold; times are of the monotonic clock."""

    id: str
    tenant: str
    product: str
    holder: str
    state: Hold
    since: datetime
    cut_at: float
    ttl: float | None
    overdue_at: float | None

    @property
    def until(self) -> datetime | None:
        """When waiters get MISSING."""
        return None if self.ttl is None else self.since + timedelta(seconds=self.ttl)


@dataclass(slots=True, kw_only=True, eq=False)
class MemoryFlight:
    """A request that an instance works on."""

    tenant: str
    product: str
    instance: str
    cut: bool = False


@dataclass(slots=True, kw_only=True)
class _Presence:
    state: Availability = Availability.CLOSED
    lost_at: float = 0.0


@dataclass(slots=True, kw_only=True)
class Memory:
    """The state of an in-memory gateway.

    Attributes:
        ttl: Seconds that a product without instances is LOST before it is CLOSED.
        told: Called with what is to be pushed: event, product, tenant, hold id.
    """

    ttl: float
    told: Callable[[str, str, str, str], None]
    texts: dict[str, Any] = field(default_factory=dict)
    modules: dict[str, ModuleDescriptor] = field(default_factory=dict)
    instances: dict[str, MemoryInstance] = field(default_factory=dict)
    bindings: dict[str, dict[str, str]] = field(default_factory=dict)
    routing: dict[str, str] = field(default_factory=dict)
    holds: dict[str, MemoryHold] = field(default_factory=dict)
    over: dict[str, str] = field(default_factory=dict)
    flights: list[MemoryFlight] = field(default_factory=list)
    _presence: dict[str, _Presence] = field(default_factory=dict)
    _pulse: asyncio.Event = field(default_factory=asyncio.Event)

    def changed(self) -> None:
        """Wake everybody who waits."""
        self._pulse.set()
        self._pulse = asyncio.Event()

    async def until(self, fact: Callable[[], bool], *, deadline: float = math.inf) -> bool:
        """Wait until something is so; False when the time is up."""
        while True:
            self.look()
            if fact():
                return True
            now, pulse = time.monotonic(), self._pulse
            if now >= deadline:
                return False
            wake = min([deadline, *(moment for moment in self._moments() if moment > now)])
            try:
                async with asyncio.timeout(None if wake == math.inf else wake - now):
                    await pulse.wait()
            except TimeoutError:
                continue

    def look(self) -> None:
        """Make true what time has brought about."""
        now = time.monotonic()
        for hold in self.holds.values():
            if hold.state is Hold.DRAINING and now >= hold.cut_at:
                hold.state, _ = on_hold(hold.state, Signal.GRACE_EXPIRED)
                for flight in self.at_work(hold.tenant, hold.product):
                    if not flight.cut:
                        flight.cut = True
                        self.changed()
            if hold.state is Hold.DRAINING and not self.at_work(hold.tenant, hold.product):
                hold.state, _ = on_hold(hold.state, Signal.DRAINED)
                self.changed()
        for module, presence in self._presence.items():
            if presence.state is Availability.LOST and now >= presence.lost_at + self.ttl:
                self._signal(module, Signal.TTL_EXPIRED)

    def hold_of(self, tenant: str, product: str) -> MemoryHold | None:
        """What holds a link; `*` looks for any hold of the product."""
        return next(
            (hold for hold in self.holds.values() if hold.product == product and _meet(hold.tenant, tenant)),
            None,
        )

    def availability(self, module: str) -> Availability:
        """Whether a module has a well instance."""
        presence = self._presence.get(module)
        return Availability.CLOSED if presence is None else presence.state

    def reply(self, tenant: str, module: str) -> Reply:
        """What a request gets now."""
        self.look()
        hold = self.hold_of(tenant, product_of(module))
        if hold is None:
            return reply_to(Hold.OPEN, self.availability(module))
        overdue = hold.overdue_at is not None and time.monotonic() >= hold.overdue_at
        return reply_to(hold.state, self.availability(module), overdue=overdue)

    def at_work(self, tenant: str, product: str) -> list[MemoryFlight]:
        """Requests in flight on links."""
        return [flight for flight in self.flights if flight.product == product and _meet(flight.tenant, tenant)]

    def update(self, *, module: str, hold_id: str, tenant: str, holder: str, ttl: float | None, grace: float) -> MemoryHold:
        """UPDATE; with the same id again it is the same request.

        Raises:
            Refused: 409: somebody else holds it.
        """
        product = product_of(module)
        if (mine := self.holds.get(hold_id)) and (mine.product, mine.tenant, mine.holder) == (product, tenant, holder):
            return mine
        other = self.holds.get(hold_id) or self.hold_of(tenant, product)
        if other is not None:
            raise Refused(409, f"{product} of tenant {tenant} is held by {other.holder}", state=other.state, holder=other.holder)
        if hold_id in self.over:
            raise Refused(409, f"hold {hold_id} is over; UPDATE needs an id that was not used", state=Hold.OPEN)
        state, _ = on_hold(Hold.OPEN, Signal.UPDATE)
        now = time.monotonic()
        made = MemoryHold(
            id=hold_id,
            tenant=tenant,
            product=product,
            holder=holder,
            state=state,
            since=datetime.now(UTC),
            cut_at=now + grace,
            ttl=ttl,
            overdue_at=None if ttl is None else now + ttl,
        )
        self.holds[hold_id] = made
        self.changed()
        self.look()
        self.told("UPDATE", product, tenant, hold_id)
        return made

    def resume(self, *, module: str, hold_id: str, sender: str | None) -> None:
        """RESUME of a hold; again is fine. Without a sender it is an operator's, who may open any.

        Raises:
            Refused: 409: it is somebody else's, or never was.
        """
        product = product_of(module)
        hold = self.holds.get(hold_id)
        if hold is None:
            if self.over.get(hold_id) == product:
                return
            raise Refused(409, f"RESUME is not allowed while {product} is {Hold.OPEN}", state=Hold.OPEN)
        if hold.product != product or sender not in (None, hold.holder):
            raise Refused(409, f"hold {hold_id} belongs to {hold.holder}", state=hold.state, holder=hold.holder)
        on_hold(hold.state, Signal.RESUME)
        del self.holds[hold_id]
        self.over[hold_id] = product
        self.changed()
        self.told("RESUME", product, hold.tenant, hold_id)

    def put(self, instance: MemoryInstance) -> None:
        """An instance is registered, or well again."""
        self.instances[instance.id] = instance
        instance.well = True
        self._signal(instance.module, Signal.SEEN)
        product = product_of(instance.module)
        for tenant, bound in self.bindings.items():
            older = bound.get(product)
            if older is not None and self.routing.get(tenant) == "newest":
                bound[product] = max(older, instance.module, key=lambda module: self.modules[module].module_id)

    def drop(self, instance: MemoryInstance, *, forget: bool) -> None:
        """An instance does not answer, or is gone for good."""
        instance.well = False
        if forget:
            self.instances.pop(instance.id, None)
        if not self.well(instance.module):
            self._signal(instance.module, Signal.LAST_GONE)
        self.changed()

    def well(self, module: str) -> list[MemoryInstance]:
        """Where requests to a module may go."""
        return [instance for instance in self.instances.values() if instance.module == module and instance.well]

    def match(self, tenant: str, method: str, path: str) -> str | None:
        """The enabled module that answers a path; the longest literal prefix wins."""
        found = [
            (len(literal_prefix(handler.pattern)), module)
            for module in sorted(self.bindings.get(tenant, {}).values())
            for interface in self.modules[module].provides
            if interface.type == "proxy"
            for handler in interface.handlers
            if ("*" in handler.methods or method in handler.methods)
            and re.fullmatch(pattern_to_regex(handler.pattern, prefix_match=handler.prefix_match), path)
        ]
        return max(found, key=lambda pair: pair[0])[1] if found else None

    def dependents(self, tenant: str, product: str) -> list[str]:
        """Modules of a tenant that use an interface which a product provides to it."""
        bound = self.bindings.get(tenant, {})
        if product not in bound:
            return []
        provided = {interface.id for interface in self.modules[bound[product]].provides}
        return [
            module
            for module in bound.values()
            if any(need.id in provided for need in (*self.modules[module].requires, *self.modules[module].optional))
        ]

    def _signal(self, module: str, signal: Signal) -> None:
        presence = self._presence.setdefault(module, _Presence())
        before = presence.state
        try:
            presence.state, _ = on_availability(before, signal)
        except IllegalSignal:
            return
        if presence.state is before:
            return
        if presence.state is Availability.LOST:
            presence.lost_at = time.monotonic()
        event = {Availability.UP: "RESUME", Availability.LOST: "DELAY", Availability.CLOSED: "MISSING"}[presence.state]
        self.changed()
        self.told(event, product_of(module), ALL, "")

    def _moments(self) -> list[float]:
        moments = [presence.lost_at + self.ttl for presence in self._presence.values() if presence.state is Availability.LOST]
        for hold in self.holds.values():
            moments.append(hold.cut_at)
            if hold.overdue_at is not None:
                moments.append(hold.overdue_at)
        return moments


def _meet(one: str, other: str) -> bool:
    return one == other or ALL in (one, other)


__all__ = ["ALL", "Memory", "MemoryFlight", "MemoryHold", "MemoryInstance", "Refused"]
