"""`…/modules`, `…/install` and `…/upgrade` (requirements B4, B5, B7, C1-C3). Temporal is away: this test is every job's run."""

import asyncio
import json
import logging
import signal
from typing import Any

import pytest

from gateway_client import FinishRequest, GatewayRefused, InitReport, IntentRequest, MoveRequest, Notice, OpenRequest


def product_of(module: str) -> str:
    return module.rsplit("-", 1)[0]


async def running_job(site: Any, tenant: str) -> dict[str, Any] | None:
    jobs = (await site.http.get(f"/_/proxy/tenants/{tenant}/install")).json()
    return next((job for job in jobs if job["status"] == "running"), None)


async def run(site: Any, until: Any, tenant: str) -> str:
    """Do what the tenant's job asks for."""
    job = await until(lambda: running_job(site, tenant))
    moves = tuple(
        MoveRequest(
            product=product_of(line["id"]),
            subject=line["id"],
            bind=True,
            module=line["id"] if line["action"] == "enable" else None,
        )
        for line in job["modules"]
    )
    await site.runs.begin(job["id"])
    await site.runs.open(job["id"], OpenRequest(group="g", moves=moves))
    await site.runs.finish(job["id"], FinishRequest(outcome="done"))
    return str(job["id"])


@pytest.fixture
async def pair(site: Any, name: Any) -> tuple[str, str]:
    """Two versions of one product."""
    product = name("m")
    return await site.register(f"{product}-1.0.0"), await site.register(f"{product}-1.1.0")


async def enabled(site: Any, tenant: str) -> list[str]:
    return [module["id"] for module in (await site.http.get(f"/_/proxy/tenants/{tenant}/modules")).json()]


# Bindings


async def test_a_binding_is_made_and_moved_by_two_posts_each_answering_its_place(
    site: Any, until: Any, pair: tuple[str, str]
) -> None:
    old, new = pair
    tenant = await site.tenant()
    base = f"/_/proxy/tenants/{tenant}/modules"
    call = asyncio.create_task(site.http.post(base, json={"id": old}))
    await run(site, until, tenant)
    found = await call
    assert (found.status_code, found.json(), found.headers["Location"]) == (201, {"id": old}, f"{base}/{old}")
    assert (await site.http.get(found.headers["Location"])).json() == {"id": old}
    call = asyncio.create_task(site.http.post(f"{base}/{old}?invoke=false", json={"id": new}))
    await run(site, until, tenant)
    found = await call
    assert (found.status_code, found.json(), found.headers["Location"]) == (201, {"id": new}, f"{base}/{new}")
    assert (await site.http.get(found.headers["Location"])).json() == {"id": new}
    assert await enabled(site, tenant) == [new]
    gone = await site.http.get(f"{base}/{old}")
    assert (gone.status_code, gone.text) == (404, old)


async def test_of_the_line_of_an_install_that_a_binding_is_told_only_the_id_counts(
    site: Any, until: Any, pair: tuple[str, str]
) -> None:
    old, new = pair
    tenant = await site.tenant(old)
    line = {"id": new, "from": "nobody-1.0.0", "action": "disable", "stage": "done", "message": "no"}
    call = asyncio.create_task(site.http.post(f"/_/proxy/tenants/{tenant}/modules/{old}", json=line))
    await run(site, until, tenant)
    found = await call
    assert (found.status_code, found.json(), await enabled(site, tenant)) == (201, {"id": new}, [new])


async def test_a_product_alone_means_its_newest_version(site: Any, until: Any, pair: tuple[str, str]) -> None:
    tenant = await site.tenant()
    call = asyncio.create_task(site.http.post(f"/_/proxy/tenants/{tenant}/modules", json={"id": product_of(pair[0])}))
    await run(site, until, tenant)
    assert (await call).json() == {"id": pair[1]}


async def test_a_product_alone_means_the_newest_version_that_may_be_chosen(site: Any, until: Any, name: Any) -> None:
    product = name("m")
    release, candidate = [await site.register(f"{product}-{version}") for version in ("1.0.0", "1.1.0-rc.1")]
    tenant = await site.tenant()
    base = f"/_/proxy/tenants/{tenant}/modules"
    found = await site.http.post(f"{base}?preRelease=only&npmSnapshot=nonsense", json={"id": product})
    assert (found.status_code, "npmSnapshot" in found.text) == (400, True)
    for query, chosen in (("?preRelease=false", release), ("?preRelease=only", candidate)):
        call = asyncio.create_task(site.http.post(base + query, json={"id": product}))
        await run(site, until, tenant)
        assert (await call).json() == {"id": chosen}
    found = await site.http.post(f"{base}?preRelease=false", json={"id": product})
    assert (found.status_code, found.text) == (400, f"Module {candidate} already provided")  # what is enabled is always seen
    only_candidates = product_of(await site.register(f"{name('m')}-1.0.0-rc.1"))
    found = await site.http.post(f"{base}?preRelease=false", json={"id": only_candidates})
    assert (found.status_code, found.text) == (404, only_candidates)


