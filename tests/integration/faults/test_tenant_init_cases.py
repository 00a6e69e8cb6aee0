"""What may happen to a tenant init, with a real module and its data (requirements B1, B2, C3, C4, D2)."""

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from activities import options
from activities.clock import Clock
from activities.signatures import CheckedChange, FollowRequest, InitState
from activities.tenant_init import TenantInitActivities
from tests.integration.faults.world import INIT, Subject, World, obey
from tests.wire.faults import (
    DropAnswer,
    Fault,
    Garbage,
    Half,
    Hang,
    Pause,
    Refuse,
    ResetAfter,
    ResetBefore,
    Slow,
    Status,
)
from tests.wire.tcp_proxy import Line
from upgrade_core.descriptors import Undo

FAULTS: dict[str, tuple[Fault, int]] = {
    "refuse": (Refuse(), 1),
    "hang": (Hang(), 1),
    "reset before the body": (ResetBefore(), 1),
    "reset after the body": (ResetAfter(), 1),
    "answer dropped": (DropAnswer(), 1),
    "503 twice": (Status(503), 2),
    "504": (Status(504), 1),
    "slow": (Slow(0.3), 1),
    "half an answer": (Half(), 1),
    "a page": (Garbage(), 1),
}
QUICK = ("refuse", "answer dropped", "a page")
"""Those of `make test`: nothing was sent, it took effect and nobody knows, an answer that is none."""
EACH = [name if name in QUICK else pytest.param(name, marks=pytest.mark.soak) for name in FAULTS]
MIGRATED = {"users": [["ann", "PRODUCT-2.0.0"], ["bob", "PRODUCT-2.0.0"]], "inits": ["PRODUCT-2.0.0"]}
AS_BEFORE = {"users": [["ann", "PRODUCT-1.0.0"], ["bob", "PRODUCT-1.0.0"]], "inits": []}


async def held(world: World, **options_of_subject: Any) -> tuple[Subject, CheckedChange]:
    """A subject whose tenant is held, and whose data was copied where a copy is how it is undone."""
    subject = await world.subject(**options_of_subject)
    request = world.checked(subject)
    await obey(options.UPDATE, world.steps.update, subject.group)
    if request.checked.copies:
        await obey(options.COPY, world.copies.take, request)
    world.wire.seen.clear()
    return subject, request


async def to_the_end(init: TenantInitActivities, request: CheckedChange) -> InitState:
    """As the workflow does it: start, and follow as long as there is a job."""
    state: InitState = (await obey(options.INIT, init.start, request)).result
    while state.effect == "follow":
        state = (await obey(options.FOLLOW, init.follow, FollowRequest(step=request, state=state))).result
    return state


@pytest.mark.parametrize("fault", EACH)
@pytest.mark.parametrize("how", ["sync", "job"])
async def test_a_fault_on_the_wire_to_the_module_leaves_one_migration(world: World, how: str, fault: str) -> None:
    subject, request = await held(world, how=how)
    what, times = FAULTS[fault]
    rule = world.wire.add(method="POST", path="/_/tenant", fault=what, times=times)
    state = await to_the_end(world.init, request)
    assert rule.struck == times
    assert state.effect == "done", state.errors
    assert await world.data(subject) == MIGRATED
    assert world.module.most_at_work == 1


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("fault", EACH)
async def test_lost_looks_at_a_job_change_nothing(world: World, method: str, fault: str) -> None:
    """Requirement C4: a look that fails says nothing of the job; that it cannot be removed neither."""
    subject, request = await held(world, how="job")
    what, times = FAULTS[fault]
    rule = world.wire.add(method=method, path="/_/tenant/.+", fault=what, times=times if method == "GET" else 1)
    state = await to_the_end(world.init_with(look_timeout=0.3), request)
    assert rule.struck
    assert state.effect == "done", state.errors
    assert (await world.data(subject), len(world.module.posts)) == (MIGRATED, 1)


@pytest.mark.parametrize("fault", EACH)
async def test_a_fault_while_a_migration_is_taken_back_leaves_it_taken_back(world: World, fault: str) -> None:
    """A reversible undo has an intent of its own: what was asked for is not asked for again while it may be at work."""
    subject, request = await held(world, undo=Undo.REVERSIBLE, rerunnable=True)
    assert (await to_the_end(world.init, request)).effect == "done"
    what, times = FAULTS[fault]
    rule = world.wire.add(method="POST", path="/_/tenant", fault=what, times=times)
    found = (await obey(options.UNDO, world.init.undo, request)).result
    assert rule.struck == times
    assert (found.done, found.left) == (True, ())
    assert (await world.data(subject))["users"] == AS_BEFORE["users"]
    state = await world.state(subject)
    assert {row["state"] for row in state["intents"]} == {"ended"}
    assert [row["module"] for row in state["data_versions"]] == ["PRODUCT-1.0.0"]
    assert world.module.most_at_work == 1


