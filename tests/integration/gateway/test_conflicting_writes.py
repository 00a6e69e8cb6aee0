"""Writes that do not go together with a running job are answered 409 and name it; nothing is lost between the two."""

import asyncio
from typing import Any

import pytest

from gateway_client import GatewayRefused
from upgrade_core.ids import split_module_id


@pytest.fixture
async def pair(site: Any, name: Any) -> tuple[str, str]:
    """Two versions of one product, each with an instance that the site runs."""
    product = name("m")
    return (
        await site.register(f"{product}-1.0.0", "http://127.0.0.1:1"),
        await site.register(f"{product}-1.1.0", "http://127.0.0.1:1"),
    )


def is_refused(found: Any, job: Any) -> bool:
    return bool(found.status_code == 409 and job.id in found.text and job.tenant in found.text)


# Modules


async def test_the_version_that_data_is_at_is_not_removed_while_it_is_upgraded(site: Any, name: Any) -> None:
    """It is not enabled, so no line of the job names it: only its plan does (requirement B8)."""
    product = name("m")
    old, new = await site.register(f"{product}-1.0.0"), await site.register(f"{product}-1.1.0")
    tenant = await site.tenant()
    before = await site.job(tenant, old)
    await site.runs.set_data_version(before.id, product, old)
    await before.finish()
    job = await site.job(tenant, new)
    found = await site.http.delete(f"/_/proxy/modules/{old}")
    assert (found.status_code, found.text) == (409, f"delete: module {old} is used by job {job.id} of tenant {tenant}")
    await job.finish()
    assert (await site.http.delete(f"/_/proxy/modules/{old}")).status_code == 204


async def test_a_module_is_removed_or_taken_by_a_job_but_never_both(site: Any, name: Any) -> None:
    for _ in range(10):
        module, tenant = await site.register(f"{name('m')}-1.0.0"), await site.tenant()
        installed, removed = await asyncio.gather(
            site.http.post(f"/_/proxy/tenants/{tenant}/install?async=true", json=[{"id": module}]),
            site.http.delete(f"/_/proxy/modules/{module}"),
        )
        ends = (installed.status_code, removed.status_code)
        assert ends in {(201, 409), (409, 204), (400, 204)}, (installed.text, removed.text)


async def test_a_job_whose_module_is_gone_when_its_turn_comes_says_so(site: Any, name: Any, pair: tuple[str, str]) -> None:
    """Its plan is made of what is registered then."""
    tenant, product = await site.tenant(), name("m")
    module = await site.register(f"{product}-1.0.0")
    await site.job(tenant, pair[0])
    place = (await site.http.post(f"/_/proxy/tenants/{tenant}/install?async=true", json=[{"id": module}])).headers["Location"]
    assert (await site.http.delete(f"/_/proxy/modules/{module}")).status_code == 409
    platform = site.running.platform

    async def remove() -> None:
        async with platform.database.transaction() as connection:
            await connection.execute("delete from modules where id = $1", module)
        await platform.catch_up()

    await site.running.inside(remove())
    with pytest.raises(GatewayRefused, match=f"Module {module} not found"):
        await site.runs.begin(place.rsplit("/", 1)[1])


async def test_what_a_job_uses_may_be_registered_again_but_not_otherwise(site: Any, describe: Any, name: Any) -> None:
    """A descriptor never changes, so that a job goes on with the one that it was planned with."""
    module = await site.register(f"{name('m')}-1.0.0")
    await site.job(await site.tenant(), module)
    assert (await site.http.post("/_/proxy/modules", json=describe(module))).status_code == 201
    found = await site.http.post("/_/proxy/modules", json=describe(module, name="another"))
    assert (found.status_code, found.text) == (400, f"create: module {module} already exists")


# Instances


async def test_no_instance_of_either_version_is_forgotten_while_a_job_moves_a_tenant(site: Any, pair: tuple[str, str]) -> None:
    """An undo opens the old version again."""
    job = await site.job(await site.tenant(pair[0]), pair[1])
    for module in pair:
        for path in (f"/{module}/{module}-i", f"/{module}"):
            assert is_refused(await site.http.delete(f"/_/discovery/modules{path}"), job), path
    await job.finish()
    for module in pair:
        assert (await site.http.delete(f"/_/discovery/modules/{module}/{module}-i")).status_code == 204


