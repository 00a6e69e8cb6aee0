"""What a permissions module is told, by the version of its interface and the kind of change: Okapi's bodies."""

import json
from typing import Any

import pytest

from tests.folio import FOLIO, wires
from upgrade_core.descriptors import ModuleDescriptor, parse_descriptor
from upgrade_core.errors import InvalidDescriptor
from upgrade_core.permissions import PermissionList, backlog, parse_permissions, permissions_call
from upgrade_core.plan import Change, Kind

READ = {"permissionName": "users.read", "displayName": "read users", "replaces": ["users.get"], "visible": True}
ALL = {"permissionName": "users.all", "description": "all", "subPermissions": ["users.read"]}
WIRE: dict[str, Any] = {
    "id": "mod-users-2.0.0",
    "provides": [
        {"id": "users", "version": "1.0", "handlers": [
            {"methods": ["GET", "POST"], "pathPattern": "/users", "permissionsRequired": [], "modulePermissions": ["mail.send"]},
            {"methods": ["GET"], "pathPattern": "/users/{id}", "permissionsRequired": [], "modulePermissions": []}]},
        {"id": "_tenant", "version": "2.0", "interfaceType": "system", "handlers": [
            {"methods": ["POST"], "path": "/_/tenant", "modulePermissions": ["perms.post"]}]}],
    "filters": [{"pathPattern": "/*", "phase": "pre", "modulePermissions": ["log.post"]}],
    "permissionSets": [READ, ALL],
    "replaces": ["mod-old-users"],
}  # fmt: skip


def system(name: str, path: str, permissions: list[str]) -> dict[str, Any]:
    return {
        "permissionName": name,
        "displayName": f"System generated: {name}",
        "description": "System generated permission set",
        "subPermissions": permissions,
        "visible": False,
    }


GENERATED = [
    system("SYS#mod-users-2.0.0#/users#[GET, POST]", "/users", ["mail.send"]),
    system("SYS#mod-users-2.0.0#/_/tenant#[POST]", "/_/tenant", ["perms.post"]),
    system("SYS#mod-users-2.0.0#/*#null", "/*", ["log.post"]),
]
PLAIN = {name: value for name, value in READ.items() if name != "replaces"}


def teller(version: str, *handlers: dict[str, Any], kind: str = "system") -> ModuleDescriptor:
    entries = handlers or ({"methods": ["POST"], "pathPattern": "/_/tenantpermissions"},)
    provided = {"id": "_tenantPermissions", "version": version, "interfaceType": kind, "handlers": list(entries)}
    return parse_descriptor({"id": "mod-permissions-5.0.0", "provides": [provided]})


def body(version: str, wire: dict[str, Any], *, gone: bool = False) -> Any:
    call = permissions_call(teller(version), parse_permissions(wire), gone=gone)
    if call is None:
        return None
    assert (call.method, call.path) == ("POST", "/_/tenantpermissions")
    return json.loads(call.body or "")


@pytest.mark.parametrize(
    ("version", "told"),
    [
        ("1.0", {"moduleId": "mod-users-2.0.0", "perms": [PLAIN, ALL]}),
        ("1.1", {"moduleId": "mod-users-2.0.0", "perms": [PLAIN, ALL, *GENERATED]}),
        ("2.0", {"moduleId": "mod-users-2.0.0", "perms": [READ, ALL, *GENERATED]}),
        ("2.1", {"moduleId": "mod-users-2.0.0", "perms": [READ, ALL, *GENERATED], "replaces": ["mod-old-users"]}),
    ],
)
def test_what_is_told_of_a_module_that_comes(version: str, told: dict[str, Any]) -> None:
    assert body(version, WIRE) == told


@pytest.mark.parametrize(
    ("version", "told"),
    [
        ("1.0", None),
        ("1.1", None),
        ("2.0", {"moduleId": "mod-users-2.0.0", "perms": []}),
        ("2.1", {"moduleId": "mod-users-2.0.0", "perms": []}),
    ],
)
def test_what_is_told_of_a_module_that_goes(version: str, told: dict[str, Any] | None) -> None:
    assert body(version, WIRE, gone=True) == told


