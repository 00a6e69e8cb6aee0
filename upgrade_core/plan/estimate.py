"""For how long a plan will hold its tenant, from what past changes were held for."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from upgrade_core.plan.values import Change, Group, Kind, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldTime:
    """What one past change of any tenant was held for, from its UPDATE to the RESUME of its switch.

    Attributes:
        product: The product.
        kind: What it was.
        version_from: Module id that the data was at; None where there was none.
        version_to: Module id that it went to; None for disable and purge.
        together: Names the changes of its group, see `name_together`: they were held as long as the slowest of them needed.
        seconds: How long.
    """

    product: str
    kind: Kind
    version_from: str | None = None
    version_to: str | None = None
    together: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """For how long a plan will hold.

    Attributes:
        groups: Seconds for each group of the plan, in its order; None: nothing is known of a change of it.
        total: Sum of those that are known; None if none is.
        unknown: Groups of which nothing is known.
    """

    groups: tuple[float | None, ...]
    total: float | None
    unknown: int


def name_together(changes: Iterable[Change]) -> str:
    """A name for changes that are held together: the same for the same changes of any tenant."""
    told = sorted(f"{change.kind} {change.product} {change.version_from} {change.version_to}" for change in changes)
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


def held_times(group: Group, seconds: float) -> tuple[HeldTime, ...]:
    """What is to be remembered of a group that was switched after so many seconds."""
    together = name_together(group.changes)
    return tuple(
        HeldTime(
            product=change.product,
            kind=change.kind,
            version_from=change.version_from,
            version_to=change.version_to,
            together=together,
            seconds=seconds,
        )
        for change in group.changes
    )


def estimate(plan: Plan, past: Sequence[HeldTime], *, last: int) -> Estimate:
    """For how long each group of a plan will be held, and all of them.

    A group that was changed just so before takes the median of the last times. Otherwise it takes the sum of its changes: of
    each the median of the last ones between the same two versions, else of the last ones of the product and kind. Nothing is
    scaled.

    Args:
        plan: The plan.
        past: What is remembered of the plan's products, the newest first.
        last: How many times are looked at, at most.
    """
    by_product: dict[str, list[HeldTime]] = {}
    for time in past:
        by_product.setdefault(time.product, []).append(time)
    groups = tuple(_group(group.changes, by_product, last) for group in plan.groups)
    known = [seconds for seconds in groups if seconds is not None]
    return Estimate(groups=groups, total=sum(known) if known else None, unknown=len(groups) - len(known))


def _group(changes: tuple[Change, ...], past: dict[str, list[HeldTime]], last: int) -> float | None:
    together = name_together(changes)
    before = [time.seconds for time in past.get(changes[0].product, ()) if time.together == together]
    if before:
        return median(before[:last])
    each = [_change(change, past.get(change.product, ()), last) for change in changes]
    known = [seconds for seconds in each if seconds is not None]
    return sum(known) if len(known) == len(each) else None


def _change(change: Change, past: Sequence[HeldTime], last: int) -> float | None:
    alike = [time for time in past if time.kind is change.kind]
    way = (change.version_from, change.version_to)
    same = [time for time in alike if (time.version_from, time.version_to) == way]
    seconds = [time.seconds for time in (same or alike)[:last]]
    return median(seconds) if seconds else None
