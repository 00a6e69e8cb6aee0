"""`/_/runs/{job}/resolve`: what is shown, what is refused and why, who may; and late calls of a run that was replaced."""

import asyncio
import dataclasses
from typing import Any

import asyncpg
import httpx
import pytest

from gateway.pipelines import Pipelines
from gateway.problems import Problems
from gateway.resolving import Resolving
from gateway_client import (
    ChangeRef,
    ClaimRequest,
    FinishRequest,
    GatewayClient,
    GatewayRefused,
    HoldRequest,
    InitReport,
    IntentRequest,
    MoveRequest,
    Notice,
    OpenRequest,
    Snapshot,
)
from upgrade_core.problems import run_lost
from upgrade_core.runs import RUN_HEADER
from uplift_settings.tree import TemporalSettings

SYSTEM = [
    {
        "id": "_tenant",
        "version": "2.0",
        "interfaceType": "system",
        "handlers": [{"methods": ["POST"], "pathPattern": "/_/tenant"}],
    }
]


class NothingRuns(Pipelines):
    """Temporal as it is when all runs of a job are gone: there is none here, and no other answer of it is asked for."""

    async def is_running(self, run: str) -> bool:
        return False


@pytest.fixture
async def place(new_site: Any) -> Any:
    site = await new_site(problems_settle=0.0, problems_interval=0.2)
    gateway, platform = site.running.gateway, site.running.platform
    jobs, problems = gateway._services.jobs, gateway._services.problems
    pipelines = NothingRuns(platform=platform, jobs=jobs, problems=problems, settings=TemporalSettings())
    resolving = Resolving(platform=platform, jobs=jobs, pipelines=pipelines, problems=problems)
    gateway._services = dataclasses.replace(gateway._services, resolving=resolving)
    return site


class Lost:
    """A job whose run held a module and is gone; `group` is the one of its plan."""

    def __init__(self, site: Any, tenant: str, product: str, job: Any) -> None:
        self.site, self.tenant, self.product, self.job = site, tenant, product, job
        self.group, self.key = f"1-{product}", f"{job.id}:{product}:init"
        self.new = f"{product}-2.0.0"

    async def look(self) -> dict[str, Any]:
        found = await self.site.http.get(f"/_/runs/{self.job.id}/resolve")
        assert found.status_code == 200, found.text
        return dict(found.json())

    async def decide(self, decision: str, **more: Any) -> httpx.Response:
        answer: httpx.Response = await self.site.http.post(f"/_/runs/{self.job.id}/resolve", json={"decision": decision, **more})
        return answer

    async def init(self, effect: str = "") -> None:
        """Tenant init was asked for; with an effect it has ended so."""
        wanted = IntentRequest(key=self.key, product=self.product, subject=self.new, module=self.new, instance="i")
        await self.site.runs.begin_intent(self.job.id, wanted)
        if effect:
            report = InitReport(
                state="ended", subject=self.new, effect=effect, data_version=self.new if effect == "done" else None
            )
            await self.site.runs.report_init(self.job.id, self.key, report)

    async def end(self) -> None:
        notice = Notice(message="run lost", type="RunLost", code="run_lost")
        await self.site.runs.finish(self.job.id, FinishRequest(outcome="failed", errors=(notice,)))

    def as_run(self, number: int) -> GatewayClient:
        """The gateway as a step of the n-th decision's run sees it; 0: of the job's first run."""
        run = f"{self.job.id}/resolve-{number}" if number else f"{self.job.id}/{self.group}"

        async def name(request: httpx.Request) -> None:
            request.headers[RUN_HEADER] = run

        return GatewayClient(url=self.site.url, on_request=name)

    def move(self, *, bind: bool) -> OpenRequest:
        return OpenRequest(
            group=self.group,
            moves=(MoveRequest(product=self.product, subject=self.new, bind=bind, module=self.new if bind else None),),
        )


@pytest.fixture
async def lost(place: Any, upstream: Any) -> Lost:
    tenant, product = await place.wired(upstream.url)
    descriptor = await place.register(f"{product}-2.0.0", provides=SYSTEM)
    job = await place.job(tenant, descriptor)
    await job.held(f"{product}-2.0.0", group=f"1-{product}")
    return Lost(place, tenant, product, job)


