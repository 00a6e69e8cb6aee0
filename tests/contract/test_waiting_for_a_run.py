"""Requesters with the kit's transports while a run of the real gateway holds what they ask for."""

import asyncio
from typing import Any

import httpx
import pytest

from gateway_client import LifecycleTransport, ModuleDelayed, SyncLifecycleTransport


@pytest.fixture
async def held(real_site: Any, name: Any) -> Any:
    """A tenant, a module's path and a run that holds it; and what stands in the way of the module's answers."""
    got: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        got.append(head.decode())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nserved")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    product = name("m")
    module = f"{product}-1.0.0"
    await real_site.register(module, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await real_site.register(f"{product}-1.1.0", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    tenant = await real_site.tenant(module)
    job = await real_site.job(tenant, f"{product}-1.1.0")
    await job.held(f"{product}-1.1.0")
    yield tenant, f"/{product}", job, got
    server.close()


async def test_whoever_has_a_budget_is_served_when_the_run_is_done(real_site: Any, held: Any) -> None:
    tenant, path, job, got = held
    headers = {"X-Okapi-Tenant": tenant}

    def ask_in_a_thread() -> httpx.Response:
        with httpx.Client(transport=SyncLifecycleTransport(budget=30), base_url=real_site.url, headers=headers) as http:
            return http.post(path, json={"a": 1})

    async with httpx.AsyncClient(transport=LifecycleTransport(budget=30), base_url=real_site.url, headers=headers) as http:
        waiting = asyncio.gather(http.post(path, json={"a": 1}), asyncio.to_thread(ask_in_a_thread))
        async with asyncio.timeout(15):
            while (await http.get(f"/_/lifecycle/links?tenant={tenant}")).json()[0]["hold"] != "HELD":
                await asyncio.sleep(0.01)
        assert got == []
        await job.switch(f"{path[1:]}-1.1.0")
        assert [answer.text for answer in await waiting] == ["served", "served"]
    assert len(got) == 2
    await job.finish()


async def test_whoever_has_none_is_told(real_site: Any, held: Any) -> None:
    tenant, path, job, got = held
    async with httpx.AsyncClient(transport=LifecycleTransport(budget=0), base_url=real_site.url) as http:
        with pytest.raises(ModuleDelayed, match="is being updated") as delayed:
            await http.get(path, headers={"X-Okapi-Tenant": tenant})
    assert (delayed.value.tenant, got) == (tenant, [])
    assert delayed.value.retry_after is not None
    await job.switch(f"{path[1:]}-1.1.0")
    await job.finish()
