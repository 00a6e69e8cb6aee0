"""`/_/proxy/modules`: Okapi's routes, shapes and texts."""

import asyncio
import json
from typing import Any

import pytest

from tests.folio import FOLIO

RELEASES = ("R1-2023-orchid", "R2-2023-poppy", "R1-2024-quesnelia")
JSON = {"Content-Type": "application/json"}


def wire(module: str, **more: Any) -> dict[str, Any]:
    return {"id": module, **more}


def provides(interface: str, version: str) -> list[dict[str, str]]:
    return [{"id": interface, "version": version}]


async def test_whole_folio_releases_register_and_come_back_unchanged(new_site: Any) -> None:
    if not FOLIO.is_dir():
        pytest.skip(f"FOLIO's releases are not at {FOLIO}")
    site = await new_site()
    sent = {}
    internal = json.loads((FOLIO / "internal.json").read_text())
    for module in internal if isinstance(internal, list) else internal.get("modules", [internal]):
        found = await site.http.post("/_/proxy/import/modules?check=false", json=[module])
        if found.status_code == 204:
            sent[module["id"]] = module
    for release in RELEASES:
        modules = json.loads((FOLIO / f"{release}.json").read_text())["modules"]
        found = await site.http.post("/_/proxy/import/modules?check=false", json=modules)
        assert (found.status_code, found.text) == (204, "")
        sent |= {module["id"]: module for module in modules}
    assert len(sent) > 300
    listed = (await site.http.get("/_/proxy/modules?full=true")).json()
    assert {module["id"]: module for module in listed if module.get("name") != "Okapi"} == sent
    for module in list(sent)[::25]:
        found = await site.http.get(f"/_/proxy/modules/{module}")
        assert (found.status_code, found.json()) == (200, sent[module])
    for release in RELEASES:
        again = json.loads((FOLIO / f"{release}.json").read_text())["modules"]
        assert (await site.http.post("/_/proxy/import/modules?check=false", json=again)).status_code == 204
    assert len((await site.http.get("/_/proxy/modules")).json()) == len(sent) + 1


async def test_a_registered_module_is_answered_with_its_place_and_itself(site: Any, name: Any) -> None:
    module = f"{name('m')}-1.0.0+a"
    sent = {"id": module, "name": "ä\u2028", "tags": ["x"], "metadata": {"a": [1.0, 1e3, None, True, 2**53]}}
    found = await site.http.post("/_/proxy/modules", json=sent)
    assert (found.status_code, found.json()) == (201, sent)
    assert found.headers["Location"] == f"/_/proxy/modules/{module.replace('+', '%2B')}"
    got = await site.http.get(found.headers["Location"])
    assert (got.status_code, got.json(), got.headers["Content-Type"].split(";")[0]) == (200, sent, "application/json")


async def test_the_same_descriptor_again_is_fine_in_any_order_of_members(site: Any, name: Any) -> None:
    module = f"{name('m')}-1.0.0"
    for body in (f'{{"id": "{module}", "name": "x"}}', f'{{"name":"x","id":"{module}"}}'):
        assert (await site.http.post("/_/proxy/modules", content=body)).status_code == 201


async def test_another_descriptor_of_the_same_id_is_refused(site: Any, name: Any) -> None:
    module = f"{name('m')}-1.0.0"
    await site.http.post("/_/proxy/modules", json=wire(module, name="a"))
    found = await site.http.post("/_/proxy/modules", json=wire(module, name="b"))
    assert (found.status_code, found.text) == (400, f"create: module {module} already exists")
    assert (await site.http.get(f"/_/proxy/modules/{module}")).json()["name"] == "a"


async def test_of_two_different_descriptors_at_the_same_moment_one_is_kept(site: Any, name: Any) -> None:
    for _ in range(5):
        module = f"{name('m')}-1.0.0"
        found = await asyncio.gather(
            *(site.http.post("/_/proxy/modules", json=wire(module, name=str(number))) for number in range(8))
        )
        won = [answer.json()["name"] for answer in found if answer.status_code == 201]
        assert len(won) == 1
        assert {answer.text for answer in found if answer.status_code != 201} == {f"create: module {module} already exists"}
        assert (await site.http.get(f"/_/proxy/modules/{module}")).json()["name"] == won[0]


