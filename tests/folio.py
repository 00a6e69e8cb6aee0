"""Real FOLIO releases, and what real Okapi answered on them: read where they are, not copied here."""

import functools
import json
import os
from pathlib import Path
from typing import Any

from upgrade_core.descriptors import ModuleDescriptor, parse_descriptor

SHARED = Path(os.environ.get("UPLIFT_SHARED") or Path(__file__).parents[1].parent / "shared")
FOLIO = SHARED / "data" / "folio"
RELEASES = sorted(FOLIO.glob("R*.json"))


@functools.cache
def wires(name: str) -> list[dict[str, Any]]:
    """The descriptors of a file, in its order."""
    found = json.loads((FOLIO / name).read_text(encoding="utf-8"))
    modules: list[dict[str, Any]] = found.get("modules", [found])
    return modules


@functools.cache
def release(name: str) -> dict[str, ModuleDescriptor]:
    """The descriptors of a file by id. Okapi's own internal interfaces are left out: clients cannot register such."""
    found = {}
    for wire in wires(name):
        provides = [each for each in wire.get("provides") or () if each.get("interfaceType") != "internal"]
        found[wire["id"]] = parse_descriptor(wire | {"provides": provides})
    return found
