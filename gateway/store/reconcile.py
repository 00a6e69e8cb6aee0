"""What reconcile runs read and repair. Each repair looks at its condition again in the statement that carries it out.

Repairs answer whether it is as they want it, also where it was so before: the answer of the attempt that did it may be lost.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gateway.store.database import Connection, Database
from upgrade_core.reconcile import Bound, Claim, Deployed, HeldLink, Intent, Ledger, OpenJob, Overlay, Snapshot, Stale

_MOST = 2_000  # rows of a kind; a run that finds so many is not the last one
_HEARD_OF = 7 * 86_400.0  # seconds; a node that nobody hears of for a week, and that has no instances, is gone
_ALIVE_FOR = 300.0  # seconds; a worker says every minute that it is there
_SETTLED = (  # a job that has ended is opened again only to settle its holds
    "not exists (select 1 from jobs j where j.id = {job} and j.state <> 'ended')"
    " and not exists (select 1 from holds h where h.job = {job})"
)
_ALIVE = (
    "exists (select 1 from instances n where n.id = i.instance"
    " and (i.generation is null or n.generation is null or n.generation = i.generation))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileRow:
    """The one row: what was asked for and not reported yet, and the last report as JSON."""

    request: str | None
    repair: bool
    since: datetime | None
    started: bool
    report: dict[str, Any] | None
    reported: datetime | None


class ReconcileStore:
    """Rows that reconcile runs compare, and their own."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ledger(self) -> Ledger:
        """Everything that is compared, as of one moment."""
        async with self._database.connection() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            return await _ledger(connection)

    async def heard_of(self, node: str) -> None:
        """A worker runs on a node."""
        async with self._database.connection() as connection:
            await connection.execute("insert into workers (node) values ($1) on conflict (node) do update set seen = now()", node)

    async def living(self) -> list[str]:
        """The nodes whose workers were heard of a moment ago, by name."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                "select node from workers where seen > now() - make_interval(secs => $1) order by node", _ALIVE_FOR
            )
        return [row["node"] for row in rows]

    async def give_back(self, *, module: str, job: str) -> bool:
        """Remove the claim of an ended job; False if it stands, since the job has not ended or left a hold."""
        async with self._database.connection() as connection:
            await connection.execute(
                f"delete from claims where module = $1 and job = $2 and {_SETTLED.format(job='$2')}",  # noqa: S608
                module, job,
            )  # fmt: skip
            return not await connection.fetchval(
                "select exists (select 1 from claims where module = $1 and job = $2)", module, job
            )

    async def end_intent(self, *, key: str, job: str) -> bool:
        """End a tenant init whose job has ended and left no hold, and whose process is not registered; False if it goes on."""
        async with self._database.connection() as connection:
            await connection.execute(
                f"update intents i set state = 'ended', ended = now() where key = $1 and job = $2 and state <> 'ended'"  # noqa: S608
                f" and {_SETTLED.format(job='i.job')} and not {_ALIVE}"
                " and not exists (select 1 from holds h where h.tenant = i.tenant and h.product = i.product)",
                key, job,
            )  # fmt: skip
            return not await connection.fetchval(
                "select exists (select 1 from intents where key = $1 and job = $2 and state <> 'ended')", key, job
            )

    async def close_overlay(self, *, product: str, job: str) -> tuple[str | None, bool]:
        """Nothing new goes through an overlay that an ended job left; its token, if it is to be forgotten, and if one stays."""
        async with self._database.connection() as connection:
            token: str | None = await connection.fetchval(
                "update overlays set state = 'closing' where job = $1 and product = $2 and state in ('open', 'closing')"  # noqa: S608
                f" and {_SETTLED.format(job='$1')} returning token",
                job, product,
            )  # fmt: skip
            stays: bool = token is None and await connection.fetchval(
                "select exists (select 1 from overlays where job = $1 and product = $2 and state in ('open', 'closing'))",
                job, product,
            )  # fmt: skip
        return token, stays

    async def keep_snapshot(self, *, snapshot: str, seconds: float) -> bool:
        """Begin the time of a copy whose job has ended and left no hold; False if it has not begun."""
        async with self._database.connection() as connection:
            await connection.execute(
                "update snapshots s set expires = now() + make_interval(secs => $2) where id = $1 and expires is null"  # noqa: S608
                f" and {_SETTLED.format(job='s.job')}",
                snapshot, seconds,
            )  # fmt: skip
            return not await connection.fetchval(
                "select exists (select 1 from snapshots where id = $1 and expires is null)", snapshot
            )

    async def ask(self, request: str, *, repair: bool) -> None:
        """Ask for a run; one that was asked for and has not begun gives way."""
        async with self._database.connection() as connection:
            await connection.execute(
                "update reconcile set request = $1, repair = $2, since = now(), started = false", request, repair
            )

    async def set_started(self, request: str) -> None:
        """Its run is at Temporal."""
        async with self._database.connection() as connection:
            await connection.execute("update reconcile set started = true where request = $1", request)

    async def report(self, connection: Connection, report: dict[str, Any], *, request: str) -> None:
        """Keep a report; what it answers is not asked for any more."""
        await connection.execute("update reconcile set report = $1, reported = now()", report)
        await connection.execute("update reconcile set request = null, since = null, started = false where request = $1", request)

    async def row(self) -> ReconcileRow:
        """What is asked for, and the last report."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow("select request, repair, since, started, report, reported from reconcile")
        assert row is not None
        return ReconcileRow(**dict(row))

    async def last(self, connection: Connection) -> dict[str, Any] | None:
        """The last report, its row locked for the transaction."""
        found: dict[str, Any] | None = await connection.fetchval("select report from reconcile for update")
        return found


