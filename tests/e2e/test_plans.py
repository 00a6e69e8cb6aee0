"""What an upgrade really executes is the plan that was looked at (requirements B3, B7, D1)."""

import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from temporalio.api.history.v1 import HistoryEvent

from examples.descriptors import descriptor
from upgrade_core.module_steps import StepKind
from upgrade_core.plan import Step
from upgrade_core.runs import group_run_id

ACTIVITIES = {
    "checks.check": Step.CHECK,
    "gateway.acquire": Step.ACQUIRE,
    "gateway.update": Step.UPDATE,
    "snapshots.take": Step.SNAPSHOT,
    "permissions.tell": Step.PERMISSIONS,
    "tenant_init.start": Step.INIT,
    "checks.verify": Step.VERIFY,
    "gateway.switch": Step.SWITCH,
    "gateway.release": Step.RELEASE,
}
"""Activities that are steps of changes, but for those of descriptors (`module_steps.start`) and the soak, which is a timer."""


async def dry_run(stack: Any, tenant: str, *modules: str) -> dict[str, Any]:
    body = [{"id": module, "action": "enable"} for module in modules]
    found: dict[str, Any] = await stack.ok("POST", f"/_/proxy/tenants/{tenant}/install?dryRun=true", body)
    return found


async def provider_and_user(stack: Any) -> tuple[list[str], list[str]]:
    """The first and the second versions of two products; the second one needs what the first provides at 1.1."""
    giver, user = stack.product(), stack.product()
    first = [stack.descriptor(product, "1.0.0") for product in (giver, user)]
    second = [stack.descriptor(product, "1.1.0") for product in (giver, user)]
    second[0]["provides"][0]["version"] = "1.1"
    second[1]["requires"] = [{"id": giver, "version": "1.1"}]
    await stack.register(*first, *second)
    return [each["id"] for each in first], [each["id"] for each in second]


async def events(stack: Any, run: str) -> list[HistoryEvent]:
    """What Temporal has recorded of a run."""
    return list((await (await stack.temporal()).get_workflow_handle(run).fetch_history()).events)


async def children(stack: Any, job: str) -> list[str]:
    """Ids of the runs that a job's run has started, in order."""
    return [
        event.start_child_workflow_execution_initiated_event_attributes.workflow_id
        for event in await events(stack, job)
        if event.HasField("start_child_workflow_execution_initiated_event_attributes")
    ]


async def executed(stack: Any, job: str, told: dict[str, Any]) -> dict[tuple[str, str], set[str]]:
    """The steps that the recorded runs of a job took, by key of the group and module id of the change."""
    found: dict[tuple[str, str], set[str]] = {}
    soon: list[tuple[str, Step]] = [(module, step) for module, step in await activities(stack, job) if step is Step.POST_STEPS]
    for group in told["groups"]:
        mine = [change["id"] for change in group["changes"]]
        taken = await activities(stack, group_run_id(job, group["key"]))
        for module in mine:
            found[group["key"], module] = {step for about, step in (*taken, *soon) if about in (module, "")}
        assert {about for about, _ in taken} <= {*mine, ""}
    return found


async def activities(stack: Any, run: str) -> list[tuple[str, Step]]:
    """The steps that a recorded run took, each with the module id that it was about; without one it was about all."""
    found = []
    for event in await events(stack, run):
        if event.HasField("timer_started_event_attributes"):
            found.append(("", Step.WATCH))
        if not event.HasField("activity_task_scheduled_event_attributes"):
            continue
        scheduled = event.activity_task_scheduled_event_attributes
        name, asked = scheduled.activity_type.name, json.loads(scheduled.input.payloads[0].data)
        if name == "module_steps.start":
            step = Step.PRECHECK if asked["kind"] == StepKind.PRECHECK else Step.POST_STEPS
            found.append((asked["module"], step))
        elif name == "permissions.tell":
            found.extend((module, Step.PERMISSIONS) for module in (*asked["modules"], *asked["gone"]))
        elif name in ACTIVITIES:
            change = asked.get("change", {})
            found.append((change.get("version_to") or change.get("bound") or change.get("version_from") or "", ACTIVITIES[name]))
    return found


