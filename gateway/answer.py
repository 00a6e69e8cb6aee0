"""A module's answer on its way to the requester: its head and its body as they came, framed for the requester's connection."""

import asyncio
from collections.abc import Sequence
from email.utils import formatdate
from time import time

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion11

from gateway.headers import Raw, downwards, lines
from gateway.upstream import Head

_NO_CONTENT = 204
_NOT_MODIFIED = 304
_LARGE = 16_384
"""Bytes from which several pieces cost less than a copy of them in one."""
_UPGRADED = ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"))


class Answer(web.StreamResponse):
    """An answer that is passed on; `prepare`, `write` and `write_eof` as of any of the library's.

    Args:
        head: Of the module's answer.
        more: Headers that we add.
        instead: Headers that we say instead of the module.
        token: The requester's own.
        patience: Seconds that a requester gets to take what was sent.
    """

    def __init__(
        self, head: Head, *, more: Sequence[Raw] = (), instead: Sequence[Raw] = (), token: bytes = b"", patience: float
    ) -> None:
        super().__init__(status=head.status, reason="")  # as it came, which is kept in the head
        self._of_module = head
        self._more = more
        self._patience = patience
        self._instead = instead
        self._token = token
        self._in_chunks = False
        self._first = b""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Frame it; its head is sent together with the first part of the body."""
        if self.prepared:
            return None
        self._req, self._payload_writer = request, request.writer
        head = self._of_module
        headers = downwards(head.headers, token=self._token)
        is_new = request.version >= HttpVersion11
        keep_alive = request.keep_alive
        if request.method == hdrs.METH_HEAD or head.status == _NOT_MODIFIED:
            pass  # it may tell the length of what it does not hold
        elif head.status == _NO_CONTENT:
            headers = [header for header in headers if header[0].lower() != b"content-length"]
        elif head.length is None:
            self._in_chunks = is_new
            keep_alive = keep_alive and is_new
            if is_new:
                headers.append((b"Transfer-Encoding", b"chunked"))
        for name, _ in headers:
            if len(name) == 4 and name.lower() == b"date":  # noqa: PLR2004
                break
        else:
            headers.append((b"Date", _now()))
        if keep_alive and not is_new:
            headers.append((b"Connection", b"keep-alive"))
        elif not keep_alive and is_new:
            headers.append((b"Connection", b"close"))
        if self._instead:
            names = {name.lower() for name, _ in self._instead}
            headers = [*(header for header in headers if header[0].lower() not in names), *self._instead]
        headers += self._more
        self._keep_alive = keep_alive
        self._first = b"HTTP/1.1 %d %b\r\n%b\r\n" % (head.status, head.reason, lines(headers))
        return self._payload_writer

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send a part of the body, and wait while the requester is slow.

        Raises:
            ConnectionResetError: The requester has left, or is too slow.
        """
        self._send(bytes(data), last=False)
        assert self._req is not None and self._payload_writer is not None  # noqa: PT018 - prepared
        transport = self._req.transport
        if transport is None or not transport.get_write_buffer_size():
            return
        try:
            async with asyncio.timeout(self._patience):
                await self._payload_writer.drain()
        except TimeoutError:
            transport.abort()
            raise ConnectionResetError(f"the client took nothing for {self._patience:g} s (gateway.client_timeout)") from None

    def switch(self, request: web.BaseRequest) -> None:
        """Send the head of an answer that changes the protocol: what is written from now on is not framed."""
        self._req, self._payload_writer, self._keep_alive = request, request.writer, False
        headers = [*downwards(self._of_module.headers), *_UPGRADED, *self._more]
        self._first = b"HTTP/1.1 %d %b\r\n%b\r\n" % (self.status, self._of_module.reason, lines(headers))
        self._send(b"", last=False)

    async def write_eof(self, data: bytes = b"") -> None:
        """Send the end of it.

        Raises:
            ConnectionResetError: The requester has left.
        """
        if self._eof_sent:
            return
        self._send(data, last=True)
        self._eof_sent = True

    def _send(self, data: bytes, *, last: bool) -> None:
        assert self._req is not None
        transport = self._req.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has left")
        end = b""
        if self._in_chunks:
            start = b"%x\r\n" % len(data) if data else b""
            end = (b"\r\n" if data else b"") + (b"0\r\n\r\n" if last else b"")
        else:
            start = b""
        if self._first:
            start, self._first = self._first + start, b""
        if len(data) >= _LARGE:
            transport.writelines([part for part in (start, data, end) if part])  # without a copy
        elif start or data or end:
            transport.write(start + data + end)


_second, _text = 0, b""


def _now() -> bytes:
    """The time as `Date` tells it; made once a second."""
    global _second, _text
    if (now := int(time())) != _second:
        _second, _text = now, formatdate(now, usegmt=True).encode()
    return _text
