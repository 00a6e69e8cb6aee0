"""Problems: found when the platform changes, listed, told once to a real receiver, and told again when they are over."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from aiohttp import web
from click.testing import CliRunner

from gateway.jobs import Jobs
from gateway.notifiers.webhook import signature
from gateway.pipelines import Pipelines
from gateway.problems import Problems
from gateway_client import FinishRequest, MoveRequest, OpenRequest
from upgrade_core import problems
from uplift_cli.main import cli
from uplift_settings.tree import TemporalSettings

SECRET = "a shared secret"
QUICK = {
    "problems_settle": 0.0,
    "problems_interval": 0.2,
    "delivery_interval": 0.05,
    "notify_retry": 0.05,
    "notify_retry_max": 0.1,
    "webhook_secret": SECRET,
    "notifiers": ("log", "webhook"),
}


class Receiver:
    """Somebody's webhook, on a real socket."""

    def __init__(self, upstream: Any) -> None:
        self.url = upstream.url + "/hook?team=7"
        self.status: Callable[[], int] = lambda: 204
        self.events: list[dict[str, Any]] = []
        self.refused: list[dict[str, Any]] = []
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.before: Callable[[], Awaitable[None]] | None = None
        upstream.answer = self._answer

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        self.requests.append((request.raw_path, dict(request.headers), body))
        if self.before is not None:
            await self.before()
        status = self.status()
        (self.events if status < 300 else self.refused).append(json.loads(body))
        return web.Response(status=status)

    def told(self, key: str) -> list[str]:
        """What it was told of a problem, in order."""
        return [event["type"].rsplit(".", 1)[1] for event in self.events if event["subject"] == key]


@pytest.fixture
def receiver(upstream: Any) -> Receiver:
    return Receiver(upstream)


@pytest.fixture
async def place(new_site: Any, receiver: Receiver) -> AsyncIterator[Any]:
    return await new_site(webhook_url=receiver.url, **QUICK)


async def listed(site: Any) -> dict[str, dict[str, Any]]:
    answer = await site.http.get("/_/lifecycle/problems")
    assert answer.status_code == 200
    return {each["key"]: each for each in answer.json()}


async def report(site: Any, *found: problems.Problem) -> None:
    for each in found:
        await site.running.inside(Problems(site.running.platform).report(each))


async def looked(site: Any) -> None:
    assert await site.running.inside(Problems(site.running.platform).check())


async def outbox(site: Any) -> int:
    connection = await asyncpg.connect(site.dsn)
    try:
        return int(await connection.fetchval("select count(*) from outbox"))
    finally:
        await connection.close()


async def unchecked(site: Any, wire: dict[str, Any]) -> None:
    answer = await site.http.post("/_/proxy/modules?check=false", json=wire)
    assert answer.status_code == 201, answer.text


async def test_a_module_registered_before_what_it_needs_is_listed_and_told_until_that_comes(
    place: Any, receiver: Receiver, describe: Any, until: Any
) -> None:
    key = "unresolved:early-1.0.0:late"
    await unchecked(place, describe("early-1.0.0", requires=[{"id": "late", "version": "1.0"}]))
    await until(lambda: receiver.told(key) == ["opened"])
    found = (await listed(place))[key]
    assert set(found) == {"key", "kind", "severity", "message", "module", "since", "remedy"}
    assert found["message"] == "Missing dependency: early-1.0.0 requires late: 1.0"
    await place.register("late-1.0.0")
    await until(lambda: receiver.told(key) == ["opened", "resolved"])
    assert await listed(place) == {}
    assert await until(lambda: _empty(place))


async def test_a_provider_that_is_deleted_opens_the_problem_again(
    place: Any, receiver: Receiver, describe: Any, until: Any
) -> None:
    key = "unresolved:early-1.0.0:late"
    await unchecked(place, describe("early-1.0.0", requires=[{"id": "late", "version": "1.0"}]))
    await until(lambda: receiver.told(key) == ["opened"])
    await place.register("late-1.0.0")
    await until(lambda: receiver.told(key) == ["opened", "resolved"])
    first = receiver.events[0]["data"]["since"]
    assert (await place.http.delete("/_/proxy/modules/early-1.0.0")).status_code == 204
    assert (await place.http.delete("/_/proxy/modules/late-1.0.0")).status_code == 204
    await unchecked(place, describe("early-1.0.0", requires=[{"id": "late", "version": "1.0"}]))
    await until(lambda: receiver.told(key) == ["opened", "resolved", "opened"])
    assert receiver.events[-1]["data"]["since"] > first
    assert len({event["id"] for event in receiver.events}) == 3


