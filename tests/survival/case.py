"""A run of a tenant whose users write, to be stopped somewhere, and what must be true of it afterwards."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.survival.moments import Case, Moment
from tests.survival.platform import PATIENCE, Platform
from tests.survival.writer import Writer
from uplift_cli.demo.check import Checker

DONE = ("done", "done_with_warnings")
KEPT = "switched before, and kept: "
"""What a job says that was aborted after its switch."""


@dataclass(kw_only=True)
class Run:
    """The job of a case."""

    job: str = ""


@asynccontextmanager
async def tenant_of(platform: Platform, moment: Moment, neighbour: Writer) -> AsyncIterator[tuple[Case, Run]]:
    """A tenant on the old version whose users write, as the neighbour's do; afterwards everything is as before."""
    tenant, run = await platform.tenant(), Run()
    old, new = f"mod-users-{moment.since}", f"mod-users-{moment.version}"
    await platform.install(tenant, old)
    writer = Writer(caller=platform.caller, tenant=tenant)

    async def begin() -> None:
        run.job = await platform.begin(tenant, new)

    platform.proxy.seen.clear()
    neighbour.failures.clear()
    neighbour.start()
    writer.start()
    try:
        yield Case(platform=platform, tenant=tenant, old=old, new=new, writer=writer, begin=begin), run
    finally:
        platform.caller.kill_under_way = True
        platform.proxy.clear()
        await writer.stop()
        await neighbour.stop()
        platform.caller.kill_under_way = False
    # Where the case failed the stack is given up, and looked at as it is.
    await platform.remove(tenant)


async def still_written(*writers: Writer) -> None:
    """Wait until each has written something more."""
    goals = [writer.acknowledged + 3 for writer in writers]
    async with asyncio.timeout(PATIENCE):
        while any(writer.acknowledged < goal for writer, goal in zip(writers, goals, strict=True)):
            await asyncio.sleep(0.1)


async def check_record(case: Case, job: dict[str, Any], *, error: str = "") -> None:
    """The job's record tells the truth; `error`: what its first error is to say."""
    done = job["outcome"] in DONE
    enabled = [row["id"] for row in await case.platform.ok("GET", f"/_/proxy/tenants/{case.tenant}/modules")]
    assert enabled == [case.new if switched(job) else case.old]
    assert job["status"] == ("done" if done else "error")
    assert bool(job.get("errors")) is not done
    if error:
        assert error in job["errors"][0]["message"]


async def check_data(case: Case, job: dict[str, Any], moment: Moment, checker: Checker, structure: tuple[str, ...]) -> None:
    """Tenant init took effect once, or not at all; every acknowledged write is there."""
    await case.writer.stop()
    findings = await checker.compare(case.tenant, case.writer.ledger, loans=False)
    assert findings.good, findings.sentences
    async with case.platform.connection() as connection:
        effective = [
            row["version"] for row in await connection.fetch(f"select version from {case.schema}.migrations order by number")
        ]
    if switched(job):
        assert effective == [moment.since, moment.version]
    else:
        in_reverse = [moment.since, moment.version, moment.since]
        assert effective in ([moment.since], in_reverse if moment.version == "2.2.0" else [moment.since])
        if moment.version != "2.2.0":  # a copy gives the columns back in their order, the reverse migration does not
            assert await checker.structure(case.tenant) == structure


def switched(job: dict[str, Any]) -> bool:
    """Whether the tenant is on the new version by what the job says: it is done, or was aborted too late."""
    return job["outcome"] in DONE or (job["outcome"] == "aborted" and KEPT in job["errors"][0]["message"])


async def check_neighbour(neighbour: Writer, checker: Checker, *, spared: bool = True) -> None:
    """Another tenant on the old version lost nothing, and had no failed request where it was spared."""
    await neighbour.stop()
    if spared:
        assert neighbour.failures == []
    findings = await checker.compare(neighbour.tenant, neighbour.ledger, loans=False)
    assert findings.good, findings.sentences


__all__ = ["DONE", "KEPT", "Run", "check_data", "check_neighbour", "check_record", "still_written", "switched", "tenant_of"]
