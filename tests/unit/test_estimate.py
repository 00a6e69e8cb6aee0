"""For how long a plan will hold, from what past changes were held for: a table."""

import pytest

from upgrade_core.plan import Change, Group, HeldTime, Kind, Plan, estimate, held_times, name_together

A = Change(kind=Kind.UPGRADE, product="a", bound="a-1.0.0", version_from="a-1.0.0", version_to="a-2.0.0")
B = Change(kind=Kind.UPGRADE, product="b", bound="b-1.0.0", version_from="b-1.0.0", version_to="b-2.0.0")
NEW = Change(kind=Kind.INSTALL, product="c", version_to="c-1.0.0")
OTHER_A = Change(kind=Kind.UPGRADE, product="a", bound="a-0.9.0", version_from="a-0.9.0", version_to="a-1.0.0")
GONE_A = Change(kind=Kind.DISABLE, product="a", bound="a-1.0.0", version_from="a-1.0.0")


def plan(*groups: tuple[Change, ...]) -> Plan:
    return Plan(digest="d", groups=tuple(Group(key=f"{n}", changes=changes) for n, changes in enumerate(groups)))


def past(*held: tuple[tuple[Change, ...], float]) -> tuple[HeldTime, ...]:
    """What is remembered of groups, the newest first."""
    return tuple(time for changes, seconds in held for time in held_times(Group(key="g", changes=changes), seconds))


@pytest.mark.parametrize(
    ("asked", "before", "groups", "total", "unknown"),
    [
        pytest.param(plan((A,)), past(), (None,), None, 1, id="nothing is known"),
        pytest.param(plan(), past(((A,), 2.0)), (), None, 0, id="nothing is to be done"),
        pytest.param(plan((A,)), past(((A,), 1.0), ((A,), 9.0), ((A,), 2.0)), (2.0,), 2.0, 0, id="the median of the same way"),
        pytest.param(plan((A,)), past(((A,), 1.0), ((A,), 2.0)), (1.5,), 1.5, 0, id="between the middle two"),
        pytest.param(
            plan((A,)),
            past(((A,), 1.0), ((A,), 1.0), ((A,), 1.0), *[((A,), 50.0)] * 9),
            (1.0,),
            1.0,
            0,
            id="only the last ones count",
        ),
        pytest.param(plan((A,)), past(((OTHER_A,), 5.0)), (5.0,), 5.0, 0, id="else that of the product"),
        pytest.param(plan((A,)), past(((OTHER_A,), 5.0), ((A,), 1.0)), (1.0,), 1.0, 0, id="the same way before the newest one"),
        pytest.param(plan((A,)), past(((GONE_A,), 0.1)), (None,), None, 1, id="a disable says nothing of an upgrade"),
        pytest.param(plan((A,), (B,)), past(((A,), 1.0), ((B,), 2.0)), (1.0, 2.0), 3.0, 0, id="all groups are summed"),
        pytest.param(plan((A,), (NEW,)), past(((A,), 1.0)), (1.0, None), 1.0, 1, id="what is known is summed"),
        pytest.param(plan((A, B)), past(((A,), 1.0), ((B,), 2.0)), (3.0,), 3.0, 0, id="a new group takes what its changes took"),
        pytest.param(plan((A, NEW)), past(((A,), 1.0)), (None,), None, 1, id="of one change of the group nothing is known"),
        pytest.param(plan((A, B)), past(((A, B), 4.0), ((A,), 1.0)), (4.0,), 4.0, 0, id="a group that was there before"),
        pytest.param(plan((B, A)), past(((A, B), 4.0)), (4.0,), 4.0, 0, id="in whatever order"),
    ],
)
def test_held_time_is_estimated(
    asked: Plan, before: tuple[HeldTime, ...], groups: tuple[float | None, ...], total: float | None, unknown: int
) -> None:
    found = estimate(asked, before, last=3)
    assert (found.groups, found.total, found.unknown) == (groups, total, unknown)


def test_changes_between_other_versions_are_another_group() -> None:
    assert name_together((A, B)) != name_together((OTHER_A, B))
