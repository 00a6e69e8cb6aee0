"""`POST /_/lifecycle/{module}`: what modules and operators signal, line by line (requirements A2, A4, A6; protocol)."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from aiohttp import web

PROBLEM = {"Accept": "application/problem+json"}
AWARE = {"X-Okapi-Lifecycle": "delay"}


@dataclass(frozen=True, kw_only=True)
class Wired:
    """A tenant with one module, and what is signalled of it."""

    site: Any
    tenant: str
    product: str

    @property
    def module(self) -> str:
        return f"{self.product}-1.0.0"

    @property
    def instance(self) -> str:
        return f"{self.module}-i"

    async def signal(self, event: str, headers: dict[str, str] | None = None, **members: Any) -> httpx.Response:
        wire = {"event": event, **members}
        found: httpx.Response = await self.site.http.post(f"/_/lifecycle/{self.module}", json=wire, headers=headers)
        return found

    async def update(self, **members: Any) -> dict[str, Any]:
        found = await self.signal("UPDATE", **members)
        assert found.status_code == 202, found.text
        return dict(found.json())

    async def held(self, **members: Any) -> str:
        """UPDATE, and wait until the sender may begin; the hold's id."""
        hold = str((await self.update(**members))["id"])
        found = await self.delay(hold, "holder", 10)
        assert (found["lifecycle"], found["state"]) == ("RESUME", "HELD"), found
        return hold

    async def resume(self, hold: str, **members: Any) -> dict[str, Any]:
        found = await self.signal("RESUME", hold=hold, **members)
        assert found.status_code == 200, found.text
        return dict(found.json())

    async def delay(self, hold: str, who: str = "requester", wait: float = 0) -> dict[str, Any]:
        found = await self.site.http.get(f"/_/lifecycle/delays/{hold}", params={"for": who, "wait": str(wait)})
        assert found.status_code == 200, found.text
        return dict(found.json())

    async def ask(self, path: str = "", tenant: str = "", **headers: str) -> httpx.Response:
        found: httpx.Response = await self.site.get(tenant or self.tenant, f"/{self.product}{path}", **headers)
        return found

    def begin(self, path: str = "", tenant: str = "", **headers: str) -> "asyncio.Task[httpx.Response]":
        return asyncio.create_task(self.ask(path, tenant, **headers))

    async def parked(self, number: int) -> bool:
        links = (await self.site.http.get("/_/lifecycle/links")).json()
        return sum(link["parked"] for link in links if link["product"] == self.product) == number


@pytest.fixture
async def wired(site: Any, name: Any, upstream: Any) -> Wired:
    tenant, product = await site.wired(upstream.url)
    return Wired(site=site, tenant=tenant, product=product)


# UPDATE


async def test_update_is_answered_delay_with_a_place_to_wait(wired: Wired, upstream: Any, until: Any) -> None:
    upstream.answer = upstream.slowly
    old = wired.begin()
    await until(lambda: upstream.requests)
    found = await wired.signal("UPDATE", tenant=wired.tenant, instance=wired.instance, ttl=600, reason="new schema")
    assert (found.status_code, found.headers["X-Okapi-Lifecycle"]) == (202, "DELAY")
    state = found.json()
    assert found.headers["Location"] == f"/_/lifecycle/delays/{state['id']}?for=holder"
    assert datetime.fromisoformat(state.pop("since")) < datetime.now(UTC) < datetime.fromisoformat(state.pop("until"))
    hold = state.pop("id")
    assert state == {
        "lifecycle": "DELAY",
        "state": "DRAINING",
        "tenant": wired.tenant,
        "product": wired.product,
        "holder": f"module {wired.instance}",
        "inFlight": 1,
        "loose": False,
        "parked": 0,
    }
    (link,) = await wired.site.links(wired.tenant)
    assert (link["hold"], link["holdId"], link["reason"]) == ("DRAINING", hold, "new schema")
    waiting = asyncio.create_task(wired.delay(hold, "holder", 10))
    upstream.gate.set()
    assert (await old).status_code == 200
    found = await waiting
    assert (found["lifecycle"], found["state"], found["inFlight"]) == ("RESUME", "HELD", 0)
    assert (await wired.delay(hold))["lifecycle"] == "DELAY", "for requesters it is not over"
    await wired.resume(hold, instance=wired.instance)


