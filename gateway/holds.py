"""UPDATE, draining and RESUME: signals become rows, then move links by the protocol's tables."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from typing import Any, Literal

from gateway.links import Link
from gateway.platform import Platform
from gateway.store import DatabaseError, HoldRow
from gateway.store.runs import Move
from gateway_client import HoldRequest, HoldState, OpenRequest
from upgrade_core.ids import step_key
from upgrade_core.protocol import Effect, Hold, Signal

_log = logging.getLogger(__name__)
_RETRY = 0.5


class Holds:
    """The gateway's part in holding links."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._tasks: set[asyncio.Task[None]] = set()

    def restore(self) -> None:
        """Go on with the draining that a former gateway began."""
        for link in list(self._platform.table.links()):
            if link.hold is Hold.DRAINING:
                self._spawn(self._drain(link, link.hold_id, self._platform.settings.grace))

    async def close(self) -> None:
        """Stop draining; the rows stay."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def set(self, *, job: str, tenant: str, request: HoldRequest) -> tuple[HoldState, ...]:
        """UPDATE on the links of a group at once.

        Raises:
            Conflict: Somebody else holds one of them; nothing was changed.
        """
        wanted = [(hold_id(job, request.group, change.product), change.product, change.subject) for change in request.changes]
        rows = await self._platform.runs.set_holds(job=job, tenant=tenant, holds=wanted, reason=request.reason)
        grace = self._platform.settings.grace if request.grace is None else request.grace
        for row in rows:
            self._apply_update(row, grace)
        return tuple(self.state(row.id, holder=True) for row in rows)

    def state(self, hold: str, *, holder: bool) -> HoldState:
        """A hold as a place to wait sees it; one that is not there has been resumed.

        Args:
            hold: Its id.
            holder: Who asks: its holder may begin when it is HELD, a requester when it is over.
        """
        link = self._find(hold)
        if link is None:
            return HoldState(id=hold, lifecycle="RESUME", state=Hold.OPEN)
        flow = link.flow
        lifecycle: Literal["DELAY", "RESUME", "MISSING"] = "DELAY"
        if holder and link.hold is Hold.HELD:
            lifecycle = "RESUME"
        elif not holder and link.overdue:
            lifecycle = "MISSING"
        return HoldState(
            id=hold,
            lifecycle=lifecycle,
            state=link.hold,
            in_flight=len(flow.in_flight),
            loose=flow.loose_until > link.held_from,
            parked=len(link.waiters),
        )

    async def wait(self, hold: str, seconds: float, *, holder: bool) -> HoldState:
        """A hold, after waiting until who asks may go on or the time is up; see `state`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.state(hold, holder=holder).lifecycle == "DELAY" and (link := self._find(hold)) is not None:
                    await link.changed.wait()
        return self.state(hold, holder=holder)

    async def open(self, *, job: str, tenant: str, request: OpenRequest) -> None:
        """RESUME, with the switch of the bindings where asked for; again is fine."""
        platform = self._platform
        ids = [hold_id(job, request.group, move.product) for move in request.moves]
        moves = [
            Move(product=move.product, subject=move.subject, bind=move.bind, module=move.module, purged=move.purged)
            for move in request.moves
        ]
        await platform.runs.open_holds(job=job, tenant=tenant, hold_ids=ids, moves=moves, stage=request.stage)
        for move in moves:
            if move.bind:
                platform.table.bind(tenant, move.product, move.module)
                platform.table.close_inside(job, move.product)
        for hold in ids:
            link = self._find(hold)
            if link is not None:
                effects = link.apply(Signal.RESUME)
                link.hold_id = link.holder = link.since = ""
                if Effect.RELEASE in effects:
                    self._spawn(self._release(link))

    def _apply_update(self, row: HoldRow, grace: float) -> None:
        link = self._platform.table.link(row.tenant, row.product)
        if link.hold_id == row.id:
            return
        link.apply(Signal.UPDATE)
        link.hold_id, link.holder, link.since = row.id, row.job or "", row.since.isoformat()
        link.held_from = asyncio.get_running_loop().time()
        self._spawn(self._drain(link, row.id, grace))

    async def _drain(self, link: Link, hold: str, grace: float) -> None:
        """Wait for what is in flight, cut it after the grace, wait for what is loose, then say HELD."""
        flow = link.flow
        loop = asyncio.get_running_loop()
        if (pause := self._platform.loose_until - time.monotonic()) > 0:
            flow.loose_until = max(flow.loose_until, loop.time() + pause)
        try:
            async with asyncio.timeout(grace):
                while flow.in_flight:
                    flow.idle.clear()
                    await flow.idle.wait()
        except TimeoutError:
            if link.hold_id == hold and link.hold is Hold.DRAINING and Effect.CUT_OLD in link.apply(Signal.GRACE_EXPIRED):
                flow.cut_all()
        await flow.wait_idle()
        while link.hold_id == hold and link.hold is Hold.DRAINING:
            try:
                await self._platform.runs.set_held(hold)
            except DatabaseError as error:
                _log.warning("cannot write that %s is held, trying again: %s", hold, error)
                await asyncio.sleep(_RETRY)
                continue
            if link.hold_id == hold and link.hold is Hold.DRAINING:
                link.apply(Signal.DRAINED)
            return

    async def _release(self, link: Link) -> None:
        """Let parked requests go in the order they came, at a bounded rate."""
        rate = self._platform.settings.release_rate
        batch = max(1, rate // 50)
        for position, waiter in enumerate(link.take_waiters(), start=1):
            if not waiter.done():
                waiter.set_result(None)
            if position % batch == 0:
                await asyncio.sleep(batch / rate)

    def _find(self, hold: str) -> Link | None:
        return next((link for link in self._platform.table.links() if link.hold_id == hold), None)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def hold_id(job: str, group: str, product: str) -> str:
    """Id of the hold of one product by one group of a job: the same for every retry."""
    return step_key(job, product, group)
