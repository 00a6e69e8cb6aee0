"""Module data against a real Postgres: what is seen, copied, put back and refused."""

import asyncio
import contextlib
import dataclasses
import hashlib
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import asyncpg
import psutil
import pytest

from module_data import (
    CopyFailed,
    CopyRefused,
    ModuleDataError,
    PostgresData,
    RestoreFailed,
    SchemaCopy,
    ToolsMissing,
)
from module_data.address import parse_address
from module_data.contents import Contents
from module_data.tools import find_tools

SCHEMA = 'Diku-01.Mod "Notes" $1'
S = '"Diku-01.Mod ""Notes"" $1"'
MB = 1_000_000

# Everything here is fed through `schema`, written {s}; {a} and {b} are roles.
BEFORE = """
CREATE SCHEMA {s} AUTHORIZATION {a};
COMMENT ON SCHEMA {s} IS 'notes -- of diku';
GRANT USAGE ON SCHEMA {s} TO {b};
ALTER DEFAULT PRIVILEGES FOR ROLE {a} IN SCHEMA {s} GRANT SELECT ON TABLES TO {b};
SET ROLE {a};
CREATE TYPE {s}.mood AS ENUM ('sad', 'ok', 'very ok');
CREATE DOMAIN {s}.short AS varchar(20) CHECK (VALUE IN ('a', 'b'));
CREATE SEQUENCE {s}.loose START 40;
CREATE TABLE {s}.author (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE);
CREATE TABLE {s}."No-te" (
    id serial PRIMARY KEY,
    author bigint REFERENCES {s}.author ON DELETE CASCADE,
    kind varchar(10) NOT NULL DEFAULT 'memo' CHECK (kind IN ('memo', 'letter')),
    mood {s}.mood,
    body text,
    raw bytea,
    doc json,
    docb jsonb,
    length int GENERATED ALWAYS AS (length(body)) STORED
);
CREATE INDEX by_kind ON {s}."No-te" (lower(kind)) WHERE kind IN ('memo', 'letter');
CREATE TABLE {s}.part (id int, at date) PARTITION BY RANGE (at);
CREATE TABLE {s}.part_1 PARTITION OF {s}.part FOR VALUES FROM ('2020-01-01') TO ('2030-01-01');
CREATE TABLE {s}.nothing ();
CREATE VIEW {s}.memos AS SELECT id, body FROM {s}."No-te" WHERE kind IN ('memo') AND (id + 1) * 2 > 0;
CREATE MATERIALIZED VIEW {s}.counted AS SELECT count(*) FROM {s}."No-te";
CREATE FUNCTION {s}.shout() RETURNS trigger LANGUAGE plpgsql AS $f$
BEGIN
-- Name: this is no object; Type: TABLE
COPY x FROM stdin;
NEW.body = upper(NEW.body); RETURN NEW; END $f$;
CREATE TRIGGER shouting BEFORE UPDATE ON {s}."No-te" FOR EACH ROW EXECUTE FUNCTION {s}.shout();
CREATE FUNCTION {s}.twice(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2';
CREATE FUNCTION {s}.twice(text) RETURNS text LANGUAGE sql AS 'SELECT $1 || $1';
ALTER TABLE {s}.author ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON {s}.author USING (name = current_user);
COMMENT ON COLUMN {s}.author.name IS 'it''s a name';
GRANT INSERT (name), UPDATE ON {s}.author TO {b};
REVOKE EXECUTE ON FUNCTION {s}.twice(int) FROM PUBLIC;
RESET ROLE;
CREATE TABLE {s}.theirs (id int);
ALTER TABLE {s}.theirs OWNER TO {b};
INSERT INTO {s}.author (name) VALUES ('Ada'), (E'Gra\\nce'), (''), (E'\\\\.');
INSERT INTO {s}."No-te" (author, kind, mood, body, raw, doc, docb) VALUES
    (1, 'memo', 'very ok', E'one\\n-- Name: two; Type: TABLE\\n\\\\.\\n\\ttab', '\\x00ff0a5c2e',
        '{{"a":  [1, "\\n"]}}', '{{"b": null}}'),
    (2, 'letter', NULL, NULL, NULL, NULL, NULL),
    (3, 'memo', 'sad', E'-- Dumped by nobody', '', '[]', '[]');
INSERT INTO {s}.part VALUES (1, '2024-02-29');
SELECT nextval('{q}.loose');
"""

