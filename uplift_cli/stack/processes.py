"""The processes of a folder: told apart from strangers by pid and birth, and ended."""

import asyncio
import pwd
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from deployers.process_tree import Proc, is_same, observe, send

_LOOK_AGAIN = 0.02
_KILL_WAIT = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One process, never confused with a later one of the same pid.

    Attributes:
        pid: Process id.
        birth: When it began, see `deployers.process_tree.Proc`.
    """

    pid: int
    birth: str

    @classmethod
    def of(cls, pid: int) -> "Identity | None":
        """The identity of a process that lives; None if there is none."""
        found = observe(pid)
        return None if found is None else cls(pid=found.pid, birth=found.birth)

    def alive(self) -> bool:
        """Whether it still runs (a zombie does not)."""
        return is_same(self.pid, self.birth)


def family(leader: Identity, *, home: Path) -> tuple[Proc, ...]:
    """The living processes of a part: its leader, and those of its session, which may have outlived it.

    Those that outlived their leader count only if their environment names the folder: the pid may be a stranger's by now.

    Args:
        leader: The recorded process.
        home: The folder of the stack.
    """
    first = observe(leader.pid)
    if first is not None and first.birth != leader.birth:
        return ()
    seen = (proc for pid in psutil.pids() if (proc := observe(pid)) is not None)
    return tuple(proc for proc in seen if proc.session == leader.pid and (first is not None or _names(proc.pid, home)))


async def end(procs: Sequence[Proc], *, signum: signal.Signals = signal.SIGTERM, grace: float) -> None:
    """End processes that are not our children: a signal, then SIGKILL after the grace.

    Args:
        procs: Which. Those that have ended already are fine.
        signum: The polite signal.
        grace: Seconds between it and SIGKILL.
    """
    send(procs, signum)
    if not await gone(procs, timeout=grace):
        send(procs, signal.SIGKILL)
        await gone(procs, timeout=_KILL_WAIT)


async def gone(procs: Sequence[Proc | Identity], *, timeout: float) -> bool:
    """Wait until none of these processes lives.

    Args:
        procs: Which.
        timeout: Seconds to wait at most.

    Returns:
        Whether all ended in time.
    """
    end_of_patience = asyncio.get_running_loop().time() + timeout
    while any(is_same(proc.pid, proc.birth) for proc in procs):
        if asyncio.get_running_loop().time() >= end_of_patience:
            return False
        await asyncio.sleep(_LOOK_AGAIN)
    return True


def as_user(name: str | None) -> dict[str, Any]:
    """Arguments that start a child process as another user, with none of our groups; None: as our own."""
    if name is None:
        return {}
    return {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": ()}


def _names(pid: int, home: Path) -> bool:
    try:
        return psutil.Process(pid).environ().get("UPLIFT_HOME") == str(home)
    except (psutil.Error, OSError):
        return False
