"""Connections to instances: kept, used again, given up; and the answers that HTTP/1.1 allows but few modules give."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.upstream import address_of, connections_of
from uplift_settings.tree import GatewaySettings

ODD = b"HTTP/1.1 200 F\xfcr dich\r\nX-oDD: \xe4\xf6\r\nX-odd: 2\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
"""The beginning of an answer."""
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def always(answer: bytes) -> Serve:
    """A module that gives every request on a connection the same answer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(answer)
            await writer.drain()

    return serve


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
async def test_a_connection_is_used_again(site: Any, raw_upstream: Any, method: str) -> None:
    body = b"" if method == "HEAD" else b"hello"
    module = await raw_upstream(always(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + body))
    tenant, product = await site.wired(module.url)
    for _ in range(5):
        found = await site.http.request(method, f"/{product}", headers={"X-Okapi-Tenant": tenant})
        assert (found.status_code, found.content, found.headers["Content-Length"]) == (200, body, "5")
    assert module.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
    ],
    ids=["close", "1.0", "without a body"],
)
async def test_a_connection_that_the_module_will_close_is_not(site: Any, raw_upstream: Any, answer: bytes) -> None:
    module = await raw_upstream(always(answer))
    tenant, product = await site.wired(module.url)
    for _ in range(3):
        found = await site.get(tenant, f"/{product}")
        assert found.content in (b"hello", b"")
        assert "close" not in found.headers.get("Connection", "")  # that is between the two
    assert module.connections == 3


@pytest.mark.parametrize("is_closed", [False, True])
async def test_a_connection_that_was_closed_a_moment_ago_gets_nothing_that_cannot_be_sent_again(is_closed: bool) -> None:
    loop, connections = asyncio.get_running_loop(), connections_of(GatewaySettings())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        address = address_of(f"http://127.0.0.1:{listener.getsockname()[1]}")
        connection = await connections.connect(address)
        module, _ = await loop.sock_accept(listener)
        with module:
            connection.begin(b"POST / HTTP/1.1\r\n\r\n", is_head=False)
            await loop.sock_sendall(module, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            assert (await connection.head()).status == 200
            if is_closed:
                module.shutdown(socket.SHUT_RDWR)  # the loop has no turn to hear of it
            connections.give_back(address, connection)
            assert connections.idle(address, may_repeat=False) is (None if is_closed else connection)
    await connections.close()


async def test_a_head_answer_without_a_length_keeps_its_connection(site: Any, raw_upstream: Any) -> None:
    module = await raw_upstream(always(b"HTTP/1.1 200 OK\r\nETag: x\r\n\r\n"))
    tenant, product = await site.wired(module.url)
    for _ in range(3):
        found = await site.http.head(f"/{product}", headers={"X-Okapi-Tenant": tenant})
        assert (found.status_code, found.headers["ETag"]) == (200, "x")
    assert module.connections == 1


@pytest.mark.parametrize("code", ["100 Continue", "102 Processing", "103 Early Hints"])
async def test_interim_answers_are_left_out(site: Any, raw_upstream: Any, code: str) -> None:
    interim = f"HTTP/1.1 {code}\r\nLink: </x>\r\n\r\n".encode()
    module = await raw_upstream(always(interim * 2 + b"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 5\r\n\r\nhello"))
    tenant, product = await site.wired(module.url)
    for _ in range(2):
        found = await site.get(tenant, f"/{product}")
        assert (found.status_code, found.text, found.headers["X"], "Link" in found.headers) == (200, "hello", "y", False)
    assert module.connections == 1


async def test_an_answer_that_ends_with_its_connection_comes_whole(site: Any, raw_upstream: Any) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(50):
            writer.write(b"x" * 1_000)
            await writer.drain()

    module = await raw_upstream(serve)
    tenant, product = await site.wired(module.url)
    assert (await site.get(tenant, f"/{product}")).content == b"x" * 50_000


@pytest.mark.parametrize(
    "part",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ],
    ids=["length", "chunks"],
)
async def test_an_answer_that_breaks_off_does_not_look_whole(site: Any, raw_upstream: Any, part: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(part)
        await writer.drain()

    module = await raw_upstream(serve)
    tenant, product = await site.wired(module.url)
    reader, writer = await site.connect()
    writer.write(f"GET /{product} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\n\r\n".encode())
    try:
        said = await asyncio.wait_for(reader.read(), 20)
    except ConnectionResetError:
        said = b""
    assert not said.endswith((b"0\r\n\r\n", b"helloworld"))


async def test_a_body_in_another_coding_is_no_answer(site: Any, raw_upstream: Any) -> None:
    module = await raw_upstream(always(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"))
    tenant, product = await site.wired(module.url)
    found = await site.get(tenant, f"/{product}")
    assert (found.status_code, "gave no valid answer" in found.text) == (502, True)


async def test_an_answer_to_a_body_that_nobody_wants_comes_through(site: Any, raw_upstream: Any) -> None:
    """413 before the end of the request, and the connection closed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!")
        await writer.drain()
        writer.write_eof()
        while await reader.read(2**16):  # else the kernel resets what was answered
            pass

    module = await raw_upstream(serve)
    tenant, product = await site.wired(module.url)
    reader, writer = await site.connect()
    writer.write(f"POST /{product} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\nContent-Length: {2**30}\r\n\r\n".encode())
    writer.write(bytes(2**16))
    said = await asyncio.wait_for(reader.readuntil(b"no!"), 20)
    assert said.startswith(b"HTTP/1.1 413 Content Too Large\r\n")
    writer.close()


async def test_headers_pass_in_both_directions_byte_for_byte(site: Any, raw_upstream: Any) -> None:
    """Their order, their spelling, and bytes that are no UTF-8."""
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(ODD + b"Content-Length: 0\r\n\r\n")
        await writer.drain()
        await reader.read()

    module = await raw_upstream(serve)
    tenant, product = await site.wired(module.url)
    reader, writer = await site.connect()
    head = f"GET /{product} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\n".encode()
    writer.write(head + b"X-sTRANGE: \xff\xfe\r\nx-strange: 2\r\nAccept: */*\r\n\r\n")
    said = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    assert said.startswith(ODD)
    assert b"X-sTRANGE: \xff\xfe\r\nx-strange: 2\r\nAccept: */*\r\n" in got[0]
    writer.close()
