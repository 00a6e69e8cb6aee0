"""Waiting for a person: a base of workflows that cannot always know what state the data is in (requirements D2, D4)."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from temporalio import workflow
from temporalio.common import SearchAttributeKey
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from activities import options
    from activities.signatures import CheckedChange, GatewaySteps, PhaseStep, TenantInitSteps, UndoResult
    from upgrade_core.known import Fact
    from upgrade_core.runs import HoldPointState
    from workflows.undo import reason_of

_Result = TypeVar("_Result")
PHASE = SearchAttributeKey.for_keyword("UpliftPhase")


class HoldPoint:
    """A workflow that may wait for a decision: the update `resolve` is told it, the query `hold_point` says why it waits.

    Args:
        job: The job.
        subject: The line of the job that is told the phase.
    """

    def __init__(self, *, job: str, subject: str) -> None:
        """It waits for nobody."""
        self._job = job
        self._subject = subject
        self._warnings: list[str] = []
        self._tree: list[str] = []
        self._left: tuple[str, ...] = ()
        self._decision: str | None = None
        self._holding = ""

    @workflow.update
    def resolve(self, decision: str) -> str:
        """What a person decides at a hold point: `retry` what could not be done, or `skip` it."""
        self._decision = decision
        return f"{decision}: {self._holding}"

    @resolve.validator
    def _check_resolve(self, decision: str) -> None:
        if not self._holding or self._decision is not None:
            raise ApplicationError("nothing waits for a decision", type="NoHoldPoint")
        if decision not in ("retry", "skip"):
            raise ApplicationError("decision must be retry or skip", type="BadDecision")

    @workflow.query
    def hold_point(self) -> HoldPointState:
        """Why a person has to decide, if one has to."""
        return HoldPointState(why=self._holding if self._decision is None else "")

    async def _hold_point(self, why: str, *, then: str = "undoing") -> str:
        """Wait for a person: the tenant stays held, since nobody can say what state its data is in.

        Args:
            why: For people.
            then: The job's phase when it was decided to retry; else it is undone.
        """
        self._decision, self._holding = None, why
        self._note(f"⏸ {why} — uplift resolve {self._job} (retry or skip)")
        try:
            await self._tell_phase("needs_operator", summary="needs operator")
            await workflow.wait_condition(lambda: self._decision is not None, timeout_summary="hold point")
        finally:
            self._holding = ""  # a cancel ends the wait, too: then there is nothing to decide any more
        decision = self._decision or "skip"
        if workflow.patched("phase-after-decision"):
            await self._tell_phase(then if decision == "retry" else "undoing", summary=f"decided: {decision}")
        return decision

    async def _undo_init(self, request: CheckedChange) -> None:
        """Take back what tenant init did; what a person lets be is noted as left."""
        while True:
            result = await self._undo_init_once(request)
            self._warn(*result.warnings)
            if result.done:
                return
            if await self._hold_point("; ".join(result.left)) == "skip":
                self._left = (*self._left, *result.left)
                return
            request = replace(request, asks=result.asked + 1)

    def _warn(self, *texts: str) -> None:
        """Keep warnings for the job."""
        self._warnings.extend(texts)

    async def _undo_init_once(self, request: CheckedChange) -> UndoResult:
        return await self._told(
            lambda known: workflow.execute_activity_method(
                TenantInitSteps.undo,
                replace(request, known=known),
                summary=f"undo init of {request.change.subject}",
                **options.UNDO,
            )
        )

    async def _told(self, step: Callable[[tuple[Fact, ...]], Awaitable[_Result]]) -> _Result:
        """A step that is told what the run knows: nothing, unless it keeps that (`GroupChange`)."""
        return await step(())

    async def _tell_phase(self, phase: str, *, summary: str) -> None:
        """Tell people; a job whose record cannot say so waits and goes on all the same."""
        workflow.upsert_search_attributes([PHASE.value_set(phase)])
        try:
            await workflow.execute_activity_method(
                GatewaySteps.set_phase,
                PhaseStep(job=self._job, phase=phase, subject=self._subject),
                summary=summary,
                **options.SHORT,
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            workflow.logger.warning("the job's record cannot be told the phase %s: %s", phase, reason_of(error))

    def _note(self, line: str) -> None:
        self._tree.append(f"- {line[:300]}")
        workflow.set_current_details("\n".join(self._tree[-40:]))
