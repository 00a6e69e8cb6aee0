"""Requests that two servers could read differently (RFC 9112, 11.2), sent as bytes."""

import asyncio
from typing import Any


async def test_a_trailer_is_no_header_of_a_request_that_is_behind_it(site: Any, upstream: Any) -> None:
    """A balancer may send that for somebody else; so the connection is closed behind a request in chunks."""
    tenant, product = await site.wired(upstream.url)
    first = f"POST /{product}/x HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\nTransfer-Encoding: chunked\r\n\r\n"
    trailer = "X-Other: 1\r\nX-Okapi-Tenant: other\r\n"
    reader, writer = await site.connect()
    writer.write(f"{first}5\r\nhello\r\n0\r\n{trailer}\r\nGET /{product}/behind HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    said = await asyncio.wait_for(reader.read(), 20)
    assert (said.count(b"HTTP/1.1 200 "), said.count(b"HTTP/1.1 ")) == (1, 1), said
    assert b"Connection: close\r\n" in said
    assert [(request.raw_path, "X-Other" in request.headers) for request in upstream.requests] == [(f"/{product}/x", False)]
    assert upstream.bodies == [b"hello"]
