"""curl's odd corners: a client that others wrote, with all that it can do differently."""

import asyncio
import json
import re
import shutil
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
MB = 2**20
Curl = Callable[..., Awaitable[tuple[bytes, dict[str, Any]]]]


@pytest.fixture
async def curl(site: Any, upstream: Any) -> Curl:
    """Runs curl against a tenant's module: what it was answered last, and what curl says of it."""
    tenant, product = await site.wired(upstream.url)

    async def run(*options: str, path: str = "/x", stdin: bytes = b"") -> tuple[bytes, dict[str, Any]]:
        process = await asyncio.create_subprocess_exec(
            "curl", "--silent", "--show-error", "--max-time", "20", "--header", f"X-Okapi-Tenant: {tenant}",
            "--write-out", "%{stderr}%{json}\n", *options, f"{site.url}/{product}{path}",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, told = await process.communicate(stdin)
        assert process.returncode == 0, (options, told)
        return out, json.loads(told.splitlines()[-1])

    run.product = product  # type: ignore[attr-defined]
    return run


async def test_an_upload_of_unknown_length(curl: Curl, upstream: Any) -> None:
    body = bytes(range(256)) * 4_000
    await curl("--upload-file", "-", "--header", "Transfer-Encoding: chunked", stdin=body)
    assert upstream.bodies == [body]
    assert upstream.requests[0].method == "PUT"


async def test_a_client_that_asks_before_it_sends(curl: Curl, upstream: Any) -> None:
    body = bytes(MB // 2)
    await curl("--data-binary", "@-", "--header", "Expect: 100-continue", "--expect100-timeout", "15", stdin=body)
    assert upstream.bodies == [body]
    assert "Expect" not in upstream.requests[0].headers


async def test_http_1_0(curl: Curl, upstream: Any) -> None:
    out, _ = await curl("--http1.0")
    assert json.loads(out)["method"] == "GET"

    async def in_pieces(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(5):
            await response.write(b"piece")
        return response

    upstream.answer = in_pieces
    assert (await curl("--http1.0"))[0] == b"piece" * 5
    assert re.fullmatch(rb"(?:[0-9a-f]+\r\n(?:piece)+\r\n)+0\r\n\r\n", (await curl("--raw"))[0])


async def test_a_head(curl: Curl) -> None:
    out, _ = await curl("--head")
    assert out.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("path", ["/a/../b", "/./a//b/", "/%2e%2e/a%00b", "/a;b=c,d/e:f@g", "/?a=b?c&d", "/a?x=%zz#part"])
async def test_paths_as_they_are(curl: Curl, upstream: Any, path: str) -> None:
    await curl("--path-as-is", path=path)
    assert upstream.requests[0].raw_path == f"/{curl.product}{path.partition('#')[0]}"  # type: ignore[attr-defined]


async def test_several_requests_on_one_connection(curl: Curl, upstream: Any) -> None:
    """curl tells of the last that it opened no connection for it."""
    _, told = await curl("--request", "DELETE", path="/[1-5]")
    assert [request.method for request in upstream.requests] == ["DELETE"] * 5
    assert told["num_connects"] == 0


async def test_a_range_and_a_condition(curl: Curl, upstream: Any) -> None:
    async def part(request: web.BaseRequest) -> web.StreamResponse:
        if "If-None-Match" in request.headers:
            return web.Response(status=304, headers={"ETag": '"a"'})
        assert request.headers["Range"] == "bytes=2-4"
        return web.Response(status=206, body=b"llo", headers={"Content-Range": "bytes 2-4/5"})

    upstream.answer = part
    out, told = await curl("--range", "2-4")
    assert (out, told["response_code"]) == (b"llo", 206)
    out, told = await curl("--header", 'If-None-Match: "a"')
    assert (out, told["response_code"]) == (b"", 304)


async def test_compression_is_between_the_client_and_the_module(curl: Curl, upstream: Any) -> None:
    async def squeezed(request: web.BaseRequest) -> web.StreamResponse:
        assert "gzip" in request.headers["Accept-Encoding"]
        response = web.Response(body=b"a" * 10_000)
        response.enable_compression(web.ContentCoding.gzip)
        return response

    upstream.answer = squeezed
    assert (await curl("--compressed"))[0] == b"a" * 10_000


async def test_a_form_with_a_file(curl: Curl, upstream: Any) -> None:
    await curl("--form", "name=value", "--form", "file=@-;filename=a b.txt", stdin=b"content")
    assert b'filename="a b.txt"' in upstream.bodies[0]
    assert b"content" in upstream.bodies[0]


async def test_te_is_of_one_hop(curl: Curl, upstream: Any) -> None:
    await curl("--tr-encoding")
    assert not {"TE", "Connection"} & {name for name in upstream.requests[0].headers if name != "Connection"}
