"""A part of the stack as its supervisor sees it, and the checks that tell when it is ready."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGTERM

_LOOK_AGAIN = 0.02


async def _nothing() -> None:
    return


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One child process, what it needs and how it is told to be ready.

    Attributes:
        name: Its name; its output goes to `<name>.log`.
        command: Program and arguments.
        address: Where it answers, for the operator.
        ready: Waits until the process with the given pid is ready. Cancelled when that process ends.
        env: Environment beside the supervisor's own.
        after: Names of the parts that must have been ready once before this one is started.
        prepare: Runs before each start.
        finish: Runs each time it got ready, before others are told.
        afterwards: Runs when the stack stops, once this part has ended.
        stop_signal: The polite one.
        user: System user to run as; None: our own.
        folder: Working folder; None: our own.
        umask: Permissions that files it makes lack; -1: as ours.
        pass_fds: Descriptors that it inherits.
    """

    name: str
    command: tuple[str, ...]
    address: str
    ready: Callable[[int], Awaitable[None]]
    env: Mapping[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    prepare: Callable[[], Awaitable[None]] = _nothing
    finish: Callable[[], Awaitable[None]] = _nothing
    afterwards: Callable[[], Awaitable[None]] = _nothing
    stop_signal: int = SIGTERM
    user: str | None = None
    folder: Path | None = None
    umask: int = -1
    pass_fds: tuple[int, ...] = ()


async def port_opens(host: str, port: int) -> None:
    """Wait until something accepts connections."""
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
            return
        await asyncio.sleep(_LOOK_AGAIN)


async def answers_ok(host: str, port: int, path: str) -> None:
    """Wait until a GET answers 200. A connection may wait long in the accept queue: that is no error."""
    request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode()
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(request)
                status = (await reader.readline()).split(b" ", 2)
            finally:
                writer.close()
            if len(status) > 1 and status[1] == b"200":
                return
        await asyncio.sleep(_LOOK_AGAIN)


async def file_names(path: Path, pid: int) -> None:
    """Wait until a file holds this pid."""
    while True:
        with contextlib.suppress(OSError):
            if path.read_text(encoding="utf-8").strip() == str(pid):
                return
        await asyncio.sleep(_LOOK_AGAIN)
