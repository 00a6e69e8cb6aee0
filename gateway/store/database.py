"""Connections, migrations, and the lock that keeps a second replica out."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from importlib import resources
from typing import Any, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

_MIGRATION_LOCK = 0x55504C49_4654_0001
_REPLICA_LOCK = 0x55504C49_4654_0002
_RETRY = 0.2
_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # it stops, starts or crashed
    asyncpg.InsufficientResourcesError,
)

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"


class DatabaseError(Exception):
    """Postgres cannot be reached or used. The message says which address and why."""


class SecondReplica(DatabaseError):
    """Another gateway works on this database. Stop it first, or give this one a database of its own."""


class Database:
    """A pool on one Postgres database, migrated, with the replica's lock held."""

    def __init__(self, *, dsn: str, pool_size: int) -> None:
        self._dsn = dsn
        self._size = pool_size
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._lock: asyncpg.Connection[asyncpg.Record] | None = None
        self.lost = asyncio.Event()
        """Set when the connection that holds the replica's lock is gone."""

    async def open(self, *, wait: float) -> None:
        """Connect, take the replica's lock, migrate.

        Args:
            wait: Seconds to wait for Postgres, and for the lock of a gateway that just died.

        Raises:
            SecondReplica: Another gateway holds the database.
            DatabaseError: Postgres does not answer.
        """
        deadline = asyncio.get_running_loop().time() + wait
        self._lock = await self._locked(deadline, wait)
        await _migrate(self._lock)
        self._lock.add_termination_listener(lambda *_: self.lost.set())
        self._pool = await asyncpg.create_pool(
            self._dsn, min_size=1, max_size=self._size, init=_prepare, reset=_keep, command_timeout=30
        )

    async def relock(self, *, wait: float, lock_wait: float) -> None:
        """Take the lock again after Postgres was away. Until then nothing is read or written: another gateway may have it.

        Args:
            wait: Seconds to wait for Postgres.
            lock_wait: Seconds to wait for the lock once Postgres is there.

        Raises:
            SecondReplica: Another gateway has taken over: this one must stop.
            DatabaseError: It did not come back.
        """
        self._lock = await self._locked(asyncio.get_running_loop().time() + wait, lock_wait)
        self.lost.clear()
        self._lock.add_termination_listener(lambda *_: self.lost.set())

    async def close(self) -> None:
        """Give everything back."""
        if self._pool is not None:
            with contextlib.suppress(TimeoutError, OSError, asyncpg.PostgresError):
                await asyncio.wait_for(self._pool.close(), 2)
        if self._lock is not None and not self._lock.is_closed():
            with contextlib.suppress(TimeoutError, OSError, asyncpg.PostgresError):
                await self._lock.close(timeout=1)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """One transaction; committed at the end, rolled back on any error."""
        async with self.connection() as connection, connection.transaction():
            yield connection

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection whose statements commit one by one.

        Raises:
            DatabaseError: Postgres is away.
        """
        assert self._pool is not None, "open() first"
        if self.lost.is_set():
            raise DatabaseError("the gateway's database was away; the gateway connects to it again")
        try:
            async with self._pool.acquire(timeout=10) as connection:
                yield connection
        except _AWAY as error:
            raise DatabaseError(f"the gateway's database does not answer: {str(error) or type(error).__name__}") from error
        except asyncpg.TransactionRollbackError as error:
            raise DatabaseError(f"somebody else was writing the same rows; try again: {error}") from error

    async def _locked(self, deadline: float, lock_wait: float) -> "asyncpg.Connection[asyncpg.Record]":
        """A connection that holds the replica's lock; Postgres may restart meanwhile."""
        while True:
            connection = await self._connect(deadline)
            try:
                await self._take_lock(connection, min(deadline, asyncio.get_running_loop().time() + lock_wait))
            except _AWAY as error:
                if asyncio.get_running_loop().time() >= deadline:
                    raise DatabaseError(
                        f"the gateway's database does not answer: {str(error) or type(error).__name__}"
                    ) from error
            else:
                return connection

    async def _connect(self, deadline: float) -> "asyncpg.Connection[asyncpg.Record]":
        while True:
            try:
                return await asyncpg.connect(self._dsn, timeout=5)
            except _AWAY as error:
                if asyncio.get_running_loop().time() >= deadline:
                    raise DatabaseError(
                        f"cannot connect to the gateway's database: {str(error) or type(error).__name__}"
                    ) from error
                await asyncio.sleep(_RETRY)
            except asyncpg.PostgresError as error:
                raise DatabaseError(f"the gateway's database refuses us: {error}") from error

    async def _take_lock(self, connection: "asyncpg.Connection[asyncpg.Record]", deadline: float) -> None:
        while not await connection.fetchval("select pg_try_advisory_lock($1)", _REPLICA_LOCK):
            if asyncio.get_running_loop().time() >= deadline:
                await connection.close()
                raise SecondReplica(
                    "another gateway works on this database; several replicas are not supported yet: "
                    "stop it, or set gateway.dsn to another database"
                )
            await asyncio.sleep(_RETRY)


async def _prepare(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    for kind in ("json", "jsonb"):
        await connection.set_type_codec(kind, encoder=_dump, decoder=json.loads, schema="pg_catalog")


async def _keep(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Nothing to reset: no statement of ours leaves anything in its session. The usual reset is a round trip a call."""
    del connection


def _dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


async def _migrate(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Apply what is not applied yet, each migration in a transaction, all under one lock."""
    folder = resources.files("gateway") / "sql"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    await connection.execute("select pg_advisory_lock($1)", _MIGRATION_LOCK)
    try:
        await connection.execute(
            "create table if not exists migrations (name text primary key, applied timestamptz not null default now())"
        )
        applied = {row["name"] for row in await connection.fetch("select name from migrations")}
        unknown = sorted(applied - set(names))
        if unknown:
            raise DatabaseError(f"the database was migrated by a newer gateway ({unknown[-1]}); run that version or a newer one")
        for name in names:
            if name not in applied:
                async with connection.transaction():
                    await connection.execute((folder / name).read_text(encoding="utf-8"))
                    await connection.execute("insert into migrations (name) values ($1)", name)
    finally:
        await connection.execute("select pg_advisory_unlock($1)", _MIGRATION_LOCK)
