"""Repairs where they are made: each looks again at what makes it harmless (requirement D3)."""

import os
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from temporalio.testing import ActivityEnvironment

from activities.deploy import NodeInstances
from activities.reconcile import NodeReconcileActivities, ReconcileActivities
from activities.signatures import NodeRef, Repaired, RepairStep
from deployers import Launch, ProcessDeployer
from gateway_client import Instance
from upgrade_core.reconcile import Process, Repair, Verb
from uplift_settings.tree import DeploySettings, ReconcileSettings

LONG_AGO = 1_000_000_000
SERVER = f"{sys.executable} -m http.server %p --bind 127.0.0.1"


@pytest.fixture(scope="module")
async def place(module_site: Any) -> Any:
    return module_site


@pytest.fixture
async def rows(place: Any) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(place.dsn)
    yield connection
    await connection.close()


class Node:
    """A node with its deployer and its folder of copies."""

    def __init__(self, gateway: Any, folder: Path) -> None:
        self.folder = folder / "snapshots"
        self.deployer = ProcessDeployer(
            settings=DeploySettings(stop_grace=2, port_first=20_300, port_last=20_399), folder=folder / "instances"
        )
        instances = NodeInstances(gateway=gateway, deployer=self.deployer, node="n")
        self.steps = NodeReconcileActivities(gateway=gateway, instances=instances, folder=self.folder, keep_copies=60)

    async def stray(self, module: str) -> Process:
        """A process of the deployer's that nobody registered."""
        running = await self.deployer.start(Launch(inst_id=f"{module}@n", module_id=module, exec=SERVER))
        return Process(instance=running.inst_id, module=module, generation=running.generation)

    def copy(self, name: str) -> Path:
        """A file from long ago."""
        file = self.folder / "t" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        os.utime(file, (LONG_AGO, LONG_AGO))
        return file

    async def stop(self, process: Process) -> Repaired:
        repair = Repair(
            verb=Verb.STOP_PROCESS, node="n", module=process.module, subject=process.instance, generation=process.generation
        )
        return await ActivityEnvironment().run(self.steps.repair, RepairStep(repair=repair))

    async def remove(self, file: Path, job: str) -> Repaired:
        repair = Repair(verb=Verb.REMOVE_FILE, node="n", job=job, subject=str(file.relative_to(self.folder)))
        return await ActivityEnvironment().run(self.steps.repair, RepairStep(repair=repair))


