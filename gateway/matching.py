"""Which enabled module answers a path: the patterns of all modules in one tree by segments, shared by all tenants.

A tenant's set is looked at while the tree is walked, so nothing is built anew when it is switched to another version.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from upgrade_core.descriptors import ModuleDescriptor
from upgrade_core.paths import literal_prefix, pattern_to_regex


@dataclass(frozen=True, slots=True)
class Entry:
    """One handler of one module.

    Attributes:
        rank: Its place in Okapi's order of trial: the longest literal prefix first, then the module's id, then the order in
            its descriptor.
        pattern: As in the descriptor, to be told.
        delegates_cors: Whether the module answers browsers itself that ask from another origin.
        rest: What paths must match where the tree alone does not tell; None: it does.
    """

    rank: tuple[int, str, int]
    pattern: str
    rest: "re.Pattern[str] | None"
    methods: frozenset[str]
    any_method: bool
    delegates_cors: bool
    product: str
    module: str


_Entries = dict[str, dict[str, list[Entry]]]
"""By product and module."""
_Asked = tuple[Mapping[str, str], str, str]
"""The versions that count by product, the method and the path."""


@dataclass(slots=True, eq=False)
class _Node:
    """What the segments up to here lead to."""

    literal: "dict[str, _Node]" = field(default_factory=dict)
    """By the next segment."""
    variable: "_Node | None" = None
    """If the next segment is a `{variable}`."""
    ends: _Entries = field(default_factory=dict)
    """Handlers of which no segment is left."""
    tails: _Entries = field(default_factory=dict)
    """Handlers whose next segment is neither: a regular expression tells."""


class Routes:
    """The handlers of modules.

    Args:
        multiple: Whether of the interfaces that several modules may provide at once, instead of all others.
    """

    def __init__(self, *, multiple: bool = False) -> None:
        self._type = "multiple" if multiple else "proxy"
        self._root = _Node()
        self._modules: dict[str, list[_Entries]] = {}

    def add(self, module: ModuleDescriptor) -> None:
        """Take the handlers of a module in, instead of what it had before."""
        self.remove(module.id, module.product)
        places: list[_Entries] = []
        handlers = [handler for each in module.provides if each.type == self._type for handler in each.handlers]
        for number, handler in enumerate(handlers):
            pattern, prefix_match = handler.pattern, handler.prefix_match
            place, is_tail = self._place(pattern, prefix_match=prefix_match)
            entry = Entry(
                rank=(-len(literal_prefix(pattern)), module.id, number),
                pattern="".join(char if char.isprintable() else "?" for char in pattern),  # it goes into a header
                rest=re.compile(pattern_to_regex(pattern, prefix_match=prefix_match)) if is_tail else None,
                methods=frozenset(handler.methods),
                any_method="*" in handler.methods,
                delegates_cors=handler.delegates_cors,
                product=module.product,
                module=module.id,
            )
            entries = place.setdefault(module.product, {}).setdefault(module.id, [])
            entries.append(entry)
            entries.sort(key=lambda each: each.rank)
            places.append(place)
        self._modules[module.id] = places

    def remove(self, module: str, product: str) -> None:
        """Know the handlers of a module no more."""
        for place in self._modules.pop(module, ()):
            versions = place.get(product, {})
            versions.pop(module, None)
            if not versions:
                place.pop(product, None)

    def __contains__(self, module: str) -> bool:
        """Whether the handlers of a module are in."""
        return module in self._modules

    def match(self, bound: Mapping[str, str], method: str, path: str) -> Entry | None:
        """The first handler that answers a request.

        Args:
            bound: Product to module: the versions that count.
            method: Of the request.
            path: Raw, without query and fragment.
        """
        return _search(self._root, path.split("/"), 0, None, (bound, method, path))

    def _place(self, pattern: str, *, prefix_match: bool) -> tuple[_Entries, bool]:
        """Where a handler is kept, and whether the tree alone does not tell what it matches."""
        node = self._root
        parts = pattern.split("/")
        for number, part in enumerate(parts):
            if prefix_match and number == len(parts) - 1:
                return node.tails, True
            if not prefix_match and part.startswith("{") and part.find("}") == len(part) - 1:
                if node.variable is None:
                    node.variable = _Node()
                node = node.variable
            elif not prefix_match and ("*" in part or "{" in part):
                return node.tails, True
            else:
                node = node.literal.setdefault(part, _Node())
        return node.ends, False


def _search(node: _Node, parts: Sequence[str], start: int, best: Entry | None, asked: _Asked) -> Entry | None:
    """The first handler below a node that answers the segments from one on, if it comes before the best so far."""
    for number in range(start, len(parts)):
        if node.tails:
            best = _better(best, node.tails, asked)
        part = parts[number]
        child = node.literal.get(part)
        variable = node.variable
        if variable is not None and part:
            if child is None:
                child = variable
            else:
                best = _search(variable, parts, number + 1, best, asked)
        if child is None:
            return best
        node = child
    return _better(best, node.ends, asked) if node.ends else best


def _better(best: Entry | None, place: _Entries, asked: _Asked) -> Entry | None:
    """The first of a place's handlers that answers, if it comes before the best so far."""
    bound, method, path = asked
    for product, versions in place.items():
        module = bound.get(product)
        if module is None or (entries := versions.get(module)) is None:
            continue
        for entry in entries:
            if best is not None and entry.rank > best.rank:
                break
            if (entry.any_method or method in entry.methods) and (entry.rest is None or entry.rest.fullmatch(path)):
                best = entry
                break
    return best
