"""Python's garbage collector, kept off the data path: everybody waits while it looks through all of memory.

Nearly all that a gateway makes is freed the moment it is used no more; the collector is for cycles, and they are few. What is
there after the start or a large change of the tables is therefore set aside, and looked through once in a long while.
"""

import asyncio
import gc
from time import perf_counter
from typing import Any

_YOUNG = 10_000
"""New objects between two looks at them alone: such a look takes under a millisecond; 700, Python's own, are a few requests'."""

_OLDEST = 2
"""The generation that is all that was not set aside."""


class Garbage:
    """Says what the collector looks at, and when; one for the process.

    Args:
        interval: Seconds between two looks through all of memory.
        slow: Seconds after which a look was one through too much: what was there is set aside then.
    """

    def __init__(self, *, interval: float, slow: float) -> None:
        self._interval = interval
        self._slow = slow
        self._began = 0.0

    def open(self) -> None:
        """Set aside what is there."""
        gc.set_threshold(_YOUNG)
        gc.callbacks.append(self._seen)
        gc.freeze()

    async def run(self) -> None:
        """Look through all of memory every `interval`, until cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            gc.unfreeze()
            gc.collect()
            gc.freeze()

    def _seen(self, phase: str, info: dict[str, Any]) -> None:
        if phase == "start":
            self._began = perf_counter()
        elif info["generation"] == _OLDEST and perf_counter() - self._began > self._slow:
            gc.freeze()
