"""Which enabled module answers a path: patterns of the modules' handlers, indexed by their first two segments."""

import re
from dataclasses import dataclass

from upgrade_core.descriptors import ModuleDescriptor
from upgrade_core.paths import literal_prefix, pattern_to_regex


@dataclass(frozen=True, slots=True)
class Entry:
    """One handler of one module."""

    fullmatch: "re.Pattern[str]"
    methods: frozenset[str]
    any_method: bool
    prefix: str
    first: str | None
    second: str | None
    product: str
    module: str


class Matcher:
    """The handlers of a set of modules; immutable, shared by all tenants that have the same set.

    Order of trial is Okapi's: the longest literal prefix first, then the module's id, then the order in its descriptor.
    """

    def __init__(self, modules: tuple[ModuleDescriptor, ...]) -> None:
        entries = [
            Entry(
                fullmatch=re.compile(pattern_to_regex(handler.pattern, prefix_match=handler.prefix_match)),
                methods=frozenset(handler.methods),
                any_method="*" in handler.methods,
                prefix=literal_prefix(handler.pattern),
                first=_whole_segments(handler.pattern, prefix_match=handler.prefix_match)[0],
                second=_whole_segments(handler.pattern, prefix_match=handler.prefix_match)[1],
                product=module.product,
                module=module.id,
            )
            for module in sorted(modules, key=lambda module: module.id)
            for interface in module.provides
            if interface.type == "proxy"
            for handler in interface.handlers
        ]
        entries.sort(key=lambda entry: -len(entry.prefix))
        self._otherwise = [entry for entry in entries if entry.first is None]
        self._candidates: dict[tuple[str, str | None], list[Entry]] = {}
        for first in {entry.first for entry in entries} - {None}:
            assert first is not None
            same_first = [entry for entry in entries if entry.first in (None, first)]
            for second in {entry.second for entry in same_first} | {None}:
                self._candidates[first, second] = [entry for entry in same_first if entry.second in (None, second)]

    def match(self, method: str, path: str) -> Entry | None:
        """The first entry that answers a request; the path is raw, without its query."""
        parts = path.split("/", 3)
        first = parts[1] if len(parts) > 1 else ""
        second = parts[2] if len(parts) > 2 else None  # noqa: PLR2004
        candidates = self._candidates.get((first, second))
        if candidates is None:
            candidates = self._candidates.get((first, None), self._otherwise)
        for entry in candidates:
            if (entry.any_method or method in entry.methods) and entry.fullmatch.fullmatch(path):
                return entry
        return None


def _whole_segments(pattern: str, *, prefix_match: bool) -> tuple[str | None, str | None]:
    """The first two segments that every path of a pattern starts with; None where there is none."""
    prefix = literal_prefix(pattern)
    whole = prefix.split("/")[1:] if prefix == pattern and not prefix_match else prefix.split("/")[1:-1]
    return (whole[0] if whole else None), (whole[1] if len(whole) > 1 else None)
