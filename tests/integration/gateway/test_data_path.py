"""The data path with real modules behind it: what goes through, unchanged and unbuffered, and what a departure does."""

import asyncio
import base64
import gzip
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import psutil
import pytest
from aiohttp import web

MB = 2**20


async def head(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)


# What goes through


async def test_a_request_reaches_the_module_of_its_tenant(site: Any, upstream: Any) -> None:
    tenant, product = await site.wired(upstream.url)
    found = await site.get(tenant, f"/{product}/a?x=1")
    assert (found.status_code, found.json()["path"]) == (200, f"/{product}/a?x=1")


async def test_path_and_query_are_forwarded_as_they_were_written(site: Any, upstream: Any) -> None:
    tenant, product = await site.wired(upstream.url)
    target = f"/{product}/b%2Fc;d=1//e/../%e4%F6/+a%20b?x=1&x=%20+%7e&y=a%2Cb&z=%C3%A4&q=cql.allRecords=1%20sortby%20name&empty="
    reader, writer = await site.connect()
    writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\nConnection: close\r\n\r\n".encode())
    await reader.read()
    assert [request.raw_path for request in upstream.requests] == [target]
    writer.close()


async def test_both_bodies_are_streamed_chunk_by_chunk(site: Any, upstream: Any) -> None:
    seen: asyncio.Queue[bytes] = asyncio.Queue()
    send: asyncio.Queue[bytes] = asyncio.Queue()

    async def talk(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while chunk := await request.content.readany():
            seen.put_nowait(chunk)
            await response.write(await send.get())
        return response

    upstream.answer = talk
    tenant, product = await site.wired(upstream.url)
    upload: asyncio.Queue[bytes] = asyncio.Queue()

    async def body() -> Any:
        while chunk := await upload.get():
            yield chunk

    async with asyncio.timeout(10), aiohttp.ClientSession() as session:
        upload.put_nowait(b"one")
        async with session.post(f"{site.url}/{product}", data=body(), headers={"X-Okapi-Tenant": tenant}) as response:
            assert await seen.get() == b"one"
            send.put_nowait(b"eins")
            assert await response.content.readany() == b"eins"
            upload.put_nowait(b"two")
            assert await seen.get() == b"two"
            send.put_nowait(b"zwei")
            assert await response.content.readany() == b"zwei"
            upload.put_nowait(b"")
            assert await response.content.read() == b""


@pytest.mark.parametrize("chunked", [False, True])
async def test_an_upload_of_100_mb_arrives_whole(site: Any, upstream: Any, chunked: bool) -> None:
    sizes = []

    async def count(request: web.BaseRequest) -> web.StreamResponse:
        total = 0
        while chunk := await request.content.readany():
            total += len(chunk)
        sizes.append((total, request.headers.get("Content-Length"), request.headers.get("Transfer-Encoding")))
        return web.Response(status=204)

    upstream.answer = count
    tenant, product = await site.wired(upstream.url)

    async def body() -> Any:
        for _ in range(100):
            yield bytes(MB)

    headers = {"X-Okapi-Tenant": tenant} | ({} if chunked else {"Content-Length": str(100 * MB)})
    async with aiohttp.ClientSession() as session, session.put(f"{site.url}/{product}", data=body(), headers=headers) as found:
        assert found.status == 204
    assert sizes == [(100 * MB, None, "chunked") if chunked else (100 * MB, str(100 * MB), None)]


async def test_a_slow_reader_of_100_mb_does_not_grow_the_gateway(
    gateway_process: Any, site_of: Any, raw_upstream: Any, until: Any
) -> None:
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await head(reader)
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {100 * MB}\r\n\r\n".encode())
        for _ in range(100):
            writer.write(bytes(MB))
            await writer.drain()
            sent += MB

    module = await raw_upstream(serve)
    running = await asyncio.to_thread(gateway_process().start)
    site = site_of(running.url)
    tenant, product = await site.wired(module.url)
    await site.get(tenant, "/nowhere")
    before = psutil.Process(running.pid).memory_info().rss
    reader, writer = await site.connect()
    writer.write(f"GET /{product} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\n\r\n".encode())
    assert b" 200 " in await head(reader)
    stalled = 0
    while stalled != sent or not sent:  # until the module is slowed down
        stalled = sent
        await asyncio.sleep(0.5)
    grown = psutil.Process(running.pid).memory_info().rss - before
    assert sent < 50 * MB
    assert grown < 8 * MB
    rest = 0
    while rest < 100 * MB and (chunk := await asyncio.wait_for(reader.read(MB), 10)):
        rest += len(chunk)
    assert rest == 100 * MB
    assert psutil.Process(running.pid).memory_info().rss - before < 16 * MB
    writer.close()
    await site.close()


# Headers and kinds of answers


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_without_a_body_have_none(site: Any, upstream: Any, status: int) -> None:
    async def answer(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=status, headers={"ETag": '"a"'})

    upstream.answer = answer
    tenant, product = await site.wired(upstream.url)
    reader, writer = await site.connect()
    for _ in range(2):  # the second shows that the first left nothing on the connection
        writer.write(f"GET /{product} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\n\r\n".encode())
        found = await head(reader)
        assert found.startswith(f"HTTP/1.1 {status} ".encode())
        assert b'etag: "a"' in found.lower()
        assert b"ransfer-" not in found
    writer.close()


async def test_head_gets_the_length_and_no_body(site: Any, raw_upstream: Any) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await head(reader):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nContent-Type: text/x\r\n\r\n")

    module = await raw_upstream(serve)
    tenant, product = await site.wired(module.url)
    reader, writer = await site.connect()
    for _ in range(2):
        writer.write(f"HEAD /{product} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\n\r\n".encode())
        found = await head(reader)
        assert b"Content-Length: 12345\r\n" in found
        assert b"Content-Type: text/x\r\n" in found
    writer.close()


async def test_an_answer_comes_with_the_modules_headers_and_no_others(site: Any, raw_upstream: Any) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(b"HTTP/1.1 200 Fine\r\nX-One: 1\r\nContent-Length: 2\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\n\r\nok")

    module = await raw_upstream(serve)
    tenant, product = await site.wired(module.url)
    reader, writer = await site.connect()
    writer.write(f"GET /{product} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\n\r\n".encode())
    lines = (await head(reader)).decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 200 Fine"
    *told, trace, last = sorted(filter(None, lines[1:]))
    assert [*told, last] == ["Content-Length: 2", "Date: Mon, 01 Jan 2024 00:00:00 GMT", "X-One: 1"]
    assert re.fullmatch(rf"X-Okapi-Trace: GET {product}-1\.0\.0 {product}-1\.0\.0-i/{product} : 200 \d+us", trace)
    writer.close()


async def test_a_compressed_answer_passes_untouched(site: Any, upstream: Any) -> None:
    packed = gzip.compress(b"hello" * 1000)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        assert request.headers["Accept-Encoding"] == "gzip;q=0.5"
        return web.Response(body=packed, headers={"Content-Encoding": "gzip", "Content-Type": "text/plain"})

    upstream.answer = answer
    tenant, product = await site.wired(upstream.url)
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        headers = {"X-Okapi-Tenant": tenant, "Accept-Encoding": "gzip;q=0.5"}
        async with session.get(f"{site.url}/{product}", headers=headers) as found:
            assert (await found.read(), found.headers["Content-Encoding"]) == (packed, "gzip")


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_compressed_upload_passes_untouched(site: Any, upstream: Any, chunked: bool) -> None:
    packed = gzip.compress(b"hello" * 1000)
    tenant, product = await site.wired(upstream.url)

    async def body() -> Any:
        yield packed

    headers = {"X-Okapi-Tenant": tenant, "Content-Encoding": "gzip"}
    found = await site.http.post(f"/{product}", headers=headers, content=body() if chunked else packed)
    assert found.status_code == 200
    assert upstream.bodies == [packed]
    assert upstream.requests[0].headers["Content-Encoding"] == "gzip"


async def test_every_cookie_of_an_answer_passes(site: Any, upstream: Any) -> None:
    async def answer(_: web.BaseRequest) -> web.StreamResponse:
        response = web.Response(text="x")
        for cookie in ("a=1; Path=/", "b=2; HttpOnly"):
            response.headers.add("Set-Cookie", cookie)
        return response

    upstream.answer = answer
    tenant, product = await site.wired(upstream.url)
    first = await site.get(tenant, f"/{product}")
    assert first.headers.get_list("set-cookie") == ["a=1; Path=/", "b=2; HttpOnly"]
    site.http.cookies.clear()
    await site.get(tenant, f"/{product}")
    assert "Cookie" not in upstream.requests[1].headers, "the gateway itself keeps no cookies"


async def test_hop_by_hop_headers_stay_on_their_hop_both_ways(site: Any, raw_upstream: Any) -> None:
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await head(reader))
        writer.write(
            b"HTTP/1.1 200 OK\r\nConnection: X-Back\r\nX-Back: secret\r\nKeep-Alive: timeout=7\r\nX-Stay: 2\r\n"
            b"Proxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n"
        )

    module = await raw_upstream(serve)
    tenant, product = await site.wired(module.url)
    reader, writer = await site.connect()
    writer.write(
        f"GET /{product} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\nConnection: X-Hop, keep-alive\r\nX-Hop: secret\r\n"
        "Keep-Alive: timeout=5\r\nTE: trailers\r\nProxy-Authorization: Basic x\r\nX-Stay: 1\r\n\r\n".encode()
    )
    back = (await head(reader)).lower()
    names = {line.split(b":")[0].lower() for line in got[0].split(b"\r\n")[1:]}
    assert names.isdisjoint({b"x-hop", b"keep-alive", b"te", b"proxy-authorization"})
    assert b"x-stay" in names
    assert b"x-back" not in back
    assert b"timeout=7" not in back
    assert b"proxy-authenticate" not in back
    assert b"x-stay: 2" in back
    writer.close()


