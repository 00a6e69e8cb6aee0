"""`GroupChange`: one group of a job: hold, copy, initialise, verify, switch; undo on any error (requirements D1, D2).

The steps and their undo are listed in `upgrade_core.plan`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

from temporalio import workflow
from temporalio.common import SearchAttributeKey
from temporalio.exceptions import ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from activities import options
    from activities.signatures import (
        ChangeRequest,
        Checked,
        CheckedChange,
        CheckSteps,
        FollowRequest,
        GatewaySteps,
        GroupStep,
        InitState,
        PhaseStep,
        SnapshotSteps,
        TenantInitSteps,
        UndoResult,
    )
    from upgrade_core.ids import step_key
    from upgrade_core.plan import STEPS, Change, Kind, Step
    from upgrade_core.runs import GROUP_CHANGE, GroupRequest, GroupResult
    from workflows.undo import FAILURES, UndoStack, kind_of, reason_of, shielded, stop_if_aborted

_PHASE = SearchAttributeKey.for_keyword("UpliftPhase")
_PHASES = {
    Step.CHECK: "planned",
    Step.ACQUIRE: "deploying",
    Step.UPDATE: "updating",
    Step.SNAPSHOT: "copying",
    Step.INIT: "migrating",
    Step.VERIFY: "verifying",
    Step.SWITCH: "switching",
    Step.WATCH: "watching",
    Step.RELEASE: "watching",
}


@workflow.defn(name=GROUP_CHANGE)
class GroupChange:
    """Carries out one group of one tenant's job."""

    @workflow.init
    def __init__(self, request: GroupRequest) -> None:
        """Nothing is done yet."""
        self._request = request
        self._undo = UndoStack()
        self._warnings: list[str] = []
        self._checked: dict[str, Checked] = {}
        self._tree: list[str] = []
        self._decision: str | None = None
        self._holding = ""
        self._left: tuple[str, ...] = ()

    @workflow.run
    async def run(self, request: GroupRequest) -> GroupResult:
        """Do the steps; on an error or a cancel undo them and raise."""
        try:
            await self._forward(request)
        except FAILURES as error:
            cancelled = is_cancelled_exception(error) or isinstance(error, asyncio.CancelledError)
            why = "aborted" if cancelled else reason_of(error)
            self._note(f"✗ {why}")
            left = await shielded(self._back(why))
            if cancelled and not left:
                raise
            kind = "RollbackFailed" if left else "RolledBack"
            raise ApplicationError(why, list(left), kind_of(error), type=kind, non_retryable=True) from None
        try:
            await self._watch()
        except asyncio.CancelledError:
            self._warnings.append("aborted after the switch: users write to the new version, so it stays")
        await shielded(self._step(GatewaySteps.release, Step.RELEASE, self._group()))
        return GroupResult(warnings=tuple(self._warnings))

    @workflow.update
    def resolve(self, decision: str) -> str:
        """What a person decides at a hold point: `retry` what could not be done, or `skip` it."""
        self._decision = decision
        return f"{decision}: {self._holding}"

    @resolve.validator
    def _check_resolve(self, decision: str) -> None:
        if not self._holding:
            raise ApplicationError("nothing waits for a decision", type="NoHoldPoint")
        if decision not in ("retry", "skip"):
            raise ApplicationError("decision must be retry or skip", type="BadDecision")

    async def _forward(self, request: GroupRequest) -> None:
        changes = request.group.changes
        steps = STEPS[changes[0].kind]
        for change in changes:
            self._checked[change.product] = await workflow.execute_activity_method(
                CheckSteps.check, self._change(change), summary=f"check {change.subject}", **options.CHECK
            )
            self._warnings.extend(self._checked[change.product].warnings)
        self._note("✓ checked")
        if Step.ACQUIRE in steps:
            for change in changes:
                if change.version_to is not None or change.kind is Kind.PURGE:
                    await self._acquire(change)
        stop_if_aborted()
        self._undo.push("RESUME on the old version", self._resume_old)
        await self._step(GatewaySteps.update, Step.UPDATE, self._group())
        for change in changes:
            checked = self._checked[change.product]
            if checked.copies:
                stop_if_aborted()
                self._enter(Step.SNAPSHOT)
                await workflow.execute_activity_method(
                    SnapshotSteps.take, self._checked_change(change), summary=f"copy {checked.schema}", **options.COPY
                )
                self._note(f"✓ copied {checked.schema}")
        for change in changes:
            if self._checked[change.product].calls_init:
                await self._init(change)
        for change in changes:
            if self._checked[change.product].verifies:
                await self._verify(change)
        await self._switch()

    async def _acquire(self, change: Change) -> None:
        if not self._checked[change.product].needs_instance:
            return
        stop_if_aborted()
        request = self._change(change)
        self._enter(Step.ACQUIRE)

        async def give_back() -> None:
            await workflow.execute_activity_method(
                GatewaySteps.give_back, request, summary=f"give back {change.subject}", **options.UNDO
            )

        self._undo.push(f"give {change.subject} back", give_back)
        await workflow.execute_activity_method(
            GatewaySteps.acquire, request, summary=f"acquire {change.subject}", **options.ACQUIRE
        )
        self._note(f"✓ acquired {change.subject}")

    async def _init(self, change: Change) -> None:
        checked, request = self._checked[change.product], self._checked_change(change)
        stop_if_aborted()
        self._enter(Step.INIT)

        async def undo_init() -> None:
            undo_request = replace(request, asks=1)
            while True:
                result: UndoResult = await workflow.execute_activity_method(
                    TenantInitSteps.undo, undo_request, summary=f"undo init of {change.subject}", **options.UNDO
                )
                self._warnings.extend(result.warnings)
                if result.done:
                    return
                if await self._hold_point("; ".join(result.left)) == "skip":
                    self._left = (*self._left, *result.left)
                    return
                undo_request = replace(undo_request, asks=result.asked + 1)

        self._undo.push(f"undo init of {change.subject} ({checked.undo})", undo_init)
        while True:
            state: InitState = await workflow.execute_activity_method(
                TenantInitSteps.start, request, summary=f"init {checked.init_module}", **options.INIT
            )
            stop_if_aborted()
            while state.effect == "follow":
                state = await workflow.execute_activity_method(
                    TenantInitSteps.follow,
                    FollowRequest(step=request, state=state),
                    summary=f"follow init {checked.init_module}",
                    **options.FOLLOW,
                )
            self._warnings.extend(state.warnings)
            if state.effect == "done":
                self._note(f"✓ init of {change.subject}: {state.outcome}")
                return
            if state.effect == "unknown" and await self._hold_point("; ".join(state.errors)) == "retry":
                request = replace(request, asks=state.asked + 1)
                continue
            message = "; ".join(state.errors) or f"tenant init of {change.subject} {state.outcome or state.effect}"
            kind = "TenantInitRefused" if state.effect == "refused" else "TenantInitFailed"
            raise ApplicationError(message, type=kind, non_retryable=True)

    async def _verify(self, change: Change) -> None:
        stop_if_aborted()
        self._enter(Step.VERIFY)
        verdict = await workflow.execute_activity_method(
            CheckSteps.verify, self._checked_change(change), summary=f"verify {change.subject}", **options.VERIFY
        )
        if verdict.failures:
            raise ApplicationError("; ".join(verdict.failures), type="CheckFailed", non_retryable=True)
        self._note(f"✓ verified {change.subject}")

    async def _switch(self) -> None:
        """After this nothing is undone by itself: users have written. So it is not cut by a cancel either."""
        stop_if_aborted()
        await shielded(self._step(GatewaySteps.switch, Step.SWITCH, self._group()))
        self._undo = UndoStack()

    async def _watch(self) -> None:
        soak = max((checked.soak for checked in self._checked.values()), default=0.0)
        if soak > 0:
            self._enter(Step.WATCH)
            await workflow.sleep(timedelta(seconds=soak), summary="soak")

    async def _back(self, why: str) -> tuple[str, ...]:
        """Undo, newest first; returns what is left, if a person let something be left."""
        workflow.upsert_search_attributes([_PHASE.value_set("undoing")])
        subject = self._request.group.changes[0].subject
        await workflow.execute_activity_method(
            GatewaySteps.set_phase,
            PhaseStep(job=self._request.job, phase="undoing", subject=subject, message=why[:2_000]),
            summary="undoing",
            **options.SHORT,
        )
        await self._undo.unwind(lambda name: self._note(f"↩ {name}"))
        return self._left

    async def _resume_old(self) -> None:
        await workflow.execute_activity_method(
            GatewaySteps.resume_old, self._group(), summary="resume the old version", **options.UNDO
        )

    async def _hold_point(self, why: str) -> str:
        """Wait for a person: the tenant stays held, since nobody can say what state its data is in."""
        self._decision, self._holding = None, why
        self._note(f"⏸ {why} — decide with the update `resolve` (retry or skip)")
        workflow.upsert_search_attributes([_PHASE.value_set("needs_operator")])
        await workflow.execute_activity_method(
            GatewaySteps.set_phase,
            PhaseStep(job=self._request.job, phase="needs_operator", subject=self._request.group.changes[0].subject),
            summary="needs operator",
            **options.SHORT,
        )
        await workflow.wait_condition(lambda: self._decision is not None, timeout_summary="hold point")
        self._holding = ""
        return self._decision or "skip"

    async def _step(self, method: Callable[[GatewaySteps, GroupStep], Awaitable[None]], step: Step, request: GroupStep) -> None:
        self._enter(step)
        await workflow.execute_activity_method(
            method,
            request,
            summary=f"{step} {request.changes[0].subject}",
            **(options.UPDATE if step is Step.UPDATE else options.SHORT),
        )
        self._note(f"✓ {step}")

    def _enter(self, step: Step) -> None:
        workflow.upsert_search_attributes([_PHASE.value_set(_PHASES[step])])
        workflow.set_current_details("\n".join([*self._tree, f"▶ {step}"]))

    def _note(self, line: str) -> None:
        self._tree.append(f"- {line[:300]}")
        workflow.set_current_details("\n".join(self._tree[-40:]))

    def _change(self, change: Change) -> ChangeRequest:
        request = self._request
        return ChangeRequest(
            job=request.job,
            tenant=request.tenant,
            group=request.group.key,
            change=change,
            deploy=request.deploy,
            invoke=request.invoke,
        )

    def _checked_change(self, change: Change) -> CheckedChange:
        request = self._request
        return CheckedChange(
            job=request.job,
            tenant=request.tenant,
            group=request.group.key,
            change=change,
            checked=self._checked[change.product],
            key=step_key(request.job, change.product, "init"),
            parameters=request.parameters,
        )

    def _group(self) -> GroupStep:
        request = self._request
        quiet = tuple((checked.dsn, checked.schema) for checked in self._checked.values() if checked.dsn and checked.schema)
        return GroupStep(
            job=request.job, tenant=request.tenant, group=request.group.key, changes=request.group.changes, quiet=quiet
        )
