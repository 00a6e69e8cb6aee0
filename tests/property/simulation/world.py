"""A world without IO for the gateway's real code: a clock that is moved by hand, rows in memory, replicas that are run in steps.

Each replica has an event loop of its own, so that it can be late, stand still or die while others go on. All that decides is
the gateway's own: `Holds`, `Membership`, `Follower`, `Drains`, `RoutingTable`, `Proxy`. Stand-ins: rows (as `gateway/store`
has them), the connection to an instance, and the requester.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from gateway.holds import Holds
from gateway.links import Exchange, Link
from gateway.platform import Platform
from gateway.proxy import Proxy, _NoLease
from gateway.store import EVERY_TENANT, Changed, Conflict, DatabaseError, HeldByAnother, HoldRow, NewHold, Picture, Quiet
from gateway.store.nodes import Node
from upgrade_core.protocol import Hold
from uplift_settings.tree import GatewaySettings

logging.getLogger("gateway").setLevel(logging.CRITICAL + 1)
SETTINGS = GatewaySettings(lease=8.0, lease_renew=1.0, settle=2.0, grace=3.0, hold_max=6.0, spread_wait=1.0, release_rate=100)
TENANTS = ("t", "u")
VERSIONS = ("a-1.0.0", "a-2.0.0", "b-1.0.0")
_A_TURN = 1e-6
"""Seconds that a turn takes: no clock stands still while something is done."""
_ENOUGH = 2_000
"""Turns of all loops after which they will not come to rest."""


class Broken(AssertionError):
    """An invariant does not hold."""


class SteppedLoop(asyncio.BaseEventLoop):
    """A loop that does one turn when told, by the world's clock."""

    def __init__(self, world: "World", offset: float) -> None:
        super().__init__()
        self._world = world
        self._offset = offset
        self._selector = SimpleNamespace(select=lambda timeout: [], close=lambda: None)

    def time(self) -> float:
        return self._world.now + self._offset  # no two processes agree on what a monotonic clock counts from

    def _process_events(self, event_list: Any) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    @contextmanager
    def running(self) -> Iterator[None]:
        asyncio._set_running_loop(self)
        try:
            yield
        finally:
            asyncio._set_running_loop(None)

    def turn(self) -> None:
        with self.running():
            self._run_once()

    @property
    def next_at(self) -> float:
        """When there is something to do, by the world's clock."""
        if self._ready:
            return 0.0
        live = (handle._when for handle in self._scheduled if not handle._cancelled)
        return min(live, default=float("inf")) - self._offset


@dataclass(eq=False)
class Asked:
    """A request, and what became of it."""

    number: int
    replica: "Replica"
    tenant: str
    product: str
    chain: str = ""
    aware: bool = False
    left: bool = False
    answer: str = ""
    place: tuple[str, int] | None = None
    arrivals: int = 0
    task: "asyncio.Task[Any] | None" = None
    method = "GET"
    body_exists = False
    content = SimpleNamespace(total_bytes=0)

    def __post_init__(self) -> None:
        self.raw_path = f"/{self.product}"
        self.headers = CIMultiDict({"X-Okapi-Tenant": self.tenant})
        if self.chain:
            self.headers["X-Okapi-Request-Id"] = self.chain
        if self.aware:
            self.headers["X-Okapi-Lifecycle"] = "delay"
        self.transport = SimpleNamespace(is_closing=lambda: self.left, get_extra_info=lambda name: None, abort=lambda: None)


@dataclass(eq=False)
class Arrival:
    """A request that has reached an instance: `cut_at` is when its connection went without an answer."""

    asked: Asked
    exchange: Exchange
    ended: bool = False
    cut_at: float | None = None
    lapsed: bool = False
    result: "asyncio.Future[bool]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


@dataclass(eq=False)
class Standing:
    """A row of `holds`, and what its holder was told."""

    row: dict[str, Any]
    epoch: int
    returned: bool = False

    @property
    def key(self) -> tuple[str, str]:
        return self.row["tenant"], self.row["product"]

    def covers(self, tenant: str, product: str) -> bool:
        return self.row["product"] == product and self.row["tenant"] in (tenant, EVERY_TENANT)


