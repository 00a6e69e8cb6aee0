"""A database that is an earlier state of itself: steps that are refused, replicas that had followed further (requirement D3)."""

import asyncio
from typing import Any

import asyncpg
import httpx
import pytest

from gateway_client import ClaimRequest, DatabaseDiffers, FinishRequest, InitReport, IntentRequest, knowing
from upgrade_core.ids import hold_id
from upgrade_core.known import HEADER, Fact, FactKind

PLATFORM = "modules, tenants, bindings, instances, retirements, holds, overlays, jobs, claims, opened_holds, intents, snapshots"


def held(job: Any, product: str) -> Fact:
    return Fact(kind=FactKind.HELD, key=hold_id(job.id, "g", product), about=product)


def opened(job: Any, product: str) -> Fact:
    return Fact(kind=FactKind.OPENED, key=hold_id(job.id, "g", product), about=product)


@pytest.fixture
async def job(site: Any, upstream: Any) -> Any:
    """A begun job of a tenant with one module: the job and the product."""
    tenant, product = await site.wired(upstream.url)
    module = await site.register(f"{product}-2.0.0", upstream.url)
    return await site.job(tenant, module), product


async def test_a_step_is_refused_where_its_hold_is_missing(job: Any) -> None:
    run, product = job
    with knowing((held(run, product),)), pytest.raises(DatabaseDiffers) as caught:
        await run.runs.claim(run.id, ClaimRequest(module=f"{product}-2.0.0", subject=f"{product}-2.0.0"))
    assert caught.value.status == 412
    assert caught.value.text.startswith(
        f"requests to {product} are not held, they go to {product}-1.0.0, while the data may be at another version;"
    )


async def test_a_refused_step_has_changed_nothing(job: Any, site: Any) -> None:
    run, product = job
    with knowing((held(run, product),)), pytest.raises(DatabaseDiffers):
        await run.switch(f"{product}-2.0.0")
    assert [row["id"] for row in (await site.http.get(f"/_/proxy/tenants/{run.tenant}/modules")).json()] == [f"{product}-1.0.0"]


async def test_a_run_without_a_record_is_refused_and_not_told_that_there_is_no_job(site: Any) -> None:
    """A 404 would let it undo what it did, on a database that does not know it."""
    with knowing((Fact(kind=FactKind.PLAN, key="digest", about="t"),)), pytest.raises(DatabaseDiffers) as caught:
        await site.runs.set_phase("no-such-job", "migrating")
    assert "the job's record is missing" in caught.value.text


@pytest.mark.parametrize(
    "route",
    [
        "GET known", "POST begin", "PUT phase", "POST claims", "DELETE claims/m-1.0.0", "POST holds", "POST open", "POST intents",
        "PUT intents/k", "PUT data-versions/m", "POST overlays", "DELETE overlays/m", "POST snapshots", "PATCH snapshots",
        "POST finish",
    ],
)  # fmt: skip
async def test_every_route_of_a_run_compares(route: str, site: Any) -> None:
    """Before it looks at anything else of the request."""
    method, path = route.split(" ")
    facts = '[["plan","digest","t"],["held","nobody:m:g","m"]]'
    found = await site.http.request(method, f"/_/runs/no-such-job/{path}", headers={HEADER: facts})
    assert found.status_code == 412


async def test_a_header_that_holds_no_facts_is_refused(job: Any, site: Any) -> None:
    found = await site.http.get(f"/_/runs/{job[0].id}/known", headers={HEADER: "what"})
    assert found.status_code == 400


async def test_what_a_run_did_is_found_on_record(job: Any) -> None:
    run, product = job
    module = f"{product}-2.0.0"
    await run.runs.claim(run.id, ClaimRequest(module=module, subject=module))
    await run.held(module)
    intent = IntentRequest(key=f"{run.id}:{product}:init", product=product, subject=module, module=module, instance="i")
    await run.runs.begin_intent(run.id, intent)
    with knowing(
        (
            Fact(kind=FactKind.PLAN, key=(await run.runs.begin(run.id)).plan.digest, about=run.tenant),
            Fact(kind=FactKind.CLAIM, key=module),
            held(run, product),
            Fact(kind=FactKind.INTENT, key=intent.key, about=product),
        )
    ):
        await run.runs.compare(run.id)
    await run.switch(module)


async def test_a_switch_leaves_a_proof_that_its_hold_was_opened(job: Any) -> None:
    run, product = job
    await run.held(f"{product}-2.0.0")
    await run.switch(f"{product}-2.0.0")
    with knowing((opened(run, product), Fact(kind=FactKind.BOUND, key=product, about=f"{product}-2.0.0"))):
        await run.runs.compare(run.id)


async def test_the_proof_stays_as_long_as_its_job_is_open(job: Any, site: Any) -> None:
    """However old it is: the answer of the switch may have been lost for a day."""
    run, product = job
    await run.held(f"{product}-2.0.0")
    await run.switch(f"{product}-2.0.0")
    await execute(site.dsn, "update opened_holds set at = now() - interval '2 days'")
    await site.running.inside(site.running.platform.membership.nodes.forget_old())
    with knowing((opened(run, product),)):
        await run.runs.compare(run.id)


async def test_what_came_of_an_init_that_was_never_written_down_is_refused(job: Any) -> None:
    """It was written down before anybody was asked: so the database is another one."""
    run, product = job
    with pytest.raises(DatabaseDiffers):
        await run.runs.report_init(run.id, "never-seen", InitReport(state="ended", subject=f"{product}-2.0.0"))


