"""`/_/proxy/tenants` row by row, the built-in module and the tenant that calls. Sections are those of the map of Okapi."""

import json
from base64 import urlsafe_b64encode
from typing import Any

import asyncpg
import pytest

from gateway.metrics import instance_states

NO_ROUTE = "No suitable module found for path and tenant"
SYSTEM = {"id": "_tenant", "version": "2.0", "interfaceType": "system"}
MODULES = [
    {"id": "ma-1.0.0", "name": "A", "provides": [{"id": "ia", "version": "1.1", "scope": ["s"]}, SYSTEM]},
    {"id": "mb-1.10.0", "provides": [{"id": "ib", "version": "1.0"}, SYSTEM], "requires": [{"id": "ia", "version": "1.0"}]},
    {"id": "mc-1.0.0-rc.1", "provides": [{"id": "ic", "version": "1.0", "interfaceType": "multiple"}]},
    {"id": "md-1.0.0", "name": "not enabled"},
    {"id": "md-1.1.0"},
]


@pytest.fixture(scope="module")
async def house(module_site: Any) -> Any:
    """A gateway with these modules and a tenant `diku` that has the first three."""
    assert (await module_site.http.post("/_/proxy/import/modules", json=MODULES)).status_code == 204
    sent = {"id": "diku", "name": "Institut"}
    assert (await module_site.http.post("/_/proxy/tenants", json=sent)).status_code == 201
    await module_site.enable("diku", *(module["id"] for module in MODULES[:3]))
    return module_site


