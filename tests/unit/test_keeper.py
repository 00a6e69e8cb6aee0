"""Versions that nobody needs are retired although Temporal lost the runs that would do it (requirement D3)."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from temporalio.service import RPCError, RPCStatusCode

from activities.deploy import NodeInstances
from deployers import ProcessDeployer
from gateway_client import GatewayClient
from uplift_settings.tree import DeploySettings
from worker.keeper import Keeper

MODULE = "mod-a-1.0.0"
HERE = {"id": f"{MODULE}@here", "module": MODULE, "url": "http://127.0.0.1:1", "node": "here", "generation": "1"}


class Told:
    """What the runs of versions were told, by a Temporal that may be away."""

    def __init__(self) -> None:
        self.modules: list[str] = []
        self.away = 0

    async def __call__(self, module: str) -> None:
        if self.away:
            self.away -= 1
            raise RPCError("away", RPCStatusCode.UNAVAILABLE, b"")
        self.modules.append(module)


@pytest.fixture
def told() -> Told:
    return Told()


def keeper(folder: Path, told: Told, **version: Any) -> Keeper:
    """One that looks at a single version."""

    def answer(request: httpx.Request) -> httpx.Response:
        found: dict[str, Any] = {"module": MODULE, "instances": [], **version}
        return httpx.Response(200, json=[found] if request.url.path == "/_/versions" else {"module": MODULE})

    gateway = GatewayClient(url="http://gateway", transport=httpx.MockTransport(answer))
    instances = NodeInstances(gateway=gateway, deployer=ProcessDeployer(settings=DeploySettings(), folder=folder), node="here")
    return Keeper(gateway=gateway, instances=instances, tell_unneeded=told, interval=1, prune_every=1)


async def looks(keeper: Keeper, times: int) -> None:
    for _ in range(times):
        try:
            await keeper._look()
        except RPCError:
            continue


async def test_one_that_nobody_needs_is_told_after_several_looks(told: Told, tmp_path: Path) -> None:
    each = keeper(tmp_path, told, instances=[HERE])
    await looks(each, 4)
    before = list(told.modules)
    await looks(each, 1)

    assert (before, told.modules) == ([], [MODULE])


async def test_it_is_told_when_temporal_is_back(told: Told, tmp_path: Path) -> None:
    told.away = 3
    await looks(keeper(tmp_path, told, instances=[HERE]), 8)
    assert told.modules == [MODULE]


async def test_it_is_told_again_when_the_run_that_was_told_may_be_lost(told: Told, tmp_path: Path) -> None:
    await looks(keeper(tmp_path, told, instances=[HERE]), 35)
    assert told.modules == [MODULE, MODULE]


async def test_one_that_is_needed_is_not_told(told: Told, tmp_path: Path) -> None:
    await looks(keeper(tmp_path, told, instances=[HERE], neededBy=["tenant t"]), 40)
    assert told.modules == []


async def test_one_that_stays_on_its_way_out_is_told_although_no_instance_is_left(told: Told, tmp_path: Path) -> None:
    """Nobody could have the version again: its claims are refused until it is gone."""
    await looks(keeper(tmp_path, told, retiring=True), 30)
    assert told.modules == [MODULE]


async def test_another_nodes_versions_are_left_to_it(told: Told, tmp_path: Path) -> None:
    await looks(keeper(tmp_path, told, instances=[{**HERE, "node": "there"}]), 40)
    assert told.modules == []
