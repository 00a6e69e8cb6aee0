"""Groups at the gateway: versions in between, all at once, and what is asked through as it goes (requirements B1, B8, C3, D2)."""

from typing import Any

import pytest

from gateway_client import FinishRequest, InitReport, IntentRequest, MoveRequest, OpenRequest, OverlayRequest
from upgrade_core.ids import product_of

SYSTEM = {
    "id": "_tenant",
    "version": "2.0",
    "interfaceType": "system",
    "handlers": [{"methods": ["POST"], "pathPattern": "/_/tenant"}],
}


async def three(site: Any, product: str, instance: str | None = None) -> list[str]:
    """Three versions of a product, of which the third asks for data of the second at least."""
    handlers = [{"methods": ["*"], "pathPattern": f"/{product}*", "permissionsRequired": []}]
    provides = [{"id": product, "version": "1.0", "handlers": handlers}, SYSTEM]
    accepts = {"metadata": {"uplift": {"upgrade_from": ">=2.0"}}}
    return [
        await site.register(f"{product}-{n}.0.0", instance, provides=provides, **(accepts if n == 3 else {})) for n in (1, 2, 3)
    ]


async def line(site: Any, job: Any) -> dict[str, Any]:
    """The one line of a job."""
    (found,) = (await site.http.get(f"/_/proxy/tenants/{job.tenant}/install/{job.id}")).json()["modules"]
    return dict(found)


async def test_a_version_in_between_is_told_on_the_line_that_goes_by_it(site: Any, name: Any) -> None:
    """Okapi's answer does not know it: the line is the one that was asked for."""
    old, between, new = await three(site, name("m"))
    job = await site.job(await site.tenant(old), new)
    begun = await line(site, job)
    await job.held(between, group="1")
    held = await line(site, job)
    await job.switch(between, group="1")
    reached = await line(site, job)
    await job.held(new, group="2")
    await job.switch(new, group="2")
    done = await line(site, job)

    assert begun == {"id": new, "from": old, "action": "enable", "via": [between], "stage": "pending"}
    assert held["stage"] == "invoke"
    assert (reached["stage"], reached["reached"]) == ("pending", between)
    assert done["stage"] == "done"


async def test_what_a_version_in_between_says_at_tenant_init_is_told_on_that_line(site: Any, name: Any) -> None:
    old, between, new = await three(site, name("m"))
    job = await site.job(await site.tenant(old), new)
    intent = IntentRequest(key=f"{job.id}:1", product=product_of(new), subject=between, module=between, instance="i")
    await site.runs.begin_intent(job.id, intent)
    failed = InitReport(state="ended", subject=between, effect="failed", outcome="failed", errors=("row 7 is odd",))
    await site.runs.report_init(job.id, intent.key, failed)

    await site.runs.set_phase(job.id, "undoing", subject=between, message="undone, since it failed")
    told = await line(site, job)

    assert (told["errors"][0]["message"], told["message"]) == ("row 7 is odd", "row 7 is odd")


async def test_the_answer_of_an_install_has_no_line_and_no_member_for_a_version_in_between(site: Any, name: Any) -> None:
    old, _, new = await three(site, name("m"))
    tenant = await site.tenant(old)
    found = await site.http.post(f"/_/proxy/tenants/{tenant}/install?simulate=true", json=[{"id": new}])
    assert found.json() == [{"id": new, "from": old, "action": "enable"}]


async def test_each_of_two_upgrades_in_one_job_has_a_prefix_of_its_own_and_the_first_stays_an_alias(
    site: Any, name: Any, upstream: Any
) -> None:
    """The version in between was given its prefix as X-Okapi-Url, and may use it as long as the tenant has the product."""
    old, between, new = await three(site, name("m"), upstream.url)
    job = await site.job(await site.tenant(old), new)
    await job.held(between, group="1")
    first = await job.overlay(between)
    await job.switch(between, group="1")
    await job.held(new, group="2")
    second = await job.overlay(new)
    again = await job.overlay(new)
    await site.runs.close_overlay(job.id, product_of(new))
    closed = await site.http.get(f"{second}/{product_of(new)}")
    await job.resume(new, group="2")

    assert first != second == again
    assert closed.status_code == 404
    assert (await site.http.get(f"{first}/{product_of(new)}")).status_code == 200


