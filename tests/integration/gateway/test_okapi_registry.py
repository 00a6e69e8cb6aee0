"""`/_/proxy/modules` row by row: Okapi's parameters, statuses, texts and JSON. Sections are those of the map of Okapi."""

import json
from importlib.metadata import version
from typing import Any

import asyncpg
import pytest

BUILT_IN = f"okapi-{version('uplift-upgrades')}"
NO_ROUTE = "No suitable module found for path and tenant"
MODULES = [
    {"id": "prov-1.0.0", "name": "Provider", "provides": [{"id": "pi", "version": "1.0", "scope": ["own"]}]},
    {"id": "prov-1.1.0-alpha.2", "provides": [{"id": "pi", "version": "1.1"}]},
    {"id": "prov-2.0.10000", "provides": [{"id": "pi", "version": "2.0"}], "tags": ["snapshot"]},
    {"id": "user-1.0.0", "requires": [{"id": "pi", "version": "1.0"}]},
    {"id": "user-1.2.0+build.7", "optional": [{"id": "pi", "version": "2.0", "scope": ["own"]}]},
]
ALL = "prov-1.0.0 prov-1.1.0-alpha.2 prov-2.0.10000 user-1.0.0 user-1.2.0+build.7"


@pytest.fixture(scope="module")
async def shelf(module_site: Any) -> Any:
    """A gateway with these modules and no others but the built-in one."""
    found = await module_site.http.post("/_/proxy/import/modules", json=MODULES)
    assert (found.status_code, found.text) == (204, "")
    return module_site


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        pytest.param("", f"BUILT-IN {ALL}", id="1.2 ascending product, then semver"),
        pytest.param("?filter=prov", "prov-1.0.0 prov-1.1.0-alpha.2 prov-2.0.10000", id="1.2 filter by product"),
        pytest.param("?filter=prov-1", "prov-1.0.0 prov-1.1.0-alpha.2", id="3 prefix of a version"),
        pytest.param("?filter=prov-1.1.0-alpha", "prov-1.1.0-alpha.2", id="3 prefix of pre-release parts"),
        pytest.param("?filter=user-1.2.0%2Bbuild.7", "user-1.2.0+build.7", id="3 a whole id, with its metadata"),
        pytest.param("?filter=user-1.2.0%2Bother", "", id="3 other metadata"),
        pytest.param("?filter=nobody", "", id="1.2 filter without a hit"),
        pytest.param("?filter=prov&latest=1", "prov-2.0.10000", id="1.2 latest"),
        pytest.param(
            "?latest=1&npmSnapshot=false", "BUILT-IN prov-1.1.0-alpha.2 user-1.2.0+build.7", id="1.2 latest of what is left"
        ),
        pytest.param("?latest=1&npmSnapshot=false&preRelease=false", "BUILT-IN prov-1.0.0 user-1.2.0+build.7", id="3 both"),
        pytest.param(
            "?preRelease=only", "prov-1.1.0-alpha.2 prov-2.0.10000", id="3 only pre-releases lets npm snapshots through"
        ),
        pytest.param("?npmSnapshot=only&preRelease=false", "prov-2.0.10000", id="3 only npm snapshots"),
        pytest.param("?filter=user&orderBy=id", "user-1.2.0+build.7 user-1.0.0", id="1.2 orderBy descends"),
        pytest.param("?filter=user&orderBy=id&order=desc", "user-1.2.0+build.7 user-1.0.0", id="1.2 order desc"),
        pytest.param("?filter=user&orderBy=id&order=asc", "user-1.0.0 user-1.2.0+build.7", id="1.2 order asc"),
        pytest.param("?filter=user&order=desc", "user-1.0.0 user-1.2.0+build.7", id="1.2 order needs orderBy"),
        pytest.param("?provide=pi", "prov-1.0.0 prov-1.1.0-alpha.2 prov-2.0.10000", id="1.2 provide"),
        pytest.param("?provide=pi%3D1.1", "prov-1.1.0-alpha.2", id="1.2 provide of one version, no other one"),
        pytest.param("?provide=pi=1.0,pi=2.0", "prov-1.0.0 prov-2.0.10000", id="1.2 a comma is OR"),
        pytest.param("?provide=okapi", "BUILT-IN", id="1.1 the built-in module provides okapi"),
        pytest.param("?provide=okapi-proxy", "BUILT-IN", id="1.1 and okapi-proxy"),
        pytest.param("?require=pi", "user-1.0.0 user-1.2.0+build.7", id="1.2 require, optional ones too"),
        pytest.param("?require=pi=2.0", "user-1.2.0+build.7", id="1.2 require of one version"),
        pytest.param("?provide=pi&scope=own", "prov-1.0.0", id="1.2 scope of what is provided"),
        pytest.param("?require=pi&scope=own", "user-1.2.0+build.7", id="1.2 scope of what is required"),
        pytest.param("?scope=own&filter=user", "user-1.0.0 user-1.2.0+build.7", id="1.2 scope alone means nothing"),
        pytest.param("?provide=pi&require=pi", "", id="1.2 parameters are AND"),
        pytest.param("?misspelt=true&filter=prov-1.0", "prov-1.0.0", id="1.1 unknown parameters are ignored"),
    ],
)
async def test_a_listing_shows(shelf: Any, query: str, wanted: str) -> None:
    found = await shelf.http.get(f"/_/proxy/modules{query}")
    assert found.status_code == 200, found.text
    assert [each["id"] for each in found.json()] == wanted.replace("BUILT-IN", BUILT_IN).split()


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("full=True", "Bad boolean for parameter full: True"),
        ("dot=1", "Bad boolean for parameter dot: 1"),
        ("orderBy=name", "unknown orderBy field: name"),
        ("orderBy=id&order=down", "invalid order value: down"),
        ("latest=x", 'Bad format for parameter latest. For input string: "x"'),
        ("preRelease=no", 'Expected "true", "false", "only" or undefined/null for parameter preRelease, but got: no'),
        ("npmSnapshot=no", 'Expected "true", "false", "only" or undefined/null for parameter npmSnapshot, but got: no'),
    ],
)
@pytest.mark.parametrize("path", ["/_/proxy/modules", "/_/proxy/tenants/supertenant/modules"])
async def test_a_listing_refuses(shelf: Any, path: str, query: str, text: str) -> None:
    """1.1 and 1.2; a tenant's listing answers 500 to these in Okapi."""
    if query == "dot=1" and "tenants" in path:
        return  # that one has no graph
    found = await shelf.http.get(f"{path}?{query}")
    assert (found.status_code, found.text, found.headers["Content-Type"].split(";")[0]) == (400, text, "text/plain")


