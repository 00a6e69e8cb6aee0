"""The live view of a terminal, and plain lines for everything else."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from uplift_cli.demo.board import Board

_REFRESH = 0.25
_PLAIN_EVERY = 3.0


def print_event(elapsed: float, text: str) -> None:
    """An event as a line."""
    click.echo(f"{elapsed:6.1f} s  {text}")


@asynccontextmanager
async def shown(board: Board, *, live: bool) -> AsyncIterator[None]:
    """Show the board while the block runs.

    Args:
        board: What to show.
        live: A picture that is drawn anew; else a line of progress every few seconds, beside the events.
    """
    if not live:
        ticker = asyncio.create_task(_every(_PLAIN_EVERY, lambda: print_event(board.elapsed, f"   {board.summary()}")))
        try:
            yield
        finally:
            await _ended(ticker)
        return
    # Refreshed by the loop, not by rich's thread: the board changes under nobody's hands.
    with Live(_draw(board), console=Console(), auto_refresh=False) as screen:
        ticker = asyncio.create_task(_every(_REFRESH, lambda: screen.update(_draw(board), refresh=True)))
        try:
            yield
        finally:
            await _ended(ticker)
            screen.update(_draw(board), refresh=True)


async def _every(seconds: float, act: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(seconds)
        act()


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _draw(board: Board) -> Group:
    table = Table(title=f"{board.step}  ({board.elapsed:.0f} s)", title_justify="left", title_style="bold")
    table.add_column("tenant")
    table.add_column("modules")
    table.add_column("step", min_width=20)
    for name in ("held", "writes/s", "requests", "failed", "longest wait"):
        table.add_column(name, justify="right")
    for name, state in board.tenants.items():
        books = state.load.books
        table.add_row(
            name,
            ", ".join(f"{product} {version}" for product, version in sorted(state.versions.items())),
            Text(state.doing or "-", style="yellow" if state.doing else "dim"),
            Text(str(state.parked), style="yellow" if state.parked else ""),
            f"{state.rate:.0f}",
            str(len(books.records)),
            Text(str(len(books.failures)), style="bold red" if books.failures else "green"),
            f"{books.longest:.1f} s",
        )
    events = Text("\n".join(f"{elapsed:6.1f} s  {text}" for elapsed, text in list(board.events)), overflow="ellipsis")
    return Group(table, events)