@pytest.fixture
async def node(place: Any, tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(place.runs, tmp_path)
    yield made
    for running in await made.deployer.list():
        await made.deployer.stop(running.inst_id)


async def test_a_stray_process_is_seen_and_stopped_and_its_version_can_be_claimed_again(
    place: Any, node: Node, name: Any
) -> None:
    module = await place.register(f"{name('m')}-1.0.0")
    process = await node.stray(module)

    seen = (await ActivityEnvironment().run(node.steps.look, NodeRef(node="n"))).processes
    result = await node.stop(process)

    assert seen == (process,)
    assert result == Repaired(done=True)
    assert await node.deployer.find(process.instance) is None
    assert (await place.runs.version(module)).retiring is False


async def test_a_process_that_somebody_came_to_need_is_left(place: Any, node: Node, name: Any) -> None:
    module = await place.register(f"{name('m')}-1.0.0", "http://127.0.0.1:1")
    tenant = await place.tenant(module)
    process = await node.stray(module)

    result = await node.stop(process)

    assert result == Repaired(done=False, why=f"it is needed by tenant {tenant}")
    assert await node.deployer.find(process.instance) is not None


async def test_a_process_that_was_registered_meanwhile_is_left(place: Any, node: Node, name: Any) -> None:
    module = await place.register(f"{name('m')}-1.0.0")
    process = await node.stray(module)
    await place.runs.put_instance(Instance(id=process.instance, module=module, url="http://127.0.0.1:1", node="n"))

    assert (await node.stop(process)).done is False
    assert await node.deployer.find(process.instance) is not None
    assert (await place.runs.version(module)).retiring is False


async def test_another_process_of_the_same_instance_is_left(place: Any, node: Node, name: Any) -> None:
    module = await place.register(f"{name('m')}-1.0.0")
    before = await node.stray(module)
    await node.deployer.stop(before.instance)
    now = await node.stray(module)

    assert (await node.stop(before)).done is False
    assert await node.deployer.find(now.instance) is not None


async def test_a_process_of_a_module_that_is_not_registered_any_more_is_stopped(node: Node, name: Any) -> None:
    process = await node.stray(f"{name('m')}-1.0.0")

    assert (await node.stop(process)).done is True
    assert await node.deployer.find(process.instance) is None


async def test_a_record_that_cannot_be_read_is_told_and_nothing_is_concluded(node: Node, tmp_path: Path) -> None:
    folder = tmp_path / "instances" / "instances" / "broken"
    folder.mkdir(parents=True)
    (folder / "state").write_text("no record")

    view = await ActivityEnvironment().run(node.steps.look, NodeRef(node="n"))
    (folder / "state").unlink()

    assert "not a record of an instance" in view.trouble
    assert view.processes == ()


async def test_files_and_rows_are_compared_and_others_files_are_not_ours(place: Any, node: Node, rows: Any, name: Any) -> None:
    tenant = await place.tenant()
    jobs = [str(uuid.uuid4()) for _ in range(3)]
    recorded, nobodys = (node.copy(f"{job}-m.dump") for job in jobs[:2])
    node.copy("theirs.dump")
    for job, path in ((jobs[0], str(recorded)), (jobs[2], "/nowhere")):
        await rows.execute(
            "insert into snapshots (id, job, tenant, product, node, dsn, schema, path, size, digest, existed)"
            " values ($1, $2, $3, 'm', 'n', 'env:X', 's', $4, 0, '', true)",
            f"{job}-m", job, tenant, path,
        )  # fmt: skip

    view = await ActivityEnvironment().run(node.steps.look, NodeRef(node="n"))

    assert [file.path for file in view.files] == [f"t/{nobodys.name}"]
    assert [(lost.id, lost.job) for lost in view.lost] == [(f"{jobs[2]}-m", jobs[2])]


async def test_a_file_of_nobody_is_removed(node: Node) -> None:
    job = str(uuid.uuid4())
    file = node.copy(f"{job}-m.dump")

    assert await node.remove(file, job) == Repaired(done=True)
    assert not file.exists()


async def test_a_file_of_a_job_that_is_at_work_by_now_stays(place: Any, node: Node, name: Any) -> None:
    module = await place.register(f"{name('m')}-1.0.0", "http://127.0.0.1:1")
    job = await place.job(await place.tenant(), module)
    file = node.copy(f"{job.id}-m.dump")

    assert (await node.remove(file, job.id)).done is False
    assert file.exists()


async def test_a_file_that_is_being_written_again_stays(node: Node) -> None:
    job = str(uuid.uuid4())
    file = node.copy(f"{job}-m.dump.part")
    os.utime(file)

    assert (await node.remove(file, job)).done is False
    assert file.exists()


@pytest.mark.parametrize("path", ["../outside.dump", "t/theirs.dump"])
async def test_a_file_that_is_not_ours_is_never_removed(node: Node, path: str) -> None:
    file = node.copy("theirs.dump")
    outside = node.folder.parent / "outside.dump"
    outside.touch()

    assert (await node.remove(node.folder / path, str(uuid.uuid4()))).done is False
    assert file.exists()
    assert outside.exists()


async def test_a_run_is_told_only_of_a_version_that_nobody_needs(place: Any, name: Any) -> None:
    needed, unneeded, retiring = [await place.register(f"{name('m')}-1.0.0", "http://127.0.0.1:1") for _ in range(3)]
    await place.tenant(needed)
    await place.runs.retire(retiring)
    told: list[str] = []

    async def tell(module: str, *, now: bool = False) -> None:
        told.append(module)

    steps = ReconcileActivities(
        gateway=place.runs, temporal=None, task_queue="q", tell_unneeded=tell, settings=ReconcileSettings(), keep_copies=0
    )  # type: ignore[arg-type]
    made = [
        (await ActivityEnvironment().run(steps.repair, RepairStep(repair=Repair(verb=Verb.TELL_UNNEEDED, module=module)))).done
        for module in (needed, unneeded, retiring, "gone-1.0.0")
    ]

    assert made == [False, True, False, False]
    assert told == [unneeded]
