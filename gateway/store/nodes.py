"""Replicas: who is there, for how long they may route, how far they have followed, and who went without a word."""

from dataclasses import dataclass

from gateway.store.database import Connection, Database

_JOIN_LOCK = 0x55504C49_4654_0003
_AHEAD = "renewed > clock_timestamp() + interval '1 second'"
"""Of a row of `nodes`: the clock was set back since; less than that are its small corrections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A replica whose lease runs.

    Attributes:
        name: Its name.
        generation: Names the very process.
        applied: The epoch that its routing table has reached.
        silent: Seconds since it was heard of.
    """

    name: str
    generation: str
    applied: int
    silent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Quiet:
    """Whether anything may still be at work on a subject.

    Attributes:
        busy: Names of the replicas that have not said that nothing of theirs is.
        loose: Seconds until what replicas had sent that are gone counts as over; 0 if there is none.
    """

    busy: tuple[str, ...] = ()
    loose: float = 0.0

    @property
    def reached(self) -> bool:
        """Nothing is."""
        return not self.busy and self.loose <= 0


class NodeStore:
    """Rows of replicas."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def join(self, *, name: str, generation: str, lease: float, settle: float, replaces: str = "") -> None:
        """Be one of the replicas. What a dead process of the same name had sent stays loose for `settle` seconds.

        Raises:
            Outdated: The database was migrated beyond this release.
        """
        migrations = self._database.migrations
        async with self._database.transaction() as connection:
            await migrations.admit(connection)
            await connection.execute("select pg_advisory_xact_lock($1)", _JOIN_LOCK)
            await _bury(connection, "name in ($1, $2) and generation <> $3", settle, name, replaces or name, generation)
            await connection.execute(
                "insert into nodes (name, generation, schema, until)"
                " values ($1, $2, $4, clock_timestamp() + make_interval(secs => $3))"
                " on conflict (name) do update set applied = -1, loaded = null, renewed = clock_timestamp(),"
                " until = excluded.until, schema = excluded.schema",
                name, generation, lease, migrations.newest,
            )  # fmt: skip
            await connection.execute("delete from ghosts where generation = $1", generation)
            await connection.execute("select pg_notify('uplift_nodes', $1)", name)

    async def renew(self, connection: Connection, *, generation: str, lease: float, applied: int) -> int | None:
        """Renew a lease that still runs.

        Returns:
            The epoch of the database; None if the lease had run out, another process has taken the name, or the database's clock
            was set: see `set_clock_right`.
        """
        epoch: int | None = await connection.fetchval(
            "update nodes set renewed = clock_timestamp(), until = clock_timestamp() + make_interval(secs => $2),"  # noqa: S608
            " applied = greatest(applied, $3), loaded = coalesce(loaded, $3)"  # it is told on another connection, too
            " where generation = $1 and until > clock_timestamp() and not " + _AHEAD + " returning (select epoch from routing)",
            generation, lease, applied,
        )  # fmt: skip
        return epoch

    async def set_clock_right(self, connection: Connection, *, generation: str, settle: float) -> float | None:
        """Count all times anew after the database's clock was set; call it while one's own lease runs by one's own clock.

        Then a row that says that the lease ended, or was renewed in the future, is a matter of the clock. Every lease begins
        anew with its own length, so that nobody is counted as gone who may yet route; what was loose is so for `settle` seconds;
        what was put off is due. A replica that is gone is waited for as if it had gone now.

        Returns:
            By how many seconds the clock was set, about; 0 if another replica has seen to it, or it was not set; None if our row
            is gone.
        """
        async with connection.transaction():
            await connection.execute("select pg_advisory_xact_lock($1)", _JOIN_LOCK)
            found = await connection.fetchrow(
                "select extract(epoch from clock_timestamp() - renewed)::float8 as since,"  # noqa: S608
                f" until <= clock_timestamp() or {_AHEAD} as odd from nodes where generation = $1",
                generation,
            )
            if found is None:
                return None
            if not found["odd"]:
                return 0.0
            await connection.execute(
                "update nodes set until = clock_timestamp() + (until - renewed), renewed = clock_timestamp()"  # noqa: S608
                f" where until <= clock_timestamp() or {_AHEAD}"
            )
            await connection.execute("update ghosts set until = clock_timestamp() + make_interval(secs => $1)", settle)
            await connection.execute(
                "update outbox set due = least(due, now()),"
                " claimed_until = case when claimed_until is not null then least(claimed_until, now() + interval '1 minute') end"
            )
            await connection.execute("update problem_looks set looked = least(looked, clock_timestamp())")
        return float(found["since"])

    async def holder_of(self, name: str) -> str | None:
        """The generation that has a name now and whose lease runs: a restored database names processes of long ago."""
        async with self._database.connection() as connection:
            found: str | None = await connection.fetchval(
                "select generation from nodes where name = $1 and until > clock_timestamp()", name
            )
        return found

    async def set_applied(self, generation: str, epoch: int) -> None:
        """Tell the others how far this replica has followed."""
        async with self._database.connection() as connection:
            await connection.execute(
                "with mine as (update nodes set applied = $2, loaded = coalesce(loaded, $2) where generation = $1 returning 1)"
                " select pg_notify('uplift_nodes', '') from mine",
                generation, epoch,
            )  # fmt: skip

    async def leave(self, *, generation: str, loose: float) -> None:
        """Give the lease back.

        Args:
            generation: Who leaves.
            loose: Seconds that what it had sent may still be at work; 0 if all of it was answered.
        """
        async with self._database.transaction() as connection:
            if loose > 0:
                await _bury(connection, "generation = $1", loose, generation)
            await connection.execute("delete from nodes where generation = $1", generation)
            await connection.execute("select pg_notify('uplift_nodes', '')")

    async def living(self) -> list[Node]:
        """The replicas whose leases run."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                "select name, generation, applied, extract(epoch from clock_timestamp() - renewed)::float8 as silent"
                " from nodes where until > clock_timestamp() order by name"
            )
        return [Node(**dict(row)) for row in rows]

    async def say_quiet(self, subject: str, generation: str) -> None:
        """Nothing of this replica is at work on a subject any more."""
        async with self._database.connection() as connection:
            await connection.execute(
                "with said as (insert into quiet (subject, generation) values ($1, $2) on conflict do nothing returning 1)"
                " select pg_notify('uplift_nodes', '') from said",
                subject, generation,
            )  # fmt: skip

    async def is_quiet(self, subject: str, *, settle: float) -> Quiet:
        """Whether anything of any replica may still be at work on a subject."""
        async with self._database.transaction() as connection:
            return await is_quiet(connection, subject, settle=settle)

    async def forget_old(self) -> None:
        """Drop what nobody waits for any more."""
        async with self._database.transaction() as connection:
            await connection.execute("delete from ghosts where until < clock_timestamp()")
            await connection.execute(
                "delete from quiet where at < now() - interval '1 day' and subject not in (select 'hold:' || id from holds)"
            )
            await connection.execute(  # those of a job are what proves to its run that it opened them
                "delete from opened_holds where at < now() - interval '1 day'"
                " and holder not in (select 'job ' || id from jobs where state <> 'ended')"
            )


