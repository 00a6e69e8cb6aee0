"""Install, upgrade, downgrade, reinstall, disable, purge: what modules are told, per dialect, and what jobs say."""

import asyncio
from typing import Any

import httpx
import pytest

BODIES: dict[str, dict[str, Any]] = {
    "okapi1": {
        "install": {"module_to": "{p}-1.0.0", "parameters": [{"key": "k", "value": "v"}]},
        "upgrade": {"module_to": "{p}-2.0.0", "module_from": "{p}-1.0.0", "parameters": [{"key": "k", "value": "v"}]},
        "reinstall": {"module_to": "{p}-2.0.0", "module_from": "{p}-2.0.0", "parameters": [{"key": "k", "value": "v"}]},
        "downgrade": {"module_to": "{p}-1.0.0", "module_from": "{p}-2.0.0", "parameters": [{"key": "k", "value": "v"}]},
    },
    "okapi2": {
        "install": {"module_to": "{p}-1.0.0", "purge": False, "parameters": [{"key": "k", "value": "v"}]},
        "upgrade": {
            "module_to": "{p}-2.0.0", "module_from": "{p}-1.0.0", "purge": False, "parameters": [{"key": "k", "value": "v"}],
        },
        "reinstall": {
            "module_to": "{p}-2.0.0", "module_from": "{p}-2.0.0", "purge": False, "parameters": [{"key": "k", "value": "v"}],
        },
        "downgrade": {
            "module_to": "{p}-1.0.0", "module_from": "{p}-2.0.0", "purge": False, "parameters": [{"key": "k", "value": "v"}],
        },
        "disable": {"module_from": "{p}-1.0.0", "purge": False},
        "again": {"module_to": "{p}-1.0.0", "module_from": "{p}-1.0.0", "purge": False},
        "purge": {"module_from": "{p}-1.0.0", "purge": True},
    },
    "uplift": {
        "install": {"version_to": "1.0.0", "parameters": [{"key": "k", "value": "v"}]},
        "upgrade": {"version_from": "1.0.0", "version_to": "2.0.0", "parameters": [{"key": "k", "value": "v"}]},
        "reinstall": {"version_from": "2.0.0", "version_to": "2.0.0", "parameters": [{"key": "k", "value": "v"}]},
        "downgrade": {"version_from": "2.0.0", "version_to": "1.0.0", "parameters": [{"key": "k", "value": "v"}]},
    },
}  # fmt: skip


def filled(body: Any, product: str) -> Any:
    return {key: value.replace("{p}", product) if isinstance(value, str) else value for key, value in body.items()}


@pytest.mark.parametrize(
    "dialect", ["okapi2", *(pytest.param(dialect, marks=pytest.mark.soak) for dialect in BODIES if dialect != "okapi2")]
)
async def test_every_kind_of_change_tells_the_module_what_its_dialect_says(stack: Any, dialect: str) -> None:
    """Requirements B1-B4, B8, D1: golden bodies on the wire, from install to purge and back."""
    tenant, product = await stack.tenant(), stack.product()
    one, two = f"{product}-1.0.0", f"{product}-2.0.0"
    await stack.register(*(stack.descriptor(product, version, dialect=dialect) for version in ("1.0.0", "2.0.0")))
    golden = {name: filled(body, product) for name, body in BODIES[dialect].items()}
    got: dict[str, Any] = {}

    async def run(name: str, module: str, **options: Any) -> None:
        before = len(await stack.inits(module, tenant))
        job = await stack.install(tenant, module, **options)
        assert job["status"] == "done", job
        bodies = (await stack.inits(module, tenant))[before:]
        for body in bodies:
            assert body.pop("run", job["id"]) == job["id"]
            if body.get("parameters") == []:
                del body["parameters"]
        got[name] = bodies

    await run("install", one, query="tenantParameters=k%3Dv")
    await run("upgrade", two, query="tenantParameters=k%3Dv")
    assert await stack.enabled(tenant) == [two]
    await run("reinstall", two, query="reinstall=true&tenantParameters=k%3Dv")
    await run("downgrade", one, query="tenantParameters=k%3Dv")
    assert await stack.enabled(tenant) == [one]
    assert (await stack.ask(tenant, f"/{product}/x")).json()["id"] == one
    await run("disable", one, action="disable")
    assert await stack.enabled(tenant) == []
    assert (await stack.ask(tenant, f"/{product}/x")).status_code == 404
    await run("again", one)
    await run("purge", one, action="disable", query="purge=true")

    for name, body in golden.items():
        assert got[name] == [body], name
    if dialect != "okapi2":
        assert got["disable"] == []
    deletes = [line for line in stack.recorded(one, path="/_/tenant", tenant=tenant) if line["method"] == "DELETE"]
    assert len(deletes) == (0 if dialect == "okapi2" else 1)