class World:
    """Rows, replicas, requests."""

    def __init__(self, fault: Callable[["Replica"], None] | None = None) -> None:
        self.now = 1_000.0
        self.away = False
        self.fault = fault
        self.failure: Broken | None = None
        self.replicas: list[Replica] = []
        self.requests: list[Asked] = []
        self.arrivals: list[Arrival] = []
        self.epoch = 0
        self.log: list[tuple[int, str, str, str]] = []
        self.rows: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.holds: dict[str, Standing] = {}
        self.opened: dict[str, str] = {}
        self.nodes: dict[str, dict[str, Any]] = {}
        self.ghosts: dict[str, float] = {}
        self.quiet: set[tuple[str, str]] = set()
        self.superseded: set[tuple[str, str, str]] = set()
        self.released: dict[tuple[int, str, str, str], int] = {}
        for tenant in TENANTS:
            self.write("tenant", tenant, "", {"id": tenant})
            for module in ("a-1.0.0", "b-1.0.0"):
                self.write("binding", tenant, module[0], {"module": module})
        for module in VERSIONS:
            handler = {"methods": ["GET"], "pathPattern": f"/{module[0]}", "permissionsRequired": []}
            text = json.dumps({"id": module, "provides": [{"id": module[0], "version": "1.0", "handlers": [handler]}]})
            self.write("module", module, "", {"descriptor": text})
            instance = {
                "id": f"{module}-i",
                "module": module,
                "url": "http://x",
                "node": None,
                "generation": None,
                "descriptor": None,
            }
            self.write("instance", f"{module}-i", "", instance)

    # Rows.

    def write(self, kind: str, a: str, b: str, row: dict[str, Any] | None) -> None:
        """One changed row: what the trigger `note_change` does."""
        self.epoch += 1
        self.log.append((self.epoch, kind, a, b))
        if row is None:
            self.rows.pop((kind, a, b), None)
        else:
            self.rows[kind, a, b] = row
        self.notify("routing")

    def notify(self, channel: str) -> None:
        for replica in self.replicas:
            replica.hear(channel)

    def picture(self, since: int | None) -> Picture:
        keys = self.rows if since is None else {entry[1:] for entry in self.log if entry[0] > since}
        return Picture(
            epoch=self.epoch,
            whole=since is None,
            changes=tuple(
                Changed(kind, a, b, None if (row := self.rows.get((kind, a, b))) is None else dict(row)) for kind, a, b in keys
            ),
            applied={node["generation"]: node["applied"] for node in self.nodes.values() if node["until"] > self.now},
            key=b"key",
        )

    def bury(self, names: list[str], settle: float) -> None:
        """Replicas that went without a word become ghosts."""
        for name in names:
            node = self.nodes.pop(name)
            until = min(node["until"], self.now) + settle
            self.ghosts[node["generation"]] = max(self.ghosts.get(node["generation"], 0.0), until)
            for arrival in self.arrivals:
                owner = arrival.asked.replica
                if owner.generation == node["generation"] and owner.alive and not arrival.ended:
                    arrival.lapsed = True

    def is_quiet(self, subject: str, settle: float) -> Quiet:
        self.bury([name for name, node in self.nodes.items() if node["until"] <= self.now], settle)
        busy = tuple(name for name, node in self.nodes.items() if (subject, node["generation"]) not in self.quiet)
        return Quiet(busy=busy, loose=max((until - self.now for until in self.ghosts.values() if until > self.now), default=0.0))

    def put_hold(self, hold: NewHold, holder: str, grace: float, ttl: float | None) -> None:
        for other in self.holds.values():
            same_place = other.row["product"] == hold.product and (
                EVERY_TENANT in (hold.tenant, other.row["tenant"]) or hold.tenant == other.row["tenant"]
            )
            if other.row["id"] == hold.id:
                return
            if same_place:
                raise HeldByAnother("UPDATE is not allowed", None)
        if hold.id in self.opened:
            raise Conflict("opened before")
        real = datetime.now(UTC)
        row = HoldRow(
            id=hold.id, job=None, tenant=hold.tenant, product=hold.product, state="DRAINING", reason="", since=real,
            until=None if ttl is None else real + timedelta(seconds=ttl), holder=holder, grace=grace,
        )  # fmt: skip
        values = {name: getattr(row, name) for name in HoldRow.__slots__}
        values["since"], values["until"] = real.isoformat(), None if row.until is None else row.until.isoformat()
        self.write("hold", hold.tenant, hold.product, values)
        self.holds[hold.id] = Standing(row=values, epoch=self.epoch)

    def try_held(self, hold: str, settle: float) -> Quiet | None:
        standing = self.holds.get(hold)
        if standing is None or standing.row["state"] != "DRAINING":
            return None
        found = self.is_quiet(f"hold:{hold}", settle)
        if found.reached:
            self.check_nothing_at_work(standing)
            standing.row = {**standing.row, "state": "HELD"}
            self.write("hold", *standing.key, standing.row)
            self.quiet = {each for each in self.quiet if each[0] != f"hold:{hold}"}
        return found

    def take_back_quiet(self, hold: str, generation: str) -> bool:
        standing = self.holds.get(hold)
        if standing is None or standing.row["state"] != "DRAINING":
            return False
        self.quiet.discard((f"hold:{hold}", generation))
        return True

    def open(self, hold: str, *, switch: bool = False) -> None:
        """RESUME, in one transaction with the switch of the binding if asked for."""
        standing = self.holds.pop(hold, None)
        if standing is None:
            return
        tenant, product = standing.key
        self.opened[hold] = standing.row["holder"]
        if switch and product == "a":
            for each in TENANTS if tenant == EVERY_TENANT else (tenant,):
                before = self.rows["binding", each, product]["module"]
                after = "a-2.0.0" if before == "a-1.0.0" else "a-1.0.0"
                if standing.returned:
                    self.superseded.add((each, product, before))
                self.superseded.discard((each, product, after))
                self.write("binding", each, product, {"module": after})
        self.write("hold", tenant, product, None)

    # Time.

    def settle(self) -> None:
        """All replicas that are not paused do what there is to do now."""
        for _ in range(_ENOUGH):
            due = [
                replica for replica in self.replicas if replica.alive and not replica.paused and replica.loop.next_at <= self.now
            ]
            if not due:
                return
            for replica in due:
                replica.loop.turn()
            self.now += _A_TURN
        raise Broken("the replicas do not come to rest")

    def advance(self, seconds: float) -> None:
        target = self.now + seconds
        while True:
            self.settle()
            coming = min((each.loop.next_at for each in self.replicas if each.alive and not each.paused), default=target)
            if coming >= target:
                break
            self.now = max(self.now, coming)
        self.now = max(self.now, target)
        self.settle()

    # What must hold.

    def fail(self, text: str) -> None:
        """What is found inside of a task, whose errors others may swallow."""
        self.failure = self.failure or Broken(text)
        raise self.failure

    def arrive(self, asked: Asked, exchange: Exchange) -> Arrival:
        asked.arrivals += 1
        if asked.arrivals > 1:
            self.fail(f"request {asked.number} was sent twice")
        node = self.nodes.get(asked.replica.name)
        if node is None or node["generation"] != asked.replica.generation or node["until"] < self.now:
            self.fail(f"{asked.replica.name} sends a request without a lease")
        for standing in self.holds.values():
            if standing.covers(asked.tenant, asked.product) and standing.row["state"] == "HELD":
                self.fail(f"request {asked.number} reaches {exchange.module}, which is HELD")
        if (asked.tenant, asked.product, exchange.module) in self.superseded:
            self.fail(f"request {asked.number} reaches {exchange.module} after the switch")
        self.arrivals.append(Arrival(asked, exchange))
        return self.arrivals[-1]

    def check_nothing_at_work(self, standing: Standing) -> None:
        """Work whose connection is gone goes on for `settle` seconds at most.

        A replica that stands still for longer than its lease may keep a connection open meanwhile, of which nobody can know.
        """
        for arrival in self.arrivals:
            if arrival.ended or arrival.lapsed or not standing.covers(arrival.asked.tenant, arrival.asked.product):
                continue
            if arrival.cut_at is None or arrival.cut_at + SETTINGS.settle > self.now + 1e-6:
                self.fail(f"HELD while request {arrival.asked.number} is at work at {arrival.asked.replica.name}")

    def dispatched(self, asked: Asked, exchange: Exchange) -> None:
        """Nothing is taken on after UPDATE has returned; those that were parked for a hold go in the order in which they came."""
        if not asked.chain and any(each.returned and each.covers(asked.tenant, asked.product) for each in self.holds.values()):
            self.fail(f"request {asked.number} goes to {exchange.module} after its UPDATE has returned")
        if asked.place is None:
            return
        hold, number = asked.place
        key = (id(asked.replica), asked.tenant, asked.product, hold)
        if self.released.get(key, -1) > number:
            self.fail(f"request {asked.number} is released after one that came later")
        self.released[key] = number

    def check_memory(self) -> None:
        """What stands in the rows stands in every replica that has read them, and nothing else does."""
        if self.failure is not None:
            raise self.failure
        for replica in self.replicas:
            if replica.alive:
                if replica.failed is not None:
                    raise replica.failed
                self.check_replica(replica)

    def check_replica(self, replica: "Replica") -> None:
        table, seen = replica.platform.table, replica.platform.follower.epoch
        links = {(link.tenant, link.product): link for link in table.all_links()}
        for standing in self.holds.values():
            if standing.epoch <= seen:
                link = links.get(standing.key)
                if link is None or link.hold_id != standing.row["id"] or link.hold is Hold.OPEN:
                    raise Broken(f"a hold has opened by itself at {replica.name}")
                if link.hold is Hold.HELD and standing.row["state"] != "HELD":
                    raise Broken(f"{replica.name} takes a hold for HELD that is DRAINING")
        for key, link in links.items():
            if (link.row is None) is not (link.hold is Hold.OPEN):
                raise Broken(f"{replica.name}: {key} is {link.hold} with the row {link.row}")
            if link.row is not None and link.hold_id not in self.holds and seen == self.epoch:
                raise Broken(f"{replica.name}: {key} is held by nobody")

    def check_answers(self) -> None:
        """Every request of a replica that was not killed has had its answer, and only those whose client left have none."""
        for asked in self.requests:
            if asked.replica.alive and not asked.answer:
                raise Broken(f"request {asked.number} at {asked.replica.name} gets no answer")

    def close(self) -> None:
        for replica in self.replicas:
            replica.end()