async def test_a_binding_is_removed_and_answered_204(site: Any, until: Any, pair: tuple[str, str]) -> None:
    tenant = await site.tenant(pair[0])
    call = asyncio.create_task(site.http.delete(f"/_/proxy/tenants/{tenant}/modules/{pair[0]}"))
    await run(site, until, tenant)
    assert ((await call).status_code, await enabled(site, tenant)) == (204, [])


async def test_all_bindings_are_removed_in_one_call(site: Any, until: Any, name: Any, pair: tuple[str, str]) -> None:
    other = await site.register(f"{name('m')}-1.0.0")
    tenant = await site.tenant(pair[0], other)
    call = asyncio.create_task(site.http.delete(f"/_/proxy/tenants/{tenant}/modules"))
    await run(site, until, tenant)
    assert ((await call).status_code, await enabled(site, tenant)) == (204, [])
    assert (await site.http.delete(f"/_/proxy/tenants/{tenant}/modules")).status_code == 204


async def test_what_binding_calls_refuse(site: Any, name: Any, pair: tuple[str, str]) -> None:
    old, new = pair
    other = await site.register(f"{name('m')}-1.0.0")
    tenant = await site.tenant(old)
    base = f"/_/proxy/tenants/{tenant}/modules"
    for method, path, wire, status, text in (
        ("POST", base, {"id": old}, 400, f"Module {old} already provided"),
        ("POST", base, {"id": "nobody-1.0.0"}, 404, "nobody-1.0.0"),
        ("POST", base, {"id": "nobody"}, 404, "nobody"),
        ("POST", base, {}, 400, "id"),
        ("POST", base, {"id": old, "mood": "good"}, 400, "mood"),
        ("POST", f"{base}/{new}", {"id": old}, 404, new),
        ("POST", f"{base}/{old}", {"id": old}, 400, f"Module {old} already provided"),
        ("POST", f"{base}/{old}", {"id": other}, 400, f"{other} is no version of {product_of(old)}"),
        ("POST", f"{base}?purge=true", {"id": other}, 400, "purge"),
        ("POST", f"{base}?parallel=0", {"id": other}, 400, "parallel must be 1 or higher"),
        ("DELETE", f"{base}/nobody-1.0.0", None, 404, "nobody-1.0.0"),
        ("GET", f"{base}/{new}", None, 404, new),
    ):
        found = await site.http.request(method, path, json=wire)
        assert (found.status_code, text in found.text) == (status, True), (method, path, wire, found.text)
    assert await running_job(site, tenant) is None


async def test_a_binding_that_fails_answers_the_modules_error(site: Any, until: Any, pair: tuple[str, str]) -> None:
    old, _ = pair
    tenant = await site.tenant()
    call = asyncio.create_task(site.http.post(f"/_/proxy/tenants/{tenant}/modules", json={"id": old}))
    job = (await until(lambda: running_job(site, tenant)))["id"]
    await site.runs.begin(job)
    intent = IntentRequest(key=f"{job}-k", product=product_of(old), module=old, instance="i", subject=old)
    await site.runs.begin_intent(job, intent)
    report = InitReport(state="ended", subject=old, outcome="400", errors=("no such reference data",), warnings=("slow",))
    await site.runs.report_init(job, intent.key, report)
    await site.runs.finish(job, FinishRequest(outcome="rolled_back"))
    found = await call
    assert (found.status_code, found.text) == (400, "no such reference data")
    shown = (await site.http.get(f"/_/proxy/tenants/{tenant}/install/{job}")).json()
    line = shown["modules"][0]
    assert (shown["status"], shown["outcome"], shown["complete"]) == ("error", "rolled_back", True)
    assert (line["message"], line["errors"][0]["message"], line["warnings"][0]["message"]) == (
        "no such reference data",
        "no such reference data",
        "slow",
    )
    assert await enabled(site, tenant) == []


