"""Problems: what stands, since when, and the facts of the platform that are looked at for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from gateway.store.database import Connection, Database
from upgrade_core.problems import Problem, Severity

_COLUMNS = "key, kind, severity, message, remedy, module, tenant, job, since, resolved_at"
_MOOT = """
    (kind = 'closed' and not exists (select 1 from modules m where m.id = p.module))
    or (kind = 'overdue' and not exists (select 1 from holds h where p.key = 'overdue:' || h.id))
    or (kind = 'newer-blocked' and (
        not exists (select 1 from modules m where m.id = p.module)
        or not exists (select 1 from tenants t where t.id = p.tenant)
        or exists (select 1 from bindings b where b.tenant = p.tenant and b.module = p.module)))
    or (kind = 'database-restored' and since < now() - interval '1 day')
    or (kind = 'run-lost' and not exists (select 1 from holds h where h.job = p.job) and (
        not exists (select 1 from jobs j where j.id = p.job)
        or exists (select 1 from jobs j where j.id = p.job and j.state = 'ended' and j.resolution is not null)
        or exists (select 1 from problems left_behind where left_behind.kind = 'hold-left' and left_behind.job = p.job)))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemRow:
    """A problem with its times; `resolved_at` is None while it stands."""

    problem: Problem
    since: datetime
    resolved_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What is there, as of one transaction.

    Attributes:
        modules: Ids of the registered modules.
        bindings: Tenant to product to module id.
        busy: Tenants in the middle of a job.
        left: (hold, product, tenant, job, whether the job has ended) of holds that no run will open.
    """

    modules: frozenset[str]
    bindings: dict[str, dict[str, str]]
    busy: frozenset[str]
    left: tuple[tuple[str, str, str, str, bool], ...]


class ProblemStore:
    """Rows of problems. Changes happen in the caller's transaction, which also writes who is told."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def standing(self) -> list[ProblemRow]:
        """What stands, oldest first."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(f"select {_COLUMNS} from problems where resolved_at is null order by since, key")  # noqa: S608
        return [_row(row) for row in rows]

    async def standing_of(self, connection: Connection, kind: str) -> list[ProblemRow]:
        """What stands of one kind, by key."""
        rows = await connection.fetch(
            f"select {_COLUMNS} from problems where resolved_at is null and kind = $1 order by key",  # noqa: S608
            kind,
        )
        return [_row(row) for row in rows]

    async def open(self, connection: Connection, problems: Sequence[Problem]) -> list[ProblemRow]:
        """Open problems; one that stands gets the new text and nothing else.

        Returns:
            Those that did not stand before.
        """
        opened = []
        for each in sorted(problems, key=lambda problem: problem.key):
            values = (each.key, each.kind, each.severity, each.message, each.remedy, each.module, each.tenant, each.job)
            row = await connection.fetchrow(
                "insert into problems (key, kind, severity, message, remedy, module, tenant, job, since)"  # noqa: S608
                " values ($1, $2, $3, $4, $5, $6, $7, $8, clock_timestamp()) on conflict (key) do update"
                " set kind = $2, severity = $3, message = $4, remedy = $5, module = $6, tenant = $7, job = $8,"
                " since = excluded.since, resolved_at = null where problems.resolved_at is not null"
                f" returning {_COLUMNS}",
                *values,
            )
            if row is not None:
                opened.append(_row(row))
                continue
            await connection.execute(
                "update problems set kind = $2, severity = $3, message = $4, remedy = $5, module = $6, tenant = $7, job = $8"
                " where key = $1 and (severity, message, remedy) is distinct from ($3, $4, $5)",
                *values,
            )
        return opened

    async def resolve(self, connection: Connection, keys: Sequence[str]) -> list[ProblemRow]:
        """Those of the keys that stood and do not any more."""
        rows = await connection.fetch(
            "update problems set resolved_at = clock_timestamp() where key = any($1) and resolved_at is null"  # noqa: S608
            f" returning {_COLUMNS}",
            sorted(keys),
        )
        return [_row(row) for row in rows]

    async def resolve_moot(self, connection: Connection) -> list[ProblemRow]:
        """Resolve what is about something that is not there any more.

        That the database was restored stands for a day: nobody can tell when it was looked after.
        A lost run is over when the holds that it left are gone, or when what a person decided about it was carried out, which
        may be before anybody looked for holds; when it left none, once the record of its job is removed.
        """
        rows = await connection.fetch(
            "update problems p set resolved_at = clock_timestamp() where resolved_at is null"  # noqa: S608
            f" and ({_MOOT}) returning {_COLUMNS}"
        )
        return [_row(row) for row in rows]

    async def take_look(self, connection: Connection, *, unless_within: float | None) -> bool:
        """Be the one that looks, until the transaction ends.

        Args:
            connection: The transaction's.
            unless_within: Do not if somebody is looking or has looked within these seconds; None: wait for them, then look.

        Returns:
            Whether to look.
        """
        if unless_within is None:
            await connection.execute("select 1 from problem_looks for update")
        else:
            found = await connection.fetchval(
                "select looked < clock_timestamp() - make_interval(secs => $1) from problem_looks for update skip locked",
                unless_within,
            )
            if not found:
                return False
        await connection.execute("update problem_looks set looked = clock_timestamp()")
        return True

    async def world(self, connection: Connection) -> World:
        """What is there now."""
        bindings: dict[str, dict[str, str]] = {}
        # A row for each combination, not for each binding: tenants mostly have the same modules, and the data path waits for us.
        for row in await connection.fetch(
            "select array_agg(tenant) as tenants, products, modules from (select tenant, array_agg(product order by product)"
            " as products, array_agg(module order by product) as modules from bindings group by tenant) as each"
            " group by products, modules"
        ):
            bound = dict(zip(row["products"], row["modules"], strict=True))
            bindings |= dict.fromkeys(row["tenants"], bound)
        left = await connection.fetch(
            "select h.id, h.product, h.tenant, h.job, j.state = 'ended' as ended from holds h join jobs j on j.id = h.job"
            " where j.state = 'ended' or h.left_behind order by h.id"
        )
        return World(
            modules=frozenset(row["id"] for row in await connection.fetch("select id from modules")),
            bindings=bindings,
            busy=frozenset(row["tenant"] for row in await connection.fetch("select tenant from jobs where state = 'active'")),
            left=tuple((row["id"], row["product"], row["tenant"], row["job"], row["ended"]) for row in left),
        )

    async def descriptors(self, connection: Connection, modules: Sequence[str]) -> dict[str, str]:
        """Descriptor JSON of some modules by id."""
        rows = await connection.fetch("select id, descriptor from modules where id = any($1)", list(modules))
        return {row["id"]: row["descriptor"] for row in rows}

    async def forget(self, connection: Connection, *, older: float) -> None:
        """Remove what was resolved so many seconds ago."""
        await connection.execute("delete from problems where resolved_at < now() - make_interval(secs => $1)", older)


def _row(row: asyncpg.Record) -> ProblemRow:
    values: dict[str, Any] = dict(row)
    since, resolved_at = values.pop("since"), values.pop("resolved_at")
    return ProblemRow(
        problem=Problem(**values | {"severity": Severity(values["severity"])}), since=since, resolved_at=resolved_at
    )
