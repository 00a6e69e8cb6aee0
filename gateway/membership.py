"""Being one of several replicas: a lease, the barrier before a hold counts, and fencing oneself when nobody hears us.

A hold is only true when no replica routes past it. Each replica holds a lease in Postgres, counted from the moment in which its
renewal was *sent*; without a lease it sends nothing to any instance. UPDATE returns when every live replica has applied it.
"""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import asyncpg

from gateway.follower import Follower
from gateway.store import Database, DatabaseError, NodeStore, Outdated
from gateway.store.database import AWAY
from gateway.timings import Timings
from uplift_settings.tree import GatewaySettings

_log = logging.getLogger(__name__)
_RETRY = 0.2
_RETRY_MAX = 1.0
_LOOK_AGAIN = 0.5
"""Seconds between looks at the other replicas where no notice came."""
_BARRIER_BOUNDS = (0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0)
_TIDY_EVERY = 600
"""Renewals between two tidyings of the tables of replicas and changes."""
_now: Callable[[], float] = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
"""The lease's clock: it goes on while the machine sleeps, as the database's does."""


class Replaced(Exception):
    """Another gateway process runs under our name. Give each its own `gateway.node`, or let this one end."""


class Membership:
    """This process among the replicas.

    Args:
        database: The database that they share.
        follower: Keeps our routing table in step.
        settings: Times.
        name: Our name; a restart under the same name takes our place.
        generation: Names this very process.
        replaces: Name of a dead replica whose place we take.
        fenced: Called when the lease has run out: cuts what is at work.
        told_job: Called with the id of a job that was changed by any replica.
    """

    def __init__(
        self,
        *,
        database: Database,
        follower: Follower,
        settings: GatewaySettings,
        name: str,
        generation: str,
        replaces: str,
        fenced: Callable[[], None],
        told_job: Callable[[str], None],
    ) -> None:
        self.name = name
        self.generation = generation
        self.nodes = NodeStore(database)
        self._database = database
        self._follower = follower
        self._settings = settings
        self._replaces = replaces
        self._fenced = fenced
        self._told_job = told_job
        self._loop = asyncio.get_running_loop()
        self._link: asyncpg.Connection[asyncpg.Record] | None = None
        self._lease_until = 0.0
        self._fence: asyncio.TimerHandle | None = None
        self._behind = asyncio.Event()
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._following: asyncio.Task[None] | None = None
        self.restored = asyncio.Event()
        """Set while the lease runs."""
        self.barriers = Timings(_BARRIER_BOUNDS)
        """How long barriers took."""
        self.epoch_seen = -1
        """Epoch of the database at the last renewal."""

    @property
    def may_route(self) -> bool:
        """Whether our lease runs: looked at before the first byte of each request goes to an instance."""
        return _now() < self._lease_until

    @property
    def alone(self) -> bool:
        """Whether no other replica was there at the last look."""
        return not self._follower.others

    async def join(self) -> None:
        """Take a lease and load the routing table.

        Raises:
            DatabaseError: Postgres is away.
        """
        await self._connect()
        sent = _now()
        await self.nodes.join(
            name=self.name,
            generation=self.generation,
            lease=self._settings.lease,
            settle=self._settings.settle,
            replaces=self._replaces,
        )
        await self._follower.resync()
        self._hold_lease(sent)
        if self._following is None:
            self._following = asyncio.create_task(self._follow())

    async def run(self) -> None:
        """Renew the lease until cancelled; Postgres may come and go.

        Raises:
            Replaced: Another process has our name.
            Outdated: The database was migrated beyond this release while nothing was heard of us.
        """
        renewals, pause, away = 0, _RETRY, False
        while True:
            try:
                if self._link is None or self._link.is_closed():
                    await self._connect()
                    await self._database.renew()
                    await self._follower.resync()
                await self._renew()
                if away:
                    _log.info("the gateway's database is back")
                pause, away = _RETRY, False
                renewals += 1
                if renewals % _TIDY_EVERY == 0:
                    await self.nodes.forget_old()
                    await self._follower.forget_old()
                await self.wait(self._wake, self._settings.lease_renew)
            except (Replaced, Outdated):
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, routing goes on as long as the lease runs
                if not isinstance(error, (DatabaseError, asyncpg.PostgresError, *AWAY)):
                    _log.exception("renewing the lease failed, trying again")
                if not away:
                    _log.warning(
                        "the gateway's database is away, routing goes on for %.0f s: %s",
                        self.lease_left,
                        str(error) or type(error).__name__,
                    )
                away = True
                self._database.cut(str(error) or type(error).__name__)
                await self._drop_link()
                await asyncio.sleep(pause)
                pause = min(pause * 2, _RETRY_MAX)

    @property
    def lease_left(self) -> float:
        """Seconds that the lease still runs."""
        return max(0.0, self._lease_until - _now())

    async def leave(self, *, loose: float) -> None:
        """Give the lease back; `loose`: seconds that what we had sent may still be at work."""
        self._lease_until = 0.0
        self.restored.clear()
        if self._fence is not None:
            self._fence.cancel()
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        with contextlib.suppress(DatabaseError):
            await self.nodes.leave(generation=self.generation, loose=loose)
        await self._drop_link()

    async def all_heard(self) -> None:
        """Wait until every other replica was heard of a moment ago, or its lease has run out: what follows will be quick."""
        silent = 2 * self._settings.lease_renew
        told: list[str] = []
        while not self.alone:
            notice = self.notice
            late = [
                node.name for node in await self.nodes.living() if node.generation != self.generation and node.silent > silent
            ]
            if not late:
                return
            if late != told:
                _log.warning("waiting for replicas that are not heard of: %s", ", ".join(late))
                told = late
            await self.wait(notice, _LOOK_AGAIN)

    async def barrier(self, *, within: float | None = None) -> bool:
        """Wait until every live replica has applied what this one has; call it after catching up.

        Args:
            within: Seconds to wait at most; None: as long as it takes, at most their leases.

        Returns:
            Whether all have.
        """
        epoch = self._follower.epoch
        with self.barriers.timed(), contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while not self.alone:
                    notice = self.notice
                    nodes = await self.nodes.living()
                    if all(node.applied >= epoch for node in nodes if node.generation != self.generation):
                        return True
                    await self.wait(notice, _LOOK_AGAIN)
                return True
        return False

    @property
    def notice(self) -> asyncio.Event:
        """Set at the next thing that any replica tells; take it before looking at the rows."""
        return self._changed

    async def wait(self, notice: asyncio.Event, seconds: float) -> None:
        """Wait for a notice, at most some seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await notice.wait()

    async def _renew(self) -> None:
        assert self._link is not None
        self._wake.clear()
        sent = _now()
        epoch = await self._renew_on(self._link)
        if epoch is None and self.may_route and await self._set_clock_right(self._link):
            epoch = await self._renew_on(self._link)
        if epoch is None:
            self._lose_lease()
            found = await self.nodes.holder_of(self.name)
            if found not in (None, self.generation):
                raise Replaced(f"another gateway runs as {self.name} on this database: give each its own name with gateway.node")
            _log.warning("the lease had run out; joining anew")
            self._replaces = ""
            await self.join()
            return
        self._hold_lease(sent)
        self.epoch_seen = epoch
        if epoch != self._follower.epoch:  # below: it was restored from a copy, and the follower says so
            self._behind.set()

    async def _renew_on(self, link: "asyncpg.Connection[asyncpg.Record]") -> int | None:
        return await self.nodes.renew(link, generation=self.generation, lease=self._settings.lease, applied=self._follower.epoch)

    async def _set_clock_right(self, link: "asyncpg.Connection[asyncpg.Record]") -> bool:
        """Our lease runs by our clock: if it does not by the database's, that was set, and all leases count anew."""
        moved = await self.nodes.set_clock_right(link, generation=self.generation, settle=self._settings.settle)
        if moved:
            _log.warning("the clock of the gateway's database was set by about %.0f s: all leases count anew", moved)
        return moved is not None

    def _hold_lease(self, sent: float) -> None:
        self._lease_until = sent + self._settings.lease
        if self._fence is not None:
            self._fence.cancel()
        self._fence = self._loop.call_later(self.lease_left, self._on_lease_end)
        self.restored.set()

    def _on_lease_end(self) -> None:
        if (left := self.lease_left) > 0:  # the loop's timers are coarser than the lease's clock
            self._fence = self._loop.call_later(left, self._on_lease_end)
            return
        _log.error("the lease has run out: nothing is routed until the database is back")
        self._lose_lease()

    def _lose_lease(self) -> None:
        """The others count us as gone: nothing new is sent, and what is at work is cut."""
        self._lease_until = 0.0
        self.restored.clear()
        self._fenced()

    async def _connect(self) -> None:
        await self._drop_link()
        link = await self._database.dedicated(timeout=self._settings.database_timeout)
        self._link = link
        await link.add_listener("uplift_routing", self._on_routing)
        await link.add_listener("uplift_nodes", self._on_nodes)
        await link.add_listener("uplift_jobs", self._on_job)
        link.add_termination_listener(self._on_lost)

    async def _drop_link(self) -> None:
        if self._link is not None and not self._link.is_closed():
            self._link.terminate()
        self._link = None

    def _on_routing(self, *_: Any) -> None:
        self._behind.set()

    def _on_nodes(self, *told: Any) -> None:
        if told[-1] == self.name:  # somebody joined under our name: if it was not we, we have been replaced
            self._wake.set()
        self._behind.set()
        self._changed.set()
        self._changed = asyncio.Event()

    def _on_job(self, *told: Any) -> None:
        self._told_job(str(told[-1]))

    def _on_lost(self, *_: Any) -> None:
        self._wake.set()

    async def _follow(self) -> None:
        while True:
            await self._behind.wait()
            self._behind.clear()
            try:
                await self._follower.catch_up()
            except DatabaseError as error:
                _log.debug("following is put off: %s", error)
            except Exception:  # noqa: BLE001 - a replica that no longer follows would hold up every UPDATE of the others
                _log.exception("following failed, trying again")
                await asyncio.sleep(_RETRY_MAX)
                self._behind.set()


def new_generation() -> str:
    """A name for this very process."""
    return uuid.uuid4().hex
