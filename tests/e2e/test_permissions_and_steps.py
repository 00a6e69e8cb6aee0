"""A permissions module is told of what a tenant's modules define; prechecks before the hold, post steps after everything.

Requirements D1, D2; Okapi's `_tenantPermissions`.
"""

import sys
from pathlib import Path
from typing import Any

import pytest

MODULE = Path(__file__).parent / "modules" / "permissions.py"
JOB = {"path": "/permissions/reindex/{id}", "done": {"state": "done"}, "failed": {"state": "failed"}}
REINDEX = {"path": "/permissions/reindex", "job": JOB}


def permissions_module(version: str, **uplift: Any) -> dict[str, Any]:
    handlers = [
        {"methods": ["*"], "pathPattern": "/permissions", "permissionsRequired": []},
        {"methods": ["*"], "pathPattern": "/permissions/*", "permissionsRequired": [], "modulePermissions": ["users.get"]},
    ]
    told = {"methods": ["POST"], "pathPattern": "/_/tenantpermissions"}
    entry = {"methods": ["POST"], "pathPattern": "/_/tenant"}
    return {
        "id": f"mod-permissions-{version}",
        "provides": [
            {"id": "permissions", "version": "5.0", "handlers": handlers},
            {"id": "_tenantPermissions", "version": "2.1", "interfaceType": "system", "handlers": [told]},
            {"id": "_tenant", "version": "2.0", "interfaceType": "system", "handlers": [entry]},
        ],
        "permissionSets": [{"permissionName": f"perms.{version}"}],
        "launchDescriptor": {"exec": f"{sys.executable} {MODULE} --port %p"},
        "metadata": {"uplift": {"undo": "module", **uplift}},
    }


GENERATED = "SYS#mod-permissions-{}#/permissions/*#[*]"


def of_itself(version: str) -> list[str]:
    return [f"perms.{version}", GENERATED.format(version)]


async def seen(stack: Any, tenant: str) -> dict[str, Any]:
    """What the permissions module shows to the tenant."""
    found: dict[str, Any] = (await stack.ask(tenant, "/permissions")).json()
    return found


def with_set(descriptor: dict[str, Any], name: str) -> dict[str, Any]:
    return descriptor | {"permissionSets": [{"permissionName": name}]}


@pytest.fixture
async def told(stack: Any) -> tuple[str, str]:
    """A tenant with a permissions module and, from before it, 1.0.0 of a product; its product."""
    await stack.register(
        *(permissions_module(version) for version in ("1.0.0", "1.5.0", "2.0.0")),
        permissions_module("2.1.0", post_steps=[REINDEX]),
    )
    tenant, product = await stack.tenant(), stack.product()
    for version, name in (("1.0.0", "one"), ("2.0.0", "two"), ("3.0.0", "refused")):
        await stack.register(with_set(stack.descriptor(product, version), name))
    await stack.install(tenant, f"{product}-1.0.0")
    job = await stack.install(tenant, "mod-permissions-1.0.0")
    assert job["outcome"] == "done", job
    return tenant, product


async def test_a_new_permissions_module_is_told_of_itself_and_of_what_was_there_before(stack: Any, told: tuple[str, str]) -> None:
    tenant, product = told

    assert (await seen(stack, tenant))["told"] == [
        ["mod-permissions-1.0.0", of_itself("1.0.0")],
        [f"{product}-1.0.0", ["one"]],
    ]


async def test_an_upgrade_is_told_and_a_disable_empties_the_list(stack: Any, told: tuple[str, str]) -> None:
    tenant, product = told
    job = await stack.install(tenant, f"{product}-2.0.0")
    assert job["outcome"] == "done", job
    assert (await seen(stack, tenant))["told"][2:] == [[f"{product}-2.0.0", ["two"]]]

    await stack.install(tenant, f"{product}-2.0.0", action="disable")
    assert (await seen(stack, tenant))["sets"] == {"mod-permissions-1.0.0": of_itself("1.0.0")}


async def test_a_failed_init_leaves_the_permissions_as_they_were(stack: Any, told: tuple[str, str]) -> None:
    tenant, product = told
    before = (await seen(stack, tenant))["sets"]
    job = await stack.install(tenant, f"{product}-2.0.0", query="tenantParameters=do%3D500")

    found = await seen(stack, tenant)
    assert job["outcome"] == "rolled_back"
    assert found["sets"] == before
    assert found["told"][2:] == [[f"{product}-2.0.0", ["two"]], [f"{product}-1.0.0", ["one"]]]


