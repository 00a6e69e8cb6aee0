"""What is shown while the demo runs: filled by the steps and the watcher, read by the view."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from uplift_cli.demo.load import TenantLoad

_EVENTS = 12


@dataclass(slots=True, kw_only=True)
class TenantState:
    """One tenant's row of the view.

    Attributes:
        versions: Version of each enabled module, by product.
        doing: Phase of its job; empty: none runs.
        parked: Requests that the gateway holds now.
        most_parked: The highest number seen.
        rate: Writes per second, over the last look.
    """

    load: TenantLoad
    versions: dict[str, str] = field(default_factory=dict)
    doing: str = ""
    parked: int = 0
    most_parked: int = 0
    rate: float = 0.0


class Board:
    """All of it.

    Args:
        announce: Told each event with the seconds since the demo's start.
    """

    def __init__(self, *, announce: Callable[[float, str], None]) -> None:
        self.step = "set-up"
        self.tenants: dict[str, TenantState] = {}
        self.events: deque[tuple[float, str]] = deque(maxlen=_EVENTS)
        self._announce = announce
        self._began = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the demo's start."""
        return time.monotonic() - self._began

    def say(self, text: str) -> None:
        """Note an event."""
        self.events.append((self.elapsed, text))
        self._announce(self.elapsed, text)

    def enter(self, step: str) -> None:
        """Begin a step."""
        self.step = step
        self.say(f"== {step}")

    def summary(self) -> str:
        """One line about all tenants together."""
        states = self.tenants.values()
        requests = sum(len(state.load.books.records) for state in states)
        failed = sum(len(state.load.books.failures) for state in states)
        phases = ", ".join(f"{name} {state.doing}" for name, state in self.tenants.items() if state.doing)
        held = sum(state.parked for state in states)
        return f"{requests} requests answered, {held} held now, {failed} failed" + (f"; {phases}" if phases else "")