async def _ledger(connection: Connection) -> Ledger:
    jobs = await connection.fetch("select id, started from jobs where state <> 'ended' order by position")
    claims = await connection.fetch("select module, job from claims order by module, job")
    intents = await connection.fetch(
        f"select key, job, tenant, product, module, {_ALIVE} as alive from intents i where state <> 'ended'"  # noqa: S608
        " order by key"
    )
    overlays = await connection.fetch(
        "select job, tenant, product from overlays where state in ('open', 'closing') order by job, product"
    )
    holds = await connection.fetch("select id, job, tenant, product from holds where job is not null order by id")
    instances = await connection.fetch(
        "select id, module, node, coalesce(generation, '') as generation from instances where node is not null order by id"
    )
    bound = await connection.fetch(
        "select module, count(*)::int as tenants, (array_agg(tenant order by tenant))[1:4] as some,"
        " exists (select 1 from instances i where i.module = b.module) as served from bindings b group by module order by module"
    )
    stale = await connection.fetch(
        "select b.module, d.module as data, count(*)::int as tenants, (array_agg(b.tenant order by b.tenant))[1:4] as some"
        " from bindings b join data_versions d using (tenant, product) where b.module <> d.module"
        " and not exists (select 1 from jobs j where j.tenant = b.tenant and j.state <> 'ended')"
        " group by b.module, d.module order by b.module, d.module limit $1",
        _MOST,
    )
    snapshots = await connection.fetch(
        "select id, job, node, false as kept from snapshots where expires is null order by id limit $1", _MOST
    )
    retiring = await connection.fetch("select module from retirements order by module")
    asked_for = await connection.fetch("select module from deployments order by module")
    nodes = await connection.fetch(
        "select node from workers where seen > now() - make_interval(secs => $1)"
        " union select node from instances where node is not null order by node",
        _HEARD_OF,
    )
    oldest = await connection.fetchval(
        "select coalesce(extract(epoch from now() - min(start_date)), 0)::float8 from jobs where state <> 'ended'"
    )
    return Ledger(
        jobs=tuple(OpenJob(**dict(row)) for row in jobs),
        claims=tuple(Claim(**dict(row)) for row in claims),
        intents=tuple(Intent(**dict(row)) for row in intents),
        overlays=tuple(Overlay(**dict(row)) for row in overlays),
        holds=tuple(HeldLink(**dict(row)) for row in holds),
        instances=tuple(Deployed(**dict(row)) for row in instances),
        bound=tuple(Bound(**dict(row) | {"some": tuple(row["some"])}) for row in bound),
        stale=tuple(Stale(**dict(row) | {"some": tuple(row["some"])}) for row in stale),
        snapshots=tuple(Snapshot(**dict(row)) for row in snapshots),
        retiring=tuple(row["module"] for row in retiring),
        asked_for=tuple(row["module"] for row in asked_for),
        nodes=tuple(row["node"] for row in nodes),
        oldest_job=oldest,
    )
