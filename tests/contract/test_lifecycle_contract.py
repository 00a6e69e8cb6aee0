"""The lifecycle protocol as modules see it: the same for the gateway in memory and for the real one."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from gateway_client import (
    GatewayRefused,
    HoldStays,
    LifecycleEvent,
    LifecycleRequest,
    LifecycleTransport,
    Module,
    ModuleDelayed,
    ModuleMissing,
    Routing,
)

Ground = Any
Until = Any


async def answers(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, text="served")


class Slow:
    """An instance that answers when its gate opens."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.reached = asyncio.Event()

    async def __call__(self, _: httpx.Request) -> httpx.Response:
        self.reached.set()
        await self.gate.wait()
        return httpx.Response(200, text="served")


AWARE = {"X_Okapi_Lifecycle": "delay"}


async def test_the_same_registration_again_is_fine_and_another_one_is_not(ground: Ground, name: Callable[[str], str]) -> None:
    module, url = f"{name('m')}-1.0.0", await ground.serve(answers)
    for _ in range(2):
        await ground.register(module, url)
    with pytest.raises(GatewayRefused, match="Duplicate instId"):
        await ground.client.register_instance(module=module, instance=f"{module}-i", url="http://127.0.0.1:1")


async def test_update_is_answered_delay_with_a_place_to_wait_until_it_may_begin(ground: Ground) -> None:
    slow = Slow()
    tenant, module, path = await ground.wired(slow)
    before = asyncio.create_task(ground.get(tenant, path))
    await slow.reached.wait()
    answer = await ground.signal(module, "UPDATE", tenant=tenant, hold="hold-of-a-test-1" + tenant)
    body = answer.json()
    assert (answer.status_code, answer.headers["X-Okapi-Lifecycle"]) == (202, "DELAY")
    assert answer.headers["Location"] == f"/_/lifecycle/delays/{body['id']}?for=holder"
    assert (body["id"], body["lifecycle"], body["state"], body["inFlight"]) == (
        f"hold-of-a-test-1{tenant}", "DELAY", "DRAINING", 1,
    )  # fmt: skip
    assert (body["tenant"], body["product"]) == (tenant, path[1:])
    waiting = asyncio.create_task(ground.http.get(answer.headers["Location"] + "&wait=20"))
    slow.gate.set()
    assert (await before).text == "served"
    begun = (await waiting).json()
    assert (begun["lifecycle"], begun["state"]) == ("RESUME", "HELD")


async def test_the_same_update_again_is_the_same_hold(ground: Ground) -> None:
    tenant, module, _ = await ground.wired(answers)
    hold = await ground.held(module, tenant=tenant, hold=f"the-same-hold-{tenant}")
    again = await ground.signal(module, "UPDATE", tenant=tenant, hold=hold)
    assert (again.status_code, again.json()["id"], again.json()["state"]) == (202, hold, "HELD")


@pytest.mark.parametrize(("first", "second"), [("tenant", "tenant"), ("tenant", "*"), ("*", "tenant"), ("*", "*")])
async def test_a_tenants_hold_and_one_for_all_exclude_each_other(ground: Ground, first: str, second: str) -> None:
    tenant, module, _ = await ground.wired(answers)
    instance = f"{module}-i"
    hold = await ground.held(module, instance=instance, **({"tenant": tenant} if first == "tenant" else {}))
    refused = await ground.signal(module, "UPDATE", instance=instance, **({"tenant": tenant} if second == "tenant" else {}))
    assert refused.status_code == 409, refused.text
    assert (await ground.signal(module, "RESUME", hold=hold)).status_code == 200


async def test_a_refused_signal_tells_the_state_to_those_who_accept_problems(ground: Ground) -> None:
    tenant, module, _ = await ground.wired(answers)
    await ground.held(module, tenant=tenant)
    refused = await ground.http.post(
        f"/_/lifecycle/{module}",
        json={"event": "UPDATE", "tenant": tenant},
        headers={"Accept": "application/problem+json"},
    )
    assert refused.headers["Content-Type"].startswith("application/problem+json")
    assert (refused.json()["status"], refused.json()["state"]) == (409, "HELD")
    assert refused.json()["holder"]


async def test_resume_again_is_fine_and_of_what_never_was_is_illegal(ground: Ground) -> None:
    tenant, module, path = await ground.wired(answers)
    never = await ground.signal(module, "RESUME", tenant=tenant, hold="a-hold-that-never-was")
    assert (never.status_code, "OPEN" in never.text) == (409, True)
    hold = await ground.held(module, tenant=tenant)
    for _ in range(2):
        resumed = await ground.signal(module, "RESUME", tenant=tenant, hold=hold)
        assert (resumed.status_code, resumed.json()["lifecycle"], resumed.json()["state"]) == (200, "RESUME", "OPEN")
    assert (await ground.get(tenant, path)).text == "served"


