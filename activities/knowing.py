"""What a run knows goes with every call of its steps, and long steps compare it while they work (requirement D3, ADR 0019)."""

import asyncio
from typing import Any

from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from activities.signatures import (
    ChangeRequest,
    CheckedChange,
    FinishStep,
    FollowModuleStep,
    FollowRequest,
    GroupStep,
    ModuleStepRequest,
    PhaseStep,
    TellStep,
)
from activities.translate import translated
from gateway_client import DatabaseDiffers, GatewayClient, GatewayError, knowing
from upgrade_core.known import Fact


class Knowing(Interceptor):
    """An interceptor of a worker whose steps call the gateway.

    Args:
        gateway: The gateway.
        every: Seconds between comparisons while a step works.
    """

    def __init__(self, *, gateway: GatewayClient, every: float) -> None:
        self._gateway = gateway
        self._every = every

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002 - the SDK's name
        """Around each step."""
        return _Step(next, gateway=self._gateway, every=self._every)


class _Step(ActivityInboundInterceptor):
    def __init__(self, following: ActivityInboundInterceptor, *, gateway: GatewayClient, every: float) -> None:
        super().__init__(following)
        self._gateway = gateway
        self._every = every

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002 - the SDK's name
        job, facts = _known(input.args[0] if input.args else None)
        if not facts:
            return await self.next.execute_activity(input)
        with knowing(facts):
            if isinstance(input.args[0], FinishStep | PhaseStep):  # one call each
                return await self.next.execute_activity(input)
            work = asyncio.ensure_future(self.next.execute_activity(input))
            watch = asyncio.create_task(self._watch(job))
            try:
                await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
                if not work.done():
                    work.cancel()
                    await asyncio.wait({work})
                    if work.cancelled() or work.exception() is not None:
                        with translated():
                            watch.result()
            except asyncio.CancelledError:
                work.cancel()  # it may end well all the same: then that is the answer
            finally:
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)
            return await work

    async def _watch(self, job: str) -> None:
        """Compare until it differs: the step may work for hours on what nobody holds any more.

        Raises:
            DatabaseDiffers: It does.
        """
        while True:
            await asyncio.sleep(self._every)
            try:
                await self._gateway.compare(job)
            except DatabaseDiffers:
                raise
            except GatewayError as error:  # away, or of an earlier version
                activity.logger.debug("nothing was compared: %s", error)


def _known(request: Any) -> tuple[str, tuple[Fact, ...]]:
    """Job and facts of a step's request."""
    step = request.step if isinstance(request, FollowRequest | FollowModuleStep) else request
    if isinstance(step, ChangeRequest | CheckedChange | GroupStep | FinishStep | PhaseStep | TellStep | ModuleStepRequest):
        return step.job, step.known
    return "", ()
