"""Composition root of the worker: `uplift-worker`."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import httpx
from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError
from temporalio.worker import Worker

from activities.checks import CheckActivities
from activities.deploy import DeployActivities, NodeInstances
from activities.gateway_steps import GatewayActivities
from activities.knowing import Knowing
from activities.module_calls import ModuleCalls
from activities.module_steps import ModuleStepActivities
from activities.permissions import PermissionActivities
from activities.reconcile import NodeReconcileActivities, ReconcileActivities
from activities.snapshots import SnapshotActivities
from activities.tenant_init import TenantInitActivities
from deployers import ProcessDeployer
from gateway_client import GatewayClient
from upgrade_core.runs import MODULE_VERSION, RUN_HEADER, node_queue
from uplift_settings import SecretError, Settings, SettingsError, load, read_secret
from uplift_settings.logs import log_to_stderr
from uplift_settings.tracing import start_tracing
from worker.beats import Beats
from worker.builds import BuildNotCurrent, deployment_config, make_current, workflows_of
from worker.ensuring import Ensuring
from worker.guard import ForeignPackage, check_packages
from worker.keeper import Keeper
from worker.schedules import LOOK_EVERY, ensure_schedule
from worker.temporal import (
    WORKFLOWS,
    TemporalUnavailable,
    connect,
    register_search_attributes,
    runtime_with_metrics,
    trace_interceptors,
    workflow_runner,
)

_log = logging.getLogger("worker")
OnRequest = Callable[[httpx.Request], Awaitable[None]]
READY_FILE = "worker.ready"
"""Written to the home folder, with our process id, when the worker polls."""


def main() -> None:
    """Run the worker until SIGTERM or SIGINT."""
    log_to_stderr()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("temporalio.activity").addFilter(_without_trace)
    try:
        check_packages()
        settings = load()
        log_to_stderr(settings.log, facts=step_facts)
        asyncio.run(_serve(settings))
        code = 0
    except (SettingsError, SecretError, TemporalUnavailable, ForeignPackage, BuildNotCurrent, RPCError) as error:
        _log.error("%s", error)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the SDK's runtime may crash in a regular interpreter exit


def step_facts() -> dict[str, str]:
    """What the calling task is at work on, for log lines: the job and the step."""
    if not activity.in_activity():
        return {}
    info = activity.info()
    run = info.workflow_id or ""
    if info.workflow_type == MODULE_VERSION:
        return {"run": run, "step": info.activity_type}
    return {"job": run.partition("/")[0], "step": info.activity_type}  # a group's run is named after its job


def named(then: OnRequest | None = None) -> OnRequest:
    """What makes a step's calls of the gateway name their run, so that a run that was replaced by another is refused.

    Args:
        then: What else is done with a request.
    """

    async def name(request: httpx.Request) -> None:
        if activity.in_activity():
            request.headers[RUN_HEADER] = quote(activity.info().workflow_id or "")
        if then is not None:
            await then(request)

    return name


def _without_trace(record: logging.LogRecord) -> bool:
    """An expected failure of a step is one line: its words are the remedy, its trace is ours."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, ApplicationError):
        record.msg, record.args, record.exc_info = f"{record.getMessage()}: {error.message}", (), None
    return True


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    ready = settings.home_folder / READY_FILE
    ready.unlink(missing_ok=True)
    tracing = start_tracing(settings.tracing, service="uplift-worker", instance=settings.worker.node)
    temporal = await connect(
        settings.temporal,
        runtime=runtime_with_metrics(settings.worker.metrics_address),
        interceptors=[*trace_interceptors(tracing), Beats()],
    )
    await register_search_attributes(temporal)
    token = read_secret(settings.worker.gateway_token, what="worker.gateway_token") if settings.worker.gateway_token else ""
    async with contextlib.AsyncExitStack() as stack:
        on_request = None if tracing is None else tracing.on_request
        gateway = await stack.enter_async_context(
            GatewayClient(url=settings.worker.gateway_url, token=token, on_request=named(on_request))
        )
        deployer = ProcessDeployer(settings=settings.deploy, folder=settings.home_folder / "instances")
        instances = NodeInstances(gateway=gateway, deployer=deployer, node=settings.worker.node)
        steps = build_gateway_steps(settings, temporal=temporal, gateway=gateway)
        keeper = Keeper(
            gateway=gateway,
            instances=instances,
            tell_unneeded=steps.tell_unneeded,
            interval=settings.worker.keeper_interval,
            prune_every=settings.snapshots.prune_every,
        )
        calls = ModuleCalls(gateway=gateway, settings=settings.init, on_request=on_request)
        stack.push_async_callback(calls.close)
        for worker in build_workers(settings, temporal=temporal, gateway=gateway, instances=instances, steps=steps, calls=calls):
            await stack.enter_async_context(worker)
        if settings.worker.build and settings.worker.make_current:
            await make_current(temporal, build=settings.worker.build, deadline=settings.temporal.connect_timeout)
        ensuring = Ensuring(
            {"search attributes": lambda: register_search_attributes(temporal, deadline=0.0)},
            interval=settings.temporal.ensure_interval,
        )
        reconciling = Ensuring(
            {
                "the schedule of reconcile runs": lambda: ensure_schedule(
                    temporal, settings=settings.reconcile, task_queue=settings.temporal.task_queue
                ),
                "that reconcile runs look at this node": lambda: gateway.put_node(settings.worker.node),
            },
            interval=LOOK_EVERY,
        )
        beside = [asyncio.create_task(each.run()) for each in (keeper, ensuring, reconciling)]
        ready.parent.mkdir(parents=True, exist_ok=True)
        ready.touch(mode=0o600)
        ready.write_text(f"{os.getpid()}\n", encoding="utf-8")
        _log.info("worker polls %s as node %s", settings.temporal.task_queue, settings.worker.node)
        await stop.wait()
        _unmark(ready)
        for task in beside:
            task.cancel()
    if tracing is not None:
        await asyncio.to_thread(tracing.close)