@pytest.mark.parametrize(
    ("descriptor", "text"),
    [
        ({"id": "nothing"}, "Missing semantic version for: nothing"),
        ({"id": ""}, "id"),
        ({}, "id"),
        ({"id": "m-1.0.0", "unknown": 1}, "unknown: unknown member"),
        ({"id": "m-1.0.0", "provides": [{"version": "1.0"}]}, "id is missing for module m-1.0.0"),
        ({"id": "m-1.0.0", "provides": [{"id": "i"}]}, "version is missing for module m-1.0.0"),
        ({"id": "m-1.0.0", "provides": [{"id": "i", "version": "x"}]}, "Bad version number 'x'"),
        (
            {"id": "m-1.0.0", "provides": [{"id": "i", "version": "1.0", "interfaceType": "internal"}]},
            "Bad interface type 'internal'",
        ),
        ({"id": "m-1.0.0", "provides": [{"id": "i", "version": "1.0"}] * 2}, "Interface i provided multiple times"),
        ({"id": "m-1.0.0", "requires": [{"id": "i", "version": "1.0", "handlers": []}]}, "requires"),
        (
            {
                "id": "m-1.0.0",
                "provides": [{"id": "i", "version": "1.0", "handlers": [{"methods": ["GET"], "pathPattern": "/x"}]}],
            },
            "Missing field permissionsRequired",
        ),
        (
            {
                "id": "m-1.0.0",
                "provides": [{"id": "i", "version": "1.0", "handlers": [{"methods": ["GET"], "permissionsRequired": []}]}],
            },
            "Bad routing entry, needs a pathPattern or at least a path",
        ),
        (
            {
                "id": "m-1.0.0",
                "provides": [
                    {
                        "id": "i",
                        "version": "1.0",
                        "handlers": [{"methods": ["GET"], "pathPattern": "/{x", "permissionsRequired": []}],
                    }
                ],
            },
            "Missing }-character",
        ),
        ({"id": "m-1.0.0", "replaces": ["other-1.0.0"]}, "No semantic version for: other-1.0.0"),
        ({"id": "m-1.0.0", "requires": [{"id": "nobody", "version": "1.0"}]}, "Missing dependency: m-1.0.0 requires nobody: 1.0"),
    ],
)
async def test_what_is_wrong_with_a_descriptor_is_said_and_nothing_is_kept(
    site: Any, descriptor: dict[str, Any], text: str
) -> None:
    for path, body in (("/_/proxy/modules", descriptor), ("/_/proxy/import/modules", [wire("good-1.0.0"), descriptor])):
        found = await site.http.post(path, json=body)
        assert (found.status_code, text in found.text) == (400, True), found.text
    for module in ("good-1.0.0", "m-1.0.0"):
        assert (await site.http.get(f"/_/proxy/modules/{module}")).status_code == 404


async def test_an_object_where_a_list_is_due_is_refused(site: Any) -> None:
    found = await site.http.post("/_/proxy/import/modules", json={"id": "m-1.0.0"})
    assert found.status_code == 400


async def test_an_incompatible_requirement_names_all_offers_highest_first(site: Any, name: Any) -> None:
    product, interface = name("m"), name("i")
    for version in ("1.0.0", "1.1.0"):
        offer = wire(f"{product}-{version}", provides=provides(interface, version[:3]))
        await site.http.post("/_/proxy/modules", json=offer)
    asks = wire(f"{name('n')}-1.0.0", requires=provides(interface, "2.0"))
    found = await site.http.post("/_/proxy/modules", json=asks)
    assert found.status_code == 400
    assert found.text == (
        f"Incompatible version for module {asks['id']} interface {interface}. Need 2.0."
        f" Have 1.1/{product}-1.1.0 1.0/{product}-1.0.0"
    )


async def test_several_faults_are_told_line_by_line(site: Any, name: Any) -> None:
    module = f"{name('m')}-1.0.0"
    found = await site.http.post(
        "/_/proxy/modules", json=wire(module, requires=[*provides("none1", "1.0"), *provides("none2", "1.0")])
    )
    assert found.text.splitlines() == [f"Missing dependency: {module} requires none{number}: 1.0" for number in (1, 2)]


async def test_modules_of_one_import_may_need_each_other(site: Any, name: Any) -> None:
    interface = name("i")
    needs = wire(f"{name('m')}-1.0.0", requires=provides(interface, "1.0"))
    offers = wire(f"{name('m')}-1.0.0", provides=provides(interface, "1.0"))
    assert (await site.http.post("/_/proxy/modules", json=needs)).status_code == 400
    assert (await site.http.post("/_/proxy/import/modules", json=[needs, offers])).status_code == 204


async def test_check_false_registers_what_lacks_a_dependency(site: Any, name: Any) -> None:
    module = wire(f"{name('m')}-1.0.0", requires=provides("none", "1.0"))
    assert (await site.http.post("/_/proxy/modules?check=false", json=module)).status_code == 201
    assert (await site.http.delete(f"/_/proxy/modules/{module['id']}")).status_code == 204


async def test_prerelease_limits_what_may_meet_a_requirement_not_what_is_posted(site: Any, name: Any) -> None:
    interface = name("i")
    offer = wire(f"{name('m')}-1.0.0-alpha", provides=provides(interface, "1.0"))
    assert (await site.http.post("/_/proxy/modules?preRelease=false", json=offer)).status_code == 201
    needs = wire(f"{name('m')}-1.0.0", requires=provides(interface, "1.0"))
    assert (await site.http.post("/_/proxy/modules?preRelease=false", json=needs)).status_code == 400
    assert (await site.http.post("/_/proxy/modules", json=needs)).status_code == 201


