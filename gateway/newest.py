"""NEWER: a higher version has registered; tenants whose routing is `newest` are upgraded to it by a job (requirement A5).

`pinned` tenants, which is the default, are untouched: only jobs that somebody asks for move them.
"""

import asyncio
import contextlib
import logging

from gateway.jobs import JobRequest, Jobs
from gateway.platform import Platform
from gateway.problems import Problems
from gateway.store import Conflict, DatabaseError
from upgrade_core.errors import UpliftError
from upgrade_core.problems import newer_blocked
from upgrade_core.protocol import Effect, Routing, Signal, on_routing

_log = logging.getLogger(__name__)
ACTOR = "newest routing"
"""Who asked for such a job."""


class Newest:
    """Looks at instances that were registered, each once, whichever replica gets it."""

    def __init__(self, *, platform: Platform, jobs: Jobs, problems: Problems) -> None:
        self._platform = platform
        self._jobs = jobs
        self._problems = problems

    async def run(self) -> None:
        """Look until cancelled: at once when an instance comes, and every `gateway.problems_interval` for what was left."""
        while True:
            changed = self._platform.instances_changed
            try:
                while await self.look():
                    pass
            except DatabaseError as error:
                _log.debug("looking for newer versions is put off: %s", error)
            except Exception:  # noqa: BLE001 - a bug must not end the looks; it is logged whole
                _log.exception("looking for newer versions failed; it is tried again")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._platform.settings.problems_interval):
                    await changed.wait()

    async def look(self) -> bool:
        """Look at one version that was registered; False if there is none.

        The version counts as looked at when its jobs are committed: a replica that dies before that leaves it to another.
        """
        async with self._platform.instances.newcomer() as module:
            if module is None:
                return False
            await self._platform.catch_up()
            for tenant in self._followers(module):
                await self._upgrade(tenant, module)
            return True

    def _followers(self, module: str) -> list[str]:
        """Tenants that have a lower version of the product and follow the newest one."""
        table = self._platform.table
        newcomer = table.modules.get(module)
        if newcomer is None:
            return []
        found = []
        for tenant, row in sorted(table.tenants.items()):
            bound = table.modules.get(table.bindings.get(tenant, {}).get(newcomer.product, ""))
            if bound is None or not bound.module_id < newcomer.module_id:
                continue
            if Effect.UPGRADE not in on_routing(Routing(row.routing), Signal.NEWER)[1]:
                continue
            new, old = newcomer.module_id.version, bound.module_id.version
            if (new.is_pre_release and not old.is_pre_release) or (new.is_npm_snapshot and not old.is_npm_snapshot):
                continue  # who runs releases is not moved to what is not one
            found.append(tenant)
        return found

    async def _upgrade(self, tenant: str, module: str) -> None:
        for job in await self._platform.jobs.open():
            if job.tenant == tenant and any(line["id"] == module for line in job.modules):
                return
        for job in await self._platform.jobs.of_tenant(tenant):
            if job.request.get("actor") == ACTOR and job.status == "error" and any(line["id"] == module for line in job.modules):
                why = f"job {job.id} ended as {job.outcome}; it is not tried again by itself"
                await self._problems.report(newer_blocked(tenant, module, why=why))
                return
        request = JobRequest(wanted=((module, "enable"),), actor=ACTOR, mend=False)
        try:
            planned = await self._jobs.plan(tenant, request)
        except UpliftError as error:
            await self._problems.report(newer_blocked(tenant, module, why=str(error)))
            return
        try:
            await self._jobs.create(tenant, request, planned.decisions)
        except Conflict as error:  # it was removed in the meantime
            _log.info("tenant %s does not follow to %s: %s", tenant, module, error)
            return
        await self._problems.resolve(newer_blocked(tenant, module, why="").key)
