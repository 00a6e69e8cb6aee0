"""What a run knows goes with the calls of its steps, and long steps are ended when it is not on record (requirement D3)."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from activities.knowing import Knowing
from activities.signatures import Checked, CheckedChange, FollowRequest, GroupStep, InitState, JobRef, PhaseStep
from gateway_client import GatewayClient
from upgrade_core.known import HEADER, Fact, FactKind, from_wire
from upgrade_core.plan import Change, Kind
from upgrade_core.runs import DATABASE_DIFFERS

FACTS = (Fact(kind=FactKind.HELD, key="j:a:1-a", about="a"),)
GROUP = GroupStep(job="j", tenant="t", group="1-a", changes=(), known=FACTS)


class Calls(ActivityInboundInterceptor):
    """The step itself."""

    def __init__(self) -> None:
        pass

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002 - the SDK's name
        return await input.fn(*input.args)


class Gateway:
    """Answers every call with a status, and notes what it was told."""

    def __init__(self) -> None:
        self.status = 204
        self.told: list[tuple[str, tuple[Fact, ...]]] = []
        self.client = GatewayClient(url="http://gateway", transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.told.append((request.url.path, from_wire(request.headers.get(HEADER, "[]"))))
        return httpx.Response(self.status, text="" if self.status == 204 else "requests to a are not held")

    async def step(self, step: Callable[[Any], Awaitable[Any]], request: Any) -> Any:
        """Run a step as a worker does."""
        around = Knowing(gateway=self.client, every=0.01).intercept_activity(Calls())
        given = ExecuteActivityInput(fn=step, args=[request], executor=None, headers={})
        return await ActivityEnvironment().run(around.execute_activity, given)


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


@pytest.mark.parametrize(
    "request_",
    [
        GROUP,
        PhaseStep(job="j", phase="undoing", known=FACTS),
        FollowRequest(
            step=CheckedChange(
                job="j", tenant="t", group="1-a", change=Change(kind=Kind.INSTALL, product="a"), checked=Checked(), known=FACTS
            ),
            state=InitState(effect="follow"),
        ),
    ],
    ids=["group", "phase", "follow"],
)
async def test_calls_of_a_step_carry_what_its_run_knows(gateway: Gateway, request_: Any) -> None:
    async def step(_: Any) -> None:
        await gateway.client.set_phase("j", "migrating")

    await gateway.step(step, request_)
    assert gateway.told == [("/_/runs/j/phase", FACTS)]


async def test_calls_of_others_carry_nothing(gateway: Gateway) -> None:
    async def step(_: Any) -> None:
        await gateway.client.set_phase("j", "migrating")

    await gateway.step(step, JobRef(job="j"))
    assert gateway.told == [("/_/runs/j/phase", ())]


async def test_what_is_no_call_of_a_run_carries_nothing(gateway: Gateway) -> None:
    gateway.status = 200

    async def step(_: Any) -> None:
        await gateway.client.call("PUT", "/_/versions/m-1.0.0/retire")

    with pytest.raises(Exception, match="no JSON"):
        await gateway.step(step, GROUP)
    assert gateway.told == [("/_/versions/m-1.0.0/retire", ())]


async def test_a_step_that_works_on_is_ended_when_the_database_differs(gateway: Gateway) -> None:
    gateway.status = 412
    with pytest.raises(ApplicationError) as caught:
        await gateway.step(_for_ever, GROUP)
    assert (caught.value.type, caught.value.non_retryable) == (DATABASE_DIFFERS, True)
    assert caught.value.message == "requests to a are not held"


@pytest.mark.parametrize("status", [404, 503])
async def test_a_gateway_that_is_away_or_of_an_earlier_version_ends_no_step(gateway: Gateway, status: int) -> None:
    gateway.status = status

    async def step(_: Any) -> str:
        async with asyncio.timeout(10):
            while len(gateway.told) < 3:
                await asyncio.sleep(0.01)
        return "done"

    assert await gateway.step(step, GROUP) == "done"


async def test_a_cancel_reaches_the_step(gateway: Gateway) -> None:
    begun = asyncio.Event()

    async def step(request: Any) -> None:
        begun.set()
        await _for_ever(request)

    task = asyncio.create_task(gateway.step(step, GROUP))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_step_that_ends_well_in_spite_of_a_cancel_has_ended_well(gateway: Gateway) -> None:
    begun = asyncio.Event()

    async def step(request: Any) -> str:
        begun.set()
        with contextlib.suppress(asyncio.CancelledError):
            await _for_ever(request)
        return "done"

    task = asyncio.create_task(gateway.step(step, GROUP))
    await begun.wait()
    task.cancel()
    assert await task == "done"


async def _for_ever(_: Any) -> None:
    await asyncio.Event().wait()
