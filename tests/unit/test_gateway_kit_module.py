"""What a module of the kit says to the gateway, and what it does when the gateway does not answer; against the one in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from aiohttp import ClientSession, web

from gateway_client import (
    GatewayRefused,
    GatewayUnavailable,
    HoldStays,
    LifecycleEvent,
    LifecycleRequest,
    Module,
    PushAnswer,
)
from gateway_client.testing import InMemoryGateway

DESCRIPTOR: dict[str, Any] = {
    "id": "mod-a-1.0.0",
    "provides": [
        {"id": "a", "version": "1.0", "handlers": [{"methods": ["*"], "pathPattern": "/a*", "permissionsRequired": []}]}
    ],
}
TOLD = {"methods": ["POST"], "pathPattern": "/a/told", "permissionsRequired": []}
PUSHED = {**DESCRIPTOR, "provides": [*DESCRIPTOR["provides"], {"id": "_lifecycle", "version": "1.0", "handlers": [TOLD]}]}
URL = "http://a.test"


class Between(httpx.AsyncBaseTransport):
    """What stands between a module and its gateway: notes requests, and may lose them or their answers."""

    def __init__(self, gateway: InMemoryGateway) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.lose: Callable[[httpx.Request], str] = lambda _: ""
        self._gateway = gateway

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append((request.method, request.url.path, request.content.decode()))
        lost = self.lose(request)
        if lost == "request":
            raise httpx.ConnectError("nobody there")
        answer = await self._gateway.handle(request)
        if lost == "answer":
            raise httpx.ReadError("cut off")
        return answer

    def signals(self) -> list[LifecycleRequest]:
        return [
            LifecycleRequest.model_validate_json(body)
            for method, path, body in self.asked
            if method == "POST" and path.startswith("/_/lifecycle/")
        ]


async def served(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, text="served")


@pytest.fixture
async def gateway() -> AsyncIterator[InMemoryGateway]:
    async with InMemoryGateway() as made:
        made.serve(URL, served)
        yield made


@pytest.fixture
def between(gateway: InMemoryGateway) -> Between:
    return Between(gateway)


@pytest.fixture
def module(gateway: InMemoryGateway, between: Between) -> Module:
    return Module(DESCRIPTOR, gateway=gateway.url, url=URL, transport=between, environ={})


async def state_of(gateway: InMemoryGateway) -> list[str]:
    async with gateway.client() as client:
        return [link.hold for link in await client.links()]


async def test_it_registers_says_resume_and_at_last_disconnect(module: Module, between: Between) -> None:
    async with module:
        pass
    assert [(method, path) for method, path, _ in between.asked] == [
        ("POST", "/_/proxy/modules"),
        ("POST", "/_/discovery/modules"),
        ("POST", "/_/lifecycle/mod-a-1.0.0"),
        ("POST", "/_/lifecycle/mod-a-1.0.0"),
    ]
    assert [signal.event for signal in between.signals()] == ["RESUME", "DISCONNECT"]
    assert {signal.instance for signal in between.signals()} == {"mod-a-1.0.0-a.test"}


async def test_a_deployed_instance_only_signals_and_may_be_early(gateway: InMemoryGateway, between: Between) -> None:
    async with gateway.client() as client:
        await client.register_module(DESCRIPTOR)
    environ = {"UPLIFT_GATEWAY_URL": gateway.url, "UPLIFT_INSTANCE": "i-7", "UPLIFT_INSTANCE_TOKEN": "secret"}
    async with Module(DESCRIPTOR, transport=between, environ=environ) as module:
        assert (module.deployed, module.instance) == (True, "i-7")
    assert [signal.event for signal in between.signals()] == ["RESUME", "DISCONNECT"]


async def test_the_token_is_sent() -> None:
    async with InMemoryGateway(token="secret") as gateway:
        gateway.serve(URL, served)
        async with Module(DESCRIPTOR, gateway=gateway.url, url=URL, token="secret", transport=gateway.transport, environ={}):
            pass
        with pytest.raises(GatewayRefused) as refused:
            await Module(DESCRIPTOR, gateway=gateway.url, url=URL, transport=gateway.transport, environ={}).__aenter__()
        assert refused.value.status == 401


def test_what_is_missing_is_said_with_its_remedy() -> None:
    with pytest.raises(ValueError, match="set UPLIFT_GATEWAY_URL"):
        Module(DESCRIPTOR, url=URL, environ={})
    with pytest.raises(ValueError, match="Give url="):
        Module(DESCRIPTOR, gateway="http://gateway.test", environ={})


async def test_it_waits_for_a_gateway_that_is_not_there_yet(module: Module, between: Between) -> None:
    between.lose = lambda _: "request" if len(between.asked) < 3 else ""
    async with module:
        assert [path for _, path, _ in between.asked[:3]] == ["/_/proxy/modules"] * 3


async def test_its_patience_may_be_bounded(gateway: InMemoryGateway, between: Between) -> None:
    between.lose = lambda _: "request"
    with pytest.raises(GatewayUnavailable, match="nobody there"):
        async with Module(DESCRIPTOR, gateway=gateway.url, url=URL, transport=between, patience=0.05, environ={}):
            pass


async def test_leaving_without_being_heard_is_no_error(module: Module, between: Between) -> None:
    async with module:
        between.lose = lambda _: "request"


async def test_an_update_whose_answers_are_lost_is_one_update(module: Module, between: Between) -> None:
    def every_other(request: httpx.Request) -> str:
        return "answer" if request.url.path.startswith("/_/lifecycle/") and len(between.asked) % 2 else ""

    async with module:
        between.asked.clear()
        between.lose = every_other
        async with module.updating(tenant="t", ttl=60, grace=1, reason="a column"):
            pass
        between.lose = lambda _: ""
        signals = between.signals()
        assert {signal.hold for signal in signals} == {signals[0].hold}
        assert (signals[0].event, signals[-1].event) == ("UPDATE", "RESUME")
        assert (signals[0].tenant, signals[0].ttl, signals[0].grace, signals[0].reason) == ("t", 60, 1, "a column")


async def test_given_up_before_it_began_an_update_leaves_no_hold(gateway: InMemoryGateway, module: Module) -> None:
    gate, reached = asyncio.Event(), asyncio.Event()

    async def slow(_: httpx.Request) -> httpx.Response:
        reached.set()
        await gate.wait()
        return httpx.Response(200)

    gateway.serve(URL, slow)
    async with module, httpx.AsyncClient(transport=gateway.transport, base_url=gateway.url) as http:
        gateway.enable("t", module.id)
        request = asyncio.create_task(http.get("/a", headers={"X-Okapi-Tenant": "t"}))
        await reached.wait()

        async def update() -> None:
            async with module.updating(tenant="t"):
                raise AssertionError("it must not begin")

        updating = asyncio.create_task(update())
        while await state_of(gateway) != ["DRAINING"]:
            await asyncio.sleep(0)
        updating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await updating
        assert await state_of(gateway) == []
        gate.set()
        assert (await request).status_code == 200


async def test_broken_off_an_update_leaves_its_hold_and_says_so(gateway: InMemoryGateway, module: Module) -> None:
    async with module:
        begun = asyncio.Event()

        async def update() -> None:
            async with module.updating(tenant="t"):
                begun.set()
                await asyncio.Event().wait()

        updating = asyncio.create_task(update())
        await begun.wait()
        updating.cancel()
        with pytest.raises(asyncio.CancelledError) as broken:
            await updating
        async with gateway.client() as client:
            (link,) = await client.links()
        assert (link.hold, link.tenant) == ("HELD", "t")
        assert str(link.hold_id) in broken.value.__notes__[0]


async def test_a_done_update_whose_resume_is_not_heard_says_what_to_do(gateway: InMemoryGateway, between: Between) -> None:
    made = Module(DESCRIPTOR, gateway=gateway.url, url=URL, transport=between, patience=0.3, environ={})
    async with made as module:
        with pytest.raises(HoldStays, match="the update is done") as stays:
            async with module.updating():
                between.lose = lambda _: "request"
        between.lose = lambda _: ""
        assert (stays.value.tenant, stays.value.module) == ("*", module.id)
        await module.resume(stays.value.hold)
        assert await state_of(gateway) == []


async def test_an_update_whose_hold_was_taken_away_does_not_begin(
    gateway: InMemoryGateway, module: Module, between: Between
) -> None:
    async with module:

        async def take_away(request: httpx.Request) -> None:
            async with gateway.client() as client:
                hold = request.url.path.rpartition("/")[2]
                await client.signal(module.id, LifecycleRequest(event="RESUME", hold=hold))

        original = between.handle_async_request

        async def handle(request: httpx.Request) -> httpx.Response:
            if "/delays/" in request.url.path:
                await take_away(request)
            return await original(request)

        between.handle_async_request = handle  # type: ignore[method-assign]
        with pytest.raises(GatewayRefused, match="was taken away"):
            async with module.updating():
                raise AssertionError("it must not begin")


PUSH = b'{"event": "UPDATE", "module": "mod-a", "tenant": "t", "delay": "/_/lifecycle/delays/h"}'
EVENT = LifecycleEvent(event="UPDATE", module="mod-a", tenant="t", delay="/_/lifecycle/delays/h")


@pytest.mark.parametrize(
    ("method", "path", "body", "answer"),
    [
        ("GET", "/admin/health", b"", PushAnswer(status=200, text="OK")),
        ("POST", "/a/told", PUSH, PushAnswer(status=204, event=EVENT)),
        ("POST", "/a/told", b'{"event": "NEW", "module": "m", "tenant": "t"}', PushAnswer(status=204)),
        ("POST", "/a/told", b"[]", PushAnswer(status=400, text="a push is a JSON object with event, module and tenant")),
        ("POST", "/a/told", b"{}", PushAnswer(status=400, text="a push is a JSON object with event, module and tenant")),
        ("GET", "/a/told", b"", None),
        ("POST", "/_/lifecycle", PUSH, None),
        ("GET", "/a", b"", None),
    ],
)  # fmt: skip
def test_it_answers_pushes_and_health_and_nothing_else(method: str, path: str, body: bytes, answer: PushAnswer | None) -> None:
    module = Module(PUSHED, gateway="http://gateway.test", url=URL, environ={})
    assert module.answers(method, path, body) == answer


async def test_an_aiohttp_application_is_told_of_pushes() -> None:
    told: list[LifecycleEvent] = []
    module = Module(PUSHED, gateway="http://gateway.test", url=URL, environ={}, on_event=told.append)
    app = web.Application()
    app.add_routes(module.aiohttp_routes())
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with ClientSession() as session:
        async with session.get(f"{url}/admin/health") as health:
            assert (health.status, await health.text()) == (200, "OK")
        async with session.post(f"{url}/a/told", data=PUSH) as pushed:
            assert (pushed.status, told) == (204, [EVENT])
        async with session.post(f"{url}/a/told", data=b"?") as wrong:
            assert wrong.status == 400
    await runner.cleanup()


async def test_an_asgi_application_is_told_of_pushes_and_keeps_the_rest() -> None:
    told: list[LifecycleEvent] = []

    async def on_event(event: LifecycleEvent) -> None:
        told.append(event)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"mine: " + (await receive())["body"]})

    module = Module(PUSHED, gateway="http://gateway.test", url=URL, environ={}, on_event=on_event)
    transport = httpx.ASGITransport(module.asgi(app))
    async with httpx.AsyncClient(transport=transport, base_url="http://a.test") as http:
        assert (await http.get("/admin/health")).text == "OK"
        assert (await http.head("/admin/health")).content == b""
        assert (await http.post("/a/told", content=PUSH)).status_code == 204
        assert told == [EVENT]
        assert (await http.post("/a", content=b"x")).text == "mine: x"
        assert (await http.get("/a/told")).text == "mine: "
