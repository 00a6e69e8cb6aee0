"""`uplift demo` as a newcomer runs it, and whether its checker would see damage at all."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from uplift_cli.demo.check import Checker
from uplift_cli.demo.ledger import Ledger, Row, Table, Version

ROOT = Path(__file__).parents[2]
PATIENCE = 170.0
TABLES = """
    CREATE SCHEMA north_mod_users;
    CREATE SCHEMA north_mod_loans;
    CREATE TABLE north_mod_users.users (id uuid, first_name text, last_name text, seq bigint);
    CREATE TABLE north_mod_loans.loans (id uuid, user_id uuid, item text, seq bigint);
"""


def test_the_demo_holds_what_it_says() -> None:
    demo = (sys.executable, "-m", "uplift_cli.main", "demo", "--plain")
    done = subprocess.run(demo, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    claims = [line for line in lines if line.startswith(("ok ", "FAILED "))]
    assert len(claims) == 18, done.stdout
    assert [line for line in claims if not line.startswith("ok ")] == []
    rows = [line.split("\t") for line in lines if "\t" in line]
    head = next(row for row in rows if row[0] == "tenant")
    tenants = {row[0]: dict(zip(head, row, strict=True)) for row in rows if row[0] in ("north", "south", "east", "all")}
    assert list(tenants) == ["north", "south", "east", "all"]
    for row in tenants.values():
        assert (row["failed"], row["lost"], row["damaged"], row["twice"]) == ("0", "0", "0", "0")
        assert int(row["acknowledged writes"]) > 900
    assert not Path(lines[0].partition("folder: ")[2]).exists()


@pytest.fixture
async def database(postgres_dsn: Callable[[], str]) -> tuple[Checker, str]:
    dsn = await asyncio.to_thread(postgres_dsn)
    await execute(dsn, TABLES)
    return Checker(dsn=dsn), dsn


async def execute(dsn: str, sql: str, *values: object) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(sql, *values)
    await connection.close()


def acknowledge(table: Table, row: Row, *content: str) -> Version:
    version = Version(seq=table.next_seq(), content=content)
    table.end(row, table.begin(row, version), acknowledged=True)
    return version


@pytest.mark.parametrize(
    ("stored", "lost", "damaged", "twice"),
    [
        ([("Ada", "van Lovelace", 2)], 0, 0, 0),
        ([], 1, 0, 0),
        ([("Ada", "Byron", 1)], 1, 0, 0),
        ([("Ada", "Lovelace", 2)], 0, 1, 0),
        ([("Ada van", "Lovelace", 2)], 0, 1, 0),
        ([("Ada", None, 2)], 0, 1, 0),
        ([("Ada", "van Lovelace", 2), ("Ada", "van Lovelace", 2)], 0, 0, 1),
    ],
    ids=["as written", "gone", "as before a write", "cut", "split elsewhere", "half", "twice"],
)
async def test_the_checker_sees_what_became_of_a_row(
    database: tuple[Checker, str], stored: list[tuple[str, str | None, int]], lost: int, damaged: int, twice: int
) -> None:
    checker, dsn = database
    ledger, row = Ledger(), Row(id=uuid4())
    acknowledge(ledger.users, row, "Ada Byron")
    acknowledge(ledger.users, row, "Ada van Lovelace")
    for values in stored:
        await execute(dsn, "INSERT INTO north_mod_users.users VALUES ($1, $2, $3, $4)", row.id, *values)

    found = await checker.compare("north", ledger)

    assert (len(found.lost), len(found.damaged), len(found.twice)) == (lost, damaged, twice)


async def test_the_checker_sees_a_row_that_nobody_wrote(database: tuple[Checker, str]) -> None:
    checker, dsn = database
    await execute(dsn, "INSERT INTO north_mod_loans.loans VALUES ($1, $1, 'book', 1)", uuid4())
    assert len((await checker.compare("north", Ledger())).damaged) == 1


async def test_the_checker_sees_a_column_that_was_left_behind(database: tuple[Checker, str]) -> None:
    checker, dsn = database
    before = await checker.structure("north")
    await execute(dsn, "ALTER TABLE north_mod_users.users ADD COLUMN names jsonb")
    assert await checker.structure("north") != before
