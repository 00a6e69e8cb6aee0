"""Mending what a request broke, one step after the other (Okapi's repair rules, made deterministic).

1. Several modules provide an interface: the first that nobody asked for is disabled.
2. A required interface is not there: if the requirer is *sticky*, the only product that could provide it comes in; else the
   requirer goes.
3. An interface is there in a version that does not fit: a provider that is not sticky gives way to the only product that fits;
   else a requirer that is not sticky moves to its newest version that fits, or goes.

Sticky is what the request names, and every module that a step brings in. **It ends**: a step disables a module that is not
sticky, or brings in one of a product that was not sticky and now is. Nothing ever becomes less sticky, and what is not sticky is
never added. So there are no more steps than modules enabled before plus products that come in, whatever the size of the cascade.

A module that only moves to fit a provider must not fail what was asked for: no version is taken that is unfit for a sticky
provider, and if a new version, or what that one brought in, clashes in the end, the repair begins anew without it, so that an
older one is taken, or the module goes. Each beginning bars one version more, so this ends, too.

Among several possible steps: kinds as above, then sticky requirers before others (what comes in may be what the others need),
then interfaces and modules by id.
"""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from upgrade_core.descriptors import ModuleDescriptor
from upgrade_core.enabled import Enabled, Trouble
from upgrade_core.ids import product_of
from upgrade_core.resolution.catalogue import Catalogue
from upgrade_core.versions import interface_satisfies


class _Kind(IntEnum):
    SEVERAL = 1
    MISSING = 2
    UNFIT = 3


