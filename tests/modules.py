"""Descriptors in few words, for tests of the rules."""

from collections.abc import Iterator

from upgrade_core.descriptors import Interface, ModuleDescriptor, Requirement, Undo, UpliftMetadata
from upgrade_core.ids import product_of


def module(
    module_id: str,
    provides: str = "",
    requires: str = "",
    optional: str = "",
    *,
    kind: str = "proxy",
    replaces: tuple[str, ...] = (),
    upgrade_from: str = "",
    undo: Undo | None = None,
) -> ModuleDescriptor:
    """A module from texts such as `inta=1.0,intb=2.0`; `1.0/2.0` are alternatives, and `inta` alone is its version 1.0."""

    def pairs(text: str) -> Iterator[tuple[str, str]]:
        for item in filter(None, text.split(",")):
            name, _, version = item.partition("=")
            yield name, version.replace("/", " ") or "1.0"

    return ModuleDescriptor(
        id=module_id,
        product=product_of(module_id),
        provides=tuple(Interface(id=name, version=version, type=kind) for name, version in pairs(provides)),
        requires=tuple(Requirement(id=name, version=version) for name, version in pairs(requires)),
        optional=tuple(Requirement(id=name, version=version) for name, version in pairs(optional)),
        replaces=replaces,
        uplift=UpliftMetadata(upgrade_from=upgrade_from, undo=undo),
    )


def catalogue_of(*modules: ModuleDescriptor) -> dict[str, ModuleDescriptor]:
    """Descriptors by id."""
    return {each.id: each for each in modules}
