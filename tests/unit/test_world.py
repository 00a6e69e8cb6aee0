"""What moved between two worlds, and what differs between two plans."""

from dataclasses import replace

import pytest

from upgrade_core.plan import Change, Group, Kind, Plan, World, differing, moved

BEFORE = World.of(
    enabled=("b-1.0.0", "a-1.0.0"),
    registered=("b-1.0.0", "a-1.0.0", "a-2.0.0"),
    data_versions={"b": "b-1.0.0", "a": "a-1.0.0"},
)


def test_a_world_is_the_same_whatever_the_order_it_was_seen_in() -> None:
    other = World.of(
        enabled=("a-1.0.0", "b-1.0.0"),
        registered=("a-2.0.0", "a-1.0.0", "b-1.0.0"),
        data_versions={"a": "a-1.0.0", "b": "b-1.0.0"},
    )
    assert other == BEFORE
    assert moved(BEFORE, other) == ()


@pytest.mark.parametrize(
    ("now", "clauses"),
    [
        (replace(BEFORE, enabled=("a-2.0.0", "b-1.0.0")), ("a-2.0.0 is enabled, not a-1.0.0",)),
        (replace(BEFORE, enabled=("b-1.0.0",)), ("a-1.0.0 is not enabled any more",)),
        (replace(BEFORE, enabled=("a-1.0.0", "b-1.0.0", "c-1.0.0")), ("c-1.0.0 is enabled",)),
        (
            replace(BEFORE, data_versions=(("a", "a-2.0.0"), ("c", "c-1.0.0"))),
            (
                "the data of a is at a-2.0.0, not at a-1.0.0",
                "the data of b, at b-1.0.0, is gone",
                "there is data of c, at c-1.0.0",
            ),
        ),
        (
            replace(BEFORE, registered=("a-1.0.0", "b-1.0.0", "c-1.0.0")),
            ("c-1.0.0 is registered", "a-2.0.0 is not registered any more"),
        ),
    ],
)
def test_each_thing_that_moved_is_a_clause(now: World, clauses: tuple[str, ...]) -> None:
    assert moved(BEFORE, now) == clauses


UPGRADE = Change(kind=Kind.UPGRADE, product="a", bound="a-1.0.0", version_from="a-1.0.0", version_to="a-2.0.0")
INSTALL = Change(kind=Kind.INSTALL, product="c", version_to="c-1.0.0")
DISABLE = Change(kind=Kind.DISABLE, product="b", bound="b-1.0.0", version_from="b-1.0.0")


def plan(*groups: tuple[Change, ...], after: tuple[str, ...] = ()) -> Plan:
    keyed = [Group(key=f"{n}-{group[0].product}", changes=group) for n, group in enumerate(groups, 1)]
    if keyed:
        keyed[-1] = replace(keyed[-1], after=after)
    return Plan(digest="whatever", groups=tuple(keyed))


@pytest.mark.parametrize(
    ("before", "now", "clauses"),
    [
        (plan((UPGRADE,)), plan((UPGRADE,)), ()),
        (plan((UPGRADE,)), plan((UPGRADE,), (INSTALL,)), ("install of c-1.0.0 is to be done",)),
        (plan((UPGRADE,), (DISABLE,)), plan((UPGRADE,)), ("disable of b-1.0.0 is not to be done any more",)),
        (
            plan((UPGRADE,)),
            plan((replace(UPGRADE, version_to="a-3.0.0"),)),
            (
                "upgrade of a-3.0.0 from a-1.0.0 is to be done",
                "upgrade of a-2.0.0 from a-1.0.0 is not to be done any more",
            ),
        ),
        (plan((UPGRADE,), (INSTALL,)), plan((UPGRADE, INSTALL)), ("install of c-1.0.0 is in group 1-a",)),
        (plan((UPGRADE,), (INSTALL,)), plan((UPGRADE,), (INSTALL,), after=("1-a",)), ("groups wait for others",)),
        (
            replace(plan((UPGRADE,)), options=(("deploy", "false"), ("invoke", "a.*"))),
            replace(plan((UPGRADE,)), options=(("invoke", "false"),)),
            ("deploy=false is not asked for any more", "invoke=false is asked for, not invoke=a.*"),
        ),
    ],
)
def test_each_change_that_differs_is_a_clause(before: Plan, now: Plan, clauses: tuple[str, ...]) -> None:
    assert differing(before, now) == clauses
