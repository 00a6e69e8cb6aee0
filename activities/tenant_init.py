"""Tenant init: asked for once, followed to its end, never believed dead without proof (requirements B1, B2, C3, C4).

An intent row precedes the request. An attempt that finds one begins in `unknown`: it follows the job if there is one, and
asks once more only when the first is over for sure and doing it again is harmless.
"""

import asyncio
from dataclasses import replace
from urllib.parse import urlsplit

from temporalio import activity
from temporalio.client import Client
from temporalio.service import RPCError

from activities.checks import purpose_of
from activities.module_calls import ModuleCalls, NoAnswer, NothingSent
from activities.signatures import CheckedChange, FollowRequest, InitState, TenantInitSteps, UndoResult
from activities.snapshots import snapshot_id
from activities.translate import beating, final, translated
from gateway_client import (
    GatewayClient,
    InitReport,
    Instance,
    IntentRequest,
    IntentState,
    NotFound,
    OverlayRequest,
)
from module_data import PostgresData, RestoreFailed, SchemaCopy, ToolsMissing
from upgrade_core.descriptors import ModuleDescriptor, Undo
from upgrade_core.plan import Kind
from upgrade_core.runs import module_run_id
from upgrade_core.tenant_init import Dialect, Effect, InitAnswer, dialect_of, init_call, job_call, read_answer, read_job
from uplift_settings import read_secret
from uplift_settings.tree import DataSettings, InitSettings, SnapshotSettings

_LONG_POLL = 5.0
"""Seconds of one long poll, for modules that can."""
_GROWTH = 0.1
"""Share of the time that a job has taken after which it is looked at again: it is noticed at most that much late."""
_RESTART_WAIT = 120.0
_END_SESSIONS_FOR = 120.0
_SETTLED = 2.0
"""Seconds without a lock after sessions were ended, before a restore begins."""


