"""Tenant init: asked for once, followed to its end, never believed dead without proof (requirements B1, B2, C3, C4).

An intent row precedes the request. An attempt that finds one begins in `unknown`: it follows the job if there is one, and
asks once more only when the first is over for sure and doing it again is harmless.
"""

import uuid
from dataclasses import replace
from urllib.parse import urlsplit

from temporalio import activity
from temporalio.client import Client

from activities.clock import Clock
from activities.migrations import InitStep, Migrations
from activities.module_calls import ModuleCalls, NoAnswer, NothingSent
from activities.signatures import CheckedChange, FollowRequest, InitState, TenantInitSteps, UndoResult
from activities.translate import final, translated, until_answered
from gateway_client import (
    GatewayClient,
    InitReport,
    Instance,
    IntentRequest,
    IntentState,
    OverlayRequest,
)
from module_data import RestoreFailed, SchemaCopy, ToolsMissing
from upgrade_core.descriptors import Undo
from upgrade_core.ids import copy_id, step_key
from upgrade_core.plan import Kind
from upgrade_core.tenant_init import (
    Dialect,
    Effect,
    InitAnswer,
    dialect_of,
    init_call,
    next_look,
    purpose_of,
    read_answer,
    read_job,
)
from uplift_settings.tree import DataSettings, InitSettings, SnapshotSettings

_LONG_POLL = 5.0
"""Seconds of one long poll, for modules that can."""
_RESTORE_PAUSES = (1.0, 5.0)
"""Seconds between tries of a restore before a person is asked."""
_NOBODY = "-"
"""Instance of an intent that was written by who only wanted to know whether there is one: nobody was asked."""
_SETTLED_EFFECTS = frozenset({"done", "failed", "refused"})


