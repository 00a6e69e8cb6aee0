"""What a gateway logs of requests, as a collector reads it."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest


@pytest.fixture
async def started(gateway_process: Any, site_of: Any) -> Callable[..., Awaitable[Any]]:
    """A gateway as a process, that logs JSON; gives its site, and reads the lines that fit."""

    async def start(**settings: Any) -> Any:
        process = gateway_process(**settings)
        process.env["UPLIFT_LOG__FORMAT"] = "json"
        await asyncio.to_thread(process.start)

        def lines(**members: Any) -> list[dict[str, Any]]:
            found = [json.loads(line) for line in process.log.read_text().splitlines()]
            return [line for line in found if members.items() <= line.items()]

        return site_of(process.url), lines

    return start


async def test_a_line_of_a_proxied_request_tells_its_id_its_tenant_and_its_module(started, upstream, until) -> None:
    site, lines = await started(access_log="true")
    tenant, product = await site.wired(upstream.url)
    await site.get(tenant, f"/{product}/x?secret=1", **{"X-Okapi-Request-Id": "123/ui"})
    line = (await until(lambda: lines(logger="gateway.access", path=f"/{product}/x")))[0]
    assert line["request_id"] == upstream.requests[-1].headers["X-Okapi-Request-Id"]
    assert line["request_id"].startswith("123/ui;")
    assert (line["tenant"], line["module"], line["method"], line["status"]) == (tenant, f"{product}-1.0.0", "GET", 200)
    assert lines(message=line["message"]) == [line]
    await site.close()


async def test_a_line_of_an_admin_request_tells_its_id_and_its_job(started, name, until) -> None:
    site, lines = await started()
    module = await site.register(f"{name('m')}-1.0.0")
    tenant = await site.tenant()
    await site.http.post(
        f"/_/proxy/tenants/{tenant}/install?async=true", json=[{"id": module, "action": "enable"}],
        headers={"X-Okapi-Request-Id": "77/ui"},
    )  # fmt: skip
    line = (await until(lambda: lines(request_id="77/ui")))[0]
    assert line["tenant"] == tenant
    assert line["message"].startswith(f"job {line['job']} of tenant {tenant}")
    await site.close()


async def test_requests_are_not_logged_unless_asked_for(started, upstream) -> None:
    site, lines = await started()
    tenant, product = await site.wired(upstream.url)
    assert (await site.get(tenant, f"/{product}/x")).status_code == 200
    assert lines(logger="gateway.access") == []
    await site.close()


async def test_the_secret_of_an_overlay_is_not_logged(started, upstream, name, until) -> None:
    site, lines = await started(access_log="true")
    tenant, product = await site.wired(upstream.url)
    module = await site.register(f"{product}-2.0.0", upstream.url)
    job = await site.job(tenant, module)
    await job.held(f"{product}-1.0.0")
    url = await job.overlay(module)
    secret = url.rstrip("/").rsplit("/", 1)[1]
    assert (await site.http.get(f"{url}/{product}/y")).status_code == 200
    line = (await until(lambda: lines(path=f"/_/overlay/…/{product}/y")))[0]
    assert secret not in json.dumps(line)
    await job.finish()
    await site.close()
