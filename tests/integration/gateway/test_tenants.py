"""`/_/proxy/tenants` and what tenants' modules provide: Okapi's routes, shapes and texts."""

import asyncio
from typing import Any

import pytest


async def test_a_created_tenant_is_answered_with_its_place_and_itself(site: Any, name: Any) -> None:
    sent = {"id": name("t"), "name": "Diku", "description": "Datalogisk Institut"}
    found = await site.http.post("/_/proxy/tenants", json=sent)
    assert (found.status_code, found.json(), found.headers["Location"]) == (201, sent, f"/_/proxy/tenants/{sent['id']}")
    found = await site.http.get(found.headers["Location"])
    assert (found.status_code, found.json()) == (200, sent)


async def test_a_tenant_without_an_id_gets_one(site: Any) -> None:
    found = await site.http.post("/_/proxy/tenants", json={"name": "x"})
    tenant = found.json()["id"]
    assert (found.status_code, len(tenant), tenant[0]) == (201, 31, "t")
    assert int(tenant[1:], 16) >= 0


async def test_tenants_are_listed_by_id_with_the_supertenant(site: Any) -> None:
    await site.tenant()
    found = [tenant["id"] for tenant in (await site.http.get("/_/proxy/tenants")).json()]
    assert found == sorted(found)
    assert "supertenant" in found


async def test_an_id_is_taken_once_even_at_the_same_moment(site: Any, name: Any) -> None:
    tenant = name("t")
    found = await asyncio.gather(*(site.http.post("/_/proxy/tenants", json={"id": tenant}) for _ in range(5)))
    assert sorted(answer.status_code for answer in found) == [201, 400, 400, 400, 400]
    assert {answer.text for answer in found if answer.status_code == 400} == {f"Duplicate tenant id {tenant}"}


@pytest.mark.parametrize(
    ("tenant", "text"),
    [
        ("a_b", "Tenant id must not contain underscore: a_b"),
        ("a-b", "Tenant id must not contain minus: a-b"),
        ("a" * 32, "Tenant id must not exceed 31 characters: " + "a" * 32),
        ("7", "Tenant id must not start with a digit: 7"),
        ("Abc", "Invalid tenant id, may only contain a-z and 0-9 and must match [a-z][a-z0-9]{0,30} but it is Abc"),
        ("ä", "Invalid tenant id, may only contain a-z and 0-9 and must match [a-z][a-z0-9]{0,30} but it is ä"),
    ],
)
async def test_a_bad_id_is_refused_in_okapis_words(site: Any, tenant: str, text: str) -> None:
    found = await site.http.post("/_/proxy/tenants", json={"id": tenant})
    assert (found.status_code, found.text) == (400, text)


async def test_a_tenant_is_renamed_and_keeps_its_modules(site: Any, name: Any, upstream: Any) -> None:
    module = await site.register(f"{name('m')}-1.0.0", upstream.url)
    tenant = await site.tenant(module)
    found = await site.http.put(f"/_/proxy/tenants/{tenant}", json={"id": tenant, "name": "new"})
    assert (found.status_code, found.json()) == (200, {"id": tenant, "name": "new"})
    assert (await site.http.get(f"/_/proxy/tenants/{tenant}/modules")).json() == [{"id": module}]


async def test_put_creates_a_tenant_that_is_not_there(site: Any, name: Any) -> None:
    tenant = name("t")
    assert (await site.http.put(f"/_/proxy/tenants/{tenant}", json={"id": tenant})).status_code == 200
    assert (await site.http.get(f"/_/proxy/tenants/{tenant}")).status_code == 200


async def test_the_id_of_a_tenant_does_not_change(site: Any) -> None:
    tenant = await site.tenant()
    found = await site.http.put(f"/_/proxy/tenants/{tenant}", json={"id": "other"})
    assert (found.status_code, found.text) == (400, f"The tenant id must not be changed, old='{tenant}', new='other'")


