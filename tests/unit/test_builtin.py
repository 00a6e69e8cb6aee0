"""The built-in module's descriptor."""

import pytest

from gateway.admin.wire import ModuleDescriptorWire
from gateway.builtin import built_in_descriptor
from upgrade_core.descriptors import parse_descriptor
from upgrade_core.ids import ModuleId


@pytest.mark.parametrize(
    ("ours", "module"),
    [
        ("1.2.0", "okapi-1.2.0"),
        ("1.2.0.dev3", "okapi-1.2.0-dev3"),
        ("1.2.0rc1", "okapi-1.2.0-rc1"),
        ("2.0+local", "okapi-2.0+local"),
    ],
)
def test_it_has_our_version(ours: str, module: str) -> None:
    wire = built_in_descriptor(ours)
    assert wire["id"] == module
    assert parse_descriptor(wire).module_id == ModuleId.parse(module)
    assert not parse_descriptor(wire).needs_instance
    ModuleDescriptorWire.model_validate(wire)


def test_what_comes_before_a_release_is_lower() -> None:
    before, release = (ModuleId.parse(built_in_descriptor(version)["id"]) for version in ("1.2.0rc1", "1.2.0"))
    assert before < release
