"""The demo's own `uplift up`: a child process on a fresh folder."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from uplift_cli.demo.errors import DemoError
from uplift_cli.stack.postgres import MODULES_DATABASE, EmbeddedPostgres
from uplift_cli.stack.state import StackRecord, read_record

_START_WITHIN = 120.0
_STOP_WITHIN = 90.0
_LOOK = 0.1
_KEPT_VARIABLE = "UPLIFT_CACHE"  # where the Temporal command line was put


class DemoStack:
    """A running stack.

    Args:
        home: Its folder.
        port: The gateway's port; 0: a free one.
        settings: Text of its settings file.
        say: Told one line of progress at a time.
    """

    def __init__(self, *, home: Path, port: int, settings: str, say: Callable[[str], None]) -> None:
        self.home = home
        self._port = port
        self._settings = settings
        self._say = say
        self._process: asyncio.subprocess.Process | None = None

    @property
    def record(self) -> StackRecord:
        """What the stack says of itself now."""
        record = read_record(self.home)
        if record is None:
            raise DemoError(f"there is no stack in {self.home}")
        return record

    @property
    def url(self) -> str:
        """The gateway's address."""
        return self.record.url

    @property
    def modules_dsn(self) -> str:
        """The modules' database."""
        return EmbeddedPostgres(home=self.home, port=self.record.ports["postgres"]).dsn(MODULES_DATABASE)

    async def start(self) -> None:
        """Start it and wait until requests can be sent.

        Raises:
            DemoError: It does not get ready.
        """
        _allow_many_connections()
        config = self.home / "demo.toml"
        config.write_text(self._settings, encoding="utf-8")
        words = ("up", "--home", str(self.home), "--port", str(self._port), "--config", str(config))
        # The operator's own settings are for the operator's own stack.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("UPLIFT_") or name == _KEPT_VARIABLE}
        output, errors = self.home / "up.out", self.home / "up.err"
        with output.open("wb") as out, errors.open("wb") as err:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "uplift_cli.main", *words,
                stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=kept, start_new_session=True,
            )  # fmt: skip
        told = 0
        try:
            async with asyncio.timeout(_START_WITHIN):
                while not output.read_text(encoding="utf-8").startswith("ready: "):
                    if self._process.returncode is not None:
                        raise DemoError(f"`uplift up` ended:\n{errors.read_text(encoding='utf-8', errors='replace')}")
                    told = self._tell(errors, told)
                    await asyncio.sleep(_LOOK)
        except TimeoutError as error:
            raise DemoError(f"the stack was not ready within {_START_WITHIN:g} s: see {errors}") from error
        self._tell(errors, told)

    async def stop(self) -> None:
        """Stop it and what it started. A stack that was never started is fine."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_WITHIN):
                await process.wait()
        except TimeoutError as error:
            raise DemoError(
                f"the stack does not stop: `uplift down --home {self.home}`, then see {self.home / 'logs'}"
            ) from error

    def kill(self, *names: str) -> None:
        """Kill -9 parts of it, all at once.

        Raises:
            DemoError: One of them does not run.
        """
        parts = {part.name: part.process for part in self.record.parts}
        for name in names:
            process = parts[name]
            if process is None or not process.alive():
                raise DemoError(f"{name} does not run, so it cannot be killed: see {self.home / 'logs'}")
            os.kill(process.pid, signal.SIGKILL)

    def back(self, *names: str) -> bool:
        """Whether parts that were killed run again and are ready."""
        parts = {part.name: part for part in self.record.parts}
        return all(parts[name].restarts > 0 and parts[name].condition == "ready" for name in names)

    def _tell(self, errors: Path, told: int) -> int:
        lines = errors.read_text(encoding="utf-8", errors="replace").splitlines()
        for line in lines[told:]:
            self._say(f"  {line}")
        return len(lines)


def _allow_many_connections() -> None:
    """Held requests keep a connection each, here and (by inheritance) at the gateway: as many files as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 20_000 if most == resource.RLIM_INFINITY else most
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
