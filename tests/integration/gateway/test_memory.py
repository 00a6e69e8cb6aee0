"""Many open requests do not grow the gateway by their bodies."""

import asyncio
import resource
import socket
from typing import Any

import psutil
import pytest
from aiohttp import web

MB = 2**20
PARKED = 2000
KB_EACH = 150
"""Bound for one parked request with a body of 1 MB, in kB of the gateway's memory."""


@pytest.fixture
def many_files() -> Any:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = PARKED * 3
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"needs {wanted} open files; the limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.soak
async def test_2000_parked_uploads_of_1_mb_each_grow_the_gateway_by_little_and_all_arrive(
    many_files: None, gateway_process: Any, site_of: Any, name: Any, upstream: Any, until: Any
) -> None:
    arrived = 0
    whole = 0

    async def count(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal arrived, whole
        arrived += 1
        total = 0
        while chunk := await request.content.readany():
            total += len(chunk)
        whole += total == MB
        return web.Response(status=204)

    upstream.answer = count
    running = await asyncio.to_thread(gateway_process(hold_max=60, parked_per_tenant=PARKED + 1, release_rate=500).start)
    site = site_of(running.url)
    old = await site.register(f"{name('m')}-1.0.0", upstream.url)
    tenant = await site.tenant(old)
    product = old.removesuffix("-1.0.0")
    new = await site.register(f"{product}-2.0.0", upstream.url)
    job = await site.job(tenant, new)
    await job.held(new)
    process = psutil.Process(running.pid)
    before = process.memory_info().rss
    body = bytes(MB)
    wire = f"POST /{product} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\nContent-Length: {MB}\r\n\r\n".encode()

    loop = asyncio.get_running_loop()

    async def upload() -> bytes:
        with socket.socket() as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, ("127.0.0.1", site.port))
            await loop.sock_sendall(sock, wire + body[: 2**16])
            await loop.sock_sendall(sock, memoryview(body)[2**16 :])  # a StreamWriter would keep a copy of it
            return await loop.sock_recv(sock, 1000)

    waiting = []
    for number in range(100, PARKED + 1, 100):
        waiting += [asyncio.create_task(upload()) for _ in range(100)]
        await until(lambda number=number: all_parked(site, tenant, number))
    grown = process.memory_info().rss - before
    assert grown < PARKED * KB_EACH * 1000, f"{grown / PARKED / 1000:.1f} kB a parked request"
    assert arrived == 0
    await job.resume(new)
    answers = await asyncio.gather(*waiting)
    assert all(b" 204 " in answer for answer in answers)
    assert (arrived, whole) == (PARKED, PARKED)
    assert process.memory_info().rss - before < 1.5 * PARKED * KB_EACH * 1000
    await site.close()


async def all_parked(site: Any, tenant: str, number: int) -> bool:
    return bool(await site.parked(tenant) == number)