async def test_a_refused_list_undoes_the_change_and_is_named(stack: Any, told: tuple[str, str]) -> None:
    tenant, product = told
    job = await stack.install(tenant, f"{product}-3.0.0")

    text = "POST request for mod-permissions-1.0.0 /_/tenantpermissions failed with 400: refused as asked"
    assert (job["outcome"], job["errors"][0]["message"]) == ("rolled_back", text)
    assert await stack.enabled(tenant) == sorted((f"{product}-1.0.0", "mod-permissions-1.0.0"))
    assert (await seen(stack, tenant))["sets"][f"{product}-1.0.0"] == ["one"]
    assert await stack.inits(f"{product}-3.0.0", tenant) == []


@pytest.mark.soak
async def test_an_upgraded_permissions_module_is_told_of_all_once_more(stack: Any, told: tuple[str, str]) -> None:
    tenant, product = told
    job = await stack.install(tenant, "mod-permissions-2.0.0")

    assert job["outcome"] == "done", job
    all_ = sorted([[f"{product}-1.0.0", ["one"]], ["mod-permissions-2.0.0", of_itself("2.0.0")]])
    assert (await seen(stack, tenant))["told"] == [["mod-permissions-2.0.0", of_itself("2.0.0")], *all_]


@pytest.mark.parametrize(
    ("end", "outcome"), [pytest.param("done", "done", marks=pytest.mark.soak), ("failed", "done_with_warnings")]
)
async def test_a_post_step_works_when_users_are_on_the_new_version_and_the_old_one_is_gone(
    end: str, outcome: str, stack: Any, told: tuple[str, str]
) -> None:
    """It keeps the job open, and nobody waiting."""
    tenant, _ = told
    await stack.install(tenant, "mod-permissions-1.5.0")
    job = await stack.begin(tenant, "mod-permissions-2.1.0")
    row = await stack.until(job, lambda row: row["phase"] == "post_steps" or row["complete"])
    assert row["phase"] == "post_steps", row
    await stack.until("/_/versions/mod-permissions-1.5.0", lambda version: version["instances"] == [])
    assert await stack.holds(tenant) == []
    assert "mod-permissions-2.1.0" in await stack.enabled(tenant)
    assert (await seen(stack, tenant))["sets"]["mod-permissions-2.1.0"] == of_itself("2.1.0")

    await let_go(stack, tenant, end)
    row = await stack.ended(job)
    assert (row["status"], row["outcome"]) == ("done", outcome)
    texts = [notice["message"] for notice in row["warnings"]]
    assert any("its job /permissions/reindex/1 has failed" in text for text in texts) == (end == "failed")


async def let_go(stack: Any, tenant: str, state: str) -> None:
    while (await stack.http.post(f"/permissions/let-go?state={state}", headers={"X-Okapi-Tenant": tenant})).status_code != 204:
        pass


async def test_a_precheck_that_fails_refuses_the_change_and_holds_nobody(stack: Any, told: tuple[str, str]) -> None:
    """Both versions are asked, as the tenant; what speaks against it is told whole."""
    tenant, product = told
    checks = [
        {"path": f"/{product}/old", "on": "old", "json": {"id": f"{product}-1.0.0", "tenant": tenant}},
        {"path": f"/{product}/new", "json": {"id": f"{product}-2.5.0", "tenant": tenant}},
        {"path": f"/{product}/room", "json": {"free": True}},
    ]
    await stack.register(stack.descriptor(product, "2.5.0", prechecks=checks))
    job = await stack.install(tenant, f"{product}-2.5.0")

    (error,) = job["errors"]
    assert (job["outcome"], job["heldSeconds"]) == ("rolled_back", 0)
    assert error["message"].startswith(f'precheck 3 of {product}-2.5.0: GET /{product}/room: expected {{"free": true}}, got ')
    assert error["type"] == "PrecheckFailed"
    assert await stack.instances(f"{product}-2.5.0") == []
    assert (await seen(stack, tenant))["told"][2:] == []