@pytest.mark.parametrize(
    ("call", "body", "status", "answer"),
    [
        pytest.param("GET /_/proxy/tenants/diku", None, 200, '{\n  "id" : "diku",\n  "name" : "Institut"\n}', id="get"),
        pytest.param("GET /_/proxy/tenants/nobody", None, 404, "nobody", id="get unknown"),
        pytest.param("POST /_/proxy/tenants", {"id": "diku"}, 400, "Duplicate tenant id diku", id="post duplicate"),
        pytest.param("POST /_/proxy/tenants", {"id": "a_b"}, 400, "Tenant id must not contain underscore: a_b", id="post _"),
        pytest.param("POST /_/proxy/tenants", {"id": "a-b"}, 400, "Tenant id must not contain minus: a-b", id="post -"),
        pytest.param(
            "POST /_/proxy/tenants", {"id": "a" * 32}, 400, "Tenant id must not exceed 31 characters: " + "a" * 32, id="post long"
        ),
        pytest.param("POST /_/proxy/tenants", {"id": "1"}, 400, "Tenant id must not start with a digit: 1", id="post digit"),
        pytest.param(
            "POST /_/proxy/tenants", {"id": "Ab"}, 400,
            "Invalid tenant id, may only contain a-z and 0-9 and must match [a-z][a-z0-9]{0,30} but it is Ab", id="post else",
        ),
        pytest.param(
            "PUT /_/proxy/tenants/diku", {"id": "other"}, 400, "The tenant id must not be changed, old='diku', new='other'",
            id="put another id",
        ),
        pytest.param(
            "PUT /_/proxy/tenants/diku", {"id": "diku", "name": "Institut"}, 200,
            '{\n  "id" : "diku",\n  "name" : "Institut"\n}', id="put",
        ),
        pytest.param("DELETE /_/proxy/tenants/nobody", None, 404, "nobody", id="delete unknown"),
        pytest.param(
            "DELETE /_/proxy/tenants/supertenant", None, 400, "Can not delete the superTenant supertenant", id="supertenant stays"
        ),
        pytest.param("GET /_/proxy/tenants/diku/modules", None, 200, ["ma-1.0.0", "mb-1.10.0", "mc-1.0.0-rc.1"], id="modules"),
        pytest.param("GET /_/proxy/tenants/nobody/modules", None, 404, "nobody", id="modules of nobody"),
        pytest.param("GET /_/proxy/tenants/diku/modules?filter=mb-1", None, 200, ["mb-1.10.0"], id="modules filter"),
        pytest.param("GET /_/proxy/tenants/diku/modules?filter=md", None, 200, [], id="modules filter, not enabled"),
        pytest.param("GET /_/proxy/tenants/diku/modules?preRelease=false", None, 200, ["ma-1.0.0", "mb-1.10.0"], id="pre"),
        pytest.param("GET /_/proxy/tenants/diku/modules?preRelease=only", None, 200, ["mc-1.0.0-rc.1"], id="modules only pre"),
        pytest.param("GET /_/proxy/tenants/diku/modules?provide=ia", None, 200, ["ma-1.0.0"], id="modules provide"),
        pytest.param("GET /_/proxy/tenants/diku/modules?provide=ia,ib&scope=s", None, 200, ["ma-1.0.0"], id="modules scope"),
        pytest.param("GET /_/proxy/tenants/diku/modules?require=ia", None, 200, ["mb-1.10.0"], id="modules require"),
        pytest.param("GET /_/proxy/tenants/diku/modules?latest=1&filter=ma", None, 200, ["ma-1.0.0"], id="modules latest"),
        pytest.param(
            "GET /_/proxy/tenants/diku/modules?orderBy=id", None, 200, ["mc-1.0.0-rc.1", "mb-1.10.0", "ma-1.0.0"], id="order"
        ),
        pytest.param(
            "GET /_/proxy/tenants/diku/modules?full=yes", None, 400, "Bad boolean for parameter full: yes", id="boolean"
        ),
        pytest.param(
            "GET /_/proxy/tenants/diku/modules?filter=ma", None, 200, '[ {\n  "id" : "ma-1.0.0"\n} ]', id="modules have no name"
        ),
        pytest.param("GET /_/proxy/tenants/diku/modules/ma-1.0.0", None, 200, '{\n  "id" : "ma-1.0.0"\n}', id="binding"),
        pytest.param("GET /_/proxy/tenants/diku/modules/md-1.0.0", None, 404, "md-1.0.0", id="binding, not enabled"),
        pytest.param("GET /_/proxy/tenants/nobody/modules/ma-1.0.0", None, 404, "nobody", id="binding of nobody"),
        pytest.param(
            "POST /_/proxy/tenants/diku/modules", {"id": "ma-1.0.0"}, 400, "Module ma-1.0.0 already provided", id="enable again"
        ),
        pytest.param("POST /_/proxy/tenants/diku/modules", {"id": "mx-1.0.0"}, 404, "mx-1.0.0", id="enable unknown"),
        pytest.param("POST /_/proxy/tenants/nobody/modules", {"id": "ma-1.0.0"}, 404, "nobody", id="enable for nobody"),
        pytest.param(
            "DELETE /_/proxy/tenants/diku/modules/ma-1.0.0", None, 400, "interface ia required by module mb-1.10.0 not found",
            id="disable what is required",
        ),
        pytest.param("DELETE /_/proxy/tenants/diku/modules/md-1.0.0", None, 204, "", id="disable what is not enabled"),
        pytest.param("DELETE /_/proxy/tenants/diku/modules/mx-1.0.0", None, 404, "mx-1.0.0", id="disable unknown"),
        pytest.param("POST /_/proxy/tenants/diku/modules/md-1.0.0", {"id": "md-1.1.0"}, 404, "md-1.0.0", id="upgrade none"),
        pytest.param("POST /_/proxy/tenants/diku/modules/ma-1.0.0", {"id": "ma-2.0.0"}, 404, "ma-2.0.0", id="upgrade to unknown"),
        pytest.param(
            "GET /_/proxy/tenants/diku/interfaces", None, 200,
            [["ia", "1.1"], ["_tenant", "2.0"], ["ib", "1.0"], ["ic", "1.0"]], id="interfaces, each once",
        ),
        pytest.param("GET /_/proxy/tenants/diku/interfaces?type=proxy", None, 200, [["ia", "1.1"], ["ib", "1.0"]], id="proxy"),
        pytest.param("GET /_/proxy/tenants/diku/interfaces?type=multiple", None, 200, [["ic", "1.0"]], id="type multiple"),
        pytest.param("GET /_/proxy/tenants/diku/interfaces?type=internal", None, 200, "[ ]", id="type internal"),
        pytest.param(
            "GET /_/proxy/tenants/diku/interfaces?full=true&type=system", None, 200, json.loads(json.dumps([SYSTEM, SYSTEM])),
            id="interfaces full, repeated",
        ),
        pytest.param(
            "GET /_/proxy/tenants/diku/interfaces?full=0", None, 400, "Bad boolean for parameter full: 0", id="interfaces boolean"
        ),
        pytest.param("GET /_/proxy/tenants/nobody/interfaces", None, 404, "nobody", id="interfaces of nobody"),
        pytest.param("GET /_/proxy/tenants/diku/interfaces/ib", None, 200, ["mb-1.10.0"], id="interface"),
        pytest.param("GET /_/proxy/tenants/diku/interfaces/_tenant", None, 200, ["ma-1.0.0", "mb-1.10.0"], id="interface of two"),
        pytest.param("GET /_/proxy/tenants/diku/interfaces/_tenant?type=proxy", None, 200, "[ ]", id="interface of a type"),
        pytest.param("GET /_/proxy/tenants/diku/interfaces/nobody", None, 200, "[ ]", id="interface of none"),
        pytest.param("GET /_/proxy/tenants/nobody/interfaces/ib", None, 404, "nobody", id="interface of nobody"),
        pytest.param("GET /_/proxy/tenants/diku/", None, 404, NO_ROUTE, id="1.1 trailing slash"),
    ],
)  # fmt: skip
async def test_a_call_is_answered(house: Any, call: str, body: Any, status: int, answer: Any) -> None:
    """1.3; an answer is a text, or the ids of a list (with versions), or the list itself."""
    method, path = call.split()
    found = await house.http.request(method, path, json=body) if body is not None else await house.http.request(method, path)
    assert found.status_code == status, found.text
    if isinstance(answer, str):
        assert found.text == answer
    elif answer and isinstance(answer[0], dict):
        assert found.json() == answer
    elif answer and isinstance(answer[0], list):
        assert [[each["id"], each["version"]] for each in found.json()] == answer
    else:
        assert [each["id"] for each in found.json()] == answer
    bound = [each["id"] for each in (await house.http.get("/_/proxy/tenants/diku/modules")).json()]
    assert bound == ["ma-1.0.0", "mb-1.10.0", "mc-1.0.0-rc.1"], "nothing was changed"


