"""The example modules run by hand: they register themselves, wait for each other through the gateway, and leave."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit
from uuid import UUID

import httpx
import pytest

from gateway_client import LifecycleRequest
from gateway_client.testing import InMemoryGateway

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0
Start = Callable[[str], Awaitable[asyncio.subprocess.Process]]


@pytest.fixture
async def gateway() -> AsyncIterator[InMemoryGateway]:
    async with InMemoryGateway(upstream=httpx.AsyncHTTPTransport()) as made, made.listening():
        yield made


@pytest.fixture
async def start(gateway: InMemoryGateway, postgres_dsn: Callable[[], str]) -> AsyncIterator[Start]:
    """Starts an example as somebody would by hand, and waits until it is registered."""
    address = urlsplit(await asyncio.to_thread(postgres_dsn))
    env = os.environ | {
        "DB_HOST": address.hostname or "",
        "DB_PORT": str(address.port),
        "DB_USERNAME": unquote(address.username or ""),
        "DB_PASSWORD": unquote(address.password or ""),
        "DB_DATABASE": address.path.removeprefix("/"),
    }
    running: list[asyncio.subprocess.Process] = []

    async def run(name: str) -> asyncio.subprocess.Process:
        command = [f"examples.{name}", "--version", "1.0.0", "--port", "0", "--dialect", "sync", "--gateway", gateway.url]
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", *command, cwd=ROOT, env=env, stderr=subprocess.PIPE)
        running.append(process)
        assert process.stderr is not None
        seen = ""
        async with asyncio.timeout(PATIENCE):
            while not re.search(r"answers at \S+", seen):
                line = await process.stderr.readline()
                assert line, seen
                seen += line.decode()
        return process

    yield run
    for process in running:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_by_hand_they_register_wait_for_each_other_and_leave(gateway: InMemoryGateway, start: Start) -> None:
    await start("users")
    loans = await start("loans")
    user, tenant = UUID(int=1), {"X-Okapi-Tenant": "diku"}
    gateway.enable("diku", "mod-users-1.0.0", "mod-loans-1.0.0")
    async with (
        httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE, headers=tenant, trust_env=False) as http,
        gateway.client() as client,
    ):
        for instance in (await http.get("/_/discovery/modules")).json():
            answer = await http.post(f"{instance['url']}/_/tenant", json={"module_to": instance["srvcId"]})
            assert answer.status_code == 201, answer.text
        assert (await http.put(f"/users/{user}", json={"name": "Ada Lovelace"})).status_code == 201

        await client.signal("mod-users-1.0.0", LifecycleRequest(event="UPDATE", tenant="diku", hold="by-hand-1"))
        lending = asyncio.create_task(http.put(f"/loans/{UUID(int=2)}", json={"user_id": str(user), "item": "Logic"}))
        await client.signal("mod-users-1.0.0", LifecycleRequest(event="RESUME", hold="by-hand-1"))
        assert (await lending).status_code == 201

        await client.signal("mod-users-1.0.0", LifecycleRequest(event="UPDATE", tenant="diku", hold="by-hand-2", ttl=0.1))
        refused = await http.put(f"/loans/{UUID(int=3)}", json={"user_id": str(user), "item": "Logic"})
        assert (refused.status_code, refused.text[:22]) == (503, "Service not available.")
        assert int(refused.headers["Retry-After"]) > 0

        loans.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(loans.wait(), PATIENCE) == 0
        (left,) = (await http.get("/_/discovery/modules")).json()
        assert left["srvcId"] == "mod-users-1.0.0"