async def test_what_is_held_is_shown_with_how_far_it_came(lost: Lost) -> None:
    await lost.init("done")
    await lost.end()
    found = await lost.look()
    (held,) = found["held"]
    assert (held["group"], held["old"], held["new"]) == (lost.group, f"{lost.product}-1.0.0", lost.new)
    assert (held["init"], held["dataVersion"], held["copy"]) == ("done", lost.new, None)
    assert (found["possible"], found["waiting"], found["outcome"]) == (["old", "new"], [], "rollback_failed")


@pytest.mark.parametrize(
    ("effect", "shown"), [(None, "not asked for"), ("", "under way"), ("failed", "failed"), ("done", "done")]
)
async def test_new_goes_only_with_an_init_that_is_done_unless_forced(lost: Lost, effect: str | None, shown: str) -> None:
    if effect is not None:
        await lost.init(effect)
    await lost.end()
    assert (await lost.look())["held"][0]["init"] == shown
    found = await lost.decide("new")
    if shown != "done":
        assert (found.status_code, f"tenant init of {lost.new} is {shown}" in found.text) == (409, True), found.text
        assert (await lost.look())["possible"] == ["old", "new"]
        found = await lost.decide("new", force=True, reason="I have looked")
    assert found.status_code == 202, found.text
    assert found.json()["status"] == "running"


@pytest.mark.parametrize("decision", ["retry", "skip"])
async def test_a_decision_for_a_hold_point_does_not_fit_what_has_ended(lost: Lost, decision: str) -> None:
    await lost.end()
    found = await lost.decide(decision)
    assert found.status_code == 409
    assert "old or new is possible" in found.text


@pytest.mark.parametrize("decision", ["retry", "old", "new"])
async def test_a_job_at_work_that_waits_for_nobody_is_left_alone(lost: Lost, decision: str) -> None:
    found = await lost.decide(decision)
    assert (found.status_code, "is at work and waits for nobody" in found.text) == (409, True), found.text
    assert (await lost.site.http.get(f"/_/proxy/tenants/{lost.tenant}/install/{lost.job.id}")).json()["status"] == "running"


async def test_a_job_that_left_nothing_has_nothing_to_decide(lost: Lost) -> None:
    await lost.site.runs.open(lost.job.id, lost.move(bind=False))
    await lost.end()
    found = await lost.decide("old")
    assert (found.status_code, "nothing that it held is held any more" in found.text) == (409, True)


async def test_an_unknown_job_or_decision_is_refused(lost: Lost) -> None:
    assert (await lost.site.http.get("/_/runs/nobody/resolve")).status_code == 404
    assert (await lost.site.http.post("/_/runs/nobody/resolve", json={"decision": "old"})).status_code == 404
    assert (await lost.decide("maybe")).status_code == 400


async def test_it_waits_for_another_job_of_the_tenant(lost: Lost) -> None:
    await lost.end()
    other = await lost.site.job(lost.tenant, await lost.site.register(f"{lost.product}x-1.0.0"))
    found = await lost.decide("old")
    assert (found.status_code, f"job {other.id} of tenant {lost.tenant} is at work" in found.text) == (409, True)
    await other.finish()
    assert (await lost.decide("old")).status_code == 202


async def test_a_job_taken_over_is_a_job_at_work_with_its_decision_in_its_warnings(lost: Lost) -> None:
    await lost.end()
    found = await lost.site.http.post(
        f"/_/runs/{lost.job.id}/resolve", json={"decision": "old", "reason": "power cut"}, headers={"X-Okapi-User-Id": "ann"}
    )
    row = (await lost.site.http.get(found.headers["Location"])).json()
    assert (row["status"], row["complete"], "outcome" in row) == ("running", False, False)
    assert [error["type"] for error in row["errors"]] == ["RunLost"]
    assert [warning["message"] for warning in row["warnings"]] == ["resolved by ann as old: power cut"]
    assert (await lost.decide("old")).status_code == 409


async def test_what_was_told_of_a_job_is_kept_when_it_is_settled(lost: Lost) -> None:
    await lost.end()
    await lost.decide("old")
    run = lost.as_run(1)
    await run.open(lost.job.id, lost.move(bind=False))
    await run.finish(lost.job.id, FinishRequest(outcome="rolled_back"))
    await run.close()
    row = (await lost.site.http.get(f"/_/proxy/tenants/{lost.tenant}/install/{lost.job.id}")).json()
    assert (row["status"], row["outcome"]) == ("error", "rolled_back")
    assert [error["type"] for error in row["errors"]] == ["RunLost"]


