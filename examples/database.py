"""The database of a module: one schema per tenant, one small pool."""

import functools
import re
from collections.abc import Mapping

import asyncpg
from aiohttp import web

_TENANT = re.compile(r"[a-z][a-z0-9_]{0,30}")


def tenant_of(request: web.Request) -> str:
    """The tenant that a request is for.

    Raises:
        web.HTTPBadRequest: The header is missing, or names no tenant.
    """
    tenant = request.headers.get("X-Okapi-Tenant", "")
    if not _TENANT.fullmatch(tenant):
        raise web.HTTPBadRequest(text=f"X-Okapi-Tenant must name a tenant, but is {tenant!r}")
    return tenant


class Database:
    """Where a module keeps its data, told by FOLIO's environment names (`DB_HOST`, …)."""

    def __init__(self, *, product: str, application: str, environ: Mapping[str, str]) -> None:
        self.product = product
        self._connect = functools.partial(
            asyncpg.connect,
            host=environ.get("DB_HOST", "localhost"),
            port=int(environ.get("DB_PORT", "5432")),
            user=environ.get("DB_USERNAME", "postgres"),
            password=environ.get("DB_PASSWORD"),
            database=environ.get("DB_DATABASE", "postgres"),
            server_settings={"application_name": application},
        )
        self._most = int(environ.get("DB_MAXPOOLSIZE", "5"))
        self._pool: asyncpg.Pool | None = None

    @property
    def pool(self) -> asyncpg.Pool:
        """The connections for requests, from `open` on."""
        assert self._pool is not None, "open the database first"
        return self._pool

    async def open(self) -> None:
        """Make the pool ready."""
        # min_size 0: an instance starts at once, and also while the database is away.
        self._pool = await asyncpg.create_pool(connect=self._connect, min_size=0, max_size=self._most)

    async def close(self) -> None:
        """Close all connections, whatever they do."""
        self.pool.terminate()

    async def connect(self) -> asyncpg.Connection:
        """A connection outside the pool: a migration of hours must not take one from the requests."""
        return await self._connect()

    def schema(self, tenant: str) -> str:
        """The name of a tenant's schema, e.g. `diku_mod_users`; it needs no quotes in SQL."""
        return f"{tenant}_{self.product.replace('-', '_')}"

    async def data_version(self, tenant: str) -> str | None:
        """The version that a tenant's data is at, e.g. `2.0.0`; None if no migration has ended yet."""
        schema = self.schema(tenant)
        if await self.pool.fetchval("SELECT to_regclass($1)", f"{schema}.meta") is None:
            return None
        version: str | None = await self.pool.fetchval(f"SELECT version FROM {schema}.meta")
        return version

    async def create_schema(self, tenant: str) -> None:
        """Create the schema with the tables that every version has; what is there stays."""
        schema = self.schema(tenant)
        async with self.pool.acquire() as connection:
            # CREATE IF NOT EXISTS fails if another session creates the same thing at the same moment. Locked outside
            # the transaction: one that began before the wait need not see what was created meanwhile. The pool unlocks.
            await connection.execute("SELECT pg_advisory_lock(1, hashtext($1))", schema)
            await connection.execute(
                f"""
                CREATE SCHEMA IF NOT EXISTS {schema};
                CREATE TABLE IF NOT EXISTS {schema}.meta (
                    one_row boolean PRIMARY KEY DEFAULT true CHECK (one_row),
                    version text NOT NULL
                );
                CREATE TABLE IF NOT EXISTS {schema}.migrations (
                    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                    version text NOT NULL,
                    ended timestamptz NOT NULL DEFAULT now()
                );
                CREATE TABLE IF NOT EXISTS {schema}.jobs (
                    id uuid PRIMARY KEY,
                    request jsonb NOT NULL,
                    complete boolean NOT NULL DEFAULT false,
                    progress int NOT NULL DEFAULT 0,
                    error text,
                    messages text[] NOT NULL DEFAULT '{{}}',
                    warnings text[] NOT NULL DEFAULT '{{}}'
                );
                """
            )

    async def drop_schema(self, tenant: str) -> None:
        """Remove all data of a tenant."""
        await self.pool.execute(f"DROP SCHEMA IF EXISTS {self.schema(tenant)} CASCADE")


__all__ = ["Database", "tenant_of"]
