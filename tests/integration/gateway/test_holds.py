"""UPDATE, draining, HELD, RESUME and the switch, as requesters and runs see them (requirements A2-A6, protocol)."""

import asyncio
import contextlib
import signal
import socket
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from aiohttp import web

from gateway_client import ChangeRef, GatewayRefused, HoldRequest, MoveRequest, OpenRequest

MB = 2**20


@dataclass(frozen=True, kw_only=True)
class Moving:
    """A tenant on 1.0.0, and a job that is to move it to 2.0.0."""

    site: Any
    tenant: str
    product: str
    old: str
    new: str
    job: Any

    async def ask(self, path: str = "", **headers: str) -> httpx.Response:
        found: httpx.Response = await self.site.get(self.tenant, f"/{self.product}{path}", **headers)
        return found

    def begin(self, path: str = "", **headers: str) -> "asyncio.Task[httpx.Response]":
        return asyncio.create_task(self.ask(path, **headers))

    async def parked(self, number: int) -> bool:
        return bool(await self.site.parked(self.tenant) == number)

    async def busy(self, number: int) -> bool:
        return bool(await self.site.in_flight(self.tenant) == number)


async def moving(site: Any, name: Any, old_url: str, new_url: str) -> Moving:
    product = name("m")
    old = await site.register(f"{product}-1.0.0", old_url)
    tenant = await site.tenant(old)
    new = await site.register(f"{product}-2.0.0", new_url)
    return Moving(site=site, tenant=tenant, product=product, old=old, new=new, job=await site.job(tenant, new))


@pytest.fixture
async def two(new_upstream: Any) -> tuple[Any, Any]:
    """The old version and the new one."""
    return await new_upstream("old"), await new_upstream("new")


# Draining


async def test_new_requests_wait_while_the_old_ones_finish_then_the_link_is_held(
    site: Any, name: Any, two: Any, until: Any
) -> None:
    old, new = two
    old.answer = old.slowly
    m = await moving(site, name, old.url, new.url)
    first = m.begin()
    await until(lambda: old.requests)
    (state,) = await m.job.hold(m.new)
    assert (state.state, state.lifecycle, state.in_flight) == ("DRAINING", "DELAY", 1)
    second = m.begin()
    await until(lambda: m.parked(1))
    assert (await m.job.runs.delay(state.id, wait=0.05)).lifecycle == "DELAY"
    old.gate.set()
    assert (await first).json()["name"] == "old"
    state = await m.job.runs.delay(state.id, wait=5)
    assert (state.state, state.lifecycle, state.in_flight, state.loose, state.parked) == ("HELD", "RESUME", 0, False, 1)
    assert len(old.requests) == 1
    await m.job.resume(m.new)
    assert (await second).json()["name"] == "old"


async def test_nothing_reaches_the_module_while_it_is_held(site: Any, name: Any, two: Any, until: Any) -> None:
    m = await moving(site, name, two[0].url, two[1].url)
    await m.job.held(m.new)
    waiting = [m.begin(f"/{number}") for number in range(50)]
    await until(lambda: m.parked(50))
    assert (two[0].requests, two[1].requests) == ([], [])
    await m.job.resume(m.new)
    assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}


async def test_other_tenants_of_the_module_do_not_notice(site: Any, name: Any, two: Any) -> None:
    m = await moving(site, name, two[0].url, two[1].url)
    other = await site.tenant(m.old)
    await m.job.held(m.new)
    assert (await site.get(other, f"/{m.product}")).status_code == 200
    await m.job.resume(m.new)


async def test_resume_releases_in_the_order_they_came(new_site: Any, name: Any, two: Any, until: Any) -> None:
    m = await moving(await new_site(release_rate=50), name, two[0].url, two[1].url)
    await m.job.held(m.new)
    waiting = []
    for number in range(20):
        waiting.append(m.begin(f"/{number}"))
        await until(lambda number=number: m.parked(number + 1))
    await m.job.resume(m.new)
    await asyncio.gather(*waiting)
    assert [request.raw_path for request in two[0].requests] == [f"/{m.product}/{number}" for number in range(20)]


