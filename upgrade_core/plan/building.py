"""From decisions to a plan."""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum

from upgrade_core.descriptors import ModuleDescriptor, Undo
from upgrade_core.enabled import Trouble
from upgrade_core.errors import ResolutionError
from upgrade_core.ids import ModuleId, product_of
from upgrade_core.plan.groups import Stuck, in_dependency_order, smallest_groups, touched_interfaces
from upgrade_core.plan.hops import accepts, ways
from upgrade_core.plan.values import Change, Group, Kind, Plan, change_kind
from upgrade_core.resolution import Catalogue, Decision

_MOST_TRIES = 64
"""Combinations of ways of several products that are tried."""


class Mode(StrEnum):
    """How changes are divided into groups."""

    SMALLEST = "smallest"
    """As small as they can be while every requirement that was met is met between them."""
    ATOMIC = "atomic"
    """All in one: either everything is switched, or nothing."""
    AS_GIVEN = "as given"
    """Each decision by itself, in their order, whatever they break: who wants no check gets none (Okapi's `depCheck=false`)."""


def build_plan(
    decisions: tuple[Decision, ...],
    *,
    enabled: tuple[str, ...],
    data_versions: Mapping[str, str],
    catalogue: Mapping[str, ModuleDescriptor],
    purge: bool = False,
    named: frozenset[str] | None = None,
    undo: Undo | None = None,
    mode: Mode = Mode.SMALLEST,
    options: Mapping[str, str] | None = None,
) -> Plan:
    """The groups and changes of a set of decisions.

    Args:
        decisions: What `resolve` answered; `uptodate` lines need nothing.
        enabled: Ids of the tenant's enabled modules.
        data_versions: Product to the module id that the tenant's data is at.
        catalogue: All registered descriptors by id.
        purge: Whether disabling destroys the data (always asked for explicitly, requirement B4).
        named: Products that a purge is for; what else goes is only disabled. None: whatever goes.
        undo: Undo mode that the request names, over the descriptors'.
        mode: How the changes are divided. With the smallest groups a module that does not accept the version that the data is at
            is taken through versions in between, each in a group of its own.
        options: Parameters of the request by which steps of the changes are left out; not those that have their default.

    Raises:
        ResolutionError: A module declares that it cannot be upgraded from the version the data is at, and no way leads there.
    """
    modules = catalogue if isinstance(catalogue, Catalogue) else Catalogue(catalogue)
    draft = _Draft(enabled=enabled, data_versions=data_versions, modules=modules, purge=purge, named=named, undo=undo)
    done = tuple(decision for decision in decisions if decision.action != "uptodate")
    routes = draft.routes(done)
    if reasons := [route.refusal(mode) for route in routes if not route.is_open(hops=mode is Mode.SMALLEST)]:
        raise ResolutionError(tuple(reasons))
    divided = _divided(draft, done, routes, mode=mode)
    after = _connections(divided, draft)
    divided = _numbered(divided)
    groups: list[Group] = []
    for changes, before in zip(divided, after, strict=True):
        earlier = tuple(groups[place].key for place in before)
        groups.append(Group(key=f"{len(groups) + 1}-{changes[0].product}", changes=changes, after=earlier))
    chosen = tuple(sorted((options or {}).items()))
    named_by = [
        [asdict(group) for group in groups],
        sorted(enabled),
        sorted(data_versions.items()),
        *([chosen] if chosen else []),
    ]
    digest = hashlib.sha256(json.dumps(named_by, sort_keys=True).encode()).hexdigest()[:16]
    return Plan(digest=digest, groups=tuple(groups), options=chosen)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Route:
    """How a decision may be carried out.

    Attributes:
        module: What it enables; of a disable what it disables.
        version_from: Module id that the data is at.
        accepted: What the module accepts, if that does not hold the version that the data is at.
        ways: Module ids to go by, the best first.
    """

    module: str
    version_from: str | None = None
    accepted: str = ""
    ways: tuple[tuple[str, ...], ...] = ()

    def is_open(self, *, hops: bool) -> bool:
        return bool(self.ways) and (hops or not self.accepted)

    def refusal(self, mode: Mode, trouble: Trouble | None = None) -> str:
        assert self.version_from is not None
        text = f"Module {self.module} cannot be upgraded from {self.version_from}: it accepts {self.accepted}"
        product, version = product_of(self.module), ModuleId.parse(self.version_from).version
        if not self.ways:
            return f"{text}; needed is a version of {product} in between that it accepts and that accepts {version}"
        if trouble is not None:
            return f"{text}; the way by {', '.join(self.ways[0][:-1])} is barred: {trouble.text}"
        if mode is Mode.ATOMIC:
            return f"{text}; upgrade to {self.ways[0][0]} before, since all at once is asked for"
        return f"{text}; upgrade to {self.ways[0][0]} first"


