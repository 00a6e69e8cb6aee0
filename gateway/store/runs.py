"""What runs leave in the gateway: intents, overlays, snapshots."""

from typing import Any

import asyncpg

from gateway.store.database import Database
from gateway.store.jobs import change_module, check_open
from gateway.store.moves import set_data_version
from gateway.store.registry import Conflict
from gateway.store.rows import IntentRow, OverlayRow, SnapshotRow

_INTENT = "key, job, tenant, product, module, instance, generation, state, job_path, asked, answer, since"
_OVERLAY = "token, job, tenant, product, module, state"
_SNAPSHOT = "id, job, tenant, product, module, node, dsn, schema, path, size, digest, existed, taken, expires"


class RunStore:
    """Rows of runs."""

    def __init__(self, database: Database) -> None:
        self._database = database

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
            attempt: Who is about to ask: what it wrote and has not asked yet is new to it, however often it says so.

        Returns:
            The intent that stands, and whether it is new: an old one means that the call may have been made.

        Raises:
            Conflict: Another tenant init of this tenant and product has not ended, or the job has.
        """
        try:
            async with self._database.transaction() as connection:
                await check_open(connection, job)
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
        """Say what version a tenant's data is at; None: there is none.

        Raises:
            Conflict: The job has ended: others may have changed the data since.
        """
        async with self._database.transaction() as connection:
            await check_open(connection, job)
            await set_data_version(connection, tenant, product, module)

    async def open_overlay(self, *, token: str, job: str, tenant: str, product: str, module: str) -> OverlayRow:
        """The overlay of a job's product; the first token stands.

        Raises:
            Conflict: The job has ended: nobody would close it.
        """
        async with self._database.transaction() as connection:
            await check_open(connection, job)
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
        """Record a copy; one of the same id is replaced."""
        async with self._database.connection() as connection:
            await connection.execute(
                "insert into snapshots (id, job, tenant, product, module, node, dsn, schema, path, size, digest, existed)"
                " values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) on conflict (id) do update"
                " set path = excluded.path, size = excluded.size, digest = excluded.digest, existed = excluded.existed",
                snapshot.id, snapshot.job, snapshot.tenant, snapshot.product, snapshot.module, snapshot.node, snapshot.dsn,
                snapshot.schema, snapshot.path, snapshot.size, snapshot.digest, snapshot.existed,
            )  # fmt: skip

    async def keep_snapshots(self, job: str, seconds: float) -> None:
        """Start the time that a job's copies are kept."""
        async with self._database.connection() as connection:
            await connection.execute(
                "update snapshots set expires = now() + make_interval(secs => $2) where job = $1 and expires is null",
                job,
                seconds,
            )

    async def snapshots(self, *, tenant: str | None = None, expired: bool = False) -> list[SnapshotRow]:
        """Copies, oldest first."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                f"select {_SNAPSHOT} from snapshots where ($1::text is null or tenant = $1)"  # noqa: S608
                " and (not $2 or expires < now()) order by taken, id",
                tenant, expired,
            )  # fmt: skip
        return [SnapshotRow(**dict(row)) for row in rows]

    async def remove_snapshot(self, snapshot: str) -> None:
        """Forget a copy."""
        async with self._database.connection() as connection:
            await connection.execute("delete from snapshots where id = $1", snapshot)


def _intent(row: asyncpg.Record) -> IntentRow:
    return IntentRow(**dict(row))
