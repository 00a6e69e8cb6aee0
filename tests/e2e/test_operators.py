"""What operators see and decide (requirement D4): search attributes, details, hold points, lost runs."""

from typing import Any

import pytest
from temporalio.client import Client
from temporalio.worker import Replayer

from worker.temporal import WORKFLOWS, workflow_runner


async def two_versions(stack: Any, dialect: str = "okapi2", **uplift: Any) -> tuple[str, str]:
    tenant, product = await stack.tenant(), stack.product()
    await stack.register(*(stack.descriptor(product, version, dialect=dialect, **uplift) for version in ("1.0.0", "2.0.0")))
    job = await stack.install(tenant, f"{product}-1.0.0")
    assert job["outcome"] == "done", job
    return tenant, product


async def test_runs_are_found_by_tenant_and_outcome_and_show_their_steps(stack: Any) -> None:
    tenant, product = await two_versions(stack)
    job = await stack.install(tenant, f"{product}-2.0.0")
    client: Client = await stack.temporal()
    handle = client.get_workflow_handle(f"{job['id']}/1-{product}")

    description = await handle.describe()
    attributes = {
        pair.key.name: pair.value for pair in (await client.get_workflow_handle(job["id"]).describe()).typed_search_attributes
    }
    details = {pair.key.name: pair.value for pair in description.typed_search_attributes}

    assert attributes["UpliftTenant"] == tenant
    assert (attributes["UpliftPhase"], attributes["UpliftOutcome"]) == ("ended", "done")
    assert (details["UpliftFrom"], details["UpliftTo"]) == (f"{product}-1.0.0", f"{product}-2.0.0")
    assert await description.static_summary() == f"{tenant}: upgrade {product}-2.0.0"
    metadata = await handle.query("__temporal_workflow_metadata")
    assert "✓ switch" in str(metadata)
    assert job["run"]["workflowId"] == job["id"]
    assert job["run"]["url"].endswith(f"/namespaces/default/workflows/{job['id']}")


async def test_histories_of_real_runs_replay(stack: Any) -> None:
    tenant, product = await two_versions(stack)
    await stack.install(tenant, f"{product}-2.0.0", query="tenantParameters=do%3Djob,seconds%3D0.2")
    await stack.install(tenant, f"{product}-1.0.0", query="tenantParameters=do%3D500")
    client: Client = await stack.temporal()
    replayer = Replayer(workflows=list(WORKFLOWS), workflow_runner=workflow_runner(), data_converter=client.data_converter)

    replayed = 0
    async for execution in client.list_workflows(f"UpliftTenant = '{tenant}'"):
        history = await client.get_workflow_handle(execution.id, run_id=execution.run_id).fetch_history()
        await replayer.replay_workflow(history)
        replayed += 1

    assert replayed == 6


async def test_a_module_that_only_goes_forward_waits_for_a_person(stack: Any) -> None:
    tenant, product = await two_versions(stack, undo="forward_only")
    job = await stack.begin(tenant, f"{product}-2.0.0", query="tenantParameters=do%3D500")
    waiting = await stack.until(job, lambda row: row["phase"] == "needs_operator")
    held = await stack.ok("GET", f"/_/lifecycle/links?tenant={tenant}")
    client: Client = await stack.temporal()

    handle = client.get_workflow_handle(f"{waiting['id']}/1-{product}")
    answer = await handle.execute_update("resolve", "skip")
    ended = await stack.ended(job)

    assert [link["hold"] for link in held] == ["HELD"]
    assert answer == f"skip: {product}-2.0.0 only goes forward: a person decides"
    assert ended["outcome"] == "rollback_failed"
    assert await stack.enabled(tenant) == [f"{product}-1.0.0"]


async def test_a_terminated_run_is_told_as_lost_and_never_run_again(stack: Any) -> None:
    """Terminate cannot be caught, but the group is asked to cancel and undoes what it did."""
    tenant, product = await two_versions(stack)
    job = await stack.begin(tenant, f"{product}-2.0.0", query="tenantParameters=do%3Djob,seconds%3D30")
    row = await stack.until(job, lambda row: row["phase"] == "migrating")
    client: Client = await stack.temporal()
    await client.get_workflow_handle(row["id"]).terminate("by a test")

    ended = await stack.ended(job)

    assert (ended["status"], ended["outcome"]) == ("error", "failed")
    assert ended["errors"][0]["type"] == "RunLost"
    await stack.until(f"/_/lifecycle/links?tenant={tenant}", lambda links: links == [])
    assert (await stack.ask(tenant, f"/{product}/x")).json()["id"] == f"{product}-1.0.0"
    problem = f"run-lost:{row['id']}"
    await stack.until("/_/lifecycle/problems", lambda found: problem in [each["key"] for each in found])
    await stack.http.delete(job)
    await stack.until("/_/lifecycle/problems", lambda found: problem not in [each["key"] for each in found])


async def test_a_hold_that_a_terminated_group_left_is_named_and_never_opens_itself(stack: Any) -> None:
    tenant, product = await two_versions(stack)
    job = await stack.begin(tenant, f"{product}-2.0.0", query="tenantParameters=do%3Djob,seconds%3D30")
    row = await stack.until(job, lambda row: row["phase"] == "migrating")
    client: Client = await stack.temporal()
    await client.get_workflow_handle(f"{row['id']}/1-{product}").terminate("by a test")

    ended = await stack.ended(job)
    held = await stack.ok("GET", f"/_/lifecycle/links?tenant={tenant}")
    removed = await stack.http.delete(job)

    assert ended["outcome"] == "rollback_failed"
    assert ended["errors"][-1]["type"] == "StillHeld"
    assert [link["holdId"] for link in held] == [f"{row['id']}:{product}:1-{product}"]
    assert held[0]["holdId"] in ended["errors"][-1]["message"]
    assert removed.status_code == 409
    problem = f"hold-left:{held[0]['holdId']}"
    await stack.until("/_/lifecycle/problems", lambda found: problem in [each["key"] for each in found])
    assert problem in [each["key"] for each in await stack.problems()]


@pytest.mark.soak
async def test_a_long_synchronous_answer_is_waited_for(stack: Any) -> None:
    """Requirement C4, by a short clock: it takes longer than any heartbeat or call may."""
    tenant, product = await two_versions(stack, dialect="okapi1")

    job = await stack.install(tenant, f"{product}-2.0.0", query="tenantParameters=do%3D200,seconds%3D12")

    assert job["status"] == "done"
    assert len(await stack.inits(f"{product}-2.0.0", tenant)) == 1


async def test_an_instance_of_the_site_is_used_and_never_stopped(stack: Any) -> None:
    """Requirement E2: deployed by the site's own means, registered at discovery."""
    tenant, product = await two_versions(stack)
    (ours,) = await stack.instances(f"{product}-1.0.0")
    descriptor = stack.descriptor(product, "3.0.0")
    del descriptor["launchDescriptor"]
    await stack.register(descriptor)
    body = {"srvcId": f"{product}-3.0.0", "instId": f"site-{product}", "url": ours["url"]}
    await stack.ok("POST", "/_/discovery/modules", body)

    job = await stack.install(tenant, f"{product}-3.0.0")

    assert job["status"] == "done"
    assert [instance["id"] for instance in await stack.instances(f"{product}-3.0.0")] == [f"site-{product}"]