async def test_a_listing_is_printed_as_okapi_prints(shelf: Any) -> None:
    """1.1: `"a" : 1`, lists on their own line; null members are left out."""
    found = await shelf.http.get("/_/proxy/modules?filter=prov&npmSnapshot=false")
    assert found.text == ('[ {\n  "id" : "prov-1.0.0",\n  "name" : "Provider"\n}, {\n  "id" : "prov-1.1.0-alpha.2"\n} ]')
    assert found.headers["Content-Type"].split(";")[0] == "application/json"
    assert (await shelf.http.get("/_/proxy/modules?filter=nobody")).text == "[ ]"


async def test_a_whole_descriptor_is_printed_the_same_alone_and_in_a_listing(shelf: Any) -> None:
    alone = (await shelf.http.get("/_/proxy/modules/prov-2.0.10000")).text
    assert alone == (
        '{\n  "id" : "prov-2.0.10000",\n  "provides" : [ {\n    "id" : "pi",\n    "version" : "2.0"\n  } ],\n'
        '  "tags" : [ "snapshot" ]\n}'
    )
    assert (await shelf.http.get("/_/proxy/modules?filter=prov-2&full=true")).text == f"[ {alone} ]"


async def test_a_body_leaves_ids_out(shelf: Any) -> None:
    """1.2: what a pull sends with its GET."""
    found = await shelf.http.request("GET", "/_/proxy/modules?filter=prov", json=["prov-1.0.0", "unknown-1.0.0"])
    assert [each["id"] for each in found.json()] == ["prov-1.1.0-alpha.2", "prov-2.0.10000"]
    found = await shelf.http.request("GET", "/_/proxy/modules", json={"id": "prov-1.0.0"})
    assert (found.status_code, found.text.startswith("Failed to decode")) == (400, True)


