"""The one way to connect to Temporal, and the one workflow runner: used by the worker, the CLI and the tests alike."""

import asyncio
from collections.abc import Sequence

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client, Interceptor
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from upgrade_core.runs import ATTRIBUTES
from uplift_settings import SettingsError, read_secret
from uplift_settings.tracing import Tracing
from uplift_settings.tree import TemporalSettings
from workflows.group_change import GroupChange
from workflows.module_version import ModuleVersion
from workflows.reconcile import Reconcile
from workflows.resolve_job import ResolveJob
from workflows.tenant_job import TenantJob

WORKFLOWS = (TenantJob, GroupChange, ModuleVersion, ResolveJob, Reconcile)
"""Every workflow, for workers and for replays."""
_RETRY = 0.2


class TemporalUnavailable(Exception):
    """Temporal does not answer. The message says where it was looked for."""


async def connect(
    settings: TemporalSettings, *, runtime: Runtime | None = None, interceptors: Sequence[Interceptor] = ()
) -> Client:
    """Connect, trying for `temporal.connect_timeout` seconds.

    Args:
        settings: Where Temporal is.
        runtime: The SDK's, if it tells metrics; see `runtime_with_metrics`.
        interceptors: Look at all calls, and at all runs and steps of workers on this client; see `trace_interceptors`.

    Raises:
        TemporalUnavailable: It never answered.
    """
    deadline = asyncio.get_running_loop().time() + settings.connect_timeout
    while True:
        try:
            return await Client.connect(
                settings.address,
                namespace=settings.namespace,
                data_converter=pydantic_data_converter,
                api_key=read_secret(settings.api_key, what="temporal.api_key") if settings.api_key else None,
                tls=settings.tls,
                runtime=runtime,
                interceptors=interceptors,
            )
        except RuntimeError as error:
            if asyncio.get_running_loop().time() > deadline:
                raise TemporalUnavailable(f"Temporal at {settings.address} (temporal.address) is not there: {error}") from error
            await asyncio.sleep(_RETRY)


def runtime_with_metrics(address: str) -> Runtime | None:
    """The SDK's runtime with its metrics for Prometheus at an address (`worker.metrics_address`); None if it is empty.

    Raises:
        SettingsError: Nothing can listen there.
    """
    if not address:
        return None
    metrics = PrometheusConfig(bind_address=address, counters_total_suffix=True, unit_suffix=True, durations_as_seconds=True)
    try:
        return Runtime(telemetry=TelemetryConfig(metrics=metrics))
    except (RuntimeError, ValueError) as error:
        raise SettingsError(f"cannot listen on {address} (worker.metrics_address): {error}") from error


def trace_interceptors(tracing: Tracing | None) -> list[Interceptor]:
    """What makes runs and their steps parts of the trace of the request that asked for them; nothing without tracing."""
    if tracing is None:
        return []
    from temporalio.contrib.opentelemetry import TracingInterceptor  # noqa: PLC0415 - imports OpenTelemetry, which is an extra

    return [TracingInterceptor(tracing.tracer)]


async def register_search_attributes(client: Client, *, deadline: float = 60.0) -> None:
    """Make sure that the namespace knows our search attributes; unknown ones would stall every run."""
    end = asyncio.get_running_loop().time() + deadline
    while True:
        try:
            known = await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace=client.namespace))
            missing = [name for name in ATTRIBUTES if name not in known.custom_attributes]
            if not missing:
                return
            await client.operator_service.add_search_attributes(
                AddSearchAttributesRequest(
                    namespace=client.namespace,
                    search_attributes=dict.fromkeys(missing, IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD),
                )
            )
        except RPCError as error:
            if error.status not in (RPCStatusCode.UNAVAILABLE, RPCStatusCode.NOT_FOUND, RPCStatusCode.ALREADY_EXISTS):
                raise
            if asyncio.get_running_loop().time() > end:
                raise
        await asyncio.sleep(_RETRY)


def workflow_runner() -> SandboxedWorkflowRunner:
    """The sandbox, with nothing passed through but what workflows say."""
    return SandboxedWorkflowRunner(restrictions=SandboxRestrictions.default)