async def test_the_race_of_an_update_with_old_and_new_requests(wired: Wired, upstream: Any, until: Any) -> None:
    """Requirement A6: who is in flight finishes within the grace, newer requests wait, what is left is cut, then it goes on."""
    quick = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.raw_path.endswith("/quick"):
            await quick.wait()
        elif request.raw_path.endswith("/slow"):
            await asyncio.Event().wait()
        return web.json_response({"path": request.raw_path})

    upstream.answer = answer
    finishes, is_left = wired.begin("/quick"), wired.begin("/slow")
    await until(lambda: len(upstream.requests) == 2)
    state = await wired.update(instance=wired.instance, grace=1)
    assert (state["lifecycle"], state["state"], state["inFlight"]) == ("DELAY", "DRAINING", 2)
    aware, plain = await wired.ask("/aware", **AWARE), wired.begin("/plain")
    assert (aware.status_code, aware.headers["X-Okapi-Lifecycle"]) == (503, "DELAY")
    assert aware.headers["Location"] == f"/_/lifecycle/delays/{state['id']}"
    assert int(aware.headers["Retry-After"]) > 0
    await until(lambda: wired.parked(1))
    quick.set()
    assert (await finishes).status_code == 200
    assert (await wired.delay(state["id"], "holder"))["lifecycle"] == "DELAY"
    cut = await is_left
    assert (cut.status_code, cut.headers["X-Okapi-Lifecycle"], cut.json()["lifecycle"]) == (503, "MISSING", "MISSING")
    await until(lambda: upstream.broken == [f"/{wired.product}/slow"])
    found = await wired.delay(state["id"], "holder", 10)
    assert (found["lifecycle"], found["state"], found["inFlight"], found["parked"]) == ("RESUME", "HELD", 0, 1)
    assert len(upstream.requests) == 2
    assert not plain.done()
    await wired.resume(state["id"])
    assert (await plain).json() == {"path": f"/{wired.product}/plain"}


async def test_a_grace_of_nothing_cuts_at_once(wired: Wired, upstream: Any, until: Any) -> None:
    upstream.answer = upstream.slowly
    old = wired.begin()
    await until(lambda: upstream.requests)
    hold = await wired.held(grace=0)
    assert (await old).headers["X-Okapi-Lifecycle"] == "MISSING"
    await wired.resume(hold)


@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True), (True, True), (False, False)])
async def test_one_holds_a_link_and_whoever_comes_second_is_told_who(wired: Wired, first: bool, second: bool) -> None:
    """A hold of one tenant and one of all tenants exclude each other."""
    mine = {"tenant": wired.tenant} if first else {}
    theirs = {"tenant": wired.tenant} if second else {"tenant": "*"}
    hold = await wired.held(instance=wired.instance, **mine)
    refused = await wired.signal("UPDATE", **theirs)
    assert refused.status_code == 409
    for word in (wired.product, "HELD", f"module {wired.instance}", wired.tenant if first else "every tenant"):
        assert word in refused.text
    problem = (await wired.signal("UPDATE", headers=PROBLEM, **theirs)).json()
    assert (problem["status"], problem["state"], problem["holder"]) == (409, "HELD", f"module {wired.instance}")
    assert problem["detail"] == refused.text
    assert [link["holdId"] for link in await wired.site.links(wired.tenant)] == [hold]
    await wired.resume(hold)


