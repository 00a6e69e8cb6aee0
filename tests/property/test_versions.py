"""Laws of versions and module ids (requirement B3)."""

import itertools
import operator

from hypothesis import given
from hypothesis import strategies as st

from upgrade_core.errors import InvalidId
from upgrade_core.ids import MAX_MODULE_ID, ModuleId, split_module_id
from upgrade_core.versions import ModuleVersion, interface_satisfies

NUMBERS = st.one_of(st.integers(0, 12), st.integers(0, 10**18 - 1))
NAMES = st.text("abXYZ-~_é", min_size=1, max_size=4)
METADATA = st.none() | st.text("ab01.-+", max_size=4)
# Few letters and small numbers, so that versions often share what comes first.
VERSIONS = st.builds(
    ModuleVersion,
    components=st.lists(NUMBERS, min_size=1, max_size=4).map(tuple),
    pre_release=st.lists(st.one_of(NUMBERS, NAMES), max_size=3).map(tuple),
    metadata=METADATA,
)
PRODUCTS = st.from_regex(r"[abé1](?:[abé1]|-+[abé]){0,6}-*", fullmatch=True)
SMALL = st.integers(0, 3)
INTERFACES = st.builds(lambda *parts: ".".join(map(str, parts)), SMALL, SMALL) | st.builds(
    lambda *parts: ".".join(map(str, parts)), SMALL, SMALL, SMALL
)
REQUIREMENTS = st.lists(INTERFACES, min_size=1, max_size=3).map(" ".join)


def split_or_none(text: str) -> tuple[str, str | None] | None:
    try:
        return split_module_id(text)
    except InvalidId:
        return None


@given(VERSIONS)
def test_a_version_is_read_as_it_was_written(version: ModuleVersion) -> None:
    assert ModuleVersion.parse(str(version)) == version
    assert str(ModuleVersion.parse(str(version))) == str(version)


@given(st.text("0123456789.-+a", max_size=12))
def test_what_can_be_read_can_be_written_and_read_again(text: str) -> None:
    try:
        version = ModuleVersion.parse(text)
    except InvalidId:
        return
    assert ModuleVersion.parse(str(version)) == version
    assert hash(ModuleVersion.parse(str(version))) == hash(version)


@given(st.text(max_size=12))
def test_any_text_is_a_version_or_refused(text: str) -> None:
    try:
        ModuleVersion.parse(text)
    except InvalidId:
        return


@given(VERSIONS, VERSIONS)
def test_of_two_versions_one_is_lower_or_both_are_equal(one: ModuleVersion, other: ModuleVersion) -> None:
    assert (one < other) + (one == other) + (other < one) == 1
    assert (one == other) == (str(one) == str(other))
    assert (one <= other) == (not other < one)


@given(VERSIONS, VERSIONS, VERSIONS)
def test_the_order_is_transitive(one: ModuleVersion, other: ModuleVersion, third: ModuleVersion) -> None:
    low, middle, high = sorted((one, other, third))
    assert low <= middle <= high
    assert low <= high


@given(VERSIONS, VERSIONS)
def test_the_order_is_that_of_a_naive_comparison(one: ModuleVersion, other: ModuleVersion) -> None:
    assert (one > other) - (one < other) == naive(one, other)


def naive(one: ModuleVersion, other: ModuleVersion) -> int:
    """Okapi's rule, step by step."""
    for mine, its in zip(one.components, other.components, strict=False):
        if mine != its:
            return 1 if mine > its else -1
    if len(one.components) != len(other.components):
        return 1 if len(one.components) > len(other.components) else -1
    if bool(one.pre_release) != bool(other.pre_release):
        return -1 if one.pre_release else 1
    for a, b in zip(one.pre_release, other.pre_release, strict=False):
        if isinstance(a, int) and isinstance(b, int):
            if a != b:
                return 1 if a > b else -1
        elif isinstance(a, int) or isinstance(b, int):
            return -1 if isinstance(a, int) else 1
        elif a != b:
            return 1 if a > b else -1
    if len(one.pre_release) != len(other.pre_release):
        return 1 if len(one.pre_release) > len(other.pre_release) else -1
    if one.metadata is None or other.metadata is None:
        return (one.metadata is not None) - (other.metadata is not None)
    return (one.metadata > other.metadata) - (one.metadata < other.metadata)


@given(VERSIONS)
def test_a_pre_release_is_below_its_release(version: ModuleVersion) -> None:
    release = ModuleVersion(version.components)
    assert (version < release) == version.is_pre_release


@given(PRODUCTS, VERSIONS)
def test_a_module_id_is_its_product_a_dash_and_its_version(product: str, version: ModuleVersion) -> None:
    text = f"{product}-{version}"
    if len(text) > MAX_MODULE_ID:
        return
    assert split_module_id(text) == (product, str(version))
    found = ModuleId.parse(text)
    assert (found.product, found.version, str(found)) == (product, version, text)


@given(st.text("ab-1.", max_size=12))
def test_a_split_takes_nothing_away(text: str) -> None:
    found = split_or_none(text)
    if found is None:
        return
    product, version = found
    assert product
    assert text == (product if version is None else f"{product}-{version}")
    assert not any(product[place] == "-" and product[place + 1].isdigit() for place in range(len(product) - 1))
    assert version is None or version[0].isdigit()


@given(st.lists(st.tuples(PRODUCTS, VERSIONS), max_size=6))
def test_module_ids_are_sorted_by_product_first(pairs: list[tuple[str, ModuleVersion]]) -> None:
    ids = sorted(ModuleId(product, version, f"{product}-{version}") for product, version in pairs)
    assert [(found.product, found.version) for found in ids] == sorted(pairs, key=operator.itemgetter(0, 1))


@given(INTERFACES)
def test_an_interface_meets_itself(version: str) -> None:
    assert interface_satisfies(version, version)


@given(INTERFACES, INTERFACES, INTERFACES)
def test_what_meets_a_version_meets_all_that_this_one_meets(one: str, other: str, third: str) -> None:
    if interface_satisfies(one, other) and interface_satisfies(other, third):
        assert interface_satisfies(one, third)


@given(INTERFACES, INTERFACES)
def test_two_interfaces_that_meet_each_other_are_the_same(one: str, other: str) -> None:
    if interface_satisfies(one, other) and interface_satisfies(other, one):
        assert one == other


@given(INTERFACES, REQUIREMENTS)
def test_the_first_alternative_of_the_major_decides(provided: str, required: str) -> None:
    same_major = [need for need in required.split() if need.partition(".")[0] == provided.partition(".")[0]]
    expected = bool(same_major) and interface_satisfies(provided, same_major[0])
    assert interface_satisfies(provided, required) is expected


@given(INTERFACES, REQUIREMENTS)
def test_an_alternative_that_comes_last_never_takes_anything_away(provided: str, required: str) -> None:
    alternatives = required.split()
    met = [interface_satisfies(provided, " ".join(alternatives[:count])) for count in range(1, len(alternatives) + 1)]
    assert all(later or not earlier for earlier, later in itertools.pairwise(met))
