"""Telling a tenant's permissions module which permission sets its modules define (`upgrade_core.permissions`)."""

from temporalio import activity

from activities.clock import Clock
from activities.module_calls import ModuleCalls, NoAnswer
from activities.signatures import PermissionSteps, TellStep, UndoResult
from activities.translate import MAX_MESSAGE, final, translated
from gateway_client import GatewayClient, OverlayRequest
from upgrade_core.descriptors import TENANT_PERMISSIONS, ModuleDescriptor
from upgrade_core.errors import InvalidDescriptor
from upgrade_core.ids import product_of
from upgrade_core.permissions import PermissionList, backlog, permissions_call
from upgrade_core.tenant_init import Call
from uplift_settings.tree import PermissionSettings

_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 5.0


class _NotTold(Exception):
    """The permissions module refuses a list, or nobody answers."""


class PermissionActivities(PermissionSteps):
    """Implementation.

    Args:
        gateway: The gateway.
        calls: How instances are called.
        settings: Clocks.
        clock: The time of retries.
    """

    def __init__(
        self, *, gateway: GatewayClient, calls: ModuleCalls, settings: PermissionSettings, clock: Clock | None = None
    ) -> None:
        self._gateway = gateway
        self._calls = calls
        self._settings = settings
        self._clock = clock or Clock()

    @activity.defn(name="permissions.tell")
    async def tell(self, request: TellStep) -> None:
        """Tell a permissions module which sets modules have now."""
        with translated():
            teller = await self._gateway.descriptor(request.teller)
            url = await self._url(request)
            modules = request.modules
            if request.enabled:
                missed = backlog(await self._gateway.enabled(request.tenant), request.changed)
                modules += tuple(module for module in missed if module not in modules)
            try:
                for module in modules:
                    await self._tell(request, teller, await self._gateway.permissions(module), url=url)
                for module in request.gone:
                    await self._tell(request, teller, PermissionList(module=module), url=url, gone=True)
            except _NotTold as error:
                raise final(str(error), "PermissionsRefused") from error

    @activity.defn(name="permissions.tell_old")
    async def tell_old(self, request: TellStep) -> UndoResult:
        """Undo of `tell`; what cannot be told is left to a person."""
        warnings: list[str] = []
        left: list[str] = []
        with translated():
            teller = await self._gateway.descriptor(request.teller)
            url = await self._url(request)
            told = [(module, False) for module in request.modules] + [(module, True) for module in request.gone]
            for module, gone in told:
                try:
                    known = PermissionList(module=module) if gone else await self._gateway.permissions(module)
                    if not await self._tell(request, teller, known, url=url, gone=gone):
                        warnings.append(
                            f"{teller.id} keeps the permission sets of {module}: its {TENANT_PERMISSIONS} takes none back"
                        )
                except (_NotTold, InvalidDescriptor) as error:
                    left.append(f"{teller.id} was not told the permissions of {module} again: {error}"[:MAX_MESSAGE])
        return UndoResult(done=not left, left=tuple(left), warnings=tuple(warnings))

    async def _tell(
        self, request: TellStep, teller: ModuleDescriptor, told: PermissionList, *, url: str, gone: bool = False
    ) -> bool:
        """Tell about one module; False if its version has no request for that.

        Raises:
            _NotTold: It refuses it, or did not take it within `permissions.retry`.
        """
        call = permissions_call(teller, told, gone=gone)
        if call is None:
            return False
        deadline, pause = self._clock.now() + self._settings.retry, _FIRST_PAUSE
        while (why := await self._ask(request, teller, call, url=url)) is not None:
            if self._clock.now() + pause > deadline:
                raise _NotTold(why)
            activity.logger.warning("the permissions of %s for %s are told again: %s", told.module, request.tenant, why)
            await self._clock.sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 1.6)
        return True

    async def _ask(self, request: TellStep, teller: ModuleDescriptor, call: Call, *, url: str) -> str | None:
        """One request; what to try it again for, or None if it was taken.

        The gateway is asked first whether the step is still the run's: a worker that was taken for dead must not tell what
        the undo has taken back meanwhile.

        Raises:
            _NotTold: It was refused.
        """
        await self._gateway.compare(request.job)
        instance = await self._calls.instance(teller.id)
        if instance is None:
            return f"No running instances for module {teller.id}. Can not invoke {call.path}"
        try:
            answer = await self._calls.send(instance, call, tenant=request.tenant, url=url, timeout=self._settings.timeout)
        except NoAnswer as error:
            return f"{call.method} request for {teller.id} {call.path} failed: {error}"
        if answer.is_success:
            return None
        text = f"{call.method} request for {teller.id} {call.path} failed with {answer.status_code}: {answer.text}"
        if answer.status_code < 500:  # noqa: PLR2004
            raise _NotTold(text[:MAX_MESSAGE])
        return text[:MAX_MESSAGE]

    async def _url(self, request: TellStep) -> str:
        """Where the permissions module finds the others: past the hold, where it is part of the group."""
        if not request.overlay:
            return self._gateway.url
        wanted = OverlayRequest(product=product_of(request.teller), module=request.teller)
        return (await self._gateway.open_overlay(request.job, wanted)).url
