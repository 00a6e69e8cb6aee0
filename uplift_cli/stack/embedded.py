"""`uplift up`: one folder's stack from its first line of output to the end of its last process."""

import asyncio
import os
import signal
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from uplift_cli.stack import instances, ports
from uplift_cli.stack.errors import StackError
from uplift_cli.stack.layout import BACKLOG, Layout, Programs, choose_ports
from uplift_cli.stack.orphans import end_orphans
from uplift_cli.stack.processes import Identity
from uplift_cli.stack.state import PartRecord, StackRecord, hold_folder, read_record, write_record
from uplift_cli.stack.supervisor import Supervisor
from uplift_settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class UpRequest:
    """What to run.

    Attributes:
        settings: The operator's settings; `home` is the folder.
        config: Their file, passed on to gateway and worker; None: none.
        port: The gateway's port; None: the configured one, else the folder's, else the default.
        module_ports: First and last port of instances; None: the configured ones, else the folder's, else the hundred after
            the gateway's.
        programs: What is run as gateway and worker.
    """

    settings: Settings
    config: Path | None = None
    port: int | None = None
    module_ports: tuple[int, int] | None = None
    programs: Programs = field(default_factory=Programs)


async def run_stack(request: UpRequest, *, say: Callable[[str], None], announce: Callable[[str], None]) -> None:
    """Run the stack until SIGTERM, SIGHUP or Ctrl-C; a second Ctrl-C kills.

    Args:
        request: What to run.
        say: Told one line of progress at a time.
        announce: Told the gateway's address once everything is ready.

    Raises:
        StackError: The folder is in use, a port is taken, or a part does not start; nothing is left running.
    """
    home = request.settings.home_folder
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StackError(f"cannot make the folder {home}: {error.strerror}; choose another with --home") from error
    with hold_folder(home):
        before = read_record(home) or StackRecord()
        await end_orphans(home, before, grace=request.settings.stack.stop_grace, say=say)
        chosen = choose_ports(request.settings, port=request.port, modules=request.module_ports, kept=before, say=say)
        layout = Layout(home=home, settings=request.settings, config=request.config, ports=chosen, programs=request.programs)
        await _run(layout, again=before.supervisor is not None, say=say, announce=announce)


async def _run(layout: Layout, *, again: bool, say: Callable[[str], None], announce: Callable[[str], None]) -> None:
    home, settings = layout.home, layout.settings
    record = StackRecord(
        supervisor=Identity.of(os.getpid()),
        url=layout.url,
        ui_url=layout.temporal.ui_url,
        ports=layout.ports.kept(),
    )

    def remember(parts: tuple[PartRecord, ...]) -> None:
        write_record(home, replace(record, parts=parts))

    async def stop_modules() -> None:
        await instances.stop_all(home, settings, say=say)

    # Before the worker looks after them.
    alive = {each.inst_id for each in await instances.running(home, settings)}
    logs = home / "logs"
    logs.mkdir(mode=0o700, exist_ok=True)
    remember(())
    with ports.listening_socket(layout.ports.gateway, host=settings.gateway.host, backlog=BACKLOG) as listener:
        supervisor = Supervisor(
            layout.parts(listener=listener, stop_modules=stop_modules, say=say),
            logs=logs,
            settings=settings.stack,
            changed=remember,
            say=say,
        )
        asked = _Asked(supervisor, say)
        try:
            if await asked.before(supervisor.start()):
                if again:
                    await _tell_instances(layout, alive, say=say)
                announce(layout.url)
                await asked.before(supervisor.failure())
        finally:
            await supervisor.stop()
            if asked.twice:
                await instances.kill_all(home, settings)
            say("stopped")


async def _tell_instances(layout: Layout, alive: Collection[str], *, say: Callable[[str], None]) -> None:
    """Say how many instances the worker starts again: the gateway remembers them, their processes had ended."""
    missing = len(await instances.known(layout.settings, url=layout.url) - set(alive))
    if missing:
        say(f"starting {instances.count(missing)} again: `uplift status` shows those that run")


class _Asked:
    """Whether the operator wants the stack to end, told by signals."""

    def __init__(self, supervisor: Supervisor, say: Callable[[str], None]) -> None:
        self.twice = False
        self._once = asyncio.Event()
        self._supervisor = supervisor
        self._say = say
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(signum, self._on_signal, signum)

    async def before(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do work unless the operator wants the end first; returns whether it was done."""
        task = asyncio.create_task(work)
        asked = asyncio.create_task(self._once.wait())
        await asyncio.wait([task, asked], return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if self._once.is_set():
            task.cancel()
            await asyncio.wait([task])
            return False
        task.result()
        return True

    def _on_signal(self, signum: signal.Signals) -> None:
        if not self._once.is_set():
            self._say("stopping; Ctrl-C again kills" if signum == signal.SIGINT else "stopping")
            self._once.set()
        elif signum == signal.SIGINT:
            self.twice = True
            self._supervisor.kill()
