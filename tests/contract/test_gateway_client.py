"""What `GatewayClient` makes of each answer: a value of its type, or a `GatewayError`; over real sockets."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

import gateway_client
from gateway_client import (
    ClaimRequest,
    GatewayClient,
    GatewayError,
    GatewayRefused,
    GatewayUnavailable,
    HoldState,
    Instance,
    NotFound,
    Retiring,
    Version,
)
from gateway_client import __all__ as door

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Start = Callable[[Serve], Awaitable[GatewayClient]]


class Wire:
    """A gateway of bytes: what it was asked, and one answer for all."""

    def __init__(self, answer: bytes) -> None:
        self.asked: list[bytes] = []
        self._answer = answer

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        for line in asked.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                asked += await reader.readexactly(int(line.partition(b":")[2]))
        self.asked.append(asked)
        writer.write(self._answer)


def says(status: str, body: bytes = b"", *headers: str) -> Wire:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return Wire("\r\n".join(lines).encode() + body)


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts a server and gives a client of it."""
    servers: list[asyncio.Server] = []
    clients: list[GatewayClient] = []

    async def run(serve: Serve, **more: Any) -> GatewayClient:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await serve(reader, writer)
            finally:
                writer.close()
                await writer.wait_closed()

        servers.append(await asyncio.start_server(handle, "127.0.0.1", 0))
        port = servers[-1].sockets[0].getsockname()[1]
        clients.append(GatewayClient(url=f"http://127.0.0.1:{port}/", **{"timeout": 2, **more}))
        return clients[-1]

    yield run
    for client in clients:
        await client.close()
    for server in servers:
        server.close()
        await server.wait_closed()


CLAIM = ClaimRequest(module="m-1.0.0", subject="m-1.0.0")


def test_the_door_is_sorted_and_complete() -> None:
    assert list(door) == sorted(door)
    public = {
        name
        for name, value in vars(gateway_client).items()
        if not name.startswith("_") and (isinstance(value, type) or inspect.isfunction(value))
    }
    assert set(door) == public


@pytest.mark.parametrize("status", ["500 Oh", "502 Bad Gateway", "503 Later", "504 Late", "408 Slow", "429 Many"])
async def test_these_answers_mean_later(start: Start, status: str) -> None:
    client = await start(says(status, b"the gateway's database does not answer"))
    with pytest.raises(GatewayUnavailable, match="the gateway's database does not answer"):
        await client.claim("j", CLAIM)


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        ("400 Bad", b"Module x not found", GatewayRefused),
        ("401 No", b"token", GatewayRefused),
        ("404 Not Found", b"no job j", NotFound),
        ("409 Conflict", b"m of tenant t is held by j", GatewayRefused),
        ("409 Conflict", b"module m-1.0.0 is being retired; try again in a moment", Retiring),
        ("413 Large", b"too large", GatewayRefused),
    ],
)
async def test_these_answers_mean_no_and_say_why(start: Start, status: str, text: bytes, kind: type[GatewayRefused]) -> None:
    client = await start(says(status, text))
    with pytest.raises(GatewayRefused) as refused:
        await client.claim("j", CLAIM)
    assert type(refused.value) is kind
    assert (refused.value.status, refused.value.text) == (int(status[:3]), text.decode())


