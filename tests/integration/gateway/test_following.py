"""Following the rows: whatever was written in whatever order, each replica ends with the table that a fresh one would load."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.holds import Holds
from gateway.platform import Platform
from gateway.problems import Problems
from gateway.store import Conflict, Database, DatabaseError, InstanceRow, Move, NewHold, TenantRow
from gateway.store.moves import make_move
from uplift_settings.tree import GatewaySettings

TENANTS = ("t1", "t2")
PRODUCTS = ("a", "b")
MODULES = tuple(f"{product}-{version}.0.0" for product in PRODUCTS for version in (1, 2))
TABLES = "overlays, holds, opened_holds, retirements, claims, instances, bindings, data_versions, tenants, modules, quiet"


class Replica:
    """A replica without a socket or a lease: what follows the rows."""

    def __init__(self, database: Database) -> None:
        self.platform = Platform(
            database=database, settings=GatewaySettings(settle=0), url="", ui_url="", namespace="default", node="n"
        )
        self.holds = Holds(self.platform, Problems(self.platform))

    def picture(self) -> dict[str, Any]:
        """All that routing depends on."""
        table = self.platform.table
        return {
            "modules": table.texts,
            "known": {module: found.id for module, found in table.modules.items()},
            "tenants": table.tenants,
            "bindings": {tenant: bound for tenant, bound in table.bindings.items() if bound},
            "instances": {module: sorted(rows, key=lambda row: row.id) for module, rows in table.instances.items()},
            "overlays": {token: route.row for token, route in table.overlays.items()},
            "retiring": table.retiring,
            "holds": {
                (link.tenant, link.product): (link.row, link.hold)
                for link in table.all_links()
                if link.row or link.hold != "OPEN"
            },
            "links": {(link.tenant, link.product): link.module for link in table.links() if link.module},
            "stars": set(table.stars),
            "routes": {
                (tenant, path): (found.module, found.product)
                for tenant in table.tenants
                for path in ("/a", "/b", "/a/other", "/b/other")
                if (found := table.match(tenant, "GET", path))
            },
        }


async def carry_out(replica: Replica, operation: tuple[str, int, int, int]) -> None:
    """One write, as the admin API makes it; what the rows forbid is refused."""
    what, one, two, three = operation
    platform = replica.platform
    tenant, module, product = TENANTS[one % 2], MODULES[two % 4], PRODUCTS[two % 2]
    match what:
        case "module":
            other = "/other" if three % 2 else ""
            handlers = [{"methods": ["*"], "pathPattern": f"/{module[0]}{other}", "permissionsRequired": []}]
            text = json.dumps({"id": module, "provides": [{"id": module[0], "version": "1.0", "handlers": handlers}]})
            await platform.registry.add_modules([(module, module[0], text)])
        case "no module":
            await platform.registry.remove_module(module)
        case "tenant":
            await platform.registry.put_tenant(TenantRow(id=tenant, name=f"n{three}"))
        case "routing":
            await platform.registry.set_routing(tenant, "newest" if three % 2 else "pinned")
        case "no tenant":
            await platform.registry.remove_tenant(tenant)
        case "bind" | "unbind":
            move = Move(product=module[0], subject="", bind=True, module=module if what == "bind" else None)
            async with platform.database.transaction() as connection:
                await make_move(connection, f"j{three % 2}", tenant, move)
        case "instance":
            row = InstanceRow(id=f"i{three % 3}", module=module, url=f"http://{one}", node="n" if one % 2 else None)
            await platform.instances.put(row, replace=bool(one % 2))
        case "seen":
            await platform.instances.seen(f"i{three % 3}", module)
        case "disconnect":
            await platform.instances.disconnect(f"i{three % 3}", module)
        case "retire":
            await platform.instances.retire(module)
        case "retired":
            await platform.instances.retired(module)
        case "hold":
            new = NewHold(id=f"hold-{one}-{two}-{three}", tenant="*" if one == 2 else tenant, product=product)
            await platform.holds.set([new], holder="operator", job=None, reason="r", grace=5, ttl=None, origin="n", messages={})
        case "resume":
            async with platform.database.connection() as connection:
                for row in await connection.fetch("select id, product from holds where product = $1", product):
                    await platform.holds.resume(row["id"], product=product, holder="operator", override=True, messages=[])
        case "overlay":
            async with platform.database.connection() as connection:
                await connection.execute(
                    "insert into jobs (id, tenant, request, modules, state) select $1, id, '{}', '[]', 'queued' from tenants"
                    " order by id limit 1 on conflict do nothing",
                    f"j{three % 2}",
                )
            with contextlib.suppress(Conflict):  # without a tenant there is no job
                await platform.runs.open_overlay(
                    token=f"{one}{two}{three}", job=f"j{three % 2}", tenant=tenant, product=module[0], module=module
                )
        case "closing":
            await platform.runs.close_overlay(job=f"j{three % 2}", product=product)
        case "closed":
            await platform.runs.forget_overlay(f"{one}{two}{three}")
        case _:
            await platform.follower.forget_old()


OPERATIONS = (
    "module", "module", "tenant", "tenant", "bind", "bind", "bind", "unbind", "no module", "no tenant", "routing", "instance",
    "instance", "seen", "disconnect", "retire", "retired", "hold", "hold", "resume", "overlay", "closing", "closed", "tidy",
)  # fmt: skip
OPERATION = st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 2), st.integers(0, 3), st.integers(0, 2))
STEPS = st.lists(
    st.tuples(st.lists(OPERATION, min_size=1, max_size=3), st.sampled_from(["none", "one", "both", "anew"])), max_size=30
)
START = [("tenant", 0, 0, 0), ("tenant", 1, 0, 0), *(("module", 0, number, 0) for number in range(4))]


@pytest.fixture(scope="module")
async def database(postgres_dsn: Any) -> AsyncIterator[Database]:
    made = Database(dsn=await asyncio.to_thread(postgres_dsn), pool_size=8)
    await made.open(wait=5)
    yield made
    await made.close()


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(steps=STEPS)
async def test_replicas_that_follow_end_with_what_a_fresh_one_loads(database: Database, steps: list[Any]) -> None:
    async with database.transaction() as connection:
        await connection.execute(f"truncate {TABLES} cascade")
    replicas = [Replica(database) for _ in range(2)]
    try:
        membership = replicas[0].platform.membership
        await membership.nodes.join(name="r", generation=membership.generation, lease=3_600.0, settle=0.0)
        for replica in replicas:
            await replica.platform.follower.resync()
        for operation in START:
            await carry_out(replicas[0], operation)
        for batch, who in steps:
            await asyncio.gather(*(refused_or_done(replicas[0], operation) for operation in batch))
            if who in ("one", "both"):
                await replicas[0].platform.catch_up()
            if who == "both":
                await replicas[1].platform.catch_up()
            if who == "anew":
                await replicas[1].platform.follower.resync()
            for replica in replicas:
                replica.picture()  # looked at in between, too: what is remembered of it must not stay
        for replica in replicas:
            await replica.platform.catch_up()
        async with asyncio.timeout(10), database.connection() as connection:
            while await connection.fetchval("select true from holds where state = 'DRAINING' limit 1"):
                await asyncio.sleep(0.002)  # they drain by themselves
        fresh = Replica(database)
        replicas.append(fresh)
        await fresh.platform.follower.resync()
        for replica in replicas[:2]:
            await replica.platform.catch_up()
            assert replica.platform.follower.epoch == fresh.platform.follower.epoch
            assert replica.picture() == fresh.picture()
    finally:
        for replica in replicas:
            await replica.platform.drains.close()


async def test_a_module_that_was_registered_anew_with_other_paths_answers_those(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute(f"truncate {TABLES} cascade")
    replica = Replica(database)
    steps: list[tuple[str, int, int, int]] = [("tenant", 0, 0, 0), ("module", 0, 0, 0), ("bind", 0, 0, 0)]
    for operation in steps:
        await carry_out(replica, operation)
    await replica.platform.catch_up()
    assert replica.picture()["routes"] == {("t1", "/a"): ("a-1.0.0", "a")}
    for operation in (("unbind", 0, 0, 0), ("no module", 0, 0, 0), ("module", 0, 0, 1), ("bind", 0, 0, 0)):
        await carry_out(replica, operation)
    await replica.platform.catch_up()
    assert replica.picture()["routes"] == {("t1", "/a/other"): ("a-1.0.0", "a")}


async def test_columns_that_a_newer_gateway_added_are_let_be(database: Database) -> None:
    """During a rolling replacement the older replicas go on, and above all they keep to holds."""
    async with database.transaction() as connection:
        await connection.execute(f"truncate {TABLES} cascade")
        for table in ("tenants", "holds", "overlays", "instances", "modules", "bindings", "retirements"):
            await connection.execute(f"alter table {table} add column if not exists newer text default 'x'")
    replica = Replica(database)
    try:
        for operation in (*START, ("bind", 0, 0, 0), ("instance", 0, 0, 0), ("overlay", 0, 0, 0), ("hold", 0, 0, 0)):
            await carry_out(replica, operation)
        await replica.platform.catch_up()
        picture = replica.picture()
        assert set(picture["holds"]) == {("t1", "a")}
        assert (set(picture["tenants"]), set(picture["overlays"]), set(picture["instances"])) == (
            {"t1", "t2"},
            {"000"},
            {"a-1.0.0"},
        )
    finally:
        await replica.platform.drains.close()
        async with database.transaction() as connection:
            for table in ("tenants", "holds", "overlays", "instances", "modules", "bindings", "retirements"):
                await connection.execute(f"alter table {table} drop column newer")


async def refused_or_done(replica: Replica, operation: tuple[str, int, int, int]) -> None:
    with contextlib.suppress(Conflict, DatabaseError, asyncpg.IntegrityConstraintViolationError):
        await carry_out(replica, operation)