async def is_quiet(connection: Connection, subject: str, *, settle: float) -> Quiet:
    """As `NodeStore.is_quiet`, within a transaction."""
    if not await connection.fetchval("select exists (select from nodes where until > clock_timestamp())"):
        # not even the lease of the one who asks: the database's clock was set, and nobody is counted as gone by that
        return Quiet(busy=("all replicas, whose leases are renewed in a moment",))
    await _bury(connection, "until <= clock_timestamp()", settle)
    busy = await connection.fetch(
        "select name from nodes n where not exists (select 1 from quiet q where q.subject = $1 and q.generation = n.generation)"
        " and not coalesce(n.loaded >= (select max(epoch) from changes c where c.kind = 'instance' and c.a = $2), false)"
        " order by name",
        subject,
        subject.removeprefix("instance:") if subject.startswith("instance:") else None,  # else each of them says it itself
    )
    loose = await connection.fetchval(
        "select coalesce(max(extract(epoch from until - clock_timestamp())), 0)::float8 from ghosts"
        " where until > clock_timestamp()"
    )
    return Quiet(busy=tuple(row["name"] for row in busy), loose=loose)


async def _bury(connection: Connection, which: str, settle: float, *arguments: str) -> None:
    """Replicas that went without a word become ghosts: from now on, but at the latest from the end of their lease."""
    seconds = f"${len(arguments) + 1}"
    await connection.execute(
        f"with gone as (delete from nodes where {which} returning name, generation, until)"  # noqa: S608
        " insert into ghosts (generation, name, until)"
        f" select generation, name, least(until, clock_timestamp()) + make_interval(secs => {seconds}) from gone"
        " on conflict (generation) do update set until = greatest(ghosts.until, excluded.until)",
        *arguments, settle,
    )  # fmt: skip
