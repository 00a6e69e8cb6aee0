"""In which steps decisions are carried out, and what names a plan."""

from collections.abc import Mapping

import pytest

from tests.modules import catalogue_of, module
from upgrade_core.descriptors import ModuleDescriptor, Undo
from upgrade_core.errors import ResolutionError
from upgrade_core.plan import STEPS, UNDO_OF, Change, Group, Kind, Mode, Plan, Step, UndoStep, build_plan, change_kind
from upgrade_core.resolution import Decision

CATALOGUE = {text: module(text) for text in ("m-1.0.0", "m-2.0.0", "n-1.0.0")}
M1, M2, N1 = CATALOGUE


def enable(module_id: str) -> Decision:
    return Decision(action="enable", module=module_id)


def disable(module_id: str) -> Decision:
    return Decision(action="disable", module=module_id)


def plan(
    *decisions: Decision,
    enabled: tuple[str, ...] = (),
    data: Mapping[str, str] | None = None,
    catalogue: Mapping[str, ModuleDescriptor] = CATALOGUE,
    purge: bool = False,
    undo: Undo | None = None,
    mode: Mode = Mode.SMALLEST,
    hops: bool = True,
) -> Plan:
    return build_plan(
        decisions,
        enabled=enabled,
        data_versions=data or {},
        catalogue=catalogue,
        purge=purge,
        undo=undo,
        mode=mode,
        hops=hops,
    )


def subjects(found: Plan) -> list[list[str]]:
    return [[change.subject for change in group.changes] for group in found.groups]


def changes(found: Plan) -> list[Change]:
    return [change for group in found.groups for change in group.changes]


@pytest.mark.parametrize(
    ("version_from", "version_to", "kind"),
    [
        (None, "m-1.0.0", Kind.INSTALL),
        ("m-1.0.0", "m-1.0.1", Kind.UPGRADE),
        ("m-9.0.0", "m-10.0.0", Kind.UPGRADE),
        ("m-1.0.0-SNAPSHOT.5", "m-1.0.0", Kind.UPGRADE),
        ("m-1.0.0", "m-1.0.0-SNAPSHOT.5", Kind.DOWNGRADE),
        ("m-2.0.0", "m-1.0.0", Kind.DOWNGRADE),
        ("m-1.0.0", "m-1.0.0", Kind.REINSTALL),
    ],
)
def test_two_versions_make_the_kind(version_from: str | None, version_to: str, kind: Kind) -> None:
    """Requirement B3."""
    assert change_kind(version_from, version_to) is kind


@pytest.mark.parametrize(
    ("decision", "enabled", "data", "purge", "change"),
    [
        (enable(M1), (), {}, False, Change(kind=Kind.INSTALL, product="m", version_to=M1)),
        (enable(M2), (M1,), {"m": M1}, False, Change(kind=Kind.UPGRADE, product="m", bound=M1, version_from=M1, version_to=M2)),
        (enable(M2), (M1,), {}, False, Change(kind=Kind.UPGRADE, product="m", bound=M1, version_from=M1, version_to=M2)),
        (enable(M1), (M2,), {"m": M2}, False, Change(kind=Kind.DOWNGRADE, product="m", bound=M2, version_from=M2, version_to=M1)),
        (enable(M1), (M1,), {"m": M1}, False, Change(kind=Kind.REINSTALL, product="m", bound=M1, version_from=M1, version_to=M1)),
        (disable(M1), (M1,), {"m": M1}, False, Change(kind=Kind.DISABLE, product="m", bound=M1, version_from=M1)),
        (disable(M1), (M1,), {"m": M1}, True, Change(kind=Kind.PURGE, product="m", bound=M1, version_from=M1)),
        (disable(M1), (), {"m": M1}, True, Change(kind=Kind.PURGE, product="m", version_from=M1)),
        (disable(M1), (M1,), {}, False, Change(kind=Kind.DISABLE, product="m", bound=M1, version_from=M1)),
    ],
)
def test_a_decision_becomes_a_change(
    decision: Decision, enabled: tuple[str, ...], data: dict[str, str], purge: bool, change: Change
) -> None:
    """Requirements B3, B4."""
    assert changes(plan(decision, enabled=enabled, data=data, purge=purge)) == [change]


