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
from itertools import cycle
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from tests.folio import FOLIO, release, wires
from tests.platforms.release import ROWS
from upgrade_core.enabled import Enabled
from upgrade_core.ids import product_of

pytestmark = pytest.mark.skipif(not FOLIO.exists(), reason=f"no descriptors of FOLIO in {FOLIO}")

ROOT = Path(__file__).parents[2]
PLATFORM = ROOT / "tests" / "platforms" / "release.py"
POPPY, QUESNELIA = "R2-2023-poppy.json", "R1-2024-quesnelia.json"
PART = frozenset(
    f"mod-{name}"
    for name in (
        "configuration", "di-converter-storage", "entities-links", "inventory-storage", "login", "permissions", "settings",
        "source-record-manager", "source-record-storage", "users",
    )
)  # fmt: skip
"""Products that have all that they require among them, in both releases."""
FAILS = "mod-inventory-storage-27.1.5"
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

    async def tenant(self, *modules: str, parallel: int = 8) -> str:
        """A new tenant with these modules enabled."""
        tenant: str = await self.stack.tenant()
        job, seconds = await self.run(tenant, [self.built_in, *modules], query=f"parallel={parallel}")
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

    async def cpu(self) -> dict[str, float]:
        """Part of the stack to the CPU seconds that it has used, its children included."""
        found = {}
        for part, row in (await self.stack.status()).items():
            if row["pid"]:
                process = psutil.Process(row["pid"])
                found[part] = 0.0
                for each in (process, *process.children(recursive=True)):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        times = each.cpu_times()
                        found[part] += times.user + times.system + times.children_user + times.children_system
        return found

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

    async def check_migrated_once(self, tenant: str) -> None:
        """However often tenant init was asked for: each migration took effect once."""
        connection = await asyncpg.connect(self.stack.modules_dsn())
        try:
            for product in await self.data(tenant):
                table = f"{tenant}_{product.replace('-', '_')}.migrations"
                rows = await connection.fetch(f"select to_ from {table} order by number")
                done = [row["to_"] for row in rows]
                assert len(done) == len(set(done)), (product, done)
        finally:
            await connection.close()

    async def check_whole(self, tenant: str) -> None:
        """Everything enabled fits together, its data is of its version, and no module ever met data of another."""
        enabled = await self.stack.enabled(tenant)
        assert troubles(enabled) == []
        for product, (at, _, mixed) in (await self.data(tenant)).items():
            assert at in enabled, f"{product}: data at {at}"
            assert mixed == 0, product
        assert self.written(tenant, "wrong data") == []
        assert await self.stack.holds(tenant) == []


def troubles(enabled: Iterable[str]) -> list[str]:
    """What does not fit; the built-in module provides what Okapi's does."""
    known = release(POPPY) | release(QUESNELIA) | {"okapi": next(iter(release("internal.json").values()))}
    return [each.text for each in Enabled(known.get(module, known["okapi"]) for module in enabled).all_troubles()]


def backend(name: str) -> list[str]:
    """The modules of a release that are asked over HTTP, in its order."""
    return only_backend(release(name))


def only_backend(modules: Iterable[str]) -> list[str]:
    return [module for module in modules if module.startswith(("mod-", "edge-"))]


def oracle(name: str) -> dict[str, Any]:
    """A recorded answer of real Okapi."""
    found: dict[str, Any] = json.loads((FOLIO / "oracle" / f"{name}.json").read_bytes())
    return found


