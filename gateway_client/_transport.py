"""httpx transports that understand DELAY, MISSING and RESUME (requirements A2, A3).

What is said to the gateway is decided by `_conversation`, a generator without IO; the two transports carry it out.
"""

import asyncio
import json
import time
from collections.abc import Generator
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import httpx

from gateway_client._errors import Interruption, ModuleDelayed, ModuleMissing

_HEADER = "X-Okapi-Lifecycle"
_UNAVAILABLE = 503
_OK = 200
_NOT_FOUND = 404
_LONGEST_POLL = 20.0
"""Seconds of one call: proxies in between close silent connections after about a minute."""
_POLL_MARGIN = 10.0
"""Seconds beside the wait itself in which the gateway must answer."""
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=20)
"""Who waits keeps a connection, and must not keep others from sending."""
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0
"""Seconds between tries where the gateway names no place to wait, or does not answer there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Send:
    """Send this. `attempt`: the module's request itself, whose errors are the caller's."""

    request: httpx.Request
    attempt: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pause:
    """Wait that many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What came of a step; `response` was read, unless it is the module's own. `now` is a monotonic clock's."""

    now: float
    response: httpx.Response | None = None


_Talk = Generator[_Send | _Pause, _Answer, httpx.Response]


def _conversation(request: httpx.Request, *, budget: float, gateway: httpx.URL | None) -> _Talk:
    """Send a request; on DELAY wait within the budget, and send it again. The budget starts with the first DELAY."""
    request.headers.setdefault(_HEADER, "delay")
    until: float | None = None
    pause = _FIRST_PAUSE
    while True:
        answer = yield _Send(request=request, attempt=True)
        response, now = answer.response, answer.now
        assert response is not None
        if not _is_interruption(response):
            return response
        said = _interruption(response)
        if response.headers[_HEADER].upper() != "DELAY":
            raise ModuleMissing(said)
        if until is None:
            until = now + budget
        if now >= until or not isinstance(request.stream, httpx.ByteStream):
            raise ModuleDelayed(said)
        place = _place(request, response, gateway)
        if place is None:
            wanted = said.retry_after if said.retry_after is not None else pause
            now = (yield _Pause(seconds=min(wanted, until - now))).now
        else:
            now = yield from _wait_at(place, until=until, now=now, said=said)
        # A hold that opens and closes at once must not become a storm of requests.
        if now < until:
            now = (yield _Pause(seconds=min(pause, until - now))).now
            pause = min(pause * 2, _LONGEST_PAUSE)


def _wait_at(place: httpx.URL, *, until: float, now: float, said: Interruption) -> Generator[_Send | _Pause, _Answer, float]:
    """Wait until RESUME; the time then.

    Raises:
        ModuleDelayed: The budget is used up.
        ModuleMissing: The gateway gave up on the module.
    """
    pause = _FIRST_PAUSE
    while now < until:
        seconds = min(until - now, _LONGEST_POLL)
        poll = httpx.Request(
            "GET",
            place.copy_merge_params({"wait": f"{seconds:.3f}"}),
            extensions={"timeout": httpx.Timeout(_POLL_MARGIN, read=seconds + _POLL_MARGIN).as_dict()},
        )
        answer = yield _Send(request=poll, attempt=False)
        now = answer.now
        lifecycle = _lifecycle(answer.response)
        if lifecycle == "RESUME":
            return now
        if lifecycle == "MISSING":
            raise ModuleMissing(said)
        if now < until:
            now = (yield _Pause(seconds=min(pause, until - now))).now
            # Without an answer the gateway itself is away, or being replaced.
            pause = _FIRST_PAUSE if lifecycle == "DELAY" else min(pause * 2, _LONGEST_PAUSE)
    raise ModuleDelayed(said)


def _is_interruption(response: httpx.Response) -> bool:
    return response.status_code == _UNAVAILABLE and response.headers.get(_HEADER, "").upper() in ("DELAY", "MISSING")


def _place(request: httpx.Request, response: httpx.Response, gateway: httpx.URL | None) -> httpx.URL | None:
    """Where to wait; never at another host than the one that was asked, or the gateway that is known."""
    location = response.headers.get("Location")
    if not location:
        return None
    base = request.url if gateway is None else gateway
    try:
        place = base.join(location)
    except httpx.InvalidURL:
        return None
    return place if (place.scheme, place.host, place.port) == (base.scheme, base.host, base.port) else None


def _lifecycle(response: httpx.Response | None) -> str | None:
    """What a place to wait says. One that is gone belonged to a hold that is over."""
    if response is None:
        return None
    if response.status_code == _NOT_FOUND:
        return "RESUME"
    found = _members(response).get("lifecycle") if response.status_code == _OK else None
    return found if isinstance(found, str) else None


def _interruption(response: httpx.Response) -> Interruption:
    members = _members(response)
    detail = members.get("detail")
    return Interruption(
        detail=detail if isinstance(detail, str) else f"the gateway answered {response.headers[_HEADER]}",
        module=_text(members.get("module")),
        tenant=_text(members.get("tenant")),
        since=_instant(members.get("since")),
        until=_instant(members.get("until")),
        retry_after=_seconds(response.headers.get("Retry-After")),
    )


def _members(response: httpx.Response) -> dict[str, Any]:
    try:
        found = json.loads(response.content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _instant(value: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _seconds(value: str | None) -> float | None:
    return float(value) if value is not None and value.isascii() and value.isdigit() else None


class LifecycleTransport(httpx.AsyncBaseTransport):
    """Tells the gateway that we understand DELAY, and does what it asks: `AsyncClient(transport=LifecycleTransport(budget=30))`.

    A request that is answered DELAY has not been executed, so any method is sent again after RESUME. Its body must be there to
    be sent again (bytes, text, form or JSON; not a stream), else the error is raised at once.

    Args:
        budget: Seconds to wait for RESUME, counted from the first DELAY (requirement A3). 0: raise at once.
        gateway: Base URL of the gateway; None: the host of each request.
        transport: What sends; None: an `httpx.AsyncHTTPTransport` without a limit of connections.

    Raises (from requests):
        ModuleDelayed: The budget is used up.
        ModuleMissing: The gateway promises nothing.
    """

    def __init__(self, *, budget: float, gateway: str | None = None, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._budget = budget
        self._gateway = None if gateway is None else httpx.URL(gateway)
        self._transport = httpx.AsyncHTTPTransport(limits=_LIMITS) if transport is None else transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and wait where the gateway says so."""
        talk = _conversation(request, budget=self._budget, gateway=self._gateway)
        step = next(talk)
        try:
            while True:
                step = talk.send(await self._carry_out(step))
        except StopIteration as end:
            response: httpx.Response = end.value
            return response

    async def _carry_out(self, step: _Send | _Pause) -> _Answer:
        response: httpx.Response | None = None
        if isinstance(step, _Pause):
            await asyncio.sleep(step.seconds)
        else:
            try:
                response = await self._transport.handle_async_request(step.request)
                if not step.attempt or _is_interruption(response):
                    await response.aread()
            except httpx.TransportError:
                if step.attempt:
                    raise
                response = None
        return _Answer(now=time.monotonic(), response=response)

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._transport.__aexit__(exc_type, exc_value, traceback)

    async def aclose(self) -> None:
        """Close the transport that sends."""
        await self._transport.aclose()


