"""Modules, tenants, bindings, data versions, environment."""

import json
from collections.abc import Sequence

import asyncpg

from gateway.store.database import Connection, Database
from gateway.store.rows import TenantRow
from upgrade_core.descriptors import INTERNAL
from upgrade_core.ids import SUPERTENANT, ModuleId

_BUILT_IN_LOCK = 0x55504C49_4654_0004


class Conflict(Exception):
    """The rows forbid it; the message names what is in the way. Nothing was changed."""


class UsedByJob(Conflict):
    """A job that has not ended is at work with it; the message names the job."""


class RegistryStore:
    """What is registered and what each tenant has."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_modules(self, modules: list[tuple[str, str, str]]) -> None:
        """Register (id, product, descriptor JSON), all or none.

        Raises:
            Conflict: Somebody registered another descriptor under one of the ids a moment ago.
        """
        async with self._database.transaction() as connection:
            await connection.executemany(
                "insert into modules (id, product, descriptor) values ($1, $2, $3) on conflict (id) do nothing", sorted(modules)
            )
            rows = await connection.fetch("select id, descriptor from modules where id = any($1)", [each[0] for each in modules])
            there = {row["id"]: json.loads(row["descriptor"]) for row in rows}
            for module, _, text in modules:
                if there[module] != json.loads(text):
                    raise Conflict(f"create: module {module} already exists")

    async def remove_module(self, module: str) -> None:
        """Forget a module.

        Raises:
            UsedByJob: A job needs it.
            Conflict: Something else still refers to it.
        """
        try:
            async with self._database.transaction() as connection:
                await refuse_used(connection, [module], what="delete: module")
                await connection.execute("delete from modules where id = $1", module)
        except asyncpg.ForeignKeyViolationError as error:
            raise Conflict(f"delete: module {module} is used by {error.table_name}") from error

    async def put_built_in(self, module: str, product: str, text: str) -> None:
        """Have the gateway's own module registered, and enabled at this version or a higher one for those who have it.

        The supertenant has it always. Where it is registered for the first time all tenants get it: those that are there already
        could call the routes that it stands for. Nothing is written if it is all so.
        """
        version = ModuleId.parse(module)
        async with self._database.transaction() as connection:
            await connection.execute("select pg_advisory_xact_lock($1)", _BUILT_IN_LOCK)
            known = await connection.fetchval(
                "select exists (select 1 from modules where product = $1 and descriptor like $2)", product, f'%"{INTERNAL}"%'
            )  # others of its product may be registered by clients, who cannot register that type of interface
            await connection.execute(
                "insert into modules (id, product, descriptor) values ($1, $2, $3) on conflict (id)"
                " do update set descriptor = excluded.descriptor where modules.descriptor <> excluded.descriptor",
                module, product, text,
            )  # fmt: skip
            bound = await connection.fetch("select tenant, module from bindings where product = $1", product)
            behind = [row["tenant"] for row in bound if ModuleId.parse(row["module"]) < version]
            await connection.execute(
                "update bindings set module = $1 where product = $2 and tenant = any($3)", module, product, behind
            )
            await connection.execute(
                "update data_versions set module = $1 where product = $2 and tenant = any($3)", module, product, behind
            )
            await connection.execute(
                "insert into bindings (tenant, product, module) select id, $2, $1 from tenants where id = $3 or not $4"
                " on conflict do nothing",
                module, product, SUPERTENANT, known,
            )  # fmt: skip

    async def add_tenant(self, tenant: TenantRow) -> bool:
        """Create a tenant; False if its id is taken."""
        async with self._database.connection() as connection:
            done = await connection.execute(
                "insert into tenants (id, name, description) values ($1, $2, $3) on conflict (id) do nothing",
                tenant.id, tenant.name, tenant.description,
            )  # fmt: skip
        return done.endswith(" 1")

    async def put_tenant(self, tenant: TenantRow) -> None:
        """Create or change a tenant."""
        async with self._database.connection() as connection:
            await connection.execute(
                "insert into tenants (id, name, description) values ($1, $2, $3)"
                " on conflict (id) do update set name = excluded.name, description = excluded.description",
                tenant.id, tenant.name, tenant.description,
            )  # fmt: skip

    async def set_routing(self, tenant: str, routing: str) -> bool:
        """Say whether a tenant follows the newest version; False if there is no such tenant."""
        async with self._database.transaction() as connection:
            done = await connection.execute("update tenants set routing = $2 where id = $1", tenant, routing)
            if routing == "newest":  # what is there already counts as new for this tenant
                await connection.execute(
                    "update instances set announced = false where module in (select m.id from modules m"
                    " join bindings b on b.product = m.product and b.module <> m.id where b.tenant = $1)",
                    tenant,
                )
        return done.endswith(" 1")

    async def remove_tenant(self, tenant: str) -> None:
        """Forget a tenant with its bindings, ended jobs and prefixes.

        Raises:
            Conflict: It has a hold or a job that has not ended.
        """
        async with self._database.transaction() as connection:
            await connection.execute(
                "select 1 from tenants where id = $1 for update", tenant
            )  # nobody begins to hold it meanwhile
            open_job = await connection.fetchval("select id from jobs where tenant = $1 and state <> 'ended' limit 1", tenant)
            hold = await connection.fetchval("select id from holds where tenant = $1 limit 1", tenant)
            if open_job or hold:
                raise Conflict(f"tenant {tenant} is in use by {'job ' + open_job if open_job else 'hold ' + hold}")
            await connection.execute("delete from data_versions where tenant = $1", tenant)
            await connection.execute("delete from overlays where tenant = $1", tenant)
            await connection.execute("delete from tenants where id = $1", tenant)

    async def data_versions(self, tenant: str) -> dict[str, str]:
        """Product to the module id that the tenant's data is at."""
        async with self._database.connection() as connection:
            rows = await connection.fetch("select product, module from data_versions where tenant = $1", tenant)
        return {row["product"]: row["module"] for row in rows}

    async def environment(self) -> list[tuple[str, str, str | None]]:
        """All (name, value, description) by name."""
        async with self._database.connection() as connection:
            rows = await connection.fetch("select name, value, description from environment order by name")
        return [(row["name"], row["value"], row["description"]) for row in rows]

    async def put_environment(self, name: str, value: str, description: str | None) -> None:
        """Set a variable of every instance that is deployed from now on."""
        async with self._database.connection() as connection:
            await connection.execute(
                "insert into environment (name, value, description) values ($1, $2, $3) on conflict (name)"
                " do update set value = excluded.value, description = excluded.description",
                name, value, description,
            )  # fmt: skip

    async def remove_environment(self, name: str) -> bool:
        """Forget a variable; False if there is none."""
        async with self._database.connection() as connection:
            return (await connection.execute("delete from environment where name = $1", name)).endswith(" 1")


async def refuse_used(connection: Connection, modules: Sequence[str], *, what: str) -> None:
    """Lock modules for the transaction, so that no job begins to need one, and refuse if a job does.

    A job needs what its lines name, what these replace, and what its plan goes by.

    Args:
        connection: The transaction's.
        modules: Module ids.
        what: What is not done, for the refusal; the module's id follows.

    Raises:
        UsedByJob: A job that has not ended needs one.
    """
    await connection.execute("select 1 from modules where id = any($1) order by id for update", list(modules))
    row = await connection.fetchrow(
        "select j.id, j.tenant, used.module from jobs j cross join lateral ("
        "select line ->> 'id' as module from json_array_elements(j.modules) line"
        " union all select line ->> 'from' from json_array_elements(j.modules) line"
        " union all select unnest(array[change ->> 'version_to', change ->> 'version_from', change ->> 'bound'])"
        " from json_array_elements(j.plan -> 'groups') part, json_array_elements(part -> 'changes') change"
        ") used where j.state <> 'ended' and used.module = any($1) order by j.position, used.module limit 1",
        list(modules),
    )
    if row is not None:
        raise UsedByJob(f"{what} {row['module']} is used by job {row['id']} of tenant {row['tenant']}")
