"""The places of a parent's children: one child in each, started again when it dies, replaced when asked."""

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.children import Child, Children
from gateway.parent_file import Tally

_log = logging.getLogger("gateway.parent")
_PAUSE_MAX = 5.0
_YOUNG = 10.0
"""Seconds of life below which a death is answered with a pause that doubles."""


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
        pid_file: Where the parent writes who it is and what it does; empty: nowhere.
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
    pid_file: str = ""


@dataclass(slots=True, eq=False, kw_only=True)
class _Slot:
    """A place for one child; `served` names the last one that listened, whom the next one stands in for if it was killed."""

    number: int
    child: Child | None = None
    serial: int = 0
    served: str = ""


class Slots:
    """Keeps one child in each slot.

    Args:
        plan: What to run.
        count: Number of slots.
        sockets: What the children listen on; shared where there are fewer than slots.
        env: Environment of all children.
        served: Whether any child has ever listened.
        failed: Called when the first child ends before any has listened: nothing will come of trying again.
        replacements: Counts what `roll` was asked for and did.
        changed: Called when a slot's child or the count of replacements has changed.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        count: int,
        sockets: tuple[socket.socket, ...],
        env: Mapping[str, str],
        served: bool,
        failed: Callable[[], None],
        replacements: Tally,
        changed: Callable[[], None],
    ) -> None:
        self._plan = plan
        self._sockets = sockets
        self._slots = tuple(_Slot(number=number) for number in range(count))
        host, self._port = sockets[0].getsockname()[:2]
        self._env = {**env, "UPLIFT_GATEWAY__HOST": host, "UPLIFT_GATEWAY__PORT": str(self._port)}
        self._base = plan.node or f"{socket.gethostname()}:{self._port}"
        self._served = served
        self._failed = failed
        self._replacements = replacements
        self._changed = changed
        self._tasks: set[asyncio.Task[None]] = set()
        self._rolling: asyncio.Task[None] | None = None
        self._roll_again = False
        self.children = Children(plan.command)

    def fill(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Adopt the children that there are, and start one in each slot that is empty.

        Args:
            records: From `records` of the program before.

        Raises:
            OSError: The program cannot be run.
        """
        for record in records:
            child = self.children.adopt(record)
            slot = self._slots[child.slot]
            slot.child, slot.serial = child, record["serial"]
        self.children.reap()
        for slot in self._slots:
            slot.child = slot.child or self._start(slot)
            self.spawn(self._keep(slot, slot.child))
        self._changed()

    def records(self) -> list[dict[str, Any]]:
        """What the next program of this process must know of the children."""
        serials = {slot.child: slot.serial for slot in self._slots}
        return [{**record, "serial": serials[child]} for child, record in self.children.records() if child in serials]

    def report(self) -> list[dict[str, Any]]:
        """The child in each slot, for people and programs outside."""
        return [
            {"slot": slot.number, "name": child.name, "pid": child.pid, "ready": child.ready.is_set()}
            for slot in self._slots
            if (child := slot.child) is not None
        ]

    def roll(self) -> None:
        """Replace all children, one slot after the other; once more if that is going on already."""
        self._replacements.ask()
        self._changed()
        if self.is_rolling:
            self._roll_again = True
        else:
            self._rolling = self.spawn(self._roll())

    @property
    def is_rolling(self) -> bool:
        """Whether a replacement is going on."""
        return self._rolling is not None and not self._rolling.done()

    async def rolled(self) -> None:
        """Wait until no replacement is going on."""
        if self._rolling is not None:
            await asyncio.wait({self._rolling})

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Do something until `let_go`."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def let_go(self) -> None:
        """Start nothing more."""
        for task in self._tasks:
            task.cancel()

    def _start(self, slot: _Slot, *, replaces: str = "") -> Child:
        slot.serial = max(slot.serial + 1, int(time.time()))  # never used before, by an earlier parent neither
        name = f"{self._base}-{slot.number}.{slot.serial}"
        env = {**self._env, "UPLIFT_GATEWAY__NODE": name}
        if replaces:
            env["UPLIFT_GATEWAY_REPLACES"] = replaces
        listener = self._sockets[slot.number % len(self._sockets)]
        return self.children.start(name=name, slot=slot.number, listener=listener, env=env)

    async def _keep(self, slot: _Slot, child: Child) -> None:
        """Watch a child as long as it is the slot's, and start another when it dies."""
        pause = 0.0
        while True:
            if await child.settled():
                slot.served, self._served = child.name, True
                self._changed()
                _log.info("%s listens on port %d", child, self._port)
            await child.ended.wait()
            if slot.child is not child:
                return
            if not self._served:
                self._failed()
                return
            _log.warning("%s %s; it is started again", child, child.fate)
            young = time.monotonic() - child.born < _YOUNG
            pause = min(max(2 * pause, self._plan.restart_pause), _PAUSE_MAX) if young else 0.0
            await asyncio.sleep(pause)
            if slot.child is not child:
                return
            try:
                child = slot.child = self._start(slot, replaces=slot.served or child.name)
                self._changed()
            except OSError as error:
                _log.error("cannot run %s: %s", self._plan.command[0], error.strerror)
                child.born = time.monotonic()  # as good as one that died at once

    async def _roll(self) -> None:
        while True:
            self._roll_again = False
            number = self._replacements.asked
            for slot in self._slots:
                if reason := await self._replace(slot):
                    _log.error("%s", reason)
                    _log.error("the replacement ends here: what serves goes on as it is")
                    self._replacements.end(number, reason)
                    break
            else:
                _log.info("all %d processes are replaced", len(self._slots))
                self._replacements.end(number)
            self._changed()
            if not self._roll_again:
                return

    async def _replace(self, slot: _Slot) -> str:
        """Put a successor in a slot, and wait until the old child has left. Returns why the old one stays; empty: it does not."""
        plan = self._plan
        try:
            new = self._start(slot)
        except OSError as error:
            return f"cannot run {plan.command[0]}: {error.strerror}"
        try:
            serves = await asyncio.wait_for(new.settled(), plan.start_timeout)
        except TimeoutError:
            await new.end(within=plan.stop_timeout)
            return f"{new} does not listen after {plan.start_timeout:g} s (gateway.start_timeout): it was stopped"
        if not serves:
            return f"{new} {new.fate} before it listened; the gateway's log has its messages"
        old, slot.child = slot.child, new  # the old one may have died and been replaced meanwhile
        self.spawn(self._keep(slot, new))
        self._changed()
        if old is not None and not await old.end(within=plan.stop_timeout):
            _log.warning("%s did not leave within %g s and was killed", old, plan.stop_timeout)
        return ""
