"""Workers of different builds on one Temporal (requirement D3): real processes, real runs.

The first build is a copy of the source with one step more in the pipeline, so that its runs do not replay on today's. The
stack's own worker belongs to a build that never becomes current: it takes no runs.
"""

import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from temporalio.api.workflowservice.v1 import DescribeWorkerDeploymentRequest
from temporalio.client import Client, WorkflowExecutionStatus

from tests.e2e.conftest import CONFIG, PATIENCE, ROOT, Stack, start
from uplift_cli.stack.state import read_record
from uplift_cli.stack.temporal_binary import require
from worker.builds import DEPLOYMENT
from worker.guard import _PACKAGES as PACKAGES

pytestmark = pytest.mark.xdist_group("builds")
"""They replace the same workers, one after the other."""
WORKER = '[worker]\nbuild = "idle"\nmake_current = false\n'
CHECKED = '        self._note("✓ checked")\n'
ONE_STEP_MORE = f"{CHECKED}        await workflow.sleep(0.01)\n"
PATCHED = f'{CHECKED}        if not workflow.patched("no sleep"):\n            await workflow.sleep(0.01)\n'


@dataclass
class Site:
    """A stack, its Temporal, and workers that are started by hand."""

    stack: Stack
    client: Client
    folder: Path
    stop: AsyncExitStack

    def source(self, name: str, new: str) -> Path:
        """A copy of the packages with another pipeline."""
        tree = self.folder / name
        for package in PACKAGES:
            shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
        pipeline = tree / "workflows" / "group_change.py"
        text = pipeline.read_text(encoding="utf-8")
        assert text.count(CHECKED) == 1
        pipeline.write_text(text.replace(CHECKED, new), encoding="utf-8")
        return tree

    async def worker(self, build: str, tree: Path = ROOT) -> asyncio.subprocess.Process:
        """A worker of a build, when it polls."""
        record = read_record(self.stack.home)
        assert record is not None
        (own,) = (part.process for part in record.parts if part.name == "worker")
        assert own is not None
        env = psutil.Process(own.pid).environ() | {"UPLIFT_WORKER__BUILD": build, "UPLIFT_WORKER__MAKE_CURRENT": "true"}
        with self.log(build).open("ab") as log:
            before = log.tell()
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "worker.main", cwd=tree, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.stop.push_async_callback(ended, process)
        async with asyncio.timeout(PATIENCE):
            while "worker polls" not in self.log(build).read_bytes()[before:].decode():
                assert process.returncode is None, self.log(build).read_text()
                await asyncio.sleep(0.05)
        return process

    def log(self, build: str) -> Path:
        """What a build's workers say."""
        return self.folder / f"{build}.log"

    async def at_hold_point(self) -> tuple[str, str, str]:
        """A job that waits for a person: its path, the id of its run and of its group's."""
        tenant, product = await self.stack.tenant(), self.stack.product()
        await self.stack.register(
            *(self.stack.descriptor(product, version, undo="forward_only") for version in ("1.0.0", "2.0.0"))
        )
        await self.stack.install(tenant, f"{product}-1.0.0")
        job = await self.stack.begin(tenant, f"{product}-2.0.0", query="tenantParameters=do%3D500")
        row = await self.stack.until(job, lambda row: row["phase"] == "needs_operator" or row["complete"])
        return job, row["id"], f"{row['id']}/1-{product}"

    async def skip(self, run: str) -> None:
        """Decide."""
        await self.client.get_workflow_handle(run).execute_update("resolve", "skip")

    async def builds_of(self, run: str) -> list[str]:
        """The builds that worked on a run, in their order."""
        events = (await self.client.get_workflow_handle(run).fetch_history()).events
        tasks = [each.workflow_task_completed_event_attributes for each in events]
        return list(dict.fromkeys(each.deployment_version.build_id for each in tasks if each.scheduled_event_id))

    async def current(self) -> str:
        """The build that gets new runs."""
        answer = await self.client.workflow_service.describe_worker_deployment(
            DescribeWorkerDeploymentRequest(namespace=self.client.namespace, deployment_name=DEPLOYMENT)
        )
        return answer.worker_deployment_info.routing_config.current_deployment_version.build_id

    async def temporal(self, *words: str) -> str:
        """What the `temporal` command line says."""
        process = await asyncio.create_subprocess_exec(
            str(require()), *words, "--address", self.client.service_client.config.target_host,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()
        return output.decode()


async def ended(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    await process.wait()


@pytest.fixture(scope="module")
async def site() -> AsyncIterator[Site]:
    folder = Path(tempfile.mkdtemp(prefix="uplift-builds-"))
    home = folder / "home"
    home.mkdir(mode=0o700)
    (home / "uplift.toml").write_text(CONFIG + WORKER)
    (home / "recorder.jsonl").touch()
    process, url = await start(home)
    async with AsyncExitStack() as stop, httpx.AsyncClient(base_url=url, timeout=PATIENCE) as http:
        stack = Stack(home=home, url=url, process=process, http=http, log=home / "recorder.jsonl")
        stop.push_async_callback(stack.down)
        yield Site(stack=stack, client=await stack.temporal(), folder=folder, stop=stop)
    shutil.rmtree(folder)


@dataclass
class Replaced:
    """A worker was replaced while runs of it waited.

    Attributes:
        first: The first build's worker.
        second: The second's.
        old: A job that began on the first build: its path, its run's id, its group's.
        left: Another one.
        module: The run of a module version that began on the first build.
    """

    first: asyncio.subprocess.Process
    second: asyncio.subprocess.Process
    old: tuple[str, str, str]
    left: tuple[str, str, str]
    module: str


@pytest.fixture(scope="module")
async def replaced(site: Site) -> Replaced:
    first = await site.worker("first", site.source("first", ONE_STEP_MORE))
    old, left = await asyncio.gather(site.at_hold_point(), site.at_hold_point())
    product = old[2].rsplit("/1-", 1)[1]
    second = await site.worker("second")
    return Replaced(first=first, second=second, old=old, left=left, module=f"module/{product}-1.0.0")


@pytest.mark.soak
async def test_a_run_ends_on_the_build_that_it_began_on(site: Site, replaced: Replaced) -> None:
    path, job, group = replaced.old
    await site.skip(group)
    row = await site.stack.ended(path)

    assert row["outcome"] == "rollback_failed"
    assert [await site.builds_of(job), await site.builds_of(group)] == [["first"], ["first"]]


@pytest.mark.soak
async def test_new_runs_go_to_the_build_that_started_last(site: Site, replaced: Replaced) -> None:
    path, job, group = await site.at_hold_point()
    await site.skip(group)
    await site.stack.ended(path)

    assert [await site.builds_of(job), await site.builds_of(group)] == [["second"], ["second"]]


@pytest.mark.soak
async def test_the_run_of_a_module_version_moves_to_the_new_build(site: Site, replaced: Replaced) -> None:
    handle = site.client.get_workflow_handle(replaced.module)
    assert (await handle.describe()).status is WorkflowExecutionStatus.RUNNING
    await handle.signal("restart")
    async with asyncio.timeout(PATIENCE):
        while await site.builds_of(replaced.module) == ["first"]:
            await asyncio.sleep(0.1)

    assert await site.builds_of(replaced.module) == ["first", "second"]


@pytest.mark.soak
async def test_a_worker_that_leaves_does_not_take_its_successors_mark_along(site: Site, replaced: Replaced) -> None:
    await ended(replaced.first)

    assert (site.stack.home / "worker.ready").read_text().strip() == str(replaced.second.pid)


@pytest.mark.soak
async def test_a_worker_of_a_replaced_build_that_starts_again_takes_new_runs_only_when_told_to(
    site: Site, replaced: Replaced
) -> None:
    again = await site.worker("first", site.folder / "first")
    by_itself = await site.current()
    told = []
    for build in ("first", "second"):
        await site.temporal(
            "worker", "deployment", "set-current-version", "--deployment-name", DEPLOYMENT, "--build-id", build, "--yes"
        )
        told.append(await site.current())
    await ended(again)

    assert by_itself == "second"
    assert "build first was replaced before" in site.log("first").read_text()
    assert told == ["first", "second"]


@pytest.mark.soak
async def test_runs_whose_build_is_gone_wait_until_they_are_moved_to_a_build_with_a_patch(site: Site, replaced: Replaced) -> None:
    """As `docs/how-to/replace-the-worker.md` says."""
    path, job, group = replaced.left
    await ended(replaced.first)
    decision = asyncio.create_task(site.skip(group))
    mended = await site.worker("third", site.source("third", PATCHED))
    waiting = await site.temporal("workflow", "describe", "--workflow-id", group)
    pinned = "TemporalWorkflowVersioningBehavior = 'Pinned'"
    lost = f"TemporalWorkerDeploymentVersion = 'uplift:first' AND {pinned} AND ExecutionStatus = 'Running'"
    counted = await site.temporal("workflow", "count", "--query", lost)
    moved = await site.temporal(
        "workflow", "update-options", "--query", lost, "--versioning-override-behavior", "auto_upgrade",
        "--reason", "build first is gone", "--yes",
    )  # fmt: skip
    row = await site.stack.ended(path)
    await decision

    assert counted.strip() == "Total: 2"
    assert ("Pinned" in waiting, "first" in waiting) == (True, True), waiting
    assert row["outcome"] == "rollback_failed", moved
    assert [await site.builds_of(job), await site.builds_of(group)] == [["first", "third"], ["first", "third"]]
    assert mended.returncode is None
