"""A tenant with a whole release of FOLIO goes to the next one by one job (requirements B7, D1-D3).

The descriptors are FOLIO's own; one process stands for all modules (`tests/platforms/release.py`) and really keeps a schema per
tenant and module. Each module's version knows only data of its own version: what reached the wrong one would answer 500.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.folio import FOLIO, release, wires
from tests.ports import free_port
from upgrade_core.enabled import Enabled
from upgrade_core.ids import product_of

pytestmark = pytest.mark.skipif(not FOLIO.exists(), reason=f"no descriptors of FOLIO in {FOLIO}")

ROOT = Path(__file__).parents[2]
PLATFORM = ROOT / "tests" / "platforms" / "release.py"
POPPY, QUESNELIA = "R2-2023-poppy.json", "R1-2024-quesnelia.json"
LONG = 1_500.0
"""Seconds that a job of a whole release may take on a slow machine."""
CONFIG = """
[gateway]
settle = 0.5
[deploy]
external_wait = 5
[init]
quiet = 1
[reconcile]
settle = 1
interval = 3600
"""


@dataclass
class World:
    """A stack with both releases registered, and the process that is all of their modules."""

    stack: Any
    log: Path
    built_in: str
    took: dict[str, float] = field(default_factory=dict)

    async def tenant(self, *modules: str) -> str:
        """A new tenant with these modules enabled."""
        tenant: str = await self.stack.tenant()
        job, seconds = await self.run(tenant, [self.built_in, *modules])
        assert job["outcome"] == "done", job["errors"]
        self.say(tenant, f"install of {len(modules)} modules", job, seconds)
        return tenant

    async def run(self, tenant: str, modules: Iterable[str], *, query: str = "") -> tuple[dict[str, Any], float]:
        """A job to its end, and how many seconds it took."""
        since = time.monotonic()
        path = await self.stack.begin(tenant, *modules, query=query)
        job = await self.stack.ended(path, within=LONG)
        return job, time.monotonic() - since

    def say(self, tenant: str, what: str, job: dict[str, Any], seconds: float) -> None:
        print(f"\n{tenant}: {what}: {job['outcome']} in {seconds:.1f} s, held {job['heldSeconds']:.1f} s", flush=True)

    def written(self, tenant: str, *events: str) -> list[dict[str, Any]]:
        """What the modules wrote down."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if line["tenant"] == tenant and line["event"] in events]

    async def plan(self, job: str) -> dict[str, Any]:
        """The plan that a job was begun with."""
        connection = await asyncpg.connect(self.stack.modules_dsn("uplift"))
        try:
            found: dict[str, Any] = json.loads(await connection.fetchval("select plan from jobs where id = $1", job))
        finally:
            await connection.close()
        return found

    async def spent(self, job: str) -> dict[str, tuple[int, float, float]]:
        """Activity to how often a job's groups did it, and seconds until it was picked up and then until it was done, in all."""
        temporal = await self.stack.temporal()
        found: dict[str, tuple[int, float, float]] = {}
        for group in (await self.plan(job))["groups"]:
            scheduled: dict[int, Any] = {}
            started: dict[int, Any] = {}
            async for event in temporal.get_workflow_handle(f"{job}/{group['key']}").fetch_history_events():
                at = event.event_time.ToDatetime()
                if event.HasField("activity_task_scheduled_event_attributes"):
                    scheduled[event.event_id] = (event.activity_task_scheduled_event_attributes.activity_type.name, at)
                elif event.HasField("activity_task_started_event_attributes"):
                    started[event.activity_task_started_event_attributes.scheduled_event_id] = at
                elif event.HasField("activity_task_completed_event_attributes"):
                    number = event.activity_task_completed_event_attributes.scheduled_event_id
                    name, since = scheduled[number]
                    count, waited, worked = found.get(name, (0, 0.0, 0.0))
                    begun = started[number]
                    found[name] = (count + 1, waited + (begun - since).total_seconds(), worked + (at - begun).total_seconds())
        return found

    async def data(self, tenant: str) -> dict[str, tuple[str, int, int]]:
        """Product to the module id that its data is at, its rows, and those among them that another version wrote."""
        found = {}
        connection = await asyncpg.connect(self.stack.modules_dsn())
        try:
            for module in await self.stack.enabled(tenant):
                schema = f"{tenant}_{product_of(module).replace('-', '_')}"
                if await connection.fetchval("select to_regclass($1)", f"{schema}.meta"):
                    at = await connection.fetchval(f"select module from {schema}.meta")
                    rows = await connection.fetch(f"select * from {schema}.records")
                    found[product_of(module)] = (at, len(rows), sum(row[1] != at for row in rows))
        finally:
            await connection.close()
        return found

    async def check_whole(self, tenant: str) -> None:
        """Everything enabled fits together, its data is of its version, and no module ever met data of another."""
        enabled = await self.stack.enabled(tenant)
        assert troubles(enabled) == []
        for product, (at, _, mixed) in (await self.data(tenant)).items():
            assert at in enabled, f"{product}: data at {at}"
            assert mixed == 0, product
        assert self.written(tenant, "wrong data") == []
        assert await self.stack.ok("GET", f"/_/lifecycle/links?tenant={tenant}") == []


