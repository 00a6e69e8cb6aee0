"""What the folder remembers: ports for good, processes while they run; and the lock that one supervisor holds.

`stack.json` is written anew at each change (replaced whole, so that a reader never sees half of it). `stack.lock` is held by the
kernel: it is free again in the instant its supervisor dies, however that happens.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from pydantic import TypeAdapter, ValidationError

from uplift_cli.stack.errors import AlreadyRunning, StackError
from uplift_cli.stack.processes import Identity

PartCondition = Literal["waiting", "starting", "ready", "restarting", "stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartRecord:
    """One part as it was last seen by its supervisor.

    Attributes:
        name: `postgres`, `temporal`, `gateway` or `worker`.
        condition: What it is doing.
        address: Where it answers, or what it is.
        log: Path of its output.
        process: Its process; None before the first start and after a stop.
        since: Start of the process, seconds since the epoch.
        restarts: How often it was started again.
    """

    name: str
    condition: PartCondition
    address: str
    log: str
    process: Identity | None = None
    since: float | None = None
    restarts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StackRecord:
    """A folder's stack.

    Attributes:
        supervisor: The `uplift up` process that wrote this.
        url: The gateway's address.
        ui_url: The Temporal UI's address.
        ports: Every port by name, kept over restarts; `modules_first` and `modules_last` are a range.
        parts: The parts in the order of their start.
    """

    supervisor: Identity | None = None
    url: str = ""
    ui_url: str = ""
    ports: Mapping[str, int] = field(default_factory=dict)
    parts: tuple[PartRecord, ...] = ()

    @property
    def module_ports(self) -> tuple[int, int] | None:
        """First and last port of the modules' instances; None where an older version did not keep them."""
        first, last = self.ports.get("modules_first"), self.ports.get("modules_last")
        return None if first is None or last is None else (first, last)

    def uses(self, port: int) -> bool:
        """Whether a port is one of this stack's."""
        first, last = self.module_ports or (0, -1)
        return port in self.ports.values() or first <= port <= last


_RECORD = TypeAdapter(StackRecord)


def read_record(home: Path) -> StackRecord | None:
    """What the folder remembers; None where no stack ever ran.

    Raises:
        StackError: The file cannot be read.
    """
    path = home / "stack.json"
    try:
        return _RECORD.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise StackError(f"cannot read {path}: {error}\nmove it away: only the ports it kept are lost") from error


def write_record(home: Path, record: StackRecord) -> None:
    """Replace what the folder remembers."""
    path = home / "stack.json"
    fresh = path.with_suffix(".json.new")
    with open_private(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file:
        file.write(_RECORD.dump_json(record, indent=2))
    fresh.replace(path)


def open_private(path: Path, flags: int) -> BinaryIO:
    """Open a file for writing that only its owner may read, also if an older version left it open to others."""
    file = os.fdopen(os.open(path, flags, 0o600), "wb")
    with suppress(PermissionError):
        os.fchmod(file.fileno(), 0o600)
    return file


@contextmanager
def hold_folder(home: Path) -> Iterator[None]:
    """Be the only supervisor of a folder.

    Raises:
        AlreadyRunning: Another one is; the message names its pid.
    """
    descriptor = os.open(home / "stack.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            raise AlreadyRunning(
                f"{home} is in use by another `uplift up` (pid {pid}): stop it with `uplift down --home {home}`, "
                "or choose another folder with --home"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
