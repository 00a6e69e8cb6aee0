"""Instances that are deployed and taken away by discovery, without a job (requirement E2)."""

import asyncio
from typing import Any

import httpx
import psutil
import pytest


async def version(stack: Any, **more: Any) -> str:
    """A registered version that nobody has."""
    product = stack.product()
    await stack.register(stack.descriptor(product, "1.0.0", **more))
    return f"{product}-1.0.0"


async def node(stack: Any) -> str:
    """The one node that there is."""
    nodes = await stack.until("/_/discovery/nodes", lambda found: len(found) == 1)
    name: str = nodes[0]["nodeId"]
    return name


async def deploy(stack: Any, module: str) -> httpx.Response:
    found: httpx.Response = await stack.http.post("/_/discovery/modules", json={"srvcId": module, "nodeId": await node(stack)})
    return found


async def process_of(stack: Any, module: str) -> psutil.Process:
    (pid,) = await stack.own_events(module, "start")
    return psutil.Process(pid)


async def test_a_version_is_deployed_on_a_node_and_taken_away(stack: Any) -> None:
    module = await version(stack)
    made = await deploy(stack, module)
    process = await process_of(stack, module)
    shown = await stack.ok("GET", f"/_/discovery/modules/{module}")
    again = await deploy(stack, module)
    healthy = await stack.ok("GET", f"/_/discovery/health/{module}")
    gone = await stack.http.delete(made.headers["Location"])
    left = await stack.http.get(f"/_/discovery/modules/{module}")

    assert (made.status_code, again.status_code, gone.status_code, left.status_code) == (201, 201, 204, 404)
    assert shown == [made.json()] == [again.json()]
    assert [each["healthStatus"] for each in healthy] == [True]
    assert not process.is_running()


async def test_a_version_is_deployed_on_the_only_node_by_the_deployment_route(stack: Any) -> None:
    module = await version(stack)
    launch = (await stack.ok("GET", f"/_/proxy/modules/{module}"))["launchDescriptor"]
    made = await stack.http.post("/_/deployment/modules", json={"srvcId": module, "descriptor": launch})
    gone = await stack.http.delete(f"/_/deployment/modules/{made.json()['instId']}")

    assert (made.status_code, gone.status_code) == (201, 204), (made.text, gone.text)


async def test_one_that_does_not_start_is_refused_with_its_reason_and_leaves_nothing(stack: Any) -> None:
    module = await version(stack, start="exit")
    found = await deploy(stack, module)
    removed = await stack.http.delete(f"/_/proxy/modules/{module}")

    assert found.status_code == 400
    assert found.text.startswith(f"{stack.url}/deploy ")
    assert "cannot find my configuration" in found.text
    assert removed.status_code == 204, removed.text


async def test_it_stays_when_its_last_tenant_leaves(stack: Any) -> None:
    module = await version(stack)
    assert (await deploy(stack, module)).status_code == 201
    tenant = await stack.tenant()
    await stack.install(tenant, module)
    refused = await stack.http.delete(f"/_/discovery/modules/{module}")
    await stack.install(tenant, module, action="disable")
    version_now = await stack.ok("GET", f"/_/versions/{module}")
    gone = await stack.http.delete(f"/_/discovery/modules/{module}")

    assert (refused.status_code, f"tenant {tenant}" in refused.text) == (409, True), refused.text
    assert version_now["neededBy"] == ["an operator, by discovery"]
    assert len(await stack.own_events(module, "start")) == 1
    assert gone.status_code == 204, gone.text


async def test_one_that_was_asked_for_at_a_gateway_that_died_is_deployed(stack: Any) -> None:
    module = await version(stack, start="late")
    asking = asyncio.create_task(deploy(stack, module))
    await stack.until(f"/_/versions/{module}", lambda found: found["neededBy"])
    await stack.kill("gateway")
    with pytest.raises(httpx.TransportError):
        await asking
    found = await stack.until(f"/_/versions/{module}", lambda found: found["instances"])

    assert found["neededBy"] == ["an operator, by discovery"]
    assert (await stack.http.delete(f"/_/discovery/modules/{module}")).status_code == 204