async def test_a_graph_has_a_node_for_each_module_and_for_what_is_missing(shelf: Any) -> None:
    """1.2: `dot=true` is Graphviz."""
    found = await shelf.http.get("/_/proxy/modules?dot=true&filter=user-1.0")
    assert found.headers["Content-Type"].split(";")[0] == "text/plain"
    assert found.text == (
        'digraph okapi {\n  user__1_0_0 [label="user-1.0.0"];\n  missing__pi [label="missing-pi 1.0"];\n'
        "  user__1_0_0 -> missing__pi;\n}\n"
    )
    found = await shelf.http.get("/_/proxy/modules?dot=true")
    assert "  user__1_0_0 -> prov__1_0_0;\n" in found.text
    assert '"user-1.2.0+build.7" [label="user-1.2.0+build.7"];' in found.text


@pytest.mark.parametrize(
    ("call", "body", "status", "text"),
    [
        pytest.param("POST /_/proxy/modules", MODULES[0], 201, "", id="1.2 the same again"),
        pytest.param("POST /_/proxy/modules", {**MODULES[0], "env": None, "replaces": []}, 201, "", id="2.1 null says nothing"),
        pytest.param(
            "POST /_/proxy/modules", {"id": "prov-1.0.0"}, 400, "create: module prov-1.0.0 already exists", id="1.2 another one"
        ),
        pytest.param(
            "POST /_/proxy/modules?check=false", {"id": "prov-1.0.0"}, 400, "create: module prov-1.0.0 already exists",
            id="11 unchecked, another one",
        ),
        pytest.param(
            "POST /_/proxy/modules", {"id": "n-1.0.0", "requires": [{"id": "x", "version": "1.0"}]}, 400,
            "Missing dependency: n-1.0.0 requires x: 1.0", id="1.2 missing",
        ),
        pytest.param(
            "POST /_/proxy/modules?preRelease=false&npmSnapshot=false",
            {"id": "n-1.0.0", "requires": [{"id": "pi", "version": "2.0"}]}, 400,
            "Incompatible version for module n-1.0.0 interface pi. Need 2.0. Have 1.0/prov-1.0.0", id="1.2 incompatible",
        ),
        pytest.param(
            "POST /_/proxy/modules", {"id": "n-1.0.0", "requires": [{"id": "pi", "version": "3.0"}]}, 400,
            "Incompatible version for module n-1.0.0 interface pi. Need 3.0."
            " Have 2.0/prov-2.0.10000 1.1/prov-1.1.0-alpha.2 1.0/prov-1.0.0", id="1.2 highest version first",
        ),
        pytest.param("POST /_/proxy/modules?check=maybe", MODULES[0], 400, "Bad boolean for parameter check: maybe", id="1.1"),
        pytest.param("POST /_/proxy/modules", {"id": "n"}, 400, "Missing semantic version for: n", id="2.1 id"),
        pytest.param(
            "POST /_/proxy/modules", {"id": "n-1.0.0", "provides": [{"id": "i", "version": "1.0", "interfaceType": "internal"}]},
            400, "Bad interface type 'internal' for module n-1.0.0", id="2.2 internal",
        ),
        pytest.param("POST /_/proxy/import/modules", MODULES, 204, "", id="1.2 import again"),
        pytest.param(
            "POST /_/proxy/import/modules", [{"id": "n-1.0.0"}, {"id": "prov-1.0.0"}], 400,
            "create: module prov-1.0.0 already exists", id="1.2 import, all or none",
        ),
        pytest.param("GET /_/proxy/modules/n-1.0.0", None, 404, "n-1.0.0", id="1.2 unknown"),
        pytest.param("DELETE /_/proxy/modules/n-1.0.0", None, 404, "delete: module n-1.0.0 does not exist", id="1.2 delete"),
        pytest.param(
            f"DELETE /_/proxy/modules/{BUILT_IN}", None, 400,
            f"delete: module {BUILT_IN} is used by tenant supertenant", id="1.1 the built-in module stays",
        ),
        pytest.param("PUT /_/proxy/modules/prov-1.0.0", MODULES[0], 404, NO_ROUTE, id="1.2 immutable"),
        pytest.param("GET /_/proxy/modules/", None, 404, NO_ROUTE, id="1.1 trailing slash"),
        pytest.param("GET /_/proxy//modules", None, 404, NO_ROUTE, id="1.1 double slash"),
        pytest.param("GET /_/nothing", None, 404, NO_ROUTE, id="1.1 unknown path"),
        pytest.param("GET /_/proxy/health", None, 200, "[ ]", id="1.2 health"),
        pytest.param("GET /_/version", None, 200, version("uplift-upgrades"), id="1.2 version"),
    ],
)  # fmt: skip
async def test_a_call_is_answered(shelf: Any, call: str, body: Any, status: int, text: str) -> None:
    method, path = call.split()
    found = await shelf.http.request(method, path, json=body) if body is not None else await shelf.http.request(method, path)
    assert found.status_code == status, found.text
    if status == 201:
        assert found.headers["Location"] == f"/_/proxy/modules/{body['id']}"
        assert found.json() == MODULES[0]
    else:
        assert found.text == text
    assert [each["id"] for each in (await shelf.http.get("/_/proxy/modules")).json()][1:] == ALL.split(), "nothing was changed"