async def test_stripes_gets_whole_descriptors_of_what_is_enabled(house: Any) -> None:
    """12: `full=true`."""
    found = (await house.http.get("/_/proxy/tenants/diku/modules?full=true")).json()
    assert found == MODULES[:3]


async def test_a_tenant_is_created_with_its_place(house: Any) -> None:
    found = await house.http.post("/_/proxy/tenants", json={"name": "no id", "description": None})
    created = found.json()
    assert (found.status_code, set(created), created["name"]) == (201, {"id", "name"}, "no id")
    assert found.headers["Location"] == f"/_/proxy/tenants/{created['id']}"
    assert (await house.http.delete(found.headers["Location"])).status_code == 204


async def test_put_creates_what_is_absent(house: Any) -> None:
    found = await house.http.put("/_/proxy/tenants/fresh", json={"id": "fresh"})
    assert (found.status_code, found.text) == (200, '{\n  "id" : "fresh"\n}')
    ids = [each["id"] for each in (await house.http.get("/_/proxy/tenants")).json()]
    assert ids == sorted(ids)
    assert {"diku", "fresh", "supertenant"} <= set(ids)


# The built-in module, and the tenant that calls


async def test_the_supertenant_has_the_built_in_module_and_keeps_it(house: Any) -> None:
    """1.1; in Okapi it may be disabled, which locks everybody out."""
    built_in = await house.built_in()
    listed = [each["id"] for each in (await house.http.get("/_/proxy/tenants/supertenant/modules")).json()]
    assert listed == [built_in]
    found = await house.http.get("/_/proxy/tenants/supertenant/interfaces?type=internal")
    assert [each["id"] for each in found.json()] == ["okapi-proxy"]
    body = [{"id": "okapi", "action": "disable"}]
    for call in (
        house.http.post("/_/proxy/tenants/supertenant/install?async=true", json=body),
        house.http.post("/_/proxy/tenants/supertenant/install?simulate=true", json=body),
        house.http.delete(f"/_/proxy/tenants/supertenant/modules/{built_in}"),
    ):
        found = await call
        assert (found.status_code, "the supertenant keeps it" in found.text) == (400, True)
    assert (await house.http.delete("/_/proxy/tenants/supertenant/modules")).status_code == 204
    assert (await house.http.get("/_/proxy/tenants/supertenant/install")).json() == [], "and no job was made"


OKAPIS = (
    "/_/proxy/modules", "/_/proxy/health", "/_/proxy/tenants", "/_/proxy/tenants/diku/modules", "/_/discovery/modules",
    "/_/deployment/modules", "/_/env", "/_/version",
)  # fmt: skip


