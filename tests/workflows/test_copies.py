"""Copies of a group's data are taken side by side: all of it is held until the last one (requirements D1, D2, E5)."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError

from activities.signatures import ChangeRequest, Checked, CheckedChange, Copied
from upgrade_core.plan import Change, Group, Kind
from upgrade_core.runs import DATABASE_DIFFERS, GroupRequest
from workflows.group_change import GroupChange

AT_ONCE = 2
CHANGES = tuple(
    Change(
        kind=Kind.UPGRADE,
        product=product,
        bound=f"{product}-1.0.0",
        version_from=f"{product}-1.0.0",
        version_to=f"{product}-2.0.0",
    )
    for product in "abcde"
)


@dataclass
class Copies:
    """Copies that take as long as they are told to."""

    running: list[str] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    refused: dict[str, Exception] = field(default_factory=dict)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    let_go: set[str] = field(default_factory=set)

    async def take(self, request: CheckedChange) -> Copied:
        product = request.change.product
        async with self.changed:
            self.running.append(product)
            self.begun.append(product)
            self.changed.notify_all()
        try:
            while product not in self.let_go:
                activity.heartbeat()
                await asyncio.sleep(0.05)
            if product in self.refused:
                raise self.refused.pop(product)
        except asyncio.CancelledError:
            self.cut.append(product)
            raise
        finally:
            self.running.remove(product)
        return Copied(bytes=1)

    async def until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(20), self.changed:
            await self.changed.wait_for(reached)


@pytest.fixture
def copies(script: Any) -> Copies:
    copies = Copies()
    script.answers["snapshot"] = copies.take
    script.answers["check"] = checked
    return copies


def checked(request: ChangeRequest) -> Checked:
    module = request.change.subject
    return Checked(
        copies=request.change.product != "c", copies_at_once=AT_ONCE, init_module=module, schema=request.change.product
    )


async def start(temporal: Client, queue: str, new_id: str) -> Any:
    request = GroupRequest(job="job", tenant="diku", group=Group(key="1-a", changes=CHANGES))
    return await temporal.start_workflow(GroupChange.run, request, id=new_id, task_queue=queue)


async def test_as_many_are_taken_at_once_as_the_setting_says(
    temporal: Client, script: Any, queue: str, new_id: str, copies: Copies
) -> None:
    handle = await start(temporal, queue, new_id)
    await copies.until(lambda: len(copies.running) == AT_ONCE)
    assert sorted(copies.running) == ["a", "b"]
    copies.let_go |= {"b"}
    await copies.until(lambda: "d" in copies.running)
    assert sorted(copies.running) == ["a", "d"]
    copies.let_go |= {"d", "e"}
    await copies.until(lambda: "e" in copies.begun)
    assert "init" not in script.calls
    copies.let_go |= {"a"}
    await handle.result()
    assert sorted(copies.begun) == ["a", "b", "d", "e"]
    assert script.calls.index("init") > max(place for place, name in enumerate(script.calls) if name == "snapshot")


async def test_one_that_fails_ends_the_others_before_anything_is_undone(
    temporal: Client, script: Any, queue: str, new_id: str, copies: Copies, final: Any
) -> None:
    copies.refused["b"] = final("the disk is full")
    script.answers["resume_old"] = lambda _: copies.running.append("undone") if copies.running else None
    handle = await start(temporal, queue, new_id)
    await copies.until(lambda: len(copies.running) == AT_ONCE)
    copies.let_go |= {"b"}
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()

    assert caught.value.cause.message == "b-2.0.0: the disk is full"  # type: ignore[attr-defined]
    assert (copies.cut, copies.running) == (["a"], [])
    assert "init" not in script.calls
    assert script.calls[-6:] == ["resume_old", *["give_back"] * 5]


async def test_an_abort_ends_all_of_them(temporal: Client, script: Any, queue: str, new_id: str, copies: Copies) -> None:
    handle = await start(temporal, queue, new_id)
    await copies.until(lambda: len(copies.running) == AT_ONCE)
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()

    assert (await handle.describe()).status is WorkflowExecutionStatus.CANCELED
    assert (sorted(copies.cut), copies.begun, copies.running) == (["a", "b"], copies.begun[:AT_ONCE], [])
    assert script.calls[-6:] == ["resume_old", *["give_back"] * 5]


async def test_when_the_database_is_another_a_person_is_asked_once_and_what_is_copied_stays(
    temporal: Client, queue: str, new_id: str, copies: Copies, final: Any
) -> None:
    copies.refused |= {"d": final("no hold stands", DATABASE_DIFFERS), "e": final("no hold stands", DATABASE_DIFFERS)}
    copies.let_go |= {"a", "b", "d", "e"}
    handle = await start(temporal, queue, new_id)
    async with asyncio.timeout(20):
        while not (await handle.query("hold_point")).get("why"):
            await asyncio.sleep(0.05)
    copies.refused.clear()
    await handle.execute_update("resolve", "retry")
    await handle.result()

    assert (copies.begun.count("a"), copies.begun.count("b")) == (1, 1)
    assert copies.begun.count("d") == 2