async def test_other_tenants_and_other_products_may_be_held_meanwhile(wired: Wired, site: Any, upstream: Any) -> None:
    other, product = await site.wired(upstream.url)
    elsewhere = Wired(site=site, tenant=other, product=product)
    second = await site.tenant(wired.module)
    holds = [await wired.held(tenant=wired.tenant), await wired.held(tenant=second), await elsewhere.held()]
    assert len(set(holds)) == 3
    await wired.resume(holds[0])
    assert (await wired.ask()).status_code == 200
    assert (await wired.ask(tenant=second, Prefer="wait=0")).status_code == 503
    await wired.resume(holds[1])
    await elsewhere.resume(holds[2])


async def test_a_job_and_a_module_exclude_each_other(wired: Wired, site: Any, upstream: Any) -> None:
    newer = await site.register(f"{wired.product}-2.0.0", upstream.url)
    job = await site.job(wired.tenant, newer)
    (state,) = await job.held(newer)
    for members in ({"tenant": wired.tenant}, {}):
        refused = await wired.signal("UPDATE", **members)
        assert (refused.status_code, f"held by job {job.id}" in refused.text) == (409, True), refused.text
    refused = await wired.signal("RESUME", hold=state.id, instance=wired.instance)
    assert (refused.status_code, f"job {job.id}" in refused.text) == (409, True)
    await job.resume(newer)
    hold = await wired.held()
    with pytest.raises(Exception, match="held by operator"):
        await job.hold(newer)
    await wired.resume(hold)


async def test_an_id_that_the_sender_chose_makes_a_retry_the_same_hold(wired: Wired, name: Any) -> None:
    chosen = f"hold-of-mine.{name('h')}"
    found = await asyncio.gather(*(wired.update(hold=chosen, instance=wired.instance) for _ in range(5)))
    assert {state["id"] for state in found} == {chosen}
    first = await wired.delay(chosen, "holder", 5)
    again = await wired.update(hold=chosen, instance=wired.instance)
    assert (again["since"], again["state"]) == (first["since"], "HELD")
    for members in ({}, {"instance": wired.instance, "tenant": wired.tenant}, {"instance": "another"}):
        refused = await wired.signal("UPDATE", hold=chosen, **members)
        assert (refused.status_code, f"module {wired.instance}" in refused.text) == (409, True)
    await wired.resume(chosen, instance=wired.instance)
    refused = await wired.signal("UPDATE", hold=chosen, instance=wired.instance)
    assert (refused.status_code, "needs a new id" in refused.text) == (409, True)
    assert (await wired.ask()).status_code == 200


async def test_one_id_is_no_hold_of_two_products(wired: Wired, site: Any, upstream: Any, name: Any) -> None:
    other, product = await site.wired(upstream.url)
    elsewhere = Wired(site=site, tenant=other, product=product)
    for _ in range(5):
        chosen = f"hold-of-both-{name('h')}"
        found = await asyncio.gather(*(each.signal("UPDATE", hold=chosen) for each in (wired, elsewhere)))
        assert sorted(answer.status_code for answer in found) == [202, 409], [answer.text for answer in found]
        await (wired if found[0].status_code == 202 else elsewhere).resume(chosen)


async def test_of_many_senders_at_one_moment_one_holds(wired: Wired) -> None:
    asked = [
        wired.signal("UPDATE", instance=f"i{number}", **({"tenant": wired.tenant} if number % 2 else {})) for number in range(8)
    ]
    found = await asyncio.gather(*asked)
    assert sorted(answer.status_code for answer in found) == [202] + [409] * 7
    winner = next(answer.json() for answer in found if answer.status_code == 202)
    assert all(winner["holder"] in answer.text for answer in found if answer.status_code == 409)
    await wired.resume(winner["id"])


async def test_a_tenant_that_is_removed_at_the_same_moment_leaves_no_hold(wired: Wired, site: Any) -> None:
    for _ in range(10):
        tenant = await site.tenant()
        held, removed = await asyncio.gather(
            wired.signal("UPDATE", tenant=tenant), site.http.delete(f"/_/proxy/tenants/{tenant}")
        )
        assert (held.status_code == 202) != (removed.status_code == 204), (held.text, removed.text)
        if held.status_code == 202:
            await wired.resume(held.json()["id"])


