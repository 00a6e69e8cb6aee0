"""Install jobs: the hand-off from the gateway to Temporal, and what people read afterwards."""

from collections.abc import Callable, Sequence
from typing import Any

import asyncpg

from gateway.store.database import Connection, Database
from gateway.store.registry import Conflict
from gateway.store.rows import JobRow
from upgrade_core.ids import product_of

_COLUMNS = (
    "id, tenant, request, plan, modules, state, started, abort_requested, status, outcome, phase, errors, warnings,"
    " held_seconds, start_date, end_date, run, resolution"
)


STILL_HELD = "StillHeld"
"""Type of the error that names the holds that a job left; it goes when they are settled."""
_NEVER_STARTED = {"message": "aborted before it started", "type": "Aborted", "code": "aborted", "parameters": []}
_RESOLVES = "0006_pre_resolve.sql"
"""The migration that gateways know which can tell a job's later runs from its first."""


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
                "update jobs set started = true, phase = case when phase = 'queued' then 'planned' else phase end"
                " where id = $1 and state <> 'ended'",
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
                "update jobs set abort_requested = true where id = $1 and state <> 'ended' returning state, started, errors", job
            )
            if row is not None and not row["started"]:
                await connection.execute(
                    "update jobs set state = 'ended', status = 'error', phase = 'ended', end_date = now(),"
                    " outcome = case when run is null then 'aborted' else 'rollback_failed' end,"
                    " errors = $2 where id = $1",
                    job, [*row["errors"], _NEVER_STARTED],
                )  # fmt: skip
            found = await connection.fetchrow(f"select {_COLUMNS} from jobs where id = $1", job)  # noqa: S608
        return None if found is None else _row(found)

    async def finish(
        self,
        job: str,
        *,
        outcome: str,
        errors: Sequence[dict[str, Any]],
        warnings: Sequence[dict[str, Any]],
        still_held: Callable[[list[str]], dict[str, Any]],
        run: str = "",
    ) -> JobRow | None:
        """End a job; what was told of it before is kept. An ended one stays as it is.

        Args:
            job: The job.
            outcome: What it came to; `rollback_failed` if a hold of it stands.
            errors: What went wrong. In the end of a job that is done they are warnings.
            warnings: What else is to be told.
            still_held: Makes the error that names holds that stand.
            run: The run that ends it; empty: whoever it is. One that was replaced by another ends nothing.

        Returns:
            The job as it ended; None if nothing was done.

        Raises:
            Conflict: Another run works on the job.
        """
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(
                "select tenant, errors, warnings, run from jobs where id = $1 and state <> 'ended' for update", job
            )
            if row is None:
                return None
            check_run(job, row["run"], run)
            left = await connection.fetch("select id from holds where job = $1 order by id", job)
            told, notes = [*row["errors"], *errors], [*row["warnings"], *warnings]
            if left:
                outcome = "rollback_failed"
                told.append(still_held([hold["id"] for hold in left]))
            if outcome.startswith("done"):
                told, notes = [], [*told, *notes]
                outcome = "done_with_warnings" if notes else outcome
            found = await connection.fetchrow(
                "update jobs set state = 'ended', status = $2, outcome = $3, phase = 'ended', end_date = now(), errors = $4,"  # noqa: S608
                f" warnings = $5 where id = $1 returning {_COLUMNS}",
                job, "done" if outcome.startswith("done") else "error", outcome, told, notes,
            )  # fmt: skip
            await _activate(connection, row["tenant"])
        assert found is not None
        return _row(found)

    async def add_warning(self, job: str, warning: dict[str, Any]) -> None:
        """Tell something more of a job."""
        async with self._database.transaction() as connection:
            told = await connection.fetchval("select warnings from jobs where id = $1 for update", job)
            await connection.execute("update jobs set warnings = $2 where id = $1", job, [*(told or ()), warning])

    async def reopen(
        self,
        job: str,
        *,
        decision: str,
        groups: Sequence[str],
        holds: Sequence[str],
        warning: dict[str, Any],
        run: Callable[[int], str],
    ) -> JobRow:
        """Let a new run take over an ended job, to settle what it left held. It is started like any other.

        Args:
            job: The job.
            decision: `old` or `new`.
            groups: Keys of the groups that are to be settled.
            holds: Ids of the holds that stood when it was decided.
            warning: Who decided what, for the job's warnings.
            run: Makes the run's id of its number.

        Raises:
            Conflict: The job is at work, another of the tenant is, or the holds are others by now. Nothing was changed.
        """
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(
                "select tenant, state, resolution, errors, warnings from jobs where id = $1 for update", job
            )
            if row is None or row["state"] != "ended":
                raise Conflict(f"job {job} is at work by now; look again")
            await connection.execute("select 1 from tenants where id = $1 for update", row["tenant"])
            standing = await connection.fetch("select id from holds where job = $1 order by id for update", job)
            if [hold["id"] for hold in standing] != sorted(holds):
                raise Conflict(f"what job {job} holds has changed a moment ago; look again")
            other = await connection.fetchval("select id from jobs where tenant = $1 and state = 'active'", row["tenant"])
            if other is not None:
                raise Conflict(
                    f"job {other} of tenant {row['tenant']} is at work: wait until it has ended, or abort it with DELETE"
                    f" /_/proxy/tenants/{row['tenant']}/install/{other}; then decide again"
                )
            if await connection.fetchval(
                'select exists (select from nodes where schema collate "C" < $1 and until > clock_timestamp())', _RESOLVES
            ):
                raise Conflict("a gateway of an older release still runs and would take the new run for lost; replace it first")
            number = ((row["resolution"] or {}).get("number") or 0) + 1
            resolution = {"decision": decision, "groups": list(groups), "number": number}
            errors = [error for error in row["errors"] if error.get("type") != STILL_HELD]
            found = await connection.fetchrow(
                "update jobs set state = 'active', started = false, abort_requested = false, status = 'running', outcome = null,"  # noqa: S608
                " phase = 'queued', end_date = null, run = $2, resolution = $3, errors = $4, warnings = $5"
                f" where id = $1 returning {_COLUMNS}",
                job, run(number), resolution, errors, [*row["warnings"], warning],
            )  # fmt: skip
            await connection.execute("update holds set left_behind = false where job = $1 and left_behind", job)
            await connection.execute("update snapshots set expires = null where job = $1", job)
        assert found is not None
        return _row(found)

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
    """As `JobStore.update_module`, within a transaction.

    A version in between (`via`) has no line of its own: the one that goes by it is told. That such a version is enabled does not
    end the line: then it is `reached`.
    """
    row = await connection.fetchrow("select modules, phase from jobs where id = $1 for update", job)
    if row is None:
        return
    modules: list[dict[str, Any]] = row["modules"]
    for line in modules:
        if line["id"] == module and line.get("action") != "uptodate":
            line.update({key: value for key, value in members.items() if value is not None})
        elif module in line.get("via", ()):
            reached = {"stage": "pending", "reached": module} if members.get("stage") == "done" else {}
            line.update({key: value for key, value in (members | reached).items() if value is not None})
    await connection.execute("update jobs set modules = $2, phase = $3 where id = $1", job, modules, phase or row["phase"])


