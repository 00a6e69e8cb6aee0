"""Instances as plain processes on this node.

They outlive the process that starts them, and are found again by the next one. Never two for one id: an instance's
processes inherit the lock on its folder, the record is written before the start, and what a starter that was killed
could not write down any more is found by the marks in the environment.
"""

import asyncio
import contextlib
import enum
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from deployers import children, ports, process_tree
from deployers.base import DeployError, ExitedEarly, Launch, LaunchRefused, NeverHealthy, Running
from deployers.commands import check_launch, environment, marked, shell, start_command
from deployers.health import wait_until_answers
from deployers.process_tree import Proc
from deployers.records import Record, Records
from uplift_settings.tree import DeploySettings

_UNSURE_MAX = 10.0  # seconds; a process between fork and exec is unsure for milliseconds, on a busy host for longer
_UNSURE_PAUSE = 0.05  # seconds
_GONE_PAUSE = 0.05  # seconds
_TURN_PAUSE = 0.1  # seconds; somebody else is starting or stopping the instance, which takes longer
_KILL_WAIT = 5.0  # seconds; only a process that hangs in the kernel outlives SIGKILL for longer


class _State(enum.Enum):
    LIVES = enum.auto()
    GONE = enum.auto()
    LEFTOVERS = enum.auto()  # its first process ended, others that it started live
    UNSURE = enum.auto()  # somebody holds its lock, who is not told yet


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sight:
    record: Record
    state: _State
    proc: Proc | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Remains:
    procs: tuple[Proc, ...] = ()
    unseen: bool = False  # something holds the lock or answers, but shows itself in no process that we may see

    def __bool__(self) -> bool:
        return self.unseen or bool(self.procs)


