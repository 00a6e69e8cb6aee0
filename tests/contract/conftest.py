"""The gateways that the shared contract is run against: the one in memory, and the real one on real sockets."""

import asyncio
import contextlib
import importlib.util
import itertools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from gateway_client import GatewayClient
from gateway_client.testing import Handler, InMemoryGateway

_REAL = Path(__file__).parents[1] / "integration" / "gateway" / "conftest.py"
_numbers = itertools.count(1)
PATIENCE = 15.0


class Ground:
    """A gateway under test, and what both kinds need of the tests' own."""

    def __init__(self, *, url: str, transport: httpx.AsyncBaseTransport | None) -> None:
        self.url = url
        self.transport = transport
        self.http = httpx.AsyncClient(base_url=url, transport=transport, timeout=30, trust_env=False)
        self.client = GatewayClient(url=url, transport=transport)

    async def aclose(self) -> None:
        await self.http.aclose()
        await self.client.close()

    async def serve(self, handler: Handler) -> str:
        """Start an instance; gives its address."""
        raise NotImplementedError

    async def enable(self, *modules: str) -> str:
        """A new tenant with these registered modules."""
        raise NotImplementedError

    async def register(self, module: str, url: str | None = None, **more: Any) -> str:
        """Register a module that answers below `/{product}`, and an instance of it."""
        await self.client.register_module(described(module, **more))
        if url is not None:
            await self.client.register_instance(module=module, instance=f"{module}-i", url=url)
        return module

    async def wired(self, handler: Handler) -> tuple[str, str, str]:
        """A tenant with one module: the tenant, the module id and its path."""
        product = unique("m")
        module = await self.register(f"{product}-1.0.0", await self.serve(handler))
        return await self.enable(module), module, f"/{product}"

    async def signal(self, module: str, event: str, **members: Any) -> httpx.Response:
        return await self.http.post(f"/_/lifecycle/{module}", json={"event": event, **members})

    async def get(self, tenant: str, path: str, **headers: str) -> httpx.Response:
        sent = {"X-Okapi-Tenant": tenant, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return await self.http.get(path, headers=sent)

    async def held(self, module: str, **members: Any) -> str:
        """UPDATE, waited for until it may begin; the hold's id."""
        answer = await self.signal(module, "UPDATE", **members)
        assert answer.status_code == 202, answer.text
        hold: str = answer.json()["id"]
        state = await self.client.delay(hold, wait=PATIENCE)
        assert (state.lifecycle, state.state) == ("RESUME", "HELD")
        return hold


def unique(word: str) -> str:
    return f"{word}{next(_numbers)}"


def described(module: str, **more: Any) -> dict[str, Any]:
    product, _, version = module.rpartition("-")
    handlers = [{"methods": ["*"], "pathPattern": f"/{product}*", "permissionsRequired": []}]
    provides = [{"id": product, "version": version.rpartition(".")[0], "handlers": handlers}, *more.pop("provides", [])]
    return {"id": module, "provides": provides, **more}


class _Memory(Ground):
    def __init__(self, gateway: InMemoryGateway) -> None:
        super().__init__(url=gateway.url, transport=gateway.transport)
        self._gateway = gateway

    async def serve(self, handler: Handler) -> str:
        url = f"http://{unique('instance')}.test"
        self._gateway.serve(url, handler)
        return url

    async def enable(self, *modules: str) -> str:
        tenant = unique("t")
        self._gateway.enable(tenant, *modules)
        return tenant


class _Real(Ground):
    def __init__(self, site: Any) -> None:
        super().__init__(url=site.url, transport=None)
        self._site = site
        self._runners: list[web.ServerRunner] = []

    async def serve(self, handler: Handler) -> str:
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            asked = httpx.Request(
                request.method, str(request.url), headers=list(request.headers.items()), content=await request.read()
            )
            found = await handler(asked)
            kept = {name: value for name, value in found.headers.items() if name != "content-length"}
            return web.Response(status=found.status_code, body=found.content, headers=kept)

        self._runners.append(
            web.ServerRunner(web.Server(answer, handler_cancellation=True, access_log=None), shutdown_timeout=0.1)
        )
        await self._runners[-1].setup()
        await web.TCPSite(self._runners[-1], "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runners[-1].addresses[0][1]}"

    async def enable(self, *modules: str) -> str:
        tenant: str = await self._site.tenant(*modules)
        return tenant

    async def aclose(self) -> None:
        await super().aclose()
        for runner in self._runners:
            await runner.cleanup()


@pytest.fixture(scope="session")
async def real_site(postgres_dsn: Callable[[], str]) -> AsyncIterator[Any]:
    """A real gateway, run as the gateway's own tests run it."""
    spec = importlib.util.spec_from_file_location("real_gateway_of_the_contract", _REAL)
    assert spec is not None
    assert spec.loader is not None
    real = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = real
    spec.loader.exec_module(real)
    running = await asyncio.to_thread(real.Running(await asyncio.to_thread(postgres_dsn)).start)
    site = real.Site(running.url, running.dsn, running=running)
    yield site
    await site.close()
    await asyncio.to_thread(running.stop)


@pytest.fixture
async def memory_ground() -> AsyncIterator[Ground]:
    """The gateway in memory."""
    async with InMemoryGateway(grace=5, hold_max=10) as gateway, contextlib.aclosing(_Memory(gateway)) as made:
        yield made


@pytest.fixture
async def real_ground(real_site: Any) -> AsyncIterator[Ground]:
    """The real gateway."""
    async with contextlib.aclosing(_Real(real_site)) as made:
        yield made


@pytest.fixture(params=["memory", "real"])
def ground(request: pytest.FixtureRequest) -> Ground:
    """Each gateway in turn."""
    made: Ground = request.getfixturevalue(f"{request.param}_ground")
    return made


@pytest.fixture
def name() -> Callable[[str], str]:
    """Names that no other test uses."""
    return unique


@pytest.fixture
def describe() -> Callable[..., dict[str, Any]]:
    """Descriptors."""
    return described


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """Wait until something is so; it may be a coroutine function."""

    async def wait(fact: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE):
            while True:
                found = fact()
                if isinstance(found, Awaitable):
                    found = await found
                if found:
                    return
                await asyncio.sleep(0.01)

    return wait