class TenantInitActivities(TenantInitSteps):
    """Implementation.

    Args:
        gateway: The gateway.
        temporal: To have an instance restarted that nobody else uses.
        calls: How instances are called.
        init: Clocks.
        data: Tools of Postgres.
        snapshots: Clocks of restoring.
        clock: The time of jobs, which may take hours (requirement C4).
    """

    def __init__(
        self,
        *,
        gateway: GatewayClient,
        temporal: Client,
        calls: ModuleCalls,
        init: InitSettings,
        data: DataSettings,
        snapshots: SnapshotSettings,
        clock: Clock | None = None,
    ) -> None:
        self._gateway = gateway
        self._calls = calls
        self._init = init
        self._migrations = Migrations(gateway=gateway, temporal=temporal, calls=calls, init=init, data=data, snapshots=snapshots)
        self._clock = clock or Clock()

    @activity.defn(name="tenant_init.start")
    async def start(self, request: CheckedChange) -> InitState:
        """Ask for tenant init, once."""
        with translated():
            init = InitStep(request=request, module=await self._gateway.descriptor(request.checked.init_module))
            return await self._start(init)

    @activity.defn(name="tenant_init.follow")
    async def follow(self, request: FollowRequest) -> InitState:
        """Follow its job to the end, over restarts of the module and of everything of ours."""
        with translated():
            step = request.step
            init = InitStep(request=step, module=await self._gateway.descriptor(step.checked.init_module))
            return await self._follow(init)

    @activity.defn(name="tenant_init.undo")
    async def undo(self, request: CheckedChange) -> UndoResult:
        """Take back what tenant init did, never under a running migration."""
        checked, change = request.checked, request.change
        with translated():
            init = InitStep(request=request, module=await self._gateway.descriptor(checked.init_module))
            await self._gateway.close_overlay(request.job, change.product)
            intent = await self._intent(init)
            if intent.fresh or intent.instance == _NOBODY:
                await self._report(init, InitReport(state="ended", subject=change.subject, outcome="not asked"))
                return UndoResult()
            if checked.undo is Undo.FORWARD_ONLY:
                return UndoResult(done=False, left=(f"{change.subject} only goes forward: a person decides",))
            running = await self._migrations.stop(init, intent)
            if running:
                return UndoResult(done=False, left=(running,))
            # Before anything is taken back: what is still told about it must not count any more.
            if intent.state != "ended":
                await self._report(init, InitReport(state="ended", subject=change.subject, outcome="undone"))
            result = await self._take_back(init)
            if result.done and checked.undo not in (Undo.MODULE, Undo.COMPATIBLE):
                await self._gateway.set_data_version(request.job, change.product, change.version_from)
            return result

    @activity.defn(name="tenant_init.settle")
    async def settle(self, request: CheckedChange) -> UndoResult:
        """Take tenant init for done, because a person says so. The overlay stays open, as after one that went well."""
        change = request.change
        with translated():
            init = InitStep(request=request, module=await self._gateway.descriptor(request.checked.init_module))
            intent = await self._intent(init)
            if intent.state == "ended" and intent.answer is not None and intent.answer.effect == Effect.DONE:
                return UndoResult()
            asked = not intent.fresh and intent.instance != _NOBODY
            running = await self._migrations.stop(init, intent) if asked else ""
            if running:
                return UndoResult(done=False, left=(running,))
            report = InitReport(
                state="ended", subject=change.subject, effect=Effect.DONE, outcome="taken for done",
                data_version=change.version_to, asked_again=intent.state == "ended", attempt=f"settled {request.job}",
            )  # fmt: skip
            await self._report(init, report)
        return UndoResult(warnings=(f"{change.subject}: tenant init is taken for done because a person says so",))

    async def _start(self, init: InitStep) -> InitState:
        """Ask, unless an earlier attempt may have asked."""
        request = init.request
        instance = await self._migrations.instance(init)
        if instance is None:
            raise final(f"No running instances for module {init.module.id}. Can not invoke /_/tenant", "NoInstance")
        url = await self._url(init)
        intent = await self._intent(init, instance)
        if intent.fresh:
            return await self._ask(init, instance, url)
        if intent.asked < request.asks:
            return await self._ask_once_more(init, intent, "a person said so", sure=True)
        if intent.answer is not None and intent.answer.effect in _SETTLED_EFFECTS:
            return _state(intent.answer, intent)
        if intent.job_path:
            return InitState(effect="follow", job_path=intent.job_path, instance=intent.instance, asked=intent.asked)
        return await self._unknown(init, intent, "an earlier attempt was cut off after it may have asked")

    async def _ask(self, init: InitStep, instance: Instance, url: str) -> InitState:
        """Send the request. From here on a gateway that is away is waited for: only this attempt knows what was asked."""
        change, module = init.request.change, init.module
        call = init_call(
            module,
            purpose=purpose_of(change.kind),
            module_from=change.version_from,
            module_to=change.version_to,
            parameters=init.request.parameters,
            run=init.request.job,
        )
        if call is None:
            raise final(f"{module.id} has no call for {change.kind}", "NothingToCall")
        deadline = self._clock.now() + self._init.connect_retry
        while True:
            try:
                response = await self._calls.post(instance, call, tenant=init.request.tenant, url=url)
            except NothingSent as error:
                answer = InitAnswer(effect=Effect.FAILED, outcome="failed", errors=(str(error),))
            except NoAnswer as error:
                activity.logger.warning("tenant init of %s for %s: %s", module.id, init.request.tenant, error)
                return await self._unknown(init, await self._intent(init), str(error))
            else:
                answer = read_answer(
                    module, call, status=response.status_code, location=response.headers.get("Location"), body=response.text
                )
                # A module may build the job's address from the X-Okapi-Url that it was given.
                answer = replace(answer, job_path=answer.job_path.removeprefix(urlsplit(url).path))
            if answer.effect is not Effect.RETRY or self._clock.now() > deadline:
                break
            await self._clock.sleep(1)
        if answer.effect is Effect.UNKNOWN:
            return await self._unknown(init, await self._intent(init), "; ".join(answer.errors))
        return await self._settle(init, answer, instance)

    async def _follow(self, init: InitStep) -> InitState:
        intent = await self._intent(init)
        job_path = intent.job_path or ""
        if intent.answer is not None and intent.answer.effect in _SETTLED_EFFECTS:
            if job_path:  # an earlier attempt may have been cut off before it did
                await self._forget_job(init, await self._migrations.instance(init, prefer=intent.instance), job_path)
            return _state(intent.answer, intent)
        module = init.module
        begun = changed = still = heard = self._clock.now()
        seen = ""
        long_poll = _LONG_POLL if dialect_of(module) is Dialect.OKAPI_2 else 0.0
        told: tuple[str, tuple[str, ...]] = ("", ())
        while True:
            instance = await self._migrations.instance(init, prefer=intent.instance)
            response = None if instance is None else await self._migrations.look(init, instance, job_path, wait=long_poll)
            if instance is not None and response is not None:
                if response.status_code == 404:  # noqa: PLR2004
                    return await self._lost(init, job_path, f"{module.id} does not know its job {job_path} any more")
                answer = read_job(module, job_path, status=response.status_code, body=response.text)
                if answer.effect in (Effect.DONE, Effect.FAILED):
                    state = await self._settle(init, answer, instance)
                    await self._forget_job(init, instance, job_path)
                    return state
                if answer.effect is Effect.RETRY:
                    still = self._clock.now()
                    if still - heard > self._init.stall_after:
                        return await self._lost(init, job_path, f"looks at {job_path} fail: {answer.errors[0]}")
                else:
                    heard = self._clock.now()
                    if response.text != seen:
                        seen, changed, still = response.text, heard, heard
                if answer.effect is Effect.FOLLOW and (answer.progress, answer.messages) != told:
                    told = (answer.progress, answer.messages)
                    await self._report(
                        init,
                        InitReport(
                            state="following", subject=init.request.change.subject, job_path=job_path, progress=answer.progress,
                            messages=answer.messages, warnings=answer.warnings,
                        ),
                    )  # fmt: skip
            else:
                still = self._clock.now()
            known = intent.generation is not None
            if not known and await self._migrations.is_seen(init.request):
                still = self._clock.now()
            unchanged = self._clock.now() - (changed if known else still)
            if instance is not None and await self._migrations.has_stalled(init, intent, instance, unchanged):
                restarted = instance.generation != intent.generation
                why = f"{module.id} {'was restarted while it' if restarted else 'said that it'} worked on {job_path}"
                return await self._lost(init, job_path, f"{why}, which does not go on")
            pause = next_look(self._clock.now() - begun, first=self._init.poll_first, longest=self._init.poll_max)
            await self._clock.sleep(pause)

    async def _lost(self, init: InitStep, job_path: str, why: str) -> InitState:
        """A job that is gone, or dead, unless another attempt knows better: one that is taken for dead may live on.

        Who sees the end of a job writes it down before removing the job from the module.
        """
        intent = await self._intent(init)
        if intent.answer is not None and intent.answer.effect in _SETTLED_EFFECTS:
            return _state(intent.answer, intent)
        if intent.job_path and intent.job_path != job_path:
            return InitState(effect="follow", job_path=intent.job_path, instance=intent.instance, asked=intent.asked)
        return await self._unknown(init, intent, why)

    async def _unknown(self, init: InitStep, intent: IntentState, why: str) -> InitState:
        """Nobody knows whether init ran. When it is over for sure and doing it again is harmless: once more; else a person."""
        if intent.asked > init.request.asks:
            return _nobody_knows(intent, f"{why}, after it was asked for once more")
        return await self._ask_once_more(init, intent, why)

    async def _ask_once_more(self, init: InitStep, intent: IntentState, why: str, *, sure: bool = False) -> InitState:
        """Ask again when it is over for sure and doing it again is harmless: the data is put back, or the module says so.

        Args:
            init: What is asked for.
            intent: Its intent.
            why: Why it is asked again, for people.
            sure: A person wants it so: what cannot be seen is taken for well.
        """
        request, module = init.request, init.module
        running = await self._migrations.stop(init, intent)
        if running and not (sure and self._migrations.data(request) is None):
            return _nobody_knows(intent, why, running)
        if request.checked.copies:
            result = await self._restore(request)
            if not result.done:
                return _nobody_knows(intent, why, *result.left)
        elif not (sure or module.uplift.rerunnable):
            return _nobody_knows(intent, why)
        instance = await self._migrations.instance(init, prefer=intent.instance)
        if instance is None:
            return _nobody_knows(intent, why, f"no instance of {module.id} is there")
        url = await self._url(init)
        activity.logger.warning("tenant init of %s for %s is asked for once more: %s", module.id, request.tenant, why)
        await self._report(
            init,
            InitReport(
                state="asked", subject=request.change.subject, asked_again=True, attempt=str(uuid.uuid4()), instance=instance.id,
                generation=instance.generation,
            ),
        )  # fmt: skip
        return await self._ask(init, instance, url)

    async def _take_back(self, init: InitStep) -> UndoResult:
        undo, change = init.request.checked.undo, init.request.change
        if undo is Undo.SNAPSHOT:
            return await self._restore(init.request)
        if undo is Undo.REVERSIBLE and change.version_from is not None and change.version_to is not None:
            return await self._reverse(init.request)
        if undo is Undo.COMPATIBLE:
            return UndoResult()
        return UndoResult(
            warnings=(f"{change.subject}: nobody verified that the module rolled its data back itself (undo mode {undo})",)
        )

    async def _restore(self, request: CheckedChange) -> UndoResult:
        """Put the copy back. The same copy serves every attempt.

        Raises:
            ModuleDataError: The server cannot be asked: try again later.
        """
        wanted = copy_id(request.job, request.change.key)
        found = next((copy for copy in await until_answered(self._gateway.snapshots) if copy.id == wanted), None)
        data = self._migrations.data(request)
        if found is None or data is None:
            return UndoResult(done=False, left=(f"the copy {wanted} is not recorded",))
        copy = SchemaCopy(schema=found.schema_name, path=found.path, size=found.size, digest=found.digest, existed=found.existed)
        for pause in (*_RESTORE_PAUSES, None):
            try:
                await data.restore(copy)
            except (RestoreFailed, ToolsMissing) as error:
                # A server that went away in the middle makes the tool fail, too.
                if pause is None:
                    left = f"schema {copy.schema} could not be restored from {copy.path}: {error}"
                    return UndoResult(done=False, left=(left,))
                await self._clock.sleep(pause)
            else:
                break
        return UndoResult()

    async def _reverse(self, request: CheckedChange) -> UndoResult:
        """Tenant init with the two versions swapped, asked of the higher one, which knows both schemas.

        It has an intent of its own, so that it is not asked for twice by attempts that were cut off. A module that says that it
        failed, and that it may be asked again, is asked once more when its database answers; then a person decides.

        Raises:
            ModuleDataError: The module's database is away: try again later.
        """
        change = request.change
        assert change.version_to is not None
        higher = change.bound if change.kind is Kind.DOWNGRADE and change.bound else change.version_to
        module = await self._gateway.descriptor(higher)
        swapped = replace(
            request,
            key=step_key(request.job, change.key, "undo"),
            change=replace(change, version_from=change.version_to, version_to=change.version_from),
            checked=replace(request.checked, init_module=higher, copies=False),
        )
        init = InitStep(request=swapped, module=module, reverse=True)
        if await self._migrations.instance(init) is None:
            return UndoResult(done=False, left=(f"no instance of {higher} is there to take its migration back",))
        state = await self._to_the_end(init, await self._start(init))
        intent = await self._intent(init)
        if state.effect == Effect.FAILED and module.uplift.rerunnable and intent.asked <= swapped.asks:
            await self._migrations.must_answer(request)
            state = await self._to_the_end(init, await self._ask_once_more(init, intent, "; ".join(state.errors)))
            intent = await self._intent(init)
        if state.effect == Effect.DONE:
            return UndoResult(warnings=state.warnings)
        left = f"{higher} could not take its migration back: {'; '.join(state.errors)}"
        return UndoResult(done=False, left=(left,), asked=intent.asked)

    async def _to_the_end(self, init: InitStep, state: InitState) -> InitState:
        """Follow a job, if there is one."""
        while state.effect == Effect.FOLLOW:
            state = await self._follow(init)
        return state

    async def _settle(self, init: InitStep, answer: InitAnswer, instance: Instance) -> InitState:
        """Write down what came of it, and tell the run. What may still be at work is not written down as ended."""
        change = init.request.change
        following = answer.effect is Effect.FOLLOW
        effect = answer.effect if answer.effect is not Effect.RETRY else Effect.FAILED
        report = InitReport(
            state="following" if following else "ended" if answer.over else "asked",
            subject=change.subject,
            job_path=answer.job_path or None,
            effect=effect,
            outcome=answer.outcome or ("failed" if effect is Effect.FAILED else ""),
            messages=answer.messages,
            warnings=answer.warnings,
            errors=answer.errors,
            progress=answer.progress,
            data_version=change.version_to if answer.effect is Effect.DONE else None,
        )
        await self._report(init, report)
        return InitState(
            effect=effect,
            outcome=report.outcome,
            job_path=answer.job_path,
            instance=instance.id,
            messages=answer.messages,
            warnings=answer.warnings,
            errors=answer.errors,
        )

    async def _intent(self, init: InitStep, instance: Instance | None = None) -> IntentState:
        """The intent as it stands; a fresh one says that nothing was asked. Without an instance nobody is about to ask."""
        change = init.request.change
        wanted = IntentRequest(
            key=init.request.key,
            product=change.product,
            subject=change.subject,
            module=init.module.id,
            instance=_NOBODY if instance is None else instance.id,
            generation=None if instance is None else instance.generation,
            attempt=str(uuid.uuid4()),
        )
        return await until_answered(lambda: self._gateway.begin_intent(init.request.job, wanted))

    async def _report(self, init: InitStep, report: InitReport) -> None:
        await until_answered(lambda: self._gateway.report_init(init.request.job, init.request.key, report))

    async def _url(self, init: InitStep) -> str:
        """Where the module finds the others: its overlay, since its tenant is held, and with it what moves in the same group."""
        overlay = OverlayRequest(product=init.request.change.product, module=init.module.id)
        return (await until_answered(lambda: self._gateway.open_overlay(init.request.job, overlay))).url

    async def _forget_job(self, init: InitStep, instance: Instance | None, job_path: str) -> None:
        """Remove an ended tenant-init job from the module. That it cannot be removed changes nothing."""
        if instance is not None:
            await self._migrations.look(init, instance, job_path, wait=0, method="DELETE")


def _state(report: InitReport, intent: IntentState) -> InitState:
    return InitState(
        effect=report.effect or "failed",
        outcome=report.outcome,
        job_path=report.job_path or "",
        instance=intent.instance,
        messages=report.messages,
        warnings=report.warnings,
        errors=report.errors,
        asked=intent.asked,
    )


def _nobody_knows(intent: IntentState, why: str, *more: str) -> InitState:
    return InitState(effect="unknown", errors=(f"{why}; nobody can say what state the data is in", *more), asked=intent.asked)
