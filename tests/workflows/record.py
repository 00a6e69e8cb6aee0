"""Records histories of real runs for `test_replay.py`, from an embedded stack of its own: `make histories [NAME=folder]`.

Every outcome of a job, every undo mode, every kind of change and each end of a module version's run. A folder is written once:
what older builds recorded stays, since it stands for runs that began on them. What replay does not look at is left out (arguments
of steps, summaries, identities), and so is what belongs to the machine.
"""

import argparse
import asyncio
import base64
import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError

from examples.descriptors import descriptor
from tests.e2e.conftest import CONFIG, PATIENCE, ROOT, Stack, start
from tests.e2e.test_permissions_and_steps import permissions_module

HISTORIES = Path(__file__).parents[1] / "histories"
_PARALLEL = 3
_DROPPED = {
    "identity", "stackTrace", "userMetadata", "binaryChecksum", "workerVersion", "meteringMetadata", "taskId", "requestId",
    "historySizeBytes", "headers", "prevAutoResetPoints", "lastHeartbeatDetails",
}  # fmt: skip
_WITHOUT_INPUT = {"activityTaskScheduledEventAttributes", "startChildWorkflowExecutionInitiatedEventAttributes"}


class Recorder:
    """Writes histories of one stack's runs.

    Args:
        stack: The stack.
        client: Of its Temporal.
        folder: Where they are written.
    """

    def __init__(self, *, stack: Stack, client: Client, folder: Path) -> None:
        self.stack = stack
        self.client = client
        self.folder = folder
        self._begun = time.monotonic()
        self._private = sorted(
            {str(stack.home), str(ROOT), sys.prefix, str(Path(sys.executable).parent), str(Path.home()), socket.gethostname()},
            key=len,
            reverse=True,
        )

    def say(self, line: str) -> None:
        """One line of progress."""
        print(f"{time.monotonic() - self._begun:5.0f} s  {line}", flush=True)

    async def keep(self, name: str, run: str) -> None:
        """Write down a run's history when it has ended."""
        handle = self.client.get_workflow_handle(run)
        ended = "completed"
        try:
            await handle.result()
        except WorkflowFailureError as error:
            ended = str(error.cause)
        await self._write(name, handle)
        self.say(f"{name}: {ended[:90]}")

    async def keep_open(self, name: str, run: str) -> None:
        """Write down the history of a run that goes on."""
        await self._write(name, self.client.get_workflow_handle(run))
        self.say(f"{name}: goes on")

    async def job(self, name: str, row: dict[str, Any], product: str) -> None:
        """Both runs of a job of one group."""
        await self.keep(f"tenant-job-{name}", row["id"])
        await self.keep(f"group-change-{name}", f"{row['id']}/1-{product}")

    async def _write(self, name: str, handle: WorkflowHandle[Any, Any]) -> None:
        history = json.loads((await handle.fetch_history()).to_json())
        events = ",\n".join(json.dumps(self._clean(event), ensure_ascii=False) for event in history["events"])
        (self.folder / f"{name}.json").write_text(f'{{"events": [\n{events}\n]}}\n', encoding="utf-8")

    def _clean(self, value: Any) -> Any:
        """Without what replay does not look at, and without names of this machine, also inside payloads."""
        if isinstance(value, list):
            return [self._clean(item) for item in value]
        if isinstance(value, str):
            for word in self._private:
                value = value.replace(word, "-")
            return value
        if not isinstance(value, dict):
            return value
        kept = {key: self._clean(item) for key, item in value.items() if key not in _DROPPED}
        for key in _WITHOUT_INPUT & kept.keys():
            kept[key].pop("input", None)
        if "data" in value and "metadata" in value:
            text = self._clean(base64.b64decode(value["data"]).decode())
            kept["data"] = base64.b64encode(text.encode()).decode()
        return kept


async def _versions(record: Recorder, *, dialect: str = "okapi2", **uplift: Any) -> tuple[str, str]:
    """A tenant on 1.0.0 of a product that has a 2.0.0."""
    stack = record.stack
    tenant, product = await stack.tenant(), stack.product()
    await stack.register(*(stack.descriptor(product, version, dialect=dialect, **uplift) for version in ("1.0.0", "2.0.0")))
    await stack.install(tenant, f"{product}-1.0.0")
    return tenant, product


