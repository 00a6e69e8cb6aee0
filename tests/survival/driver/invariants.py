"""What must be true whatever was done and killed. Each function gives what is wrong, a line each, and names its requirement."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from tests.survival.driver.world import Answer, Bound, Ended, World, Written

_COMMIT = 0.2
"""Seconds that a transaction may take to be visible after its deferred triggers ran, on a busy machine."""
_DONE = ("done", "done_with_warnings")


def nothing_done(world: World) -> list[str]:
    """A run proves something only if all of it happened: what was not even tried cannot have gone wrong."""
    happened = {
        "job ended well": any(job.outcome in _DONE for job in world.ended),
        "tenant init began": any(line["event"] == "begin" for line in world.inits),
        "user was answered by a module": bool(world.answers),
        "write was acknowledged": bool(world.written),
        "process was killed": bool(world.kills),
    }
    return [f"no {what}: this run shows nothing" for what, did in happened.items() if not did]


def wrong_versions(answers: Iterable[Answer], bindings: Sequence[Bound]) -> list[str]:
    """No request reaches a version that is not enabled (D3): each was enabled at some moment between request and answer."""
    times = _times(bindings)
    wrong = []
    for answer in answers:
        enabled = times.get((answer.tenant, answer.product), [])
        if not any(
            module == answer.module and begun - _COMMIT <= answer.got and answer.sent <= over + _COMMIT
            for module, begun, over in enabled
        ):
            wrong.append(f"{answer} is by a version that was not enabled then; enabled were {enabled[-4:]}")
    return wrong


def two_inits_at_once(lines: Sequence[dict[str, Any]]) -> list[str]:
    """No two tenant inits of a tenant and module work at a time (C4, D3).

    Across processes Postgres says so, by `overlap`; within one, a begin that follows a begin without its end.
    """
    wrong = [
        f"{line['id']} ({line['pid']}) was asked for {line['tenant']} while {line['other']} worked on it at {line['at']:.3f}"
        for line in lines
        if line["event"] == "overlap"
    ]
    for key in {(line["pid"], line["tenant"]) for line in lines if line["event"] == "begin"}:
        own = [line for line in lines if (line["pid"], line["tenant"]) == key and line["event"] in ("begin", "end")]
        wrong += [
            f"{first['id']} began for {first['tenant']} at {first['at']:.3f} and again at {second['at']:.3f}"
            for first, second in pairwise(own)
            if first["event"] == second["event"] == "begin"
        ]
    return wrong


def two_enabled(enabled: Sequence[str], rows: Sequence[str], *, tenant: str) -> list[str]:
    """One version of a product is enabled for a tenant, and the API says the same as the table (D2)."""
    products = [module.rpartition("-")[0] for module in enabled]
    wrong = [] if len(set(products)) == len(products) else [f"{tenant} has two versions of a product: {enabled}"]
    return wrong if sorted(enabled) == sorted(rows) else [*wrong, f"{tenant} has {sorted(rows)}, the API says {sorted(enabled)}"]


def two_active(rows: Iterable[tuple[str, str]]) -> list[str]:
    """One job of a tenant is at work at a time (C1): rows are (tenant, job) of the active ones."""
    seen: dict[str, str] = {}
    wrong = []
    for tenant, job in rows:
        if tenant in seen:
            wrong.append(f"jobs {seen[tenant]} and {job} of {tenant} are both at work")
        seen[tenant] = job
    return wrong


def untrue_records(world: World) -> list[str]:
    """A job's record says what happened (C2): the bindings changed as its outcome says, and at no other time."""
    wrong: list[str] = []
    for tenant in {job.tenant for job in world.ended}:
        begun = 0.0
        # One that is aborted while it waits for its turn ends in the middle of another.
        for job in (job for job in world.ended if job.tenant == tenant and not job.never_began):
            during = [
                change
                for change in world.bindings
                if change.tenant == tenant and begun < change.at <= job.at and change.at < world.deleted.get(tenant, job.at + 1)
            ]
            begun = job.at
            wrong += _untrue(job, {change.product: change.module for change in during})
    return wrong


