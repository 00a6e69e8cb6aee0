"""What a parent of gateway processes writes of itself, so that `uplift gateway reload` finds it and sees what it does.

A pid alone may be a stranger's by now: a process is known by its pid and the moment of its start, which a new program in the same
process does not change. The standard library only, as `gateway.parent`.
"""

import contextlib
import json
import logging
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_log = logging.getLogger("gateway.parent")


@dataclass(slots=True, kw_only=True)
class Tally:
    """How often something was asked for, and what came of it.

    Attributes:
        asked: How often it was asked for.
        done: Number of the last time that is over.
        reason: Why that failed; empty: it did not.
    """

    asked: int = 0
    done: int = 0
    reason: str = ""

    def ask(self) -> int:
        """Count one more; its number."""
        self.asked += 1
        return self.asked

    def end(self, number: int, reason: str = "") -> None:
        """It is over."""
        self.done, self.reason = number, reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A parent, as it wrote of itself; members are only ever added.

    Attributes:
        pid: Its process.
        started: When that started, in the system's words; only compared.
        port: The port that it listens on.
        program: New programs of the parent itself (SIGUSR2).
        children: Replacements of the children (SIGHUP).
        slots: The child in each place: `slot` from 0, `name`, `pid`, `ready`.
    """

    pid: int
    started: str
    port: int
    program: Tally = field(default_factory=Tally)
    children: Tally = field(default_factory=Tally)
    slots: tuple[Mapping[str, Any], ...] = ()

    @property
    def lives(self) -> bool:
        """Whether the very process is there."""
        return self.started != "" and start_of(self.pid) == self.started


class ParentFile:
    """The file of one parent. A file that cannot be written is worth a warning, not an end.

    Args:
        path: Where it is; None: there is none.
        port: The port that the parent listens on.
    """

    def __init__(self, path: Path | None, *, port: int) -> None:
        self._path = path
        self._port = port
        self._started = start_of(os.getpid())
        before = None if path is None else read_parent(path)
        ours = before is not None and (before.pid, before.started) == (os.getpid(), self._started)
        if before is not None and not ours and before.lives:
            _log.warning(
                "%s is that of another parent (pid %d, port %d): `uplift gateway reload` does not find this one; give it a file"
                " of its own with gateway.pid_file",
                path, before.pid, before.port,
            )  # fmt: skip
            self._path = None
        self.program = before.program if before is not None and ours else Tally()
        self.children = before.children if before is not None and ours else Tally()

    def write(self, slots: list[dict[str, Any]]) -> None:
        """Say how it is now; a reader sees the whole of it or what was before."""
        if self._path is None:
            return
        record = {
            "pid": os.getpid(),
            "started": self._started,
            "port": self._port,
            "program": _values(self.program),
            "children": _values(self.children),
            "slots": slots,
        }
        fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_text(json.dumps(record) + "\n", encoding="utf-8")
            fresh.replace(self._path)
        except OSError as error:
            _log.warning("%s cannot be written (%s): `uplift gateway reload` does not find us", self._path, error.strerror)
            self._path = None

    def remove(self) -> None:
        """The parent ends."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)


def read_parent(path: Path) -> Record | None:
    """The parent that wrote a file; None: there is no such file, or it is not one of ours."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Record(
            pid=found["pid"],
            started=found["started"],
            port=found["port"],
            program=Tally(**found["program"]),
            children=Tally(**found["children"]),
            slots=tuple(found["slots"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def start_of(pid: int) -> str:
    """When a process started, in the system's words; empty: there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
        shown = subprocess.run(("ps", "-o", "lstart=", "-p", str(pid)), capture_output=True, text=True, check=False)
        return shown.stdout.strip()
    after_name = stat[stat.rindex(b")") + 2 :].split()  # a program's name may hold anything
    return "" if after_name[0] == b"Z" else after_name[19].decode()


def _values(tally: Tally) -> dict[str, Any]:
    return {"asked": tally.asked, "done": tally.done, "reason": tally.reason}