def _unmark(ready: Path) -> None:
    """Take the mark away, unless it is a successor's that shares the folder."""
    with contextlib.suppress(FileNotFoundError):
        if ready.read_text(encoding="utf-8").strip() == str(os.getpid()):
            ready.unlink()


def build_gateway_steps(settings: Settings, *, temporal: Client, gateway: GatewayClient) -> GatewayActivities:
    """The steps that the gateway does."""
    return GatewayActivities(
        gateway=gateway,
        temporal=temporal,
        task_queue=settings.temporal.task_queue,
        deploy=settings.deploy,
        data=settings.data,
        keep_copies=settings.snapshots.keep,
    )


def build_workers(
    settings: Settings,
    *,
    temporal: Client,
    gateway: GatewayClient,
    instances: NodeInstances,
    steps: GatewayActivities,
    calls: ModuleCalls,
) -> tuple[Worker, Worker]:
    """The worker of the common queue, and the one of this node's own queue.

    The second runs no workflows and belongs to no build: steps on a node are done by whatever worker that node has.
    """
    queue = settings.temporal.task_queue
    checks = CheckActivities(gateway=gateway, data=settings.data, snapshots=settings.snapshots, verify=settings.verify)
    copies = SnapshotActivities(
        gateway=gateway,
        data=settings.data,
        snapshots=settings.snapshots,
        folder=settings.snapshot_folder,
        node=settings.worker.node,
    )
    init = TenantInitActivities(
        gateway=gateway,
        temporal=temporal,
        calls=calls,
        init=settings.init,
        data=settings.data,
        snapshots=settings.snapshots,
    )
    permissions = PermissionActivities(gateway=gateway, calls=calls, settings=settings.permissions)
    module_steps = ModuleStepActivities(gateway=gateway, settings=settings.steps)
    deploy = DeployActivities(gateway=gateway, instances=instances, settings=settings.deploy)
    reconcile = ReconcileActivities(
        gateway=gateway,
        temporal=temporal,
        task_queue=queue,
        tell_unneeded=steps.tell_unneeded,
        settings=settings.reconcile,
        keep_copies=settings.snapshots.keep,
    )
    reconcile_here = NodeReconcileActivities(
        gateway=gateway, instances=instances, folder=settings.snapshot_folder, keep_copies=settings.snapshots.keep
    )
    grace = timedelta(seconds=settings.worker.stop_grace)
    common = Worker(
        temporal,
        task_queue=queue,
        workflows=workflows_of(settings.worker.build, WORKFLOWS),
        activities=[
            steps.begin, steps.acquire, steps.give_back, steps.update, steps.show, steps.switch, steps.resume_old,
            steps.release, steps.set_phase, steps.finish, checks.check, checks.recall, checks.verify, copies.take, init.start,
            init.follow, init.undo, init.settle, permissions.tell, permissions.tell_old, module_steps.start, module_steps.follow,
            module_steps.close, deploy.place, deploy.retire, deploy.retired, reconcile.begin, reconcile.compare,
            reconcile.repair, reconcile.report,
        ],
        workflow_runner=workflow_runner(),
        deployment_config=deployment_config(settings.worker.build),
        interceptors=[Knowing(gateway=gateway, every=settings.worker.compare_interval)],
        max_concurrent_activities=settings.worker.max_activities,
        max_concurrent_workflow_tasks=settings.worker.max_workflow_tasks,
        max_cached_workflows=settings.worker.cached_runs,
        graceful_shutdown_timeout=grace,
        max_heartbeat_throttle_interval=timedelta(seconds=settings.worker.heartbeat_every),
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=settings.worker.sticky_timeout),
    )  # fmt: skip
    own = Worker(
        temporal,
        task_queue=node_queue(queue, settings.worker.node),
        activities=[deploy.start, deploy.stop, reconcile_here.look, reconcile_here.repair],
        max_concurrent_activities=settings.worker.max_activities,
        graceful_shutdown_timeout=grace,
        max_heartbeat_throttle_interval=timedelta(seconds=settings.worker.heartbeat_every),
    )
    return common, own


if __name__ == "__main__":
    main()
