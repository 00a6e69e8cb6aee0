"""What runs leave in the gateway: holds, switches, intents, overlays, snapshots."""

from dataclasses import dataclass
from typing import Any

import asyncpg

from gateway.store.database import Connection, Database
from gateway.store.jobs import change_module, check_open
from gateway.store.registry import Conflict
from gateway.store.rows import HoldRow, IntentRow, OverlayRow, SnapshotRow

_HOLD = "id, job, tenant, product, state, reason, since, until"
_INTENT = "key, job, tenant, product, module, instance, generation, state, job_path, asked, answer, since"
_OVERLAY = "token, job, tenant, product, module, state"
_SNAPSHOT = "id, job, tenant, product, module, node, dsn, schema, path, size, digest, existed, taken, expires"


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What a switch or a RESUME does to one product of a tenant.

    Attributes:
        module: The module id to bind; None to unbind; ignored unless `bind`.
        bind: Whether the binding changes.
        purged: Whether its data is gone, so that its data version is forgotten.
        subject: The line of the job that it is about.
    """

    product: str
    subject: str
    bind: bool = False
    module: str | None = None
    purged: bool = False


class RunStore:
    """Rows of runs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def holds(self) -> list[HoldRow]:
        """All holds."""
        async with self._database.connection() as connection:
            return [_hold(row) for row in await connection.fetch(f"select {_HOLD} from holds")]  # noqa: S608

    async def set_holds(self, *, job: str, tenant: str, holds: list[tuple[str, str, str]], reason: str) -> list[HoldRow]:
        """Set (id, product, the job's line) holds, all or none; those that stand already under their id stay as they are.

        Raises:
            Conflict: Somebody else holds one of the products, and its name; or the job has ended.
        """
        async with self._database.transaction() as connection:
            await check_open(connection, job)
            await connection.execute("select 1 from tenants where id = $1 for update", tenant)
            for hold_id, product, subject in holds:
                found = await connection.fetchrow(
                    "select id, job from holds where tenant = $1 and product = $2 for update", tenant, product
                )
                if found is not None and found["id"] != hold_id:
                    raise Conflict(f"{product} of tenant {tenant} is held by {found['job'] or found['id']}")
                if found is None:
                    await connection.execute(
                        "insert into holds (id, job, tenant, product, state, reason) values ($1, $2, $3, $4, 'DRAINING', $5)",
                        hold_id, job, tenant, product, reason,
                    )  # fmt: skip
                await change_module(connection, job, subject, phase="updating", stage="invoke")
            rows = await connection.fetch(f"select {_HOLD} from holds where id = any($1)", [hold[0] for hold in holds])  # noqa: S608
        return [_hold(row) for row in rows]

    async def set_held(self, hold_id: str) -> None:
        """DRAINING → HELD."""
        async with self._database.connection() as connection:
            await connection.execute("update holds set state = 'HELD' where id = $1", hold_id)

    async def open_holds(self, *, job: str, tenant: str, hold_ids: list[str], moves: list[Move], stage: str) -> float:
        """RESUME, with the switch of the bindings where asked for: one transaction. Again is fine.

        Args:
            job: The job.
            tenant: The tenant.
            hold_ids: The holds to remove, by their ids.
            moves: What happens to the bindings.
            stage: Stage of the job's lines from now on.

        Returns:
            Seconds that the holds stood.
        """
        async with self._database.transaction() as connection:
            for move in moves:
                await _move(connection, job, tenant, move)
                await change_module(connection, job, move.subject, phase="watching" if move.bind else None, stage=stage)
            seconds = await connection.fetchval(
                "with gone as (delete from holds where id = any($1) returning since)"
                " select coalesce(max(extract(epoch from clock_timestamp() - since)), 0)::float8 from gone",
                hold_ids,
            )
            await connection.execute("update jobs set held_seconds = held_seconds + $2 where id = $1", job, seconds)
        return float(seconds)

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
    ) -> tuple[IntentRow, bool]:
        """Write an intent before tenant init is asked for.

        Returns:
            The intent that stands, and whether it is new: an old one means that the call may have been made.

        Raises:
            Conflict: Another tenant init of this tenant and product has not ended, or the job has.
        """
        try:
            async with self._database.transaction() as connection:
                await check_open(connection, job)
                done = await connection.execute(
                    "insert into intents (key, job, tenant, product, module, instance, generation, state)"
                    " values ($1, $2, $3, $4, $5, $6, $7, 'asked') on conflict (key) do nothing",
                    key, job, tenant, product, module, instance, generation,
                )  # fmt: skip
                row = await connection.fetchrow(f"select {_INTENT} from intents where key = $1", key)  # noqa: S608
                if done.endswith(" 1"):
                    await change_module(connection, job, subject, phase="migrating")
        except asyncpg.UniqueViolationError as error:
            raise Conflict(f"tenant init of {product} for tenant {tenant} is still running") from error
        assert row is not None
        return _intent(row), done.endswith(" 1")

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
    ) -> IntentRow | None:
        """What became of it; with a data version, the tenant's data is at it from now on."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(
                f"update intents set state = $2, job_path = coalesce($3, job_path), answer = coalesce($4, answer),"  # noqa: S608
                " asked = asked + $5, instance = coalesce($6, instance), generation = coalesce($7, generation),"
                f" ended = case when $2 = 'ended' then now() end where key = $1 returning {_INTENT}",
                key, state, job_path, answer, int(asked_again), instance, generation,
            )  # fmt: skip
            if row is not None and data_version is not None:
                await set_data_version(connection, row["tenant"], row["product"], data_version)
        return None if row is None else _intent(row)

    async def set_data_version(self, tenant: str, product: str, module: str | None) -> None:
        """Say what version a tenant's data is at; None: there is none."""
        async with self._database.connection() as connection:
            await set_data_version(connection, tenant, product, module)

    async def overlays(self) -> list[OverlayRow]:
        """All overlays."""
        async with self._database.connection() as connection:
            return [OverlayRow(**dict(row)) for row in await connection.fetch(f"select {_OVERLAY} from overlays")]  # noqa: S608

    async def open_overlay(self, *, token: str, job: str, tenant: str, product: str, module: str) -> OverlayRow:
        """The overlay of a job's product; the first token stands."""
        async with self._database.transaction() as connection:
            await connection.execute(
                "insert into overlays (token, job, tenant, product, module, state) values ($1, $2, $3, $4, $5, 'open')"
                " on conflict (job, product) do nothing",
                token, job, tenant, product, module,
            )  # fmt: skip
            row = await connection.fetchrow(f"select {_OVERLAY} from overlays where job = $1 and product = $2", job, product)  # noqa: S608
        assert row is not None
        return OverlayRow(**dict(row))

    async def close_overlay(self, *, job: str, product: str) -> None:
        """Forget an overlay."""
        async with self._database.connection() as connection:
            await connection.execute("delete from overlays where job = $1 and product = $2", job, product)

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


