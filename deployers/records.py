"""What is kept on disk about instances: one folder each, changed only under the lock of the whole folder.

```
lock                       held (flock) by whoever decides or changes anything here; never for longer than a start takes
instances/<name>/state     the record, replaced atomically
instances/<name>/lock      held (flock) by the instance's processes, who inherit it: free means that none of them lives
turns/<name>               held (flock) by who is at work on the instance, from its first look to its last word; removed after it
logs/<name>.log            output, kept after the instance is gone
```
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError

from deployers.base import DeployError, Launch

_NAME_MAX = 150  # bytes; file systems allow 255, with an ending


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One start of an instance.

    Attributes:
        launch: What was started.
        port: Its port.
        generation: Names this start; also in the environment of its processes.
        log_from: Bytes in the log before this start.
        pid: Its process; None until the starter has written it down, or where the start command's child is unknown.
        birth: When that process began (see `process_tree.Proc`): a recycled pid has another.
        settled: For `cmdline_start`: it answered, and `pid` is its child's if that could be told.
    """

    launch: Launch
    port: int
    generation: str
    log_from: int
    pid: int | None = None
    birth: str | None = None
    settled: bool = False


_FORM = TypeAdapter(Record)


def file_name(inst_id: str) -> str:
    """A file name for an instance's id: readable, different for different ids, never a path."""
    name = quote(inst_id, safe="").replace(".", "%2E", 1) if inst_id.startswith(".") else quote(inst_id, safe="")
    if len(name) > _NAME_MAX:
        # a percent sign without digits comes from no quoted id
        name = f"{name[: _NAME_MAX - 66]}%-{hashlib.sha256(inst_id.encode()).hexdigest()}"
    return name or "%-"


class Records:
    """The records in one folder.

    Args:
        folder: Where; made when first needed, for this user only (launch environments may hold secrets).
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._instances = folder / "instances"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock; blocks, so enter it in a thread. Between threads and between processes."""
        self._instances.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            try:
                yield
            finally:
                # not by closing alone: a child forked by another thread may have a copy until its exec
                fcntl.flock(handle, fcntl.LOCK_UN)
        finally:
            os.close(handle)

    def log(self, inst_id: str) -> Path:
        """Path of an instance's output."""
        return self._folder / "logs" / f"{file_name(inst_id)}.log"

    def lock(self, inst_id: str) -> Path:
        """Path of the lock that an instance's processes hold."""
        return self._instances / file_name(inst_id) / "lock"

    def read(self, inst_id: str) -> Record | None:
        """The record of an instance, or None.

        Raises:
            DeployError: The file is not ours or damaged.
        """
        return self._read(self._state(inst_id))

    def all(self) -> tuple[Record, ...]:
        """All records, by instance id."""
        paths = self._instances.glob("*/state")
        found = [record for path in paths if (record := self._read(path)) is not None]
        return tuple(sorted(found, key=lambda record: record.launch.inst_id))

    def write(self, record: Record) -> None:
        """Write a record: after a crash at any moment the old or the new one is there, never a part."""
        path = self._state(record.launch.inst_id)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(_FORM.dump_json(record))
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def forget(self, inst_id: str) -> None:
        """Remove everything but the log. Only when no process of the instance lives: its lock goes too."""
        shutil.rmtree(self._state(inst_id).parent, ignore_errors=True)

    def open_log(self, inst_id: str) -> int:
        """A descriptor that appends to the instance's log. The caller closes it."""
        path = self.log(inst_id)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def take_lock(self, inst_id: str) -> int | None:
        """Take the lock for an instance that is about to start; None if a process has it. The caller closes it."""
        path = self.lock(inst_id)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return None
        return handle

    def take_turn(self, inst_id: str) -> int | None:
        """Be the one who is at work on an instance; None if somebody else is. Ends with `end_turn`, or with this process."""
        path = self._turn(inst_id)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle).st_ino == path.stat().st_ino:
                return handle
        except OSError:
            pass  # somebody else has it, or had it and has removed it
        os.close(handle)
        return None

    def end_turn(self, inst_id: str, handle: int) -> None:
        """Let the next one."""
        self._turn(inst_id).unlink(missing_ok=True)
        os.close(handle)

    def is_held(self, inst_id: str) -> bool:
        """Whether some process of the instance holds its lock."""
        if not self.lock(inst_id).exists():
            return False
        handle = self.take_lock(inst_id)
        if handle is None:
            return True
        fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)
        return False

    def tail(self, record: Record, *, characters: int) -> str:
        """The end of what was written since this start."""
        try:
            with self.log(record.launch.inst_id).open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                # four bytes a character at most
                file.seek(max(record.log_from, end - 4 * characters))
                text = file.read().decode(errors="replace").strip()
        except FileNotFoundError:
            return ""
        return text[-characters:] if characters else ""

    def _turn(self, inst_id: str) -> Path:
        return self._folder / "turns" / file_name(inst_id)

    def _state(self, inst_id: str) -> Path:
        return self._instances / file_name(inst_id) / "state"

    def _read(self, path: Path) -> Record | None:
        try:
            return _FORM.validate_json(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValidationError) as error:
            # not the validation's own text: it quotes the record, which may hold secrets
            reason = error.strerror if isinstance(error, OSError) else "not a record of an instance"
            raise DeployError(
                f"cannot read {path}: {reason}; end the processes of that instance by hand, then remove the file"
            ) from (error if isinstance(error, OSError) else None)
