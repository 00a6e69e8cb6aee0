"""The code on the page about writing a module runs."""

import ast
import asyncio
import inspect
import io
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway_client import LifecycleEvent, LifecycleTransport, Module, ModuleInterrupted
from gateway_client.testing import InMemoryGateway
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "write-a-module.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
PATIENCE = 30.0
DESCRIPTOR: dict[str, Any] = {
    "id": "mod-users-1.0.0",
    "provides": [
        {
            "id": "users",
            "version": "1.0",
            "handlers": [{"methods": ["GET"], "pathPattern": "/*", "permissionsRequired": []}],
        }
    ],
}


def block(word: str) -> str:
    (found,) = (code for code in BLOCKS if word in code)
    return str(found)


async def run(code: str, **names: Any) -> dict[str, Any]:
    """Run a block as if it stood in a coroutine; gives its names."""
    done = eval(compile(code, "write-a-module.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    if inspect.isawaitable(done):
        await done
    return names


async def served(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, text="served")


@pytest.fixture
async def gateway() -> AsyncIterator[InMemoryGateway]:
    async with InMemoryGateway(upstream=httpx.AsyncHTTPTransport()) as made:
        made.serve("http://users.test", served)
        yield made


@pytest.fixture
def module(gateway: InMemoryGateway) -> Module:
    return Module(DESCRIPTOR, gateway=gateway.url, url="http://users.test", transport=gateway.transport, environ={})


async def eventually(fact: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await fact():
            await asyncio.sleep(0.02)


async def test_the_whole_module_runs_is_reached_and_leaves(gateway: InMemoryGateway) -> None:
    port = free_port()
    async with gateway.listening() as url:
        code = block("def hello").replace("http://127.0.0.1:9130", url).replace("9200", str(port))
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=ROOT, stderr=subprocess.PIPE)
        async with httpx.AsyncClient(base_url=url, headers={"X-Okapi-Tenant": "diku"}, trust_env=False) as http:

            async def registered() -> bool:
                assert process.returncode is None
                return bool((await http.get("/_/discovery/modules")).json())

            await eventually(registered)
            gateway.enable("diku", "mod-hello-1.0.0")
            assert (await http.get("/hello")).text == "hello diku"
            process.send_signal(signal.SIGTERM)
            _, errors = await asyncio.wait_for(process.communicate(), PATIENCE)
            assert (process.returncode, errors) == (0, b"")
            assert not await registered_at(http)


async def test_the_whole_module_ends_on_sigterm_while_the_gateway_is_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free, socket.socket() as away:
        port = free.getsockname()[1]
        away.bind(("127.0.0.1", 0))  # nobody listens there
        free.close()
        code = block("def hello").replace(":9130", f":{away.getsockname()[1]}").replace("9200", str(port))
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=ROOT, stderr=subprocess.PIPE)
        assert process.stderr is not None
        line = await asyncio.wait_for(process.stderr.readline(), PATIENCE)
        assert b"the gateway does not answer, trying on" in line
        process.send_signal(signal.SIGTERM)
        _, errors = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert (process.returncode, errors) == (0, b"")


async def registered_at(http: httpx.AsyncClient) -> bool:
    return bool((await http.get("/_/discovery/modules")).json())


async def test_the_update_holds_its_tenant(gateway: InMemoryGateway, module: Module) -> None:
    async def split_names(tenant: str) -> None:
        async with gateway.client() as client:
            held.extend((link.tenant, link.hold) for link in await client.links(tenant=tenant))

    held: list[tuple[str, str]] = []
    async with module:
        await run(block("split_names"), module=module, split_names=split_names)
    assert held == [("diku", "HELD")]


async def test_the_call_of_another_module_tells_people() -> None:
    told: list[Any] = []

    class Elsewhere(LifecycleTransport):
        def __init__(self, *, budget: float) -> None:
            assert budget == 30
            missing = httpx.Response(503, headers={"X-Okapi-Lifecycle": "MISSING"})
            super().__init__(budget=budget, transport=httpx.MockTransport(lambda _: missing))

    names = {"okapi_url": "http://g.test", "okapi_headers": {}, "tell": lambda *words: told.extend(words)}
    await run(
        block("LifecycleTransport"), httpx=httpx, LifecycleTransport=Elsewhere, ModuleInterrupted=ModuleInterrupted, **names
    )
    assert told == ["Service not available. Please try again later; if it stays so, tell your administrator.", None]


async def test_the_wsgi_recipe_registers_answers_and_leaves_the_rest(gateway: InMemoryGateway) -> None:
    names = await run(block("with_lifecycle"))
    told: list[LifecycleEvent] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"mine"]

    async with gateway.listening() as url:
        module = Module(DESCRIPTOR, gateway=url, url="http://users.test", environ={})
        wrapped = names["with_lifecycle"](app, module, told.append)
        push = b'{"event": "UPDATE", "module": "mod-users", "tenant": "diku"}'
        statuses: list[str] = []

        def ask(method: str, path: str, body: bytes = b"") -> bytes:
            environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "CONTENT_LENGTH": str(len(body))}
            parts = wrapped(environ | {"wsgi.input": io.BytesIO(body)}, lambda status, _: statuses.append(status[:3]))
            return b"".join(parts)

        assert [ask("GET", "/admin/health"), ask("POST", "/_/lifecycle", push), ask("GET", "/users")] == [b"OK", b"", b"mine"]
        assert (statuses, [event.event for event in told]) == (["200", "204", "200"], ["UPDATE"])
        leave = await asyncio.to_thread(names["register"], module)
        async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
            assert await registered_at(http)
            await asyncio.to_thread(leave)
            assert not await registered_at(http)


async def test_the_test_with_the_gateway_in_memory_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UPLIFT_INSTANCE", raising=False)
    names = {"InMemoryGateway": InMemoryGateway, "Module": Module, "httpx": httpx, "DESCRIPTOR": DESCRIPTOR, "users": served}
    found = await run(block("InMemoryGateway"), **names)
    assert found["answer"].text == "served"


def test_every_block_of_the_page_is_one_of_these() -> None:
    words = ("def hello", "split_names", "LifecycleTransport", "with_lifecycle", "InMemoryGateway")
    assert sorted(BLOCKS) == sorted(block(word) for word in words)
