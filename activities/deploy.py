"""Instances of module versions: started and stopped on their own node, registered at the gateway (requirement E1)."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from urllib.parse import urlsplit

from temporalio import activity

from activities.signatures import DeploySteps, ModuleRef, Placement, Retirement
from activities.translate import translated
from deployers import Deployer, Launch, Running
from gateway_client import GatewayClient, Instance, NotFound, Version
from upgrade_core.ids import instance_id
from uplift_settings.tree import DeploySettings

GATEWAY_URL = "UPLIFT_GATEWAY_URL"
INSTANCE_TOKEN = "UPLIFT_INSTANCE_TOKEN"  # noqa: S105 - the name of the variable that holds it
_DRAIN_PAUSE = 0.2
_log = logging.getLogger(__name__)


class NodeInstances:
    """The instances of this node: one thing at a time is done to each.

    Args:
        gateway: Where instances are registered.
        deployer: Starts and stops them.
        node: This node's name.
    """

    def __init__(self, *, gateway: GatewayClient, deployer: Deployer, node: str) -> None:
        self.node = node
        self._gateway = gateway
        self._deployer = deployer
        self._locks: dict[str, asyncio.Lock] = {}

    async def start(self, module: str) -> None:
        """Start the version's instance here, or adopt it, and register it when it is healthy."""
        async with self._alone(module):
            await self._start(module)

    async def stop(self, module: str) -> None:
        """Stop it; its registration is removed by who retires the version."""
        async with self._alone(module):
            await self._deployer.stop(instance_id(module, self.node))
            _log.info("%s is stopped", instance_id(module, self.node))

    async def keep(self, module: str) -> None:
        """Start it again if its process died, unless the version is on its way out by now."""
        async with self._alone(module):
            version = await self._gateway.version(module)
            ours = next((found for found in version.instances if found.node == self.node), None)
            if ours is None or version.retiring:
                return
            running = await self._deployer.find(ours.id)
            if running is None:
                _log.warning("%s died; it is started again", ours.id)
            if running is None or running.generation != ours.generation or running.url != ours.url:
                await self._start(module)

    async def running(self) -> tuple[Running, ...]:
        """What runs here by the deployer's own record.

        Raises:
            DeployError: A record cannot be read.
        """
        return await self._deployer.list()

    async def stop_stray(self, module: str, instance: str, generation: str) -> str:
        """Stop a process of a version that nobody needs and that is registered nowhere.

        The version is marked as on its way out meanwhile, so that nobody can come to need it. An attempt that was cut off may
        have left it marked, or stopped: the next one ends both, else nobody could claim the version.

        Returns:
            Why it was left; empty if it is stopped.
        """
        async with self._alone(module):
            running = await self._deployer.find(instance)
            if running is not None and (running.generation != generation or running.module_id != module):
                return "another process runs by now"
            try:
                version = await self._gateway.version(module)
            except NotFound:  # a module that is not registered is claimed by nobody
                await self._deployer.stop(instance)
                return ""
            if _nodes(version):  # then it is also a run's business to take it away
                return "the version is registered by now"
            if running is None and not version.retiring:
                return ""
            if left := await self._mark(module):
                return left
            await self._deployer.stop(instance)
            await self._gateway.retired(module)
            _log.info("%s, which nobody needed and which was not registered, is stopped", instance)
            return ""

    async def _mark(self, module: str) -> str:
        """Mark a version as on its way out; who needs it, if somebody does."""
        version = await self._gateway.retire(module)
        while not version.retiring and not version.needed_by:
            await asyncio.sleep(_DRAIN_PAUSE)
            version = await self._gateway.retire(module)
        if version.needed_by:
            return f"it is needed by {', '.join(version.needed_by)}"
        if _nodes(version):  # registered in the last moment: its retirement is a run's business
            return "it is registered by now"
        return ""

    async def _start(self, module: str) -> None:
        descriptor = await self._gateway.descriptor(module)
        launch = descriptor.launch
        assert launch is not None
        ours = [found for version in await self._gateway.versions() for found in version.instances if found.node == self.node]
        own = instance_id(module, self.node)
        wanted = Launch(
            inst_id=own,
            module_id=module,
            port=next((urlsplit(found.url).port for found in ours if found.id == own), None),
            avoid=tuple(sorted(port for found in ours if found.id != own and (port := urlsplit(found.url).port))),
            exec=launch.exec,
            cmdline_start=launch.cmdline_start,
            cmdline_stop=launch.cmdline_stop,
            env={**dict(launch.env), **await self._gateway.environment(), GATEWAY_URL: self._gateway.url},
        )
        running = await self._start_or_adopt(wanted)
        await self._gateway.put_instance(
            Instance(id=running.inst_id, module=module, url=running.url, node=self.node, generation=running.generation)
        )
        _log.info("%s runs at %s (process %s, output in %s)", running.inst_id, running.url, running.pid, running.log)

    async def _start_or_adopt(self, wanted: Launch) -> Running:
        """Start an instance with a secret of its own; one that runs already keeps the secret that it was started with.

        A secret that is issued makes the former worthless, so none is issued while a process may be using it. Where the process
        came or went between the look and the start, it has no secret that the gateway knows: it is stopped, and the next one has.
        """
        while True:
            runs = await self._deployer.find(wanted.inst_id) is not None
            env = dict(wanted.env)
            if not runs:
                env[INSTANCE_TOKEN] = await self._gateway.issue_secret(wanted.module_id, wanted.inst_id)
            running = await self._deployer.start(replace(wanted, env=env))
            if running.adopted == runs:
                return running
            _log.info("%s came or went while it was started; it is started again, with a secret", wanted.inst_id)
            await self._deployer.stop(wanted.inst_id)

    @contextlib.asynccontextmanager
    async def _alone(self, module: str) -> AsyncIterator[None]:
        """One thing at a time, also where a second worker runs on this node: what one starts, the other must know to stop."""
        async with self._locks.setdefault(module, asyncio.Lock()), self._deployer.turn(instance_id(module, self.node)):
            yield