async def test_what_leaves_is_asked_through_a_prefix_that_ends_with_it(site: Any, name: Any, upstream: Any) -> None:
    """It reaches what comes in the same group, though that is held; nothing of it is left behind (requirement D2)."""
    leaving, coming = name("m"), name("n")
    gone = await site.register(f"{leaving}-1.0.0", upstream.url)
    old, new = [await site.register(f"{coming}-{n}.0.0", upstream.url) for n in (1, 2)]
    tenant = await site.tenant(gone, old)
    wire = [{"id": new}, {"id": gone, "action": "disable"}]
    found = await site.http.post(f"/_/proxy/tenants/{tenant}/install?async=true&mode=atomic", json=wire)
    job = found.headers["Location"].rsplit("/", 1)[1]
    await site.runs.begin(job)
    url = (await site.runs.open_overlay(job, OverlayRequest(product=leaving, module=gone))).url
    await site.runs.open_overlay(job, OverlayRequest(product=coming, module=new))
    reached = await site.http.get(f"{url}/{coming}")
    moves = (
        MoveRequest(product=coming, subject=new, bind=True, module=new),
        MoveRequest(product=leaving, subject=gone, bind=True, module=None),
    )
    await site.runs.open(job, OpenRequest(group="g", moves=moves))

    assert reached.status_code == 200
    assert (await site.http.get(f"{url}/{coming}")).text == "No such overlay"


async def test_a_line_whose_tenant_init_was_undone_does_not_say_that_it_went_well(site: Any, name: Any) -> None:
    """Another change of its group failed (requirement C3)."""
    product = name("m")
    old, new = [await site.register(f"{product}-{n}.0.0", provides=[SYSTEM]) for n in (1, 2)]
    job = await site.job(await site.tenant(old), new)
    intent = IntentRequest(key=f"{job.id}:1", product=product, subject=new, module=new, instance="i")
    await site.runs.begin_intent(job.id, intent)
    done = InitReport(state="ended", subject=new, effect="done", outcome="upgraded", data_version=new)
    await site.runs.report_init(job.id, intent.key, done)
    before = (await line(site, job))["outcome"]
    await site.runs.set_data_version(job.id, product, old)

    assert (before, (await line(site, job))["outcome"]) == ("upgraded", "undone")


async def test_all_at_once_is_one_group_and_the_job_says_so(site: Any, name: Any) -> None:
    modules = [await site.register(f"{name('m')}-1.0.0") for _ in range(3)]
    tenant = await site.tenant()
    groups, modes = [], []
    for query in ("", "&mode=rolling", "&mode=atomic"):
        found = await site.http.post(
            f"/_/proxy/tenants/{tenant}/install?async=true{query}", json=[{"id": module} for module in modules]
        )
        path = found.headers["Location"]
        begun = await site.runs.begin(path.rsplit("/", 1)[1])
        groups.append([len(group.changes) for group in begun.plan.groups])
        modes.append((await site.http.get(path)).json()["mode"])
        await site.runs.finish(path.rsplit("/", 1)[1], FinishRequest(outcome="aborted"))

    assert groups == [[1, 1, 1], [1, 1, 1], [3]]
    assert modes == ["rolling", "rolling", "atomic"]


async def test_all_at_once_leaves_no_time_for_a_version_in_between(site: Any, name: Any) -> None:
    old, between, new = await three(site, name("m"))
    tenant = await site.tenant(old)
    found = await site.http.post(f"/_/proxy/tenants/{tenant}/install?mode=atomic", json=[{"id": new}])
    assert (found.status_code, f"upgrade to {between} before, since all at once is asked for" in found.text) == (400, True)


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("mode=all", "Bad value for parameter mode: all; one of rolling, atomic"),
        ("mode=", "Bad value for parameter mode: ; one of rolling, atomic"),
        ("mode=atomic&depCheck=false", "Install Option mode can not be atomic when Install Option depCheck is false"),
    ],
)
async def test_a_bad_mode_is_refused_and_makes_no_job(site: Any, name: Any, query: str, text: str) -> None:
    tenant, module = await site.tenant(), await site.register(f"{name('m')}-1.0.0")
    found = await site.http.post(f"/_/proxy/tenants/{tenant}/install?{query}", json=[{"id": module}])
    assert (found.status_code, text in found.text) == (400, True), found.text
    assert (await site.http.get(f"/_/proxy/tenants/{tenant}/install")).json() == []
