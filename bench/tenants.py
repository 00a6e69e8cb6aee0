"""100 tenants, one module: an upgrade of each tenant, several at a time."""

from collections.abc import Sequence

from bench.figures import Figures, milliseconds, percentile
from bench.jobs import Done, enable
from bench.progress import Progress
from bench.stack import Cpu, Site

_ALL = 100
_FEW = 25
"""Tenants where all of them would take minutes: one at a time, with an init of a second."""
_PARALLEL = (1, 8, 32)
_AIM = "Aim: 100 tenants in under 20 s at parallel 8 with an instant init; ≥ 7 tenants/s at parallel 8 with an init of 1 s."


async def measure(site: Site, progress: Progress, *, quick: bool) -> list[Figures]:
    """Upgrade them again and again, each time to a newer version."""
    number = 16 if quick else _ALL
    progress.say("100 tenants: making them")
    names = await site.tenants("t", number)
    rows: list[tuple[str, ...]] = []
    values: list[dict[str, object]] = []
    cpus: list[tuple[str, ...]] = []
    await _round(site, progress, names, parallel=8, seconds=0.0)
    for seconds in (0.0, 1.0):
        for parallel in _PARALLEL:
            few = names[: 4 if quick else _FEW] if parallel == 1 and seconds else names
            done, took, cpu = await _round(site, progress, few, parallel=parallel, seconds=seconds)
            rows.append(_row(done, took, cpu, parallel=parallel, seconds=seconds, number=number))
            values.append(_values(done, took, cpu, parallel=parallel, seconds=seconds))
            cpus.append(_cpu_row(cpu, len(done), parallel=parallel, seconds=seconds))
    return [
        Figures(
            title=f"{number} tenants, 1 module (upgrade, undo mode module)",
            columns=(
                "init",
                "parallel",
                f"s for {number}",
                "tenants/s",
                "job p50 / p99 s",
                "held beyond init p50 / p99 ms",
                "cores used",
                "others' cores",
            ),
            rows=tuple(rows),
            note=f"{_AIM} ~ from {_FEW} tenants.",
            values=tuple(values),
        ),
        Figures(
            title="CPU of one upgrade, ms",
            columns=("init", "parallel", "gateway", "worker", "temporal", "postgres", "module and bench", "all"),
            rows=tuple(cpus),
        ),
    ]


async def _round(
    site: Site, progress: Progress, names: Sequence[str], *, parallel: int, seconds: float
) -> tuple[list[Done], float, Cpu]:
    module = await site.next_version()
    with progress.of(f"{len(names)} tenants to {module}, init {seconds:g} s, parallel {parallel}", len(names)) as step:
        used = site.watch()
        done, took = await enable(site, names, module, parallel=parallel, seconds=seconds, undo="module", step=step)
        return done, took, used()


def _row(done: list[Done], took: float, cpu: Cpu, *, parallel: int, seconds: float, number: int) -> tuple[str, ...]:
    rate = len(done) / took
    beyond, jobs = sorted(job.beyond for job in done), sorted(job.took for job in done)
    scaled = "" if len(done) == number else "~"
    return (
        f"{seconds:g} s" if seconds else "instant",
        str(parallel),
        f"{scaled}{number / rate:.1f}",
        f"{rate:.1f}",
        f"{percentile(jobs, 50):.2f} / {percentile(jobs, 99):.2f}",
        f"{milliseconds(percentile(beyond, 50))} / {milliseconds(percentile(beyond, 99))}",
        f"{sum(cpu.parts.values()) / cpu.elapsed:.2f}",
        f"{cpu.disturbance:.2f}",
    )


def _cpu_row(cpu: Cpu, number: int, *, parallel: int, seconds: float) -> tuple[str, ...]:
    each = {name: used / number * 1000 for name, used in cpu.parts.items()}
    parts = (each["gateway"], each["worker"], each["temporal"], each["postgres"], each["rest"], sum(each.values()))
    return (f"{seconds:g} s" if seconds else "instant", str(parallel), *(f"{part:.1f}" for part in parts))


def _values(done: list[Done], took: float, cpu: Cpu, *, parallel: int, seconds: float) -> dict[str, object]:
    return {
        "init": seconds,
        "parallel": parallel,
        "tenants": len(done),
        "seconds": took,
        "job_seconds": [job.took for job in done],
        "held_beyond_init": [job.beyond for job in done],
        "cpu": cpu.parts,
        "others_cores": cpu.disturbance,
    }
