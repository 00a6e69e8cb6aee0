"""What must be there in Temporal, made sure of again and again: it may lose its history, and everything registered with it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

_log = logging.getLogger(__name__)
_AGAIN = 1.0
"""Seconds until the next try while something cannot be made sure of: it is there at once when Temporal is back."""


class Ensuring:
    """Runs beside the worker.

    Args:
        wanted: What is made sure of, by a name for the log; each may be done any number of times.
        interval: Seconds between rounds in which all went well (`temporal.ensure_interval`).
    """

    def __init__(self, wanted: Mapping[str, Callable[[], Awaitable[None]]], *, interval: float) -> None:
        self._wanted = dict(wanted)
        self._interval = interval
        self._failing: set[str] = set()

    async def run(self) -> None:
        """Make sure until cancelled."""
        while True:
            await self.once()
            await asyncio.sleep(min(_AGAIN, self._interval) if self._failing else self._interval)

    async def once(self) -> bool:
        """One round; whether all went well. One that fails keeps no other from being tried."""
        for name, ensure in self._wanted.items():
            try:
                await ensure()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again
                if name not in self._failing:
                    _log.warning("%s cannot be made sure of now, it is tried again: %s", name, error)
                self._failing.add(name)
            else:
                if name in self._failing:
                    _log.info("%s: made sure of again", name)
                self._failing.discard(name)
        return not self._failing