MIGRATION = """
ALTER TABLE {s}."No-te" RENAME COLUMN body TO content;
ALTER TABLE {s}."No-te" ADD COLUMN stars int DEFAULT 5;
ALTER TABLE {s}.author RENAME TO person;
DROP VIEW {s}.memos;
DROP TABLE {s}.part;
DELETE FROM {s}."No-te" WHERE id = 2;
CREATE TABLE {s}.brand_new (id int);
CREATE TYPE {s}.brand_new_type AS (x int);
ALTER TABLE {s}.theirs OWNER TO {a};
REVOKE ALL ON {s}.person FROM {b};
REVOKE USAGE ON SCHEMA {s} FROM {b};
ALTER SCHEMA {s} OWNER TO CURRENT_USER;
COMMENT ON SCHEMA {s} IS NULL;
ALTER DEFAULT PRIVILEGES FOR ROLE {a} IN SCHEMA {s} REVOKE SELECT ON TABLES FROM {b};
ALTER TYPE {s}.mood RENAME VALUE 'sad' TO 'blue';
"""

ROWS = """
SELECT 'note', id, kind, mood::text, body, raw, doc::text, docb::text, length, tableoid::regclass::text FROM {s}."No-te"
UNION ALL SELECT 'author', id, name, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM {s}.author
UNION ALL SELECT 'part', id, at::text, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM {s}.part
UNION ALL SELECT 'loose', last_value, is_called::text, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM {s}.loose
ORDER BY 1, 2
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Database:
    dsn: str
    data: PostgresData
    connection: Any
    folder: Path

    def again(self, **arguments: Any) -> PostgresData:
        return PostgresData(dsn=self.dsn, **arguments)

    async def run(self, sql: str, *, s: str = S, **names: str) -> None:
        words = {"s": s, "q": s.replace("'", "''"), "a": self.role("a"), "b": self.role("b"), **names}
        await self.connection.execute(sql.format(**words))

    def role(self, name: str) -> str:
        return f'"{urlsplit(self.dsn).path[1:]}_{name}"'

    async def rows(self) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in await self.connection.fetch(ROWS.format(s=S))]


@pytest.fixture
async def db(postgres_dsn: Callable[[], str], tmp_path: Path) -> AsyncIterator[Database]:
    dsn = postgres_dsn()
    connection = await asyncpg.connect(dsn, server_settings={"application_name": "uplift"})
    made = Database(dsn=dsn, data=PostgresData(dsn=dsn), connection=connection, folder=tmp_path / "copies")
    await made.run("CREATE ROLE {a}; CREATE ROLE {b}")
    try:
        yield made
    finally:
        connection.terminate()
        parts = urlsplit(dsn)
        admin = await asyncpg.connect(parts._replace(path="/postgres").geturl())
        await admin.execute(f'DROP DATABASE "{parts.path[1:]}" WITH (FORCE)')
        await admin.execute(f"DROP ROLE {made.role('a')}, {made.role('b')}")
        await admin.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with 64 KiB; skips where mounting is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(("mount", "-t", "tmpfs", "-o", "size=64k", "none", folder), capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(("umount", folder), check=True)


@contextlib.asynccontextmanager
async def session(dsn: str, *statements: str, name: str = "mod-notes") -> AsyncIterator[Any]:
    """A module's session in an open transaction."""
    connection = await asyncpg.connect(dsn, server_settings={"application_name": name})
    try:
        await connection.execute("BEGIN")
        for statement in statements:
            await connection.execute(statement)
        yield connection
    finally:
        connection.terminate()


async def until(condition: Callable[[], Awaitable[bool]], *, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)


async def small(db: Database, s: str = "small", rows: int = 3) -> str:
    await db.run(
        f"CREATE SCHEMA {s}; CREATE TABLE {s}.t (id int PRIMARY KEY, x text);"
        f"INSERT INTO {s}.t SELECT n, md5(n::text) FROM generate_series(1, {rows}) n"
    )
    return s


# Round trip


async def test_a_migration_is_undone_with_rows_owners_grants_and_comments(db: Database) -> None:
    await db.run(BEFORE)
    rows, before = await db.rows(), await db.data.fingerprint(SCHEMA)
    copy = await db.data.copy(SCHEMA, folder=db.folder, name="diku-notes")
    await db.run(MIGRATION)
    assert await db.data.fingerprint(SCHEMA) != before
    await db.data.restore(copy)
    assert await db.data.fingerprint(SCHEMA) == before
    assert await db.rows() == rows
    facts = await db.connection.fetchrow(
        "SELECT n.nspowner::regrole::text AS owner, obj_description(n.oid) AS comment, n.nspacl::text AS acl,"
        " (SELECT count(*) FROM pg_default_acl WHERE defaclnamespace = n.oid) AS defaults,"
        " (SELECT count(*) FROM pg_class WHERE relnamespace = n.oid AND relname LIKE 'brand_new%') AS new,"
        " (SELECT relowner::regrole::text FROM pg_class WHERE relnamespace = n.oid AND relname = 'theirs') AS theirs"
        " FROM pg_namespace n WHERE nspname = $1",
        SCHEMA,
    )
    assert facts["owner"] == db.role("a").strip('"')
    assert facts["theirs"] == db.role("b").strip('"')
    assert facts["comment"] == "notes -- of diku"
    assert db.role("b").strip('"') in facts["acl"]
    assert (facts["defaults"], facts["new"]) == (1, 0)