async def test_another_product_cannot_remove_a_hold(ground: Ground, name: Callable[[str], str]) -> None:
    tenant, module, path = await ground.wired(answers)
    hold = await ground.held(module, tenant=tenant)
    other = await ground.register(f"{name('m')}-1.0.0")
    assert (await ground.signal(other, "RESUME", hold=hold)).status_code == 409
    assert (await ground.get(tenant, path, **AWARE)).status_code == 503


async def test_another_instance_cannot_remove_a_hold_but_an_operator_can(ground: Ground) -> None:
    tenant, module, path = await ground.wired(answers)
    hold = await ground.held(module, tenant=tenant, instance=f"{module}-i")
    refused = await ground.signal(module, "RESUME", hold=hold, instance="another")
    assert refused.status_code == 409
    assert f"{module}-i" in refused.text
    assert (await ground.signal(module, "UPDATE", tenant=tenant, hold=hold, instance="another")).status_code == 409
    assert (await ground.signal(module, "RESUME", hold=hold)).status_code == 200
    assert (await ground.get(tenant, path)).text == "served"


@pytest.mark.parametrize(
    "members",
    [
        {"event": "UPDATE", "tennant": "t"},
        {"event": "PAUSE"},
        {"event": "UPDATE", "ttl": 0},
        {"event": "UPDATE", "grace": -1},
        {"event": "UPDATE", "hold": "short"},
        {"event": "DISCONNECT"},
        {"event": "RESUME"},
        {},
    ],
)
async def test_a_signal_that_is_none_is_refused(ground: Ground, members: dict[str, Any]) -> None:
    _, module, _ = await ground.wired(answers)
    assert (await ground.http.post(f"/_/lifecycle/{module}", json=members)).status_code == 400


async def test_an_aware_requester_is_told_at_once_where_to_wait(ground: Ground) -> None:
    tenant, module, path = await ground.wired(answers)
    hold = await ground.held(module, tenant=tenant)
    answer = await ground.get(tenant, path, **AWARE)
    assert (answer.status_code, answer.headers["X-Okapi-Lifecycle"]) == (503, "DELAY")
    assert answer.headers["Location"] == f"/_/lifecycle/delays/{hold}"
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    body = answer.json()
    assert (body["type"], body["status"], body["lifecycle"], body["tenant"]) == (
        "urn:uplift:lifecycle:delay", 503, "DELAY", tenant,
    )  # fmt: skip
    waiting = asyncio.create_task(ground.http.get(answer.headers["Location"], params={"wait": 20}))
    await ground.signal(module, "RESUME", hold=hold)
    assert (await waiting).json()["lifecycle"] == "RESUME"
    assert (await ground.get(tenant, path, **AWARE)).text == "served"


async def test_a_plain_requester_sees_only_time(ground: Ground) -> None:
    tenant, module, path = await ground.wired(answers)
    hold = await ground.held(module, tenant=tenant)
    parked = asyncio.create_task(ground.get(tenant, path))
    assert (await ground.get(tenant, path, Prefer="wait=0")).status_code == 503
    assert not parked.done()
    await ground.signal(module, "RESUME", hold=hold)
    assert (await parked).text == "served"


async def test_a_hold_for_all_tenants_holds_each_of_them(ground: Ground) -> None:
    tenant, module, path = await ground.wired(answers)
    other = await ground.enable(module)
    hold = await ground.held(module)
    assert [(await ground.get(each, path, **AWARE)).status_code for each in (tenant, other)] == [503, 503]
    await ground.signal(module, "RESUME", hold=hold)
    assert [(await ground.get(each, path, **AWARE)).status_code for each in (tenant, other)] == [200, 200]


async def test_what_is_left_after_the_grace_gets_missing_and_the_update_goes_on(ground: Ground) -> None:
    slow = Slow()
    tenant, module, path = await ground.wired(slow)
    before = asyncio.create_task(ground.get(tenant, path))
    await slow.reached.wait()
    await ground.held(module, tenant=tenant, grace=0.05)
    left = await before
    assert (left.status_code, left.headers["X-Okapi-Lifecycle"]) == (503, "MISSING")


async def test_after_its_ttl_a_hold_answers_missing_and_stays(ground: Ground, until: Until) -> None:
    tenant, module, path = await ground.wired(answers)
    hold = await ground.held(module, tenant=tenant, ttl=0.1)

    async def missing() -> bool:
        return bool((await ground.get(tenant, path, **AWARE)).headers["X-Okapi-Lifecycle"] == "MISSING")

    await until(missing)
    assert (await ground.http.get(f"/_/lifecycle/delays/{hold}")).json()["lifecycle"] == "MISSING"
    assert (await ground.signal(module, "RESUME", hold=hold)).status_code == 200
    assert (await ground.get(tenant, path)).text == "served"