def _init(**parameters: str) -> str:
    """The part of a query that tells the recording module what tenant init does."""
    return "tenantParameters=" + ",".join(f"{key}%3D{value}" for key, value in parameters.items())


async def _phase(record: Recorder, job: str, phase: str) -> dict[str, Any]:
    row: dict[str, Any] = await record.stack.until(job, lambda row: row["phase"] == phase or row["complete"])
    assert row["phase"] == phase, row
    return row


async def _decide(record: Recorder, run: str, decision: str) -> None:
    await record.client.get_workflow_handle(run).execute_update("resolve", decision)


async def kinds_of_change(record: Recorder) -> None:
    stack = record.stack
    tenant, product = await stack.tenant(), stack.product()
    await stack.register(*(stack.descriptor(product, version) for version in ("1.0.0", "2.0.0")))
    for kind, module, options in (
        ("install", f"{product}-1.0.0", {"query": _init(do="job")}),
        ("upgrade", f"{product}-2.0.0", {"query": _init(do="job", seconds="0.3")}),
        ("downgrade", f"{product}-1.0.0", {}),
        ("reinstall", f"{product}-1.0.0", {"query": "reinstall=true"}),
        ("disable", f"{product}-1.0.0", {"action": "disable"}),
        ("purge", f"{product}-1.0.0", {"action": "disable", "query": "purge=true"}),
    ):
        if kind == "purge":
            await stack.install(tenant, module)
        await record.job(f"{kind}-done", await stack.install(tenant, module, **options), product)


async def snapshot(record: Recorder) -> None:
    stack, product = record.stack, "mod-users"
    for version in ("1.0.0", "2.0.0", "2.2.0", "3.0.0"):
        await stack.register(descriptor(product, version, python=sys.executable))
    tenant = await stack.tenant()
    await stack.install(tenant, f"{product}-1.0.0")
    await record.job("undo-snapshot-rolled-back", await stack.install(tenant, f"{product}-3.0.0"), product)
    reversed_ = await stack.install(tenant, f"{product}-2.2.0", query="undo=reversible")
    await record.job("undo-reversible-rolled-back", reversed_, product)
    await record.job("snapshot-done", await stack.install(tenant, f"{product}-2.0.0"), product)
    await record.keep("module-version-retired", f"module/{product}-1.0.0")


async def undo_without_copies(record: Recorder) -> None:
    for mode in ("module", "compatible"):
        tenant, product = await _versions(record, undo=mode)
        row = await record.stack.install(tenant, f"{product}-2.0.0", query=_init(do="500"))
        await record.job(f"undo-{mode}-rolled-back", row, product)


async def warnings(record: Recorder) -> None:
    tenant, product = await _versions(record, dialect="uplift")
    row = await record.stack.install(tenant, f"{product}-2.0.0", query=_init(do="job", warn="odd"))
    await record.job("done-with-warnings", row, product)


async def undo_hold_point(record: Recorder) -> None:
    for decisions in (("skip",), ("retry", "skip")):
        tenant, product = await _versions(record, undo="forward_only")
        job = await record.stack.begin(tenant, f"{product}-2.0.0", query=_init(do="500"))
        row = await _phase(record, job, "needs_operator")
        run = f"{row['id']}/1-{product}"
        for decision in decisions:
            while True:  # after `retry` it takes a moment until it waits again
                try:
                    await _decide(record, run, decision)
                    break
                except WorkflowUpdateFailedError:
                    await asyncio.sleep(0.1)
        name = "-".join(("undo-forward-only", *decisions, "rollback-failed"))
        await record.job(name, await record.stack.ended(job), product)


async def init_hold_point(record: Recorder) -> None:
    for decision, end in (("retry", "done"), ("skip", "rolled-back")):
        tenant, product = await _versions(record, dialect="uplift")
        job = await record.stack.begin(tenant, f"{product}-2.0.0", query=_init(do="200", seconds="3"))
        await _phase(record, job, "migrating")
        module = f"{product}-2.0.0"
        while not await record.stack.inits(module, tenant):
            await asyncio.sleep(0.05)
        _kill(str(record.stack.log), module)
        row = await _phase(record, job, "needs_operator")
        while not await record.stack.instances(module):
            await asyncio.sleep(0.1)
        await _decide(record, f"{row['id']}/1-{product}", decision)
        await record.job(f"init-unknown-{decision}-{end}", await record.stack.ended(job), product)


