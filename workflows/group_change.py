"""`GroupChange`: one group of a job: hold, copy, initialise, verify, switch; undo on any error (requirements D1, D2).

The steps and their undo are listed in `upgrade_core.plan`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

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
        ModuleStepRequest,
        ModuleSteps,
        PhaseStep,
        SnapshotSteps,
        TenantInitSteps,
    )
    from upgrade_core.ids import copy_id, hold_id, step_key
    from upgrade_core.known import Fact, FactKind, newest, once_opened, while_opening, without
    from upgrade_core.module_steps import StepEffect, StepKind
    from upgrade_core.plan import STEPS, Change, Step
    from upgrade_core.runs import DATABASE_DIFFERS, GROUP_CHANGE, KNOWING, SEVERAL, STEPPING, GroupRequest, GroupResult
    from workflows.hold_point import PHASE
    from workflows.module_steps import carry_out
    from workflows.telling import Telling, TellsPermissions
    from workflows.undo import FAILURES, UndoStack, kind_of, reason_of, shielded, stop_if_aborted

_Result = TypeVar("_Result")
_PHASES = {
    Step.CHECK: "planned",
    Step.ACQUIRE: "deploying",
    Step.PRECHECK: "checking",
    Step.UPDATE: "updating",
    Step.SNAPSHOT: "copying",
    Step.PERMISSIONS: "migrating",
    Step.INIT: "migrating",
    Step.VERIFY: "verifying",
    Step.SWITCH: "switching",
    Step.WATCH: "watching",
    Step.RELEASE: "watching",
}
_OPTIONS = {Step.UPDATE: options.UPDATE, Step.RELEASE: options.RELEASE}
_UNSTOPPABLE = (_PHASES[Step.SWITCH], _PHASES[Step.WATCH], "undoing")
"""Phases that an abort does not cut."""


@workflow.defn(name=GROUP_CHANGE)
class GroupChange(TellsPermissions):
    """Carries out one group of one tenant's job."""

    @workflow.init
    def __init__(self, request: GroupRequest) -> None:
        """Nothing is done yet."""
        super().__init__(job=request.job, subject=request.group.changes[0].subject)
        self._request = request
        self._undo = UndoStack()
        self._checked: dict[str, Checked] = {}
        self._telling = Telling(tenant=request.tenant, group=request.group, checked=self._checked)
        self._known = request.known
        self._knows = False
        self._let_be = False
        self._phase = "planned"
        self._at: Change | None = None
        self._warned: list[str] = []

    @workflow.run
    async def run(self, request: GroupRequest) -> GroupResult:
        """Do the steps; on an error or a cancel undo them and raise."""
        self._knows = workflow.patched(KNOWING)
        try:
            await self._forward(request)
        except FAILURES as error:
            if self._let_be:
                raise
            cancelled = is_cancelled_exception(error) or isinstance(error, asyncio.CancelledError)
            why = "aborted" if cancelled else reason_of(error)
            failed = None if cancelled else self._at
            left = await shielded(self._back(why, failed))
            why = self._told_of(why, failed)
            if cancelled and not left:
                raise
            kind = "RollbackFailed" if left else "RolledBack"
            warnings = [list(warning) for warning in zip(self._warned, self._warnings, strict=True)]
            raise ApplicationError(why, list(left), kind_of(error), warnings, type=kind, non_retryable=True) from None
        await self._tell_upgraded_permissions_module(self._telling)
        try:
            await self._watch()
        except asyncio.CancelledError:
            self._warn("aborted after the switch: users write to the new version, so it stays")
        await shielded(self._step(GatewaySteps.release, Step.RELEASE, self._group()))
        opened = tuple(fact for fact in self._known if fact.kind is FactKind.OPENED and fact not in request.known)
        return GroupResult(warnings=tuple(self._warnings), about=tuple(self._warned), known=opened, post_steps=self._post_steps())

    async def _forward(self, request: GroupRequest) -> None:
        changes = request.group.changes
        for change in changes:
            self._look_at(change)
            self._checked[change.product] = await workflow.execute_activity_method(
                CheckSteps.check, self._change(change), summary=f"check {change.subject}", **options.CHECK
            )
            self._warn(*self._checked[change.product].warnings)
        self._note("✓ checked")
        for change in changes:
            if Step.ACQUIRE in STEPS[change.kind]:
                await self._acquire(change)
        await self._precheck(changes)
        stop_if_aborted()
        self._look_at(None)
        self._undo.push("RESUME on the old version", self._resume_old)
        await self._step(GatewaySteps.update, Step.UPDATE, self._group())
        for change in changes:
            self._learn(FactKind.HELD, hold_id(request.job, request.group.key, change.product), change.product)
        await self._copy_all([change for change in changes if self._checked[change.product].copies])
        last = self._what_goes_last(changes)
        if self._telling.is_needed:
            self._undo.push("tell the old permissions", self._tell_old)
        for change in changes:
            if change in last:
                continue
            self._look_at(change)
            await self._tell_permissions(self._telling, change)
            if self._checked[change.product].calls_init:
                await self._init(change)
            elif self._is_needed_by_others(change):
                await self._show(change)
            await self._tell_new_permissions_module(self._telling, change)
        for change in changes:
            if self._checked[change.product].verifies:
                await self._verify(change)
        for change in last:
            self._look_at(change)
            await self._tell_permissions(self._telling, change)
            if self._checked[change.product].calls_init:
                await self._init(change)
            await self._tell_new_permissions_module(self._telling, change)
        await self._switch()

    def _what_goes_last(self, changes: tuple[Change, ...]) -> tuple[Change, ...]:
        """What leaves where something else comes: its data is not destroyed before what comes was found well."""
        goes = tuple(change for change in changes if change.version_to is None)
        mixed = 0 < len(goes) < len(changes)
        return goes if mixed and workflow.patched(SEVERAL) else ()

    def _is_needed_by_others(self, change: Change) -> bool:
        """Whether others of the group may call a new version that has no tenant init, before it is switched to."""
        others = (found for product, found in self._checked.items() if product != change.product)
        reached = change.version_to is not None and self._checked[change.product].needs_instance
        return reached and any(found.calls_init or found.verifies for found in others) and workflow.patched(SEVERAL)

    async def _acquire(self, change: Change) -> None:
        if not self._checked[change.product].needs_instance:
            return
        stop_if_aborted()
        self._look_at(change)
        request = self._change(change)
        self._enter(Step.ACQUIRE)

        async def give_back() -> None:
            self._known = without(self._known, FactKind.CLAIM, key=change.subject)
            await self._told(
                lambda known: workflow.execute_activity_method(
                    GatewaySteps.give_back,
                    replace(request, known=known),
                    summary=f"give back {change.subject}",
                    **options.UNDO,
                )
            )

        self._undo.push(f"give {change.subject} back", give_back)
        await self._told(
            lambda known: workflow.execute_activity_method(
                GatewaySteps.acquire, replace(request, known=known), summary=f"acquire {change.subject}", **options.ACQUIRE
            )
        )
        self._learn(FactKind.CLAIM, change.subject)
        self._note(f"✓ acquired {change.subject}")

    async def _precheck(self, changes: tuple[Change, ...]) -> None:
        """What the new versions ask for before anybody is held; what speaks against it is told whole."""
        failures: list[str] = []
        for change in changes:
            count = self._checked[change.product].prechecks
            if change.version_to is None or not count or not workflow.patched(STEPPING):
                continue
            stop_if_aborted()
            self._look_at(change)
            self._enter(Step.PRECHECK)
            close = self._close_of(change)
            self._undo.push(f"close what prechecks of {change.subject} went through", close)
            for index in range(count):
                stop_if_aborted()
                request = ModuleStepRequest(
                    job=self._request.job, tenant=self._request.tenant, module=change.version_to, kind=StepKind.PRECHECK,
                    index=index, bound=change.bound,
                )  # fmt: skip
                state = await carry_out(request, self._told)
                self._warn(*state.warnings)
                if state.effect is StepEffect.FAILED:
                    failures.extend(f"precheck {index + 1} of {change.subject}: {error}" for error in state.errors)
            await close()
            self._undo.drop()
            self._note(f"✓ prechecks of {change.subject}")
        self._look_at(None)
        if failures:
            raise ApplicationError("; ".join(failures)[:4_000], type="PrecheckFailed", non_retryable=True)

    def _close_of(self, change: Change) -> Callable[[], Awaitable[None]]:
        request = self._change(change)

        async def close() -> None:
            await self._told(
                lambda known: workflow.execute_activity_method(
                    ModuleSteps.close, replace(request, known=known), summary=f"close {change.subject}", **options.UNDO
                )
            )

        return close

    async def _tell_old(self) -> None:
        await self._tell_old_permissions(self._telling)

    def _post_steps(self) -> tuple[tuple[str, int], ...]:
        """The versions that were switched to and have post steps."""
        changes = self._request.group.changes
        return tuple(
            (change.version_to, count)
            for change in changes
            if change.version_to is not None and (count := self._checked[change.product].post_steps)
        )

    async def _init(self, change: Change) -> None:
        checked, request = self._checked[change.product], self._checked_change(change)
        stop_if_aborted()
        self._look_at(change)
        self._enter(Step.INIT)

        async def undo_init() -> None:
            self._look_at(change)
            await self._undo_init(replace(request, asks=1))

        self._undo.push(f"undo init of {change.subject} ({checked.undo})", undo_init)
        while True:
            state = await self._start_init(request)
            self._learn(FactKind.INTENT, request.key, change.product)
            stop_if_aborted()
            while state.effect == "follow":
                state = await self._follow_init(request, state)
            self._warn(*state.warnings)
            if state.effect == "done":
                self._learn(FactKind.INIT_ENDED, request.key, change.product)
                self._note(f"✓ init of {change.subject}: {state.outcome}")
                return
            if state.effect == "unknown" and await self._hold_point("; ".join(state.errors), then="migrating") == "retry":
                request = replace(request, asks=state.asked + 1)
                continue
            message = "; ".join(state.errors) or f"tenant init of {change.subject} {state.outcome or state.effect}"
            kind = "TenantInitRefused" if state.effect == "refused" else "TenantInitFailed"
            raise ApplicationError(message, type=kind, non_retryable=True)

    async def _show(self, change: Change) -> None:
        stop_if_aborted()
        self._look_at(change)
        request = self._change(change)
        await self._told(
            lambda known: workflow.execute_activity_method(
                GatewaySteps.show, replace(request, known=known), summary=f"show {change.subject}", **options.SHORT
            )
        )

    async def _start_init(self, request: CheckedChange) -> InitState:
        return await self._told(
            lambda known: workflow.execute_activity_method(
                TenantInitSteps.start,
                replace(request, known=known),
                summary=f"init {request.checked.init_module}",
                **options.INIT,
            )
        )

    async def _follow_init(self, request: CheckedChange, state: InitState) -> InitState:
        return await self._told(
            lambda known: workflow.execute_activity_method(
                TenantInitSteps.follow,
                FollowRequest(step=replace(request, known=known), state=state),
                summary=f"follow init {request.checked.init_module}",
                **options.FOLLOW,
            )
        )

    async def _copy_all(self, waiting: list[Change]) -> None:
        """Copy the data of these, several at once: users wait until the last copy is taken."""
        at_once = min((self._checked[change.product].copies_at_once for change in waiting), default=1)
        if len(waiting) > 1 and at_once > 1:
            stop_if_aborted()
            self._look_at(None)
            self._enter(Step.SNAPSHOT)
            await self._told(lambda known: self._copy_side_by_side(waiting, at_once, known))
            return
        for change in waiting:
            stop_if_aborted()
            self._look_at(change)
            self._enter(Step.SNAPSHOT)
            await self._told(lambda known, change=change: self._copy(change, known))  # type: ignore[misc]

    async def _copy_side_by_side(self, waiting: list[Change], at_once: int, known: tuple[Fact, ...]) -> None:
        """Copy these; those that are copied are taken off the list. When one fails, the others are ended, too."""
        places = asyncio.Semaphore(at_once)

        async def copy(change: Change) -> None:
            async with places:
                stop_if_aborted()
                await self._copy(change, known)
                waiting.remove(change)

        tasks = [(change, asyncio.create_task(copy(change))) for change in waiting]
        try:
            await asyncio.gather(*(task for _, task in tasks))
        except FAILURES:
            self._look_at(next((change for change, task in tasks if _failed(task)), None))
            for _, task in tasks:
                task.cancel()
            await shielded(_ended([task for _, task in tasks]))  # a copy that is still at work would be in the way of the undo
            raise

    async def _copy(self, change: Change, known: tuple[Fact, ...]) -> None:
        request = self._checked_change(change)
        schema = request.checked.schema
        await workflow.execute_activity_method(
            SnapshotSteps.take, replace(request, known=known), summary=f"copy {schema}", **options.COPY
        )
        self._learn(FactKind.COPY, copy_id(request.job, change.key), change.product)
        self._note(f"✓ copied {schema}")

    async def _verify(self, change: Change) -> None:
        stop_if_aborted()
        self._look_at(change)
        self._enter(Step.VERIFY)
        verdict = await self._told(
            lambda known: workflow.execute_activity_method(
                CheckSteps.verify,
                replace(self._checked_change(change), known=known),
                summary=f"verify {change.subject}",
                **options.VERIFY,
            )
        )
        if verdict.failures:
            raise ApplicationError("; ".join(verdict.failures), type="CheckFailed", non_retryable=True)
        self._note(f"✓ verified {change.subject}")

    async def _switch(self) -> None:
        """After this nothing is undone by itself: users have written. So it is not cut by a cancel either."""
        stop_if_aborted()
        self._look_at(None)
        self._known = while_opening(self._known)
        await shielded(self._step(GatewaySteps.switch, Step.SWITCH, self._group()))
        self._undo = UndoStack()
        opened = (fact for fact in once_opened(self._known) if fact.kind is FactKind.OPENED and fact not in self._request.known)
        self._known = (*self._request.known, *opened)
        for change in self._request.group.changes:
            self._learn(FactKind.BOUND, change.product, change.version_to or "")

    async def _watch(self) -> None:
        if workflow.cancellation_reason() is not None and workflow.patched("abort-while-switching"):
            raise asyncio.CancelledError  # it came while the switch, which nothing cuts, was under way
        soak = max((checked.soak for checked in self._checked.values()), default=0.0)
        if soak > 0:
            self._enter(Step.WATCH)
            await workflow.sleep(timedelta(seconds=soak), summary="soak")

    async def _back(self, why: str, failed: Change | None) -> tuple[str, ...]:
        """Undo, newest first; returns what is left, if a person let something be left.

        Args:
            why: For people.
            failed: The change that failed; None: the group as a whole did.
        """
        self._note(f"✗ {self._told_of(why, failed)}")
        self._phase = "undoing"
        workflow.upsert_search_attributes([PHASE.value_set(self._phase)])
        changes = self._request.group.changes
        first = failed or changes[0]
        phase = PhaseStep(
            job=self._request.job,
            phase="undoing",
            subject=first.subject,
            message=why[:2_000],
            others=tuple(change.subject for change in changes if change is not first),
            others_message=(why if failed is None else f"undone with {self._told_of(why, failed)}")[:2_000],
        )
        await self._told(
            lambda known: workflow.execute_activity_method(
                GatewaySteps.set_phase, replace(phase, known=known), summary="undoing", **options.SHORT
            )
        )
        await self._undo.unwind(lambda name: self._note(f"↩ {name}"))
        return self._left

    def _told_of(self, why: str, failed: Change | None) -> str:
        """Why, and of which module where there are several."""
        named = failed is None or len(self._request.group.changes) == 1 or failed.subject in why
        return why if named or failed is None else f"{failed.subject}: {why}"

    async def _resume_old(self) -> None:
        self._known = while_opening(self._known)
        await self._told(
            lambda known: workflow.execute_activity_method(
                GatewaySteps.resume_old, replace(self._group(), known=known), summary="resume the old version", **options.UNDO
            )
        )
        self._known = once_opened(self._known)

    async def _step(self, method: Callable[[GatewaySteps, GroupStep], Awaitable[None]], step: Step, request: GroupStep) -> None:
        self._enter(step)
        await self._told(
            lambda known: workflow.execute_activity_method(
                method,
                replace(request, known=known),
                summary=f"{step} {request.changes[0].subject}",
                **_OPTIONS.get(step, options.SHORT),
            )
        )
        self._note(f"✓ {step}")

    async def _told(self, step: Callable[[tuple[Fact, ...]], Awaitable[_Result]]) -> _Result:
        """A step that is told what we know; it is refused where the database does not know it, too: then a person decides.

        Undoing or switching on a database that is not the one that we worked on would make it worse.
        """
        while True:
            try:
                return await step(newest(self._known) if self._knows else ())
            except ActivityError as error:
                if kind_of(error) != DATABASE_DIFFERS:
                    raise
                why = reason_of(error)
            if await shielded(self._hold_point(why, then=self._phase)) == "skip":
                self._let_be = True
                left = self._undo.names
                message = "; ".join([f"{why}. Let be by a person", *(f"not done: {name}" for name in left)])
                raise ApplicationError(message, list(left), DATABASE_DIFFERS, type="RollbackFailed", non_retryable=True)
            if self._phase not in _UNSTOPPABLE:
                stop_if_aborted()

    def _learn(self, kind: FactKind, key: str, about: str = "") -> None:
        """Something of ours is on record from now on."""
        fact = Fact(kind=kind, key=key, about=about)
        if fact not in self._known:
            self._known = (*self._known, fact)

    def _look_at(self, change: Change | None) -> None:
        """What the following steps are about; None: the group as a whole."""
        self._at = change
        self._subject = (change or self._request.group.changes[0]).subject

    def _warn(self, *texts: str) -> None:
        """Keep warnings about what is looked at."""
        product = (self._at or self._request.group.changes[0]).product
        self._warnings.extend(texts)
        self._warned.extend(product for _ in texts)

    def _enter(self, step: Step) -> None:
        self._phase = _PHASES[step]
        workflow.upsert_search_attributes([PHASE.value_set(self._phase)])
        workflow.set_current_details("\n".join([*self._tree, f"▶ {step}"]))

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
            key=step_key(request.job, change.key, "init"),
            parameters=request.parameters,
        )

    def _group(self) -> GroupStep:
        request = self._request
        quiet = tuple((checked.dsn, checked.schema) for checked in self._checked.values() if checked.dsn and checked.schema)
        return GroupStep(
            job=request.job, tenant=request.tenant, group=request.group.key, changes=request.group.changes, quiet=quiet
        )


def _failed(task: asyncio.Task[None]) -> bool:
    """Whether it ended by an error of its own, not by a cancel."""
    if not task.done() or task.cancelled():
        return False
    error = task.exception()
    return error is not None and not is_cancelled_exception(error)


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
