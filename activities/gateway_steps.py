"""Steps that the gateway does, and waiting for what they started."""

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any

from temporalio import activity
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy

from activities.signatures import (
    Begun,
    ChangeRequest,
    FinishStep,
    GatewaySteps,
    GroupStep,
    JobRef,
    PhaseStep,
)
from activities.translate import final, translated
from gateway_client import (
    ChangeRef,
    ClaimRequest,
    FinishRequest,
    GatewayClient,
    HoldRequest,
    MoveRequest,
    NotFound,
    Notice,
    OpenRequest,
    OverlayRequest,
    Retiring,
    Version,
)
from module_data import PostgresData
from upgrade_core.plan import Change, Kind
from upgrade_core.protocol import Hold
from upgrade_core.runs import MODULE_VERSION, ModuleVersionRequest, module_run_id
from uplift_settings import read_secret
from uplift_settings.tree import DataSettings, DeploySettings

_LOOK = 5.0
"""Seconds of one look at something that is waited for."""
_RETIRING_PAUSE = 0.3
_QUIET_WAIT = 60.0
"""Seconds that sessions of cut requests may hold locks after UPDATE, before the change is undone."""


class GatewayActivities(GatewaySteps):
    """Implementation on the gateway's client.

    Args:
        gateway: The gateway.
        temporal: For the runs of module versions.
        task_queue: Where those run.
        deploy: How long to wait for instances that the site starts itself.
        data: Tools of Postgres.
        keep_copies: Seconds that a job's snapshots are kept after its end.
    """

    def __init__(
        self,
        *,
        gateway: GatewayClient,
        temporal: Client,
        task_queue: str,
        deploy: DeploySettings,
        data: DataSettings,
        keep_copies: float,
    ) -> None:
        self._gateway = gateway
        self._temporal = temporal
        self._task_queue = task_queue
        self._deploy = deploy
        self._data = data
        self._keep_copies = keep_copies

    @activity.defn(name="gateway.begin")
    async def begin(self, request: JobRef) -> Begun:
        """Fix the plan of a job."""
        with translated():
            found = await self._gateway.begin(request.job)
        return Begun(
            tenant=found.tenant,
            plan=found.plan,
            parameters=found.parameters,
            deploy=found.deploy,
            invoke=found.invoke,
            ignore_errors=found.ignore_errors,
            parallel=found.parallel,
        )

    @activity.defn(name="gateway.acquire")
    async def acquire(self, request: ChangeRequest) -> None:
        """Claim the new version and wait until an instance of it is healthy."""
        module = request.change.subject
        with translated():
            version = await self._claim(request.job, module, request.change.subject)
            if version.instances:
                return
            descriptor = await self._gateway.descriptor(module)
            if request.deploy is not False and descriptor.launch is not None and descriptor.launch.is_process:
                await self._deployed(request.job, module)
            else:
                await self._registered(module)

    @activity.defn(name="gateway.give_back")
    async def give_back(self, request: ChangeRequest) -> None:
        """Undo of `acquire`: the claim is given back, and what nobody else needs is gone."""
        with translated():
            try:
                version = await self._gateway.give_back(request.job, request.change.subject)
            except NotFound:
                return
            while not version.needed_by and (version.retiring or _deployed(version)):
                await self.tell_unneeded(request.change.subject, now=True)
                version = await self._gateway.version(request.change.subject, wait=_LOOK, gone=True)

    @activity.defn(name="gateway.update")
    async def update(self, request: GroupStep) -> None:
        """UPDATE on the group's links, and wait until nothing of the old versions is at work."""
        with translated():
            changes = tuple(ChangeRef(product=change.product, subject=change.subject) for change in request.changes)
            reason = f"{request.changes[0].kind} to {request.changes[0].subject}"
            states = await self._gateway.hold(request.job, HoldRequest(group=request.group, changes=changes, reason=reason))
            loose = False
            for state in states:
                now = state
                while now.lifecycle == "DELAY":
                    now = await self._gateway.delay(state.id, wait=_LOOK)
                if now.state != Hold.HELD:
                    raise final(f"hold {state.id} was opened by somebody else before the update began", "HoldGone")
                loose = loose or now.loose
            if loose:
                await self._wait_quiet(request.quiet)

    @activity.defn(name="gateway.show")
    async def show(self, request: ChangeRequest) -> None:
        """Let the others of the group reach a new version that has no tenant init."""
        change = request.change
        assert change.version_to is not None
        with translated():
            await self._gateway.open_overlay(request.job, OverlayRequest(product=change.product, module=change.version_to))

    @activity.defn(name="gateway.switch")
    async def switch(self, request: GroupStep) -> None:
        """Bind to the new versions and RESUME, in one transaction."""
        moves = tuple(
            MoveRequest(
                product=change.product,
                subject=change.subject,
                bind=True,
                module=change.version_to,
                purged=change.kind is Kind.PURGE,
            )
            for change in request.changes
        )
        with translated():
            await self._gateway.open(request.job, OpenRequest(group=request.group, moves=moves, stage="done"))

    @activity.defn(name="gateway.resume_old")
    async def resume_old(self, request: GroupStep) -> None:
        """Undo of `update`: RESUME on the old versions. What checks were asked through is closed, also without a tenant init."""
        moves = tuple(MoveRequest(product=change.product, subject=change.subject) for change in request.changes)
        with translated():
            for change in request.changes:
                await self._gateway.close_overlay(request.job, change.product)
            await self._gateway.open(request.job, OpenRequest(group=request.group, moves=moves, stage="invoke"))

    @activity.defn(name="gateway.release")
    async def release(self, request: GroupStep) -> None:
        """Give the claims back; what nobody needs any more retires after its grace."""
        with translated():
            for module in _left_behind(request.changes):
                await self._leave(module, self._gateway.version(module))
            for change in request.changes:
                if change.version_to is not None or change.kind is Kind.PURGE:
                    await self._leave(change.subject, self._gateway.give_back(request.job, change.subject))

    @activity.defn(name="gateway.set_phase")
    async def set_phase(self, request: PhaseStep) -> None:
        """Tell people what a job is doing."""
        with translated():
            await self._gateway.set_phase(request.job, request.phase, subject=request.subject, message=request.message)
            for other in request.others:
                await self._gateway.set_phase(request.job, request.phase, subject=other, message=request.others_message)

    @activity.defn(name="gateway.finish")
    async def finish(self, request: FinishStep) -> None:
        """End a job, and start the time that its snapshots are kept."""
        body = FinishRequest.model_validate(
            {
                "outcome": request.outcome,
                "errors": [Notice(message=told.message, type=told.type, code=told.code) for told in request.errors],
                "warnings": [Notice(message=told.message, type=told.type, code=told.code) for told in request.warnings],
            }
        )
        with translated():
            await self._gateway.keep_snapshots(request.job, self._keep_copies)
            try:
                await self._gateway.finish(request.job, body)
            except NotFound:
                activity.logger.warning("the record of job %s was removed while it ran", request.job)

    async def _leave(self, module: str, asked: Awaitable[Version]) -> None:
        """Tell the run of a version that nobody needs it, if so; one that is not registered any more is gone already."""
        try:
            version = await asked
        except NotFound:
            return
        if not version.needed_by and _deployed(version):
            await self.tell_unneeded(module, now=False)

    async def _claim(self, job: str, module: str, subject: str) -> Version:
        """Claim a version; one that is on its way out is waited for, and its run told to go on, lest nobody is at work on it."""
        loop = asyncio.get_running_loop()
        tell_at = loop.time() + _LOOK
        while True:
            try:
                return await self._gateway.claim(job, ClaimRequest(module=module, subject=subject))
            except Retiring:
                if loop.time() >= tell_at:
                    await self.tell_unneeded(module, now=True)
                    tell_at = loop.time() + _LOOK
                await asyncio.sleep(_RETIRING_PAUSE)

    async def _deployed(self, job: str, module: str) -> None:
        """Have the version's own run deploy it, and wait for the instance or for that run's error."""
        while True:
            handle = await self._version_run(ModuleVersionRequest(module=module))
            ended = asyncio.create_task(handle.result())
            try:
                while not ended.done():
                    if (await self._gateway.version(module, wait=1.0)).instances:
                        return
                await ended
            except WorkflowFailureError as error:
                cause: BaseException = error.cause
                while cause.__cause__ is not None:
                    cause = cause.__cause__
                raise final(f"cannot deploy {module}: {cause}", "DeployFailed") from error
            finally:
                ended.cancel()
            await self._claim(job, module, module)

    async def _registered(self, module: str) -> None:
        """Wait for an instance that the site starts by its own means (requirement E2)."""
        deadline = asyncio.get_running_loop().time() + self._deploy.external_wait
        while (left := deadline - asyncio.get_running_loop().time()) > 0:
            if (await self._gateway.version(module, wait=min(left, _LOOK))).instances:
                return
        raise final(
            f"No running instances for module {module}: none was registered at /_/discovery/modules within"
            f" {self._deploy.external_wait:g} s (deploy.external_wait) and nothing here can deploy it",
            "NoInstance",
        )

    async def _wait_quiet(self, places: Iterable[tuple[str, str]]) -> None:
        for dsn, schema in places:
            data = PostgresData(dsn=read_secret(dsn, what=f"data of schema {schema}"), tools=self._data.tools)
            if not await data.wait_quiet(schema, quiet=0.0, timeout=_QUIET_WAIT):
                raise final(f"sessions still hold locks in schema {schema} after {_QUIET_WAIT:g} s", "NotQuiet")

    async def tell_unneeded(self, module: str, *, now: bool = False) -> None:
        """Tell the run of a module version that nobody needs it; `now`: without the grace of an old version."""
        request = ModuleVersionRequest(module=module, deployed=True)  # if its run was lost: nothing is started to be retired
        await self._version_run(request, start_signal="unneeded", start_signal_args=[now])

    async def _version_run(self, request: ModuleVersionRequest, **signal: Any) -> WorkflowHandle[Any, Any]:
        """The one run that looks after a version; it is started if it is not open."""
        return await self._temporal.start_workflow(
            MODULE_VERSION,
            request,
            id=module_run_id(request.module),
            task_queue=self._task_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            static_summary=f"instances of {request.module}"[:190],
            **signal,
        )


def _deployed(version: Version) -> bool:
    return any(instance.node is not None for instance in version.instances)


def _left_behind(changes: tuple[Change, ...]) -> tuple[str, ...]:
    """Module ids that the tenant had and has no more."""
    return tuple(change.bound for change in changes if change.bound is not None and change.bound != change.version_to)