async def test_a_registration_that_is_checked_is_refused_and_is_no_problem(place: Any, describe: Any) -> None:
    wire = describe("early-1.0.0", requires=[{"id": "late", "version": "1.0"}])
    answer = await place.http.post("/_/proxy/modules", json=wire)
    assert (answer.status_code, answer.text) == (400, "Missing dependency: early-1.0.0 requires late: 1.0")
    await looked(place)
    assert await listed(place) == {}


async def test_a_tenant_without_a_needed_provider_is_told_once_its_job_has_ended(
    place: Any, receiver: Receiver, until: Any
) -> None:
    await place.register("late-1.0.0")
    await place.register("early-1.0.0", requires=[{"id": "late", "version": "1.0"}])
    tenant = await place.tenant()
    wire = [{"id": "early-1.0.0", "action": "enable"}]
    answer = await place.http.post(f"/_/proxy/tenants/{tenant}/install?async=true&depCheck=false", json=wire)
    job = answer.headers["Location"].rsplit("/", 1)[1]
    await place.runs.begin(job)
    move = MoveRequest(product="early", subject="early-1.0.0", bind=True, module="early-1.0.0")
    await place.runs.open(job, OpenRequest(group="g", moves=(move,)))
    await looked(place)
    assert await listed(place) == {}
    await place.runs.finish(job, FinishRequest(outcome="done"))
    key = f"unresolved:{tenant}:early-1.0.0:late"
    await until(lambda: receiver.told(key) == ["opened"])
    assert (await listed(place))[key]["tenant"] == tenant
    await place.enable(tenant, "late-1.0.0")
    await until(lambda: receiver.told(key) == ["opened", "resolved"])


async def test_a_hold_that_a_job_left_is_a_problem_until_somebody_opens_it(
    place: Any, receiver: Receiver, upstream: Any, until: Any
) -> None:
    tenant, product = await place.wired(upstream.url)
    job = await place.job(tenant, await place.register(f"{product}-2.0.0"))
    (state,) = await job.held(f"{product}-2.0.0")
    await looked(place)
    assert await listed(place) == {}
    await job.finish()
    key = f"hold-left:{state.id}"
    await until(lambda: receiver.told(key) == ["opened"])
    assert f"uplift resolve {job.id}" in (await listed(place))[key]["remedy"]
    await job.resume(f"{product}-2.0.0")
    await until(lambda: receiver.told(key) == ["opened", "resolved"])


@pytest.mark.parametrize("held", [True, False])
async def test_a_lost_run_is_a_problem_until_its_holds_are_open_or_its_record_is_gone(
    place: Any, receiver: Receiver, upstream: Any, until: Any, held: bool
) -> None:
    tenant, product = await place.wired(upstream.url)
    job = await place.job(tenant, await place.register(f"{product}-2.0.0"))
    if held:
        await job.held(f"{product}-2.0.0")
    platform = place.running.platform
    service = Problems(platform)
    pipelines = Pipelines(platform=platform, jobs=Jobs(platform, service), problems=service, settings=TemporalSettings())
    row = await place.running.inside(platform.jobs.get(job.id))
    for _ in range(2):
        await place.running.inside(pipelines._lost(row, "Temporal does not know its run"))
    key = f"run-lost:{job.id}"
    await until(lambda: receiver.told(key) == ["opened"])
    await looked(place)
    assert key in await listed(place)
    if held:
        await job.resume(f"{product}-2.0.0")
    else:
        assert (await place.http.delete(f"/_/proxy/tenants/{tenant}/install/{job.id}")).status_code == 204
    await until(lambda: receiver.told(key) == ["opened", "resolved"])
    assert await listed(place) == {}


async def test_a_problem_that_stands_is_told_once_however_many_report_it(place: Any, receiver: Receiver, until: Any) -> None:
    await place.register("m-1.0.0")
    await asyncio.gather(*(report(place, problems.closed("m-1.0.0")) for _ in range(10)))
    await until(lambda: _empty(place))
    assert receiver.told("closed:m-1.0.0") == ["opened"]


async def test_a_new_text_of_a_problem_that_stands_is_listed_and_not_told(place: Any, receiver: Receiver, until: Any) -> None:
    tenant = await place.tenant()
    await place.register("m-2.0.0")
    await report(place, problems.newer_blocked(tenant, "m-2.0.0", why="one"))
    before = (await listed(place))[f"newer-blocked:{tenant}:m-2.0.0"]
    await report(place, problems.newer_blocked(tenant, "m-2.0.0", why="two"))
    after = (await listed(place))[f"newer-blocked:{tenant}:m-2.0.0"]
    assert before["message"].endswith("one")
    assert after == {**before, "message": before["message"].replace("one", "two")}
    await until(lambda: _empty(place))
    assert receiver.told(before["key"]) == ["opened"]


