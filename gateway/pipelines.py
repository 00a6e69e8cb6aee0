"""From job rows to Temporal runs: starting, aborting, and noticing runs that were lost.

The row is committed first; a sweeper starts what was left behind. Jobs are answered from Postgres alone, so Temporal may be away.
"""

import asyncio
import contextlib
import logging
from datetime import timedelta

from temporalio.client import Client, Interceptor, WorkflowExecutionStatus
from temporalio.common import (
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDReusePolicy,
)
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from gateway.jobs import Jobs
from gateway.platform import Platform
from gateway.problems import Problems
from gateway.store import DatabaseError, JobRow
from gateway_client import FinishRequest, Notice
from upgrade_core.problems import run_lost
from upgrade_core.runs import RECONCILE, RECONCILE_RUN, TENANT_JOB, ReconcileRequest, TenantJobRequest
from uplift_settings import read_secret
from uplift_settings.tracing import Tracing
from uplift_settings.tree import TemporalSettings

_log = logging.getLogger(__name__)
_LOOK_FOR_LOST_EVERY = 5
_RPC = timedelta(seconds=5)


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
                for_lost = loop.time() - looked >= _LOOK_FOR_LOST_EVERY * self._platform.settings.sweep_interval
                await self._look(client, for_lost=for_lost)
                looked = loop.time() if for_lost else looked
                self._say_reachable(None)
            except (RPCError, RuntimeError, OSError) as error:
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
                        TENANT_JOB,
                        TenantJobRequest(job=row.id, tenant=row.tenant),
                        id=row.id,
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

    async def _look(self, client: Client, *, for_lost: bool) -> None:
        for row in await self._platform.jobs.open():
            if not row.started:
                continue
            handle = client.get_workflow_handle(row.id)
            try:
                if row.abort_requested:
                    await handle.cancel(rpc_timeout=_RPC, reason="abort asked for at the gateway")
                if for_lost:
                    description = await handle.describe(rpc_timeout=_RPC)
                    if description.status is WorkflowExecutionStatus.RUNNING:
                        continue
                    await self._lost(row, f"its run ended as {description.status.name if description.status else 'unknown'}")
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:
                    raise
                if for_lost:
                    await self._lost(row, "Temporal does not know its run")

    async def _lost(self, row: JobRow, why: str) -> None:
        """A started job without a run is an error and is never run again; its holds stay until a person decides.

        It is believed at the second look: the groups of a terminated job may be undoing what they did.
        """
        if row.id not in self._suspects:
            self._suspects.add(row.id)
            return
        self._suspects.discard(row.id)
        now = await self._platform.jobs.get(row.id)
        if now is None or now.state == "ended":
            return
        text = f"run lost: {why} without finishing the job"
        _log.error("job %s of tenant %s: %s", row.id, row.tenant, text)
        await self._problems.report(run_lost(row.id, tenant=row.tenant, why=f"{why} without finishing the job"))
        notice = Notice(message=text, type="RunLost", code="run_lost")
        await self._jobs.finish(row.id, FinishRequest(outcome="failed", errors=(notice,)))

    def _say_reachable(self, error: Exception | None) -> None:
        if error is not None and self._reachable:
            _log.warning("Temporal at %s cannot be used now, jobs wait in Postgres: %s", self._settings.address, error)
        elif error is None and not self._reachable:
            _log.info("Temporal at %s is back", self._settings.address)
        self._reachable = error is None


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
