"""Migrations that may still be at work: seen by the sessions in their data, and ended for sure (requirements B2, C4)."""

import asyncio
from dataclasses import dataclass

import httpx
from temporalio import activity
from temporalio.client import Client
from temporalio.service import RPCError

from activities.databases import database_of, must_answer
from activities.module_calls import ModuleCalls
from activities.signatures import CheckedChange
from activities.translate import until_answered
from gateway_client import GatewayClient, Instance, IntentState, NotFound
from module_data import ModuleDataError, PostgresData
from upgrade_core.descriptors import ModuleDescriptor
from upgrade_core.runs import module_run_id
from upgrade_core.tenant_init import Effect, job_call, read_job
from uplift_settings.tree import DataSettings, InitSettings, SnapshotSettings

_RESTART_WAIT = 120.0
_END_SESSIONS_FOR = 120.0
_SETTLED = 2.0
"""Seconds without a lock after sessions were ended, before a restore begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InitStep:
    """A tenant init: what the run wants, the module that is asked, and whether it takes an earlier one back."""

    request: CheckedChange
    module: ModuleDescriptor
    reverse: bool = False


class Migrations:
    """Looks at what modules do to the data of a tenant.

    Args:
        gateway: The gateway.
        temporal: To have an instance restarted that nobody else uses.
        calls: How instances are called.
        init: Clocks.
        data: Tools of Postgres.
        snapshots: Clocks of restoring.
    """

    def __init__(
        self,
        *,
        gateway: GatewayClient,
        temporal: Client,
        calls: ModuleCalls,
        init: InitSettings,
        data: DataSettings,
        snapshots: SnapshotSettings,
    ) -> None:
        self._gateway = gateway
        self._temporal = temporal
        self._calls = calls
        self._init = init
        self._data = data
        self._snapshots = snapshots

    async def instance(self, init: InitStep, *, prefer: str = "") -> Instance | None:
        """The instance to ask, `prefer` if it is there; None: there is none."""
        return await until_answered(lambda: self._calls.instance(init.module.id, prefer=prefer))

    async def look(
        self, init: InitStep, instance: Instance, job_path: str, *, wait: float, method: str = "GET"
    ) -> httpx.Response | None:
        """What the module says of its job, waiting up to `wait` seconds for news where it can; None: no answer."""
        call = job_call(init.module, job_path, method=method)
        return await self._calls.look(instance, call, tenant=init.request.tenant, url=self._gateway.url, wait=wait)

    def data(self, request: CheckedChange) -> PostgresData | None:
        """The data of the tenant; None where it cannot be seen from here."""
        return database_of(request, data=self._data, snapshots=self._snapshots)

    async def must_answer(self, request: CheckedChange) -> None:
        """Look whether the data is there.

        Raises:
            ModuleDataError: Its database is away.
        """
        await must_answer(request, data=self._data, snapshots=self._snapshots)

    async def is_seen(self, request: CheckedChange) -> bool:
        """Whether anybody is at work in the data now; so it is, too, where that cannot be seen."""
        data = self.data(request)
        if data is None:
            return True
        try:
            return bool(await data.sessions(request.checked.schema))
        except ModuleDataError:
            return True

    async def has_stalled(self, init: InitStep, intent: IntentState, instance: Instance, unchanged: float) -> bool:
        """Whether a job is dead: its module was restarted, and it is quiet where its data can be seen, else by the clock.

        Of an instance that was not deployed here nobody says whether it was restarted: its job is dead when it has told
        nothing new for `init.stall_after` seconds and at no look anybody was at work in its data; where that cannot be seen it
        is followed on.
        """
        data = self.data(init.request)
        if intent.generation is None:
            if data is None or unchanged < self._init.stall_after:
                return False
        elif instance.generation == intent.generation:
            return False
        elif data is None:
            return unchanged >= self._init.stall_after
        return await data.wait_quiet(init.request.checked.schema, quiet=self._init.quiet, timeout=self._init.quiet * 2)

    async def stop(self, init: InitStep, intent: IntentState) -> str:
        """Make sure that no migration runs. Returns why that cannot be said, or nothing."""
        if intent.state == "ended":
            return ""
        instance = await self.instance(init, prefer=intent.instance)
        if intent.job_path and instance is not None:
            response = await self.look(init, instance, intent.job_path, wait=0)
            if response is not None and response.status_code == 200:  # noqa: PLR2004
                answer = read_job(init.module, intent.job_path, status=200, body=response.text)
                if answer.effect in (Effect.DONE, Effect.FAILED):
                    return ""
        restarted = await self._was_restarted(init, intent)
        if not restarted and await self._is_ours_alone(init):
            await self._restart(init, intent)
            restarted = await self._was_restarted(init, intent)
        data, schema = self.data(init.request), init.request.checked.schema
        if data is None:
            if restarted:
                return ""
            return f"{init.module.id} may still be migrating: it is shared with other tenants and its data cannot be seen"
        deadline = asyncio.get_running_loop().time() + max(_END_SESSIONS_FOR, 4 * self._init.quiet)
        quiet = _SETTLED if restarted else self._init.quiet
        while asyncio.get_running_loop().time() < deadline:
            await data.end_sessions(schema)
            if await data.wait_quiet(schema, quiet=quiet, timeout=quiet + 1):
                return ""
        return f"sessions keep coming back to schema {schema}"

    async def _was_restarted(self, init: InitStep, intent: IntentState) -> bool:
        """Whether the process that was asked is no more."""
        now = await self.instance(init, prefer=intent.instance)
        return now is None or now.generation != intent.generation

    async def _is_ours_alone(self, init: InitStep) -> bool:
        """Whether an instance that was deployed serves nobody but this job, so that its process may be stopped."""
        try:
            version = await until_answered(lambda: self._gateway.version(init.module.id))
        except NotFound:
            return False
        deployed = bool(version.instances) and all(instance.node is not None for instance in version.instances)
        return deployed and set(version.needed_by) <= {f"job {init.request.job}"}

    async def _restart(self, init: InitStep, intent: IntentState) -> None:
        """Stop the process that may be migrating and start it anew."""
        try:
            await self._temporal.get_workflow_handle(module_run_id(init.module.id)).signal("restart")
        except RPCError as error:
            activity.logger.warning("cannot have %s restarted: %s", init.module.id, error)
            return
        deadline = asyncio.get_running_loop().time() + _RESTART_WAIT
        while asyncio.get_running_loop().time() < deadline:
            if await self._was_restarted(init, intent):
                return
            await asyncio.sleep(self._init.poll_first)
