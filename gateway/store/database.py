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
        self._lock = await self._connect(deadline)
        await self._take_lock(self._lock, deadline)
        await _migrate(self._lock)
        self._lock.add_termination_listener(lambda *_: self.lost.set())
        self._pool = await asyncpg.create_pool(self._dsn, min_size=1, max_size=self._size, init=_prepare, command_timeout=30)

    async def relock(self, *, wait: float) -> None:
        """Take the lock again after Postgres was away.

        Raises:
            DatabaseError: It did not come back, or another gateway has taken over: this one must stop.
        """
        deadline = asyncio.get_running_loop().time() + wait
        self._lock = await self._connect(deadline)
        await self._take_lock(self._lock, deadline)
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
        try:
            async with self._pool.acquire(timeout=10) as connection:
                yield connection
        except (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError) as error:
            raise DatabaseError(f"the gateway's database does not answer: {error or type(error).__name__}") from error
        except (asyncpg.OperatorInterventionError, asyncpg.InsufficientResourcesError) as error:
            raise DatabaseError(f"the gateway's database is restarting or full: {error}") from error
        except asyncpg.TransactionRollbackError as error:
            raise DatabaseError(f"somebody else was writing the same rows; try again: {error}") from error

    async def _connect(self, deadline: float) -> "asyncpg.Connection[asyncpg.Record]":
        while True:
            try:
                return await asyncpg.connect(self._dsn, timeout=5)
            except (OSError, TimeoutError, asyncpg.CannotConnectNowError, asyncpg.PostgresConnectionError) as error:
                if asyncio.get_running_loop().time() >= deadline:
                    raise DatabaseError(f"cannot connect to the gateway's database: {error or type(error).__name__}") from error
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
