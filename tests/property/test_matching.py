"""The indexed matcher against one that tries every handler in Okapi's order."""

import re
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.matching import Entry, Matcher
from upgrade_core.descriptors import Handler, Interface, ModuleDescriptor
from upgrade_core.ids import product_of
from upgrade_core.paths import literal_prefix, pattern_to_regex

SEGMENTS = st.sampled_from(["a", "b", "{id}", "*", "", "a*", "{id}b"])
PATTERNS = st.lists(SEGMENTS, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts)) | st.sampled_from(
    ["*", "a", "{x}/a"]
)
METHODS = st.sampled_from([("GET",), ("GET", "POST"), ("*",), ("POST",), ()])
HANDLERS = st.builds(Handler, methods=METHODS, pattern=PATTERNS, prefix_match=st.booleans())
INTERFACES = st.builds(
    Interface,
    id=st.just("x"),
    version=st.just("1.0"),
    type=st.sampled_from(["proxy", "proxy", "proxy", "system", "multiple"]),
    handlers=st.lists(HANDLERS, max_size=4).map(tuple),
)
MODULES = st.builds(
    lambda number, provides: ModuleDescriptor(id=f"m{number}-1.0.0", product=product_of(f"m{number}-1.0.0"), provides=provides),
    st.integers(0, 20),
    st.lists(INTERFACES, max_size=2).map(tuple),
)
SETS = st.lists(MODULES, max_size=5, unique_by=lambda module: module.id).map(tuple)
PATHS = st.lists(st.sampled_from(["a", "b", "ab", ""]), min_size=1, max_size=4).map(
    lambda parts: "/" + "/".join(parts)
) | st.sampled_from(["", "a", "*", "a/b"])


def naive_match(modules: tuple[ModuleDescriptor, ...], method: str, path: str) -> tuple[str, Handler] | None:
    """The longest literal prefix, then the module's id, then the order in its descriptor."""
    found: tuple[str, Handler] | None = None
    for module in sorted(modules, key=lambda module: module.id):
        for interface in module.provides:
            for handler in interface.handlers if interface.type == "proxy" else ():
                if method not in handler.methods and "*" not in handler.methods:
                    continue
                if re.fullmatch(pattern_to_regex(handler.pattern, prefix_match=handler.prefix_match), path) is None:
                    continue
                if found is None or len(literal_prefix(handler.pattern)) > len(literal_prefix(found[1].pattern)):
                    found = module.id, handler
    return found


def told(entry: Entry | None) -> tuple[str, str, frozenset[str]] | None:
    return None if entry is None else (entry.module, entry.fullmatch.pattern, entry.methods)


@settings(max_examples=500)
@given(SETS, st.sampled_from(["GET", "POST", "PUT"]), st.lists(PATHS, min_size=1, max_size=8))
def test_the_index_finds_what_trying_everything_finds(
    modules: tuple[ModuleDescriptor, ...], method: str, paths: list[str]
) -> None:
    matcher = Matcher(modules)
    for path in paths:
        naive = naive_match(modules, method, path)
        expected = naive and (
            naive[0],
            pattern_to_regex(naive[1].pattern, prefix_match=naive[1].prefix_match),
            frozenset(naive[1].methods),
        )
        assert told(matcher.match(method, path)) == expected


@settings(max_examples=500)
@given(SETS, PATHS, st.randoms(use_true_random=False))
def test_the_order_in_which_modules_are_given_does_not_matter(
    modules: tuple[ModuleDescriptor, ...], path: str, random: Random
) -> None:
    shuffled = list(modules)
    random.shuffle(shuffled)
    assert told(Matcher(tuple(shuffled)).match("GET", path)) == told(Matcher(modules).match("GET", path))


def test_of_equal_handlers_the_lower_module_id_answers() -> None:
    interface = Interface(id="x", version="1.0", handlers=(Handler(methods=("GET",), pattern="/{id}"),))
    modules = [ModuleDescriptor(id=f"{name}-1.0.0", product=name, provides=(interface,)) for name in "cab"]
    entry = Matcher(tuple(modules)).match("GET", "/1")
    assert entry is not None
    assert entry.module == "a-1.0.0"