async def test_the_modules_of_a_tenant_in_full_for_stripes(site: Any, describe: Any, pair: tuple[str, str]) -> None:
    tenant = await site.tenant(pair[0])
    found = await site.http.get(f"/_/proxy/tenants/{tenant}/modules?full=true")
    assert found.json() == [describe(pair[0])]
    assert (await site.http.get(f"/_/proxy/tenants/{tenant}/modules?filter={product_of(pair[0])}")).json() == [{"id": pair[0]}]


# Jobs


async def test_async_install_answers_a_place_and_the_plan_at_once(site: Any, pair: tuple[str, str]) -> None:
    tenant = await site.tenant(pair[0])
    found = await site.http.post(f"/_/proxy/tenants/{tenant}/install?async=true", json=[{"id": pair[1]}])
    assert found.status_code == 201
    assert found.json() == [{"id": pair[1], "from": pair[0], "action": "enable"}]
    place = found.headers["Location"]
    job = (await site.http.get(place)).json()
    assert place == f"/_/proxy/tenants/{tenant}/install/{job['id']}"
    assert (job["complete"], job["status"], job["errors"], job["warnings"]) == (False, "running", [], [])
    assert job["startDate"].endswith(("Z", "+00:00"))
    assert "endDate" not in job


async def test_sync_install_answers_the_whole_list_when_it_is_done(site: Any, until: Any, pair: tuple[str, str]) -> None:
    tenant = await site.tenant()
    call = asyncio.create_task(site.http.post(f"/_/proxy/tenants/{tenant}/install", json=[{"id": pair[0], "action": "enable"}]))
    job = await run(site, until, tenant)
    found = await call
    assert (found.status_code, found.json()) == (200, [{"id": pair[0], "action": "enable"}])
    shown = (await site.http.get(f"/_/proxy/tenants/{tenant}/install/{job}")).json()
    assert (shown["complete"], shown["status"], shown["outcome"]) == (True, "done", "done")
    assert shown["endDate"] >= shown["startDate"]


async def fail(site: Any, job: str, module: str, *errors: str) -> None:
    """Tenant init of a module fails, and what its group did is taken back."""
    intent = IntentRequest(key=f"{job}-{module}", product=product_of(module), module=module, instance="i", subject=module)
    await site.runs.begin_intent(job, intent)
    await site.runs.report_init(job, intent.key, InitReport(state="ended", subject=module, outcome="failed", errors=errors))


async def test_where_errors_are_ignored_sync_install_answers_every_line_and_what_it_failed_for(
    site: Any, until: Any, name: Any
) -> None:
    first, broken, last = [await site.register(f"{name('m')}-1.0.0") for _ in range(3)]
    user = await site.register(f"{name('m')}-1.0.0", requires=[{"id": product_of(broken), "version": "1.0"}])
    tenant = await site.tenant()
    path = f"/_/proxy/tenants/{tenant}/install?ignoreErrors=true"
    call = asyncio.create_task(site.http.post(path, json=[{"id": module} for module in (first, broken, user, last)]))
    job = (await until(lambda: running_job(site, tenant)))["id"]
    await site.runs.begin(job)
    await fail(site, job, broken, "no such reference data")
    for module in (first, last):
        move = MoveRequest(product=product_of(module), subject=module, bind=True, module=module)
        await site.runs.open(job, OpenRequest(group=module, moves=(move,)))
    await site.runs.finish(job, FinishRequest(outcome="rolled_back", errors=(Notice(message="no such reference data"),)))

    found = await call

    assert (found.status_code, found.headers["Location"].rsplit("/", 1)[1]) == (200, job)
    assert found.json() == [
        {"id": first, "action": "enable"},
        {"id": broken, "action": "enable", "message": "no such reference data"},
        {"id": user, "action": "enable", "message": "not started: what it needs has failed"},
        {"id": last, "action": "enable"},
    ]


