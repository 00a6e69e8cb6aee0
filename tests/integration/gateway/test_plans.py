"""What would be done, and that nothing else is: `dryRun`, `simulate` and `plan=` of install jobs (requirements B3, B4, B7)."""

import asyncio
import json
from typing import Any

import asyncpg
import pytest

from gateway_client import FinishRequest, GatewayRefused, MoveRequest, OpenRequest
from upgrade_core.ids import split_module_id
from upgrade_core.plan import Change, Group, HeldTime, Kind, held_times

LAUNCH = {"exec": "./start %p"}


def base(tenant: str) -> str:
    return f"/_/proxy/tenants/{tenant}/install"


async def dry_run(site: Any, tenant: str, *modules: str, query: str = "", action: str = "enable") -> dict[str, Any]:
    wire = [{"id": module, "action": action} for module in modules]
    found = await site.http.post(f"{base(tenant)}?dryRun=true{query}", json=wire)
    assert found.status_code == 200, found.text
    assert found.headers["X-Uplift-Plan"] == found.json()["digest"]
    return dict(found.json())


async def install(site: Any, tenant: str, *modules: str, plan: str) -> Any:
    return await site.http.post(f"{base(tenant)}?async=true&plan={plan}", json=[{"id": module} for module in modules])


async def versions(site: Any, name: Any, *numbers: str, **more: Any) -> list[str]:
    product = name("m")
    return [await site.register(f"{product}-{number}", **more) for number in numbers]


@pytest.fixture
async def pair(site: Any, name: Any) -> list[str]:
    """Two versions of one product."""
    return await versions(site, name, "1.0.0", "1.1.0")


async def rows_of(dsn: str, table: str, tenant: str) -> list[dict[str, Any]]:
    connection = await asyncpg.connect(dsn)
    try:
        return [dict(row) for row in await connection.fetch(f"select * from {table} where tenant = $1", tenant)]
    finally:
        await connection.close()


# The plan itself


async def test_a_dry_run_tells_groups_with_their_changes_in_order(site: Any, name: Any) -> None:
    """A provider's major version and the module that needs it move together; what needs neither is a group of its own."""
    interface, giver, user, new = name("i"), name("g"), name("u"), name("z")
    for major in "12":
        face = [{"id": interface, "version": f"{major}.0"}]
        await site.register(f"{giver}-{major}.0.0", provides=face)
        await site.register(f"{user}-{major}.0.0", provides=[], requires=face, metadata={"uplift": {"undo": "reversible"}})
    await site.register(f"{new}-1.0.0", launchDescriptor=LAUNCH)
    tenant = await site.tenant(f"{giver}-1.0.0", f"{user}-1.0.0")

    found = await dry_run(site, tenant, f"{giver}-2.0.0", f"{user}-2.0.0", f"{new}-1.0.0")

    alone, together = found["groups"]
    steps = [change.pop("steps") for group in found["groups"] for change in group["changes"]]
    assert [found["tenant"], found["deploys"], found["warnings"]] == [tenant, [f"{new}-1.0.0"], []]
    assert together == {
        "key": f"2-{giver}",
        "after": [],
        "heldSeconds": None,
        "changes": [
            {
                "kind": "upgrade",
                "id": f"{module}-2.0.0",
                "from": f"{module}-1.0.0",
                "bound": f"{module}-1.0.0",
                "undo": undo,
            }
            for module, undo in ((giver, "check"), (user, "reversible"))
        ],
    }
    assert alone == {
        "key": f"1-{new}",
        "after": [],
        "heldSeconds": None,
        "changes": [{"kind": "install", "id": f"{new}-1.0.0", "undo": "check", "instance": "deployed"}],
    }
    assert [found["heldSeconds"], found["heldUnknown"]] == [None, 2]
    assert [("acquire" in each, "update" in each, "init" in each) for each in steps] == [
        (True, True, False),  # it is started; none of them has a tenant init
        (False, True, False),
        (False, True, False),
    ]


