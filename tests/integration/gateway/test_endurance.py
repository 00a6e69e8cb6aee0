"""What stays behind after very many requests and connections: nothing."""

import asyncio
import contextlib
import os
import resource
import struct
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from typing import Any

import psutil
import pytest
from aiohttp import web

KB, MB = 2**10, 2**20
MANY = 10_000
KB_IDLE = 20
"""Bound for an idle connection, in kB of the gateway's memory."""
MB_PARKED = 200
"""Bound for all parked requests, in MB of the gateway's memory."""
MIXED = 200_000
AT_ONCE = 50
SLACK = 12 * MB
"""What the allocator may keep after the warm-up."""


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY + 4_000  # in this process, and as many in that of the gateway
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"needs {wanted} open files; the limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def answer_of(reader: asyncio.StreamReader, *, has_body: bool = True) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0] or 0)
    if has_body and length:
        await reader.readexactly(length)
    return int(head.split(b" ", 2)[1])


async def connect(port: int) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    opened: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    for _ in range(MANY // 500):
        opened += await asyncio.gather(*(asyncio.open_connection("127.0.0.1", port) for _ in range(500)))
    return opened


@pytest.mark.soak
async def test_10000_idle_connections_cost_little_and_all_are_answered(
    many_files: None, gateway_process: Any, site_of: Any, upstream: Any
) -> None:
    running = await asyncio.to_thread(gateway_process(idle_timeout=600).start)
    site = site_of(running.url)
    tenant, product = await site.wired(upstream.url)
    wire = f"GET /{product} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\n\r\n".encode()
    process = psutil.Process(running.pid)
    await site.get(tenant, f"/{product}")
    before = process.memory_info().rss
    connections = await connect(site.port)
    for start in range(0, MANY, 500):
        part = connections[start : start + 500]
        for _, writer in part:
            writer.write(wire)
        assert set(await asyncio.gather(*(answer_of(reader) for reader, _ in part))) == {200}
    grown = process.memory_info().rss - before
    assert grown < MANY * KB_IDLE * KB, f"{grown / MANY / KB:.1f} kB each"
    for _, writer in connections:
        writer.close()
    async with asyncio.timeout(60):
        while process.num_fds() > 200:
            await asyncio.sleep(0.1)
    await site.close()


@pytest.mark.soak
async def test_10000_parked_requests_cost_little_and_all_are_answered_in_the_end(
    many_files: None, gateway_process: Any, site_of: Any, upstream: Any
) -> None:
    """Requirement E4; whoever waits has an open connection, too."""
    running = await asyncio.to_thread(gateway_process(parked_per_tenant=MANY, hold_max=300).start)
    site = site_of(running.url)
    tenant, product = await site.wired(upstream.url)
    wire = f"GET /{product} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\nAccept: application/json\r\n\r\n".encode()
    process = psutil.Process(running.pid)
    await site.get(tenant, f"/{product}")
    path = f"/_/lifecycle/{product}-1.0.0"
    hold = {"hold": "many-parked", "tenant": tenant, "reason": "to see what it costs", "ttl": 300}
    told = await site.http.post(path, json={"event": "UPDATE", **hold})
    assert told.status_code == 202, told.text
    before = process.memory_info().rss
    connections = await connect(site.port)
    for _, writer in connections:
        writer.write(wire)
    async with asyncio.timeout(60):
        while await site.parked(tenant) < MANY:
            await asyncio.sleep(0.1)
    grown = process.memory_info().rss - before
    assert grown <= MB_PARKED * MB, f"{grown / MB:.0f} MB"
    assert (await site.http.post(path, json={"event": "RESUME", "hold": "many-parked", "tenant": tenant})).status_code == 200
    assert set(await asyncio.gather(*(answer_of(reader) for reader, _ in connections))) == {200}
    for _, writer in connections:
        writer.close()
    await site.close()


class Mixed:
    """Requests of every kind, each done with in a way of its own."""

    def __init__(self, site: Any, tenant: str, product: str) -> None:
        self._site = site
        self._head = f"Host: x\r\nX-Okapi-Tenant: {tenant}\r\n"
        self._path = f"/{product}"
        self.kinds: list[Callable[[], Awaitable[None]]] = [
            self.get, self.get, self.get, self.post, self.chunks, self.head, self.nowhere, self.large, self.leaves,
            self.leaves_in_the_middle, self.garbage, self.websocket,
        ]  # fmt: skip

    async def _ask(self, text: str, body: bytes = b"", *, status: int = 200, has_body: bool = True, times: int = 1) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._site.port)
        try:
            for _ in range(times):
                writer.write(text.encode() + body)
                assert await answer_of(reader, has_body=has_body) == status
        finally:
            writer.close()

    async def get(self) -> None:
        await self._ask(f"GET {self._path} HTTP/1.1\r\n{self._head}\r\n", times=5)

    async def post(self) -> None:
        await self._ask(f"POST {self._path} HTTP/1.1\r\n{self._head}Content-Length: 20000\r\n\r\n", bytes(20_000), times=2)

    async def chunks(self) -> None:
        await self._ask(f"PUT {self._path} HTTP/1.1\r\n{self._head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")

    async def head(self) -> None:
        await self._ask(f"HEAD {self._path} HTTP/1.1\r\n{self._head}\r\n", has_body=False, times=2)

    async def nowhere(self) -> None:
        await self._ask(f"GET /nowhere HTTP/1.1\r\n{self._head}\r\n", status=404, times=2)

    async def large(self) -> None:
        await self._ask(f"GET {self._path}/large HTTP/1.1\r\n{self._head}\r\n")

    async def leaves(self) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", self._site.port)
        writer.write(f"POST {self._path} HTTP/1.1\r\n{self._head}Content-Length: 10\r\n\r\nhello".encode())
        await writer.drain()
        writer.transport.abort()

    async def leaves_in_the_middle(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._site.port)
        writer.write(f"GET {self._path}/large HTTP/1.1\r\n{self._head}\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    async def garbage(self) -> None:
        await self._ask("nonsense\r\n\r\n", status=400)

    async def websocket(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._site.port)
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        upgrade = f"{self._head}Connection: Upgrade\r\nUpgrade: websocket\r\n{key}\r\n"
        writer.write(f"GET {self._path}/socket HTTP/1.1\r\n{upgrade}".encode())
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\x82\x85\x00\x00\x00\x00hello")  # one binary frame, masked by nothing
        assert await reader.readexactly(7) == struct.pack("!BB", 0x82, 5) + b"hello"
        writer.transport.abort()


async def serve(request: web.BaseRequest) -> web.StreamResponse:
    if request.raw_path.endswith("/socket"):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_bytes(message.data)
        return socket
    await request.read()
    return web.Response(body=os.urandom(KB) * (300 if request.raw_path.endswith("/large") else 1))


@pytest.mark.soak
async def test_200000_mixed_requests_leave_no_socket_and_no_memory_behind(
    gateway_process: Any, site_of: Any, upstream: Any
) -> None:
    """Tasks that stayed would keep their sockets or their memory."""
    upstream.answer = serve
    running = await asyncio.to_thread(gateway_process(idle_timeout=5).start)
    site = site_of(running.url)
    tenant, product = await site.wired(upstream.url)
    mixed, process = Mixed(site, tenant, product), psutil.Process(running.pid)

    async def work(number: int) -> None:
        numbers = count()

        async def one() -> None:
            while (turn := next(numbers)) < number:
                await mixed.kinds[turn % len(mixed.kinds)]()
                upstream.requests.clear()
                upstream.broken.clear()

        await asyncio.gather(*(one() for _ in range(AT_ONCE)))

    async def settled() -> tuple[int, int]:
        """Open files and memory once nothing is in flight and idle connections were closed."""
        async with asyncio.timeout(60):
            while await site.in_flight(tenant) or process.num_fds() > fresh + 5:
                await asyncio.sleep(0.2)
        return process.num_fds(), process.memory_info().rss

    fresh = process.num_fds() + 1  # the connection that the test asks over
    await work(MIXED // 10)
    _, before = await settled()
    await work(MIXED)
    files, after = await settled()
    assert files <= fresh + 5
    assert after - before < SLACK, f"{(after - before) / MB:.1f} MB"
    with contextlib.suppress(ProcessLookupError):
        assert "Traceback" not in running.log.read_text()
    await site.close()