@pytest.mark.parametrize(
    ("version", "wire", "perms"),
    [
        ("2.1", {}, {}),
        ("2.1", {"permissionSets": []}, {"perms": []}),
        ("1.0", {"provides": WIRE["provides"]}, {}),
        ("1.0", {"provides": WIRE["provides"], "permissionSets": []}, {"perms": []}),
        ("1.1", {"provides": WIRE["provides"]}, {"perms": GENERATED[:2]}),
    ],
)
def test_members_without_a_value_are_left_out(version: str, wire: dict[str, Any], perms: dict[str, Any]) -> None:
    assert body(version, {"id": "mod-users-2.0.0", **wire}) == {"moduleId": "mod-users-2.0.0", **perms}


def test_members_stand_in_okapis_order_whatever_the_descriptors_is() -> None:
    wire = {"id": "m-1.0.0", "permissionSets": [dict(reversed(READ.items())) | {"odd": 1, "description": None}]}
    (told,) = body("2.0", wire)["perms"]
    assert list(told) == ["permissionName", "replaces", "displayName", "visible"]


@pytest.mark.parametrize(("given", "told"), [("true", True), ("false", False), (True, True)])
def test_a_visibility_that_is_a_text_is_read_as_okapi_reads_it(given: Any, told: bool) -> None:
    wire = {"id": "m-1.0.0", "permissionSets": [{"permissionName": "p", "visible": given}]}
    assert body("2.1", wire)["perms"] == [{"permissionName": "p", "visible": told}]


@pytest.mark.parametrize("version", ["0.9", "2.2", "3.0"])
def test_a_version_that_nobody_knows_is_refused(version: str) -> None:
    text = f"Unknown version of _tenantPermissions interface in use {version}."
    with pytest.raises(InvalidDescriptor, match=text):
        body(version, WIRE)


def test_an_interface_without_a_path_to_post_to_is_refused() -> None:
    text = "Bad _tenantPermissions interface in module mod-permissions-5.0.0. No path to POST to"
    with pytest.raises(InvalidDescriptor, match=text):
        permissions_call(teller("2.0", {"methods": ["GET"], "pathPattern": "/p"}), parse_permissions(WIRE))


def test_of_several_paths_the_last_is_taken() -> None:
    """As Okapi does."""
    entries = [{"methods": [method], "pathPattern": path} for method, path in (("POST", "/a"), ("*", "/b"), ("GET", "/c"))]
    call = permissions_call(teller("2.0", *entries), parse_permissions(WIRE))
    assert call is not None
    assert call.path == "/b"


def test_only_a_system_interface_makes_a_permissions_module() -> None:
    assert teller("2.0").is_permissions_module
    assert not parse_descriptor(WIRE).is_permissions_module
    with pytest.raises(InvalidDescriptor, match="does not provide"):
        permissions_call(parse_descriptor(WIRE), PermissionList(module="m-1.0.0"))


def test_the_backlog_is_what_is_enabled_with_the_groups_changes_done() -> None:
    up = Change(kind=Kind.UPGRADE, product="b", bound="b-1.0.0", version_from="b-1.0.0", version_to="b-2.0.0")
    gone = Change(kind=Kind.DISABLE, product="c", bound="c-1.0.0", version_from="c-1.0.0")
    new = Change(kind=Kind.INSTALL, product="p", version_to="p-1.0.0")
    assert backlog(("c-1.0.0", "b-1.0.0", "a-1.0.0"), (up, gone, new)) == ("a-1.0.0", "b-2.0.0", "p-1.0.0")


@pytest.mark.skipif(not FOLIO.is_dir(), reason="real descriptors are not here")
def test_every_set_of_a_real_release_is_told() -> None:
    told = {wire["id"]: body("2.1", wire) for wire in wires("R1-2024-quesnelia.json")}
    sets = sum(len(each.get("perms") or ()) for each in told.values())
    given = sum(len(wire.get("permissionSets") or ()) for wire in wires("R1-2024-quesnelia.json"))
    assert sets > given > 1_000
    assert max(len(json.dumps(each)) for each in told.values()) < 1_000_000