@pytest.mark.parametrize(("wanted", "kind"), [(M2, Kind.UPGRADE), (M1, Kind.REINSTALL)])
def test_data_of_a_disabled_module_makes_an_install_an_upgrade(wanted: str, kind: Kind) -> None:
    """Requirement B8: existing data always means to consider an upgrade."""
    change = Change(kind=kind, product="m", version_from=M1, version_to=wanted)
    assert changes(plan(enable(wanted), data={"m": M1})) == [change]


def test_the_version_of_the_data_counts_and_not_the_one_that_is_enabled() -> None:
    """Requirement B8."""
    change = Change(kind=Kind.UPGRADE, product="m", bound=M2, version_from=M1, version_to=M2)
    assert changes(plan(enable(M2), enabled=(M2,), data={"m": M1})) == [change]


def test_what_is_up_to_date_needs_no_step() -> None:
    assert plan(Decision(action="uptodate", module=M1), enabled=(M1,)).groups == ()


def test_a_module_that_goes_and_comes_back_is_upgraded_from_its_data() -> None:
    assert changes(plan(disable(M1), enable(M2), enabled=(M1,), data={"m": M1})) == [
        Change(kind=Kind.DISABLE, product="m", bound=M1, version_from=M1),
        Change(kind=Kind.UPGRADE, product="m", version_from=M1, version_to=M2),
    ]


def test_a_module_that_is_purged_and_comes_back_is_installed() -> None:
    assert changes(plan(disable(M1), enable(M2), enabled=(M1,), data={"m": M1}, purge=True)) == [
        Change(kind=Kind.PURGE, product="m", bound=M1, version_from=M1),
        Change(kind=Kind.INSTALL, product="m", version_to=M2),
    ]


def test_a_version_that_a_module_cannot_be_upgraded_from_is_refused_with_all_others() -> None:
    catalogue = {
        text: module(text, upgrade_from=">=2.0" if text.endswith("3.0.0") else "")
        for text in ("a-1.0.0", "a-3.0.0", "b-1.5.0", "b-3.0.0")
    }
    with pytest.raises(ResolutionError) as caught:
        plan(enable("a-3.0.0"), enable("b-3.0.0"), enabled=("a-1.0.0", "b-1.5.0"), catalogue=catalogue)
    assert caught.value.reasons == (
        (
            "Module a-3.0.0 cannot be upgraded from a-1.0.0: it accepts >=2.0;"
            " needed is a version of a in between that it accepts and that accepts 1.0.0"
        ),
        (
            "Module b-3.0.0 cannot be upgraded from b-1.5.0: it accepts >=2.0;"
            " needed is a version of b in between that it accepts and that accepts 1.5.0"
        ),
    )


@pytest.mark.parametrize("data", [{}, {"a": "a-2.5.0"}, {"a": "a-3.0.0"}, {"a": "a-4.0.0"}])
def test_only_upgrades_need_a_version_that_is_accepted(data: dict[str, str]) -> None:
    catalogue = {"a-3.0.0": module("a-3.0.0", upgrade_from=">=2.0,<3")}
    assert len(plan(enable("a-3.0.0"), data=data, catalogue=catalogue).groups) == 1


def test_the_version_of_the_data_is_the_one_that_must_be_accepted() -> None:
    """Requirement B8."""
    catalogue = {"a-3.0.0": module("a-3.0.0", upgrade_from=">=2.0")}
    with pytest.raises(ResolutionError, match=r"cannot be upgraded from a-1.0.0"):
        plan(enable("a-3.0.0"), enabled=("a-2.0.0",), data={"a": "a-1.0.0"}, catalogue=catalogue)


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


# Groups


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
    """What comes is first in a group, since its steps are those of the first change."""
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


# Versions in between


def hopping(*more: ModuleDescriptor, second: str = "", accepts: str = ">=2.0") -> dict[str, ModuleDescriptor]:
    return catalogue_of(
        module("a-1.0.0", "x=1.0"),
        module("a-2.0.0", "x=1.0", second),
        module("a-3.0.0", "x=1.1", upgrade_from=accepts),
        module("user-1.0.0", requires="x=1.0"),
        *more,
    )


def test_a_module_goes_through_a_version_that_the_wanted_one_accepts() -> None:
    """Each upgrade is a group of its own, from the data that the one before left."""
    found = plan(enable("a-3.0.0"), enabled=("a-1.0.0", "user-1.0.0"), catalogue=hopping())
    one = Change(kind=Kind.UPGRADE, product="a", bound="a-1.0.0", version_from="a-1.0.0", version_to="a-2.0.0")
    two = Change(kind=Kind.UPGRADE, product="a", bound="a-2.0.0", version_from="a-2.0.0", version_to="a-3.0.0")
    assert found.groups == (Group(key="1-a", changes=(one,)), Group(key="2-a", changes=(two,), after=("1-a",)))


