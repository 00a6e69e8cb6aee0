"""Which changes move together, in which order, and which may run side by side."""

from dataclasses import replace

import pytest

from tests.modules import catalogue_of, module
from tests.plans import changes, disable, enable, plan, subjects
from upgrade_core.errors import ResolutionError
from upgrade_core.plan import Change, Kind, Mode
from upgrade_core.resolution import Decision

CHAIN = catalogue_of(
    module("a-1.0.0", "x"),
    module("a-2.0.0", "y"),
    module("b-1.0.0", requires="x"),
    module("b-2.0.0", requires="x"),
    module("c-1.0.0", optional="y"),
    module("d-1.0.0", "z"),
    module("e-1.0.0", "_tenant", requires="_tenant"),
    module("f-1.0.0", "_tenant", requires="_tenant"),
    module("g-1.0.0", "z"),
)


@pytest.mark.parametrize(
    ("decisions", "enabled", "after"),
    [
        ((enable("a-1.0.0"), enable("b-1.0.0"), enable("d-1.0.0")), (), {"1-a": (), "2-b": ("1-a",), "3-d": ()}),
        ((enable("a-2.0.0"), enable("c-1.0.0")), (), {"1-a": (), "2-c": ("1-a",)}),
        ((enable("a-2.0.0"), enable("d-1.0.0")), (), {"1-a": (), "2-d": ()}),
        ((disable("b-1.0.0"), disable("a-1.0.0")), ("a-1.0.0", "b-1.0.0"), {"1-b": (), "2-a": ("1-b",)}),
        ((enable("e-1.0.0"), enable("f-1.0.0")), (), {"1-e": (), "2-f": ()}),
        ((disable("d-1.0.0"), enable("d-1.0.0")), ("d-1.0.0",), {"1-d": (), "2-d": ("1-d",)}),
        (
            (enable("a-1.0.0"), disable("d-1.0.0"), enable("b-1.0.0"), enable("b-2.0.0")),
            (),
            {"1-a": (), "2-d": (), "3-b": ("1-a",), "4-b": ("1-a", "3-b")},
        ),
        ((disable("d-1.0.0"), enable("g-1.0.0")), ("d-1.0.0",), {"1-d": (), "2-g": ("1-d",)}),
    ],
)
def test_only_what_no_interface_connects_runs_side_by_side(
    decisions: tuple[Decision, ...], enabled: tuple[str, ...], after: dict[str, tuple[str, ...]]
) -> None:
    found = plan(*decisions, enabled=enabled, catalogue=CHAIN)
    assert {group.key: group.after for group in found.groups} == after


@pytest.mark.parametrize("decision", [enable("auth-2.0.0"), enable("auth-3.0.0"), disable("auth-1.0.0")])
def test_nothing_runs_beside_a_module_that_filters_who_may_call_the_others(decision: Decision) -> None:
    """Whether the version that comes does so, or the one that goes (Okapi's rule)."""
    auth = [replace(module(f"auth-{major}.0.0"), filters_auth=major < 3) for major in (1, 2, 3)]
    decisions = (enable("a-2.0.0"), decision, enable("d-1.0.0"))
    found = plan(*decisions, enabled=("auth-1.0.0",), catalogue=CHAIN | catalogue_of(*auth))
    assert {group.key: group.after for group in found.groups} == {"1-a": (), "2-auth": ("1-a",), "3-d": ("2-auth",)}


def test_a_provider_comes_before_who_requires_it_whatever_the_order_of_the_decisions() -> None:
    assert subjects(plan(enable("b-1.0.0"), enable("a-1.0.0"), catalogue=CHAIN)) == [["a-1.0.0"], ["b-1.0.0"]]


BREAKING = catalogue_of(
    module("s-1.0.0", "i=1.0"),
    module("s-2.0.0", "i=2.0"),
    module("strict-1.0.0", requires="i=1.0"),
    module("strict-2.0.0", requires="i=2.0"),
    module("loose-1.0.0", requires="i=1.0"),
    module("loose-2.0.0", requires="i=1.0/2.0"),
    module("maybe-1.0.0", optional="i=1.0"),
    module("maybe-2.0.0", optional="i=2.0"),
    module("lone-1.0.0"),
    module("lone-2.0.0"),
)


