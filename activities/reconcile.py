"""Comparing what rows, runs, processes and files say, and repairing what is harmless (requirement D3).

The rules are in `upgrade_core.reconcile`. Each repair looks again, where it is made, at what makes it harmless.
"""

import asyncio
import time
from collections.abc import Awaitable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from activities.deploy import NodeInstances
from activities.signatures import (
    NodeReconcileSteps,
    NodeRef,
    Reach,
    ReconcileSteps,
    Repaired,
    RepairStep,
    ReportStep,
    Views,
)
from activities.translate import translated
from deployers import DeployError
from gateway_client import GatewayClient, NotFound, RepairRequest
from upgrade_core.reconcile import (
    MOST,
    PART_AGE,
    CopyFile,
    Found,
    NodeView,
    OpenRun,
    Process,
    Repair,
    Snapshot,
    Verb,
    World,
    differences,
    doubtful,
    first,
    read_copy_name,
)
from uplift_settings.tree import ReconcileSettings

_DESCRIBED = 200
"""Runs that are asked for one by one where the list may be behind; beyond them the second look decides."""
_AT_GATEWAY = frozenset({Verb.GIVE_BACK, Verb.CLOSE_OVERLAY, Verb.END_INTENT, Verb.KEEP_SNAPSHOT})
_NOT_SO = "it is not so any more"


class TellUnneeded(Protocol):
    """Tells the run of a module version that nobody needs it."""

    def __call__(self, module: str, *, now: bool = False) -> Awaitable[None]:
        """`now`: without the grace of an old version."""


class ReconcileActivities(ReconcileSteps):
    """Implementation.

    Args:
        gateway: Whose rows are compared.
        temporal: Whose runs are.
        task_queue: Where runs of module versions run.
        tell_unneeded: Has a version retired that nobody needs.
        settings: Clocks.
        keep_copies: Seconds that a copy is kept after its job.
    """

    def __init__(
        self,
        *,
        gateway: GatewayClient,
        temporal: Client,
        task_queue: str,
        tell_unneeded: TellUnneeded,
        settings: ReconcileSettings,
        keep_copies: float,
    ) -> None:
        self._gateway = gateway
        self._temporal = temporal
        self._tell_unneeded = tell_unneeded
        self._settings = settings
        self._keep_copies = keep_copies
        queue = task_queue.replace("'", "''")
        self._open = f"ExecutionStatus = 'Running' and TaskQueue = '{queue}'"

    @activity.defn(name="reconcile.begin")
    async def begin(self) -> Reach:
        """Which nodes are to be looked at."""
        with translated():
            nodes = (await self._gateway.ledger()).nodes
        return Reach(nodes=nodes, settle=self._settings.settle, node_wait=self._settings.node_wait)

    @activity.defn(name="reconcile.compare")
    async def compare(self, request: Views) -> Found:
        """Compare what the nodes have with the gateway's rows and Temporal's open runs.

        Only differences leave this step: everything that there is would not fit into a run's history.
        """
        with translated():
            ledger = await self._gateway.ledger()
        runs = {run.id: OpenRun(id=run.id, type=run.workflow_type) async for run in self._temporal.list_workflows(self._open)}
        world = World(ledger=ledger, runs=tuple(runs.values()), nodes=request.nodes)
        found = differences(world)
        for run in doubtful(found)[:_DESCRIBED]:  # the list follows a moment later
            if (type_ := await self._open_type(run)) is not None:
                runs[run] = OpenRun(id=run, type=type_)
            else:
                runs.pop(run, None)
        return first(differences(World(ledger=ledger, runs=tuple(runs.values()), nodes=request.nodes)))

    @activity.defn(name="reconcile.repair")
    async def repair(self, request: RepairStep) -> Repaired:
        """Repair one difference, if it is still one."""
        repair = request.repair
        with translated():
            if repair.verb in _AT_GATEWAY:
                done = await self._gateway.repair(
                    RepairRequest(
                        verb=repair.verb,
                        job=repair.job,
                        module=repair.module,
                        product=repair.product,
                        subject=repair.subject,
                        keep=self._keep_copies,
                    )
                )
            else:
                done = await self._move_version(repair)
        return Repaired(done=done, why="" if done else _NOT_SO)

    @activity.defn(name="reconcile.report")
    async def report(self, request: ReportStep) -> None:
        """Tell the gateway what a run came to."""
        with translated():
            await self._gateway.report_reconcile(request.report)

    async def _move_version(self, repair: Repair) -> bool:
        try:
            version = await self._gateway.version(repair.module)
        except NotFound:
            return False
        if version.needed_by or version.retiring != (repair.verb is Verb.FINISH_RETIREMENT):
            return False
        if repair.verb is Verb.TELL_UNNEEDED:
            await self._tell_unneeded(repair.module)
        else:
            await self._tell_unneeded(repair.module, now=True)  # nobody can claim it while it is marked
        return True

    async def _open_type(self, run: str) -> str | None:
        """The workflow of a run that is open; None if it is not."""
        try:
            description = await self._temporal.get_workflow_handle(run).describe()
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            return None
        return description.workflow_type if description.status is WorkflowExecutionStatus.RUNNING else None


