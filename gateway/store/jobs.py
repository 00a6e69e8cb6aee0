"""Install jobs: the hand-off from the gateway to Temporal, and what people read afterwards."""

from typing import Any

import asyncpg

from gateway.store.database import Connection, Database
from gateway.store.registry import Conflict
from gateway.store.rows import JobRow

_COLUMNS = (
    "id, tenant, request, plan, modules, state, started, abort_requested, status, outcome, phase, errors, warnings,"
    " held_seconds, start_date, end_date"
)


class JobStore:
    """Rows of jobs. A row is committed before its run starts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, *, job: str, tenant: str, request: dict[str, Any], modules: list[dict[str, Any]]) -> None:
        """A new job, queued behind the tenant's others."""
        async with self._database.transaction() as connection:
            await connection.execute(
                "insert into jobs (id, tenant, request, modules, state) values ($1, $2, $3, $4, 'queued')",
                job, tenant, request, modules,
            )  # fmt: skip
            await _activate(connection, tenant)

    async def get(self, job: str) -> JobRow | None:
        """One job."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(f"select {_COLUMNS} from jobs where id = $1", job)  # noqa: S608
        return None if row is None else _row(row)

    async def of_tenant(self, tenant: str) -> list[JobRow]:
        """A tenant's jobs, oldest first."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(f"select {_COLUMNS} from jobs where tenant = $1 order by position", tenant)  # noqa: S608
        return [_row(row) for row in rows]

    async def open(self) -> list[JobRow]:
        """All jobs that have not ended, oldest first."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(f"select {_COLUMNS} from jobs where state <> 'ended' order by position")  # noqa: S608
        return [_row(row) for row in rows]

    async def to_start(self) -> list[JobRow]:
        """Jobs whose turn it is and whose run was never started; makes the next of each idle tenant's queue take its turn."""
        async with self._database.transaction() as connection:
            idle = await connection.fetch(
                "select distinct tenant from jobs q where state = 'queued'"
                " and not exists (select 1 from jobs a where a.tenant = q.tenant and a.state = 'active')"
            )
            for row in idle:
                await _activate(connection, row["tenant"])
            rows = await connection.fetch(
                f"select {_COLUMNS} from jobs where state = 'active' and not started order by position"  # noqa: S608
            )
        return [_row(row) for row in rows]

    async def set_started(self, job: str) -> None:
        """Its run is at Temporal: from now on a missing run is a lost one."""
        async with self._database.connection() as connection:
            await connection.execute(
                "update jobs set started = true, phase = case when phase = 'queued' then 'planned' else phase end where id = $1",
                job,
            )

    async def set_plan(self, job: str, plan: dict[str, Any], modules: list[dict[str, Any]]) -> dict[str, Any]:
        """Fix the plan of a job, unless it has one; returns the one that holds.

        Raises:
            Conflict: The job has ended: it was aborted in the moment in which its run was started.
        """
        async with self._database.transaction() as connection:
            row = await connection.fetchrow("select plan from jobs where id = $1 for update", job)
            if row is not None and row["plan"] is not None:
                found: dict[str, Any] = row["plan"]
                return found
            await check_open(connection, job)
            await connection.execute(
                "update jobs set plan = $2, modules = $3, phase = 'planned' where id = $1", job, plan, modules
            )
        return plan

    async def update_module(self, job: str, module: str, *, phase: str | None = None, **members: Any) -> None:
        """Change members of one module's line, and the job's phase. The record of a job that has ended stays as it is."""
        async with self._database.transaction() as connection:
            if await connection.fetchval("select state from jobs where id = $1 for update", job) == "ended":
                return
            await change_module(connection, job, module, phase=phase, **members)

    async def request_abort(self, job: str) -> JobRow | None:
        """Ask for an abort. A job whose run was never started ends at once; None if there is no such job."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(
                "update jobs set abort_requested = true where id = $1 and state <> 'ended' returning state, started", job
            )
            if row is not None and not row["started"]:
                await connection.execute(
                    "update jobs set state = 'ended', status = 'error', outcome = 'aborted', phase = 'ended', end_date = now(),"
                    " errors = $2 where id = $1",
                    job, [{"message": "aborted before it started", "type": "Aborted", "code": "aborted", "parameters": []}],
                )  # fmt: skip
            found = await connection.fetchrow(f"select {_COLUMNS} from jobs where id = $1", job)  # noqa: S608
        return None if found is None else _row(found)

    async def finish(
        self, job: str, *, status: str, outcome: str, errors: list[dict[str, Any]], warnings: list[dict[str, Any]]
    ) -> None:
        """End a job; an ended one stays as it is."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(
                "update jobs set state = 'ended', status = $2, outcome = $3, phase = 'ended', end_date = now(), errors = $4,"
                " warnings = $5 where id = $1 and state <> 'ended' returning tenant",
                job, status, outcome, errors, warnings,
            )  # fmt: skip
            if row is not None:
                await _activate(connection, row["tenant"])

    async def remove(self, job: str) -> None:
        """Remove the record of an ended job."""
        async with self._database.connection() as connection:
            await connection.execute("delete from jobs where id = $1 and state = 'ended'", job)

    async def remove_ended(self, tenant: str) -> None:
        """Remove the records of a tenant's ended jobs."""
        async with self._database.connection() as connection:
            await connection.execute(
                "delete from jobs j where tenant = $1 and state = 'ended'"
                " and not exists (select 1 from holds h where h.job = j.id)",
                tenant,
            )


async def change_module(connection: Connection, job: str, module: str, *, phase: str | None = None, **members: Any) -> None:
    """As `JobStore.update_module`, within a transaction."""
    row = await connection.fetchrow("select modules, phase from jobs where id = $1 for update", job)
    if row is None:
        return
    modules: list[dict[str, Any]] = row["modules"]
    for line in modules:
        if line["id"] == module and line.get("action") != "uptodate":
            line.update({key: value for key, value in members.items() if value is not None})
    await connection.execute("update jobs set modules = $2, phase = $3 where id = $1", job, modules, phase or row["phase"])


async def check_open(connection: Connection, job: str) -> None:
    """Lock a job's row for the transaction.

    Raises:
        Conflict: The job has ended: a run that was given up does nothing any more.
    """
    if await connection.fetchval("select state from jobs where id = $1 for update", job) in (None, "ended"):
        raise Conflict(f"job {job} has ended")


async def _activate(connection: Connection, tenant: str) -> None:
    """Let the oldest queued job of a tenant take its turn if none has it."""
    await connection.execute("select 1 from tenants where id = $1 for update", tenant)
    await connection.execute(
        "update jobs set state = 'active' where id = (select id from jobs where tenant = $1 and state = 'queued'"
        " order by position limit 1) and not exists (select 1 from jobs where tenant = $1 and state = 'active')",
        tenant,
    )


def _row(row: asyncpg.Record) -> JobRow:
    return JobRow(**dict(row))
