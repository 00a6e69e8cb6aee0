"""`ModuleVersion`: deploys when claimed, retires when nothing needs it any more."""

import asyncio
from typing import Any

import pytest
from temporalio.client import Client, WorkflowFailureError

from activities.signatures import Placement, Retirement
from upgrade_core.runs import ModuleVersionRequest
from workflows.module_version import ModuleVersion


async def start(temporal: Client, queue: str, new_id: str) -> Any:
    return await temporal.start_workflow(ModuleVersion.run, ModuleVersionRequest(module="a-1.0.0"), id=new_id, task_queue=queue)


async def until(script: Any, name: str, times: int = 1) -> None:
    async with asyncio.timeout(20):
        while script.calls.count(name) < times:
            await asyncio.sleep(0.02)


async def test_it_deploys_then_retires_in_the_order_mark_stop_forget(
    temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    handle = await start(temporal, queue, new_id)
    await until(script, "start")
    await handle.signal(ModuleVersion.unneeded, False)
    assert await handle.result() == "retired"

    assert script.calls == ["place", "start", "retire", "stop", "retired"]


async def test_a_version_that_is_needed_again_stays(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    script.answers["retire"] = [Retirement(marked=False, needed_by=("tenant diku",)), Retirement(marked=True, nodes=("here",))]
    handle = await start(temporal, queue, new_id)
    await handle.signal(ModuleVersion.unneeded, False)
    await until(script, "retire")
    assert "stop" not in script.calls
    await handle.signal(ModuleVersion.unneeded, False)
    await handle.result()

    assert script.calls[-4:] == ["retire", "retire", "stop", "retired"]


async def test_an_undo_cuts_the_grace_short(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    script.answers["place"] = Placement(node="here", retire_after=3600)
    handle = await start(temporal, queue, new_id)
    await handle.signal(ModuleVersion.unneeded, False)
    await until(script, "start")
    assert "retire" not in script.calls
    await handle.signal(ModuleVersion.unneeded, True)
    await handle.result()

    assert script.calls[-3:] == ["retire", "stop", "retired"]


async def test_the_grace_of_the_old_version_is_waited_for(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    script.answers["place"] = Placement(node="here", retire_after=0.2)
    handle = await start(temporal, queue, new_id)
    await handle.signal(ModuleVersion.unneeded, False)
    await handle.result()
    names = [event.event_type async for event in handle.fetch_history_events()]

    assert 18 in names  # a timer fired
    assert script.calls[-1] == "retired"


async def test_a_restart_stops_and_starts_it_on_its_node(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    handle = await start(temporal, queue, new_id)
    await until(script, "start")
    await handle.signal(ModuleVersion.restart)
    await until(script, "start", 2)
    await handle.signal(ModuleVersion.unneeded, True)
    await handle.result()

    assert script.calls == ["place", "start", "stop", "start", "retire", "stop", "retired"]


async def test_an_instance_that_cannot_be_deployed_fails_with_its_reason(
    temporal: Client, script: Any, queue: str, final: Any, new_id: str
) -> None:
    script.answers["start"] = final("Service a-1.0.0 returned with exit code 1", "ExitedEarly")
    with pytest.raises(WorkflowFailureError) as caught:
        await (await start(temporal, queue, new_id)).result()

    assert "exit code 1" in str(caught.value.cause.__cause__)
    assert script.calls == ["place", "start"]


async def test_an_instance_of_the_site_is_neither_started_nor_stopped(
    temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    """Requirement E2."""
    script.answers["place"] = Placement(node="")
    script.answers["retire"] = Retirement(marked=True)
    handle = await start(temporal, queue, new_id)
    await handle.signal(ModuleVersion.unneeded, False)
    await handle.result()

    assert script.calls == ["place", "retire", "retired"]