class Rows:
    """A replica's way to the rows: late, away, or with its answer lost."""

    def __init__(self, replica: "Replica") -> None:
        self.replica = replica
        self.world = replica.world
        self.away = False

    async def ask(self, work: Callable[[], Any], *, pool: bool = True) -> Any:
        if pool and self.away:
            raise DatabaseError("away")
        await self._way()
        found = work()
        await self._way()
        return found

    async def dedicated(self, *, timeout: float) -> "Wire":
        await self._way()
        self.replica.wire = Wire()
        return self.replica.wire

    async def _way(self) -> None:
        await asyncio.sleep(self.replica.latency)
        if not self.replica.alive:
            raise asyncio.CancelledError
        if self.replica.cut or self.world.away:
            raise DatabaseError("away")

    # As gateway/store/changes.py, nodes.py and holds.py have them.

    async def since(self, epoch: int) -> Picture:
        return await self.ask(lambda: self.world.picture(epoch))

    async def everything(self) -> Picture:
        return await self.ask(lambda: self.world.picture(None))

    async def forget_old(self) -> None:
        pass

    async def join(self, *, name: str, generation: str, lease: float, settle: float, replaces: str = "") -> None:
        def work() -> None:
            world = self.world
            dead = [each for each, node in world.nodes.items() if each in (name, replaces) and node["generation"] != generation]
            world.bury(dead, settle)
            world.nodes[name] = {"generation": generation, "applied": -1, "renewed": world.now, "until": world.now + lease}
            world.ghosts.pop(generation, None)
            world.notify("nodes")

        await self.ask(work)

    async def renew(self, connection: "Wire", *, generation: str, lease: float, applied: int) -> int | None:
        def work() -> int | None:
            for node in self.world.nodes.values():
                if node["generation"] == generation and node["until"] > self.world.now:
                    node.update(renewed=self.world.now, until=self.world.now + lease, applied=applied)
                    return self.world.epoch
            return None

        if connection.is_closed():
            raise DatabaseError("closed")
        return await self.ask(work, pool=False)

    async def holder_of(self, name: str) -> str | None:
        return await self.ask(lambda: self.world.nodes.get(name, {}).get("generation"))

    async def set_applied(self, generation: str, epoch: int) -> None:
        def work() -> None:
            for node in self.world.nodes.values():
                if node["generation"] == generation:
                    node["applied"] = epoch
                    self.world.notify("nodes")

        await self.ask(work)

    async def living(self) -> list[Node]:
        return await self.ask(
            lambda: [
                Node(name=name, generation=node["generation"], applied=node["applied"], silent=self.world.now - node["renewed"])
                for name, node in self.world.nodes.items()
                if node["until"] > self.world.now
            ]
        )

    async def say_quiet(self, subject: str, generation: str) -> None:
        def work() -> None:
            if (subject, generation) not in self.world.quiet:
                self.world.quiet.add((subject, generation))
                self.world.notify("nodes")

        await self.ask(work)

    async def is_quiet(self, subject: str, *, settle: float) -> Quiet:
        return await self.ask(lambda: self.world.is_quiet(subject, settle))

    async def set(self, holds: list[NewHold], *, holder: str, grace: float, ttl: float | None, **rest: Any) -> list[HoldRow]:
        def work() -> list[HoldRow]:
            for hold in holds:
                self.world.put_hold(hold, holder, grace, ttl)
            return [HoldRow(**self.world.holds[hold.id].row) for hold in holds]

        return await self.ask(work)

    async def try_held(self, hold: str, *, settle: float) -> Quiet | None:
        return await self.ask(lambda: self.world.try_held(hold, settle))

    async def take_back_quiet(self, hold: str, generation: str) -> bool:
        return await self.ask(lambda: self.world.take_back_quiet(hold, generation))

    async def resume(self, hold: str, *, product: str, holder: str, override: bool) -> str:
        return await self.ask(lambda: self.world.open(hold))


