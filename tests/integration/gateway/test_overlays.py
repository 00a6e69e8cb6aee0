"""Overlays: the secret prefix under which a run reaches the new version while users are held."""

import asyncio
from typing import Any

import pytest

from gateway_client import IntentRequest, MoveRequest, OpenRequest


class Held:
    """A tenant with two modules; the first is held, to be moved to 2.0.0."""

    def __init__(self, site: Any, tenant: str, product: str, other: str, job: Any) -> None:
        self.site, self.tenant, self.product, self.other, self.job = site, tenant, product, other, job
        self.new = f"{product}-2.0.0"


@pytest.fixture
async def servers(new_upstream: Any) -> dict[str, Any]:
    return {name: await new_upstream(name) for name in ("old", "new", "other")}


@pytest.fixture
async def held(site: Any, name: Any, servers: Any) -> Held:
    product, other = name("m"), name("other")
    modules = [
        await site.register(f"{product}-1.0.0", servers["old"].url),
        await site.register(f"{other}-1.0.0", servers["other"].url),
    ]
    tenant = await site.tenant(*modules)
    new = await site.register(f"{product}-2.0.0", servers["new"].url)
    job = await site.job(tenant, new)
    await job.held(new)
    return Held(site, tenant, product, other, job)


async def test_the_prefix_reaches_the_new_version_past_the_hold(held: Held, servers: Any) -> None:
    url = await held.job.overlay(held.new)
    found = await held.site.http.get(f"{url}/{held.product}/a%2F?b")
    assert (found.json()["name"], found.json()["path"]) == ("new", f"/{held.product}/a%2F?b")
    assert servers["new"].requests[0].headers["X-Okapi-Tenant"] == held.tenant
    assert (await held.site.get(held.tenant, f"/{held.product}", Prefer="wait=0")).status_code == 503


async def test_other_modules_answer_under_the_prefix_as_usual(held: Held) -> None:
    url = await held.job.overlay(held.new)
    assert (await held.site.http.get(f"{url}/{held.other}")).json()["name"] == "other"
    assert (await held.site.http.get(f"{url}/nothing")).status_code == 404


@pytest.mark.parametrize("which", ["product", "other"])
async def test_what_is_called_inside_stays_inside(held: Held, servers: Any, which: str) -> None:
    url = await held.job.overlay(held.new)
    await held.site.http.get(f"{url}/{getattr(held, which)}")
    asked = servers["new" if which == "product" else "other"].requests[0]
    assert asked.headers["X-Okapi-Url"] == url


async def test_opening_it_again_gives_the_same_prefix(held: Held) -> None:
    assert await held.job.overlay(held.new) == await held.job.overlay(held.new)


async def test_an_unknown_prefix_is_a_404(site: Any) -> None:
    for path in ("/_/overlay/nonsense/m", "/_/overlay/", "/_/overlay//m"):
        assert (await site.http.get(path)).status_code == 404


async def test_the_prefix_is_not_shown_to_anybody_else(held: Held) -> None:
    token = (await held.job.overlay(held.new)).rsplit("/", 1)[1]
    for path in (f"/_/proxy/tenants/{held.tenant}/install", "/_/lifecycle/links", f"/_/versions/{held.new}"):
        assert token not in (await held.site.http.get(path)).text


async def test_after_the_switch_the_prefix_is_an_alias(held: Held, servers: Any) -> None:
    url = await held.job.overlay(held.new)
    await held.job.switch(held.new)
    assert (await held.site.http.get(f"{url}/{held.product}")).json()["name"] == "new"
    assert servers["new"].requests[-1].headers["X-Okapi-Url"] == held.site.url
    await held.job.finish()
    back = await held.site.job(held.tenant, f"{held.product}-1.0.0")
    await back.held(f"{held.product}-1.0.0")
    assert (await held.site.http.get(f"{url}/{held.product}", headers={"Prefer": "wait=0"})).status_code == 503
    await back.switch(f"{held.product}-1.0.0")
    assert (await held.site.http.get(f"{url}/{held.product}")).json()["name"] == "old"


async def test_an_alias_ends_when_its_tenant_disables_the_product(held: Held) -> None:
    """Requirement D2: nothing is left behind."""
    url = await held.job.overlay(held.new)
    await held.job.switch(held.new)
    await held.job.finish()

    off = await held.site.job(held.tenant, held.product, action="disable")
    gone = MoveRequest(product=held.product, subject=held.new, bind=True, module=None)
    await off.runs.open(off.id, OpenRequest(group="g", moves=(gone,)))

    found = await held.site.http.get(f"{url}/{held.other}")
    assert (found.status_code, found.text) == (404, "No such overlay")


