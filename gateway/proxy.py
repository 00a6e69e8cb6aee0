"""The data path: from a request to the instance that answers it, or to the place where it waits.

Bodies are streamed both ways and never held whole. A request is counted on its link in the same turn of the event loop in
which it was decided to route it; so after a hold is set, what is not counted cannot slip through.
"""

import asyncio
import base64
import binascii
import contextlib
import json
import secrets

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict
from yarl import URL

from gateway.links import Exchange, Flow, Link
from gateway.replies import delay, missing, problem
from gateway.routing import OverlayRoute, RoutingTable
from upgrade_core.ids import SUPERTENANT
from upgrade_core.protocol import Hold, Reply
from uplift_settings.tree import GatewaySettings

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
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
_SKIPPED_AUTO_HEADERS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Proxy:
    """Routes, parks and forwards requests."""

    def __init__(self, *, table: RoutingTable, settings: GatewaySettings, url: str) -> None:
        self._table = table
        self._settings = settings
        self._url = url
        self._session: aiohttp.ClientSession | None = None
        self._loop = asyncio.get_running_loop()

    async def open(self) -> None:
        """Open the pool of connections to instances."""
        # Idle connections are dropped before the usual module does (Node: 5 s): a POST must not meet a closing one.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=4, ttl_dns_cache=10)
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._settings.connect_timeout),
            skip_auto_headers=_SKIPPED_AUTO_HEADERS,
            read_bufsize=self._settings.read_buffer,
            requote_redirect_url=False,
        )

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
        if overlay is not None:
            return await self._through_overlay(request, overlay, target)
        return await self._through_link(request, tenant, target)

    async def _through_link(self, request: web.BaseRequest, tenant: str, target: str) -> web.StreamResponse:
        path = target.partition("?")[0]
        table = self._table
        deadline = 0.0
        while True:
            entry = table.match(tenant, request.method, path)
            if entry is None:
                return problem(404, "No suitable module found for path and tenant", tenant=tenant)
            link = table.link(tenant, entry.product)
            reply = link.reply(table.availability(entry.module))
            if reply is Reply.PASS or (link.hold is Hold.DRAINING and self._descends(request, tenant)):
                return await self._forward(request, link.flow, entry.module, tenant, target, self._url)
            if reply is Reply.MISSING:
                text = (
                    "the update took longer than it may"
                    if link.overdue
                    else f"No running module instance found for {entry.module}"
                )
                return missing(request, link, text)
            if not deadline:
                deadline = self._loop.time() + self._patience(request)
            if not await self._park(request, link, deadline) and link.hold is not Hold.OPEN:
                return delay(request, link)

    async def _through_overlay(self, request: web.BaseRequest, overlay: OverlayRoute, target: str) -> web.StreamResponse:
        row = overlay.row
        entry = self._table.match_overlay(row, request.method, target.partition("?")[0])
        if entry is None:
            return problem(404, "No suitable module found for path and tenant", tenant=row.tenant)
        if row.state == "open" and entry.product == row.product:
            url = f"{self._url}{_OVERLAY}{row.token}"
            return await self._forward(request, overlay.flow, entry.module, row.tenant, target, url)
        return await self._through_link(request, row.tenant, target)

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
        """Wait for RESUME; False when the time is up or there is no room. The body is not pulled meanwhile."""
        table, settings = self._table, self._settings
        here = table.parked_by_tenant.get(link.tenant, 0)
        wait = deadline - self._loop.time()
        if wait <= 0 or here >= settings.parked_per_tenant or table.parked_total >= settings.parked_total:
            return False
        waiter: asyncio.Future[None] = self._loop.create_future()
        link.waiters.append(waiter)
        table.parked_total += 1
        table.parked_by_tenant[link.tenant] = here + 1
        try:
            async with asyncio.timeout(wait):
                await waiter
        except TimeoutError:
            return False
        finally:
            table.parked_total -= 1
            table.parked_by_tenant[link.tenant] -= 1
            if not waiter.done():
                waiter.cancel()
                with contextlib.suppress(ValueError):
                    link.waiters.remove(waiter)
        if request.transport is None or request.transport.is_closing():
            raise asyncio.CancelledError  # who has left is dropped, not executed
        return True

    def _descends(self, request: web.BaseRequest, tenant: str) -> bool:
        """Whether a request is part of the work of one that is in flight on a draining link of the tenant."""
        chain = request.headers.get(_REQUEST_ID)
        if not chain:
            return False
        ids = {part.partition("/")[0] for part in chain.split(";")}
        return any(link.hold is Hold.DRAINING and not ids.isdisjoint(link.flow.in_flight) for link in self._table.links(tenant))

    async def _forward(
        self, request: web.BaseRequest, flow: Flow, module: str, tenant: str, target: str, url: str
    ) -> web.StreamResponse:
        instance = self._table.choose_instance(module)
        if instance is None:
            return problem(503, f"No running module instance found for {module}", tenant=tenant, lifecycle="MISSING")
        exchange = Exchange(secrets.token_hex(6), module, asyncio.current_task())
        flow.enter(exchange)
        response: web.StreamResponse | None = None
        try:
            response = await self._exchange(request, exchange, instance.url + target, tenant, url)
        except asyncio.CancelledError:
            if not exchange.cut:
                raise
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
            return self._broken(
                request, exchange, tenant, "the update went on without this request's answer", status=503, lifecycle="MISSING"
            )
        except aiohttp.ClientConnectorError as error:
            exchange.answered = True  # nothing was sent
            return self._broken(
                request, exchange, tenant, f"{module} at {instance.url} cannot be reached: {error.os_error}", status=502
            )
        except (aiohttp.ClientError, OSError) as error:
            return self._broken(
                request, exchange, tenant, f"{module} at {instance.url} broke off: {error or type(error).__name__}", status=502
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
        return problem(status, text, tenant=tenant, lifecycle=lifecycle)

    async def _exchange(
        self, request: web.BaseRequest, exchange: Exchange, address: str, tenant: str, url: str
    ) -> web.StreamResponse:
        assert self._session is not None
        incoming = request.headers
        headers: CIMultiDict[str] = CIMultiDict()
        named = incoming.get(hdrs.CONNECTION)
        dropped = _HOP_BY_HOP if named is None else _HOP_BY_HOP | {name.strip().lower() for name in named.split(",")}
        for name, value in incoming.items():
            if name.lower() not in dropped:
                headers.add(name, value)
        headers.pop(hdrs.HOST, None)
        headers.pop(hdrs.EXPECT, None)
        headers[_TENANT] = tenant
        headers["X-Okapi-Url"] = url
        chain = incoming.get(_REQUEST_ID)
        own = f"{exchange.id}/{request.raw_path.split('/', 2)[1].partition('?')[0]}"
        headers[_REQUEST_ID] = own if chain is None else f"{chain};{own}"
        body = None
        if request.body_exists and not request.content.at_eof():
            if incoming.get(hdrs.EXPECT, "").lower() == "100-continue" and request.transport is not None:
                request.transport.write(_CONTINUE)
            body = request.content
        elif request.method not in ("GET", "HEAD", "OPTIONS", "TRACE") and hdrs.CONTENT_LENGTH not in headers:
            headers[hdrs.CONTENT_LENGTH] = "0"
        async with self._session.request(
            request.method, URL(address, encoded=True), headers=headers, data=body, allow_redirects=False
        ) as upstream:
            response = web.StreamResponse(status=upstream.status, reason=upstream.reason)
            named = upstream.headers.get(hdrs.CONNECTION)
            dropped = _HOP_BY_HOP if named is None else _HOP_BY_HOP | {name.strip().lower() for name in named.split(",")}
            for name, value in upstream.headers.items():
                if name.lower() not in dropped:
                    response.headers.add(name, value)
            exchange.started = True
            await response.prepare(request)
            if request.method != "HEAD":
                async for chunk in upstream.content.iter_any():
                    await response.write(chunk)
            exchange.answered = True
            await response.write_eof()
            return response


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
    except (ValueError, binascii.Error):
        return None
    found = claims.get("tenant") if isinstance(claims, dict) else None
    return found if isinstance(found, str) else None
