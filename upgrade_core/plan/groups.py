"""Which changes move together: the smallest sets after which every requirement that was met is met again.

From the state that is reached, each change that may be next is tried. Where it breaks something, one of few changes can mend it:
the requirer's own, or one of a module that provides the interface, before or after. So the set grows until nothing is broken;
nearly always there is one way to grow it. The smallest set of all becomes the next group; of several, the one whose changes come
first in the order of the decisions.

What was unmet before, and what is unmet in the end, breaks nothing: no grouping would mend it. An interface that two modules
provide at once counts as broken, too: nobody could say which of them a request goes to.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from upgrade_core.descriptors import ModuleDescriptor
from upgrade_core.enabled import Enabled, Trouble, face_of
from upgrade_core.ids import product_of
from upgrade_core.plan.values import Change

Describe = Callable[[str], ModuleDescriptor]
_Key = tuple[str, str, str]
_TRIES = 500
"""Sets that are looked at for one group where there are several ways to grow them; beyond that the first way is taken."""


class Stuck(Exception):
    """No set of the changes that may be next leaves everything met.

    Attributes:
        troubles: What each of them would break, by product.
    """

    def __init__(self, troubles: dict[str, Trouble]) -> None:
        super().__init__(", ".join(troubles))
        self.troubles = troubles


def smallest_groups(
    changes: Sequence[Change], *, enabled: Iterable[ModuleDescriptor], describe: Describe
) -> tuple[tuple[Change, ...], ...]:
    """Divide changes into groups, in order; the changes of a group are in dependency order.

    Args:
        changes: In the order of the decisions; several of one product stay in their order, in groups of their own.
        enabled: The tenant's modules before.
        describe: Gives the descriptor of a module id.

    Raises:
        Stuck: A product with several changes has no way through.
    """
    return tuple(_Grouping(changes, tuple(enabled), describe).run())


def in_dependency_order(changes: Iterable[Change], *, describe: Describe) -> tuple[Change, ...]:
    """Providers that come before those that require them, then what goes: dependents before their providers.

    Otherwise, and in a circle, changes stay in their order.
    """
    both = tuple(changes)
    comes = [change for change in both if change.version_to is not None]
    goes = [change for change in both if change.version_to is None]
    return (*_sorted(comes, describe, coming=True), *_sorted(goes, describe, coming=False))


def touched_interfaces(change: Change, *, describe: Describe) -> tuple[frozenset[str], frozenset[str]]:
    """Ids of the interfaces that the versions of a change provide, and of those that they need."""
    faces = [face_of(describe(module)) for module in change.touches]
    return frozenset[str]().union(*(face[0] for face in faces)), frozenset[str]().union(*(face[1] for face in faces))


class _Grouping:
    def __init__(self, changes: Sequence[Change], enabled: tuple[ModuleDescriptor, ...], describe: Describe) -> None:
        self._changes = changes
        self._describe = describe
        self._state = Enabled(enabled)
        self._queues: dict[str, deque[int]] = {}
        for place, change in enumerate(changes):
            self._queues.setdefault(change.product, deque()).append(place)
        self._touches: list[tuple[str, ...]] = []
        self._givers: dict[str, list[int]] = {}
        """Interface id to the places of the changes that have to do with who provides it."""
        for place, change in enumerate(changes):
            provides, needs = touched_interfaces(change, describe=describe)
            self._touches.append(tuple(sorted(provides | needs)))
            for interface in provides:
                self._givers.setdefault(interface, []).append(place)
        self._lasting = self._troubles_at_the_end(enabled)
        self._broken: dict[int, Trouble] = {}
        """What a change alone would break, as long as nobody has touched that interface."""
        self._heads: frozenset[int] = frozenset()

    def run(self) -> Iterator[tuple[Change, ...]]:
        """One group after the other."""
        while heads := sorted(queue[0] for queue in self._queues.values() if queue):
            self._heads = frozenset(heads)
            places = self._alone(heads) or self._together(heads)
            for place in places:
                self._queues[self._changes[place].product].popleft()
                self._apply(place)
                touched = frozenset(self._touches[place])
                self._broken = {key: found for key, found in self._broken.items() if found.interface not in touched}
            yield in_dependency_order([self._changes[place] for place in sorted(places)], describe=self._describe)

    def _troubles_at_the_end(self, enabled: Iterable[ModuleDescriptor]) -> frozenset[_Key]:
        end = Enabled(enabled)
        for change in self._changes:
            if change.version_to is None:
                end.drop(change.product)
            else:
                end.put(self._describe(change.version_to))
        return frozenset(trouble.key for trouble in end.all_troubles())

    def _apply(self, place: int) -> ModuleDescriptor | None:
        """Make a change; returns what there was before."""
        change = self._changes[place]
        there = self._state.get(change.product)
        if change.version_to is None:
            self._state.drop(change.product)
        else:
            self._state.put(self._describe(change.version_to))
        return there

    def _take_back(self, place: int, there: ModuleDescriptor | None) -> None:
        if there is None:
            self._state.drop(self._changes[place].product)
        else:
            self._state.put(there)

    def _alone(self, heads: list[int]) -> list[int]:
        """The first change that breaks nothing by itself."""
        for place in heads:
            if place not in self._broken:
                before = self._keys(self._touches[place])
                there = self._apply(place)
                trouble = self._first_trouble(dict.fromkeys(self._touches[place]), before)
                self._take_back(place, there)
                if trouble is None:
                    return [place]
                self._broken[place] = trouble
        return []

    def _together(self, heads: list[int]) -> list[int]:
        """The smallest set of changes that breaks nothing.

        Raises:
            Stuck: There is none.
        """
        best: list[int] = []
        for position, place in enumerate(heads):
            limit = len(best) - 1 if best else len(heads)
            if limit > 1:  # what is broken alone needs a second one
                best = self._grow(place, limit=limit, without=frozenset(heads[:position])) or best
        if not best:
            raise Stuck({self._changes[place].product: self._broken[place] for place in heads})
        return best

    def _grow(self, place: int, *, limit: int, without: frozenset[int]) -> list[int]:
        """The smallest set with a change, of at most so many; empty if there is none.

        Args:
            place: The change.
            limit: Most changes.
            without: Those that were grown from before: no set that holds one is smaller than what they came to.
        """
        best: list[int] = []
        before: dict[str, frozenset[_Key]] = {}
        taken: list[tuple[int, ModuleDescriptor | None]] = []
        frames: list[tuple[dict[str, None], Iterator[int]]] = [({}, iter((place,)))]
        tries = 0
        while frames:
            dirty, remedies = frames[-1]
            following = next(remedies, None) if tries <= _TRIES + len(self._heads) else None
            if following is None:
                frames.pop()
                if taken:
                    self._take_back(*taken.pop())
                continue
            tries += 1
            touches = self._touches[following]
            before |= self._keys(interface for interface in touches if interface not in before)
            taken.append((following, self._apply(following)))
            dirty = dirty | dict.fromkeys(touches)
            trouble = self._first_trouble(dirty, before)
            ways: list[int] = []
            if trouble is None:
                best = [each for each, _ in taken]
                limit = len(best) - 1
            elif len(taken) < limit:
                ways = sorted(self._remedies(trouble) - without - {each for each, _ in taken})
            frames.append((dirty, iter(ways)))
        return best

    def _keys(self, interfaces: Iterable[str]) -> dict[str, frozenset[_Key]]:
        return {interface: frozenset(trouble.key for trouble in self._state.troubles(interface)) for interface in interfaces}

    def _first_trouble(self, dirty: dict[str, None], before: Mapping[str, frozenset[_Key]]) -> Trouble | None:
        """The first thing that was not broken before; interfaces that are in order are taken out of those to look at."""
        for interface in list(dirty):
            for trouble in self._state.troubles(interface):
                if trouble.key not in before[interface] and trouble.key not in self._lasting:
                    return trouble
            del dirty[interface]
        return None

    def _remedies(self, trouble: Trouble) -> frozenset[int]:
        """Changes of which at least one is in every set that mends this."""
        own = self._queues.get(product_of(trouble.module), ()) if trouble.module else ()
        return self._heads.intersection((*self._givers.get(trouble.interface, ()), *own))


def _sorted(changes: list[Change], describe: Describe, *, coming: bool) -> list[Change]:
    """Kahn's order, first come first; the first of a circle breaks it."""
    modules = [describe(change.version_to or change.bound or change.subject) for change in changes]
    givers: dict[str, list[int]] = {}
    for place, module in enumerate(modules):
        for interface in face_of(module)[0]:
            givers.setdefault(interface, []).append(place)
    waits: list[set[int]] = [set() for _ in changes]
    for user, module in enumerate(modules):
        for need in module.requires:
            for giver in givers.get(need.id, ()):
                if giver != user:
                    first, second = (giver, user) if coming else (user, giver)
                    waits[second].add(first)
    frees: list[list[int]] = [[] for _ in changes]
    for place, others in enumerate(waits):
        for other in others:
            frees[other].append(place)
    left = dict.fromkeys(range(len(changes)))
    free = [place for place in left if not waits[place]]
    heapq.heapify(free)
    order: list[int] = []
    while left:
        place = heapq.heappop(free) if free else next(iter(left))
        if place not in left:
            continue
        del left[place]
        order.append(place)
        for other in frees[place]:
            waits[other].discard(place)
            if other in left and not waits[other]:
                heapq.heappush(free, other)
    return [changes[place] for place in order]