class _Draft:
    """Makes changes of decisions."""

    def __init__(
        self,
        *,
        enabled: tuple[str, ...],
        data_versions: Mapping[str, str],
        modules: Catalogue,
        purge: bool,
        named: frozenset[str] | None,
        undo: Undo | None,
    ) -> None:
        self.enabled = enabled
        self._bound = {product_of(module): module for module in enabled}
        self._data = self._bound | dict(data_versions)
        self._modules = modules
        self._purge = purge
        self._named = named
        self._undo = undo

    def describe(self, module: str) -> ModuleDescriptor:
        """The descriptor of an id; a bare one for what nobody registered any more."""
        return self._modules.get(module) or ModuleDescriptor(id=module, product=product_of(module))

    def routes(self, decisions: tuple[Decision, ...]) -> list[_Route]:
        """How each decision may be carried out."""
        data, found = dict(self._data), []
        for decision in decisions:
            product, module = product_of(decision.module), decision.module
            at = data.get(product)
            if decision.action == "disable":
                if self._purges(product):
                    data.pop(product, None)
                found.append(_Route(module=module, ways=((module,),)))
                continue
            data[product] = module
            descriptor = self._modules[module]
            if at is None or change_kind(at, module) is not Kind.UPGRADE or accepts(descriptor, at):
                found.append(_Route(module=module, ways=((module,),)))
                continue
            range_ = descriptor.uplift.upgrade_from
            found.append(_Route(module=module, version_from=at, accepted=range_, ways=ways(at, descriptor, self._modules)))
        return found

    def changes(self, decisions: tuple[Decision, ...], chosen: Iterable[tuple[str, ...]]) -> tuple[Change, ...]:
        """The changes of decisions that are carried out on chosen ways."""
        bound, data, found = dict(self._bound), dict(self._data), []
        for decision, way in zip(decisions, chosen, strict=True):
            product = product_of(decision.module)
            if decision.action == "disable":
                found.append(self._leave(decision.module, bound=bound.pop(product, None), at=data.get(product)))
                if self._purges(product):
                    data.pop(product, None)
                continue
            for module in way:
                found.append(self._go(module, bound=bound.get(product), at=data.get(product)))
                bound[product] = data[product] = module
        return tuple(found)

    def _purges(self, product: str) -> bool:
        return self._purge and (self._named is None or product in self._named)

    def _leave(self, module: str, *, bound: str | None, at: str | None) -> Change:
        product = product_of(module)
        purges = self._purges(product)
        return Change(
            kind=Kind.PURGE if purges else Kind.DISABLE,
            product=product,
            bound=bound,
            version_from=at or module,
            undo=_undo_of_purge(self._undo, self._modules.get(module)) if purges else None,
        )

    def _go(self, module: str, *, bound: str | None, at: str | None) -> Change:
        descriptor = self._modules[module]
        return Change(
            kind=change_kind(at, module),
            product=descriptor.product,
            bound=bound,
            version_from=at,
            version_to=module,
            undo=self._undo or descriptor.uplift.undo,
        )


def _divided(
    draft: _Draft, decisions: tuple[Decision, ...], routes: list[_Route], *, mode: Mode
) -> tuple[tuple[Change, ...], ...]:
    """The changes, divided into groups.

    Raises:
        ResolutionError: There is no way that keeps met what is met.
    """
    modules = [draft.describe(module) for module in draft.enabled]
    reasons: tuple[str, ...] = ()
    for chosen in _choices(routes):
        changes = draft.changes(decisions, chosen)
        if mode is Mode.AS_GIVEN:
            return tuple((change,) for change in changes)
        if mode is Mode.ATOMIC:
            return (in_dependency_order(_at_once(changes), describe=draft.describe),) if changes else ()
        try:
            return smallest_groups(changes, enabled=modules, describe=draft.describe)
        except Stuck as stuck:
            if not any(route.accepted for route in routes):
                return _come_back(changes, stuck, modules=modules, draft=draft)
            reasons = reasons or _barred(routes, stuck, mode)
    raise ResolutionError(reasons)


def _numbered(divided: tuple[tuple[Change, ...], ...]) -> tuple[tuple[Change, ...], ...]:
    """The changes, each with its turn among those of its product."""
    before: Counter[str] = Counter()
    found = []
    for changes in divided:
        found.append(tuple(replace(change, turn=before[change.product]) for change in changes))
        before.update(change.product for change in changes)
    return tuple(found)