async def test_a_migration_that_may_have_been_taken_back_is_left_to_a_person_unless_it_may_run_twice(world: World) -> None:
    subject, request = await held(world, undo=Undo.REVERSIBLE)
    assert (await to_the_end(world.init, request)).effect == "done"
    world.wire.add(method="POST", path="/_/tenant", fault=DropAnswer())
    found = (await obey(options.UNDO, world.init.undo, request)).result
    assert (found.done, found.asked) == (False, 1)
    again = (await obey(options.UNDO, world.init.undo, request)).result
    assert (again.done, len(world.module.posts)) == (False, 2)  # nobody decided yet: it was not asked again
    decided = world.checked(subject, asks=found.asked + 1)
    assert (await obey(options.UNDO, world.init.undo, decided)).result.done
    assert len(world.module.posts) == 3


@pytest.mark.parametrize(
    ("rerunnable", "failures", "done", "asked"),
    [(True, 1, True, 2), (True, 2, False, 2), (False, 1, False, 1)],
    ids=["once", "twice", "once, and it may not be asked again"],
)
async def test_a_migration_that_could_not_be_taken_back_is_tried_once_more_where_that_is_harmless(
    world: World, rerunnable: bool, failures: int, done: bool, asked: int
) -> None:
    subject, request = await held(world, undo=Undo.REVERSIBLE, rerunnable=rerunnable)
    assert (await to_the_end(world.init, request)).effect == "done"
    world.wire.add(method="POST", path="/_/tenant", fault=Status(500), times=failures)
    found = (await obey(options.UNDO, world.init.undo, request)).result
    assert found.done is done
    assert "could not take its migration back" in found.left[0] if not done else found.left == ()
    (undo,) = [row for row in (await world.state(subject))["intents"] if row["key"].endswith(":undo")]
    assert undo["asked"] == asked


async def test_a_migration_is_taken_back_once_its_database_is_there_again(world: World) -> None:
    """Requirement D2: Postgres that is killed while a migration is taken back leaves nothing to a person."""
    subject, request = await held(world, undo=Undo.REVERSIBLE, rerunnable=True)
    assert (await to_the_end(world.init, request)).effect == "done"
    line = await Line(world.modules_dsn).start()
    line.refuse()
    away = replace(request, checked=replace(request.checked, dsn=line.dsn))
    world.wire.add(method="POST", path="/_/tenant", fault=Status(500))
    try:
        async with asyncio.timeout(60):
            running = asyncio.create_task(obey(options.UNDO, world.init.undo, away, most=400))
            await line.refused.wait()
            line.mend()
            found = await running
    finally:
        await line.stop()
    assert found.attempts > 1
    assert found.result.done
    assert (await world.data(subject))["users"] == AS_BEFORE["users"]


async def test_a_lost_answer_is_unknown_where_nothing_makes_a_second_request_harmless(world: World) -> None:
    subject, request = await held(world, undo=Undo.MODULE)
    world.wire.add(method="POST", path="/_/tenant", fault=DropAnswer())
    state = await to_the_end(world.init, request)
    assert (state.effect, len(world.module.posts)) == ("unknown", 1)
    assert "nobody can say what state the data is in" in state.errors[0]
    assert await world.data(subject) == MIGRATED


async def test_what_is_unknown_a_second_time_is_left_to_a_person(world: World) -> None:
    subject, request = await held(world)
    world.wire.add(method="POST", path="/_/tenant", fault=DropAnswer(), times=2)
    state = await to_the_end(world.init, request)
    assert (state.effect, state.asked, len(world.module.posts)) == ("unknown", 2, 2)
    assert "after it was asked for once more" in state.errors[0]
    assert [row["state"] for row in (await world.state(subject))["intents"]] == ["asked"]


