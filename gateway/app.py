"""One server for both: the admin API under `/_/`, everything else through the proxy."""

import asyncio
import hmac
import logging
import socket
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from gateway.admin import routes
from gateway.admin.http import ApiError, Call, Services, refusal
from gateway.health import Health
from gateway.holds import Holds
from gateway.jobs import Jobs
from gateway.pipelines import Pipelines
from gateway.platform import Platform
from gateway.proxy import Proxy
from gateway.replies import say_continue
from gateway.store import DatabaseError
from uplift_settings.tree import GatewaySettings, TemporalSettings

_log = logging.getLogger(__name__)
_PROXIED = ("/_/invoke/", "/_/overlay/")
MAX_PATH_PART = 500
"""Longest id in an admin path, in characters."""


class Gateway:
    """A running gateway.

    Args:
        platform: Stores and routing table, not loaded yet.
        settings: The gateway's settings.
        temporal: Where runs are kept.
        token: Bearer token of the admin API; empty: none is asked for.
    """

    def __init__(self, *, platform: Platform, settings: GatewaySettings, temporal: TemporalSettings, token: str) -> None:
        self._platform = platform
        self._settings = settings
        self._token = token
        self._holds = Holds(platform)
        self._jobs = Jobs(platform)
        self._pipelines = Pipelines(platform=platform, jobs=self._jobs, settings=temporal)
        self._proxy = Proxy(platform=platform, holds=self._holds)
        self._health = Health(pool=platform.table.pool, settings=settings, path_of=platform.table.health_path)
        self._services = Services(platform=platform, jobs=self._jobs, holds=self._holds)
        self._server = web.Server(
            self._handle,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            read_bufsize=settings.read_buffer,
        )
        self._listener: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self.member: asyncio.Task[None] | None = None
        """Ends only with an error: this replica must stop then."""

    async def open(self, sock: socket.socket) -> None:
        """Load the state, then listen."""
        await self._proxy.open()
        await self._platform.membership.join()
        await self._health.open()
        self.member = asyncio.create_task(self._platform.membership.run())
        self._sweeper = asyncio.create_task(self._pipelines.run())
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._server, sock=sock, backlog=4096)

    async def close(self) -> None:
        """Stop listening, let open requests finish within `gateway.stop_grace`, write down whether all did."""
        if self._listener is not None:
            self._listener.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        self._proxy.stop_parking()
        clean = True
        try:
            async with asyncio.timeout(self._settings.stop_grace):
                for flow in self._platform.table.flows():
                    await flow.wait_idle()
        except TimeoutError:
            clean = False
        await self._server.shutdown(timeout=1)
        await self._health.close()
        self._platform.table.pool.close()
        await self._proxy.close()
        await self._platform.drains.close()
        if self.member is not None:
            self.member.cancel()
            await asyncio.gather(self.member, return_exceptions=True)
        await self._platform.membership.leave(loose=0.0 if clean else self._settings.settle)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.raw_path
        if path.startswith("/_/") and not path.startswith(_PROXIED):
            return await self._admin(request)
        return await self._proxy.handle(request)

    async def _admin(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            self._check_token(request)
            handler, variables = _route(request)
            body = await self._read(request)
            await self._platform.look()
            call = Call(services=self._services, request=request, path=variables, body=body)
            return await _shielded(handler, call)
        except ApiError as error:
            return refusal(request, error)
        except DatabaseError as error:
            return refusal(request, ApiError(503, str(error)))
        except Exception:  # noqa: BLE001 - a bug answers 500 and is logged whole
            _log.exception("%s %s", request.method, request.raw_path)
            return refusal(request, ApiError(500, "internal error; the gateway's log tells more"))

    def _check_token(self, request: web.BaseRequest) -> None:
        if self._token:
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(errors="replace"), self._token.encode()):
                raise ApiError(401, "this gateway asks for the admin API's bearer token (gateway.token_file)")

    async def _read(self, request: web.BaseRequest) -> str:
        if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
            raise ApiError(415, "Content-Encoding: the admin API takes bodies as they are")
        if request.body_exists:
            say_continue(request)
        data = bytearray()
        while chunk := await request.content.readany():
            data += chunk
            if len(data) > self._settings.body_max:
                raise ApiError(413, f"the body is larger than {self._settings.body_max} bytes (gateway.body_max)")
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise ApiError(400, f"Failed to decode: the body is not UTF-8: {error.reason} at byte {error.start}") from error
        if "\\u0000" in text or "\x00" in text:
            raise ApiError(400, "Failed to decode: the body holds a NUL character")
        return text


async def _shielded(handler: Callable[[Call], Awaitable[web.StreamResponse]], call: Call) -> web.StreamResponse:
    """Run a handler to its end even if its client leaves: a commit and its effect in memory belong together."""
    task = asyncio.ensure_future(handler(call))
    _running.add(task)  # the loop itself holds its tasks weakly
    task.add_done_callback(_ended)
    return await asyncio.shield(task)


_running: set["asyncio.Future[web.StreamResponse]"] = set()


def _ended(task: "asyncio.Future[web.StreamResponse]") -> None:
    _running.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, ApiError):
        _log.debug("an admin call ended with %r", error)


def _route(request: web.BaseRequest) -> tuple[routes.Handler, dict[str, str]]:
    found = routes.find(request.method, request.raw_path.partition("?")[0])
    if found is None:
        raise ApiError(404, "No suitable module found for path and tenant")
    if any("\x00" in value or len(value) > MAX_PATH_PART for value in found[1].values()):
        raise ApiError(400, f"a part of the path holds a NUL character or more than {MAX_PATH_PART} characters")
    return found
