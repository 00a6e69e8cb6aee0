"""Live instances of module versions as this replica sees them, and what follows from that: UP, LOST or CLOSED.

Rows say which instances there are; whether one answers is found out by requests (`gateway.proxy`) and by health checks
(`gateway.health`). Each replica has its own view, so it needs no database and holds while Postgres is away.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from gateway.store import InstanceRow
from upgrade_core.protocol import Availability, Effect, Service, Signal, on_availability, on_service

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False, kw_only=True)
class Instance:
    """One instance.

    Attributes:
        row: What is registered.
        seen: When it last said itself that it is well, as the row has it.
        in_flight: Requests at work in it, sent by this replica.
        state: Whether it gets requests; moved by the protocol's table alone.
        failures: Failed health checks in a row.
        times_seen: Counts how often it came (back) into service; tells apart what happened to an earlier process.
        last_turn: When it was last chosen, by the pool's count.
        dropped: Set while it is out of service.
        trace: Its module and its id as `X-Okapi-Trace` shows them; its address is nobody's business.
    """

    row: InstanceRow
    seen: str | None
    in_flight: int = 0
    state: Service = Service.GONE
    failures: int = 0
    times_seen: int = 0
    last_turn: int = 0
    dropped: asyncio.Event = field(default_factory=asyncio.Event)
    trace: str = ""

    @property
    def in_service(self) -> bool:
        """Whether it gets requests."""
        return self.state is Service.SERVING

    def apply(self, signal: Signal) -> tuple[Effect, ...]:
        """Move by the table.

        Raises:
            IllegalSignal: The table forbids it; nothing changed.
        """
        self.state, effects = on_service(self.state, signal)
        return effects

    def __post_init__(self) -> None:
        self.trace = f"{self.row.module} {quote(self.row.id, safe='')}"


@dataclass(slots=True, eq=False)
class Version:
    """The instances of one module version.

    Attributes:
        lost_since: When the last one went out of service, while it is LOST.
        lost_until: When LOST ends in CLOSED.
    """

    module: str
    availability: Availability = Availability.CLOSED
    instances: list[Instance] = field(default_factory=list)
    in_service: list[Instance] = field(default_factory=list)
    lost_since: datetime | None = None
    lost_until: datetime | None = None
    timer: asyncio.TimerHandle | None = None


class Pool:
    """All instances.

    Args:
        ttl: Seconds from LOST to CLOSED.
        chance: Picks the two of which the less busy one is taken.
    """

    def __init__(self, *, ttl: float, chance: random.Random | None = None) -> None:
        self._ttl = ttl
        self._chance = chance or random.Random()  # noqa: S311 - spreads load, keeps no secret
        self._versions: dict[str, Version] = {}
        self._by_id: dict[str, Instance] = {}
        self._turn = 0
        self.on_effects: Callable[[str, tuple[Effect, ...]], None] | None = None
        """Called with a module id and what is to be done after its availability changed."""
        self.on_known: Callable[[Instance], None] | None = None
        """Called with an instance that was not known before."""
        self.on_forgotten: Callable[[Instance], None] | None = None
        """Called with an instance that is known no more."""

    def __iter__(self) -> Iterator[Instance]:
        """All instances."""
        return iter(list(self._by_id.values()))

    def availability(self, module: str) -> Availability:
        """That of a version; CLOSED if it never had an instance since this gateway started."""
        version = self._versions.get(module)
        return Availability.CLOSED if version is None else version.availability

    def version(self, module: str) -> Version | None:
        """What is known of a version; None if nothing is."""
        return self._versions.get(module)

    def put(self, row: InstanceRow, *, seen: str | None) -> None:
        """Take a row: any change of it is SEEN, so a registration, a new process or its own word that it is well."""
        known = self._by_id.get(row.id)
        if known is not None and known.row.module != row.module:
            self.remove(row.id)
            known = None
        if known is None:
            known = self._by_id[row.id] = Instance(row=row, seen=seen)
            version = self._versions.get(row.module)
            if version is None:
                version = self._versions[row.module] = Version(row.module)
            version.instances.append(known)
            if self.on_known is not None:
                self.on_known(known)
        elif (known.row, known.seen) == (row, seen):
            return  # nothing new was said: a whole picture after a lost connection
        known.row, known.seen = row, seen
        self.seen(known)

    def remove(self, instance: str) -> None:
        """An instance is gone; its requests in flight finish."""
        known = self._by_id.pop(instance, None)
        if known is None:
            return
        known.apply(Signal.DISCONNECT)
        version = self._versions[known.row.module]
        version.instances.remove(known)
        if known in version.in_service:
            version.in_service.remove(known)
        if self.on_forgotten is not None:
            self.on_forgotten(known)
        self._after_loss(version)

    def choose(self, module: str, avoid: Collection[Instance] = ()) -> Instance | None:
        """The less busy of two taken by chance (requirement E4); among equals the one that waited longer for its turn."""
        version = self._versions.get(module)
        if version is None:
            return None
        ready = version.in_service
        if avoid:
            ready = [instance for instance in ready if instance not in avoid]
        if not ready:
            return None
        if len(ready) == 1:
            return ready[0]
        first, second = ready if len(ready) == 2 else self._chance.sample(ready, 2)  # noqa: PLR2004 - the two
        chosen = min(first, second, key=lambda one: (one.in_flight, one.last_turn))
        self._turn += 1
        chosen.last_turn = self._turn
        return chosen

    def drop(self, instance: Instance, *, times_seen: int, why: str) -> None:
        """DROPPED: it refused, broke off or failed its health checks.

        Args:
            instance: Which.
            times_seen: Its count when what failed began: later SEENs are about a newer process, and stand.
            why: For the log.
        """
        if not instance.in_service or instance.times_seen != times_seen:
            return
        _log.warning("instance %s of %s is out of service: %s", instance.row.id, instance.row.module, why)
        if Effect.GO_ELSEWHERE in instance.apply(Signal.DROPPED):
            instance.dropped.set()
        version = self._versions[instance.row.module]
        if instance in version.in_service:
            version.in_service.remove(instance)
        self._after_loss(version)

    def seen(self, instance: Instance) -> None:
        """SEEN: it is well; back in service at once."""
        if self._by_id.get(instance.row.id) is not instance:
            return
        instance.failures = 0
        instance.times_seen += 1
        version = self._versions[instance.row.module]
        was_serving = instance.in_service
        instance.apply(Signal.SEEN)
        if not was_serving:
            instance.dropped.clear()
            version.in_service.append(instance)
        self._signal(version, Signal.SEEN)

    def missed(self, instance: Instance, *, times_seen: int, most: int, why: str) -> None:
        """A health check failed; `most` of them in a row are too many."""
        if instance.times_seen != times_seen:
            return
        instance.failures += 1
        if instance.failures >= most:
            self.drop(instance, times_seen=times_seen, why=f"{instance.failures} health checks failed, {why}")

    def close(self) -> None:
        """No clock moves anything any more."""
        for version in self._versions.values():
            if version.timer is not None:
                version.timer.cancel()

    def _after_loss(self, version: Version) -> None:
        if version.in_service:
            return
        if version.availability is not Availability.CLOSED:
            self._signal(version, Signal.LAST_GONE)
        elif not version.instances:
            self._versions.pop(version.module, None)

    def _signal(self, version: Version, signal: Signal) -> None:
        before = version.availability
        version.availability, effects = on_availability(before, signal)
        if version.availability is not before:
            _log.info("%s is %s", version.module, version.availability)
            if version.timer is not None:
                version.timer.cancel()
                version.timer = None
            version.lost_since = version.lost_until = None
        if Effect.START_TTL in effects:
            version.lost_since = datetime.now(UTC)
            version.lost_until = version.lost_since + timedelta(seconds=self._ttl)
            version.timer = asyncio.get_running_loop().call_later(self._ttl, self._expired, version)
        if effects and self.on_effects is not None:
            self.on_effects(version.module, effects)

    def _expired(self, version: Version) -> None:
        self._signal(version, Signal.TTL_EXPIRED)
        if not version.instances:
            self._versions.pop(version.module, None)
