"""What the kill matrix is made of: components, moments, delays, and how each case ends."""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.survival.moments import MOMENTS, Moment
from tests.survival.platform import PARTS

COMPONENTS = (*PARTS, "old-instance", "new-instance", "everything")
AT_ONCE = 0.0
"""What was killed comes back as soon as its keeper sees it."""
DELAYS = (AT_ONCE, 5.0, 60.0)
"""Seconds after which what was killed comes back; all of them for one moment, the first for the others."""
DELAYED = "init during"
_LONGEST_WAIT = 30.0
"""Seconds that a request is made to wait at most (`gateway.hold_max`)."""
QUICK = (
    ("worker", "switch after"),
    ("gateway", "update after"),
    ("temporal", "undo update before"),
    ("postgres", "switch during"),
    ("old-instance", "update during"),
    ("new-instance", "switch during"),
    ("everything", "init during"),
)
"""What `make test` runs: each component, and each of update, init, switch and undo, at least once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One case."""

    component: str
    moment: Moment
    comeback: float = AT_ONCE

    @property
    def name(self) -> str:
        """Its id."""
        delay = f" back after {self.comeback:g}s" if self.comeback else ""
        return f"{self.component} {self.moment.name}{delay}".replace(" ", "-")

    @property
    def quick(self) -> bool:
        """Whether `make test` runs it."""
        return self.comeback == AT_ONCE and (self.component, self.moment.name) in QUICK

    @property
    def outcome(self) -> str:
        """How the job ends: as without the kill, or rolled back where it was the migration itself that was killed."""
        return "rolled_back" if self.moment.fails or self.migration_fails else "done"

    @property
    def migration_fails(self) -> bool:
        """Whether the module's migration fails by the kill: its database breaks off under it, and the module says so."""
        return (self.component, self.moment.name) == ("postgres", "init during")

    @property
    def shares_fate(self) -> bool:
        """Whether the neighbour's requests may fail: its module lost its database, or what serves it is away for too long."""
        served_by = self.component in ("gateway", "old-instance") and self.comeback > _LONGEST_WAIT
        return self.component in ("postgres", "everything") or served_by


def matrix() -> Iterator[Cell]:
    """All cases; those that take longest come first, so that several processes end together."""
    for delay in reversed(DELAYS[1:]):
        for moment in MOMENTS:
            if moment.name == DELAYED:
                for component in COMPONENTS:
                    yield Cell(component=component, moment=moment, comeback=delay)
    for moment in MOMENTS:
        for component in COMPONENTS:
            if component not in moment.absent:
                yield Cell(component=component, moment=moment)


__all__ = ["COMPONENTS", "DELAYED", "DELAYS", "QUICK", "Cell", "matrix"]