async def test_a_dry_run_of_an_upgrade_of_everything_tells_its_plan(site: Any, pair: list[str]) -> None:
    tenant = await site.tenant(pair[0])
    found = (await site.http.post(f"/_/proxy/tenants/{tenant}/upgrade?dryRun=true")).json()
    assert [change["id"] for group in found["groups"] for change in group["changes"]] == [pair[1]]


async def test_a_dry_run_that_finds_nothing_to_do_has_no_groups(site: Any, pair: list[str]) -> None:
    found = await dry_run(site, await site.tenant(pair[0]), pair[0])
    assert (found["groups"], found["heldSeconds"], found["heldUnknown"]) == ([], None, 0)


@pytest.mark.parametrize(
    ("uplift", "undo"),
    [
        ({}, "check"),  # the worker knows where the data is, or does not
        ({"data": {"dsn": "env:MODULES_DSN"}}, "snapshot"),
        ({"data": {"dsn": "env:MODULES_DSN"}, "undo": "compatible"}, "compatible"),
    ],
)
async def test_a_dry_run_tells_the_undo_mode_as_far_as_the_gateway_can_know_it(
    site: Any, name: Any, uplift: dict[str, Any], undo: str
) -> None:
    module = await site.register(f"{name('m')}-1.0.0", metadata={"uplift": uplift})
    (group,) = (await dry_run(site, await site.tenant(), module))["groups"]
    assert group["changes"][0]["undo"] == undo


@pytest.mark.parametrize(
    ("more", "query", "instance"),
    [
        ({}, "", "awaited"),
        ({"launchDescriptor": LAUNCH}, "", "deployed"),
        ({"launchDescriptor": LAUNCH}, "&deploy=false", "awaited"),
        ({"instance": "http://127.0.0.1:1"}, "", "running"),
    ],
)
async def test_a_dry_run_says_where_instances_come_from(
    site: Any, name: Any, more: dict[str, Any], query: str, instance: str
) -> None:
    module = await site.register(f"{name('m')}-1.0.0", **more)
    found = await dry_run(site, await site.tenant(), module, query=query)
    assert found["groups"][0]["changes"][0]["instance"] == instance
    assert found["deploys"] == ([module] if instance == "deployed" else [])
    assert any(module in text for text in found["warnings"]) == (instance == "awaited")


async def test_a_dry_run_warns_of_what_cannot_be_taken_back(site: Any, name: Any) -> None:
    product = name("m")
    old, new = f"{product}-1.0.0", f"{product}-2.0.0"
    await site.register(old, "http://127.0.0.1:1", metadata={"uplift": {"undo": "forward_only"}})
    await site.register(new, "http://127.0.0.1:1")
    tenant = await site.tenant(new)
    assert (await dry_run(site, tenant, old))["warnings"] == [
        f"{old} is a downgrade: the data is at {new}",
        f"{old}: if it fails, it waits for a person, since there is no way back",
    ]
    purge = await dry_run(site, tenant, new, query="&purge=true", action="disable")
    assert purge["warnings"] == [f"{new}: the data of {product} is destroyed"]


async def test_a_dry_run_names_the_jobs_that_come_first(site: Any, pair: list[str]) -> None:
    tenant = await site.tenant(pair[0])
    job = await site.job(tenant, pair[1])
    found = await dry_run(site, tenant, pair[1])
    assert f"job {job.id} comes first: the plan is made again when it has ended" in found["warnings"]


async def test_neither_a_dry_run_nor_a_simulation_changes_anything(module_site: Any, name: Any, rows: Any) -> None:
    old, new = await versions(module_site, name, "1.0.0", "1.1.0")
    tenant = await module_site.tenant(old)

    async def written() -> dict[str, Any]:
        """All but what was said, which is kept to be known."""
        found: dict[str, Any] = json.loads(await rows(module_site.dsn))
        del found["plans"]
        return found

    before = await written()
    await dry_run(module_site, tenant, new)
    simulated = await module_site.http.post(f"{base(tenant)}?simulate=true", json=[{"id": new}])
    assert simulated.json() == [{"id": new, "from": old, "action": "enable"}]
    assert await written() == before


# A plan that is named