@pytest.fixture(scope="module")
async def world(stacks: Any) -> AsyncIterator[World]:
    async with stacks(CONFIG) as stack:
        log = stack.home / "release.jsonl"
        log.touch()
        process = await asyncio.create_subprocess_exec(
            sys.executable, PLATFORM, "--dsn", stack.modules_dsn(), "--log", log,
            "--descriptors", FOLIO / POPPY, FOLIO / QUESNELIA, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            port = int(await process.stdout.readline())
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


def inits(group: dict[str, Any]) -> list[str]:
    """The modules of a plan's group that are asked for tenant init, in their order."""
    both = release(POPPY) | release(QUESNELIA)
    changes = [change["version_to"] for change in group["changes"]]
    return [module for module in changes if both[module].interface("_tenant") is not None]


def check_order(asked: list[str], plan: dict[str, Any], *, in_turn: bool) -> None:
    """Each module was asked for tenant init once, and none before those that its group comes after."""
    groups = {group["key"]: group for group in plan["groups"]}
    order = [module for group in groups.values() for module in inits(group)]
    assert sorted(asked) == sorted(order)
    if in_turn:
        assert asked == order
    for group in groups.values():
        own = inits(group)
        earlier = [module for key in group["after"] for module in inits(groups[key])]
        assert [module for module in asked if module in own] == own
        if own and earlier:
            assert max(map(asked.index, earlier)) < asked.index(own[0]), group["key"]


@dataclass
class Users:
    """People of a tenant who ask one module after the other and write down something everywhere, all the time."""

    world: World
    tenant: str
    paths: dict[str, str] = field(default_factory=dict)
    """Product to a path that can be read and written to."""
    written: Counter[str] = field(default_factory=Counter)
    asked: int = 0
    longest: float = 0.0
    faults: list[str] = field(default_factory=list)
    enough: asyncio.Event = field(default_factory=asyncio.Event)
    states: set[tuple[str, ...]] = field(default_factory=set)
    """What was enabled, whenever somebody looked."""

    @contextlib.asynccontextmanager
    async def at_work(self, people: int = 2) -> AsyncIterator["Users"]:
        """They work until the end of the block; then nothing may have failed, and everything that they wrote is there."""
        both = wires(POPPY) + wires(QUESNELIA)
        for module in await self.world.stack.enabled(self.tenant):
            versions = [writable(wire) for wire in both if product_of(wire["id"]) == product_of(module)]
            for path in sorted(set.intersection(*versions)) if versions else ():
                answer = await self.world.stack.ask(self.tenant, path)
                if answer.status_code == 200 and answer.json().get("totalRecords") and answer.json()["module"] == module:
                    self.paths[product_of(module)] = path
                    break
        assert self.paths
        tasks = [asyncio.create_task(self._work(number, people)) for number in range(people)]
        tasks.append(asyncio.create_task(self._look()))
        try:
            yield self
        finally:
            self.enough.set()
            await asyncio.gather(*tasks)
        print(f"{self.tenant}: {self.asked} requests to {len(self.paths)} modules, the longest took {self.longest:.1f} s")
        assert self.faults == []
        assert self.asked > len(self.paths)
        for product, (_, rows, _) in (await self.world.data(self.tenant)).items():
            assert rows == ROWS + self.written[product], product
        for state in self.states:
            assert troubles(state) == []

    async def _work(self, number: int, people: int) -> None:
        places = cycle(list(self.paths.items())[number::people])
        while not self.enough.is_set():
            product, path = next(places)
            for method, good in (("GET", 200), ("POST", 201)):
                since = time.monotonic()
                answer = await self.world.stack.ask(self.tenant, path, method)
                self.asked += 1
                self.longest = max(self.longest, time.monotonic() - since)
                if (
                    answer.status_code == good
                    and product_of(answer.json()["module"]) == product
                    and not answer.json().get("mixed")
                ):
                    self.written[product] += method == "POST"
                else:
                    self.faults.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
            await asyncio.sleep(0.1)

    async def _look(self) -> None:
        while not self.enough.is_set():
            self.states.add(tuple(await self.world.stack.enabled(self.tenant)))
            await asyncio.sleep(0.2)


def writable(wire: dict[str, Any]) -> set[str]:
    """Paths without variables that a module lets be read and written."""
    methods: dict[str, set[str]] = {}
    for interface in wire.get("provides", ()):
        if interface.get("interfaceType", "proxy") == "proxy":
            for handler in interface.get("handlers", ()):
                methods.setdefault(handler.get("pathPattern") or "", set()).update(handler["methods"])
    return {path for path, can in methods.items() if {"GET", "POST"} <= can and not set("{*") & set(path)}


async def upgraded(world: World, tenant: str, wanted: list[str], *, parallel: int = 1) -> dict[str, Any]:
    """A tenant upgraded by one job while its users work, as planned; gives the job."""
    stack = world.stack
    body = [{"id": module, "action": "enable"} for module in wanted]
    simulated = await stack.http.post(f"/_/proxy/tenants/{tenant}/install?simulate=true", json=body)
    digest, before = simulated.headers["X-Uplift-Plan"], len(world.written(tenant, "asked"))

    async with Users(world=world, tenant=tenant).at_work():
        job, seconds = await world.run(tenant, wanted, query=f"plan={digest}&parallel={parallel}")
    world.say(tenant, f"upgrade to {len(wanted)} modules, {parallel} groups at once", job, seconds)

    assert job["outcome"].startswith("done"), job["errors"]
    plan = await world.plan(job["id"])
    assert plan["digest"] == digest
    asked = [line["id"] for line in world.written(tenant, "asked")[before:]]
    check_order(asked, plan, in_turn=parallel == 1)
    assert [line["id"] for line in job["modules"]] == [line["id"] for line in simulated.json()]
    assert {line["stage"] for line in job["modules"]} == {"done"}
    await world.check_whole(tenant)
    return job


async def test_modules_that_must_move_together_are_upgraded_to_the_next_release(world: World) -> None:
    """Requirement B7: each of the last two versions needs `authority-source-files` as the other one's has it, and no other."""
    tenant = await world.tenant(*(module for module in release(POPPY) if product_of(module) in PART))

    job = await upgraded(world, tenant, [module for module in release(QUESNELIA) if product_of(module) in PART])

    groups = [[change["product"] for change in group["changes"]] for group in (await world.plan(job["id"]))["groups"]]
    assert sorted(groups[-1]) == ["mod-entities-links", "mod-source-record-manager"]
    assert {len(group) for group in groups[:-1]} == {1}


@pytest.mark.platform
@pytest.mark.timeout(2 * LONG)
@pytest.mark.parametrize("parallel", [1, 8])
async def test_a_tenant_with_all_backend_modules_of_poppy_is_upgraded_to_quesnelia_by_one_job(
    world: World, parallel: int
) -> None:
    """Requirement B7; order and groups are those of the plan, and what is enabled in the end is what Okapi had."""
    tenant = await world.tenant(*backend(POPPY), parallel=parallel)
    installed = [line["id"] for line in oracle("platform-install-poppy-real")["response"]]
    assert await world.stack.enabled(tenant) == sorted([world.built_in, *only_backend(installed)])
    await world.check_whole(tenant)

    before = await world.cpu()
    job = await upgraded(world, tenant, backend(QUESNELIA), parallel=parallel)
    changes = sum(len(group["changes"]) for group in (await world.plan(job["id"]))["groups"])
    print(
        ", ".join(f"{part} {(used - before[part]) / changes:.3f} s" for part, used in (await world.cpu()).items()),
        "of CPU a change",
    )
    for name, (count, waited, worked) in (await world.spent(job["id"])).items():
        print(f"  {name}: {count} times, {waited / count:.3f} s until it began, {worked / count:.3f} s until it was done")

    wanted = [line["id"] for line in oracle("platform-install-quesnelia")["response"]]
    assert await world.stack.enabled(tenant) == sorted([world.built_in, *only_backend(wanted)])
    theirs = {
        (line["id"], line["from"]) for line in oracle("platform-upgrade-poppy-quesnelia-upgrade")["response"] if "from" in line
    }
    ours = {(line["id"], line["from"]) for line in job["modules"] if "from" in line}
    assert ours == {(module, old) for module, old in theirs if only_backend([module])}


@pytest.mark.platform
@pytest.mark.timeout(2 * LONG)
async def test_a_module_that_fails_in_the_middle_is_undone_and_a_second_job_ends_the_upgrade(world: World) -> None:
    """Requirement D2, rolling: what was switched before stays, its group is as it was, and what comes later was not begun."""
    stack, tenant = world.stack, await world.tenant(*backend(POPPY))
    before, old = await world.data(tenant), await stack.enabled(tenant)

    async with Users(world=world, tenant=tenant).at_work() as users:
        wanted = backend(QUESNELIA)
        job, seconds = await world.run(tenant, wanted, query=f"tenantParameters=fail%3D{FAILS}")
        written = dict(users.written)
    world.say(tenant, f"upgrade in which {FAILS} fails", job, seconds)

    assert (job["status"], job["outcome"]) == ("error", "rolled_back")
    assert "breaks off half-way" in job["errors"][0]["message"]
    groups = [[change["version_to"] for change in group["changes"]] for group in (await world.plan(job["id"]))["groups"]]
    (place,) = [number for number, group in enumerate(groups) if FAILS in group]
    assert 0 < place < len(groups) - 1
    moved = {product_of(module): module for group in groups[:place] for module in group}
    assert await stack.enabled(tenant) == sorted(({product_of(module): module for module in old} | moved).values())
    product = product_of(FAILS)
    assert (await world.data(tenant))[product] == (before[product][0], ROWS + written.get(product, 0), 0)
    await world.check_whole(tenant)

    job, seconds = await world.run(tenant, wanted)
    world.say(tenant, "the rest", job, seconds)
    assert job["outcome"].startswith("done"), job["errors"]
    assert await stack.enabled(tenant) == sorted([world.built_in, *wanted])
    await world.check_whole(tenant)
    await world.check_migrated_once(tenant)


@pytest.mark.platform
@pytest.mark.timeout(3 * LONG)
async def test_an_atomic_upgrade_in_which_a_module_fails_changes_nothing_and_one_that_ends_well_changes_all(world: World) -> None:
    """Requirement D2, `mode=atomic`: nobody works meanwhile, since everything is held for longer than a request may wait."""
    stack, tenant = world.stack, await world.tenant(*backend(POPPY))
    wanted, before, old = backend(QUESNELIA), await world.data(tenant), await stack.enabled(tenant)
    since = len(world.written(tenant, "migrated"))

    job, seconds = await world.run(tenant, wanted, query=f"mode=atomic&tenantParameters=fail%3D{FAILS}")
    world.say(tenant, f"atomic upgrade in which {FAILS} fails", job, seconds)
    assert (job["status"], job["outcome"]) == ("error", "rolled_back")
    assert len(world.written(tenant, "migrated")) > since
    assert await stack.enabled(tenant) == old
    assert await world.data(tenant) == before
    await world.check_whole(tenant)

    job, seconds = await world.run(tenant, wanted, query="mode=atomic")
    world.say(tenant, "atomic upgrade", job, seconds)
    assert job["outcome"].startswith("done"), job["errors"]
    assert len((await world.plan(job["id"]))["groups"]) == 1
    assert await stack.enabled(tenant) == sorted([world.built_in, *wanted])
    await world.check_whole(tenant)


@pytest.mark.platform
@pytest.mark.timeout(2 * LONG)
async def test_an_upgrade_goes_on_where_it_was_when_its_worker_is_killed_in_the_middle(world: World) -> None:
    """Requirement D3."""
    stack, tenant = world.stack, await world.tenant(*backend(POPPY))
    wanted, before = backend(QUESNELIA), len(world.written(tenant, "migrated"))

    async with Users(world=world, tenant=tenant).at_work():
        since = time.monotonic()
        path = await stack.begin(tenant, *wanted)
        async with asyncio.timeout(LONG):
            while len(world.written(tenant, "migrated")) < before + 20:
                await asyncio.sleep(0.1)
        await stack.until(path, lambda row: row["phase"] == "migrating")
        await stack.kill("worker")
        job = await stack.ended(path, within=LONG)
        seconds = time.monotonic() - since
    world.say(tenant, "upgrade whose worker was killed", job, seconds)

    assert job["outcome"].startswith("done"), job["errors"]
    assert await stack.enabled(tenant) == sorted([world.built_in, *wanted])
    await world.check_whole(tenant)
    await world.check_migrated_once(tenant)


@pytest.mark.platform
@pytest.mark.timeout(4 * LONG)
@pytest.mark.parametrize("part", [True, False], ids=["part", "whole"])
async def test_ten_tenants_are_upgraded_at_once(world: World, part: bool) -> None:
    """Requirement B7; a part of the platform, and the whole."""
    old, wanted = ([module for module in backend(name) if not part or product_of(module) in PART] for name in (POPPY, QUESNELIA))
    since = time.monotonic()
    tenants = await asyncio.gather(*(world.tenant(*old) for _ in range(10)))
    installed = time.monotonic()
    before = await world.cpu()

    ended = await asyncio.gather(*(world.run(tenant, wanted) for tenant in tenants))
    upgraded_at = time.monotonic()

    for tenant, (job, seconds) in zip(tenants, ended, strict=True):
        world.say(tenant, "upgrade, one of ten", job, seconds)
    used = {name: round(seconds - before[name]) for name, seconds in (await world.cpu()).items()}
    print(
        f"ten tenants: installed in {installed - since:.0f} s, upgraded in {upgraded_at - installed:.0f} s; CPU seconds: {used}"
    )
    for tenant, (job, _) in zip(tenants, ended, strict=True):
        assert job["outcome"].startswith("done"), job["errors"]
        assert await world.stack.enabled(tenant) == sorted([world.built_in, *wanted])
        await world.check_whole(tenant)
        await world.check_migrated_once(tenant)
