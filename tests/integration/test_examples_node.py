"""The example in another language keeps the protocol honest: plain HTTP, with the gateway in memory and the real one."""

import asyncio
import contextlib
import importlib.util
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway_client.testing import InMemoryGateway

NODE = shutil.which("node")
NOTES = Path(__file__).parents[2] / "examples" / "notes-node" / "notes.mjs"
PATIENCE = 15.0
pytestmark = pytest.mark.skipif(NODE is None, reason="node is not on this machine: the example in Node is not tested")


@dataclass(kw_only=True)
class Platform:
    """A gateway on a socket."""

    url: str
    enable: Callable[[str], Awaitable[str]]


@dataclass(kw_only=True)
class Notes:
    """mod-notes, running."""

    process: asyncio.subprocess.Process
    url: str
    platform: Platform
    http: httpx.AsyncClient

    async def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()

    async def ask(self, tenant: str, method: str = "GET", path: str = "/notes", **more: Any) -> httpx.Response:
        headers = {"X-Okapi-Tenant": tenant, **more.pop("headers", {})}
        return await self.http.request(method, self.platform.url + path, headers=headers, **more)


@pytest.fixture
async def in_memory() -> AsyncIterator[Platform]:
    upstream = httpx.AsyncHTTPTransport()
    async with InMemoryGateway(upstream=upstream) as gateway, gateway.listening() as url:

        async def enable(module: str) -> str:
            gateway.enable("diku", module)
            return "diku"

        yield Platform(url=url, enable=enable)


@pytest.fixture
async def real(postgres_dsn: Callable[[], str]) -> AsyncIterator[Platform]:
    path = Path(__file__).parent / "gateway" / "conftest.py"
    spec = importlib.util.spec_from_file_location("real_gateway_of_the_examples", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    running = await asyncio.to_thread(module.Running(await asyncio.to_thread(postgres_dsn)).start)
    site = module.Site(running.url, running.dsn, running=running)
    try:
        yield Platform(url=running.url, enable=site.tenant)
    finally:
        await site.close()
        await asyncio.to_thread(running.stop)


@pytest.fixture(params=["in_memory", "real"])
def platform(request: pytest.FixtureRequest) -> Platform:
    found: Platform = request.getfixturevalue(request.param)
    return found


@pytest.fixture
async def notes(platform: Platform) -> AsyncIterator[Notes]:
    assert NODE is not None
    process = await asyncio.create_subprocess_exec(
        NODE, str(NOTES), "--gateway", platform.url, "--port", "0", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE), httpx.AsyncClient(timeout=30, trust_env=False) as http:
            line = (await process.stdout.readline()).decode()
            assert "answers at" in line, line + (await process.stdout.read()).decode()
            yield Notes(process=process, url=line.split()[-1], platform=platform, http=http)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def eventually(fact: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await fact():
            await asyncio.sleep(0.01)


async def test_it_registers_serves_updates_itself_and_leaves(notes: Notes) -> None:
    assert (await notes.http.get(f"{notes.url}/admin/health")).text == "OK"
    tenant = await notes.platform.enable("mod-notes-1.0.0")
    assert (await notes.ask(tenant, "POST", json={"text": "three short words"})).status_code == 201
    assert (await notes.ask(tenant)).json() == [{"text": "three short words"}]

    own = {"X-Okapi-Tenant": tenant}
    migrating = asyncio.create_task(notes.http.post(f"{notes.url}/admin/migration?seconds=1", headers=own))

    async def delayed() -> bool:
        answer = await notes.ask(tenant, headers={"X-Okapi-Lifecycle": "delay"})
        return answer.status_code == 503 and answer.headers["X-Okapi-Lifecycle"] == "DELAY"

    await eventually(delayed)
    plain = asyncio.create_task(notes.ask(tenant))
    assert (await migrating).json()["hold"].startswith("notes-")
    assert (await plain).json() == [{"text": "three short words", "words": 3}]

    assert await notes.end() == 0
    assert (await notes.http.get(f"{notes.platform.url}/_/discovery/modules")).json() == []
    assert (await notes.ask(tenant, headers={"X-Okapi-Lifecycle": "delay"})).status_code == 503


async def test_it_is_told_of_its_own_update(notes: Notes, platform: Platform) -> None:
    tenant = await platform.enable("mod-notes-1.0.0")
    answer = await notes.http.post(f"{notes.url}/admin/migration", headers={"X-Okapi-Tenant": tenant})
    assert answer.status_code == 200, answer.text

    async def told() -> bool:
        pushed = (await notes.http.get(f"{notes.url}/admin/pushed")).json()
        return [push["event"] for push in pushed if push["tenant"] == tenant] == ["UPDATE", "RESUME"]

    await eventually(told)


async def test_it_is_no_longer_than_a_page_or_two() -> None:
    assert len(NOTES.read_text(encoding="utf-8").splitlines()) <= 130
