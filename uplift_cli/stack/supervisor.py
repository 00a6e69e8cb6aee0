"""Keeps the parts of the stack running: starts them in order, starts again what dies, stops them in the opposite order.

Each part has one task that owns its process from start to end; nothing else signals it. Stopping is asking that task.
"""

import asyncio
import os
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL
from typing import Any

from uplift_cli.stack.errors import PartFailed
from uplift_cli.stack.parts import Part
from uplift_cli.stack.processes import Identity, as_user
from uplift_cli.stack.state import PartCondition, PartRecord, open_private
from uplift_settings.tree import StackSettings

_PAUSE_MAX = 5.0
_STEADY = 30.0
_TRIES_AT_FIRST = 3
_LOG_MAX = 16 * 2**20
_TAIL_LINES = 15
_MUTE = 1.0  # seconds of stopping that need no explanation


@dataclass(slots=True, kw_only=True)
class _Keeper:
    """The running side of one part."""

    part: Part
    log: Path
    asked_to_stop: asyncio.Event = field(default_factory=asyncio.Event)
    was_ready: asyncio.Event = field(default_factory=asyncio.Event)
    condition: PartCondition = "waiting"
    identity: Identity | None = None
    since: float | None = None
    restarts: int = 0
    task: asyncio.Task[None] | None = None

    def record(self) -> PartRecord:
        return PartRecord(
            name=self.part.name,
            condition=self.condition,
            address=self.part.address,
            log=str(self.log),
            process=self.identity,
            since=self.since,
            restarts=self.restarts,
        )


