"""Metrics for Prometheus: read from the parts when somebody asks, so that nothing is kept up to date for nobody.

Labels are module ids, states and classes, never tenants or paths: their number is bounded by what is registered.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gateway.holds import Holds
from gateway.observation import Observation, Served
from gateway.platform import Platform
from gateway.routing import RoutingTable
from gateway.store import DatabaseError, Totals, TotalsStore
from gateway.timings import Timings
from upgrade_core.protocol import Hold
from upgrade_core.reconcile import Kind as DifferenceKind

Kind = Literal["counter", "gauge", "histogram"]
_PREFIX = "uplift_gateway_"
NONE = "none"
"""Label `module` of requests that were routed to none: no such tenant or path."""
LEFT = "left"
"""Label `status` of requests that got no whole answer: their client left, or they were cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One metric: its name without the common prefix, and what the reference page says of it."""

    name: str
    kind: Kind
    labels: tuple[str, ...] = ()
    meaning: str

    @property
    def shown(self) -> str:
        """The name in full."""
        return _PREFIX + self.name


_ROWS: tuple[tuple[str, Kind, str, str], ...] = (
    (
        "requests_total", "counter", "module status",
        ("Proxied requests that ended, by module id (`none`: routed to none) and class of status (`left`: the client left, or"
        " they were cut)."),
    ),
    ("request_seconds", "histogram", "module", "Seconds from a proxied request's head to its answer's end, parking included."),
    ("in_flight", "gauge", "module", "Requests at work in instances now."),
    ("admin_requests_total", "counter", "status", "Admin requests that ended, by class of status."),
    ("admin_request_seconds", "histogram", "", "Seconds that admin requests took; some wait on purpose."),
    ("parked", "gauge", "", "Requests parked now."),
    ("parkings_total", "counter", "", "How often a request was parked."),
    ("delays_total", "counter", "reply", "Answers 503 of the gateway itself, by what they promise: `DELAY` or `MISSING`."),
    ("holds", "gauge", "state", "Links held now, `DRAINING` or `HELD`; a hold for all tenants counts once."),
    ("hold_oldest_seconds", "gauge", "", "Seconds for which the oldest of those has stood; 0 without any."),
    ("holds_overdue", "gauge", "", "Links held past the time that their holder named."),
    ("hold_seconds", "histogram", "", "Seconds for which links were held that are not any more."),
    (
        "instances", "gauge", "module state",
        "Instances by module id, `in_service` or `out_of_service`; a module that is enabled for a tenant and has none is at 0.",
    ),
    ("epoch", "gauge", "", "Number of the last change that this replica routes by."),
    ("epoch_lag", "gauge", "", "Changes that were in Postgres at the last renewal of the lease and are not applied here."),
    ("replicas", "gauge", "", "Replicas alive, this one included, as of its last look."),
    ("barrier_wait_seconds", "histogram", "", "Seconds that admin writes waited until all replicas followed."),
    ("lease_seconds", "gauge", "", "Seconds for which this replica may still route without Postgres."),
    ("database_away", "gauge", "", "1 while Postgres is known to be away."),
    (
        "outbox_pending", "gauge", "",
        "Notifications and pushes not delivered yet. The same at every replica; absent while Postgres is away.",
    ),
    (
        "holds_left", "gauge", "",
        ("Holds that no run will open: `uplift resolve` settles them. The same at every replica; absent while Postgres is"
        " away."),
    ),
    (
        "differences", "gauge", "kind",
        "What the last reconcile run found and left, by kind. The same at every replica; absent while Postgres is away.",
    ),
    (
        "reconcile_age_seconds", "gauge", "",
        "Seconds since the last report of a reconcile run. The same at every replica; absent without one, or without Postgres.",
    ),
    ("jobs_open", "gauge", "", "Install jobs that have not ended. The same at every replica; absent while Postgres is away."),
)  # fmt: skip
FAMILIES = {name: Family(name=name, kind=kind, labels=tuple(labels.split()), meaning=text) for name, kind, labels, text in _ROWS}
"""Every metric, in the order of the page."""


def instance_states(table: RoutingTable) -> dict[tuple[str, ...], float]:
    """How many instances there are, by module id and state."""
    found: dict[tuple[str, ...], float] = {}
    for instance in table.pool:
        key = (instance.row.module, "in_service" if instance.in_service else "out_of_service")
        found[key] = found.get(key, 0) + 1
    for bound in table.bindings.values():
        for module in bound.values():
            if not table.runs_nowhere(module):
                found.setdefault((module, "in_service"), 0)
    return found


class Metrics(Collector):
    """Everything that this gateway tells Prometheus; its registry also holds the process's own (`process_*`)."""

    def __init__(self, *, platform: Platform, holds: Holds, observation: Observation) -> None:
        self._platform = platform
        self._holds = holds
        self._observation = observation
        self._totals = TotalsStore(platform.database)
        self._read: Totals | None = None
        self._loop = asyncio.get_running_loop()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    async def page(self) -> bytes:
        """All metrics as text, for Prometheus."""
        self._read = None
        with contextlib.suppress(DatabaseError, TimeoutError):
            async with asyncio.timeout(self._platform.settings.database_timeout):
                self._read = await self._totals.read()
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """What there is, without reading anything."""
        return [_empty(family) for family in FAMILIES.values()]

    def collect(self) -> Iterator[Metric]:
        """What is so now."""
        yield from self._requests()
        yield from self._holding()
        yield from self._state()

    def _requests(self) -> Iterator[Metric]:
        table, observation = self._platform.table, self._observation
        for gone in [module for module in observation.served if module and module not in table.modules]:
            del observation.served[gone]
        total, seconds = _counter("requests_total"), _histogram("request_seconds")
        for module, served in observation.served.items():
            _add_classes(total, served, module or NONE)
            _add_timings(seconds, served.timings, module or NONE)
        yield total
        yield seconds
        at_work = Counter(exchange.module for flow in table.flows() for exchange in flow.in_flight.values() if exchange.module)
        yield _gauge("in_flight", {(module,): number for module, number in at_work.items()})
        total, seconds = _counter("admin_requests_total"), _histogram("admin_request_seconds")
        _add_classes(total, observation.admin)
        _add_timings(seconds, observation.admin.timings)
        yield total
        yield seconds
        yield _value("parked", table.parked_total)
        total = _counter("parkings_total")
        total.add_metric((), table.parkings)
        yield total
        total = _counter("delays_total")
        for reply, number in observation.delays.items():
            total.add_metric((reply,), number)
        yield total

    def _holding(self) -> Iterator[Metric]:
        held = [link for link in self._platform.table.all_links() if link.hold is not Hold.OPEN]
        states = Counter(str(link.hold) for link in held)
        yield _gauge("holds", {(str(state),): states[str(state)] for state in Hold if state is not Hold.OPEN})
        now = self._loop.time()
        yield _value("hold_oldest_seconds", max((now - link.held_from for link in held), default=0.0))
        ended = _histogram("hold_seconds")
        _add_timings(ended, self._holds.ended)
        yield ended
        yield _value("holds_overdue", sum(link.overdue for link in held))

    def _state(self) -> Iterator[Metric]:
        platform, membership, follower = self._platform, self._platform.membership, self._platform.follower
        yield _gauge("instances", instance_states(platform.table))
        yield _value("epoch", follower.epoch)
        yield _value("epoch_lag", max(0, membership.epoch_seen - follower.epoch))
        yield _value("replicas", 1 + len(follower.others))
        waited = _histogram("barrier_wait_seconds")
        _add_timings(waited, membership.barriers)
        yield waited
        yield _value("lease_seconds", membership.lease_left)
        yield _value("database_away", platform.database.away)
        yield _value("outbox_pending", None if self._read is None else self._read.outbox)
        yield _value("holds_left", None if self._read is None else self._read.left)
        yield _gauge(
            "differences",
            {} if self._read is None else {(str(kind),): self._read.differences.get(kind, 0) for kind in DifferenceKind},
        )
        yield _value("reconcile_age_seconds", None if self._read is None else self._read.reconciled)
        yield _value("jobs_open", None if self._read is None else self._read.jobs)


