"""What a plan was made for, and what has moved since: the text of a refusal (409)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from upgrade_core.ids import product_of
from upgrade_core.plan.values import Change, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What the plan of a tenant depends on.

    Attributes:
        enabled: Ids of the tenant's enabled modules, sorted.
        registered: Ids of the registered modules, sorted. Descriptors do not change, so that ids say enough.
        data_versions: Product and module id that the tenant's data is at, sorted.
    """

    enabled: tuple[str, ...] = ()
    registered: tuple[str, ...] = ()
    data_versions: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, *, enabled: Iterable[str], registered: Iterable[str], data_versions: Mapping[str, str]) -> "World":
        """Put together what is known in any order."""
        return cls(
            enabled=tuple(sorted(enabled)),
            registered=tuple(sorted(registered)),
            data_versions=tuple(sorted(data_versions.items())),
        )


def moved(before: World, now: World) -> tuple[str, ...]:
    """What differs between two worlds, a clause each: what is enabled, where data is, what is registered; by product."""
    bound, binds = _by_product(before.enabled), _by_product(now.enabled)
    data, dates = dict(before.data_versions), dict(now.data_versions)
    return (
        *_clauses(
            bound, binds, came="{new} is enabled", went="{old} is not enabled any more", changed="{new} is enabled, not {old}"
        ),
        *_clauses(
            data,
            dates,
            came="there is data of {key}, at {new}",
            went="the data of {key}, at {old}, is gone",
            changed="the data of {key} is at {new}, not at {old}",
        ),
        *(f"{module} is registered" for module in sorted(set(now.registered) - set(before.registered))),
        *(f"{module} is not registered any more" for module in sorted(set(before.registered) - set(now.registered))),
    )


def differing(before: Plan, now: Plan) -> tuple[str, ...]:
    """What differs between two plans, a clause each: parameters, and changes that came, went, are others or stand elsewhere."""
    asked, asks = dict(before.options), dict(now.options)
    old, new = _changes(before), _changes(now)
    clauses = list(
        _clauses(
            asked,
            asks,
            came="{key}={new} is asked for",
            went="{key}={old} is not asked for any more",
            changed="{key}={new} is asked for, not {key}={old}",
        )
    )
    clauses += [
        f"{_told(change)} {f'is in group {group}' if change in old else 'is to be done'}"
        for change, group in new.items()
        if group != old.get(change)
    ]
    clauses += [f"{_told(change)} is not to be done any more" for change in old if change not in new]
    order = [group.after for group in before.groups] != [group.after for group in now.groups]
    return tuple(clauses) or (("groups wait for others",) if order else ())


def _by_product(modules: Iterable[str]) -> dict[str, str]:
    return {product_of(module): module for module in modules}


def _clauses(before: Mapping[str, str], now: Mapping[str, str], *, came: str, went: str, changed: str) -> Iterable[str]:
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if old != new:
            form = came if old is None else went if new is None else changed
            yield form.format(key=key, old=old, new=new)


def _changes(plan: Plan) -> dict[Change, str]:
    return {change: group.key for group in plan.groups for change in group.changes}


def _told(change: Change) -> str:
    way = f" from {change.version_from}" if change.version_from and change.version_to else ""
    return f"{change.kind} of {change.subject}{way}"