async def aborts(record: Recorder) -> None:
    tenant, product = await _versions(record)
    job = await record.stack.begin(tenant, f"{product}-2.0.0", query=_init(do="hang"))
    await _phase(record, job, "migrating")
    while not await record.stack.inits(f"{product}-2.0.0", tenant):
        await asyncio.sleep(0.05)
    await record.stack.http.delete(job)
    await record.job("aborted", await record.stack.ended(job), product)
    await record.keep("module-version-restarted", f"module/{product}-2.0.0")


async def abort_after_the_switch(record: Recorder) -> None:
    stack = record.stack
    tenant, product = await stack.tenant(), stack.product()
    await stack.register(stack.descriptor(product, "1.0.0"), stack.descriptor(product, "2.0.0", soak=600))
    await stack.install(tenant, f"{product}-1.0.0")
    job = await record.stack.begin(tenant, f"{product}-2.0.0")
    await _phase(record, job, "watching")
    await record.stack.http.delete(job)
    await record.job("watched-aborted", await record.stack.ended(job), product)


async def soaked(record: Recorder) -> None:
    tenant, product = await _versions(record, soak=0.5)
    await record.job("watched-done", await record.stack.install(tenant, f"{product}-2.0.0"), product)


async def never_deployed(record: Recorder) -> None:
    stack = record.stack
    tenant, product = await stack.tenant(), stack.product()
    await stack.register(stack.descriptor(product, "1.0.0", start="exit"))
    await record.job("not-deployed-rolled-back", await stack.install(tenant, f"{product}-1.0.0"), product)
    await record.keep("module-version-failed", f"module/{product}-1.0.0")


async def needed_again(record: Recorder) -> None:
    """Nobody needs it, but by the time it looks somebody does: it stays. Then it waits, open."""
    _, product = await _versions(record)
    run = record.client.get_workflow_handle(f"module/{product}-1.0.0")
    await run.signal("unneeded", True)
    while "deploy.retire" not in (await run.fetch_history()).to_json():
        await asyncio.sleep(0.1)
    other = await record.stack.tenant()
    await record.stack.install(other, f"{product}-1.0.0")
    await record.keep_open("module-version-stays", run.id)


async def permissions_and_steps(record: Recorder) -> None:
    """A permissions module that is told and refuses, a precheck that fails, and a post step."""
    stack = record.stack
    tenant, product = await stack.tenant(), stack.product()
    one, two = permissions_module("1.0.0"), permissions_module("2.0.0", post_steps=[{"path": "/permissions/list"}])
    await stack.register(one, two, stack.descriptor(product, "1.0.0"))
    await stack.install(tenant, f"{product}-1.0.0")
    for name, module, outcome in (("installed", one["id"], "done"), ("upgraded", two["id"], "done_with_warnings")):
        row = await stack.ended(await stack.begin(tenant, module), within=300)
        assert row["outcome"] == outcome, row
        await record.job(f"told-{name}-{outcome.replace('_', '-')}", row, "mod-permissions")
    room = {"path": f"/{product}/room", "json": {"free": True}}
    refused = stack.descriptor(product, "2.0.0") | {"permissionSets": [{"permissionName": "refused"}]}
    await stack.register(refused, stack.descriptor(product, "3.0.0", prechecks=[room]))
    for name, version, kind in (("told", "2.0.0", "PermissionsRefused"), ("precheck", "3.0.0", "PrecheckFailed")):
        row = await stack.ended(await stack.begin(tenant, f"{product}-{version}"), within=300)
        assert (row["outcome"], row["errors"][0]["type"]) == ("rolled_back", kind), row
        await record.job(f"{name}-rolled-back", row, product)


async def failed(record: Recorder) -> None:
    """A job that asks for what has been done by the time its turn comes."""
    tenant, product = await _versions(record)
    stack, module = record.stack, f"{product}-2.0.0"
    first = await stack.begin(tenant, module, query=_init(do="job", seconds="2"))
    await _phase(record, first, "migrating")
    await stack.begin(tenant, f"{product}-1.0.0", action="disable")
    late = await stack.begin(tenant, f"{product}-1.0.0", action="disable")
    row = await stack.ended(late)
    assert row["outcome"] == "failed", row
    await record.keep("tenant-job-failed", row["id"])


