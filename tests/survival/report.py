"""A plugin of pytest that prints what the kill matrix came to, and writes it to a file on request.

`pytest -p tests.survival.report --survival-report docs/reference/survival.md tests/survival/test_kill_matrix.py`
"""

import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.survival.matrix import COMPONENTS, DELAYED, DELAYS, matrix
from tests.survival.moments import MOMENTS

_ROOT = Path(__file__).parents[2]
_ABSENT = "·"
_LEGEND = (
    "Each cell: seconds from the moment when what was killed runs again to the next call of the run that is answered, and how the"
    f" job ended. {_ABSENT}: it does not run at that moment."
)
PROMISE = "you may pull any plug at any time"


@dataclass
class Results:
    """What each case came to, by component, moment and seconds of coming back: the text of its cell."""

    cells: dict[tuple[str, str, float], str] = field(default_factory=dict)
    failed: int = 0

    def add(self, properties: dict[str, Any], *, passed: bool) -> None:
        """Note a case that has ended."""
        key = (str(properties["component"]), str(properties["moment"]), float(properties["comeback"]))
        if passed:
            outcome = str(properties["outcome"]).replace("_", " ")
            self.cells[key] = f"✓ {float(properties['seconds']):.1f} s, {outcome}"
        else:
            self.cells[key] = "✗"
            self.failed += 1

    def first_line(self) -> str:
        """The promise, if and only if every case there is was run and has passed."""
        wanted = sum(1 for _ in matrix())
        if self.failed:
            return f"not yet: {self.failed} of {len(self.cells)} cases failed"
        if len(self.cells) < wanted:
            return f"{len(self.cells)} of {wanted} cases were run, all of them passed"
        return PROMISE

    def page(self) -> str:
        """All of it, as Markdown."""
        at_once = [
            (each.name, [self._cell(name, each.name, 0.0, absent=name in each.absent) for name in COMPONENTS]) for each in MOMENTS
        ]
        delayed = [(f"{delay:g}", [self._cell(name, DELAYED, delay) for name in COMPONENTS]) for delay in DELAYS]
        lines = [
            self.first_line(),
            "",
            f"{datetime.now(tz=UTC):%Y-%m-%d}, commit {_commit()}. {_LEGEND}",
            "",
            *_table("killed at", COMPONENTS, at_once),
            "",
            f"Killed at `{DELAYED}`, and kept away for so many seconds:",
            "",
            *_table("seconds", COMPONENTS, delayed),
            "",
        ]
        return "\n".join(lines)

    def _cell(self, component: str, moment: str, comeback: float, *, absent: bool = False) -> str:
        return _ABSENT if absent else self.cells.get((component, moment, comeback), "")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--survival-report", metavar="FILE", help="write the table of the kill matrix to a file")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Collector(config), "survival-report")


class _Collector:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._results = Results()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties = dict(report.user_properties)
        if report.when == "call" and "moment" in properties:
            self._results.add(properties, passed=report.passed)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not self._results.cells:
            return
        page = self._results.page()
        terminalreporter.write_line("")
        terminalreporter.write_line(page)
        if target := self._config.getoption("--survival-report"):
            text = f"# What was killed, and when\n\n{page}\nHow it is done: [Survival](../explanation/survival.md).\n"
            Path(target).write_text(text, encoding="utf-8")


def _table(corner: str, columns: tuple[str, ...], rows: list[tuple[str, list[str]]]) -> list[str]:
    head = [f"| {corner} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    return head + [f"| {name} | {' | '.join(cells)} |" for name, cells in rows]


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=_ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
