"""Child processes that survive a change of their parent's program: known by pid and descriptors, not by Python objects.

Each child has a channel, one end of a socket pair (`UPLIFT_READY_FD` names the other): the child writes one byte when it listens,
and reads the end of the channel when its parent is gone.
"""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True, eq=False, kw_only=True)
class Child:
    """One child process.

    Attributes:
        name: The replica's name.
        slot: Which of the listening sockets it accepts from.
        pid: Process id. Ours until it is reaped, so it cannot be a stranger's.
        channel: Our end.
        born: When it was started, in seconds of the monotonic clock.
        ready: Set when it listens.
        ended: Set when it has ended and was reaped.
        code: Exit code; negative: the signal that ended it.
    """

    name: str
    slot: int
    pid: int
    channel: socket.socket
    born: float
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    code: int = 0

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"

    @property
    def fate(self) -> str:
        """How it ended, in words."""
        return f"was ended by {signal.Signals(-self.code).name}" if self.code < 0 else f"ended with exit code {self.code}"

    def send(self, signum: signal.Signals) -> None:
        """Send a signal unless it has ended."""
        if not self.ended.is_set():
            os.kill(self.pid, signum)

    async def end(self, *, within: float) -> bool:
        """SIGTERM, then SIGKILL when the time is up.

        Args:
            within: Seconds that it gets to leave.

        Returns:
            Whether it left by itself.
        """
        self.send(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.ended.wait(), within)
        except TimeoutError:
            self.send(signal.SIGKILL)
            await self.ended.wait()
            return False
        return True

    async def settled(self) -> bool:
        """Wait until it is ready or has ended, and say whether it serves."""
        waits = {asyncio.ensure_future(self.ready.wait()), asyncio.ensure_future(self.ended.wait())}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return self.ready.is_set() and not self.ended.is_set()


class Children:
    """All children that live, and how they are started, watched and reaped."""

    def __init__(self, command: tuple[str, ...]) -> None:
        self._command = command
        self._living: list[Child] = []

    def __iter__(self) -> Iterator[Child]:
        return iter(tuple(self._living))

    def start(self, *, name: str, slot: int, listener: socket.socket, env: Mapping[str, str]) -> Child:
        """Start one. It leads a group of its own, so that a Ctrl-C reaches its parent only.

        Raises:
            OSError: The program cannot be run.
        """
        ours, theirs = socket.socketpair()
        with theirs, _inheritable(listener, theirs):
            handed = {"UPLIFT_LISTEN_FD": str(listener.fileno()), "UPLIFT_READY_FD": str(theirs.fileno())}
            handed["UPLIFT_GATEWAY_SLOT"] = str(slot)
            try:
                pid = os.posix_spawn(self._command[0], self._command, {**env, **handed}, setpgroup=0, setsigmask=())
            except OSError:
                ours.close()
                raise
        return self._watch(Child(name=name, slot=slot, pid=pid, channel=ours, born=time.monotonic()))

    def adopt(self, record: Mapping[str, Any]) -> Child:
        """Take over a child of the program that this process ran before; see `records`."""
        channel = socket.socket(fileno=record["channel"])
        channel.set_inheritable(False)
        named = {key: record[key] for key in ("name", "slot", "pid", "born")}
        child = Child(channel=channel, **named)
        if record["ready"]:
            child.ready.set()
        return self._watch(child)

    def records(self) -> list[tuple[Child, dict[str, Any]]]:
        """Each with what the next program of this process must know to adopt it."""
        return [
            (
                child,
                {
                    "name": child.name,
                    "slot": child.slot,
                    "pid": child.pid,
                    "born": child.born,
                    "channel": child.channel.fileno(),
                    "ready": child.ready.is_set(),
                },
            )
            for child in self._living
        ]

    def reap(self) -> None:
        """Notice who has ended; to be called after each SIGCHLD. Nobody else's children are touched."""
        for child in tuple(self._living):
            try:
                pid, status = os.waitpid(child.pid, os.WNOHANG)
            except ChildProcessError:  # reaped by somebody else: it has ended
                pid, status = child.pid, 0
            if pid:
                child.code = os.waitstatus_to_exitcode(status)
                self._living.remove(child)
                self._unwatch(child)
                child.channel.close()
                child.ended.set()

    def _watch(self, child: Child) -> Child:
        child.channel.setblocking(False)  # noqa: FBT003 - its only parameter
        self._living.append(child)
        asyncio.get_running_loop().add_reader(child.channel, self._heard, child)
        return child

    def _heard(self, child: Child) -> None:
        with suppress(BlockingIOError):
            try:
                heard = child.channel.recv(16)
            except ConnectionError:
                heard = b""
            if heard:
                child.ready.set()
            else:
                self._unwatch(child)  # closed at its end: SIGCHLD tells the rest

    def _unwatch(self, child: Child) -> None:
        if child.channel.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(child.channel)


@contextmanager
def _inheritable(*sockets: socket.socket) -> Iterator[None]:
    for each in sockets:
        each.set_inheritable(True)
    try:
        yield
    finally:
        for each in sockets:
            each.set_inheritable(False)