@pytest.mark.parametrize("outcome", ["aborted", "rollback_failed", "failed"])
async def test_what_is_more_than_a_failed_module_is_an_error_though_errors_are_ignored(
    site: Any, until: Any, pair: tuple[str, str], outcome: str
) -> None:
    tenant = await site.tenant()
    call = asyncio.create_task(site.http.post(f"/_/proxy/tenants/{tenant}/install?ignoreErrors=true", json=[{"id": pair[0]}]))
    job = (await until(lambda: running_job(site, tenant)))["id"]
    await site.runs.begin(job)
    await site.runs.finish(job, FinishRequest(outcome=outcome, errors=(Notice(message="as told"),)))
    assert ((await call).status_code, (await call).text) == (400, "as told")


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("POST request for m-1.0.0 /_/tenant failed with 400: no", 400),
        ("No running instances for module m-1.0.0. Can not invoke /_/tenant", 400),
        ("Tenant operation failed for module m-1.0.0: the job broke", 500),
        ("Missing id property in JSON response for module m-1.0.0: POST /_/tenant", 500),
        ("Missing DELETE method for tenant interface version 2 for module m-1.0.0", 500),
        ("Unexpected Location header in response for module m-1.0.0: POST /_/tenant", 500),
    ],
)
async def test_sync_install_answers_the_first_error_with_okapis_status(
    site: Any, until: Any, pair: tuple[str, str], text: str, status: int
) -> None:
    tenant = await site.tenant()
    call = asyncio.create_task(site.http.post(f"/_/proxy/tenants/{tenant}/install", json=[{"id": pair[0]}]))
    job = (await until(lambda: running_job(site, tenant)))["id"]
    await site.runs.begin(job)
    await fail(site, job, pair[0], text)
    await site.runs.finish(job, FinishRequest(outcome="rolled_back"))
    assert ((await call).status_code, (await call).text) == (status, text)


@pytest.mark.parametrize("route", ["install", "modules"])
async def test_a_job_goes_on_to_its_end_when_its_client_has_left(
    new_site: Any, until: Any, name: Any, caplog: pytest.LogCaptureFixture, route: str
) -> None:
    caplog.set_level(logging.INFO, "gateway.access")
    site = await new_site(access_log=True)
    module, tenant = await site.register(f"{name('m')}-1.0.0"), await site.tenant()
    path = f"/_/proxy/tenants/{tenant}/{route}"
    body = json.dumps([{"id": module}] if route == "install" else {"id": module})
    _, writer = await site.connect()
    writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    await until(lambda: running_job(site, tenant))
    writer.transport.abort()
    await until(lambda: f"POST {path} left" in caplog.text)
    job = await run(site, until, tenant)
    ended = (await site.http.get(f"/_/proxy/tenants/{tenant}/install/{job}")).json()
    assert (ended["status"], "abortRequested" in ended, await enabled(site, tenant)) == ("done", False, [module])


async def test_upgrade_takes_every_module_to_its_newest_version(site: Any, until: Any, pair: tuple[str, str]) -> None:
    tenant = await site.tenant(pair[0])
    call = asyncio.create_task(site.http.post(f"/_/proxy/tenants/{tenant}/upgrade"))
    await run(site, until, tenant)
    assert (await call).json() == [{"id": pair[1], "from": pair[0], "action": "enable"}]
    assert await enabled(site, tenant) == [pair[1]]


async def test_upgrade_must_not_have_a_body(site: Any) -> None:
    found = await site.http.post(f"/_/proxy/tenants/{await site.tenant()}/upgrade", json=[])
    assert 400 <= found.status_code < 500
    assert found.text.startswith("/_/proxy/tenants/{tenant_id}/upgrade (upgrading to latest version) must not have a body.")


async def test_the_row_is_there_before_the_run_and_outlives_a_kill_of_the_gateway(
    gateway_process: Any, site_of: Any, name: Any
) -> None:
    running = gateway_process()
    await asyncio.to_thread(running.start)
    site = site_of(running.url)
    module, tenant = await site.register(f"{name('m')}-1.0.0"), await site.tenant()
    found = await site.http.post(f"/_/proxy/tenants/{tenant}/install?async=true&tenantParameters=a%3Db", json=[{"id": module}])
    await asyncio.to_thread(running.end, signal.SIGKILL)
    await asyncio.to_thread(running.start)
    job = (await site.http.get(found.headers["Location"])).json()
    assert (job["status"], "run" in job) == ("running", False)
    begun = await site.runs.begin(job["id"])
    assert (begun.tenant, begun.parameters) == (tenant, (("a", "b"),))
    await site.close()


