"""Event loops that do one turn when told, by a clock that is moved by hand."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, Protocol

from gateway import links, membership

_BEGINNING = datetime(2030, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    """Seconds that nothing but the test moves."""

    now: float


def date(clock: Clock) -> datetime:
    """What a calendar shows."""
    return _BEGINNING + timedelta(seconds=clock.now)


class SteppedLoop(asyncio.BaseEventLoop):
    """A loop that does one turn when told, by the world's clock."""

    def __init__(self, clock: Clock, offset: float) -> None:
        super().__init__()
        self._clock = clock
        self._offset = offset
        self._selector = SimpleNamespace(select=lambda timeout: [], close=lambda: None)

    def time(self) -> float:
        return self._clock.now + self._offset  # no two processes agree on what a monotonic clock counts from

    def _process_events(self, event_list: Any) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    @contextmanager
    def running(self) -> Iterator[None]:
        """What runs is this loop's; the gateway's other two clocks, the lease's and the calendar, are the world's, too."""
        clocks = membership._now, links.datetime
        membership._now = self.time
        links.datetime = SimpleNamespace(now=lambda zone: date(self._clock))  # type: ignore[assignment, misc]
        asyncio._set_running_loop(self)
        try:
            yield
        finally:
            asyncio._set_running_loop(None)
            membership._now, links.datetime = clocks  # type: ignore[misc]

    def turn(self) -> None:
        with self.running():
            self._run_once()

    @property
    def next_at(self) -> float:
        """When there is something to do, by the world's clock."""
        if self._ready:
            return 0.0
        live = (handle._when for handle in self._scheduled if not handle._cancelled)
        return min(live, default=float("inf")) - self._offset