async def several_groups(record: Recorder) -> None:
    stack = record.stack
    for name, parallel, options, expected in (
        ("parallel-done", 3, {}, "done"),
        ("groups-rolled-back", 1, {"query": _init(do="500")}, "rolled_back"),
        ("ignore-errors-rolled-back", 1, {"query": _init(do="500") + "&ignoreErrors=true"}, "rolled_back"),
    ):
        tenant, products = await stack.tenant(), [stack.product() for _ in range(3)]
        await stack.register(*(stack.descriptor(product, "1.0.0") for product in products))
        query = "&".join(word for word in (options.get("query", ""), f"parallel={parallel}") if word)
        row = await stack.install(tenant, *(f"{product}-1.0.0" for product in products), query=query)
        assert row["outcome"] == expected, row
        await record.keep(f"tenant-job-{name}", row["id"])


async def _groups(record: Recorder, job: str) -> list[str]:
    """The runs of a job's groups."""
    events = (await record.client.get_workflow_handle(job).fetch_history()).events
    begun = [event.start_child_workflow_execution_initiated_event_attributes for event in events]
    return [each.workflow_id for each in begun if each.workflow_id]


async def moved_together(record: Recorder) -> None:
    """A provider and what requires it: switched together, and undone together when the last one fails."""
    stack = record.stack
    for name, options, expected in (("together-done", "", "done"), ("together-rolled-back", "500", "rolled_back")):
        tenant, (provider, user) = await stack.tenant(), [stack.product() for _ in range(2)]
        for number in ("1", "2"):
            given = stack.descriptor(provider, f"{number}.0.0")
            given["provides"] = [{**given["provides"][0], "version": f"{number}.0"}, *given["provides"][1:]]
            taken = {**stack.descriptor(user, f"{number}.0.0"), "requires": [{"id": provider, "version": f"{number}.0"}]}
            await stack.register(given, taken)
        await stack.install(tenant, f"{provider}-1.0.0", f"{user}-1.0.0")
        query = _init(do=options, only=f"{user}-2.0.0") if options else ""
        row = await stack.install(tenant, f"{provider}-2.0.0", query=query)
        assert row["outcome"] == expected, row
        await record.keep(f"tenant-job-{name}", row["id"])
        (group,) = await _groups(record, row["id"])
        await record.keep(f"group-change-{name}", group)


async def all_at_once(record: Recorder) -> None:
    """Copies side by side, of two modules with data."""
    stack, old, new = record.stack, ("mod-users-1.0.0", "mod-loans-1.0.0"), ("mod-users-2.0.0", "mod-loans-1.1.0")
    for module in (*old, *new):
        product, _, version = module.rpartition("-")
        await stack.register(descriptor(product, version, python=sys.executable))
    tenant = await stack.tenant()
    await stack.install(tenant, *old)
    row = await stack.install(tenant, *new, query="mode=atomic")
    assert row["outcome"] == "done", row
    await record.keep("tenant-job-atomic-done", row["id"])
    (group,) = await _groups(record, row["id"])
    await record.keep("group-change-atomic-done", group)


async def by_a_version_in_between(record: Recorder) -> None:
    tenant, product = await _versions(record)
    await record.stack.register(record.stack.descriptor(product, "3.0.0", upgrade_from=">=2.0"))
    row = await record.stack.install(tenant, f"{product}-3.0.0")
    assert row["outcome"] == "done", row
    await record.keep("tenant-job-in-between-done", row["id"])


