"""`python -m bench`: measures, most of it on a stack in a temporary folder, prints the figures and keeps them as JSON."""

import argparse
import asyncio
import contextlib
import json
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import psutil
from rich.console import Console
from rich.markup import escape

from bench import held, peers, proxy, recovery, registry, resolver, routes, start, tenants
from bench.figures import Figures
from bench.memory import Memory
from bench.progress import Progress
from bench.stack import BenchError, running
from uplift_cli.demo.errors import DemoError

_PARTS = {
    "proxy": proxy.measure,
    "peers": peers.measure,
    "tenants": tenants.measure,
    "held": held.measure,
    "start": start.measure,
    "recovery": recovery.measure,
    "registry": registry.measure,
}
_ALONE = {"resolver": resolver.measure, "routes": routes.measure}
"""Need no stack."""
_CHOICES = (*_ALONE, *_PARTS, "memory")
_WIDE = 130
"""Columns where nobody says how many there are: a log."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few of everything, in some minutes: whether it works, not how fast")
    parser.add_argument(
        "--only",
        action="append",
        choices=_CHOICES,
        help="one part; may be given several times [default: all]",
    )
    parser.add_argument(
        "--results", type=Path, default=Path(__file__).parent / "results", help="folder for the JSON [default: bench/results]"
    )
    options = parser.parse_args()
    console = Console()
    if not console.is_terminal:
        console.width = _WIDE
    home = Path(tempfile.mkdtemp(prefix="uplift-bench-"))
    try:
        figures = asyncio.run(_measure(home, Progress(console), parts=options.only or _CHOICES, quick=options.quick))
    except BaseException as error:
        console.print(f"[red]{escape(str(error) or type(error).__name__)}[/red]\nlogs: {home / 'logs'}", highlight=False)
        if isinstance(error, BenchError | DemoError | asyncio.CancelledError):
            sys.exit(1)
        raise
    shutil.rmtree(home)
    for each in figures:
        console.print()
        console.print(each.table())
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}.json"
    path.write_text(json.dumps({"machine": _machine(), "quick": options.quick, "figures": [asdict(each) for each in figures]}))
    console.print(f"\nkept in {path}")


async def _measure(home: Path, progress: Progress, *, parts: Sequence[str], quick: bool) -> list[Figures]:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # the stack has to be stopped then too
    figures: list[Figures] = []
    for name, measure_alone in _ALONE.items():
        if name in parts:
            figures += measure_alone(progress, quick=quick)
    if set(parts) <= set(_ALONE):
        return figures
    progress.say(f"starting a stack in {home}")
    async with running(home, progress.say) as site:
        memory = Memory(site)
        memory.look("at its start")
        for name, measure in _PARTS.items():
            if name in parts:
                figures += await measure(site, progress, quick=quick)
                memory.look(f"after {name}")
        figures.append(memory.figures())
        figures.append(
            Figures(title="uplift up", columns=("", "s"), rows=(("empty folder to ready", f"{site.start_seconds:.1f}"),))
        )
    return figures


def _machine() -> dict[str, object]:
    model = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": model,
        "cores": psutil.cpu_count(),
        "memory": psutil.virtual_memory().total,
        "system": platform.platform(),
        "python": sys.version.split()[0],
    }


if __name__ == "__main__":
    main()