async def test_administrators_are_told_once_and_again_when_it_is_over(job: Any, site: Any, until: Any) -> None:
    run, product = job
    facts = (held(run, product),)
    for _ in range(2):
        with knowing(facts), pytest.raises(DatabaseDiffers):
            await run.runs.compare(run.id)
    told = await problems(site)
    await run.held(f"{product}-2.0.0")  # what was missing is there again
    with knowing(facts):
        await run.runs.compare(run.id)

    assert [each["key"] for each in told].count(f"database-restored:{run.id}") == 1
    await until(lambda: gone(site, f"database-restored:{run.id}"))
    await run.resume(f"{product}-2.0.0")


async def test_a_job_whose_record_was_removed_after_its_end_may_be_ended_again(job: Any, site: Any) -> None:
    """The answer of the first time was lost."""
    run, product = job
    await run.held(f"{product}-2.0.0")
    await run.switch(f"{product}-2.0.0")
    await run.finish()
    assert (await site.http.delete(f"/_/proxy/tenants/{run.tenant}/install/{run.id}")).status_code == 204
    with knowing((Fact(kind=FactKind.PLAN, key="digest", about=run.tenant), opened(run, product))):
        found = await site.http.post(f"/_/runs/{run.id}/finish", json=FinishRequest(outcome="done").model_dump(mode="json"))
        await run.runs.keep_snapshots(run.id, 1)
    assert found.status_code == 404


async def test_a_live_replica_loads_everything_anew_when_its_database_goes_backwards(
    new_site: Any, upstream: Any, until: Any, caplog: Any
) -> None:
    site = await new_site(lease_renew=0.1)
    tenant, product = await site.wired(upstream.url)
    copy = await snapshot(site.dsn)
    late = await site.tenant()
    await put(site.dsn, copy)
    await until(lambda: _status(site, late, 404))

    assert (await site.get(tenant, f"/{product}")).status_code == 200
    assert any("is an older copy of itself" in record.message for record in caplog.records if record.levelname == "ERROR")
    await until(lambda: there(site, "database-restored"))


async def test_a_replica_notices_also_when_the_numbers_have_grown_past_its_own(
    new_site: Any, upstream: Any, until: Any, name: Any
) -> None:
    """The change of that number is not the one that it had followed."""
    site = await new_site(lease_renew=1000)
    await site.wired(upstream.url)
    copy = await snapshot(site.dsn)
    late = await site.tenant()
    epoch = site.running.platform.follower.epoch
    more = [name("n") for _ in range(20)]
    await put(site.dsn, copy, *(f"insert into tenants (id) values ('{each}')" for each in more))
    await until(lambda: _status(site, late, 404))

    assert site.running.platform.follower.epoch > epoch
    assert all([await _status(site, each, 200) for each in more])
    await until(lambda: there(site, "database-restored"))


async def test_a_replica_that_follows_on_is_not_told_of_a_restore(site: Any) -> None:
    for _ in range(3):
        await site.tenant()
    assert not await there(site, "database-restored")


async def test_a_dead_process_of_our_name_in_a_restored_database_does_not_end_us(new_site: Any, until: Any) -> None:
    """The copy was made under the process that was replaced by this one."""
    site = await new_site(lease_renew=0.1)
    before = site.running.platform.membership.generation
    await execute(site.dsn, "update nodes set generation = 'long-ago', until = now() - interval '1 hour'")
    await until(lambda: _joined(site, before))

    assert (await site.http.get("/_/proxy/tenants")).status_code == 200
    assert not site.running.gateway.member.done()


async def execute(dsn: str, *statements: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            for statement in statements:
                await connection.execute(statement)
    finally:
        await connection.close()


async def snapshot(dsn: str) -> dict[str, list[str]]:
    """Everything that is in the tables, as JSON rows."""
    connection = await asyncpg.connect(dsn)
    try:
        names = [*PLATFORM.split(", "), "routing", "changes", "data_versions"]
        return {
            name: [row["row"] for row in await connection.fetch(f"select to_jsonb(t)::text as row from {name} t")]
            for name in names
        }
    finally:
        await connection.close()


async def put(dsn: str, copy: dict[str, list[str]], *more: str) -> None:
    """Put it back under live connections, as `pg_restore --single-transaction` does: no trigger counts what it writes."""
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await connection.execute("set local session_replication_role = replica")
            for name in copy:
                await connection.execute(f"delete from {name}")
            for name, rows in copy.items():
                columns = await connection.fetch(
                    "select attname from pg_attribute where attrelid = $1::regclass and attnum > 0 and not attisdropped", name
                )
                listed = ", ".join(row["attname"] for row in columns)
                for row in rows:
                    await connection.execute(
                        f"insert into {name} ({listed}) overriding system value"
                        f" select {listed} from jsonb_populate_record(null::{name}, $1::text::jsonb)",
                        row,
                    )
            await connection.execute("set local session_replication_role = origin")
            for statement in more:
                await connection.execute(statement)
    finally:
        await connection.close()


async def problems(site: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await site.http.get("/_/lifecycle/problems")).json()
    return found


async def there(site: Any, key: str) -> bool:
    return key in [each["key"] for each in await problems(site)]


async def gone(site: Any, key: str) -> bool:
    return not await there(site, key)


async def _status(site: Any, tenant: str, status: int) -> bool:
    found: httpx.Response = await site.http.get(f"/_/proxy/tenants/{tenant}")
    return found.status_code == status


async def _joined(site: Any, generation: str) -> bool:
    connection = await asyncpg.connect(site.dsn)
    try:
        found = await connection.fetchval("select true from nodes where generation = $1 and until > now()", generation)
    finally:
        await connection.close()
    await asyncio.sleep(0.05)
    return bool(found)