async def test_what_is_resolved_twice_is_told_once(place: Any, receiver: Receiver, until: Any) -> None:
    await place.register("m-1.0.0")
    await report(place, problems.closed("m-1.0.0"))
    for _ in range(2):
        await place.running.inside(Problems(place.running.platform).resolve("closed:m-1.0.0"))
    await until(lambda: _empty(place))
    assert sorted(receiver.told("closed:m-1.0.0")) == ["opened", "resolved"]


async def test_what_a_problem_was_about_is_gone_and_so_is_the_problem(place: Any) -> None:
    tenant = await place.tenant()
    await place.register("m-2.0.0")
    await report(
        place,
        problems.closed("m-2.0.0"),
        problems.closed("gone-1.0.0"),
        problems.overdue("gone", product="m", tenant=tenant, holder="Ann"),
        problems.newer_blocked(tenant, "m-2.0.0", why="w"),
        problems.newer_blocked("gone", "m-2.0.0", why="w"),
    )
    await looked(place)
    assert sorted(await listed(place)) == ["closed:m-2.0.0", f"newer-blocked:{tenant}:m-2.0.0"]
    await place.enable(tenant, "m-2.0.0")
    await looked(place)
    assert sorted(await listed(place)) == ["closed:m-2.0.0"]


async def test_reconcile_opens_what_is_new_and_resolves_what_was_not_found(place: Any) -> None:
    service = Problems(place.running.platform)
    for name in ("a", "b", "c"):
        await place.register(f"{name}-1.0.0")
    first = (problems.closed("a-1.0.0"), problems.closed("b-1.0.0"))
    await place.running.inside(service.reconcile("closed", first))
    assert sorted(await listed(place)) == ["closed:a-1.0.0", "closed:b-1.0.0"]
    since = (await listed(place))["closed:b-1.0.0"]["since"]
    await place.running.inside(service.reconcile("closed", (problems.closed("b-1.0.0"), problems.closed("c-1.0.0"))))
    found = await listed(place)
    assert sorted(found) == ["closed:b-1.0.0", "closed:c-1.0.0"]
    assert found["closed:b-1.0.0"]["since"] == since


async def test_looks_of_several_gateways_at_once_open_a_problem_once(
    place: Any, receiver: Receiver, describe: Any, until: Any
) -> None:
    await unchecked(place, describe("early-1.0.0", requires=[{"id": "late", "version": "1.0"}]))
    await asyncio.gather(*(looked(place) for _ in range(6)))
    await until(lambda: _empty(place))
    assert receiver.told("unresolved:early-1.0.0:late") == ["opened"]


async def test_a_gateway_does_not_look_when_another_just_has(new_site: Any) -> None:
    site = await new_site()
    await looked(site)
    assert not await site.running.inside(Problems(site.running.platform).check(unless_within=60.0))
    assert await site.running.inside(Problems(site.running.platform).check(unless_within=0.0))


async def test_modules_that_this_gateway_has_not_heard_of_yet_count(place: Any, describe: Any) -> None:
    platform = place.running.platform
    await unchecked(place, describe("early-1.0.0", requires=[{"id": "late", "version": "1.0"}]))
    provider = ("late-1.0.0", "late", json.dumps(describe("late-1.0.0")))
    await place.running.inside(platform.registry.add_modules([provider]))  # as another gateway does it
    await looked(place)
    assert await listed(place) == {}


async def test_a_receiver_that_fails_in_every_way_gets_each_event_in_the_end_under_one_id(
    place: Any, receiver: Receiver, until: Any
) -> None:
    answers = iter([500, 404, 302, 503])
    receiver.status = lambda: next(answers, 200)
    await place.register("m-1.0.0")
    await report(place, problems.closed("m-1.0.0"))
    await until(lambda: receiver.events)
    await until(lambda: _empty(place))
    assert len(receiver.refused) == 4
    assert [event["id"] for event in receiver.refused] == [receiver.events[0]["id"]] * 4
    assert receiver.refused[0] == receiver.events[0]
    assert len(receiver.events) == 1


