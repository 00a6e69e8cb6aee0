"""`/_/discovery`, `/_/env` and `/_/versions`: instances that sites register, and those that runs deploy."""

import asyncio
from typing import Any

import asyncpg
import pytest

from gateway_client import ClaimRequest, GatewayRefused, Instance, NotFound, Retiring


@pytest.fixture
async def module(site: Any, name: Any) -> str:
    return str(await site.register(f"{name('m')}-1.0.0"))


async def test_a_registered_instance_is_answered_with_its_place_and_itself(site: Any, name: Any, module: str) -> None:
    sent = {"srvcId": module, "instId": name("i"), "url": "http://10.0.0.1:8081"}
    found = await site.http.post("/_/discovery/modules", json=sent)
    place = f"/_/discovery/modules/{module}/{sent['instId']}"
    assert (found.status_code, found.json(), found.headers["Location"]) == (201, sent, place)
    assert (await site.http.get(place)).json() == sent
    assert (await site.http.get(f"/_/discovery/modules/{module}")).json() == [sent]
    assert sent in (await site.http.get("/_/discovery/modules")).json()


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        ({"srvcId": None}, 400, "Needs srvcId"),
        ({"srvcId": ""}, 400, "Empty srvcId not allowed"),
        ({"srvcId": "nobody-1.0.0"}, 404, "nobody-1.0.0"),
        ({"instId": None}, 400, "Needs instId"),
        ({"instId": ""}, 400, "Needs instId"),
        ({"url": None}, 400, "url"),
        ({"url": ""}, 400, "url"),
        ({"url": "ftp://x"}, 400, "url"),
        ({"url": "http://"}, 400, "url"),
        ({"url": "http://a:99999"}, 400, "url"),
        ({"url": "http://a/?x"}, 400, "url"),
        ({"url": "http://ä"}, 400, "url"),
        ({"url": "http://a b"}, 400, "url"),
        ({"url": "http://[::1"}, 400, "url"),
        ({"nodeId": "n"}, 400, "nodeId"),
        ({"descriptor": {"exec": "x %p"}}, 400, "descriptor"),
        ({"other": 1}, 400, "other: unknown member"),
    ],
)
async def test_what_is_wrong_with_an_instance_is_named(
    site: Any, name: Any, module: str, change: dict[str, Any], status: int, text: str
) -> None:
    sent = {"srvcId": module, "instId": name("i"), "url": "http://a", **change}
    found = await site.http.post("/_/discovery/modules", json={key: value for key, value in sent.items() if value is not None})
    assert (found.status_code, text in found.text) == (status, True), found.text
    assert (await site.http.get(f"/_/discovery/modules/{module}")).status_code == 404


async def test_an_instance_id_is_taken_once(site: Any, name: Any, module: str) -> None:
    other = await site.register(f"{name('m')}-1.0.0")
    sent = {"srvcId": module, "instId": name("i"), "url": "http://a"}
    rivals = [sent, {**sent, "url": "http://b"}, {**sent, "srvcId": other}]
    found = await asyncio.gather(*(site.http.post("/_/discovery/modules", json=rival) for rival in rivals))
    assert sorted(answer.status_code for answer in found) == [201, 400, 400]
    assert {answer.text for answer in found if answer.status_code == 400} == {f"Duplicate instId {sent['instId']}"}


async def test_the_same_registration_again_says_that_the_instance_is_well(site: Any, name: Any, module: str) -> None:
    sent = {"srvcId": module, "instId": name("i"), "url": "http://a"}
    found = await asyncio.gather(*(site.http.post("/_/discovery/modules", json=sent) for _ in range(4)))
    assert [answer.status_code for answer in found] == [201, 201, 201, 201]
    assert len((await site.http.get(f"/_/discovery/modules/{module}")).json()) == 1
    connection = await asyncpg.connect(site.dsn)
    try:
        query = "select seen from instances where id = $1"
        before = await connection.fetchval(query, sent["instId"])
        assert (await site.http.post("/_/discovery/modules", json=sent)).status_code == 201
        assert await connection.fetchval(query, sent["instId"]) > before
    finally:
        await connection.close()


async def test_an_instance_is_forgotten(site: Any, name: Any, module: str) -> None:
    sent = {"srvcId": module, "instId": name("i"), "url": "http://a"}
    await site.http.post("/_/discovery/modules", json=sent)
    place = f"/_/discovery/modules/{module}/{sent['instId']}"
    assert (await site.http.delete(place)).status_code == 204
    for method in ("GET", "DELETE"):
        found = await site.http.request(method, place)
        assert (found.status_code, found.text) == (404, f"{module}/{sent['instId']}")


async def test_all_instances_of_a_module_are_forgotten(site: Any, name: Any, module: str) -> None:
    for _ in range(2):
        await site.http.post("/_/discovery/modules", json={"srvcId": module, "instId": name("i"), "url": "http://a"})
    assert (await site.http.delete(f"/_/discovery/modules/{module}")).status_code == 204
    found = await site.http.get(f"/_/discovery/modules/{module}")
    assert (found.status_code, found.text) == (404, module)


