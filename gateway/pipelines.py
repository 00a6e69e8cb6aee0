"""From job rows to Temporal runs: starting, aborting, and noticing runs that were lost.

The row is committed first; a sweeper starts what was left behind. Jobs are answered from Postgres alone, so Temporal may be away.
"""

import asyncio
import contextlib
import logging
from datetime import timedelta
from typing import Any

from pydantic import TypeAdapter
from temporalio.client import (
    Client,
    Interceptor,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowQueryRejectedError,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import (
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from gateway.jobs import Jobs
from gateway.platform import Platform
from gateway.problems import Problems
from gateway.store import Conflict, DatabaseError, Deployment, JobRow
from gateway_wire import FinishRequest, Notice
from upgrade_core.decisions import held_groups
from upgrade_core.plan import Plan
from upgrade_core.problems import database_differs, run_lost
from upgrade_core.runs import (
    MODULE_VERSION,
    RECONCILE,
    RECONCILE_RUN,
    RESOLVE_JOB,
    TENANT_JOB,
    HoldPointState,
    ModuleVersionRequest,
    ReconcileRequest,
    ResolveRequest,
    TenantJobRequest,
    group_run_id,
    module_run_id,
)
from uplift_settings import read_secret
from uplift_settings.tracing import Tracing
from uplift_settings.tree import TemporalSettings

_log = logging.getLogger(__name__)
LOOK_FOR_LOST_EVERY = 5
"""Sweeps between two looks for runs that were lost; such a run is believed lost at the second look."""
_RPC = timedelta(seconds=5)
_BY_ITSELF = (WorkflowExecutionStatus.COMPLETED, WorkflowExecutionStatus.FAILED, WorkflowExecutionStatus.CANCELED)
_ASK = timedelta(seconds=15)
"""For what a worker has to answer."""
_PLAN = TypeAdapter(Plan)


class TemporalAway(Exception):
    """Temporal, or the worker behind it, does not answer now. Nothing was changed, as far as is known."""


class Pipelines:
    """Keeps Temporal's runs in step with the job rows."""

    def __init__(
        self,
        *,
        platform: Platform,
        jobs: Jobs,
        problems: Problems,
        settings: TemporalSettings,
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing
        self._platform = platform
        self._jobs = jobs
        self._problems = problems
        self._settings = settings
        self._client: Client | None = None
        self._reachable = True
        self._suspects: set[str] = set()

    async def run(self) -> None:
        """Sweep until cancelled: at once when a job waits, and every `gateway.sweep_interval`."""
        loop = asyncio.get_running_loop()
        looked = loop.time()
        while True:
            self._jobs.waiting.clear()
            try:
                client = await self._connect()
                await self._start(client)
                await self._start_reconcile(client)
                await self._start_deployments(client)
                for_lost = loop.time() - looked >= LOOK_FOR_LOST_EVERY * self._platform.settings.sweep_interval
                await self._look(client, for_lost=for_lost)
                looked = loop.time() if for_lost else looked
                self._say_reachable(None)
            except (RPCError, RuntimeError, OSError, TemporalAway) as error:
                self._say_reachable(error)
            except DatabaseError as error:
                _log.warning("sweep put off: %s", error)
            except Exception:  # noqa: BLE001 - a bug must not end the sweeps; it is logged whole
                _log.exception("sweep failed; it is tried again")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._platform.settings.sweep_interval):
                    await self._jobs.waiting.wait()

    async def _connect(self) -> Client:
        if self._client is None:
            settings = self._settings
            self._client = await Client.connect(
                settings.address,
                namespace=settings.namespace,
                data_converter=pydantic_data_converter,
                api_key=read_secret(settings.api_key, what="temporal.api_key") if settings.api_key else None,
                tls=settings.tls,
                interceptors=_interceptors(self._tracing),
            )
        return self._client

    async def _start(self, client: Client) -> None:
        for row in await self._platform.jobs.to_start():
            first = row.modules[0]["id"] if row.modules else ""
            more = f" and {len(row.modules) - 1} more" if len(row.modules) > 1 else ""
            trace = contextlib.nullcontext() if self._tracing is None else self._tracing.continued(_traceparent(row))
            try:
                with trace:
                    await client.start_workflow(
                        *_workflow(row),
                        id=row.run_id,
                        task_queue=self._settings.task_queue,
                        id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                        static_summary=f"{row.tenant}: {first}{more}"[:190],
                        search_attributes=_attributes(row),
                        rpc_timeout=_RPC,
                    )
            except WorkflowAlreadyStartedError:
                _log.info("job %s had been started before", row.id)
            except ValueError:
                _log.exception("job %s cannot be started", row.id)  # the others can
                continue
            await self._platform.jobs.set_started(row.id)

    async def _start_reconcile(self, client: Client) -> None:
        """Start the reconcile run that somebody asked for, when the one before has ended."""
        row = await self._platform.reconcile.row()
        if row.request is None or row.started:
            return
        with contextlib.suppress(WorkflowAlreadyStartedError):
            await client.start_workflow(
                RECONCILE,
                ReconcileRequest(request=row.request, repair=row.repair),
                id=RECONCILE_RUN,
                task_queue=self._settings.task_queue,
                static_summary="reconcile, asked for at the gateway",
                rpc_timeout=_RPC,
            )
            await self._platform.reconcile.set_started(row.request)

    async def _start_deployments(self, client: Client) -> None:
        """Have deployed what a gateway that died meanwhile was asked for; what failed since is not tried for ever."""
        for deployment in await self._platform.deployments.missing():
            handle = client.get_workflow_handle(module_run_id(deployment.module))
            try:
                found = await handle.describe(rpc_timeout=_RPC)
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:
                    raise
            else:
                if found.status is WorkflowExecutionStatus.RUNNING:
                    continue
                failed = found.status is WorkflowExecutionStatus.FAILED
                if failed and found.close_time is not None and found.close_time > deployment.made:
                    _log.error("module %s cannot be deployed on %s: see its run", deployment.module, deployment.node)
                    await self._platform.deployments.remove(deployment.module)
                    continue
            await self._version_run(client, _wanted(deployment))

    async def _version_run(self, client: Client, request: ModuleVersionRequest, **signal: Any) -> WorkflowHandle[Any, Any]:
        """The one run that looks after a version; it is started if it is not open."""
        return await client.start_workflow(
            MODULE_VERSION,
            request,
            id=module_run_id(request.module),
            task_queue=self._settings.task_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            static_summary=f"instances of {request.module}"[:190],
            rpc_timeout=_RPC,
            **signal,
        )

    async def _look(self, client: Client, *, for_lost: bool) -> None:
        for row in await self._platform.jobs.open():
            if not row.started:
                continue
            handle = client.get_workflow_handle(row.run_id)
            try:
                if row.abort_requested:
                    await handle.cancel(rpc_timeout=_RPC, reason="abort asked for at the gateway")
                if for_lost:
                    description = await handle.describe(rpc_timeout=_RPC)
                    if description.status is WorkflowExecutionStatus.RUNNING:
                        self._suspects.discard(row.run_id)
                        await self._look_at_groups(row)
                        continue
                    await self._lost(row, _why(description.status), by_itself=description.status in _BY_ITSELF)
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:
                    raise
                if for_lost:
                    await self._lost(row, "Temporal does not know its run")

    async def _lost(self, row: JobRow, why: str, *, by_itself: bool = False) -> None:
        """A started job without a run is an error and is never run again; its holds stay until a person decides.

        It is believed at the second look: the groups of a terminated job may be undoing what they did.

        Args:
            row: The job.
            why: What became of its run.
            by_itself: Whether that came to its own end, which our database does not know.
        """
        if not self._seen_twice(row.run_id):
            return
        now = await self._platform.jobs.get(row.id)
        if now is None or now.state == "ended" or now.run_id != row.run_id:
            return
        why = why if by_itself else f"{why} without finishing the job"
        text = f"run lost: {why}"
        _log.error("job %s of tenant %s: %s", row.id, row.tenant, text)
        await self._problems.report(run_lost(row.id, tenant=row.tenant, why=why))
        if by_itself:
            await self._problems.report(database_differs(row.id, why=why))
        notice = Notice(message=text, type="RunLost", code="run_lost")
        with contextlib.suppress(Conflict):  # another run has taken it over a moment ago
            await self._jobs.finish(row.id, FinishRequest(outcome="failed", errors=(notice,)), run=row.run_id)

    async def _look_at_groups(self, row: JobRow) -> None:
        """A hold whose group's run is gone stays for good, while the job may go on with other groups for hours.

        It is believed at the second look, too: a run may end in the moment in which it opens its hold.
        """
        if (
            row.run is not None
            or row.plan is None
            or not any(link.job == row.id for link in self._platform.table.links(row.tenant))
        ):
            return
        holds = {hold.id: hold for hold in await self._platform.holds.of_job(row.id)}
        for group in held_groups(_PLAN.validate_python(row.plan), row.id, holds):
            run = group_run_id(row.id, group.key)
            if await self.is_running(run):
                self._suspects.discard(run)
            elif self._seen_twice(run):
                for hold in holds.values():
                    if hold.product in {change.product for change in group.changes} and (
                        await self._platform.holds.set_left_behind(hold.id)
                    ):
                        _log.error(
                            "job %s of tenant %s: run %s is lost and %s is still held by %s",
                            row.id, row.tenant, run, hold.product, hold.id,
                        )  # fmt: skip
                        self._problems.look.set()

    def _seen_twice(self, run: str) -> bool:
        """Whether a run was found gone at an earlier look, too."""
        if run in self._suspects:
            self._suspects.discard(run)
            return True
        self._suspects.add(run)
        return False

    async def deploy(self, deployment: Deployment) -> str:
        """Have the run of a version deploy it, and wait until it has ended; why it could not.

        Raises:
            TemporalAway: It does not answer; what was asked for is done when it is back.
        """
        try:
            client = await self._connect()
            handle = await self._version_run(client, _wanted(deployment))
            await handle.result()
        except WorkflowFailureError as error:
            cause: BaseException = error.cause
            while cause.__cause__ is not None:
                cause = cause.__cause__
            return str(cause)
        except (RPCError, RuntimeError, OSError) as error:
            raise _away(error) from error
        return "its run has ended: somebody retired it meanwhile"

    async def tell_unneeded(self, module: str) -> None:
        """Tell the run of a version that nobody needs it any more, not even for the grace of an old one.

        Raises:
            TemporalAway: It does not answer.
        """
        try:
            request = ModuleVersionRequest(module=module, deployed=True)  # if its run was lost: nothing is started to be retired
            await self._version_run(await self._connect(), request, start_signal="unneeded", start_signal_args=[True])
        except (RPCError, RuntimeError, OSError) as error:
            raise _away(error) from error

    async def is_running(self, run: str) -> bool:
        """Whether a run is open at Temporal.

        Raises:
            TemporalAway: It cannot be asked.
        """
        try:
            client = await self._connect()
            return (await client.get_workflow_handle(run).describe(rpc_timeout=_RPC)).status is WorkflowExecutionStatus.RUNNING
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return False
            raise _away(error) from error
        except (RuntimeError, OSError) as error:
            raise _away(error) from error

    async def hold_point(self, run: str) -> str:
        """Why a run waits for a person; empty if it does not, or is not open.

        Raises:
            TemporalAway: It, or the worker, cannot be asked.
        """
        if not await self.is_running(run):
            return ""
        try:
            client = await self._connect()
            found = await client.get_workflow_handle(run).query("hold_point", result_type=HoldPointState, rpc_timeout=_RPC)
        except (RPCError, RuntimeError, OSError, WorkflowQueryFailedError, WorkflowQueryRejectedError) as error:
            raise _away(error) from error
        return str(found.why)

    async def decide(self, run: str, decision: str) -> bool:
        """Tell a run at a hold point what was decided; False if it waits for nobody.

        Raises:
            TemporalAway: It, or the worker, cannot be asked; whether the run heard is not known.
        """
        try:
            client = await self._connect()
            await client.get_workflow_handle(run).execute_update("resolve", decision, rpc_timeout=_ASK)
        except WorkflowUpdateFailedError:
            return False
        except (RPCError, RuntimeError, OSError, WorkflowUpdateRPCTimeoutOrCancelledError) as error:
            if isinstance(error, RPCError) and error.status is RPCStatusCode.NOT_FOUND:
                return False
            raise _away(error) from error
        return True

    def _say_reachable(self, error: Exception | None) -> None:
        if error is not None and self._reachable:
            _log.warning("Temporal at %s cannot be used now, jobs wait in Postgres: %s", self._settings.address, error)
        elif error is None and not self._reachable:
            _log.info("Temporal at %s is back", self._settings.address)
        self._reachable = error is None


def _wanted(deployment: Deployment) -> ModuleVersionRequest:
    return ModuleVersionRequest(module=deployment.module, node=deployment.node)


def _why(status: WorkflowExecutionStatus | None) -> str:
    """What became of a run. One ends by itself only after it has ended its job, so then we look at an older database."""
    text = f"its run ended as {status.name if status else 'unknown'}"
    if status in _BY_ITSELF:
        text += (
            ", which this database does not know (restored from an older copy?); the tenant's data may be at another version"
            " than the one that is enabled"
        )
    return text


def _workflow(row: JobRow) -> tuple[str, TenantJobRequest | ResolveRequest]:
    """The workflow that a job needs, and its input."""
    if row.resolution is None:
        return TENANT_JOB, TenantJobRequest(job=row.id, tenant=row.tenant)
    decision, groups = str(row.resolution["decision"]), tuple(map(str, row.resolution["groups"]))
    return RESOLVE_JOB, ResolveRequest(job=row.id, tenant=row.tenant, decision=decision, groups=groups)


def _away(error: Exception) -> TemporalAway:
    return TemporalAway(f"Temporal or its worker does not answer, ask again: {error}")


def _interceptors(tracing: Tracing | None) -> list[Interceptor]:
    if tracing is None:
        return []
    from temporalio.contrib.opentelemetry import TracingInterceptor  # noqa: PLC0415 - imports OpenTelemetry, which is an extra

    return [TracingInterceptor(tracing.tracer)]


def _traceparent(row: JobRow) -> str:
    return str(row.request.get("traceparent", ""))


def _attributes(row: JobRow) -> TypedSearchAttributes:
    first = row.modules[0] if row.modules else {}
    values = {
        "UpliftTenant": row.tenant,
        "UpliftModule": str(first.get("id", ""))[:200],
        "UpliftTo": str(first.get("id", ""))[:200],
        "UpliftFrom": str(first.get("from", ""))[:200],
        "UpliftPhase": "planned",
        "UpliftActor": str(row.request.get("actor", ""))[:200],
    }
    pairs: list[SearchAttributePair[str]] = [
        SearchAttributePair(SearchAttributeKey.for_keyword(name), value) for name, value in values.items() if value
    ]
    return TypedSearchAttributes(pairs)