async def test_nulls_stay_where_a_descriptor_is_free(shelf: Any) -> None:
    """2.1: metadata is any object, kept as is."""
    sent = {"id": "free-1.0.0", "name": None, "metadata": {"a": None, "b": [], "c": {}}, "uiDescriptor": {"npm": None}}
    try:
        found = await shelf.http.post("/_/proxy/modules", json=sent)
        del sent["name"]
        assert (found.status_code, found.json()) == (201, sent)
        assert '"metadata" : {\n    "a" : null,\n    "b" : [ ],\n    "c" : { }\n  }' in found.text
    finally:
        await shelf.http.delete("/_/proxy/modules/free-1.0.0")


async def test_the_built_in_module_is_okapis(shelf: Any) -> None:
    """1.1: its name and interfaces; its permission sets are what administrators are given."""
    found = (await shelf.http.get(f"/_/proxy/modules/{BUILT_IN}")).json()
    assert (found["id"], found["name"]) == (BUILT_IN, "Okapi")
    assert found["provides"] == [
        {"id": "okapi", "version": "1.9"}, {"id": "okapi-proxy", "version": "1.9", "interfaceType": "internal"},
    ]  # fmt: skip
    names = [each["permissionName"] for each in found["permissionSets"]]
    assert {"okapi.all", "okapi.readonly", "okapi.proxy.modules.post"} <= set(names)
    assert len(names) == len(set(names))
    assert all(name in names for each in found["permissionSets"] for name in each.get("subPermissions", ()))


async def test_a_module_may_require_the_built_in_one(new_site: Any) -> None:
    """4.6, case 45."""
    site = await new_site()
    needs = {"id": "n-1.0.0", "requires": [{"id": "okapi", "version": "1.0"}]}
    assert (await site.http.post("/_/proxy/modules", json=needs)).status_code == 201
    found = await site.http.post("/_/proxy/tenants/supertenant/install?simulate=true", json=[{"id": "n-1.0.0"}])
    assert found.json() == [{"id": "n-1.0.0", "action": "enable"}]


async def test_descriptors_of_an_earlier_release_are_printed_as_okapi_prints_them(new_site: Any, name: Any) -> None:
    """Their rows hold JSON on one line."""

    site = await new_site()
    connection = await asyncpg.connect(site.dsn)
    wire = {"id": "old-1.0.0", "tags": ["a", "b"]}
    await connection.execute("insert into modules (id, product, descriptor) values ('old-1.0.0', 'old', $1)", json.dumps(wire))
    await connection.close()
    assert (await site.http.post("/_/proxy/modules", json=wire)).text == ('{\n  "id" : "old-1.0.0",\n  "tags" : [ "a", "b" ]\n}')