@pytest.mark.parametrize("decided", [True, False])
async def test_a_lost_run_is_no_problem_any_more_once_its_job_is_settled_even_if_nobody_looked_meanwhile(
    lost: Lost, decided: bool
) -> None:
    service = Problems(lost.site.running.platform)
    await lost.end()
    if decided:
        await lost.decide("old")
        run = lost.as_run(1)
        await run.open(lost.job.id, lost.move(bind=False))
        await run.finish(lost.job.id, FinishRequest(outcome="rolled_back"))
        await run.close()
    await rows(lost, "delete from problems where kind = 'hold-left'")
    await lost.site.running.inside(service.report(run_lost(lost.job.id, tenant=lost.tenant, why="terminated")))
    await lost.site.running.inside(service.check())
    standing = (await lost.site.http.get("/_/lifecycle/problems")).json()
    assert [each["kind"] for each in standing if lost.job.id in each["key"] and each["kind"] == "run-lost"] == (
        [] if decided else ["run-lost"]
    )


async def test_what_went_wrong_before_is_a_warning_of_a_job_that_is_done(lost: Lost) -> None:
    await lost.init("done")
    await lost.end()
    await lost.decide("new")
    run = lost.as_run(1)
    await run.open(lost.job.id, lost.move(bind=True))
    await run.finish(lost.job.id, FinishRequest(outcome="done"))
    await run.close()
    row = (await lost.site.http.get(f"/_/proxy/tenants/{lost.tenant}/install/{lost.job.id}")).json()
    assert (row["status"], row["outcome"], row["errors"]) == ("done", "done_with_warnings", [])
    assert [warning["type"] for warning in row["warnings"]] == ["RunLost", "Resolved"]


async def test_a_second_decision_has_a_run_of_its_own(lost: Lost) -> None:
    await lost.end()
    await lost.decide("old")
    run = lost.as_run(1)
    await run.finish(lost.job.id, FinishRequest(outcome="failed"))
    await run.close()
    assert (await lost.decide("old")).status_code == 202
    assert await rows(lost, "select run from jobs where id = $1", lost.job.id) == [(f"{lost.job.id}/resolve-2",)]


async def test_a_run_that_was_replaced_does_nothing_any_more(lost: Lost) -> None:
    await lost.init()
    await lost.end()
    await lost.decide("old")
    late, new = lost.as_run(0), lost.new
    hold = HoldRequest(group="g", changes=(ChangeRef(product=lost.product, subject=new),))
    copy = Snapshot(id="c", job=lost.job.id, tenant=lost.tenant, product=lost.product, node="n", dsn="env:X", schema_name="s")
    calls = [
        late.open(lost.job.id, lost.move(bind=True)),
        late.open(lost.job.id, lost.move(bind=False)),
        late.report_init(lost.job.id, lost.key, InitReport(state="ended", subject=new, data_version=new)),
        late.begin_intent(lost.job.id, IntentRequest(key="other", product=lost.product, subject=new, module=new, instance="i")),
        late.claim(lost.job.id, ClaimRequest(module=new, subject=new)),
        late.give_back(lost.job.id, new),
        late.hold(lost.job.id, hold),
        late.add_snapshot(copy),
        late.close_overlay(lost.job.id, lost.product),
        late.keep_snapshots(lost.job.id, 1.0),
        late.set_phase(lost.job.id, "watching"),
        late.finish(lost.job.id, FinishRequest(outcome="done")),
    ]
    ends = await asyncio.gather(*calls, return_exceptions=True)
    await late.close()
    assert [end.status for end in ends if isinstance(end, GatewayRefused)] == [409] * len(calls), ends
    assert (await lost.site.links(lost.tenant))[0]["hold"] == "HELD"


async def test_a_run_without_its_job_may_undo_and_not_switch(lost: Lost) -> None:
    """The groups of a terminated job undo what they did, after it was told as lost; a switch would be seen by nobody."""
    await lost.end()
    late = lost.as_run(0)
    with pytest.raises(GatewayRefused, match="has ended without this switch"):
        await late.open(lost.job.id, lost.move(bind=True))
    assert (await lost.site.links(lost.tenant))[0]["hold"] == "HELD"
    await late.open(lost.job.id, lost.move(bind=False))
    await late.close()
    assert await lost.site.links(lost.tenant) == []


