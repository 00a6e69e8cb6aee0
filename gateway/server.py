"""The server's side of requesters' connections: aiohttp's, with the statuses that say what is wrong with what cannot be read."""

import logging

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong
from aiohttp.web_protocol import RequestHandler

_log = logging.getLogger(__name__)
_TOO_MANY = "Too many headers received"
URI_TOO_LONG = "Your request URI is too long."
HEADERS_TOO_LARGE = "Your HTTP request header fields are too large."
"""Okapi's texts."""


class Server(web.Server):
    """Makes the connections' handlers; arguments as of the library's."""

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