def test_the_way_begins_where_the_data_is() -> None:
    """Requirement B8."""
    found = plan(enable("a-3.0.0"), data={"a": "a-1.0.0"}, catalogue=hopping())
    assert [(each.bound, each.version_from, each.version_to) for each in changes(found)] == [
        (None, "a-1.0.0", "a-2.0.0"),
        ("a-2.0.0", "a-2.0.0", "a-3.0.0"),
    ]


def test_the_shortest_way_is_taken_and_of_equal_ones_the_newest() -> None:
    more = (module("a-2.1.0"), module("a-2.2.0", upgrade_from=">=2.1"), module("a-2.3.0-SNAPSHOT.1"))
    found = plan(enable("a-3.0.0"), enabled=("a-1.0.0",), catalogue=hopping(*more))
    assert subjects(found) == [["a-2.1.0"], ["a-3.0.0"]]
    longer = plan(enable("a-3.0.0"), enabled=("a-1.0.0",), catalogue=hopping(*more, accepts=">=2.2"))
    assert subjects(longer) == [["a-2.1.0"], ["a-2.2.0"], ["a-3.0.0"]]


def test_a_way_by_a_version_whose_requirements_are_not_met_there_is_not_taken() -> None:
    catalogue = hopping(module("a-1.5.0"), second="nowhere", accepts=">=1.5")
    assert subjects(plan(enable("a-3.0.0"), enabled=("a-1.0.0",), catalogue=catalogue)) == [["a-1.5.0"], ["a-3.0.0"]]


def test_a_version_in_between_waits_for_what_it_requires_if_that_comes_too() -> None:
    catalogue = hopping(module("late-1.0.0", "z"), second="z")
    found = plan(enable("a-3.0.0"), enable("late-1.0.0"), enabled=("a-1.0.0",), catalogue=catalogue)
    assert subjects(found) == [["late-1.0.0"], ["a-2.0.0"], ["a-3.0.0"]]


def test_a_way_that_is_barred_is_refused_with_what_bars_it() -> None:
    with pytest.raises(ResolutionError) as caught:
        plan(enable("a-3.0.0"), enabled=("a-1.0.0",), catalogue=hopping(second="nowhere"))
    assert caught.value.reasons == (
        (
            "Module a-3.0.0 cannot be upgraded from a-1.0.0: it accepts >=2.0; the way by a-2.0.0 is barred:"
            " interface nowhere required by module a-2.0.0 not found"
        ),
    )


@pytest.mark.parametrize(("mode", "why"), [(Mode.SMALLEST, "first"), (Mode.ATOMIC, "before, since all at once is asked for")])
def test_where_no_version_in_between_may_be_taken_the_first_one_is_named(mode: Mode, why: str) -> None:
    with pytest.raises(ResolutionError, match=f"it accepts >=2.0; upgrade to a-2.0.0 {why}$"):
        plan(enable("a-3.0.0"), enabled=("a-1.0.0",), catalogue=hopping(), mode=mode, hops=False)


def test_a_way_is_sought_among_many_versions_that_lead_nowhere() -> None:
    many = (module(f"a-2.{n}.0") for n in range(1, 200))
    with pytest.raises(ResolutionError, match="needed is a version of a in between"):
        plan(enable("a-3.0.0"), enabled=("a-1.0.0",), catalogue=hopping(*many, accepts=">=2.900"))


# Names


def test_groups_are_named_by_their_place_and_product() -> None:
    assert plan(enable(N1), enable(M1)).groups == (
        Group(key="1-n", changes=(Change(kind=Kind.INSTALL, product="n", version_to=N1),)),
        Group(key="2-m", changes=(Change(kind=Kind.INSTALL, product="m", version_to=M1),)),
    )


def test_the_same_world_makes_the_same_digest() -> None:
    one = plan(enable(M2), enabled=(M1, N1), data={"m": M1, "n": N1})
    other = plan(
        enable(M2),
        enabled=(N1, M1),
        data={"n": N1, "m": M1},
        catalogue=dict(reversed([*CATALOGUE.items(), ("x-1", module("x-1"))])),
    )
    assert one == other
    assert len(one.digest) == 16