async def set_data_version(connection: Connection, tenant: str, product: str, module: str | None) -> None:
    """As `RunStore.set_data_version`, within a transaction."""
    if module is None:
        await connection.execute("delete from data_versions where tenant = $1 and product = $2", tenant, product)
    else:
        await connection.execute(
            "insert into data_versions (tenant, product, module) values ($1, $2, $3)"
            " on conflict (tenant, product) do update set module = excluded.module",
            tenant, product, module,
        )  # fmt: skip


async def _move(connection: Connection, job: str, tenant: str, move: Move) -> None:
    if move.purged:
        await set_data_version(connection, tenant, move.product, None)
    if not move.bind:
        return
    if move.module is None:
        await connection.execute("delete from bindings where tenant = $1 and product = $2", tenant, move.product)
    else:
        await connection.execute(
            "insert into bindings (tenant, product, module) values ($1, $2, $3)"
            " on conflict (tenant, product) do update set module = excluded.module",
            tenant, move.product, move.module,
        )  # fmt: skip
    await connection.execute("update overlays set state = 'alias' where job = $1 and product = $2", job, move.product)


def _hold(row: asyncpg.Record) -> HoldRow:
    return HoldRow(**dict(row))


def _intent(row: asyncpg.Record) -> IntentRow:
    return IntentRow(**dict(row))
