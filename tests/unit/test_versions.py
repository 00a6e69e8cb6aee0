"""Versions: one ordered list drives every comparison (requirement B3; Okapi's order)."""

import itertools

import pytest

from upgrade_core.errors import InvalidId
from upgrade_core.versions import InterfaceVersion, ModuleVersion, interface_satisfies

ASCENDING = (
    "0",
    "0.0.1",
    "1.0.0-1",
    "1.0.0-2",
    "1.0.0-10",
    "1.0.0-10.0",
    "1.0.0-SNAPSHOT",
    "1.0.0-SNAPSHOT.9",
    "1.0.0-SNAPSHOT.12",
    "1.0.0-SNAPSHOT.12+a",
    "1.0.0-SNAPSHOT.a",
    "1.0.0-alpha",
    "1.0.0-rc-1",
    "1.0.0",
    "1.0.0+",
    "1.0.0+7",
    "1.0.0+b",
    "1.0.0.0",
    "1.0.1",
    "1.2.3",
    "1.2.10",
    "1.10.0",
    "2",
    "2.0",
    "2.0.0",
    "2.4.10000105",
    "10.0.0",
    "999999999999999999.0",
)


@pytest.mark.parametrize(("lower", "higher"), list(itertools.combinations(ASCENDING, 2)))
def test_every_version_is_below_all_that_come_after_it(lower: str, higher: str) -> None:
    one, other = ModuleVersion.parse(lower), ModuleVersion.parse(higher)
    assert one < other
    assert other > one
    assert one != other


@pytest.mark.parametrize("text", ASCENDING)
def test_a_version_is_written_as_it_was_read(text: str) -> None:
    assert str(ModuleVersion.parse(text)) == text


def test_leading_zeros_make_no_other_version() -> None:
    assert ModuleVersion.parse("01.2.003-04") == ModuleVersion.parse("1.2.3-4")
    assert hash(ModuleVersion.parse("01.2.003-04")) == hash(ModuleVersion.parse("1.2.3-4"))


def test_a_version_equals_no_text() -> None:
    assert ModuleVersion.parse("1.0") != "1.0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "missing major version: "),
        ("-1", "missing major version: -1"),
        ("+1", "missing major version: +1"),
        ("x", "invalid semver: x"),
        ("2fa-1.0.0", "invalid semver: 2fa-1.0.0"),
        ("1.a", "invalid semver: 1.a"),
        ("1.²", "invalid semver: 1.²"),
        ("٣.0", "invalid semver: ٣.0"),
        ("1.", "missing version component"),
        ("1..2", "missing version component"),
        ("1.0-", "missing pre-release version component"),
        ("1.0-a..b", "missing pre-release version component"),
        ("1.0-+7", "missing pre-release version component"),
        ("1." + "9" * 19, "at most 18 digits for numeric component"),
        ("1.0-" + "9" * 19, "at most 18 digits for numeric component"),
    ],
)
def test_what_is_no_version_is_refused_with_okapis_text(text: str, message: str) -> None:
    with pytest.raises(InvalidId) as caught:
        ModuleVersion.parse(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "pre_release", "npm_snapshot"),
    [
        ("1.2.3", False, False),
        ("1.2.3-SNAPSHOT.4", True, False),
        ("1.2.3+10000", False, False),
        ("2.4.10000105", False, True),
        ("2.4.9999", False, False),
        ("2.4.10000", False, True),
        ("2.10000", False, False),
        ("2.4.5.10000", False, False),
        ("2.4.10000-rc.1", True, True),
    ],
)
def test_snapshots_are_told_from_releases(text: str, pre_release: bool, npm_snapshot: bool) -> None:
    version = ModuleVersion.parse(text)
    assert (version.is_pre_release, version.is_npm_snapshot) == (pre_release, npm_snapshot)


@pytest.mark.parametrize(
    ("provided", "required", "satisfied"),
    [
        ("1.0", "1.0", True),
        ("1.1", "1.0", True),
        ("1.0", "1.1", False),
        ("2.0", "1.0", False),
        ("1.0", "2.0", False),
        ("1.10", "1.9", True),
        ("1.2", "1.2.3", False),
        ("1.2.3", "1.2", True),
        ("1.2.3", "1.2.3", True),
        ("1.2.2", "1.2.3", False),
        ("1.3", "1.2.3", True),
        ("1.2.0", "1.2", True),
        ("2.1", "1.2 2.0", True),
        ("1.3", "1.2 2.0", True),
        ("3.0", "1.2 2.0", False),
        ("1.1", "1.2 1.0", False),  # the first alternative of the major decides
        ("1.1", "1.0 1.2", True),
        ("1.1 2.0", "2.0", False),  # only the first part of a provided version counts
        ("1.1 2.0", "1.0", True),
    ],
)
def test_a_provided_interface_meets_a_requirement_as_okapi_has_it(provided: str, required: str, satisfied: bool) -> None:
    assert interface_satisfies(provided, required) is satisfied


@pytest.mark.parametrize("text", ["", "1", "1.", "1.2.3.4", "a.b", "1.0-a", " 1.0", "1.0\n", "-1.0", "1.٢", "1." + "9" * 10])
def test_what_is_no_interface_version_is_refused_with_okapis_text(text: str) -> None:
    with pytest.raises(InvalidId) as caught:
        InterfaceVersion.parse(text)
    assert str(caught.value) == f"Bad version number '{text}'"