async def test_disconnect_finishes_what_is_at_work_and_lets_nothing_new_in(ground: Ground, until: Until) -> None:
    slow = Slow()
    tenant, module, path = await ground.wired(slow)
    before = asyncio.create_task(ground.get(tenant, path))
    await slow.reached.wait()
    leaving = asyncio.create_task(ground.signal(module, "DISCONNECT", instance=f"{module}-i", grace=10))

    async def gone() -> bool:
        return bool((await ground.http.get(f"/_/discovery/modules/{module}/{module}-i")).status_code == 404)

    await until(gone)
    assert (await ground.get(tenant, path, **AWARE)).status_code == 503
    slow.gate.set()
    assert (await before).text == "served"
    assert (await leaving).json() == {"instance": f"{module}-i", "inFlight": 0}
    await ground.client.register_instance(module=module, instance=f"{module}-j", url=await ground.serve(answers))
    assert (await ground.get(tenant, path)).text == "served"


async def test_when_the_last_instance_has_left_requests_wait_for_the_next_one(ground: Ground) -> None:
    tenant, module, path = await ground.wired(answers)
    await ground.signal(module, "DISCONNECT", instance=f"{module}-i")
    after = await ground.get(tenant, path, **AWARE)
    assert (after.status_code, after.headers["X-Okapi-Lifecycle"]) == (503, "DELAY")
    waiting = asyncio.create_task(ground.get(tenant, path))
    assert (await ground.get(tenant, path, Prefer="wait=0")).status_code == 503
    await ground.client.register_instance(module=module, instance=f"{module}-j", url=await ground.serve(answers))
    assert (await waiting).text == "served"


async def test_an_instance_says_that_it_is_well(ground: Ground) -> None:
    _, module, _ = await ground.wired(answers)
    answer = await ground.client.signal(module, LifecycleRequest(event="RESUME", instance=f"{module}-i"))
    assert answer.lifecycle == "RESUME"


async def test_routing_is_pinned_unless_told(ground: Ground) -> None:
    tenant, _, _ = await ground.wired(answers)
    assert await ground.client.routing(tenant) == Routing(routing="pinned")
    await ground.client.set_routing(tenant, "newest")
    assert await ground.client.routing(tenant) == Routing(routing="newest")


async def test_links_are_listed(ground: Ground) -> None:
    tenant, module, path = await ground.wired(answers)
    hold = await ground.held(module, tenant=tenant)
    (link,) = await ground.client.links(tenant=tenant)
    assert (link.tenant, link.product, link.hold, link.hold_id) == (tenant, path[1:], "HELD", hold)


async def test_problems_are_listed(ground: Ground) -> None:
    assert isinstance(await ground.client.problems(), tuple)


async def test_the_module_and_those_that_depend_on_it_are_told(
    ground: Ground, name: Callable[[str], str], describe: Callable[..., dict[str, Any]], until: Until
) -> None:
    told: dict[str, list[LifecycleEvent]] = {"own": [], "dependent": []}
    pushes = {"id": "_lifecycle", "version": "1.0", "interfaceType": "system", "handlers": [
        {"methods": ["POST"], "pathPattern": "/_/lifecycle"}]}  # fmt: skip
    product = name("m")
    wired = []
    for who, module, needs in (
        ("own", f"{product}-1.0.0", []),
        ("dependent", f"{name('m')}-1.0.0", [{"id": product, "version": "1.0"}]),
    ):

        async def handle(request: httpx.Request, who: str = who) -> httpx.Response:
            return await serving[who](request)

        descriptor = describe(module, provides=[pushes], requires=needs)
        wired.append((who, descriptor, await ground.serve(handle)))
    serving: dict[str, Any] = {}
    modules = []
    for who, descriptor, url in wired:
        one = Module(descriptor, gateway=ground.url, url=url, transport=ground.transport, environ={}, on_event=told[who].append)
        modules.append(one)

        async def serve(request: httpx.Request, one: Module = one) -> httpx.Response:
            answer = one.answers(request.method, request.url.path, request.content)
            if answer is None:
                return httpx.Response(200, text="served")
            if answer.event is not None:
                await one.told(answer.event)
            return httpx.Response(answer.status, text=answer.text)

        serving[who] = serve
    async with modules[0] as own, modules[1]:
        tenant = await ground.enable(*(module.id for module in modules))
        async with own.updating(tenant=tenant):
            await until(lambda: any(event.event == "DELAY" for event in told["dependent"]))
            await until(lambda: any(event.event == "UPDATE" for event in told["own"]))
        await until(lambda: told["dependent"][-1].event == "RESUME")
        assert told["dependent"][-1].tenant == tenant


