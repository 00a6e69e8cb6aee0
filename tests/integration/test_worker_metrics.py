"""The metrics port of the worker, which is that of Temporal's SDK."""

import httpx
import pytest
from temporalio.client import Client

from tests.ports import free_port
from uplift_settings import SettingsError
from worker.temporal import runtime_with_metrics


async def test_the_worker_tells_the_metrics_of_the_sdk() -> None:
    address = f"127.0.0.1:{free_port()}"
    runtime = runtime_with_metrics(address)
    with pytest.raises(RuntimeError):
        await Client.connect("127.0.0.1:1", runtime=runtime)  # nobody is there, and that is counted
    async with httpx.AsyncClient(trust_env=False) as http:
        page = await http.get(f"http://{address}/metrics")
    assert page.status_code == 200


def test_without_an_address_there_is_none() -> None:
    assert runtime_with_metrics("") is None


@pytest.mark.parametrize("address", ["nowhere", "192.0.2.1:9"])
def test_an_address_that_cannot_be_listened_on_is_named_with_its_setting(address: str) -> None:
    with pytest.raises(SettingsError, match=r"worker\.metrics_address"):
        runtime_with_metrics(address)