@pytest.mark.parametrize(
    "serve",
    [
        says("200 OK", b"<html>a portal</html>"),
        says("200 OK", b'{"module": 7}'),
        says("200 OK", b"[]"),
        says("200 OK"),
        says("204 No Content"),
        says("302 Found", b"", "Location: http://elsewhere/"),
        Wire(b"SSH-2.0-x\r\n"),
        Wire(b""),
        Wire(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"),
    ],
)
async def test_what_no_gateway_answers_is_an_error_of_the_client(start: Start, serve: Wire) -> None:
    with pytest.raises(GatewayUnavailable):
        await (await start(serve)).claim("j", CLAIM)
    with pytest.raises(GatewayUnavailable):
        await (await start(serve)).descriptor("m-1.0.0")


@pytest.mark.parametrize("serve", [says("200 OK", b'{"a": 1}'), says("200 OK", b"[7]"), says("204 No Content")])
async def test_what_is_no_list_is_an_error_of_the_client(start: Start, serve: Wire) -> None:
    client = await start(serve)
    for call in (client.versions, client.snapshots, client.environment):
        with pytest.raises(GatewayUnavailable):
            await call()


async def test_nobody_there_is_unavailable_and_named() -> None:
    async with GatewayClient(url="http://127.0.0.1:1") as client:
        with pytest.raises(GatewayUnavailable, match=r"http://127\.0\.0\.1:1/_/versions"):
            await client.versions()


async def test_a_silent_gateway_is_given_up_after_the_timeout(start: Start) -> None:
    done = asyncio.Event()

    async def silent(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        await done.wait()

    client = await start(silent, timeout=0.2)
    with pytest.raises(GatewayUnavailable, match="ReadTimeout"):
        await client.versions()
    done.set()


async def test_a_call_that_waits_has_its_seconds_on_top_of_the_timeout(start: Start) -> None:
    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.5)
        await says("200 OK", b'{"id": "h", "lifecycle": "RESUME", "state": "HELD"}')(reader, writer)

    client = await start(late, timeout=0.2)
    assert await client.delay("h", wait=2) == HoldState(id="h", lifecycle="RESUME", state="HELD")


async def test_members_that_an_older_client_does_not_know_are_ignored(start: Start) -> None:
    client = await start(says("200 OK", b'{"module": "m-1.0.0", "neededBy": ["tenant t"], "fromTheFuture": {"a": 1}}'))
    assert await client.claim("j", CLAIM) == Version(module="m-1.0.0", needed_by=("tenant t",))


async def test_names_are_quoted_in_paths_and_the_token_is_sent(start: Start) -> None:
    serve = says("204 No Content")
    client = await start(serve, token="secret")
    await client.put_instance(Instance(id="a/b ä", module="m-1.0.0+x", url="http://x", node="n"))
    (asked,) = serve.asked
    assert asked.startswith(b"PUT /_/versions/m-1.0.0%2Bx/instances/a%2Fb%20%C3%A4 HTTP/1.1\r\n")
    assert b"authorization: bearer secret\r\n" in asked.lower()
    assert b"content-type: application/json\r\n" in asked.lower()


async def test_a_secret_is_asked_for_and_given(start: Start) -> None:
    serve = says("201 Created", b'{"token": "upi_x"}')
    client = await start(serve)
    assert await client.issue_secret("m-1.0.0", "a/b") == "upi_x"
    assert serve.asked[0].startswith(b"POST /_/versions/m-1.0.0/instances/a%2Fb/secret HTTP/1.1\r\n")


@pytest.mark.parametrize("body", [b'{"secret": "upi_x"}', b'["upi_x"]', b'{"token": ["upi_x"]}', b'{"token": ""}', b'"upi_x"'])
async def test_an_answer_that_is_no_secret_is_not_shown(start: Start, body: bytes) -> None:
    client = await start(says("201 Created", body))
    with pytest.raises(GatewayUnavailable) as refused:
        await client.issue_secret("m-1.0.0", "i")
    assert "upi_x" not in str(refused.value)


async def test_long_waits_are_written_as_plain_numbers(start: Start) -> None:
    serve = says("200 OK", b'{"module": "m-1.0.0"}')
    client = await start(serve)
    await client.version("m-1.0.0", wait=0.00001)
    assert b"wait=0.000010&" in serve.asked[0]


async def test_a_descriptor_is_asked_for_once(start: Start) -> None:
    serve = says("200 OK", b'{"id": "m-1.0.0"}')
    client = await start(serve)
    assert (await client.descriptor("m-1.0.0")) is (await client.descriptor("m-1.0.0"))
    assert len(serve.asked) == 1


async def test_every_error_is_a_gateway_error() -> None:
    for kind in (GatewayUnavailable, GatewayRefused, NotFound, Retiring):
        assert issubclass(kind, GatewayError)
