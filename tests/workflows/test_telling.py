"""Telling the permissions module of a group's changes: when, what, and what it is told by the undo (Okapi's order)."""

from typing import Any

import pytest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError

from activities.signatures import Begun, Checked, InitState, TellStep, UndoResult
from upgrade_core.plan import Change, Group, Kind, Plan
from upgrade_core.runs import GroupRequest, ResolveRequest
from workflows.group_change import GroupChange
from workflows.resolve_job import ResolveJob

A = Change(kind=Kind.UPGRADE, product="mod-a", bound="mod-a-1.0.0", version_from="mod-a-1.0.0", version_to="mod-a-2.0.0")
NEW = Change(kind=Kind.INSTALL, product="mod-a", version_to="mod-a-1.0.0")
GONE = Change(kind=Kind.DISABLE, product="mod-a", bound="mod-a-1.0.0", version_from="mod-a-1.0.0")
B = Change(kind=Kind.INSTALL, product="mod-b", version_to="mod-b-1.0.0")
PERMS = Change(kind=Kind.INSTALL, product="perms", version_to="perms-1.0.0")
PERMS_UP = Change(kind=Kind.UPGRADE, product="perms", bound="perms-1.0.0", version_from="perms-1.0.0", version_to="perms-2.0.0")
PERMS_GONE = Change(kind=Kind.DISABLE, product="perms", bound="perms-1.0.0", version_from="perms-1.0.0")


def checked(*, tells: str = "perms-1.0.0", is_told: bool = False, **more: Any) -> Checked:
    return Checked(init_module="x", tells=tells, is_told=is_told, **more)


async def start(temporal: Client, queue: str, new_id: str, *changes: Change) -> Any:
    request = GroupRequest(job="job", tenant="diku", group=Group(key="1-g", changes=changes))
    return await temporal.start_workflow(GroupChange.run, request, id=new_id, task_queue=queue)


def told(script: Any, name: str = "tell") -> list[TellStep]:
    found: list[TellStep] = script.requests.get(name, [])
    return found


