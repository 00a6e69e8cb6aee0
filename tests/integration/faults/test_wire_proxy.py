"""The proxy does what its faults say: a test that trusts it needs to know."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from aiohttp import web

from tests.wire.faults import (
    DropAnswer,
    Duplicate,
    Fault,
    Garbage,
    Half,
    Hang,
    Pause,
    Refuse,
    ResetAfter,
    ResetBefore,
    Slow,
    Status,
)
from tests.wire.http_proxy import WireProxy

BODY = {"n": 1}


class Server:
    """Notes what reaches it."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.answered = 0
        self.connections: set[object] = set()
        self.gate = asyncio.Event()
        self.gate.set()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.bodies.append(await request.read())
        self.connections.add(request.transport)
        await self.gate.wait()
        self.answered += 1
        return web.json_response({"asked": len(self.bodies), "path": request.raw_path})

    async def start(self, port: int = 0) -> "Server":
        self.runner = web.ServerRunner(web.Server(self.handle, handler_cancellation=True), shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", port).start()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}"
        return self


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    started = await Server().start()
    yield started
    started.gate.set()
    await started.runner.cleanup()


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[WireProxy]:
    async with WireProxy(upstream=server.url) as started:
        yield started


@pytest.fixture
async def client(proxy: WireProxy) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=proxy.url, trust_env=False, timeout=5) as made:
        yield made


async def until(found: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not found():
            await asyncio.sleep(0.01)


async def test_requests_pass_unchanged_on_one_connection(proxy: WireProxy, client: httpx.AsyncClient, server: Server) -> None:
    answers = [await client.post("/a?b=c", json=BODY) for _ in range(3)]
    assert [answer.json() for answer in answers] == [{"asked": number, "path": "/a?b=c"} for number in (1, 2, 3)]
    assert len(server.connections) == 1
    assert [(one.method, one.path, one.query, one.body, one.status) for one in proxy.seen] == [
        ("POST", "/a", "b=c", '{"n":1}', 200)
    ] * 3


@pytest.mark.parametrize("fault", [Refuse(), ResetBefore(), ResetAfter()])
async def test_what_is_reset_before_it_was_delivered_does_not_reach_the_upstream(
    proxy: WireProxy, client: httpx.AsyncClient, server: Server, fault: Fault
) -> None:
    proxy.add(path="/a", fault=fault)
    with pytest.raises(httpx.TransportError):
        await client.post("/a", json=BODY)
    assert server.bodies == []
    assert (await client.post("/a", json=BODY)).json()["asked"] == 1


@pytest.mark.parametrize("fault", [DropAnswer(), Half()])
async def test_a_lost_answer_is_of_a_request_that_was_carried_out(
    proxy: WireProxy, client: httpx.AsyncClient, server: Server, fault: Fault
) -> None:
    rule = proxy.add(method="POST", path="/a", fault=fault)
    with pytest.raises(httpx.TransportError):
        await client.post("/a", json=BODY)
    assert (server.answered, rule.struck, rule.met.is_set()) == (1, 1, True)


async def test_a_status_is_the_proxys_own_as_often_as_the_rule_says(
    proxy: WireProxy, client: httpx.AsyncClient, server: Server
) -> None:
    proxy.add(path="/a", fault=Status(502), times=2, skip=1)
    assert [(await client.get("/a")).status_code for _ in range(4)] == [200, 502, 502, 200]
    assert len(server.bodies) == 2


async def test_a_duplicate_is_delivered_twice(proxy: WireProxy, client: httpx.AsyncClient, server: Server) -> None:
    proxy.add(path="/a", fault=Duplicate())
    assert (await client.post("/a", json=BODY)).json()["asked"] == 2
    assert server.bodies == [b'{"n":1}'] * 2


async def test_garbage_is_no_json(proxy: WireProxy, client: httpx.AsyncClient, server: Server) -> None:
    proxy.add(path="/a", fault=Garbage())
    answer = await client.post("/a", json=BODY)
    assert (answer.status_code, server.answered) == (200, 1)
    with pytest.raises(ValueError, match="Expecting value"):
        answer.json()


async def test_a_slow_answer_comes_after_its_time(proxy: WireProxy, client: httpx.AsyncClient, server: Server) -> None:
    proxy.add(path="/a", fault=Slow(30))
    asked = asyncio.create_task(client.get("/a"))
    await until(lambda: server.answered == 1)
    assert not asked.done()
    asked.cancel()


@pytest.mark.parametrize(("where", "delivered"), [("before", 0), ("after", 1)])
async def test_a_pause_holds_until_it_is_released(
    proxy: WireProxy, client: httpx.AsyncClient, server: Server, where: str, delivered: int
) -> None:
    rule = proxy.add(path="/a", fault=Pause(where))  # type: ignore[arg-type]
    asked = asyncio.create_task(client.get("/a"))
    await rule.met.wait()
    await until(lambda: server.answered == delivered)
    assert (await client.get("/b")).status_code == 200  # nobody else is held
    assert not asked.done()
    rule.release()
    assert (await asked).status_code == 200
    assert len(server.bodies) == 2


async def test_what_was_paused_before_delivery_dies_with_its_client(
    proxy: WireProxy, client: httpx.AsyncClient, server: Server
) -> None:
    rule = proxy.add(path="/a", fault=Pause("before"))
    async with httpx.AsyncClient(base_url=proxy.url, trust_env=False) as killed:
        asked = asyncio.create_task(killed.get("/a"))
        await rule.met.wait()
        asked.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asked
    proxy.clear()
    assert (await client.get("/b")).json()["asked"] == 1


async def test_a_hang_ends_with_a_reset_when_it_is_released(proxy: WireProxy, client: httpx.AsyncClient, server: Server) -> None:
    rule = proxy.add(path="/a", fault=Hang())
    asked = asyncio.create_task(client.get("/a"))
    await rule.met.wait()
    rule.release()
    with pytest.raises(httpx.TransportError):
        await asked
    assert server.bodies == []


async def test_a_client_that_goes_away_is_gone_for_the_upstream_too(proxy: WireProxy, server: Server) -> None:
    server.gate.clear()
    async with httpx.AsyncClient(base_url=proxy.url, trust_env=False) as gone:
        asked = asyncio.create_task(gone.get("/a"))
        await until(lambda: len(server.bodies) == 1)
        asked.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asked
    connection = next(iter(server.connections))
    await until(connection.is_closing)  # type: ignore[attr-defined]


async def test_a_rule_may_ask_for_a_body(proxy: WireProxy, client: httpx.AsyncClient) -> None:
    proxy.add(path="/a", body=r'"n":\s*2', fault=Status(500), times=None)
    assert [(await client.post("/a", json={"n": n})).status_code for n in (1, 2, 3)] == [200, 500, 200]


async def test_an_upstream_that_is_away_resets_and_comes_back(
    proxy: WireProxy, client: httpx.AsyncClient, server: Server
) -> None:
    port = server.runner.addresses[0][1]
    await client.get("/a")
    await server.runner.cleanup()
    with pytest.raises(httpx.TransportError):
        await client.get("/a")
    again = await Server().start(port)
    try:
        assert (await client.get("/a")).json()["asked"] == 1
    finally:
        await again.runner.cleanup()
