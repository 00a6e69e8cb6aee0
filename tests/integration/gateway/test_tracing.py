"""Traces from a request to the run that it asked for: real gateway, worker and Temporal, and a collector that they send to."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from temporalio.testing import WorkflowEnvironment

from uplift_cli.stack.temporal_binary import require
from worker.main import READY_FILE

ROOT = Path(__file__).parents[3]
TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
FROM_CLIENT = {"traceparent": f"00-{TRACE}-{SPAN}-01"}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A span that was received."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, Any]


@dataclass
class Collector:
    """Receives spans by OTLP over HTTP."""

    url: str = ""
    spans: list[Seen] = field(default_factory=list)

    async def handle(self, request: web.BaseRequest) -> web.Response:
        assert request.path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(await request.read()).resource_spans:
            service = _plain(resource.resource.attributes)["service.name"]
            self.spans += [
                Seen(
                    service=service, name=span.name, trace=span.trace_id.hex(), id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(), attributes=_plain(span.attributes),
                )
                for scope in resource.scope_spans
                for span in scope.spans
            ]  # fmt: skip
        return web.Response()

    def named(self, name: str, *, trace: str = TRACE) -> list[Seen]:
        return [span for span in self.spans if (span.name, span.trace) == (name, trace)]


def _plain(attributes: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in attributes}


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    made = Collector()
    runner = web.ServerRunner(web.Server(made.handle, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/traces"
    yield made
    await runner.cleanup()


@pytest.fixture
async def traced(gateway_process: Any, site_of: Any, collector: Collector) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """A gateway as a process, that sends its spans to the collector soon."""
    sites = []

    async def start(**env: str) -> Any:
        process = gateway_process()
        process.env |= {"UPLIFT_TRACING__ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50", **env}
        await asyncio.to_thread(process.start)
        sites.append(site_of(process.url))
        return sites[-1]

    yield start
    for site in sites:
        await site.close()


async def test_a_proxied_request_is_a_span_between_its_client_and_its_module(traced, collector, upstream, until) -> None:
    site = await traced()
    tenant, product = await site.wired(upstream.url)
    await site.get(tenant, f"/{product}/x?secret=1", **FROM_CLIENT)
    name = f"GET {product}-1.0.0"
    span = (await until(lambda: collector.named(name)))[0]
    assert (span.service, span.parent) == ("uplift-gateway", SPAN)
    assert upstream.requests[-1].headers["traceparent"] == f"00-{TRACE}-{span.id}-01"
    assert span.attributes["url.path"] == f"/{product}/x"
    assert span.attributes["http.response.status_code"] == 200
    assert span.attributes["uplift.tenant"] == tenant


async def test_a_request_without_a_trace_begins_one(traced, collector, upstream, until) -> None:
    site = await traced()
    tenant, product = await site.wired(upstream.url)
    await site.get(tenant, f"/{product}/x")
    _, trace, span, _ = upstream.requests[-1].headers["traceparent"].split("-")
    found = (await until(lambda: collector.named(f"GET {product}-1.0.0", trace=trace)))[0]
    assert (found.id, found.parent) == (span, "")


async def test_a_header_of_any_bytes_does_not_lose_the_span(traced, collector, upstream, until) -> None:
    site = await traced()
    tenant, product = await site.wired(upstream.url)
    reader, writer = await site.connect()
    head = f"GET /{product}/x HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\ntraceparent: {FROM_CLIENT['traceparent']}\r\n"
    writer.write(head.encode() + b"X-Okapi-Request-Id: \xff\x80\r\n\r\n")
    assert b"200" in await reader.readline()
    assert (await until(lambda: collector.named(f"GET {product}-1.0.0")))[0].attributes["uplift.request_id"].startswith("??;")


async def test_a_trace_that_its_client_does_not_keep_is_not_sent(traced, collector, upstream, until) -> None:
    site = await traced()
    tenant, product = await site.wired(upstream.url)
    await site.get(tenant, f"/{product}/x", traceparent=f"00-{TRACE}-{SPAN}-00")
    await site.get(tenant, f"/{product}/x")
    await until(lambda: [span for span in collector.spans if span.name == f"GET {product}-1.0.0"])
    assert collector.named(f"GET {product}-1.0.0") == []


async def test_without_tracing_a_client_and_a_module_trace_past_the_gateway(site, upstream) -> None:
    tenant, product = await site.wired(upstream.url)
    await site.get(tenant, f"/{product}/x", **FROM_CLIENT)
    assert upstream.requests[-1].headers["traceparent"] == FROM_CLIENT["traceparent"]


@pytest.fixture
async def temporal() -> AsyncIterator[str]:
    """Address of a Temporal of its own."""
    binary = await asyncio.to_thread(require)
    async with await WorkflowEnvironment.start_local(dev_server_existing_path=str(binary), dev_server_log_level="error") as found:
        yield found.client.service_client.config.target_host


@pytest.fixture
async def worker(
    tmp_path: Path, temporal: str, collector: Collector, until: Callable[..., Awaitable[Any]]
) -> AsyncIterator[Callable[..., Awaitable[None]]]:
    """Starts a worker for a gateway; returns when it polls."""
    made: list[subprocess.Popen[bytes]] = []

    async def start(gateway: str, **env: str) -> None:
        given = {
            "UPLIFT_HOME": str(tmp_path / "worker"),
            "UPLIFT_TEMPORAL__ADDRESS": temporal,
            "UPLIFT_WORKER__GATEWAY_URL": gateway,
            "UPLIFT_TRACING__ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            **env,
        }
        command = (sys.executable, "-m", "worker.main")
        with (tmp_path / "worker.log").open("wb") as log:
            made.append(subprocess.Popen(command, cwd=ROOT, env={**os.environ, **given}, stdout=log, stderr=log))
        await until((tmp_path / "worker" / READY_FILE).exists, within=60)

    yield start
    for each in made:
        each.terminate()
        assert each.wait(60) == 0, (tmp_path / "worker.log").read_text()


async def test_request_job_and_run_share_a_trace(traced, collector, temporal, worker, upstream, name, until) -> None:
    site = await traced(UPLIFT_TEMPORAL__ADDRESS=temporal)
    await worker(site.url)
    module = await site.register(f"{name('m')}-1.0.0", upstream.url)
    tenant = await site.tenant()
    asked = await site.http.post(
        f"/_/proxy/tenants/{tenant}/install?async=true", json=[{"id": module, "action": "enable"}], headers=FROM_CLIENT
    )
    job = asked.headers["Location"].rsplit("/", 1)[1]

    async def ended() -> bool:
        found = (await site.http.get(asked.headers["Location"])).json()
        assert not found["errors"], found
        return found["complete"]

    await until(ended, within=60)
    request = (await until(lambda: collector.named("POST")))[0]
    begin = (await until(lambda: collector.named("RunActivity:gateway.begin")))[0]
    started = (await until(lambda: collector.named("StartWorkflow:TenantJob")))[0]
    run = (await until(lambda: collector.named("RunWorkflow:TenantJob")))[0]
    await until(lambda: collector.named("RunActivity:gateway.finish"))
    assert request.parent == SPAN
    assert request.attributes["uplift.job"] == job
    assert (started.parent, started.attributes["temporalWorkflowID"]) == (request.id, job)
    assert (run.parent, run.service) == (started.id, "uplift-worker")
    assert begin.service == "uplift-worker"
    assert [span.service for span in collector.spans if span.parent == begin.id] == ["uplift-gateway"]
