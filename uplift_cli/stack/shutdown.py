"""`uplift down`: ending a folder's stack from outside."""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from uplift_cli.stack import instances
from uplift_cli.stack.errors import StillRunning
from uplift_cli.stack.orphans import end_orphans
from uplift_cli.stack.processes import Identity, gone
from uplift_cli.stack.state import StackRecord, hold_folder, read_record
from uplift_settings import Settings

_LOOK_AGAIN = 0.2
_PARTS_IN_A_ROW = 5  # worker, gateway, modules, Temporal, Postgres: each may use its whole grace


async def shut_down(settings: Settings, *, say: Callable[[str], None]) -> bool:
    """Stop the supervisor of a folder; where there is none, end what one left behind.

    Args:
        settings: The operator's settings; `home` is the folder.
        say: Told one line of progress at a time.

    Returns:
        Whether anything ran.

    Raises:
        StillRunning: The supervisor does not end.
        StackError: The folder's record cannot be read.
    """
    home, grace = settings.home_folder, settings.stack.stop_grace
    record = read_record(home)
    if record is None:
        return False
    supervisor = record.supervisor
    if supervisor is not None and supervisor.alive():
        with suppress(ProcessLookupError):
            os.kill(supervisor.pid, signal.SIGTERM)
        if not await _followed(home, supervisor, record, timeout=grace * _PARTS_IN_A_ROW, say=say):
            raise StillRunning(
                f"`uplift up` (pid {supervisor.pid}) does not end: kill it (`kill -9 {supervisor.pid}`), "
                f"then run `uplift down --home {home}` again, which ends what it leaves"
            )
        return True
    with hold_folder(home):
        modules = await instances.running(home, settings)
        left = await end_orphans(home, record, grace=grace, say=say)
        await instances.stop_all(home, settings, say=say)
    return bool(left or modules)


async def _followed(home: Path, supervisor: Identity, before: StackRecord, *, timeout: float, say: Callable[[str], None]) -> bool:
    """Wait for the end of a supervisor and say which part has stopped; returns whether it ended in time."""
    say(f"waiting for `uplift up` (pid {supervisor.pid}, up to {timeout:g} s)")
    ran = {part.name for part in before.parts if part.process is not None}
    end_of_patience = asyncio.get_running_loop().time() + timeout
    while True:
        ended = await gone([supervisor], timeout=_LOOK_AGAIN)
        record = read_record(home)
        for part in reversed(record.parts if record else ()):
            if part.process is not None:
                ran.add(part.name)
            elif part.name in ran:
                ran.discard(part.name)
                say(f"{part.name} stopped")
        if ended or asyncio.get_running_loop().time() >= end_of_patience:
            return ended
