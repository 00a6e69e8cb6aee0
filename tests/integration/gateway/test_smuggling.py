"""Requests that two servers could read differently are refused, and nothing of them reaches a module (RFC 9112, 11.2).

Each is sent as bytes, with a request hidden behind it: whatever a requester writes, the module sees what the gateway has routed.
"""

import asyncio
from typing import Any

import pytest

HIDDEN = "GET /{p}/hidden HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {t}\r\n\r\n"
HEAD = "Host: x\r\nX-Okapi-Tenant: {t}\r\n"
POST, POST_X = (f"POST {path} HTTP/1.1\r\n{HEAD}" for path in ("/{p}", "/{p}/x"))
CHUNKED, CHUNKED_X = (f"{start}Transfer-Encoding: chunked\r\n\r\n" for start in (POST, POST_X))
REFUSED: dict[str, str] = {
    "length and chunks": POST + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunks and length": POST + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + HIDDEN,
    "two lengths": POST + "Content-Length: 0\r\nContent-Length: 60\r\n\r\n" + HIDDEN,
    "two lengths in one": POST + "Content-Length: 0, 60\r\n\r\n" + HIDDEN,
    "the same length twice in one": POST + "Content-Length: 0, 0\r\n\r\n" + HIDDEN,
    "a negative length": POST + "Content-Length: -1\r\n\r\n" + HIDDEN,
    "a length with a plus": POST + "Content-Length: +60\r\n\r\n" + HIDDEN,
    "a length in hex": POST + "Content-Length: 0x3c\r\n\r\n" + HIDDEN,
    "a length with a blank": POST + "Content-Length: 6 0\r\n\r\n" + HIDDEN,
    "an empty length": POST + "Content-Length: \r\n\r\n" + HIDDEN,
    "a huge length": POST + "Content-Length: 99999999999999999999999\r\n\r\n" + HIDDEN,
    "a blank before the colon": POST + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a blank before the colon of a length": POST + "Content-Length : 60\r\n\r\n" + HIDDEN,
    "an unknown coding": POST + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunked, then another": POST + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunked twice": POST + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "two codings": POST + "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a coding in quotes": POST + 'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n' + HIDDEN,
    "a coding with a control character": POST + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a folded line": POST + "X: 1\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a first line that is folded": "POST /{p} HTTP/1.1\r\n Host: x\r\nX-Okapi-Tenant: {t}\r\n\r\n" + HIDDEN,
    "a line that ends in LF": POST + "X: 1\nContent-Length: 60\r\n\r\n" + HIDDEN,
    "all lines end in LF": "POST /{p} HTTP/1.1\nHost: x\nX-Okapi-Tenant: {t}\nContent-Length: 0\n\n" + HIDDEN,
    "a line that ends in CR": POST + "X: 1\rContent-Length: 60\r\n\r\n" + HIDDEN,
    "a NUL in a value": POST + "X: a\x00b\r\n\r\n" + HIDDEN,
    "a NUL in a name": POST + "X\x00Y: a\r\n\r\n" + HIDDEN,
    "no colon": POST + "Content-Length 60\r\n\r\n" + HIDDEN,
    "no name": POST + ": 60\r\n\r\n" + HIDDEN,
    "a chunk's size with 0x": CHUNKED + "0x3\r\nabc\r\n0\r\n\r\n" + HIDDEN,
    "a chunk's size below zero": CHUNKED + "-1\r\nabc\r\n0\r\n\r\n" + HIDDEN,
    "a chunk's size that is huge": CHUNKED + "" + "f" * 17 + "\r\nabc\r\n0\r\n\r\n",
    "a chunk without its end": CHUNKED + "3\r\nabcXX0\r\n\r\n" + HIDDEN,
    "a chunk's size that ends in LF": CHUNKED + "3\nabc\r\n0\r\n\r\n" + HIDDEN,
    "a chunk that ends in LF": CHUNKED + "3\r\nabc\n0\r\n\r\n" + HIDDEN,
    "no version": "GET /{p}\r\n\r\n" + HIDDEN,
    "another version": "GET /{p} HTTP/1.2\r\n" + HEAD + "\r\n" + HIDDEN,
    "version two": "GET /{p} HTTP/2.0\r\n" + HEAD + "\r\n" + HIDDEN,
    "a version that is none": "GET /{p} HTTP/1.1x\r\n" + HEAD + "\r\n" + HIDDEN,
    "chunks in HTTP/1.0": "POST /{p} HTTP/1.0\r\n" + HEAD + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a method that is none": "G@T /{p} HTTP/1.1\r\n" + HEAD + "\r\n" + HIDDEN,
    "a blank in the path": "GET /{p}/a b HTTP/1.1\r\n" + HEAD + "\r\n" + HIDDEN,
    "a control character in the path": "GET /{p}/a\x01b HTTP/1.1\r\n" + HEAD + "\r\n" + HIDDEN,
    "no Host": "GET /{p} HTTP/1.1\r\nX-Okapi-Tenant: {t}\r\n\r\n" + HIDDEN,
    "two Hosts": "GET /{p} HTTP/1.1\r\nHost: y\r\n" + HEAD + "\r\n" + HIDDEN,
}  # fmt: skip


async def said(site: Any, text: str) -> bytes:
    """All that the gateway says until it closes the connection."""
    reader, writer = await site.connect()
    writer.write(text.encode("latin-1"))
    async with asyncio.timeout(20):
        return bytes(await reader.read())