# Listing


@pytest.fixture
async def family(site: Any, name: Any) -> str:
    product = name("fam")
    modules = [
        wire(f"{product}-{version}", name=f"v{version}", tags=["t"], provides=provides(product, "1.0"))
        for version in ("1.10.0", "1.9.0", "1.9.0-SNAPSHOT.2", "2.4.10000105", "2.0.0")
    ]
    modules.append(wire(f"{product}-3.0.0", requires=provides(product, "1.0")))
    assert (await site.http.post("/_/proxy/import/modules", json=modules)).status_code == 204
    return str(product)


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("", "1.9.0-SNAPSHOT.2 1.9.0 1.10.0 2.0.0 2.4.10000105 3.0.0"),
        ("&orderBy=id", "3.0.0 2.4.10000105 2.0.0 1.10.0 1.9.0 1.9.0-SNAPSHOT.2"),
        ("&orderBy=id&order=asc", "1.9.0-SNAPSHOT.2 1.9.0 1.10.0 2.0.0 2.4.10000105 3.0.0"),
        ("&order=desc", "1.9.0-SNAPSHOT.2 1.9.0 1.10.0 2.0.0 2.4.10000105 3.0.0"),
        ("&latest=1", "3.0.0"),
        ("&latest=2", "2.4.10000105 3.0.0"),
        ("&preRelease=false", "1.9.0 1.10.0 2.0.0 2.4.10000105 3.0.0"),
        ("&npmSnapshot=false", "1.9.0-SNAPSHOT.2 1.9.0 1.10.0 2.0.0 3.0.0"),
        ("&preRelease=only", "1.9.0-SNAPSHOT.2 2.4.10000105"),
        ("&preRelease=only&npmSnapshot=false", "1.9.0-SNAPSHOT.2"),
        ("&preRelease=false&npmSnapshot=false&latest=1", "3.0.0"),
        ("&provide=FAM", "1.9.0-SNAPSHOT.2 1.9.0 1.10.0 2.0.0 2.4.10000105"),
        ("&provide=nobody,FAM=1.0", "1.9.0-SNAPSHOT.2 1.9.0 1.10.0 2.0.0 2.4.10000105"),
        ("&provide=FAM=2.0", ""),
        ("&require=FAM", "3.0.0"),
        ("&require=FAM=1.0", "3.0.0"),
        ("&unknown=x", "1.9.0-SNAPSHOT.2 1.9.0 1.10.0 2.0.0 2.4.10000105 3.0.0"),
    ],
)
async def test_a_listing_is_filtered_and_ordered(site: Any, family: str, query: str, wanted: str) -> None:
    found = await site.http.get(f"/_/proxy/modules?filter={family}{query.replace('FAM', family)}")
    assert [module["id"] for module in found.json()] == [f"{family}-{version}" for version in wanted.split()]


@pytest.mark.parametrize(
    ("wanted", "versions"),
    [
        ("1.9.0", "1.9.0-SNAPSHOT.2 1.9.0"),
        ("1", "1.9.0-SNAPSHOT.2 1.9.0 1.10.0"),
        ("1.9.0-SNAPSHOT", "1.9.0-SNAPSHOT.2"),
        ("9", ""),
    ],
)
async def test_a_filter_may_begin_a_version(site: Any, family: str, wanted: str, versions: str) -> None:
    found = await site.http.get(f"/_/proxy/modules?filter={family}-{wanted}")
    assert [module["id"] for module in found.json()] == [f"{family}-{version}" for version in versions.split()]


async def test_a_listing_is_brief_unless_full(site: Any, family: str) -> None:
    first = (await site.http.get(f"/_/proxy/modules?filter={family}")).json()[0]
    assert first == {"id": f"{family}-1.9.0-SNAPSHOT.2", "name": "v1.9.0-SNAPSHOT.2", "tags": ["t"]}
    first = (await site.http.get(f"/_/proxy/modules?filter={family}&full=true")).json()[0]
    assert first["provides"] == provides(family, "1.0")


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("full=yes", "Bad boolean for parameter full: yes"),
        ("orderBy=name", "unknown orderBy field: name"),
        ("orderBy=id&order=up", "invalid order value: up"),
        ("latest=x", "latest"),
        ("latest=-1", "latest"),
        ("preRelease=maybe", 'Expected "true", "false", "only" or undefined/null for parameter preRelease, but got: maybe'),
        ("npmSnapshot=", 'Expected "true", "false", "only" or undefined/null for parameter npmSnapshot, but got: '),
        ("filter=", "filter"),
        ("filter=-1", "filter"),
    ],
)
async def test_a_bad_parameter_is_named(site: Any, query: str, text: str) -> None:
    found = await site.http.get(f"/_/proxy/modules?{query}")
    assert (found.status_code, text in found.text) == (400, True), found.text


