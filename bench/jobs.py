"""Install jobs, some at a time, and what is known of each afterwards."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.stack import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A job that has ended well.

    Attributes:
        job: Its id.
        posted: When it was asked for, seconds since the epoch.
        took: Seconds until it was answered.
        beyond: Seconds that the tenant was held beyond the module's own init.
    """

    job: str
    posted: float
    took: float
    beyond: float


async def enable(
    site: Site, tenants: Sequence[str], module: str, *, parallel: int, seconds: float, undo: str, step: Callable[[], None]
) -> tuple[list[Done], float]:
    """Enable a version for tenants, a job each, at most `parallel` unfinished at a time.

    Args:
        site: The stack.
        tenants: Whose.
        module: The version.
        parallel: How many jobs at a time.
        seconds: What the module's init takes.
        undo: Undo mode.
        step: Told of each job that ended.

    Returns:
        The jobs, and the seconds for all of them.
    """
    waiting = iter(tenants)
    asked: dict[str, tuple[float, float]] = {}

    async def one_after_another() -> None:
        for tenant in waiting:
            posted, begun = time.time(), time.perf_counter()
            path = f"/_/proxy/tenants/{tenant}/install?undo={undo}&tenantParameters=seconds={seconds:g}"
            await site.call("POST", path, [{"id": module, "action": "enable"}])
            asked[tenant] = (posted, time.perf_counter() - begun)
            step()

    begun = time.perf_counter()
    await asyncio.gather(*(one_after_another() for _ in range(parallel)))
    took = time.perf_counter() - begun
    inits = site.inits()
    rows = [(tenant, (await site.call("GET", f"/_/proxy/tenants/{tenant}/install"))[-1]) for tenant in tenants]
    return [_done(row, asked[tenant], inits[module, tenant]) for tenant, row in rows], took


def _done(row: dict[str, Any], asked: tuple[float, float], init: tuple[float, float]) -> Done:
    posted, took = asked
    return Done(job=row["id"], posted=posted, took=took, beyond=row["heldSeconds"] - (init[1] - init[0]))
