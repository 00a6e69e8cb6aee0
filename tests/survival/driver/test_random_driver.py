"""Anything in any order, from a seed (requirements D2, D3). `UPLIFT_TEST_SEED=7` repeats the operations of seed 7."""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import PATIENCE, Stack, start
from tests.survival.driver.operations import choose
from tests.survival.driver.run import Driver
from tests.survival.leftovers import leftovers

SHORT = 32
"""The seed of `make test`: its few operations kill an instance, the gateway, Temporal and the worker while jobs are under way."""
CONFIG = """
[gateway]
settle = 0.5
grace = 3
[deploy]
retire_after = 3
stop_grace = 2
external_wait = 1
health_wait = 60
[init]
quiet = 1
connect_retry = 10
[snapshots]
keep = 1
prune_every = 0.5
[reconcile]
interval = 0
[worker]
keeper_interval = 0.5
sticky_timeout = 1
"""


@pytest.fixture
async def fresh_stack() -> AsyncIterator[Any]:
    """A stack of its own: this test kills all of it. Its folder stays when the test fails."""
    home = Path(tempfile.mkdtemp(prefix="uplift-driver-"))
    (home / "uplift.toml").write_text(CONFIG)
    log = home / "modules.jsonl"
    log.touch()
    process, url = await start(home)
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, limits=httpx.Limits(max_connections=None)) as http:
        stack = Stack(home=home, url=url, process=process, http=http, log=log)
        yield stack
        await stack.down()
    if (home / "passed").exists():
        shutil.rmtree(home)


def seeds() -> list[int]:
    """Of the soak: the one that is to be repeated, or so many."""
    if one := os.environ.get("UPLIFT_TEST_SEED"):
        return [int(one)]
    return list(range(1, int(os.environ.get("UPLIFT_TEST_SEEDS", "6")) + 1))


async def drive(stack: Any, seed: int, count: int) -> None:
    driver = Driver(stack, seed=seed, leftovers=leftovers)
    await driver.begin()
    for operation in choose(seed, count):
        await driver.do(operation)
    await driver.end()
    print(driver.summary())
    (stack.home / "passed").touch()


async def test_a_few_operations_in_any_order_leave_everything_true(fresh_stack: Any) -> None:
    await drive(fresh_stack, int(os.environ.get("UPLIFT_TEST_SEED", SHORT)), 40)


@pytest.mark.soak
@pytest.mark.parametrize("seed", seeds())
async def test_many_operations_in_any_order_leave_everything_true(fresh_stack: Any, seed: int) -> None:
    await drive(fresh_stack, seed, int(os.environ.get("UPLIFT_TEST_OPERATIONS", "500")))


def test_a_seed_chooses_the_same_operations_again() -> None:
    assert list(choose(3, 200)) == list(choose(3, 200))
    assert list(choose(3, 200)) != list(choose(4, 200))