async def test_an_install_after_a_purge_starts_from_nothing(stack: Any) -> None:
    tenant, product = await stack.tenant(), stack.product()
    one = f"{product}-1.0.0"
    await stack.register(stack.descriptor(product, "1.0.0"))
    await stack.install(tenant, one)
    await stack.install(tenant, one, action="disable", query="purge=true")
    await stack.install(tenant, one)

    assert [body.get("module_from") for body in await stack.inits(one, tenant)] == [None, one, None]


@pytest.mark.parametrize(
    ("dialect", "do", "outcome"),
    [
        ("okapi2", "204", "nothing to do"),
        ("okapi2", "200", "upgraded"),
        ("uplift", "201", "created"),
        pytest.param("uplift", "200", "upgraded", marks=pytest.mark.soak),
        ("okapi1", "201", "created"),
        pytest.param("okapi2", "job", "upgraded", marks=pytest.mark.soak),
        ("uplift", "job", "upgraded"),
    ],
)
async def test_every_good_outcome_ends_the_job_well(stack: Any, dialect: str, do: str, outcome: str) -> None:
    """Requirement B2."""
    tenant, product = await stack.tenant(), stack.product()
    await stack.register(stack.descriptor(product, "1.0.0", dialect=dialect))

    job = await stack.install(tenant, f"{product}-1.0.0", query=f"tenantParameters=do%3D{do}")

    assert (job["status"], job["modules"][0]["outcome"], job["modules"][0]["stage"]) == ("done", outcome, "done")


async def test_messages_and_warnings_of_the_module_are_in_the_job(stack: Any) -> None:
    """Requirement C3."""
    tenant, product = await stack.tenant(), stack.product()
    await stack.register(stack.descriptor(product, "1.0.0", dialect="uplift"))

    job = await stack.install(tenant, f"{product}-1.0.0", query="tenantParameters=do%3D200,warn%3Dindex%20missing")

    assert (job["status"], job["outcome"]) == ("done", "done_with_warnings")
    assert job["warnings"][0]["message"] == "index missing"
    assert job["modules"][0]["messages"] == ["went well"]


@pytest.mark.parametrize(
    ("dialect", "do", "text"),
    [
        pytest.param(
            "okapi2", "400", "POST request for {m} /_/tenant failed with 400: answers 400 as asked", marks=pytest.mark.soak
        ),
        pytest.param(
            "okapi1", "500", "POST request for {m} /_/tenant failed with 500: answers 500 as asked", marks=pytest.mark.soak
        ),
        pytest.param(
            "uplift", "500", "POST request for {m} /_/tenant failed with 500: answers 500 as asked", marks=pytest.mark.soak
        ),
        ("okapi2", "joberror", "Tenant operation failed for module {m}: the job broke"),
        pytest.param("uplift", "joberror", "Tenant operation failed for module {m}: the job broke", marks=pytest.mark.soak),
    ],
)
async def test_every_bad_outcome_is_undone_and_told(stack: Any, dialect: str, do: str, text: str) -> None:
    """Requirements B2, C3, D2: back on the old version, the new instance gone, parked requests answered by the old one."""
    tenant, product = await stack.tenant(), stack.product()
    one, two = f"{product}-1.0.0", f"{product}-2.0.0"
    await stack.register(*(stack.descriptor(product, version, dialect=dialect) for version in ("1.0.0", "2.0.0")))
    await stack.install(tenant, one)

    job = await stack.begin(tenant, two, query=f"tenantParameters=do%3D{do},seconds%3D0.5")
    await stack.until(job, lambda row: row["phase"] in ("updating", "migrating") or row["complete"])
    parked = await stack.ask(tenant, f"/{product}/parked")
    ended = await stack.ended(job)

    assert (ended["status"], ended["outcome"]) == ("error", "rolled_back")
    assert ended["errors"][0]["message"] == text.format(m=two)
    assert ended["modules"][0]["message"].startswith(text.format(m=two))
    assert await stack.enabled(tenant) == [one]
    assert parked.json()["id"] == one
    assert await stack.instances(two) == []
    assert len(await stack.inits(two, tenant)) == 1


