"""UPDATE, draining and RESUME: signals become rows; each replica follows the rows and moves links by the tables."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from datetime import datetime
from functools import partial
from typing import Any, Literal

from gateway.delays import read_lost_place
from gateway.links import Flow, Link, Place, Waiter
from gateway.platform import Platform
from gateway.problems import Problems
from gateway.pushes import Pushes
from gateway.store import EVERY_TENANT, Changed, DatabaseError, HoldRow, Move, NewHold, row_of
from gateway.store.outbox import Message
from gateway.timings import Timings
from gateway_wire import HoldRequest, HoldState, OpenRequest
from upgrade_core.ids import hold_id
from upgrade_core.problems import closed, overdue
from upgrade_core.protocol import Effect, Hold, Reply, Signal

_log = logging.getLogger(__name__)
_RETRY = 0.5
_HELD_BOUNDS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0)


class Holds:
    """The gateway's part in holding links."""

    def __init__(self, platform: Platform, problems: Problems) -> None:
        self._platform = platform
        self._problems = problems
        self._pushes = Pushes(platform)
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._going: list[Place] = []
        self.ended = Timings(_HELD_BOUNDS)
        """How long links were held that are not any more."""
        platform.on_hold = self._follow
        platform.table.pool.on_effects = self._available

    async def set(self, *, job: str, tenant: str, request: HoldRequest, run: str = "") -> tuple[HoldState, ...]:
        """UPDATE by a run on the links of a group at once; returns when no replica routes past it.

        Raises:
            Conflict: Somebody else holds one of them, or another run works on the job; nothing was changed.
        """
        holds = [
            NewHold(id=hold_id(job, request.group, change.product), tenant=tenant, product=change.product, subject=change.subject)
            for change in request.changes
        ]
        return await self._set(holds, holder=f"job {job}", job=job, reason=request.reason, grace=request.grace, ttl=None, run=run)

    async def update(
        self,
        *,
        hold: str,
        tenant: str,
        product: str,
        sender: str,
        holder: str,
        reason: str,
        grace: float | None,
        ttl: float | None,
    ) -> HoldState:
        """UPDATE by a module or an operator; `tenant` may be `*`, `sender` is the module id that was named.

        Raises:
            Conflict: Somebody else holds it; nothing was changed.
        """
        new = NewHold(id=hold, tenant=tenant, product=product)
        return (await self._set([new], holder=holder, job=None, reason=reason, grace=grace, ttl=ttl, sender=sender))[0]

    async def resume(self, hold: str, *, product: str, sender: str, holder: str, override: bool) -> HoldState:
        """RESUME by a module or an operator; the same again within a day is fine.

        Raises:
            HeldByAnother: The hold is not theirs, or there was none; nothing was changed.
        """
        messages = self._told_resumed([hold], sender)
        await self._platform.holds.resume(hold, product=product, holder=holder, override=override, messages=messages)
        self._platform.outbox.added.set()
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
            return self._lost_state(hold)
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
        """A hold, after waiting until who asks may go on or the time is up; see `state`.

        Raises:
            DatabaseError: We know of no such hold, and cannot ask whether another replica does.
        """
        if self._find(hold) is None:
            await self._platform.catch_up()
        else:
            await self._platform.look()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.state(hold, holder=holder).lifecycle == "DELAY" and (link := self._awaited(hold)) is not None:
                    await link.changed.wait()
        return self.state(hold, holder=holder)

    def _lost_state(self, place: str) -> HoldState:
        """What is to be said at the place of a link that was LOST, or of a hold that is not there any more."""
        link = self._lost_link(place)
        if link is None or link.module is None:
            return HoldState(id=place, lifecycle="RESUME", state=Hold.OPEN)
        table = self._platform.table
        gate = table.stars.get(link.product) or link
        availability = table.availability(link.module)
        reply = gate.reply(availability)
        if reply is Reply.PASS:
            return HoldState(id=place, lifecycle="RESUME", state=Hold.OPEN, tenant=link.tenant, product=link.product)
        version = table.pool.version(link.module)
        held = gate.hold is not Hold.OPEN
        return HoldState(
            id=place,
            lifecycle="DELAY" if reply is Reply.DELAY else "MISSING",
            state=gate.hold if held else availability,
            tenant=link.tenant,
            product=link.product,
            since=gate.row.since if gate.row else version.lost_since if version else None,
            until=gate.row.until if gate.row else version.lost_until if version else None,
            parked=len(gate.waiters),
        )

    def _awaited(self, place: str) -> Link | None:
        """The link whose change is to be waited for at a place."""
        found = self._find(place)
        if found is None and (lost := self._lost_link(place)) is not None:
            found = self._platform.table.stars.get(lost.product) or lost
        return found

    def _lost_link(self, place: str) -> Link | None:
        named = read_lost_place(place, self._platform.follower.key)
        return (
            None
            if named is None
            else next((link for link in self._platform.table.links(named[0]) if link.product == named[1]), None)
        )

    def _available(self, module: str, effects: tuple[Effect, ...]) -> None:
        """Do what the table says after the availability of a version has changed."""
        table = self._platform.table
        bound = [link for link in table.links() if link.module == module]
        for link in bound:
            link.tell_changed()
        if Effect.RELEASE in effects:
            self.release(*table.places_of(module))
            if bound:
                self._platform.drains.spawn(self._told(partial(self._problems.resolve, closed(module).key)))
        if Effect.ANSWER_MISSING in effects:
            for place in table.places_of(module):
                place.wake()
        if Effect.TELL_ADMINISTRATOR in effects and bound:
            self._platform.drains.spawn(self._told(partial(self._problems.report, closed(module))))

    async def open(self, *, job: str, tenant: str, request: OpenRequest, run: str = "") -> dict[str, float]:
        """RESUME, with the switch of the bindings where asked for; again is fine.

        Returns:
            The holds that were removed by it, and the seconds that they stood.

        Raises:
            Conflict: The run that asks was given up; nothing was changed.
        """
        platform = self._platform
        moves = [
            Move(product=move.product, subject=move.subject, bind=move.bind, module=move.module, purged=move.purged)
            for move in request.moves
        ]
        ids = [hold_id(job, request.group, move.product) for move in request.moves]
        messages = self._told_resumed(ids, None)
        stood = await platform.holds.open(
            job=job, tenant=tenant, hold_ids=ids, moves=moves, stage=request.stage, messages=messages, run=run
        )
        platform.outbox.added.set()
        await platform.spread()
        return stood

    async def lets_through(self, link: Link) -> bool:
        """Whether a part of old work, which another replica counts, may still reach the old version of a draining link.

        It may while the hold is DRAINING; then this replica has something at work again, and says so before it routes. The
        request must be counted on the link already. After the grace nothing old begins any more.
        """
        async with link.saying:  # looked at in here: it may have been opened while others had their turn
            if link.row is None or link.hold is not Hold.DRAINING or not self._grace_left(link):
                return False
            try:
                return await self._platform.holds.take_back_quiet(link.row.id, self._platform.membership.generation)
            except DatabaseError:
                return False

    def _told_resumed(self, holds: list[str], sender: str | None) -> list[Message]:
        """What is pushed when holds are opened, to those who were told when they were set."""
        return [
            message
            for hold in holds
            if (link := self._find(hold)) is not None
            for message in self._pushes.resumed(hold, tenant=link.tenant, product=link.product, sender=sender)
        ]

    async def _set(
        self,
        holds: list[NewHold],
        *,
        holder: str,
        job: str | None,
        reason: str,
        grace: float | None,
        ttl: float | None,
        sender: str | None = None,
        run: str = "",
    ) -> tuple[HoldState, ...]:
        platform = self._platform
        grace = platform.settings.grace if grace is None else grace
        await platform.membership.all_heard()
        rows = await platform.holds.set(
            holds,
            holder=holder,
            job=job,
            reason=reason,
            grace=grace,
            ttl=ttl,
            origin=platform.membership.name,
            run=run,
            messages={
                hold.id: self._pushes.held(hold.id, tenant=hold.tenant, product=hold.product, sender=sender, grace=grace)
                for hold in holds
            },
        )
        platform.outbox.added.set()
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
            link.wake()
            if link.row is not None:
                self._platform.drains.spawn(self._told(partial(self._tell_overdue, link.row)))

    async def _tell_overdue(self, row: HoldRow) -> None:
        problem = overdue(row.id, product=row.product, tenant=row.tenant, holder=row.holder)
        await self._problems.report(problem)
        await self._platform.outbox.add(self._pushes.overdue(row.id, tenant=row.tenant, product=row.product))
        self._platform.outbox.added.set()

    async def _told(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Tell people, as far as the database lets us: the link itself has changed already."""
        try:
            await work()
        except DatabaseError as error:
            _log.warning("a problem cannot be written down: %s", error)

    async def _drain(self, link: Link, row: HoldRow) -> None:
        """Wait for what is in flight here, cut it after the grace, wait for what is loose; then for the other replicas.

        Parts of work that another replica counts may come as long as the grace lasts; they are cut with the rest.
        """
        membership = self._platform.membership
        while _stands(link, row):
            notice = membership.notice
            await self._end_old(link, row)
            if (busy := self._busy(link)) or (loose := self._loose_left(link)):
                await asyncio.sleep(0 if busy else min(loose, self._grace_left(link) or loose))
                continue
            try:
                async with link.saying:
                    if self._busy(link) or self._loose_left(link):
                        continue
                    await membership.nodes.say_quiet(f"hold:{row.id}", membership.generation)
                found = await self._platform.holds.try_held(row.id, settle=self._platform.settings.settle)
                if found is None or found.reached:
                    await self._platform.catch_up()
                    return
                await membership.wait(notice, min(found.loose, _RETRY) or _RETRY)
            except Exception as error:  # noqa: BLE001 - whatever it is: a drain that gave up would hold the link for good
                _log.warning("cannot write that %s is held, trying again: %s", row.id, error)
                await asyncio.sleep(_RETRY)

    async def _end_old(self, link: Link, row: HoldRow) -> None:
        """Wait for what is in flight here; cut it when the grace is over."""
        try:
            async with asyncio.timeout(self._grace_left(link)):
                await self._idle(link, row)
        except TimeoutError:
            if _stands(link, row) and Effect.CUT_OLD in link.apply(Signal.GRACE_EXPIRED):
                for flow in self._platform.table.flows_of(link):
                    flow.cut_all()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_RETRY):
                        await self._idle(link, row)

    def _grace_left(self, link: Link) -> float:
        """Seconds that old requests on a held link still have."""
        if link.row is None:
            return 0.0
        return max(0.0, link.held_from + link.row.grace - asyncio.get_running_loop().time())

    async def _idle(self, link: Link, row: HoldRow) -> None:
        """Wait until nothing of the link is in flight here; parts of old work may come to links that were idle."""
        while _stands(link, row) and (busy := self._busy(link)):
            for flow in busy:
                await flow.wait_no_flight()

    def _busy(self, link: Link) -> list[Flow]:
        return [flow for flow in self._platform.table.flows_of(link) if flow.in_flight]

    def _loose_left(self, link: Link) -> float:
        """Seconds until nothing that was cut off on a link counts as at work any more."""
        until = max((flow.loose_until for flow in self._platform.table.flows_of(link)), default=0.0)
        return max(0.0, until - asyncio.get_running_loop().time())

    def release(self, *places: Place) -> None:
        """Let parked requests go in the order they came, at a bounded rate for all places together.

        Requests to the same products that come meanwhile queue up behind them.
        """
        queue = Place(waiters=deque(sorted((each for place in places for each in place.take_waiters()), key=_arrival)))
        if queue.waiters:
            products = frozenset(place.product for place in places if isinstance(place, Link))
            self._going.append(queue)
            self._platform.table.releasing |= dict.fromkeys(products, queue)
            self._platform.drains.spawn(self._let_go(queue, products))

    def let_all_go(self) -> None:
        """Those that are being released go at once: the gateway is about to stop."""
        for queue in self._going:
            queue.wake()

    async def _let_go(self, queue: Place, products: frozenset[str]) -> None:
        rate = self._platform.settings.release_rate
        batch = max(1, rate // 50)
        try:
            while queue.waiters:
                for _ in range(min(batch, len(queue.waiters))):
                    waiter = queue.waiters.popleft()
                    if not waiter.done():
                        waiter.set_result(None)
                await asyncio.sleep(batch / rate)
        finally:
            queue.wake()
            self._going.remove(queue)
            releasing = self._platform.table.releasing
            for product in products:
                if releasing.get(product) is queue:
                    del releasing[product]

    def _find(self, hold: str) -> Link | None:
        return next((link for link in self._platform.table.all_links() if link.hold_id == hold), None)


def _arrival(waiter: Waiter) -> int:
    return waiter.arrival


def _stands(link: Link, row: HoldRow) -> bool:
    return link.hold_id == row.id and link.hold is Hold.DRAINING


def _row(row: dict[str, object]) -> HoldRow:
    values = dict(row)
    values["since"] = datetime.fromisoformat(str(row["since"]))
    values["until"] = None if row["until"] is None else datetime.fromisoformat(str(row["until"]))
    return row_of(HoldRow, values)
