"""From the POST of a job to the start of its workflow."""

from bench.figures import Figures, milliseconds, percentile
from bench.jobs import enable
from bench.progress import Progress
from bench.stack import Site

_JOBS = 30


async def measure(site: Site, progress: Progress, *, quick: bool) -> list[Figures]:
    """Jobs one at a time; the start is what Temporal wrote down, by this machine's clock."""
    number = 5 if quick else _JOBS
    names = await site.tenants("start", number)
    module = await site.next_version()
    with progress.of(f"job POST to workflow start: {number} jobs", number) as step:
        done, _ = await enable(site, names, module, parallel=1, seconds=0, undo="module", step=step)
    client = await site.temporal()
    waits = []
    for job in done:
        description = await client.get_workflow_handle(job.job).describe()
        waits.append(description.start_time.timestamp() - job.posted)
    waits.sort()
    shown = (percentile(waits, 50), percentile(waits, 99), waits[0])
    return [
        Figures(
            title="Job POST to workflow start, one job at a time",
            columns=("jobs", "p50 ms", "p99 ms", "least ms"),
            rows=((str(len(waits)), *(milliseconds(value) for value in shown)),),
            values=({"seconds": waits},),
        )
    ]
