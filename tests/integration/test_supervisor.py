"""The supervisor with small processes of its own: order, back-off, stubborn parts."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from uplift_cli.stack.errors import PartFailed
from uplift_cli.stack.parts import Part, file_names
from uplift_cli.stack.state import PartRecord
from uplift_cli.stack.supervisor import Supervisor, next_pause
from uplift_settings.tree import StackSettings

WAITS = "import os, sys, signal; open(sys.argv[1], 'w').write(str(os.getpid())); signal.pause()"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{WAITS}"
SLOW = f"""import os, signal, threading
signal.signal(signal.SIGTERM, lambda *_: threading.Timer(1.5, os._exit, (0,)).start())
{WAITS}
signal.pause()"""
SETTINGS = StackSettings(restart_pause=0.01, stop_grace=5.0, start_timeout=20.0)


class Seen:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: list[str] = []
        self.history: list[dict[str, str]] = []

    def changed(self, parts: tuple[PartRecord, ...]) -> None:
        self.history.append({part.name: part.condition for part in parts})

    def part(
        self,
        name: str,
        code: str = WAITS,
        *,
        after: tuple[str, ...] = (),
        afterwards: Callable[[], Awaitable[None]] | None = None,
    ) -> Part:
        mark = self.folder / f"{name}.mark"

        async def ready(pid: int) -> None:
            await file_names(mark, pid)

        async def nothing() -> None:
            return

        return Part(
            name=name,
            command=(sys.executable, "-c", code, str(mark)),
            address=f"at {name}",
            ready=ready,
            after=after,
            afterwards=afterwards or nothing,
        )

    def supervisor(self, *parts: Part, settings: StackSettings = SETTINGS) -> Supervisor:
        return Supervisor(parts, logs=self.folder, settings=settings, changed=self.changed, say=self.lines.append)

    def order(self, condition: str) -> list[str]:
        """Names in the order in which they first got into a condition."""
        names: dict[str, None] = {}
        for conditions in self.history:
            names.update(dict.fromkeys(name for name, it in conditions.items() if it == condition))
        return list(names)


@pytest.fixture
def seen(tmp_path: Path) -> Seen:
    return Seen(tmp_path)


async def test_a_part_starts_after_those_it_needs_and_stops_before_them(seen: Seen) -> None:
    supervisor = seen.supervisor(seen.part("base"), seen.part("top", after=("base",)))
    await supervisor.start()
    assert seen.order("starting") == ["base", "top"]
    first = next(state for state in seen.history if state["top"] == "starting")
    assert first["base"] == "ready"

    await supervisor.stop()

    assert seen.order("stopped") == ["top", "base"]


async def test_what_comes_after_a_part_runs_between_its_end_and_the_next(seen: Seen) -> None:
    async def afterwards() -> None:
        seen.history.append({"hook": "stopped"})

    supervisor = seen.supervisor(seen.part("base"), seen.part("top", afterwards=afterwards))
    await supervisor.start()
    await supervisor.stop()
    assert seen.order("stopped") == ["top", "hook", "base"]


async def test_a_hook_that_fails_does_not_keep_the_rest_from_stopping(seen: Seen) -> None:
    async def afterwards() -> None:
        raise RuntimeError("no such module")

    supervisor = seen.supervisor(seen.part("base"), seen.part("top", afterwards=afterwards))
    await supervisor.start()
    await supervisor.stop()
    assert seen.history[-1] == {"base": "stopped", "top": "stopped"}
    assert "while stopping: no such module" in seen.lines


async def test_the_pause_before_a_restart_doubles(seen: Seen) -> None:
    code = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid())); import time; time.sleep(0.3)"
    settings = StackSettings(restart_pause=0.1)
    supervisor = seen.supervisor(seen.part("short", code), settings=settings)
    await supervisor.start()
    async with asyncio.timeout(30):
        while sum("started again" in line for line in seen.lines) < 3:
            await asyncio.sleep(0.02)
    await supervisor.stop()
    waits = [line.split("again in ")[1].split(" (")[0] for line in seen.lines if "started again" in line]
    assert waits[:3] == ["0.1 s", "0.2 s", "0.4 s"]


@pytest.mark.parametrize(("pause", "first", "after"), [(0.2, 0.2, 0.4), (4.0, 0.2, 5.0), (60.0, 60.0, 60.0)])
def test_a_pause_grows_to_five_seconds_or_stays_as_long_as_it_is_set(pause: float, first: float, after: float) -> None:
    assert next_pause(pause, first=first) == after


async def test_a_part_that_fails_three_times_before_it_was_ready_fails_the_start(seen: Seen) -> None:
    supervisor = seen.supervisor(seen.part("base"), seen.part("bad", "raise SystemExit('my reason')"))
    with pytest.raises(PartFailed, match=r"(?s)bad does not start: ended with exit code 1.*my reason"):
        await supervisor.start()
    await supervisor.stop()
    assert seen.history[-1] == {"base": "stopped", "bad": "stopped"}


async def test_a_program_that_is_not_there_fails_the_start(seen: Seen) -> None:
    part = Part(name="none", command=("/nowhere/program",), address="-", ready=seen.part("x").ready)
    supervisor = seen.supervisor(part)
    with pytest.raises(PartFailed, match="none cannot be started: /nowhere/program: No such file"):
        await supervisor.start()
    await supervisor.stop()


async def test_a_part_that_is_not_ready_in_time_is_started_again(seen: Seen) -> None:
    settings = StackSettings(restart_pause=0.01, stop_grace=5.0, start_timeout=0.2)
    supervisor = seen.supervisor(seen.part("slow", "import signal; signal.pause()"), settings=settings)
    with pytest.raises(PartFailed, match=r"slow does not start: was not ready within 0\.2 s"):
        await supervisor.start()
    await supervisor.stop()


async def test_a_part_that_ignores_the_polite_signal_is_killed_after_its_grace(seen: Seen) -> None:
    settings = StackSettings(stop_grace=0.2)
    supervisor = seen.supervisor(seen.part("stubborn", STUBBORN), settings=settings)
    await supervisor.start()
    await supervisor.stop()
    assert seen.lines[-2:] == ["stubborn did not stop within 0.2 s and is killed", "stubborn stopped"]


async def test_a_part_that_takes_its_time_is_named_while_it_is_waited_for(seen: Seen) -> None:
    supervisor = seen.supervisor(seen.part("slow", SLOW), settings=StackSettings(stop_grace=20.0))
    await supervisor.start()
    await supervisor.stop()
    assert seen.lines[-2:] == ["waiting for slow (up to 20 s)", "slow stopped"]


async def test_kill_does_not_wait_for_the_grace(seen: Seen) -> None:
    settings = StackSettings(stop_grace=3600.0)
    supervisor = seen.supervisor(seen.part("stubborn", STUBBORN), settings=settings)
    await supervisor.start()
    supervisor.kill()
    async with asyncio.timeout(20):
        await supervisor.stop()
