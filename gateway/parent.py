"""The parent of gateway processes: owns the listening sockets, and replaces its children and itself without a refused request.

Nothing but the standard library is imported here, so that it has no reason to fail. Signals:

* SIGTERM, SIGINT: the children leave gracefully, then the parent ends. A second one kills them.
* SIGHUP: rolling replacement. Slot by slot a successor is started on the same socket; once it listens, the old child leaves.
* SIGUSR2: the parent runs its program anew in the same process (`execve`); sockets and children stay as they are.
"""

import asyncio
import logging
import signal
from collections.abc import MutableMapping
from pathlib import Path

from gateway.parent_file import ParentFile
from gateway.rebirth import Heritage, become, take_heritage, works
from gateway.slots import Plan, Slots
from gateway.sockets import listening_sockets

_log = logging.getLogger("gateway.parent")
_ENDING = (signal.SIGTERM, signal.SIGINT)
_HANDLED = (*_ENDING, signal.SIGHUP, signal.SIGUSR2)


class Parent:
    """Keeps one child in each slot.

    Args:
        plan: What to run.
        env: Environment; what is meant for the parent alone is taken out of it.

    Raises:
        OSError: The address cannot be listened on.
    """

    def __init__(self, plan: Plan, *, env: MutableMapping[str, str]) -> None:
        self._plan = plan
        self._signals: asyncio.Queue[signal.Signals | None] = asyncio.Queue()
        self._heritage = take_heritage(env)
        if self._heritage is None:
            self._sockets = listening_sockets(host=plan.host, port=plan.port, processes=plan.processes, env=env)
            self._count = plan.processes
        else:
            self._sockets, self._count = self._heritage.sockets, self._heritage.slots
        self._env = dict(env)
        self.port: int = self._sockets[0].getsockname()[1]
        self._file = ParentFile(Path(plan.pid_file) if plan.pid_file else None, port=self.port)
        self._slots = Slots(
            plan,
            count=self._count,
            sockets=self._sockets,
            env=self._env,
            served=self._heritage is not None,
            failed=lambda: self._signals.put_nowait(None),
            replacements=self._file.children,
            changed=self._tell,
        )

    async def run(self) -> int:
        """Keep the children until a signal ends it; the exit code."""
        loop = asyncio.get_running_loop()
        for each in _HANDLED:
            loop.add_signal_handler(each, self._signals.put_nowait, each)
        loop.add_signal_handler(signal.SIGCHLD, self._slots.children.reap)
        if self._heritage is not None:
            self._file.program.end(self._file.program.asked)
        try:
            self._slots.fill(() if self._heritage is None else self._heritage.children)
        except OSError as error:
            _log.error("cannot run %s: %s", self._plan.command[0], error.strerror)
            return 1
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)  # the program before may have blocked them
        while True:
            if (signum := await self._signals.get()) is None:
                _log.error("the gateway does not start; its messages are above")
                return 1 + await self._stop()
            if signum in _ENDING:
                return await self._stop()
            if signum is signal.SIGUSR2:
                self._slots.spawn(self._become_new(self._file.program.ask()))
            else:
                self._slots.roll()

    def _tell(self) -> None:
        self._file.write(self._slots.report())

    async def _become_new(self, number: int) -> None:
        """Run our program anew, once nothing is half done; when it returns, that could not be."""
        if not await works(self._plan.check, env=self._env, within=self._plan.start_timeout):
            self._file.program.end(number, "the new program does not work; the gateway's log has its messages")
            self._tell()
            return
        while True:
            await self._slots.rolled()
            # From here signals wait in the kernel, for the new program; those that came before are dealt with first.
            signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
            for _ in range(5):
                await asyncio.sleep(0)
            if not self._slots.is_rolling:
                break
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
        heritage = Heritage(sockets=self._sockets, slots=self._count, children=self._slots.records())
        _log.info("the parent runs its program anew; its %d children go on", len(heritage.children))
        self._tell()
        become(self._plan.again, heritage=heritage, env=self._env)
        self._file.program.end(number, f"cannot run {self._plan.again[0]}; the gateway's log says why")
        self._tell()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)

    async def _stop(self) -> int:
        self._slots.let_go()
        self._file.remove()
        for child in self._slots.children:
            child.send(signal.SIGTERM)
        for each in self._sockets:
            each.close()  # nobody will answer: who comes now must be told so, not wait
        gone = asyncio.create_task(self._all_gone())
        again = asyncio.create_task(self._asked_to_end())
        await asyncio.wait({gone, again}, timeout=self._plan.stop_timeout, return_when=asyncio.FIRST_COMPLETED)
        again.cancel()
        for child in self._slots.children:
            _log.warning("%s is killed", child)
            child.send(signal.SIGKILL)
        await gone
        return 0

    async def _all_gone(self) -> None:
        for child in self._slots.children:
            await child.ended.wait()

    async def _asked_to_end(self) -> None:
        while await self._signals.get() not in _ENDING:
            pass