class Wire:
    """The connection that hears notices."""

    def __init__(self) -> None:
        self.heard: dict[str, Callable[..., None]] = {}
        self.lost: Callable[..., None] = lambda *_: None
        self.closed = False

    async def add_listener(self, channel: str, callback: Callable[..., None]) -> None:
        self.heard[channel] = callback

    def add_termination_listener(self, callback: Callable[..., None]) -> None:
        self.lost = callback

    def is_closed(self) -> bool:
        return self.closed

    def terminate(self) -> None:
        self.closed = True


class SimulatedProxy(Proxy):
    """The real one but for the sockets."""

    def __init__(self, replica: "Replica") -> None:
        super().__init__(platform=replica.platform, holds=replica.holds)
        self._replica = replica
        self._parked = 0

    async def _park(self, request: Any, link: Link, deadline: float) -> bool:
        self._parked += 1
        request.place = (link.hold_id, self._parked)
        return await super()._park(request, link, deadline)

    async def _exchange(self, request: Any, exchange: Exchange, *rest: Any, **more: Any) -> web.StreamResponse:
        world = self._replica.world
        world.dispatched(request, exchange)
        await asyncio.sleep(self._replica.latency)
        if not self._membership.may_route:  # `_Leased` looks at it there
            raise _NoLease
        arrival = world.arrive(request, exchange)
        try:
            if not await arrival.result:
                raise aiohttp.ClientPayloadError("reset")  # noqa: TRY301 - as aiohttp does there
        except BaseException:
            arrival.cut_at = world.now
            raise
        arrival.ended = exchange.started = exchange.answered = True
        return web.Response(status=200)


