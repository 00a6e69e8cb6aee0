"""What the gateway in memory does beside the contract: crashes, TTLs, several instances, newer versions."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from gateway_client.testing import Handler, InMemoryGateway

TENANT = {"X-Okapi-Tenant": "diku"}
AWARE = {**TENANT, "X-Okapi-Lifecycle": "delay"}


def described(module: str) -> dict[str, Any]:
    handlers = [{"methods": ["*"], "pathPattern": "/a*", "permissionsRequired": []}]
    return {"id": module, "provides": [{"id": "a", "version": "1.0", "handlers": handlers}]}


def says(text: str) -> Handler:
    async def handle(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text=text)

    return handle


@pytest.fixture
async def gateway() -> AsyncIterator[InMemoryGateway]:
    async with InMemoryGateway(ttl=60) as made:
        yield made


async def start(gateway: InMemoryGateway, module: str, name: str, handler: Handler) -> str:
    url = f"http://{name}.test"
    gateway.serve(url, handler)
    async with gateway.client() as client:
        await client.register_module(described(module))
        await client.register_instance(module=module, instance=name, url=url)
    return url


def asking(gateway: InMemoryGateway) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=gateway.transport, base_url=gateway.url)


async def test_a_crash_costs_plain_requesters_time_until_the_module_is_back(gateway: InMemoryGateway) -> None:
    url = await start(gateway, "mod-a-1.0.0", "one", says("one"))
    gateway.enable("diku", "mod-a-1.0.0")
    async with asking(gateway) as http:
        gateway.stop(url)
        told = await http.get("/a", headers=AWARE)
        assert (told.status_code, told.headers["X-Okapi-Lifecycle"]) == (503, "DELAY")
        parked = asyncio.create_task(http.get("/a", headers=TENANT))
        waiting = asyncio.create_task(http.get(told.headers["Location"], params={"wait": "20"}))
        gateway.serve(url, says("back"))
        assert (await parked).text == "back"
        assert (await waiting).json()["lifecycle"] == "RESUME"


async def test_after_the_ttl_a_lost_module_is_missing() -> None:
    async with InMemoryGateway(ttl=0.05) as gateway, asking(gateway) as http:
        url = await start(gateway, "mod-a-1.0.0", "one", says("one"))
        gateway.enable("diku", "mod-a-1.0.0")
        gateway.stop(url)
        missing = await http.get("/a", headers=TENANT)
        assert (missing.status_code, missing.headers["X-Okapi-Lifecycle"]) == (503, "MISSING")
        async with gateway.client() as client:
            (problem,) = await client.problems()
        assert (problem.module, problem.tenant, problem.kind) == ("mod-a-1.0.0", "diku", "missing")


async def test_another_instance_takes_over(gateway: InMemoryGateway) -> None:
    url = await start(gateway, "mod-a-1.0.0", "one", says("one"))
    await start(gateway, "mod-a-1.0.0", "two", says("two"))
    gateway.enable("diku", "mod-a-1.0.0")
    gateway.stop(url)
    async with asking(gateway) as http:
        assert (await http.get("/a", headers=TENANT)).text == "two"


async def test_a_module_that_never_had_an_instance_is_missing(gateway: InMemoryGateway) -> None:
    async with gateway.client() as client, asking(gateway) as http:
        await client.register_module(described("mod-a-1.0.0"))
        gateway.enable("diku", "mod-a-1.0.0")
        assert (await http.get("/a", headers=TENANT)).headers["X-Okapi-Lifecycle"] == "MISSING"
    with pytest.raises(ValueError, match="register mod-b"):
        gateway.enable("diku", "mod-b-1.0.0")


async def test_an_answer_that_breaks_off_is_502_and_the_instance_stays(gateway: InMemoryGateway) -> None:
    answers = iter([httpx.ReadError("reset"), None])

    async def once(_: httpx.Request) -> httpx.Response:
        if (error := next(answers)) is not None:
            raise error
        return httpx.Response(200, text="again")

    await start(gateway, "mod-a-1.0.0", "one", once)
    gateway.enable("diku", "mod-a-1.0.0")
    async with asking(gateway) as http:
        assert (await http.get("/a", headers=TENANT)).status_code == 502
        assert (await http.get("/a", headers=TENANT)).text == "again"


async def test_only_tenants_with_newest_follow_a_higher_version(gateway: InMemoryGateway) -> None:
    await start(gateway, "mod-a-1.0.0", "one", says("1.0.0"))
    for tenant in ("diku", "other"):
        gateway.enable(tenant, "mod-a-1.0.0")
    async with gateway.client() as client, asking(gateway) as http:
        await client.set_routing("diku", "newest")
        await start(gateway, "mod-a-1.10.0", "two", says("1.10.0"))
        await start(gateway, "mod-a-1.9.0", "three", says("1.9.0"))
        assert (await http.get("/a", headers=TENANT)).text == "1.10.0"
        assert (await http.get("/a", headers={"X-Okapi-Tenant": "other"})).text == "1.0.0"


async def test_what_nobody_answers_is_said_as_the_gateway_says_it(gateway: InMemoryGateway) -> None:
    gateway.enable("diku")
    async with asking(gateway) as http:
        assert (await http.get("/a", headers=TENANT)).status_code == 404
        assert (await http.get("/a", headers={"X-Okapi-Tenant": "nobody"})).text == "No such Tenant nobody"
        assert (await http.get("/_/nothing")).status_code == 404