async def test_who_comes_during_a_release_goes_behind_those_who_waited(new_site: Any, name: Any, two: Any, until: Any) -> None:
    m = await moving(await new_site(release_rate=10), name, two[0].url, two[1].url)
    await m.job.held(m.new)
    waiting = []
    for number in range(8):
        waiting.append(m.begin(f"/{number}"))
        await until(lambda number=number: m.parked(number + 1))
    await m.job.resume(m.new)
    await until(lambda: two[0].requests)
    assert len(two[0].requests) < 8
    assert (await m.ask("/late")).status_code == 200
    await asyncio.gather(*waiting)
    assert [request.raw_path for request in two[0].requests] == [f"/{m.product}/{number}" for number in (*range(8), "late")]


async def test_a_switch_takes_the_parked_requests_to_the_new_version(site: Any, name: Any, two: Any, until: Any) -> None:
    m = await moving(site, name, two[0].url, two[1].url)
    await m.job.held(m.new)
    waiting = [m.begin() for _ in range(10)]
    await until(lambda: m.parked(10))
    await m.job.switch(m.new)
    assert {answer.json()["name"] for answer in await asyncio.gather(*waiting)} == {"new"}
    assert two[0].requests == []
    assert (await m.ask()).json()["name"] == "new"


async def test_requests_parked_on_a_module_that_is_switched_off_get_404(site: Any, name: Any, two: Any, until: Any) -> None:
    m = await moving(site, name, two[0].url, two[1].url)
    await m.job.held(m.new)
    waiting = m.begin()
    await until(lambda: m.parked(1))
    move = MoveRequest(product=m.product, subject=m.new, bind=True, module=None)
    await m.job.runs.open(m.job.id, OpenRequest(group="g", moves=(move,)))
    assert (await waiting).status_code == 404


async def test_holding_again_and_opening_again_changes_nothing(site: Any, name: Any, two: Any) -> None:
    m = await moving(site, name, two[0].url, two[1].url)
    first = await m.job.held(m.new)
    again = await m.job.hold(m.new)
    assert [(state.id, state.state) for state in again] == [(first[0].id, "HELD")]
    await m.job.switch(m.new)
    await m.job.switch(m.new)
    assert (await m.ask()).json()["name"] == "new"
    assert (await m.job.runs.delay(first[0].id, wait=5)).lifecycle == "RESUME"


async def test_a_request_that_is_part_of_one_in_flight_passes_while_draining(site: Any, name: Any, two: Any, until: Any) -> None:
    old, new = two
    m = await moving(site, name, old.url, new.url)
    step = asyncio.Event()

    async def call_back(request: web.BaseRequest) -> web.StreamResponse:
        if request.raw_path.endswith("/inner"):
            return web.json_response({"name": "inner"})
        await step.wait()
        chain = request.headers["X-Okapi-Request-Id"]
        found = await m.ask("/inner", **{"X-Okapi-Request-Id": f"{chain};77/x"})
        return web.json_response({"inner": found.json()["name"]})

    old.answer = call_back
    outer = m.begin("/outer")
    await until(lambda: old.requests)
    await m.job.hold(m.new)
    step.set()
    assert (await asyncio.wait_for(outer, 5)).json() == {"inner": "inner"}
    await m.job.held(m.new)
    await m.job.resume(m.new)


async def test_a_forged_ancestor_does_not_pass(site: Any, name: Any, two: Any, until: Any) -> None:
    old, new = two
    old.answer = old.slowly
    m = await moving(site, name, old.url, new.url)
    first = m.begin()
    await until(lambda: old.requests)
    await m.job.hold(m.new)
    found = await m.ask(Prefer="wait=0", **{"X-Okapi-Request-Id": "000000000000/x;abcdefabcdef/y"})
    assert (found.status_code, found.headers["X-Okapi-Lifecycle"]) == (503, "DELAY")
    old.gate.set()
    await first
    await m.job.resume(m.new)


