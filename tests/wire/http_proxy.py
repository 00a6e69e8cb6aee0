"""An HTTP/1.1 proxy that does to chosen requests what networks and dying servers do to them.

Connections are kept alive on both sides, bodies are buffered. A client that goes away takes its request with it; an upstream
that is away or dies resets the client's connection, as it would without a proxy.
"""

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import Coroutine
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import h11

from tests.wire.faults import (
    DropAnswer,
    Duplicate,
    Fault,
    Garbage,
    Half,
    Hang,
    Pause,
    Refuse,
    ResetAfter,
    ResetBefore,
    Slow,
    Status,
)

_CHUNK = 65_536
_FRAMING = (b"content-length", b"transfer-encoding")
_Result = TypeVar("_Result")
Headers = list[tuple[bytes, bytes]]


@dataclass(kw_only=True)
class Exchange:
    """A request that came by; `path` without query, `status` the upstream's, None while or where it has not answered."""

    method: str
    path: str
    query: str = ""
    body: str = ""
    status: int | None = None
    forwarded: int = 0


@dataclass(kw_only=True, eq=False)
class Rule:
    """Which requests get a fault: see `WireProxy.add`. `struck`: how many have; `met` is set when the first does."""

    method: re.Pattern[str]
    path: re.Pattern[str]
    body: re.Pattern[str] | None
    fault: Fault
    times: int | None
    skip: int
    query: re.Pattern[str] | None = None
    struck: int = 0
    met: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def release(self) -> None:
        """Let go what it holds, and hold nothing any more."""
        self.released.set()

    def fits(self, exchange: Exchange) -> bool:
        """By what the head says."""
        if self.query is not None and not self.query.search(exchange.query):
            return False
        return bool(self.method.fullmatch(exchange.method) and self.path.fullmatch(exchange.path))

    def takes(self, exchange: Exchange) -> bool:
        """Whether it strikes this one; counts it."""
        if self.times == 0 or not self.fits(exchange) or (self.body is not None and not self.body.search(exchange.body)):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        self.struck += 1
        self.met.set()
        return True


