"""Faults between the gateway and Postgres while a run's steps write: the repeated call comes to the same end (requirement D3)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from tests.integration.faults.cases import CASES, Case
from tests.integration.faults.world import World, make_world, obey
from tests.wire.tcp_proxy import Line

WRITES = [case for case in CASES if case.name.startswith("gateway.")]
LASTING = [
    pytest.param(case, id=case.id, marks=[pytest.mark.soak] if case.name != "gateway.switch" else [])
    for case in WRITES
    if case.name in ("gateway.update", "gateway.switch", "gateway.finish")
]
QUICK = {"lease": 8.0, "lease_renew": 0.2, "database_timeout": 4.0}


@pytest.fixture(scope="module")
async def line(postgres_dsn: Callable[[], str]) -> AsyncIterator[Line]:
    """The gateway's way to its database."""
    made = await Line(await asyncio.to_thread(postgres_dsn)).start()
    yield made
    await made.stop()


@pytest.fixture(scope="module")
async def world_of_file(
    line: Line, postgres_dsn: Callable[[], str], tmp_path_factory: Any, temporal: Client
) -> AsyncIterator[World]:
    folder: Path = tmp_path_factory.mktemp("faults")
    modules = await asyncio.to_thread(postgres_dsn)
    async with make_world(line.behind, modules, folder, temporal, line=line.dsn, **QUICK) as made:
        yield made


@pytest.fixture
async def mended(line: Line, world: World) -> AsyncIterator[Line]:
    """A line without faults at first, and the gateway well again afterwards."""
    yield line
    line.mend()
    async with asyncio.timeout(60):
        while (await world.site.http.get("/_/proxy/health")).status_code != 200:
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def mended_after(line: Line, seconds: float) -> AsyncIterator[None]:
    """For a fault that lasts: it begins now."""

    async def mend() -> None:
        await asyncio.sleep(seconds)
        line.mend()

    task = asyncio.create_task(mend())
    yield
    await task


_undisturbed: dict[str, dict[str, Any]] = {}


async def undisturbed(world: World, case: Case) -> dict[str, Any]:
    if case.id not in _undisturbed:
        subject = await world.subject(**case.subject)
        ready = await case.ready(world, subject)
        await ActivityEnvironment().run(ready.method, ready.request)
        _undisturbed[case.id] = await world.state(subject)
    return _undisturbed[case.id]


@pytest.mark.parametrize("skip", [0, 1])
@pytest.mark.parametrize("case", WRITES, ids=lambda case: case.id)
async def test_a_statement_whose_answer_is_lost_is_done_once(world: World, mended: Line, case: Case, skip: int) -> None:
    """The first, or the second, of those that name the job: within a transaction it is rolled back, else it took effect."""
    state = await undisturbed(world, case)
    subject = await world.subject(**case.subject)
    ready = await case.ready(world, subject)
    mended.drop_answer(subject.job.id.encode(), skip=skip)
    found = await obey(case.options, ready.method, ready.request)
    assert found.failure is None
    assert skip or mended.dropped.is_set()
    assert await world.state(subject) == state


@pytest.mark.parametrize("case", WRITES, ids=lambda case: case.id)
async def test_a_commit_whose_answer_is_lost_is_done_once(world: World, mended: Line, case: Case) -> None:
    """Nobody knows whether it took effect: it did."""
    state = await undisturbed(world, case)
    subject = await world.subject(**case.subject)
    ready = await case.ready(world, subject)
    mended.drop_answer(b"COMMIT", times=5)  # the gateway's own are among them
    found = await obey(case.options, ready.method, ready.request)
    assert found.failure is None
    assert await world.state(subject) == state


@pytest.mark.parametrize("fault", ["reset", "refuse", "hang", "slow"])
@pytest.mark.parametrize("case", LASTING)
async def test_postgres_that_is_away_for_a_second_changes_nothing(world: World, mended: Line, case: Case, fault: str) -> None:
    state = await undisturbed(world, case)
    subject = await world.subject(**case.subject)
    ready = await case.ready(world, subject)
    begin = {"reset": mended.reset, "refuse": mended.refuse, "hang": mended.cut, "slow": partial(setattr, mended, "delay", 0.05)}
    begin[fault]()
    async with mended_after(mended, 1.0):
        found = await obey(case.options, ready.method, ready.request, most=400)
    assert found.failure is None
    assert await world.state(subject) == state
