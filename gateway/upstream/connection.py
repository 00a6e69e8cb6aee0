"""One connection to an instance: requests written as bytes, answers parsed by llhttp, both with back-pressure (RFC 9112)."""

import asyncio
import select
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpResponseParser

from gateway.peers import probe_of
from gateway.upstream.errors import BadAnswer, BrokenOff, CannotConnect, Closed, UpstreamError

SWITCHING = 101
_FINAL = 200
_WITHOUT_BODY = (204, 304)
_LOOKED_AT = frozenset([b"content-length", b"transfer-encoding", b"date"])


@dataclass(slots=True, eq=False)
class Head:
    """The head of an answer.

    Attributes:
        status: Three digits.
        reason: Its text, as it came.
        headers: Names and values as they came, in their order.
        length: Bytes of the body that follows, if it was told.
        chunked: Whether the body comes in chunks.
        is_dated: Whether the headers tell its date.
    """

    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]
    length: int | None
    chunked: bool
    is_dated: bool


class Connection(asyncio.BufferedProtocol):
    """A connection; one request at a time: `begin`, `write` as often as needed, `head`, `read` until it is empty.

    Args:
        buffer: Where what comes is put first; one for all connections of a loop, since it is taken out at once.
        high: Bytes of an answer kept before the instance has to wait, if they are not taken; besides those of two buffers.
        head_max: Bytes of an answer's head at most.
    """

    __slots__ = (
        "_buffer",
        "_busy",
        "_chunked",
        "_chunks",
        "_coded",
        "_complete",
        "_error",
        "_head",
        "_head_max",
        "_headers",
        "_high",
        "_is_dated",
        "_is_head",
        "_is_raw",
        "_is_reading",
        "_keeps",
        "_length",
        "_loop",
        "_may_write",
        "_parser",
        "_probe",
        "_reason",
        "_received",
        "_room",
        "_size",
        "_transport",
        "_until_end",
        "_upgrades",
        "_waiter",
        "closed",
        "idle_since",
        "on_room",
    )

    def __init__(self, *, buffer: memoryview, high: int, head_max: int) -> None:
        self._buffer = buffer
        self._loop = asyncio.get_running_loop()
        self._high = high
        self._head_max = head_max
        self._parser = HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._probe: select.poll | None = None
        self._error: Exception | None = None
        self.closed: asyncio.Future[None] = self._loop.create_future()
        """Done when it is closed."""
        self._waiter: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._may_write = True
        self._is_reading = True
        self._busy = False
        self._reset(is_head=False, upgrades=False)
        self.on_room: Callable[[], None] | None = None
        """Called once, when there is room again."""
        self.idle_since = 0.0
        """When it was last given back, by the loop's clock."""

    def _reset(self, *, is_head: bool, upgrades: bool) -> None:
        self._is_head = is_head
        self._upgrades = upgrades
        self._head: Head | None = None
        self._reason = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._length: int | None = None
        self._chunked = self._is_dated = self._coded = False
        self._until_end = False
        self._is_raw = False
        self._complete = False
        self._received = 0
        self._keeps = False
        self._chunks: list[bytes] = []
        self._size = 0

    # What the pool and the proxy call.

    def is_gone(self, tick: float | None = None) -> bool:
        """Whether the instance has closed it, also if the event loop has not heard of that yet.

        Args:
            tick: The kernel need not be asked about a connection that was in use at this time of the loop's clock, whose ticks
                are milliseconds.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            return True
        return self.idle_since != tick and self._probe is not None and bool(self._probe.poll(0))

    def begin(self, head: bytes, *, is_head: bool, upgrades: bool = False) -> None:
        """Send the head of a request, and perhaps its body with it.

        Args:
            head: Bytes.
            is_head: Whether the method is HEAD: its answer has no body.
            upgrades: Whether it may change the protocol; then `read` gives what comes as it comes.

        Raises:
            CannotConnect: The connection is gone; nothing was sent.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            raise CannotConnect("the connection was closed")
        self._reset(is_head=is_head, upgrades=upgrades)
        self._busy = True
        transport.write(head)

    def write(self, data: bytes) -> None:
        """Send a part of the body; a lost connection is told by `drain` and `head`."""
        if self._transport is not None:
            self._transport.write(data)

    @property
    def has_room(self) -> bool:
        """Whether more may be written without waiting."""
        return self._may_write

    async def drain(self) -> None:
        """Wait until there is room for more.

        Raises:
            UpstreamError: The connection is lost.
        """
        if self._transport is None:
            raise self._error or BrokenOff("the connection is lost")
        if not self._may_write:
            if self._room is None:
                self._room = self._loop.create_future()
            await asyncio.shield(self._room)
            if self._transport is None:
                raise self._error or BrokenOff("the connection is lost")

    async def head(self) -> Head:
        """The head of the answer; interim answers (1xx) are left out.

        Raises:
            Closed: The connection ended before any byte of it came.
            BadAnswer: What came is none.
            BrokenOff: It ended in the middle of it.
        """
        while self._head is None:
            if self._error is not None:
                raise self._error
            await self._news()
        return self._head

    def take(self) -> bytes:
        """What has come of the body and was not taken yet."""
        chunks = self._chunks
        if not chunks:
            return b""
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._size = 0
        if not self._is_reading and self._transport is not None:
            self._is_reading = True
            self._transport.resume_reading()
        return data

    @property
    def is_complete(self) -> bool:
        """Whether the last byte of the answer has come."""
        return self._complete

    async def read(self) -> bytes:
        """The next part of the body; empty after the last.

        Raises:
            UpstreamError: It ended before.
        """
        while not self._chunks:
            if self._complete:
                return b""
            if self._error is not None:
                raise self._error
            await self._news()
        return self.take()

    def fail(self, error: Exception) -> None:
        """Give it up; whoever waits is told why."""
        if self._error is None:
            self._error = error
        self.abort()
        self._wake()

    def abort(self) -> None:
        """Close it at once."""
        self._keeps = False
        if self._transport is not None:
            self._transport.abort()

    def release(self) -> bool:
        """Nothing is asked any more: what comes now is not an answer.

        Returns:
            Whether another request may be sent: nothing was, or the whole answer came and both sides want to go on.
        """
        is_fresh, self._busy = not self._busy, False
        return (is_fresh or (self._complete and self._keeps)) and self._error is None and self._transport is not None

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast("asyncio.Transport", transport)
        self._probe = probe_of(transport)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - as asyncio calls it
        """Where the next bytes are to be put."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes of an answer."""
        data, behind = self._buffer[:nbytes], self._size > 0
        if self._is_raw:
            self._keep(bytes(data))
        elif not self._busy or self._complete:
            self.fail(BadAnswer("it sent what was not asked for"))  # else it would be taken for the answer to the next request
        else:
            self._received += nbytes
            try:
                self._parser.feed_data(data)
            except (HttpParserUpgrade, HttpParserError) as error:
                self._stopped(error, data)
            if self._is_head and self._complete:
                self._parser = HttpResponseParser(self)  # llhttp cannot be told that no body follows
            if self._head is None and self._received > self._head_max:
                self.fail(self._too_large())
        self._wake()
        if behind and self._size > self._high and self._is_reading and self._transport is not None and self._error is None:
            self._is_reading = False  # who takes what came before the next comes need not be waited for
            self._transport.pause_reading()

    def _stopped(self, error: Exception, data: memoryview) -> None:
        """The parser has stopped: the protocol changes, or what came is no answer."""
        if isinstance(error, HttpParserUpgrade):
            self._is_raw = True
            if rest := data[error.args[0] :]:
                self._keep(bytes(rest))
        elif isinstance(error, HttpParserCallbackError) and isinstance(error.__context__, UpstreamError):
            self.fail(error.__context__)
        else:
            self.fail(BadAnswer(str(error)))

    def eof_received(self) -> bool:
        """It will say no more."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """It is closed."""
        self._transport = None
        self._keeps = False
        if not self._complete and self._error is None:
            if self._is_raw or (self._until_end and error is None):
                self._complete = True
            else:
                text = str(error) if error else "it closed the connection"
                self._error = BrokenOff(text) if self._received else Closed(text)
        self._give_room()
        self._wake()
        self.closed.set_result(None)

    def pause_writing(self) -> None:
        """Too much waits to be sent."""
        self._may_write = False

    def resume_writing(self) -> None:
        """There is room again."""
        self._may_write = True
        self._give_room()
        if self.on_room is not None:
            self.on_room()
            self.on_room = None

    # What the parser calls.

    def on_message_begin(self) -> None:
        """An answer begins; a second one was not asked for, and is nobody's."""
        if self._complete:
            self._keeps = False

    def on_status(self, reason: bytes) -> None:
        """The text behind the status, or a part of it."""
        if self._head is None:
            self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or trailer; trailers are of one hop only and go nowhere."""
        if self._head is not None:
            return
        self._headers.append((name, value))
        name = name.lower()
        if name not in _LOOKED_AT:
            return
        if name == b"content-length":
            self._length = int(value)
        elif name == b"transfer-encoding":
            self._chunked = True
            self._coded = self._coded or value.strip().lower() != b"chunked"
        else:
            self._is_dated = True

    def on_headers_complete(self) -> None:
        """The head is whole."""
        if self._head is not None:
            return
        status = self._parser.get_status_code()
        if status == SWITCHING and not self._upgrades:
            raise BadAnswer("it changed the protocol, which was not asked for")
        if status < _FINAL and status != SWITCHING:
            return
        if self._received > self._head_max < sum(len(name) + len(value) for name, value in self._headers):
            raise self._too_large()  # it came at once, with its end
        if self._coded:
            raise BadAnswer("its body has a transfer coding other than chunked")
        self._head = Head(status, self._reason, self._headers, self._length, self._chunked, self._is_dated)
        has_none = self._is_head or status in _WITHOUT_BODY
        self._until_end = not has_none and self._length is None and not self._chunked and status != SWITCHING
        if self._is_head:
            self._keeps = self._parser.should_keep_alive() or not self._says_close()
            self._complete = True

    def on_body(self, data: bytes) -> None:
        """A part of the body."""
        if self._complete:
            self._keeps = False
        else:
            self._keep(data)

    def on_message_complete(self) -> None:
        """The answer is whole; an interim one is forgotten."""
        if self._head is None:
            self._reason, self._headers, self._length, self._chunked, self._is_dated = b"", [], None, False, False
        elif not self._complete and self._head.status != SWITCHING:
            self._keeps = self._parser.should_keep_alive()
            self._complete = True

    def _too_large(self) -> BadAnswer:
        return BadAnswer(f"the head of its answer is larger than {self._head_max} bytes (gateway.answer_head_max)")

    def _says_close(self) -> bool:
        named = b",".join(value for name, value in self._headers if name.lower() == b"connection").lower()
        return b"close" in named or self._parser.get_http_version() != "1.1"

    def _keep(self, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)

    def _give_room(self) -> None:
        if self._room is not None:
            self._room.set_result(None)
            self._room = None

    def _news(self) -> "asyncio.Future[None]":
        """Done when something happens; for one reader at a time."""
        assert self._waiter is None or self._waiter.done(), "one reader at a time"
        self._waiter = self._loop.create_future()
        return self._waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
