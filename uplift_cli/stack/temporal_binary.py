"""Where the `temporal` command line comes from: looked up at each start, fetched once by `uplift setup`."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from uplift_cli.stack.errors import TemporalMissing

GO_PACKAGE = "github.com/temporalio/cli/cmd/temporal"
GO_VERSION = "v1.5.1"
_DOWNLOAD_TIMEOUT = 180.0
_BUILD_TIMEOUT = 1800.0
_PROGRESS_EVERY = 15.0
_REASON_LENGTH = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One way that was tried and did not work."""

    way: str
    reason: str


def cache() -> Path:
    """The folder for what is fetched once per user: `$UPLIFT_CACHE`, else `~/.cache/uplift`."""
    named = os.environ.get("UPLIFT_CACHE")
    if named:
        return Path(named).expanduser().absolute()
    return Path("~/.cache/uplift").expanduser()


def find() -> Path | None:
    """The command line: `$TEMPORAL_CLI`, `PATH`, our cache. None where none of them has it; quick, nothing is fetched."""
    found, _ = _look()
    return found


def require() -> Path:
    """As `find`.

    Raises:
        TemporalMissing: None of the places has it.
    """
    found, attempts = _look()
    if found is None:
        raise TemporalMissing(_message(attempts, "run `uplift setup` (or `make setup`), which fetches it once"))
    return found


def fetch(*, say: Callable[[str], None]) -> Path:
    """The command line, fetched into our cache if it is nowhere: the SDK's download, else built with Go.

    Args:
        say: Told one line at a time of what takes long.

    Raises:
        TemporalMissing: No way worked; the message lists each.
    """
    found, attempts = _look()
    if found is not None:
        return found
    for way in (_download, _build):
        got = way(say)
        if isinstance(got, Path):
            return got
        attempts.append(got)
    remedy = (
        "install the Temporal CLI (https://docs.temporal.io/cli) so that `temporal` is on PATH, or name it in $TEMPORAL_CLI, "
        "or install Go >= 1.24 and try again"
    )
    raise TemporalMissing(_message(attempts, remedy))


def _look() -> tuple[Path | None, list[Attempt]]:
    attempts = []
    named = os.environ.get("TEMPORAL_CLI")
    if named:
        path = Path(named).expanduser().absolute()
        if _runs(path):
            return path, []
        attempts.append(Attempt(way="$TEMPORAL_CLI", reason=f"{named} is not a program"))
    else:
        attempts.append(Attempt(way="$TEMPORAL_CLI", reason="not set"))
    on_path = shutil.which("temporal")
    if on_path:
        return Path(on_path).absolute(), []
    attempts.append(Attempt(way="PATH", reason="no `temporal` there"))
    cached = _cached()
    if _runs(cached):
        return cached, []
    attempts.append(Attempt(way="cache", reason=f"no {cached}"))
    return None, attempts


def _download(say: Callable[[str], None]) -> Path | Attempt:
    way = "download by the Temporal SDK"
    say("fetching the Temporal CLI (about 100 MB, once)")
    with _scratch() as folder:
        try:
            asyncio.run(_start_downloaded(folder))
        except TimeoutError:
            return Attempt(way=way, reason=f"not done within {_DOWNLOAD_TIMEOUT:.0f} s")
        except (RuntimeError, OSError) as error:
            return Attempt(way=way, reason=str(error))
        programs = [path for path in folder.iterdir() if _runs(path)]
        if len(programs) != 1:
            return Attempt(way=way, reason=f"it left {len(programs)} programs in its folder instead of one")
        return _keep(programs[0])


async def _start_downloaded(folder: Path) -> None:
    # The SDK downloads as part of starting a server; this is the only door to it.
    from temporalio.testing import WorkflowEnvironment  # noqa: PLC0415 - half a second that only this way needs

    async with asyncio.timeout(_DOWNLOAD_TIMEOUT):
        server = await WorkflowEnvironment.start_local(download_dest_dir=str(folder))
    await server.shutdown()


def _build(say: Callable[[str], None]) -> Path | Attempt:
    way = f"go install {GO_PACKAGE}@{GO_VERSION}"
    go = shutil.which("go")
    if go is None:
        return Attempt(way=way, reason="no `go` on PATH")
    say("the download is not to be had; building the Temporal CLI with Go instead (about 3 minutes, once)")
    began = time.monotonic()
    with _scratch() as folder, tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(
            (go, "install", f"{GO_PACKAGE}@{GO_VERSION}"),
            env={**os.environ, "GOBIN": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            while True:
                try:
                    code = process.wait(timeout=_PROGRESS_EVERY)
                    break
                except subprocess.TimeoutExpired:
                    elapsed = time.monotonic() - began
                    if elapsed > _BUILD_TIMEOUT:
                        return Attempt(way=way, reason=f"not done within {_BUILD_TIMEOUT / 60:.0f} minutes")
                    say(f"still building ({elapsed:.0f} s)")
        finally:
            process.kill()
            process.wait()
        if code:
            output.seek(0)
            last = [line for line in output.read().splitlines() if not line.startswith("go: downloading")][-3:]
            return Attempt(way=way, reason=f"exit code {code}: {' '.join(last)}")
        return _keep(folder / "temporal")


def _keep(program: Path) -> Path:
    """Move a finished program to its place, whole."""
    place = _cached()
    place.parent.mkdir(parents=True, exist_ok=True)
    program.replace(place)
    return place


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder in the cache, so that what is finished there only needs renaming."""
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache(), prefix="fetch-") as name:
        yield Path(name)


def _cached() -> Path:
    return cache() / "bin" / "temporal"


def _runs(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _message(attempts: list[Attempt], remedy: str) -> str:
    lines = (f"  {attempt.way}: {attempt.reason[:_REASON_LENGTH]}" for attempt in attempts)
    return "\n".join(["there is no Temporal command line here. Tried:", *lines, f"What to do: {remedy}"])
