"""The gateway's stores and its routing table together: what the services work on."""

import asyncio
import contextlib
from collections.abc import Callable

from gateway.drains import Drains
from gateway.follower import Follower
from gateway.membership import Membership, new_generation
from gateway.routing import RoutingTable
from gateway.store import (
    Changed,
    Database,
    DatabaseError,
    DeploymentStore,
    HeldTimeStore,
    HoldStore,
    InstanceStore,
    JobStore,
    OutboxStore,
    PlanStore,
    ProblemStore,
    ReconcileStore,
    RegistryStore,
    RunStore,
)
from uplift_settings.tree import GatewaySettings


class Platform:
    """One replica's state.

    Args:
        database: The database that all replicas share.
        settings: The gateway's settings.
        url: Where modules reach the gateway.
        ui_url: Base of links to runs, or empty.
        namespace: Temporal's, for those links.
        node: Name of this replica.
        replaces: Name of a dead replica whose place it takes, or empty.
    """

    def __init__(
        self,
        *,
        database: Database,
        settings: GatewaySettings,
        url: str,
        ui_url: str,
        namespace: str,
        node: str,
        replaces: str = "",
    ) -> None:
        self.database = database
        self.settings = settings
        self.url = url
        self.ui_url = ui_url
        self.namespace = namespace
        self.registry = RegistryStore(database)
        self.instances = InstanceStore(database)
        self.jobs = JobStore(database)
        self.deployments = DeploymentStore(database)
        self.plans = PlanStore(database)
        self.held_times = HeldTimeStore(database)
        self.runs = RunStore(database)
        self.holds = HoldStore(database)
        self.problems = ProblemStore(database)
        self.outbox = OutboxStore(database)
        self.reconcile = ReconcileStore(database)
        self.table = RoutingTable(ttl=settings.ttl)
        self.instances_changed = asyncio.Event()
        self.on_hold: Callable[[Changed], None] | None = None
        self.on_restored: Callable[[int, int], None] | None = None
        """Called when the database turned out to be an older copy of itself; see `Follower`."""
        self.on_job: Callable[[str], None] | None = None
        """Called with a module id that tenants have and that stayed without an instance for the whole TTL."""
        generation = new_generation()
        self.follower = Follower(
            database=database, generation=generation, known=self.table.known, apply=self._apply, applied=self._applied,
            restored=self._restored,
        )  # fmt: skip
        self.membership = Membership(
            database=database,
            follower=self.follower,
            settings=settings,
            name=node,
            generation=generation,
            replaces=replaces,
            fenced=self._fenced,
            told_job=self._told_job,
        )
        self.drains = Drains(nodes=self.membership.nodes, generation=generation)

    async def catch_up(self) -> None:
        """Everything that was committed before is in the table afterwards.

        Raises:
            DatabaseError: Postgres is away.
        """
        await self.follower.catch_up()

    async def spread(self) -> None:
        """As `catch_up`, and every other replica follows too, as far as it is heard of within `gateway.spread_wait`.

        Raises:
            DatabaseError: Postgres is away; what was committed is committed.
        """
        await self.follower.catch_up()
        await self.membership.barrier(within=self.settings.spread_wait)

    async def look(self) -> None:
        """What other replicas committed before is in the table afterwards, unless Postgres is away: then it is as it was."""
        if not self.membership.alone:
            with contextlib.suppress(DatabaseError, TimeoutError):
                async with asyncio.timeout(self.settings.database_timeout):
                    await self.follower.catch_up()

    async def wait_quiet(self, subject: str, seconds: float) -> bool:
        """Wait until nothing of any replica is at work on a subject; False when the time is up."""
        membership = self.membership
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    notice = membership.notice
                    found = await membership.nodes.is_quiet(subject, settle=self.settings.settle)
                    if found.reached:
                        return True
                    await membership.wait(notice, min(found.loose, 1.0) or 0.5)
        return False

    def tell_instances_changed(self) -> None:
        """Wake those who wait for an instance to come or go."""
        self.instances_changed.set()
        self.instances_changed = asyncio.Event()

    def _apply(self, change: Changed) -> None:
        table = self.table
        if change.kind == "hold":
            if self.on_hold is not None:
                self.on_hold(change)
            return
        closing = table.overlays.get(change.a) if change.kind == "overlay" else None
        table.apply(change)
        if closing is not None and change.a not in table.overlays:
            if change.row is not None:  # closed by an undo; an alias that ends with its version lets its requests finish
                closing.flow.cut_all()
            self.drains.begin(f"overlay:{change.a}", closing.flow.wait_idle())
        elif change.kind == "overlay" and change.row is not None and change.row["state"] == "closing":
            self.drains.begin(f"overlay:{change.a}")  # a replica that came later never knew it
        if change.kind == "instance" and change.row is None:
            self.drains.begin(f"instance:{change.a}", table.wait_gone(change.a))
        if change.kind == "retirement" and change.row is not None:
            self.drains.begin(f"module:{change.a}", table.wait_gone(change.a))

    def _applied(self, kinds: set[str]) -> None:
        if kinds & {"instance", "retirement"}:
            self.tell_instances_changed()

    def _restored(self, epoch: int, applied: int) -> None:
        if self.on_restored is not None:
            self.on_restored(epoch, applied)

    def _fenced(self) -> None:
        for flow in self.table.flows():
            flow.cut_all()

    def _told_job(self, job: str) -> None:
        if self.on_job is not None:
            self.on_job(job)
