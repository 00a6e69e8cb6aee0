"""`uplift down`: ending a folder's stack from outside."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress

from uplift_cli.stack import instances
from uplift_cli.stack.errors import StillRunning
from uplift_cli.stack.orphans import end_orphans
from uplift_cli.stack.processes import gone
from uplift_cli.stack.state import hold_folder, read_record
from uplift_settings import Settings

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
        if not await gone([supervisor], timeout=grace * _PARTS_IN_A_ROW):
            raise StillRunning(
                f"`uplift up` (pid {supervisor.pid}) does not end: kill it (`kill -9 {supervisor.pid}`), "
                f"then run `uplift down --home {home}` again, which ends what it leaves"
            )
        return True
    with hold_folder(home):
        modules = await instances.running(home, settings)
        left = await end_orphans(home, record, grace=grace, say=say)
        await instances.stop_all(home, settings)
    return bool(left or modules)
