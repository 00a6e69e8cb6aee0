"""How long something took, counted in memory: cheap where it happens, read when somebody asks for metrics."""

import asyncio
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager


class Timings:
    """Durations in few classes.

    Args:
        bounds: Upper bounds of the classes in seconds, ascending; one without a bound follows.
    """

    __slots__ = ("bounds", "counts", "seconds")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.seconds += seconds

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count how long a part of a coroutine takes, however it ends."""
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            yield
        finally:
            self.add(clock() - began)

    def cumulative(self) -> tuple[tuple[str, float], ...]:
        """Upper bound and how many took at most that long, as Prometheus writes it."""
        total, found = 0, []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            found.append((bound, float(total)))
        return tuple(found)