def wrong_outcomes(world: World, *, around: float) -> list[str]:
    """A job that nothing disturbed ends as its tenant init does (D2), and one that fails says why.

    Args:
        world: The world.
        around: Seconds before a job's start in which a kill still counts as a disturbance.
    """
    wrong = []
    for job in world.ended:
        told, errors = world.told.get(job.id), job.record["errors"]
        if job.outcome not in _DONE and not any(error["message"] for error in errors):
            wrong.append(f"job {job.id} of {job.tenant} ended as {job.outcome} and does not say why")
        disturbed = job.id in world.aborted or any(_start(job, world) - around <= at <= job.at for at, _ in world.kills)
        if told is None or disturbed:
            continue
        if told.endswith("error"):
            asked = [line for line in job.lines if line["action"] == "enable"]
            if asked and (job.outcome != "rolled_back" or "as asked" not in str(errors)) and job.outcome != "failed":
                wrong.append(f"job {job.id} of {job.tenant}: its init was told to fail, but it ended as {job.outcome}: {errors}")
        elif job.outcome not in (*_DONE, "failed"):
            wrong.append(f"job {job.id} of {job.tenant}: nothing disturbed it, but it ended as {job.outcome}: {errors}")
    return wrong


def lost_writes(written: Iterable[Written], there: dict[tuple[str, str], set[str]], ended: Sequence[Ended]) -> list[str]:
    """Every acknowledged write is there (D2, D3), unless a purge that ended well came after it.

    Args:
        written: Acknowledged writes.
        there: Rows by tenant and product; tenants that are gone are left out.
        ended: The jobs.
    """
    purged: dict[tuple[str, str], float] = {}
    for job in ended:
        if job.purge and job.outcome in _DONE:
            purged |= {(job.tenant, product): job.at for product in job.moves()}
    return [
        f"row {write.row} of {write.tenant} in {write.product}, written at {write.got:.3f}, is gone"
        for write in written
        if (key := (write.tenant, write.product)) in there and write.row not in there[key] and write.got > purged.get(key, 0.0)
    ]


def wrong_data(data: Iterable[tuple[str, str, str | None, Sequence[int]]]) -> list[str]:
    """The data is at the version that is enabled (D2): (tenant, enabled module, version of the data, levels of its rows)."""
    wrong = []
    for tenant, module, version, levels in data:
        enabled = module.rpartition("-")[2]
        if version != enabled:
            wrong.append(f"{tenant} has {module} enabled, but its data is at {version}")
        elif any(level != int(enabled.split(".")[0]) for level in levels):
            wrong.append(f"{tenant} has {module} enabled, but rows of levels {sorted(set(levels))}")
    return wrong


def changed_records(ended: Iterable[Ended], now: dict[str, dict[str, Any]]) -> list[str]:
    """The record of an ended job stays as it was (C2). Records may be removed, not changed."""
    return [
        f"job {job.id} of {job.tenant} had ended, then its record changed: "
        + ", ".join(f"{name}: {job.record[name]!r} -> {found[name]!r}" for name in found if found[name] != job.record.get(name))
        for job in ended
        if (found := now.get(job.id)) is not None and any(found[name] != job.record.get(name) for name in found)
    ]


def _times(bindings: Sequence[Bound]) -> dict[tuple[str, str], list[tuple[str, float, float]]]:
    """When which version was enabled, by tenant and product."""
    found: dict[tuple[str, str], list[tuple[str, float, float]]] = {}
    now: dict[tuple[str, str], tuple[str | None, float]] = {}
    for change in bindings:
        key = (change.tenant, change.product)
        module, begun = now.get(key, (None, 0.0))
        if module is not None:
            found.setdefault(key, []).append((module, begun, change.at))
        now[key] = (change.module, change.at)
    for key, (module, begun) in now.items():
        if module is not None:
            found.setdefault(key, []).append((module, begun, float("inf")))
    return found


def _untrue(job: Ended, changed: dict[str, str | None]) -> list[str]:
    moves = job.moves()
    what = f"job {job.id} of {job.tenant} ended as {job.outcome}"
    if job.outcome in _DONE:
        # An update to the version that was there, and the purge of what was disabled before, change nothing.
        same = {
            line["id"].rpartition("-")[0] for line in job.lines if line.get("from") == line["id"] or line["action"] == "disable"
        }
        missing = {product: module for product, module in moves.items() if product not in changed and product not in same}
        other = {product: module for product, module in changed.items() if product not in moves or moves[product] != module}
        return [f"{what}, but bindings did not change to {missing}, and changed to {other}"] if missing or other else []
    done = {line["id"].rpartition("-")[0] for line in job.lines if line.get("stage") == "done"}
    surprise = {product: module for product, module in changed.items() if product not in done}
    return [f"{what}, but bindings changed: {surprise}"] if surprise else []


def _start(job: Ended, world: World) -> float:
    """When a job's turn came at the earliest: the end of the tenant's one before, or when it was asked for."""
    before = [other.at for other in world.ended if other.tenant == job.tenant and other.at < job.at]
    return max([job.record["asked"], *before])
