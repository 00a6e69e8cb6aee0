"""What a requester may not do: too long, too many, too slow."""

import asyncio
from typing import Any

import pytest
from aiohttp import web

MB = 2**20


@pytest.fixture
async def strict(new_site: Any) -> Any:
    return await new_site(uri_max=1_024, header_max=2_048, headers_max=40, idle_timeout=1.0, client_timeout=1.0)


async def said(site: Any, text: str) -> bytes:
    reader, writer = await site.connect()
    writer.write(text.encode())
    async with asyncio.timeout(20):
        return bytes(await reader.read())


@pytest.mark.parametrize(
    ("request_line", "headers", "status", "text"),
    [
        ("GET /{path} HTTP/1.1", "", 414, "Your request URI is too long."),
        ("GET / HTTP/1.1", "X: {value}\r\n", 431, "Your HTTP request header fields are too large."),
        ("GET / HTTP/1.1", "{value}: x\r\n", 431, "Your HTTP request header fields are too large."),
        ("GET / HTTP/1.1", "{many}", 431, "Your HTTP request header fields are too large."),
    ],
    ids=["URI", "value", "name", "many"],
)
async def test_what_is_too_long_is_told_with_okapis_texts(
    strict: Any, request_line: str, headers: str, status: int, text: str
) -> None:
    parts = {"path": "a" * 2_000, "value": "b" * 3_000, "many": "".join(f"X-{number}: 1\r\n" for number in range(50))}
    answer = await said(strict, f"{request_line}\r\nHost: x\r\n{headers}\r\n".format(**parts))
    assert answer.split(b" ", 2)[1] == str(status).encode()  # and it was closed, since all of it was read
    assert answer.endswith(text.encode())


async def test_what_is_just_short_enough_is_taken(strict: Any, upstream: Any) -> None:
    tenant, product = await strict.wired(upstream.url)
    path = f"/{product}/".ljust(1_024, "a")
    found = await strict.get(tenant, path, **{"X-Long": "b" * 2_000})
    assert found.status_code == 200
    assert upstream.requests[0].raw_path == path


@pytest.mark.parametrize("start", ["", "GET /", "GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_a_head_that_does_not_come_ends_the_connection(strict: Any, start: str) -> None:
    """Slow loris: a byte now and then does not keep it open."""
    reader, writer = await strict.connect()
    writer.write(start.encode())

    async def drip() -> None:
        while start:
            await asyncio.sleep(0.1)
            writer.write(b"x")

    dripping = asyncio.create_task(drip())
    try:
        async with asyncio.timeout(20):
            assert await reader.read() == b""
    except ConnectionResetError:
        pass
    finally:
        dripping.cancel()


async def test_a_body_that_does_not_come_is_408_and_ends_the_connection(strict: Any, upstream: Any, until: Any) -> None:
    async def read(request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        return web.Response()

    upstream.answer = read
    tenant, product = await strict.wired(upstream.url)
    answer = await said(
        strict, f"POST /{product} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\nContent-Length: 10\r\n\r\nhello"
    )
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"gateway.client_timeout" in answer
    await until(lambda: upstream.broken)


async def test_an_answer_that_is_not_taken_frees_the_module(strict: Any, upstream: Any, until: Any) -> None:
    async def write(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(100):
            await response.write(bytes(MB))
        return response

    upstream.answer = write
    tenant, product = await strict.wired(upstream.url)
    _, writer = await strict.connect()
    writer.write(f"GET /{product} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\n\r\n".encode())
    await until(lambda: upstream.broken)


async def test_a_module_may_take_its_time(strict: Any, upstream: Any) -> None:
    """No clock of the requester's side runs while the module works."""
    upstream.answer = upstream.slowly
    tenant, product = await strict.wired(upstream.url)
    asking = asyncio.create_task(strict.http.post(f"/{product}", headers={"X-Okapi-Tenant": tenant}, content=b"x"))
    while not upstream.requests:
        await asyncio.sleep(0.01)
    await asyncio.sleep(2.5)  # longer than either limit
    upstream.gate.set()
    assert (await asking).status_code == 200


@pytest.mark.parametrize("rest", ["", "Content-Length: 10\r\n"], ids=["whole", "in its body"])
async def test_a_requester_that_says_it_will_send_no_more_has_left(site: Any, upstream: Any, until: Any, rest: str) -> None:
    """A half-closed connection is as good as a closed one: that of a requester who gives up looks the same."""
    upstream.answer = upstream.slowly
    tenant, product = await site.wired(upstream.url)
    reader, writer = await site.connect()
    writer.write(f"POST /{product} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\n{rest}\r\n".encode())
    await until(lambda: upstream.requests)
    writer.write_eof()
    assert await reader.read() == b""
    await until(lambda: upstream.broken)
    assert await site.in_flight(tenant) == 0
