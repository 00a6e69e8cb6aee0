"""The data path: from a request to the instance that answers it, or to the place where it waits.

Bodies are streamed both ways and never held whole. A request is counted on its link in the same turn of the event loop in
which it was decided to route it; so after a hold is set, what is not counted cannot slip through.
"""

import asyncio
import logging
import secrets

from aiohttp import hdrs, web
from multidict import istr

from gateway.cors import is_preflight, preflight
from gateway.forwarding import BodyBrokenOff, Forwarding, TooLate, TooSlow
from gateway.holds import Holds
from gateway.instances import Instance
from gateway.links import Exchange, Link, Place, next_arrival
from gateway.observation import Current
from gateway.pages import prefers_html
from gateway.parking import Parking
from gateway.passage import Passage
from gateway.platform import Platform
from gateway.replies import Interruption, closed, held, interrupted, lost, problem
from gateway.request_ids import RequestIds, is_marked
from gateway.routing import OverlayRoute
from gateway.tokens import BadToken, tenant_of, token_of
from gateway.upstream import BadAnswer, CannotConnect, Closed, UpstreamError
from upgrade_core.protocol import Availability, Hold, Reply, reply_to

_REQUEST_ID = istr("X-Okapi-Request-Id")
_LIFECYCLE = istr("X-Okapi-Lifecycle")
_MODULE = istr("X-Okapi-Module-Id")
_INVOKE = "/_/invoke/tenant/"
_OVERLAY = "/_/overlay/"
_TRIES = 20
"""Instances tried for one request, the same again included, before it is told to come back."""
NO_ROUTE = "No suitable module found for path and tenant"
"""The text of a 404 where nothing of the tenant answers a path."""
_log = logging.getLogger(__name__)