def troubles(enabled: Iterable[str]) -> list[str]:
    """What does not fit; the built-in module provides what Okapi's does."""
    known = release(POPPY) | release(QUESNELIA) | {"okapi": next(iter(release("internal.json").values()))}
    return [each.text for each in Enabled(known.get(module, known["okapi"]) for module in enabled).all_troubles()]


def backend(name: str) -> list[str]:
    """The modules of a release that are asked over HTTP, in its order."""
    return [module for module in release(name) if module.startswith(("mod-", "edge-"))]


def oracle(name: str) -> dict[str, Any]:
    """A recorded answer of real Okapi."""
    found: dict[str, Any] = json.loads((FOLIO / "oracle" / f"{name}.json").read_bytes())
    return found


@pytest.fixture(scope="module")
async def world(stacks: Any) -> AsyncIterator[World]:
    async with stacks(CONFIG) as stack:
        log, port = stack.home / "release.jsonl", free_port()
        log.touch()
        process = await asyncio.create_subprocess_exec(
            sys.executable, PLATFORM, "--port", str(port), "--dsn", stack.modules_dsn(), "--log", log,
            "--descriptors", FOLIO / POPPY, FOLIO / QUESNELIA, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            since = time.monotonic()
            found = wires(POPPY) + [wire for wire in wires(QUESNELIA) if wire["id"] not in release(POPPY)]
            await stack.ok("POST", "/_/proxy/import/modules?check=false", found)
            registered = time.monotonic()
            urls = {wire["id"]: f"http://127.0.0.1:{port}/{wire['id']}" for wire in found if not wire["id"].startswith("folio_")}
            for module, url in urls.items():
                await stack.ok("POST", "/_/discovery/modules", {"srvcId": module, "instId": module, "url": url})
            print(
                f"\n{len(found)} descriptors registered in {registered - since:.2f} s,"
                f" {len(urls)} instances in {time.monotonic() - registered:.2f} s"
            )
            (built_in,) = await stack.ok("GET", "/_/proxy/modules?filter=okapi")
            yield World(stack=stack, log=log, built_in=built_in["id"])
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


async def test_a_tenant_with_all_backend_modules_of_poppy_is_upgraded_to_quesnelia_by_one_job(world: World) -> None:
    """Requirement B7; order and groups are those of the plan, and what is enabled in the end is what Okapi had."""
    tenant = await world.tenant(*backend(POPPY))
    await world.check_whole(tenant)

    job, seconds = await world.run(tenant, backend(QUESNELIA))
    world.say(tenant, "upgrade to Quesnelia", job, seconds)

    assert job["outcome"].startswith("done"), job["errors"]
    print(Counter(len(group["changes"]) for group in (await world.plan(job["id"]))["groups"]))
    for name, (count, waited, worked) in (await world.spent(job["id"])).items():
        print(f"  {name}: {count} times, {waited / count:.3f} s until it began, {worked / count:.3f} s until it was done")
    await world.check_whole(tenant)