class NodeReconcileActivities(NodeReconcileSteps):
    """Implementation, on one node.

    Args:
        gateway: Knows which copies there should be.
        instances: What runs here.
        folder: Where copies are kept.
        keep_copies: Seconds that a copy is kept after its job.
    """

    def __init__(self, *, gateway: GatewayClient, instances: NodeInstances, folder: Path, keep_copies: float) -> None:
        self._gateway = gateway
        self._instances = instances
        self._folder = folder
        self._keep_copies = keep_copies

    @activity.defn(name="reconcile.node")
    async def look(self, request: NodeRef) -> NodeView:
        """Processes and files of this node; of copies only those that rows and files do not agree on."""
        node = self._instances.node
        if request.node != node:  # two workers with different names on one queue
            return NodeView(node=request.node, trouble=f"its worker calls itself {node}")
        try:
            running = await self._instances.running()
            files = await asyncio.to_thread(lambda: tuple(self._files()))
            with translated():
                rows = [row for row in await self._gateway.snapshots() if row.node == node and row.path]
            over = datetime.now(UTC)
            there = await asyncio.to_thread(lambda: {row.path for row in rows if Path(row.path).exists()})
        except (DeployError, OSError) as error:
            return NodeView(node=node, trouble=str(error)[:500])
        known = {str(Path(row.path)) for row in rows}
        lost = [
            Snapshot(id=row.id, job=row.job, node=node, kept=row.expires is not None)
            for row in rows
            if row.path not in there and (row.expires is None or row.expires > over)  # else it is about to be forgotten
        ]  # fmt: skip
        return NodeView(
            node=node,
            processes=tuple(
                Process(instance=each.inst_id, module=each.module_id, generation=each.generation) for each in running
            ),
            lost=tuple(lost[:MOST]),
            files=tuple(file for file in files if str(self._folder / file.path) not in known)[:MOST],
        )

    @activity.defn(name="reconcile.repair_on_node")
    async def repair(self, request: RepairStep) -> Repaired:
        """Repair one difference of this node, if it is still one."""
        repair = request.repair
        with translated():
            if repair.verb is Verb.STOP_PROCESS:
                why = await self._instances.stop_stray(repair.module, repair.subject, repair.generation)
            elif repair.verb is Verb.REMOVE_FILE:
                why = await self._remove(repair)
            else:
                why = f"a node does not {repair.verb}"
        return Repaired(done=not why, why=why)

    async def _remove(self, repair: Repair) -> str:
        """Remove a file that only our copies are named like, whose job has ended and which no row names."""
        ledger = await self._gateway.ledger()
        if repair.job in {job.id for job in ledger.jobs} | {hold.job for hold in ledger.holds}:
            return "its job is at work, or holds something"
        path = self._folder / repair.subject
        if str(path) in {str(Path(row.path)) for row in await self._gateway.snapshots() if row.path}:
            return "it is recorded by now"
        if not await asyncio.to_thread(path.is_file):  # by an attempt that was cut off before it said so
            return ""
        now = next((file for file in await asyncio.to_thread(lambda: tuple(self._files())) if file.path == repair.subject), None)
        if now is None or now.job != repair.job or not (now.over or (now.part and now.age > PART_AGE)):
            return _NOT_SO
        await asyncio.to_thread(path.unlink, missing_ok=True)
        return ""

    def _files(self) -> Iterator[CopyFile]:
        """The files in the folders of tenants that are named like our copies."""
        now = time.time()
        for path in sorted(self._folder.glob("*/*.dump*")):
            read = read_copy_name(path.name)
            if read is None or path.is_symlink() or not path.is_file():
                continue
            age = max(0.0, now - path.stat().st_mtime)
            job, part = read
            yield CopyFile(
                path=str(path.relative_to(self._folder)), job=job, age=age, part=part, over=not part and age > self._keep_copies
            )
