"""What is printed and kept: tables, and how many numbers become one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One table of results.

    Attributes:
        title: What was measured.
        columns: Names, with units.
        rows: Cells as they are shown.
        note: How it was measured, what was aimed at.
        values: The same as numbers, for programs.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    values: tuple[dict[str, object], ...] = ()

    def table(self) -> Table:
        """For a terminal."""
        table = Table(
            title=self.title, title_justify="left", title_style="bold", caption=self.note or None, caption_justify="left"
        )
        for position, name in enumerate(self.columns):
            table.add_column(name, justify="right" if position else "left")
        for row in self.rows:
            table.add_row(*row)
        return table


@dataclass(slots=True)
class Rounds:
    """What one way of answering requests showed, a value for each round.

    Attributes:
        rates: Requests a second.
        p50: Seconds.
        p99: Seconds.
        cpu: Microseconds of CPU a request.
    """

    rates: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def cells(self) -> tuple[str, str, str]:
        """Rate and latencies as they are shown."""
        return spread(self.rates), milliseconds(median(self.p50)), milliseconds(median(self.p99))


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` percent of the sorted values do not exceed (nearest rank); NaN of none."""
    if not values:
        return math.nan
    return values[max(0, math.ceil(len(values) * share / 100) - 1)]


def spread(values: Sequence[float], form: str = ",.0f") -> str:
    """Median and, where there are several, the least and the most."""
    if len(values) == 1:
        return format(values[0], form)
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def milliseconds(seconds: float) -> str:
    """Three figures or so, in ms."""
    value = seconds * 1000
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
