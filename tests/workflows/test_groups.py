"""Groups of several changes: each takes the steps of its own kind, and all are undone together (requirements B1, D1, D2)."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError

from activities.signatures import Begun, ChangeRequest, Checked, CheckedChange, InitState, Verdict
from upgrade_core.known import MAX_WIRE, FactKind
from upgrade_core.plan import Change, Group, Kind, Plan
from upgrade_core.runs import GroupRequest, TenantJobRequest
from workflows.group_change import GroupChange
from workflows.tenant_job import TenantJob

CHANGES = (
    Change(kind=Kind.UPGRADE, product="p", bound="p-1.0.0", version_from="p-1.0.0", version_to="p-2.0.0"),
    Change(kind=Kind.INSTALL, product="n", version_to="n-1.0.0"),
    Change(kind=Kind.UPGRADE, product="d", bound="d-1.0.0", version_from="d-1.0.0", version_to="d-2.0.0"),
    Change(kind=Kind.DISABLE, product="l", bound="l-1.0.0", version_from="l-1.0.0"),
    Change(kind=Kind.PURGE, product="x", bound="x-1.0.0", version_from="x-1.0.0"),
)
CHECKED = {
    "p": Checked(copies=True, verifies=True),
    "n": Checked(calls_init=False),
    "d": Checked(copies=True, verifies=True),
    "l": Checked(),
    "x": Checked(copies=True),
}
FORWARD = [
    *("check p", "check n", "check d", "check l", "check x"),
    *("acquire p", "acquire n", "acquire d", "acquire x"),
    "update",
    *("snapshot p", "snapshot d", "snapshot x"),
    *("init p", "show n", "init d"),
    *("verify p", "verify d"),
    *("init l", "init x"),
    *("switch", "release"),
]
UNDO = {"acquire": "give_back", "update": "resume_old", "init": "undo_init"}


def checked(request: ChangeRequest) -> Checked:
    return replace(CHECKED[request.change.product], init_module=request.change.subject)


@pytest.fixture(autouse=True)
def looked_at(script: Any) -> None:
    script.answers["check"] = checked


async def start(temporal: Client, queue: str, new_id: str, changes: tuple[Change, ...] = CHANGES) -> Any:
    request = GroupRequest(job="job", tenant="diku", group=Group(key="1-p", changes=changes))
    return await temporal.start_workflow(GroupChange.run, request, id=new_id, task_queue=queue)


def steps(script: Any) -> list[str]:
    """The steps that were done, each with the product that it was for."""
    return [f"{name} {request.change.product}" if hasattr(request, "change") else name for name, request in script.trace]


def broken_at(step: str, error: Exception) -> Any:
    """What a step answers that goes wrong for one product."""
    name, _, product = step.partition(" ")

    def answer(request: Any) -> Any:
        if product in ("", getattr(getattr(request, "change", None), "product", None)):
            return error
        return {"check": checked, "init": lambda _: InitState(effect="done"), "verify": lambda _: Verdict()}.get(
            name, lambda _: None
        )(request)

    return answer


def undo_after(step: str) -> list[str]:
    """What takes back the steps up to one, newest first."""
    done = FORWARD[: FORWARD.index(step) + 1]
    return [
        f"{UNDO[name]} {product}".strip() for name, _, product in (each.partition(" ") for each in done[::-1]) if name in UNDO
    ]


async def test_each_change_of_a_group_takes_the_steps_of_its_own_kind(
    temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    """The group is held and switched at once; tenant init is in the order of the plan."""
    await (await start(temporal, queue, new_id)).result()
    assert steps(script) == FORWARD


async def test_the_kind_of_the_first_change_is_nothing_to_the_others(
    temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    await (await start(temporal, queue, new_id, CHANGES[3:])).result()
    assert steps(script) == [
        *("check l", "check x", "acquire x", "update", "snapshot x", "init l", "init x", "switch", "release")
    ]


@pytest.mark.parametrize("step", ["check l", "acquire d", "update", "snapshot x", "show n", "init d", "verify d", "init x"])
async def test_a_failure_of_any_change_at_any_step_undoes_the_whole_group_newest_first(
    step: str, temporal: Client, script: Any, queue: str, final: Any, new_id: str
) -> None:
    script.answers[step.partition(" ")[0]] = broken_at(step, final(f"{step} broke"))
    with pytest.raises(WorkflowFailureError):
        await (await start(temporal, queue, new_id)).result()
    assert steps(script) == FORWARD[: FORWARD.index(step) + 1] + undo_after(step)


@pytest.mark.parametrize("step", ["acquire d", "init d"])
async def test_an_abort_in_any_change_undoes_the_whole_group(
    step: str, temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    name, _, product = step.partition(" ")
    reached = asyncio.Event()

    def wait_there(request: Any) -> Any:
        if request.change.product == product:
            reached.set()
            raise ApplicationError("not yet")  # tried again until it is cancelled
        return InitState(effect="done") if name == "init" else None

    script.answers[name] = wait_there
    handle = await start(temporal, queue, new_id)
    await reached.wait()
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()

    assert (await handle.describe()).status is WorkflowExecutionStatus.CANCELED
    assert [each for each in steps(script) if each.split()[0] in UNDO.values()] == undo_after(step)
    (told,) = [request for request in script.requests["set_phase"] if request.phase == "undoing"]
    assert (told.message, told.others_message) == ("aborted", "aborted")


async def test_the_line_of_the_change_that_failed_is_told_why_and_the_others_that_they_went_with_it(
    temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    """Requirement C3."""
    script.answers["verify"] = lambda request: Verdict(failures=("GET /d: 500",) if request.change.product == "d" else ())
    with pytest.raises(WorkflowFailureError) as caught:
        await (await start(temporal, queue, new_id)).result()

    (told,) = script.requests["set_phase"]
    assert (told.subject, told.message) == ("d-2.0.0", "GET /d: 500")
    assert told.others == ("p-2.0.0", "n-1.0.0", "l-1.0.0", "x-1.0.0")
    assert told.others_message == "undone with d-2.0.0: GET /d: 500"
    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.message == "d-2.0.0: GET /d: 500"


async def test_what_fails_for_the_whole_group_is_told_to_every_line(
    temporal: Client, script: Any, queue: str, final: Any, new_id: str
) -> None:
    script.answers["update"] = final("somebody else holds it")
    with pytest.raises(WorkflowFailureError) as caught:
        await (await start(temporal, queue, new_id)).result()

    (told,) = script.requests["set_phase"]
    assert {told.message, told.others_message} == {"somebody else holds it"}
    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.message == "somebody else holds it"


async def test_a_hold_point_is_told_of_the_change_that_waits(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    unknown = InitState(effect="unknown", errors=("who knows",))
    script.answers["init"] = lambda request: unknown if request.change.product == "d" else InitState(effect="done")
    handle = await start(temporal, queue, new_id)
    while not (await handle.query(GroupChange.hold_point)).why:
        await asyncio.sleep(0.02)
    with pytest.raises(WorkflowUpdateFailedError):
        await handle.execute_update(GroupChange.resolve, "neither")
    await handle.execute_update(GroupChange.resolve, "skip")
    with pytest.raises(WorkflowFailureError):
        await handle.result()

    assert [(told.phase, told.subject) for told in script.requests["set_phase"]] == [
        ("needs_operator", "d-2.0.0"),
        ("undoing", "d-2.0.0"),
        ("undoing", "d-2.0.0"),
    ]
    assert steps(script)[-len(undo_after("init d")) :] == undo_after("init d")


async def test_each_warning_names_the_product_that_it_is_about(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    plan = Plan(digest="d", groups=(Group(key="1-p", changes=CHANGES),))
    script.answers["begin"] = Begun(tenant="diku", plan=plan)
    script.answers["check"] = lambda request: replace(
        checked(request), warnings=("no copy",) if request.change.product == "l" else ()
    )
    script.answers["init"] = lambda request: InitState(effect="done", warnings=(f"odd {request.change.product}",))
    request = TenantJobRequest(job=new_id, tenant="diku")
    await (await temporal.start_workflow(TenantJob.run, request, id=new_id, task_queue=queue)).result()

    (finished,) = script.requests["finish"]
    told = [(warning.code, warning.message) for warning in finished.warnings]
    assert told == [("l", "no copy"), ("p", "odd p"), ("d", "odd d"), ("l", "odd l"), ("x", "odd x")]


async def test_the_second_change_of_a_product_has_keys_of_its_own(temporal: Client, script: Any, queue: str, new_id: str) -> None:
    """Else its tenant init would be taken for a retry of the first, and not asked for (requirement D3)."""
    await (await start(temporal, queue, new_id, (replace(CHANGES[0], turn=1),))).result()

    (init,) = script.requests["init"]
    assert init.key == "job:p-1:init"
    known = {(fact.kind, fact.key) for fact in script.requests["switch"][0].known}
    assert {(FactKind.COPY, "job-p-1"), (FactKind.INTENT, "job:p-1:init")} <= known


async def test_steps_of_a_large_group_are_told_no_more_than_fits_a_header(
    temporal: Client, script: Any, queue: str, new_id: str
) -> None:
    """All modules of a platform may be one group: its history would hold every fact hundreds of times."""
    changes = tuple(replace(CHANGES[0], product=f"p{n}{'x' * 150}") for n in range(10))
    script.answers["check"] = lambda request: Checked(init_module=request.change.subject)
    await (await start(temporal, queue, new_id, changes)).result()

    told: list[CheckedChange] = script.requests["init"]
    assert max(sum(len(fact.key) + len(fact.about) for fact in each.known) for each in told) <= MAX_WIRE
    assert FactKind.HELD not in {fact.kind for fact in told[-1].known}, "so few facts fit as they are"