class SimulatedPlatform(Platform):
    """The real one, with rows in memory."""

    def __init__(self, replica: "Replica") -> None:
        rows: Any = replica.rows
        super().__init__(database=rows, settings=SETTINGS, url="", ui_url="", namespace="", node=replica.name)
        self._replica = replica
        self.holds = self.membership.nodes = rows
        self.follower._changes = self.follower._nodes = rows
        self.drains._nodes = rows

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
        self.loop = SteppedLoop(world, offset=1_000.0 * len(world.replicas))
        self.rows = Rows(self)
        with self.loop.running():
            self.platform = SimulatedPlatform(self)
            self.holds = Holds(self.platform)
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

    def hear(self, channel: str) -> None:
        wire = self.wire
        if self.alive and wire is not None and not wire.closed and not self.cut:
            self.loop.call_later(self.latency, wire.heard.get(f"uplift_{channel}", lambda *_: None))

    def lose_wire(self) -> None:
        if self.alive and self.wire is not None and not self.wire.closed:
            self.wire.closed = True
            self.loop.call_soon(self.wire.lost)

    def ask(self, tenant: str, product: str, **more: Any) -> Asked:
        asked = Asked(len(self.world.requests), self, tenant, product, **more)
        self.world.requests.append(asked)
        asked.task = self.loop.create_task(self.proxy.handle(asked))

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
                await self.holds.update(hold=hold, tenant=tenant, product=product, holder=hold, reason="", grace=grace, ttl=ttl)
            except (Conflict, DatabaseError):
                return
            if hold in self.world.holds:
                self.world.holds[hold].returned = True

        return self.loop.create_task(work())

    def end(self) -> None:
        """Killed: whatever it had sent goes on without it for a while."""
        if not self.alive:
            return
        for arrival in self.world.arrivals:
            if arrival.asked.replica is self and not arrival.ended and arrival.cut_at is None:
                arrival.cut_at = self.world.now
        self.alive = False
        while tasks := asyncio.all_tasks(self.loop):
            for task in tasks:
                task.cancel()
            self.loop.turn()
        self.loop.close()
