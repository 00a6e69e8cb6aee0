"""How long a tenant is held beyond its module's own init, with a copy of its data and without, in turns."""

import asyncpg

from bench.figures import Figures, milliseconds, percentile
from bench.jobs import Done, enable
from bench.progress import Progress
from bench.stack import PRODUCT, Site

_INIT = 0.2
_PAIRS = 50
_ROWS = 5_000
_FILL = f"insert into {{schema}}.things select n, repeat(md5(n::text), 6) from generate_series(1, {_ROWS}) n"


async def measure(site: Site, progress: Progress, *, quick: bool) -> list[Figures]:
    """Upgrade tenants one at a time, every other with a snapshot."""
    pairs = 5 if quick else _PAIRS
    progress.say("held time: making tenants and their data")
    plain, copied = await site.tenants("plain", pairs), await site.tenants("copied", pairs)
    megabytes = await _fill(site, copied)
    module = await site.next_version()
    for tenants in (plain, copied):
        with progress.of(f"held time: {len(tenants)} tenants to {module}", len(tenants)) as step:
            await enable(site, tenants, module, parallel=8, seconds=0, undo="module", step=step)
    module = await site.next_version()
    done: dict[str, list[Done]] = {"module": [], "snapshot": []}
    used = site.watch()
    with progress.of(f"held time: {pairs} pairs", 2 * pairs) as step:
        for pair in zip(plain, copied, strict=True):
            for tenant, undo in zip(pair, done, strict=True):
                found, _ = await enable(site, [tenant], module, parallel=1, seconds=_INIT, undo=undo, step=step)
                done[undo] += found
    others = used().disturbance
    names = {"module": "none", "snapshot": f"{megabytes:.1f} MB"}
    return [
        Figures(
            title="Held time beyond the module's own init, one tenant at a time",
            columns=("snapshot", "jobs", "p50 ms", "p99 ms", "least ms", "job p50 ms", "others' cores"),
            rows=tuple(_row(names[undo], found, others) for undo, found in done.items()),
            note="Aim: ≤ 250 ms p50 without a snapshot. Pairs in turn: one tenant without, one with.",
            values=tuple({"undo": undo, "beyond": [job.beyond for job in found]} for undo, found in done.items()),
        )
    ]


async def _fill(site: Site, tenants: list[str]) -> float:
    """Give tenants a schema with a table; the size of one in MB."""
    connection = await asyncpg.connect(site.stack.modules_dsn)
    try:
        for tenant in tenants:
            schema = f"{tenant}_{PRODUCT.replace('-', '_')}"
            await connection.execute(f"create schema {schema}; create table {schema}.things (id int primary key, fill text)")
            await connection.execute(_FILL.format(schema=schema))
        return float(await connection.fetchval("select pg_total_relation_size($1::regclass)", f"{schema}.things")) / 1e6
    finally:
        await connection.close()


def _row(name: str, done: list[Done], others: float) -> tuple[str, ...]:
    beyond, jobs = sorted(job.beyond for job in done), sorted(job.took for job in done)
    shown = (percentile(beyond, 50), percentile(beyond, 99), beyond[0], percentile(jobs, 50))
    return (name, str(len(done)), *(milliseconds(value) for value in shown), f"{others:.2f}")