async def test_after_its_ttl_requesters_get_missing_and_the_hold_stays(wired: Wired, upstream: Any, until: Any) -> None:
    state = await wired.update(ttl=0.5)
    parked, polling = wired.begin(), asyncio.create_task(wired.delay(state["id"], wait=10))
    found = await parked
    assert (found.status_code, found.headers["X-Okapi-Lifecycle"]) == (503, "MISSING")
    assert datetime.fromisoformat(found.json()["until"]) == datetime.fromisoformat(state["until"])
    assert (await polling)["lifecycle"] == "MISSING"
    assert (await wired.ask()).headers["X-Okapi-Lifecycle"] == "MISSING", "at once"
    found = await wired.delay(state["id"], "holder", 5)
    assert (found["lifecycle"], found["state"]) == ("RESUME", "HELD"), "its holder is at work"
    assert upstream.requests == []
    await wired.resume(state["id"])
    assert (await wired.ask()).status_code == 200


# Module-wide


async def test_a_hold_of_all_tenants_holds_each_and_those_that_come_later(
    wired: Wired, site: Any, upstream: Any, until: Any
) -> None:
    tenants = [wired.tenant, *[await site.tenant(wired.module) for _ in range(3)]]
    upstream.answer = upstream.slowly
    old = [wired.begin(tenant=tenant) for tenant in tenants[:2]]
    await until(lambda: len(upstream.requests) == 2)
    state = await wired.update(tenant="*")
    assert (state["tenant"], state["state"], state["inFlight"]) == ("*", "DRAINING", 2)
    later = await site.tenant(wired.module)
    waiting = [wired.begin(tenant=tenant) for tenant in [*tenants, later]]
    await until(lambda: wired.parked(5))
    (link,) = [link for link in await site.links(later) if link["product"] == wired.product]
    assert (link["tenant"], link["parked"]) == ("*", 5)
    upstream.gate.set()
    assert {answer.status_code for answer in await asyncio.gather(*old)} == {200}
    found = await wired.delay(state["id"], "holder", 10)
    assert (found["lifecycle"], found["parked"]) == ("RESUME", 5)
    assert len(upstream.requests) == 2
    await wired.resume(state["id"])
    assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}
    assert [link for link in await site.links(later) if link["product"] == wired.product] == []


# What is not held


async def test_requests_from_a_module_under_update_are_routed_as_always(wired: Wired, site: Any, new_upstream: Any) -> None:
    callee = await new_upstream("callee")
    product = (await site.register(f"{wired.product}x-1.0.0", callee.url)).removesuffix("-1.0.0")
    await site.enable(wired.tenant, f"{product}-1.0.0")
    await wired.ask()
    chain = "123456/abc"
    hold = await wired.held()
    found = await site.get(wired.tenant, f"/{product}/of-mine", **{"X-Okapi-Request-Id": chain})
    assert found.json()["name"] == "callee"
    assert callee.requests[0].headers["X-Okapi-Request-Id"].startswith(chain + ";")
    await wired.resume(hold)


async def test_a_part_of_work_that_is_in_flight_passes_a_draining_link_and_no_other_request_does(
    wired: Wired, site: Any, new_upstream: Any, upstream: Any, until: Any
) -> None:
    """A calls B, B calls A back: else the old request could never finish."""
    middle = await new_upstream("middle")
    product = (await site.register(f"{wired.product}x-1.0.0", middle.url)).removesuffix("-1.0.0")
    await site.enable(wired.tenant, f"{product}-1.0.0")
    step = asyncio.Event()

    async def outer(request: web.BaseRequest) -> web.StreamResponse:
        chain = request.headers["X-Okapi-Request-Id"]
        if request.raw_path.endswith("/inner"):
            return web.json_response({"depth": len(chain.split(";"))})
        await step.wait()
        found = await site.get(wired.tenant, f"/{product}", **{"X-Okapi-Request-Id": chain})
        return web.json_response(found.json())

    async def inner(request: web.BaseRequest) -> web.StreamResponse:
        found = await wired.ask("/inner", **{"X-Okapi-Request-Id": request.headers["X-Okapi-Request-Id"]})
        return web.json_response(found.json())

    upstream.answer, middle.answer = outer, inner
    old = wired.begin()
    await until(lambda: upstream.requests)
    state = await wired.update()
    assert (await wired.ask(Prefer="wait=0", **{"X-Okapi-Request-Id": "000000/x"})).status_code == 503
    step.set()
    assert (await asyncio.wait_for(old, 5)).json() == {"depth": 3}
    assert (await wired.delay(state["id"], "holder", 5))["state"] == "HELD"
    await wired.resume(state["id"])


