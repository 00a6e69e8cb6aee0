"""The modules' processes of an embedded stack: shown by `uplift status`, stopped with the stack."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from deployers.base import Running
from deployers.process import ProcessDeployer
from uplift_settings import Settings


def deployer(home: Path, settings: Settings) -> ProcessDeployer:
    """The deployer of a folder's instances, as the worker has it."""
    return ProcessDeployer(folder=home / "instances", settings=settings.deploy)


async def running(home: Path, settings: Settings) -> Sequence[Running]:
    """Instances whose processes live, by id; none where none was ever started."""
    if not (home / "instances").exists():
        return ()
    return await deployer(home, settings).list()


async def stop_all(home: Path, settings: Settings) -> None:
    """Stop all instances. The gateway remembers them: the worker's keeper starts them again with the next `uplift up`."""
    modules = deployer(home, settings)
    await asyncio.gather(*(modules.stop(each.inst_id) for each in await running(home, settings)))


async def kill_all(home: Path, settings: Settings) -> None:
    """Kill all instances at once."""
    for each in await running(home, settings):
        if each.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(each.pid, signal.SIGKILL)
