"""One server for both: the admin API under `/_/`, everything else through the proxy."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from gateway.admin import routes
from gateway.admin.http import NO_ROLE, ApiError, Call, Services, query_of, refusal
from gateway.admin.info import our_version
from gateway.aftermath import Aftermath
from gateway.builtin import BUILT_IN, built_in_descriptor
from gateway.cors import allow, is_preflight, preflight
from gateway.credentials import NOBODY, Caller, Credentials
from gateway.departure import Departure
from gateway.deploying import Deploying
from gateway.health import Health
from gateway.holds import Holds
from gateway.jobs import Jobs
from gateway.metrics import Metrics
from gateway.metrics_port import MetricsPort
from gateway.newest import Newest
from gateway.notifiers import load_notifiers
from gateway.observation import Observation, about
from gateway.okapi_json import pretty
from gateway.outbox import Outbox
from gateway.pipelines import Pipelines
from gateway.platform import Platform
from gateway.problems import Problems
from gateway.proxy import NO_ROUTE, Proxy
from gateway.replies import say_continue
from gateway.resolving import Resolving
from gateway.server import Server
from gateway.store import CredentialStore, DatabaseError
from gateway.tls import requesters_tls
from gateway.tokens import tenant_of_admin
from uplift_settings.tracing import Tracing
from uplift_settings.tree import GatewaySettings, TemporalSettings

_log = logging.getLogger(__name__)
_PROXIED = ("/_/invoke/", "/_/overlay/")
_NO_TOKEN = "the admin API asks for a bearer token that it knows (gateway.tokens_file, gateway.token_file)"  # noqa: S105
MAX_PATH_PART = 500
"""Longest id in an admin path, in characters."""


class Gateway:
    """A running gateway.

    Args:
        platform: Stores and routing table, not loaded yet.
        settings: The gateway's settings.
        temporal: Where runs are kept.
        token: Bearer token of the admin API with all roles; empty: there is none.
        tracing: Makes spans; None: there are none.
        slot: Number of this process among its parent's children; None: it has no parent.

    Raises:
        TokensFileError: `gateway.tokens_file` cannot be used.
    """

    def __init__(
        self,
        *,
        platform: Platform,
        settings: GatewaySettings,
        temporal: TemporalSettings,
        token: str,
        tracing: Tracing | None = None,
        slot: int | None = None,
    ) -> None:
        self._platform = platform
        self._settings = settings
        secrets = CredentialStore(platform.database)
        self._credentials = Credentials(token=token, tokens_file=settings.tokens_file, instance_of=secrets.instance_of)
        self._problems = Problems(platform)
        self._holds = Holds(platform, self._problems)
        self._outbox = Outbox(store=platform.outbox, notifiers=load_notifiers(settings), settings=settings)
        self._jobs = Jobs(platform, self._problems)
        self._pipelines = Pipelines(
            platform=platform, jobs=self._jobs, problems=self._problems, settings=temporal, tracing=tracing
        )
        self._resolving = Resolving(platform=platform, jobs=self._jobs, pipelines=self._pipelines, problems=self._problems)
        self._newest = Newest(platform=platform, jobs=self._jobs, problems=self._problems)
        self._proxy = Proxy(platform=platform, holds=self._holds)
        self._health = Health(pool=platform.table.pool, settings=settings, path_of=platform.table.health_path)
        self._services = Services(
            platform=platform,
            jobs=self._jobs,
            holds=self._holds,
            secrets=secrets,
            problems=self._problems,
            resolving=self._resolving,
            deploying=Deploying(platform=platform, pipelines=self._pipelines),
            health=self._health,
        )
        self._departure = Departure(linger=settings.stop_linger, grace=settings.stop_grace)
        self._observation = Observation(access_log=settings.access_log, tracing=tracing)
        self._metrics_port = self._make_metrics_port(slot)
        self._server = Server(
            self._handle,
            departure=self._departure,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            read_bufsize=settings.read_buffer,
            max_line_size=settings.uri_max,
            max_field_size=settings.header_max + (settings.header_max == settings.uri_max),  # a limit tells which it was
            max_headers=settings.headers_max,
            keepalive_timeout=settings.idle_timeout,
        )
        self._listener: asyncio.Server | None = None
        self._tls = requesters_tls(settings)
        self._loops: tuple[asyncio.Task[None], ...] = ()
        self.member: asyncio.Task[None] | None = None
        """Ends only with an error: this replica must stop then."""

    async def open(self, sock: socket.socket) -> None:
        """Load the state, then listen."""
        if self._metrics_port is not None:
            await self._metrics_port.open()
        await self._platform.membership.join()
        built_in = built_in_descriptor(our_version())
        await self._platform.registry.put_built_in(built_in["id"], BUILT_IN, pretty(built_in))
        await self._platform.catch_up()
        await self._health.open()
        self.member = asyncio.create_task(self._platform.membership.run())
        self._outbox.start()
        aftermath = Aftermath(self._platform.database, interval=self._settings.lease_renew)
        self._loops = tuple(
            asyncio.create_task(each.run()) for each in (self._pipelines, self._problems, self._newest, aftermath)
        )
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._server, sock=sock, backlog=4096, ssl=self._tls)

    async def close(self, *, hurry: asyncio.Event | None = None) -> None:
        """Stop listening, let open requests finish within `gateway.stop_grace`, write down whether all did.

        Everything works until nothing is open: parked requests are released here when their RESUME comes meanwhile.

        Args:
            hurry: Set when it must not take longer: what is parked is answered DELAY, what is in flight is cut.
        """
        if self._listener is not None:
            self._listener.close()
        if self._metrics_port is not None:
            self._metrics_port.leave()
        deadline = await self._departure.wait(self._server, hurry=hurry or asyncio.Event())
        for each in self._loops:
            each.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        outbox_closed = asyncio.create_task(self._outbox.close())
        self._proxy.stop_parking()
        clean = True
        try:
            async with asyncio.timeout_at(deadline):
                for flow in self._platform.table.flows():
                    await flow.wait_idle()
        except TimeoutError:
            clean = False
        await self._server.shutdown(timeout=1)
        await self._health.close()
        self._platform.table.pool.close()
        await self._proxy.close()
        await outbox_closed
        await self._platform.drains.close()
        if self.member is not None:
            self.member.cancel()
            await asyncio.gather(self.member, return_exceptions=True)
        await self._platform.membership.leave(loose=0.0 if clean else self._settings.settle)
        if self._metrics_port is not None:
            await self._metrics_port.close()

    def _make_metrics_port(self, slot: int | None) -> MetricsPort | None:
        settings = self._settings
        if not settings.metrics_port:
            return None
        metrics = Metrics(platform=self._platform, holds=self._holds, observation=self._observation)
        return MetricsPort(
            host=settings.metrics_host, port=settings.metrics_port, slot=slot, page=metrics.page, reasons=self._why_not_ready
        )

    def _why_not_ready(self) -> list[str]:
        found = []
        if self._departure.leaving:
            found.append("the gateway is about to stop")
        if self._platform.follower.epoch < 0:
            found.append("the routing table is not loaded")
        elif not self._platform.membership.may_route:
            found.append("the lease has run out: the gateway's database is away")
        return found

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path, observation = request.raw_path, self._observation
        is_admin = path.startswith("/_/") and not path.startswith(_PROXIED)
        current, status = observation.begin(request), 0
        try:
            answer = await (self._admin(request) if is_admin else self._proxy.handle(request, current))
            status = answer.status
            if not answer.prepared:  # one of our own; those of modules have said it
                allow(answer, request.headers)
                if not is_admin:
                    observation.replied(answer)
            return answer
        finally:
            observation.end(current, request, status, is_admin=is_admin)

    async def _admin(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.raw_path.partition("?")[0]
        if is_preflight(request):
            return preflight(request)
        try:
            handler, variables, caller = await self._admit(request)
            about(tenant=variables.get("tenant", ""), job=variables.get("job", ""))
            body = await self._read(request)
            await self._platform.look()
            if _is_okapis(path):
                self._check_tenant(request)
            call = Call(services=self._services, caller=caller, request=request, path=variables, body=body)
            return await _shielded(handler, call)
        except ApiError as error:
            return refusal(request, error)
        except DatabaseError as error:
            return refusal(request, ApiError(503, str(error)))
        except Exception:  # noqa: BLE001 - a bug answers 500 and is logged whole
            _log.exception("%s %s", request.method, request.raw_path)
            return refusal(request, ApiError(500, "internal error; the gateway's log tells more"))

    async def _admit(self, request: web.BaseRequest) -> tuple[routes.Handler, dict[str, str], Caller]:
        """Find the route and let the caller in, by the shape of the path alone.

        Raises:
            ApiError: 401 or 403 before anybody looks whether what the path names is there; then 404 and 400.
        """
        found = routes.find(request.method, request.raw_path.partition("?")[0])
        caller: Caller | None = NOBODY
        if found is None or found[1].roles:
            caller = await self._credentials.identify(request.headers.get(hdrs.AUTHORIZATION))
        is_own = found is not None and found[1].is_own(request.headers, found[2])
        if caller is None and not is_own:
            raise ApiError(401, _NO_TOKEN, headers={hdrs.WWW_AUTHENTICATE: "Bearer"})
        if found is None:
            raise ApiError(404, NO_ROUTE)
        handler, need, variables = found
        if not is_own and caller is not None and not need.allows(caller, query_of(request), variables):
            _log.info("%s has not the role for %s %s: it needs %s", caller.name, request.method, request.raw_path[:200], need)
            raise ApiError(403, NO_ROLE)
        if any("\x00" in value or len(value) > MAX_PATH_PART for value in variables.values()):
            raise ApiError(400, f"a part of the path holds a NUL character or more than {MAX_PATH_PART} characters")
        return handler, variables, caller or NOBODY

    def _check_tenant(self, request: web.BaseRequest) -> None:
        """Okapi's routes are part of its built-in module, which the tenant that calls must have.

        Raises:
            ApiError: 400 if there is no such tenant, 404 if it has not.
        """
        tenant, table = tenant_of_admin(request.headers), self._platform.table
        if tenant not in table.tenants:
            raise ApiError(400, f"No such Tenant {tenant}")
        if BUILT_IN not in table.bindings.get(tenant, {}):
            raise ApiError(404, NO_ROUTE)

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


def _is_okapis(path: str) -> bool:
    """Whether a path is one of Okapi's own, not one that we added."""
    return path.startswith(("/_/proxy/", "/_/discovery/", "/_/deployment/", "/_/env", "/_/version"))


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