async def test_hop_by_hop_headers_of_a_second_connection_line_stay_too(site: Any, upstream: Any) -> None:
    tenant, product = await site.wired(upstream.url)
    headers = [("X-Okapi-Tenant", tenant), ("Connection", "X-A"), ("Connection", "X-B"), ("X-A", "1"), ("X-B", "1")]
    assert (await site.http.get(f"/{product}", headers=headers)).status_code == 200
    assert not {"X-A", "X-B"} & set(upstream.requests[0].headers)


async def test_a_body_behind_an_offer_to_upgrade_to_http2_arrives(site: Any, upstream: Any) -> None:
    tenant, product = await site.wired(upstream.url)
    headers = {"X-Okapi-Tenant": tenant, "Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABk"}
    found = await site.http.post(f"/{product}", headers=headers, content=b"java's client does this")
    assert found.status_code == 200
    assert upstream.bodies == [b"java's client does this"]


async def test_100_continue_is_said_when_the_request_is_forwarded_and_not_while_it_waits(
    site: Any, upstream: Any, until: Any
) -> None:
    tenant, product = await site.wired(upstream.url)
    module, newer = f"{product}-1.0.0", await site.register(f"{product}-1.1.0", upstream.url)
    job = await site.job(tenant, newer)
    await job.held(newer)
    reader, writer = await site.connect()
    writer.write(
        f"POST /{product} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\nContent-Length: 4\r\n"
        "Expect: 100-continue\r\n\r\n".encode()
    )
    await until(lambda: parked_on(site, tenant))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.1)
    await job.resume(module)
    assert await head(reader) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"body")
    assert b" 200 " in await head(reader)
    assert upstream.bodies == [b"body"]
    assert "Expect" not in upstream.requests[0].headers
    writer.close()
    await job.finish()


