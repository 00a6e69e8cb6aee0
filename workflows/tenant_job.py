"""`TenantJob`: one install, upgrade, disable or purge job of a tenant, group by group (requirements B7, C1-C3, D1)."""

import asyncio
from dataclasses import replace

from temporalio import workflow
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError, is_cancelled_exception
from temporalio.workflow import ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from activities import options
    from activities.signatures import Begun, FinishStep, GatewaySteps, JobRef, Told
    from upgrade_core.ids import product_of
    from upgrade_core.known import GROUPS_KEPT, Fact, FactKind
    from upgrade_core.plan import Change, Group
    from upgrade_core.runs import DATABASE_DIFFERS, KNOWING, STEPPING, TENANT_JOB, GroupRequest, TenantJobRequest
    from workflows.group_change import GroupChange
    from workflows.hold_point import PHASE, HoldPoint
    from workflows.module_steps import post_steps
    from workflows.undo import FAILURES, kind_of, reason_of, shielded, stop_if_aborted

_TENANT = SearchAttributeKey.for_keyword("UpliftTenant")
_MODULE = SearchAttributeKey.for_keyword("UpliftModule")
_FROM = SearchAttributeKey.for_keyword("UpliftFrom")
_TO = SearchAttributeKey.for_keyword("UpliftTo")
_OUTCOME = SearchAttributeKey.for_keyword("UpliftOutcome")


