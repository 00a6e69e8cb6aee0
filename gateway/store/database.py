"""Connections and migrations."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from gateway.store.errors import DatabaseError
from gateway.store.migrations import Migrations

_RETRY = 0.2
AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what the driver makes of a connection that ends in the wrong moment
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # it stops, starts or crashed
    asyncpg.InsufficientResourcesError,
)
"""Errors that mean: Postgres is away now, or has no room for us; not that we asked for something wrong."""

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"


class Database:
    """A pool on one Postgres database, migrated.

    Args:
        dsn: The database.
        pool_size: Connections at most.
        migrations: What the release knows of the schema.
    """

    def __init__(self, *, dsn: str, pool_size: int, migrations: Migrations | None = None) -> None:
        self.migrations = migrations or Migrations()
        self._dsn = dsn
        self._size = pool_size
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self.away = False
        """Whether Postgres is known to be away: then nobody waits for it to answer."""
        self._why = ""

    async def open(self, *, wait: float) -> None:
        """Connect and migrate.

        Args:
            wait: Seconds to wait for Postgres.

        Raises:
            DatabaseError: Postgres does not answer, or was migrated beyond this release.
        """
        deadline = asyncio.get_running_loop().time() + wait
        while True:
            try:
                connection = await self._connect(deadline)
                try:
                    await self.migrations.before(connection)
                finally:
                    with contextlib.suppress(TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                        await connection.close(timeout=1)
                break
            except AWAY as error:
                if asyncio.get_running_loop().time() >= deadline:
                    raise DatabaseError(f"the gateway's database does not answer: {_text(error)}") from error
                await asyncio.sleep(_RETRY)
        self._pool = await self._new_pool()

    def cut(self, why: str = "") -> None:
        """Postgres is away, and why: whoever waits for it hears so now, and nobody waits until `renew`."""
        self.away, self._why = True, why
        if self._pool is not None:
            self._pool.terminate()

    async def renew(self) -> None:
        """Postgres is back: new connections, since those of before may lead nowhere.

        Raises:
            DatabaseError: It is not.
        """
        if not self.away:
            return
        try:
            self._pool = await self._new_pool()
        except (*AWAY, asyncpg.PostgresError) as error:
            raise DatabaseError(f"cannot connect to the gateway's database: {_text(error)}") from error
        self.away = False

    async def _new_pool(self) -> "asyncpg.Pool[asyncpg.Record]":
        return await asyncpg.create_pool(
            self._dsn, min_size=1, max_size=self._size, init=_prepare, reset=_keep, timeout=5, command_timeout=30
        )

    async def close(self) -> None:
        """Give everything back."""
        if self._pool is not None:
            try:
                await asyncio.wait_for(self._pool.close(), 2)
            except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                self._pool.terminate()

    async def migrate_after(self) -> tuple[str, ...]:
        """Apply a post migration if every replica knows it; what is missing still.

        Raises:
            DatabaseError: Postgres is away, or was migrated beyond this release.
        """
        async with self.transaction() as connection:
            return await self.migrations.after(connection)

    async def dedicated(self, *, timeout: float) -> "asyncpg.Connection[asyncpg.Record]":
        """A connection of its own, beside the pool's; the caller closes it.

        Args:
            timeout: Seconds for connecting, and for each command on it.

        Raises:
            DatabaseError: Postgres is away.
        """
        try:
            connection = await asyncpg.connect(self._dsn, timeout=timeout, command_timeout=timeout)
            await _prepare(connection)
        except (*AWAY, asyncpg.PostgresError) as error:
            raise DatabaseError(f"cannot connect to the gateway's database: {_text(error)}") from error
        return connection

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
        if self.away:
            why = f" ({self._why})" if self._why else ""
            raise DatabaseError(f"the gateway's database is away{why}; the gateway tries to reach it again")
        try:
            async with self._pool.acquire(timeout=10) as connection:
                yield connection
        except AWAY as error:
            raise DatabaseError(f"the gateway's database does not answer: {_text(error)}") from error
        except asyncpg.TransactionRollbackError as error:
            raise DatabaseError(f"somebody else was writing the same rows; try again: {error}") from error

    async def _connect(self, deadline: float) -> "asyncpg.Connection[asyncpg.Record]":
        while True:
            try:
                return await asyncpg.connect(self._dsn, timeout=5)
            except AWAY as error:
                if asyncio.get_running_loop().time() >= deadline:
                    raise DatabaseError(f"cannot connect to the gateway's database: {_text(error)}") from error
                await asyncio.sleep(_RETRY)
            except asyncpg.PostgresError as error:
                raise DatabaseError(f"the gateway's database refuses us: {error}") from error


async def _prepare(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    for kind in ("json", "jsonb"):
        await connection.set_type_codec(kind, encoder=_dump, decoder=json.loads, schema="pg_catalog")


async def _keep(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Nothing to reset: no statement of ours leaves anything in its session. The usual reset is a round trip a call."""
    del connection


def _text(error: BaseException) -> str:
    if isinstance(error, asyncpg.TooManyConnectionsError):
        return f"{error}: it has no connection left for us; end sessions there, or raise max_connections or our role's limit"
    return str(error) or type(error).__name__


def _dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
