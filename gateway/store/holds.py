"""Holds: who holds which link, and that they may begin. A hold is a row before its UPDATE is answered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import asyncpg

from gateway.store.database import Connection, Database
from gateway.store.jobs import change_module, check_open
from gateway.store.moves import Move, make_move
from gateway.store.nodes import Quiet, is_quiet
from gateway.store.outbox import Message, add_messages
from gateway.store.registry import Conflict
from gateway.store.rows import EVERY_TENANT, HoldRow

_NAMED = 5  # holds that an error names
_COLUMNS = "id, job, tenant, product, state, reason, since, until, holder, grace, origin"


class HeldByAnother(Conflict):
    """The link is held by somebody else, or the signal does not fit its state. Nothing was changed.

    Attributes:
        hold: The hold that stands; None: the link is open.
    """

    def __init__(self, text: str, hold: HoldRow | None) -> None:
        super().__init__(text)
        self.hold = hold


@dataclass(frozen=True, slots=True, kw_only=True)
class NewHold:
    """A hold to be set.

    Attributes:
        id: Its id; the same again is the same hold.
        tenant: The tenant, or `*` for all.
        product: The product.
        subject: The line of the job that it is about; empty without a job.
    """

    id: str
    tenant: str
    product: str
    subject: str = ""


class HoldStore:
    """Rows of holds."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def set(
        self,
        holds: list[NewHold],
        *,
        holder: str,
        job: str | None,
        reason: str,
        grace: float,
        ttl: float | None,
        origin: str,
        messages: Mapping[str, Sequence[Message]],
        run: str = "",
    ) -> list[HoldRow]:
        """Set holds, all or none; those that stand already under their id stay as they are.

        Args:
            holds: What to hold.
            holder: Who may open them.
            job: The job that they belong to, if any.
            reason: Why, for people.
            grace: Seconds that old requests get.
            ttl: Seconds after which nothing is promised any more; None: no end.
            origin: The replica that was asked.
            messages: Who is told, by the hold's id, when it is new.
            run: The run that asks; empty: it did not say.

        Raises:
            HeldByAnother: Somebody else holds one of the products.
            Conflict: The job has ended, another run works on it, or the id was used before.
        """
        try:
            return await self._set(
                holds, holder=holder, job=job, reason=reason, grace=grace, ttl=ttl, origin=origin, messages=messages, run=run
            )
        except asyncpg.UniqueViolationError as error:  # of another product, a moment ago
            raise Conflict(
                f"a hold of that id was set a moment ago on something else; a new UPDATE needs a new id: {error}"
            ) from error

    async def _set(
        self,
        holds: list[NewHold],
        *,
        holder: str,
        job: str | None,
        reason: str,
        grace: float,
        ttl: float | None,
        origin: str,
        messages: Mapping[str, Sequence[Message]],
        run: str,
    ) -> list[HoldRow]:
        async with self._database.transaction() as connection:
            if job is not None:
                await check_open(connection, job, run=run)
            for product in sorted({hold.product for hold in holds}):
                await connection.execute("select pg_advisory_xact_lock(hashtextextended('hold ' || $1, 0))", product)
            for hold in holds:
                if hold.tenant != EVERY_TENANT and not await connection.fetchval(
                    "select true from tenants where id = $1 for key share", hold.tenant
                ):
                    raise Conflict(f"tenant {hold.tenant} was removed a moment ago")
                if await _stands(connection, hold, holder) is None:
                    await connection.execute(
                        "insert into holds (id, job, tenant, product, state, reason, until, holder, grace, origin) values"
                        " ($1, $2, $3, $4, 'DRAINING', $5, now() + make_interval(secs => $6::float8), $7, $8, $9)",
                        hold.id, job, hold.tenant, hold.product, reason, ttl, holder, grace, origin,
                    )  # fmt: skip
                    await add_messages(connection, messages.get(hold.id, ()))
                if job is not None and hold.subject:
                    await change_module(connection, job, hold.subject, phase="updating", stage="invoke")
            rows = await connection.fetch(
                f"select {_COLUMNS} from holds where id = any($1) order by tenant, product",  # noqa: S608
                [hold.id for hold in holds],
            )
        return [_row(row) for row in rows]

    async def get(self, hold: str) -> HoldRow | None:
        """One hold; None if it is open or never was."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(f"select {_COLUMNS} from holds where id = $1", hold)  # noqa: S608
        return None if row is None else _row(row)

    async def try_held(self, hold: str, *, settle: float) -> Quiet | None:
        """DRAINED: DRAINING → HELD if nothing of any replica is at work any more.

        Returns:
            What is still at work; quiet if the hold is HELD now, None if it is not DRAINING any more.
        """
        async with self._database.transaction() as connection:
            state = await connection.fetchval("select state from holds where id = $1 for update", hold)
            if state != "DRAINING":
                return None
            found = await is_quiet(connection, f"hold:{hold}", settle=settle)
            if found.reached and await connection.fetchval(
                "select true from outbox where subject = $1 and kind = 'push' and (expires is null or expires > now()) limit 1",
                hold,
            ):
                found = Quiet(busy=("the module that is told",))
            if found.reached:
                await connection.execute("update holds set state = 'HELD' where id = $1", hold)
                await connection.execute("delete from quiet where subject = $1", f"hold:{hold}")
            return found

    async def take_back_quiet(self, hold: str, generation: str) -> bool:
        """This replica lets a late part of old work through: False if the hold is not DRAINING any more, so that it must not."""
        async with self._database.transaction() as connection:
            state = await connection.fetchval("select state from holds where id = $1 for update", hold)
            if state != "DRAINING":
                return False
            await connection.execute("delete from quiet where subject = $1 and generation = $2", f"hold:{hold}", generation)
        return True

    async def of_job(self, job: str) -> list[HoldRow]:
        """The holds of a job that stand, by id."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(f"select {_COLUMNS} from holds where job = $1 order by id", job)  # noqa: S608
        return [_row(row) for row in rows]

    async def set_left_behind(self, hold: str) -> bool:
        """The run that would open a hold is gone, while its job goes on; False if that was known, or the hold is open."""
        async with self._database.connection() as connection:
            done = await connection.execute("update holds set left_behind = true where id = $1 and not left_behind", hold)
        return bool(done.endswith(" 1"))

    async def open(
        self,
        *,
        job: str,
        tenant: str,
        hold_ids: list[str],
        moves: list[Move],
        stage: str,
        messages: Sequence[Message],
        run: str = "",
    ) -> dict[str, float]:
        """RESUME by a job, with the switch of the bindings where asked for: one transaction. Again is fine.

        Args:
            job: The job.
            tenant: The tenant.
            hold_ids: The holds to remove, by their ids.
            moves: What happens to the bindings.
            stage: Stage of the job's lines from now on.
            messages: Who is told.
            run: The run that asks; empty: an operator does, or a worker that does not say.

        Returns:
            The holds that were removed, and the seconds that they stood.

        Raises:
            Conflict: Another run settles the job now, or a run switches whose job has ended: it was given up.
        """
        async with self._database.transaction() as connection:
            await _check_may_open(connection, job, tenant, hold_ids, moves, run)
            for move in moves:
                await make_move(connection, job, tenant, move)
                await change_module(connection, job, move.subject, phase="watching" if move.bind else None, stage=stage)
            rows = await connection.fetch(
                "with gone as (delete from holds where id = any($1) returning id, since)"
                " select id, extract(epoch from clock_timestamp() - since)::float8 as seconds from gone",
                hold_ids,
            )
            stood = {row["id"]: float(row["seconds"]) for row in rows}
            # What proves it to the run; and an UPDATE of the step that comes late, since its sender gave it up, holds nothing.
            await connection.execute(
                "insert into opened_holds (id, holder) select id, $2 from unnest($1::text[]) id on conflict (id) do nothing",
                hold_ids, f"job {job}",
            )  # fmt: skip
            await _tell_resumed(connection, hold_ids, messages)
            await connection.execute(
                "update jobs set held_seconds = held_seconds + $2 where id = $1", job, max(stood.values(), default=0.0)
            )
        return stood

    async def resume(
        self, hold: str, *, product: str, holder: str, override: bool, messages: Sequence[Message]
    ) -> Literal["opened", "before"]:
        """RESUME by a module or an operator.

        Args:
            hold: The hold's id.
            product: The product that the signal names.
            holder: Who sends it.
            override: Whether they may open what somebody else holds.
            messages: Who is told.

        Raises:
            HeldByAnother: It is not theirs, or there was none.
        """
        async with self._database.transaction() as connection:
            found = await connection.fetchrow(f"select {_COLUMNS} from holds where id = $1 for update", hold)  # noqa: S608
            if found is None:
                before = await connection.fetchval("select holder from opened_holds where id = $1", hold)
                if before is not None and (before == holder or override):
                    return "before"
                standing = await connection.fetch(
                    f"select {_COLUMNS} from holds where product = $1 order by since",  # noqa: S608
                    product,
                )
                if not standing:
                    raise HeldByAnother(f"RESUME is not allowed while {product} is OPEN: there is no hold {hold}", None)
                rows = [_row(each) for each in standing]
                named = ", ".join(f"{each.id} ({each.state} by {each.holder})" for each in rows[:_NAMED])
                raise HeldByAnother(f"RESUME is not allowed: there is no hold {hold}; those on {product} are {named}", rows[0])
            row = _row(found)
            if row.product != product or (row.holder != holder and not override):
                raise HeldByAnother(
                    f"RESUME is not allowed: hold {hold} on {row.product} is {row.state} by {row.holder}, who alone opens it", row
                )
            if row.job is not None and await connection.fetchval("select state <> 'ended' from jobs where id = $1", row.job):
                raise HeldByAnother(
                    f"hold {hold} belongs to job {row.job}, which is at work: abort it, and it opens the hold", row
                )
            await connection.execute("delete from holds where id = $1", hold)
            await _tell_resumed(connection, [hold], messages)
            await connection.execute("insert into opened_holds (id, holder) values ($1, $2)", hold, row.holder)
        return "opened"