async def test_a_person_who_says_retry_has_the_copy_put_back_first(world: World) -> None:
    subject, request = await held(world)
    world.wire.add(method="POST", path="/_/tenant", fault=DropAnswer(), times=2)
    state = await to_the_end(world.init, request)
    again = await to_the_end(world.init, world.checked(subject, asks=state.asked + 1))
    assert again.effect == "done"
    assert (await world.data(subject), len(world.module.posts)) == (MIGRATED, 3)


async def test_what_is_unknown_is_undone_when_a_person_gives_up(world: World) -> None:
    subject, request = await held(world)
    world.wire.add(method="POST", path="/_/tenant", fault=DropAnswer(), times=2)
    await to_the_end(world.init, request)
    assert (await obey(options.UNDO, world.init.undo, request)).result.done
    assert await world.data(subject) == AS_BEFORE


async def test_a_job_that_a_restarted_module_forgot_is_restored_and_asked_for_once_more(world: World) -> None:
    subject, request = await held(world, how="job")
    world.module.hung = 1
    state = (await obey(options.INIT, world.init.start, request)).result
    world.module.forget()
    while state.effect == "follow":
        state = (await obey(options.FOLLOW, world.init.follow, FollowRequest(step=request, state=state))).result
    assert (state.effect, len(world.module.posts)) == ("done", 2)
    assert await world.data(subject) == MIGRATED


async def test_a_job_whose_end_another_attempt_saw_is_not_taken_for_lost(world: World) -> None:
    """An attempt that is taken for dead lives on, sees the end, and removes the job while its successor is looking at it."""
    subject, request = await held(world, how="job")
    state = (await obey(options.INIT, world.init.start, request)).result
    follow = FollowRequest(step=request, state=state)
    look = world.wire.add(method="GET", path="/_/tenant/.+", fault=Pause("before"))
    slow = asyncio.create_task(obey(options.FOLLOW, world.init.follow, follow))
    await look.met.wait()
    assert (await obey(options.FOLLOW, world.init.follow, follow)).result.effect == "done"
    look.release()
    assert (await slow).result.effect == "done"
    assert (await world.data(subject), len(world.module.posts)) == (MIGRATED, 1)


async def test_a_job_that_never_goes_on_is_restored_and_asked_for_once_more(world: World) -> None:
    """`complete` is false for ever: told by the clock and by its data, since nobody says whether the module was restarted."""
    subject, request = await held(world, how="job")
    world.module.hung = 1
    assert (await to_the_end(world.init, request)).effect == "done"
    assert (await world.data(subject), len(world.module.posts)) == (MIGRATED, 2)


async def test_a_job_that_tells_nothing_and_is_seen_at_work_is_followed_on(world: World) -> None:
    """Requirement C4: silence is no death."""
    subject, request = await held(world, how="job")
    world.module.seconds = 3 * INIT.stall_after
    assert (await to_the_end(world.init, request)).effect == "done"
    assert (await world.data(subject), len(world.module.posts)) == (MIGRATED, 1)


async def test_a_job_that_stalls_twice_is_left_to_a_person(world: World) -> None:
    _, request = await held(world, how="job")
    world.module.hung = 2
    state = await to_the_end(world.init, request)
    assert (state.effect, state.asked, len(world.module.posts)) == ("unknown", 2, 2)
    assert "which does not go on, after it was asked for once more" in state.errors[0]


class Fast(Clock):
    """A clock on which waiting takes no time; `slept`: how long each time."""

    def __init__(self) -> None:
        self.time = 0.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds
        await asyncio.sleep(0)


@pytest.mark.soak
async def test_a_job_of_six_hours_is_followed_and_its_end_seen_within_15_seconds(world: World) -> None:
    """Requirement C4, on a clock that runs faster."""
    _, request = await held(world, how="job", undo=Undo.MODULE)
    clock, hours = Fast(), 6 * 3_600.0
    world.module.hung = 1

    def answer(asked: web.BaseRequest) -> Awaitable[web.StreamResponse] | None:
        if asked.method == "GET" and asked.path.startswith("/_/tenant/"):
            return _json({"complete": clock.time >= hours})
        return None

    world.module.answer = answer
    request = replace(request, checked=replace(request.checked, dsn=""))
    init = world.init_with(clock, world.site.runs, poll_first=0.3, poll_max=15.0, stall_after=600)
    state = await to_the_end(init, request)
    assert (state.effect, len(world.module.posts)) == ("done", 1)
    assert hours <= clock.time <= hours + 15
    assert max(clock.slept) == 15
    assert len(clock.slept) < 1.2 * hours / 15