async def test_a_second_copy_of_the_same_name_replaces_the_first(db: Database) -> None:
    schema = await small(db)
    first = await db.data.copy(schema, folder=db.folder, name="one")
    await db.run("INSERT INTO small.t VALUES (99, 'later')")
    second = await db.data.copy(schema, folder=db.folder, name="one")
    assert [path.name for path in db.folder.iterdir()] == ["one.dump"]
    assert (first.path, first.digest) != (second.path, second.digest)
    path = Path(second.path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == second.digest
    assert (path.stat().st_size, path.stat().st_mode & 0o777) == (second.size, 0o600)
    await db.run("DROP SCHEMA small CASCADE")
    await db.data.restore(second)
    assert await db.connection.fetchval("SELECT count(*) FROM small.t") == 4


async def test_restoring_twice_is_restoring_once(db: Database) -> None:
    schema = await small(db)
    before = await db.data.fingerprint(schema)
    copy = await db.data.copy(schema, folder=db.folder, name="one")
    await db.data.restore(copy)
    await db.data.restore(copy)
    assert await db.data.fingerprint(schema) == before


async def test_a_foreign_key_into_another_schema_comes_back(db: Database) -> None:
    schema = await small(db)
    await db.run(
        "CREATE TABLE public.far (id int PRIMARY KEY); INSERT INTO public.far VALUES (1);"
        "CREATE TABLE small.near (id int REFERENCES public.far); INSERT INTO small.near VALUES (1)"
    )
    assert (await db.data.facts(schema, max_bytes=10 * MB)).refusals == ()
    copy = await db.data.copy(schema, folder=db.folder, name="one")
    await db.run("DROP TABLE small.near")
    await db.data.restore(copy)
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await db.run("INSERT INTO small.near VALUES (2)")


async def test_the_copy_of_an_absent_schema_is_put_back_by_dropping(db: Database) -> None:
    copy = await db.data.copy("small", folder=db.folder, name="none")
    assert copy == SchemaCopy(schema="small", path="", size=0, digest="", existed=False)
    assert not db.folder.exists()
    await small(db)
    async with session(db.dsn, "SELECT * FROM small.t"):
        await db.data.restore(copy)
    assert await db.data.fingerprint("small") == "absent"
    await db.data.restore(copy)


async def test_progress_of_copy_and_restore_is_told(db: Database) -> None:
    schema = await small(db, rows=50_000)
    copied: list[int] = []
    restored: list[int] = []
    copy = await db.data.copy(schema, folder=db.folder, name="one", progress=copied.append)
    await db.data.restore(copy, progress=restored.append)
    assert max(copied) == copy.size
    assert max(restored) > 50_000 * 32


async def test_neighbouring_schemas_are_not_touched(db: Database) -> None:
    await small(db, "small")
    await small(db, "smaller")
    await small(db, '"smal*"')
    copy = await db.data.copy("smal*", folder=db.folder, name="one")
    await db.run("INSERT INTO small.t VALUES (77, ''); INSERT INTO smaller.t VALUES (77, '')")
    await db.data.restore(copy)
    for table in ("small.t", "smaller.t"):
        assert await db.connection.fetchval(f"SELECT count(*) FROM {table}") == 4


# Sessions


async def test_an_open_transaction_in_the_schema_is_ended(db: Database) -> None:
    schema = await small(db)
    copy = await db.data.copy(schema, folder=db.folder, name="one")
    async with session(db.dsn, "DELETE FROM small.t", "CREATE TABLE small.half (id int)") as module:
        found = await db.data.sessions(schema)
        assert [(one.application, one.state) for one in found] == [("mod-notes", "idle in transaction")]
        await db.data.restore(copy)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await module.execute("COMMIT")
    assert await db.connection.fetchval("SELECT count(*) FROM small.t") == 3


async def test_who_only_makes_new_tables_is_seen_and_other_schemas_are_left_alone(db: Database) -> None:
    await small(db)
    await small(db, "other")
    async with (
        session(db.dsn, "CREATE TABLE small.fresh (id int)", name="maker"),
        session(db.dsn, "DELETE FROM other.t", name="other") as other,
    ):
        assert [one.application for one in await db.data.sessions("small")] == ["maker"]
        assert await db.data.end_sessions("small") == 1
        assert await db.data.sessions("small") == ()
        await other.execute("COMMIT")
    assert await db.connection.fetchval("SELECT count(*) FROM other.t") == 0


async def test_a_session_that_keeps_coming_back_is_fought(db: Database) -> None:
    schema = await small(db)
    copy = await db.data.copy(schema, folder=db.folder, name="one")
    ended = 0
    started = asyncio.Event()

    async def stubborn() -> None:
        nonlocal ended
        while True:
            with contextlib.suppress(Exception):  # whatever a driver makes of a session that was ended
                async with session(db.dsn, "SELECT * FROM small.t") as connection:
                    started.set()
                    while True:
                        await connection.execute("SELECT * FROM small.t LIMIT 1")
                        await asyncio.sleep(0.01)
            ended += 1

    tasks = [asyncio.create_task(stubborn()) for _ in range(3)]
    await started.wait()
    try:
        await db.again(lock_wait=15).restore(copy)
    finally:
        for task in tasks:
            task.cancel()
        how = await asyncio.gather(*tasks, return_exceptions=True)
    assert ended >= 1, how
    assert await db.connection.fetchval("SELECT count(*) FROM small.t") == 3


async def test_what_cannot_be_ended_stops_the_restore_within_lock_wait(db: Database) -> None:
    if await db.connection.fetchval("SHOW max_prepared_transactions") == "0":
        pytest.skip("this server has no prepared transactions")
    schema = await small(db)
    copy = await db.data.copy(schema, folder=db.folder, name="one")
    async with session(db.dsn, "DELETE FROM small.t WHERE id = 1", "PREPARE TRANSACTION 'stuck'"):
        pass
    try:
        impatient = db.again(lock_wait=0.5)
        assert [(one.pid, one.state) for one in await impatient.sessions(schema)] == [(0, "prepared transaction")]
        with pytest.raises(RestoreFailed, match=r"within 0\.5 s.*0 prepared transaction"):
            await impatient.restore(copy)
        with pytest.raises(RestoreFailed, match=r"within 0\.5 s.*0 prepared transaction"):
            await impatient.drop(schema)
        assert await db.connection.fetchval("SELECT count(*) FROM small.t") == 3
    finally:
        await db.connection.execute("ROLLBACK PREPARED 'stuck'")


async def test_a_locked_table_stops_the_copy_and_leaves_no_file(db: Database) -> None:
    schema = await small(db)
    async with session(db.dsn, "LOCK TABLE small.t IN ACCESS EXCLUSIVE MODE"):
        with pytest.raises(CopyFailed, match=r"timeout(?s:.*)LOCK TABLE"):
            await db.again(lock_wait=0.3).copy(schema, folder=db.folder, name="one")
    assert list(db.folder.iterdir()) == []


async def test_wait_quiet_is_true_once_the_sessions_are_gone(db: Database) -> None:
    schema = await small(db)
    seen: list[int] = []
    async with session(db.dsn, "DELETE FROM small.t") as module:
        waiting = asyncio.create_task(db.data.wait_quiet(schema, quiet=0.3, timeout=20, progress=seen.append))

        async def noticed() -> bool:
            return 1 in seen

        await until(noticed)
        await module.execute("COMMIT")
        assert await waiting
    assert seen[-1] == 0


async def test_wait_quiet_is_false_when_a_session_stays(db: Database) -> None:
    schema = await small(db)
    async with session(db.dsn, "SELECT * FROM small.t"):
        assert not await db.data.wait_quiet(schema, quiet=0.1, timeout=0.4)
    assert await db.data.wait_quiet(schema, quiet=0, timeout=0.4)
    assert not await db.data.wait_quiet(schema, quiet=30, timeout=0.2)


# Refusals

REFUSED = {
    "a view elsewhere": ("CREATE VIEW public.v AS SELECT x FROM small.t", r"view v"),
    "a foreign key elsewhere": (
        "CREATE TABLE public.child (id int REFERENCES small.t)",
        r"depend on it.*constraint child_id_fkey on table child",
    ),
    "a trigger elsewhere": (
        """CREATE FUNCTION small.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE TABLE public.o (id int); CREATE TRIGGER tr BEFORE INSERT ON public.o EXECUTE FUNCTION small.f()""",
        r"trigger tr on table o",
    ),
    "a column elsewhere": (
        "CREATE TYPE small.mood AS ENUM ('a'); CREATE TABLE public.o (m small.mood)",
        r"column m of table o",
    ),
    "a default elsewhere": (
        "CREATE SEQUENCE small.seq; CREATE TABLE public.o (id int DEFAULT nextval('small.seq'))",
        r"default value for column id of table o",
    ),
    "a function elsewhere": (
        "CREATE FUNCTION public.f(small.t) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        r"function f\(small\.t\)",
    ),
    "a partition elsewhere": (
        "CREATE TABLE small.p (id int) PARTITION BY LIST (id);CREATE TABLE public.p1 PARTITION OF small.p FOR VALUES IN (1)",
        r"table p1",
    ),
    "a cast": (
        """CREATE TYPE small.c AS (x int); CREATE FUNCTION small.f(small.c) RETURNS int LANGUAGE sql AS 'SELECT 1';
        CREATE CAST (small.c AS int) WITH FUNCTION small.f(small.c)""",
        r"cast from small\.c to integer",
    ),
    "a publication of a table": ("CREATE PUBLICATION pub FOR TABLE small.t", r"Publications name tables.*pub \(t\)"),
    "a publication of the schema": (
        "CREATE PUBLICATION pub FOR TABLES IN SCHEMA small",
        r"Publications name schema small.*pub",
    ),
    "large objects": (
        "CREATE TABLE small.files (content oid); INSERT INTO small.files SELECT lo_create(0)",
        r"large objects.*files\.content",
    ),
    "a domain over oid": (
        "CREATE DOMAIN small.lo AS oid; CREATE TABLE small.files (content small.lo); SELECT lo_create(0)",
        r"large objects.*files\.content",
    ),
    "an extension": ("CREATE EXTENSION vector SCHEMA small", r"Extensions.*vector"),
    "many objects": (
        "".join(f"CREATE VIEW public.v{n} AS SELECT x FROM small.t;" for n in range(7)),
        r"and 2 more",
    ),
}


@pytest.mark.parametrize(("sql", "sentence"), REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.filterwarnings("ignore")
async def test_a_copy_that_would_not_be_whole_is_refused(db: Database, sql: str, sentence: str) -> None:
    schema = await small(db)
    if "EXTENSION" in sql and not await db.connection.fetchval(
        "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector')"
    ):
        pytest.skip("this server has no vector extension")
    assert (await db.data.facts(schema, max_bytes=100 * MB)).refusals == ()
    await db.run(sql)
    facts = await db.data.facts(schema, max_bytes=100 * MB)
    assert len(facts.refusals) == 1
    with pytest.raises(CopyRefused, match=sentence):
        await db.data.copy(schema, folder=db.folder, name="one")


async def test_schemas_of_postgres_itself_are_refused(db: Database) -> None:
    for schema, sentence in (("public", "first grants"), ("pg_catalog", "belongs to Postgres itself")):
        assert sentence in " ".join((await db.data.facts(schema, max_bytes=100 * MB)).refusals)


async def test_nothing_inside_the_schema_is_a_refusal(db: Database) -> None:
    await db.run(BEFORE)
    facts = await db.data.facts(SCHEMA, max_bytes=100 * MB)
    assert (facts.exists, facts.refusals) == (True, ())
    assert facts.size > 8192


async def test_too_large_a_schema_is_refused_with_both_sizes(db: Database) -> None:
    schema = await small(db, rows=20_000)
    facts = await db.data.facts(schema, max_bytes=MB)
    assert facts.size > MB
    assert facts.refusals == (f"Schema small has {facts.size / MB:.1f} MB; copies are allowed up to 1.0 MB.",)


async def test_an_absent_schema_has_no_facts(db: Database) -> None:
    facts = await db.data.facts("nowhere", max_bytes=0)
    assert (facts.exists, facts.size, facts.refusals) == (False, 0, ())
    assert await db.data.fingerprint("nowhere") == "absent"
    await db.data.drop("nowhere")


async def test_missing_tools_are_a_refusal_and_an_error(db: Database, tmp_path: Path) -> None:
    schema = await small(db)
    data = db.again(tools=str(tmp_path))
    (sentence,) = (await data.facts(schema, max_bytes=100 * MB)).refusals
    assert "data.tools" in sentence
    with pytest.raises(ToolsMissing, match="found: none"):
        await data.check_tools()
    await db.data.check_tools()


async def test_old_tools_are_missing_tools(tmp_path: Path) -> None:
    for name in ("pg_dump", "pg_restore", "psql"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.1'\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(ToolsMissing, match=r"version 18 or newer are needed.*found: 9 "):
        await find_tools(str(tmp_path), server=18)


def fake_tools(folder: Path, version: str) -> None:
    for name in ("pg_dump", "pg_restore", "psql"):
        (folder / name).write_text(f'#!/bin/sh\necho asked >> {folder}/log\necho "pg_dump (PostgreSQL) {version}"\n')
        (folder / name).chmod(0o755)


async def test_a_tool_is_asked_for_its_version_once(tmp_path: Path) -> None:
    """Users wait for each copy of a platform's upgrade."""
    fake_tools(tmp_path, "18.1")
    found = [await find_tools(str(tmp_path), server=18) for _ in range(3)]
    assert [tools.major for tools in found] == [18, 18, 18]
    assert (tmp_path / "log").read_text().splitlines() == ["asked"]


async def test_a_tool_that_was_replaced_is_asked_again(tmp_path: Path) -> None:
    fake_tools(tmp_path, "18.1")
    await find_tools(str(tmp_path), server=18)
    fake_tools(tmp_path, "19.10")
    assert (await find_tools(str(tmp_path), server=18)).major == 19


async def test_tools_that_were_too_old_are_looked_at_again_where_their_file_is_the_same(tmp_path: Path) -> None:
    """A wrapper, as Debian's, is one file for all versions that are installed."""
    fake_tools(tmp_path, "$(cat $(dirname $0)/version)")
    (tmp_path / "version").write_text("15.2")
    with pytest.raises(ToolsMissing):
        await find_tools(str(tmp_path), server=18)
    (tmp_path / "version").write_text("18.0")
    assert (await find_tools(str(tmp_path), server=18)).major == 18


async def test_roles_that_we_are_no_member_of_are_a_refusal(db: Database) -> None:
    schema = await small(db)
    limited = f"{db.role('a')[1:-1]}"
    await db.run("ALTER ROLE {a} LOGIN PASSWORD 'limited'; ALTER SCHEMA small OWNER TO {b}; GRANT {b} TO {a}")
    parts = urlsplit(db.dsn)
    host = parts.netloc.rpartition("@")[2]
    data = PostgresData(dsn=parts._replace(netloc=f"{limited}:limited@{host}").geturl())
    text = " ".join((await data.facts(schema, max_bytes=100 * MB)).refusals)
    assert "belong to roles that we are no member of" in text
    assert "may not create schemas" in text
    await db.run("REVOKE {b} FROM {a}")


async def test_what_came_to_depend_on_the_schema_since_is_not_dropped(db: Database) -> None:
    schema = await small(db)
    copy = await db.data.copy(schema, folder=db.folder, name="one")
    await db.run("INSERT INTO small.t VALUES (9, ''); CREATE VIEW public.v AS SELECT * FROM small.t")
    with pytest.raises(RestoreFailed, match=r"view v.*remove them"):
        await db.data.restore(copy)
    with pytest.raises(RestoreFailed, match=r"view v.*remove them"):
        await db.data.drop(schema)
    assert await db.connection.fetchval("SELECT count(*) FROM public.v") == 4


# Trouble


async def test_a_changed_file_is_refused_and_the_schema_untouched(db: Database) -> None:
    schema = await small(db)
    copy = await db.data.copy(schema, folder=db.folder, name="one")
    path = Path(copy.path)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    await db.run("INSERT INTO small.t VALUES (9, '')")
    async with session(db.dsn, "SELECT * FROM small.t") as module:
        with pytest.raises(RestoreFailed, match="has changed"):
            await db.data.restore(copy)
        path.unlink()
        with pytest.raises(RestoreFailed, match="cannot be read"):
            await db.data.restore(copy)
        assert await module.fetchval("SELECT count(*) FROM small.t") == 4


async def test_a_cut_file_with_a_right_digest_leaves_the_schema_as_it_was(db: Database) -> None:
    schema = await small(db, rows=50_000)
    copy = await db.data.copy(schema, folder=db.folder, name="one")
    await db.run("INSERT INTO small.t VALUES (-1, 'of the migration')")
    before = await db.data.fingerprint(schema)
    content = Path(copy.path).read_bytes()
    cut = content[: len(content) // 2]
    Path(copy.path).write_bytes(cut)
    with pytest.raises(RestoreFailed, match="pg_restore cannot read"):
        await db.data.restore(dataclasses.replace(copy, digest=hashlib.sha256(cut).hexdigest()))
    assert await db.data.fingerprint(schema) == before


async def test_sql_that_fails_at_the_end_leaves_the_schema_as_it_was(db: Database) -> None:
    schema = await small(db)
    await db.run(
        "CREATE TABLE public.far (id int PRIMARY KEY); INSERT INTO public.far VALUES (1);"
        "CREATE TABLE small.near (id int REFERENCES public.far); INSERT INTO small.near VALUES (1)"
    )
    copy = await db.data.copy(schema, folder=db.folder, name="one")
    await db.run("DELETE FROM small.near; DELETE FROM public.far; CREATE TABLE small.new (id int)")
    before = await db.data.fingerprint(schema)
    with pytest.raises(RestoreFailed, match=r"23503.*The schema is as it was") as caught:
        await db.data.restore(copy)
    assert "Key (id)" not in str(caught.value)
    assert await db.data.fingerprint(schema) == before


async def test_a_difference_after_the_restore_is_named(db: Database) -> None:
    schema = await small(db)
    copy = await db.data.copy(schema, folder=db.folder, name="one")
    # Stands for somebody who writes between the commit and the comparison.
    await db.run(
        "CREATE FUNCTION public.meddle() RETURNS event_trigger LANGUAGE plpgsql AS $f$ BEGIN"
        " EXECUTE 'CREATE TABLE IF NOT EXISTS small.meddled ()'; END $f$;"
        "CREATE EVENT TRIGGER meddling ON ddl_command_end WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION public.meddle()"
    )
    with pytest.raises(RestoreFailed, match=r"differs from its copy in: .*meddled"):
        await db.data.restore(copy)


async def test_a_cancelled_copy_leaves_nothing(db: Database) -> None:
    schema = await small(db)
    async with session(db.dsn, "LOCK TABLE small.t IN ACCESS EXCLUSIVE MODE"):
        copying = asyncio.create_task(db.data.copy(schema, folder=db.folder, name="one"))

        async def waits() -> bool:
            return any(one.application.startswith("uplift copy") for one in await db.data.sessions(schema))

        await until(waits)
        assert [path.name for path in db.folder.iterdir()] == ["one.dump.part"]
        copying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await copying
    assert list(db.folder.iterdir()) == []
    assert _tools_running() == []


async def test_a_cancelled_restore_leaves_the_schema_as_it_was(db: Database) -> None:
    schema = await small(db)
    # The index that is built near the end takes for ever: the restore can be met in the middle.
    await db.run(
        "CREATE FUNCTION small.slow(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS"
        " $f$ BEGIN IF current_setting('application_name') LIKE 'uplift restore%' THEN PERFORM pg_sleep(60); END IF;"
        " RETURN $1; END $f$; CREATE INDEX slowly ON small.t (small.slow(id))"
    )
    copy = await db.data.copy(schema, folder=db.folder, name="one")
    await db.run("CREATE TABLE small.new (id int)")
    before = await db.data.fingerprint(schema)
    restoring = asyncio.create_task(db.data.restore(copy))

    async def sleeps() -> bool:
        return bool(
            await db.connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
            )
        )

    await until(sleeps)
    restoring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await restoring
    assert await db.data.fingerprint(schema) == before
    assert _tools_running() == []


async def test_a_disk_that_cannot_be_written_is_a_failed_copy(db: Database, tmp_path: Path) -> None:
    schema = await small(db)
    (tmp_path / "file").write_text("")
    with pytest.raises(CopyFailed, match="cannot be made"):
        await db.data.copy(schema, folder=tmp_path / "file", name="one")
    with pytest.raises(ValueError, match="plain file name"):
        await db.data.copy(schema, folder=tmp_path, name="../one")


async def test_a_disk_without_room_names_the_folder_and_the_remedy_and_keeps_no_part(db: Database, small_disk: Path) -> None:
    """Requirement E5."""
    schema = await small(db, rows=20_000)
    with pytest.raises(CopyFailed) as caught:
        await db.data.copy(schema, folder=small_disk / "t1", name="one")
    assert f"has no room in {small_disk / 't1'}" in str(caught.value)
    assert "No space left on device" in str(caught.value)
    assert "set snapshots.folder to another disk" in str(caught.value)
    assert list((small_disk / "t1").iterdir()) == []


async def test_a_disk_without_room_keeps_the_copy_that_was_there(db: Database, small_disk: Path) -> None:
    schema = await small(db)
    first = await db.data.copy(schema, folder=small_disk, name="one")
    await db.connection.execute(f"INSERT INTO {schema}.t SELECT n, md5(n::text) FROM generate_series(10, 20000) n")
    with pytest.raises(CopyFailed):
        await db.data.copy(schema, folder=small_disk, name="one")
    await db.data.restore(first)
    assert await db.connection.fetchval(f"SELECT count(*) FROM {schema}.t") == 3


@pytest.mark.parametrize("work", ["facts", "copy", "restore", "drop", "wait_quiet"])
async def test_a_server_without_a_connection_left_is_told_as_that_and_nothing_is_changed(db: Database, work: str) -> None:
    """Requirement D2: the same call goes well when there is one again."""
    schema = await small(db)
    name = urlsplit(db.dsn).path[1:]
    role = db.role("c")
    await db.connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'; ALTER SCHEMA {schema} OWNER TO {role}")
    await db.connection.execute(f'ALTER TABLE {schema}.t OWNER TO {role}; GRANT CREATE ON DATABASE "{name}" TO {role}')
    parts = urlsplit(db.dsn)
    limited = PostgresData(dsn=parts._replace(netloc=f"{quote(role[1:-1])}:x@{parts.hostname}:{parts.port}").geturl())
    copy = await limited.copy(schema, folder=db.folder, name="one")
    before = await db.data.fingerprint(schema)
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "facts": lambda: limited.facts(schema, max_bytes=10**9),
        "copy": lambda: limited.copy(schema, folder=db.folder, name="one"),
        "restore": lambda: limited.restore(copy),
        "drop": lambda: limited.drop(schema),
        "wait_quiet": lambda: limited.wait_quiet(schema, quiet=0, timeout=1),
    }
    await db.connection.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0")
    try:
        with pytest.raises(ModuleDataError, match="has no connection left for us: too many connections for role") as caught:
            await calls[work]()
        same = await db.data.fingerprint(schema) == before
        await db.connection.execute(f"ALTER ROLE {role} CONNECTION LIMIT 20")
        await calls[work]()
    finally:
        await db.connection.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")
    assert "max_connections" in str(caught.value)
    assert same


async def test_an_unreachable_server_is_named_without_its_password(db: Database) -> None:
    data = PostgresData(dsn="postgresql://someone:hidden@127.0.0.1:1/notes")
    with pytest.raises(ModuleDataError, match=r"127\.0\.0\.1:1/notes cannot be reached") as caught:
        await data.sessions("small")
    assert "hidden" not in str(caught.value)


async def test_the_password_is_in_no_command_line(db: Database) -> None:
    password = urlsplit(db.dsn).password
    if not password:
        pytest.skip("this server needs no password")
    schema = await small(db)
    seen: set[str] = set()
    async with session(db.dsn, "LOCK TABLE small.t IN ACCESS EXCLUSIVE MODE"):
        copying = asyncio.create_task(db.data.copy(schema, folder=db.folder, name="one"))

        async def waits() -> bool:
            for process in _tools_running():
                with contextlib.suppress(psutil.Error):
                    seen.add(" ".join(process.cmdline()))
            return any(one.application.startswith("uplift copy") for one in await db.data.sessions(schema))

        await until(waits)
    copy = await copying
    restoring = asyncio.create_task(db.data.restore(copy))
    while not restoring.done():
        for process in _tools_running():
            with contextlib.suppress(psutil.Error):
                seen.add(" ".join(process.cmdline()))
        await asyncio.sleep(0.005)
    await restoring
    assert any("pg_dump" in line for line in seen)
    assert any("psql" in line for line in seen)
    assert not any(password in line for line in seen)


def _tools_running() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended while it was looked at
            if process.name() in {"pg_dump", "pg_restore", "psql"}:
                found.append(process)
    return found


# Parts that need no server


def test_an_address_speaks_to_both_clients() -> None:
    address = parse_address("postgresql://a%40b:p%2Fw@[::1]:5433/my%20db?sslmode=require&connect_timeout=3")
    assert address.dsn == "postgresql://a%40b:p%2Fw@[::1]:5433/my%20db?sslmode=require"
    assert dict(address.variables) == {
        "PGHOST": "::1",
        "PGPORT": "5433",
        "PGUSER": "a@b",
        "PGPASSWORD": "p/w",
        "PGDATABASE": "my db",
        "PGSSLMODE": "require",
        "PGCONNECT_TIMEOUT": "3",
    }
    assert "p/w" not in repr(address)


def test_an_address_may_be_a_socket_folder_or_several_hosts() -> None:
    socket = parse_address("postgresql://me:@/notes?host=/run/postgresql")
    assert dict(socket.variables) == {"PGHOST": "/run/postgresql", "PGUSER": "me", "PGDATABASE": "notes"}
    several = parse_address("postgres://one:5432,two:5433/notes")
    assert (several.variables["PGHOST"], several.variables["PGPORT"]) == ("one,two", "5432,5433")
    with pytest.raises(ValueError, match="must be a URI"):
        parse_address("host=one password=secret")


DUMP = b"""--
-- PostgreSQL database dump
--

\\restrict abc

-- Dumped from database version 18.4

SET statement_timeout = 0;

--
-- Name: f(); Type: FUNCTION; Schema: s; Owner: o
--

CREATE FUNCTION s.f() AS $$
COPY x FROM stdin;
$$;

--
-- Name: v; Type: VIEW; Schema: s; Owner: o
--

CREATE VIEW s.v AS (SELECT 1 WHERE ((x)::text = ANY ((ARRAY['a'::character varying])::text[])));

--
-- Data for Name: t; Type: TABLE DATA; Schema: s; Owner: o
--

COPY s.t (id) FROM stdin;
-- Name: no object
\\\\.
\\.

\\unrestrict abc
"""


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_contents_do_not_depend_on_how_the_text_is_cut(size: int) -> None:
    whole, pieces = Contents(), Contents()
    whole.feed(DUMP)
    for start in range(0, len(DUMP), size):
        pieces.feed(DUMP[start : start + size])
    assert pieces.digests() == whole.digests()


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        (b"restrict abc", b"restrict xyz", True),
        (b"version 18.4", b"version 18.5", True),
        (b"(ARRAY['a'::character varying])::text[]", b"ARRAY[('a'::character varying)::text]", True),
        (b"ARRAY['a'", b"ARRAY['b'", False),
        (b"Owner: o", b"Owner: p", False),
        (b"\\\\.\n", b"\\\\.\nmore\n", False),
        (b"-- Name: no object", b"-- Name: (no object)", False),
    ],
)
def test_contents_tell_what_matters(old: bytes, new: bytes, same: bool) -> None:
    before, after = Contents(), Contents()
    before.feed(DUMP)
    after.feed(DUMP.replace(old, new))
    assert DUMP.replace(old, new) != DUMP
    assert (before.digests() == after.digests()) is same
