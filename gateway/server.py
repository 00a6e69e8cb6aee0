"""The server's side of requesters' connections: aiohttp's, with the statuses that say what is wrong with what cannot be read."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, cast

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion, RawRequestMessage
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler
from multidict import CIMultiDictProxy

from gateway.departure import Departure

_log = logging.getLogger(__name__)
_TOO_MANY = "Too many headers received"
URI_TOO_LONG = "Your request URI is too long."
HEADERS_TOO_LARGE = "Your HTTP request header fields are too large."
"""Okapi's texts."""


class Request(web.BaseRequest):
    """A request. Its parts are set once: the library computes each when it is first asked for, which costs more than they do."""

    __slots__ = ("_departure", "_goes_on", "headers", "method", "raw_headers", "raw_path", "remote", "version")
    headers: CIMultiDictProxy[str]
    method: str
    raw_headers: tuple[tuple[bytes, bytes], ...]
    raw_path: str
    remote: str | None
    version: HttpVersion
    _goes_on: bool
    _departure: Departure

    @property
    def keep_alive(self) -> bool:
        """Whether its connection goes on behind it.

        Not while we leave; and not behind one in chunks: what a requester writes after the last of them (trailers) the
        library takes for headers of the next request, which a balancer may send for somebody else.
        """
        return self._goes_on and not self._departure.leaving


class Server(web.Server):
    """Makes the connections' handlers.

    Args:
        handler: Answers requests.
        departure: Whether we leave.
        limits: Arguments of the library's.
    """

    def __init__(
        self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], *, departure: Departure, **limits: Any
    ) -> None:
        self._departure = departure
        super().__init__(handler, request_factory=self._make, **limits)

    def __call__(self) -> RequestHandler:
        """A handler for a new connection."""
        return _Connection(self, loop=self._loop, **self._kwargs)

    def _make(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: "asyncio.Task[None]",
    ) -> Request:
        request = Request(message, payload, protocol, writer, task, self._loop)
        request.method, request.raw_path, request.version = message.method, message.path, message.version
        request.headers, request.raw_headers = message.headers, message.raw_headers
        request.remote = cast("_Connection", protocol).remote
        request._goes_on = not message.should_close and hdrs.TRANSFER_ENCODING not in message.headers  # noqa: SLF001
        request._departure = self._departure  # noqa: SLF001
        return request


class _Connection(RequestHandler):
    __slots__ = ("remote",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        name = transport.get_extra_info("peername")
        self.remote = str(name[0]) if isinstance(name, (list, tuple)) else None if name is None else str(name)
        super().connection_made(transport)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What could not be read is told in one line; anybody can send that, so no stack is logged."""
        if not isinstance(exc, BadHttpMessage):
            return super().handle_error(request, status, exc, message)
        _log.info("a request of %s cannot be read: %s", request.remote, str(exc)[:200])
        if isinstance(exc, LineTooLong) and exc.args[1] == self.max_line_size:
            status, message = 414, URI_TOO_LONG
        elif isinstance(exc, LineTooLong) or exc.message == _TOO_MANY:
            status, message = 431, HEADERS_TOO_LARGE
        else:
            message = f"this is no HTTP/1.1 request: {message or exc}"
        answer = web.Response(status=status, text=message)
        answer.force_close()
        return answer
