"""The order of an answer: providers before who requires them, dependents disabled before their providers, else as asked for.

Okapi's order: of the lines that may be next always the first. Optional interfaces order nothing.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from upgrade_core.descriptors import ModuleDescriptor, Requirement
from upgrade_core.enabled import Enabled
from upgrade_core.errors import ResolutionError
from upgrade_core.resolution.request import Decision
from upgrade_core.versions import interface_satisfies


def in_order(
    decisions: Sequence[Decision], *, enabled: Iterable[ModuleDescriptor], describe: Callable[[str], ModuleDescriptor]
) -> tuple[Decision, ...]:
    """Order decisions that leave nothing unmet.

    Enabled modules that move together and require each other have no such order: the first of the circle goes first. What
    goes and comes back while others rely on it is made one line.

    Args:
        decisions: In the order they were asked for; those of one product stay in their order.
        enabled: The tenant's modules before.
        describe: Gives the descriptor of a module id.

    Raises:
        ResolutionError: New modules require each other.
    """
    return _Ordering(decisions, enabled, describe).run()


class _Ordering:
    def __init__(
        self, decisions: Sequence[Decision], enabled: Iterable[ModuleDescriptor], describe: Callable[[str], ModuleDescriptor]
    ) -> None:
        self._decisions = list(decisions)
        self._modules = [describe(decision.module) for decision in decisions]
        self._enabled = Enabled(enabled)
        self._queues: dict[str, deque[int]] = {}
        self._waiting: dict[str, list[int]] = {}
        """Interface id to the lines that were not ready because of it, and are not until somebody touches it."""
        for place, module in enumerate(self._modules):
            self._queues.setdefault(module.product, deque()).append(place)
        self._may_be_next = sorted(queue[0] for queue in self._queues.values())

    def run(self) -> tuple[Decision, ...]:
        """Take one line after the other."""
        taken: list[Decision] = []
        checked = False
        while heads := [queue[0] for queue in self._queues.values() if queue]:
            place = self._first_ready()
            if place is None:
                if not checked:
                    self._check_circular()
                    checked = True
                place = self._coming_back(heads)
            if place is None:
                place = self._in_a_circle(min(heads))
            if self._comes_back(place):
                place = self._at_once(place)
            taken.append(self._decisions[place])
            self._take(place)
        return tuple(taken)

    def _comes_back(self, place: int) -> bool:
        """Whether a line disables what others rely on, and the next one of its product enables it again."""
        queue = self._queues[self._modules[place].product]
        is_blocked = self._decisions[place].action == "disable" and next(self._obstacles(place), None) is not None
        return is_blocked and len(queue) > 1 and self._decisions[queue[1]].action == "enable"

    def _coming_back(self, heads: list[int]) -> int | None:
        """The first line that can be one with the next one of its product, which is ready."""
        for place in sorted(heads):
            if self._comes_back(place) and next(self._obstacles(self._queues[self._modules[place].product][1]), None) is None:
                return place
        return None

    def _at_once(self, place: int) -> int:
        """Make one line of a disable and an enable of its product."""
        queue = self._queues[self._modules[place].product]
        queue.popleft()
        self._decisions[queue[0]] = replace(self._decisions[queue[0]], module_from=self._decisions[place].module)
        return queue[0]

    def _first_ready(self) -> int | None:
        while self._may_be_next:
            place = heapq.heappop(self._may_be_next)
            queue = self._queues[self._modules[place].product]
            if not queue or queue[0] != place:
                continue
            interface = next(self._obstacles(place), None)
            if interface is None:
                return place
            self._waiting.setdefault(interface, []).append(place)
        return None

    def _obstacles(self, place: int) -> Iterator[str]:
        """Ids of the interfaces because of which a line cannot be next."""
        module, action = self._modules[place], self._decisions[place].action
        if action == "enable":
            return (need.id for need in self._enabled.unmet(module))
        if action == "disable" and self._enabled.get(module.product) is module:
            return (interface for interface, _ in self._enabled.relying_on(module.product))
        return iter(())

    def _take(self, place: int) -> None:
        module, action = self._modules[place], self._decisions[place].action
        queue = self._queues[module.product]
        queue.popleft()
        touched: tuple[str, ...] = ()
        if action == "enable":
            touched = self._enabled.put(module)
        elif action == "disable":
            touched = self._enabled.drop(module.product)
        if queue:
            heapq.heappush(self._may_be_next, queue[0])
        for interface in touched:
            for waiting in self._waiting.pop(interface, ()):
                heapq.heappush(self._may_be_next, waiting)

    def _in_a_circle(self, place: int) -> int:
        """The first line of a circle of lines that wait for each other, found from one that waits."""
        path = [place]
        while (blocker := self._blocker(path[-1])) is not None:
            if blocker in path:
                circle = path[path.index(blocker) :]
                return min(circle, key=lambda found: (self._decisions[found].action != "enable", found))
            path.append(blocker)
        return path[-1]

    def _blocker(self, place: int) -> int | None:
        """A line that another waits for."""
        module = self._modules[place]
        if self._decisions[place].action == "enable":
            for need in self._enabled.unmet(module):
                for queue in self._queues.values():
                    if queue and self._decisions[queue[0]].action == "enable" and _provides(self._modules[queue[0]], need):
                        return queue[0]
            return None
        users = (self._queues.get(user) for _, user in self._enabled.relying_on(module.product))
        return next((queue[0] for queue in users if queue), None)

    def _check_circular(self) -> None:
        """Refuse new modules that can never be ready, even when all that is enabled has moved: they require each other.

        Raises:
            ResolutionError: With Okapi's text.
        """
        waiting = [place for queue in self._queues.values() for place in queue if self._decisions[place].action == "enable"]
        moved = Enabled(self._enabled.descriptors())
        fresh = []
        for place in sorted(waiting):
            if moved.get(self._modules[place].product) is None:
                fresh.append(place)
            else:
                moved.put(self._modules[place])
        while (ready := next((p for p in fresh if next(moved.unmet(self._modules[p]), None) is None), None)) is not None:
            fresh.remove(ready)
            moved.put(self._modules[ready])
        if fresh:
            names = ", ".join(sorted(self._decisions[place].module for place in fresh))
            raise ResolutionError((f"Some modules cannot be topological sorted: {names}",))


def _provides(module: ModuleDescriptor, need: Requirement) -> bool:
    interface = module.interface(need.id)
    return interface is not None and not interface.is_system and interface_satisfies(interface.version, need.version)