async def test_a_receiver_that_was_away_is_told_when_it_is_back(new_site: Any, new_upstream: Any, until: Any) -> None:
    gone = await new_upstream()
    port = int(gone.url.rsplit(":", 1)[1])
    await gone.stop()
    site = await new_site(webhook_url=gone.url, **QUICK)
    await site.register("m-1.0.0")
    await report(site, problems.closed("m-1.0.0"))
    await until(lambda: _attempts(site, 3))
    events: list[Any] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        events.append(await request.read())
        return web.Response(status=202)

    runner = web.ServerRunner(web.Server(answer, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await until(lambda: _empty(site))
    await runner.cleanup()
    assert len(events) == 1


async def test_a_receiver_that_is_too_slow_is_asked_again_with_the_same_id(
    new_site: Any, receiver: Receiver, upstream: Any, until: Any
) -> None:
    site = await new_site(webhook_url=receiver.url, **{**QUICK, "notify_timeout": 0.3})
    receiver.before = upstream.gate.wait
    await site.register("m-1.0.0")
    await report(site, problems.closed("m-1.0.0"))
    await until(lambda: len(receiver.requests) >= 2)
    upstream.gate.set()
    await until(lambda: _empty(site))
    assert len({json.loads(body)["id"] for _, _, body in receiver.requests}) == 1


async def test_bodies_are_cloud_events_and_signed(place: Any, receiver: Receiver, until: Any) -> None:
    await place.register("m-1.0.0")
    await report(place, problems.closed("m-1.0.0"))
    await until(lambda: receiver.events)
    path, headers, body = receiver.requests[0]
    assert path == "/hook?team=7"
    assert headers["Content-Type"].startswith("application/cloudevents+json")
    assert headers["X-Uplift-Signature"] == signature(SECRET, body)
    assert json.loads(body)["source"] == place.url


async def test_what_could_not_be_told_in_its_time_is_given_up(new_site: Any, receiver: Receiver, until: Any, caplog: Any) -> None:
    receiver.status = lambda: 500
    site = await new_site(webhook_url=receiver.url, **{**QUICK, "notify_expires": 0.5, "notifiers": ("webhook",)})
    await site.register("m-1.0.0")
    await report(site, problems.closed("m-1.0.0"))
    await until(lambda: _empty(site))
    assert receiver.refused
    assert "is given up: the receiver answered 500" in caplog.text
    assert "closed:m-1.0.0" in await listed(site)


async def test_problems_and_what_is_to_be_told_survive_a_gateway(new_site: Any, receiver: Receiver, until: Any) -> None:
    receiver.status = lambda: 503
    site = await new_site(webhook_url=receiver.url, **QUICK)
    await site.register("m-1.0.0")
    await report(site, problems.closed("m-1.0.0"))
    await until(lambda: receiver.refused)
    await asyncio.to_thread(site.running.stop)
    receiver.status = lambda: 200
    after = await new_site(dsn=site.dsn, webhook_url=receiver.url, **QUICK)
    await until(lambda: receiver.events)
    assert receiver.events[0] == receiver.refused[0]
    assert list(await listed(after)) == ["closed:m-1.0.0"]


async def test_the_command_line_shows_what_stands(place: Any) -> None:
    await place.register("m-1.0.0")
    shown = await asyncio.to_thread(CliRunner().invoke, cli, ["problems", "--gateway", place.url])
    assert (shown.exit_code, shown.output) == (0, "no problems\n")
    await report(place, problems.closed("m-1.0.0"))
    shown = await asyncio.to_thread(CliRunner().invoke, cli, ["problems", "--gateway", place.url])
    head, row = (line.split("\t") for line in shown.output.splitlines())
    assert head == ["severity", "since", "problem", "what", "what to do"]
    assert (row[0], row[2]) == ("error", "closed:m-1.0.0")
    shown = await asyncio.to_thread(CliRunner().invoke, cli, ["problems", "--gateway", place.url, "--json"])
    assert json.loads(shown.output) == list((await listed(place)).values())


async def test_the_command_line_gives_the_token_that_it_is_named(new_site: Any, monkeypatch: Any) -> None:
    site = await new_site(token="s3cret")
    shown = await asyncio.to_thread(CliRunner().invoke, cli, ["problems", "--gateway", site.url])
    assert (shown.exit_code, "--token" in shown.output) == (1, True)
    monkeypatch.setenv("OUR_TOKEN", "s3cret")
    shown = await asyncio.to_thread(CliRunner().invoke, cli, ["problems", "--gateway", site.url, "--token", "env:OUR_TOKEN"])
    assert (shown.exit_code, shown.output) == (0, "no problems\n")


async def _empty(site: Any) -> bool:
    return await outbox(site) == 0


async def _attempts(site: Any, least: int) -> bool:
    connection = await asyncpg.connect(site.dsn)
    try:
        return bool(await connection.fetchval("select max(attempts) >= $1 from outbox", least))
    finally:
        await connection.close()