def test_another_world_or_another_wish_makes_another_digest() -> None:
    def undo_of(undo: Undo) -> dict[str, ModuleDescriptor]:
        return CATALOGUE | {M2: module(M2, undo=undo)}

    digests = [
        plan(enable(M2), enabled=(M1,), data={"m": M1}).digest,
        plan(enable(M2), enabled=(M1, N1), data={"m": M1}).digest,
        plan(enable(M2), enabled=(M1,), data={"m": M2}).digest,
        plan(enable(M2), enabled=(M1,), data={"m": M1, "n": N1}).digest,
        plan(enable(M2), enabled=(), data={"m": M1}).digest,
        plan(enable(M1), enabled=(M1,), data={"m": M1}).digest,
        plan(enable(M2), enable(N1), enabled=(M1,), data={"m": M1}).digest,
        plan(enable(N1), enable(M2), enabled=(M1,), data={"m": M1}).digest,
        plan(enable(M2), enabled=(M1,), data={"m": M1}, undo=Undo.MODULE).digest,
        plan(enable(M2), enabled=(M1,), data={"m": M1}, catalogue=undo_of(Undo.SNAPSHOT)).digest,
        plan(disable(M1), enabled=(M1,), data={"m": M1}).digest,
        plan(disable(M1), enabled=(M1,), data={"m": M1}, purge=True).digest,
        plan(enabled=(M1,), data={"m": M1}).digest,
    ]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize(
    ("asked", "declared", "undo"),
    [
        (None, None, None),
        (None, Undo.SNAPSHOT, Undo.SNAPSHOT),
        (Undo.MODULE, Undo.SNAPSHOT, Undo.MODULE),
        (None, Undo.FORWARD_ONLY, Undo.FORWARD_ONLY),
        (None, Undo.REVERSIBLE, None),
        (Undo.COMPATIBLE, Undo.MODULE, None),
    ],
)
def test_a_purge_is_not_undone_by_modes_that_speak_of_two_versions(
    asked: Undo | None, declared: Undo | None, undo: Undo | None
) -> None:
    catalogue = {M1: module(M1, undo=declared)}
    (change,) = changes(plan(disable(M1), enabled=(M1,), catalogue=catalogue, purge=True, undo=asked))
    assert change.undo is undo


def test_data_of_a_module_that_nobody_registered_any_more_can_be_purged() -> None:
    (change,) = changes(plan(disable("gone-1.0"), data={"gone": "gone-1.0"}, purge=True))
    assert change == Change(kind=Kind.PURGE, product="gone", version_from="gone-1.0")


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_has_steps_in_their_order(kind: Kind) -> None:
    order = list(Step)
    places = [order.index(step) for step in STEPS[kind]]
    assert places == sorted(set(places))
    assert STEPS[kind][0] is Step.CHECK
    assert {Step.UPDATE, Step.INIT, Step.SWITCH, Step.RELEASE} <= set(STEPS[kind])


def test_what_destroys_or_changes_data_is_copied_before() -> None:
    """Requirement E5."""
    assert {kind for kind in Kind if Step.SNAPSHOT not in STEPS[kind]} == {Kind.DISABLE}


def test_every_step_with_an_effect_before_the_switch_has_an_undo() -> None:
    """Requirement D2. `check` and `verify` only look; from the switch on nothing is undone by itself."""
    order = list(Step)
    before = set(order[: order.index(Step.SWITCH)])
    assert set(UNDO_OF) == before - {Step.CHECK, Step.VERIFY}
    assert set(UNDO_OF.values()) == set(UndoStep)
    assert len(set(UNDO_OF.values())) == len(UNDO_OF)


@pytest.mark.parametrize(
    ("change", "subject", "touches"),
    [
        (Change(kind=Kind.INSTALL, product="m", version_to=M1), M1, (M1,)),
        (Change(kind=Kind.UPGRADE, product="m", bound=M1, version_from=M1, version_to=M2), M2, (M2, M1)),
        (Change(kind=Kind.UPGRADE, product="m", bound="m-1.5", version_from=M1, version_to=M2), M2, (M2, "m-1.5", M1)),
        (Change(kind=Kind.DISABLE, product="m", bound=M1, version_from=M1), M1, (M1,)),
        (Change(kind=Kind.PURGE, product="m", version_from=M1), M1, (M1,)),
        (Change(kind=Kind.PURGE, product="m"), "m", ()),
    ],
)
def test_a_change_is_about_the_module_it_goes_to(change: Change, subject: str, touches: tuple[str, ...]) -> None:
    assert change.subject == subject
    assert change.touches == touches