async def test_an_instance_of_a_running_job_is_not_forgotten(site: Any, name: Any) -> None:
    module = await site.register(f"{name('m')}-1.0.0", "http://127.0.0.1:1")
    job = await site.job(await site.tenant(), module)
    found = await site.http.delete(f"/_/discovery/modules/{module}/{module}-i")
    assert (found.status_code, job.id in found.text, job.tenant in found.text) == (409, True, True)


async def test_a_path_of_an_instance_is_put_before_that_of_the_request(site: Any, name: Any, upstream: Any) -> None:
    product = name("m")
    tenant = await site.tenant(await site.register(f"{product}-1.0.0", f"{upstream.url}/base/"))
    assert (await site.get(tenant, f"/{product}?x")).json()["path"] == f"/base/{product}?x"


# Deployed ones


def deployed(module: str, name: str, **more: Any) -> Instance:
    return Instance(**{"id": name, "module": module, "url": "http://127.0.0.1:1", "node": "n", "generation": "1", **more})


async def test_a_deployed_instance_is_shown_and_replaced_by_its_next_process(site: Any, name: Any, module: str) -> None:
    instance = deployed(module, name("i"))
    await site.runs.put_instance(instance)
    await site.runs.put_instance(instance)
    assert (await site.runs.version(module)).instances == (instance,)
    after = instance.model_copy(update={"generation": "2", "url": "http://127.0.0.1:2"})
    await site.runs.put_instance(after)
    assert (await site.runs.version(module)).instances == (after,)
    shown = (await site.http.get(f"/_/discovery/modules/{module}")).json()
    assert shown == [{"instId": instance.id, "srvcId": module, "nodeId": "n", "url": "http://127.0.0.1:2"}]
    await site.runs.remove_instance(module, instance.id)
    await site.runs.remove_instance(module, instance.id)
    assert (await site.runs.version(module)).instances == ()


async def test_an_instance_belongs_to_one_module(site: Any, name: Any, module: str) -> None:
    other = await site.register(f"{name('m')}-1.0.0")
    instance = deployed(module, name("i"))
    await site.runs.put_instance(instance)
    with pytest.raises(GatewayRefused, match=instance.id):
        await site.runs.put_instance(instance.model_copy(update={"module": other}))
    await site.runs.remove_instance(other, instance.id)
    assert (await site.runs.version(module)).instances == (instance,)
    assert (await site.runs.version(other)).instances == ()


async def test_a_deployed_instance_is_not_forgotten_while_nobody_can_stop_it(site: Any, name: Any, module: str) -> None:
    """Its run does, and Temporal is away here."""
    instance = deployed(module, name("i"))
    await site.runs.put_instance(instance)
    found = await site.http.delete(f"/_/discovery/modules/{module}/{instance.id}")
    assert (found.status_code, "Temporal" in found.text) == (503, True)
    assert (await site.runs.version(module)).instances == (instance,)


async def test_a_run_waits_until_an_instance_is_there_and_until_it_is_gone(site: Any, name: Any, module: str) -> None:
    waiting = asyncio.create_task(site.runs.version(module, wait=10))
    assert not (await site.runs.version(module, wait=0.05)).instances
    instance = deployed(module, name("i"))
    await site.runs.put_instance(instance)
    assert (await asyncio.wait_for(waiting, 5)).instances == (instance,)
    waiting = asyncio.create_task(site.runs.version(module, wait=10, gone=True))
    await site.runs.remove_instance(module, instance.id)
    assert (await asyncio.wait_for(waiting, 5)).instances == ()


async def test_a_version_that_is_needed_is_not_retired(site: Any, name: Any, module: str) -> None:
    job = await site.job(await site.tenant(), module)
    claim = ClaimRequest(module=module, subject=module)
    for _ in range(2):
        assert (await site.runs.claim(job.id, claim)).needed_by == (f"job {job.id}",)
    refused = await site.runs.retire(module)
    assert (refused.retiring, refused.needed_by) == (False, (f"job {job.id}",))
    for _ in range(2):
        assert (await site.runs.give_back(job.id, module)).needed_by == ()
    assert (await site.runs.retire(module)).retiring


async def test_who_needs_each_version_is_told_of_all_at_once_as_of_each(site: Any, name: Any) -> None:
    """The workers of a platform look at all versions all the time; who has hundreds asks the database once."""
    modules = sorted(f"{name('m')}-1.0.0" for _ in range(3))
    for module in modules:
        await site.register(module, "http://127.0.0.1:1")
    first, second = await site.tenant(modules[0]), await site.tenant(*modules[:2])
    job = await site.job(first, modules[1])
    await site.runs.claim(job.id, ClaimRequest(module=modules[1], subject=modules[1]))

    found = {version.module: version for version in await site.runs.versions() if version.module in modules}

    assert [found[module].needed_by for module in modules[:2]] == [
        tuple(f"tenant {tenant}" for tenant in sorted([first, second])),
        (f"job {job.id}", f"tenant {second}"),
    ]
    assert found[modules[2]].needed_by == ()
    assert list(found.values()) == [await site.runs.version(module) for module in modules]


