"""What runs leave in the gateway: intents, overlays, snapshots."""

from collections.abc import Sequence
from typing import Any

import asyncpg

from gateway.store.database import Database
from gateway.store.jobs import change_module, check_open, take_back_outcome
from gateway.store.moves import set_data_version
from gateway.store.registry import Conflict
from gateway.store.rows import IntentRow, OverlayRow, SnapshotRow
from upgrade_core.known import Fact, OnRecord, tenant_of

_INTENT = "key, job, tenant, product, module, instance, generation, state, job_path, asked, answer, since"
_OVERLAY = "token, job, tenant, product, module, state"
_ON_RECORD = """
    select j.id is not null as job, coalesce(j.phase, '') as phase, coalesce(j.plan ->> 'digest', '') as plan,
        array(select module from claims where job = $1) as claims,
        array(select id from holds where id = any($2)) as holds,
        array(select id from opened_holds where id = any($2)) as opened,
        array(select id from snapshots where id = any($3)) as copies,
        array(select array[key, state] from intents where key = any($4)) as intents,
        array(select array[product, module] from bindings b where b.tenant = coalesce(j.tenant, $5)) as bindings,
        exists(select 1 from problems where key = $6 and resolved_at is null) as told
    from (select 1) one left join jobs j on j.id = $1
"""
_SNAPSHOT = "id, job, tenant, product, module, node, dsn, schema, path, size, digest, existed, taken, expires"


