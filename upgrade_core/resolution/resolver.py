"""A request, applied to a tenant's modules, mended by Okapi's rules, and ordered (requirements B3, B7, E8)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from upgrade_core.descriptors import ModuleDescriptor
from upgrade_core.enabled import Enabled
from upgrade_core.errors import ResolutionError
from upgrade_core.ids import ModuleId, product_of, split_module_id
from upgrade_core.resolution.catalogue import Catalogue
from upgrade_core.resolution.order import in_order
from upgrade_core.resolution.repair import reasons_against, repair
from upgrade_core.resolution.request import Decision, Verb, Wanted


def resolve(
    wanted: tuple[Wanted, ...],
    *,
    enabled: tuple[str, ...],
    catalogue: Mapping[str, ModuleDescriptor],
    reinstall: bool = False,
    purgeable: frozenset[str] = frozenset(),
    check: bool = True,
    mend: bool = True,
) -> tuple[Decision, ...]:
    """Apply a request to a tenant's enabled modules, mend and check the result, and order it.

    Args:
        wanted: The request.
        enabled: Ids of the tenant's enabled modules.
        catalogue: The descriptors that may be chosen by id, and those of what is enabled.
        reinstall: Whether modules that are up to date run again, from themselves.
        purgeable: Ids of modules that are disabled but whose data is there, and whose data the request asks to purge.
        check: Whether the requirements of the result are checked, and its order follows them (Okapi's `depCheck`); otherwise
            the order is the request's.
        mend: Whether what the request does not name may be brought in, moved or disabled for it; otherwise the result is only
            checked, as Okapi does it for single bindings.

    Raises:
        ResolutionError: With every reason at once.
    """
    modules = catalogue if isinstance(catalogue, Catalogue) else Catalogue(catalogue)
    request = _Request(before={product_of(module): module for module in enabled}, modules=modules, reinstall=reinstall)
    request.left = {product_of(module): module for module in sorted(purgeable)}
    for line in wanted:
        if line.verb is Verb.DISABLE:
            request.disable(line.id)
        else:
            request.enable(line.id)
    if request.reasons:
        raise ResolutionError(tuple(request.reasons))
    if not check:
        return tuple(request.decisions)
    working = [request.describe(module) for module in request.working.values()]
    after: Mapping[str, str] = request.working
    touched: tuple[str, ...] = ()
    if mend:
        mended = repair(working, sticky=request.explicit, catalogue=modules)
        after, touched, reasons = mended.after, mended.products, mended.reasons
    else:
        reasons = reasons_against(Enabled(working))
    if reasons:
        raise ResolutionError(reasons)
    decisions = _with_mended(request, touched, after)
    before = [request.describe(module) for module in request.before.values()]
    return in_order(decisions, enabled=before, describe=request.describe)


def upgrades(enabled: tuple[str, ...], catalogue: Mapping[str, ModuleDescriptor]) -> tuple[Wanted, ...]:
    """What Okapi's `upgrade` asks for: the newest version of every enabled product that is not at it (requirement B7)."""
    modules = catalogue if isinstance(catalogue, Catalogue) else Catalogue(catalogue)
    found = []
    for module in sorted(enabled):
        newest = modules.newest(product_of(module))
        if newest is not None and newest.module_id > ModuleId.parse(module):
            found.append(Wanted(id=newest.id))
    return tuple(found)


@dataclass(slots=True, kw_only=True)
class _Request:
    """A request while its lines are applied one after the other.

    Attributes:
        before: Product to enabled module id, as it was.
        working: As it is after the lines so far.
        left: Product to module id of data that may be purged.
        explicit: Product to the module id that a line enables.
    """

    before: dict[str, str]
    modules: Catalogue
    reinstall: bool
    working: dict[str, str] = field(init=False)
    left: dict[str, str] = field(default_factory=dict)
    explicit: dict[str, str] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.working = dict(self.before)

    def describe(self, module: str) -> ModuleDescriptor:
        """The descriptor of an id; a bare one for what nobody registered any more."""
        return self.modules.get(module) or ModuleDescriptor(id=module, product=product_of(module))

    def disable(self, asked: str) -> None:
        """Apply a line that disables, or purges what was disabled."""
        product, version = split_module_id(asked)
        module = self.working.get(product) or self.left.get(product)
        if module is None or (version is not None and asked != module):
            self.reasons.append(f"Module {asked} not found")
        elif product in self.explicit:
            self.reasons.append(f"Cannot remove module {module} which is explicitly given")
        else:
            self.working.pop(product, None)
            self.left.pop(product, None)
            self.decisions.append(Decision(action="disable", module=module))

    def enable(self, asked: str) -> None:
        """Apply a line that enables."""
        product, version = split_module_id(asked)
        newest = self.modules.newest(product) if version is None else None
        module = asked if newest is None else newest.id
        if module not in self.modules:
            self.reasons.append(f"Module {asked} not found")
            return
        if self.explicit.get(product, module) != module:
            self.reasons.append(f"Cannot remove module {self.explicit[product]} which is explicitly given")
            return
        repeated, before = product in self.explicit, self.working.get(product)
        self.explicit[product] = self.working[product] = module
        if before == module and (not self.reinstall or repeated):
            self.decisions.append(Decision(action="uptodate", module=module))
        else:
            self.decisions.append(Decision(action="enable", module=module, module_from=before))


def _with_mended(request: _Request, touched: tuple[str, ...], after: Mapping[str, str]) -> list[Decision]:
    """The request's lines, and one for each product that was mended: from what it was to what it is in the end.

    A product that the request disables and that something it enables requires stays, or moves, in place of its line.
    """
    decisions = list(request.decisions)
    for product in touched:
        before, now = request.before.get(product), after.get(product)
        asked = before and Decision(action="disable", module=before)
        if asked in decisions:
            if now is not None:
                stays = Decision(action="uptodate", module=now)
                moves = Decision(action="enable", module=now, module_from=before)
                decisions[decisions.index(asked)] = stays if now == before else moves
        elif now is None and before is not None:
            decisions.append(Decision(action="disable", module=before))
        elif now is not None and now != before:
            decisions.append(Decision(action="enable", module=now, module_from=before))
    return decisions
