"""NEWER: a higher version that registers starts a job for tenants that follow the newest one, and for nobody else (A5)."""

from typing import Any

from gateway_client import FinishRequest


async def jobs(site: Any, tenant: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await site.http.get(f"/_/proxy/tenants/{tenant}/install")).json()
    return found


async def wanted(site: Any, tenant: str) -> list[str]:
    return [line["id"] for job in await jobs(site, tenant) if not job["complete"] for line in job["modules"]]


async def follow(site: Any, tenant: str, routing: str = "newest") -> None:
    found = await site.http.put(f"/_/lifecycle/routing/{tenant}", json={"routing": routing})
    assert (found.status_code, found.json()) == (200, {"routing": routing})


async def test_a_higher_version_starts_a_job_for_tenants_that_follow(site: Any, upstream: Any, name: Any, until: Any) -> None:
    product = name("m")
    old = await site.register(f"{product}-1.0.0", upstream.url)
    follower, pinned = await site.tenant(old), await site.tenant(old)
    await follow(site, follower)
    new = await site.register(f"{product}-1.1.0", upstream.url)

    async def started() -> bool:
        return await wanted(site, follower) == [new]

    await until(started)
    assert await wanted(site, pinned) == []


async def test_who_begins_to_follow_gets_what_is_there(site: Any, upstream: Any, name: Any, until: Any) -> None:
    product = name("m")
    old = await site.register(f"{product}-1.0.0", upstream.url)
    new = await site.register(f"{product}-1.1.0", upstream.url)
    tenant = await site.tenant(old)
    assert await wanted(site, tenant) == []
    await follow(site, tenant)

    async def started() -> bool:
        return await wanted(site, tenant) == [new]

    await until(started)


async def test_a_lower_version_or_a_snapshot_moves_nobody(site: Any, upstream: Any, name: Any, until: Any) -> None:
    product = name("m")
    tenant = await site.tenant(await site.register(f"{product}-2.0.0", upstream.url))
    await follow(site, tenant)
    await site.register(f"{product}-1.0.0", upstream.url)
    await site.register(f"{product}-2.1.0-SNAPSHOT", upstream.url)
    new = await site.register(f"{product}-2.0.1", upstream.url)

    async def started() -> bool:
        return bool(await wanted(site, tenant))

    await until(started)
    assert await wanted(site, tenant) == [new]


async def test_an_upgrade_that_cannot_be_reached_is_a_problem(site: Any, upstream: Any, name: Any, until: Any) -> None:
    product = name("m")
    tenant = await site.tenant(await site.register(f"{product}-1.0.0", upstream.url))
    await follow(site, tenant)
    wire = {"id": f"{product}-1.1.0", "requires": [{"id": name("nowhere"), "version": "1.0"}]}
    found = await site.http.post("/_/proxy/modules?check=false", json=wire)
    assert found.status_code == 201, found.text
    sent = {"srvcId": wire["id"], "instId": name("i"), "url": upstream.url}
    assert (await site.http.post("/_/discovery/modules", json=sent)).status_code == 201

    async def told() -> bool:
        keys = [each["key"] for each in (await site.http.get("/_/lifecycle/problems")).json()]
        return f"newer-blocked:{tenant}:{wire['id']}" in keys

    await until(told)
    assert await wanted(site, tenant) == []


async def test_a_routing_that_is_none_is_refused(site: Any) -> None:
    tenant = await site.tenant()
    found = await site.http.put(f"/_/lifecycle/routing/{tenant}", json={"routing": "latest"})
    assert (found.status_code, "routing" in found.text) == (400, True)
    assert (await site.http.get(f"/_/lifecycle/routing/{tenant}")).json() == {"routing": "pinned"}
    assert (await site.http.get("/_/lifecycle/routing/nobody")).status_code == 404


async def test_an_upgrade_that_failed_is_not_tried_again_by_itself(site: Any, upstream: Any, name: Any, until: Any) -> None:
    product = name("m")
    tenant = await site.tenant(await site.register(f"{product}-1.0.0", upstream.url))
    await follow(site, tenant)
    new = await site.register(f"{product}-1.1.0", upstream.url)

    async def started() -> bool:
        return await wanted(site, tenant) == [new]

    await until(started)
    (job,) = [row["id"] for row in await jobs(site, tenant) if not row["complete"]]
    await site.runs.finish(job, FinishRequest(outcome="rolled_back"))
    assert (await site.http.delete(f"/_/discovery/modules/{new}/{new}-i")).status_code == 204
    sent = {"srvcId": new, "instId": name("i"), "url": upstream.url}
    assert (await site.http.post("/_/discovery/modules", json=sent)).status_code == 201

    async def told() -> bool:
        problems = (await site.http.get("/_/lifecycle/problems")).json()
        return any(each["key"] == f"newer-blocked:{tenant}:{new}" and job in each["message"] for each in problems)

    await until(told)
    assert await wanted(site, tenant) == []