class Supervisor:
    """Runs parts as child processes.

    Children lead sessions of their own: a Ctrl-C at the terminal reaches the supervisor only, which stops them in order.

    Args:
        parts: In the order of their start; they stop in the opposite order.
        logs: Folder of their output.
        settings: Time limits and pauses.
        changed: Told the parts' records at each change.
        say: Told one line for the operator at a time.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        logs: Path,
        settings: StackSettings,
        changed: Callable[[tuple[PartRecord, ...]], None],
        say: Callable[[str], None],
    ) -> None:
        self._keepers = tuple(_Keeper(part=part, log=logs / f"{part.name}.log") for part in parts)
        self._settings = settings
        self._changed = changed
        self._say = say
        self._kill = asyncio.Event()

    async def start(self) -> None:
        """Start all parts; returns when every one is ready. They are kept running until `stop`.

        Raises:
            PartFailed: One did not get ready. Call `stop` to end the others.
        """
        for keeper in self._keepers:
            keeper.task = asyncio.create_task(self._keep(keeper), name=f"keep {keeper.part.name}")
        all_ready = asyncio.ensure_future(asyncio.gather(*(keeper.was_ready.wait() for keeper in self._keepers)))
        try:
            watched: list[asyncio.Future[Any]] = [all_ready, *self._tasks()]
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            if not all_ready.done():
                await self.failure()
        finally:
            all_ready.cancel()
            with suppress(asyncio.CancelledError):
                await all_ready

    async def failure(self) -> None:
        """Wait until a part cannot be kept running.

        Raises:
            PartFailed: That part's.
        """
        done, _ = await asyncio.wait(self._tasks(), return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def stop(self) -> None:
        """Stop all parts, the last started first, each within its grace."""
        for keeper in reversed(self._keepers):
            ran = keeper.identity is not None
            keeper.asked_to_stop.set()
            if keeper.task is not None:
                await asyncio.wait([keeper.task])
            if ran:
                self._say(f"{keeper.part.name} stopped")
            hook = asyncio.create_task(_finished(keeper.part.afterwards()))
            await self._either(hook, self._kill)
            await _cancelled(hook, self._say)

    def kill(self) -> None:
        """Do not wait for anything any more: what still runs is killed."""
        self._kill.set()

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [keeper.task for keeper in self._keepers if keeper.task is not None]

    async def _keep(self, keeper: _Keeper) -> None:
        try:
            await self._keep_running(keeper)
        finally:
            self._change(keeper, "stopped", process=None)

    async def _keep_running(self, keeper: _Keeper) -> None:
        part = keeper.part
        for other in self._keepers:
            if other.part.name in part.after:
                await self._either(other.was_ready.wait(), keeper.asked_to_stop)
        pause, tries = self._settings.restart_pause, 0
        while not keeper.asked_to_stop.is_set():
            process = await self._spawn(keeper)
            began = time.monotonic()
            reason = await self._attend(keeper, process)
            if keeper.asked_to_stop.is_set():
                break
            tries += 1
            if not keeper.was_ready.is_set() and tries >= _TRIES_AT_FIRST:
                raise PartFailed(f"{part.name} does not start: {reason}\n{_tail(keeper.log)}")
            if time.monotonic() - began >= _STEADY:
                pause = self._settings.restart_pause
            self._say(f"{part.name} {reason}; it is started again in {pause:.1f} s (log: {keeper.log})")
            self._change(keeper, "restarting", process=None)
            await self._either(asyncio.sleep(pause), keeper.asked_to_stop)
            pause = next_pause(pause, first=self._settings.restart_pause)
            keeper.restarts += 1

    async def _spawn(self, keeper: _Keeper) -> asyncio.subprocess.Process:
        part = keeper.part
        try:
            await part.prepare()
        except OSError as error:
            raise PartFailed(f"{part.name} cannot be started: {error}") from error
        if keeper.log.exists() and keeper.log.stat().st_size > _LOG_MAX:
            keeper.log.replace(keeper.log.with_suffix(".log.1"))
        with open_private(keeper.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND) as output:
            try:
                process = await asyncio.create_subprocess_exec(
                    *part.command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env={**os.environ, **part.env},
                    cwd=part.folder,
                    start_new_session=True,
                    umask=part.umask,
                    pass_fds=part.pass_fds,
                    **as_user(part.user),
                )
            except OSError as error:
                raise PartFailed(f"{part.name} cannot be started: {part.command[0]}: {error.strerror}") from error
        keeper.since = time.time()
        self._change(keeper, "starting", process=Identity.of(process.pid))
        return process

    async def _attend(self, keeper: _Keeper, process: asyncio.subprocess.Process) -> str:
        """Look after one process until it has ended; returns why, in words."""
        timeout = self._settings.start_timeout
        ended = asyncio.create_task(process.wait())
        getting_ready = asyncio.create_task(_finished(self._get_ready(keeper, process.pid)))
        stop = asyncio.create_task(keeper.asked_to_stop.wait())
        reason = None
        try:
            await asyncio.wait([ended, getting_ready, stop], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if getting_ready.done() and (error := getting_ready.exception()):
                reason = f"did not get ready: {str(error) or type(error).__name__}"
            elif getting_ready.done():
                await asyncio.wait([ended, stop], return_when=asyncio.FIRST_COMPLETED)
            elif not ended.done() and not stop.done():
                reason = f"was not ready within {timeout:g} s"
        finally:
            stop.cancel()
            getting_ready.cancel()
            await asyncio.wait([getting_ready])
            await self._end(keeper, process, ended)
        return reason or _why(process.returncode)

    async def _get_ready(self, keeper: _Keeper, pid: int) -> None:
        await keeper.part.ready(pid)
        await keeper.part.finish()
        self._change(keeper, "ready", process=keeper.identity)
        self._say(f"{keeper.part.name:<9} {keeper.part.address}")
        keeper.was_ready.set()

    async def _end(self, keeper: _Keeper, process: asyncio.subprocess.Process, ended: asyncio.Task[int]) -> None:
        if not ended.done() and not self._kill.is_set():
            with suppress(ProcessLookupError):
                process.send_signal(keeper.part.stop_signal)
            await self._either(self._patiently(keeper, ended), self._kill)
            if not ended.done() and not self._kill.is_set():
                self._say(f"{keeper.part.name} did not stop within {self._settings.stop_grace:g} s and is killed")
        # Its own children may have outlived it; the session is theirs alone, so nothing else is hit.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, SIGKILL)
        await ended

    async def _patiently(self, keeper: _Keeper, ended: asyncio.Task[int]) -> None:
        grace = self._settings.stop_grace
        first = min(_MUTE, grace)
        done, _ = await asyncio.wait([ended], timeout=first)
        if not done and grace > first:
            self._say(f"waiting for {keeper.part.name} (up to {grace:g} s)")
            await asyncio.wait([ended], timeout=grace - first)

    async def _either(self, work: Awaitable[Any], event: asyncio.Event) -> None:
        """Wait until work is done or an event comes; the work is not cancelled if it is a task of the caller's."""
        task = asyncio.ensure_future(work)
        signal = asyncio.create_task(event.wait())
        await asyncio.wait([task, signal], return_when=asyncio.FIRST_COMPLETED)
        signal.cancel()
        if task is not work:
            task.cancel()

    def _change(self, keeper: _Keeper, condition: PartCondition, *, process: Identity | None) -> None:
        keeper.condition, keeper.identity = condition, process
        if process is None:
            keeper.since = None
        self._changed(tuple(each.record() for each in self._keepers))


def next_pause(pause: float, *, first: float) -> float:
    """The pause after this one, in seconds: twice as long up to 5 s, and never shorter than the one that is set."""
    return min(pause * 2, max(_PAUSE_MAX, first))


async def _finished(work: Awaitable[None]) -> None:
    await work


async def _cancelled(task: asyncio.Task[None], say: Callable[[str], None]) -> None:
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return
    except Exception as error:  # noqa: BLE001 - whatever a hook meets, the parts below must still be stopped
        say(f"while stopping: {error}")


def _why(code: int | None) -> str:
    return f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"


def _tail(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        return f"(no log: {error.strerror})"
    return "\n".join([f"the last lines of {log}:", *(f"  {line}" for line in lines[-_TAIL_LINES:])])
