"""Looks after this node: starts instances again whose process died, and removes snapshots whose time is over."""

import asyncio
import logging
import time
from pathlib import Path

from activities.deploy import NodeInstances
from deployers import DeployError
from gateway_client import GatewayClient, GatewayError

_log = logging.getLogger(__name__)
_LONGEST_PAUSE = 60.0


class Keeper:
    """Runs beside the worker.

    Args:
        gateway: Knows which instances there should be.
        instances: This node's.
        interval: Seconds between looks at instances.
        prune_every: Seconds between looks for snapshots whose time is over.
    """

    def __init__(self, *, gateway: GatewayClient, instances: NodeInstances, interval: float, prune_every: float) -> None:
        self._gateway = gateway
        self._instances = instances
        self._interval = interval
        self._prune_every = prune_every
        self._failed: dict[str, tuple[int, float]] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        pruned = 0.0
        while True:
            try:
                await self._look()
                if time.monotonic() - pruned > self._prune_every:
                    await self._prune()
                    pruned = time.monotonic()
            except GatewayError as error:
                _log.debug("looking after instances put off: %s", error)
            await asyncio.sleep(self._interval)

    async def _look(self) -> None:
        for version in await self._gateway.versions():
            if version.retiring or not any(found.node == self._instances.node for found in version.instances):
                continue
            times, not_before = self._failed.get(version.module, (0, 0.0))
            if time.monotonic() < not_before:
                continue
            try:
                await self._instances.keep(version.module)
                self._failed.pop(version.module, None)
            except DeployError as error:
                pause = min(_LONGEST_PAUSE, self._interval * 2**times)
                self._failed[version.module] = (times + 1, time.monotonic() + pause)
                _log.error("%s died and cannot be started again, next try in %.0f s: %s", version.module, pause, error)

    async def _prune(self) -> None:
        for snapshot in await self._gateway.snapshots(expired=True):
            if snapshot.node == self._instances.node:
                if snapshot.path:
                    Path(snapshot.path).unlink(missing_ok=True)
                await self._gateway.remove_snapshot(snapshot.id)
                _log.info("removed snapshot %s", snapshot.id)