async def settled(record: Recorder) -> None:
    """What runs that were terminated left held: back, on, and back with something left."""
    stack = record.stack
    for name, decision, mode in (
        ("old-rolled-back", "old", "module"), ("new-done", "new", "module"), ("old-skip-rollback-failed", "old", "forward_only"),
    ):  # fmt: skip
        tenant, product = await _versions(record, undo=mode)
        job = await stack.begin(tenant, f"{product}-2.0.0", query=_init(do="hang"))
        row = await _phase(record, job, "migrating")
        while not await stack.inits(f"{product}-2.0.0", tenant):
            await asyncio.sleep(0.05)
        await record.client.get_workflow_handle(f"{row['id']}/1-{product}").terminate("recorded")
        await stack.ended(job)
        await stack.ok("POST", f"/_/runs/{row['id']}/resolve", {"decision": decision, "force": decision == "new"})
        run = f"{row['id']}/resolve-1"
        if mode == "forward_only":
            await _phase(record, job, "needs_operator")
            await _decide(record, run, "skip")
        await stack.ended(job)
        await record.keep(f"resolve-job-{name}", run)


async def reconciled(record: Recorder) -> None:
    """A run that somebody asked for, which repairs what an ended job left."""
    stack = record.stack
    tenant, product = await _versions(record)
    job = (await stack.ok("GET", f"/_/proxy/tenants/{tenant}/install"))[0]["id"]
    connection = await asyncpg.connect(stack.modules_dsn("uplift"))
    await connection.execute("insert into claims (module, job) values ($1, $2)", f"{product}-2.0.0", job)
    await connection.close()
    asked = (await stack.ok("POST", "/_/reconcile"))["request"]
    found = await stack.until("/_/reconcile", lambda row: row["report"] is not None and row["report"]["request"] == asked)
    assert f"claim:{product}-2.0.0:{job}" in [each["key"] for each in found["report"]["repaired"]], found
    await record.keep("reconcile-by-request", "reconcile")


def _kill(*words: str) -> None:
    for process in psutil.process_iter(["cmdline"]):
        if set(words) <= set(process.info["cmdline"] or []):
            os.kill(process.pid, signal.SIGKILL)


SCENARIOS: tuple[Callable[[Recorder], Awaitable[None]], ...] = (
    abort_after_the_switch, kinds_of_change, snapshot, init_hold_point, undo_hold_point, undo_without_copies, warnings, aborts,
    soaked, never_deployed, needed_again, permissions_and_steps, failed, several_groups, moved_together, all_at_once,
    by_a_version_in_between, settled, reconciled,
)  # fmt: skip


async def main(name: str, only: list[str]) -> None:
    """Record into a new folder: all, or only some scenarios, when a workflow is new."""
    folder = HISTORIES / name
    if folder.exists():
        sys.exit(f"{folder} is there already: histories of a build are recorded once; give another NAME")
    home = Path(tempfile.mkdtemp(prefix="uplift-record-"))
    parts = Path(tempfile.mkdtemp(prefix="uplift-histories-"))
    (home / "uplift.toml").write_text(CONFIG.replace("health_wait = 20", "health_wait = 200"), encoding="utf-8")
    (home / "recorder.jsonl").touch()
    print(f"starting a stack in {home}", flush=True)
    process, url = await start(home)
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, limits=httpx.Limits(max_connections=None)) as http:
        stack = Stack(home=home, url=url, process=process, http=http, log=home / "recorder.jsonl")
        try:
            record = Recorder(stack=stack, client=await stack.temporal(), folder=parts)
            slots = asyncio.Semaphore(_PARALLEL)

            async def one(scenario: Callable[[Recorder], Awaitable[None]]) -> None:
                async with slots:
                    await scenario(record)

            await asyncio.gather(*(one(scenario) for scenario in SCENARIOS if not only or scenario.__name__ in only))
        finally:
            print("stopping the stack", flush=True)
            await stack.down()
    shutil.copytree(parts, folder)  # only now: a folder that is there is whole
    shutil.rmtree(parts)
    shutil.rmtree(home)
    print(f"recorded {len(list(folder.glob('*.json')))} histories in {folder}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make histories", description=__doc__)
    parser.add_argument("name", nargs="?", default=f"{datetime.now(UTC):%Y-%m-%d}", help="the folder [default: today's date]")
    parser.add_argument("only", nargs="*", help="names of scenarios [default: all]")
    given = parser.parse_args()
    chosen: str = given.name
    if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z._-]*", chosen):
        sys.exit(f"{chosen!r} is no name of a folder")
    asyncio.run(main(chosen, given.only))
    sys.stdout.flush()
    os._exit(0)  # the SDK's runtime may crash in a regular interpreter exit
