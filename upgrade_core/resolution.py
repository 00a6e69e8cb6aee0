"""What an install or upgrade request means for a tenant: which modules, from which version, in which order.

This answers *what*; `plan` answers *in which steps*. The request is applied as given and the result is checked; nothing is pulled
in or disabled by itself. Texts are Okapi's, since its clients match on them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from upgrade_core.descriptors import ModuleDescriptor
from upgrade_core.errors import ResolutionError
from upgrade_core.ids import ModuleId, product_of, split_module_id
from upgrade_core.versions import interface_satisfies


class Verb(StrEnum):
    """What a request asks of one module."""

    ENABLE = "enable"
    DISABLE = "disable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One line of a request; the id may be a product alone, which means its newest version."""

    id: str
    verb: Verb = Verb.ENABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One line of the answer.

    Attributes:
        action: `enable`, `disable` or `uptodate`.
        module: The full module id.
        module_from: For an enable of an enabled product: the version it is at.
    """

    action: str
    module: str
    module_from: str | None = None


def resolve(
    wanted: tuple[Wanted, ...],
    *,
    enabled: tuple[str, ...],
    catalogue: Mapping[str, ModuleDescriptor],
    reinstall: bool = False,
    purgeable: frozenset[str] = frozenset(),
    check: bool = True,
) -> tuple[Decision, ...]:
    """Apply a request to a tenant's enabled modules, check the result, and order it.

    Args:
        wanted: The request.
        enabled: Ids of the tenant's enabled modules.
        catalogue: All registered descriptors by id.
        reinstall: Whether modules that are up to date run again, from themselves.
        purgeable: Ids of modules that are disabled but whose data is there, and whose data the request asks to purge.
        check: Whether the requirements of the result are checked, and its order follows them (Okapi's `depCheck`); otherwise
            the order is the request's.

    Raises:
        ResolutionError: With every reason at once.
    """
    working = {product_of(module): module for module in enabled}
    left = {product_of(module): module for module in sorted(purgeable)}
    explicit: dict[str, str] = {}
    decisions: list[Decision] = []
    reasons: list[str] = []
    for line in wanted:
        product, version = split_module_id(line.id)
        before = working.get(product)
        if line.verb is Verb.DISABLE:
            module = before or left.get(product)
            if module is None or (version is not None and line.id != module):
                reasons.append(f"Module {line.id} not found")
            elif product in explicit:
                reasons.append(f"Cannot remove module {module} which is explicitly given")
            else:
                working.pop(product, None)
                left.pop(product, None)
                decisions.append(Decision(action="disable", module=module))
            continue
        module = _newest(product, catalogue) if version is None else line.id
        if module is None or module not in catalogue:
            reasons.append(f"Module {line.id} not found")
            continue
        if explicit.get(product, module) != module:
            reasons.append(f"Cannot remove module {explicit[product]} which is explicitly given")
            continue
        repeated = product in explicit
        explicit[product] = module
        if before == module and (not reinstall or repeated):
            decisions.append(Decision(action="uptodate", module=module))
        else:
            decisions.append(Decision(action="enable", module=module, module_from=before))
            working[product] = module
    if not reasons and check:
        reasons = _conflicts(tuple(sorted(working.values())), catalogue)
    if reasons:
        raise ResolutionError(tuple(reasons))
    return _in_order(decisions, enabled=enabled, catalogue=catalogue) if check else tuple(decisions)


def upgrades(enabled: tuple[str, ...], catalogue: Mapping[str, ModuleDescriptor]) -> tuple[Wanted, ...]:
    """What Okapi's `upgrade` asks for: the newest version of every enabled product that is not at it (requirement B7)."""
    found = []
    for module in sorted(enabled):
        newest = _newest(product_of(module), catalogue)
        if newest is not None and ModuleId.parse(newest) > ModuleId.parse(module):
            found.append(Wanted(id=newest))
    return tuple(found)


def _newest(product: str, catalogue: Mapping[str, ModuleDescriptor]) -> str | None:
    ids = [descriptor.module_id for descriptor in catalogue.values() if descriptor.product == product]
    return max(ids).text if ids else None


def _conflicts(modules: tuple[str, ...], catalogue: Mapping[str, ModuleDescriptor]) -> list[str]:
    providers: dict[str, list[tuple[str, str]]] = {}
    known = [catalogue[module] for module in modules if module in catalogue]
    for descriptor in known:
        for interface in descriptor.provides:
            if not interface.is_system:
                providers.setdefault(interface.id, []).append((interface.version, descriptor.id))
    reasons = [
        f"Multiple modules {', '.join(module for _, module in offers)} provide interface {interface}"
        for interface, offers in sorted(providers.items())
        if len(offers) > 1
    ]
    for descriptor in known:
        optional = [need for need in descriptor.optional if need.id in providers]
        for need in (*descriptor.requires, *optional):
            offers = providers.get(need.id)
            if offers is None:
                reasons.append(f"interface {need.id} required by module {descriptor.id} not found")
            elif not any(interface_satisfies(version, need.version) for version, _ in offers):
                have = " ".join(f"{version}/{module}" for version, module in offers)
                reasons.append(
                    f"Incompatible version for module {descriptor.id} interface {need.id}. Need {need.version}. Have {have}"
                )
    return reasons


def _in_order(
    decisions: list[Decision], *, enabled: tuple[str, ...], catalogue: Mapping[str, ModuleDescriptor]
) -> tuple[Decision, ...]:
    """Providers before those that require them; dependents disabled before their providers; else as asked for.

    Raises:
        ResolutionError: New modules require each other.
    """
    current = {product_of(module): module for module in enabled}
    waiting = list(decisions)
    ordered: list[Decision] = []
    while waiting:
        first = _first_of_each_product(waiting)
        decision = next((found for found in first if _ready(found, current, catalogue)), None)
        if decision is None:
            _check_circular(waiting, current, catalogue)
            # Enabled modules that move together and require each other: any order is as good, and providers cannot go first.
            decision = min(first, key=lambda found: found.action != "enable" or product_of(found.module) not in current)
        waiting.remove(decision)
        ordered.append(decision)
        product = product_of(decision.module)
        if decision.action == "enable":
            current[product] = decision.module
        elif decision.action == "disable":
            current.pop(product, None)
    return tuple(ordered)


def _first_of_each_product(waiting: list[Decision]) -> list[Decision]:
    """What may be next: lines of one product stay in the order they were given in."""
    first: dict[str, Decision] = {}
    for decision in waiting:
        first.setdefault(product_of(decision.module), decision)
    return list(first.values())


def _ready(decision: Decision, current: Mapping[str, str], catalogue: Mapping[str, ModuleDescriptor]) -> bool:
    here = [catalogue[module] for module in current.values() if module in catalogue]
    if decision.action == "enable":
        provided = [
            (interface.id, interface.version)
            for descriptor in here
            for interface in descriptor.provides
            if not interface.is_system
        ]
        return all(
            any(interface == need.id and interface_satisfies(version, need.version) for interface, version in provided)
            for need in catalogue[decision.module].requires
        )
    is_enabled = current.get(product_of(decision.module)) == decision.module
    if decision.action == "disable" and is_enabled and decision.module in catalogue:
        provided_here = {interface.id for interface in catalogue[decision.module].provides if not interface.is_system}
        return not any(
            need.id in provided_here for descriptor in here if descriptor.id != decision.module for need in descriptor.requires
        )
    return True


def _check_circular(waiting: list[Decision], current: Mapping[str, str], catalogue: Mapping[str, ModuleDescriptor]) -> None:
    """Refuse new modules that can never be ready, even when all that is enabled has moved: they require each other.

    Raises:
        ResolutionError: With Okapi's text.
    """
    enables = [decision for decision in waiting if decision.action == "enable"]
    moved = dict(current) | {
        product_of(decision.module): decision.module for decision in enables if product_of(decision.module) in current
    }
    fresh = [decision for decision in enables if product_of(decision.module) not in current]
    while (ready := next((decision for decision in fresh if _ready(decision, moved, catalogue)), None)) is not None:
        fresh.remove(ready)
        moved[product_of(ready.module)] = ready.module
    if fresh:
        names = ", ".join(sorted(decision.module for decision in fresh))
        raise ResolutionError((f"Some modules cannot be topological sorted: {names}",))


__all__ = ["Decision", "Verb", "Wanted", "resolve", "upgrades"]