async def test_a_switch_that_was_made_before_the_job_ended_is_answered_again(lost: Lost) -> None:
    late = lost.as_run(0)
    await late.open(lost.job.id, lost.move(bind=True))
    await lost.end()
    await late.open(lost.job.id, lost.move(bind=True))
    await late.close()


async def test_an_operator_opens_nothing_by_hand_while_a_run_settles_it(lost: Lost) -> None:
    await lost.end()
    await lost.decide("old")
    with pytest.raises(GatewayRefused, match="is settled by run"):
        await lost.site.runs.open(lost.job.id, lost.move(bind=True))


async def test_the_copy_of_a_tenant_that_is_held_does_not_expire(lost: Lost) -> None:
    wire = Snapshot(id="c1", job=lost.job.id, tenant=lost.tenant, product=lost.product, node="n", dsn="env:X", schema_name="s")
    await lost.site.runs.add_snapshot(wire)
    await lost.site.runs.keep_snapshots(lost.job.id, 0.0)
    await lost.end()
    before = await lost.site.runs.snapshots(expired=True)
    await lost.site.runs.open(lost.job.id, lost.move(bind=False))
    after = await lost.site.runs.snapshots(expired=True)
    assert (before, [copy.id for copy in after]) == ((), ["c1"])


async def test_an_abort_of_a_decision_that_was_not_begun_leaves_the_hold_and_says_so(lost: Lost) -> None:
    await lost.end()
    await lost.decide("old")
    answer = await lost.site.http.delete(f"/_/proxy/tenants/{lost.tenant}/install/{lost.job.id}")
    assert (answer.status_code, answer.json()["outcome"]) == (202, "rollback_failed")
    assert (await lost.look())["possible"] == ["old", "new"]


async def test_a_hold_whose_run_is_gone_is_a_problem_while_the_job_goes_on(lost: Lost, until: Any) -> None:
    key = f"hold-left:{lost.job.id}:{lost.product}:{lost.group}"
    platform = lost.site.running.platform
    assert await lost.site.running.inside(platform.holds.set_left_behind(key.removeprefix("hold-left:")))

    async def listed() -> list[str]:
        return [each["key"] for each in (await lost.site.http.get("/_/lifecycle/problems")).json()]

    async def is_listed() -> bool:
        return key in await listed()

    await until(is_listed)
    await lost.site.runs.open(lost.job.id, lost.move(bind=False))

    async def is_over() -> bool:
        return key not in await listed()

    await until(is_over)


async def test_without_temporal_nothing_is_decided(new_site: Any, upstream: Any) -> None:
    site = await new_site()
    tenant, product = await site.wired(upstream.url)
    job = await site.job(tenant, await site.register(f"{product}-2.0.0"))
    await job.held(f"{product}-2.0.0", group=f"1-{product}")
    await job.finish()
    found = await site.http.post(f"/_/runs/{job.id}/resolve", json={"decision": "old"})
    assert (found.status_code, "does not answer, ask again" in found.text) == (503, True), found.text


async def rows(lost: Lost, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(lost.site.dsn)
    try:
        return [tuple(row) for row in await connection.fetch(sql, *arguments)]
    finally:
        await connection.close()


async def test_the_standing_of_the_second_of_two_upgrades_is_its_own(place: Any, name: Any) -> None:
    """Not that of the first, which ended well (requirement D2)."""
    product = name("m")
    accepts = {"metadata": {"uplift": {"upgrade_from": ">=2.0"}}}
    first, between, new = [
        await place.register(f"{product}-{n}.0.0", provides=SYSTEM, **(accepts if n == 3 else {})) for n in (1, 2, 3)
    ]
    job = await place.job(await place.tenant(first), new)
    intent = IntentRequest(key=f"{job.id}:{product}:init", product=product, subject=between, module=between, instance="i")
    await place.runs.begin_intent(job.id, intent)
    done = InitReport(state="ended", subject=between, effect="done", outcome="upgraded", data_version=between)
    await place.runs.report_init(job.id, intent.key, done)
    copy = Snapshot(
        id=f"{job.id}-{product}",
        job=job.id,
        tenant=job.tenant,
        product=product,
        node="n",
        dsn="env:X",
        schema_name="s",
        path="/s",
    )
    await place.runs.add_snapshot(copy)
    await job.held(new, group=f"2-{product}")
    (held,) = (await place.http.get(f"/_/runs/{job.id}/resolve")).json()["held"]

    assert (held["old"], held["new"], held["init"], held["copy"]) == (between, new, "not asked for", None)