# RESUME


async def test_resume_opens_and_may_be_repeated(wired: Wired, until: Any) -> None:
    hold = await wired.held(instance=wired.instance)
    waiting = wired.begin()
    await until(lambda: wired.parked(1))
    for _ in range(2):
        found = await wired.signal("RESUME", hold=hold, instance=wired.instance)
        assert (found.status_code, found.headers["X-Okapi-Lifecycle"]) == (200, "RESUME")
        state = found.json()
        assert (state["id"], state["lifecycle"], state["state"]) == (hold, "RESUME", "OPEN")
    assert (await waiting).status_code == 200
    assert (await wired.delay(hold))["lifecycle"] == "RESUME"


async def test_resume_opens_a_draining_link(wired: Wired, upstream: Any, until: Any) -> None:
    upstream.answer = upstream.slowly
    old = wired.begin()
    await until(lambda: upstream.requests)
    state = await wired.update()
    newer = wired.begin()
    await until(lambda: wired.parked(1))
    assert (await wired.resume(state["id"]))["state"] == "OPEN"
    await until(lambda: len(upstream.requests) == 2)
    upstream.gate.set()
    assert [answer.status_code for answer in await asyncio.gather(old, newer)] == [200, 200]


async def test_resume_by_another_is_refused_with_the_holder(wired: Wired) -> None:
    hold = await wired.held(instance=wired.instance)
    refused = await wired.signal("RESUME", hold=hold, instance="another", headers=PROBLEM)
    problem = refused.json()
    assert (refused.status_code, problem["state"], problem["holder"]) == (409, "HELD", f"module {wired.instance}")
    assert (await wired.ask(Prefer="wait=0")).status_code == 503, "nothing changed"
    await wired.resume(hold)  # an operator may
    assert (await wired.signal("RESUME", hold=hold, instance="another")).status_code == 409


async def test_resume_of_another_modules_hold_is_refused(wired: Wired, site: Any, upstream: Any) -> None:
    other, product = await site.wired(upstream.url)
    elsewhere = Wired(site=site, tenant=other, product=product)
    hold = await wired.held()
    refused = await elsewhere.signal("RESUME", hold=hold)
    assert (refused.status_code, wired.product in refused.text) == (409, True)
    await wired.resume(hold)


async def test_resume_of_nothing_is_refused_with_the_state(wired: Wired) -> None:
    refused = await wired.signal("RESUME", hold="never-was-there", headers=PROBLEM)
    problem = refused.json()
    assert (refused.status_code, problem["state"], "holder" in problem) == (409, "OPEN", False)
    assert f"RESUME is not allowed while {wired.product} is OPEN" in problem["detail"]


async def test_resume_of_a_wrong_hold_names_the_one_that_stands(wired: Wired) -> None:
    hold = await wired.held()
    refused = await wired.signal("RESUME", hold="never-was-there", headers=PROBLEM)
    problem = refused.json()
    assert (refused.status_code, problem["state"]) == (409, "HELD")
    assert f"there is no hold never-was-there; those on {wired.product} are {hold} (HELD by " in problem["detail"]
    await wired.resume(hold)


