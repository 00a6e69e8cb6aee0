"""In which steps decisions are carried out, and what names a plan."""

import pytest

from tests.modules import module
from tests.plans import CATALOGUE, changes, disable, enable, plan
from upgrade_core.descriptors import ModuleDescriptor, Undo
from upgrade_core.errors import ResolutionError
from upgrade_core.plan import STEPS, UNDO_OF, Change, Group, Kind, Step, UndoStep, change_kind
from upgrade_core.resolution import Decision

M1, M2, N1 = CATALOGUE


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
        Change(kind=Kind.UPGRADE, product="m", version_from=M1, version_to=M2, turn=1),
    ]


def test_a_module_that_is_purged_and_comes_back_is_installed() -> None:
    assert changes(plan(disable(M1), enable(M2), enabled=(M1,), data={"m": M1}, purge=True)) == [
        Change(kind=Kind.PURGE, product="m", bound=M1, version_from=M1),
        Change(kind=Kind.INSTALL, product="m", version_to=M2, turn=1),
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


def test_parameters_that_leave_steps_out_make_another_digest_and_without_them_it_is_as_it_was() -> None:
    """Plans that people looked at before there were such parameters are still to be executed."""
    found = [plan(enable(N1), options=options) for options in ({}, {"invoke": "false"}, {"deploy": "false"})]
    assert found[0].digest == "e6b9b5d0bd5e2ea4"
    assert len({each.digest for each in found}) == 3
    assert [each.options for each in found] == [(), (("invoke", "false"),), (("deploy", "false"),)]


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
    """Requirement D2. `check`, `precheck` and `verify` only look; from the switch on nothing is undone by itself."""
    order = list(Step)
    before = set(order[: order.index(Step.SWITCH)])
    assert set(UNDO_OF) == before - {Step.CHECK, Step.PRECHECK, Step.VERIFY}
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
