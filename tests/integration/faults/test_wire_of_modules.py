"""Requests of users through the gateway while the line to the module misbehaves, byte by byte (requirements A1, A2, E4).

What happens to requests when a module dies, and to those that may be repeated, is in `gateway/test_availability.py`.
"""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.integration.faults.world import World
from tests.integration.gateway.conftest import eventually
from tests.wire.faults import Duplicate, Garbage, Half, Slow, Status
from tests.wire.tcp_proxy import Line


@pytest.fixture
async def line(world: World) -> AsyncIterator[Line]:
    made = await Line(world.module.url).start()
    yield made
    await made.stop()


async def ask(world: World, tenant: str, product: str, method: str = "GET") -> httpx.Response:
    return await world.site.http.request(method, f"/{product}/a", headers={"X-Okapi-Tenant": tenant})


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_half_an_answer_is_never_passed_on_as_a_whole_one(world: World, method: str) -> None:
    tenant, product = await world.site.wired(world.wire.url)
    world.wire.add(path=f"/{product}/a", fault=Half(), times=None)
    try:
        found = await ask(world, tenant, product, method)
    except httpx.RemoteProtocolError:
        return  # the head was passed on: the end is missing, and that can be told
    assert found.status_code in (502, 503)


@pytest.mark.parametrize("code", [429, 500, 503])
async def test_an_error_of_the_module_is_its_own_answer(world: World, code: int) -> None:
    tenant, product = await world.site.wired(world.wire.url)
    world.wire.add(path=f"/{product}/a", fault=Status(code))
    found = await ask(world, tenant, product)
    assert (found.status_code, found.text) == (code, "a fault of the test")
    assert "X-Okapi-Lifecycle" not in found.headers


@pytest.mark.parametrize("fault", [Garbage(), Slow(0.3), Duplicate()], ids=["garbage", "slow", "twice"])
async def test_what_a_module_answers_is_passed_on_when_it_comes(world: World, fault: Garbage | Slow | Duplicate) -> None:
    tenant, product = await world.site.wired(world.wire.url)
    world.wire.add(path=f"/{product}/a", fault=fault)
    assert (await ask(world, tenant, product)).status_code == 200


async def test_a_line_that_hangs_holds_its_request_and_nobody_elses(world: World, line: Line) -> None:
    tenant, product = await world.site.wired(line.dsn)
    other, others = await world.site.wired(world.wire.url)
    line.cut()
    waiting = asyncio.create_task(ask(world, tenant, product))
    await eventually(lambda: _in_flight(world, tenant))
    assert (await ask(world, other, others)).status_code == 200
    assert not waiting.done()
    line.mend()
    assert (await waiting).status_code == 200


async def test_a_line_that_is_refused_parks_what_may_be_repeated_until_it_is_mended(world: World, line: Line) -> None:
    tenant, product = await world.site.wired(line.dsn)
    line.refuse()
    waiting = [asyncio.create_task(ask(world, tenant, product)) for _ in range(2)]
    await line.refused.wait()
    await eventually(lambda: _parked(world, tenant))
    line.mend()
    assert [(await each).status_code for each in waiting] == [200, 200]


async def test_a_post_whose_answer_is_lost_is_sent_once(world: World, line: Line) -> None:
    tenant, product = await world.site.wired(line.dsn)
    world.module.checked.clear()
    line.drop_answer(f"/{product}/a".encode())
    assert (await ask(world, tenant, product, "POST")).status_code == 502
    assert line.dropped.is_set()
    assert world.module.checked == [f"/{product}/a"]


async def test_a_get_whose_answer_is_lost_is_asked_again(world: World, line: Line) -> None:
    tenant, product = await world.site.wired(line.dsn)
    world.module.checked.clear()
    line.drop_answer(f"/{product}/a".encode())
    assert (await ask(world, tenant, product)).status_code == 200
    assert world.module.checked == [f"/{product}/a"] * 2


async def _in_flight(world: World, tenant: str) -> bool:
    return await world.site.in_flight(tenant) == 1


async def _parked(world: World, tenant: str) -> bool:
    return await world.site.parked(tenant) == 2