class ProcessDeployer:
    """Instances as processes on this node. Any number of these, in several processes, may share one folder.

    A `cmdline_start` whose daemon leaves its session, clears its environment and closes its files (or is started by
    another daemon, as containers are) is known by its port alone: it lives as long as the port answers.

    Args:
        settings: Ports, waits, environment.
        folder: Where records and logs are kept; made when first needed. See `deployers.records`.
    """

    def __init__(self, *, settings: DeploySettings, folder: Path) -> None:
        self._settings = settings
        self._records = Records(folder.absolute())

    async def start(self, launch: Launch, *, progress: Callable[[str], Awaitable[None]] | None = None) -> Running:
        """Start an instance and wait until it answers HTTP; adopt it if it runs already.

        Cancelling leaves the process running: the next `start` adopts it, `stop` ends it.

        Args:
            launch: What to start. Of an instance that runs already only the id counts.
            progress: Told, about once a second, what is being waited for.

        Raises:
            LaunchRefused: The descriptor cannot be carried out.
            NoFreePort: No port is left.
            ExitedEarly: It ended before it answered.
            NeverHealthy: It did not answer within `health_wait` and was stopped.
            DeployError: A record cannot be read, or a process of an earlier start cannot be ended.
        """
        check_launch(launch)
        record = await self._begin(launch)
        adopted = record.launch is not launch
        url = self._url(record.port)
        answered = await wait_until_answers(
            url + "/",
            settings=self._settings,
            ended=lambda: self._has_ended(record),
            progress=progress,
            what=record.launch.module_id,
        )
        if answered:
            record, proc = await asyncio.to_thread(self._settle, record)
            return replace(self._running(record, proc), adopted=adopted)
        module_id = record.launch.module_id
        code = children.exit_code(record.generation)
        await self._end(record)
        output = self._output(record)
        await asyncio.to_thread(self._forget, record)
        if answered is None:
            raise NeverHealthy(
                f"Deployment failed for service {module_id}. Could not connect to {url} within "
                f"{self._settings.health_wait:g} s (deploy.health_wait); it was stopped; {output}"
            )
        raise ExitedEarly(f"Service {module_id} returned with exit code {'unknown' if code is None else code}; {output}")

    @contextlib.asynccontextmanager
    async def turn(self, inst_id: str) -> AsyncIterator[None]:
        """Be the only one at work on an instance while the block runs, of all that share the folder; waits for the others."""
        while (handle := self._records.take_turn(inst_id)) is None:
            await asyncio.sleep(_TURN_PAUSE)
        try:
            yield
        finally:
            self._records.end_turn(inst_id, handle)

    async def find(self, inst_id: str) -> Running | None:
        """The instance if its process lives, whoever started it and whether it answers or not; None otherwise.

        Raises:
            DeployError: Its record cannot be read.
        """
        sight = await self._see(inst_id)
        if sight is None or sight.state is not _State.LIVES:
            return None
        return self._running(sight.record, sight.proc)

    async def stop(self, inst_id: str) -> None:
        """Stop an instance with all its processes and forget it, except its log. Nothing to stop is fine.

        `cmdline_stop` first, if given, then SIGTERM, then SIGKILL, each with `stop_grace`.

        Raises:
            DeployError: Something of it is still there; the message says what. Stopping again is safe.
        """
        sight = await self._see(inst_id)
        if sight is not None:
            await self._end(sight.record)
            await asyncio.to_thread(self._forget, sight.record)
            children.reap()  # a zombie counts as ended, but its pid is taken until then

    async def list(self) -> tuple[Running, ...]:
        """All living instances in this folder, by id.

        Raises:
            DeployError: A record cannot be read.
        """
        records = await asyncio.to_thread(self._all)
        found = [await self.find(record.launch.inst_id) for record in records]
        return tuple(running for running in found if running is not None)

    # starting

    async def _begin(self, launch: Launch) -> Record:
        give_up = time.monotonic() + _UNSURE_MAX
        while True:
            # in a thread that a cancellation does not stop: a start is carried out and recorded, or was not begun
            sight = await asyncio.to_thread(self._adopt_or_start, launch, final=time.monotonic() > give_up)
            if sight.state is _State.LIVES:
                return sight.record
            if sight.state is _State.LEFTOVERS:
                await self._end(sight.record)
            else:
                await asyncio.sleep(_UNSURE_PAUSE)

    def _adopt_or_start(self, launch: Launch, *, final: bool) -> _Sight:
        with self._records.locked():
            before = self._records.read(launch.inst_id)
            if before is not None:
                sight = self._note_adopted(self._look(before, final=final))
                if sight.state is not _State.GONE:
                    return sight
            env = environment(self._settings, launch)
            record = Record(
                launch=launch,
                port=self._choose_port(launch, before),
                generation=uuid.uuid4().hex,
                log_from=self._log_size(launch.inst_id),
            )
            lock = self._records.take_lock(launch.inst_id)
            if lock is None:
                return _Sight(record=record, state=_State.UNSURE)
            try:
                self._records.write(record)
                pid = self._spawn(record, env, lock)
            finally:
                # the child has a copy; unlocking here would unlock that too
                os.close(lock)
            record = self._note_started(record, pid)
            return _Sight(record=record, state=_State.LIVES)

    def _choose_port(self, launch: Launch, before: Record | None) -> int:
        others = [self._look(other, final=True) for other in self._records.all() if other.launch.inst_id != launch.inst_id]
        return ports.choose(
            self._settings,
            before=(before.port if before else None, launch.port),
            reserved={sight.record.port for sight in others if sight.state is not _State.GONE} | set(launch.avoid),
            stale={sight.record.port for sight in others if sight.state is _State.GONE},
        )

    def _spawn(self, record: Record, env: dict[str, str], lock: int) -> int:
        launch = record.launch
        log = self._records.open_log(launch.inst_id)
        try:
            return children.spawn(
                record.generation,
                start_command(launch, record.port),
                env=marked(env, inst_id=launch.inst_id, generation=record.generation),
                lock=lock,
                log=log,
            )
        except (OSError, ValueError) as error:
            self._records.forget(launch.inst_id)
            raise LaunchRefused(f"Can not deploy: {launch.module_id} cannot be run here: {error}") from error
        finally:
            os.close(log)

    def _note_started(self, record: Record, pid: int) -> Record:
        proc = process_tree.observe(pid)
        # without a birth it has ended already, and no process is taken for it
        record = replace(record, pid=pid, birth=None if proc is None else proc.birth)
        self._records.write(record)
        return record

    def _note_adopted(self, sight: _Sight) -> _Sight:
        """Write down the process of a start whose starter could not."""
        record, proc = sight.record, sight.proc
        if sight.state is not _State.LIVES or record.launch.exec is None or record.pid is not None or proc is None:
            return sight
        record = replace(record, pid=proc.pid, birth=proc.birth)
        self._records.write(record)
        return replace(sight, record=record)

    def _settle(self, record: Record) -> tuple[Record, Proc | None]:
        """Write down the process that a start command left behind, now that the instance answers."""
        if record.launch.exec is not None:
            return record, None if record.pid is None else process_tree.observe(record.pid)
        with self._records.locked():
            current = self._records.read(record.launch.inst_id)
            if current is None or current.generation != record.generation:
                return record, None
            if not current.settled:
                # not the shell: it may end at any moment, and would hide that nothing else of the instance is seen
                procs = tuple(proc for proc in self._procs(current) if proc.pid != current.pid)
                daemon = process_tree.top(procs, session_leader=False)
                current = replace(
                    current,
                    settled=True,
                    pid=None if daemon is None else daemon.pid,
                    birth=None if daemon is None else daemon.birth,
                )
                self._records.write(current)
            return current, self._look(current, final=True).proc

    def _has_ended(self, record: Record) -> bool:
        code = children.exit_code(record.generation)
        if record.launch.exec is None:
            return code is not None and code != 0
        if record.pid is None:
            return not self._records.is_held(record.launch.inst_id)
        return not process_tree.is_same(record.pid, record.birth)

    # looking

    async def _see(self, inst_id: str) -> _Sight | None:
        give_up = time.monotonic() + _UNSURE_MAX
        while True:
            sight = await asyncio.to_thread(self._look_up, inst_id, final=time.monotonic() > give_up)
            if sight is None or sight.state is not _State.UNSURE:
                return sight
            await asyncio.sleep(_UNSURE_PAUSE)

    def _look_up(self, inst_id: str, *, final: bool) -> _Sight | None:
        with self._records.locked():
            record = self._records.read(inst_id)
            return None if record is None else self._note_adopted(self._look(record, final=final))

    def _all(self) -> tuple[Record, ...]:
        with self._records.locked():
            return self._records.all()

    def _look(self, record: Record, *, final: bool) -> _Sight:
        """How an instance is. Call it under the folder's lock.

        Args:
            record: What is known of it.
            final: Whether to decide now where waiting might tell more.
        """
        children.reap()
        if process_tree.is_same(record.pid, record.birth):
            assert record.pid is not None
            return _Sight(record=record, state=_State.LIVES, proc=process_tree.observe(record.pid))
        procs = self._procs(record)
        held = self._records.is_held(record.launch.inst_id)
        if record.launch.exec is None:
            # where its process was once seen, that counts; somebody else may have the port by now
            by_port = not (record.settled and record.pid is not None)
            lives = bool(procs) or held or (by_port and ports.answers(self._settings.host, record.port))
            proc = process_tree.top(procs, session_leader=False)
            return _Sight(record=record, state=_State.LIVES if lives else _State.GONE, proc=proc)
        if not procs and not held:
            return _Sight(record=record, state=_State.GONE)
        if record.pid is not None:
            return _Sight(record=record, state=_State.LEFTOVERS)
        leader = process_tree.top(procs, session_leader=True)
        if leader is not None:
            return _Sight(record=record, state=_State.LIVES, proc=leader)
        if not final:
            return _Sight(record=record, state=_State.UNSURE)
        return _Sight(record=record, state=_State.LEFTOVERS if procs else _State.LIVES)

    def _procs(self, record: Record) -> tuple[Proc, ...]:
        inst_id = record.launch.inst_id
        leader = record.pid if process_tree.is_same(record.pid, record.birth) else None
        procs = process_tree.members(inst_id=inst_id, generation=record.generation, leader=leader)
        if not procs and self._records.is_held(inst_id):
            # their environment is cleared, or not theirs yet
            procs = process_tree.holders(self._records.lock(inst_id))
        return procs

    # ending

    async def _end(self, record: Record) -> None:
        """End all processes of one start of an instance; its record stays."""
        grace = self._settings.stop_grace
        if record.launch.exec is None and record.launch.cmdline_stop and await self._remains(record):
            await self._run_stop_command(record, record.launch.cmdline_stop)
            if await self._is_gone_within(record, grace):
                return
        await self._signal(record, signal.SIGTERM)
        if await self._is_gone_within(record, grace):
            return
        give_up = time.monotonic() + _KILL_WAIT
        while time.monotonic() < give_up:
            await self._signal(record, signal.SIGKILL)
            if await self._is_gone_within(record, _KILL_WAIT / 10):
                return
        left = await self._remains(record)
        pids = ", ".join(str(proc.pid) for proc in left.procs)
        raise DeployError(
            f"{record.launch.inst_id} is not ended: "
            + (f"processes {pids} outlive SIGKILL" if pids else "what has its lock or its port is no process seen here")
            + f"; end it by hand, port {record.port}, lock {self._records.lock(record.launch.inst_id)}, then stop again"
        )

    async def _remains(self, record: Record) -> _Remains:
        return await asyncio.to_thread(self._remains_now, record)

    def _remains_now(self, record: Record) -> _Remains:
        with self._records.locked():
            current = self._records.read(record.launch.inst_id)
            if current is None or current.generation != record.generation:
                return _Remains()
            children.reap()
            procs = self._procs(current)
            unseen = not procs and (
                self._records.is_held(current.launch.inst_id)
                or (
                    current.launch.exec is None
                    and current.settled
                    and current.pid is None
                    and ports.answers(self._settings.host, current.port)
                )
            )
            return _Remains(procs=procs, unseen=unseen)

    async def _signal(self, record: Record, number: signal.Signals) -> None:
        process_tree.send((await self._remains(record)).procs, number)

    async def _is_gone_within(self, record: Record, seconds: float) -> bool:
        give_up = time.monotonic() + seconds
        while left := await self._remains(record):
            # all processes of the machine are looked through only when those known are gone
            while True:
                if time.monotonic() >= give_up:
                    return False
                await asyncio.sleep(_GONE_PAUSE)
                children.reap()
                if not any(process_tree.is_same(proc.pid, proc.birth) for proc in left.procs):
                    break
        return True

    async def _run_stop_command(self, record: Record, command: str) -> None:
        try:
            env = environment(self._settings, record.launch)
        except LaunchRefused:
            # a secret that is gone must not keep an instance from being stopped; signals need none
            return
        log = self._records.open_log(record.launch.inst_id)
        try:
            process = await asyncio.create_subprocess_exec(
                *shell(command, record.port),
                env=env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        finally:
            os.close(log)
        try:
            await asyncio.wait_for(process.wait(), self._settings.stop_grace)
        except TimeoutError:
            pass
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()

    def _forget(self, record: Record) -> None:
        with self._records.locked():
            current = self._records.read(record.launch.inst_id)
            if current is not None and current.generation == record.generation:
                self._records.forget(record.launch.inst_id)

    # telling

    def _running(self, record: Record, proc: Proc | None) -> Running:
        return Running(
            inst_id=record.launch.inst_id,
            module_id=record.launch.module_id,
            pid=None if proc is None else proc.pid,
            generation=record.generation,
            port=record.port,
            url=self._url(record.port),
            log=str(self._records.log(record.launch.inst_id)),
        )

    def _url(self, port: int) -> str:
        host = self._settings.host
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def _output(self, record: Record) -> str:
        path = self._records.log(record.launch.inst_id)
        tail = self._records.tail(record, characters=self._settings.log_tail)
        return f"its output ends (all of it in {path}):\n{tail}" if tail else f"it wrote nothing to {path}"

    def _log_size(self, inst_id: str) -> int:
        try:
            return self._records.log(inst_id).stat().st_size
        except FileNotFoundError:
            return 0
