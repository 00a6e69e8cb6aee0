"""Looks after this node.

Instances whose process died are started again, versions that nobody needs are retired, snapshots whose time is over are removed.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from temporalio.service import RPCError

from activities.deploy import NodeInstances
from deployers import DeployError
from gateway_client import GatewayClient, GatewayError, Version

_log = logging.getLogger(__name__)
_LONGEST_PAUSE = 60.0
_UNNEEDED_LOOKS = 5
_TOLD_AGAIN_LOOKS = 30
"""Looks until a run is told again that nobody needs its version: the one that was told may be lost with Temporal's history."""


class Keeper:
    """Runs beside the worker.

    Args:
        gateway: Knows which instances there should be.
        instances: This node's.
        tell_unneeded: Tells the run of a module version that nobody needs it (a tenant was deleted, a run was lost).
        interval: Seconds between looks at instances.
        prune_every: Seconds between looks for snapshots whose time is over.
    """

    def __init__(
        self,
        *,
        gateway: GatewayClient,
        instances: NodeInstances,
        tell_unneeded: Callable[[str], Awaitable[None]],
        interval: float,
        prune_every: float,
    ) -> None:
        self._gateway = gateway
        self._instances = instances
        self._tell_unneeded = tell_unneeded
        self._unneeded: dict[str, int] = {}
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
            except (GatewayError, RPCError) as error:
                _log.debug("looking after instances put off: %s", error)
            except Exception:  # noqa: BLE001 - whatever one look meets, the next may go well
                _log.exception("looking after instances failed; the next look is in %g s", self._interval)
            await asyncio.sleep(self._interval)

    async def _look(self) -> None:
        for version in await self._gateway.versions():
            ours = any(found.node == self._instances.node for found in version.instances)
            if ours or (version.retiring and not version.instances):
                await self._retire_if_unneeded(version)
            if version.retiring or not ours:
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

    async def _retire_if_unneeded(self, version: Version) -> None:
        """Tell it when nobody has needed it at several looks: a run that goes on tells it by itself.

        One that is on its way out for long may have lost its run: until it is gone, nobody can have the version again.
        """
        if version.needed_by:
            self._unneeded.pop(version.module, None)
            return
        looks = self._unneeded[version.module] = self._unneeded.get(version.module, 0) + 1
        first = _TOLD_AGAIN_LOOKS if version.retiring else _UNNEEDED_LOOKS
        if looks < first:
            return
        _log.info("nobody needs %s any more", version.module)
        await self._tell_unneeded(version.module)
        self._unneeded[version.module] = first - _TOLD_AGAIN_LOOKS  # only once it was told: Temporal may be away

    async def _prune(self) -> None:
        for snapshot in await self._gateway.snapshots(expired=True):
            if snapshot.node == self._instances.node:
                if snapshot.path:
                    path = Path(snapshot.path)
                    path.unlink(missing_ok=True)
                    path.with_name(f"{path.name}.part").unlink(missing_ok=True)
                await self._gateway.remove_snapshot(snapshot.id)
                _log.info("removed snapshot %s", snapshot.id)