async def test_an_instance_may_come_while_a_job_waits_for_it(site: Any, name: Any) -> None:
    """Requirement E2."""
    module = await site.register(f"{name('m')}-1.0.0")
    await site.job(await site.tenant(), module)
    wire = {"srvcId": module, "instId": name("i"), "url": "http://127.0.0.1:1"}
    assert (await site.http.post("/_/discovery/modules", json=wire)).status_code == 201


# Tenants


async def test_a_tenant_is_removed_or_taken_by_a_job_but_never_both(site: Any, pair: tuple[str, str]) -> None:
    for _ in range(10):
        tenant = await site.tenant()
        installed, removed = await asyncio.gather(
            site.http.post(f"/_/proxy/tenants/{tenant}/install?async=true", json=[{"id": pair[0]}]),
            site.http.delete(f"/_/proxy/tenants/{tenant}"),
        )
        ends = (installed.status_code, removed.status_code)
        assert ends in {(201, 409), (409, 204), (404, 204)}, (installed.text, removed.text)


async def test_a_tenant_may_be_renamed_while_a_job_runs(site: Any, pair: tuple[str, str]) -> None:
    """It is a text for people, and no job looks at it."""
    job = await site.job(await site.tenant(), pair[0])
    found = await site.http.put(f"/_/proxy/tenants/{job.tenant}", json={"id": job.tenant, "name": "another"})
    assert found.status_code == 200


# Bindings


async def test_bindings_are_not_changed_while_a_job_is_at_work(site: Any, pair: tuple[str, str]) -> None:
    """What they were asked for may not be what it is when the job has ended: X1 to X2 would become X3 to X2."""
    old, new = pair
    job = await site.job(await site.tenant(old), new)
    path = f"/_/proxy/tenants/{job.tenant}/modules"
    for call in (
        site.http.post(path, json={"id": new}),
        site.http.post(f"{path}/{old}", json={"id": new}),
        site.http.delete(f"{path}/{old}"),
        site.http.delete(path),
    ):
        found = await call
        assert is_refused(found, job), found.text
        assert f"DELETE /_/proxy/tenants/{job.tenant}/install/{job.id}" in found.text
    assert [each["id"] for each in (await site.http.get(f"/_/proxy/tenants/{job.tenant}/install")).json()][1:] == [job.id]
    await job.switch(new)
    assert is_refused(await site.http.delete(f"{path}/{new}"), job)  # it watches
    await job.finish()


async def test_of_two_bindings_at_once_one_is_refused(site: Any, until: Any, name: Any) -> None:
    modules = [await site.register(f"{name('m')}-1.0.0") for _ in range(2)]
    tenant = await site.tenant()
    calls = [asyncio.create_task(site.http.post(f"/_/proxy/tenants/{tenant}/modules", json={"id": module})) for module in modules]
    await until(lambda: any(call.done() for call in calls))
    (job,) = (await site.http.get(f"/_/proxy/tenants/{tenant}/install")).json()
    await site.http.delete(f"/_/proxy/tenants/{tenant}/install/{job['id']}")
    assert sorted([(await call).status_code for call in calls]) == [400, 409]


async def test_a_second_install_waits_for_the_first(site: Any, pair: tuple[str, str]) -> None:
    """Installs say what is wanted in the end, so they are planned again when their turn has come."""
    job = await site.job(await site.tenant(), pair[0])
    found = await site.http.post(f"/_/proxy/tenants/{job.tenant}/install?async=true", json=[{"id": pair[1]}])
    assert found.status_code == 201


@pytest.mark.parametrize("option", ["async", "dryRun", "simulate", "plan"])
async def test_a_single_binding_is_not_simulated_and_does_not_ignore_that_it_was_asked_to(
    site: Any, pair: tuple[str, str], option: str
) -> None:
    old, new = pair
    tenant = await site.tenant(old)
    path = f"/_/proxy/tenants/{tenant}/modules"
    for method, place, wire in (
        ("POST", f"{path}/{old}", {"id": new}),
        ("DELETE", f"{path}/{old}", None),
        ("DELETE", path, None),
    ):
        found = await site.http.request(method, f"{place}?{option}=true", json=wire)
        assert (found.status_code, found.text.startswith(f"{option}: unknown parameter")) == (400, True), found.text
    assert (await site.http.get(path)).json() == [{"id": old}]
    assert split_module_id(old)[0] == split_module_id(new)[0]
