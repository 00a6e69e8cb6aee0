"""Plans in few words, for tests of what they are."""

from collections.abc import Mapping

from tests.modules import module
from upgrade_core.descriptors import ModuleDescriptor, Undo
from upgrade_core.plan import Change, Mode, Plan, build_plan
from upgrade_core.resolution import Decision

CATALOGUE = {text: module(text) for text in ("m-1.0.0", "m-2.0.0", "n-1.0.0")}


def enable(module_id: str) -> Decision:
    return Decision(action="enable", module=module_id)


def disable(module_id: str) -> Decision:
    return Decision(action="disable", module=module_id)


def plan(
    *decisions: Decision,
    enabled: tuple[str, ...] = (),
    data: Mapping[str, str] | None = None,
    catalogue: Mapping[str, ModuleDescriptor] = CATALOGUE,
    purge: bool = False,
    undo: Undo | None = None,
    mode: Mode = Mode.SMALLEST,
    named: frozenset[str] | None = None,
    options: Mapping[str, str] | None = None,
) -> Plan:
    return build_plan(
        decisions,
        enabled=enabled,
        data_versions=data or {},
        catalogue=catalogue,
        purge=purge,
        undo=undo,
        mode=mode,
        named=named,
        options=options,
    )


def subjects(found: Plan) -> list[list[str]]:
    return [[change.subject for change in group.changes] for group in found.groups]


def changes(found: Plan) -> list[Change]:
    return [change for group in found.groups for change in group.changes]