async def test_what_a_job_executes_is_the_plan_that_was_looked_at(site: Any, name: Any, pair: list[str]) -> None:
    other = await site.register(f"{name('z')}-1.0.0")
    tenant = await site.tenant(pair[0])
    told = await dry_run(site, tenant, pair[1], other)
    place = (await install(site, tenant, pair[1], other, plan=told["digest"])).headers["Location"]

    begun = (await site.runs.begin(place.rsplit("/", 1)[1])).plan

    assert begun.digest == told["digest"]
    assert [(group.key, list(group.after)) for group in begun.groups] == [(each["key"], each["after"]) for each in told["groups"]]
    assert [[(change.kind, change.subject, change.version_from) for change in group.changes] for group in begun.groups] == [
        [(change["kind"], change["id"], change.get("from")) for change in each["changes"]] for each in told["groups"]
    ]
    assert (await site.http.get(place)).json()["plan"] == told["digest"]


async def test_a_plan_is_refused_with_what_moved_and_what_is_other(site: Any, pair: list[str]) -> None:
    old, new = pair
    tenant = await site.tenant()
    plan = (await dry_run(site, tenant, new))["digest"]
    await site.enable(tenant, old)
    now = (await dry_run(site, tenant, new))["digest"]

    found = await install(site, tenant, new, plan=plan)

    assert (found.status_code, found.text) == (
        409,
        (
            f"the world has moved: the plan is {now} now, not {plan}; simulate again. {old} is enabled;"
            f" upgrade of {new} from {old} is to be done; install of {new} is not to be done any more"
        ),
    )


async def test_a_newer_version_that_was_registered_meanwhile_is_told(site: Any, name: Any) -> None:
    old, new = await versions(site, name, "1.0.0", "1.1.0")
    tenant = await site.tenant(old)
    path = f"/_/proxy/tenants/{tenant}/upgrade"
    plan = (await site.http.post(f"{path}?simulate=true")).headers["X-Uplift-Plan"]
    newest = await site.register(f"{split_module_id(old)[0]}-1.2.0")
    await site.register(f"{name('unrelated')}-1.0.0")
    found = await site.http.post(f"{path}?plan={plan}")
    assert found.status_code == 409
    assert found.text.endswith(
        f"simulate again. {newest} is registered; upgrade of {newest} from {old} is to be done;"
        f" upgrade of {new} from {old} is not to be done any more"
    )


async def test_data_that_moved_is_told(site: Any, pair: list[str]) -> None:
    """Requirement B8."""
    old, new = pair
    product = split_module_id(old)[0]
    tenant = await site.tenant()
    plan = (await dry_run(site, tenant, new))["digest"]
    job = await site.job(tenant, old)
    await site.runs.set_data_version(job.id, product, old)
    await job.finish()
    assert f"there is data of {product}, at {old}" in (await install(site, tenant, new, plan=plan)).text


async def test_a_plan_of_another_request_is_refused_as_that(site: Any, pair: list[str]) -> None:
    old, new = pair
    tenant = await site.tenant()
    plan = (await dry_run(site, tenant, new))["digest"]
    found = await install(site, tenant, old, plan=plan)
    assert (found.status_code, found.text.partition(":")[0]) == (409, "the request is not the one of that plan")
    assert f"install of {old} is to be done; install of {new} is not to be done any more" in found.text


@pytest.mark.parametrize(
    ("looked_at", "asked", "clause"),
    [
        ("&invoke=false", "", "invoke=false is not asked for any more"),
        ("", "&invoke=m.*", "invoke=m.* is asked for"),
        ("&invoke=m.*", "&invoke=false", "invoke=false is asked for, not invoke=m.*"),
        ("&deploy=false", "&deploy=true", "deploy=false is not asked for any more"),
        ("&purge=true", "", "is not to be done any more"),
    ],
)
async def test_a_plan_is_not_executed_with_parameters_that_leave_out_other_steps(
    site: Any, name: Any, looked_at: str, asked: str, clause: str
) -> None:
    """What was looked at is what is done: a job must not call what its plan does not."""
    module = await site.register(f"{name('m')}-1.0.0", launchDescriptor=LAUNCH)
    purges = looked_at == "&purge=true"
    tenant = await site.tenant(*([module] if purges else []))
    wire = [{"id": module, "action": "disable" if purges else "enable"}]
    plan = (await dry_run(site, tenant, module, query=looked_at, action=wire[0]["action"]))["digest"]
    found = await site.http.post(f"{base(tenant)}?async=true&plan={plan}{asked}", json=wire)
    assert (found.status_code, found.text.partition(":")[0]) == (409, "the request is not the one of that plan")
    assert clause in found.text
    found = await site.http.post(f"{base(tenant)}?async=true&plan={plan}{looked_at}", json=wire)
    assert found.status_code == 201, found.text


