"""When a module is not there or breaks off, and when a client leaves: nobody takes a part for the whole."""

import asyncio
import contextlib
from typing import Any

import httpx
import pytest
from aiohttp import web

MB = 2**20


async def head(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)


async def test_a_module_that_refuses_connections_is_lost(site: Any) -> None:
    tenant, product = await site.wired("http://127.0.0.1:1")
    found = await site.get(tenant, f"/{product}", Prefer="wait=0")
    assert (found.status_code, found.headers["X-Okapi-Lifecycle"]) == (503, "DELAY")
    assert found.json()["detail"] == f"no instance of {product}-1.0.0 answers; it is waited for"
    assert "127.0.0.1" not in found.text


async def test_a_module_without_an_instance_is_missing(site: Any, name: Any) -> None:
    product = name("m")
    tenant = await site.tenant(await site.register(f"{product}-1.0.0"))
    found = await site.get(tenant, f"/{product}")
    assert (found.status_code, found.headers["X-Okapi-Lifecycle"]) == (503, "MISSING")
    assert found.json()["detail"] == f"No running module instance found for {product}-1.0.0"


async def test_a_module_that_closes_without_an_answer_is_a_502(site: Any, raw_upstream: Any) -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        heads.append(await head(reader))

    module = await raw_upstream(serve)
    tenant, product = await site.wired(module.url)
    found = await site.http.post(f"/{product}", headers={"X-Okapi-Tenant": tenant}, content=b"x")
    assert found.status_code == 502
    assert found.text == f"{product}-1.0.0 broke off before its answer; whether the request was carried out is not known"
    assert sum(line.startswith(b"POST") for line in heads) == 1, "a POST is never sent twice"


async def test_a_module_that_answers_nonsense_is_a_502(site: Any, raw_upstream: Any) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")

    module = await raw_upstream(serve)
    tenant, product = await site.wired(module.url)
    found = await site.http.post(f"/{product}", headers={"X-Okapi-Tenant": tenant}, content=b"x")
    assert found.status_code == 502
    assert found.text == f"{product}-1.0.0 gave no valid answer; whether the request was carried out is not known"
    pool = site.running.platform.table.pool
    assert pool.availability(f"{product}-1.0.0") == "UP", "it answers, if badly"


@pytest.mark.parametrize("framing", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"])
async def test_an_answer_that_breaks_off_never_looks_whole(site: Any, raw_upstream: Any, framing: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n5\r\nhello\r\n")
        await writer.drain()

    module = await raw_upstream(serve)
    tenant, product = await site.wired(module.url)
    reader, writer = await site.connect()
    writer.write(f"GET /{product} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\n\r\n".encode())
    found = b""
    with contextlib.suppress(ConnectionError):
        while chunk := await asyncio.wait_for(reader.read(MB), 5):
            found += chunk
    assert found.startswith(b"HTTP/1.1 200 OK\r\n")
    assert not found.endswith(b"0\r\n\r\n")
    writer.close()


async def test_a_client_that_leaves_in_mid_answer_is_noticed_by_the_module(site: Any, upstream: Any, until: Any) -> None:
    async def pour(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(MB))
        return response

    upstream.answer = pour
    tenant, product = await site.wired(upstream.url)
    reader, writer = await site.connect()
    writer.write(f"GET /{product} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\n\r\n".encode())
    await head(reader)
    writer.transport.abort()
    await until(lambda: upstream.broken == [f"/{product}"], within=3)
    await until(lambda: nothing_in_flight(site, tenant))


async def nothing_in_flight(site: Any, tenant: str) -> bool:
    return bool(await site.in_flight(tenant) == 0)


async def test_a_client_that_leaves_before_the_answer_is_noticed_by_the_module(site: Any, upstream: Any, until: Any) -> None:
    upstream.answer = upstream.slowly
    tenant, product = await site.wired(upstream.url)
    _, writer = await site.connect()
    writer.write(f"GET /{product} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\n\r\n".encode())
    await until(lambda: upstream.requests)
    writer.close()
    await until(lambda: upstream.broken == [f"/{product}"], within=3)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_an_upload_that_breaks_off_never_looks_whole(
    site: Any, raw_upstream: Any, until: Any, chunked: bool, method: str
) -> None:
    got = bytearray()
    ended: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(MB):
                got.extend(chunk)
        except ConnectionError:
            ended.append("reset")
        else:
            ended.append("closed")

    module = await raw_upstream(serve)
    tenant, product = await site.wired(module.url)
    _, writer = await site.connect()
    framing = "Transfer-Encoding: chunked" if chunked else "Content-Length: 1000"
    part = "5\r\nhello\r\n" if chunked else "hello"
    writer.write(f"{method} /{product} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\n{framing}\r\n\r\n{part}".encode())
    await until(lambda: b"hello" in got)
    writer.close()
    await until(lambda: ended, within=3)
    assert not got.endswith(b"0\r\n\r\n")
    assert module.connections == 1


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_module_that_closes_in_mid_upload_does_not_get_the_rest_as_another_request(
    site: Any, raw_upstream: Any, chunked: bool
) -> None:
    """A PUT on a connection that was used before: a client library would like to send it again."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            line = await head(reader)
            if b"/admin/health" in line:
                return
            heads.append(line)
            if line.startswith(b"PUT"):
                await reader.read(10)
                return
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    module = await raw_upstream(serve)
    tenant, product = await site.wired(module.url)
    assert (await site.get(tenant, f"/{product}")).status_code == 204

    async def body() -> Any:
        for _ in range(64):
            yield bytes(2**16)

    headers = {"X-Okapi-Tenant": tenant} | ({} if chunked else {"Content-Length": str(64 * 2**16)})
    try:
        found = await site.http.put(f"/{product}", headers=headers, content=body())
        assert found.status_code == 502
    except httpx.HTTPError:
        pass  # cut off while it was still sending
    assert [line.split(b" ")[0] for line in heads] == [b"GET", b"PUT"]


async def test_an_answer_before_the_end_of_the_upload_reaches_the_client(site: Any, raw_upstream: Any, until: Any) -> None:
    got = bytearray()
    over: list[bool] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 7\r\n\r\ntoo big")
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(MB):
                got.extend(chunk)
        over.append(True)

    module = await raw_upstream(serve)
    tenant, product = await site.wired(module.url)
    reader, writer = await site.connect()
    writer.write(
        f"POST /{product} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\n"
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n".encode()
    )
    assert b" 413 " in await head(reader)
    assert await reader.readexactly(7) == b"too big"
    await until(lambda: over, within=3)
    assert not got.endswith(b"0\r\n\r\n")
    writer.close()