class RunStore:
    """Rows of runs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def on_record(self, job: str, facts: Sequence[Fact], *, problem: str) -> tuple[OnRecord, bool]:
        """What there is of what a run knows, in one statement.

        Args:
            job: The job.
            facts: What its run knows.
            problem: Key of the problem that tells of differences.

        Returns:
            What there is, and whether that problem stands.
        """
        keys = [fact.key for fact in facts]
        async with self._database.connection() as connection:
            row = await connection.fetchrow(_ON_RECORD, job, keys, keys, keys, tenant_of(facts), problem)
        assert row is not None
        found = OnRecord(
            job=row["job"],
            phase=row["phase"],
            plan=row["plan"],
            claims=frozenset(row["claims"]),
            holds=frozenset(row["holds"]),
            opened=frozenset(row["opened"]),
            copies=frozenset(row["copies"]),
            intents=dict(row["intents"]),
            bindings=dict(row["bindings"]),
        )
        return found, row["told"]

    async def begin_intent(
        self,
        *,
        key: str,
        job: str,
        tenant: str,
        product: str,
        subject: str,
        module: str,
        instance: str,
        generation: str | None,
        run: str = "",
        attempt: str = "",
    ) -> tuple[IntentRow, bool]:
        """Write an intent before tenant init is asked for.

        Args:
            key: Its key, the same for every attempt.
            job: The job.
            tenant: The tenant.
            product: The product.
            subject: The line of the job that it is about.
            module: Whose instance is asked.
            instance: Which is asked.
            generation: That instance's process.
            run: The run that asks; empty if it does not say.
            attempt: Who is about to ask: what it wrote and has not asked yet is new to it, however often it says so.

        Returns:
            The intent that stands, and whether it is new: an old one means that the call may have been made.

        Raises:
            Conflict: Another tenant init of this tenant and product has not ended, or the job has, or it has another run.
        """
        try:
            async with self._database.transaction() as connection:
                await check_open(connection, job, run=run)
                done = await connection.execute(
                    "insert into intents (key, job, tenant, product, module, instance, generation, state, answer)"
                    " values ($1, $2, $3, $4, $5, $6, $7, 'asked', $8) on conflict (key) do nothing",
                    key, job, tenant, product, module, instance, generation, {"attempt": attempt} if attempt else None,
                )  # fmt: skip
                row = await connection.fetchrow(f"select {_INTENT} from intents where key = $1", key)  # noqa: S608
                if done.endswith(" 1"):
                    undoing = await connection.fetchval("select phase = 'undoing' from jobs where id = $1", job)
                    await change_module(connection, job, subject, phase=None if undoing else "migrating")
        except asyncpg.UniqueViolationError as error:
            raise Conflict(f"tenant init of {product} for tenant {tenant} is still running") from error
        assert row is not None
        found = _intent(row)
        ours = bool(attempt) and found.answer == {"attempt": attempt}
        return found, ours or done.endswith(" 1")

    async def intents(self, job: str) -> list[IntentRow]:
        """The intents of a job, by key."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(f"select {_INTENT} from intents where job = $1 order by key", job)  # noqa: S608
        return [_intent(row) for row in rows]

    async def update_intent(
        self,
        key: str,
        *,
        state: str,
        job_path: str | None = None,
        answer: dict[str, Any] | None = None,
        asked_again: bool = False,
        instance: str | None = None,
        generation: str | None = None,
        data_version: str | None = None,
    ) -> bool | None:
        """What became of it; with a data version, the tenant's data is at it from now on.

        An ended one stays as it is, unless it is asked for again: a report that comes late says nothing of what was done since.

        Returns:
            Whether the report counts, be it for the second time; None if there is no such intent.
        """
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(f"select {_INTENT} from intents where key = $1 for update", key)  # noqa: S608
            if row is None:
                return None
            before = row["answer"] or {}
            known = asked_again and bool(before.get("attempt")) and before.get("attempt") == (answer or {}).get("attempt")
            if known or (row["state"] == "ended" and not asked_again):
                return known or before == answer
            await connection.execute(
                "update intents set state = $2, job_path = case when $5::bool then $3 else coalesce($3, job_path) end,"
                " answer = coalesce($4, answer), asked = asked + $5::bool::int, instance = coalesce($6, instance),"
                " generation = coalesce($7, generation), ended = case when $2 = 'ended' then now() end where key = $1",
                key, state, job_path, answer, asked_again, instance, generation,
            )  # fmt: skip
            if data_version is not None:
                await set_data_version(connection, row["tenant"], row["product"], data_version)
        return True

    async def set_data_version(self, job: str, tenant: str, product: str, module: str | None) -> None:
        """Put on record that a tenant's data was put back, and at which version it is; None: there is none.

        Raises:
            Conflict: The job has ended: others may have changed the data since.
        """
        async with self._database.transaction() as connection:
            await check_open(connection, job)
            await set_data_version(connection, tenant, product, module)
            await take_back_outcome(connection, job, product)

    async def open_overlay(self, *, token: str, job: str, tenant: str, product: str, module: str) -> OverlayRow:
        """The overlay of a job's product; the first token stands.

        What an earlier change of the product in this job has left is an alias that its version may use on. It stays, and this
        change gets one of its own.

        Raises:
            Conflict: The job has ended: nobody would close it.
        """
        async with self._database.transaction() as connection:
            await check_open(connection, job)
            await connection.execute(
                "update overlays set job = job || '/' || module where job = $1 and product = $2 and state = 'alias'"
                " and module <> $3",
                job, product, module,
            )  # fmt: skip
            await connection.execute(
                "insert into overlays (token, job, tenant, product, module, state) values ($1, $2, $3, $4, $5, 'open')"
                " on conflict (job, product) do nothing",
                token, job, tenant, product, module,
            )  # fmt: skip
            row = await connection.fetchrow(f"select {_OVERLAY} from overlays where job = $1 and product = $2", job, product)  # noqa: S608
        assert row is not None
        return OverlayRow(**dict(row))

    async def close_overlay(self, *, job: str, product: str) -> str | None:
        """Nothing new goes through an overlay; its token, or None if there is none."""
        async with self._database.connection() as connection:
            found: str | None = await connection.fetchval(
                "update overlays set state = 'closing' where job = $1 and product = $2 returning token", job, product
            )
        return found

    async def forget_overlay(self, token: str) -> None:
        """Forget an overlay under which nothing is at work any more."""
        async with self._database.connection() as connection:
            await connection.execute("delete from overlays where token = $1", token)

    async def add_snapshot(self, snapshot: SnapshotRow) -> None:
        """Record a copy; one of the same id is replaced, but never a whole one by one that is only begun (without a digest).

        One that comes after the end of its job is not kept.
        """
        async with self._database.connection() as connection:
            await connection.execute(
                "insert into snapshots"
                " (id, job, tenant, product, module, node, dsn, schema, path, size, digest, existed, expires)"
                " values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12,"
                " (select now() from jobs where id = $2 and state = 'ended')) on conflict (id) do update"
                " set path = excluded.path, size = excluded.size, digest = excluded.digest, existed = excluded.existed"
                " where excluded.digest <> '' or not excluded.existed",
                snapshot.id, snapshot.job, snapshot.tenant, snapshot.product, snapshot.module, snapshot.node, snapshot.dsn,
                snapshot.schema, snapshot.path, snapshot.size, snapshot.digest, snapshot.existed,
            )  # fmt: skip

    async def keep_snapshots(self, job: str, seconds: float) -> None:
        """Start the time that a job's copies are kept; what was only begun is of no use to anybody."""
        async with self._database.connection() as connection:
            await connection.execute(
                "update snapshots set"
                " expires = now() + make_interval(secs => case when existed and digest = '' then 0 else $2::float8 end)"
                " where job = $1 and expires is null",
                job,
                seconds,
            )

    async def snapshots(self, *, tenant: str | None = None, expired: bool = False) -> list[SnapshotRow]:
        """Copies, oldest first. One whose job still holds its tenant does not expire: it may be what the tenant goes back to."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                f"select {_SNAPSHOT} from snapshots s where ($1::text is null or tenant = $1) and (not $2 or (expires < now()"  # noqa: S608
                " and not exists (select from holds h where h.job = s.job))) order by taken, id",
                tenant, expired,
            )  # fmt: skip
        return [SnapshotRow(**dict(row)) for row in rows]

    async def remove_snapshot(self, snapshot: str) -> None:
        """Forget a copy."""
        async with self._database.connection() as connection:
            await connection.execute("delete from snapshots where id = $1", snapshot)


def _intent(row: asyncpg.Record) -> IntentRow:
    return IntentRow(**dict(row))