@pytest.mark.parametrize("query", ["&invoke=true", "&deploy=true", "&ignoreErrors=true&parallel=3", "&tenantParameters=a%3Db"])
async def test_parameters_that_leave_out_no_step_are_no_part_of_a_plan(site: Any, pair: list[str], query: str) -> None:
    tenant = await site.tenant()
    plans = [(await dry_run(site, tenant, pair[0], query=each))["digest"] for each in ("", query)]
    assert plans[0] == plans[1]


async def test_a_plan_that_nobody_knows_is_refused_with_the_remedy(site: Any, pair: list[str]) -> None:
    tenant = await site.tenant()
    other = (await dry_run(site, await site.tenant(pair[0]), pair[1]))["digest"]
    for plan in ("0123456789abcdef", "x" * 2_000, "", other):
        found = await install(site, tenant, pair[0], plan=plan)
        assert (found.status_code, f"plan {plan} of tenant {tenant} is not known" in found.text) == (409, True), found.text
        assert "simulate again" in found.text
    assert (await site.http.get(base(tenant))).json() == []


async def test_a_plan_is_known_at_every_replica_and_after_a_restart(new_site: Any, name: Any) -> None:
    here = await new_site(node="here")
    old, new = await versions(here, name, "1.0.0", "1.1.0")
    tenant = await here.tenant()
    plan = (await dry_run(here, tenant, new))["digest"]
    await here.enable(tenant, old)
    there = await new_site(dsn=here.dsn, node="there")
    assert f"{old} is enabled" in (await install(there, tenant, new, plan=plan)).text


async def test_a_job_whose_plan_moved_before_its_turn_ends_with_the_difference(site: Any, pair: list[str]) -> None:
    old, new = pair
    tenant = await site.tenant()
    first = await site.job(tenant, old)
    plan = (await dry_run(site, tenant, new))["digest"]
    place = (await install(site, tenant, new, plan=plan)).headers["Location"]
    await first.switch(old)
    await first.finish()

    with pytest.raises(GatewayRefused, match=f"the world has moved.*{old} is enabled;.*upgrade of {new} from {old}"):
        await site.runs.begin(place.rsplit("/", 1)[1])

    assert "plan" not in (await site.http.get(place)).json()


async def test_a_job_whose_plan_holds_when_its_turn_comes_goes_on(site: Any, name: Any, pair: list[str]) -> None:
    other = await site.register(f"{name('m')}-1.0.0")
    tenant = await site.tenant(pair[0])
    first = await site.job(tenant, other)
    plan = (await dry_run(site, tenant, pair[1]))["digest"]
    place = (await install(site, tenant, pair[1], plan=plan)).headers["Location"]
    await first.finish()  # undone: nothing has moved
    assert (await site.runs.begin(place.rsplit("/", 1)[1])).plan.digest == plan


async def test_only_the_newest_plans_of_a_tenant_are_known(new_site: Any, name: Any) -> None:
    site = await new_site(plans_per_tenant=2)
    modules = [await site.register(f"{name('m')}-1.0.0") for _ in range(4)]
    tenant, other = await site.tenant(), await site.tenant()
    plans = [(await dry_run(site, tenant, module))["digest"] for module in modules]
    await dry_run(site, other, modules[0])
    assert {row["digest"] for row in await rows_of(site.dsn, "plans", tenant)} == set(plans[-2:])
    await dry_run(site, tenant, modules[2])  # a plan that is looked at again is a new one
    await dry_run(site, tenant, modules[0])
    assert {row["digest"] for row in await rows_of(site.dsn, "plans", tenant)} == {plans[2], plans[0]}
    assert len(await rows_of(site.dsn, "plans", other)) == 1