class TenantInitActivities(TenantInitSteps):
    """Implementation.

    Args:
        gateway: The gateway.
        temporal: To have an instance restarted that nobody else uses.
        calls: How instances are called.
        init: Clocks.
        data: Tools of Postgres.
        snapshots: Clocks of restoring.
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
    ) -> None:
        self._gateway = gateway
        self._temporal = temporal
        self._calls = calls
        self._init = init
        self._data = data
        self._snapshots = snapshots

    @activity.defn(name="tenant_init.start")
    async def start(self, request: CheckedChange) -> InitState:
        """Ask for tenant init, once."""
        with translated():
            async with beating():
                module = await self._gateway.descriptor(request.checked.init_module)
                instance = await self._calls.instance(module.id)
                if instance is None:
                    raise final(f"No running instances for module {module.id}. Can not invoke /_/tenant", "NoInstance")
                intent = await self._gateway.begin_intent(
                    request.job,
                    IntentRequest(
                        key=request.key,
                        product=request.change.product,
                        subject=request.change.subject,
                        module=module.id,
                        instance=instance.id,
                        generation=instance.generation,
                    ),
                )
                if intent.fresh or intent.asked < request.asks:
                    return await self._ask(request, module, instance, again=not intent.fresh)
                return await self._go_on(request, module, intent)

    @activity.defn(name="tenant_init.follow")
    async def follow(self, request: FollowRequest) -> InitState:
        """Follow its job to the end, over restarts of the module and of everything of ours."""
        step = request.step
        with translated():
            async with beating():
                module = await self._gateway.descriptor(step.checked.init_module)
                intent = await self._intent(step, module.id)
                if intent.state == "ended" and intent.answer is not None:
                    return _state(intent.answer, intent)
                return await self._follow(step, module, intent)

    @activity.defn(name="tenant_init.undo")
    async def undo(self, request: CheckedChange) -> UndoResult:
        """Take back what tenant init did, never under a running migration."""
        checked, change = request.checked, request.change
        with translated():
            async with beating():
                module = await self._gateway.descriptor(checked.init_module)
                await self._gateway.close_overlay(request.job, change.product)
                intent = await self._intent(request, module.id)
                if intent.fresh:
                    await self._report(request, InitReport(state="ended", subject=change.subject, outcome="not asked"))
                    return UndoResult()
                if checked.undo is Undo.FORWARD_ONLY:
                    return UndoResult(done=False, left=(f"{change.subject} only goes forward: a person decides",))
                running = await self._stop_migration(request, module, intent)
                if running:
                    return UndoResult(done=False, left=(running,))
                result = await self._take_back(request)
                if result.done:
                    if checked.undo not in (Undo.MODULE, Undo.COMPATIBLE):
                        await self._gateway.set_data_version(request.job, change.product, change.version_from)
                    if intent.state != "ended":
                        await self._report(request, InitReport(state="ended", subject=change.subject, outcome="undone"))
                return result

    async def _ask(
        self, request: CheckedChange, module: ModuleDescriptor, instance: Instance, *, again: bool = False
    ) -> InitState:
        change = request.change
        call = init_call(
            module,
            purpose=purpose_of(change),
            module_from=change.version_from,
            module_to=change.version_to,
            parameters=request.parameters,
            run=request.job,
        )
        if call is None:
            raise final(f"{module.id} has no call for {change.kind}", "NothingToCall")
        url = self._gateway.url
        if change.version_to is not None:
            overlay = OverlayRequest(product=change.product, module=module.id)
            url = (await self._gateway.open_overlay(request.job, overlay)).url
        if again:
            await self._report(
                request,
                InitReport(
                    state="asked", subject=change.subject, asked_again=True, instance=instance.id,
                    generation=instance.generation,
                ),
            )  # fmt: skip
        deadline = asyncio.get_running_loop().time() + self._init.connect_retry
        while True:
            try:
                response = await self._calls.post(instance, call, tenant=request.tenant, url=url)
            except NothingSent as error:
                answer = InitAnswer(effect=Effect.FAILED, outcome="failed", errors=(str(error),))
            except NoAnswer as error:
                activity.logger.warning("tenant init of %s for %s: %s", module.id, request.tenant, error)
                return await self._unknown(request, module, await self._intent(request, module.id), str(error))
            else:
                answer = read_answer(
                    module, call, status=response.status_code, location=response.headers.get("Location"), body=response.text
                )
                # A module may build the job's address from the X-Okapi-Url that it was given.
                answer = replace(answer, job_path=answer.job_path.removeprefix(urlsplit(url).path))
            if answer.effect is not Effect.RETRY or asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(1)
        return await self._settle(request, answer, instance)

    async def _go_on(self, request: CheckedChange, module: ModuleDescriptor, intent: IntentState) -> InitState:
        """An intent stands already: an earlier attempt may have asked."""
        if intent.state == "ended" and intent.answer is not None:
            return _state(intent.answer, intent)
        if intent.job_path:
            return InitState(effect="follow", job_path=intent.job_path, instance=intent.instance)
        return await self._unknown(request, module, intent, "an earlier attempt was cut off after it may have asked")

    async def _follow(self, step: CheckedChange, module: ModuleDescriptor, intent: IntentState) -> InitState:
        loop = asyncio.get_running_loop()
        begun = changed = loop.time()
        seen = ""
        long_poll = _LONG_POLL if dialect_of(module) is Dialect.OKAPI_2 else 0.0
        told: tuple[str, tuple[str, ...]] = ("", ())
        job_path = intent.job_path or ""
        while True:
            instance = await self._calls.instance(module.id, prefer=intent.instance)
            if instance is not None:
                call = job_call(module, job_path)
                response = await self._calls.look(instance, call, tenant=step.tenant, url=self._gateway.url, wait=long_poll)
                if response is not None:
                    if response.status_code == 404:  # noqa: PLR2004
                        return await self._unknown(step, module, intent, f"{module.id} does not know its job {job_path} any more")
                    answer = read_job(module, job_path, status=response.status_code, body=response.text)
                    if answer.effect in (Effect.DONE, Effect.FAILED):
                        await self._forget_job(module, instance, step, job_path)
                        return await self._settle(step, answer, instance)
                    if answer.effect is Effect.RETRY:
                        if loop.time() - changed > self._init.stall_after:
                            return await self._unknown(step, module, intent, f"looks at {job_path} fail: {answer.errors[0]}")
                    elif response.text != seen:
                        seen, changed = response.text, loop.time()
                    if (answer.progress, answer.messages) != told:
                        told = (answer.progress, answer.messages)
                        await self._report(
                            step,
                            InitReport(
                                state="following", subject=step.change.subject, job_path=job_path, progress=answer.progress,
                                messages=answer.messages, warnings=answer.warnings,
                            ),
                        )  # fmt: skip
                if instance.generation != intent.generation and await self._has_stalled(step, loop.time() - changed):
                    why = f"{module.id} was restarted while it worked on {job_path}, which does not go on"
                    return await self._unknown(step, module, intent, why)
            elapsed = loop.time() - begun
            await asyncio.sleep(min(self._init.poll_max, max(self._init.poll_first, elapsed * _GROWTH)))

    async def _has_stalled(self, step: CheckedChange, unchanged: float) -> bool:
        """Whether a job of a module that was restarted is dead: quiet where its data can be seen, else by the clock."""
        data = self._open_data(step)
        if data is None:
            return unchanged >= self._init.stall_after
        return await data.wait_quiet(step.checked.schema, quiet=self._init.quiet, timeout=self._init.quiet * 2)

    async def _unknown(self, request: CheckedChange, module: ModuleDescriptor, intent: IntentState, why: str) -> InitState:
        """Nobody knows whether init ran. When it is over for sure and doing it again is harmless: once more; else a person."""
        nobody_knows = InitState(
            effect="unknown", errors=(f"{why}; nobody can say what state the data is in",), asked=intent.asked
        )
        if intent.asked > request.asks:
            return await self._settle(
                request,
                InitAnswer(effect=Effect.FAILED, outcome="failed", errors=(f"{why}, after it was asked for once more",)),
                None,
            )
        running = await self._stop_migration(request, module, intent)
        if running:
            return replace(nobody_knows, errors=(*nobody_knows.errors, running))
        descriptor = await self._gateway.descriptor(request.change.subject)
        if request.checked.copies:
            result = await self._restore(request)
            if not result.done:
                return replace(nobody_knows, errors=(*nobody_knows.errors, *result.left))
        elif not descriptor.uplift.rerunnable:
            return nobody_knows
        instance = await self._calls.instance(module.id, prefer=intent.instance)
        if instance is None:
            return replace(nobody_knows, errors=(*nobody_knows.errors, f"no instance of {module.id} is there"))
        activity.logger.warning("tenant init of %s for %s is asked for once more: %s", module.id, request.tenant, why)
        return await self._ask(request, module, instance, again=True)

    async def _stop_migration(self, request: CheckedChange, module: ModuleDescriptor, intent: IntentState) -> str:
        """Make sure that no migration runs. Returns why that cannot be said, or nothing."""
        if intent.state == "ended":
            return ""
        instance = await self._calls.instance(module.id, prefer=intent.instance)
        if intent.job_path and instance is not None:
            call = job_call(module, intent.job_path)
            response = await self._calls.look(instance, call, tenant=request.tenant, url=self._gateway.url, wait=0)
            if response is not None and response.status_code == 200:  # noqa: PLR2004
                answer = read_job(module, intent.job_path, status=200, body=response.text)
                if answer.effect in (Effect.DONE, Effect.FAILED):
                    return ""
        restarted = await self._was_restarted(module.id, intent)
        if not restarted and await self._is_ours_alone(request, module.id):
            await self._restart(module.id, intent)
            restarted = await self._was_restarted(module.id, intent)
        data = self._open_data(request)
        if data is None:
            if restarted:
                return ""
            return f"{module.id} may still be migrating: it is shared with other tenants and its data cannot be seen"
        deadline = asyncio.get_running_loop().time() + max(_END_SESSIONS_FOR, 4 * self._init.quiet)
        quiet = _SETTLED if restarted else self._init.quiet
        while asyncio.get_running_loop().time() < deadline:
            await data.end_sessions(request.checked.schema)
            if await data.wait_quiet(request.checked.schema, quiet=quiet, timeout=quiet + 1):
                return ""
        return f"sessions keep coming back to schema {request.checked.schema}"

    async def _take_back(self, request: CheckedChange) -> UndoResult:
        undo, change = request.checked.undo, request.change
        if undo is Undo.SNAPSHOT:
            return await self._restore(request)
        if undo is Undo.REVERSIBLE and change.version_from is not None and change.version_to is not None:
            return await self._reverse(request)
        if undo is Undo.COMPATIBLE:
            return UndoResult()
        return UndoResult(
            warnings=(f"{change.subject}: nobody verified that the module rolled its data back itself (undo mode {undo})",)
        )

    async def _restore(self, request: CheckedChange) -> UndoResult:
        """Put the copy back. The same copy serves every attempt.

        Raises:
            ModuleDataError: The server went away: it is tried again, no person needs to decide.
        """
        wanted = snapshot_id(request)
        found = next((copy for copy in await self._gateway.snapshots() if copy.id == wanted), None)
        data = self._open_data(request)
        if found is None or data is None:
            return UndoResult(done=False, left=(f"the copy {wanted} is not recorded",))
        copy = SchemaCopy(schema=found.schema_name, path=found.path, size=found.size, digest=found.digest, existed=found.existed)
        try:
            await data.restore(copy)
        except (RestoreFailed, ToolsMissing) as error:
            return UndoResult(done=False, left=(f"schema {copy.schema} could not be restored from {copy.path}: {error}",))
        return UndoResult()

    async def _reverse(self, request: CheckedChange) -> UndoResult:
        """Tenant init with the two versions swapped, asked of the higher one, which knows both schemas."""
        change = request.change
        assert change.version_to is not None
        higher = change.bound if change.kind is Kind.DOWNGRADE and change.bound else change.version_to
        module = await self._gateway.descriptor(higher)
        instance = await self._calls.instance(module.id)
        call = init_call(
            module,
            purpose=purpose_of(change),
            module_from=change.version_to,
            module_to=change.version_from,
            parameters=request.parameters,
            run=request.job,
        )
        if instance is None or call is None:
            return UndoResult(done=False, left=(f"no instance of {higher} is there to take its migration back",))
        try:
            response = await self._calls.post(instance, call, tenant=request.tenant, url=self._gateway.url)
        except (NothingSent, NoAnswer) as error:
            return UndoResult(done=False, left=(f"taking the migration back: {error}",))
        answer = read_answer(
            module, call, status=response.status_code, location=response.headers.get("Location"), body=response.text
        )
        while answer.effect in (Effect.FOLLOW, Effect.RETRY) and answer.job_path:
            await asyncio.sleep(self._init.poll_first)
            look = await self._calls.look(
                instance, job_call(module, answer.job_path), tenant=request.tenant, url=self._gateway.url, wait=0
            )
            if look is not None:
                answer = read_job(module, answer.job_path, status=look.status_code, body=look.text)
        if answer.effect is Effect.DONE:
            return UndoResult(warnings=answer.warnings)
        return UndoResult(done=False, left=(f"{higher} could not take its migration back: {'; '.join(answer.errors)}",))

    async def _settle(self, request: CheckedChange, answer: InitAnswer, instance: Instance | None) -> InitState:
        """Write down what came of it, and tell the run."""
        following = answer.effect is Effect.FOLLOW
        done = answer.effect is Effect.DONE
        effect = answer.effect if answer.effect is not Effect.RETRY else Effect.FAILED
        report = InitReport(
            state="following" if following else "ended",
            subject=request.change.subject,
            job_path=answer.job_path or None,
            effect=effect,
            outcome=answer.outcome,
            messages=answer.messages,
            warnings=answer.warnings,
            errors=answer.errors,
            progress=answer.progress,
            data_version=request.change.version_to if done else None,
        )
        await self._report(request, report)
        return InitState(
            effect=effect,
            outcome=answer.outcome,
            job_path=answer.job_path,
            instance=instance.id if instance is not None else "",
            messages=answer.messages,
            warnings=answer.warnings,
            errors=answer.errors,
        )

    async def _intent(self, request: CheckedChange, module: str) -> IntentState:
        """The intent as it stands; a fresh one says that nothing was asked."""
        wanted = IntentRequest(
            key=request.key,
            product=request.change.product,
            subject=request.change.subject,
            module=module,
            instance="-",
        )
        return await self._gateway.begin_intent(request.job, wanted)

    async def _report(self, request: CheckedChange, report: InitReport) -> None:
        await self._gateway.report_init(request.job, request.key, report)

    async def _forget_job(self, module: ModuleDescriptor, instance: Instance, step: CheckedChange, job_path: str) -> None:
        """Remove an ended tenant-init job from the module. That it cannot be removed changes nothing."""
        call = job_call(module, job_path, method="DELETE")
        await self._calls.look(instance, call, tenant=step.tenant, url=self._gateway.url, wait=0)

    async def _was_restarted(self, module: str, intent: IntentState) -> bool:
        """Whether the process that was asked is no more."""
        now = await self._calls.instance(module, prefer=intent.instance)
        return now is None or now.generation != intent.generation

    async def _is_ours_alone(self, request: CheckedChange, module: str) -> bool:
        """Whether an instance that was deployed serves nobody but this job, so that its process may be stopped."""
        try:
            version = await self._gateway.version(module)
        except NotFound:
            return False
        deployed = bool(version.instances) and all(instance.node is not None for instance in version.instances)
        return deployed and set(version.needed_by) <= {f"job {request.job}"}

    async def _restart(self, module: str, intent: IntentState) -> None:
        """Stop the process that may be migrating and start it anew."""
        try:
            await self._temporal.get_workflow_handle(module_run_id(module)).signal("restart")
        except RPCError as error:
            activity.logger.warning("cannot have %s restarted: %s", module, error)
            return
        deadline = asyncio.get_running_loop().time() + _RESTART_WAIT
        while asyncio.get_running_loop().time() < deadline:
            if await self._was_restarted(module, intent):
                return
            await asyncio.sleep(self._init.poll_first)

    def _open_data(self, request: CheckedChange) -> PostgresData | None:
        checked = request.checked
        if not checked.dsn:
            return None
        return PostgresData(
            dsn=read_secret(checked.dsn, what=f"data of {request.change.subject}"),
            tools=self._data.tools,
            lock_wait=self._snapshots.lock_wait,
        )


def _state(report: InitReport, intent: IntentState) -> InitState:
    return InitState(
        effect=report.effect or "failed",
        outcome=report.outcome,
        job_path=report.job_path or "",
        instance=intent.instance,
        messages=report.messages,
        warnings=report.warnings,
        errors=report.errors,
    )
