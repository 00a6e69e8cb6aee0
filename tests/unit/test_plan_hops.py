"""Modules that are taken through versions in between."""

import pytest

from tests.modules import catalogue_of, module
from tests.plans import changes, enable, plan, subjects
from upgrade_core.descriptors import ModuleDescriptor
from upgrade_core.errors import ResolutionError
from upgrade_core.ids import product_of
from upgrade_core.plan import Change, Group, Kind, Mode


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
    two = Change(kind=Kind.UPGRADE, product="a", bound="a-2.0.0", version_from="a-2.0.0", version_to="a-3.0.0", turn=1)
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


def test_each_change_of_a_product_has_a_key_of_its_own_and_the_first_the_one_of_runs_at_work() -> None:
    """A retry is the same request, and no other change of the job is taken for it (requirement D3)."""
    catalogue = hopping(module("a-2.5.0", upgrade_from=">=2.0"), accepts=">=2.5")
    found = plan(enable("a-3.0.0"), enabled=("a-1.0.0",), catalogue=catalogue)
    assert [(change.subject, change.key) for change in changes(found)] == [
        ("a-2.0.0", "a"),
        ("a-2.5.0", "a-1"),
        ("a-3.0.0", "a-2"),
    ]
    assert product_of("a-2") == "a", "no product looks like a key"
