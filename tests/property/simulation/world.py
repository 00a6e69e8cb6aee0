"""The world: rows in memory, the one clock, and what must hold."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from gateway.links import Exchange
from gateway.store import EVERY_TENANT, Changed, Conflict, HeldByAnother, HoldRow, NewHold, Picture, Quiet
from upgrade_core.protocol import Hold
from uplift_settings.tree import GatewaySettings

from .clock import date
from .traffic import Arrival, Asked, Standing

if TYPE_CHECKING:
    from .replica import Replica

SETTINGS = GatewaySettings(lease=8.0, lease_renew=1.0, settle=2.0, grace=3.0, hold_max=6.0, spread_wait=1.0, release_rate=100)
TENANTS = ("t", "u")
VERSIONS = ("a-1.0.0", "a-2.0.0", "b-1.0.0")
_A_TURN = 1e-6
"""Seconds that a turn takes: no clock stands still while something is done."""
_ENOUGH = 2_000
"""Turns of all loops after which they will not come to rest."""


class Broken(AssertionError):
    """An invariant does not hold."""


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
        self.released: dict[tuple[object, ...], int] = {}
        for tenant in TENANTS:
            self.write("tenant", tenant, "", {"id": tenant, "name": None, "description": None, "routing": "pinned"})
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
                "seen": None,
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

    def notify(self, channel: str, told: str = "") -> None:
        for replica in self.replicas:
            replica.hear(channel, told)

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
            for replica in self.replicas:
                if replica.generation == node["generation"] and replica.alive:
                    self.lapse(replica)

    def lapse(self, replica: "Replica") -> None:
        """It stands still for longer than its lease: nobody can know of the connections that it keeps open."""
        for arrival in self.arrivals:
            if arrival.asked.replica is replica and not arrival.ended:
                arrival.lapsed = True

    def lapse_if_late(self, replica: "Replica") -> None:
        """Its lease has ended, although nobody has looked yet."""
        node = self.nodes.get(replica.name)
        if node is None or node["generation"] != replica.generation or node["until"] <= self.now:
            self.lapse(replica)

    def is_quiet(self, subject: str, settle: float) -> Quiet:
        self.bury([name for name, node in self.nodes.items() if node["until"] <= self.now], settle)
        busy = tuple(name for name, node in self.nodes.items() if (subject, node["generation"]) not in self.quiet)
        return Quiet(busy=busy, loose=max((until - self.now for until in self.ghosts.values() if until > self.now), default=0.0))

    def put_hold(self, hold: NewHold, *, holder: str, grace: float, ttl: float | None, origin: str) -> None:
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
        real = date(self)
        row = HoldRow(
            id=hold.id, job=None, tenant=hold.tenant, product=hold.product, state="DRAINING", reason="", since=real,
            until=None if ttl is None else real + timedelta(seconds=ttl), holder=holder, grace=grace, origin=origin,
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
