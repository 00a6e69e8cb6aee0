"""Instances of modules, claims on them, and their retirement."""

import contextlib
from collections.abc import AsyncIterator, Sequence

from gateway.store.database import Connection, Database
from gateway.store.jobs import check_open
from gateway.store.registry import Conflict, refuse_used
from gateway.store.rows import InstanceRow

DISCOVERY = "an operator, by discovery"
"""Who needs a version that was deployed by discovery."""


class InstanceStore:
    """Who runs where, and who needs it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, instance: InstanceRow, *, replace: bool) -> None:
        """Register an instance.

        Args:
            instance: The instance.
            replace: Whether one of the same id may be replaced (a deployer's restart), or is a duplicate.

        Raises:
            Conflict: `Duplicate instId X` (the same at the same address is fine), or the module is being retired.
        """
        async with self._database.transaction() as connection:
            if not replace and await is_retiring(connection, instance.module):
                raise Conflict(f"module {instance.module} is being retired; try again in a moment")
            done = await connection.execute(
                "insert into instances (id, module, url, node, generation, descriptor, announced)"  # noqa: S608
                " values ($1, $2, $3, $4, $5, $6::text::json, false) on conflict (id) do "
                + (
                    "update set url = excluded.url, node = excluded.node, generation = excluded.generation, seen = now()"
                    " where instances.module = excluded.module"
                    if replace
                    else "update set seen = now() where instances.node is null and (instances.module, instances.url)"
                    " = (excluded.module, excluded.url)"
                ),
                instance.id, instance.module, instance.url, instance.node, instance.generation, instance.descriptor,
            )  # fmt: skip
            if done.endswith(" 0"):
                raise Conflict(f"Duplicate instId {instance.id}")

    async def remove(self, instance: str, module: str) -> None:
        """Forget an instance of a module."""
        async with self._database.connection() as connection:
            await connection.execute("delete from instances where id = $1 and module = $2", instance, module)

    async def forget(self, instances: Sequence[tuple[str, str]]) -> None:
        """Forget instances (id, module), all or none.

        Raises:
            UsedByJob: A job needs one of the modules.
        """
        async with self._database.transaction() as connection:
            await refuse_used(connection, sorted({module for _, module in instances}), what="an instance of")
            await connection.executemany("delete from instances where id = $1 and module = $2", instances)

    @contextlib.asynccontextmanager
    async def newcomer(self) -> AsyncIterator[str | None]:
        """A module id whose instance was registered and not looked at yet; looked at when the block ends without an error."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(
                "select id, module from instances where not announced order by registered, id limit 1 for update skip locked"
            )
            yield None if row is None else row["module"]
            if row is not None:
                await connection.execute("update instances set announced = true where id = $1", row["id"])

    async def seen(self, instance: str, module: str) -> bool:
        """SEEN: an instance is well again, for every replica; False if it is not known."""
        async with self._database.connection() as connection:
            done = await connection.execute("update instances set seen = now() where id = $1 and module = $2", instance, module)
        return done.endswith(" 1")

    async def disconnect(self, instance: str, module: str) -> bool:
        """DISCONNECT: forget an instance; False if it is not known."""
        async with self._database.transaction() as connection:
            done = await connection.execute("delete from instances where id = $1 and module = $2", instance, module)
            await connection.execute("delete from quiet where subject = $1", f"instance:{instance}")
        return done.endswith(" 1")

    async def claim(self, module: str, job: str) -> None:
        """Say that a job needs an instance of a module version. Again is fine.

        Raises:
            Conflict: The version is being retired: ask again when it is gone. Or the job has ended.
        """
        async with self._database.transaction() as connection:
            await check_open(connection, job)
            await connection.execute("select 1 from modules where id = $1 for share", module)
            if await is_retiring(connection, module):
                raise Conflict(f"module {module} is being retired; try again in a moment")
            await connection.execute("insert into claims (module, job) values ($1, $2) on conflict do nothing", module, job)

    async def give_back(self, module: str, job: str) -> None:
        """The job needs it no more."""
        async with self._database.connection() as connection:
            await connection.execute("delete from claims where module = $1 and job = $2", module, job)

    async def needed_by(self, modules: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Who needs each of some versions: its tenants, the jobs with claims on it, and discovery; twenty of them at most."""
        async with self._database.connection() as connection:
            return await _needed_by(connection, modules)

    async def retire(self, module: str) -> tuple[str, ...]:
        """Mark a version as on its way out if nobody needs it: one transaction, in conflict with claims.

        Returns:
            Who needs it; empty if it is marked.
        """
        async with self._database.transaction() as connection:
            await connection.execute("select 1 from modules where id = $1 for update", module)
            needed = (await _needed_by(connection, [module]))[module]
            if not needed:
                marked = await connection.execute("insert into retirements (module) values ($1) on conflict do nothing", module)
                if marked.endswith(" 1"):
                    await connection.execute("delete from quiet where subject = $1", f"module:{module}")
                await connection.execute("delete from overlays where module = $1", module)
            return needed

    async def retired(self, module: str) -> bool:
        """It is gone: its deployed instances are forgotten and it may be claimed again. False: that was said before."""
        async with self._database.transaction() as connection:
            done = await connection.execute("delete from retirements where module = $1", module)
            if done.endswith(" 0"):  # what is there now came since
                return False
            await connection.execute("delete from instances where module = $1 and node is not null", module)
        return True


async def is_retiring(connection: Connection, module: str) -> bool:
    """Whether a version is on its way out."""
    return bool(await connection.fetchval("select true from retirements where module = $1", module))


async def _needed_by(connection: Connection, modules: Sequence[str]) -> dict[str, tuple[str, ...]]:
    rows = await connection.fetch(
        "select module, array(select 'tenant ' || tenant as who from bindings where bindings.module = wanted.module"
        " union all select 'job ' || job from claims where claims.module = wanted.module"
        " union all select $2 from deployments where deployments.module = wanted.module order by who limit 20) as who"
        " from unnest($1::text[]) as wanted (module)",
        modules, DISCOVERY,
    )  # fmt: skip
    return {row["module"]: tuple(row["who"]) for row in rows}
