"""Down and up again: everything is as it was, and no request reaches another version meanwhile."""

import asyncio
from typing import Any

import httpx
import pytest


@pytest.mark.soak
async def test_instances_come_back_where_requests_are_sent_to(stack: Any) -> None:
    """The gateway routes by the addresses that it knows until the instances are back: nobody else may answer there."""
    tenant, product = await stack.tenant(), stack.product()
    await stack.register(*(stack.descriptor(product, version) for version in ("1.0.0", "2.0.0", "3.0.0")))
    others = [await stack.tenant() for _ in range(2)]
    await stack.install(tenant, f"{product}-2.0.0")
    await stack.install(others[0], f"{product}-3.0.0")
    await stack.install(others[1], f"{product}-1.0.0")
    before = {module: await stack.instances(module) for module in (f"{product}-{n}.0.0" for n in (1, 2, 3))}
    wrong: list[str] = []
    right = asyncio.Event()

    async def ask() -> None:
        while not right.is_set():
            try:
                answer = await stack.ask(tenant, f"/{product}/x")
            except httpx.TransportError:
                continue
            if answer.status_code == 200 and answer.json()["id"] != f"{product}-2.0.0":
                wrong.append(answer.text)
            if answer.status_code == 200 and stack.generation > 0:
                right.set()

    asking = asyncio.create_task(ask())
    await stack.down()
    await stack.up()
    async with asyncio.timeout(60):
        await right.wait()
    await asking

    assert wrong == []
    for module, (instance,) in before.items():
        (again,) = await stack.until(f"/_/versions/{module}", lambda row: row["instances"]) and await stack.instances(module)
        assert again["url"] == instance["url"]


@pytest.mark.soak
async def test_versions_of_a_deleted_tenant_retire(stack: Any) -> None:
    tenant, product = await stack.tenant(), stack.product()
    await stack.register(stack.descriptor(product, "1.0.0"))
    await stack.install(tenant, f"{product}-1.0.0")

    await stack.ok("DELETE", f"/_/proxy/tenants/{tenant}")

    await stack.until(f"/_/versions/{product}-1.0.0", lambda row: row["instances"] == [])


async def test_what_failed_before_tenant_init_stands_in_the_modules_line(stack: Any) -> None:
    tenant, product = await stack.tenant(), stack.product()
    await stack.register(stack.descriptor(product, "1.0.0", start="exit"))

    job = await stack.install(tenant, f"{product}-1.0.0")

    assert "cannot find my configuration" in job["modules"][0]["message"]


async def test_a_misspelt_dry_run_changes_nothing(stack: Any) -> None:
    tenant, product = await stack.tenant(), stack.product()
    await stack.register(stack.descriptor(product, "1.0.0"))

    answer = await stack.http.post(f"/_/proxy/tenants/{tenant}/install?dryrun=true", json=[{"id": f"{product}-1.0.0"}])

    assert answer.status_code == 400
    assert "dryrun: unknown parameter; did you mean dryRun?" in answer.text
    assert await stack.ok("GET", f"/_/proxy/tenants/{tenant}/install") == []