class SyncLifecycleTransport(httpx.BaseTransport):
    """`LifecycleTransport` for `httpx.Client`; arguments and errors are the same."""

    def __init__(self, *, budget: float, gateway: str | None = None, transport: httpx.BaseTransport | None = None) -> None:
        self._budget = budget
        self._gateway = None if gateway is None else httpx.URL(gateway)
        self._transport = httpx.HTTPTransport(limits=_LIMITS) if transport is None else transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and wait where the gateway says so."""
        talk = _conversation(request, budget=self._budget, gateway=self._gateway)
        step = next(talk)
        try:
            while True:
                step = talk.send(self._carry_out(step))
        except StopIteration as end:
            response: httpx.Response = end.value
            return response

    def _carry_out(self, step: _Send | _Pause) -> _Answer:
        response: httpx.Response | None = None
        if isinstance(step, _Pause):
            time.sleep(step.seconds)
        else:
            try:
                response = self._transport.handle_request(step.request)
                if not step.attempt or _is_interruption(response):
                    response.read()
            except httpx.TransportError:
                if step.attempt:
                    raise
                response = None
        return _Answer(now=time.monotonic(), response=response)

    def __enter__(self) -> Self:
        self._transport.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._transport.__exit__(exc_type, exc_value, traceback)

    def close(self) -> None:
        """Close the transport that sends."""
        self._transport.close()


__all__ = ["LifecycleTransport", "SyncLifecycleTransport"]
