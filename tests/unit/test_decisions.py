"""upgrade_core.decisions: what may be decided about a job, and what speaks against it (requirements D2, D4)."""

import itertools
from dataclasses import replace
from typing import Any

import pytest

from upgrade_core.decisions import (
    Choice,
    Init,
    Refusal,
    calls_init,
    held_groups,
    init_standing,
    planned_steps,
    possible_choices,
    refuse_choice,
    told_changes,
)
from upgrade_core.descriptors import Undo, parse_descriptor
from upgrade_core.ids import hold_id
from upgrade_core.plan import STEPS, Change, Group, Kind, Plan, Step

UPGRADE = Change(kind=Kind.UPGRADE, product="a", bound="a-1.0.0", version_from="a-1.0.0", version_to="a-2.0.0")
TENANT = {
    "id": "_tenant",
    "version": "2.0",
    "interfaceType": "system",
    "handlers": [{"methods": ["POST"], "pathPattern": "/_/tenant"}],
}


def refused(
    choice: Choice, *, has_ended: bool, held: int = 1, waiting: int = 0, init: Init = Init.DONE, force: bool = False
) -> Refusal | None:
    return refuse_choice(
        choice, job="j", has_ended=has_ended, held=held, waiting=waiting, standing={"a-2.0.0": init}, force=force
    )


def test_what_is_not_possible_is_refused_and_what_is_possible_is_not() -> None:
    for choice, has_ended, held, waiting in itertools.product(Choice, (True, False), (0, 1, 2), (0, 1)):
        possible = possible_choices(has_ended=has_ended, held=held, waiting=waiting)
        found = refused(choice, has_ended=has_ended, held=held, waiting=waiting)
        assert (found is None) == (choice in possible)
        assert found is None or found.possible == possible


@pytest.mark.parametrize("init", list(Init))
def test_new_needs_an_init_that_is_done_or_not_called(init: Init) -> None:
    found = refused(Choice.NEW, has_ended=True, init=init)
    assert (found is None) == (init in (Init.DONE, Init.NOT_CALLED))
    assert found is None or (f"a-2.0.0 is {init}" in found.text and found.possible == (Choice.OLD,))


@pytest.mark.parametrize("init", list(Init))
def test_new_by_force_and_old_go_from_anywhere(init: Init) -> None:
    assert refused(Choice.NEW, has_ended=True, init=init, force=True) is None
    assert refused(Choice.OLD, has_ended=True, init=init) is None


def test_force_makes_nothing_possible_that_is_not() -> None:
    assert refused(Choice.NEW, has_ended=False, force=True) is not None
    assert refused(Choice.NEW, has_ended=True, held=0, force=True) is not None


@pytest.mark.parametrize(
    ("state", "effect", "found"),
    [
        ("asked", "", Init.UNDER_WAY),
        ("following", "follow", Init.UNDER_WAY),
        ("ended", "done", Init.DONE),
        ("ended", "failed", Init.FAILED),
        ("ended", "refused", Init.FAILED),
        ("ended", "", Init.UNDONE),
        (None, "", Init.NOT_ASKED),
    ],
)
def test_where_an_init_stands_is_read_from_its_intent(state: str | None, effect: str, found: Init) -> None:
    assert init_standing(calls=True, state=state, effect=effect) is found


def test_an_init_that_is_not_called_leaves_no_intent() -> None:
    assert init_standing(calls=False, state=None, effect="") is Init.NOT_CALLED


@pytest.mark.parametrize(
    ("provides", "invoke", "called"),
    [([TENANT], "true", True), ([], "true", False), ([TENANT], "false", False), ([TENANT], "a-.*", True), ([TENANT], "a", False)],
)
def test_init_is_called_where_there_is_a_call_and_the_job_asks_for_it(provides: list[object], invoke: str, called: bool) -> None:
    assert calls_init(UPGRADE, parse_descriptor({"id": "a-2.0.0", "provides": provides}), invoke=invoke) is called


def test_held_groups_are_those_whose_holds_stand_in_the_order_of_the_plan() -> None:
    groups = tuple(
        Group(key=f"{number}-{product}", changes=(Change(kind=Kind.INSTALL, product=product, version_to=f"{product}-1.0.0"),))
        for number, product in enumerate("abc", 1)
    )
    holds = [hold_id("j", "3-c", "c"), hold_id("j", "1-a", "a"), hold_id("other", "2-b", "b")]
    assert [group.key for group in held_groups(Plan(digest="d", groups=groups), "j", holds)] == ["1-a", "3-c"]


DOWN = Change(kind=Kind.DOWNGRADE, product="a", bound="a-2.0.0", version_from="a-2.0.0", version_to="a-1.0.0")
GONE = Change(kind=Kind.DISABLE, product="a", bound="a-2.0.0", version_from="a-2.0.0")
LAUNCH = {"launchDescriptor": {"exec": "./start %p"}}


def left_out(
    change: Change, *, invoke: str = "true", is_told: bool = False, old: dict[str, object] | None = None, **new: object
) -> set[Step]:
    """Steps of its kind that a change does without; `new` and `old` are members of the two descriptors."""
    modules = {
        "a-1.0.0": parse_descriptor({"id": "a-1.0.0", **(old or {})}),
        "a-2.0.0": parse_descriptor({"id": "a-2.0.0", **new}),
    }
    return {*STEPS[change.kind]} - {*planned_steps(change, describe=modules.__getitem__, invoke=invoke, is_told=is_told)}