def test_a_breaking_provider_and_those_that_need_it_move_in_one_group() -> None:
    found = plan(
        *(enable(f"{product}-2.0.0") for product in ("strict", "lone", "s", "maybe")),
        enabled=("s-1.0.0", "strict-1.0.0", "lone-1.0.0", "maybe-1.0.0"),
        catalogue=BREAKING,
    )
    assert subjects(found) == [["lone-2.0.0"], ["s-2.0.0", "strict-2.0.0", "maybe-2.0.0"]]


def test_who_accepts_both_versions_moves_before_the_provider_does() -> None:
    """A group is as small as it can be."""
    found = plan(
        enable("s-2.0.0"),
        enable("loose-2.0.0"),
        enable("strict-2.0.0"),
        enabled=("s-1.0.0", "loose-1.0.0", "strict-1.0.0"),
        catalogue=BREAKING,
    )
    assert subjects(found) == [["loose-2.0.0"], ["s-2.0.0", "strict-2.0.0"]]
    assert [(group.key, group.after) for group in found.groups] == [("1-loose", ()), ("2-s", ("1-loose",))]


def test_what_goes_for_a_provider_goes_first_if_nobody_misses_it() -> None:
    found = plan(enable("s-2.0.0"), disable("strict-1.0.0"), enabled=("s-1.0.0", "strict-1.0.0"), catalogue=BREAKING)
    assert subjects(found) == [["strict-1.0.0"], ["s-2.0.0"]]


def test_a_provider_is_replaced_by_another_product_in_one_group_while_it_is_required() -> None:
    """What comes is first in a group: whoever is asked to go may need it."""
    catalogue = catalogue_of(module("old-1.0.0", "i"), module("new-1.0.0", "i"), module("user-1.0.0", requires="i"))
    decisions = (disable("old-1.0.0"), enable("new-1.0.0"))
    needed = plan(*decisions, enabled=("old-1.0.0", "user-1.0.0"), catalogue=catalogue)
    assert subjects(needed) == [["new-1.0.0", "old-1.0.0"]]
    assert needed.groups[0].key == "1-new"
    assert subjects(plan(*decisions, enabled=("old-1.0.0",), catalogue=catalogue)) == [["old-1.0.0"], ["new-1.0.0"]]


def test_no_interface_is_provided_twice_on_the_way() -> None:
    catalogue = catalogue_of(module("p-1.0.0", "i,j"), module("p-2.0.0", "j"), module("q-1.0.0"), module("q-2.0.0", "i"))
    found = plan(enable("q-2.0.0"), enable("p-2.0.0"), enabled=("p-1.0.0", "q-1.0.0"), catalogue=catalogue)
    assert subjects(found) == [["p-2.0.0"], ["q-2.0.0"]]
    assert found.groups[1].after == ("1-p",)


def test_modules_that_require_each_other_move_together() -> None:
    catalogue = catalogue_of(
        *(module(f"{one}-{n}.0.0", f"{one}={n}.0", f"{other}={n}.0") for n in (1, 2) for one, other in ("ab", "bc", "ca"))
    )
    found = plan(*(enable(f"{each}-2.0.0") for each in "cab"), enabled=("a-1.0.0", "b-1.0.0", "c-1.0.0"), catalogue=catalogue)
    assert [sorted(group) for group in subjects(found)] == [["a-2.0.0", "b-2.0.0", "c-2.0.0"]]


def test_what_was_unmet_before_holds_nothing_up() -> None:
    catalogue = catalogue_of(module("m-1.0.0", requires="nowhere"), module("m-2.0.0"), module("n-1.0.0"), module("n-2.0.0"))
    found = plan(enable("n-2.0.0"), enable("m-2.0.0"), enabled=("m-1.0.0", "n-1.0.0"), catalogue=catalogue)
    assert subjects(found) == [["n-2.0.0"], ["m-2.0.0"]]


