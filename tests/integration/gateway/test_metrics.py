"""Metrics, readiness and liveness of real gateways, as Prometheus and a load balancer see them."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics import FAMILIES
from tests.ports import free_port

ROOT = Path(__file__).parents[3]


class Watcher:
    """Asks the metrics port of a gateway."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20)

    async def value(self, name: str, **labels: str) -> float | None:
        """One value; None if there is none."""
        found = await self.http.get("/metrics")
        assert found.status_code == 200, found.text
        for family in text_string_to_metric_families(found.text):
            for sample in family.samples:
                if sample.name == f"uplift_gateway_{name}" and sample.labels == labels:
                    return sample.value
        return None

    async def readiness(self) -> tuple[int, dict[str, Any]]:
        found = await self.http.get("/readiness")
        return found.status_code, found.json()

    async def status(self, path: str) -> int:
        """Of an answer; 0 without one."""
        with contextlib.suppress(httpx.TransportError):
            return (await self.http.get(path)).status_code
        return 0


@pytest.fixture
async def watch() -> AsyncIterator[Callable[[int], Watcher]]:
    made: list[Watcher] = []

    def make(port: int) -> Watcher:
        made.append(Watcher(port))
        return made[-1]

    yield make
    for each in made:
        await each.http.aclose()


@pytest.fixture
async def watched(
    new_site: Callable[..., Awaitable[Any]], watch: Callable[[int], Watcher]
) -> Callable[..., Awaitable[tuple[Any, Watcher]]]:
    """A gateway with a metrics port, and who asks it."""

    async def start(**settings: Any) -> tuple[Any, Watcher]:
        port = free_port()
        return await new_site(metrics_port=port, **settings), watch(port)

    return start


async def test_requests_are_counted_by_module_and_class_of_status(watched, upstream) -> None:
    site, watcher = await watched()
    tenant, product = await site.wired(upstream.url)
    module = f"{product}-1.0.0"
    for _ in range(3):
        assert (await site.get(tenant, f"/{product}/x")).status_code == 200
    assert (await site.get(tenant, "/nowhere")).status_code == 404
    assert await watcher.value("requests_total", module=module, status="2xx") == 3
    assert await watcher.value("requests_total", module="none", status="4xx") == 1
    assert await watcher.value("request_seconds_count", module=module) == 3
    assert await watcher.value("request_seconds_bucket", module=module, le="+Inf") == 3
    assert await watcher.value("instances", module=module, state="in_service") == 1
    assert await watcher.value("admin_requests_total", status="2xx") > 0


async def test_neither_tenants_nor_paths_are_told(watched, upstream) -> None:
    site, watcher = await watched()
    tenant, product = await site.wired(upstream.url)
    await site.get(tenant, f"/{product}/secret-path")
    text = (await watcher.http.get("/metrics")).text
    assert f"{product}-1.0.0" in text
    assert "secret-path" not in text
    assert tenant not in text.replace(product, "")


async def test_every_metric_of_the_page_is_there_and_no_other(watched) -> None:
    _, watcher = await watched()
    text = (await watcher.http.get("/metrics")).text
    told = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
    assert {name for name in told if not name.startswith("process_")} == {family.shown for family in FAMILIES.values()}


async def test_a_client_that_leaves_is_counted_as_left(watched, upstream, until) -> None:
    site, watcher = await watched()
    tenant, product = await site.wired(upstream.url)
    upstream.answer = upstream.slowly
    _, writer = await site.connect()
    writer.write(f"GET /{product}/x HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\n\r\n".encode())
    module = f"{product}-1.0.0"

    async def is_(name: str, number: float, **labels: str) -> bool:
        return await watcher.value(name, module=module, **labels) == number

    await until(lambda: is_("in_flight", 1))
    writer.close()
    await until(lambda: is_("requests_total", 1, status="left"))


async def test_a_hold_and_who_waits_for_it_are_seen_while_it_stands_and_afterwards(watched, upstream, until) -> None:
    site, watcher = await watched()
    tenant, product = await site.wired(upstream.url)
    module = f"{product}-1.0.0"
    barriers = await watcher.value("barrier_wait_seconds_count")
    job = await site.job(tenant, await site.register(f"{product}-2.0.0", upstream.url))
    await job.held(module)
    delayed = await site.get(tenant, f"/{product}/x", **{"X-Okapi-Lifecycle": "delay"})
    assert delayed.status_code == 503
    parked = asyncio.create_task(site.get(tenant, f"/{product}/x"))

    async def is_parked() -> bool:
        return await watcher.value("parked") == 1

    await until(is_parked)
    assert await watcher.value("delays_total", reply="DELAY") == 1
    assert await watcher.value("holds", state="HELD") == 1
    assert await watcher.value("holds", state="DRAINING") == 0
    assert await watcher.value("hold_oldest_seconds") > 0
    assert await watcher.value("jobs_open") == 1
    assert await watcher.value("barrier_wait_seconds_count") > barriers
    await job.resume(module)
    assert (await parked).status_code == 200
    await job.finish()
    assert await watcher.value("holds", state="HELD") == 0
    assert await watcher.value("hold_seconds_count") == 1
    assert await watcher.value("hold_seconds_sum") > 0
    assert await watcher.value("parked") == 0
    assert await watcher.value("parkings_total") == 1
    assert await watcher.value("requests_total", module=module, status="5xx") == 1
    assert await watcher.value("jobs_open") == 0


async def test_a_hold_that_a_job_left_is_counted_until_it_is_open(watched, upstream) -> None:
    site, watcher = await watched()
    tenant, product = await site.wired(upstream.url)
    job = await site.job(tenant, module := await site.register(f"{product}-2.0.0"))
    await job.held(module)
    assert await watcher.value("holds_left") == 0
    await job.finish()
    assert await watcher.value("holds_left") == 1
    await job.resume(module)
    assert await watcher.value("holds_left") == 0