async def test_one_job_of_a_tenant_has_its_turn_and_the_others_wait_visibly(site: Any, pair: tuple[str, str]) -> None:
    tenant = await site.tenant()
    places = [
        (await site.http.post(f"/_/proxy/tenants/{tenant}/install?async=true", json=[{"id": module}])).headers["Location"]
        for module in pair
    ]
    rows = await site.running.inside(site.running.platform.jobs.of_tenant(tenant))
    assert [row.state for row in rows] == ["active", "queued"]
    listed = (await site.http.get(f"/_/proxy/tenants/{tenant}/install")).json()
    assert [job["id"] for job in listed] == [place.rsplit("/", 1)[1] for place in places]
    assert [(job["status"], job["phase"]) for job in listed] == [("running", "queued")] * 2
    await site.runs.finish(listed[0]["id"], FinishRequest(outcome="done"))
    rows = await site.running.inside(site.running.platform.jobs.of_tenant(tenant))
    assert [row.state for row in rows] == ["ended", "active"]


async def test_the_plan_is_made_again_when_a_jobs_turn_has_come_and_then_stays(site: Any, pair: tuple[str, str]) -> None:
    old, new = pair
    tenant = await site.tenant()
    first = await site.job(tenant, old)
    found = await site.http.post(f"/_/proxy/tenants/{tenant}/install?async=true", json=[{"id": new}])
    assert found.json() == [{"id": new, "action": "enable"}]
    await first.switch(old)
    await first.finish()
    second = found.headers["Location"].rsplit("/", 1)[1]
    begun = await site.runs.begin(second)
    assert (await site.http.get(found.headers["Location"])).json()["modules"][0]["from"] == old
    assert await site.runs.begin(second) == begun


async def test_a_job_that_never_started_is_aborted_at_once(site: Any, pair: tuple[str, str]) -> None:
    tenant = await site.tenant()
    found = await site.http.post(f"/_/proxy/tenants/{tenant}/install?async=true", json=[{"id": pair[0]}])
    place = found.headers["Location"]
    aborted = await site.http.delete(place)
    assert aborted.status_code == 202
    job = (await site.http.get(place)).json()
    assert (job["status"], job["outcome"], job["complete"]) == ("error", "aborted", True)
    assert job["errors"][0]["message"] == "aborted before it started"
    assert await enabled(site, tenant) == []


async def test_a_run_that_began_while_its_job_was_aborted_does_not_change_the_record(site: Any, pair: tuple[str, str]) -> None:
    """Requirement C2: the record says how the job ended, whatever its run says afterwards."""
    tenant = await site.tenant()
    place = (await site.http.post(f"/_/proxy/tenants/{tenant}/install?async=true", json=[{"id": pair[0]}])).headers["Location"]
    await site.http.delete(place)
    ended = (await site.http.get(place)).json()
    job = ended["id"]

    with pytest.raises(GatewayRefused, match="has ended"):
        await site.runs.begin(job)
    await site.runs.set_phase(job, "undoing", subject=pair[0], message="it failed")

    assert (await site.http.get(place)).json() == ended


async def test_aborting_a_job_that_waits_for_an_answer_answers_it(site: Any, until: Any, pair: tuple[str, str]) -> None:
    tenant = await site.tenant()
    call = asyncio.create_task(site.http.post(f"/_/proxy/tenants/{tenant}/modules", json={"id": pair[0]}))
    job = (await until(lambda: running_job(site, tenant)))["id"]
    await site.http.delete(f"/_/proxy/tenants/{tenant}/install/{job}")
    found = await asyncio.wait_for(call, 5)
    assert (found.status_code, found.text) == (400, "aborted before it started")


async def test_deleting_an_ended_job_removes_its_record(site: Any, pair: tuple[str, str]) -> None:
    tenant = await site.tenant(pair[0])
    (job,) = (await site.http.get(f"/_/proxy/tenants/{tenant}/install")).json()
    place = f"/_/proxy/tenants/{tenant}/install/{job['id']}"
    assert (await site.http.delete(place)).status_code == 204
    for method in ("GET", "DELETE"):
        found = await site.http.request(method, place)
        assert (found.status_code, found.text) == (404, f"{tenant}/{job['id']}")


async def test_deleting_all_jobs_removes_the_records_of_ended_ones_only(site: Any, pair: tuple[str, str]) -> None:
    tenant = await site.tenant(pair[0])
    running = await site.job(tenant, pair[1])
    assert (await site.http.delete(f"/_/proxy/tenants/{tenant}/install")).status_code == 204
    assert [job["id"] for job in (await site.http.get(f"/_/proxy/tenants/{tenant}/install")).json()] == [running.id]


async def test_a_job_of_another_tenant_is_not_found(site: Any, pair: tuple[str, str]) -> None:
    job = await site.job(await site.tenant(), pair[0])
    other = await site.tenant()
    for method in ("GET", "DELETE"):
        found = await site.http.request(method, f"/_/proxy/tenants/{other}/install/{job.id}")
        assert (found.status_code, found.text) == (404, f"{other}/{job.id}")