async def _check_may_open(
    connection: Connection, job: str, tenant: str, hold_ids: list[str], moves: list[Move], run: str
) -> None:
    """Lock the job's row and refuse a run that was given up: it must not switch what a person has decided about meanwhile.

    Such a run may still undo, as long as nobody has; a switch that it made before is answered again as it was.

    Raises:
        Conflict: It was given up.
    """
    row = await connection.fetchrow("select state, run from jobs where id = $1 for update", job)
    if row is None:
        return
    if row["run"] is not None and run != row["run"] and (run or row["state"] != "ended"):
        raise Conflict(f"job {job} is settled by run {row['run']} now: what anybody else does comes too late, or too early")
    if row["state"] != "ended" or not any(move.bind for move in moves):
        return
    if await connection.fetchval("select true from holds where id = any($1) limit 1", hold_ids):
        if not run:
            return  # a person clears up by hand
        raise Conflict(f"job {job} has ended without this switch: uplift resolve {job}")
    for move in moves:
        bound = await connection.fetchval("select module from bindings where tenant = $1 and product = $2", tenant, move.product)
        if move.bind and bound != move.module:
            raise Conflict(f"job {job} has ended without this switch")


async def _tell_resumed(connection: Connection, holds: Sequence[str], messages: Sequence[Message]) -> None:
    """What was not told of the holds yet is not told any more: it must not arrive after the RESUME."""
    await connection.execute(
        "delete from outbox where kind = 'push' and payload -> 'body' ->> 'delay' = any($1)",
        [f"/_/lifecycle/delays/{hold}" for hold in holds],
    )
    await add_messages(connection, messages)


async def _stands(connection: Connection, hold: NewHold, holder: str) -> HoldRow | None:
    """The hold if it stands already under its id.

    Raises:
        HeldByAnother: Somebody else's is in the way.
        Conflict: The id was used before.
    """
    rows = await connection.fetch(
        f"select {_COLUMNS} from holds where id = $1 or (product = $3 and (tenant = $2 or tenant = $4 or $2 = $4))"  # noqa: S608
        " order by id = $1 desc, since for update",
        hold.id, hold.tenant, hold.product, EVERY_TENANT,
    )  # fmt: skip
    for found in map(_row, rows):
        if found.id != hold.id or (found.tenant, found.product, found.holder) != (hold.tenant, hold.product, holder):
            whose = "every tenant" if found.tenant == EVERY_TENANT else f"tenant {found.tenant}"
            raise HeldByAnother(
                f"UPDATE is not allowed: {found.product} of {whose} is {found.state}, held by {found.holder}", found
            )
        return found
    if await connection.fetchval("select true from opened_holds where id = $1", hold.id):
        raise Conflict(f"hold {hold.id} was opened before; a new UPDATE needs a new id")
    return None


def _row(row: asyncpg.Record) -> HoldRow:
    return HoldRow(**dict(row))
