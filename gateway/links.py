"""Links in memory: what is in flight, who is parked, and what the protocol's tables make of each signal.

The rows in Postgres are the truth; this is what the data path looks at without asking anybody.
"""

import asyncio
import itertools
from bisect import insort
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime

from gateway.store import EVERY_TENANT, HoldRow
from upgrade_core.protocol import Availability, Effect, Hold, Reply, Signal, on_hold, reply_to

_arrivals = itertools.count()


def next_arrival() -> int:
    """The place of a request among all that were ever parked here: it keeps it when it is parked again."""
    return next(_arrivals)


class Waiter(asyncio.Future[None]):
    """A parked request; done when it may be looked at anew.

    Args:
        arrival: Its place in the order of release.
    """

    def __init__(self, arrival: int) -> None:
        super().__init__()
        self.arrival = arrival


@dataclass(slots=True, eq=False, kw_only=True)
class Place:
    """Where requests wait, in the order in which they came."""

    waiters: "deque[Waiter]" = field(default_factory=deque)

    def add(self, waiter: Waiter) -> None:
        """Take its place among those who wait; who comes back after a release in vain has an early one."""
        if self.waiters and waiter.arrival < self.waiters[-1].arrival:
            insort(self.waiters, waiter, key=lambda other: other.arrival)
        else:
            self.waiters.append(waiter)

    def take_waiters(self) -> list[Waiter]:
        """Those parked, in the order they came; they are parked no more."""
        taken = [waiter for waiter in self.waiters if not waiter.done()]
        self.waiters.clear()
        return taken

    def wake(self) -> None:
        """Let all look anew at once: they will be answered by the gateway itself."""
        for waiter in self.take_waiters():
            waiter.set_result(None)


@dataclass(slots=True, eq=False)
class Exchange:
    """One request that was sent to an instance.

    Attributes:
        id: Our part of its `X-Okapi-Request-Id`; signed, so that a descendant proves itself by it, at any replica.
        module: The module id that it went to.
        instance: The instance's id.
        task: The task that handles it.
        cut: Set when the gateway, not the client, ends it.
        started: Whether the client has been sent the head of the answer.
        answered: Whether the whole answer was received; otherwise the old handler may still be writing (it is *loose*).
    """

    id: str
    module: str
    instance: str
    task: "asyncio.Task[object] | None"
    cut: bool = False
    started: bool = False
    answered: bool = False


@dataclass(slots=True, eq=False)
class Flow:
    """Exchanges that are counted together."""

    in_flight: dict[str, Exchange] = field(default_factory=dict)
    loose_until: float = 0.0
    idle: asyncio.Event | None = None
    left: asyncio.Event | None = None

    def enter(self, exchange: Exchange) -> None:
        """Count a request, in the same turn of the loop as the decision to route it."""
        self.in_flight[exchange.id] = exchange

    def leave(self, exchange: Exchange, *, settle: float) -> None:
        """Count it no more; unanswered it stays loose for `settle` seconds."""
        self.in_flight.pop(exchange.id, None)
        if not exchange.answered:
            self.loose_until = max(self.loose_until, asyncio.get_running_loop().time() + settle)
        if not self.in_flight and self.idle is not None:
            self.idle.set()
            self.idle = None
        if self.left is not None:
            self.left.set()
            self.left = None

    def cut_all(self) -> None:
        """End what is left."""
        for exchange in self.in_flight.values():
            exchange.cut = True
            if exchange.task is not None:
                exchange.task.cancel()

    async def wait_no_flight(self) -> None:
        """Wait until nothing is in flight."""
        while self.in_flight:
            if self.idle is None:
                self.idle = asyncio.Event()
            await self.idle.wait()

    async def wait_idle(self) -> None:
        """Wait until nothing is in flight and nothing is loose."""
        loop = asyncio.get_running_loop()
        while self.in_flight or self.loose_until > loop.time():
            if self.in_flight:
                await self.wait_no_flight()
            else:
                await asyncio.sleep(self.loose_until - loop.time())

    async def wait_gone(self, target: str) -> None:
        """Wait until nothing is in flight to a module or to an instance; others' requests may go on."""
        while any(target in (exchange.module, exchange.instance) for exchange in self.in_flight.values()):
            if self.left is None:
                self.left = asyncio.Event()
            await self.left.wait()


@dataclass(slots=True, eq=False, kw_only=True)
class Link(Place):
    """What requests to one product of one tenant depend on; with tenant `*`, those of every tenant.

    Attributes:
        row: The hold that stands, as it was last seen in Postgres.
        held_from: When this replica applied it, by the event loop's clock.
        overdue: Whether the hold has passed its `until`.
        saying: Held while this replica says that it is quiet, or takes that back.
    """

    tenant: str
    product: str
    module: str | None = None
    hold: Hold = Hold.OPEN
    row: HoldRow | None = None
    held_from: float = 0.0
    overdue: bool = False
    flow: Flow = field(default_factory=Flow)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    saying: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def hold_id(self) -> str:
        """Id of the hold, or empty."""
        return "" if self.row is None else self.row.id

    @property
    def job(self) -> str | None:
        """The job that holds it."""
        return None if self.row is None else self.row.job

    @property
    def every_tenant(self) -> bool:
        """Whether it stands for the product as a whole."""
        return self.tenant == EVERY_TENANT

    def seconds_left(self) -> float | None:
        """Seconds until nothing is promised any more; None: no end."""
        if self.row is None or self.row.until is None:
            return None
        return (self.row.until - datetime.now(UTC)).total_seconds()

    def apply(self, signal: Signal) -> tuple[Effect, ...]:
        """Move by the table, and tell those who wait for a change.

        Raises:
            IllegalSignal: The table forbids it; nothing changed.
        """
        self.hold, effects = on_hold(self.hold, signal)
        self.tell_changed()
        return effects

    def tell_changed(self) -> None:
        """Wake those who wait for a change."""
        self.changed.set()
        self.changed = asyncio.Event()

    def reply(self, availability: Availability) -> Reply:
        """What a request gets now."""
        return reply_to(self.hold, availability, overdue=self.overdue)