async def test_a_prefix_goes_with_its_tenant(held: Held) -> None:
    """Requirement D2: nothing new is left behind."""
    url = await held.job.overlay(held.new)
    await held.job.switch(held.new)
    await held.job.finish()
    assert (await held.site.http.delete(f"/_/proxy/tenants/{held.tenant}")).status_code == 204
    assert (await held.site.http.get(f"{url}/{held.product}")).status_code == 404


async def test_a_prefix_is_still_there_after_a_restart(new_site: Any, name: Any, servers: Any) -> None:
    first = await new_site()
    product = name("m")
    tenant = await first.tenant(await first.register(f"{product}-1.0.0", servers["old"].url))
    new = await first.register(f"{product}-2.0.0", servers["new"].url)
    job = await first.job(tenant, new)
    await job.held(new)
    path = (await job.overlay(new)).removeprefix(first.url)
    await asyncio.to_thread(first.running.stop)
    second = await new_site(dsn=first.dsn)
    assert (await second.http.get(f"{path}/{product}")).json()["name"] == "new"


async def test_closing_it_cuts_what_is_at_work_and_waits_until_it_is_settled(held: Held, servers: Any, until: Any) -> None:
    new = servers["new"]
    new.answer = new.slowly
    url = await held.job.overlay(held.new)
    request = asyncio.create_task(held.site.http.get(f"{url}/{held.product}"))
    await until(lambda: new.requests)
    begun = asyncio.get_running_loop().time()
    await held.job.runs.close_overlay(held.job.id, held.product)
    assert asyncio.get_running_loop().time() - begun >= held.site.running.settings.settle * 0.9
    assert new.broken == [f"/{held.product}"]
    found = await request
    assert (found.status_code, found.headers["X-Okapi-Lifecycle"]) == (503, "MISSING")
    assert (await held.site.http.get(f"{url}/{held.product}")).status_code == 404
    await held.job.runs.close_overlay(held.job.id, held.product)


async def test_a_member_of_the_group_that_is_not_ready_is_missing_at_once_and_reached_when_it_is(
    site: Any, name: Any, servers: Any
) -> None:
    product, other = name("m"), name("other")
    olds = [await site.register(f"{each}-1.0.0", servers["old"].url) for each in (product, other)]
    tenant = await site.tenant(*olds)
    news = [
        await site.register(f"{product}-2.0.0", servers["new"].url),
        await site.register(f"{other}-2.0.0", servers["other"].url),
    ]
    job = await site.job(tenant, *news)
    await job.held(*news)
    url = await job.overlay(news[0])
    found = await asyncio.wait_for(site.http.get(f"{url}/{other}"), 3)
    assert (found.status_code, found.headers["X-Okapi-Lifecycle"]) == (503, "MISSING")
    second = await job.overlay(news[1])
    assert (await site.http.get(f"{url}/{other}")).json()["name"] == "other"
    assert (await site.http.get(f"{second}/{product}")).json()["name"] == "new"


async def test_the_prefix_reaches_what_only_the_new_version_answers(site: Any, name: Any, servers: Any, describe: Any) -> None:
    product = name("m")
    tenant = await site.tenant(await site.register(f"{product}-1.0.0", servers["old"].url))
    wire = describe(f"{product}-2.0.0")
    wire["provides"][0]["handlers"].append({"methods": ["GET"], "pathPattern": f"/new{product}/*", "permissionsRequired": []})
    new = await site.register(f"{product}-2.0.0", servers["new"].url, provides=wire["provides"])
    job = await site.job(tenant, new)
    await job.held(new)
    url = await job.overlay(new)
    assert (await site.http.get(f"{url}/new{product}/x")).json()["name"] == "new"
    assert (await site.get(tenant, f"/new{product}/x")).status_code == 404


async def test_one_tenant_init_at_a_time(held: Held) -> None:
    intent = IntentRequest(key=f"{held.job.id}-a", product=held.product, module=held.new, instance="i", subject=held.new)
    first = await held.job.runs.begin_intent(held.job.id, intent)
    again = await held.job.runs.begin_intent(held.job.id, intent)
    assert (first.fresh, again.fresh, again.state) == (True, False, "asked")
    with pytest.raises(Exception, match=r"tenant init of .* is still running"):
        await held.job.runs.begin_intent(held.job.id, intent.model_copy(update={"key": f"{held.job.id}-b"}))
