"""What is seen of a request while it is answered: counts, a span if they are switched on, and the facts of its log lines.

The data path pays for two clock readings, one small object and a few additions; ids are made only where something is logged.
"""

import asyncio
import logging
import secrets
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING

from aiohttp import web

from gateway.timings import Timings
from uplift_settings.tracing import TRACEPARENT, Tracing

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_access = logging.getLogger("gateway.access")
_REQUEST_ID = "X-Okapi-Request-Id"
_TENANT = "X-Okapi-Tenant"
_LIFECYCLE = "X-Okapi-Lifecycle"
_OVERLAY = "/_/overlay/"
REQUEST_BOUNDS = (0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0)
"""Seconds: a quick answer, a slow one, and how long browsers and gateways wait."""
_LONGEST_ID = 200
_ERRORS = 500


class Current:
    """The request that a task answers.

    Attributes:
        module: Id of the module version that it is routed to; empty before that is known, or without one.
        chain: The `X-Okapi-Request-Id` that its module gets.
        tenant: Its tenant.
        job: The install job that it is about.
        began: When it came, by the loop's clock.
    """

    __slots__ = ("_id", "_request", "began", "chain", "job", "module", "span", "tenant", "tracing")

    def __init__(self, request: web.BaseRequest, began: float) -> None:
        self.began = began
        self._request: web.BaseRequest | None = request
        self._id = self.chain = self.module = self.tenant = self.job = ""
        self.span: Span | None = None
        self.tracing: Tracing | None = None

    @property
    def id(self) -> str:
        """What log lines call it: the id that its module gets, else its client's, else one of its own."""
        if self.chain:
            return self.chain[-_LONGEST_ID:]
        if not self._id:
            sent = self._request.headers.get(_REQUEST_ID, "") if self._request is not None else ""
            self._id = sent[-_LONGEST_ID:] or secrets.token_hex(6)
        return self._id

    def sent_on(self, chain: str) -> Sequence[tuple[bytes, bytes]]:
        """It is sent on under this id, and with these headers: its span, if there is one."""
        self.chain = chain
        if self.span is None or self.tracing is None:
            return ()
        headers: dict[str, str] = {}
        self.tracing.put(self.span, headers)
        return [(name.encode(), value.encode()) for name, value in headers.items()]

    def let_go(self) -> None:
        """The request is answered. What goes on in its name, such as a connection that is kept, does not keep it in memory."""
        self._request = None

    def facts(self) -> dict[str, str]:
        """What is known, for log lines."""
        tenant = self.tenant or (self._request.headers.get(_TENANT, "") if self._request is not None else "")
        found = {"request_id": self.id, "tenant": tenant, "module": self.module, "job": self.job}
        if self.span is not None:
            found["trace_id"] = format(self.span.get_span_context().trace_id, "032x")
        return {key: value for key, value in found.items() if value}


_current: ContextVar[Current | None] = ContextVar("uplift_request", default=None)


def facts() -> Mapping[str, str]:
    """What the calling task is at work on."""
    current = _current.get()
    return {} if current is None else current.facts()


def about(*, tenant: str = "", job: str = "") -> None:
    """The request that is being answered is about a tenant or a job."""
    current = _current.get()
    if current is not None:
        current.tenant, current.job = tenant or current.tenant, job or current.job


def traceparent() -> str:
    """The span of the request that is being answered, as a job keeps it for its run; empty without tracing."""
    current = _current.get()
    if current is None or current.span is None or current.tracing is None:
        return ""
    carrier: dict[str, str] = {}
    current.tracing.put(current.span, carrier)
    return carrier.get(TRACEPARENT, "")


class Served:
    """Answered requests to one module version.

    Attributes:
        classes: How many by the hundreds of their status; at 0 those whose client left or who were cut.
        timings: How long they took.
    """

    __slots__ = ("classes", "timings")

    def __init__(self) -> None:
        self.classes = [0] * 10  # a module may answer with any three digits
        self.timings = Timings(REQUEST_BOUNDS)


class Observation:
    """Watches requests being answered.

    Args:
        access_log: Whether each is logged.
        tracing: Makes spans; None: there are none.
    """

    def __init__(self, *, access_log: bool, tracing: Tracing | None) -> None:
        self._access_log = access_log
        self._tracing = tracing
        self._clock = asyncio.get_running_loop().time
        self.served: dict[str, Served] = {}
        """By module id; empty: those that reached none."""
        self.admin = Served()
        self.delays = {"DELAY": 0, "MISSING": 0}
        """Answers 503 of this gateway itself, by what they promise."""

    def begin(self, request: web.BaseRequest) -> Current:
        """A request has come; the task that answers it answers no other."""
        current = Current(request, self._clock())
        _current.set(current)
        if self._tracing is not None:
            current.tracing, current.span = self._tracing, self._tracing.served(request.method, request.headers)
        return current

    def replied(self, answer: web.StreamResponse) -> None:
        """The gateway itself answered a request of the data path."""
        reply = answer.headers.get(_LIFECYCLE)
        if reply in self.delays:
            self.delays[reply] += 1

    def end(self, current: Current, request: web.BaseRequest, status: int, *, is_admin: bool) -> None:
        """A request is answered, or its client has left: then the status is 0."""
        seconds = self._clock() - current.began
        served = self.admin if is_admin else self.served.get(current.module)
        if served is None:
            served = self.served[current.module] = Served()
        served.classes[status // 100] += 1
        served.timings.add(seconds)
        if self._access_log or current.span is not None:
            self._tell(current, request, status, seconds)
        if is_admin:
            _ = current.id  # what goes on in its name is logged under it
        current.let_go()

    def _tell(self, current: Current, request: web.BaseRequest, status: int, seconds: float) -> None:
        path = _shown(request.raw_path)
        if (span := current.span) is not None:
            known = {
                "http.request.method": request.method,
                "url.path": path,
                "uplift.request_id": current.id,
                "uplift.module": current.module,
                "uplift.tenant": current.tenant,
                "uplift.job": current.job,
            }
            span.set_attributes({key: as_utf8(value) for key, value in known.items() if value})
            if current.module:
                span.update_name(f"{request.method} {current.module}")
            if status:
                span.set_attribute("http.response.status_code", status)
            if not status or status >= _ERRORS:
                span.set_attribute("error.type", str(status or "left"))
            span.end()
        if self._access_log:
            more = {"method": request.method, "path": path, "status": status, "milliseconds": round(seconds * 1_000, 1)}
            _access.info("%s %s %s %.1f ms", request.method, path, status or "left", seconds * 1_000, extra={"facts": more})


def as_utf8(text: str) -> str:
    """Text to be sent, with `?` for what cannot: clients may put any bytes into headers, and half a character into claims."""
    return text.encode(errors="replace").decode()


def _shown(target: str) -> str:
    """A path as it may be written down: without its query, and without the secret of an overlay."""
    path = target.partition("?")[0]
    if path.startswith(_OVERLAY):
        path = f"{_OVERLAY}…/{path[len(_OVERLAY) :].partition('/')[2]}"
    return path[:1_000]
