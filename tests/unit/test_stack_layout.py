"""What `uplift up` tells its parts."""

import socket
from pathlib import Path

import pytest

from uplift_cli.stack.layout import Layout, Ports, Programs
from uplift_settings import Settings
from uplift_settings.tree import GatewaySettings, WorkerSettings


async def nothing() -> None:
    return


def told_to_the_gateway(home: Path, settings: Settings) -> dict[str, str]:
    return told("gateway", home, settings)


def told(name: str, home: Path, settings: Settings) -> dict[str, str]:
    ports = Ports(gateway=9130, postgres=9001, temporal=9002, ui=9003, modules=(9131, 9140))
    layout = Layout(home=home, settings=settings, config=None, ports=ports, programs=Programs())
    with socket.socket() as listener:
        parts = layout.parts(listener=listener, stop_modules=nothing, say=lambda _: None)
    return dict(next(part.env for part in parts if part.name == name))


def test_the_only_gateway_leaves_soon(tmp_path: Path) -> None:
    env = told_to_the_gateway(tmp_path, Settings())
    assert (env["UPLIFT_GATEWAY__STOP_GRACE"], env["UPLIFT_GATEWAY__STOP_LINGER"]) == ("5", "0")


@pytest.mark.parametrize("name", ["stop_grace", "stop_linger"])
def test_unless_the_operator_says_otherwise(name: str, tmp_path: Path) -> None:
    env = told_to_the_gateway(tmp_path, Settings(gateway=GatewaySettings.model_validate({name: 7.0})))
    assert f"UPLIFT_GATEWAY__{name.upper()}" not in env


@pytest.mark.parametrize(
    ("worker", "url"),
    [(WorkerSettings(), "http://127.0.0.1:9130"), (WorkerSettings(gateway_url="http://proxy:1"), "http://proxy:1")],
)
def test_the_worker_reaches_the_gateway_where_it_is_unless_the_operator_says_otherwise(
    worker: WorkerSettings, url: str, tmp_path: Path
) -> None:
    assert told("worker", tmp_path, Settings(worker=worker))["UPLIFT_WORKER__GATEWAY_URL"] == url
