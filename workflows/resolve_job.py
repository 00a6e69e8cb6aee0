"""`ResolveJob`: settles what a job left held after its run was lost, as a person decided (requirements D2, D3).

It takes the job over: it is fenced, watched, aborted and ended as the job's first run was. What `GroupChange` would have done is
done in the same steps with the same keys; what it knew is looked up in what it left at the gateway.
"""

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.common import SearchAttributeKey
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from activities import options
    from activities.signatures import (
        Begun,
        ChangeRequest,
        Checked,
        CheckedChange,
        CheckSteps,
        FinishStep,
        GatewaySteps,
        GroupStep,
        JobRef,
        TenantInitSteps,
        Told,
        UndoResult,
    )
    from upgrade_core.descriptors import Undo
    from upgrade_core.ids import step_key
    from upgrade_core.plan import Change, Group, Kind
    from upgrade_core.runs import RESOLVE_JOB, STEPPING, ResolveRequest
    from workflows.hold_point import PHASE
    from workflows.module_steps import post_steps
    from workflows.telling import Telling, TellsPermissions
    from workflows.undo import FAILURES, kind_of, reason_of, shielded, stop_if_aborted

_OUTCOME = SearchAttributeKey.for_keyword("UpliftOutcome")


@workflow.defn(name=RESOLVE_JOB)
class ResolveJob(TellsPermissions):
    """Goes back to the old versions, or on to the new ones."""

    @workflow.init
    def __init__(self, request: ResolveRequest) -> None:
        """Nothing is done yet."""
        super().__init__(job=request.job, subject="")
        self._request = request
        self._begun: Begun | None = None
        self._switched: list[tuple[str, int]] = []

    @workflow.run
    async def run(self, request: ResolveRequest) -> str:
        """Settle the groups; end the job's row whatever happens; answer or raise the outcome."""
        errors: tuple[Told, ...] = ()
        cancelled = False
        try:
            await self._tell_phase("resolving", summary=f"resolve: {request.decision}")
            self._begun = await workflow.execute_activity_method(
                GatewaySteps.begin, JobRef(job=request.job), summary="plan", **options.SHORT
            )
            if request.let_go > 0:
                await workflow.sleep(timedelta(seconds=request.let_go), summary="the steps of the lost run let go")
            await self._settle(self._begun)
        except FAILURES as error:
            cancelled = isinstance(error, asyncio.CancelledError) or is_cancelled_exception(error)
            errors = (_told(error, cancelled=cancelled),)
        outcome = self._outcome(cancelled=cancelled, failed=bool(errors))
        errors += tuple(Told(message=text, type="Left", code=outcome) for text in self._left)
        await shielded(self._finish(outcome, errors))
        if cancelled:
            raise asyncio.CancelledError
        if outcome in ("failed", "rollback_failed"):
            raise ApplicationError("; ".join(error.message for error in errors), type=outcome, non_retryable=True)
        return outcome

    async def _settle(self, begun: Begun) -> None:
        """The groups that are held, whole and one by one: an abort stops between two. Then what the others had claimed."""
        held = [group for group in begun.plan.groups if group.key in self._request.groups]
        back = self._request.decision == "old"
        for group in reversed(held) if back else held:
            stop_if_aborted()
            await shielded(self._old(begun, group) if back else self._new(begun, group))
        for group in reversed(begun.plan.groups):
            if group not in held:
                await shielded(self._give_back(begun, group))
        if self._switched and workflow.patched(STEPPING):
            await self._tell_phase("post_steps", summary="post steps")
            await post_steps(self._switched, job=self._job, tenant=begun.tenant, parallel=begun.parallel, warn=self._warn_of)

    def _warn_of(self, module: str, text: str) -> None:
        del module
        self._warnings.append(text[:2_000])

    async def _old(self, begun: Begun, group: Group) -> None:
        """What the undo of `GroupChange` does."""
        checks: dict[str, Checked] = {}
        for change in reversed(group.changes):
            checked = checks[change.product] = await self._recall(begun, group, change)
            if checked.calls_init:
                self._note(f"↩ undo init of {change.subject} ({checked.undo})")
                if checked.undo is Undo.REVERSIBLE and checked.needs_instance:
                    await self._acquire_if_possible(begun, group, change)
                await self._undo_init(self._checked(begun, group, change, checked))
        telling = Telling(tenant=begun.tenant, group=group, checked=checks)
        if self._does_tell(telling):
            telling.begun = True  # nobody knows whether the lost run had told anything
            await self._tell_old_permissions(telling)
        await workflow.execute_activity_method(
            GatewaySteps.resume_old, self._group(begun, group), summary="resume the old version", **options.UNDO
        )
        self._note(f"✓ {group.key}: the old version is open")
        await self._give_back(begun, group)

    async def _new(self, begun: Begun, group: Group) -> None:
        """What `GroupChange` does from a tenant init that went well."""
        checks: dict[str, Checked] = {}
        telling = Telling(tenant=begun.tenant, group=group, checked=checks)
        for change in group.changes:
            checked = checks[change.product] = await self._recall(begun, group, change)
            if checked.needs_instance and _is_acquired(change):
                await workflow.execute_activity_method(
                    GatewaySteps.acquire, _request(begun, self._job, group, change), summary=f"acquire {change.subject}",
                    **options.ACQUIRE,
                )  # fmt: skip
            await self._tell_permissions(telling, change)
            if checked.calls_init:
                await self._settle_init(self._checked(begun, group, change, checked))
            await self._tell_new_permissions_module(telling, change)
        await workflow.execute_activity_method(
            GatewaySteps.switch, self._group(begun, group), summary=f"switch {group.key}", **options.SHORT
        )
        self._note(f"✓ {group.key}: the new version is open")
        await self._tell_upgraded_permissions_module(telling)
        await workflow.execute_activity_method(
            GatewaySteps.release, self._group(begun, group), summary=f"release {group.key}", **options.SHORT
        )
        self._switched.extend(
            (change.version_to, count)
            for change in group.changes
            if change.version_to is not None and (count := checks[change.product].post_steps)
        )

    async def _settle_init(self, request: CheckedChange) -> None:
        while True:
            result: UndoResult = await workflow.execute_activity_method(
                TenantInitSteps.settle, request, summary=f"settle init of {request.change.subject}", **options.UNDO
            )
            self._warnings.extend(result.warnings)
            if result.done:
                return
            if await self._hold_point("; ".join(result.left), then="resolving") == "skip":
                self._warnings.extend(result.left)
                return

    async def _acquire_if_possible(self, begun: Begun, group: Group, change: Change) -> None:
        """Who takes its own migration back must be there; if it cannot be, the undo says so, and a person decides."""
        if not _is_acquired(change):
            return
        try:
            await workflow.execute_activity_method(
                GatewaySteps.acquire, _request(begun, self._job, group, change), summary=f"acquire {change.subject}",
                **options.ACQUIRE,
            )  # fmt: skip
        except ActivityError as error:
            self._warnings.append(f"{change.subject}: {reason_of(error)}")

    async def _give_back(self, begun: Begun, group: Group) -> None:
        for change in group.changes:
            if _is_acquired(change):
                await workflow.execute_activity_method(
                    GatewaySteps.give_back, _request(begun, self._job, group, change), summary=f"give back {change.subject}",
                    **options.UNDO,
                )  # fmt: skip

    async def _recall(self, begun: Begun, group: Group, change: Change) -> Checked:
        return await workflow.execute_activity_method(
            CheckSteps.recall, _request(begun, self._job, group, change), summary=f"recall {change.subject}", **options.SHORT
        )

    def _checked(self, begun: Begun, group: Group, change: Change, checked: Checked) -> CheckedChange:
        return CheckedChange(
            job=self._job,
            tenant=begun.tenant,
            group=group.key,
            change=change,
            checked=checked,
            key=step_key(self._job, change.key, "init"),
            parameters=begun.parameters,
        )

    def _group(self, begun: Begun, group: Group) -> GroupStep:
        return GroupStep(job=self._job, tenant=begun.tenant, group=group.key, changes=group.changes)

    def _outcome(self, *, cancelled: bool, failed: bool) -> str:
        if cancelled:
            return "aborted"
        if failed:
            return "failed"
        if self._left:
            return "rollback_failed"
        return "rolled_back" if self._request.decision == "old" else "done_with_warnings"

    async def _finish(self, outcome: str, errors: tuple[Told, ...]) -> None:
        workflow.upsert_search_attributes([PHASE.value_set("ended"), _OUTCOME.value_set(outcome)])
        warnings = tuple(Told(message=text, type="Warning") for text in self._warnings)
        await workflow.execute_activity_method(
            GatewaySteps.finish,
            FinishStep(job=self._job, outcome=outcome, errors=errors, warnings=warnings),
            summary=f"end as {outcome}",
            **options.SHORT,
        )


def _request(begun: Begun, job: str, group: Group, change: Change) -> ChangeRequest:
    return ChangeRequest(job=job, tenant=begun.tenant, group=group.key, change=change, deploy=begun.deploy, invoke=begun.invoke)


def _is_acquired(change: Change) -> bool:
    return change.version_to is not None or change.kind is Kind.PURGE


def _told(error: BaseException, *, cancelled: bool) -> Told:
    if cancelled:
        return Told(message="aborted before all was settled", type="Aborted", code="aborted")
    return Told(message=reason_of(error)[:2_000], type=kind_of(error), code="failed")
