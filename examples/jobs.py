"""Tenant-init jobs: migrations in the background, with a row each in the tenant's own schema.

So any instance can answer for a job, and one whose instance died stays incomplete for ever: nothing takes it up again.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from examples.database import Database
from examples.migrations import MigrationFailed, Progress

_LOOK_AGAIN = 0.2  # seconds between looks at a job that another instance runs
Work = Callable[[Progress], Awaitable[tuple[str, ...]]]
"""A migration to do: told where to report its progress, returns warnings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job's row.

    Attributes:
        request: The request's body, as it was sent.
        complete: Whether it has ended; success is complete without an error.
        progress: Percent.
        error: Why it failed.
        messages: What belongs to the error.
    """

    id: UUID
    request: dict[str, Any]
    complete: bool
    progress: int
    error: str | None
    messages: tuple[str, ...]
    warnings: tuple[str, ...]


class Jobs:
    """The jobs of all tenants' schemas; runs those that were started here."""

    def __init__(self, *, database: Database) -> None:
        self._database = database
        self._here: dict[UUID, asyncio.Task[None]] = {}
        self._closing = False

    async def start(self, tenant: str, request: dict[str, Any], work: Work) -> Job:
        """Record a job, then run it in the background. The schema must be there."""
        job_id = uuid4()
        await self._database.pool.execute(
            f"INSERT INTO {self._table(tenant)} (id, request) VALUES ($1, $2)", job_id, json.dumps(request)
        )
        task = asyncio.create_task(self._run(tenant, job_id, work))
        self._here[job_id] = task
        task.add_done_callback(lambda _: self._here.pop(job_id, None))
        return Job(id=job_id, request=request, complete=False, progress=0, error=None, messages=(), warnings=())

    async def find(self, tenant: str, job_id: UUID, *, wait: float = 0) -> Job | None:
        """A job, or None.

        Args:
            tenant: Whose job.
            job_id: Which.
            wait: Seconds to wait for its end at most.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while True:
            job = await self._read(tenant, job_id)
            left = deadline - loop.time()
            if job is None or job.complete or left <= 0 or self._closing:
                return job
            if (task := self._here.get(job_id)) is not None:
                await asyncio.wait({task}, timeout=left)
            else:
                await asyncio.sleep(min(left, _LOOK_AGAIN))

    async def remove(self, tenant: str, job_id: UUID) -> bool:
        """Remove a job's row; a job that runs goes on unseen. Tells whether there was one."""
        if not await self._has_table(tenant):
            return False
        done: str = await self._database.pool.execute(f"DELETE FROM {self._table(tenant)} WHERE id = $1", job_id)
        return done != "DELETE 0"

    async def close(self) -> None:
        """Break off what runs here; the rows stay incomplete."""
        self._closing = True
        tasks = list(self._here.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, tenant: str, job_id: UUID, work: Work) -> None:
        table = self._table(tenant)

        async def report(percent: int) -> None:
            await self._database.pool.execute(f"UPDATE {table} SET progress = $2 WHERE id = $1", job_id, percent)

        error: str | None = None
        messages: tuple[str, ...] = ()
        warnings: tuple[str, ...] = ()
        try:
            warnings = await work(report)
        except MigrationFailed as failure:
            error, messages = str(failure), failure.messages
        except Exception as failure:  # whatever it is, whoever polls must hear of it
            logging.getLogger(__name__).exception("job %s", job_id)
            error = f"{type(failure).__name__}: {failure}"
        while not await self._record_end(job_id, table, error, messages, warnings):
            await asyncio.sleep(_LOOK_AGAIN)

    async def _record_end(
        self, job_id: UUID, table: str, error: str | None, messages: tuple[str, ...], warnings: tuple[str, ...]
    ) -> bool:
        """Whether there is no more to do: while the database is away, whoever polls would wait for ever."""
        try:
            await self._database.pool.execute(
                f"UPDATE {table} SET complete = true, progress = CASE WHEN $2::text IS NULL THEN 100 ELSE progress END, "
                "error = $2, messages = $3, warnings = $4 WHERE id = $1",
                job_id,
                error,
                list(messages),
                list(warnings),
            )
        except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
            return True  # the tenant's data was purged, and with it the row
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as failure:
            logging.getLogger(__name__).warning("the end of job %s is recorded later: %r", job_id, failure)
            return self._closing
        return True

    async def _read(self, tenant: str, job_id: UUID) -> Job | None:
        if not await self._has_table(tenant):
            return None
        row = await self._database.pool.fetchrow(f"SELECT * FROM {self._table(tenant)} WHERE id = $1", job_id)
        if row is None:
            return None
        return Job(
            id=row["id"],
            request=json.loads(row["request"]),
            complete=row["complete"],
            progress=row["progress"],
            error=row["error"],
            messages=tuple(row["messages"]),
            warnings=tuple(row["warnings"]),
        )

    async def _has_table(self, tenant: str) -> bool:
        return await self._database.pool.fetchval("SELECT to_regclass($1)", self._table(tenant)) is not None

    def _table(self, tenant: str) -> str:
        return f"{self._database.schema(tenant)}.jobs"


__all__ = ["Job", "Jobs", "Work"]