async def test_finishing_twice_keeps_the_first_end(site: Any, pair: tuple[str, str]) -> None:
    tenant = await site.tenant()
    job = await site.job(tenant, pair[0])
    notice = Notice(message="it broke", type="Broken", code="broken", parameters=({"key": "a", "value": "b"},))
    await site.runs.finish(job.id, FinishRequest(outcome="rolled_back", errors=(notice,), warnings=(notice,)))
    await site.runs.finish(job.id, FinishRequest(outcome="done"))
    shown = (await site.http.get(f"/_/proxy/tenants/{tenant}/install/{job.id}")).json()
    assert (shown["status"], shown["outcome"]) == ("error", "rolled_back")
    assert shown["errors"] == shown["warnings"] == [notice.model_dump(mode="json")]


async def test_a_data_version_that_is_no_module_id_is_refused(site: Any, pair: tuple[str, str]) -> None:
    """It would be kept, and no later plan of the tenant could read it."""
    job = await site.job(await site.tenant(), pair[0])
    with pytest.raises(GatewayRefused, match="Missing semantic version for: m"):
        await site.runs.set_data_version(job.id, "m", "m")


async def test_a_job_shows_its_phase_and_its_modules_stages(site: Any, pair: tuple[str, str]) -> None:
    tenant = await site.tenant()
    job = await site.job(tenant, pair[0])
    await site.runs.set_phase(job.id, "copying", subject=pair[0], stage="invoke")
    shown = (await site.http.get(f"/_/proxy/tenants/{tenant}/install/{job.id}")).json()
    assert (shown["phase"], shown["modules"][0]["stage"]) == ("copying", "invoke")


async def test_a_job_shows_how_long_it_held(site: Any, pair: tuple[str, str]) -> None:
    tenant = await site.tenant(pair[0])
    job = await site.job(tenant, pair[1])
    await job.held(pair[1])
    await asyncio.sleep(0.1)
    await job.switch(pair[1])
    shown = (await site.http.get(f"/_/proxy/tenants/{tenant}/install/{job.id}")).json()
    assert shown["heldSeconds"] >= 0.1


async def test_an_ended_job_that_left_a_hold_behind_says_so_and_its_record_stays(site: Any, pair: tuple[str, str]) -> None:
    tenant = await site.tenant(pair[0])
    job = await site.job(tenant, pair[1])
    (state,) = await job.held(pair[1])
    await job.finish()
    place = f"/_/proxy/tenants/{tenant}/install/{job.id}"
    shown = (await site.http.get(place)).json()
    assert (shown["status"], state.id in str(shown["errors"])) == ("error", True)
    assert (await site.http.delete(place)).status_code == 409
    assert (await site.http.delete(f"/_/proxy/tenants/{tenant}/install")).status_code == 204
    assert (await site.http.get(place)).status_code == 200
    assert (await site.http.delete(f"/_/proxy/tenants/{tenant}")).status_code == 409
    await job.resume(pair[1])
    assert (await site.http.delete(place)).status_code == 204


# Options


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("async=1", "Bad boolean for parameter async: 1"),
        ("simulate=yes", "Bad boolean for parameter simulate: yes"),
        ("dryRun=x", "Bad boolean for parameter dryRun: x"),
        ("deploy=TRUE", "Bad boolean for parameter deploy: TRUE"),
        ("purge=", "Bad boolean for parameter purge: "),
        ("ignoreErrors=0", "Bad boolean for parameter ignoreErrors: 0"),
        ("reinstall=x", "Bad boolean for parameter reinstall: x"),
        ("depCheck=x", "Bad boolean for parameter depCheck: x"),
        ("parallel=0", "parallel must be 1 or higher"),
        ("parallel=-3", "parallel must be 1 or higher"),
        ("parallel=x", "Bad integer for parameter 'parallel'"),
        ("parallel=1.5", "Bad integer for parameter 'parallel'"),
        ("parallel=99999999999999999999", "parallel"),
        (
            "parallel=2&depCheck=false",
            "Install Option parallel can not be greater than 1 when Install Option depCheck is false",
        ),
        ("preRelease=x", 'Expected "true", "false", "only" or undefined/null for parameter preRelease, but got: x'),
        ("npmSnapshot=x", 'Expected "true", "false", "only" or undefined/null for parameter npmSnapshot, but got: x'),
        ("invoke=(", "Bad regular expression for parameter invoke: missing )"),
        ("invoke=a{99999999999999999999}", "Bad regular expression for parameter invoke: "),
        (f"invoke={'(' * 1400}", "Bad regular expression for parameter invoke: "),
        ("invoke=([a-z0-9.-]%2B)%2B!", "Bad regular expression for parameter invoke: "),
        ("undo=magic", "Bad value for parameter undo: magic"),
        ("tenantParameters=%00", "tenantParameters"),
        ("purge=true", "purge"),
    ],
)
async def test_a_bad_option_is_named_and_makes_no_job(site: Any, pair: tuple[str, str], query: str, text: str) -> None:
    tenant = await site.tenant()
    found = await site.http.post(f"/_/proxy/tenants/{tenant}/install?{query}", json=[{"id": pair[0]}])
    assert (found.status_code, text in found.text) == (400, True), found.text
    assert (await site.http.get(f"/_/proxy/tenants/{tenant}/install")).json() == []


