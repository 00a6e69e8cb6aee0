"""`_lifecycle` pushes: who is told of a hold, when, and what a hold waits for (requirements A2, A4)."""

import asyncio
from typing import Any

import pytest
from aiohttp import web

LIFECYCLE = {
    "id": "_lifecycle",
    "version": "1.0",
    "interfaceType": "system",
    "handlers": [{"methods": ["POST"], "pathPattern": "/_/lifecycle"}],
}


class Told:
    """Notes pushes; refuses them until it is told to take them."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []
        self.tries = 0
        self.takes = asyncio.Event()
        self.takes.set()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.raw_path != "/_/lifecycle":
            return web.json_response({})
        body = await request.json()
        self.tries += 1
        if not self.takes.is_set():
            return web.Response(status=500)
        self.events.append((body["event"], body["module"], body["tenant"]))
        return web.Response(status=204)

    def names(self) -> list[str]:
        return [event for event, _, _ in self.events]


@pytest.fixture
async def held(site: Any, upstream: Any, new_upstream: Any, name: Any) -> Any:
    """A tenant with a module that wants to be told, and another one that depends on it and wants so, too."""
    product, other = name("m"), name("m")
    own, dependent = Told(), Told()
    upstream.answer = own
    second = await new_upstream()
    second.answer = dependent
    handlers = [{"methods": ["*"], "pathPattern": f"/{product}*", "permissionsRequired": []}]
    await site.register(
        f"{product}-1.0.0",
        upstream.url,
        provides=[{"id": product, "version": "1.0", "handlers": handlers}, LIFECYCLE],
    )
    await site.register(
        f"{other}-1.0.0",
        second.url,
        provides=[{"id": other, "version": "1.0", "handlers": []}, LIFECYCLE],
        requires=[{"id": product, "version": "1.0"}],
    )
    tenant = await site.tenant(f"{product}-1.0.0", f"{other}-1.0.0")
    return product, tenant, own, dependent


async def signal(site: Any, module: str, **body: Any) -> dict[str, Any]:
    found = await site.http.post(f"/_/lifecycle/{module}", json=body)
    assert found.status_code < 300, found.text
    wire: dict[str, Any] = found.json()
    return wire


async def test_the_module_hears_update_and_its_dependents_delay_then_all_hear_resume(site: Any, held: Any, until: Any) -> None:
    product, tenant, own, dependent = held
    hold = (await signal(site, f"{product}-1.0.0", event="UPDATE", tenant=tenant))["id"]
    await until(lambda: own.events and dependent.events)
    assert own.events == [("UPDATE", f"{product}-1.0.0", tenant)]
    assert dependent.events == [("DELAY", product, tenant)]
    await signal(site, f"{product}-1.0.0", event="RESUME", hold=hold)
    await until(lambda: len(own.events) == len(dependent.events) == 2)
    assert own.names() == ["UPDATE", "RESUME"]
    assert dependent.names() == ["DELAY", "RESUME"]


async def test_a_hold_is_not_held_before_the_module_has_understood(site: Any, held: Any, until: Any) -> None:
    product, tenant, own, _ = held
    own.takes.clear()
    hold = (await signal(site, f"{product}-1.0.0", event="UPDATE", tenant=tenant, grace=60))["id"]
    await until(lambda: own.tries >= 2)
    assert (await site.runs.delay(hold, wait=0)).state == "DRAINING"
    own.takes.set()
    assert (await site.runs.delay(hold, wait=10)).state == "HELD"
    assert own.names() == ["UPDATE"]
    await signal(site, f"{product}-1.0.0", event="RESUME", hold=hold)


async def test_a_module_that_never_understands_holds_an_update_up_for_its_grace_only(site: Any, held: Any) -> None:
    product, tenant, own, _ = held
    own.takes.clear()
    hold = (await signal(site, f"{product}-1.0.0", event="UPDATE", tenant=tenant, grace=0.5))["id"]
    assert (await site.runs.delay(hold, wait=10)).state == "HELD"
    await signal(site, f"{product}-1.0.0", event="RESUME", hold=hold)


async def test_an_update_that_was_not_understood_in_time_is_not_told_after_the_resume(site: Any, held: Any, until: Any) -> None:
    product, tenant, own, _ = held
    own.takes.clear()
    hold = (await signal(site, f"{product}-1.0.0", event="UPDATE", tenant=tenant, grace=60))["id"]
    await until(lambda: own.tries)
    await signal(site, f"{product}-1.0.0", event="RESUME", hold=hold)
    own.takes.set()
    await until(lambda: own.events)
    assert own.names() == ["RESUME"]


async def test_dependents_hear_missing_when_a_hold_is_overdue_and_the_administrator_is_told(
    site: Any, held: Any, until: Any
) -> None:
    product, tenant, _, dependent = held
    hold = (await signal(site, f"{product}-1.0.0", event="UPDATE", tenant=tenant, ttl=0.2))["id"]
    await until(lambda: "MISSING" in dependent.names())

    async def told() -> bool:
        return f"overdue:{hold}" in [each["key"] for each in (await site.http.get("/_/lifecycle/problems")).json()]

    await until(told)
    await signal(site, f"{product}-1.0.0", event="RESUME", hold=hold)
    await until(lambda: dependent.names()[-1] == "RESUME")


async def test_a_run_tells_the_enabled_version(site: Any, held: Any, until: Any) -> None:
    product, tenant, own, dependent = held
    new = await site.register(f"{product}-1.1.0", "http://127.0.0.1:1")
    job = await site.job(tenant, new)
    await job.held(new)
    assert own.names() == ["UPDATE"]
    await job.switch(new)
    await until(lambda: own.names() == ["UPDATE", "RESUME"] and dependent.names() == ["DELAY", "RESUME"])


async def test_a_module_wide_hold_is_told_once(site: Any, held: Any, until: Any) -> None:
    product, _, own, _ = held
    await site.tenant(f"{product}-1.0.0")
    hold = (await signal(site, f"{product}-1.0.0", event="UPDATE"))["id"]
    assert (await site.runs.delay(hold, wait=10)).state == "HELD"
    assert own.events == [("UPDATE", f"{product}-1.0.0", "*")]
    await signal(site, f"{product}-1.0.0", event="RESUME", hold=hold)