def _choices(routes: list[_Route]) -> Iterator[tuple[tuple[str, ...], ...]]:
    """Ways to take, one for each route; the first ways first."""
    few = itertools.islice(itertools.product(*(range(len(route.ways)) for route in routes)), _MOST_TRIES)
    for numbers in sorted(few, key=sum):
        yield tuple(route.ways[number] for route, number in zip(routes, numbers, strict=True))


def _come_back(
    changes: tuple[Change, ...], stuck: Stuck, *, modules: list[ModuleDescriptor], draft: _Draft
) -> tuple[tuple[Change, ...], ...]:
    """Groups in which what goes and comes back does so at once, since others need it all the while.

    Raises:
        ResolutionError: Its data would have to go and come back, too.
    """
    at_once = _at_once(changes)
    if len(at_once) < len(changes):
        try:
            return smallest_groups(at_once, enabled=modules, describe=draft.describe)
        except Stuck as again:
            stuck = again
    raise ResolutionError(tuple(dict.fromkeys(trouble.text for trouble in stuck.troubles.values()))) from stuck


def _at_once(changes: tuple[Change, ...]) -> tuple[Change, ...]:
    """One change for each product, from its first version to its last; in the places of the last ones.

    Raises:
        ResolutionError: Data would be purged on the way.
    """
    first: dict[str, Change] = {}
    last = {change.product: change for change in changes}
    for change in changes:
        first.setdefault(change.product, change)
        if change.kind is Kind.PURGE and last[change.product] is not change:
            raise ResolutionError((f"Module {change.subject} cannot be purged and enabled again at once: do it in two jobs",))
    found = []
    for change in changes:
        begin = first[change.product]
        if change is not last[change.product]:
            continue
        if change is begin:
            found.append(change)
        elif change.version_to is None:
            found.append(replace(change, bound=begin.bound, version_from=begin.version_from))
        else:
            kind = change_kind(begin.version_from, change.version_to)
            found.append(replace(change, kind=kind, bound=begin.bound, version_from=begin.version_from))
    return tuple(found)


def _barred(routes: list[_Route], stuck: Stuck, mode: Mode) -> tuple[str, ...]:
    found = [
        route.refusal(mode, trouble)
        for route in routes
        if route.accepted and (trouble := stuck.troubles.get(product_of(route.module))) is not None
    ]
    return tuple(found) or tuple(dict.fromkeys(trouble.text for trouble in stuck.troubles.values()))


def _undo_of_purge(asked: Undo | None, descriptor: ModuleDescriptor | None) -> Undo | None:
    """The undo mode of a purge. Modes that speak of two versions of a schema say nothing about one that is destroyed."""
    undo = asked or (descriptor.uplift.undo if descriptor is not None else None)
    return None if undo in (Undo.REVERSIBLE, Undo.COMPATIBLE) else undo


def _connections(groups: tuple[tuple[Change, ...], ...], draft: _Draft) -> list[list[int]]:
    """For each group the earlier ones that it waits for: of the same product, or an interface connects any of their versions.

    It does when one of them needs what the other provides, and when both provide it: then one takes it over. A permissions
    module is connected with all others, since they are told to it, and so is one that filters who may call them (Okapi's rule).
    """
    products: dict[str, set[int]] = {}
    givers: dict[str, set[int]] = {}
    users: dict[str, set[int]] = {}
    alone: list[int] = []
    found = []
    for place, changes in enumerate(groups):
        before: set[int] = set()
        if any(_is_exclusive(change, draft) for change in changes):
            before.update(range(place))
            alone.append(place)
        before.update(each for each in alone if each < place)
        faces = [touched_interfaces(change, describe=draft.describe) for change in changes]
        for change, (provides, needs) in zip(changes, faces, strict=True):
            before.update(products.get(change.product, ()))
            for interface in provides:
                before.update(givers.get(interface, ()), users.get(interface, ()))
            for interface in needs:
                before.update(givers.get(interface, ()))
        found.append(sorted(before))
        for change, (provides, needs) in zip(changes, faces, strict=True):
            products.setdefault(change.product, set()).add(place)
            for table, interfaces in ((givers, provides), (users, needs)):
                for interface in interfaces:
                    table.setdefault(interface, set()).add(place)
    return found


def _is_exclusive(change: Change, draft: _Draft) -> bool:
    """Whether a module comes, moves or goes that all others have to do with."""
    return any(draft.describe(module).is_exclusive for module in change.touches)
