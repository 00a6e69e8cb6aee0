"""Gateway processes: the real code, with its sockets and its database stood in for."""

import asyncio
from types import SimpleNamespace
from typing import Any

from aiohttp import web

from gateway.forwarding import Forwarding, TooLate
from gateway.holds import Holds
from gateway.instances import Instance
from gateway.links import Exchange, Link, Place, next_arrival
from gateway.observation import Current
from gateway.passage import Passage
from gateway.platform import Platform
from gateway.problems import Problems
from gateway.proxy import Proxy
from gateway.store import Changed, Conflict, DatabaseError
from gateway.upstream import BrokenOff

from .clock import SteppedLoop
from .stores import Changes, Database, Holdings, Nodes, Outbox, Reports, Wire
from .traffic import Asked
from .world import SETTINGS, World


class SimulatedProxy(Proxy):
    """The real one but for the sockets."""

    def __init__(self, replica: "Replica") -> None:
        super().__init__(platform=replica.platform, holds=replica.holds)
        self._replica = replica
        self.forwarding = SimulatedForwarding(replica)

    async def _park(self, request: Any, place: Place, passage: Passage) -> None:
        number = next_arrival() if passage.arrival is None else passage.arrival
        request.place = (place.hold_id if isinstance(place, Link) else place, number)
        await super()._park(request, place, passage)


class SimulatedForwarding(Forwarding):
    """One try with an instance."""

    def __init__(self, replica: "Replica") -> None:
        super().__init__(replica.platform)
        self._replica = replica

    async def exchange(self, request: Any, exchange: Exchange, instance: Instance, passage: Passage) -> web.StreamResponse:
        world = self._replica.world
        world.dispatched(request, exchange)
        await asyncio.sleep(self._replica.latency)
        if not self._membership.may_route:  # the real one looks at it there
            raise TooLate
        arrival = world.arrive(request, exchange)
        try:
            if not await arrival.result:
                raise BrokenOff("reset")  # noqa: TRY301 - as the real one does there
        except BaseException:
            arrival.cut_at = world.now
            raise
        arrival.ended = exchange.started = exchange.answered = True
        return web.Response(status=200)


class SimulatedPlatform(Platform):
    """The real one, with rows in memory."""

    def __init__(self, replica: "Replica") -> None:
        database: Any = replica.database
        super().__init__(database=database, settings=SETTINGS, url="", ui_url="", namespace="", node=replica.name)
        self._replica = replica
        stores: Any = SimpleNamespace(
            nodes=Nodes(replica),
            changes=Changes(replica),
            holds=Holdings(replica),
            problems=Reports(replica),
            outbox=Outbox(replica),
        )
        self.holds, self.problems, self.outbox = stores.holds, stores.problems, stores.outbox
        self.membership.nodes = self.follower._nodes = self.drains._nodes = stores.nodes
        self.follower._changes = stores.changes

    def _apply(self, change: Changed) -> None:
        try:
            super()._apply(change)
        except Exception as error:
            self._replica.failed = error
            raise


class Replica:
    """A gateway process."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.latency = 0.0
        self.alive = True
        self.paused = self.cut = self.serves = False
        self.failed: BaseException | None = None
        self.wire: Wire | None = None
        self.updates: list[asyncio.Task[None]] = []
        self.loop = SteppedLoop(world, offset=1_000.0 * len(world.replicas))
        self.database = Database(self)
        with self.loop.running():
            self.platform = SimulatedPlatform(self)
            self.holds = Holds(self.platform, Problems(self.platform))
            self.proxy = SimulatedProxy(self)
        self.generation = self.platform.membership.generation
        world.replicas.append(self)
        if world.fault is not None:
            world.fault(self)
        self.member = self.loop.create_task(self._live())

    async def _live(self) -> None:
        while True:
            try:
                await self.platform.membership.join()
                break
            except DatabaseError:
                await asyncio.sleep(0.5)
        self.serves = True
        await self.platform.membership.run()

    def hear(self, channel: str, told: str) -> None:
        wire = self.wire
        if self.alive and wire is not None and not wire.closed and not self.cut:
            self.loop.call_later(self.latency, wire.heard.get(f"uplift_{channel}", lambda *_: None), told)

    def lose_wire(self) -> None:
        if self.alive and self.wire is not None and not self.wire.closed:
            self.wire.closed = True
            self.loop.call_soon(self.wire.lost)

    def ask(self, tenant: str, product: str, **more: Any) -> Asked:
        asked = Asked(len(self.world.requests), self, tenant, product, **more)
        self.world.requests.append(asked)
        asked.task = self.loop.create_task(self.proxy.handle(asked, Current(asked, began=0.0)))

        def answered(task: "asyncio.Task[web.StreamResponse]") -> None:
            if task.cancelled():
                asked.answer = "none: its client has left" if asked.left else ""
            elif (error := task.exception()) is not None:
                self.failed = error
            else:
                asked.answer = str(task.result().status)

        asked.task.add_done_callback(answered)
        return asked

    def update(self, hold: str, tenant: str, product: str, grace: float, ttl: float | None) -> "asyncio.Task[None]":
        async def work() -> None:
            try:
                await self.holds.update(
                    hold=hold, tenant=tenant, product=product, sender="", holder=hold, reason="", grace=grace, ttl=ttl
                )
            except (Conflict, DatabaseError):
                return
            if hold in self.world.holds:
                self.world.holds[hold].returned = True

        self.updates.append(self.loop.create_task(work()))
        return self.updates[-1]

    @property
    def updating(self) -> bool:
        """Whether an UPDATE here has not returned."""
        return self.alive and not all(each.done() for each in self.updates)

    def stop(self) -> None:
        """It stands still."""
        self.paused = True

    def go_on(self) -> None:
        """As if nothing had been."""
        if self.paused:
            self.world.lapse_if_late(self)
        self.paused = False

    def end(self) -> None:
        """Killed: whatever it had sent goes on without it for a while."""
        if not self.alive:
            return
        self.go_on()
        for arrival in self.world.arrivals:
            if arrival.asked.replica is self and not arrival.ended and arrival.cut_at is None:
                arrival.cut_at = self.world.now
        self.alive = False
        while tasks := asyncio.all_tasks(self.loop):
            for task in tasks:
                task.cancel()
            self.loop.turn()
        self.loop.close()
