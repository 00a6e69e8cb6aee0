"""`uplift gateway` as its operator runs it: real processes, a real module behind them, and users who notice nothing."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from gateway.store import DatabaseError

ROOT = Path(__file__).parents[3]
PATIENCE = 40.0
CALM: dict[str, Any] = {"stop_grace": 35.0, "stop_linger": 5.0, "hold_max": 30.0}


class Operated:
    """A parent with its gateways, a tenant and a module."""

    def __init__(self, process: Any, site: Any, upstream: Any) -> None:
        self.process = process
        self.site = site
        self.upstream = upstream
        self.tenant = ""
        self.product = ""

    async def wire(self) -> "Operated":
        self.tenant, self.product = await self.site.wired(self.upstream.url)
        return self

    @property
    def request(self) -> bytes:
        return f"GET /{self.product} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {self.tenant}\r\n\r\n".encode()

    @property
    def module(self) -> str:
        return f"{self.product}-1.0.0"

    @property
    def said(self) -> str:
        return str(self.process.log.read_text())

    def children(self) -> set[int]:
        return {child.pid for child in psutil.Process(self.process.pid).children() if child.status() != psutil.STATUS_ZOMBIE}

    def send(self, signum: int) -> None:
        self.process.process.send_signal(signum)

    @property
    def config(self) -> Path:
        """Its settings file."""
        return Path(self.process.env["UPLIFT_CONFIG"])

    @property
    def pid_file(self) -> Path:
        return Path(self.process.env["UPLIFT_HOME"]) / "gateway.pid"

    async def reload(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`uplift gateway reload`, as its operator calls it."""
        return await asyncio.to_thread(
            subprocess.run,
            (sys.executable, "-m", "uplift_cli.main", "gateway", "reload", *arguments),
            cwd=ROOT,
            env={**os.environ, "UPLIFT_HOME": self.process.env["UPLIFT_HOME"]},
            capture_output=True,
            text=True,
            timeout=3 * PATIENCE,
        )

    async def ended(self) -> int:
        found: int = await asyncio.to_thread(self.process.process.wait, PATIENCE)
        return found


Start = Callable[..., Awaitable[Operated]]


def run(process: Any, *arguments: str) -> None:
    with process.log.open("ab") as log:
        process.process = subprocess.Popen(
            (sys.executable, "-m", "uplift_cli.main", "gateway", *arguments),
            cwd=ROOT,
            env={**os.environ, **process.env},
            stdout=log,
            stderr=log,
        )


@pytest.fixture
async def operated(gateway_process: Any, site_of: Any, upstream: Any, until: Any) -> AsyncIterator[Start]:
    """Starts `uplift gateway` with so many processes."""
    sites: list[Any] = []

    async def start(processes: int = 1, **settings: Any) -> Operated:
        process = gateway_process(**{**CALM, **settings})
        config = process.log.with_suffix(".toml")
        config.touch()
        process.env["UPLIFT_CONFIG"] = str(config)
        run(process, "--processes", str(processes))
        await until(lambda: process.log.read_text().count("listens on port") == processes, within=PATIENCE)
        sites.append(site_of(process.url))
        return await Operated(process, sites[-1], upstream).wire()

    yield start
    for site in sites:
        await site.close()


@pytest.fixture
async def several(new_site: Any) -> None:
    """Skips the test where a second gateway on a database refuses to start."""
    first = await new_site()
    try:
        await new_site(dsn=first.dsn)
    except DatabaseError as refused:
        pytest.skip(str(refused))


async def test_a_gateway_that_was_killed_is_replaced_and_who_connects_meanwhile_only_waits(
    operated: Start, load: Any, until: Any
) -> None:
    gateway = await operated()
    running = load(gateway.site.port, request=gateway.request, clients=8)
    await running.reach(200)
    (victim,) = gateway.children()
    os.kill(victim, signal.SIGKILL)
    await until(lambda: gateway.said.count("listens on port") == 2, within=PATIENCE)
    await running.reach(200)
    await running.end()
    assert len(running.failures) <= running.clients, "those that were open to the one that was killed"
    assert running.connections <= 2 * running.clients, "none is refused or reset after that"


