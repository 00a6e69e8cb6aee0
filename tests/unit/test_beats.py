"""A worker that dies is noticed by heartbeats, whatever step it was at (requirement D3)."""

import asyncio
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from activities import options
from worker.beats import Beats

OPTIONS = {name: value for name, value in vars(options).items() if name.isupper() and isinstance(value, dict)}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_step_is_given_to_another_worker_within_ten_seconds(name: str) -> None:
    assert OPTIONS[name]["heartbeat_timeout"].total_seconds() <= 10


async def test_an_activity_that_does_nothing_for_it_heartbeats() -> None:
    beats: list[Any] = []
    seen = asyncio.Event()

    class Quiet(ActivityInboundInterceptor):
        def __init__(self) -> None:
            pass

        async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002
            await seen.wait()
            return "done"

    def on_heartbeat(*details: Any) -> None:
        beats.append(details)
        seen.set()

    environment = ActivityEnvironment()
    environment.on_heartbeat = on_heartbeat
    wrapped = Beats().intercept_activity(Quiet())
    request = ExecuteActivityInput(fn=seen.wait, args=(), executor=None, headers={})

    assert await environment.run(wrapped.execute_activity, request) == "done"
    assert beats
