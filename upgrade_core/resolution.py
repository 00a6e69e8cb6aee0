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
        check: Whether the requirements of the result are checked (Okapi's `depCheck`).

    Raises:
        ResolutionError: With every reason at once.
    """
    working = {product_of(module): module for module in enabled}
    explicit: dict[str, str] = {}
    decisions: list[Decision] = []
    reasons: list[str] = []
    for line in wanted:
        product, version = split_module_id(line.id)
        if line.verb is Verb.DISABLE:
            module = working.get(product) if version is None else line.id
            if module is not None and (working.get(product) == module or module in purgeable):
                working.pop(product, None) if working.get(product) == module else None
                decisions.append(Decision(action="disable", module=module))
            else:
                reasons.append(f"Module {line.id} not found")
            continue
        module = _newest(product, catalogue) if version is None else line.id
        if module is None or module not in catalogue:
            reasons.append(f"Module {line.id} not found")
            continue
        before = working.get(product)
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
    return _in_order(decisions, enabled=enabled, catalogue=catalogue)


def upgrades(enabled: tuple[str, ...], catalogue: Mapping[str, ModuleDescriptor]) -> tuple[Wanted, ...]:
    """What Okapi's `upgrade` asks for: the newest version of every enabled product that is not at it (requirement B7)."""
    found = []
    for module in sorted(enabled):
        newest = _newest(product_of(module), catalogue)
        if newest is not None and newest != module:
            found.append(Wanted(id=newest))
    return tuple(found)


def dependents(provider: str, *, among: tuple[str, ...], catalogue: Mapping[str, ModuleDescriptor]) -> tuple[str, ...]:
    """Which of some modules require or use an interface of a provider."""
    provided = {interface.id for interface in catalogue[provider].provides if not interface.is_system}
    return tuple(
        module
        for module in among
        if module != provider and any(need.id in provided for need in (*catalogue[module].requires, *catalogue[module].optional))
    )


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
    """Providers before those that require them; dependents disabled before their providers; else as asked for."""
    current = {product_of(module): module for module in enabled}
    waiting = list(decisions)
    ordered: list[Decision] = []
    while waiting:
        for decision in waiting:
            if _ready(decision, current, catalogue):
                break
        else:
            enables = sorted(decision.module for decision in waiting if decision.action == "enable")
            if enables and _circular(waiting, current, catalogue):
                raise ResolutionError((f"Some modules cannot be topological sorted: {', '.join(enables)}",))
            decision = waiting[0]
        waiting.remove(decision)
        ordered.append(decision)
        product = product_of(decision.module)
        if decision.action == "enable":
            current[product] = decision.module
        elif decision.action == "disable":
            current.pop(product, None)
    return tuple(ordered)


def _ready(decision: Decision, current: Mapping[str, str], catalogue: Mapping[str, ModuleDescriptor]) -> bool:
    here = tuple(module for module in current.values() if module in catalogue)
    if decision.action == "enable":
        provided = {
            interface.id: interface.version
            for module in here
            for interface in catalogue[module].provides
            if not interface.is_system
        }
        return all(
            need.id in provided and interface_satisfies(provided[need.id], need.version)
            for need in catalogue[decision.module].requires
        )
    if decision.action == "disable" and decision.module in catalogue:
        provided_here = {interface.id for interface in catalogue[decision.module].provides if not interface.is_system}
        return not any(
            need.id in provided_here for module in here if module != decision.module for need in catalogue[module].requires
        )
    return True


def _circular(waiting: list[Decision], current: Mapping[str, str], catalogue: Mapping[str, ModuleDescriptor]) -> bool:
    """Whether some enable can never be ready because new modules require each other (not because depCheck is off)."""
    products = {product_of(decision.module) for decision in waiting if decision.action == "enable"}
    fresh = products - set(current)
    offered = {
        interface.id
        for decision in waiting
        if decision.action == "enable"
        for interface in catalogue[decision.module].provides
        if not interface.is_system
    }
    return any(
        any(need.id in offered for need in catalogue[decision.module].requires)
        for decision in waiting
        if decision.action == "enable" and product_of(decision.module) in fresh
    )


__all__ = ["Decision", "ModuleId", "Verb", "Wanted", "dependents", "resolve", "upgrades"]
