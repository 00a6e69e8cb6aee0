"""Steps name their run to the gateway, so that one that was replaced is refused (requirement D3)."""

import dataclasses

import httpx
from temporalio.testing import ActivityEnvironment

from upgrade_core.runs import RUN_HEADER
from worker.main import named


async def asked(run: str) -> httpx.Request:
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(environment.info, workflow_id=run)
    request = httpx.Request("GET", "http://gateway")

    async def step() -> None:
        await named()(request)

    await environment.run(step)
    return request


async def test_a_step_names_its_run() -> None:
    assert (await asked("job/resolve-1")).headers[RUN_HEADER] == "job/resolve-1"


async def test_a_run_whose_name_no_header_can_carry_is_encoded() -> None:
    assert (await asked("job/1-mod-ü")).headers[RUN_HEADER] == "job/1-mod-%C3%BC"


async def test_what_no_step_asks_names_no_run() -> None:
    request = httpx.Request("GET", "http://gateway")
    await named()(request)
    assert RUN_HEADER not in request.headers


async def test_what_else_is_done_with_a_request_is_done() -> None:
    request = httpx.Request("GET", "http://gateway")

    async def trace(found: httpx.Request) -> None:
        found.headers["traceparent"] = "00-1"

    await named(trace)(request)
    assert request.headers["traceparent"] == "00-1"
