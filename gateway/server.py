"""The server's side of requesters' connections: aiohttp's, with the statuses that say what is wrong with what cannot be read."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from gateway.departure import Departure

_log = logging.getLogger(__name__)
_TOO_MANY = "Too many headers received"
URI_TOO_LONG = "Your request URI is too long."
HEADERS_TOO_LARGE = "Your HTTP request header fields are too large."
"""Okapi's texts."""


class Request(web.BaseRequest):
    """A request. Its parts are set once: the library computes each when it is first asked for, which costs more than they do."""

    __slots__ = ("_departure", "_goes_on", "headers", "method", "raw_headers", "raw_path", "version")

    def __init__(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: "asyncio.Task[None]",
        *,
        departure: Departure,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(message, payload, protocol, writer, task, loop)
        self.method, self.raw_path, self.version = message.method, message.path, message.version
        self.headers, self.raw_headers = message.headers, message.raw_headers
        self._goes_on = not message.should_close and hdrs.TRANSFER_ENCODING not in message.headers
        self._departure = departure

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
        factory = partial(Request, departure=departure, loop=asyncio.get_running_loop())
        super().__init__(handler, request_factory=factory, **limits)

    def __call__(self) -> RequestHandler:
        """A handler for a new connection."""
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(RequestHandler):
    __slots__ = ()

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