def test_what_goes_and_comes_back_does_so_at_once_while_others_require_it() -> None:
    found = plan(disable("a-1.0.0"), enable("a-1.0.0"), enabled=("a-1.0.0", "b-1.0.0"), catalogue=CHAIN)
    assert changes(found) == [
        Change(kind=Kind.REINSTALL, product="a", bound="a-1.0.0", version_from="a-1.0.0", version_to="a-1.0.0")
    ]


def test_what_goes_along_with_a_purge_keeps_its_data() -> None:
    """Requirement B4: purging is asked for explicitly."""
    decisions, enabled = (disable("b-1.0.0"), disable("a-1.0.0")), ("a-1.0.0", "b-1.0.0")
    kinds = [
        [(change.product, change.kind) for change in changes(found)]
        for named in (frozenset("a"), frozenset("ab"), None)
        for found in [plan(*decisions, enabled=enabled, catalogue=CHAIN, purge=True, named=named)]
    ]
    assert kinds == [
        [("b", Kind.DISABLE), ("a", Kind.PURGE)],
        [("b", Kind.PURGE), ("a", Kind.PURGE)],
        [("b", Kind.PURGE), ("a", Kind.PURGE)],
    ]


def test_what_goes_is_in_its_own_order_after_what_comes_whatever_becomes_of_its_data() -> None:
    """Dependents go before their providers. Each change takes the steps of its own kind."""
    catalogue = CHAIN | catalogue_of(module("n-1.0.0"))
    found = plan(
        *(disable("b-1.0.0"), disable("a-1.0.0"), enable("n-1.0.0")),
        enabled=("a-1.0.0", "b-1.0.0"),
        catalogue=catalogue,
        purge=True,
        named=frozenset("a"),
        mode=Mode.ATOMIC,
    )
    assert [change.kind for change in changes(found)] == [Kind.INSTALL, Kind.DISABLE, Kind.PURGE]


def test_data_that_others_rely_on_is_not_purged_on_the_way() -> None:
    with pytest.raises(ResolutionError, match="cannot be purged and enabled again at once"):
        plan(disable("a-1.0.0"), enable("a-1.0.0"), enabled=("a-1.0.0", "b-1.0.0"), catalogue=CHAIN, purge=True)


def test_all_at_once_is_one_group_in_dependency_order() -> None:
    decisions = (enable("strict-2.0.0"), disable("loose-1.0.0"), enable("lone-2.0.0"), enable("s-2.0.0"))
    enabled = ("s-1.0.0", "strict-1.0.0", "loose-1.0.0", "lone-1.0.0")
    found = plan(*decisions, enabled=enabled, catalogue=BREAKING, mode=Mode.ATOMIC)
    assert subjects(found) == [["lone-2.0.0", "s-2.0.0", "strict-2.0.0", "loose-1.0.0"]]
    assert found.groups[0].key == "1-lone"
    assert plan(catalogue=BREAKING, mode=Mode.ATOMIC).groups == ()


def test_who_wants_no_check_gets_each_decision_by_itself_as_given() -> None:
    found = plan(
        enable("s-2.0.0"), enable("strict-2.0.0"), enabled=("s-1.0.0", "strict-1.0.0"), catalogue=BREAKING, mode=Mode.AS_GIVEN
    )
    assert [(group.key, group.after) for group in found.groups] == [("1-s", ()), ("2-strict", ("1-s",))]


def test_a_group_of_any_size_is_found() -> None:
    """Every link of the chain needs its provider's version exactly."""
    length = 400
    catalogue = catalogue_of(
        *(
            module(f"m{n}-{v}.0.0", f"i{n}={v}.0", f"i{n + 1}={v}.0" if n + 1 < length else "")
            for n in range(length)
            for v in (1, 2)
        )
    )
    found = plan(
        *(enable(f"m{n}-2.0.0") for n in range(length)),
        enabled=tuple(f"m{n}-1.0.0" for n in range(length)),
        catalogue=catalogue,
    )
    assert subjects(found) == [[f"m{n}-2.0.0" for n in reversed(range(length))]]
