"""A gateway process that is asked to end: nobody who is connected is cut off, and it goes as soon as nothing is open."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

PATIENCE = 15.0
LONG = 60.0  # longer than any test: what it limits must not be what ends a wait


class Leaving:
    """A gateway process with a module and a tenant, and connections to it."""

    def __init__(self, process: Any, site: Any, upstream: Any) -> None:
        self.process = process
        self.site = site
        self.upstream = upstream
        self.tenant = ""
        self.product = ""

    async def wire(self) -> "Leaving":
        self.tenant, self.product = await self.site.wired(self.upstream.url)
        return self

    @property
    def request(self) -> bytes:
        return f"GET /{self.product} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {self.tenant}\r\n\r\n".encode()

    async def ask_to_end(self, signum: int = signal.SIGTERM) -> None:
        """Send the signal, and wait until it listens no more."""
        self.process.process.send_signal(signum)
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.site.port)
                except OSError:
                    return
                writer.close()
                await asyncio.sleep(0.01)

    async def ended(self) -> int:
        found: int = await asyncio.to_thread(self.process.process.wait, PATIENCE)
        return found


async def answer(reader: asyncio.StreamReader) -> tuple[int, str, bytes]:
    """Status, head and body of the next answer on a connection."""
    async with asyncio.timeout(PATIENCE):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().partition("content-length:")[2].partition("\r\n")[0])
        return int(head.split(" ", 2)[1]), head.lower(), await reader.readexactly(length)


@pytest.fixture
async def leaving(gateway_process: Any, site_of: Any, upstream: Any) -> Any:
    """Starts a gateway process with settings."""
    sites: list[Any] = []

    async def start(**settings: Any) -> Leaving:
        process = await asyncio.to_thread(
            gateway_process(**{"stop_grace": LONG, "stop_linger": LONG, "hold_max": LONG, **settings}).start
        )
        sites.append(site_of(process.url))
        return await Leaving(process, sites[-1], upstream).wire()

    yield start
    for site in sites:
        await site.close()


Start = Callable[..., Awaitable[Leaving]]


async def test_a_connection_that_was_idle_gets_one_more_answer_and_is_told_that_it_is_the_last(leaving: Start) -> None:
    gateway = await leaving()
    reader, writer = await gateway.site.connect()
    writer.write(gateway.request)
    assert "connection: close" not in (await answer(reader))[1]
    await gateway.site.close()
    await gateway.ask_to_end()
    writer.write(gateway.request)
    status, head, _ = await answer(reader)
    assert status == 200
    assert "connection: close" in head
    assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
    assert await gateway.ended() == 0


async def test_a_connection_on_which_nothing_was_asked_yet_counts_too(leaving: Start) -> None:
    gateway = await leaving()
    reader, writer = await gateway.site.connect()
    other, first = await gateway.site.connect()
    first.write(gateway.request)  # accepted after the one before: so is that
    await answer(other)
    first.close()
    await gateway.site.close()
    await gateway.ask_to_end()
    writer.write(gateway.request)
    assert (await answer(reader))[0] == 200
    assert await gateway.ended() == 0


async def test_a_connection_on_which_nothing_comes_is_closed_after_a_while(leaving: Start) -> None:
    gateway = await leaving(stop_linger=0.2)
    reader, writer = await gateway.site.connect()
    writer.write(gateway.request)
    await answer(reader)
    await gateway.ask_to_end()
    assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
    assert await gateway.ended() == 0


async def test_what_is_in_flight_is_answered(leaving: Start, until: Any) -> None:
    gateway = await leaving()
    gateway.upstream.answer = gateway.upstream.slowly
    reader, writer = await gateway.site.connect()
    writer.write(gateway.request)
    await until(lambda: gateway.upstream.requests)
    await gateway.site.close()
    await gateway.ask_to_end()
    gateway.upstream.gate.set()
    status, head, _ = await answer(reader)
    assert status == 200
    assert "connection: close" in head
    assert await gateway.ended() == 0


async def test_a_connection_whose_answer_had_begun_may_still_ask(leaving: Start, until: Any) -> None:
    gateway = await leaving()

    async def halting(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "10"})
        await response.prepare(request)
        await response.write(b"12345")
        await gateway.upstream.gate.wait()
        await response.write(b"67890")
        return response

    gateway.upstream.answer = halting
    reader, writer = await gateway.site.connect()
    writer.write(gateway.request)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
    assert b"connection: close" not in head.lower()
    await gateway.site.close()
    await gateway.ask_to_end()
    gateway.upstream.gate.set()
    assert await asyncio.wait_for(reader.readexactly(10), PATIENCE) == b"1234567890"
    writer.write(gateway.request)
    status, last, _ = await answer(reader)
    assert status == 200
    assert "connection: close" in last
    assert await gateway.ended() == 0


async def test_a_parked_request_stays_parked_until_its_resume(leaving: Start, until: Any) -> None:
    gateway = await leaving()
    module = f"{gateway.product}-1.0.0"
    job = await gateway.site.job(gateway.tenant, module, action="disable")
    await job.held(module)
    reader, writer = await gateway.site.connect()
    writer.write(gateway.request)
    await until(lambda: gateway.site.parked(gateway.tenant))
    await gateway.ask_to_end()
    await job.resume(module)  # on a connection that is open
    assert (await answer(reader))[0] == 200
    await gateway.site.close()
    assert await gateway.ended() == 0


async def test_a_parked_request_gets_delay_when_the_grace_is_over(leaving: Start, until: Any) -> None:
    gateway = await leaving(stop_grace=0.3)
    module = f"{gateway.product}-1.0.0"
    job = await gateway.site.job(gateway.tenant, module, action="disable")
    await job.held(module)
    reader, writer = await gateway.site.connect()
    writer.write(gateway.request)
    await until(lambda: gateway.site.parked(gateway.tenant))
    await gateway.ask_to_end()
    status, head, _ = await answer(reader)
    assert status == 503
    assert "x-okapi-lifecycle: delay" in head
    assert "connection: close" in head
    assert await gateway.ended() == 0


async def test_a_second_signal_ends_the_wait(leaving: Start, until: Any) -> None:
    gateway = await leaving()
    module = f"{gateway.product}-1.0.0"
    job = await gateway.site.job(gateway.tenant, module, action="disable")
    await job.held(module)
    reader, writer = await gateway.site.connect()
    writer.write(gateway.request)
    await until(lambda: gateway.site.parked(gateway.tenant))
    await gateway.ask_to_end()
    gateway.process.process.send_signal(signal.SIGTERM)
    assert (await answer(reader))[0] == 503
    assert await gateway.ended() == 0
