"""Bodies come through as they were, however they are cut into pieces and framed, in both directions."""

import asyncio
import hashlib
import os
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

KB, MB, GB = 2**10, 2**20, 2**30
EXAMPLES = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
SIZES = st.integers(1, 64) | st.sampled_from([1, 2, KB, 4 * KB - 1, 16 * KB, 64 * KB, 64 * KB + 1, 300 * KB])
PIECES = st.lists(SIZES, max_size=8)
FRAMING = st.sampled_from(["length", "chunks", "until the end"])
"""How an answer is framed; a request has no third way."""


class Script:
    """What the module does: answers with pieces of its own, when the request has come to its end, or at once."""

    pieces: list[bytes]
    framing = "length"
    at_once = False

    def __init__(self) -> None:
        self.got: asyncio.Queue[bytes] = asyncio.Queue()


@pytest.fixture(scope="module")
async def module(module_site: Any) -> Any:
    script = Script()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not reader.at_eof():
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break  # an idle connection that was closed
            if script.at_once:
                await asyncio.gather(answer(writer), read(head, reader))
            else:
                await read(head, reader)
                await answer(writer)
            if script.framing == "until the end":
                break
        writer.close()

    async def read(head: bytes, reader: asyncio.StreamReader) -> None:
        head, body = head.lower(), b""
        if b"transfer-encoding: chunked" in head:
            while size := int((await reader.readline()).split(b";")[0], 16):
                body += await reader.readexactly(size)
                assert await reader.readexactly(2) == b"\r\n"
            assert await reader.readline() == b"\r\n"
        elif b"content-length: " in head:
            body = await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r")[0]))
        script.got.put_nowait(body)

    async def answer(writer: asyncio.StreamWriter) -> None:
        framing = {
            "length": b"Content-Length: %d\r\n" % sum(map(len, script.pieces)),
            "chunks": b"Transfer-Encoding: chunked\r\n",
            "until the end": b"Connection: close\r\n",
        }[script.framing]
        writer.write(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n")
        for piece in script.pieces:
            await writer.drain()
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if script.framing == "chunks" else piece)
        if script.framing == "chunks":
            writer.write(b"0\r\n\r\n")
        await writer.drain()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=MB)
    tenant, product = await module_site.wired(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    yield script, module_site, tenant, product
    server.close()


async def whole(reader: asyncio.StreamReader) -> bytes:
    """The body of an answer, by its own framing."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    assert head.startswith(b"http/1.1 200 "), head
    if b"content-length: " in head:
        return await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r")[0]))
    assert b"transfer-encoding: chunked" in head
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        assert await reader.readexactly(2) == b"\r\n"
    assert await reader.readline() == b"\r\n"
    return body


@EXAMPLES
@given(up=PIECES, down=PIECES, in_chunks=st.booleans(), framing=FRAMING, at_once=st.booleans(), together=st.booleans())
async def test_both_bodies_are_what_was_sent(
    module: Any, up: list[int], down: list[int], in_chunks: bool, framing: str, at_once: bool, together: bool
) -> None:
    script, site, tenant, product = module
    sent = [os.urandom(size) for size in up]
    script.pieces, script.framing, script.at_once = [os.urandom(size) for size in down], framing, at_once
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=MB)
    body = b"".join(sent)
    how = "Transfer-Encoding: chunked" if in_chunks else f"Content-Length: {len(body)}"
    writer.write(f"PUT /{product}/x HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\n{how}\r\n\r\n".encode())

    async def send() -> None:
        for piece in sent:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if in_chunks else piece)
            if not together:
                await writer.drain()
                await asyncio.sleep(0)
        if in_chunks:
            writer.write(b"0\r\n\r\n")
        await writer.drain()

    async with asyncio.timeout(30):
        _, answer = await asyncio.gather(send(), whole(reader))
    assert answer == b"".join(script.pieces)
    assert await asyncio.wait_for(script.got.get(), 30) == body
    writer.close()


@pytest.mark.soak
@pytest.mark.parametrize("way", ["up", "down"])
async def test_two_gigabytes_pass_through_in_flat_memory(gateway_process: Any, site_of: Any, raw_upstream: Any, way: str) -> None:
    size, piece = 2 * GB, os.urandom(MB)
    expected = hashlib.blake2b()
    for _ in range(size // MB):
        expected.update(piece)
    seen = hashlib.blake2b()

    async def take(reader: asyncio.StreamReader) -> None:
        left = size
        while left:
            data = await reader.read(MB)
            assert data
            seen.update(data)
            left -= len(data)

    async def give(writer: asyncio.StreamWriter) -> None:
        for _ in range(size // MB):
            writer.write(piece)
            await writer.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if way == "up":
            await take(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (size if way == "down" else 0))
        if way == "down":
            await give(writer)

    module = await raw_upstream(serve)
    process = await asyncio.to_thread(gateway_process().start)
    site = site_of(process.url)
    tenant, product = await site.wired(module.url)
    await site.get(tenant, "/nowhere")
    before = psutil.Process(process.pid).memory_info().rss
    most = 0
    reader, writer = await site.connect()
    length = size if way == "up" else 0
    writer.write(f"POST /{product} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\nContent-Length: {length}\r\n\r\n".encode())

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, psutil.Process(process.pid).memory_info().rss - before)
            await asyncio.sleep(0.1)

    watching = asyncio.create_task(watch())
    if way == "up":
        await give(writer)
    assert b" 200 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
    if way == "down":
        await take(reader)
    watching.cancel()
    assert seen.digest() == expected.digest()
    assert most < 16 * MB
    await site.close()
