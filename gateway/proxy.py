"""The data path: from a request to the instance that answers it, or to the place where it waits.

Bodies are streamed both ways and never held whole. A request is counted on its link in the same turn of the event loop in
which it was decided to route it; so after a hold is set, what is not counted cannot slip through.
"""

import asyncio
import base64
import binascii
import hashlib
import json
import logging
import secrets
from contextvars import ContextVar
from dataclasses import replace
from time import perf_counter
from typing import Any

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from gateway.holds import Holds
from gateway.instances import Instance
from gateway.links import Exchange, Link, Place, next_arrival
from gateway.membership import Membership
from gateway.observation import as_utf8, outgoing, routed
from gateway.pages import prefers_html
from gateway.parking import Parking, is_gone
from gateway.passage import Passage
from gateway.platform import Platform
from gateway.replies import Interruption, closed, held, interrupted, lost, problem
from gateway.routing import OverlayRoute, RoutingTable
from upgrade_core.ids import SUPERTENANT
from upgrade_core.protocol import Availability, Hold, Reply, reply_to

_HOP_BY_HOP = frozenset(
    [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ]
)
_TENANT = "X-Okapi-Tenant"
_REQUEST_ID = "X-Okapi-Request-Id"
_LIFECYCLE = "X-Okapi-Lifecycle"
_TRACE = "X-Okapi-Trace"
_WITHOUT_LENGTH = ("GET", "HEAD", "OPTIONS", "TRACE")
_INVOKE = "/_/invoke/tenant/"
_OVERLAY = "/_/overlay/"
_SKIPPED_AUTO_HEADERS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
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
        self._session: aiohttp.ClientSession | None = None
        self._parking = Parking(table=platform.table, settings=platform.settings)
        self._releasing_lease = False
        self._loop = asyncio.get_running_loop()

    async def open(self) -> None:
        """Open the pool of connections to instances."""
        # Idle connections are dropped before the usual module does (Node: 5 s): a POST must not meet a closing one.
        connector = _Leased(membership=self._membership, table=self._table, limit=0, keepalive_timeout=4, ttl_dns_cache=10)
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._settings.connect_timeout),
            skip_auto_headers=_SKIPPED_AUTO_HEADERS,
            read_bufsize=self._settings.read_buffer,
            requote_redirect_url=False,
        )
        # The library would send an idempotent request again by itself, unseen by our counts.
        self._session._retry_connection = False  # noqa: SLF001

    def stop_parking(self) -> None:
        """Answer those parked DELAY, and whoever else would have to wait: the gateway is about to stop."""
        self._holds.let_all_go()
        self._parking.stop()

    async def close(self) -> None:
        """Close it."""
        if self._session is not None:
            await self._session.close()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request that is not the admin API's."""
        target = request.raw_path
        if not target.startswith("/"):
            target = request.rel_url.raw_path_qs
        overlay: OverlayRoute | None = None
        tenant: str | None = None
        if target.startswith("/_/"):
            if target.startswith(_INVOKE):
                tenant, _, target = target[len(_INVOKE) :].partition("/")
                target = "/" + target
            elif target.startswith(_OVERLAY):
                token, _, target = target[len(_OVERLAY) :].partition("/")
                overlay = self._table.overlays.get(token)
                target = "/" + target
                if overlay is None:
                    return problem(404, "No such overlay")
                tenant = overlay.row.tenant
        if tenant is None:
            tenant = tenant_of(request)
        if tenant not in self._table.tenants:
            return problem(400, f"No such Tenant {tenant}")
        return await self._through_link(request, tenant, target, overlay)

    async def _through_link(
        self, request: web.BaseRequest, tenant: str, target: str, overlay: OverlayRoute | None
    ) -> web.StreamResponse:
        path = target.partition("?")[0]
        table = self._table
        passage = Passage(tenant=tenant, target=target, url=self._url)
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
                table.match_overlay(tenant, inside, request.method, path) if inside else table.match(tenant, request.method, path)
            )
            if entry is None:
                return problem(404, NO_ROUTE)
            product, module = entry.product, entry.module
            routed(module, tenant)
            availability = table.availability(module)
            if product in inside:
                place: Link | OverlayRoute = inside[product]
                reply = reply_to(Hold.OPEN, availability)
                gate = None
            else:
                place = gate = table.stars.get(product) or table.link(tenant, product)
                if overlay is not None and inside and gate.hold is not Hold.OPEN and gate.job == overlay.row.job:
                    text = f"{product} is part of the same update and not ready yet"
                    return interrupted(request, held(gate, tenant=tenant, lifecycle="MISSING", detail=text))
                reply = gate.reply(availability)
            if reply is Reply.PASS or (gate is not None and gate.hold is Hold.DRAINING and self._descends(request, tenant)):
                if availability is Availability.UP:
                    if passage.arrival is None and (queue := table.releasing.get(product)) is not None:
                        await self._queue_up(request, queue, passage)
                        continue
                    way = place if gate is None else table.link(tenant, product)
                    passage.only_while_open = product if reply is Reply.PASS and gate is not None else None
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
                answered = await self._descend_elsewhere(request, gate, table.link(tenant, product), module, passage)
                if answered is not None:
                    return answered
                if gate.hold is not Hold.DRAINING:
                    continue  # it went on while the row was asked: nobody would wake who waits at a link that is open by now
            if passage.expired:
                if gate is not None and is_held:
                    return interrupted(request, held(gate, tenant=tenant, lifecycle="DELAY"))
                return interrupted(request, self._lost(product, module, passage))
            await self._park(request, place, passage)

    async def _descend_elsewhere(
        self, request: web.BaseRequest, gate: Link, link: Link, module: str, passage: Passage
    ) -> web.StreamResponse | None:
        """Forward what is part of work that is in flight at another replica, if that may still be; None if not."""
        draining = self._descends_elsewhere(request, passage.tenant)
        if draining is None:
            return None
        guard = Exchange(secrets.token_hex(6), "", "", None, answered=True)
        link.flow.enter(guard)
        try:
            if await self._holds.lets_through(gate) and (draining is gate or await self._holds.lets_through(draining)):
                return await self._forward(request, link, module, passage)
        finally:
            link.flow.leave(guard, now=self._loop.time(), settle=0)
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
        ids = [part.partition("/")[0] for part in chain.split(";")]
        for link in (*self._table.links(tenant), *self._table.stars.values()):
            if link.hold is Hold.DRAINING and any(self._signed(id_[:12], tenant, link.product) == id_ for id_ in ids):
                return link
        return None

    def _signed(self, number: str, tenant: str, product: str) -> str:
        """A request id that only a replica of this gateway can make."""
        text = f"{number} {tenant} {product}".encode(errors="surrogateescape")  # a forged one may hold any bytes
        mark = hashlib.blake2b(text, digest_size=8, key=self._platform.follower.key)
        return number + mark.hexdigest()

    async def _forward(
        self, request: web.BaseRequest, way: Link | OverlayRoute, module: str, passage: Passage
    ) -> web.StreamResponse | None:
        """Send a request to an instance; None: it may be sent again, and all that stands in its way is to be looked at anew."""
        pool = self._table.pool
        instance = pool.choose(module, passage.tried) or pool.choose(module)
        if instance is None:
            return None
        passage.tries += 1
        if passage.tries > _TRIES:
            return interrupted(request, self._lost(_product(way), module, passage))
        passage.tried.add(instance)
        times_seen = instance.times_seen
        answered, fault = await self._attempt(request, way, module, instance, passage)
        if fault:
            pool.drop(instance, times_seen=times_seen, why=fault)
        return answered

    def _lost(self, product: str, module: str, passage: Passage) -> Interruption:
        key = self._platform.follower.key
        return lost(self._table.pool, tenant=passage.tenant, product=product, module=module, key=key)

    async def _attempt(
        self, request: web.BaseRequest, way: Link | OverlayRoute, module: str, instance: Instance, passage: Passage
    ) -> tuple[web.StreamResponse | None, str]:
        """One try with one instance.

        Returns:
            The answer, or None if the request may be sent again; and what the instance did wrong, or nothing.
        """
        flow = way.flow
        product = _product(way)
        number = self._signed(secrets.token_hex(6), passage.tenant, product)
        exchange = Exchange(number, module, instance.row.id, asyncio.current_task())
        flow.enter(exchange)
        instance.in_flight += 1
        why = Interruption(lifecycle="MISSING", service=product, detail="", tenant=passage.tenant, module=module, certain=False)
        try:
            return await self._exchange(request, exchange, instance, passage), ""
        except asyncio.CancelledError:
            if not exchange.cut:
                raise
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
            _close_if_begun(request, exchange)
            return interrupted(request, replace(why, detail="the update went on without this request's answer")), ""
        except _TooLate:
            exchange.answered = True  # nothing was sent
            return None, ""
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            exchange.answered = True  # nothing was sent
            return None, f"{instance.row.url} cannot be reached: {error}"
        except (aiohttp.ClientError, OSError) as error:
            _close_if_begun(request, exchange)
            fault = "" if passage.client_left(request) else _fault_of(error)
            if fault and passage.may_repeat(request, most=self._settings.repeat_most):
                passage.sent += 1
                return None, fault
            _log.info("%s at %s broke off: %s", module, instance.row.url, str(error) or type(error).__name__)
            what = "gave no valid answer" if isinstance(error, aiohttp.ClientResponseError) else "broke off before its answer"
            return problem(502, f"{module} {what}; whether the request was carried out is not known"), fault
        finally:
            instance.in_flight -= 1
            flow.leave(exchange, now=self._loop.time(), settle=self._settings.settle)

    async def _exchange(
        self, request: web.BaseRequest, exchange: Exchange, instance: Instance, passage: Passage
    ) -> web.StreamResponse:
        assert self._session is not None
        incoming, target = request.headers, passage.target
        headers: CIMultiDict[str] = CIMultiDict()
        _copy_end_to_end(incoming, headers)
        headers.pop(hdrs.HOST, None)
        headers.pop(hdrs.EXPECT, None)
        headers[_TENANT] = passage.tenant
        headers["X-Okapi-Url"] = passage.url
        chain = incoming.get(_REQUEST_ID)
        path = target.partition("?")[0]
        own = f"{exchange.id}/{path.split('/', 2)[1]}"
        headers[_REQUEST_ID] = own if chain is None else f"{chain};{own}"
        outgoing(headers)
        body = passage.open_body(request, repeat_max=self._settings.repeat_max)
        if body is None and request.method not in _WITHOUT_LENGTH and hdrs.CONTENT_LENGTH not in headers:
            headers[hdrs.CONTENT_LENGTH] = "0"
        _sending.set(passage)
        begun = perf_counter()
        async with self._session.request(
            request.method, URL(instance.row.url + target, encoded=True), headers=headers, data=body, allow_redirects=False
        ) as upstream:
            response = _PassedOn(status=upstream.status, reason=upstream.reason)
            _copy_end_to_end(upstream.headers, response.headers)
            if self._settings.trace_headers:
                spent = int((perf_counter() - begun) * 1e6)
                cut = ".." if len(path) < len(target) else ""
                told = f"{request.method} {instance.trace}{path}{cut} : {upstream.status} {spent}us"
                response.headers.add(_TRACE, told)
            exchange.started = True
            await response.prepare(request)
            if request.method != "HEAD":
                async for chunk in upstream.content.iter_any():
                    await response.write(chunk)
            exchange.answered = True
            await response.write_eof()
            return response