async def parked_on(site: Any, tenant: str) -> int:
    return int(await site.parked(tenant))


async def test_the_admin_api_says_100_continue(site: Any, name: Any) -> None:
    tenant = name("t")
    body = json.dumps({"id": tenant})
    reader, writer = await site.connect()
    writer.write(
        f"POST /_/proxy/tenants HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n".encode()
    )
    assert await head(reader) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body.encode())
    assert b" 201 " in await head(reader)
    writer.close()


async def test_what_the_module_is_told(site: Any, upstream: Any) -> None:
    tenant, product = await site.wired(upstream.url)
    await site.get(tenant, f"/{product}/x", **{"X-Okapi-Url": "http://forged", "X-Okapi-Token": "t"})
    told = upstream.requests[0].headers
    assert told["X-Okapi-Tenant"] == tenant
    assert told["X-Okapi-Url"] == site.url
    assert told["X-Okapi-Token"] == "t"
    assert told["X-Okapi-Request-Id"].endswith(f"/{product}")
    assert told["Host"] == upstream.url.removeprefix("http://")


async def test_request_ids_are_chained(site: Any, upstream: Any) -> None:
    tenant, product = await site.wired(upstream.url)
    await site.get(tenant, f"/{product}", **{"X-Okapi-Request-Id": "123456/users"})
    first, _, second = upstream.requests[0].headers["X-Okapi-Request-Id"].partition(";")
    assert first == "123456/users"
    assert second.endswith(f"/{product}")


