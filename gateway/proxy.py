"""The data path: from a request to the instance that answers it, or to the place where it waits.

Bodies are streamed both ways and never held whole. A request is counted on its link in the same turn of the event loop in
which it was decided to route it; so after a hold is set, what is not counted cannot slip through.
"""

import asyncio
import base64
import binascii
import contextlib
import hashlib
import json
import secrets
import select
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from gateway.holds import Holds
from gateway.links import Exchange, Link
from gateway.membership import Membership
from gateway.platform import Platform
from gateway.replies import delay, missing, problem, say_continue
from gateway.routing import OverlayRoute
from upgrade_core.ids import SUPERTENANT
from upgrade_core.protocol import Hold, Reply

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
_INVOKE = "/_/invoke/tenant/"
_OVERLAY = "/_/overlay/"
_SKIPPED_AUTO_HEADERS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
_GONE = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR
_PROBE = 5.0
"""Seconds between looks whether a parked client, whose body is not read meanwhile, is still there."""


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
        self._stopping = False
        self._loop = asyncio.get_running_loop()

    async def open(self) -> None:
        """Open the pool of connections to instances."""
        # Idle connections are dropped before the usual module does (Node: 5 s): a POST must not meet a closing one.
        connector = _Leased(membership=self._membership, limit=0, keepalive_timeout=4, ttl_dns_cache=10)
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._settings.connect_timeout),
            skip_auto_headers=_SKIPPED_AUTO_HEADERS,
            read_bufsize=self._settings.read_buffer,
            requote_redirect_url=False,
        )

    def stop_parking(self) -> None:
        """Answer those parked DELAY, and whoever else would have to wait: the gateway is about to stop."""
        self._stopping = True
        for link in self._table.all_links():
            for waiter in link.take_waiters():
                waiter.set_result(None)

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
                    return problem(404, "No such overlay", tenant=None)
                tenant = overlay.row.tenant
        if tenant is None:
            tenant = request.headers.get(_TENANT) or _tenant_of_token(request) or SUPERTENANT
        if tenant not in self._table.tenants:
            return problem(400, f"No such Tenant {tenant}", tenant=None)
        return await self._through_link(request, tenant, target, overlay)

    async def _through_link(
        self, request: web.BaseRequest, tenant: str, target: str, overlay: OverlayRoute | None
    ) -> web.StreamResponse:
        path = target.partition("?")[0]
        table = self._table
        deadline = 0.0
        url = self._url
        inside: dict[str, OverlayRoute] = {}
        if overlay is not None:
            inside = table.inside(overlay)
            if inside:
                url += f"{_OVERLAY}{overlay.row.token}"
        while True:
            if not self._membership.may_route:
                deadline = deadline or self._loop.time() + self._patience(request)
                if not await self._wait_for_lease(deadline):
                    return problem(503, "this gateway lost its database; try again", tenant=tenant, lifecycle="DELAY")
            entry = (
                table.match_overlay(tenant, inside, request.method, path) if inside else table.match(tenant, request.method, path)
            )
            if entry is None:
                return problem(404, "No suitable module found for path and tenant", tenant=tenant)
            if entry.product in inside:
                return await self._forward(request, inside[entry.product], entry.module, tenant, target, url)
            link = table.link(tenant, entry.product)
            gate = table.stars.get(entry.product) or link
            if overlay is not None and inside and gate.hold is not Hold.OPEN and gate.job == overlay.row.job:
                return missing(request, gate, f"{link.product} is part of the same update and not ready yet")
            reply = gate.reply(table.availability(entry.module))
            if reply is Reply.PASS or (gate.hold is Hold.DRAINING and self._descends(request, tenant)):
                return await self._forward(request, link, entry.module, tenant, target, url, was_parked=bool(deadline))
            if reply is Reply.MISSING:
                text = (
                    "the update took longer than it may"
                    if gate.overdue
                    else f"No running module instance found for {entry.module}"
                )
                return missing(request, gate, text)
            if gate.hold is Hold.DRAINING and (held := self._descends_elsewhere(request, tenant)) is not None:
                guard = Exchange(secrets.token_hex(6), "", "", None, answered=True)
                link.flow.enter(guard)
                try:
                    if await self._holds.lets_through(gate) and (held is gate or await self._holds.lets_through(held)):
                        return await self._forward(request, link, entry.module, tenant, target, url, was_parked=bool(deadline))
                finally:
                    link.flow.leave(guard, now=self._loop.time(), settle=0)
                if gate.hold is not Hold.DRAINING:
                    continue  # it went on while the row was asked: nobody would wake who waits at a link that is open by now
            if not deadline:
                deadline = self._loop.time() + self._patience(request)
            if not await self._park(request, gate, deadline) and gate.hold is not Hold.OPEN:
                return delay(request, gate)

    async def _wait_for_lease(self, deadline: float) -> bool:
        """Wait until this replica may route again; False when the time is up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._membership.restored.wait()
        return self._membership.may_route

    def _patience(self, request: web.BaseRequest) -> float:
        """Seconds that a requester wants to be parked (RFC 7240 `Prefer: wait`), within the server's limit."""
        if request.headers.get(_LIFECYCLE, "").lower() == "delay":
            return 0.0
        for preference in request.headers.get("Prefer", "").split(","):
            name, _, value = preference.strip().partition("=")
            if name.lower() == "wait" and value.isascii() and value.isdigit():
                return min(float(value), self._settings.hold_max)
        return self._settings.hold_max

    async def _park(self, request: web.BaseRequest, link: Link, deadline: float) -> bool:
        """Wait for RESUME; False when the time is up or there is no room. Nothing of the body is read meanwhile."""
        table, settings = self._table, self._settings
        here = table.parked_by_tenant.get(link.tenant, 0)
        kept = request.content.total_bytes
        if (
            self._stopping
            or deadline <= self._loop.time()
            or here >= settings.parked_per_tenant
            or table.parked_total >= settings.parked_total
            or table.parked_bytes + kept > settings.parked_bytes
        ):
            return False
        waiter: asyncio.Future[None] = self._loop.create_future()
        link.waiters.append(waiter)
        table.parked_total += 1
        table.parked_bytes += kept
        table.parked_by_tenant[link.tenant] = here + 1
        paused = request.body_exists and not request.content.is_eof()
        if paused:
            request.protocol.pause_reading()
        try:
            while not waiter.done():
                left = deadline - self._loop.time()
                if left <= 0:
                    return False
                await asyncio.wait((waiter,), timeout=min(left, _PROBE) if paused else left)
                if paused and _has_left(request):
                    raise asyncio.CancelledError
        finally:
            table.parked_total -= 1
            table.parked_bytes -= kept
            table.parked_by_tenant[link.tenant] -= 1
            if not table.parked_by_tenant[link.tenant]:
                del table.parked_by_tenant[link.tenant]
            if not waiter.done():
                waiter.cancel()
                with contextlib.suppress(ValueError):
                    link.waiters.remove(waiter)
            if paused and request.transport is not None:
                request.protocol.resume_reading()
        if _has_left(request):
            raise asyncio.CancelledError  # who has left is dropped, not executed
        return True

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
        mark = hashlib.blake2b(f"{number} {tenant} {product}".encode(), digest_size=8, key=self._platform.follower.key)
        return number + mark.hexdigest()

    async def _forward(
        self,
        request: web.BaseRequest,
        way: Link | OverlayRoute,
        module: str,
        tenant: str,
        target: str,
        url: str,
        *,
        was_parked: bool = False,
    ) -> web.StreamResponse:
        instance = self._table.choose_instance(module)
        if instance is None:
            return problem(
                503, f"No running module instance found for {module}", tenant=tenant, module=module, lifecycle="MISSING"
            )
        flow = way.flow
        product = way.product if isinstance(way, Link) else way.row.product
        exchange = Exchange(self._signed(secrets.token_hex(6), tenant, product), module, instance.id, asyncio.current_task())
        flow.enter(exchange)
        response: web.StreamResponse | None = None
        try:
            response = await self._exchange(request, exchange, instance.url, target, tenant, url, was_parked=was_parked)
        except asyncio.CancelledError:
            if not exchange.cut:
                raise
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
            return self._broken(
                request, exchange, tenant, "the update went on without this request's answer", status=503, lifecycle="MISSING"
            )
        except _NoLease:
            exchange.answered = True  # nothing was sent
            return self._broken(
                request, exchange, tenant, "this gateway lost its database; try again", status=503, lifecycle="DELAY"
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            exchange.answered = True  # nothing was sent
            return self._broken(request, exchange, tenant, f"{module} at {instance.url} cannot be reached: {error}", status=502)
        except (aiohttp.ClientError, OSError) as error:
            return self._broken(
                request,
                exchange,
                tenant,
                f"{module} at {instance.url} broke off: {str(error) or type(error).__name__}",
                status=502,
            )
        else:
            return response
        finally:
            flow.leave(exchange, now=self._loop.time(), settle=self._settings.settle)

    def _broken(
        self, request: web.BaseRequest, exchange: Exchange, tenant: str, text: str, *, status: int, lifecycle: str | None = None
    ) -> web.StreamResponse:
        """An answer if none was begun; else the connection is closed, since a body cut short must not look whole."""
        if exchange.started:
            if request.transport is not None:
                request.transport.abort()
            raise asyncio.CancelledError
        return problem(status, text, tenant=tenant, module=exchange.module, lifecycle=lifecycle)

    async def _exchange(
        self,
        request: web.BaseRequest,
        exchange: Exchange,
        address: str,
        target: str,
        tenant: str,
        url: str,
        *,
        was_parked: bool,
    ) -> web.StreamResponse:
        assert self._session is not None
        incoming = request.headers
        headers: CIMultiDict[str] = CIMultiDict()
        _copy_end_to_end(incoming, headers)
        headers.pop(hdrs.HOST, None)
        headers.pop(hdrs.EXPECT, None)
        headers[_TENANT] = tenant
        headers["X-Okapi-Url"] = url
        chain = incoming.get(_REQUEST_ID)
        own = f"{exchange.id}/{target.partition('?')[0].split('/', 2)[1]}"
        headers[_REQUEST_ID] = own if chain is None else f"{chain};{own}"
        body = None
        if request.body_exists and not request.content.at_eof():
            say_continue(request)
            body = _body(request) if was_parked else request.content
        elif request.method not in ("GET", "HEAD", "OPTIONS", "TRACE") and hdrs.CONTENT_LENGTH not in headers:
            headers[hdrs.CONTENT_LENGTH] = "0"
        async with self._session.request(
            request.method, URL(address + target, encoded=True), headers=headers, data=body, allow_redirects=False
        ) as upstream:
            response = _PassedOn(status=upstream.status, reason=upstream.reason)
            _copy_end_to_end(upstream.headers, response.headers)
            exchange.started = True
            await response.prepare(request)
            if request.method != "HEAD":
                async for chunk in upstream.content.iter_any():
                    await response.write(chunk)
            exchange.answered = True
            await response.write_eof()
            return response


class _NoLease(Exception):
    """The lease ran out while the connection was made; nothing was sent."""


class _Leased(aiohttp.TCPConnector):
    """Connections to instances, given out while the lease runs: it is looked at last before the first byte is sent."""

    def __init__(self, *, membership: Membership, **options: Any) -> None:
        super().__init__(**options)
        self._membership = membership

    async def connect(
        self, req: aiohttp.ClientRequest, traces: "list[Any]", timeout: aiohttp.ClientTimeout
    ) -> "aiohttp.connector.Connection":
        connection = await super().connect(req, traces, timeout)
        if not self._membership.may_route:
            connection.release()
            raise _NoLease
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


async def _body(request: web.BaseRequest) -> AsyncIterator[bytes]:
    """The body of a request that was parked.

    Its client may have given up while the end of the body was still on its way, where no probe could see that: without its end
    it is not executed.
    """
    async for chunk in request.content.iter_any():
        if request.content.is_eof() and _has_left(request):
            break
        yield chunk
    if _has_left(request):
        raise ConnectionResetError("the client has left")


def _has_left(request: web.BaseRequest) -> bool:
    """Whether the client has closed its connection, even if that stands behind bytes that were not read yet."""
    transport = request.transport
    if transport is None or transport.is_closing():
        return True
    sock = transport.get_extra_info("socket")
    if sock is None:
        return False
    poll = select.poll()
    poll.register(sock.fileno(), _GONE)
    return bool(poll.poll(0))


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