async def test_a_check_that_fails_after_init_is_undone(stack: Any) -> None:
    """Requirements B6, D2."""
    tenant, product = await stack.tenant(), stack.product()
    check = {"path": f"/{product}/ping", "json": {"id": f"{product}-9.9.9"}}
    await stack.register(stack.descriptor(product, "1.0.0"), stack.descriptor(product, "2.0.0", checks=[check]))
    await stack.install(tenant, f"{product}-1.0.0")

    job = await stack.install(tenant, f"{product}-2.0.0")

    assert job["outcome"] == "rolled_back"
    assert job["errors"][0]["type"] == "CheckFailed"
    assert f"check GET /{product}/ping: expected" in job["errors"][0]["message"]
    (asked,) = stack.recorded(f"{product}-2.0.0", path=f"/{product}/ping")
    assert asked["tenant"] == tenant
    assert "/_/overlay/" in asked["url"]
    assert await stack.enabled(tenant) == [f"{product}-1.0.0"]


async def test_a_module_that_cannot_start_is_told_with_its_output(stack: Any) -> None:
    tenant, product = await stack.tenant(), stack.product()
    await stack.register(stack.descriptor(product, "1.0.0", start="exit"))

    job = await stack.install(tenant, f"{product}-1.0.0")

    assert job["outcome"] == "rolled_back"
    assert "cannot find my configuration" in job["errors"][0]["message"]
    assert await stack.enabled(tenant) == []


async def test_a_module_without_an_instance_and_a_way_to_start_one_is_told(stack: Any) -> None:
    """Requirement E2: the site's own instance is waited for, then missed."""
    tenant, product = await stack.tenant(), stack.product()
    descriptor = stack.descriptor(product, "1.0.0")
    del descriptor["launchDescriptor"]
    await stack.register(descriptor)

    job = await stack.install(tenant, f"{product}-1.0.0")

    assert f"No running instances for module {product}-1.0.0" in job["errors"][0]["message"]


async def test_nothing_reaches_the_old_version_between_the_end_of_its_draining_and_resume(stack: Any) -> None:
    """Requirement A6: what was in flight finishes, what comes later waits for the new version."""
    tenant, product = await stack.tenant(), stack.product()
    one, two = f"{product}-1.0.0", f"{product}-2.0.0"
    await stack.register(*(stack.descriptor(product, version) for version in ("1.0.0", "2.0.0")))
    await stack.install(tenant, one)
    stop = asyncio.Event()
    answers: list[tuple[int, str]] = []

    async def load() -> None:
        while not stop.is_set():
            answer = await stack.ask(tenant, f"/{product}/work?seconds=0.02", "POST")
            answers.append((answer.status_code, answer.json()["id"]))

    clients = [asyncio.create_task(load()) for _ in range(8)]
    slow = asyncio.create_task(stack.ask(tenant, f"/{product}/slow?seconds=1"))
    while not stack.recorded(one, path=f"/{product}/slow", tenant=tenant):
        await asyncio.sleep(0.02)
    job = await stack.install(tenant, two, query="tenantParameters=do%3Djob,seconds%3D1.5")
    stop.set()
    await asyncio.gather(*clients)

    assert (await slow).json()["id"] == one
    assert job["status"] == "done"
    assert {status for status, _ in answers} == {200}
    (init,) = [line["at"] for line in stack.recorded(two, path="/_/tenant", tenant=tenant) if line["method"] == "POST"]
    assert max(line["at"] for line in stack.recorded(one, path=f"/{product}/", event="end", tenant=tenant)) < init
    first_new = min(line["at"] for line in stack.recorded(two, path=f"/{product}/work", tenant=tenant))
    assert first_new > init + 1.5


@pytest.mark.soak
async def test_two_tenants_on_two_versions_never_cross_and_the_old_one_leaves_after_the_last(stack: Any) -> None:
    """Requirements A5, B6."""
    product = stack.product()
    one, two = f"{product}-1.0.0", f"{product}-2.0.0"
    old, new = await stack.tenant(), await stack.tenant()
    await stack.register(*(stack.descriptor(product, version) for version in ("1.0.0", "2.0.0")))
    await stack.install(old, one)
    await stack.install(new, one)
    await stack.install(new, two)
    wrong = []

    async def many(tenant: str, version: str) -> None:
        for number in range(50):
            answer = (await stack.ask(tenant, f"/{product}/{number}")).json()
            if (answer["id"], answer["tenant"]) != (version, tenant):
                wrong.append(answer)

    await asyncio.gather(*(many(*who) for who in ((old, one), (new, two)) for _ in range(10)))
    still = await stack.instances(one)
    await stack.install(old, two)
    gone = await stack.until(f"/_/versions/{one}", lambda version: not version["instances"])

    assert wrong == []
    assert len(still) == 1
    assert gone["neededBy"] == []
    assert (await stack.ask(old, f"/{product}/x")).json()["id"] == two