async def test_old_plans_are_forgotten_but_for_those_that_wait_to_be_executed(new_site: Any, name: Any) -> None:
    site = await new_site(plans_keep=0)
    modules = [await site.register(f"{name('m')}-1.0.0") for _ in range(2)]
    tenant, other = await site.tenant(), await site.tenant()
    plan = (await dry_run(site, tenant, modules[0]))["digest"]
    place = (await install(site, tenant, modules[0], plan=plan)).headers["Location"]
    await dry_run(site, tenant, modules[1])
    await dry_run(site, other, modules[1])
    assert [row["digest"] for row in await rows_of(site.dsn, "plans", tenant)] == [plan]
    await site.http.delete(place)
    await dry_run(site, other, modules[0])
    assert await rows_of(site.dsn, "plans", tenant) == []


async def test_a_tenant_takes_its_plans_along(site: Any, pair: list[str]) -> None:
    tenant = await site.tenant()
    await dry_run(site, tenant, pair[0])
    assert (await site.http.delete(f"/_/proxy/tenants/{tenant}")).status_code == 204
    assert await rows_of(site.dsn, "plans", tenant) == []


# Held times


async def change(site: Any, tenant: str, module: str, *, seconds: float, switch: bool = True) -> None:
    """Hold, and switch or resume as a run does."""
    job = await site.job(tenant, module)
    begun = await site.runs.begin(job.id)
    (key,) = (group.key for group in begun.plan.groups)
    await job.held(module, group=key)
    await asyncio.sleep(seconds)
    await (job.switch if switch else job.resume)(module, group=key)
    await site.runs.finish(job.id, FinishRequest(outcome="done" if switch else "rolled_back"))


async def test_what_a_change_was_held_for_is_the_estimate_of_the_next_tenants(site: Any, pair: list[str]) -> None:
    old, new = pair
    await change(site, await site.tenant(old), new, seconds=0.3)
    found = await dry_run(site, await site.tenant(old), new)
    assert 0.3 <= found["heldSeconds"] < 5
    assert (found["groups"][0]["heldSeconds"], found["heldUnknown"]) == (found["heldSeconds"], 0)


async def test_a_change_that_was_undone_says_nothing_of_the_next_one(site: Any, pair: list[str]) -> None:
    old, new = pair
    tenant = await site.tenant(old)
    await change(site, tenant, new, seconds=0, switch=False)
    assert (await dry_run(site, tenant, new))["heldSeconds"] is None


async def test_a_switch_that_is_told_twice_is_remembered_once(site: Any, pair: list[str]) -> None:
    old, new = pair
    product = split_module_id(old)[0]
    job = await site.job(await site.tenant(old), new)
    (key,) = (group.key for group in (await site.runs.begin(job.id)).plan.groups)
    await job.held(new, group=key)
    move = MoveRequest(product=product, subject=new, bind=True, module=new)
    for _ in range(2):
        await site.runs.open(job.id, OpenRequest(group=key, moves=(move,)))
    (time,) = await site.running.inside(site.running.platform.held_times.of([product]))
    assert (time.kind, time.version_from, time.version_to) == (Kind.UPGRADE, old, new)


async def test_the_table_of_held_times_is_bounded(site: Any, name: Any) -> None:
    product = name("m")
    store = site.running.platform.held_times

    async def add(number: int, seconds: float) -> None:
        made = Change(kind=Kind.UPGRADE, product=product, version_from=f"{product}-1.0.0", version_to=f"{product}-{number}.0.0")
        await site.running.inside(store.add(held_times(Group(key="g", changes=(made,)), seconds), last=2))

    async def kept() -> list[HeldTime]:
        return list(await site.running.inside(store.of([product])))

    for seconds in range(5):
        await add(2, seconds)
    assert [time.seconds for time in await kept()] == [4, 3]
    for number in range(3, 40):
        await add(number, 0)
    assert len(await kept()) == 20
