"""The world of the fault tests."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.common import SearchAttributeKey
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

from tests.integration.faults.world import World, make_world
from upgrade_core.runs import ATTRIBUTES
from uplift_cli.stack.temporal_binary import require


@pytest.fixture(scope="module")
async def temporal() -> AsyncIterator[Client]:
    """A client of a dev server that knows our search attributes."""
    binary = await asyncio.to_thread(require)
    async with await WorkflowEnvironment.start_local(
        data_converter=pydantic_data_converter,
        dev_server_existing_path=str(binary),
        search_attributes=[SearchAttributeKey.for_keyword(name) for name in ATTRIBUTES],
        dev_server_log_level="error",
    ) as environment:
        yield environment.client


@pytest.fixture(scope="module")
async def world_of_file(postgres_dsn: Callable[[], str], tmp_path_factory: Any, temporal: Client) -> AsyncIterator[World]:
    """One for the tests of a file; each has tenants and modules of its own."""
    folder: Path = tmp_path_factory.mktemp("faults")
    dsns = [await asyncio.to_thread(postgres_dsn) for _ in range(2)]
    async with make_world(dsns[0], dsns[1], folder, temporal) as made:
        yield made


@pytest.fixture
async def world(world_of_file: World) -> AsyncIterator[World]:
    """Without faults at first, and afterwards."""
    yield world_of_file
    for calls in world_of_file.calls:
        await calls.close()
    world_of_file.calls.clear()
    world_of_file.proxy.clear()
    world_of_file.wire.clear()
    world_of_file.proxy.seen.clear()
    world_of_file.wire.seen.clear()
    world_of_file.module.posts.clear()
    world_of_file.module.forget()
    world_of_file.module.seconds = 0.0
    world_of_file.module.most_at_work = 0
    world_of_file.module.location = "/_/tenant/{id}"
    world_of_file.module.answer = lambda _: None
