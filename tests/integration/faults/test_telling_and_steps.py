"""The permissions module is told, and prechecks and post steps are asked for, at real modules through the real gateway."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.signatures import Checked, FollowModuleStep, ModuleStepRequest, ModuleStepState, TellStep, UndoResult
from gateway_client import knowing
from tests.integration.faults.cases import STEPPED, TOLD, module_step, resume_old, telling, update
from tests.integration.faults.world import Subject, World
from tests.wire.faults import Refuse, Status
from upgrade_core.ids import hold_id
from upgrade_core.known import Fact, FactKind
from upgrade_core.module_steps import StepEffect, StepKind
from upgrade_core.runs import DATABASE_DIFFERS


class Site:
    """What a module was sent: method, path and body; `answers` are given in turn, then 200."""

    def __init__(self, world: World) -> None:
        self.got: list[tuple[str, str, Any]] = []
        self.headers: list[Any] = []  # names in whatever case
        self.answers: list[web.Response] = []
        world.module.answer = self._answer

    def _answer(self, request: web.BaseRequest) -> Awaitable[web.StreamResponse] | None:
        return None if request.path == "/admin/health" or request.path.startswith("/_/tenant") else self._noted(request)

    async def _noted(self, request: web.BaseRequest) -> web.StreamResponse:
        text = (await request.read()).decode()
        self.got.append((request.method, request.path, json.loads(text) if text else None))
        self.headers.append(request.headers)
        return self.answers.pop(0) if self.answers else web.json_response({"path": request.path})


@pytest.fixture
def site(world: World) -> Site:
    return Site(world)


async def told(world: World, step: TellStep) -> None:
    await ActivityEnvironment().run(world.permissions.tell, step)


async def told_old(world: World, step: TellStep) -> UndoResult:
    return await ActivityEnvironment().run(world.permissions.tell_old, step)


def sets(module: str, *names: str) -> tuple[str, str, Any]:
    return ("POST", "/perms", {"moduleId": module, "perms": [{"permissionName": name} for name in names]})


async def test_a_permissions_module_is_told_as_the_system_of_the_tenant(world: World, site: Site) -> None:
    subject = await world.subject(**TOLD)
    await told(world, telling(subject, subject.old, modules=(subject.new,), gone=("gone-1.0.0",)))

    assert site.got == [sets(subject.new, f"{subject.product}.2.0.0"), sets("gone-1.0.0")]
    first = site.headers[0]
    assert (first["X-Okapi-Tenant"], first["X-Okapi-Url"]) == (subject.tenant, world.gateway.url)
    assert first["Content-Type"] == "application/json; charset=UTF-8"


async def test_one_of_the_group_reaches_the_others_past_the_hold_and_is_told_of_all(world: World, site: Site) -> None:
    subject = await world.subject(**TOLD)
    await world.steps_undisturbed(update, subject)
    new = telling(subject, subject.new, modules=(subject.new,), enabled=True, changed=(subject.change,), overlay=True)
    await told(world, new)
    await told(world, replace(new, changed=()))

    now, before = f"{subject.product}.2.0.0", f"{subject.product}.1.0.0"
    assert site.got == [
        sets(subject.new, now),
        sets(subject.new, now),
        sets(subject.old, before),
    ]
    assert "/_/overlay/" in site.headers[0]["X-Okapi-Url"]


async def test_a_refusal_is_told_in_okapis_words_and_not_tried_again(world: World, site: Site) -> None:
    subject = await world.subject(**TOLD)
    site.answers = [web.Response(status=400, text="bad name")]
    with pytest.raises(ApplicationError) as caught:
        await told(world, telling(subject, subject.old, modules=(subject.new,)))

    assert caught.value.message == f"POST request for {subject.old} /perms failed with 400: bad name"
    assert (caught.value.type, caught.value.non_retryable, len(site.got)) == ("PermissionsRefused", True, 1)


async def test_a_worker_that_comes_back_after_the_undo_tells_nothing(world: World, site: Site) -> None:
    """It was taken for dead: its group is open again, and users have the old version."""
    subject = await world.subject(**TOLD)
    await world.steps_undisturbed(update, subject)
    held = Fact(kind=FactKind.HELD, key=hold_id(subject.job.id, "g", subject.product), about=subject.product)
    await world.steps_undisturbed(resume_old, subject)
    with knowing((held,)), pytest.raises(ApplicationError) as caught:
        await told(world, telling(subject, subject.old, modules=(subject.new,)))

    assert caught.value.type == DATABASE_DIFFERS
    assert site.got == []


async def test_one_that_restarts_is_told_again(world: World, site: Site) -> None:
    subject = await world.subject(**TOLD)
    world.wire.add(method="POST", path="/perms", fault=Refuse(), times=1)
    site.answers = [web.Response(status=503)]
    await told(world, telling(subject, subject.old, modules=(subject.new,)))

    assert len(site.got) == 2


async def test_one_that_stays_away_ends_the_step(world: World, site: Site) -> None:
    subject = await world.subject(**TOLD)
    world.wire.add(method="POST", path="/perms", fault=Status(500), times=100)
    with pytest.raises(ApplicationError) as caught:
        await told(world, telling(subject, subject.old, modules=(subject.new,)))

    assert caught.value.message.startswith(f"POST request for {subject.old} /perms failed with 500")
    assert site.got == []


async def test_one_without_an_instance_is_named(world: World) -> None:
    subject = await world.subject(**TOLD)
    module = f"{subject.product}-3.0.0"
    await world._register(module, None, uplift=False, permissions="2.0")
    with pytest.raises(ApplicationError) as caught:
        await told(world, telling(subject, module, modules=(subject.new,)))

    assert caught.value.message == f"No running instances for module {module}. Can not invoke /perms"


async def test_an_unknown_version_ends_the_step_with_okapis_text(world: World, site: Site) -> None:
    subject = await world.subject(**TOLD | {"permissions": "3.0"})
    with pytest.raises(ApplicationError) as caught:
        await told(world, telling(subject, subject.old, modules=(subject.new,)))

    assert caught.value.message == "Unknown version of _tenantPermissions interface in use 3.0."
    assert caught.value.non_retryable


async def test_the_undo_leaves_what_cannot_be_told_to_a_person(world: World, site: Site) -> None:
    subject = await world.subject(**TOLD)
    site.answers = [web.Response(status=400, text="no")]
    result = await told_old(world, telling(subject, subject.old, modules=(subject.old,), gone=(subject.new,)))

    assert not result.done
    why = f"POST request for {subject.old} /perms failed with 400: no"
    assert result.left == (f"{subject.old} was not told the permissions of {subject.old} again: {why}",)
    assert len(site.got) == 2  # the rest is told all the same


async def test_an_interface_that_takes_nothing_back_is_a_warning_of_the_undo(world: World, site: Site) -> None:
    subject = await world.subject(**TOLD | {"permissions": "1.1"})
    result = await told_old(world, telling(subject, subject.old, gone=(subject.new,)))

    assert (result.done, site.got) == (True, [])
    assert result.warnings == (
        f"{subject.old} keeps the permission sets of {subject.new}: its _tenantPermissions takes none back",
    )


@pytest.mark.parametrize(("invoke", "tells"), [("true", True), ("false", False), ("modf.*", True), ("other.*", False)])
async def test_check_says_who_is_to_be_told(world: World, invoke: str, tells: bool) -> None:
    subject = await world.subject(**TOLD | STEPPED)
    found: Checked = await ActivityEnvironment().run(world.checks.check, replace(subject.request, invoke=invoke))

    assert (found.tells, found.is_told) == ((subject.old, True) if tells else ("", False))
    assert (found.prechecks, found.post_steps) == (1, 1)


async def test_recall_says_who_is_to_be_told_after_a_lost_run(world: World) -> None:
    subject = await world.subject(**TOLD | STEPPED)
    found: Checked = await ActivityEnvironment().run(world.checks.recall, subject.request)

    assert (found.tells, found.is_told, found.prechecks, found.post_steps) == (subject.old, True, 0, 1)


async def asked(world: World, request: ModuleStepRequest) -> ModuleStepState:
    return await ActivityEnvironment().run(world.module_steps.start, request)


async def followed(world: World, request: ModuleStepRequest, state: ModuleStepState) -> ModuleStepState:
    return await ActivityEnvironment().run(world.module_steps.follow, FollowModuleStep(step=request, state=state))


async def stepping(world: World, make: Callable[[str], dict[str, Any]], **more: Any) -> Subject:
    """A subject with one precheck and one post step, made from its product."""
    subject = await world.subject(**STEPPED)
    module = f"{subject.product}-2.0.1"
    uplift = {"undo": "module", "prechecks": [make(subject.product)], "post_steps": [make(subject.product)], **more}
    await world._register(module, world.wire.url, uplift=False, permissions="", metadata={"uplift": uplift})
    return subject


def of(subject: Subject, kind: StepKind) -> ModuleStepRequest:
    return replace(module_step(subject, kind), module=f"{subject.product}-2.0.1")


async def test_a_precheck_reaches_the_new_version_past_its_binding(world: World, site: Site) -> None:
    subject = await stepping(world, lambda product: {"path": f"/{product}/room", "body": {"a": 1}})
    state = await asked(world, of(subject, StepKind.PRECHECK))

    assert state.effect is StepEffect.DONE
    assert site.got == [("GET", f"/{subject.product}/room", {"a": 1})]
    assert "/_/overlay/" in site.headers[0]["X-Okapi-Url"]


async def test_a_precheck_of_the_old_version_goes_as_users_go(world: World, site: Site) -> None:
    subject = await world.subject(**STEPPED)
    module = f"{subject.product}-2.0.1"
    uplift = {"undo": "module", "prechecks": [{"path": f"/{subject.product}/d", "on": "old", "json": {"count": 0}}]}
    await world._register(module, world.wire.url, uplift=False, permissions="", metadata={"uplift": uplift})
    site.answers = [web.json_response({"count": 3})]
    state = await asked(world, of(subject, StepKind.PRECHECK))

    assert state.errors == (f'GET /{subject.product}/d: expected {{"count": 0}}, got {{"count": 3}}',)
    assert "/_/overlay/" not in site.headers[0]["X-Okapi-Url"]
    state = await asked(world, replace(of(subject, StepKind.PRECHECK), bound=None))
    assert (state.effect, len(site.got)) == (StepEffect.DONE, 1)  # an install has no old version


async def test_what_a_precheck_went_through_is_closed(world: World, site: Site) -> None:
    subject = await stepping(world, lambda product: {"path": f"/{product}/room"})
    await asked(world, of(subject, StepKind.PRECHECK))
    await ActivityEnvironment().run(world.module_steps.close, subject.request)

    prefix = "/_/overlay/" + site.headers[0]["X-Okapi-Url"].rsplit("/", 1)[1]
    assert (await world.site.http.get(f"{prefix}/{subject.product}/room")).status_code == 404


async def test_a_job_at_a_location_is_followed_over_a_restart(world: World, site: Site) -> None:
    """The module builds the Location from the X-Okapi-Url that it was given."""
    subject = await stepping(world, lambda product: {"path": f"/{product}/reindex"})

    path = f"/{subject.product}/job/7"
    site.answers = [web.Response(status=202, headers={"Location": f"http://gateway{path}"})]
    state = await asked(world, of(subject, StepKind.POST_STEP))
    assert (state.effect, state.job_path) == (StepEffect.FOLLOW, path)

    site.answers = [
        web.json_response({"status": "running"}),
        web.Response(status=503),
        web.json_response({"status": "done", "warnings": ["odd"]}),
    ]
    ended = await followed(world, of(subject, StepKind.POST_STEP), state)
    assert (ended.effect, ended.warnings) == (StepEffect.DONE, ("odd",))
    assert [method for method, _, _ in site.got] == ["POST", "GET", "GET", "GET"]


async def test_the_location_of_a_precheck_is_below_its_secret_prefix(world: World, site: Site) -> None:
    subject = await stepping(world, lambda product: {"path": f"/{product}/room"})
    seen: list[str] = []

    def answer(request: web.BaseRequest) -> Awaitable[web.StreamResponse] | None:
        if not request.path.startswith(f"/{subject.product}"):
            return None
        seen.append(request.path)
        return _answered(request)

    async def _answered(request: web.BaseRequest) -> web.StreamResponse:
        if request.path.endswith("/7"):
            return web.json_response({"complete": True})
        location = f"{request.headers['X-Okapi-Url']}/{subject.product}/room/7"
        return web.Response(status=202, headers={"Location": location})

    world.module.answer = answer
    state = await asked(world, of(subject, StepKind.PRECHECK))
    assert state.job_path == f"/{subject.product}/room/7"
    assert (await followed(world, of(subject, StepKind.PRECHECK), state)).effect is StepEffect.DONE
    assert seen == [f"/{subject.product}/room", f"/{subject.product}/room/7"]


async def test_a_job_that_is_silent_for_too_long_is_given_up(world: World, site: Site) -> None:
    subject = await stepping(world, lambda product: {"path": f"/{product}/r"})
    world.wire.add(method="GET", path=f"/{subject.product}/j", fault=Status(500), times=1000)
    state = ModuleStepState(effect=StepEffect.FOLLOW, job_path=f"/{subject.product}/j", begun=9e9)
    ended = await followed(world, of(subject, StepKind.POST_STEP), state)

    assert ended.effect is StepEffect.FAILED
    assert "nothing was heard of its job" in ended.errors[0]


async def test_a_job_that_does_not_end_is_given_up_and_may_work_on(world: World, site: Site) -> None:
    """From the moment that it was asked for: a worker that takes over does not count anew."""
    subject = await stepping(world, lambda product: {"path": f"/{product}/r"})
    site.answers = [web.json_response({"status": "running"}) for _ in range(100)]
    state = ModuleStepState(effect=StepEffect.FOLLOW, job_path=f"/{subject.product}/j", begun=1.0)
    ended = await followed(world, of(subject, StepKind.POST_STEP), state)

    assert ended.errors == (
        f"POST /{subject.product}/r: its job /{subject.product}/j did not end within 2 s (steps.post_step_max); it may work on",
    )


async def test_a_step_is_asked_for_again_where_nobody_took_it_and_not_where_it_takes_too_long(world: World, site: Site) -> None:
    subject = await stepping(world, lambda product: {"path": f"/{product}/r"})
    site.answers = [web.Response(status=503), web.Response(status=204)]
    assert (await asked(world, of(subject, StepKind.POST_STEP))).effect is StepEffect.DONE
    assert len(site.got) == 2

    world.module.answer = lambda _: _never()
    state = await asked(world, of(subject, StepKind.POST_STEP))
    assert state.effect is StepEffect.FAILED
    assert state.errors[0].endswith("what takes longer answers 202 with a job")


async def _never() -> web.StreamResponse:
    await asyncio.sleep(1)
    return web.Response()