async def take_back_outcome(connection: Connection, job: str, product: str) -> None:
    """Tenant init of a product was undone: a line that says that it went well says so no more. One that has ended stays."""
    modules: list[dict[str, Any]] = await connection.fetchval("select modules from jobs where id = $1 for update", job) or []
    for line in modules:
        of = product_of(line["id"]) == product and line.get("stage") != "done"
        if of and line.get("outcome") not in (None, "failed", "refused"):
            line["outcome"] = "undone"
    await connection.execute("update jobs set modules = $2 where id = $1", job, modules)


async def check_open(connection: Connection, job: str, *, run: str = "") -> None:
    """Lock a job's row for the transaction.

    Args:
        connection: The transaction's.
        job: The job.
        run: The run on whose behalf something is to be done; empty: it did not say.

    Raises:
        Conflict: The job has ended, or another run works on it: a run that was given up does nothing any more.
    """
    row = await connection.fetchrow("select state, run from jobs where id = $1 for update", job)
    if row is None or row["state"] == "ended":
        raise Conflict(f"job {job} has ended")
    check_run(job, row["run"], run)


def check_run(job: str, now: str | None, run: str) -> None:
    """Refuse what a run does that was replaced by another.

    Args:
        job: The job.
        now: The run that took it over; None: its first one, with the runs of its groups.
        run: The run that asks; empty: it did not say.

    Raises:
        Conflict: It was replaced.
    """
    if run and now is not None and run != now:
        raise Conflict(f"job {job} is settled by run {now} now: what run {run} still does comes too late")


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
