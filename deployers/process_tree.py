"""Finding and ending the processes of an instance, whoever started them.

A process is told by its pid and its birth together: pids are used again. Processes of an instance begin in a session of
their own and carry two marks in their environment, which children inherit.
"""

import functools
import os
import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from deployers.commands import GENERATION_MARK, INSTANCE_MARK


@dataclass(frozen=True, slots=True, kw_only=True)
class Proc:
    """A living process (no zombie).

    Attributes:
        birth: When it began, so that it differs from all others that have had or will have the pid, after a reboot too.
            Free of the wall clock where the system allows, because that may be set while the process lives.
        started: The same as a number; only for telling which of two began first.
    """

    pid: int
    parent: int
    group: int
    session: int
    birth: str
    started: float


def observe(pid: int) -> Proc | None:
    """The process with this pid; None if there is none or it is a zombie."""
    return _observe_linux(pid) if sys.platform == "linux" else _observe_elsewhere(pid)


def is_same(pid: int | None, birth: str | None) -> bool:
    """Whether the process with this pid lives and is the one that was born then."""
    found = None if pid is None else observe(pid)
    return found is not None and found.birth == birth


def members(*, inst_id: str, generation: str, leader: int | None) -> tuple[Proc, ...]:
    """All processes of one start of an instance, oldest first: the marked ones and those of their sessions.

    Looks at all processes of this machine that can be read: tens of milliseconds.

    Args:
        inst_id: The instance.
        generation: The start.
        leader: Its first process, only if that is known to live; finds those of its session that cleared their environment.
    """
    own = os.getsid(0)
    seen = [proc for pid in psutil.pids() if (proc := observe(pid)) is not None and proc.session != own]
    ours = {proc.pid for proc in seen if proc.pid == leader or _is_marked(proc.pid, inst_id, generation)}
    sessions = {proc.session for proc in seen if proc.pid in ours}
    return _by_age(proc for proc in seen if proc.pid in ours or proc.session in sessions)


def holders(path: Path) -> tuple[Proc, ...]:
    """All processes of other sessions that have a file open, oldest first; none where the system does not tell."""
    if sys.platform != "linux":
        return ()
    own = os.getsid(0)
    target = str(path.resolve())
    return _by_age(
        proc for pid in psutil.pids() if _has_open(pid, target) and (proc := observe(pid)) is not None and proc.session != own
    )


def top(procs: tuple[Proc, ...], *, session_leader: bool) -> Proc | None:
    """The process that the others come from: the oldest without a parent among them.

    Args:
        procs: Processes of one instance, oldest first.
        session_leader: Whether it must lead its session, as the process does that `exec` started.
    """
    pids = {proc.pid for proc in procs}
    tops = (proc for proc in procs if proc.parent not in pids)
    return next((proc for proc in tops if not session_leader or proc.pid == proc.session), None)


def send(procs: Iterable[Proc], number: signal.Signals) -> None:
    """Send a signal, once to each: by group where the group's leader is among them, so that no fork escapes."""
    procs = tuple(procs)
    pids = {proc.pid for proc in procs}
    groups = {proc.group for proc in procs if proc.group in pids}
    for proc in procs:
        if not is_same(proc.pid, proc.birth):
            continue
        try:
            if proc.pid in groups:
                os.killpg(proc.pid, number)
            elif proc.group not in groups:
                os.kill(proc.pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def _by_age(procs: Iterable[Proc]) -> tuple[Proc, ...]:
    return tuple(sorted(procs, key=lambda proc: (proc.started, proc.pid)))


def _is_marked(pid: int, inst_id: str, generation: str) -> bool:
    try:
        env: dict[str, str] = psutil.Process(pid).environ()
    except (psutil.Error, OSError):
        return False
    return env.get(INSTANCE_MARK) == inst_id and env.get(GENERATION_MARK) == generation


def _has_open(pid: int, target: str) -> bool:
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            return any(_link(entry.path) == target for entry in entries)
    except OSError:
        return False


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""


@functools.cache
def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _observe_linux(pid: int) -> Proc | None:
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # the name in brackets may hold blanks and brackets; the fields are those of proc_pid_stat(5) from the third on
    fields = line.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return None
    ticks = fields[19]
    return Proc(
        pid=pid,
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        birth=f"{_boot()}/{ticks}",
        started=float(ticks),
    )


def _observe_elsewhere(pid: int) -> Proc | None:
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            started = process.create_time()
            parent = process.ppid()
        group, session = os.getpgid(pid), os.getsid(pid)
    except (psutil.Error, OSError):
        return None
    return Proc(pid=pid, parent=parent, group=group, session=session, birth=f"{started:.2f}", started=started)