async def test_an_ancestor_that_has_ended_opens_nothing(site: Any, name: Any, two: Any) -> None:
    m = await moving(site, name, two[0].url, two[1].url)
    await m.ask()
    chain = two[0].requests[0].headers["X-Okapi-Request-Id"]
    await m.job.hold(m.new)
    found = await m.ask(Prefer="wait=0", **{"X-Okapi-Request-Id": chain})
    assert found.status_code == 503
    await m.job.resume(m.new)


# Grace and loose work


async def test_after_the_grace_what_is_left_is_cut_and_gets_missing(site: Any, name: Any, two: Any, until: Any) -> None:
    old, new = two
    old.answer = old.slowly
    m = await moving(site, name, old.url, new.url)
    first = m.begin()
    await until(lambda: old.requests)
    await m.job.held(m.new, grace=0.1)
    found = await first
    assert found.status_code == 503
    assert found.headers["X-Okapi-Lifecycle"] == "MISSING"
    assert found.headers["Content-Type"].startswith("application/problem+json")
    problem = found.json()
    assert {"type", "title", "status", "detail", "lifecycle", "module", "tenant"} <= set(problem)
    assert (problem["status"], problem["lifecycle"], problem["tenant"]) == (503, "MISSING", m.tenant)
    assert old.broken == [f"/{m.product}"]
    await m.job.resume(m.new)


async def test_an_answer_that_had_begun_is_cut_off_after_the_grace(site: Any, name: Any, two: Any, until: Any) -> None:
    old, new = two

    async def forever(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"begun")
        await asyncio.Event().wait()
        return response

    old.answer = forever
    m = await moving(site, name, old.url, new.url)
    async with site.http.stream("GET", f"/{m.product}", headers={"X-Okapi-Tenant": m.tenant}) as answer:
        parts = answer.aiter_raw()
        assert await anext(parts) == b"begun"
        await m.job.held(m.new, grace=0.1)
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(parts)
    await m.job.resume(m.new)


async def test_loose_work_is_waited_for(new_site: Any, name: Any, two: Any, until: Any) -> None:
    old, new = two
    old.answer = old.slowly
    m = await moving(await new_site(settle=1.0), name, old.url, new.url)
    first = m.begin()
    await until(lambda: old.requests)
    first.cancel()
    await until(lambda: m.busy(0))
    left = asyncio.get_running_loop().time()
    (state,) = await m.job.hold(m.new)
    state = await m.job.runs.delay(state.id, wait=0.3)
    assert (state.state, state.in_flight, state.loose) == ("DRAINING", 0, True)
    assert (await m.job.runs.delay(state.id, wait=5)).state == "HELD"
    assert 0.7 < asyncio.get_running_loop().time() - left < 2
    await m.job.resume(m.new)


async def test_a_request_that_was_refused_a_connection_is_not_loose(new_site: Any, name: Any, two: Any) -> None:
    m = await moving(await new_site(settle=30), name, "http://127.0.0.1:1", two[1].url)
    assert (await m.ask(Prefer="wait=0")).status_code == 503
    (state,) = await m.job.hold(m.new)
    assert (await m.job.runs.delay(state.id, wait=5)).state == "HELD"
    await m.job.resume(m.new)


# Who waits, and how long


async def test_whoever_waited_too_long_gets_delay(new_site: Any, name: Any, two: Any) -> None:
    m = await moving(await new_site(hold_max=0.2), name, two[0].url, two[1].url)
    await m.job.held(m.new)
    found = await m.ask()
    assert (found.status_code, found.headers["X-Okapi-Lifecycle"]) == (503, "DELAY")
    assert int(found.headers["Retry-After"]) > 0
    problem = found.json()
    assert (problem["status"], problem["lifecycle"], problem["tenant"], problem["module"]) == (503, "DELAY", m.tenant, m.old)
    assert problem["run"] == m.job.id
    assert problem["since"]
    await m.job.resume(m.new)