class DeployActivities(DeploySteps):
    """Implementation.

    Args:
        gateway: The gateway.
        instances: The instances of this node.
        settings: Times.
    """

    def __init__(self, *, gateway: GatewayClient, instances: NodeInstances, settings: DeploySettings) -> None:
        self._gateway = gateway
        self._instances = instances
        self._settings = settings

    @activity.defn(name="deploy.place")
    async def place(self, request: ModuleRef) -> Placement:
        """The node where the version runs already, else the one that is asked for, else this one."""
        with translated():
            descriptor = await self._gateway.descriptor(request.module)
            version = await self._gateway.version(request.module)
        retire_after = self._settings.retire_after
        if descriptor.launch is None or not descriptor.launch.is_process:
            return Placement(retire_after=retire_after)
        there = next((instance.node for instance in version.instances if instance.node is not None), None)
        return Placement(node=there or request.node or self._instances.node, retire_after=retire_after)

    @activity.defn(name="deploy.start")
    async def start(self, request: ModuleRef) -> None:
        """Start an instance on this node, or adopt it, and register it when it is healthy."""
        with translated():
            await self._instances.start(request.module)

    @activity.defn(name="deploy.retire")
    async def retire(self, request: ModuleRef) -> Retirement:
        """Mark a version as on its way out if nobody needs it; requests in flight are waited for."""
        with translated():
            version = await self._gateway.retire(request.module)
            while not version.retiring and not version.needed_by:
                await asyncio.sleep(_DRAIN_PAUSE)
                version = await self._gateway.retire(request.module)
        return Retirement(marked=version.retiring, nodes=_nodes(version), needed_by=version.needed_by)

    @activity.defn(name="deploy.stop")
    async def stop(self, request: ModuleRef) -> None:
        """Stop the instances of a version on this node."""
        with translated():
            await self._instances.stop(request.module)

    @activity.defn(name="deploy.retired")
    async def retired(self, request: ModuleRef) -> None:
        """Say that a version is gone."""
        with translated():
            await self._gateway.retired(request.module)


def _nodes(version: Version) -> tuple[str, ...]:
    return tuple(sorted({instance.node for instance in version.instances if instance.node is not None}))