async def test_the_parent_changes_its_program_and_nobody_notices(operated: Start, load: Any, until: Any) -> None:
    gateway = await operated()
    before = gateway.children()
    running = load(gateway.site.port, request=gateway.request, clients=8)
    gateway.send(signal.SIGUSR2)
    await until(lambda: gateway.said.count("listens on port") == 2, within=PATIENCE)
    await running.reach(200)
    await running.end()
    assert "its 1 children go on" in gateway.said
    assert running.failures == []
    assert gateway.children() == before
    await gateway.site.close()
    gateway.send(signal.SIGTERM)
    assert await gateway.ended() == 0


async def test_what_is_parked_is_answered_before_the_end(operated: Start, until: Any) -> None:
    gateway = await operated(stop_grace=1.0)
    job = await gateway.site.job(gateway.tenant, gateway.module, action="disable")
    await job.held(gateway.module)
    asked = asyncio.create_task(gateway.site.get(gateway.tenant, f"/{gateway.product}"))
    await until(lambda: gateway.site.parked(gateway.tenant))
    gateway.send(signal.SIGTERM)
    found = await asked
    assert (found.status_code, found.headers["X-Okapi-Lifecycle"]) == (503, "DELAY")
    assert await gateway.ended() == 0


async def test_settings_that_do_not_hold_end_it_with_what_to_do(gateway_process: Any) -> None:
    process = gateway_process()
    run(process, "--host", "0.0.0.0")
    assert await asyncio.to_thread(process.process.wait, PATIENCE) == 1
    said = process.log.read_text()
    assert "gateway.host 0.0.0.0 is not a loopback address: set gateway.tokens_file" in said
    assert "the gateway does not start; its messages are above" in said


async def test_a_check_says_what_is_wrong_and_starts_nothing(gateway_process: Any) -> None:
    process = gateway_process()
    run(process, "--check")
    assert await asyncio.to_thread(process.process.wait, PATIENCE) == 0
    process.env["UPLIFT_GATEWAY__HOLD_MAX"] = "long"
    run(process, "--check")
    assert await asyncio.to_thread(process.process.wait, PATIENCE) == 1
    assert "setting gateway.hold_max ($UPLIFT_GATEWAY__HOLD_MAX)" in process.log.read_text()