@pytest.mark.parametrize(("prefer", "least", "most"), [("wait=0", 0, 0.9), ("respond-async, wait=1", 0.9, 3)])
async def test_a_requester_says_how_long_it_waits(site: Any, name: Any, two: Any, prefer: str, least: float, most: float) -> None:
    m = await moving(site, name, two[0].url, two[1].url)
    await m.job.held(m.new)
    begun = asyncio.get_running_loop().time()
    assert (await m.ask(Prefer=prefer)).headers["X-Okapi-Lifecycle"] == "DELAY"
    assert least <= asyncio.get_running_loop().time() - begun < most
    await m.job.resume(m.new)


async def test_a_client_that_knows_the_protocol_gets_a_place_to_wait(site: Any, name: Any, two: Any) -> None:
    m = await moving(site, name, two[0].url, two[1].url)
    old_gate = await m.job.held(m.new)
    found = await m.ask(**{"X-Okapi-Lifecycle": "delay"})
    assert (found.status_code, found.headers["X-Okapi-Lifecycle"]) == (503, "DELAY")
    place = found.headers["Location"]
    assert place == f"/_/lifecycle/delays/{old_gate[0].id}"
    waiting = asyncio.create_task(site.http.get(place, params={"wait": "10"}))
    await m.job.switch(m.new)
    answer = (await asyncio.wait_for(waiting, 5)).json()
    assert answer["lifecycle"] == "RESUME"
    assert (await m.ask()).json()["name"] == "new"


async def test_a_requester_hears_delay_at_its_place_until_the_resume(site: Any, name: Any, two: Any) -> None:
    m = await moving(site, name, two[0].url, two[1].url)
    await m.job.held(m.new)
    place = (await m.ask(**{"X-Okapi-Lifecycle": "delay"})).headers["Location"]
    waiting = asyncio.create_task(site.http.get(place, params={"wait": "10"}))
    assert (await site.http.get(place, params={"wait": "0.1"})).json()["lifecycle"] == "DELAY"
    assert not waiting.done()
    await m.job.resume(m.new)
    assert (await asyncio.wait_for(waiting, 5)).json()["lifecycle"] == "RESUME"


@pytest.mark.parametrize("limit", [{"parked_per_tenant": 3}, {"parked_total": 3}], ids=["parked_per_tenant", "parked_total"])
async def test_beyond_the_limits_it_is_delay_at_once(new_site: Any, name: Any, two: Any, until: Any, limit: Any) -> None:
    m = await moving(await new_site(**limit), name, two[0].url, two[1].url)
    await m.job.held(m.new)
    waiting = [m.begin() for _ in range(3)]
    await until(lambda: m.parked(3))
    found = await asyncio.wait_for(m.ask(), 2)
    assert (found.status_code, found.headers["X-Okapi-Lifecycle"]) == (503, "DELAY")
    waiting[0].cancel()
    await until(lambda: m.parked(2))
    waiting.append(m.begin())
    await until(lambda: m.parked(3))
    await m.job.resume(m.new)
    assert [answer.status_code for answer in await asyncio.gather(*waiting[1:])] == [200, 200, 200]


@pytest.mark.parametrize(
    "limit", [{"parked_bytes": 3000}, {"parked_bytes_per_tenant": 3000}], ids=["parked_bytes", "parked_bytes_per_tenant"]
)
async def test_beyond_the_bytes_it_is_delay_at_once(new_site: Any, name: Any, two: Any, until: Any, limit: Any) -> None:
    m = await moving(await new_site(**limit), name, two[0].url, two[1].url)
    await m.job.held(m.new)
    wire = f"POST /{m.product} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {m.tenant}\r\nContent-Length: 2500\r\n\r\n".encode()
    first, writer = await m.site.connect()
    writer.write(wire + bytes(2500))
    await until(lambda: m.parked(1))
    second, writer = await m.site.connect()
    writer.write(wire + bytes(2500))
    assert b"X-Okapi-Lifecycle: DELAY" in await asyncio.wait_for(second.readuntil(b"\r\n\r\n"), 5)
    await m.job.resume(m.new)
    assert b" 200 " in await asyncio.wait_for(first.readuntil(b"\r\n\r\n"), 5)
    await until(lambda: m.site.running.platform.table.parked_bytes == 0)