async def test_a_retiring_version_is_neither_claimed_nor_registered(site: Any, name: Any, module: str) -> None:
    await site.runs.put_instance(deployed(module, name("i")))
    assert (await site.runs.retire(module)).retiring
    job = await site.job(await site.tenant(), module)
    with pytest.raises(Retiring):
        await site.runs.claim(job.id, ClaimRequest(module=module, subject=module))
    found = await site.http.post("/_/discovery/modules", json={"srvcId": module, "instId": name("i"), "url": "http://a"})
    assert (found.status_code, module in found.text) == (409, True)
    await site.runs.retired(module)
    version = await site.runs.claim(job.id, ClaimRequest(module=module, subject=module))
    assert (version.instances, version.retiring) == ((), False)


async def test_a_version_with_requests_at_work_is_not_retired(site: Any, name: Any, upstream: Any, until: Any) -> None:
    upstream.answer = upstream.slowly
    product = name("m")
    old = await site.register(f"{product}-1.0.0", upstream.url)
    tenant = await site.tenant(old)
    request = asyncio.create_task(site.get(tenant, f"/{product}"))
    await until(lambda: upstream.requests)
    await site.enable(tenant, await site.register(f"{product}-2.0.0", upstream.url))
    version = await site.runs.retire(old)
    assert (version.retiring, version.in_flight, version.needed_by) == (False, 1, ())
    upstream.gate.set()
    await request
    assert (await site.runs.retire(old)).retiring


async def test_a_version_that_is_marked_already_is_not_retired_under_a_request_that_began_before(
    site: Any, name: Any, upstream: Any, until: Any
) -> None:
    """The mark is a row; whether it may be stopped is asked again and again, also by an attempt that did not set the mark."""
    upstream.answer = upstream.slowly
    product = name("m")
    old = await site.register(f"{product}-1.0.0", upstream.url)
    tenant = await site.tenant(old)
    request = asyncio.create_task(site.get(tenant, f"/{product}"))
    await until(lambda: upstream.requests)
    await site.enable(tenant, await site.register(f"{product}-2.0.0", upstream.url))
    connection = await asyncpg.connect(site.dsn)
    await connection.execute("insert into retirements (module) values ($1)", old)
    await connection.close()
    version = await site.runs.retire(old)
    assert (version.retiring, version.in_flight) == (False, 1)
    upstream.gate.set()
    await request
    assert (await site.runs.retire(old)).retiring


async def test_of_a_claim_and_a_retirement_at_the_same_moment_one_wins(site: Any, name: Any) -> None:
    for _ in range(8):
        module = await site.register(f"{name('m')}-1.0.0")
        job = await site.job(await site.tenant(), module)
        claim, retirement = await asyncio.gather(
            site.runs.claim(job.id, ClaimRequest(module=module, subject=module)), site.runs.retire(module), return_exceptions=True
        )
        assert isinstance(claim, Retiring) == retirement.retiring


async def test_unknown_versions_and_jobs_are_not_found(site: Any, module: str) -> None:
    for call in (
        site.runs.version("nobody-1.0.0"),
        site.runs.retire("nobody-1.0.0"),
        site.runs.put_instance(deployed("nobody-1.0.0", "i")),
        site.runs.claim("nobody", ClaimRequest(module=module, subject=module)),
        site.runs.begin("nobody"),
    ):
        with pytest.raises(NotFound):
            await call


# The environment of instances


async def test_a_variable_is_set_shown_overwritten_and_forgotten(site: Any, name: Any) -> None:
    variable = name("DB_HOST")
    found = await site.http.post("/_/env", json={"name": variable, "value": "a", "description": "where"})
    assert (found.status_code, found.headers["Location"]) == (201, f"/_/env/{variable}")
    await site.http.post("/_/env", json={"name": variable, "value": "b"})
    assert (await site.http.get(f"/_/env/{variable}")).json() == {"name": variable, "value": "b"}
    assert (await site.runs.environment())[variable] == "b"
    assert (await site.http.delete(f"/_/env/{variable}")).status_code == 204
    for method in ("GET", "DELETE"):
        found = await site.http.request(method, f"/_/env/{variable}")
        assert (found.status_code, found.text) == (404, variable)


@pytest.mark.parametrize(
    ("wire", "text"),
    [
        ({"value": "x"}, "missing name"),
        ({"name": "", "value": "x"}, "missing name"),
        ({"name": "x"}, "missing value"),
        ({"name": "a=b", "value": "x"}, "name"),
        ({"name": "a\nb", "value": "x"}, "name"),
        ({"name": "x", "value": 1}, "value"),
    ],
)
async def test_a_bad_variable_is_refused(site: Any, wire: dict[str, Any], text: str) -> None:
    found = await site.http.post("/_/env", json=wire)
    assert (found.status_code, text in found.text) == (400, True)
