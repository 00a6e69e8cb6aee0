"""Where a run is, for whoever waits for it."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars


class Progress:
    """Lines, and bars for what has a known number of steps. Without a terminal a bar is one line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begun = time.monotonic()

    def say(self, line: str) -> None:
        """One line."""
        self._console.print(f"[dim]{time.monotonic() - self._begun:5.0f} s[/dim]  {line}", highlight=False)

    @contextlib.contextmanager
    def of(self, what: str, steps: int) -> Iterator[Callable[[], None]]:
        """A bar; call what is given after each step."""
        if not self._console.is_terminal:
            self.say(what)
            yield lambda: None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Bars(*columns, console=self._console, transient=True) as bars:
            task = bars.add_task(what, total=steps)
            yield lambda: bars.advance(task)
        self.say(what)
