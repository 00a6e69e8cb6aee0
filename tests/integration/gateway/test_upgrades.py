"""WebSocket through the gateway: a client and a server written by others, and bytes where they are not enough."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType, web

MB = 2**20


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def question(tenant: str, product: str) -> bytes:
    head = f"GET /{product} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\n"
    return f"{head}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n".encode()


async def echo(request: web.BaseRequest) -> web.StreamResponse:
    socket = web.WebSocketResponse(max_msg_size=64 * MB, protocols=("stomp", "mqtt"))
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket


@pytest.mark.parametrize("compress", [0, 15])
async def test_messages_of_every_size_come_back_as_they_were(
    site: Any, upstream: Any, session: aiohttp.ClientSession, compress: int
) -> None:
    upstream.answer = echo
    tenant, product = await site.wired(upstream.url)
    async with session.ws_connect(
        f"{site.url}/{product}/ws?x=1", headers={"X-Okapi-Tenant": tenant}, protocols=["mqtt"], compress=compress,
        max_msg_size=64 * MB,
    ) as socket:  # fmt: skip
        assert socket.protocol == "mqtt"
        for size in (0, 1, 125, 126, 65_535, 65_536, 5 * MB):
            sent = os.urandom(size)
            await socket.send_bytes(sent)
            assert await asyncio.wait_for(socket.receive_bytes(), 30) == sent
        await socket.send_str("zwölf Boxkämpfer")
        assert await socket.receive_str() == "zwölf Boxkämpfer"
        await socket.ping(b"x")
    assert upstream.requests[0].raw_path == f"/{product}/ws?x=1"
    assert upstream.requests[0].headers["X-Okapi-Tenant"] == tenant


async def test_what_the_module_closes_is_closed_and_the_other_way_round(
    site: Any, upstream: Any, session: aiohttp.ClientSession, until: Any
) -> None:
    async def close(request: web.BaseRequest) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.close(code=4000, message=b"enough")
        return socket

    upstream.answer = close
    tenant, product = await site.wired(upstream.url)
    async with session.ws_connect(f"{site.url}/{product}", headers={"X-Okapi-Tenant": tenant}) as socket:
        message = await asyncio.wait_for(socket.receive(), 20)
        assert (message.type, message.data, message.extra) == (WSMsgType.CLOSE, 4000, "enough")
    await until(lambda: _is_idle(site, tenant))

    upstream.answer = echo
    socket = await session.ws_connect(f"{site.url}/{product}", headers={"X-Okapi-Tenant": tenant})
    assert await site.in_flight(tenant) == 1
    socket._response.close()  # without a word
    await until(lambda: _is_idle(site, tenant))


async def _is_idle(site: Any, tenant: str) -> bool:
    return not await site.in_flight(tenant)


async def test_a_module_that_does_not_want_to_says_so(site: Any, upstream: Any, session: aiohttp.ClientSession) -> None:
    tenant, product = await site.wired(upstream.url)
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await session.ws_connect(f"{site.url}/{product}", headers={"X-Okapi-Tenant": tenant})
    assert caught.value.status == 200
    assert (await site.get(tenant, f"/{product}")).status_code == 200


async def test_a_slow_module_slows_the_requester_and_a_slow_requester_the_module(site: Any, raw_upstream: Any) -> None:
    """What neither takes is kept by the kernel and by them, not by the gateway."""
    go_on, taken, written = asyncio.Event(), 0, 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken, written
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        await go_on.wait()
        while taken < 64 * MB:
            taken += len(await reader.read(MB))
        for _ in range(64):
            writer.write(bytes(MB))
            await writer.drain()
            written += MB

    module = await raw_upstream(serve)
    tenant, product = await site.wired(module.url)
    reader, writer = await site.connect()
    writer.write(question(tenant, product))
    assert b" 101 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    sent = 0

    async def send() -> None:
        nonlocal sent
        for _ in range(64):
            writer.write(bytes(MB))
            await writer.drain()
            sent += MB

    sending = asyncio.create_task(send())
    assert await _stands_still(lambda: sent) < 40 * MB
    go_on.set()
    await asyncio.wait_for(sending, 60)
    assert await _stands_still(lambda: written) < 40 * MB
    rest = 0
    while rest < 64 * MB:
        rest += len(await asyncio.wait_for(reader.read(MB), 20))
    writer.close()


async def _stands_still(count: Any) -> int:
    """A count once it has not grown for half a second, after it began to."""
    before = -1
    while count() != before or not before:
        before = count()
        await asyncio.sleep(0.5)
    return before


async def test_what_comes_right_behind_the_question_and_the_answer_is_not_lost(site: Any, raw_upstream: Any) -> None:
    got: asyncio.Queue[bytes] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.put_nowait(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst")
        got.put_nowait(await reader.readexactly(5))

    module = await raw_upstream(serve)
    tenant, product = await site.wired(module.url)
    reader, writer = await site.connect()
    writer.write(question(tenant, product) + b"early")
    answer = await asyncio.wait_for(reader.read(), 20)
    assert answer.endswith(b"\r\n\r\nfirst")
    head_of_module = (await got.get()).lower()
    assert b"connection: upgrade\r\n" in head_of_module
    assert b"upgrade: websocket\r\n" in head_of_module
    assert await got.get() == b"early"


async def test_an_update_waits_for_a_socket_that_is_open_and_cuts_it_after_the_grace(
    site: Any, upstream: Any, session: aiohttp.ClientSession
) -> None:
    upstream.answer = echo
    product = (await site.wired(upstream.url))[1]
    module = f"{product}-1.0.0"
    tenant = await site.tenant(module)
    async with session.ws_connect(f"{site.url}/{product}", headers={"X-Okapi-Tenant": tenant}) as socket:
        job = await site.job(tenant, module, action="disable")
        await job.held(module, grace=0.5)
        message = await asyncio.wait_for(socket.receive(), 20)
        assert message.type in (WSMsgType.CLOSED, WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.ERROR)
        await job.resume(module)
        await job.finish()
