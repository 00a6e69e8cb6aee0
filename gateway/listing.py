"""The registered modules in their order, printed once, with indexes: no request reads all descriptors anew."""

import json
from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.okapi_json import pretty
from upgrade_core.descriptors import ModuleDescriptor, parse_descriptor
from upgrade_core.versions import ModuleVersion

_BRIEF = ("id", "name", "tags")
_NO_SCOPES: dict[tuple[str, str], tuple[str, ...]] = {}


@dataclass(slots=True, eq=False, kw_only=True)
class Entry:
    """A registered module.

    Attributes:
        module: As decisions see it.
        key: Sorts by product and version.
        version: Its version.
        text: The descriptor, printed.
        brief: Its line in a listing, printed.
        scopes: The scopes of its interfaces, by section (`provides`, `requires`, `optional`) and id; mostly there are none.
    """

    module: ModuleDescriptor
    key: tuple[Any, ...]
    version: ModuleVersion
    text: str
    brief: str
    scopes: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=lambda: _NO_SCOPES)
    _provided: list[str] | None = None

    @property
    def provided(self) -> list[str]:
        """Its provided interfaces whole, printed; in the order of `module.provides`."""
        if self._provided is None:
            self._provided = [pretty(wire) for wire in json.loads(self.text).get("provides") or ()]
        return self._provided


class Listing:
    """All registered modules."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._products: list[str] = []
        self._of: dict[str, list[Entry]] = {}
        self._offering: dict[str, dict[str, ModuleDescriptor]] = {}
        self._asking: dict[str, dict[str, ModuleDescriptor]] = {}

    def __contains__(self, module: str) -> bool:
        return module in self._entries

    def __getitem__(self, module: str) -> Entry:
        return self._entries[module]

    def __iter__(self) -> Iterator[Entry]:
        """All, ascending by product and version."""
        for product in self._products:
            yield from self._of[product]

    def of(self, product: str) -> list[Entry]:
        """The versions of a product, ascending; not to be changed."""
        return self._of.get(product, [])

    def offering(self, interface: str) -> Mapping[str, ModuleDescriptor]:
        """The modules that provide an interface, of whatever type and version, by id."""
        return self._offering.get(interface, {})

    def asking(self, interface: str) -> Mapping[str, ModuleDescriptor]:
        """The modules that require an interface, or accept it as optional, in whatever version, by id."""
        return self._asking.get(interface, {})

    def add(self, text: str) -> Entry:
        """Know a module by its descriptor.

        Args:
            text: The descriptor as JSON; it is printed anew if it is not as Okapi prints it.
        """
        wire = json.loads(text)
        module = parse_descriptor(wire)
        self.remove(module.id)
        scopes = {
            (section, item["id"]): tuple(item["scope"])
            for section in ("provides", "requires", "optional")
            for item in wire.get(section) or ()
            if item.get("scope")
        }
        entry = Entry(
            module=module,
            key=module.module_id.order_key,
            version=module.module_id.version,
            text=text if text.startswith("{\n") else pretty(wire),
            brief=pretty({name: wire[name] for name in _BRIEF if wire.get(name)}),
            scopes=scopes or _NO_SCOPES,
        )
        self._entries[module.id] = entry
        if module.product not in self._of:
            self._of[module.product] = []
            insort(self._products, module.product)
        insort(self._of[module.product], entry, key=_key)
        for index, interfaces in ((self._offering, module.provides), (self._asking, (*module.requires, *module.optional))):
            for interface in interfaces:
                index.setdefault(interface.id, {})[module.id] = module
        return entry

    def remove(self, module: str) -> None:
        """Know a module no more."""
        entry = self._entries.pop(module, None)
        if entry is None:
            return
        product = entry.module.product
        versions = self._of[product]
        del versions[bisect_left(versions, entry.key, key=_key)]
        if not versions:
            del self._of[product]
            del self._products[bisect_left(self._products, product)]
        gone = entry.module
        for index, interfaces in ((self._offering, gone.provides), (self._asking, (*gone.requires, *gone.optional))):
            for interface in interfaces:
                known = index.get(interface.id, {})
                known.pop(module, None)
                if not known:
                    index.pop(interface.id, None)


def _key(entry: Entry) -> tuple[Any, ...]:
    return entry.key


__all__ = ["Entry", "Listing"]