async def test_bytes_in_headers_that_are_no_utf8_break_nothing(site: Any, raw_upstream: Any) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await head(reader):
            writer.write(b"HTTP/1.1 200 OK\r\nX-Latin: gr\xfc\xdf\r\nContent-Length: 2\r\n\r\nok")

    module = await raw_upstream(serve)
    tenant, product = await site.wired(module.url)
    reader, writer = await site.connect()
    writer.write(f"GET /{product} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\nX-Latin: ".encode() + b"\xe4\r\n\r\n")
    found = await head(reader)
    assert b" 200 " in found
    assert await reader.readexactly(2) == b"ok"
    writer.close()


async def test_bytes_in_a_path_that_are_no_ascii_are_a_400(site: Any, upstream: Any) -> None:
    tenant, product = await site.wired(upstream.url)
    reader, writer = await site.connect()
    writer.write(b"GET /" + product.encode() + b"/\xfc HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: " + tenant.encode() + b"\r\n\r\n")
    assert b" 400 " in (await head(reader))[:20]
    assert upstream.requests == []
    writer.close()


async def test_two_lengths_of_one_body_are_refused(site: Any, upstream: Any) -> None:
    tenant, product = await site.wired(upstream.url)
    reader, writer = await site.connect()
    writer.write(
        f"POST /{product} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\nContent-Length: 4\r\n"
        "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n".encode()
    )
    assert b" 400 " in (await head(reader))[:20]
    assert upstream.requests == []
    writer.close()


# Whose request, and to whom


def token(**claims: Any) -> str:
    return "x." + base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=") + ".x"


async def test_an_unknown_tenant_is_a_400_with_okapis_text(site: Any) -> None:
    found = await site.get("nobody", "/x")
    assert (found.status_code, found.text) == (400, "No such Tenant nobody")


async def test_a_path_that_nobody_answers_is_a_404_with_okapis_text(site: Any) -> None:
    tenant = await site.tenant()
    found = await site.get(tenant, "/nothing/here")
    assert (found.status_code, found.text) == (404, "No suitable module found for path and tenant")