async def test_jobs_of_one_tenant_wait_for_each_other(stack: Any) -> None:
    tenant, product = await stack.tenant(), stack.product()
    await stack.register(*(stack.descriptor(product, version) for version in ("1.0.0", "2.0.0")))
    first = await stack.begin(tenant, f"{product}-1.0.0", query="tenantParameters=do%3Djob,seconds%3D0.7")
    second = await stack.begin(tenant, f"{product}-2.0.0")

    waiting = await stack.ok("GET", second)
    ended = await stack.ended(second)

    assert (waiting["phase"], waiting["complete"]) == ("queued", False)
    assert (await stack.ok("GET", first))["complete"]
    assert ended["modules"][0]["from"] == f"{product}-1.0.0"


@pytest.mark.soak
async def test_a_tenants_modules_are_upgraded_in_one_operation(stack: Any) -> None:
    """Requirement B7."""
    tenant = await stack.tenant()
    products = sorted(stack.product() for _ in range(3))
    for product in products:
        await stack.register(*(stack.descriptor(product, version) for version in ("1.0.0", "1.1.0")))
    await stack.install(tenant, *(f"{product}-1.0.0" for product in products))

    answer = await stack.http.post(f"/_/proxy/tenants/{tenant}/upgrade?parallel=3")

    assert answer.status_code == 200, answer.text
    assert await stack.enabled(tenant) == sorted(f"{product}-1.1.0" for product in products)


async def test_the_binding_routes_answer_when_done_with_the_new_location(stack: Any) -> None:
    """Requirement B5."""
    tenant, product = await stack.tenant(), stack.product()
    await stack.register(*(stack.descriptor(product, version) for version in ("1.0.0", "2.0.0")))
    base = f"/_/proxy/tenants/{tenant}/modules"

    enabled = await stack.http.post(base, json={"id": f"{product}-1.0.0"})
    moved = await stack.http.post(f"{base}/{product}-1.0.0", json={"id": f"{product}-2.0.0"})
    disabled = await stack.http.delete(f"{base}/{product}-2.0.0")

    assert (enabled.status_code, enabled.headers["Location"]) == (201, f"{base}/{product}-1.0.0")
    assert (moved.status_code, moved.headers["Location"]) == (201, f"{base}/{product}-2.0.0")
    assert disabled.status_code == 204
    assert await stack.enabled(tenant) == []


@pytest.mark.parametrize("route", [pytest.param("install", marks=pytest.mark.soak), "modules"])
async def test_a_run_goes_on_when_the_client_that_waits_for_it_leaves(stack: Any, route: str) -> None:
    tenant, product = await stack.tenant(), stack.product()
    module = f"{product}-1.0.0"
    await stack.register(stack.descriptor(product, "1.0.0"))
    base = f"/_/proxy/tenants/{tenant}"
    body = {"id": module} if route == "modules" else [{"id": module, "action": "enable"}]
    client = httpx.AsyncClient(base_url=stack.url, timeout=60, trust_env=False)
    call = asyncio.create_task(client.post(f"{base}/{route}", json=body, params={"tenantParameters": "do=job,seconds=2"}))
    (job,) = await stack.until(f"{base}/install", lambda jobs: jobs and jobs[0]["phase"] == "migrating")

    call.cancel()
    await asyncio.wait([call])
    await client.aclose()
    ended = await stack.ended(f"{base}/install/{job['id']}")

    assert (ended["status"], await stack.enabled(tenant)) == ("done", [module])


@pytest.mark.soak
async def test_an_abort_in_mid_migration_undoes_it(stack: Any) -> None:
    """Requirement C1: DELETE of a running job."""
    tenant, product = await stack.tenant(), stack.product()
    one, two = f"{product}-1.0.0", f"{product}-2.0.0"
    await stack.register(*(stack.descriptor(product, version) for version in ("1.0.0", "2.0.0")))
    await stack.install(tenant, one)
    job = await stack.begin(tenant, two, query="tenantParameters=do%3Dhang")
    await stack.until(job, lambda row: row["phase"] == "migrating")

    answer = await stack.http.delete(job)
    ended = await stack.ended(job)
    removed = await stack.http.delete(job)

    assert answer.status_code == 202
    assert (ended["status"], ended["outcome"]) == ("error", "aborted")
    assert await stack.enabled(tenant) == [one]
    assert (await stack.ask(tenant, f"/{product}/x")).json()["id"] == one
    assert await stack.instances(two) == []
    assert removed.status_code == 204
    assert (await stack.http.get(job)).status_code == 404
