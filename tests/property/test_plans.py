"""Laws of resolved requests and their plans, on random platforms (requirement E8)."""

import itertools
from collections.abc import Iterable, Mapping
from random import Random

from hypothesis import event, given
from hypothesis import strategies as st

from tests.modules import catalogue_of, module
from upgrade_core.descriptors import ModuleDescriptor, accepts_upgrade_from
from upgrade_core.enabled import Enabled
from upgrade_core.errors import ResolutionError
from upgrade_core.ids import ModuleId, product_of
from upgrade_core.plan import Change, Kind, Mode, Plan, build_plan
from upgrade_core.resolution import Verb, Wanted, resolve, upgrades

PRODUCTS = "abcdef"
VERSIONS = (1, 2, 3)
Catalogue = dict[str, ModuleDescriptor]
State = dict[str, str]
SEEDS = st.integers(0, 2**32)
"""Platforms come from a seed: drawn one by one, their parts take far longer to draw than to check."""


def platform(random: Random, *, choices: bool = True, hops: bool = False) -> Catalogue:
    """Modules that provide an interface of their product's name, and need those of products before theirs, mostly of their age.

    Some platforms have an interface that one product hands over to another, and products that replace others. With hops some
    third versions take data of the second only.

    Without choices a need is met by one registered module and by no other; so none is optional, which going without meets, too.
    """
    found: list[ModuleDescriptor] = []
    handed_over = choices and random.random() < 0.5
    for product in PRODUCTS:
        for version in sorted({1, *random.sample(VERSIONS, random.randint(0, 3))}):
            needs: dict[str, list[str]] = {"requires": [], "optional": []}
            before = sorted({each.product for each in found if each.product != product})
            for other in random.sample(before, min(len(before), random.randint(0, 3))):
                majors = sorted(int(each.id[2]) for each in found if each.product == other)
                fitting = max(major for major in majors if major <= version)
                text = f"{fitting if random.random() < 0.8 else random.choice(majors)}.0"
                if choices:
                    text = random.choice([text, text, f"{max(1, version - 1)}.0/{version}.0", "1.0/2.0/3.0"])
                needs["requires" if not choices or random.random() < 0.7 else "optional"].append(f"{other}={text}")
            also = ",shared" if choices and random.random() < 0.1 else ""
            if handed_over and (product, version > 1) in (("a", False), ("b", True)):
                also += ",handed"  # a's at first, b's later
            elif handed_over and product > "b" and random.random() < 0.4:
                needs["requires"].append("handed=1.0")
            replaces = random.choice(before) if choices and before and random.random() < 0.1 else None
            found.append(
                module(
                    f"{product}-{version}.0.0",
                    f"{product}={version}.0{also}",
                    ",".join(needs["requires"]),
                    ",".join(needs["optional"]),
                    replaces=() if replaces is None else (replaces,),
                    upgrade_from=">=2" if hops and version == 3 and random.random() < 0.6 else "",
                )
            )
    return catalogue_of(*found)


def request(random: Random, catalogue: Catalogue) -> tuple[Wanted, ...]:
    some = random.sample(sorted(catalogue), random.randint(1, 3))
    return tuple(Wanted(id=each) for each in {product_of(each): each for each in some}.values())


def tenant(random: Random, catalogue: Catalogue) -> State:
    """Modules that fit together: those of the first release, or of another one."""
    major = random.choice((1, 1, 1, 2))
    wanted = [each for each in sorted(catalogue) if each[2] == str(major) and random.random() < 0.8]
    return applied({}, tuple(Wanted(id=each) for each in wanted), catalogue) or {}


@st.composite
def moves(draw: st.DrawFn, *, hops: bool = False) -> tuple[Catalogue, State, tuple[Wanted, ...]]:
    """A platform, a tenant whose modules fit together, and a request that can be met."""
    random = Random(draw(SEEDS))
    for _ in range(20):
        catalogue = platform(random, hops=hops)
        start = tenant(random, catalogue)
        wanted = request(random, catalogue) if random.random() < 0.5 else upgrades(tuple(start.values()), catalogue)
        if start and random.random() < 0.15:
            gone = random.choice(sorted(start))
            wanted = (Wanted(id=gone, verb=Verb.DISABLE), *(line for line in wanted if product_of(line.id) != gone))
        if start and wanted and applied(start, wanted, catalogue) is not None:
            return catalogue, start, wanted
    raise AssertionError("a platform in twenty has a request that can be met")


