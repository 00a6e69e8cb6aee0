"""The indexed matcher against one that tries every handler in Okapi's order."""

import re
from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.matching import Entry, Routes
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


def naive_match(modules: Iterable[ModuleDescriptor], method: str, path: str) -> tuple[str, int] | None:
    """The longest literal prefix, then the module's id, then the order in its descriptor."""
    found: tuple[str, int] | None = None
    longest = -1
    for module in sorted(modules, key=lambda module: module.id):
        handlers = [handler for each in module.provides if each.type == "proxy" for handler in each.handlers]
        for number, handler in enumerate(handlers):
            if method not in handler.methods and "*" not in handler.methods:
                continue
            if re.fullmatch(pattern_to_regex(handler.pattern, prefix_match=handler.prefix_match), path) is None:
                continue
            if len(literal_prefix(handler.pattern)) > longest:
                found, longest = (module.id, number), len(literal_prefix(handler.pattern))
    return found


def told(entry: Entry | None) -> tuple[str, int] | None:
    """Which module, and which of its handlers."""
    return None if entry is None else (entry.module, entry.rank[2])


def routes_of(modules: Iterable[ModuleDescriptor]) -> Routes:
    routes = Routes()
    for module in modules:
        routes.add(module)
    return routes


def bound_to(modules: Iterable[ModuleDescriptor]) -> dict[str, str]:
    return {module.product: module.id for module in modules}


@settings(max_examples=200)
@given(SETS, st.data(), st.sampled_from(["GET", "POST", "PUT"]), st.lists(PATHS, min_size=1, max_size=8))
def test_the_tree_finds_what_trying_everything_finds(
    modules: tuple[ModuleDescriptor, ...], data: st.DataObject, method: str, paths: list[str]
) -> None:
    """Of the modules that are known, only those count that a tenant has."""
    has = data.draw(st.lists(st.sampled_from(modules), unique_by=lambda module: module.id)) if modules else []
    routes = routes_of(modules)
    for path in paths:
        assert told(routes.match(bound_to(has), method, path)) == naive_match(has, method, path)


VERSIONS = st.builds(
    lambda product, number, provides: ModuleDescriptor(id=f"m{product}-{number}.0.0", product=f"m{product}", provides=provides),
    st.integers(0, 3),
    st.integers(1, 3),
    st.lists(INTERFACES, max_size=2).map(tuple),
)


@settings(max_examples=200)
@given(st.lists(st.tuples(VERSIONS, st.sampled_from(["add", "add", "remove"])), max_size=12), st.data(), PATHS)
def test_what_was_added_and_removed_is_as_if_it_had_never_been(
    steps: list[tuple[ModuleDescriptor, str]], data: st.DataObject, path: str
) -> None:
    routes, there = Routes(), dict[str, ModuleDescriptor]()
    for module, step in steps:
        if step == "add":
            routes.add(module)
            there[module.id] = module
        else:
            routes.remove(module.id, module.product)
            there.pop(module.id, None)
    choices = st.lists(st.sampled_from(list(there.values())), unique_by=lambda module: module.product) if there else st.just([])
    has = data.draw(choices)
    assert told(routes.match(bound_to(has), "GET", path)) == naive_match(has, "GET", path)


def test_of_equal_handlers_the_lower_module_id_answers() -> None:
    interface = Interface(id="x", version="1.0", handlers=(Handler(methods=("GET",), pattern="/{id}"),))
    modules = [ModuleDescriptor(id=f"{name}-1.0.0", product=name, provides=(interface,)) for name in "cab"]
    entry = routes_of(modules).match(bound_to(modules), "GET", "/1")
    assert entry is not None
    assert entry.module == "a-1.0.0"
