"""Deploying and taking away a version because somebody asked for just that, by discovery (requirement E2).

A row says that it is needed, and is committed first; then the version's run deploys it, as it does for jobs. A gateway that dies
in between loses nothing: a sweep starts what has no instance.
"""

import asyncio
import contextlib

from gateway.pipelines import Pipelines
from gateway.platform import Platform
from gateway.store import DISCOVERY, Conflict, InstanceRow
from upgrade_core.errors import UpliftError

_ASK_AGAIN = 5.0
"""Seconds after which a run is told once more that its version is not needed: it may have looked a moment too early."""


class NotDeployed(UpliftError):
    """A version cannot be deployed; the message says why. It is not needed by discovery any more."""


class Deploying:
    """The gateway's part in instances that nobody's job asked for.

    Args:
        platform: The gateway's state.
        pipelines: Starts runs.
    """

    def __init__(self, *, platform: Platform, pipelines: Pipelines) -> None:
        self._platform = platform
        self._pipelines = pipelines

    async def deploy(self, module: str, node: str) -> InstanceRow:
        """Have a version's instance started on a node, and wait for it; one that runs there already is kept.

        Raises:
            Conflict: It is on its way out, or is deployed on another node.
            NotDeployed: It cannot be started.
            TemporalAway: It is started when Temporal is back.
        """
        deployments = self._platform.deployments
        there = self._instance(module)
        if there is not None and there.node != node:
            raise Conflict(f"module {module} is deployed on {there.node}; there is one instance of each version")
        deployment = await deployments.add(module, node)
        if (found := self._instance(module)) is not None:
            return found
        ended = asyncio.create_task(self._pipelines.deploy(deployment))
        try:
            while (found := self._instance(module)) is None and not ended.done():
                changed = asyncio.create_task(self._platform.instances_changed.wait())
                await asyncio.wait((ended, changed), return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
            if found is None:
                await self._platform.catch_up()
                found = self._instance(module)
            if found is None:
                why = ended.result()
                await deployments.remove(module)
                raise NotDeployed(why)
        finally:
            ended.cancel()
        return found

    async def needed_by(self, module: str) -> tuple[str, ...]:
        """Who needs a version but for discovery."""
        needed = (await self._platform.instances.needed_by([module]))[module]
        return tuple(who for who in needed if who != DISCOVERY)

    async def take_away(self, module: str) -> tuple[str, ...]:
        """Need a version no more by discovery, and wait until its deployed instance is gone; who needs it all the same.

        Raises:
            TemporalAway: It is taken away when Temporal is back, or not.
        """
        await self._platform.deployments.remove(module)
        while self._instance(module) is not None:
            if needed := await self.needed_by(module):
                return needed
            await self._pipelines.tell_unneeded(module)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ASK_AGAIN):
                    while self._instance(module) is not None:
                        await self._platform.instances_changed.wait()
        return ()

    def _instance(self, module: str) -> InstanceRow | None:
        """The deployed one."""
        return next((row for row in self._platform.table.instances.get(module, []) if row.node is not None), None)