@pytest.mark.parametrize("path", OKAPIS)
async def test_a_tenant_without_the_built_in_module_finds_none_of_okapis_routes(house: Any, path: str) -> None:
    """1.1: the routes are the module's."""
    found = await house.http.get(path, headers={"x-okapi-tenant": "diku"})
    assert (found.status_code, found.text) == (404, NO_ROUTE)
    found = await house.http.get(path, headers={"X-Okapi-Tenant": "stranger"})
    assert (found.status_code, found.text) == (400, "No such Tenant stranger")
    assert (await house.http.get(path, headers={"X-Okapi-Tenant": "supertenant"})).status_code == 200
    assert (await house.http.get(path)).status_code == 200


async def test_a_tenant_of_a_token_is_the_one_that_calls(house: Any) -> None:
    claims = urlsafe_b64encode(json.dumps({"sub": "me", "tenant": "diku"}).encode()).decode().rstrip("=")
    found = await house.http.get("/_/proxy/modules", headers={"X-Okapi-Token": f"e30.{claims}.x"})
    assert (found.status_code, found.text) == (404, NO_ROUTE)


async def test_routes_of_ours_ask_for_no_such_module(house: Any) -> None:
    found = await house.http.get("/_/lifecycle/problems", headers={"X-Okapi-Tenant": "diku"})
    assert found.status_code == 200


async def test_a_tenant_gets_and_loses_the_built_in_module_by_jobs(house: Any) -> None:
    tenant, built_in = await house.tenant(), await house.built_in()
    found = await house.http.post(f"/_/proxy/tenants/{tenant}/install?simulate=true", json=[{"id": "okapi"}])
    assert found.json() == [{"id": built_in, "action": "enable"}]
    await house.enable(tenant, built_in)
    own = {"X-Okapi-Tenant": tenant}
    assert (await house.http.get(f"/_/proxy/tenants/{tenant}/modules", headers=own)).json() == [{"id": built_in}]
    assert await house.links(tenant) == [], "nobody waits for an instance of it"
    assert built_in not in {module for module, _ in instance_states(house.running.platform.table)}


async def test_who_is_behind_is_moved_to_our_version_at_the_start(new_site: Any) -> None:
    """9: each tenant with an older one."""
    site = await new_site()
    ours, tenant = await site.built_in(), await site.tenant()
    connection = await asyncpg.connect(site.dsn)
    try:
        for module in ("okapi-0.0.1", "okapi-999.0.0"):
            assert (await site.http.post("/_/proxy/modules", json={"id": module})).status_code == 201
        other = await site.tenant()
        await connection.execute("update bindings set module = 'okapi-0.0.1' where product = 'okapi'")
        for each, module in ((tenant, "okapi-0.0.1"), (other, "okapi-999.0.0")):
            await connection.execute("insert into bindings values ($1, 'okapi', $2)", each, module)
        await connection.execute("insert into data_versions values ($1, 'okapi', 'okapi-0.0.1')", tenant)
        second = await new_site(dsn=site.dsn, node="second")
        rows = await connection.fetch("select tenant, module from bindings where product = 'okapi'")
        assert {row["tenant"]: row["module"] for row in rows} == {"supertenant": ours, tenant: ours, other: "okapi-999.0.0"}
        assert await connection.fetchval("select module from data_versions where product = 'okapi'") == ours
        assert await second.built_in() == ours
    finally:
        await connection.close()


async def test_tenants_that_were_there_before_the_built_in_module_get_it(new_site: Any) -> None:
    """Their users could call these routes so far."""
    site = await new_site()
    tenant = await site.tenant()
    connection = await asyncpg.connect(site.dsn)
    await connection.execute("delete from bindings where product = 'okapi'")
    await connection.execute("delete from modules where product = 'okapi'")
    epoch = await connection.fetchval("select epoch from routing")
    second = await new_site(dsn=site.dsn, node="second")
    found = await second.http.get(f"/_/proxy/tenants/{tenant}/modules", headers={"X-Okapi-Tenant": tenant})
    assert found.json() == [{"id": await second.built_in()}]
    assert await connection.fetchval("select epoch from routing") > epoch
    epoch = await connection.fetchval("select epoch from routing")
    late = await second.tenant()
    third = await new_site(dsn=site.dsn, node="third")
    assert (await third.http.get(f"/_/proxy/tenants/{late}/modules")).json() == [], "but those that come later do not"
    assert await connection.fetchval("select epoch from routing") == epoch + 1, "and a start writes nothing more"
    await connection.close()