async def test_a_module_of_the_kit_serves_updates_itself_and_leaves(
    ground: Ground, name: Callable[[str], str], describe: Callable[..., dict[str, Any]]
) -> None:
    descriptor = describe(f"{name('m')}-1.0.0")
    path = descriptor["provides"][0]["handlers"][0]["pathPattern"].rstrip("*")
    url = await ground.serve(answers)
    async with Module(descriptor, gateway=ground.url, url=url, transport=ground.transport, environ={}) as module:
        tenant = await ground.enable(module.id)
        assert (await ground.get(tenant, path)).text == "served"
        async with module.updating(tenant=tenant, reason="new column") as held:
            assert held.state == "HELD"
            parked = asyncio.create_task(ground.get(tenant, path))
            assert (await ground.get(tenant, path, **AWARE)).status_code == 503
        assert (await parked).text == "served"
    assert (await ground.get(tenant, path, **AWARE)).status_code == 503


async def test_a_failed_update_leaves_the_hold_and_names_it(
    ground: Ground, name: Callable[[str], str], describe: Callable[..., dict[str, Any]]
) -> None:
    descriptor = describe(f"{name('m')}-1.0.0")
    path = descriptor["provides"][0]["handlers"][0]["pathPattern"].rstrip("*")
    url = await ground.serve(answers)
    async with Module(descriptor, gateway=ground.url, url=url, transport=ground.transport, environ={}) as module:
        tenant = await ground.enable(module.id)
        with pytest.raises(HoldStays, match="half of the rows") as stays:
            async with module.updating(tenant=tenant):
                raise ValueError("half of the rows are changed")
        assert isinstance(stays.value.__cause__, ValueError)
        assert stays.value.hold in str(stays.value)
        assert (await ground.get(tenant, path, **AWARE)).status_code == 503
        async with module.updating(tenant=tenant, hold=stays.value.hold):
            pass  # the data is right again
        assert (await ground.get(tenant, path, **AWARE)).text == "served"


async def test_who_is_refused_the_hold_changes_nothing(
    ground: Ground, name: Callable[[str], str], describe: Callable[..., dict[str, Any]]
) -> None:
    descriptor = describe(f"{name('m')}-1.0.0")
    url = await ground.serve(answers)
    begun = False
    async with Module(descriptor, gateway=ground.url, url=url, transport=ground.transport, environ={}) as module:
        tenant = await ground.enable(module.id)
        hold = await ground.held(module.id, tenant=tenant)
        with pytest.raises(GatewayRefused) as refused:
            async with module.updating(tenant=tenant):
                begun = True
        assert (refused.value.status, begun) == (409, False)
        assert (await ground.client.delay(hold, wait=0)).state == "HELD"


async def test_a_requester_with_a_budget_waits_and_one_without_is_told(ground: Ground) -> None:
    got: list[bytes] = []

    async def count(request: httpx.Request) -> httpx.Response:
        got.append(request.content)
        return httpx.Response(200, text="served")

    tenant, module, path = await ground.wired(count)
    hold = await ground.held(module, tenant=tenant)
    headers = {"X-Okapi-Tenant": tenant}
    inner = ground.transport or httpx.AsyncHTTPTransport()
    async with httpx.AsyncClient(transport=LifecycleTransport(budget=0, transport=inner), base_url=ground.url) as hasty:
        with pytest.raises(ModuleDelayed) as delayed:
            await hasty.post(path, headers=headers, json={"a": 1})
        assert (delayed.value.tenant, got) == (tenant, [])
        assert "try again in about" in delayed.value.tell_user
        patient = LifecycleTransport(budget=30, gateway=ground.url, transport=ground.transport or httpx.AsyncHTTPTransport())
        async with httpx.AsyncClient(transport=patient, base_url=ground.url) as http:
            waiting = asyncio.create_task(http.post(path, headers=headers, json={"a": 1}))
            assert (await ground.get(tenant, path, **AWARE)).status_code == 503
            await ground.signal(module, "RESUME", hold=hold)
            assert (await waiting).text == "served"
        assert got == [b'{"a":1}']


async def test_a_waiting_requester_is_told_when_the_ttl_is_over(ground: Ground) -> None:
    tenant, module, path = await ground.wired(answers)
    await ground.held(module, tenant=tenant, ttl=0.3)
    inner = ground.transport or httpx.AsyncHTTPTransport()
    async with httpx.AsyncClient(transport=LifecycleTransport(budget=30, transport=inner), base_url=ground.url) as http:
        with pytest.raises(ModuleMissing) as missing:
            await http.get(path, headers={"X-Okapi-Tenant": tenant})
    assert "Service not available" in missing.value.tell_user