def reference_page() -> str:
    """The page of all metrics, as Markdown (`docs/reference/metrics.md`)."""
    lines = ["# Metrics", "", "Written by `make docs`. How to have them collected: [Observe](../how-to/observe.md).", ""]
    lines += ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for family in FAMILIES.values():
        labels = ", ".join(f"`{label}`" for label in family.labels)
        lines.append(f"| `{family.shown}` | {family.kind} | {labels} | {family.meaning} |")
    lines += [
        "",
        "`process_cpu_seconds_total`, `process_resident_memory_bytes`, `process_open_fds` and their like are the process's own.",
    ]
    return "\n".join(lines) + "\n"


def _empty(family: Family) -> Metric:
    match family.kind:
        case "counter":
            return _counter(family.name)
        case "gauge":
            return _gauge(family.name, {})
        case _:
            return _histogram(family.name)


def _counter(name: str) -> CounterMetricFamily:
    family = FAMILIES[name]
    return CounterMetricFamily(family.shown, family.meaning, labels=family.labels)


def _histogram(name: str) -> HistogramMetricFamily:
    family = FAMILIES[name]
    return HistogramMetricFamily(family.shown, family.meaning, labels=family.labels)


def _gauge(name: str, values: Mapping[tuple[str, ...], float]) -> GaugeMetricFamily:
    family = FAMILIES[name]
    found = GaugeMetricFamily(family.shown, family.meaning, labels=family.labels)
    for labels, value in values.items():
        found.add_metric(labels, value)
    return found


def _value(name: str, value: float | None) -> GaugeMetricFamily:
    return _gauge(name, {} if value is None else {(): value})


def _add_classes(family: CounterMetricFamily, served: Served, *labels: str) -> None:
    for hundreds, number in enumerate(served.classes):
        if number:
            family.add_metric((*labels, f"{hundreds}xx" if hundreds else LEFT), number)


def _add_timings(family: HistogramMetricFamily, timings: Timings, *labels: str) -> None:
    family.add_metric(labels, buckets=timings.cumulative(), sum_value=timings.seconds)
