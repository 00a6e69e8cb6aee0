"""Runs migrations: in committed batches, so that one that breaks off leaves the schema half changed, as real ones do."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from examples.database import Database
from examples.releases import Change, Fault, Module, Release, UnknownVersion, path, version_key

_LEAST_BATCHES = 10  # a schema with few rows can be left half changed too

Progress = Callable[[int], Awaitable[None]]


class MigrationFailed(Exception):
    """The migration failed and has not rolled back. Restore a copy, or correct the module and ask again.

    Attributes:
        messages: What went wrong, a sentence each.
    """

    def __init__(self, text: str, *, messages: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.messages = messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast rows are rewritten.

    Attributes:
        seconds: How long each rewriting change takes at least, whatever the number of rows; 0: as fast as possible.
        rows: Most rows in a batch.
    """

    seconds: float = 0.0
    rows: int = 1000

    @classmethod
    def read(cls, parameters: Mapping[str, str], environ: Mapping[str, str]) -> "Pace":
        """From tenant parameters, else the environment.

        Raises:
            ValueError: A text is no number.
        """
        return cls(
            seconds=float(parameters.get("migrationSeconds") or environ.get("MIGRATION_SECONDS") or 0),
            rows=max(1, int(parameters.get("migrationBatch") or environ.get("MIGRATION_BATCH") or 1000)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """A migration that is known to be possible.

    Attributes:
        target: The version that it leads to.
        changes: What to do, never empty.
        fresh: Whether there was no data before.
        same: Whether the data is at the wanted version and was said to be.
    """

    target: str
    changes: tuple[Change, ...]
    fresh: bool
    same: bool


class Migrator:
    """Migrates the tenants' schemas of one module, as its release `version` knows how."""

    def __init__(self, *, database: Database, module: Module[Release], version: str) -> None:
        self._database = database
        self._module = module
        own = version_key(version)
        self._known = {known: release for known, release in module.releases.items() if release.order <= own}

    async def plan(self, tenant: str, *, source: str | None, target: str) -> Migration:
        """What leads from one version to another. Changes nothing.

        Args:
            tenant: Whose data.
            source: The version that the caller believes the data is at; None: the data itself says.
            target: The wanted version.

        Raises:
            UnknownVersion: This release does not know how, or the data is not at `source`.
        """
        found = await self._database.data_version(tenant)
        wanted = self._release(target)
        if source is not None and found is None:
            raise UnknownVersion(f"tenant {tenant} has no data of {self._module.product}-{source}")
        start = source or found
        held = self._release(start) if start else None
        # At the target already: a migration whose answer was lost, or one to undo that broke off.
        if found not in (None, start, target):
            raise UnknownVersion(f"the data of tenant {tenant} is at {found}, not at {start}")
        return Migration(target=target, changes=path(held, wanted), fresh=found is None, same=start == found == target)

    async def run(self, tenant: str, migration: Migration, *, pace: Pace, progress: Progress) -> tuple[str, ...]:
        """Carry out a migration; another one of the same tenant is waited for.

        Args:
            tenant: Whose data.
            migration: What `plan` gave.
            pace: How fast.
            progress: Told the percentage as it grows.

        Returns:
            Warnings.

        Raises:
            MigrationFailed: As the release is made to; the schema is half changed.
        """
        schema = self._database.schema(tenant)
        connection = await self._database.connect()
        warnings: list[str] = []
        try:
            await connection.execute("SELECT pg_advisory_lock(2, hashtext($1))", schema)
            for position, change in enumerate(migration.changes):
                last = position == len(migration.changes) - 1
                run = _Run(connection=connection, schema=schema, table=self._module.table, pace=pace)

                async def overall(percent: int, done: int = position) -> None:
                    await progress((100 * done + percent) // len(migration.changes))

                warnings += await run.make(change, overall, reached=migration.target if last else None)
        finally:
            connection.terminate()
        return tuple(warnings)

    def _release(self, version: str) -> Release:
        release = self._known.get(version)
        if release is None:
            raise UnknownVersion(f"{self._module.product}-{version} is not known, known are {', '.join(self._known)}")
        return release


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """One change on one schema."""

    connection: asyncpg.Connection
    schema: str
    table: str
    pace: Pace

    async def make(self, change: Change, progress: Progress, *, reached: str | None) -> list[str]:
        warnings = list[str]()
        needed = not change.uses_up or await self._has_column(change.uses_up)
        if needed:
            await self._execute(change.prepare)
            if change.fault is Fault.HANG:
                await asyncio.Event().wait()
            if change.assign:
                await self._rewrite(change, progress)
        async with self.connection.transaction():
            if needed:
                if change.assign:
                    await self.connection.execute(f"LOCK TABLE {self.schema}.{self.table}")
                    await self.connection.execute(f"UPDATE {self.schema}.{self.table} SET {change.assign} WHERE {change.rows}")
                await self._execute(change.finish)
                if change.doubtful:
                    number = await self.connection.fetchval(
                        f"SELECT count(*) FROM {self.schema}.{self.table} WHERE {change.doubtful}"
                    )
                    warnings += [f"{number} {change.doubt}"] if number else []
            if reached:
                # One row for each that took effect: it is there if and only if the data is as it left it.
                await self.connection.execute(
                    f"INSERT INTO {self.schema}.migrations (version) SELECT $1::text "
                    f"WHERE NOT EXISTS (SELECT FROM {self.schema}.meta WHERE version = $1::text)",
                    reached,
                )
                await self.connection.execute(
                    f"INSERT INTO {self.schema}.meta (version) VALUES ($1) "
                    "ON CONFLICT (one_row) DO UPDATE SET version = excluded.version",
                    reached,
                )
        return warnings

    async def _rewrite(self, change: Change, progress: Progress) -> None:
        table = f"{self.schema}.{self.table}"
        total: int = await self.connection.fetchval(f"SELECT count(*) FROM {table} WHERE {change.rows}")
        batches = max(_LEAST_BATCHES, math.ceil(total / self.pace.rows))
        size = math.ceil(total / batches)
        last, told = UUID(int=0), 0
        for batch in range(1, batches + 1):
            changed = await self.connection.fetch(
                f"UPDATE {table} SET {change.assign} WHERE id IN (SELECT id FROM {table} "
                f"WHERE id > $1 AND ({change.rows}) ORDER BY id LIMIT $2) RETURNING id",
                last,
                size,
            )
            last = max((row["id"] for row in changed), default=last)
            if (percent := 100 * batch // batches) > told:
                told = percent
                await progress(percent)
            await asyncio.sleep(self.pace.seconds / batches)
            if change.fault is Fault.HALF and batch >= batches // 2:
                logging.getLogger(__name__).warning("%s is left half changed, on purpose", self.schema)
                raise MigrationFailed(
                    f"the migration failed after {batch} of {batches} batches",
                    messages=(f"ERROR: could not convert the rows of {table} after {last}", "Nothing was rolled back"),
                )

    async def _has_column(self, column: str) -> bool:
        return bool(
            await self.connection.fetchval(
                "SELECT count(*) FROM information_schema.columns "
                "WHERE table_schema = $1 AND table_name = $2 AND column_name = $3",
                self.schema,
                self.table,
                column,
            )
        )

    async def _execute(self, sql: str) -> None:
        if sql:
            await self.connection.execute(sql.replace("{schema}", self.schema))


__all__ = ["Migration", "MigrationFailed", "Migrator", "Pace"]
