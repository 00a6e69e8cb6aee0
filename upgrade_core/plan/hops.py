"""Ways from the version that data is at to the one that is wanted, by versions that accept each other (`upgrade_from`)."""

from collections.abc import Iterator, Mapping

from upgrade_core.descriptors import ModuleDescriptor, accepts_upgrade_from
from upgrade_core.ids import ModuleId
from upgrade_core.resolution import Catalogue

_MOST = 16
"""Ways that are looked at for one product, shortest first."""


def accepts(module: ModuleDescriptor, version_from: str) -> bool:
    """Whether a module can be upgraded from the version of another module id."""
    return accepts_upgrade_from(module.uplift.upgrade_from, str(ModuleId.parse(version_from).version))


def ways(version_from: str, version_to: ModuleDescriptor, catalogue: Catalogue) -> tuple[tuple[str, ...], ...]:
    """Module ids to go by, each way ending with the wanted one: the shortest first, of equal ones the one by newer versions.

    Who goes from a release to a release is not taken through what is none. Ways that are longer than the shortest by more than
    one are left out: what a shorter one is refused for is what its versions require.
    """
    start, end = ModuleId.parse(version_from), version_to.module_id
    kinds = {_kind(start), _kind(end), (False, False)}
    steps = [
        module
        for module in catalogue.versions(version_to.product)
        if start < module.module_id < end and _kind(module.module_id) in kinds
    ]
    nearest = _distances(version_to, steps)
    firsts = [nearest[module.id] for module in (version_to, *steps) if module.id in nearest and accepts(module, version_from)]
    if not firsts:
        return ()
    found: list[tuple[str, ...]] = []
    for more in (0, 1):
        for way in _ways_of(min(firsts) + more, version_from, (version_to, *steps), nearest):
            found.append(way)
            if len(found) == _MOST:
                return tuple(found)
    return tuple(found)


def _distances(end: ModuleDescriptor, steps: list[ModuleDescriptor]) -> dict[str, int]:
    """How many upgrades after it each version is from the end, at least; without those that do not lead there."""
    nearest = {end.id: 0}
    row = [end]
    while row:
        before = [
            module for module in steps
            if module.id not in nearest and any(accepts(later, module.id) for later in row if module.module_id < later.module_id)
        ]  # fmt: skip
        distance = nearest[row[0].id] + 1
        nearest |= {module.id: distance for module in before}
        row = before
    return nearest


def _ways_of(
    upgrades: int, at: str, modules: tuple[ModuleDescriptor, ...], nearest: Mapping[str, int]
) -> Iterator[tuple[str, ...]]:
    """Ways with so many upgrades after the first one, by modules that are sorted newest first; the first of them is the end."""
    for place, module in enumerate(modules):
        if nearest.get(module.id, upgrades + 1) > upgrades or (place == 0) is not (upgrades == 0) or not accepts(module, at):
            continue
        if upgrades == 0:
            yield (module.id,)
        else:
            for rest in _ways_of(upgrades - 1, module.id, modules[:place], nearest):
                yield (module.id, *rest)


def _kind(module: ModuleId) -> tuple[bool, bool]:
    return module.version.is_pre_release, module.version.is_npm_snapshot
