"""What an upgrade really executes is the plan that was looked at (requirements B3, B7, D1)."""

from typing import Any

from upgrade_core.runs import group_run_id


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


async def children(stack: Any, job: str) -> list[str]:
    """Ids of the runs that a job's run has started, in order."""
    history = await (await stack.temporal()).get_workflow_handle(job).fetch_history()
    return [
        event.start_child_workflow_execution_initiated_event_attributes.workflow_id
        for event in history.events
        if event.HasField("start_child_workflow_execution_initiated_event_attributes")
    ]


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
