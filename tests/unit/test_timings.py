"""Durations in classes, and the metrics that are made of them."""

from gateway.metrics import FAMILIES
from gateway.timings import Timings


def test_a_duration_counts_in_its_class_and_in_all_above() -> None:
    timings = Timings((0.1, 1.0))
    for seconds in (0.05, 0.1, 0.2, 7.0):
        timings.add(seconds)
    assert timings.cumulative() == (("0.1", 2), ("1.0", 3), ("+Inf", 4))
    assert round(timings.seconds, 6) == 7.35


def test_counters_end_as_prometheus_wants_and_nothing_else_does() -> None:
    assert [name for name, family in FAMILIES.items() if name.endswith("_total") != (family.kind == "counter")] == []


def test_no_metric_is_labelled_with_what_nobody_bounds() -> None:
    assert {label for family in FAMILIES.values() for label in family.labels} == {"module", "status", "reply", "state", "kind"}