async def test_a_deleted_tenant_is_gone_with_its_routes(site: Any, name: Any, upstream: Any) -> None:
    product = name("m")
    tenant = await site.tenant(await site.register(f"{product}-1.0.0", upstream.url))
    assert (await site.http.delete(f"/_/proxy/tenants/{tenant}")).status_code == 204
    for path in (f"/_/proxy/tenants/{tenant}", f"/_/proxy/tenants/{tenant}/modules", f"/_/proxy/tenants/{tenant}/install"):
        found = await site.http.get(path)
        assert (found.status_code, found.text) == (404, tenant)
    assert (await site.get(tenant, f"/{product}")).text == f"No such Tenant {tenant}"
    assert (await site.http.delete(f"/_/proxy/tenants/{tenant}")).status_code == 404


async def test_a_tenant_of_that_id_starts_anew(site: Any, name: Any, upstream: Any) -> None:
    product = name("m")
    tenant = await site.tenant(await site.register(f"{product}-1.0.0", upstream.url))
    await site.http.delete(f"/_/proxy/tenants/{tenant}")
    await site.http.post("/_/proxy/tenants", json={"id": tenant})
    assert (await site.http.get(f"/_/proxy/tenants/{tenant}/modules")).json() == []
    assert (await site.http.get(f"/_/proxy/tenants/{tenant}/install")).json() == []
    assert (await site.get(tenant, f"/{product}")).status_code == 404


async def test_the_supertenant_stays(site: Any) -> None:
    found = await site.http.delete("/_/proxy/tenants/supertenant")
    assert (found.status_code, found.text) == (400, "Can not delete the superTenant supertenant")


async def test_a_tenant_with_a_running_job_is_not_deleted(site: Any, name: Any) -> None:
    job = await site.job(await site.tenant(), await site.register(f"{name('m')}-1.0.0"))
    found = await site.http.delete(f"/_/proxy/tenants/{job.tenant}")
    assert (found.status_code, found.text) == (409, f"tenant {job.tenant} is in use by job {job.id}")


# Interfaces


@pytest.fixture
async def tenant(site: Any, name: Any) -> tuple[str, str]:
    one, two = name("m"), name("m")
    system = {"id": "_tenant", "version": "2.0", "interfaceType": "system"}
    modules = [
        await site.register(f"{one}-1.0.0", provides=[{"id": one, "version": "1.1"}, system]),
        await site.register(f"{two}-1.0.0", provides=[system]),
    ]
    return await site.tenant(*modules), one


async def test_the_interfaces_of_a_tenant_each_once(site: Any, tenant: tuple[str, str]) -> None:
    found = await site.http.get(f"/_/proxy/tenants/{tenant[0]}/interfaces")
    assert sorted(found.json(), key=str) == sorted(
        [{"id": tenant[1], "version": "1.1"}, {"id": "_tenant", "version": "2.0"}], key=str
    )


async def test_the_interfaces_of_a_tenant_in_full(site: Any, tenant: tuple[str, str]) -> None:
    found = (await site.http.get(f"/_/proxy/tenants/{tenant[0]}/interfaces?full=true&type=system")).json()
    assert found == [{"id": "_tenant", "version": "2.0", "interfaceType": "system"}] * 2


async def test_the_modules_that_provide_an_interface(site: Any, tenant: tuple[str, str]) -> None:
    base = f"/_/proxy/tenants/{tenant[0]}/interfaces"
    assert (await site.http.get(f"{base}/{tenant[1]}")).json() == [{"id": f"{tenant[1]}-1.0.0"}]
    assert len((await site.http.get(f"{base}/_tenant")).json()) == 2
    assert (await site.http.get(f"{base}/_tenant?type=proxy")).json() == []
    assert (await site.http.get(f"{base}/nobody")).json() == []


@pytest.mark.parametrize("path", ["", "/modules", "/modules/m-1.0.0", "/interfaces", "/interfaces/i", "/install", "/install/j"])
async def test_an_unknown_tenant_is_a_404_with_its_id(site: Any, path: str) -> None:
    found = await site.http.get(f"/_/proxy/tenants/nobody{path}")
    assert (found.status_code, found.text) == (404, "nobody")