@pytest.mark.parametrize(
    ("wire", "text"),
    [
        ([{"id": "nobody-1.0.0"}], "Module nobody-1.0.0 not found"),
        ([{"id": "nobody-1.0.0", "action": "disable"}], "Module nobody-1.0.0 not found"),
        ([{"id": "nobody-1.0.0", "action": "delete"}], "action"),
        ([{"action": "enable"}], "id"),
        ({"id": "nobody-1.0.0"}, ""),
        ("text", ""),
        ([{"id": "nobody-1.0.0", "extra": 1}], "extra: unknown member"),
    ],
)
async def test_a_bad_request_is_refused_and_makes_no_job(site: Any, wire: Any, text: str) -> None:
    tenant = await site.tenant()
    found = await site.http.post(f"/_/proxy/tenants/{tenant}/install?async=true", json=wire)
    assert (found.status_code, text in found.text) == (400, True), found.text
    assert (await site.http.get(f"/_/proxy/tenants/{tenant}/install")).json() == []


async def test_parameters_reach_the_run_with_their_further_equal_signs(site: Any, pair: tuple[str, str]) -> None:
    tenant = await site.tenant()
    for query in ("tenantParameters=a%3Db%3Dc%2Cloud", "tenantParameters=a=b=c,loud"):
        found = await site.http.post(f"/_/proxy/tenants/{tenant}/install?async=true&{query}", json=[{"id": pair[0]}])
        begun = await site.runs.begin(found.headers["Location"].rsplit("/", 1)[1])
        assert begun.parameters == (("a", "b=c"), ("loud", None))
        await site.http.delete(found.headers["Location"])


async def test_a_simulation_makes_no_job_and_its_answer_may_be_sent_back(site: Any, pair: tuple[str, str]) -> None:
    tenant = await site.tenant(pair[0])
    before = len((await site.http.get(f"/_/proxy/tenants/{tenant}/install")).json())
    base = f"/_/proxy/tenants/{tenant}/install"
    found = await site.http.post(f"{base}?simulate=true&async=true", json=[{"id": product_of(pair[0])}])
    assert (found.status_code, found.json()) == (201, [{"id": pair[1], "from": pair[0], "action": "enable"}])
    assert "Location" not in found.headers, "there is no job"
    assert len((await site.http.get(base)).json()) == before
    again = await site.http.post(f"{base}?simulate=true", json=found.json())
    assert again.json() == found.json()
    assert again.headers["X-Uplift-Plan"] == found.headers["X-Uplift-Plan"]


async def test_what_is_up_to_date_is_said_and_harmless(site: Any, pair: tuple[str, str]) -> None:
    tenant = await site.tenant(pair[0])
    found = await site.http.post(f"/_/proxy/tenants/{tenant}/install?simulate=true", json=[{"id": pair[0]}])
    assert found.json() == [{"id": pair[0], "action": "uptodate"}]


async def test_what_is_up_to_date_is_done_in_its_job(site: Any, pair: tuple[str, str]) -> None:
    """Okapi map 5.2: a job went well where every line is done; there is nothing to do for this one."""
    job = await site.job(await site.tenant(pair[0]), pair[0])
    await job.finish()
    ended = (await site.http.get(f"/_/proxy/tenants/{job.tenant}/install/{job.id}")).json()
    assert ended["modules"] == [{"id": pair[0], "action": "uptodate", "stage": "done"}]


