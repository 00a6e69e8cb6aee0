"""Module data in Postgres."""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import asyncpg

from module_data import facts as looks
from module_data.address import parse_address
from module_data.base import (
    CopyFailed,
    CopyRefused,
    ModuleDataError,
    RestoreFailed,
    SchemaCopy,
    SchemaFacts,
    Session,
    ToolsMissing,
)
from module_data.contents import differences, fingerprint_of
from module_data.copies import Locked, Progress, digest_of, dump, identifier, read_contents, replay, told
from module_data.tools import Tools, find_tools

_APPLICATION = "uplift"
_CONNECT = 15.0
_LOOK_EVERY = 0.5
_END_EVERY = 0.2
_GONE_WITHIN = 5.0
# How long one attempt waits for one lock before all locks are given back.
_ATTEMPT = 5.0
_SHOWN = 8
_MEGABYTE = 1_000_000
_TROUBLE = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class PostgresData:
    """The modules' data in one Postgres database.

    Holds no connection between calls. May be used by several tasks at a time, but two calls that change or
    copy the same schema must not overlap: the later one ends what the earlier one does.

    Args:
        dsn: The database's URI with its secrets resolved; never logged. Its role must own the schemas or be a superuser, and be
            allowed to end the modules' sessions (same role, or member of `pg_signal_backend`).
        tools: Folder of `pg_dump`, `pg_restore` and `psql`; empty: the Postgres wheel, then PATH.
        lock_wait: Seconds to go on trying for locks, against sessions that come back.

    Raises:
        ValueError: The DSN is no URI.
    """

    def __init__(self, *, dsn: str, tools: str = "", lock_wait: float = 30.0) -> None:
        self._address = parse_address(dsn)
        self._folder = tools
        self._lock_wait = lock_wait
        self._tools: dict[int, Tools] = {}

    async def check_tools(self) -> None:
        """Looks for tools that are not older than the server.

        Raises:
            ToolsMissing: There are none.
            ModuleDataError: The server cannot be asked.
        """
        async with self._connection() as connection:
            await self._tools_for(connection)

    async def facts(self, schema: str, *, max_bytes: int) -> SchemaFacts:
        """What can be seen of a schema, and why a copy of it would not be whole.

        A schema that two modules or tenants share cannot be told here.

        Args:
            schema: The schema's name.
            max_bytes: The largest size that may be copied.

        Raises:
            ModuleDataError: The server cannot be asked.
        """
        async with self._connection() as connection:
            if not await looks.exists(connection, schema):
                return SchemaFacts(exists=False, size=0, refusals=())
            size = await looks.size(connection, schema)
            refusals = [*await self._refusals(connection, schema)]
            if size > max_bytes:
                refusals.append(
                    f"Schema {schema} has {size / _MEGABYTE:,.1f} MB; copies are allowed up to {max_bytes / _MEGABYTE:,.1f} MB."
                )
            try:
                await self._tools_for(connection)
            except ToolsMissing as error:
                refusals.append(str(error))
        return SchemaFacts(exists=True, size=size, refusals=tuple(refusals))

    async def sessions(self, schema: str) -> tuple[Session, ...]:
        """Sessions with locks on relations of the schema or on the schema, waiting ones included, in order of their pids.

        Not ours, not autovacuum. A prepared transaction has pid 0.

        Raises:
            ModuleDataError: The server cannot be asked.
        """
        async with self._connection() as connection:
            return await looks.sessions(connection, schema, but=(_APPLICATION,))

    async def wait_quiet(self, schema: str, *, quiet: float, timeout: float, progress: Progress | None = None) -> bool:
        """Waits until no session has had locks in the schema for a while.

        Looks twice a second: a transaction that begins and ends between two looks is not seen.

        Args:
            schema: The schema's name.
            quiet: Seconds in a row without such a session.
            timeout: Seconds after which to give up.
            progress: Told the number of such sessions at each look.

        Returns:
            Whether it was quiet for so long.

        Raises:
            ModuleDataError: The server cannot be asked.
        """
        deadline = time.monotonic() + timeout
        since: float | None = None
        async with self._connection() as connection:
            while True:
                found = await looks.sessions(connection, schema, but=(_APPLICATION,))
                now = time.monotonic()
                if progress is not None:
                    progress(len(found))
                since = None if found else (now if since is None else since)
                if since is not None and now - since >= quiet:
                    return True
                if now >= deadline:
                    return False
                wake = min(now + _LOOK_EVERY, deadline, now + _LOOK_EVERY if since is None else since + quiet)
                await asyncio.sleep(max(0.0, wake - now))

    async def end_sessions(self, schema: str) -> int:
        """Ends the sessions that `sessions` shows, and waits up to 5 s until they are gone.

        Returns:
            How many were told to end. A prepared transaction cannot be ended so.

        Raises:
            ModuleDataError: The server cannot be asked, or our role may not end them.
        """
        async with self._connection() as connection:
            ended = await self._end(connection, schema, but=(_APPLICATION,))
            deadline = time.monotonic() + _GONE_WITHIN
            while ended and time.monotonic() < deadline:
                left = {session.pid for session in await looks.sessions(connection, schema)}
                if not left & ended:
                    break
                await asyncio.sleep(_END_EVERY / 4)
        return len(ended)

    async def copy(self, schema: str, *, folder: Path, name: str, progress: Progress | None = None) -> SchemaCopy:
        """Copies the schema to `folder/name.dump`, in place of an earlier copy of that name.

        Consistent in itself; whether writers are done is the caller's business.

        Args:
            schema: The schema's name.
            folder: Made where it is missing, readable by us only.
            name: The file's name without its ending.
            progress: Told the bytes of the file about once a second.

        Raises:
            ValueError: The name is no plain file name.
            CopyRefused: The copy would not be whole.
            ToolsMissing: No tools for this server.
            CopyFailed: The tool or the disk failed; no file is left.
            ModuleDataError: The server cannot be asked.
        """
        if not name or Path(name).name != name:
            raise ValueError(f"{name!r} is no plain file name; give one without folders")
        path = folder / f"{name}.dump"
        application = _named("copy", schema)
        async with self._connection() as connection:
            existed = await looks.exists(connection, schema)
            if existed and (refusals := await self._refusals(connection, schema)):
                raise CopyRefused(refusals)
            tools = await self._tools_for(connection) if existed else None
            await _end_named(connection, application)
        if tools is None:
            path.unlink(missing_ok=True)
            return SchemaCopy(schema=schema, path="", size=0, digest="", existed=False)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise CopyFailed(
                f"The folder for copies cannot be made: {error}. Make room, or set snapshots.folder. Nothing was changed."
            ) from error
        size, digest = await dump(
            tools,
            self._address.environment(application=application),
            schema=schema,
            path=path,
            lock_wait=self._lock_wait,
            progress=progress,
        )
        return SchemaCopy(schema=schema, path=str(path), size=size, digest=digest, existed=True)

    async def restore(self, copy: SchemaCopy, *, progress: Progress | None = None) -> None:
        """Makes the schema what it was when it was copied, in one transaction, and compares.

        Sessions in the schema are ended, again and again until the locks are ours or `lock_wait` has passed. May be repeated.

        Args:
            copy: What `copy` returned.
            progress: Told the bytes of SQL that were sent about once a second (0 while it waits for locks or compares).

        Raises:
            RestoreFailed: The copy is not what it was, or could not be put back: the schema is as it was before
                the call. Or it was put back and differs, which the message says, with what differs.
            ToolsMissing: No tools for this server.
            ModuleDataError: The server cannot be asked.
        """
        if not copy.existed:
            await self.drop(copy.schema)
            return
        schema, path = copy.schema, Path(copy.path)
        application = _named("restore", schema)
        async with told(progress, int):
            try:
                found = await digest_of(path)
            except OSError as error:
                raise RestoreFailed(f"The copy of schema {schema} cannot be read: {error}. The schema is as it was.") from error
            if found != copy.digest:
                raise RestoreFailed(
                    f"The copy {path} has changed since it was taken (SHA-256 {found}, not {copy.digest})."
                    " The schema is as it was; bring the file back from a backup."
                )
            async with self._connection() as connection:
                tools = await self._tools_for(connection)
                server = connection.get_server_version().major
                await _end_named(connection, application)
                await self._guard(connection, schema)
        async with self._fighting(schema, application) as patience:
            while True:
                try:
                    await replay(
                        tools,
                        self._address.environment(application=application),
                        schema=schema,
                        path=path,
                        lock_wait=patience.next(),
                        server=server,
                        progress=progress,
                    )
                    break
                except Locked as locked:
                    await self._still_locked(schema, patience, locked)
        async with told(progress, int):
            await self._compare(tools, schema, path)

    async def drop(self, schema: str) -> None:
        """Drops the schema with all that is in it, after ending its sessions. Nothing happens where it is absent.

        Raises:
            RestoreFailed: The locks could not be had within `lock_wait` seconds, or objects elsewhere depend on
                it: nothing was dropped.
            ModuleDataError: The server cannot be asked, or refuses.
        """
        application = _named("restore", schema)
        async with self._connection() as connection:
            await _end_named(connection, application)
            if not await looks.exists(connection, schema):
                return
            await self._guard(connection, schema)
        async with self._fighting(schema, application) as patience, self._connection(application) as connection:
            while True:
                try:
                    await connection.execute(f"SET lock_timeout = {max(1, round(patience.next() * 1000))}")
                    await connection.execute(f"DROP SCHEMA IF EXISTS {identifier(schema)} CASCADE")
                    break
                except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as locked:
                    await self._still_locked(schema, patience, locked)

    async def fingerprint(self, schema: str) -> str:
        """A SHA-256 over all that a dump of the schema holds; "absent" where there is none.

        Equal before a copy and after its restore. Parentheses and casts to text types in definitions do not
        count (`module_data.contents`).

        Raises:
            ToolsMissing: No tools for this server.
            CopyFailed: The tool failed.
            ModuleDataError: The server cannot be asked.
        """
        async with self._connection() as connection:
            if not await looks.exists(connection, schema):
                return "absent"
            tools = await self._tools_for(connection)
        return fingerprint_of(await self._live(tools, schema))

    async def _live(self, tools: Tools, schema: str) -> Mapping[str, str]:
        return await read_contents(
            tools.pg_dump,
            "--no-password",
            f"--lock-wait-timeout={max(1, round(self._lock_wait * 1000))}",
            f"--schema={identifier(schema)}",
            environment=self._address.environment(application=_named("compare", schema)),
        )

    async def _compare(self, tools: Tools, schema: str, path: Path) -> None:
        environment = self._address.environment(application=_APPLICATION)
        try:
            live = await self._live(tools, schema)
            kept = await read_contents(tools.pg_restore, "--file=-", str(path), environment=environment)
        except CopyFailed as error:
            raise RestoreFailed(
                f"Schema {schema} was put back but could not be compared with its copy: {error} Restore it again."
            ) from error
        if different := differences(kept, live):
            more = f" and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
            raise RestoreFailed(
                f"Schema {schema} was put back but differs from its copy in: {' | '.join(different[:_SHOWN])}{more}."
                " Something wrote to it at the same moment: hold its users and restore it again."
            )

    async def _refusals(self, connection: looks.Connection, schema: str) -> tuple[str, ...]:
        return (*await looks.lost_on_drop(connection, schema), *await looks.not_in_copy(connection, schema))

    async def _guard(self, connection: looks.Connection, schema: str) -> None:
        """What came to depend on the schema since the copy belongs to others: a person takes it away."""
        if lost := await looks.lost_on_drop(connection, schema):
            raise RestoreFailed(f"{' '.join(lost)} Nothing was dropped: remove them, then try again.")

    async def _tools_for(self, connection: looks.Connection) -> Tools:
        server = connection.get_server_version().major
        if server not in self._tools:
            self._tools[server] = await find_tools(self._folder, server=server)
        return self._tools[server]

    @contextlib.asynccontextmanager
    async def _fighting(self, schema: str, application: str) -> AsyncIterator["_Patience"]:
        """Ends whoever has locks in the schema while the block runs; where it fails, what it left on the server too."""
        await self.end_sessions(schema)
        async with self._connection() as connection:

            async def fight() -> None:
                while True:
                    # Only who has a lock: who waits for one stands behind us.
                    with contextlib.suppress(*_TROUBLE, ModuleDataError):
                        await self._end(connection, schema, but=(application, _APPLICATION), granted=True)
                    await asyncio.sleep(_END_EVERY)

            fighter = asyncio.create_task(fight())
            try:
                yield _Patience(self._lock_wait)
            except BaseException:
                # A tool that was killed may leave its backend at work until that next looks at its socket.
                with contextlib.suppress(ModuleDataError):
                    async with self._connection() as last:
                        await _end_named(last, application)
                raise
            finally:
                fighter.cancel()
                await asyncio.wait({fighter})

    async def _still_locked(self, schema: str, patience: "_Patience", locked: Exception) -> None:
        if patience.left > 0:
            return
        holders = [f"{session.pid} {session.application or session.state}" for session in await self.sessions(schema)]
        raise RestoreFailed(
            f"The locks on schema {schema} could not be had within {self._lock_wait:g} s ({locked})."
            f" Sessions there: {', '.join(holders) or 'none now'}."
            " The schema is as it was; stop what comes back, then try again."
        ) from locked

    async def _end(
        self, connection: looks.Connection, schema: str, *, but: tuple[str, ...] = (), granted: bool = False
    ) -> set[int]:
        ended: set[int] = set()
        for session in await looks.sessions(connection, schema, but=but, granted=granted):
            if session.pid == 0:
                continue
            try:
                if await connection.fetchval("SELECT pg_terminate_backend($1)", session.pid):
                    ended.add(session.pid)
            except asyncpg.InsufficientPrivilegeError as error:
                raise ModuleDataError(
                    f"Our role may not end session {session.pid} ({session.application}) in schema {schema}: {error}."
                    " Grant it pg_signal_backend, or the module's own role."
                ) from error
        return ended

    @contextlib.asynccontextmanager
    async def _connection(self, application: str = _APPLICATION) -> AsyncIterator[looks.Connection]:
        try:
            connection = await asyncpg.connect(
                self._address.dsn,
                timeout=_CONNECT,
                statement_cache_size=0,
                server_settings={
                    "application_name": application,
                    "lock_timeout": str(max(1, round(self._lock_wait * 1000))),
                },
            )
        except asyncpg.TooManyConnectionsError as error:
            raise ModuleDataError(
                f"The modules' Postgres at {self._address.shown} has no connection left for us: {error}."
                " End sessions there, or raise max_connections or the limit of the role or the database."
            ) from error
        except (*_TROUBLE, ValueError) as error:
            raise ModuleDataError(
                f"The modules' Postgres at {self._address.shown} cannot be reached: {str(error) or type(error).__name__}."
                " Check that it runs and that the address and its password are right."
            ) from error
        try:
            yield connection
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            connection.terminate()
            raise ModuleDataError(f"The modules' Postgres at {self._address.shown} refused: {error}.") from error
        except BaseException:
            connection.terminate()
            raise
        with contextlib.suppress(*_TROUBLE):
            await connection.close(timeout=_GONE_WITHIN)


class _Patience:
    """How long locks are still waited for."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self._deadline - time.monotonic()

    def next(self) -> float:
        """Seconds that the next attempt may wait for one lock."""
        return min(max(self.left, 0.05), _ATTEMPT)


def _named(work: str, schema: str) -> str:
    """The name of a tool's session, by which a later attempt finds it. Postgres cuts names at 63 bytes."""
    return f"uplift {work} {hashlib.sha256(schema.encode()).hexdigest()[:16]}"


async def _end_named(connection: looks.Connection, application: str) -> None:
    """Ends what an attempt left behind whose process was killed."""
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = $1 AND pid <> pg_backend_pid()",
        application,
    )