async def test_resume_of_an_instance_says_that_it_is_well_and_opens_nothing(wired: Wired) -> None:
    hold = await wired.held()
    found = await wired.signal("RESUME", instance=wired.instance)
    assert (found.status_code, found.json()["lifecycle"]) == (200, "RESUME")
    assert (await wired.ask(Prefer="wait=0")).status_code == 503
    await wired.resume(hold)
    unknown = await wired.signal("RESUME", instance="nobody")
    assert (unknown.status_code, "nobody" in unknown.text) == (404, True)


# DISCONNECT


async def test_disconnect_lets_the_instance_finish_and_sends_it_nothing_new(wired: Wired, upstream: Any, until: Any) -> None:
    upstream.answer = upstream.slowly
    old = wired.begin()
    await until(lambda: upstream.requests)
    leaving = asyncio.create_task(wired.signal("DISCONNECT", instance=wired.instance))
    await until(lambda: gone(wired))
    assert (await wired.ask(Prefer="wait=0")).headers["X-Okapi-Lifecycle"] == "DELAY"
    assert not leaving.done()
    upstream.gate.set()
    assert (await old).status_code == 200
    found = await leaving
    assert (found.status_code, found.json()) == (200, {"instance": wired.instance, "inFlight": 0})
    assert len(upstream.requests) == 1
    again = await wired.signal("DISCONNECT", instance=wired.instance)
    assert again.status_code == 404


async def gone(wired: Wired) -> bool:
    return bool((await wired.site.http.get(f"/_/discovery/modules/{wired.module}")).status_code == 404)


async def test_disconnect_tells_what_is_left_after_the_grace(wired: Wired, upstream: Any, until: Any) -> None:
    upstream.answer = upstream.slowly
    old = wired.begin()
    await until(lambda: upstream.requests)
    found = await wired.signal("DISCONNECT", instance=wired.instance, grace=0.2)
    assert found.json() == {"instance": wired.instance, "inFlight": 1}
    upstream.gate.set()
    assert (await old).status_code == 200, "it was not cut: the instance leaves when it has finished"


async def test_an_instance_that_comes_back_under_its_id_is_used_again(wired: Wired, upstream: Any) -> None:
    for _ in range(2):
        found = await wired.signal("DISCONNECT", instance=wired.instance)
        assert found.json()["inFlight"] == 0
        wire = {"srvcId": wired.module, "instId": wired.instance, "url": upstream.url}
        assert (await wired.site.http.post("/_/discovery/modules", json=wire)).status_code == 201
        assert (await wired.ask()).status_code == 200


# What is wrong


@pytest.mark.parametrize(
    ("wire", "status", "text"),
    [
        ({"event": "PAUSE"}, 400, "event"),
        ({}, 400, "event"),
        ({"event": "UPDATE", "tenants": []}, 400, "tenants: unknown member"),
        ({"event": "UPDATE", "hold": "short"}, 400, "hold"),
        ({"event": "UPDATE", "hold": "with spaces in it"}, 400, "hold"),
        ({"event": "UPDATE", "ttl": 0}, 400, "ttl"),
        ({"event": "UPDATE", "grace": -1}, 400, "grace"),
        ({"event": "UPDATE", "grace": 3601}, 400, "grace"),
        ({"event": "UPDATE", "tenant": "nobody"}, 404, "nobody"),
        ({"event": "RESUME"}, 400, "names a hold"),
        ({"event": "DISCONNECT"}, 400, "instance"),
        ({"event": "DISCONNECT", "instance": "nobody"}, 404, "nobody"),
    ],
    ids=str,
)
async def test_what_is_wrong_with_a_signal_is_named(wired: Wired, wire: dict[str, Any], status: int, text: str) -> None:
    found = await wired.site.http.post(f"/_/lifecycle/{wired.module}", json=wire)
    assert (found.status_code, text in found.text) == (status, True), found.text
    assert (await wired.ask()).status_code == 200


@pytest.mark.parametrize("module", ["nobody-1.0.0", "noversion"])
async def test_a_module_that_nobody_registered_signals_nothing(site: Any, module: str) -> None:
    found = await site.http.post(f"/_/lifecycle/{module}", json={"event": "UPDATE"})
    assert (found.status_code, module in found.text) == (404, True)