_Rank = tuple[_Kind, bool, str]
"""Kind, whether the requirer is not sticky, and interface id: what is lower is mended first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """What the repair came to.

    Attributes:
        after: Product to module id.
        products: Those that a step touched, in the order in which they first were.
        reasons: Why it cannot be mended; empty if it is.
    """

    after: dict[str, str]
    products: tuple[str, ...]
    reasons: tuple[str, ...]


def repair(modules: Iterable[ModuleDescriptor], *, sticky: Iterable[str], catalogue: Catalogue) -> Repaired:
    """Change modules until everything fits, or nothing more can be done.

    Args:
        modules: What the tenant has after the request.
        sticky: Products that the request enables.
        catalogue: What may be brought in.
    """
    start, asked, barred = tuple(modules), frozenset(sticky), frozenset[str]()
    while True:
        work = _Repair(start, asked, catalogue, barred)
        while work.step():
            pass
        more = work.second_thoughts()
        if not more:
            return Repaired(after=work.enabled.modules(), products=tuple(work.touched), reasons=work.reasons())
        barred |= more


def reasons_against(enabled: Enabled) -> tuple[str, ...]:
    """Why modules do not fit together as they are; by kind, interface and module."""
    return tuple(dict.fromkeys(trouble.text for trouble in sorted(enabled.all_troubles(), key=_place)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    """What cannot be mended.

    Attributes:
        reasons: Why.
        products: Those that another choice might help.
    """

    reasons: tuple[str, ...]
    products: tuple[str, ...] = ()


class _Repair:
    def __init__(
        self, modules: Iterable[ModuleDescriptor], sticky: frozenset[str], catalogue: Catalogue, barred: frozenset[str]
    ) -> None:
        self.enabled = Enabled(modules)
        self.touched: dict[str, None] = {}
        self._sticky = set(sticky)
        self._catalogue = catalogue
        self._barred = barred
        self._moved: dict[str, str] = {}
        """Products that moved to fit a provider, to the module id that was chosen."""
        self._because: dict[str, str] = {}
        """Products that were brought in, to the one that required it."""
        self._troubles: dict[_Rank, list[Trouble]] = {}
        self._ranks: dict[str, list[_Rank]] = {}
        """Interface id to the ranks of its troubles."""
        self._heap: list[_Rank] = []
        self._failures: list[_Failure] = []
        self._look(self.enabled.interfaces())

    def step(self) -> bool:
        """Mend one thing; False if nothing can be mended, and the reasons say why."""
        self._failures = []
        tried: list[_Rank] = []
        touched: dict[str, None] = {}
        while self._heap and not touched:
            rank = heapq.heappop(self._heap)
            troubles = self._troubles.get(rank, ())
            for trouble in troubles:
                touched |= dict.fromkeys(self._mend(rank[0], trouble))
                if touched and rank[:2] != (_Kind.MISSING, True):
                    break  # of a missing interface all requirers that are not sticky go, one after the other
            if troubles:
                tried.append(rank)
        for rank in tried:
            heapq.heappush(self._heap, rank)
        self._look(touched)
        return bool(touched)

    def reasons(self) -> tuple[str, ...]:
        """Why it cannot be mended, each once."""
        return tuple(dict.fromkeys(reason for failure in self._failures for reason in failure.reasons))

    def second_thoughts(self) -> frozenset[str]:
        """Module ids to do without at a next try; empty: there is nothing to mend, or it would not help."""
        chosen = []
        for failure in self._failures:
            roots = [root for product in failure.products if (root := self._root(product)) in self._moved]
            if not roots:
                return frozenset()
            chosen.append(self._moved[roots[0]])
        return frozenset(chosen)

    def _root(self, product: str) -> str:
        """Whom a product was brought in for in the end; two that each needed another version of the other are as good."""
        seen = {product}
        while (cause := self._because.get(product)) is not None and cause not in seen:
            seen.add(cause)
            product = cause
        return product

    def _fail(self, *reasons: str, products: Iterable[str] = ()) -> None:
        self._failures.append(_Failure(reasons=reasons, products=tuple(map(product_of, products))))

    def _mend(self, kind: _Kind, trouble: Trouble) -> Iterator[str]:
        match kind:
            case _Kind.SEVERAL:
                yield from self._choose(trouble)
            case _Kind.MISSING:
                yield from self._fetch(trouble)
            case _Kind.UNFIT:
                yield from self._fit(trouble)

    def _choose(self, trouble: Trouble) -> Iterator[str]:
        loose = next((module for module in trouble.providers if not self._is_sticky(module)), None)
        if loose is None:
            self._fail(trouble.text, products=trouble.providers)
        else:
            yield from self._disable(product_of(loose))

    def _fetch(self, trouble: Trouble) -> Iterator[str]:
        assert trouble.need is not None
        found = self._catalogue.providing(trouble.need)
        if len(found) != 1:
            self._fail(_ambiguous(trouble, found) if found else trouble.text)
        elif not self._is_sticky(trouble.module):
            yield from self._disable(product_of(trouble.module))
        elif (other := self._in_the_way(found[0])) is not None:
            why = f"Cannot remove module {other} which is explicitly given"
            self._fail(why, trouble.text, products=(trouble.module, other))
        else:
            yield from self._bring(found[0], because=product_of(trouble.module))

    def _fit(self, trouble: Trouble) -> Iterator[str]:
        assert trouble.need is not None
        provider, requirer = product_of(trouble.providers[0]), product_of(trouble.module)
        if provider not in self._sticky:
            found = self._catalogue.providing(trouble.need)
            if len(found) > 1:
                self._fail(_ambiguous(trouble, found))
                return
            if found and self._in_the_way(found[0]) is None:
                if found[0].product != provider:
                    yield from self._disable(provider)
                yield from self._bring(found[0], because=requirer)
                return
        if requirer in self._sticky:
            self._fail(trouble.text, products=(trouble.module, trouble.providers[0]))
            return
        fitting = (
            module
            for module in self._catalogue.versions(requirer)
            if module.id != trouble.module and module.id not in self._barred and self._may_take(module, trouble)
        )
        if (module := next(fitting, None)) is not None:
            self._moved[requirer] = module.id
            yield from self._bring(module)
        else:
            yield from self._disable(requirer)

    def _may_take(self, module: ModuleDescriptor, trouble: Trouble) -> bool:
        """Whether a version accepts the provider, and none of its needs is unfit for good: sticky providers stay."""
        if not _accepts(module, trouble.interface, trouble.have):
            return False
        return all(
            interface_satisfies(version, need.version)
            for need in (*module.requires, *module.optional)
            for product, version in self.enabled.offers(need.id)
            if product in self._sticky
        )

    def _in_the_way(self, module: ModuleDescriptor) -> str | None:
        """Id of the version that was asked for where the module would have to take its place."""
        there = self.enabled.get(module.product)
        return there.id if there is not None and module.product in self._sticky else None

    def _bring(self, module: ModuleDescriptor, *, because: str | None = None) -> tuple[str, ...]:
        if because is not None:
            self._because[module.product] = because
        self._sticky.add(module.product)
        self.touched[module.product] = None
        return self.enabled.put(module)

    def _disable(self, product: str) -> tuple[str, ...]:
        self.touched[product] = None
        return self.enabled.drop(product)

    def _is_sticky(self, module: str) -> bool:
        return bool(module) and product_of(module) in self._sticky

    def _look(self, interfaces: Iterable[str]) -> None:
        """Rank the troubles of interfaces anew. A product that became sticky has touched all of its own."""
        for interface in interfaces:
            for rank in self._ranks.pop(interface, ()):
                del self._troubles[rank]
            for trouble in self.enabled.troubles(interface):
                rank = (_kind(trouble), not self._is_sticky(trouble.module), interface)
                if rank not in self._troubles:
                    self._troubles[rank] = []
                    self._ranks.setdefault(interface, []).append(rank)
                    heapq.heappush(self._heap, rank)
                self._troubles[rank].append(trouble)


def _kind(trouble: Trouble) -> _Kind:
    if trouble.need is None:
        return _Kind.SEVERAL
    return _Kind.UNFIT if trouble.providers else _Kind.MISSING


def _place(trouble: Trouble) -> tuple[_Kind, str]:
    return _kind(trouble), trouble.interface


def _accepts(module: ModuleDescriptor, interface: str, version: str) -> bool:
    needs = [need for need in (*module.requires, *module.optional) if need.id == interface]
    return bool(needs) and all(interface_satisfies(version, need.version) for need in needs)


def _ambiguous(trouble: Trouble, found: tuple[ModuleDescriptor, ...]) -> str:
    products = ", ".join(module.product for module in found)
    return f"interface {trouble.interface} required by module {trouble.module} is provided by multiple products: {products}"