def planned(
    start: State, wanted: tuple[Wanted, ...], catalogue: Catalogue, mode: Mode = Mode.SMALLEST, *, purge: bool = False
) -> Plan:
    enabled = tuple(start.values())
    decisions = resolve(wanted, enabled=enabled, catalogue=catalogue)
    return build_plan(
        decisions, enabled=enabled, data_versions=start, catalogue=catalogue, mode=mode, purge=purge, named=disabled(wanted)
    )


def disabled(wanted: tuple[Wanted, ...]) -> frozenset[str]:
    return frozenset(product_of(line.id) for line in wanted if line.verb is Verb.DISABLE)


def applied(start: State, wanted: tuple[Wanted, ...], catalogue: Catalogue) -> State | None:
    """What a tenant has after a request; None if it is refused."""
    try:
        plan = planned(start, wanted, catalogue)
    except ResolutionError:
        return None
    return moved(start, (change for group in plan.groups for change in group.changes))


def moved(state: Mapping[str, str], changes: Iterable[Change]) -> State:
    found = dict(state)
    for change in changes:
        if change.version_to is None:
            del found[change.product]
        else:
            found[change.product] = change.version_to
    return found


def fits(state: Mapping[str, str], catalogue: Catalogue) -> bool:
    return not Enabled(catalogue[each] for each in state.values()).all_troubles()


@given(moves(hops=True), SEEDS)
def test_nothing_is_unmet_between_groups_in_any_order_that_they_allow(
    move: tuple[Catalogue, State, tuple[Wanted, ...]], seed: int
) -> None:
    (catalogue, start, wanted), random = move, Random(seed)
    plan = planned(start, wanted, catalogue, purge=random.random() < 0.5)
    left, done, state = list(plan.groups), set[str](), dict(start)
    event(f"by versions in between: {any(change.turn for group in left for change in group.changes)}")
    assert fits(state, catalogue)
    while left:
        free = [group for group in left if done.issuperset(group.after)]
        group = random.choice(free)
        left.remove(group)
        done.add(group.key)
        for change in group.changes:
            assert change.bound == change.version_from == state.get(change.product)
        state = moved(state, group.changes)
        assert fits(state, catalogue), group.key
    for line in wanted:
        product = product_of(line.id)
        assert line.verb is Verb.DISABLE or state[product] == line.id


@given(moves())
def test_no_smaller_set_of_changes_would_do(move: tuple[Catalogue, State, tuple[Wanted, ...]]) -> None:
    catalogue, start, wanted = move
    groups, state = planned(start, wanted, catalogue).groups, dict(start)
    event(f"largest group: {max((len(group.changes) for group in groups), default=0)}")
    for position, group in enumerate(groups):
        left = [change for each in groups[position:] for change in each.changes]
        for size in range(1, len(group.changes)):
            for some in itertools.combinations(left, size):
                assert not fits(moved(state, some), catalogue)
        state = moved(state, group.changes)


@given(moves())
def test_changes_of_a_group_are_in_dependency_order(move: tuple[Catalogue, State, tuple[Wanted, ...]]) -> None:
    catalogue, start, wanted = move
    for mode in (Mode.SMALLEST, Mode.ATOMIC):
        for group in planned(start, wanted, catalogue, mode).groups:
            came: set[str] = set()
            gone: set[str] = set()
            for change in group.changes:
                if change.version_to is None:
                    gone.add(change.product)
                    continue
                assert not gone
                later = {each.product for each in group.changes if each.version_to} - came
                assert not later & {need.id for need in catalogue[change.version_to].requires} - {change.product}
                came.add(change.product)


@given(moves())
def test_all_at_once_is_the_same_changes(move: tuple[Catalogue, State, tuple[Wanted, ...]]) -> None:
    catalogue, start, wanted = move
    apart, at_once = planned(start, wanted, catalogue), planned(start, wanted, catalogue, Mode.ATOMIC)
    assert len(at_once.groups) == min(1, len(apart.groups))

    def every(plan: Plan) -> set[Change]:
        return {change for group in plan.groups for change in group.changes}

    assert every(at_once) == every(apart)


@given(moves())
def test_only_the_data_of_what_is_named_is_purged(move: tuple[Catalogue, State, tuple[Wanted, ...]]) -> None:
    """All else is as without."""
    catalogue, start, wanted = move
    kept, purged = planned(start, wanted, catalogue), planned(start, wanted, catalogue, purge=True)
    gone = [change.product for group in purged.groups for change in group.changes if change.kind is Kind.PURGE]
    left = [change.product for group in kept.groups for change in group.changes if change.kind is Kind.DISABLE]
    assert [product for product in left if product in disabled(wanted)] == gone
    assert [[change.subject for change in group.changes] for group in kept.groups] == [
        [change.subject for change in group.changes] for group in purged.groups
    ]