@pytest.mark.parametrize("size", [None, 10, 100_000, 1_000_000, 20_000_000])
async def test_whoever_gave_up_while_parked_is_not_executed(site: Any, name: Any, two: Any, until: Any, size: int | None) -> None:
    m = await moving(site, name, two[0].url, two[1].url)
    await m.job.held(m.new)
    _, writer = await site.connect()
    length = "" if size is None else f"Content-Length: {size}\r\n"
    writer.write(f"POST /{m.product} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {m.tenant}\r\n{length}\r\n".encode())
    writer.write(bytes(size or 0))
    await until(lambda: m.parked(1))
    await sent_what_goes(writer)
    writer.transport.abort()
    await m.job.resume(m.new)
    assert (await m.ask("/after")).status_code == 200
    await until(lambda: m.busy(0))
    assert [body for body in two[0].bodies if body] == []
    assert [request.method for request in two[0].requests if request.raw_path != f"/{m.product}/after"] in ([], ["POST"])
    if size is None or size <= 100_000:
        assert len(two[0].requests) == 1


async def sent_what_goes(writer: asyncio.StreamWriter) -> None:
    """Wait until the kernels take no more."""
    before = -1
    while before != (before := writer.transport.get_write_buffer_size()):
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_parked_upload_arrives_whole(site: Any, name: Any, two: Any, until: Any, chunked: bool) -> None:
    m = await moving(site, name, two[0].url, two[1].url)
    await m.job.held(m.new)
    content = bytes(range(256)) * 4000

    async def body() -> Any:
        for start in range(0, len(content), 60_000):
            yield content[start : start + 60_000]

    headers = {"X-Okapi-Tenant": m.tenant}
    waiting = asyncio.create_task(site.http.post(f"/{m.product}", headers=headers, content=body() if chunked else content))
    await until(lambda: m.parked(1))
    await m.job.resume(m.new)
    assert (await waiting).status_code == 200
    assert two[0].bodies == [content]


# Two holders


async def test_a_second_holder_is_refused_with_the_name_of_the_first_and_nothing_changes(
    site: Any, name: Any, two: Any, rows: Any
) -> None:
    m = await moving(site, name, two[0].url, two[1].url)
    await m.job.held(m.new)
    before = await rows(site.dsn)
    with pytest.raises(GatewayRefused) as refused:
        await m.job.hold(m.new, group="another")
    assert (refused.value.status, m.job.id in refused.value.text) == (409, True)
    assert await rows(site.dsn) == before
    await m.job.resume(m.new)


async def test_of_several_holds_none_is_set_if_one_cannot_be(site: Any, name: Any, two: Any) -> None:
    first = await site.register(f"{name('m')}-1.0.0", two[0].url)
    m = await moving(site, name, two[0].url, two[1].url)
    await m.job.held(m.new)
    with pytest.raises(GatewayRefused):
        await m.job.hold(first, m.new, group="another")
    assert [link["product"] for link in await site.links(m.tenant) if link["hold"] != "OPEN"] == [m.product]
    await m.job.resume(m.new)


async def test_of_two_holders_at_the_same_moment_one_wins(site: Any, name: Any, two: Any) -> None:
    m = await moving(site, name, two[0].url, two[1].url)
    other = await site.register(f"{name('m')}-1.0.0", two[0].url)
    refs = [ChangeRef(product=module.rpartition("-")[0], subject=module) for module in (m.new, other)]
    asked = [
        m.job.runs.hold(m.job.id, HoldRequest(group=f"g{number}", changes=tuple(refs if number % 2 else refs[::-1])))
        for number in range(10)
    ]
    found = await asyncio.gather(*asked, return_exceptions=True)
    won = [answer for answer in found if not isinstance(answer, Exception)]
    lost = [answer for answer in found if isinstance(answer, GatewayRefused) and answer.status == 409]
    assert (len(won), len(lost)) == (1, 9), found