class _TooLate(Exception):
    """The lease ran out, or the link was held, while the connection was made; nothing was sent."""


_sending: ContextVar[Passage] = ContextVar("sending")


class _Leased(aiohttp.TCPConnector):
    """Connections to instances, given out while the lease runs and the link is open, which is looked at before the first byte.

    Making a connection takes time: a request that was let through before an UPDATE must not reach the old version after it.
    """

    def __init__(self, *, membership: Membership, table: RoutingTable, **options: Any) -> None:
        super().__init__(**options)
        self._membership = membership
        self._table = table

    async def connect(
        self, req: aiohttp.ClientRequest, traces: "list[Any]", timeout: aiohttp.ClientTimeout
    ) -> "aiohttp.connector.Connection":
        connection = await super().connect(req, traces, timeout)
        passage = _sending.get()
        product = passage.only_while_open
        if not self._membership.may_route or (product is not None and self._table.is_held(passage.tenant, product)):
            connection.release()
            raise _TooLate
        return connection

    async def _get(self, key: Any, traces: "list[Any]") -> "aiohttp.connector.Connection | None":
        """An idle connection, unless the module has just closed it: what was sent on one cannot be called unsent any more."""
        while (connection := await super()._get(key, traces)) is not None and is_gone(connection.transport):
            connection.close()
        return connection


