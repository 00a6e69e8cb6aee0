"""Heartbeats of every activity, so that a worker that was killed is noticed within seconds, whatever step it was at."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from temporalio import activity, client, worker
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

_BEAT = 1.0


class Beats(client.Interceptor, worker.Interceptor):
    """Makes each activity of all workers on a client heartbeat for as long as it runs."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002 - the SDK's name
        """Wrap an activity."""
        return _Beating(next)


class _Beating(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002 - the SDK's name
        async with _beating():
            return await super().execute_activity(input)


@contextlib.asynccontextmanager
async def _beating() -> AsyncIterator[None]:
    """Heartbeat while the body runs, so that a dead worker is noticed and a cancel arrives."""

    async def beat() -> None:
        while True:
            activity.heartbeat()
            await asyncio.sleep(_BEAT)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
