"""Copies as files: taking one, checking one, playing one back in one transaction, and reading what one holds.

Whatever is cancelled here leaves no process and no half file, and no transaction that could still commit.
"""

import asyncio
import contextlib
import errno
import hashlib
import os
import re
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from module_data.base import CopyFailed, RestoreFailed
from module_data.contents import Contents
from module_data.tools import RunningTool, Tools, running

Progress = Callable[[int], None]

_CHUNK = 1 << 18
_TOLD_EVERY = 1.0
# The header's lines; the settings in it are at most a dozen.
_HEADER = 40
# How psql ends when the server is gone.
_CONNECTION_LOST = 2
# SQLSTATEs of a lock that could not be had: lock_not_available, deadlock_detected.
_LOCKED = re.compile(r"\b(?:ERROR|FATAL):\s+(?:55P03|40P01):")


class Locked(Exception):
    """The schema's locks could not be had; nothing was changed, the attempt may be made again."""


def identifier(name: str) -> str:
    """The name as SQL and the tools' patterns take it literally."""
    return '"' + name.replace('"', '""') + '"'


@contextlib.asynccontextmanager
async def told(progress: Progress | None, amount: Callable[[], int]) -> AsyncIterator[None]:
    """Tells the amount about once a second while the block runs, and once at its end."""
    if progress is None:
        yield
        return

    async def tell() -> None:
        while True:
            await asyncio.sleep(_TOLD_EVERY)
            progress(amount())

    teller = asyncio.create_task(tell())
    try:
        yield
    finally:
        teller.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await teller
    progress(amount())