# Deleting


async def test_a_deleted_module_is_gone(site: Any, name: Any) -> None:
    module = f"{name('m')}-1.0.0"
    await site.http.post("/_/proxy/modules", json=wire(module))
    assert (await site.http.delete(f"/_/proxy/modules/{module}")).status_code == 204
    assert (await site.http.get(f"/_/proxy/modules/{module}")).status_code == 404
    found = await site.http.delete(f"/_/proxy/modules/{module}")
    assert (found.status_code, found.text) == (404, f"delete: module {module} does not exist")
    assert (await site.http.post("/_/proxy/modules", json=wire(module, name="another"))).status_code == 201


async def test_an_unknown_module_is_a_404_with_its_id(site: Any) -> None:
    found = await site.http.get("/_/proxy/modules/nobody-1.0.0")
    assert (found.status_code, found.text) == (404, "nobody-1.0.0")


async def test_a_module_that_a_tenant_uses_is_not_deleted(site: Any, name: Any, upstream: Any) -> None:
    module = await site.register(f"{name('m')}-1.0.0", upstream.url)
    tenant = await site.tenant(module)
    found = await site.http.delete(f"/_/proxy/modules/{module}")
    assert (found.status_code, found.text) == (400, f"delete: module {module} is used by tenant {tenant}")


async def test_a_module_that_others_need_is_not_deleted_unless_another_meets_them(site: Any, name: Any) -> None:
    interface = name("i")
    offers = [wire(f"{name('m')}-1.0.0", provides=provides(interface, "1.0")) for _ in range(2)]
    needs = wire(f"{name('m')}-1.0.0", requires=provides(interface, "1.0"))
    for module in (*offers, needs):
        assert (await site.http.post("/_/proxy/modules", json=module)).status_code == 201
    assert (await site.http.delete(f"/_/proxy/modules/{offers[0]['id']}")).status_code == 204
    found = await site.http.delete(f"/_/proxy/modules/{offers[1]['id']}")
    assert found.status_code == 400
    assert found.text == f"delete: module {offers[1]['id']}: Missing dependency: {needs['id']} requires {interface}: 1.0"


async def test_what_a_module_lacks_anyway_keeps_nobody_from_being_deleted(site: Any, name: Any) -> None:
    interface = name("i")
    offers = [wire(f"{name('m')}-1.0.0", provides=provides(interface, "1.0")) for _ in range(2)]
    needs = wire(f"{name('m')}-1.0.0", requires=[*provides(interface, "1.0"), *provides("nobody", "1.0")])
    for module in (*offers, needs):
        assert (await site.http.post("/_/proxy/modules?check=false", json=module)).status_code == 201
    assert (await site.http.delete(f"/_/proxy/modules/{offers[0]['id']}")).status_code == 204


async def test_a_module_of_a_running_job_is_not_deleted(site: Any, name: Any) -> None:
    module = await site.register(f"{name('m')}-1.0.0")
    job = await site.job(await site.tenant(), module)
    found = await site.http.delete(f"/_/proxy/modules/{module}")
    assert (found.status_code, found.text) == (409, f"delete: module {module} is used by job {job.id} of tenant {job.tenant}")


async def test_a_module_with_an_instance_is_not_deleted(site: Any, name: Any) -> None:
    module = await site.register(f"{name('m')}-1.0.0", "http://127.0.0.1:1")
    found = await site.http.delete(f"/_/proxy/modules/{module}")
    assert (found.status_code, found.text) == (400, f"delete: module {module} is used by instances")


@pytest.mark.parametrize("path", ["/_/proxy/modules/", "/_/proxy//modules", "/_/nothing", "/_", "/_/proxy/modules/a/b"])
async def test_a_path_that_is_no_route_is_okapis_404(site: Any, path: str) -> None:
    found = await site.http.get(path)
    assert (found.status_code, found.text) == (404, "No suitable module found for path and tenant")


async def test_a_caller_that_accepts_problems_gets_one(site: Any) -> None:
    found = await site.http.get("/_/proxy/modules/nobody-1.0.0", headers={"Accept": "application/problem+json"})
    assert found.headers["Content-Type"].startswith("application/problem+json")
    assert (found.json()["status"], found.json()["detail"]) == (404, "nobody-1.0.0")


async def test_health_and_version(site: Any) -> None:
    found = await site.http.get("/_/proxy/health")
    assert (found.status_code, found.json()) == (200, [])
    found = await site.http.get("/_/version")
    assert (found.status_code, found.headers["Content-Type"].split(";")[0]) == (200, "text/plain")
