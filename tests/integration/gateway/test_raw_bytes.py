"""Requests with bytes that are no text: there is no such tenant, a target is refused, other headers are passed on."""

import asyncio
import base64
import json
from typing import Any

import pytest

SURROGATE = base64.urlsafe_b64encode(json.dumps({"tenant": "\ud800"}).encode()).decode().rstrip("=")


async def said(site: Any, line: bytes, *headers: bytes) -> tuple[int, bytes]:
    """Status and body of the answer to a request that is sent as it stands."""
    reader, writer = await site.connect()
    writer.write(b"\r\n".join([line + b" HTTP/1.1", b"Host: x", b"Connection: close", *headers, b"", b""]))
    answer = await asyncio.wait_for(reader.read(), 20)
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), body


@pytest.mark.parametrize("path", [b"/_/proxy/modules", b"/_/version", b"/anything", b"/anything?x=1"])
@pytest.mark.parametrize(
    ("header", "shown"),
    [
        (b"X-Okapi-Tenant: \xff", "?"),
        (b"X-Okapi-Tenant: dik\xc3u", "dik?u"),
        (b"X-Okapi-Tenant: d\xc3\xa9", "dé"),
        (f"X-Okapi-Token: e30.{SURROGATE}.x".encode(), "?"),
        (f"Authorization: Bearer e30.{SURROGATE}.x".encode(), "?"),
    ],
)
async def test_a_tenant_that_is_no_text_is_none_that_there_is(site: Any, path: bytes, header: bytes, shown: str) -> None:
    assert await said(site, b"GET " + path, header) == (400, f"No such Tenant {shown}".encode())


@pytest.mark.parametrize(
    "target", [b"/_/proxy/tenants/\xff", b"/_/proxy/modules?full=\xff", b"/_/invoke/tenant/\xff/x", b"/\xff"]
)
async def test_a_target_with_bytes_that_are_no_text_is_refused(site: Any, target: bytes) -> None:
    assert (await said(site, b"GET " + target))[0] == 400


async def test_bytes_that_are_no_text_reach_a_module(site: Any, upstream: Any) -> None:
    tenant, product = await site.wired(upstream.url)
    for header in (b"X-Okapi-Request-Id: \xff", b"Prefer: wait=\xff", b"Accept: text/html;q=\xff", b"X-Other: \xff"):
        status, body = await said(site, f"GET /{product}/x".encode(), f"X-Okapi-Tenant: {tenant}".encode(), header)
        assert status == 200, body