@pytest.mark.parametrize(
    ("change", "modules", "gone"),
    [(A, ("mod-a-2.0.0",), ()), (NEW, ("mod-a-1.0.0",), ()), (GONE, (), ("mod-a-1.0.0",))],
    ids=["upgrade", "install", "disable"],
)
async def test_the_enabled_permissions_module_is_told_before_tenant_init_while_users_are_held(
    change: Change, modules: tuple[str, ...], gone: tuple[str, ...], temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    script.answers["check"] = checked()
    await (await start(temporal, queue, new_id, change)).result()

    calls = [call for call in script.calls if call != "acquire"]
    assert calls == ["check", "update", "tell", "init", "switch", "release"]
    (step,) = told(script)
    assert (step.teller, step.modules, step.gone, step.enabled) == ("perms-1.0.0", modules, gone, False)


async def test_without_a_permissions_module_nobody_is_told(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    await (await start(temporal, queue, new_id, A)).result()

    assert not {"tell", "tell_old"} & set(script.calls)


async def test_a_module_without_tenant_init_is_told_too(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    """UI modules define most permission sets."""
    script.answers["check"] = checked(needs_instance=False, calls_init=False)
    await (await start(temporal, queue, new_id, A)).result()

    assert script.calls == ["check", "update", "tell", "switch", "release"]


async def test_a_new_permissions_module_is_told_of_itself_and_of_all_others_after_its_init(
    temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    script.answers["check"] = checked(tells="", is_told=True)
    await (await start(temporal, queue, new_id, PERMS)).result()

    assert script.calls == ["check", "acquire", "update", "init", "tell", "switch", "release"]
    (step,) = told(script)
    assert (step.teller, step.modules, step.enabled, step.changed) == ("perms-1.0.0", ("perms-1.0.0",), True, (PERMS,))
    assert step.overlay


async def test_an_upgraded_permissions_module_is_told_of_itself_and_after_the_switch_of_all(
    temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    """Nobody waits for the long list."""
    script.answers["check"] = checked(is_told=True)
    await (await start(temporal, queue, new_id, PERMS_UP)).result()

    assert script.calls == ["check", "acquire", "update", "init", "tell", "switch", "tell", "release"]
    own, all_ = told(script)
    assert (own.teller, own.modules, own.enabled) == ("perms-2.0.0", ("perms-2.0.0",), False)
    assert (all_.teller, all_.modules, all_.enabled, all_.overlay) == ("perms-2.0.0", (), True, False)


async def test_that_all_cannot_be_told_again_is_a_warning(
    temporal: Client, script: Any, queue: str, final: Any, new_id: str
) -> None:
    script.answers["check"] = checked(is_told=True)
    script.answers["tell"] = [None, final("POST request for perms-2.0.0 /p failed with 400: no")]
    result = await (await start(temporal, queue, new_id, PERMS_UP)).result()

    assert result.warnings == (
        "perms-2.0.0 was not told the permissions of all modules again: POST request for perms-2.0.0 /p failed with 400: no",
    )
    assert script.calls[-1] == "release"


async def test_a_permissions_module_that_comes_first_in_a_group_is_told_of_what_follows(
    temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    script.answers["check"] = [checked(tells="", is_told=True), checked(tells="")]
    await (await start(temporal, queue, new_id, PERMS, B)).result()

    assert script.calls[-7:] == ["update", "init", "tell", "tell", "init", "switch", "release"]
    assert [(step.teller, step.modules, step.overlay) for step in told(script)] == [
        ("perms-1.0.0", ("perms-1.0.0",), True),
        ("perms-1.0.0", ("mod-b-1.0.0",), True),
    ]


async def test_of_data_that_is_purged_without_a_binding_nobody_is_told(
    temporal: Client, script: Any, queue: str, final: Any, new_id: str
) -> None:
    purge = Change(kind=Kind.PURGE, product="mod-a", version_from="mod-a-1.0.0")
    script.answers.update(check=checked(), switch=final("no"))
    with pytest.raises(WorkflowFailureError):
        await (await start(temporal, queue, new_id, purge)).result()

    assert not {"tell", "tell_old"} & set(script.calls)


async def test_what_follows_a_permissions_module_that_goes_is_told_to_nobody(
    temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    script.answers["check"] = [checked(), checked()]
    await (await start(temporal, queue, new_id, PERMS_GONE, GONE)).result()

    assert told(script) == []


async def test_a_refusal_names_itself_and_undoes_the_group(
    temporal: Client, script: Any, queue: str, final: Any, new_id: str
) -> None:
    """The undo tells what the old version has, before users go on."""
    text = "POST request for perms-1.0.0 /_/tenantpermissions failed with 400: bad"
    script.answers["check"] = checked()
    script.answers["tell"] = final(text, "PermissionsRefused")
    with pytest.raises(WorkflowFailureError) as caught:
        await (await start(temporal, queue, new_id, A)).result()

    cause = caught.value.cause
    assert isinstance(cause, ApplicationError)
    assert (cause.type, cause.message, cause.details[1]) == ("RolledBack", text, "PermissionsRefused")
    assert script.calls[-4:] == ["tell", "tell_old", "resume_old", "give_back"]


@pytest.mark.parametrize(
    ("change", "modules", "gone"),
    [(A, ("mod-a-1.0.0",), ()), (NEW, (), ("mod-a-1.0.0",)), (GONE, ("mod-a-1.0.0",), ())],
    ids=["upgrade", "install", "disable"],
)
async def test_the_undo_tells_the_old_sets_when_the_data_is_the_old_one_again(
    change: Change,
    modules: tuple[str, ...],
    gone: tuple[str, ...],
    temporal: Client,
    script: Any,
    queue: str,
    final: Any,
    new_id: str,
) -> None:
    script.answers["check"] = checked()
    script.answers["init"] = final("no")
    with pytest.raises(WorkflowFailureError):
        await (await start(temporal, queue, new_id, change)).result()

    undone = script.calls[script.calls.index("init") + 1 :]
    assert undone[:3] == ["undo_init", "tell_old", "resume_old"]
    (step,) = told(script, "tell_old")
    assert (step.teller, step.modules, step.gone) == ("perms-1.0.0", modules, gone)


async def test_a_group_that_is_undone_before_it_told_anything_tells_nothing(
    temporal: Client, script: Any, queue: str, final: Any, new_id: str
) -> None:
    script.answers["check"] = checked(copies=True, dsn="env:X", schema="s")
    script.answers["snapshot"] = final("disk full")
    with pytest.raises(WorkflowFailureError):
        await (await start(temporal, queue, new_id, A)).result()

    assert script.calls == ["check", "acquire", "update", "snapshot", "resume_old", "give_back"]


async def test_the_old_permissions_module_is_told_of_the_whole_group(
    temporal: Client, script: Any, queue: str, final: Any, new_id: str
) -> None:
    """What its data had been told in the meantime may still be there, by undo modes that put nothing back."""
    script.answers["check"] = [checked(is_told=True), checked()]
    script.answers["init"] = [InitState(effect="done"), final("no")]
    with pytest.raises(WorkflowFailureError):
        await (await start(temporal, queue, new_id, PERMS_UP, A)).result()

    (step,) = told(script, "tell_old")
    assert (step.teller, step.modules) == ("perms-1.0.0", ("perms-1.0.0", "mod-a-1.0.0"))
    assert script.calls[-6:-2] == ["undo_init", "undo_init", "tell_old", "resume_old"]


async def test_a_cancel_while_it_is_told_is_undone(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    script.answers["check"] = checked()
    script.block = "tell"
    handle = await start(temporal, queue, new_id, A)
    await script.blocked.wait()
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()

    assert (await handle.describe()).status is WorkflowExecutionStatus.CANCELED
    assert script.cut == ["tell"]
    assert script.calls[-4:] == ["tell", "tell_old", "resume_old", "give_back"]


async def test_that_the_old_sets_cannot_be_told_waits_for_a_person(
    temporal: Client, script: Any, queue: str, final: Any, new_id: str
) -> None:
    script.answers["check"] = checked()
    script.answers["init"] = final("no")
    left = "perms-1.0.0 was not told the permissions of mod-a-1.0.0 again: 500"
    script.answers["tell_old"] = UndoResult(done=False, left=(left,))
    handle = await start(temporal, queue, new_id, A)
    while True:
        try:
            await handle.execute_update(GroupChange.resolve, "skip")
            break
        except WorkflowUpdateFailedError:
            continue
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()

    assert isinstance(caught.value.cause, ApplicationError)
    assert (caught.value.cause.type, caught.value.cause.details[0]) == ("RollbackFailed", [left])
    assert script.calls[-2:] == ["resume_old", "give_back"]


def begun(*changes: Change) -> Begun:
    return Begun(tenant="diku", plan=Plan(digest="d", groups=(Group(key="1-g", changes=changes),)))


async def resolve(temporal: Client, queue: str, new_id: str, decision: str) -> Any:
    request = ResolveRequest(job=new_id, tenant="diku", decision=decision, groups=("1-g",), let_go=0)
    return await temporal.execute_workflow(ResolveJob.run, request, id=f"{new_id}/resolve-1", task_queue=queue)


async def test_what_a_lost_run_may_have_told_is_taken_back_when_a_person_goes_back(
    temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    script.answers.update(begin=begun(A), recall=checked())
    assert await resolve(temporal, queue, new_id, "old") == "rolled_back"

    assert script.calls == ["begin", "recall", "undo_init", "tell_old", "resume_old", "give_back", "finish"]


async def test_what_a_lost_run_may_not_have_told_is_told_when_a_person_goes_on(
    temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    script.answers.update(begin=begun(A), recall=checked())
    await resolve(temporal, queue, new_id, "new")

    assert script.calls == ["begin", "recall", "acquire", "tell", "settle", "switch", "release", "finish"]
