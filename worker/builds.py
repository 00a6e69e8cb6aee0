"""Builds of the worker: a run ends on the build that it began on (`worker.build`).

Temporal calls it worker versioning. Workers say which build they are; one is the current one, which gets new runs. Runs stay on
their build (pinned), unless the workflow that a worker registers says otherwise. Without `worker.build` none of this happens,
and no registered workflow may say anything of it: Temporal refuses such answers from a worker without a build.
"""

import asyncio
import logging
from collections.abc import Iterable

from temporalio.api.enums.v1 import WorkerDeploymentVersionStatus
from temporalio.api.workflowservice.v1 import (
    DescribeWorkerDeploymentRequest,
    DescribeWorkerDeploymentResponse,
    SetWorkerDeploymentCurrentVersionRequest,
)
from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import WorkerDeploymentConfig

from workflows.module_version import ModuleVersion, MovingModuleVersion

DEPLOYMENT = "uplift"
"""Name of the worker deployment in Temporal; its builds are told apart by `worker.build`."""
_log = logging.getLogger(__name__)
_MOVING: dict[type, type] = {ModuleVersion: MovingModuleVersion}
_RETRY = 0.2
_NOT_YET = (RPCStatusCode.NOT_FOUND, RPCStatusCode.FAILED_PRECONDITION, RPCStatusCode.UNAVAILABLE, RPCStatusCode.ABORTED)
_NEVER_CURRENT = (
    WorkerDeploymentVersionStatus.WORKER_DEPLOYMENT_VERSION_STATUS_UNSPECIFIED,
    WorkerDeploymentVersionStatus.WORKER_DEPLOYMENT_VERSION_STATUS_INACTIVE,
    WorkerDeploymentVersionStatus.WORKER_DEPLOYMENT_VERSION_STATUS_CREATED,
)


class BuildNotCurrent(Exception):
    """Temporal does not make the worker's build the current one. The message says why, and what to do."""


def deployment_config(build: str) -> WorkerDeploymentConfig | None:
    """What a worker with workflows tells Temporal of its build; None without one.

    Args:
        build: `worker.build`.
    """
    if not build:
        return None
    return WorkerDeploymentConfig(
        version=WorkerDeploymentVersion(deployment_name=DEPLOYMENT, build_id=build),
        use_worker_versioning=True,
        default_versioning_behavior=VersioningBehavior.PINNED,
    )


def workflows_of(build: str, workflows: Iterable[type]) -> list[type]:
    """The workflows as a worker registers them: with a build, those that live for weeks move to each new one.

    Args:
        build: `worker.build`.
        workflows: All of them.
    """
    return [_MOVING.get(each, each) if build else each for each in workflows]


async def make_current(client: Client, *, build: str, deadline: float = 60.0) -> bool:
    """Make a build the current one, if it has never been. Call when its worker polls: Temporal knows it only then.

    A build that was replaced stays replaced: its worker may have died while its last runs ended, and been started again.

    Args:
        client: Temporal.
        build: `worker.build`.
        deadline: Seconds to try.

    Returns:
        Whether it is the current one now.

    Raises:
        BuildNotCurrent: It could not be done within the time.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline
    while True:
        try:
            found = await _describe(client)
            status = _status(found, build)
            if status == WorkerDeploymentVersionStatus.WORKER_DEPLOYMENT_VERSION_STATUS_CURRENT:
                return True
            if status is not None and status not in _NEVER_CURRENT:
                _log.warning(
                    "build %s was replaced before, so it takes no new runs; to go back to it: temporal worker deployment"
                    " set-current-version --deployment-name %s --build-id %s",
                    build, DEPLOYMENT, build,
                )  # fmt: skip
                return False
            if status is not None:
                await client.workflow_service.set_worker_deployment_current_version(
                    SetWorkerDeploymentCurrentVersionRequest(
                        namespace=client.namespace,
                        deployment_name=DEPLOYMENT,
                        build_id=build,
                        conflict_token=found.conflict_token,
                        identity=client.identity,
                    )
                )
                _log.info("build %s is the current one: it gets new runs", build)
                return True
            why = "it does not know it yet"
        except RPCError as error:
            if error.status not in _NOT_YET:
                raise BuildNotCurrent(_advice(build, str(error))) from error
            why = str(error)
        if loop.time() > end:
            raise BuildNotCurrent(_advice(build, why))
        await asyncio.sleep(_RETRY)


async def _describe(client: Client) -> DescribeWorkerDeploymentResponse:
    return await client.workflow_service.describe_worker_deployment(
        DescribeWorkerDeploymentRequest(namespace=client.namespace, deployment_name=DEPLOYMENT)
    )


def _status(found: DescribeWorkerDeploymentResponse, build: str) -> int | None:
    """A build's status; None if Temporal has not heard of it."""
    summaries = found.worker_deployment_info.version_summaries
    return next((int(each.status) for each in summaries if each.deployment_version.build_id == build), None)


def _advice(build: str, why: str) -> str:
    return (
        f"Temporal does not make build {build} (worker.build) the current one: {why}. It needs worker versioning (tried with"
        " server 1.29); without it leave worker.build empty. With worker.make_current off an operator makes builds current"
    )
