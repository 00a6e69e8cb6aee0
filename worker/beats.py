"""Heartbeats of every activity, so that a worker that was killed is noticed within seconds, whatever step it was at."""

from typing import Any

from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from activities.translate import beating


class Beats(Interceptor):
    """Makes each activity of a worker heartbeat for as long as it runs."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002 - the SDK's name
        """Wrap an activity."""
        return _Beating(next)


class _Beating(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002 - the SDK's name
        async with beating():
            return await super().execute_activity(input)