@pytest.mark.parametrize(
    ("change", "members", "absent"),
    [
        (UPGRADE, {}, {Step.ACQUIRE, Step.SNAPSHOT, Step.INIT, Step.VERIFY, Step.WATCH}),
        (UPGRADE, LAUNCH, {Step.SNAPSHOT, Step.INIT, Step.VERIFY, Step.WATCH}),
        (UPGRADE, {"provides": [TENANT]}, {Step.VERIFY, Step.WATCH}),
        (UPGRADE, {"provides": [TENANT], "invoke": "false"}, {Step.SNAPSHOT, Step.INIT, Step.VERIFY, Step.WATCH}),
        (replace(UPGRADE, undo=Undo.COMPATIBLE), {"provides": [TENANT]}, {Step.SNAPSHOT, Step.VERIFY, Step.WATCH}),
        (replace(UPGRADE, undo=Undo.SNAPSHOT), {"provides": [TENANT]}, {Step.VERIFY, Step.WATCH}),
        (
            UPGRADE,
            {**LAUNCH, "metadata": {"uplift": {"checks": [{"path": "/ok"}], "soak": 5}}},
            {Step.SNAPSHOT, Step.INIT},
        ),
        (
            UPGRADE,
            {**LAUNCH, "metadata": {"uplift": {"data_version": "/version"}}},
            {Step.SNAPSHOT, Step.INIT, Step.WATCH},
        ),
        (DOWN, {"provides": [TENANT]}, {Step.ACQUIRE, Step.SNAPSHOT, Step.INIT, Step.VERIFY, Step.WATCH}),
        (
            DOWN,
            {"provides": [TENANT], "metadata": {"uplift": {"undo": "reversible"}}},
            {Step.ACQUIRE, Step.VERIFY, Step.WATCH},
        ),
        (GONE, {}, {Step.INIT}),
    ],
)
def test_a_step_that_the_descriptors_leave_nothing_to_do_for_is_not_planned(
    change: Change, members: dict[str, Any], absent: set[Step]
) -> None:
    """A tenant init with handlers needs an instance; a downgrade is asked of the higher version if that knows the way back."""
    looked_at = {Step.ACQUIRE, Step.SNAPSHOT, Step.INIT, Step.VERIFY, Step.WATCH}
    assert left_out(change, **members) & looked_at == absent


@pytest.mark.parametrize(
    ("uplift", "is_told", "absent"),
    [
        ({}, False, {Step.PRECHECK, Step.PERMISSIONS, Step.POST_STEPS}),
        ({}, True, {Step.PRECHECK, Step.POST_STEPS}),
        ({"prechecks": [{"path": "/ready"}]}, True, {Step.POST_STEPS}),
        ({"post_steps": [{"path": "/reindex"}]}, True, {Step.PRECHECK}),
    ],
)
def test_prechecks_post_steps_and_telling_are_planned_where_there_is_something_to_do(
    uplift: dict[str, Any], is_told: bool, absent: set[Step]
) -> None:
    looked_at = {Step.PRECHECK, Step.PERMISSIONS, Step.POST_STEPS}
    assert left_out(UPGRADE, is_told=is_told, metadata={"uplift": uplift}) & looked_at == absent


TELLER = {"id": "_tenantPermissions", "version": "2.0", "interfaceType": "system", "handlers": []}
TELLERS = {
    module: parse_descriptor({"id": module, "provides": [TELLER] if module.startswith("p") else []})
    for module in ("a-1.0.0", "a-2.0.0", "b-1.0.0", "p-1.0.0", "p-2.0.0")
}
NEW = Change(kind=Kind.INSTALL, product="b", version_to="b-1.0.0")
COMES = Change(kind=Kind.INSTALL, product="p", version_to="p-1.0.0")
MOVES = Change(kind=Kind.UPGRADE, product="p", bound="p-1.0.0", version_from="p-1.0.0", version_to="p-2.0.0")
GOES = Change(kind=Kind.DISABLE, product="p", bound="p-1.0.0", version_from="p-1.0.0")
LEFT = Change(kind=Kind.PURGE, product="a", version_from="a-1.0.0")


@pytest.mark.parametrize(
    ("groups", "enabled", "invoke", "told"),
    [
        ([[UPGRADE], [NEW]], (), "true", set()),
        ([[UPGRADE], [NEW]], ("p-1.0.0",), "true", {UPGRADE, NEW}),
        ([[UPGRADE]], ("p-1.0.0",), "a.*", set()),  # the permissions module is not to be called
        ([[UPGRADE]], ("p-1.0.0",), "p.*", {UPGRADE}),
        ([[UPGRADE], [COMES], [NEW]], (), "true", {COMES, NEW}),  # it is told of a when it comes, in one go
        ([[COMES, UPGRADE]], (), "true", {COMES, UPGRADE}),
        ([[UPGRADE, COMES]], (), "true", {COMES}),
        ([[UPGRADE], [GOES], [NEW]], ("p-1.0.0",), "true", {UPGRADE}),
        ([[GOES, NEW]], ("p-1.0.0",), "true", {NEW}),  # what leaves goes last
        ([[MOVES], [NEW]], ("p-1.0.0",), "true", {MOVES, NEW}),
        ([[LEFT]], ("p-1.0.0",), "true", set()),  # what is not enabled has no sets
    ],
)
def test_a_permissions_module_is_told_of_changes_while_there_is_one_that_may_be_called(
    groups: list[list[Change]], enabled: tuple[str, ...], invoke: str, told: set[Change]
) -> None:
    plan = Plan(digest="d", groups=tuple(Group(key=str(n), changes=tuple(changes)) for n, changes in enumerate(groups)))
    assert told_changes(plan, enabled=enabled, describe=TELLERS.__getitem__, invoke=invoke) == told