async def test_one_look_that_fails_ends_no_job_that_has_long_had_nothing_to_tell(world: World) -> None:
    """Requirement C4: only looks that have all failed for so long say that nobody will hear of it."""
    _, request = await held(world, how="job", undo=Undo.MODULE)
    clock = Fast()
    world.module.hung = 1
    failed: list[float] = []

    def answer(asked: web.BaseRequest) -> Awaitable[web.StreamResponse] | None:
        if asked.method != "GET" or not asked.path.startswith("/_/tenant/"):
            return None
        if clock.time > 2_000 and not failed:
            failed.append(clock.time)
            return _text("busy", 503)
        return _json({"complete": clock.time > 4_000})

    world.module.answer = answer
    state = await to_the_end(
        world.init_with(clock, poll_max=15.0, stall_after=600), replace(request, checked=replace(request.checked, dsn=""))
    )
    assert (state.effect, len(failed), len(world.module.posts)) == ("done", 1, 1)


async def _json(value: Any) -> web.StreamResponse:
    return web.json_response(value)


@pytest.mark.parametrize(
    "location", ["{url}/_/tenant/{id}", "/_/tenant/{id}", "tenant/{id}", "http://elsewhere.example/_/tenant/{id}"]
)
async def test_a_job_is_found_by_any_location_that_leads_to_it(world: World, location: str) -> None:
    """Requirement B2: absolute and relative; the host of an absolute one does not count: a module may not know its own."""
    subject, request = await held(world, how="uplift")
    world.module.location = location
    assert (await to_the_end(world.init, request)).effect == "done"
    assert len((await world.data(subject))["inits"]) == 1


async def test_a_location_that_leads_nowhere_is_left_to_a_person(world: World) -> None:
    _, request = await held(world, how="uplift")
    world.module.location = "/_/tenant/wrong"
    state = await to_the_end(world.init, request)
    assert (state.effect, state.asked) == ("unknown", 2)
    assert "does not know its job /_/tenant/wrong any more" in state.errors[0]


async def test_a_job_without_a_location_is_undone_and_its_migration_ended_first(world: World) -> None:
    """The module works on it, and nobody can follow: nothing is put back under a running migration."""
    subject, request = await held(world, how="uplift")
    world.module.location, world.module.seconds = "", 60.0
    state = await to_the_end(world.init, request)
    assert state.effect == "failed"
    assert "202 without the Location" in state.errors[0]
    while not world.module.at_work:
        await asyncio.sleep(0.01)
    assert (await obey(options.UNDO, world.init.undo, request)).result.done
    assert world.module.at_work == 0
    assert await world.data(subject) == AS_BEFORE


@pytest.mark.parametrize("body", ["created", '{"id": ', "[]"])
async def test_a_job_whose_answer_is_no_json_has_failed_and_is_undone(world: World, body: str) -> None:
    subject, request = await held(world, how="job")

    def answer(asked: web.BaseRequest) -> Awaitable[web.StreamResponse] | None:
        return _text(body) if asked.method == "POST" else None

    world.module.answer = answer
    state = await to_the_end(world.init, request)
    assert (state.effect, state.errors) == (
        "failed", (f"Missing id property in JSON response for module {subject.new}: POST /_/tenant",)
    )  # fmt: skip
    assert (await obey(options.UNDO, world.init.undo, request)).result.done
    assert await world.data(subject) == AS_BEFORE


async def _text(body: str, status: int = 201) -> web.StreamResponse:
    return web.Response(status=status, text=body, headers={"Location": "/_/tenant/7"})


async def test_an_answer_that_is_a_text_is_an_answer(world: World) -> None:
    _, request = await held(world)
    world.module.answer = lambda asked: _plain() if asked.method == "POST" else None
    state = await to_the_end(world.init, request)
    assert (state.effect, state.outcome) == ("done", "upgraded")


async def _plain() -> web.StreamResponse:
    return web.Response(text="OK")


@pytest.mark.soak
async def test_a_module_may_take_90_seconds_to_answer(world: World) -> None:
    """Requirement C4: no timeout is taken for the truth."""
    _, request = await held(world)

    async def late() -> web.StreamResponse:
        await asyncio.sleep(90)
        return web.Response(status=204)

    world.module.answer = lambda asked: late() if asked.method == "POST" else None
    state = await to_the_end(world.init_with(synchronous_max=86_400), request)
    assert (state.effect, state.outcome) == ("done", "nothing to do")