@given(moves(hops=True))
def test_what_was_done_needs_nothing_more(move: tuple[Catalogue, State, tuple[Wanted, ...]]) -> None:
    catalogue, start, wanted = move
    after = applied(start, wanted, catalogue)
    assert after is not None
    again = tuple(line for line in wanted if line.verb is Verb.ENABLE)
    assert planned(after, again, catalogue).groups == ()


@given(moves())
def test_there_and_back_again(move: tuple[Catalogue, State, tuple[Wanted, ...]]) -> None:
    catalogue, start, wanted = move
    after = applied(start, wanted, catalogue)
    assert after is not None
    back = (
        *(Wanted(id=product, verb=Verb.DISABLE) for product in sorted(after.keys() - start.keys())),
        *(Wanted(id=each) for each in start.values()),
    )
    assert applied(after, back, catalogue) == start


@given(moves())
def test_nothing_is_touched_without_need(move: tuple[Catalogue, State, tuple[Wanted, ...]]) -> None:
    """What fits together with what was asked for, and with what that brings in, is left as it is."""
    catalogue, start, wanted = move
    after = applied(start, wanted, catalogue)
    assert after is not None
    if after.items() >= {product_of(line.id): line.id for line in wanted}.items() and fits(
        start | {product_of(line.id): line.id for line in wanted}, catalogue
    ):
        assert after == start | {product_of(line.id): line.id for line in wanted}


def can_be_met(wanted: tuple[Wanted, ...], catalogue: Catalogue) -> bool:
    """By trying every set of modules."""
    asked = {product_of(line.id): line.id for line in wanted}
    others = [
        [None, *(each.id for each in catalogue.values() if each.product == product)]
        for product in PRODUCTS
        if product not in asked
    ]
    return any(
        fits(asked | {product_of(each): each for each in some if each is not None}, catalogue)
        for some in itertools.product(*others)
    )


@given(SEEDS)
def test_what_is_answered_can_be_met(seed: int) -> None:
    random = Random(seed)
    catalogue = platform(random)
    wanted = request(random, catalogue)
    after = applied({}, wanted, catalogue)
    event("answered" if after is not None else "refused")
    if after is not None:
        assert fits(after, catalogue)
        assert can_be_met(wanted, catalogue)


@given(SEEDS)
def test_where_there_is_no_choice_a_request_is_refused_only_if_it_cannot_be_met(seed: int) -> None:
    """Okapi's rules take the newest of several, and do not look back; without several they miss nothing."""
    random = Random(seed)
    catalogue = platform(random, choices=False)
    start, wanted = tenant(random, catalogue), request(random, catalogue)
    after, possible = applied(start, wanted, catalogue), can_be_met(wanted, catalogue)
    event(f"{'answered' if after is not None else 'refused'} with {len(start)} enabled")
    assert (after is not None) is possible


@given(
    st.dictionaries(
        st.integers(1, 6), st.sampled_from(["", ">=2", ">=3", ">=4", ">=5", "<3", "<4,>=2", "==1.*", "==2.*", "==4.*"])
    ),
    st.integers(1, 5),
)
def test_data_goes_the_shortest_way_that_every_version_accepts(ranges: dict[int, str], start: int) -> None:
    ranges = {start: "", 6: ">=5"} | ranges
    catalogue = catalogue_of(*(module(f"m-{major}.0.0", upgrade_from=text) for major, text in ranges.items()))
    between = [major for major in sorted(ranges) if start < major < 6]
    lengths = [
        len(way)
        for size in range(len(between) + 1)
        for way in itertools.combinations(between, size)
        if all(accepts_upgrade_from(ranges[new], f"{old}.0.0") for old, new in itertools.pairwise((start, *way, 6)))
    ]
    try:
        plan = planned({"m": f"m-{start}.0.0"}, (Wanted(id="m-6.0.0"),), catalogue)
    except ResolutionError:
        assert not lengths
        return
    changes = [change for group in plan.groups for change in group.changes]
    assert len(changes) == len(plan.groups) == min(lengths) + 1
    for change in changes:
        assert change.kind is Kind.UPGRADE
        assert change.version_from is not None
        assert change.version_to is not None
        old, new = ModuleId.parse(change.version_from).version, ModuleId.parse(change.version_to).version
        assert accepts_upgrade_from(ranges[new.components[0]], str(old))
    assert changes[-1].version_to == "m-6.0.0"
