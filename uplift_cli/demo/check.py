"""Looks into the modules' database itself: nothing that a module or the gateway says is believed."""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from uplift_cli.demo.ledger import Ledger, Table, Version

_STRUCTURE = """
SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname LIKE $1
UNION ALL
SELECT format('column %s.%s %s %s %s null=%s default=%s', table_schema, table_name,
              row_number() OVER (PARTITION BY table_schema, table_name ORDER BY ordinal_position),
              column_name, data_type, is_nullable, column_default)
FROM information_schema.columns WHERE table_schema LIKE $1
UNION ALL
SELECT format('index %s.%s %s', schemaname, tablename, indexdef) FROM pg_indexes WHERE schemaname LIKE $1
UNION ALL
SELECT format('constraint %s %s %s', conrelid::regclass, conname, pg_get_constraintdef(pg_constraint.oid))
FROM pg_constraint JOIN pg_namespace ON pg_namespace.oid = connamespace WHERE nspname LIKE $1
UNION ALL
SELECT format('trigger %s.%s %s', event_object_schema, event_object_table, trigger_name)
FROM information_schema.triggers WHERE event_object_schema LIKE $1
ORDER BY 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a comparison of ledger and database gave; each finding is a sentence.

    Attributes:
        acknowledged: Writes that were answered as done until then.
        rows: Rows that were compared.
        lost: Rows that are not there, or are as before an acknowledged write.
        damaged: Rows whose content nobody wrote, or that nobody wrote at all.
        twice: Writes that are there more than once.
    """

    acknowledged: int
    rows: int
    lost: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    twice: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether everything is as it was acknowledged."""
        return not (self.lost or self.damaged or self.twice)

    @property
    def sentences(self) -> tuple[str, ...]:
        """All findings."""
        return self.lost + self.damaged + self.twice


class Checker:
    """Reads tenants' schemas.

    Args:
        dsn: The modules' database.
    """

    def __init__(self, *, dsn: str) -> None:
        self._dsn = dsn

    async def compare(self, tenant: str, ledger: Ledger, *, loans: bool = True) -> Findings:
        """Every acknowledged write of a tenant with what its tables hold. Writers may go on meanwhile.

        Args:
            tenant: Whose tables.
            ledger: What its writers were told.
            loans: Whether it has mod-loans.
        """
        acknowledged = ledger.acknowledged_writes
        connection = await asyncpg.connect(self._dsn)
        try:
            users_due = ledger.users.acknowledged_places()
            users = await self._users(connection, f"{tenant}_mod_users")
            found = _compare(f"{tenant} user", ledger.users, users_due, users)
            loans_due = ledger.loans.acknowledged_places()
            rows = await connection.fetch(f"SELECT id, seq, user_id, item FROM {tenant}_mod_loans.loans") if loans else []  # noqa: S608
            lent = [(row["id"], Version(seq=row["seq"], content=(str(row["user_id"]), row["item"]))) for row in rows]
            more = _compare(f"{tenant} loan", ledger.loans, loans_due, lent)
        finally:
            await connection.close()
        return Findings(
            acknowledged=acknowledged,
            rows=len(users) + len(lent),
            lost=found.lost + more.lost,
            damaged=found.damaged + more.damaged,
            twice=found.twice + more.twice,
        )

    async def structure(self, tenant: str) -> tuple[str, ...]:
        """The tenant's schemas: their columns, indexes, constraints and triggers, a line each, in order."""
        connection = await asyncpg.connect(self._dsn)
        try:
            return tuple(row[0] for row in await connection.fetch(_STRUCTURE, tenant.replace("_", r"\_") + r"\_%"))
        finally:
            await connection.close()

    async def half_changed(self, tenant: str) -> bool:
        """Whether a split of users' names is under way: the old column is still there and the new ones already are."""
        connection = await asyncpg.connect(self._dsn)
        try:
            columns = await _columns(connection, f"{tenant}_mod_users")
        finally:
            await connection.close()
        return {"name", "first_name", "last_name"} <= columns

    async def _users(self, connection: asyncpg.Connection, schema: str) -> list[tuple[UUID, Version]]:
        if "name" in await _columns(connection, schema):
            rows = await connection.fetch(f"SELECT id, seq, name FROM {schema}.users")  # noqa: S608
            return [(row["id"], Version(seq=row["seq"], content=(row["name"],))) for row in rows]
        rows = await connection.fetch(f"SELECT id, seq, first_name, last_name FROM {schema}.users")  # noqa: S608
        return [(row["id"], Version(seq=row["seq"], content=(_joined(row["first_name"], row["last_name"]),))) for row in rows]


def _joined(first: str | None, last: str | None) -> str:
    """The name that was split at its first blank; anything else that stands there is shown as it is, and differs."""
    return f"{first!r} + {last!r}" if first is None or " " in first else first if last is None else f"{first} {last}"


async def _columns(connection: asyncpg.Connection, schema: str) -> set[str]:
    rows = await connection.fetch(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = $1 AND table_name = 'users'", schema
    )
    return {row["column_name"] for row in rows}


def _compare(what: str, table: Table, due: dict[UUID, int], found: Iterable[tuple[UUID, Version]]) -> Findings:
    """Rows that must be there (`due`, noted before reading) with what was found; anything newer that was sent is fine too."""
    lost, damaged, twice = list[str](), list[str](), list[str]()
    seen_ids, seen_seqs, rows = set[UUID](), set[int](), 0
    for row_id, version in found:
        rows += 1
        row = table.rows.get(row_id)
        if row_id in seen_ids or version.seq in seen_seqs:
            twice.append(f"{what} {row_id}: write {version.seq} is there twice")
        seen_ids.add(row_id)
        seen_seqs.add(version.seq)
        if row is None or version not in row.sent:
            damaged.append(f"{what} {row_id} holds {version}, which nobody wrote")
        elif not row.holds(version, since=due.get(row_id, 0)):
            lost.append(f"{what} {row_id} is at write {version.seq}, but {row.sent[due[row_id]].seq} was acknowledged")
    lost += [f"{what} {row_id} is not there, but was acknowledged" for row_id in due if row_id not in seen_ids]
    return Findings(acknowledged=0, rows=rows, lost=tuple(lost), damaged=tuple(damaged), twice=tuple(twice))
