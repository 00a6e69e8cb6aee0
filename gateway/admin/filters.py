"""Which modules a listing shows, in which order: the query parameters that the listings of modules share (Okapi's)."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby

from gateway.admin.http import ApiError, Call
from gateway.listing import Entry
from upgrade_core.descriptors import Interface, Requirement
from upgrade_core.errors import UpliftError
from upgrade_core.ids import split_module_id
from upgrade_core.resolution import passes
from upgrade_core.versions import ModuleVersion, interface_satisfies

_Test = Callable[[Entry], bool]


def select(call: Call, entries: Iterable[Entry]) -> list[Entry]:
    """The entries that the query asks for.

    Args:
        call: Its query has `filter`, `latest`, `orderBy`, `order`, `provide`, `require`, `scope`, `preRelease`, `npmSnapshot`.
        entries: Ascending by product and version.

    Raises:
        ApiError: 400 that names the parameter.
    """
    tests = list(_tests(call))
    descending, latest = _order(call), _latest(call)
    found = [entry for entry in entries if all(test(entry) for test in tests)]
    if latest:
        products = groupby(found, key=lambda entry: entry.module.product)
        found = [entry for _, versions in products for entry in list(versions)[-latest:]]
    if descending:
        found.reverse()
    return found


def candidates(call: Call) -> Iterable[Entry]:
    """The registered modules that the query can ask for, found by the indexes; ascending.

    Raises:
        ApiError: 400 that names the parameter.
    """
    listing, query = call.platform.table.listing, call.query
    if "filter" in query:
        return listing.of(_filter(call)[0])
    for parameter, index in (("provide", listing.offering), ("require", listing.asking)):
        if parameter in query:
            ids = {module for interface in _pairs(query[parameter]) for module in index(interface)}
            return sorted((listing[module] for module in ids), key=lambda entry: entry.key)
    return listing


def dot(entries: list[Entry]) -> str:
    """The modules and what they require, as a graph in Graphviz's language."""
    offers: dict[str, list[tuple[str, str]]] = {}
    for entry in entries:
        for interface in entry.module.provides:
            offers.setdefault(interface.id, []).append((interface.version, entry.module.id))
    nodes = {entry.module.id: entry.module.id for entry in entries}
    edges = []
    for entry in entries:
        for need in entry.module.requires:
            met = [module for version, module in offers.get(need.id, ()) if interface_satisfies(version, need.version)]
            if not met:
                met = [f"missing-{need.id}"]
                nodes.setdefault(met[0], f"{met[0]} {need.version}")
            edges += [f"  {_node(entry.module.id)} -> {_node(other)};\n" for other in met]
    labels = [f"  {_node(node)} [label={_quoted(label)}];\n" for node, label in nodes.items()]
    return "".join(["digraph okapi {\n", *labels, *edges, "}\n"])


def _tests(call: Call) -> Iterator[_Test]:
    query = call.query
    pre_release, npm = call.choice("preRelease"), call.choice("npmSnapshot")
    if (pre_release, npm) != ("true", "true"):
        yield lambda entry: passes(entry.version, pre_release=pre_release, npm_snapshot=npm)
    if "filter" in query:
        product, prefix = _filter(call)
        yield lambda entry: entry.module.product == product
        if prefix is not None:
            yield lambda entry: _begins(entry.version, prefix)
    scope = query.get("scope")
    if "provide" in query:
        provided = _pairs(query["provide"])
        yield lambda entry: _names(entry, "provides", entry.module.provides, provided, scope)
    if "require" in query:
        required = _pairs(query["require"])
        yield (
            lambda entry: (
                _names(entry, "requires", entry.module.requires, required, scope)
                or _names(entry, "optional", entry.module.optional, required, scope)
            )
        )


def _order(call: Call) -> bool:
    """Whether the listing descends. Without `orderBy` it does not, whatever `order` says."""
    field = call.query.get("orderBy")
    if field is None:
        return False
    if field != "id":
        raise ApiError(400, f"unknown orderBy field: {field}")
    order = call.query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise ApiError(400, f"invalid order value: {order}")
    return order == "desc"


def _latest(call: Call) -> int:
    value = call.query.get("latest")
    if value is None:
        return 0
    if not re.fullmatch(r"0*[1-9]\d{0,8}", value, re.ASCII):
        raise ApiError(400, f'Bad format for parameter latest. For input string: "{value}"')
    return int(value)


def _filter(call: Call) -> tuple[str, ModuleVersion | None]:
    try:
        product, version = split_module_id(call.query["filter"])
        return product, None if version is None else ModuleVersion.parse(version)
    except UpliftError as error:
        raise ApiError(400, f"Bad value for parameter filter: {error}") from error


def _begins(version: ModuleVersion, prefix: ModuleVersion) -> bool:
    return (
        version.components[: len(prefix.components)] == prefix.components
        and version.pre_release[: len(prefix.pre_release)] == prefix.pre_release
        and prefix.metadata in (None, version.metadata)
    )


def _pairs(text: str) -> Mapping[str, tuple[str, ...]]:
    """`int,int=ver` as the versions asked for by interface; an empty one is any."""
    found: dict[str, tuple[str, ...]] = {}
    for item in text.split(","):
        name, _, version = item.partition("=")
        found[name] = (*found.get(name, ()), version)
    return found


def _names(
    entry: Entry,
    section: str,
    interfaces: tuple[Interface, ...] | tuple[Requirement, ...],
    asked: Mapping[str, tuple[str, ...]],
    scope: str | None,
) -> bool:
    return any(
        (versions := asked.get(interface.id)) is not None
        and ("" in versions or interface.version in versions)
        and (scope is None or scope in entry.scopes.get((section, interface.id), ()))
        for interface in interfaces
    )


def _node(text: str) -> str:
    plain = text.replace("-", "__").replace(".", "_")
    return plain if re.fullmatch(r"[A-Za-z_]\w*", plain, re.ASCII) else _quoted(text)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