@workflow.defn(name=TENANT_JOB)
class TenantJob(HoldPoint):
    """Walks the plan of a job."""

    @workflow.init
    def __init__(self, request: TenantJobRequest) -> None:
        """Nothing is done yet."""
        super().__init__(job=request.job, subject="")
        self._request = request
        self._told_warnings: list[Told] = []
        self._errors: list[Told] = []
        self._outcomes: set[str] = set()
        self._states: dict[str, str] = {}
        self._plan: tuple[Fact, ...] = ()
        self._ended: list[tuple[Fact, ...]] = []
        self._parallel = 1
        self._let_be = False
        self._switched: dict[str, tuple[str, int]] = {}

    @workflow.run
    async def run(self, request: TenantJobRequest) -> str:
        """Do the groups; end the job's row whatever happens; answer or raise the outcome."""
        cancelled = False
        begun: Begun | None = None
        knows = workflow.patched(KNOWING)
        try:
            begun = await workflow.execute_activity_method(
                GatewaySteps.begin, JobRef(job=request.job), summary="plan", **options.SHORT
            )
            if knows:
                self._plan = (Fact(kind=FactKind.PLAN, key=begun.plan.digest, about=begun.tenant),)
                self._parallel = begun.parallel
            await self._groups(begun)
        except FAILURES as error:
            cancelled = isinstance(error, asyncio.CancelledError) or is_cancelled_exception(error)
            self._failed(error, cancelled=cancelled)
        if begun is not None:
            cancelled = await self._post_steps(begun, cancelled=cancelled)
        outcome = await shielded(self._finish())
        if cancelled:
            raise asyncio.CancelledError
        if not outcome.startswith("done"):
            raise ApplicationError("; ".join(error.message for error in self._errors), type=outcome, non_retryable=True)
        return outcome

    async def _groups(self, begun: Begun) -> None:
        """Groups run when all that they depend on have ended well, at most `parallel` at a time."""
        slots = asyncio.Semaphore(begun.parallel)
        ended = {group.key: asyncio.Event() for group in begun.plan.groups}
        well: set[str] = set()
        stop: list[BaseException] = []

        async def one(group: Group, earlier: tuple[str, ...]) -> None:
            try:
                for key in earlier:
                    await ended[key].wait()
                async with slots:
                    if (stop and not begun.ignore_errors) or self._let_be or not well.issuperset(group.after):
                        self._states[group.key] = "not started"
                        return
                    stop_if_aborted()
                    await self._group(begun, group)
                    well.add(group.key)
            except FAILURES as error:
                cancelled = isinstance(error, asyncio.CancelledError) or is_cancelled_exception(error)
                self._failed(error, cancelled=cancelled)
                self._let_be = self._let_be or _inner_kind(error) == DATABASE_DIFFERS
                self._states[group.key] = "failed"
                stop.append(error)
                if cancelled:
                    raise
            finally:
                ended[group.key].set()
                self._show()

        keys = [group.key for group in begun.plan.groups]
        tasks = [
            asyncio.create_task(one(group, tuple(keys[:position]) if begun.parallel == 1 else group.after))
            for position, group in enumerate(begun.plan.groups)
        ]
        try:
            await asyncio.gather(*tasks)
            stop_if_aborted()
        except FAILURES:
            # Cancelled groups undo what they did; the job has not ended before the last of them has.
            await shielded(_ended(tasks))
            raise

    async def _group(self, begun: Begun, group: Group) -> None:
        self._states[group.key] = "running"
        self._show()
        request = GroupRequest(
            job=self._request.job,
            tenant=begun.tenant,
            group=group,
            parameters=begun.parameters,
            deploy=begun.deploy,
            invoke=begun.invoke,
            known=self._known,
        )
        change = group.changes[0]
        more = f" and {len(group.changes) - 1} more" if len(group.changes) > 1 else ""
        result = await workflow.execute_child_workflow(
            GroupChange.run,
            request,
            id=f"{self._request.job}/{group.key}",
            static_summary=f"{begun.tenant}: {change.kind} {change.subject}{more}"[:190],
            search_attributes=_attributes(begun.tenant, change),
            parent_close_policy=ParentClosePolicy.REQUEST_CANCEL,
        )
        about = result.about or (change.product,) * len(result.warnings)  # a group that ended on an older build does not say
        self._told_warnings.extend(
            Told(message=text, type="Warning", code=product) for text, product in zip(result.warnings, about, strict=True)
        )
        for each in group.changes:
            self._switched.pop(each.product, None)  # an earlier version's: the tenant has gone on
        self._switched.update((product_of(module), (module, count)) for module, count in result.post_steps)
        if self._plan:
            self._ended.append(result.known)
        self._states[group.key] = "done"

    async def _post_steps(self, begun: Begun, *, cancelled: bool) -> bool:
        """Post steps of what was switched, also where other groups failed; says whether the job is aborted by now."""
        if not self._switched or self._let_be or not workflow.patched(STEPPING):
            return cancelled
        modules = tuple(self._switched.values())
        if cancelled:
            for module, count in modules:
                self._warn_of(module, f"aborted: {count} post steps of {module} were not done")
            return True
        try:
            await self._tell_phase("post_steps", summary="post steps")
            await post_steps(modules, job=self._request.job, tenant=begun.tenant, parallel=begun.parallel, warn=self._warn_of)
        except FAILURES as error:
            if not (isinstance(error, asyncio.CancelledError) or is_cancelled_exception(error)):
                raise
            self._failed(error, cancelled=True)
            return True
        return False

    def _warn_of(self, module: str, text: str) -> None:
        self._told_warnings.append(Told(message=text[:2_000], type="Warning", code=product_of(module)))

    @property
    def _known(self) -> tuple[Fact, ...]:
        """The plan, and what the last groups did: of as many as may run at once, since what is older is implied by them."""
        last = self._ended[-min(self._parallel, GROUPS_KEPT) :]
        return (*self._plan, *(fact for facts in last for fact in facts))

    def _failed(self, error: BaseException, *, cancelled: bool) -> None:
        kind = kind_of(error)
        if cancelled:
            outcome, told = "aborted", Told(message=self._aborted(), type="Aborted", code="aborted")
        else:
            outcome = {"RolledBack": "rolled_back", "RollbackFailed": "rollback_failed"}.get(kind, "failed")
            text = reason_of(error)
            told = Told(message=text[:2_000], type=_inner_kind(error) or kind, code=outcome)
        if cancelled:
            self._errors = [error for error in self._errors if error.type != "Aborted"]
        self._told_warnings.extend(_warnings_of(error))
        if told not in self._errors:
            self._errors.append(told)
        self._outcomes.add(outcome)

    def _aborted(self) -> str:
        switched = [key for key, state in self._states.items() if state == "done"]
        kept = f"; switched before, and kept: {', '.join(switched)}" if switched else ""
        return f"aborted; what had not been switched was undone{kept}"

    def _outcome(self) -> str:
        for worst in ("rollback_failed", "aborted", "failed", "rolled_back"):
            if worst in self._outcomes:
                return worst
        return "done_with_warnings" if self._told_warnings else "done"

    async def _finish(self) -> str:
        """End the job as its outcome; when a person let something be, as far as the gateway knows the job."""
        while True:
            outcome = self._outcome()
            workflow.upsert_search_attributes([PHASE.value_set("ended"), _OUTCOME.value_set(outcome)])
            end = FinishStep(
                job=self._request.job, outcome=outcome, errors=tuple(self._errors), warnings=tuple(self._told_warnings)
            )
            try:
                await workflow.execute_activity_method(
                    GatewaySteps.finish,
                    end if self._let_be else replace(end, known=self._known),
                    summary=f"end as {outcome}",
                    **options.SHORT,
                )
            except ActivityError as error:
                if kind_of(error) != DATABASE_DIFFERS:
                    raise
                why = reason_of(error)
            else:
                return outcome
            if await self._hold_point(why, then="watching") == "skip":
                self._let_be = True
                self._errors.append(Told(message=f"{why}. Let be by a person", type=DATABASE_DIFFERS, code="failed"))
                self._outcomes.add("failed")

    def _show(self) -> None:
        workflow.set_current_details("\n".join(f"- {key}: {state}" for key, state in self._states.items()))


def _attributes(tenant: str, change: Change) -> TypedSearchAttributes:
    values = {
        _TENANT: tenant,
        _MODULE: change.product,
        _FROM: change.version_from or "",
        _TO: change.version_to or "",
        PHASE: "planned",
    }
    return TypedSearchAttributes([SearchAttributePair(key, value) for key, value in values.items() if value])


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


def _warnings_of(error: BaseException) -> list[Told]:
    """What a group that was undone has warned of, such as a module that was trusted to take its migration back itself."""
    cause = error.cause if isinstance(error, ChildWorkflowError) else None
    found = cause.details[2] if isinstance(cause, ApplicationError) and len(cause.details) > 2 else []  # noqa: PLR2004
    return [Told(message=text, type="Warning", code=product) for product, text in found] if isinstance(found, list) else []


def _inner_kind(error: BaseException) -> str:
    """The type of what made a group roll back."""
    cause = error.cause if isinstance(error, ChildWorkflowError) else None
    if isinstance(cause, ApplicationError) and len(cause.details) > 1:
        return str(cause.details[1])
    return ""