async def test_what_an_upgrade_really_executes_is_its_plan(stack: Any) -> None:
    """And what it was held for is what the next tenant may expect."""
    old, new = await provider_and_user(stack)
    tenant, other = await stack.tenant(), await stack.tenant()
    await stack.install(tenant, *old)
    await stack.install(other, *old)
    told = await dry_run(stack, tenant, *reversed(new))

    job = await stack.install(tenant, *reversed(new), query=f"plan={told['digest']}")

    keys = [group["key"] for group in told["groups"]]
    inits = [await stack.inits(module, tenant) for module in new]
    assert (job["outcome"], job["plan"]) == ("done", told["digest"])
    assert [[change["id"] for change in group["changes"]] for group in told["groups"]] == [[module] for module in new]
    assert await children(stack, job["id"]) == [group_run_id(job["id"], key) for key in keys]
    assert [[(each["module_from"], each["module_to"]) for each in asked] for asked in inits] == [
        [(change["from"], change["id"])] for group in told["groups"] for change in group["changes"]
    ]
    assert await stack.enabled(tenant) == sorted(new)
    next_one = await dry_run(stack, other, *new)
    assert next_one["heldUnknown"] == 0
    assert abs(next_one["heldSeconds"] - job["heldSeconds"]) < 0.01


async def test_a_job_whose_plan_has_moved_before_its_turn_ends_with_the_difference(stack: Any) -> None:
    product = stack.product()
    first, second, third = (f"{product}-{version}" for version in ("1.0.0", "1.1.0", "1.2.0"))
    await stack.register(*(stack.descriptor(product, version) for version in ("1.0.0", "1.1.0", "1.2.0")))
    tenant = await stack.tenant()
    await stack.install(tenant, first)
    plan = (await dry_run(stack, tenant, third))["digest"]
    before = await stack.begin(tenant, second, query="tenantParameters=do%3Djob,seconds%3D0.5")

    job = await stack.install(tenant, third, query=f"plan={plan}")

    assert ((await stack.ended(before))["outcome"], job["status"], job["outcome"]) == ("done", "error", "failed")
    assert "the world has moved: the plan is" in job["errors"][0]["message"]
    assert f"{second} is enabled, not {first}" in job["errors"][0]["message"]
    assert (await stack.enabled(tenant), await stack.inits(third)) == ([second], [])


Case = Callable[[Any], Awaitable[tuple[list[str], list[tuple[str, str]]]]]
"""Registers what a case needs; gives what the tenant has, and the lines that it asks for."""


async def two(stack: Any) -> tuple[str, str]:
    """Two versions of a product."""
    product = stack.product()
    await stack.register(stack.descriptor(product, "1.0.0"), stack.descriptor(product, "2.0.0"))
    return f"{product}-1.0.0", f"{product}-2.0.0"


async def install(stack: Any) -> tuple[list[str], list[tuple[str, str]]]:
    (one, _), (other, _) = await two(stack), await two(stack)
    return [], [(one, "enable"), (other, "enable")]


async def upgrade(stack: Any) -> tuple[list[str], list[tuple[str, str]]]:
    old, new = await two(stack)
    return [old], [(new, "enable")]


async def upgrade_with_everything(stack: Any) -> tuple[list[str], list[tuple[str, str]]]:
    old, _ = await two(stack)
    product = old.removesuffix("-1.0.0")
    ask = [{"path": f"/{product}/x"}]
    await stack.register(stack.descriptor(product, "3.0.0", checks=ask, prechecks=ask, post_steps=ask, soak=0.1))
    return [old], [(f"{product}-3.0.0", "enable")]


async def upgrade_without_tenant_init(stack: Any) -> tuple[list[str], list[tuple[str, str]]]:
    product = stack.product()
    for version in ("1.0.0", "2.0.0"):
        wire = stack.descriptor(product, version)
        await stack.register({**wire, "provides": wire["provides"][:1]})
    return [f"{product}-1.0.0"], [(f"{product}-2.0.0", "enable")]


async def upgrade_whose_undo_is_chosen_by_check(stack: Any) -> tuple[list[str], list[tuple[str, str]]]:
    old, _ = await two(stack)
    new = stack.descriptor(old.removesuffix("-1.0.0"), "3.0.0")
    await stack.register({**new, "metadata": {}})
    return [old], [(new["id"], "enable")]


async def upgrade_of_data(stack: Any) -> tuple[list[str], list[tuple[str, str]]]:
    await stack.register(*(descriptor("mod-users", version, python=sys.executable) for version in ("1.0.0", "2.0.0")))
    return ["mod-users-1.0.0"], [("mod-users-2.0.0", "enable")]


async def disable(stack: Any) -> tuple[list[str], list[tuple[str, str]]]:
    old, _ = await two(stack)
    return [old], [(old, "disable")]