@pytest.mark.parametrize("header", ["X-Okapi-Token", "Authorization"])
async def test_the_tenant_may_come_from_the_token(site: Any, upstream: Any, header: str) -> None:
    tenant, product = await site.wired(upstream.url)
    value = token(tenant=tenant) if header == "X-Okapi-Token" else f"Bearer {token(tenant=tenant)}"
    found = await site.http.get(f"/{product}", headers={header: value})
    assert found.status_code == 200
    assert upstream.requests[0].headers["X-Okapi-Tenant"] == tenant


async def test_a_token_without_a_tenant_means_the_supertenant(site: Any) -> None:
    found = await site.http.get("/nothing", headers={"X-Okapi-Token": token(tenant=7)})
    assert (found.status_code, found.text) == (404, "No suitable module found for path and tenant")


@pytest.mark.parametrize(
    "bad",
    ["a.b.c", "x..x", "x.!!!.x", "x", "x." + base64.b64encode(b"[" * 5000).decode() + ".x", "ä.ü.ö"],
    ids=["no base64", "empty", "no base64 at all", "one part", "deep", "no ASCII"],
)
async def test_a_token_that_cannot_be_read_is_a_400_where_it_has_to_name_the_tenant(site: Any, upstream: Any, bad: str) -> None:
    """As Okapi; where a header names the tenant, the token is the auth filter's business."""
    found = await site.http.get("/nothing", headers={"X-Okapi-Token": bad.encode()})
    assert (found.status_code, found.text.partition(":")[0]) == (400, "Invalid Token")
    tenant, product = await site.wired(upstream.url)
    assert (await site.get(tenant, f"/{product}", **{"X-Okapi-Token": bad.encode()})).status_code == 200


async def test_the_tenant_may_stand_in_the_path(site: Any, upstream: Any) -> None:
    tenant, product = await site.wired(upstream.url)
    found = await site.http.post(f"/_/invoke/tenant/{tenant}/{product}/a%2Fb?x=%20", content=b"y")
    assert found.json()["path"] == f"/{product}/a%2Fb?x=%20"
    assert upstream.requests[0].headers["X-Okapi-Tenant"] == tenant


async def test_a_request_line_with_a_whole_url_is_understood(site: Any, upstream: Any) -> None:
    tenant, product = await site.wired(upstream.url)
    reader, writer = await site.connect()
    writer.write(f"GET http://other.example/{product}/a?b HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\n\r\n".encode())
    assert b" 200 " in await head(reader)
    assert upstream.requests[0].raw_path == f"/{product}/a?b"
    assert upstream.requests[0].headers["X-Okapi-Request-Id"].endswith(f"/{product}")
    writer.close()


async def test_10000_requests_of_two_tenants_on_two_versions_never_cross(site: Any, new_upstream: Any, name: Any) -> None:
    old, new = await new_upstream("1.0.0"), await new_upstream("2.0.0")
    product = name("m")
    first = await site.tenant(await site.register(f"{product}-1.0.0", old.url))
    second = await site.tenant(await site.register(f"{product}-2.0.0", new.url))
    wanted = {first: b"1.0.0", second: b"2.0.0"}

    def answer(version: bytes) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        async def say(request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(body=version + b" " + request.headers["X-Okapi-Tenant"].encode())

        return say

    old.answer, new.answer = answer(b"1.0.0"), answer(b"2.0.0")
    wrong = []
    done = 0

    async def ask(session: aiohttp.ClientSession, part: int) -> None:
        nonlocal done
        for number in range(part, 10_000, 32):
            tenant = (first, second)[(number // 3) % 2]
            async with session.get(f"{site.url}/{product}/{number}", headers={"X-Okapi-Tenant": tenant}) as found:
                body = await found.read()
            done += 1
            if body != wanted[tenant] + b" " + tenant.encode():
                wrong.append((tenant, body))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(ask(session, part) for part in range(32)))
    assert (done, wrong) == (10_000, [])