class WireProxy:
    """A proxy in front of one upstream; an asynchronous context.

    Args:
        upstream: Base URL, `http://host:port`.
        port: Where it listens on the loopback; 0: a free one.
    """

    def __init__(self, *, upstream: str, port: int = 0) -> None:
        self.upstream = upstream
        self.port = port
        self.seen: list[Exchange] = []
        self._rules: list[Rule] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where it is reached."""
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._server is not None
        self._server.close()
        self.clear()
        while tasks := list(self._tasks):
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def add(
        self,
        *,
        path: str,
        fault: Fault,
        method: str = ".*",
        times: int | None = 1,
        skip: int = 0,
        body: str = "",
        query: str = "",
    ) -> Rule:
        """Do `fault` to requests from now on. Of several rules that fit a request the first strikes.

        Args:
            path: Regular expression of the whole path, without the query.
            fault: What is done.
            method: Regular expression of the whole method.
            times: How many requests; None: all.
            skip: How many that fit pass before.
            body: Regular expression that is found in the request's body.
            query: Regular expression that is found in its query.
        """
        rule = Rule(
            method=re.compile(method),
            path=re.compile(path),
            body=re.compile(body) if body else None,
            fault=fault,
            times=times,
            skip=skip,
            query=re.compile(query) if query else None,
        )
        self._rules.append(rule)
        return rule

    def remove(self, rule: Rule) -> None:
        """Forget a rule; what it holds is let go."""
        with contextlib.suppress(ValueError):
            self._rules.remove(rule)
        rule.release()

    def clear(self) -> None:
        """Forget all rules."""
        for rule in list(self._rules):
            self.remove(rule)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        client, upstream = _Client(reader, writer), _Upstream(self)
        try:
            while await self._exchange(client, upstream):
                pass
            client.close()
        except (OSError, EOFError, h11.ProtocolError, asyncio.CancelledError):
            client.reset()
        finally:
            self._tasks.discard(task)
            client.reset()
            upstream.reset()

    async def _exchange(self, client: "_Client", upstream: "_Upstream") -> bool:
        """One request and its answer; whether the connection lives on."""
        head = await client.head()
        if head is None:
            return False
        path, _, query = head.target.decode().partition("?")
        exchange = Exchange(method=head.method.decode(), path=path, query=query)
        self.seen.append(exchange)
        # A fault before the body needs its rule before the body; a rule that looks into the body needs the body first.
        early = not any(rule.body is not None and rule.fits(exchange) for rule in self._rules)
        rule = self._rule(exchange) if early else None
        if rule is not None and isinstance(rule.fault, Refuse):
            raise ConnectionResetError
        if rule is not None and isinstance(rule.fault, ResetBefore):
            await client.part()
            raise ConnectionResetError
        body = await client.body()
        exchange.body = body.decode(errors="replace")
        if not early:
            rule = self._rule(exchange)

        async def forward() -> _Answer:
            exchange.forwarded += 1
            answer = await client.unless_gone(upstream.ask(head, body))
            exchange.status = answer.status
            return answer

        answer = await forward() if rule is None else await self._strike(rule, client, forward)
        return await client.answer(head, answer, half=rule is not None and isinstance(rule.fault, Half))

    def _rule(self, exchange: Exchange) -> Rule | None:
        return next((rule for rule in self._rules if rule.takes(exchange)), None)

    async def _strike(self, rule: Rule, client: "_Client", forward: Any) -> "_Answer":
        """Carry out a fault; the answer that is given.

        Raises:
            ConnectionResetError: None is.
        """
        match rule.fault:
            case Refuse() | ResetBefore() | ResetAfter():
                raise ConnectionResetError
            case Hang():
                await client.unless_gone(rule.released.wait())
                raise ConnectionResetError
            case DropAnswer():
                await forward()
                raise ConnectionResetError
            case Status(code):
                return _Answer(code, [(b"content-type", b"text/plain")], b"a fault of the test")
            case Duplicate():
                await forward()
            case Slow(seconds):
                answer: _Answer = await forward()
                await client.unless_gone(asyncio.sleep(seconds))
                return answer
            case Garbage(body):
                await forward()
                return _Answer(200, [(b"content-type", b"text/html")], body)
            case Pause("before"):
                await client.unless_gone(rule.released.wait())
            case Pause("after"):
                answer = await forward()
                await client.unless_gone(rule.released.wait())
                return answer
        found: _Answer = await forward()
        return found


@dataclass
class _Answer:
    status: int
    headers: Headers
    body: bytes


class _Client:
    """The client's side of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._wire = h11.Connection(h11.SERVER)

    async def head(self) -> h11.Request | None:
        """The next request's; None at the end of the connection."""
        event = await self._event()
        return event if isinstance(event, h11.Request) else None

    async def part(self) -> bytes:
        """Some of the request's body; empty at its end."""
        event = await self._event()
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    async def body(self) -> bytes:
        """The rest of the request's body."""
        parts = []
        while part := await self.part():
            parts.append(part)
        return b"".join(parts)

    async def unless_gone(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Wait for something as long as the client does.

        Raises:
            ConnectionResetError: It went away; the work is cancelled.
        """
        task = asyncio.ensure_future(work)
        look = asyncio.ensure_future(self._reader.read(_CHUNK))
        try:
            while not task.done():
                await asyncio.wait((task, look), return_when=asyncio.FIRST_COMPLETED)
                if look.done() and not task.done():
                    data = look.result()
                    if not data:
                        raise ConnectionResetError
                    self._wire.receive_data(data)
                    look = asyncio.ensure_future(self._reader.read(_CHUNK))
            if look.done() and (data := look.result()):
                self._wire.receive_data(data)
            return await task
        finally:
            for each in (task, look):
                each.cancel()
            await asyncio.gather(task, look, return_exceptions=True)

    async def answer(self, head: h11.Request, answer: _Answer, *, half: bool) -> bool:
        """Send an answer, or half of it and a reset; whether another request may come."""
        headers = [(name, value) for name, value in answer.headers if name not in _FRAMING]
        if head.method == b"HEAD" or answer.status in (204, 304):
            headers += [(name, value) for name, value in answer.headers if name == b"content-length"]
        else:
            headers.append((b"content-length", str(len(answer.body)).encode()))
        data = self._wire.send(h11.Response(status_code=answer.status, headers=headers)) or b""
        if head.method != b"HEAD":
            data += self._wire.send(h11.Data(data=answer.body)) or b""
        data += self._wire.send(h11.EndOfMessage()) or b""
        self._writer.write(data[: len(data) // 2] if half else data)
        await self._writer.drain()
        if half:
            raise ConnectionResetError
        if self._wire.our_state is h11.MUST_CLOSE or self._wire.their_state is h11.MUST_CLOSE:
            return False
        self._wire.start_next_cycle()
        return True

    def close(self) -> None:
        """At the end of what was sent."""
        self._writer.close()

    def reset(self) -> None:
        """At once, with what is still to be sent."""
        _reset(self._writer)

    async def _event(self) -> Any:
        while (event := self._wire.next_event()) is h11.NEED_DATA:
            if self._wire.they_are_waiting_for_100_continue:
                self._writer.write(self._wire.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
            self._wire.receive_data(await self._reader.read(_CHUNK))
        return event


class _Upstream:
    """The upstream's side of a client's connection: opened when it is first needed, and again after its end."""

    def __init__(self, proxy: WireProxy) -> None:
        self._proxy = proxy
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._wire = h11.Connection(h11.CLIENT)

    async def ask(self, head: h11.Request, body: bytes) -> _Answer:
        """Send a request and read its whole answer.

        Raises:
            OSError: There is none.
            h11.ProtocolError: There is none.
        """
        try:
            return await self._ask(head, body)
        except BaseException:
            self.reset()
            raise

    async def _ask(self, head: h11.Request, body: bytes) -> _Answer:
        reader, writer = await self._connection()
        headers = [(name, value) for name, value in head.headers if name not in (*_FRAMING, b"expect")]
        if body or any(name in _FRAMING for name, _ in head.headers):
            headers.append((b"content-length", str(len(body)).encode()))
        data = self._wire.send(h11.Request(method=head.method, target=head.target, headers=headers)) or b""
        if body:
            data += self._wire.send(h11.Data(data=body)) or b""
        writer.write(data + (self._wire.send(h11.EndOfMessage()) or b""))
        await writer.drain()
        answer, parts = _Answer(0, [], b""), []
        while True:
            event = self._wire.next_event()
            if event is h11.NEED_DATA:
                self._wire.receive_data(await reader.read(_CHUNK))
            elif isinstance(event, h11.Response):
                answer = _Answer(event.status_code, list(event.headers), b"")
            elif isinstance(event, h11.Data):
                parts.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                answer.body = b"".join(parts)
                return answer
            elif not isinstance(event, h11.InformationalResponse):
                raise ConnectionResetError

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        usable = self._reader is not None and not self._reader.at_eof() and self._wire.our_state is h11.DONE
        if usable and self._wire.their_state is h11.DONE:
            self._wire.start_next_cycle()
        else:
            self.reset()
            place = urlsplit(self._proxy.upstream)
            self._reader, self._writer = await asyncio.open_connection(place.hostname, place.port)
            self._wire = h11.Connection(h11.CLIENT)
        assert self._reader is not None
        assert self._writer is not None
        return self._reader, self._writer

    def reset(self) -> None:
        """Close it at once."""
        if self._writer is not None:
            _reset(self._writer)
            self._reader = self._writer = None


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset, not with an end: the other side must not take it for a short answer."""
    found: socket.socket | None = writer.get_extra_info("socket")
    if not writer.is_closing():
        if found is not None:
            with contextlib.suppress(OSError):
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