async def test_a_module_that_is_enabled_without_an_instance_stands_at_zero(watched, name) -> None:
    site, watcher = await watched()
    module = await site.register(f"{name('m')}-1.0.0")
    tenant = await site.tenant(module)
    assert (await site.get(tenant, f"/{module.split('-')[0]}/x")).status_code == 503
    assert await watcher.value("instances", module=module, state="in_service") == 0
    assert await watcher.value("delays_total", reply="MISSING") == 1


async def test_replicas_see_each_other_and_how_far_they_are(watched, until) -> None:
    first, one = await watched()
    _, two = await watched(dsn=first.dsn)
    await first.tenant()

    async def in_step() -> bool:
        epochs = [await each.value("epoch") for each in (one, two)]
        return epochs[0] == epochs[1] and [await each.value("replicas") for each in (one, two)] == [2, 2]

    await until(in_step)
    assert await two.value("epoch_lag") == 0
    assert 0 < await two.value("lease_seconds") <= 60


async def test_a_gateway_that_serves_is_ready_and_alive(watched) -> None:
    _, watcher = await watched()
    assert await watcher.readiness() == (200, {"ready": True, "reasons": []})
    assert await watcher.status("/liveness") == 200
    assert await watcher.status("/_/proxy/modules") == 404
    assert (await watcher.http.post("/metrics")).status_code == 404


async def test_without_postgres_it_is_ready_until_its_lease_ends(watched, own_postgres, until) -> None:
    _, watcher = await watched(dsn=own_postgres.dsn, lease=3.0, lease_renew=0.2, database_timeout=0.5)
    assert await watcher.value("outbox_pending") == 0
    await asyncio.to_thread(own_postgres.stop)

    async def is_away() -> bool:
        return await watcher.value("database_away") == 1

    await until(is_away)
    assert await watcher.value("outbox_pending") is None

    async def is_fenced() -> bool:
        return (await watcher.readiness())[0] == 503

    await until(is_fenced)
    assert await watcher.readiness() == (
        503,
        {"ready": False, "reasons": ["the lease has run out: the gateway's database is away"]},
    )
    assert await watcher.status("/liveness") == 200
    await asyncio.to_thread(own_postgres.start)

    async def is_ready() -> bool:
        return (await watcher.readiness())[0] == 200

    await until(is_ready)


async def test_a_gateway_that_leaves_is_not_ready_while_it_finishes(gateway_process, site_of, upstream, watch, until) -> None:
    port = free_port()
    process = await asyncio.to_thread(gateway_process(metrics_port=port, stop_grace=30.0).start)
    site, watcher = site_of(process.url), watch(port)
    tenant, product = await site.wired(upstream.url)
    upstream.answer = upstream.slowly
    asked = asyncio.create_task(site.get(tenant, f"/{product}/x"))
    await until(lambda: upstream.requests)
    process.process.send_signal(signal.SIGTERM)

    async def is_unready() -> bool:
        return (await watcher.readiness())[0] == 503

    await until(is_unready)
    assert (await watcher.readiness())[1]["reasons"] == ["the gateway is about to stop"]
    assert await watcher.value("in_flight", module=f"{product}-1.0.0") == 1
    upstream.gate.set()
    assert (await asked).status_code == 200
    await site.close()
    assert await asyncio.to_thread(process.end) == 0


async def test_a_port_that_is_taken_is_named_with_its_setting(gateway_process) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = gateway_process(metrics_port=taken.getsockname()[1])
        process.launch()
        assert await asyncio.to_thread(process.process.wait, 30) == 1
    assert "(gateway.metrics_host, gateway.metrics_port)" in process.log.read_text()


@pytest.fixture
def parent(tmp_path: Path, postgres_dsn: Callable[[], str]) -> Iterator[Callable[[int], subprocess.Popen[bytes]]]:
    """`uplift gateway` with two processes and metrics from a port on."""
    made: list[subprocess.Popen[bytes]] = []

    def start(port: int) -> subprocess.Popen[bytes]:
        env = {
            **os.environ,
            "UPLIFT_DATABASE_URL": postgres_dsn(),
            "UPLIFT_TEMPORAL__ADDRESS": "127.0.0.1:1",
            "UPLIFT_HOME": str(tmp_path),
            "UPLIFT_GATEWAY__METRICS_PORT": str(port),
            "UPLIFT_GATEWAY__STOP_LINGER": "0.1",
        }
        command = (sys.executable, "-m", "uplift_cli.main", "gateway", "--processes", "2", "--port", str(free_port()))
        with (tmp_path / "parent.log").open("wb") as log:
            made.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log))
        return made[-1]

    yield start
    for each in made:
        each.terminate()
        each.wait(60)


async def test_each_process_of_a_parent_has_a_port_also_after_a_rolling_replacement(parent, watch, until) -> None:
    first = free_port(and_next=1)
    process = await asyncio.to_thread(parent, first)
    watchers = [watch(first), watch(first + 1)]

    async def started() -> list[float] | None:
        if [await each.status("/readiness") for each in watchers] != [200, 200]:
            return None
        return [await _born(each) for each in watchers]

    before = await until(started, within=60)
    process.send_signal(signal.SIGHUP)

    async def replaced() -> bool:
        now = await started()
        return now is not None and all(new > old for new, old in zip(now, before, strict=True))

    await until(replaced, within=60)


async def _born(watcher: Watcher) -> float:
    """When the process that answers was started."""
    text = (await watcher.http.get("/metrics")).text
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith("process_start_time_seconds "))
