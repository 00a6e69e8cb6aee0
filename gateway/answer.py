"""A module's answer on its way to the requester: its head and its body as they came, framed for the requester's connection."""

import asyncio
from collections.abc import Sequence
from email.utils import formatdate
from functools import lru_cache
from time import time

from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11

from gateway.headers import Raw, downwards, lines
from gateway.upstream import SWITCHING, Head

_NO_CONTENT = 204
_NOT_MODIFIED = 304
_LARGE = 16_384
"""Bytes from which several pieces cost less than a copy of them in one."""
_UPGRADED = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"


class Answer:
    """An answer that is passed on: `write` as often as there is something, then `end`. Its head goes with the first of them.

    Args:
        request: That is answered.
        head: Of the module's answer.
        instead: Headers that we say instead of the module.
        besides: Headers that we add, as they are sent.
        token: The requester's own, which it is not told again; empty without one.
        patience: Seconds that a requester gets to take what was sent.
    """

    __slots__ = ("_first", "_in_chunks", "_keep_alive", "_patience", "_request", "_status")

    def __init__(
        self,
        request: web.BaseRequest,
        head: Head,
        *,
        instead: Sequence[Raw] = (),
        besides: bytes = b"",
        token: str = "",
        patience: float,
    ) -> None:
        self._request = request
        self._status = head.status
        self._patience = patience
        self._in_chunks = False
        without = {name.lower() for name, _ in instead} if instead else set[bytes]()
        self._keep_alive = False
        ours = _UPGRADED if head.status == SWITCHING else self._frame(request, head, without)
        theirs = downwards(head.headers, token=token.encode("utf-8", "surrogateescape") if token else b"", without=without)
        if instead:
            ours += lines(instead)
        self._first = b"HTTP/1.1 %d %b\r\n%b%b%b\r\n" % (head.status, head.reason, theirs, ours, besides)

    def _frame(self, request: web.BaseRequest, head: Head, without: set[bytes]) -> bytes:
        """Headers that say where it ends, whether the connection goes on, and when it was."""
        is_new = request.version >= HttpVersion11
        keep_alive = request.keep_alive
        said = b"" if head.is_dated else b"Date: %b\r\n" % _now()
        if request.method == hdrs.METH_HEAD or head.status == _NOT_MODIFIED:
            pass  # it may tell the length of what it does not hold
        elif head.status == _NO_CONTENT:
            without.add(b"content-length")
        elif head.length is None:
            self._in_chunks = is_new
            keep_alive = keep_alive and is_new
            if is_new:
                said += b"Transfer-Encoding: chunked\r\n"
        if keep_alive and not is_new:
            said += b"Connection: keep-alive\r\n"
        elif not keep_alive and is_new:
            said += b"Connection: close\r\n"
        self._keep_alive = keep_alive
        return said

    async def write(self, data: bytes) -> None:
        """Send a part of the body, and wait while the requester is slow.

        Raises:
            ConnectionResetError: The requester has left, or is too slow.
        """
        self._send(data, last=False)
        transport = self._request.transport
        if transport is None or not transport.get_write_buffer_size():
            return
        try:
            async with asyncio.timeout(self._patience):
                await self._request.writer.drain()
        except TimeoutError:
            transport.abort()
            raise ConnectionResetError(f"the client took nothing for {self._patience:g} s (gateway.client_timeout)") from None

    def end(self, data: bytes = b"") -> web.StreamResponse:
        """Send the end of it.

        Returns:
            What the library is told: that it was sent.

        Raises:
            ConnectionResetError: The requester has left.
        """
        self._send(data, last=True)
        return _sent(self._status, self._keep_alive)

    def _send(self, data: bytes, *, last: bool) -> None:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has left")
        start, end = self._first, b""
        if start:
            self._first = b""
        if self._in_chunks:
            if data:
                start, end = start + b"%x\r\n" % len(data), b"\r\n"
            if last:
                end += b"0\r\n\r\n"
        if len(data) >= _LARGE:
            transport.writelines([part for part in (start, data, end) if part])  # without a copy
        elif start or data or end:
            transport.write(start + data + end)


class _Sent(web.StreamResponse):
    """An answer of which all was sent, and not by the library."""

    def __init__(self, status: int, *, keep_alive: bool) -> None:
        super().__init__(status=status)
        self._keep_alive = keep_alive
        self._eof_sent = True


@lru_cache(maxsize=2_000)
def _sent(status: int, keep_alive: bool) -> _Sent:
    return _Sent(status, keep_alive=keep_alive)


_second, _text = 0, b""


def _now() -> bytes:
    """The time as `Date` tells it; made once a second."""
    global _second, _text
    if (now := int(time())) != _second:
        _second, _text = now, formatdate(now, usegmt=True).encode()
    return _text
