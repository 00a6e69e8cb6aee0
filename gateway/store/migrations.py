"""Migrations in pairs: `NNNN_pre_name.sql` before this release runs, `NNNN_post_name.sql` when no older replica lives.

A *pre* migration leaves every older release working: it only adds. A *post* migration takes away what only older releases use. So
replicas of two releases work side by side while one replaces the other, in either direction, until the first post migration.

* At start, all pre migrations that are missing are applied, by their numbers, under one lock.
* When every living replica says (`nodes.schema`) that it knows a post migration, whichever notices applies it, under the lock. A
  replica joins under that lock too, so none can come in between.
* A release that does not know an applied *pre* migration may start: going back must be possible. Unless it has one of its own
  that is not applied: then the two are not one line of releases, and the order would be made up.
* A release that does not know an applied *post* migration is refused, at start and each time that it joins.

Each file has a number of its own. A post migration may be applied after pre ones with higher numbers: these must not need it.
"""

from importlib import resources
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING

from gateway.store.errors import Outdated

if TYPE_CHECKING:
    from gateway.store.database import Connection

_LOCK = 0x55504C49_4654_0001
_LOCK_WAIT = "2s"
"""How long a post migration waits for tables that are in use; it is tried again, and nobody queues behind it for long."""


class Migrations:
    """What one release knows of the schema.

    Args:
        folder: Where its migrations are.
    """

    def __init__(self, folder: Traversable | None = None) -> None:
        self._folder = folder or resources.files("gateway") / "sql"
        self._names = sorted(entry.name for entry in self._folder.iterdir() if entry.name.endswith(".sql"))

    @property
    def newest(self) -> str:
        """Name of the newest one: says which of them are known."""
        return self._names[-1]

    async def before(self, connection: "Connection") -> None:
        """Apply the pre migrations that are missing, each in a transaction.

        Raises:
            Outdated: The database is too new for this release.
        """
        await connection.execute("select pg_advisory_lock($1)", _LOCK)
        try:
            await connection.execute(
                "create table if not exists migrations (name text primary key, applied timestamptz not null default now())"
            )
            applied = await self._applied(connection)
            for name in self._names:
                if name not in applied and not _is_post(name):
                    async with connection.transaction():
                        await self._apply(connection, name)
        finally:
            await connection.execute("select pg_advisory_unlock($1)", _LOCK)

    async def admit(self, connection: "Connection") -> None:
        """Look again whether this release may join; nothing is migrated until the transaction ends.

        Raises:
            Outdated: It may not any more.
        """
        await connection.execute("select pg_advisory_xact_lock_shared($1)", _LOCK)
        await self._applied(connection)

    async def after(self, connection: "Connection") -> tuple[str, ...]:
        """Apply the first post migration that is missing, if every replica knows it; in a transaction.

        Returns:
            The post migrations that are still missing.
        """
        if not await self._missing(connection):
            return ()
        if not await connection.fetchval("select pg_try_advisory_xact_lock($1)", _LOCK):
            return await self._missing(connection)
        missing = await self._missing(connection)
        # A replica whose lease ran out may come back: then it joins anew, and is refused if this release went on without it.
        if missing and not await connection.fetchval(
            'select exists (select from nodes where schema collate "C" < $1 and until > clock_timestamp())', missing[0]
        ):
            await connection.execute(f"set local lock_timeout = '{_LOCK_WAIT}'")
            await self._apply(connection, missing[0])
            return missing[1:]
        return missing

    async def _apply(self, connection: "Connection", name: str) -> None:
        await connection.execute((self._folder / name).read_text(encoding="utf-8"))
        await connection.execute("insert into migrations (name) values ($1)", name)

    async def _missing(self, connection: "Connection") -> tuple[str, ...]:
        applied = await self._applied(connection)
        return tuple(name for name in self._names if _is_post(name) and name not in applied)

    async def _applied(self, connection: "Connection") -> set[str]:
        """Names of what is applied.

        Raises:
            Outdated: This release may not run on it.
        """
        applied = {row["name"] for row in await connection.fetch("select name from migrations")}
        unknown = sorted(applied - set(self._names))
        if taken := [name for name in unknown if _is_post(name)]:
            raise Outdated(f"the database was migrated by a newer gateway ({taken[-1]}); run that version or a newer one")
        ours = [name for name in self._names if name not in applied and not _is_post(name)]
        if unknown and ours:
            raise Outdated(
                f"the database was migrated by another line of gateways ({unknown[-1]} is applied, {ours[0]} is not); run a"
                " gateway that has both"
            )
        return applied


def _is_post(name: str) -> bool:
    return name.partition("_")[2].startswith("post_")
