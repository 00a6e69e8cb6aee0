"""Ids of modules and tenants."""

import pytest

from upgrade_core.errors import InvalidId
from upgrade_core.ids import (
    MAX_MODULE_ID,
    ModuleId,
    check_new_tenant_id,
    is_tenant_id,
    product_of,
    schema_name,
    split_module_id,
    step_key,
)


@pytest.mark.parametrize(
    ("text", "product", "version"),
    [
        ("mod-users-19.2.2", "mod-users", "19.2.2"),
        ("edge-sip2-3.0.0", "edge-sip2", "3.0.0"),
        ("mod-users-1.0.0-SNAPSHOT.5", "mod-users", "1.0.0-SNAPSHOT.5"),
        ("mod-2fa-1.0.0", "mod", "2fa-1.0.0"),
        ("mod-users", "mod-users", None),
        ("mod-", "mod-", None),
        ("m--1", "m-", "1"),
        ("folio_tags-8.0.2", "folio_tags", "8.0.2"),
        ("mod-٣-1.0", "mod-٣", "1.0"),
    ],
)
def test_a_module_id_is_split_at_the_first_dash_before_a_digit(text: str, product: str, version: str | None) -> None:
    assert split_module_id(text) == (product, version)
    assert product_of(text) == product


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mod-users", "Missing semantic version for: mod-users"),
        ("mod-2fa-1.0.0", "invalid semver: 2fa-1.0.0"),
        ("", "id is missing for module"),
        ("-1.0", "Missing product for: -1.0"),
        ("mod users-1.0", "Module id must not contain blanks, slashes or control characters: 'mod users-1.0'"),
        ("a/b-1.0", "Module id must not contain blanks, slashes or control characters: 'a/b-1.0'"),
        ("a\n-1.0", "Module id must not contain blanks, slashes or control characters: 'a\\n-1.0'"),
        ("a-1.0?x", "Module id must not contain blanks, slashes or control characters: 'a-1.0?x'"),
        ("m" * 60 + "-1." + "0" * 200, f"Module id must not exceed {MAX_MODULE_ID} characters: {'m' * 50}…"),
    ],
)
def test_what_is_no_module_id_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidId) as caught:
        ModuleId.parse(text)
    assert str(caught.value) == message


def test_module_ids_are_ordered_by_product_and_then_by_version() -> None:
    """Requirement B3: versions are taken out of module ids and compared."""
    ids = ["b-1.0", "a-10.0", "a-9.0", "a-b-1.0", "a-10.0-rc.1"]
    assert [str(found) for found in sorted(map(ModuleId.parse, ids))] == ["a-9.0", "a-10.0-rc.1", "a-10.0", "a-b-1.0", "b-1.0"]


@pytest.mark.parametrize("text", ["a", "diku", "t1", "a" + "0" * 30])
def test_new_tenants_may_have_these_ids(text: str) -> None:
    check_new_tenant_id(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("my_lib", "Tenant id must not contain underscore: my_lib"),
        ("my-lib", "Tenant id must not contain minus: my-lib"),
        ("a" * 32, "Tenant id must not exceed 31 characters: " + "a" * 32),
        ("1", "Tenant id must not start with a digit: 1"),
        ("Diku", "Invalid tenant id, may only contain a-z and 0-9 and must match [a-z][a-z0-9]{0,30} but it is Diku"),
        ("", "Invalid tenant id, may only contain a-z and 0-9 and must match [a-z][a-z0-9]{0,30} but it is "),
        ("a\n", "Invalid tenant id, may only contain a-z and 0-9 and must match [a-z][a-z0-9]{0,30} but it is a\n"),
        ("ä", "Invalid tenant id, may only contain a-z and 0-9 and must match [a-z][a-z0-9]{0,30} but it is ä"),
    ],
)
def test_new_tenants_may_not_have_these_ids(text: str, message: str) -> None:
    with pytest.raises(InvalidId) as caught:
        check_new_tenant_id(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(("text", "known"), [("my_lib-1", True), ("DIKU", True), ("", False), ("a/b", False), ("x" * 64, False)])
def test_old_tenants_may_have_ids_that_new_ones_may_not(text: str, known: bool) -> None:
    assert is_tenant_id(text) is known


def test_a_schema_is_named_by_tenant_and_product() -> None:
    assert schema_name("{tenant}_{product_}", tenant="diku", product="mod-users") == "diku_mod_users"
    assert schema_name("{product}/{tenant}", tenant="diku", product="mod-users") == "mod-users/diku"


def test_a_step_has_the_same_key_at_every_retry() -> None:
    assert step_key("job", "mod-users", "init") == "job:mod-users:init"