async def group_of_two(stack: Any) -> tuple[list[str], list[tuple[str, str]]]:
    giver, user = stack.product(), stack.product()
    for major in "12":
        gives, uses = (stack.descriptor(product, f"{major}.0.0") for product in (giver, user))
        gives["provides"][0]["version"] = f"{major}.0"
        await stack.register(gives, {**uses, "requires": [{"id": giver, "version": f"{major}.0"}]})
    return [f"{giver}-1.0.0", f"{user}-1.0.0"], [(f"{giver}-2.0.0", "enable")]


async def permissions_module(stack: Any, *versions: str) -> list[str]:
    """Modules that are told permissions; they have none themselves."""
    product = stack.product()
    entry = {"methods": ["POST"], "pathPattern": "/_/tenantpermissions"}
    for version in versions:
        wire = stack.descriptor(product, version)
        told = {"id": "_tenantPermissions", "version": "2.0", "interfaceType": "system", "handlers": [entry]}
        await stack.register({**wire, "provides": [*wire["provides"], told]})
    return [f"{product}-{version}" for version in versions]


async def permissions_told(stack: Any) -> tuple[list[str], list[tuple[str, str]]]:
    (old, new), (gone, _) = await two(stack), await two(stack)
    permissions = await permissions_module(stack, "1.0.0", "2.0.0")
    return [old, gone, permissions[0]], [(new, "enable"), (permissions[1], "enable"), (gone, "disable")]


async def permissions_module_comes(stack: Any) -> tuple[list[str], list[tuple[str, str]]]:
    (first, _), (then, _) = await two(stack), await two(stack)
    return [], [(first, "enable"), *((each, "enable") for each in await permissions_module(stack, "1.0.0")), (then, "enable")]


@pytest.mark.parametrize(
    ("case", "query", "left_out"),
    [
        (install, "", set()),
        pytest.param(install, "invoke=false", set(), marks=pytest.mark.soak),
        pytest.param(upgrade, "", set(), marks=pytest.mark.soak),
        pytest.param(upgrade, "invoke=false", set(), marks=pytest.mark.soak),
        pytest.param(upgrade, "invoke=nobody-.*", set(), marks=pytest.mark.soak),
        (upgrade_with_everything, "", set()),
        pytest.param(upgrade_with_everything, "invoke=false", set(), marks=pytest.mark.soak),
        pytest.param(upgrade_without_tenant_init, "", set(), marks=pytest.mark.soak),
        pytest.param(
            upgrade_whose_undo_is_chosen_by_check, "", {Step.SNAPSHOT}, marks=pytest.mark.soak
        ),  # there is no data to copy
        (upgrade_of_data, "", set()),
        pytest.param(upgrade_of_data, "undo=module", set(), marks=pytest.mark.soak),
        (disable, "", set()),
        pytest.param(disable, "invoke=false", set(), marks=pytest.mark.soak),
        pytest.param(disable, "purge=true", set(), marks=pytest.mark.soak),
        (group_of_two, "", set()),
        (permissions_told, "", set()),
        pytest.param(permissions_told, "invoke=false", set(), marks=pytest.mark.soak),
        pytest.param(permissions_told, "mode=atomic", set(), marks=pytest.mark.soak),
        pytest.param(permissions_module_comes, "", set(), marks=pytest.mark.soak),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_the_steps_that_runs_take_are_those_of_the_plan(stack: Any, case: Case, query: str, left_out: set[Step]) -> None:
    """Of every change; what may turn out to have nothing to do is said in the docs."""
    enabled, lines = await case(stack)
    tenant = await stack.tenant()
    if enabled:
        assert (await stack.install(tenant, *enabled))["status"] == "done"
    body = [{"id": module, "action": action} for module, action in lines]
    told = await stack.ok("POST", f"/_/proxy/tenants/{tenant}/install?dryRun=true&{query}", body)

    path = f"/_/proxy/tenants/{tenant}/install?async=true&plan={told['digest']}&{query}"
    answer = await stack.http.post(path, json=body)
    job = await stack.ended(answer.headers["Location"])

    planned = {
        (group["key"], change["id"]): {*change["steps"]} - left_out for group in told["groups"] for change in group["changes"]
    }
    assert (job["status"], job["plan"]) == ("done", told["digest"]), job
    assert await executed(stack, job["id"], told) == planned
    if leaves := [module for module in await stack.enabled(tenant) if module.startswith("mod-users-")]:
        await stack.install(tenant, *leaves, action="disable")  # other tests look at its instances
        for module in leaves:
            await stack.until(f"/_/versions/{module}", lambda row: not row["instances"])