async def replaced_under_load(gateway: Operated, load: Any, until: Any, *, requests: int, times: int) -> None:
    """Rolling replacements during so many requests: none fails."""
    await until(lambda: known_to_all(gateway), within=PATIENCE)
    await gateway.site.close()
    before = gateway.children()
    running = load(gateway.site.port, request=gateway.request, clients=16)
    await running.reach(requests // 4)
    for count in range(1, times + 1):
        gateway.send(signal.SIGHUP)
        await until(lambda count=count: gateway.said.count("processes are replaced") == count, within=3 * PATIENCE)
        await running.reach(requests // 4)
    await running.reach(max(0, requests - running.answered))
    await running.end()
    assert running.failures == []
    assert running.answered == running.asked >= requests
    assert gateway.children().isdisjoint(before)


async def known_to_all(gateway: Operated) -> bool:
    """Whether the tenant is known wherever a connection ends up."""
    for _ in range(20):
        reader, writer = await gateway.site.connect()
        writer.write(gateway.request)
        status = await reader.readline()
        writer.close()
        if not status.startswith(b"HTTP/1.1 200 "):
            return False
    return True


@pytest.mark.usefixtures("several")
async def test_a_rolling_replacement_of_real_gateways_fails_no_request(operated: Start, load: Any, until: Any) -> None:
    await replaced_under_load(await operated(2), load, until, requests=4_000, times=1)


@pytest.mark.usefixtures("several")
@pytest.mark.soak
async def test_a_reload_replaces_parent_and_processes_under_load_and_ends_when_that_is_done(
    operated: Start, load: Any, until: Any
) -> None:
    gateway = await operated(2)
    await until(lambda: known_to_all(gateway), within=PATIENCE)
    await gateway.site.close()
    before = gateway.children()
    running = load(gateway.site.port, request=gateway.request, clients=8)
    await running.reach(500)
    found = await gateway.reload()
    after = gateway.children()
    await running.reach(500)
    await running.end()
    assert (found.returncode, found.stderr) == (0, "")
    assert running.failures == []
    assert len(after) == 2
    assert after.isdisjoint(before)
    told = found.stdout.splitlines()
    assert told[0] == f"the parent (pid {gateway.process.pid}) runs its new program"
    assert [line.partition(":")[0] for line in told[1:3]] == ["place 1 of 2", "place 2 of 2"]
    assert told[3:] == ["all 2 processes are replaced"]


@pytest.mark.soak
@pytest.mark.usefixtures("several")
async def test_a_reload_says_why_a_successor_did_not_start_and_what_served_goes_on(operated: Start) -> None:
    gateway = await operated(1)
    before = gateway.children()
    gateway.config.write_text("[gateway]\npool = 'many'\n")
    found = await gateway.reload()
    assert (found.returncode, found.stdout) == (1, "")
    assert "nothing was replaced: the new program does not work; the gateway's log has its messages" in found.stderr
    found = await gateway.reload("--only-children")
    assert (found.returncode, found.stdout) == (1, "")
    assert "ended with exit code 1 before it listened; the gateway's log has its messages" in found.stderr
    assert gateway.children() == before
    assert (await gateway.site.get(gateway.tenant, f"/{gateway.product}")).status_code == 200
    gateway.config.write_text("")
    found = await gateway.reload("--only-children")
    assert found.returncode == 0
    assert found.stdout.splitlines()[-1] == "all 1 processes are replaced"


async def test_a_pid_that_is_somebody_elses_by_now_is_not_signalled(operated: Start) -> None:
    gateway = await operated(1)
    record = json.loads(gateway.pid_file.read_text())
    assert record["pid"] == gateway.process.pid
    gateway.send(signal.SIGTERM)
    await gateway.site.close()
    assert await gateway.ended() == 0
    assert not gateway.pid_file.exists()
    stranger = subprocess.Popen((sys.executable, "-c", "input()"), stdin=subprocess.PIPE)
    try:
        gateway.pid_file.write_text(json.dumps({**record, "pid": stranger.pid}))
        found = await gateway.reload()
        assert found.returncode == 1
        assert f"no gateway runs that says so in {gateway.pid_file}" in found.stderr
        assert stranger.poll() is None
    finally:
        stranger.communicate()


@pytest.mark.soak
@pytest.mark.usefixtures("several")
async def test_a_hundred_thousand_requests_across_rolling_replacements_have_no_failure(
    operated: Start, load: Any, until: Any
) -> None:
    await replaced_under_load(await operated(2), load, until, requests=100_000, times=2)


@pytest.mark.soak
@pytest.mark.usefixtures("several")
async def test_requests_that_are_parked_in_a_gateway_that_leaves_are_released_there(operated: Start, until: Any) -> None:
    gateway = await operated(1)
    job = await gateway.site.job(gateway.tenant, gateway.module, action="disable")
    await job.held(gateway.module)
    connections = [await gateway.site.connect() for _ in range(1_000)]
    for _, writer in connections:
        writer.write(gateway.request)
    await until(lambda: everything_parked(gateway, len(connections)))
    gateway.send(signal.SIGHUP)
    await until(lambda: gateway.said.count("listens on port") == 2, within=PATIENCE)
    await job.resume(gateway.module)
    for reader, _ in connections:
        assert (await asyncio.wait_for(reader.readline(), PATIENCE)).startswith(b"HTTP/1.1 200 ")
    await until(lambda: len(gateway.children()) == 1, within=PATIENCE)


async def everything_parked(gateway: Operated, count: int) -> bool:
    return bool(await gateway.site.parked(gateway.tenant) == count)
