"""`Reconcile`: looks twice at rows, runs, processes and files, repairs what is harmless, tells the rest (requirement D3).

What is compared, and what is repaired, is decided by activities: the rules may change while a run is open.
"""

import asyncio
from dataclasses import replace
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from activities import options
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
    from upgrade_core.reconcile import Difference, Found, NodeView, Report, confirmed
    from upgrade_core.runs import RECONCILE, ReconcileRequest, node_queue
    from workflows.undo import reason_of


@workflow.defn(name=RECONCILE)
class Reconcile:
    """One comparison."""

    @workflow.init
    def __init__(self, request: ReconcileRequest) -> None:
        """Nothing is done yet."""
        self._request = request
        self._silent: set[str] = set()

    @workflow.run
    async def run(self, request: ReconcileRequest) -> str:
        """Look, let things settle, look again, repair, report."""
        started = workflow.now()
        reach: Reach = await workflow.execute_activity_method(
            ReconcileSteps.begin, summary="which nodes there are", **options.COMPARE
        )
        earlier = await self._look(reach)
        workflow.set_current_details(f"first look: {len(earlier.differences)} differences, believed if they last")
        await workflow.sleep(timedelta(seconds=reach.settle), summary="settle")
        later = await self._look(reach)
        left: list[Difference] = []
        repaired: list[Difference] = []
        for difference in confirmed(earlier.differences, later.differences):
            if difference.repair is None or not request.repair:
                left.append(difference)
                continue
            result = await self._repair(difference)
            if result.done:
                repaired.append(difference)
            else:
                left.append(replace(difference, remedy=f"{difference.remedy}; not done: {result.why}"))
        report = Report(
            request=request.request,
            repair=request.repair,
            started=started,
            ended=workflow.now(),
            looked=tuple(node for node in reach.nodes if node not in self._silent),
            silent=tuple(sorted(self._silent)),
            differences=tuple(left),
            repaired=tuple(repaired),
            more=later.more,
        )
        await workflow.execute_activity_method(
            ReconcileSteps.report, ReportStep(report=report), summary="report", **options.COMPARE
        )
        workflow.set_current_details("\n".join(f"- {each.message}" for each in left)[:4_000])
        return f"{len(left) + later.more} differences, {len(repaired)} repaired"

    async def _look(self, reach: Reach) -> Found:
        views = await asyncio.gather(*(self._look_at(node, reach.node_wait) for node in reach.nodes))
        return await workflow.execute_activity_method(
            ReconcileSteps.compare, Views(nodes=tuple(views)), summary="compare", **options.COMPARE
        )

    async def _look_at(self, node: str, within: float) -> NodeView:
        try:
            return await workflow.execute_activity_method(
                NodeReconcileSteps.look,
                NodeRef(node=node),
                task_queue=node_queue(workflow.info().task_queue, node),
                summary=f"look at {node}",
                **options.node_look(within),
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            self._silent.add(node)
            return NodeView(node=node, silent=True)

    async def _repair(self, difference: Difference) -> Repaired:
        repair = difference.repair
        assert repair is not None
        queue = node_queue(workflow.info().task_queue, repair.node) if repair.node else None
        try:
            return await workflow.execute_activity_method(
                NodeReconcileSteps.repair if repair.node else ReconcileSteps.repair,
                RepairStep(repair=repair),
                task_queue=queue,
                summary=f"{repair.verb}: {difference.key}"[:190],
                **(options.REPAIR_ON_NODE if repair.node else options.REPAIR),
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            return Repaired(done=False, why=reason_of(error)[:500])