async def test_an_ended_job_holds_nothing(site: Any, name: Any, two: Any) -> None:
    m = await moving(site, name, two[0].url, two[1].url)
    await m.job.finish()
    with pytest.raises(GatewayRefused) as refused:
        await m.job.hold(m.new)
    assert (refused.value.status, m.job.id in refused.value.text) == (409, True)
    assert (await m.ask()).status_code == 200


# Restarts


async def test_a_hold_survives_a_restart_of_the_gateway(new_site: Any, site_of: Any, name: Any, two: Any, until: Any) -> None:
    first = await new_site()
    m = await moving(first, name, two[0].url, two[1].url)
    states = await m.job.held(m.new)
    waiting = m.begin()
    await until(lambda: m.parked(1))
    await asyncio.to_thread(first.running.stop)
    told = await waiting
    assert (told.status_code, told.headers["X-Okapi-Lifecycle"]) == (503, "DELAY")
    second = await new_site(dsn=first.dsn)
    found = await second.get(m.tenant, f"/{m.product}", Prefer="wait=0")
    assert (found.status_code, found.headers["X-Okapi-Lifecycle"]) == (503, "DELAY")
    assert (await second.runs.delay(states[0].id, wait=0)).state == "HELD"
    after = type(m.job)(id=m.job.id, tenant=m.tenant, runs=second.runs)
    await after.switch(m.new)
    assert (await second.get(m.tenant, f"/{m.product}")).json()["name"] == "new"


async def test_a_draining_hold_goes_on_after_the_gateway_was_killed_and_waits_for_what_may_be_loose(
    gateway_process: Any, site_of: Any, name: Any, two: Any, until: Any
) -> None:
    old, new = two
    old.answer = old.slowly
    running = gateway_process(settle=1.5)
    await asyncio.to_thread(running.start)
    site = site_of(running.url)
    m = await moving(site, name, old.url, new.url)
    request = m.begin()
    await until(lambda: old.requests)
    (state,) = await m.job.hold(m.new)
    assert state.state == "DRAINING"
    await asyncio.to_thread(running.end, signal.SIGKILL)
    with contextlib.suppress(httpx.HTTPError):
        await request
    await asyncio.to_thread(running.start)
    state = await site.runs.delay(state.id, wait=0.2)
    assert state.state == "DRAINING", "what the dead gateway had sent may still be at work"
    assert (await m.ask(Prefer="wait=0")).status_code == 503
    assert (await site.runs.delay(state.id, wait=10)).state == "HELD"
    await m.job.switch(m.new)
    assert (await m.ask()).json()["name"] == "new"
    await site.close()


async def test_a_request_that_is_still_connecting_does_not_reach_the_old_version_after_an_update(
    new_site: Any, name: Any, two: Any, until: Any
) -> None:
    """It was let through before the UPDATE; nothing of it was sent, so it waits as those that came later."""
    site = await new_site(connect_timeout=20.0)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        m = await moving(site, name, f"http://127.0.0.1:{full.getsockname()[1]}", two[1].url)
        taken = socket.create_connection(full.getsockname())  # nobody is accepted: the next connection has to wait
        waiting = m.begin()
        await until(lambda: site.in_flight(m.tenant))
        states = await m.job.hold(m.new)
        full.settimeout(15)
        (await asyncio.to_thread(full.accept))[0].close()
        connected, _ = await asyncio.to_thread(full.accept)
        await until(lambda: m.parked(1))
        assert (await site.runs.delay(states[0].id, wait=10)).state == "HELD"
        await m.job.switch(m.new)
        assert (await waiting).json()["name"] == "new"
        connected.setblocking(False)
        with pytest.raises(BlockingIOError):
            connected.recv(1)
        connected.close()
        taken.close()
