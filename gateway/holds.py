"""UPDATE, draining and RESUME: signals become rows; each replica follows the rows and moves links by the tables."""

import asyncio
import contextlib
import logging
from datetime import datetime
from typing import Literal

from gateway.links import Flow, Link
from gateway.platform import Platform
from gateway.store import EVERY_TENANT, Changed, DatabaseError, HoldRow, Move, NewHold
from gateway.timings import Timings
from gateway_client import HoldRequest, HoldState, OpenRequest
from upgrade_core.ids import step_key
from upgrade_core.protocol import Effect, Hold, Signal

_log = logging.getLogger(__name__)
_RETRY = 0.5
_HELD_BOUNDS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0)


class Holds:
    """The gateway's part in holding links."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self.ended = Timings(_HELD_BOUNDS)
        """How long links were held that are not any more."""
        platform.on_hold = self._follow

    async def set(self, *, job: str, tenant: str, request: HoldRequest) -> tuple[HoldState, ...]:
        """UPDATE by a run on the links of a group at once; returns when no replica routes past it.

        Raises:
            Conflict: Somebody else holds one of them; nothing was changed.
        """
        holds = [
            NewHold(id=hold_id(job, request.group, change.product), tenant=tenant, product=change.product, subject=change.subject)
            for change in request.changes
        ]
        return await self._set(holds, holder=f"job {job}", job=job, reason=request.reason, grace=request.grace, ttl=None)

    async def update(
        self, *, hold: str, tenant: str, product: str, holder: str, reason: str, grace: float | None, ttl: float | None
    ) -> HoldState:
        """UPDATE by a module or an operator; `tenant` may be `*`.

        Raises:
            Conflict: Somebody else holds it; nothing was changed.
        """
        new = NewHold(id=hold, tenant=tenant, product=product)
        return (await self._set([new], holder=holder, job=None, reason=reason, grace=grace, ttl=ttl))[0]

    async def resume(self, hold: str, *, product: str, holder: str, override: bool) -> HoldState:
        """RESUME by a module or an operator; the same again within a day is fine.

        Raises:
            HeldByAnother: The hold is not theirs, or there was none; nothing was changed.
        """
        await self._platform.holds.resume(hold, product=product, holder=holder, override=override)
        await self._platform.spread()
        return HoldState(id=hold, lifecycle="RESUME", state=Hold.OPEN)

    def state(self, hold: str, *, holder: bool) -> HoldState:
        """A hold as a place to wait sees it; one that is not there has been resumed.

        Args:
            hold: Its id.
            holder: Who asks: its holder may begin when it is HELD, a requester when it is over.
        """
        link = self._find(hold)
        if link is None:
            return HoldState(id=hold, lifecycle="RESUME", state=Hold.OPEN)
        assert link.row is not None
        flows = self._platform.table.flows_of(link)
        lifecycle: Literal["DELAY", "RESUME", "MISSING"] = "DELAY"
        if holder and link.hold is Hold.HELD:
            lifecycle = "RESUME"
        elif not holder and link.overdue:
            lifecycle = "MISSING"
        return HoldState(
            id=hold,
            lifecycle=lifecycle,
            state=link.hold,
            tenant=link.tenant,
            product=link.product,
            holder=link.row.holder,
            since=link.row.since,
            until=link.row.until,
            in_flight=sum(len(flow.in_flight) for flow in flows),
            loose=any(flow.loose_until > link.held_from for flow in flows),
            parked=len(link.waiters),
        )

    async def wait(self, hold: str, seconds: float, *, holder: bool) -> HoldState:
        """A hold, after waiting until who asks may go on or the time is up; see `state`."""
        await self._platform.look()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.state(hold, holder=holder).lifecycle == "DELAY" and (link := self._find(hold)) is not None:
                    await link.changed.wait()
        return self.state(hold, holder=holder)

    async def open(self, *, job: str, tenant: str, request: OpenRequest) -> None:
        """RESUME, with the switch of the bindings where asked for; again is fine."""
        platform = self._platform
        moves = [
            Move(product=move.product, subject=move.subject, bind=move.bind, module=move.module, purged=move.purged)
            for move in request.moves
        ]
        ids = [hold_id(job, request.group, move.product) for move in request.moves]
        await platform.holds.open(job=job, tenant=tenant, hold_ids=ids, moves=moves, stage=request.stage)
        await platform.spread()

    async def lets_through(self, link: Link) -> bool:
        """Whether a part of old work, which another replica counts, may still reach the old version of a draining link.

        It may while the hold is DRAINING; then this replica has something at work again, and says so before it routes. The
        request must be counted on the link already.
        """
        if link.row is None or link.hold is not Hold.DRAINING:
            return False
        async with link.saying:
            try:
                return await self._platform.holds.take_back_quiet(link.row.id, self._platform.membership.generation)
            except DatabaseError:
                return False

    async def _set(
        self, holds: list[NewHold], *, holder: str, job: str | None, reason: str, grace: float | None, ttl: float | None
    ) -> tuple[HoldState, ...]:
        platform = self._platform
        await platform.membership.all_heard()
        rows = await platform.holds.set(
            holds,
            holder=holder,
            job=job,
            reason=reason,
            grace=platform.settings.grace if grace is None else grace,
            ttl=ttl,
            origin=platform.membership.name,
        )
        await platform.catch_up()
        await platform.membership.barrier()
        return tuple(self.state(row.id, holder=True) for row in rows)

    def _follow(self, change: Changed) -> None:
        """Take a hold's row into memory."""
        table = self._platform.table
        row = None if change.row is None else _row(change.row)
        star = change.a == EVERY_TENANT
        if row is None and ((star and change.b not in table.stars) or (not star and change.a not in table.tenants)):
            return
        link = table.star(change.b) if star else table.link(change.a, change.b)
        if link.row is not None and (row is None or row.id != link.row.id):
            self._resumed(link)
        if row is not None:
            if link.row is None:
                self._updated(link, row)
            link.row = row
            if row.state == Hold.HELD and link.hold is Hold.DRAINING:
                link.apply(Signal.DRAINED)
        elif star:
            table.stars.pop(change.b, None)

    def _updated(self, link: Link, row: HoldRow) -> None:
        link.row = row
        link.apply(Signal.UPDATE)
        link.held_from = asyncio.get_running_loop().time()
        if row.state == Hold.DRAINING:
            self._platform.drains.spawn(self._drain(link, row))
        if (left := link.seconds_left()) is not None:
            self._timers[row.id] = asyncio.get_running_loop().call_later(max(0.0, left), self._overdue, link, row.id)

    def _resumed(self, link: Link) -> None:
        timer = self._timers.pop(link.hold_id, None)
        if timer is not None:
            timer.cancel()
        link.row, link.overdue = None, False
        self.ended.add(asyncio.get_running_loop().time() - link.held_from)
        if Effect.RELEASE in link.apply(Signal.RESUME):
            self.release(link)

    def _overdue(self, link: Link, hold: str) -> None:
        """The hold has passed its `until`: it stays, its waiters get MISSING."""
        if link.hold_id == hold:
            link.overdue = True
            link.tell_changed()
            for waiter in link.take_waiters():
                waiter.set_result(None)

    async def _drain(self, link: Link, row: HoldRow) -> None:
        """Wait for what is in flight here, cut it after the grace, wait for what is loose; then for the other replicas."""
        table = self._platform.table
        try:
            async with asyncio.timeout(row.grace):
                await self._idle(link, row)
        except TimeoutError:
            if _stands(link, row) and Effect.CUT_OLD in link.apply(Signal.GRACE_EXPIRED):
                for flow in table.flows_of(link):
                    flow.cut_all()
        while _stands(link, row):
            await self._idle(link, row, loose=True)
            notice = self._platform.membership.notice
            try:
                async with link.saying:
                    if self._busy(link, loose=True):
                        continue
                    await self._platform.membership.nodes.say_quiet(f"hold:{row.id}", self._platform.membership.generation)
                found = await self._platform.holds.try_held(row.id, settle=self._platform.settings.settle)
                if found is None or found.reached:
                    await self._platform.catch_up()
                    return
                await self._platform.membership.wait(notice, min(found.loose, _RETRY) or _RETRY)
            except DatabaseError as error:
                _log.warning("cannot write that %s is held, trying again: %s", row.id, error)
                await asyncio.sleep(_RETRY)

    async def _idle(self, link: Link, row: HoldRow, *, loose: bool = False) -> None:
        """Wait until nothing of the link is in flight here (or loose); parts of old work may come to links that were idle."""
        while _stands(link, row) and (busy := self._busy(link, loose=loose)):
            for flow in busy:
                await (flow.wait_idle() if loose else flow.wait_no_flight())

    def _busy(self, link: Link, *, loose: bool) -> list[Flow]:
        now = asyncio.get_running_loop().time()
        return [flow for flow in self._platform.table.flows_of(link) if flow.in_flight or (loose and flow.loose_until > now)]

    def release(self, link: Link) -> None:
        """Let parked requests go in the order they came, at a bounded rate."""
        waiters = link.take_waiters()
        if waiters:
            self._platform.drains.spawn(_let_go(waiters, self._platform.settings.release_rate))

    def _find(self, hold: str) -> Link | None:
        return next((link for link in self._platform.table.all_links() if link.hold_id == hold), None)


async def _let_go(waiters: "list[asyncio.Future[None]]", rate: int) -> None:
    batch = max(1, rate // 50)
    for position, waiter in enumerate(waiters, start=1):
        if not waiter.done():
            waiter.set_result(None)
        if position % batch == 0:
            await asyncio.sleep(batch / rate)


def _stands(link: Link, row: HoldRow) -> bool:
    return link.hold_id == row.id and link.hold is Hold.DRAINING


def _row(row: dict[str, object]) -> HoldRow:
    values = dict(row)
    values["since"] = datetime.fromisoformat(str(row["since"]))
    values["until"] = None if row["until"] is None else datetime.fromisoformat(str(row["until"]))
    return HoldRow(**values)  # type: ignore[arg-type]


def hold_id(job: str, group: str, product: str) -> str:
    """Id of the hold of one product by one group of a job: the same for every retry."""
    return step_key(job, product, group)
