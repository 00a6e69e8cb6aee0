"""How long a run stands still once a part that was killed is back: from ready again to the next thing in the run's history."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from statistics import median

import aiohttp
import psutil
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError

from bench.figures import Figures, percentile
from bench.progress import Progress
from bench.stack import BenchError, Site, module_command

_PRODUCT = "mod-recovery"
_MODULE = f"{_PRODUCT}-1.0.0"
_PARTS = ("worker", "gateway", "temporal", "postgres")
_INSTANCE = "new instance"
_TIMES = 7
_LOOK = 0.01
_PATIENCE = 120.0


async def measure(site: Site, progress: Progress, *, quick: bool) -> list[Figures]:
    """Kill -9 each part in turn while a tenant-init job is followed; the job is over while the part is away."""
    times = 3 if quick else _TIMES
    client = await site.temporal()
    await _register(site)
    components = (*_PARTS, _INSTANCE)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in components}
    with progress.of(f"recovery: {len(components)} parts, {times} kills each", times * len(components)) as step:
        for number in range(times):
            for name in components:
                tenant = f"recovery{number}{name.replace(' ', '')}"
                found[name].append(await _killed(site, client, name, tenant))
                step()
    return [
        Figures(
            title="Recovery: kill -9 while a tenant-init job is followed",
            columns=("killed", "kills", "away p50 s", "back to run goes on p50 s", "max s"),
            rows=tuple(_row(name, values) for name, values in found.items()),
            note="Away: until it is ready again. A killed worker's step is known to be lost when its heartbeat is 5 s late.",
            values=tuple(
                {"killed": name, "away": [away for away, _ in values], "goes_on": [goes_on for _, goes_on in values]}
                for name, values in found.items()
            ),
        )
    ]


async def _register(site: Site) -> None:
    """A module whose tenant init is a job, and a tenant that keeps an instance of it running."""
    tenant_init = [
        {"methods": ["POST"], "pathPattern": "/_/tenant"},
        {"methods": ["GET", "DELETE"], "pathPattern": "/_/tenant/{id}"},
    ]
    await site.call(
        "POST",
        "/_/proxy/modules",
        {
            "id": _MODULE,
            "provides": [{"id": "_tenant", "version": "2.0", "interfaceType": "system", "handlers": tenant_init}],
            "launchDescriptor": {"exec": f"{sys.executable} {module_command(_MODULE, site.log)}"},
            "metadata": {"uplift": {"undo": "module"}},
        },
    )
    await site.call("POST", "/_/proxy/tenants", {"id": "recoverypilot"})
    await site.call("POST", "/_/proxy/tenants/recoverypilot/install", [{"id": _MODULE, "action": "enable"}])


async def _killed(site: Site, client: Client, name: str, tenant: str) -> tuple[float, float]:
    """Kill one part under one job: the seconds that it was away, and those from then until the run went on."""
    await site.call("POST", "/_/proxy/tenants", {"id": tenant})
    path = f"/_/proxy/tenants/{tenant}/install"
    await site.call("POST", f"{path}?async=true&tenantParameters=job=1", [{"id": _MODULE, "action": "enable"}])
    row = (await site.call("GET", path))[-1]
    run = client.get_workflow_handle(f"{row['id']}/1-{_PRODUCT}")
    await _until(lambda: _follows(run), f"{run.id} does not follow its job")
    back = await (_kill_instance(site) if name == _INSTANCE else _kill_part(site, name))
    killed = time.time()
    site.gate(_MODULE, tenant).touch()
    await _until(back, f"{name} is not back")
    ready = time.time()
    await _until(lambda: _ended(site, f"{path}/{row['id']}"), f"job {row['id']} does not end after {name} was killed")
    goes_on = await _first_event(run, after=killed)
    return ready - killed, max(0.0, goes_on - ready)


async def _kill_part(site: Site, name: str) -> Callable[[], Awaitable[bool]]:
    """Kill a part of the stack; what is returned tells whether it is ready again, as its supervisor says."""
    before = {part.name: part.restarts for part in site.stack.record.parts}[name]
    site.stack.kill(name)

    async def back() -> bool:
        part = next(part for part in site.stack.record.parts if part.name == name)
        return part.restarts > before and part.condition == "ready"

    return back


async def _kill_instance(site: Site) -> Callable[[], Awaitable[bool]]:
    """Kill the module's process; what is returned tells whether the gateway knows another one."""
    before = (await site.call("GET", f"/_/versions/{_MODULE}"))["instances"][0]["generation"]
    words = set(module_command(_MODULE, site.log).split()) - {"%p"}
    pids = [process.pid for process in psutil.process_iter(["cmdline"]) if words <= set(process.info["cmdline"] or [])]
    if not pids:
        raise BenchError(f"no process of {_MODULE} is there to be killed")
    for pid in pids:
        os.kill(pid, signal.SIGKILL)

    async def back() -> bool:
        instances = (await site.call("GET", f"/_/versions/{_MODULE}"))["instances"]
        return any(each["generation"] != before for each in instances)

    return back


async def _follows(run: WorkflowHandle[object, object]) -> bool:
    with contextlib.suppress(RPCError):
        pending = (await run.describe()).raw_description.pending_activities
        started = PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
        return any(each.activity_type.name == "tenant_init.follow" and each.state == started for each in pending)
    return False


async def _ended(site: Site, path: str) -> bool:
    with contextlib.suppress(OSError, aiohttp.ClientError, BenchError):  # the gateway may have been killed
        row = await site.call("GET", path)
        if row["complete"] and row["status"] != "done":
            raise AssertionError(f"{path} ended as {row['outcome']}: {row['errors']}")
        return bool(row["complete"])
    return False


async def _first_event(run: WorkflowHandle[object, object], *, after: float) -> float:
    """When the first thing happened in a run after a moment, in seconds since the epoch, as Temporal wrote it down."""
    events = (await run.fetch_history()).events
    moments = [each.event_time.seconds + each.event_time.nanos / 1e9 for each in events]
    return next(moment for moment in moments if moment > after)


async def _until(true: Callable[[], Awaitable[bool]], what: str) -> None:
    try:
        async with asyncio.timeout(_PATIENCE):
            while not await true():
                await asyncio.sleep(_LOOK)
    except TimeoutError as error:
        raise BenchError(f"{what}, for {_PATIENCE:g} s") from error


def _row(name: str, values: list[tuple[float, float]]) -> tuple[str, ...]:
    away, goes_on = [each for each, _ in values], sorted(each for _, each in values)
    return (name, str(len(values)), f"{median(away):.2f}", f"{percentile(goes_on, 50):.2f}", f"{goes_on[-1]:.2f}")
