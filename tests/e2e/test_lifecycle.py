"""The protocol on the whole stack: newest routing, an instance that is killed, and operators' holds (requirements A4, A5, A8)."""

import asyncio
import os
import signal
from typing import Any

import psutil


async def test_a_tenant_that_follows_the_newest_version_is_upgraded_when_one_registers(stack: Any) -> None:
    follower, pinned, first = [await stack.tenant() for _ in range(3)]
    product = stack.product()
    old, new = f"{product}-1.0.0", f"{product}-1.1.0"
    await stack.register(stack.descriptor(product, "1.0.0"), stack.descriptor(product, "1.1.0"))
    for tenant in (follower, pinned):
        await stack.install(tenant, old)
    await stack.ok("PUT", f"/_/lifecycle/routing/{follower}", {"routing": "newest"})

    await stack.install(first, new)

    await stack.until(f"/_/proxy/tenants/{follower}/modules", lambda enabled: [item["id"] for item in enabled] == [new])
    assert await stack.enabled(pinned) == [old]
    jobs = await stack.until(f"/_/proxy/tenants/{follower}/install", lambda rows: all(row["complete"] for row in rows))
    assert [job["status"] for job in jobs] == ["done", "done"]
    assert [body.get("module_from") for body in await stack.inits(new, follower)] == [old]


async def test_a_killed_instance_costs_time_and_no_error(stack: Any) -> None:
    tenant, product = await stack.tenant(), stack.product()
    module = f"{product}-1.0.0"
    await stack.register(stack.descriptor(product, "1.0.0"))
    await stack.install(tenant, module)
    (instance,) = await stack.instances(module)
    port = int(instance["url"].rsplit(":", 1)[1])
    stop = asyncio.Event()
    statuses: list[int] = []

    async def ask() -> None:
        while not stop.is_set():
            statuses.append((await stack.ask(tenant, f"/{product}/x")).status_code)

    asking = [asyncio.create_task(ask()) for _ in range(4)]
    for _ in range(3):
        before = (await stack.instances(module))[0]["generation"]
        os.kill(_listener(port), signal.SIGKILL)
        await stack.until(f"/_/versions/{module}", lambda row, before=before: _changed(row, before))
        answered = len(statuses)
        while len(statuses) < answered + 20:
            await asyncio.sleep(0.01)
    stop.set()
    await asyncio.gather(*asking)

    assert set(statuses) == {200}


async def test_an_operator_holds_a_module_for_all_tenants_and_lets_go(stack: Any) -> None:
    tenant, product = await stack.tenant(), stack.product()
    module = f"{product}-1.0.0"
    await stack.register(stack.descriptor(product, "1.0.0"))
    await stack.install(tenant, module)

    hold = (await stack.ok("POST", f"/_/lifecycle/{module}", {"event": "UPDATE", "reason": "maintenance"}))["id"]
    await stack.until(f"/_/lifecycle/delays/{hold}?for=holder&wait=10", lambda state: state["lifecycle"] == "RESUME")
    waiting = asyncio.create_task(stack.ask(tenant, f"/{product}/x"))
    await stack.until("/_/lifecycle/links", lambda links: any(link["holdId"] == hold and link["parked"] for link in links))
    await stack.ok("POST", f"/_/lifecycle/{module}", {"event": "RESUME", "hold": hold})

    assert (await waiting).status_code == 200


def _listener(port: int) -> int:
    """Pid of what listens on a port."""
    return next(
        found.pid
        for found in psutil.net_connections("tcp")
        if found.status == psutil.CONN_LISTEN and found.laddr.port == port and found.pid is not None
    )


def _changed(row: dict[str, Any], before: str) -> bool:
    return bool(row["instances"]) and row["instances"][0]["generation"] != before
