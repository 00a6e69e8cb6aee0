"""A module's part in the lifecycle protocol: registers, signals, answers (requirements A1, A4)."""

import asyncio
import contextlib
import inspect
import logging
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import urlsplit

import httpx

from gateway_client._adapters import AsgiApp, aiohttp_routes, asgi
from gateway_client._client import GatewayClient
from gateway_client._errors import GatewayError, GatewayRefused, GatewayUnavailable, HoldStays
from gateway_client._lifecycle import LifecycleRequest, SignalAnswer
from gateway_client._pushes import LifecycleEvent, PushAnswer, answer_push, push_path
from gateway_wire import HoldState

if TYPE_CHECKING:
    from aiohttp import web

_log = logging.getLogger(__name__)
_Value = TypeVar("_Value")
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 5.0
"""Seconds between tries while the gateway does not answer."""
_POLL = 20.0
"""Seconds of one wait for the hold: proxies in between close silent connections after about a minute."""
OnEvent = Callable[[LifecycleEvent], Awaitable[None] | None]


class Module:
    """Takes part for one instance of a module: `async with Module(descriptor, gateway=…, url=…) as module:` while it serves.

    On entry it registers the descriptor and the instance, and says RESUME; so let the server listen before. On exit it says
    DISCONNECT, after which nothing new comes and what was at work has ended; so stop the server after that. An instance that
    Uplift has deployed (`UPLIFT_INSTANCE` is set) is registered by its deployer and only signals.

    Args:
        descriptor: The module descriptor, as JSON.
        gateway: Base URL of the gateway; None: `UPLIFT_GATEWAY_URL`.
        url: Where the gateway reaches this instance; not needed for deployed ones.
        instance: Id of this instance; None: `UPLIFT_INSTANCE`, else one made of module id and url, the same at each start.
        token: Bearer token for the gateway; None: `UPLIFT_INSTANCE_TOKEN`, else none.
        on_event: Told of every push; the gateway is answered when it returns. It may be a coroutine function.
        patience: Seconds to go on trying while the gateway does not answer; None: for ever.
        leave: Seconds that DISCONNECT may take at exit: those that requests in flight have.
        timeout: Seconds for one call.
        transport: For tests: what sends, such as `gateway_client.testing.InMemoryGateway().transport`.
        environ: Where the defaults come from; None: the process's environment.

    Raises:
        ValueError: Neither an argument nor the environment says where the gateway or the instance is.
    """

    def __init__(
        self,
        descriptor: Mapping[str, Any],
        *,
        gateway: str | None = None,
        url: str | None = None,
        instance: str | None = None,
        token: str | None = None,
        on_event: OnEvent | None = None,
        patience: float | None = None,
        leave: float = 10.0,
        timeout: float = 15.0,
        transport: httpx.AsyncBaseTransport | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        environ = os.environ if environ is None else environ
        where = gateway or environ.get("UPLIFT_GATEWAY_URL")
        if not where:
            raise ValueError("where is the gateway? Give gateway=, or set UPLIFT_GATEWAY_URL")
        self.id = str(descriptor["id"])
        self.url = url
        self.deployed = instance is None and bool(environ.get("UPLIFT_INSTANCE"))
        if url is None and not self.deployed:
            raise ValueError("where is this instance? Give url=, the address at which the gateway reaches it")
        self.instance = instance or environ.get("UPLIFT_INSTANCE") or f"{self.id}-{urlsplit(url or '').netloc}"
        self.client = GatewayClient(
            url=where,
            token=environ.get("UPLIFT_INSTANCE_TOKEN", "") if token is None else token,
            timeout=timeout,
            transport=transport,
        )
        self._descriptor = dict(descriptor)
        self._pushes = push_path(descriptor)
        self._on_event = on_event
        self._patience = patience
        self._leave = leave

    async def __aenter__(self) -> Self:
        try:
            if not self.deployed:
                assert self.url is not None
                await self._persist(lambda: self.client.register_module(self._descriptor))
                await self._persist(
                    lambda: self.client.register_instance(module=self.id, instance=self.instance, url=self.url or "")
                )
            await self._say_well()
        except BaseException:
            await self.client.close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            async with asyncio.timeout(self._leave * 2 + 1):
                await self.client.signal(self.id, LifecycleRequest(event="DISCONNECT", instance=self.instance, grace=self._leave))
        except (GatewayError, TimeoutError) as failure:
            # The gateway will see for itself that the instance is gone; it only costs it a try.
            _log.warning("%s leaves without having been heard: %s", self.instance, failure or "no answer")
        finally:
            await self.client.close()

    @contextlib.asynccontextmanager
    async def updating(
        self,
        *,
        tenant: str | None = None,
        ttl: float | None = None,
        grace: float | None = None,
        reason: str | None = None,
        hold: str | None = None,
    ) -> AsyncIterator[HoldState]:
        """Hold all requests to this module's product, of whatever version, while the body changes the data (requirement A6).

        The body begins when nothing is at work any more. After it requests go on. If it raises, the hold stays: the data may be
        half changed. Do not enter it within a request that came through the gateway: it would wait for its own end.

        Args:
            tenant: Whose data; None: all tenants'.
            ttl: Seconds after which waiting requesters get MISSING; the hold stays.
            grace: Seconds for requests in flight; None: the gateway's setting.
            reason: For people.
            hold: The hold's id, to go on with one that a former process of this instance left; None: a new one.

        Raises:
            GatewayRefused: 409: somebody else holds it. Nothing was changed.
            HoldStays: The body raised (its exception is the cause), the hold was taken away, or RESUME was not heard.
        """
        chosen = hold or f"{self.id[:40]}.{secrets.token_hex(12)}"
        who = tenant or "*"
        update = LifecycleRequest(
            event="UPDATE", instance=self.instance, tenant=tenant, hold=chosen, ttl=ttl, grace=grace, reason=reason
        )
        try:
            await self._persist(lambda: self.client.signal(self.id, update))
            state = await self._may_begin(chosen)
        except BaseException:
            if hold is None:  # nothing was begun under it, so nothing has to stay shut, even if only its answer was lost
                with contextlib.suppress(GatewayError, TimeoutError):
                    async with asyncio.timeout(self._leave):
                        await self.resume(chosen, tenant=tenant)
            raise
        if state.state != "HELD":
            raise GatewayRefused(409, f"hold {chosen} was taken away before the update began; nothing was changed")
        try:
            yield state
        except Exception as error:
            raise HoldStays(hold=chosen, module=self.id, tenant=who, why=f"the update failed: {error!r}") from error
        except BaseException as error:
            stays = HoldStays(hold=chosen, module=self.id, tenant=who, why="the update was broken off")
            _log.error("%s", stays)
            error.add_note(str(stays))
            raise
        try:
            await self.resume(chosen, tenant=tenant)
        except GatewayError as error:
            why = f"the update is done, but the gateway did not take RESUME: {error}"
            raise HoldStays(hold=chosen, module=self.id, tenant=who, why=why) from error

    async def resume(self, hold: str, *, tenant: str | None = None) -> SignalAnswer:
        """Remove a hold of this module; again is fine.

        Raises:
            GatewayRefused: 409: it is another instance's or an operator's, or never was.
        """
        request = LifecycleRequest(event="RESUME", instance=self.instance, tenant=tenant, hold=hold)
        return await self._persist(lambda: self.client.signal(self.id, request))

    def answers(self, method: str, path: str, body: bytes = b"") -> PushAnswer | None:
        """The answer to a request that the gateway makes: a push, or for health; None: it is the module's own business.

        For frameworks without an adapter here: act on `answer.event`, if there is one, then answer.
        """
        return answer_push(method, path, body, pushes=self._pushes)

    async def told(self, event: LifecycleEvent) -> None:
        """Call `on_event`."""
        if self._on_event is not None:
            done = self._on_event(event)
            if inspect.isawaitable(done):
                await done

    def asgi(self, app: AsgiApp) -> AsgiApp:
        """Wrap an ASGI application: pushes and health are answered, everything else is the application's."""
        return asgi(app, answers=self.answers, told=self.told, pushes=self._pushes)

    def aiohttp_routes(self) -> "list[web.RouteDef]":
        """Routes of an aiohttp application for pushes and health."""
        return aiohttp_routes(answers=self.answers, told=self.told, pushes=self._pushes)

    async def _say_well(self) -> None:
        well = LifecycleRequest(event="RESUME", instance=self.instance)
        try:
            await self._persist(lambda: self.client.signal(self.id, well))
        except GatewayRefused as refused:
            if not self.deployed:
                raise
            # The deployer registers it as soon as it answers.
            _log.info("%s is not registered yet: %s", self.instance, refused)

    async def _may_begin(self, hold: str) -> HoldState:
        while True:
            state = await self._persist(lambda: self.client.delay(hold, wait=_POLL))
            if state.lifecycle != "DELAY":
                return state

    async def _persist(self, call: Callable[[], Awaitable[_Value]]) -> _Value:
        """Call until the gateway answers."""
        pause = _FIRST_PAUSE
        last: GatewayUnavailable | None = None
        try:
            async with asyncio.timeout(self._patience):
                while True:
                    try:
                        return await call()
                    except GatewayUnavailable as error:
                        if last is None:
                            _log.warning("the gateway does not answer, trying on: %s", error)
                        last = error
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE)
        except TimeoutError:
            raise last or GatewayUnavailable(f"{self.client.url} did not answer within {self._patience} s") from None


__all__ = ["Module"]