class _PassedOn(web.StreamResponse):
    """An answer with the headers that the module gave it, and no others that describe it."""

    async def _prepare_headers(self) -> None:
        given = set(self.headers)
        await super()._prepare_headers()
        for name in (hdrs.CONTENT_TYPE, hdrs.SERVER):
            if name not in given:
                self.headers.popall(name, None)


def _copy_end_to_end(source: "CIMultiDictProxy[str]", target: "CIMultiDict[str]") -> None:
    """Copy all headers but those of one hop: the known ones, and those that `Connection` names."""
    named = source.getall(hdrs.CONNECTION, None)
    dropped = _HOP_BY_HOP if named is None else _HOP_BY_HOP | {name.strip().lower() for name in ",".join(named).split(",")}
    for name, value in source.items():
        if name.lower() not in dropped:
            target.add(name, value)


def _product(way: Link | OverlayRoute) -> str:
    return way.product if isinstance(way, Link) else way.row.product


def _close_if_begun(request: web.BaseRequest, exchange: Exchange) -> None:
    """Close the connection of a requester whose answer was begun: a body cut short must not look whole."""
    if exchange.started:
        if request.transport is not None:
            request.transport.abort()
        raise asyncio.CancelledError


def _fault_of(error: Exception) -> str:
    """What an instance did if it ended the connection before any byte of an answer; else nothing."""
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it closed the connection" if isinstance(error.message, str) else ""
    if isinstance(error, OSError):
        return f"it broke the connection: {error}"
    return ""


def _fenced(tenant: str) -> Interruption:
    return Interruption(
        lifecycle="DELAY", service="the gateway", detail="this gateway lost its database; try again", tenant=tenant
    )


def tenant_of(request: web.BaseRequest) -> str:
    """The tenant that a request is made for, by its header or token; without either, the supertenant.

    What is no text becomes one that is no tenant's id: those are ASCII, without `?`.
    """
    return as_utf8(request.headers.get(_TENANT) or _tenant_of_token(request) or SUPERTENANT)


def _tenant_of_token(request: web.BaseRequest) -> str | None:
    """The `tenant` claim of an unverified token, as Okapi reads it; the auth filter verifies."""
    token = request.headers.get("X-Okapi-Token")
    if token is None:
        token = request.headers.get(hdrs.AUTHORIZATION, "").removeprefix("Bearer ")
    parts = token.split(".")
    if len(parts) != 3:  # noqa: PLR2004
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError, binascii.Error):
        return None
    found = claims.get("tenant") if isinstance(claims, dict) else None
    return found if isinstance(found, str) else None