class Proxy:
    """Routes, parks and forwards requests."""

    def __init__(self, *, platform: Platform, holds: Holds) -> None:
        self._platform = platform
        self._table = platform.table
        self._holds = holds
        self._membership = platform.membership
        self._settings = platform.settings
        self._url = platform.url
        self.forwarding = Forwarding(platform)
        self._parking = Parking(table=platform.table, settings=platform.settings)
        self._follower = platform.follower
        self._ids = RequestIds()
        self._releasing_lease = False
        self._loop = asyncio.get_running_loop()

    def stop_parking(self) -> None:
        """Answer those parked DELAY, and whoever else would have to wait: the gateway is about to stop."""
        self._holds.let_all_go()
        self._parking.stop()

    async def close(self) -> None:
        """Close the connections to instances."""
        await self.forwarding.close()

    async def handle(self, request: web.BaseRequest, current: Current) -> web.StreamResponse:
        """Answer a request that is not the admin API's."""
        passage = self._accept(request, current)
        if not isinstance(passage, Passage):
            return passage
        table, tenant, path, overlay = self._table, passage.tenant, passage.path, passage.overlay
        chosen = request.headers.get(_MODULE, "")
        inside: dict[str, OverlayRoute] = {}
        while True:
            if not self._membership.may_route:
                if passage.expired:
                    return interrupted(request, _fenced(tenant))
                await self._wait_for_lease(request, passage)
                continue
            if overlay is not None:
                if overlay.row.token not in table.overlays:
                    return problem(404, "No such overlay")  # it was closed while we waited
                inside = table.inside(overlay)
                passage.url = f"{self._url}{_OVERLAY}{overlay.row.token}" if inside else self._url
            entry = (
                table.match_overlay(tenant, inside, request.method, path, chosen=chosen)
                if inside
                else table.match(tenant, request.method, path, chosen=chosen)
            )
            if entry is None:
                return problem(404, NO_ROUTE)
            passage.pattern = entry.pattern
            passage.own_cors = entry.delegates_cors and passage.is_invoked
            product, module = entry.product, entry.module
            current.module, current.tenant = module, tenant
            availability = table.pool.availability(module)
            if product in inside:
                way: Link | OverlayRoute = inside[product]
                place: Place = way
                reply = reply_to(Hold.OPEN, availability)
                gate = None
            else:
                way = table.link(tenant, product)
                place = gate = table.stars.get(product) or way
                if overlay is not None and inside and gate.hold is not Hold.OPEN and gate.job == overlay.row.job:
                    text = f"{product} is part of the same update and not ready yet"
                    return interrupted(request, held(gate, tenant=tenant, lifecycle="MISSING", detail=text))
                reply = gate.reply(availability)
            passes = reply is Reply.PASS
            if passes or (gate is not None and gate.hold is Hold.DRAINING and self._descends(request, tenant)):
                if availability is Availability.UP:
                    if passage.arrival is None and (queue := table.releasing.get(product)) is not None:
                        await self._queue_up(request, queue, passage)
                        continue
                    passage.only_while_open = product if passes and gate is not None else None
                    if (answered := await self._forward(request, way, module, passage)) is not None:
                        return answered
                    continue
                reply = reply_to(Hold.OPEN, availability)  # part of what drains, and nobody there to do it
            is_held = gate is not None and gate.hold is not Hold.OPEN
            if reply is Reply.MISSING:
                if gate is not None and gate.overdue:
                    text = "the update took longer than it may"
                    return interrupted(request, held(gate, tenant=tenant, lifecycle="MISSING", detail=text))
                return interrupted(request, closed(tenant=tenant, product=product, module=module))
            if gate is not None and gate.hold is Hold.DRAINING and availability is Availability.UP:
                answered = await self._descend_elsewhere(request, gate, way, module, passage)
                if answered is not None:
                    return answered
                if gate.hold is not Hold.DRAINING:
                    continue  # it went on while the row was asked: nobody would wake who waits at a link that is open by now
            if passage.expired:
                if gate is not None and is_held:
                    return interrupted(request, held(gate, tenant=tenant, lifecycle="DELAY"))
                return interrupted(request, self._lost(product, module, passage))
            await self._park(request, place, passage)

    def _accept(self, request: web.BaseRequest, current: Current) -> Passage | web.Response:
        """What a request is about, or the answer to one that is about nothing."""
        target = request.raw_path
        if not target.startswith("/"):
            target = request.rel_url.raw_path_qs
        target = target.partition("#")[0]  # no part of what is asked (RFC 9112, 3.2.1)
        overlay: OverlayRoute | None = None
        tenant: str | None = None
        is_invoked = False
        if target.startswith("/_/"):
            if target.startswith(_INVOKE):
                tenant, _, target = target[len(_INVOKE) :].partition("/")
                target, is_invoked = "/" + target, True
            elif target.startswith(_OVERLAY):
                secret, _, target = target[len(_OVERLAY) :].partition("/")
                overlay = self._table.overlays.get(secret)
                target = "/" + target
                if overlay is None:
                    return problem(404, "No such overlay")
                tenant = overlay.row.tenant
        try:
            token = token_of(request.headers)
            if tenant is None:
                tenant = tenant_of(request.headers, token)
        except BadToken as error:
            return problem(400, str(error))
        if tenant not in self._table.tenants:
            return problem(400, f"No such Tenant {tenant}")
        passage = Passage(tenant=tenant, target=target, current=current, url=self._url, token=token)
        if is_invoked or overlay is not None:
            passage.is_invoked, passage.overlay = is_invoked, overlay
        if is_preflight(request) and not self._leaves_preflight(request, passage):
            return preflight(request)
        return passage

    def _leaves_preflight(self, request: web.BaseRequest, passage: Passage) -> bool:
        """Whether the module itself says who may call it from another origin; then it is asked (Okapi's rule)."""
        if not passage.is_invoked:
            return False  # without the tenant in the path nobody knows which module it is about
        method = request.headers[hdrs.ACCESS_CONTROL_REQUEST_METHOD]
        entry = self._table.match(passage.tenant, method, passage.path)
        return entry is not None and entry.delegates_cors

    async def _descend_elsewhere(
        self, request: web.BaseRequest, gate: Link, way: Link | OverlayRoute, module: str, passage: Passage
    ) -> web.StreamResponse | None:
        """Forward what is part of work that is in flight at another replica, if that may still be; None if not."""
        draining = self._descends_elsewhere(request, passage.tenant)
        if draining is None:
            return None
        guard = Exchange(secrets.token_hex(6), "", "", None, answered=True)
        way.flow.enter(guard)
        try:
            passes = await self._holds.lets_through(gate) and (draining is gate or await self._holds.lets_through(draining))
            if passes and self._membership.may_route:
                passage.only_while_open = None
                return await self._forward(request, way, module, passage)
        finally:
            way.flow.leave(guard, settle=0)
        return None

    async def _wait_for_lease(self, request: web.BaseRequest, passage: Passage) -> None:
        """Wait until this replica may route again."""
        if not self._releasing_lease:
            self._releasing_lease = True
            self._platform.drains.spawn(self._release_at_lease())
        await self._park(request, self._parking.lease, passage)

    async def _release_at_lease(self) -> None:
        try:
            await self._membership.restored.wait()
        finally:
            self._releasing_lease = False
        self._holds.release(self._parking.lease)

    async def _park(self, request: web.BaseRequest, place: Place, passage: Passage) -> None:
        """Wait at a place; afterwards everything is looked at anew."""
        if passage.arrival is None:
            passage.arrival = next_arrival()
            passage.deadline = self._loop.time() + self._patience(request)
        passage.expired = not await self._parking.wait(
            request, place, tenant=passage.tenant, deadline=passage.deadline, arrival=passage.arrival
        )

    async def _queue_up(self, request: web.BaseRequest, queue: Place, passage: Passage) -> None:
        """Go behind those that waited longer and are being let go; without room or patience, not."""
        passage.arrival = next_arrival()
        passage.deadline = self._loop.time() + self._patience(request)
        await self._parking.wait(request, queue, tenant=passage.tenant, deadline=passage.deadline, arrival=passage.arrival)

    def _patience(self, request: web.BaseRequest) -> float:
        """Seconds that a requester wants to be parked (RFC 7240 `Prefer: wait`), within the server's limit."""
        if request.headers.get(_LIFECYCLE, "").lower() == "delay":
            return 0.0
        for preference in request.headers.get("Prefer", "").split(","):
            name, _, value = preference.strip().partition("=")
            if name.lower() == "wait" and value.isascii() and value.isdigit():
                return min(float(value), self._settings.hold_max)
        if request.method == "GET" and prefers_html(",".join(request.headers.getall(hdrs.ACCEPT, ()))):
            return min(self._settings.page_after, self._settings.hold_max)
        return self._settings.hold_max

    def _descends(self, request: web.BaseRequest, tenant: str) -> bool:
        """Whether a request is part of the work of one that is in flight on a draining link of the tenant."""
        chain = request.headers.get(_REQUEST_ID)
        if not chain:
            return False
        ids = {part.partition("/")[0] for part in chain.split(";")}
        return any(
            link.hold is Hold.DRAINING and any(not ids.isdisjoint(flow.in_flight) for flow in self._table.flows_of(link))
            for link in (*self._table.links(tenant), *self._table.stars.values())
        )

    def _descends_elsewhere(self, request: web.BaseRequest, tenant: str) -> Link | None:
        """The draining link of the tenant on whose work at another replica a request depends, by its signed id."""
        chain = request.headers.get(_REQUEST_ID)
        if not chain or self._membership.alone:
            return None
        ids, key = [part.partition("/")[0] for part in chain.split(";")], self._follower.key
        for link in (*self._table.links(tenant), *self._table.stars.values()):
            if link.hold is Hold.DRAINING and any(is_marked(id_, key, tenant, link.product) for id_ in ids):
                return link
        return None

    async def _forward(
        self, request: web.BaseRequest, way: Link | OverlayRoute, module: str, passage: Passage
    ) -> web.StreamResponse | None:
        """Send a request to an instance; None: it may be sent again, and all that stands in its way is to be looked at anew."""
        pool, product = self._table.pool, _product(way)
        instance = pool.choose(module, passage.tried) or pool.choose(module)
        if instance is None:
            return None
        passage.tries += 1
        if passage.tries > _TRIES:
            return interrupted(request, self._lost(product, module, passage))
        flow, times_seen, fault = way.flow, instance.times_seen, ""
        id_ = self._ids.new(self._follower.key, passage.tenant, product)
        exchange = Exchange(id_, module, instance.row.id, asyncio.current_task(self._loop))
        flow.enter(exchange)
        instance.in_flight += 1
        try:
            return await self.forwarding.exchange(request, exchange, instance, passage)
        except BaseException as error:
            found = self._instead(request, error, exchange, instance, product, passage)
            if found is None:
                raise
            passage.tried |= {instance}
            answer, fault = found
            return answer
        finally:
            instance.in_flight -= 1
            flow.leave(exchange, settle=self._settings.settle)
            if fault:
                pool.drop(instance, times_seen=times_seen, why=fault)

    def _instead(
        self,
        request: web.BaseRequest,
        error: BaseException,
        exchange: Exchange,
        instance: Instance,
        product: str,
        passage: Passage,
    ) -> tuple[web.Response | None, str] | None:
        """What comes of a try that brought no answer.

        Returns:
            The answer, or None if the request may be sent again, and what the instance did wrong, or nothing; None instead of
            both if the error has no answer.
        """
        module = exchange.module
        match error:
            case asyncio.CancelledError() if exchange.cut:
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()
                _close_if_begun(request, exchange)
                text = "the update went on without this request's answer"
                why = Interruption(
                    lifecycle="MISSING", service=product, detail=text, tenant=passage.tenant, module=module, certain=False
                )
                return interrupted(request, why), ""
            case TooLate():
                exchange.answered = True  # nothing was sent
                return None, ""
            case CannotConnect():
                exchange.answered = True  # nothing was sent
                return None, f"{instance.row.url} cannot be reached: {error}"
            case TooSlow() | BodyBrokenOff():
                _close_if_begun(request, exchange)
                answer = problem(408 if isinstance(error, TooSlow) else 400, str(error))
                answer.force_close()
                return answer, ""
            case UpstreamError() | OSError():
                _close_if_begun(request, exchange)
                fault = str(error) if isinstance(error, Closed) and not passage.client_left(request) else ""
                if fault and passage.may_repeat(request, most=self._settings.repeat_most):
                    passage.sent += 1
                    return None, fault
                _log.info("%s at %s broke off: %s", module, instance.row.url, str(error) or type(error).__name__)
                what = "gave no valid answer" if isinstance(error, BadAnswer) else "broke off before its answer"
                return problem(502, f"{module} {what}; whether the request was carried out is not known"), fault
            case Exception():
                _log.error("%s %s", request.method, module, exc_info=error)
                _close_if_begun(request, exchange)
        return None

    def _lost(self, product: str, module: str, passage: Passage) -> Interruption:
        key = self._follower.key
        return lost(self._table.pool, tenant=passage.tenant, product=product, module=module, key=key)


def _product(way: Link | OverlayRoute) -> str:
    return way.product if isinstance(way, Link) else way.row.product


def _close_if_begun(request: web.BaseRequest, exchange: Exchange) -> None:
    """Close the connection of a requester whose answer was begun: a body cut short must not look whole."""
    if exchange.started:
        if request.transport is not None:
            request.transport.abort()
        raise asyncio.CancelledError


def _fenced(tenant: str) -> Interruption:
    return Interruption(
        lifecycle="DELAY", service="the gateway", detail="this gateway lost its database; try again", tenant=tenant
    )
