"""Migrations in pairs: two releases side by side on one database, one of them older or newer than this one."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gateway.store import Database, Migrations, NodeStore, Outdated

SQL = Path(__file__).parents[3] / "gateway" / "sql"
OLD_STATE = "0005_post_old_state.sql"
APPLIED = "select true from migrations where name = $1"


async def query(dsn: str, sql: str, *arguments: Any) -> list[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        return list(await connection.fetch(sql, *arguments))
    finally:
        await connection.close()


@pytest.fixture
def release(tmp_path: Path) -> Any:
    """The folder of migrations of another release: ours without some, with others."""

    def make(name: str, *, without: str = "", **more: str) -> Path:
        folder = tmp_path / name
        shutil.copytree(SQL, folder)
        for path in folder.iterdir():
            if without and path.name >= without:
                path.unlink()
        for file, text in more.items():
            (folder / f"{file.removeprefix('m')}.sql").write_text(text)
        return folder

    return make


async def applied(dsn: str, name: str = OLD_STATE) -> bool:
    return bool(await query(dsn, APPLIED, name))


def test_each_migration_has_a_number_of_its_own_and_says_whether_it_comes_before_or_after() -> None:
    names = sorted(path.name for path in SQL.glob("*.sql"))
    assert len({name[:4] for name in names}) == len(names)
    assert [name for name in names if name.split("_")[1] not in ("pre", "post")] == []


async def test_what_only_older_gateways_used_goes_at_once_where_there_is_none(new_site: Any, until: Any) -> None:
    site = await new_site()
    await until(lambda: applied(site.dsn))
    assert await query(site.dsn, "select from pg_tables where tablename = 'gateway_state'") == []


async def test_it_waits_until_the_older_gateway_leaves(new_site: Any, release: Any, until: Any) -> None:
    old = await new_site(migrations=release("old", without=OLD_STATE))
    new = await new_site(dsn=old.dsn)
    assert await new.running.inside(new.running.platform.database.migrate_after()) == (OLD_STATE,)
    assert len(await query(old.dsn, "select from gateway_state")) == 1
    await asyncio.to_thread(old.running.stop)
    await until(lambda: applied(new.dsn))


async def test_it_waits_for_the_lease_of_an_older_gateway_that_was_killed(new_site: Any, release: Any, until: Any) -> None:
    old = await new_site(migrations=release("old", without=OLD_STATE))
    dead = "insert into nodes (name, generation, schema, until) values ('dead', 'd', '0004', now() + interval '1 hour')"
    await query(old.dsn, dead)
    await asyncio.to_thread(old.running.stop)
    new = await new_site(dsn=old.dsn)
    assert await new.running.inside(new.running.platform.database.migrate_after()) == (OLD_STATE,)
    await query(old.dsn, "update nodes set until = now() where name = 'dead'")
    await until(lambda: applied(new.dsn))


async def test_an_older_gateway_starts_again_while_only_additions_of_the_newer_one_are_there(
    new_site: Any, release: Any, until: Any
) -> None:
    folder = release("new", m9001_pre_more="create table more (id int)", m9002_post_less="drop table less")
    current = await new_site()
    await until(lambda: applied(current.dsn))
    newer = await new_site(dsn=current.dsn, migrations=folder)
    assert await applied(current.dsn, "9001_pre_more.sql")
    again = await new_site(dsn=current.dsn)  # a rolling replacement is rolled back
    assert (await again.http.get("/_/proxy/tenants")).status_code == 200
    await asyncio.to_thread(current.running.stop)
    assert await newer.running.inside(newer.running.platform.database.migrate_after()) == ("9002_post_less.sql",)


async def test_an_older_gateway_is_refused_after_what_it_used_is_gone(new_site: Any, release: Any, until: Any) -> None:
    site = await new_site()
    await until(lambda: applied(site.dsn))
    older = Database(dsn=site.dsn, pool_size=2, migrations=Migrations(release("old", without=OLD_STATE)))
    with pytest.raises(Outdated, match=r"newer gateway \(0005_post_old_state\.sql\); run that version or a newer one"):
        await older.open(wait=0)
    await older.close()


async def test_an_older_gateway_does_not_slip_in_between_its_start_and_its_joining(
    new_site: Any, release: Any, until: Any
) -> None:
    old = await new_site(migrations=release("old", without=OLD_STATE))
    late = Database(dsn=old.dsn, pool_size=2, migrations=Migrations(release("late", without=OLD_STATE)))
    await late.open(wait=5)
    await asyncio.to_thread(old.running.stop)
    new = await new_site(dsn=old.dsn)
    await until(lambda: applied(new.dsn))
    with pytest.raises(Outdated):
        await NodeStore(late).join(name="late", generation="late", lease=60, settle=5)
    assert "late" not in [row["name"] for row in await query(new.dsn, "select name from nodes")]
    await late.close()


async def test_an_older_gateway_that_nobody_heard_of_for_long_ends_when_it_comes_back(
    new_site: Any, release: Any, until: Any
) -> None:
    old = await new_site(migrations=release("old", without=OLD_STATE), lease=1.0, lease_renew=600.0, node="old")
    new = await new_site(dsn=old.dsn, lease_renew=0.1)
    await until(lambda: applied(new.dsn))
    await query(
        new.dsn,
        "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and datname = current_database()",
    )
    member = old.running.gateway.member
    await until(member.done)
    assert isinstance(member.exception(), Outdated)
    assert not new.running.gateway.member.done()


async def test_gateways_of_another_line_of_releases_are_refused(new_site: Any, release: Any) -> None:
    site = await new_site(migrations=release("theirs", m9001_pre_theirs="create table theirs (id int)"))
    ours = Database(
        dsn=site.dsn, pool_size=2, migrations=Migrations(release("ours", m9002_pre_ours="create table ours (id int)"))
    )
    with pytest.raises(Outdated, match=r"9001_pre_theirs\.sql is applied, 9002_pre_ours\.sql is not"):
        await ours.open(wait=0)
    await ours.close()


async def test_one_that_cannot_be_applied_is_tried_again_and_the_gateway_serves(new_site: Any, release: Any, until: Any) -> None:
    site = await new_site(migrations=release("broken", m9001_post_broken="drop table not_there"))
    await until(lambda: applied(site.dsn))
    assert (await site.http.get("/_/proxy/tenants")).status_code == 200
    assert not await applied(site.dsn, "9001_post_broken.sql")
