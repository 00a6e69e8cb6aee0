"""The listing of registered modules agrees with a plain search, whatever was added and removed."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.listing import Listing
from upgrade_core.ids import ModuleId

INTERFACES = st.lists(st.sampled_from(["i", "j", "_k"]), unique=True, max_size=2)
IDS = st.builds(
    "{}-{}".format,
    st.sampled_from(["mod-a", "mod-b", "x"]),
    st.sampled_from(["1.0.0", "1.0.0-a.1", "1.10.0", "1.9.0", "2.0.12345", "1.0.0+b"]),
)
STEPS = st.lists(st.tuples(IDS, st.booleans(), INTERFACES, INTERFACES, INTERFACES), max_size=25)


def section(interfaces: list[str]) -> list[dict[str, str]]:
    return [{"id": interface, "version": "1.0"} for interface in interfaces]


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_the_listing_is_what_was_added_and_not_removed(steps: list[tuple[str, bool, list[str], list[str], list[str]]]) -> None:
    listing, known = Listing(), dict[str, dict[str, Any]]()
    for module, adds, provides, requires, optional in steps:
        if adds:
            wire = {
                "id": module, "provides": section(provides), "requires": section(requires), "optional": section(optional),
            }  # fmt: skip
            known[module] = wire
            listing.add(json.dumps(wire))
        else:
            known.pop(module, None)
            listing.remove(module)
    assert [entry.module.id for entry in listing] == sorted(known, key=ModuleId.parse)
    assert all(json.loads(listing[module].text) == wire for module, wire in known.items())
    for product in ("mod-a", "mod-b", "x"):
        versions = sorted((module for module in known if ModuleId.parse(module).product == product), key=ModuleId.parse)
        assert [entry.module.id for entry in listing.of(product)] == versions
    for interface in ("i", "j", "_k"):
        offering = {module for module, wire in known.items() if {"id": interface, "version": "1.0"} in wire["provides"]}
        asking = {
            module for module, wire in known.items() if {"id": interface, "version": "1.0"} in wire["requires"] + wire["optional"]
        }
        assert set(listing.offering(interface)) == offering
        assert set(listing.asking(interface)) == asking