async def dump(
    tools: Tools,
    environment: Mapping[str, str],
    *,
    schema: str,
    path: Path,
    lock_wait: float,
    progress: Progress | None,
) -> tuple[int, str]:
    """Writes the schema's copy to the file, replacing it in one step once it is whole and on disk.

    Returns:
        Bytes and SHA-256 of the file.

    Raises:
        CopyFailed: With the tool's words; the file is as it was.
    """
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    try:
        # Into the file itself and not through us: so the archive can hold offsets, and the loop stays free.
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            async with (
                running(
                    tools.pg_dump,
                    "--format=custom",
                    "--compress=1",
                    "--no-password",
                    f"--lock-wait-timeout={_milliseconds(lock_wait)}",
                    f"--schema={identifier(schema)}",
                    environment=environment,
                    stdout=file,
                ) as tool,
                told(progress, lambda: part.stat().st_size),
            ):
                code, complaints = await tool.ended()
        if code != 0:
            raise _failed(
                schema, path.parent, complaints, otherwise=f"pg_dump of schema {schema} ended with {code}: {complaints}"
            )
        size, digest = await _in_thread(lambda stop: _sealed(part, stop))
        part.rename(path)
        await asyncio.to_thread(_sync, path.parent)
    except OSError as error:
        raise _failed(
            schema, path.parent, str(error), otherwise=f"The copy of schema {schema} cannot be written: {error}"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return size, digest


async def digest_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal.

    Raises:
        OSError: It cannot be read.
    """
    _, digest = await _in_thread(lambda stop: _digest(path, stop))
    return digest


async def replay(
    tools: Tools,
    environment: Mapping[str, str],
    *,
    schema: str,
    path: Path,
    lock_wait: float,
    server: int,
    progress: Progress | None,
) -> None:
    """Replaces the schema by the copy, in one transaction.

    Raises:
        Locked: A lock could not be had within `lock_wait` seconds.
        RestoreFailed: The tools' words. In both cases the schema is as it was.
    """
    sent = 0
    asked = False
    preamble = (
        "SET client_encoding = 'UTF8';\nSET client_min_messages = warning;\nSET statement_timeout = 0;\n"
        f"SET idle_in_transaction_session_timeout = 0;\nSET lock_timeout = {_milliseconds(lock_wait)};\n"
        f"BEGIN;\nDROP SCHEMA IF EXISTS {identifier(schema)} CASCADE;\n"
    )
    async with (
        running(
            tools.psql,
            "--no-psqlrc",
            "--quiet",
            "--no-password",
            "--set=ON_ERROR_STOP=1",
            "--set=VERBOSITY=verbose",
            "--file=-",
            environment=environment,
            stdin=asyncio.subprocess.PIPE,
        ) as psql,
        running(tools.pg_restore, "--file=-", str(path), environment=environment, stdout=asyncio.subprocess.PIPE) as source,
        told(progress, lambda: sent),
    ):
        try:
            psql.stdin.write(preamble.encode())
            async for chunk in _script(source, server=server):
                psql.stdin.write(chunk)
                await psql.stdin.drain()
                sent += len(chunk)
            code, complaints = await source.ended()
            if code != 0:
                # psql never sees COMMIT: what it did so far goes with its connection.
                raise RestoreFailed(f"pg_restore cannot read the copy of schema {schema}: {complaints}. The schema is as it was.")
            asked = True
            psql.stdin.write(b"\nCOMMIT;\n")
            await psql.stdin.drain()
            psql.stdin.close()
        except (BrokenPipeError, ConnectionResetError):
            pass  # psql has ended early and says why
        code, complaints = await psql.ended()
    if code == 0 and asked:
        return
    # The other lines (DETAIL, CONTEXT) may quote rows, which have no business in a message.
    reason = " ".join(line for line in complaints.splitlines() if line.startswith("psql:"))
    if _LOCKED.search(reason):
        raise Locked(reason)
    reason = reason or f"psql ended with {code}"
    if asked and code == _CONNECTION_LOST:
        raise RestoreFailed(
            f"The connection was lost while the copy of schema {schema} was made permanent: {reason}."
            " It is put back or as it was; try again."
        )
    raise RestoreFailed(f"The copy of schema {schema} could not be put back: {reason}. The schema is as it was.")


async def read_contents(tool_path: Path, *arguments: str, environment: Mapping[str, str]) -> Mapping[str, str]:
    """Runs a tool that writes a dump's text, and takes the digests of the objects in it.

    Raises:
        CopyFailed: The tool failed; with its words.
    """
    contents = Contents()
    async with running(tool_path, *arguments, environment=environment, stdout=asyncio.subprocess.PIPE) as tool:
        while chunk := await tool.stdout.read(_CHUNK):
            contents.feed(chunk)
        code, complaints = await tool.ended()
    if code != 0:
        raise CopyFailed(f"{tool_path.name} ended with {code}: {complaints}.")
    return contents.digests()


async def _script(source: RunningTool, *, server: int) -> AsyncIterator[bytes]:
    """The SQL of the copy, less the settings that would undo ours or that the server does not know."""
    unwanted = [b"SET lock_timeout "]
    if server < 17:  # noqa: PLR2004 - the version that brought the setting
        unwanted.append(b"SET transaction_timeout ")
    for _ in range(_HEADER):
        line = await source.stdout.readline()
        if not line.startswith(tuple(unwanted)):
            yield line
        if line.startswith(b"-- Name: "):
            break
    while chunk := await source.stdout.read(_CHUNK):
        yield chunk


def _failed(schema: str, folder: Path, words: str, *, otherwise: str) -> CopyFailed:
    """A copy that could not be written; a disk without room by its folder and its remedy."""
    if any(os.strerror(number) in words for number in (errno.ENOSPC, errno.EDQUOT)):
        otherwise = (
            f"The copy of schema {schema} has no room in {folder}: {words}."
            " Make room there, or set snapshots.folder to another disk"
        )
    return CopyFailed(f"{otherwise}. Nothing was changed.")


def _milliseconds(seconds: float) -> int:
    # 0 would mean to wait for ever.
    return max(1, round(seconds * 1000))


async def _in_thread(work: Callable[[threading.Event], tuple[int, str]]) -> tuple[int, str]:
    """Reads a file off the loop; a cancelled read stops soon."""
    stop = threading.Event()
    try:
        return await asyncio.to_thread(work, stop)
    finally:
        stop.set()


def _sealed(path: Path, stop: threading.Event) -> tuple[int, str]:
    _sync(path)
    return _digest(path, stop)


def _digest(path: Path, stop: threading.Event) -> tuple[int, str]:
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while not stop.is_set() and (chunk := file.read(_CHUNK)):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
