"""Every descriptor of real FOLIO releases is read by the core and by the gateway's strict wire model (requirement A1)."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.admin.wire import ModuleDescriptorWire
from gateway.matching import Routes
from tests.folio import FOLIO, RELEASES
from upgrade_core.descriptors import parse_descriptor
from upgrade_core.plan import Kind, build_plan
from upgrade_core.resolution import Wanted, resolve
from upgrade_core.tenant_init import Dialect, Purpose, dialect_of, init_call

pytestmark = pytest.mark.skipif(not RELEASES, reason=f"no descriptors of FOLIO releases in {FOLIO}")


@pytest.fixture(scope="module", params=RELEASES, ids=lambda path: path.stem)
def release(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(request.param.read_text(encoding="utf-8"))["modules"]
    return found


def test_a_release_is_there(release: list[dict[str, Any]]) -> None:
    assert len(release) > 100


def test_every_descriptor_is_read(release: list[dict[str, Any]]) -> None:
    for wire in release:
        found = parse_descriptor(wire)
        assert found.id == wire["id"]
        assert [provided.id for provided in found.provides] == [provided["id"] for provided in wire.get("provides") or ()]
        assert [need.id for need in found.requires] == [need["id"] for need in wire.get("requires") or ()]


def test_every_descriptor_passes_the_wire_model_unchanged(release: list[dict[str, Any]]) -> None:
    for wire in release:
        model = ModuleDescriptorWire.model_validate_json(json.dumps(wire))
        assert model.model_dump(mode="json", exclude_unset=True) == wire


def test_every_module_can_be_initialised_as_its_descriptor_says(release: list[dict[str, Any]]) -> None:
    """Requirement B1."""
    dialects = set()
    for wire in release:
        found = parse_descriptor(wire)
        dialect = dialect_of(found)
        dialects.add(dialect)
        call = init_call(found, purpose=Purpose.INIT, module_from=None, module_to=found.id)
        assert (call is None) <= (dialect is Dialect.NONE or not found.needs_instance or dialect is Dialect.OKAPI_1)
    assert dialects >= {Dialect.OKAPI_1, Dialect.OKAPI_2, Dialect.NONE}


def test_every_handler_is_found_by_a_path_made_from_its_pattern(release: list[dict[str, Any]]) -> None:
    modules = tuple(parse_descriptor(wire) for wire in release)
    routes, bound = Routes(), {module.product: module.id for module in modules}
    for module in modules:
        routes.add(module)
    for module in modules:
        for interface in module.provides:
            for handler in interface.handlers if interface.type == "proxy" else ():
                for method in handler.methods:
                    assert routes.match(bound, "GET" if method == "*" else method, _filled(handler.pattern)) is not None


INCOMPLETE = "R2-2024-ramsons"
"""Serves refused upgrades: some of its modules are not there."""


@pytest.mark.parametrize("path", [path for path in RELEASES if path.stem != INCOMPLETE], ids=lambda path: path.stem)
def test_a_whole_release_is_installed_in_one_request(path: Path) -> None:
    """Requirement B7."""
    modules = [parse_descriptor(wire) for wire in json.loads(path.read_text(encoding="utf-8"))["modules"]]
    catalogue = {module.id: module for module in modules}
    wanted = tuple(Wanted(id=module.id) for module in modules)
    decisions = resolve(wanted, enabled=(), catalogue=catalogue)
    assert sorted(decision.module for decision in decisions) == sorted(catalogue)
    plan = build_plan(decisions, enabled=(), data_versions={}, catalogue=catalogue)
    assert {change.kind for group in plan.groups for change in group.changes} == {Kind.INSTALL}
    again = resolve(wanted, enabled=tuple(catalogue), catalogue=catalogue)
    assert {decision.action for decision in again} == {"uptodate"}


def _filled(pattern: str) -> str:
    """A path of a pattern, with `x` for its wildcards."""
    return re.sub(r"\{[^}]*\}", "x", pattern).replace("*", "x")
