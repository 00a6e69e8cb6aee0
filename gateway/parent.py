"""The parent of gateway processes: owns the listening sockets, and replaces its children and itself without a refused request.

Nothing but the standard library is imported here, so that it has no reason to fail. Signals:

* SIGTERM, SIGINT: the children leave gracefully, then the parent ends. A second one kills them.
* SIGHUP: rolling replacement. Slot by slot a successor is started on the same socket; once it listens, the old child leaves.
* SIGUSR2: the parent runs its program anew in the same process (`execve`); sockets and children stay as they are.
"""

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Coroutine, MutableMapping
from dataclasses import dataclass
from typing import Any

from gateway.children import Child, Children
from gateway.rebirth import Heritage, become, take_heritage, works
from gateway.sockets import listening_sockets

_log = logging.getLogger("gateway.parent")
_PAUSE_MAX = 5.0
_YOUNG = 10.0
"""Seconds of life below which a death is answered with a pause that doubles."""
_ENDING = (signal.SIGTERM, signal.SIGINT)
_HANDLED = (*_ENDING, signal.SIGHUP, signal.SIGUSR2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a parent runs.

    Attributes:
        command: Program and arguments of a child.
        processes: How many.
        host: Address to listen on.
        port: Port; 0: a free one.
        node: Base of the children's names; empty: this host's name and the port.
        start_timeout: Seconds that a successor gets to listen.
        stop_timeout: Seconds that a child gets to leave before it is killed.
        restart_pause: Seconds before a child that died young is started again; doubles.
        again: Program and arguments that the parent replaces itself with.
        check: Ends with 0 if `again` can be run; empty: it is not tried before.
    """

    command: tuple[str, ...]
    processes: int
    host: str
    port: int
    node: str
    start_timeout: float
    stop_timeout: float
    restart_pause: float
    again: tuple[str, ...]
    check: tuple[str, ...] = ()


@dataclass(slots=True, eq=False, kw_only=True)
class _Slot:
    """A place for one child; `served` names the last one that listened, whom the next one stands in for if it was killed."""

    number: int
    child: Child | None = None
    serial: int = 0
    served: str = ""


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
        self._children = Children(plan.command)
        self._signals: asyncio.Queue[signal.Signals | None] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._rolling: asyncio.Task[None] | None = None
        self._roll_again = False
        self._heritage = take_heritage(env)
        self._sockets = (
            self._heritage.sockets
            if self._heritage is not None
            else listening_sockets(host=plan.host, port=plan.port, processes=plan.processes, env=env)
        )
        slots = plan.processes if self._heritage is None else self._heritage.slots
        self._slots = tuple(_Slot(number=number) for number in range(slots))
        self._served = self._heritage is not None
        self._env = dict(env)
        self.host, self.port = self._sockets[0].getsockname()[:2]
        self._base = plan.node or f"{socket.gethostname()}:{self.port}"

    async def run(self) -> int:
        """Keep the children until a signal ends it; the exit code."""
        loop = asyncio.get_running_loop()
        for each in _HANDLED:
            loop.add_signal_handler(each, self._signals.put_nowait, each)
        loop.add_signal_handler(signal.SIGCHLD, self._children.reap)
        try:
            self._begin()
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
                self._spawn(self._become_new())
            elif self._is_rolling:
                self._roll_again = True
            else:
                self._rolling = self._spawn(self._roll())

    def _begin(self) -> None:
        for record in () if self._heritage is None else self._heritage.children:
            child = self._children.adopt(record)
            slot = self._slots[child.slot]
            slot.child, slot.serial = child, record["serial"]
        self._children.reap()
        for slot in self._slots:
            slot.child = slot.child or self._start(slot)
            self._spawn(self._keep(slot, slot.child))

    def _start(self, slot: _Slot, *, replaces: str = "") -> Child:
        slot.serial = max(slot.serial + 1, int(time.time()))  # never used before, by an earlier parent neither
        name = f"{self._base}-{slot.number}.{slot.serial}"
        env = {
            **self._env,
            "UPLIFT_GATEWAY__HOST": self.host,
            "UPLIFT_GATEWAY__PORT": str(self.port),
            "UPLIFT_GATEWAY__NODE": name,
        }
        if replaces:
            env["UPLIFT_GATEWAY_REPLACES"] = replaces
        listener = self._sockets[slot.number % len(self._sockets)]
        return self._children.start(name=name, slot=slot.number, listener=listener, env=env)

    async def _keep(self, slot: _Slot, child: Child) -> None:
        """Watch a child as long as it is the slot's, and start another when it dies."""
        pause = 0.0
        while True:
            if await child.settled():
                slot.served, self._served = child.name, True
                _log.info("%s listens on port %d", child, self.port)
            await child.ended.wait()
            if slot.child is not child:
                return
            if not self._served:
                self._signals.put_nowait(None)
                return
            _log.warning("%s %s; it is started again", child, child.fate)
            young = time.monotonic() - child.born < _YOUNG
            pause = min(max(2 * pause, self._plan.restart_pause), _PAUSE_MAX) if young else 0.0
            await asyncio.sleep(pause)
            if slot.child is not child:
                return
            try:
                child = slot.child = self._start(slot, replaces=slot.served or child.name)
            except OSError as error:
                _log.error("cannot run %s: %s", self._plan.command[0], error.strerror)
                child.born = time.monotonic()  # as good as one that died at once

    @property
    def _is_rolling(self) -> bool:
        return self._rolling is not None and not self._rolling.done()

    async def _roll(self) -> None:
        while True:
            self._roll_again = False
            for slot in self._slots:
                if not await self._replace(slot):
                    _log.error("the replacement ends here: what serves goes on as it is")
                    break
            else:
                _log.info("all %d processes are replaced", len(self._slots))
            if not self._roll_again:
                return

    async def _replace(self, slot: _Slot) -> bool:
        """Put a successor in a slot, and wait until the old child has left. False: the old one stays."""
        plan, old = self._plan, slot.child
        try:
            new = self._start(slot)
        except OSError as error:
            _log.error("cannot run %s: %s", plan.command[0], error.strerror)
            return False
        try:
            serves = await asyncio.wait_for(new.settled(), plan.start_timeout)
        except TimeoutError:
            _log.error("%s does not listen after %g s (gateway.start_timeout): it is stopped", new, plan.start_timeout)
            await new.end(within=plan.stop_timeout)
            return False
        if not serves:
            _log.error("%s %s before it listened; its messages are above", new, new.fate)
            return False
        old, slot.child = slot.child, new  # the old one may have died and been replaced meanwhile
        self._spawn(self._keep(slot, new))
        if old is not None and not await old.end(within=plan.stop_timeout):
            _log.warning("%s did not leave within %g s and was killed", old, plan.stop_timeout)
        return True

    async def _become_new(self) -> None:
        """Run our program anew, once nothing is half done; when it returns, that could not be."""
        if not await works(self._plan.check, env=self._env, within=self._plan.start_timeout):
            return
        while True:
            if self._rolling is not None:
                await asyncio.wait({self._rolling})
            # From here signals wait in the kernel, for the new program; those that came before are dealt with first.
            signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
            for _ in range(5):
                await asyncio.sleep(0)
            if not self._is_rolling:
                break
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
        serials = {slot.child: slot.serial for slot in self._slots}
        records = [{**record, "serial": serials[child]} for child, record in self._children.records() if child in serials]
        heritage = Heritage(sockets=self._sockets, slots=len(self._slots), children=records)
        _log.info("the parent runs its program anew; its %d children go on", len(records))
        become(self._plan.again, heritage=heritage, env=self._env)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)

    async def _stop(self) -> int:
        for task in self._tasks:
            task.cancel()
        for child in self._children:
            child.send(signal.SIGTERM)
        for each in self._sockets:
            each.close()  # nobody will answer: who comes now must be told so, not wait
        gone = asyncio.create_task(self._all_gone())
        again = asyncio.create_task(self._asked_to_end())
        await asyncio.wait({gone, again}, timeout=self._plan.stop_timeout, return_when=asyncio.FIRST_COMPLETED)
        again.cancel()
        for child in self._children:
            _log.warning("%s is killed", child)
            child.send(signal.SIGKILL)
        await gone
        return 0

    async def _all_gone(self) -> None:
        for child in self._children:
            await child.ended.wait()

    async def _asked_to_end(self) -> None:
        while await self._signals.get() not in _ENDING:
            pass

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