@pytest.mark.parametrize("name", REFUSED)
async def test_what_can_be_read_in_two_ways_is_refused_and_its_connection_closed(site: Any, upstream: Any, name: str) -> None:
    tenant, product = await site.wired(upstream.url)
    answer = await said(site, REFUSED[name].replace("{t}", tenant).replace("{p}", product))
    assert answer.split(b" ", 2)[1] in (b"400", b"501"), answer
    assert answer.count(b"HTTP/1.1 ") == 1, answer
    assert not [request for request in upstream.requests if "hidden" in request.raw_path]
    assert upstream.bodies == []


TAKEN: dict[str, tuple[str, bytes]] = {
    "a body of a GET": ("GET /{p}/x HTTP/1.1\r\n" + HEAD + "Content-Length: 5\r\n\r\nhello", b"hello"),
    "chunks": (CHUNKED_X + "5\r\nhello\r\n0\r\n\r\n", b"hello"),
    "chunks in capitals": (POST_X + "TRANSFER-ENCODING: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"hello"),
    "an extension of a chunk": (CHUNKED_X + "5;a=b\r\nhello\r\n0\r\n\r\n", b"hello"),
    "a trailer": (
        CHUNKED_X + "5\r\nhello\r\n0\r\nX-Okapi-Tenant: other\r\n\r\n", b"hello",
    ),
    "a request within a body": (POST_X + "Content-Length: 5\r\n\r\nGET /", b"GET /"),
    "an upgrade to HTTP/2": (
        "GET /{p}/x HTTP/1.1\r\n" + HEAD
        + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n", b"",
    ),
    "two tenants, of which the first counts": (
        "GET /{p}/x HTTP/1.1\r\n" + HEAD + "X-Okapi-Tenant: other\r\nx-okapi-tenant: other\r\n\r\n", b"",
    ),
    "headers that Connection names": ("GET /{p}/x HTTP/1.1\r\n" + HEAD + "Connection: X-Secret\r\nX-Secret: 1\r\n\r\n", b""),
}  # fmt: skip


CLOSES = {name for name, (text, _) in TAKEN.items() if "transfer-encoding" in text.lower()}
"""After a body in chunks the connection is closed: trailers must not become headers of the next request."""


@pytest.mark.parametrize("name", TAKEN)
async def test_what_is_plain_reaches_the_module_once_and_nothing_of_it_the_next_request(
    site: Any, upstream: Any, name: str
) -> None:
    tenant, product = await site.wired(upstream.url)
    text, body = TAKEN[name]
    reader, writer = await site.connect()
    for part in (text, HIDDEN.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")):
        writer.write(part.replace("{t}", tenant).replace("{p}", product).encode("latin-1"))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        assert head.startswith(b"HTTP/1.1 200 "), head
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]))
        if name in CLOSES:
            assert b"Connection: close" in head
            assert await reader.read() == b""
            break
    assert [request.raw_path for request in upstream.requests] == [f"/{product}/x", f"/{product}/hidden"][: 2 - (name in CLOSES)]
    assert upstream.bodies == [body, b""][: 2 - (name in CLOSES)]
    assert all(request.headers.getall("X-Okapi-Tenant") == [tenant] for request in upstream.requests)
    assert not {"Upgrade", "Http2-Settings", "X-Secret"} & set(upstream.requests[0].headers)


async def test_a_trailer_is_no_header_of_a_request_that_is_behind_it(site: Any, upstream: Any) -> None:
    tenant, product = await site.wired(upstream.url)
    trailer = CHUNKED_X + "5\r\nhello\r\n0\r\nX-Okapi-Tenant: other\r\nX-Other: 1\r\n\r\n" + HIDDEN
    answer = await said(site, trailer.replace("{t}", tenant).replace("{p}", product))
    assert answer.count(b"HTTP/1.1 ") == 1, answer
    assert [request.raw_path for request in upstream.requests] == [f"/{product}/x"]


ANSWERS: dict[str, bytes] = {
    "length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
    "a folded line": b"HTTP/1.1 200 OK\r\nX: 1\r\n Y: 2\r\nContent-Length: 0\r\n\r\n",
    "a NUL": b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n",
    "no HTTP": b"SSH-2.0-OpenSSH\r\n\r\n",
    "a change of protocol unasked": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    "a huge head": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 2**17 + b"\r\n\r\n",
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_that_can_be_read_in_two_ways_is_502(site: Any, raw_upstream: Any, name: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWERS[name])
        await writer.drain()
        await reader.read()

    module = await raw_upstream(serve)
    tenant, product = await site.wired(module.url)
    found = await site.http.post(f"/{product}", headers={"X-Okapi-Tenant": tenant})
    assert (found.status_code, "gave no valid answer" in found.text) == (502, True), found.text


async def test_bytes_behind_an_answer_are_nobodys_answer(site: Any, raw_upstream: Any, until: Any) -> None:
    """A second answer that comes unasked must not be taken for that to the next request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            for body in (b"mine", b"others"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            await writer.drain()

    module = await raw_upstream(serve)
    tenant, product = await site.wired(module.url)
    answers = [await site.get(tenant, f"/{product}") for _ in range(5)]
    assert {answer.text for answer in answers if answer.status_code == 200} <= {"mine"}