async def test_a_request_with_a_plan_is_refused_when_the_world_has_moved(site: Any, pair: tuple[str, str]) -> None:
    old, new = pair
    tenant = await site.tenant()
    base = f"/_/proxy/tenants/{tenant}/install"
    plan = (await site.http.post(f"{base}?simulate=true", json=[{"id": new}])).headers["X-Uplift-Plan"]
    await site.enable(tenant, old)
    found = await site.http.post(f"{base}?async=true&plan={plan}", json=[{"id": new}])
    assert (found.status_code, plan in found.text, "the world has moved" in found.text) == (409, True, True)
    plan = (await site.http.post(f"{base}?dryRun=true", json=[{"id": new}])).headers["X-Uplift-Plan"]
    assert (await site.http.post(f"{base}?async=true&plan={plan}", json=[{"id": new}])).status_code == 201


async def test_an_install_brings_in_what_is_required_and_a_single_binding_does_not(site: Any, name: Any) -> None:
    """As with Okapi."""
    interface, provider, needs = name("i"), f"{name('p')}-1.0.0", f"{name('n')}-1.0.0"
    await site.register(provider, provides=[{"id": interface, "version": "1.0"}])
    await site.register(needs, requires=[{"id": interface, "version": "1.0"}])
    base = f"/_/proxy/tenants/{await site.tenant()}"
    found = await site.http.post(f"{base}/modules", json={"id": needs})
    assert (found.status_code, found.text) == (400, f"interface {interface} required by module {needs} not found")
    for wire in ([{"id": needs}], [{"id": needs}, {"id": provider}]):
        found = await site.http.post(f"{base}/install?simulate=true", json=wire)
        assert found.json() == [{"id": provider, "action": "enable"}, {"id": needs, "action": "enable"}]


async def test_a_requirement_that_nothing_registered_meets_is_refused(site: Any, name: Any) -> None:
    interface, needs = name("i"), f"{name('n')}-1.0.0"
    wire = {"id": needs, "requires": [{"id": interface, "version": "1.0"}]}
    assert (await site.http.post("/_/proxy/modules?check=false", json=wire)).status_code == 201
    found = await site.http.post(f"/_/proxy/tenants/{await site.tenant()}/install", json=[{"id": needs}])
    assert (found.status_code, found.text) == (400, f"interface {interface} required by module {needs} not found")


async def test_disabling_never_purges_and_purging_is_asked_for(site: Any, pair: tuple[str, str]) -> None:
    old = pair[0]
    tenant = await site.tenant(old)
    job = await site.job(tenant, old, action="disable")
    await site.runs.set_data_version(job.id, product_of(old), old)
    begun = await site.runs.begin(job.id)
    assert [change.kind for group in begun.plan.groups for change in group.changes] == ["disable"]
    move = MoveRequest(product=product_of(old), subject=old, bind=True)
    await site.runs.open(job.id, OpenRequest(group="g", moves=(move,)))
    await job.finish()
    wire = [{"id": old, "action": "disable"}]
    found = await site.http.post(f"/_/proxy/tenants/{tenant}/install?async=true&purge=true", json=wire)
    assert found.status_code == 201, found.text
    begun = await site.runs.begin(found.headers["Location"].rsplit("/", 1)[1])
    assert [change.kind for group in begun.plan.groups for change in group.changes] == ["purge"]


async def test_a_data_version_outlives_a_disable_and_is_where_the_next_upgrade_starts(site: Any, pair: tuple[str, str]) -> None:
    old, new = pair
    tenant = await site.tenant(old)
    job = await site.job(tenant, old, action="disable")
    await site.runs.set_data_version(job.id, product_of(old), old)
    await site.runs.open(job.id, OpenRequest(group="g", moves=(MoveRequest(product=product_of(old), subject=old, bind=True),)))
    await job.finish()
    begun = await site.runs.begin((await site.job(tenant, new)).id)
    (change,) = (change for group in begun.plan.groups for change in group.changes)
    assert (change.kind, change.bound, change.version_from, change.version_to) == ("upgrade", None, old, new)


async def test_a_user_id_of_any_bytes_makes_a_job(site: Any, pair: tuple[str, str]) -> None:
    tenant = await site.tenant()
    headers = {"X-Okapi-User-Id": b"\xff\xfe" + b"x" * 500}
    found = await site.http.post(f"/_/proxy/tenants/{tenant}/install?async=true", json=[{"id": pair[0]}], headers=headers)
    assert found.status_code == 201
    assert (await site.runs.begin(found.headers["Location"].rsplit("/", 1)[1])).tenant == tenant
