"""Groups of a job on the whole stack: what moves together, one after the other, side by side and all at once.

Requirements B1, B4, B8, C1, C2, D1, D2.
"""

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from examples.descriptors import descriptor
from tests.e2e.conftest import CONFIG

USERS = ["mod-users-1.0.0", "mod-users-2.0.0", "mod-users-2.2.0"]


@pytest.fixture(scope="module")
async def stack(stacks: Any) -> AsyncIterator[Any]:
    """A stack on which the second release of mod-users breaks its interface, and the third asks for data of the second."""
    async with stacks(CONFIG) as running:
        for module in USERS:
            version = module.rpartition("-")[2]
            wire = descriptor("mod-users", version, python=sys.executable)
            wire["provides"][0]["version"] = "1.0" if version == "1.0.0" else "2.0"
            if version == "2.2.0":
                wire["metadata"]["uplift"]["upgrade_from"] = ">=2.0"
            await running.register(wire)
        yield running


class Writer:
    """Users of one tenant, who write all the time; every write that was acknowledged counts."""

    def __init__(self, stack: Any, tenant: str) -> None:
        self.acknowledged = 0
        self.failures: list[str] = []
        self._stack, self._tenant = stack, tenant
        self._stop = asyncio.Event()
        self._tasks = [asyncio.create_task(self._write()) for _ in range(3)]

    async def _write(self) -> None:
        headers = {"X-Okapi-Tenant": self._tenant}
        while not self._stop.is_set():
            body = {"name": f"Ada Lovelace {self.acknowledged}", "seq": self.acknowledged}
            answer = await self._stack.http.put(f"/users/{uuid.uuid4()}", json=body, headers=headers)
            if answer.status_code in (201, 204):
                self.acknowledged += 1
            else:
                self.failures.append(f"{answer.status_code} {answer.text[:200]}")
            await asyncio.sleep(0.02)

    async def until(self, acknowledged: int) -> None:
        """Wait until so many writes were acknowledged."""
        async with asyncio.timeout(60):
            while self.acknowledged < acknowledged and not self.failures:
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def check(self) -> None:
        """Nothing failed, and every write that was acknowledged is there, once."""
        await self.until(self.acknowledged + 5)  # the version that is enabled now takes writes
        await self.stop()
        assert self.failures == []
        assert (await self._stack.ask(self._tenant, "/users/count")).json() == {"count": self.acknowledged}


async def dependents(stack: Any) -> list[str]:
    """Two products whose first version requires the old interface of mod-users, and whose second the new one."""
    products = [stack.product() for _ in range(2)]
    for product in products:
        for version, interface in (("1.0.0", "1.0"), ("2.0.0", "2.0")):
            wire = stack.descriptor(product, version)
            await stack.register({**wire, "requires": [{"id": "users", "version": interface}]})
    return products


async def versions(stack: Any, products: list[str], *numbers: str, **uplift: Any) -> None:
    await stack.register(*(stack.descriptor(product, number, **uplift) for product in products for number in numbers))


def init(**parameters: str) -> str:
    return "tenantParameters=" + ",".join(f"{key}%3D{value}" for key, value in parameters.items())


def by_id(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {line["id"]: line for line in job["modules"]}


async def check_nothing_left(stack: Any, tenant: str, *modules: str) -> None:
    assert await stack.holds(tenant) == []
    assert [await stack.instances(module) for module in modules] == [[]] * len(modules)


async def test_a_breaking_interface_moves_with_all_that_require_it_while_users_write(stack: Any) -> None:
    """Held, initialised and switched together: nobody is ever enabled without what it requires, and nothing is lost."""
    tenant, (one, two) = await stack.tenant(), await dependents(stack)
    await stack.install(tenant, USERS[0], f"{one}-1.0.0", f"{two}-1.0.0")
    writer = Writer(stack, tenant)
    await writer.until(20)

    job = await stack.begin(tenant, USERS[1], query=init(migrationSeconds="1", call="/users/count"))
    await stack.until(job, lambda row: row["phase"] == "migrating" or row["complete"])
    held = await stack.ok("GET", f"/_/lifecycle/links?tenant={tenant}")
    ended = await stack.ended(job)
    await writer.check()

    assert ended["outcome"] == "done"
    assert {(link["product"], link["hold"]) for link in held} == {("mod-users", "HELD"), (one, "HELD"), (two, "HELD")}
    assert {line["stage"] for line in ended["modules"]} == {"done"}
    assert set(await stack.enabled(tenant)) == {USERS[1], f"{one}-2.0.0", f"{two}-2.0.0"}
    called = [stack.recorded(f"{each}-2.0.0", event="called", tenant=tenant) for each in (one, two)]
    assert [[line["status"] for line in lines] for lines in called] == [[200], [200]], "they reached the new mod-users"


async def test_when_the_last_of_a_group_fails_all_of_it_is_undone_while_users_write(stack: Any) -> None:
    tenant, (one, two) = await stack.tenant(), await dependents(stack)
    await stack.install(tenant, USERS[0], f"{one}-1.0.0", f"{two}-1.0.0")
    writer = Writer(stack, tenant)
    await writer.until(20)

    ended = await stack.install(tenant, USERS[1], query=init(migrationSeconds="0.5", do="500", only=f"{two}-2.0.0"))
    await writer.check()

    assert ended["outcome"] == "rolled_back"
    assert set(await stack.enabled(tenant)) == {USERS[0], f"{one}-1.0.0", f"{two}-1.0.0"}
    lines = by_id(ended)
    assert lines[f"{two}-2.0.0"]["outcome"] == "failed"
    assert lines[USERS[1]]["outcome"] == "undone"
    why = f"POST request for {two}-2.0.0 /_/tenant failed with 500"
    assert lines[USERS[1]]["message"].startswith(f"undone with {why}")
    assert ended["errors"][0]["message"].startswith(why)
    assert [warning["code"] for warning in ended["warnings"]][-2:] == [two, one], "nobody verified that they rolled back"
    await check_nothing_left(stack, tenant, f"{two}-2.0.0", f"{one}-2.0.0")


@pytest.mark.parametrize("ignore_errors", [False, True])
async def test_a_group_that_fails_leaves_those_before_and_those_after_it_are_not_started_unless_errors_are_ignored(
    stack: Any, ignore_errors: bool
) -> None:
    tenant, products = await stack.tenant(), [stack.product() for _ in range(3)]
    await versions(stack, products, "1.0.0")
    first, second, third = (f"{product}-1.0.0" for product in products)

    options = f"{init(do='500', only=second)}&ignoreErrors={str(ignore_errors).lower()}"
    ended = await stack.install(tenant, first, second, third, query=options)

    assert (ended["status"], ended["outcome"]) == ("error", "rolled_back")
    assert set(await stack.enabled(tenant)) == ({first, third} if ignore_errors else {first})
    assert [by_id(ended)[module]["stage"] for module in (first, third)] == ["done", "done" if ignore_errors else "pending"]
    assert len(await stack.inits(third, tenant)) == ignore_errors


@pytest.mark.soak
async def test_what_needs_a_module_that_failed_is_not_started_and_the_call_that_waits_is_answered(stack: Any) -> None:
    """Okapi's job waits for ever here: nothing wakes what can never run."""
    tenant, (broken, user, other) = await stack.tenant(), [stack.product() for _ in range(3)]
    await versions(stack, [broken, other], "1.0.0")
    await stack.register({**stack.descriptor(user, "1.0.0"), "requires": [{"id": broken, "version": "1.0"}]})
    modules = [f"{product}-1.0.0" for product in (broken, user, other)]

    path = f"/_/proxy/tenants/{tenant}/install?ignoreErrors=true&{init(do='500', only=modules[0])}"
    answer = await stack.http.post(path, json=[{"id": module} for module in modules])
    job = await stack.ok("GET", answer.headers["Location"])

    assert (answer.status_code, [line["id"] for line in answer.json()]) == (200, modules)
    failed, skipped, done = (line.get("message", "") for line in answer.json())
    assert failed.startswith(f"POST request for {modules[0]} /_/tenant failed with 500")
    assert (skipped, done) == ("not started: what it needs has failed", "")
    assert (job["complete"], job["outcome"]) == (True, "rolled_back")
    assert await stack.enabled(tenant) == [modules[2]]
    assert await stack.inits(modules[1], tenant) == []


@pytest.mark.soak
async def test_a_provider_is_replaced_by_another_product_while_it_is_required(stack: Any) -> None:
    """Okapi enables the new one beside the old one, whose disable then waits for ever."""
    tenant, (old, new, user) = await stack.tenant(), [stack.product() for _ in range(3)]
    face = {"id": f"{old}-face", "version": "1.0"}
    for product in (old, new):
        wire = stack.descriptor(product, "1.0.0")
        await stack.register({**wire, "provides": [*wire["provides"], {**face, "handlers": []}]})
    await stack.register({**stack.descriptor(user, "1.0.0"), "requires": [face]})
    await stack.install(tenant, f"{old}-1.0.0", f"{user}-1.0.0")

    ended = await stack.install(tenant, f"{new}-1.0.0")

    assert (ended["outcome"], {line["stage"] for line in ended["modules"]}) == ("done", {"done"})
    assert {(line["id"], line["action"]) for line in ended["modules"]} == {
        (f"{old}-1.0.0", "disable"),
        (f"{new}-1.0.0", "enable"),
    }
    assert set(await stack.enabled(tenant)) == {f"{new}-1.0.0", f"{user}-1.0.0"}
    await stack.until(f"/_/versions/{old}-1.0.0", lambda version: not version["instances"])


async def test_with_all_at_once_the_first_is_undone_too(stack: Any) -> None:
    """Nothing was switched before everything was well."""
    tenant, products = await stack.tenant(), [stack.product() for _ in range(2)]
    await versions(stack, products, "1.0.0")
    modules = [f"{product}-1.0.0" for product in products]

    ended = await stack.install(tenant, *modules, query=f"{init(do='500', only=modules[1])}&mode=atomic")

    assert (ended["outcome"], ended["mode"]) == ("rolled_back", "atomic")
    assert [len(await stack.inits(module, tenant)) for module in modules] == [1, 1]
    assert await stack.enabled(tenant) == []
    await check_nothing_left(stack, tenant, *modules)


async def test_what_leaves_with_what_comes_reaches_it(stack: Any) -> None:
    """Both are held: it finds the new version and not the hold."""
    tenant, (leaving, coming) = await stack.tenant(), [stack.product() for _ in range(2)]
    await versions(stack, [leaving, coming], "1.0.0")
    await versions(stack, [coming], "2.0.0")
    gone, old, new = f"{leaving}-1.0.0", f"{coming}-1.0.0", f"{coming}-2.0.0"
    await stack.install(tenant, gone, old)

    body = [{"id": gone, "action": "disable"}, {"id": new, "action": "enable"}]
    query = f"mode=atomic&purge=true&{init(call=f'/{coming}/x')}"
    refused = await stack.http.post(f"/_/proxy/tenants/{tenant}/install?{query}", json=body)
    query = f"mode=atomic&{init(call=f'/{coming}/x')}"
    answer = await stack.http.post(f"/_/proxy/tenants/{tenant}/install?async=true&{query}", json=body)
    ended = await stack.ended(answer.headers["Location"])

    assert refused.status_code == 400, "purging is asked for by itself"
    assert ended["outcome"] == "done"
    assert await stack.enabled(tenant) == [new]
    called = stack.recorded(gone, event="called", tenant=tenant)
    assert [line["status"] for line in called] == [200]
    assert f'"id": "{new}"' in called[0]["answer"]


@pytest.mark.soak
async def test_a_member_of_a_group_without_tenant_init_is_reached_by_those_that_have_one(stack: Any) -> None:
    tenant, (provider, user) = await stack.tenant(), [stack.product() for _ in range(2)]
    for number in ("1", "2"):
        given = stack.descriptor(provider, f"{number}.0.0")
        given["provides"] = [{**given["provides"][0], "version": f"{number}.0"}]
        taken = {**stack.descriptor(user, f"{number}.0.0"), "requires": [{"id": provider, "version": f"{number}.0"}]}
        await stack.register(given, taken)
    await stack.install(tenant, f"{provider}-1.0.0", f"{user}-1.0.0")

    ended = await stack.install(tenant, f"{provider}-2.0.0", query=init(call=f"/{provider}/x"))

    assert ended["outcome"] == "done"
    (called,) = stack.recorded(f"{user}-2.0.0", event="called", tenant=tenant)
    assert (called["status"], f'"id": "{provider}-2.0.0"' in called["answer"]) == (200, True)


async def test_a_module_is_upgraded_by_a_version_in_between(stack: Any) -> None:
    """Each is asked once, for an upgrade from the data that the one before left (requirement B8)."""
    tenant, product = await stack.tenant(), stack.product()
    await versions(stack, [product], "1.0.0", "2.0.0")
    await versions(stack, [product], "3.0.0", upgrade_from=">=2.0")
    one, two, three = (f"{product}-{number}.0.0" for number in (1, 2, 3))
    await stack.install(tenant, one)

    ended = await stack.install(tenant, three)

    assert ended["outcome"] == "done"
    assert ended["modules"] == [{**ended["modules"][0], "id": three, "from": one, "via": [two], "reached": two, "stage": "done"}]
    assert await stack.enabled(tenant) == [three]
    asked = [[(body["module_from"], body["module_to"]) for body in await stack.inits(module, tenant)] for module in (two, three)]
    assert asked == [[(one, two)], [(two, three)]]
    await stack.until(f"/_/versions/{two}", lambda version: not version["instances"])


@pytest.mark.soak
async def test_when_a_later_upgrade_fails_the_version_in_between_stays_with_its_data(stack: Any) -> None:
    """The copy that is put back is the one that was taken before the failed one (requirement E5)."""
    tenant = await stack.tenant()
    await stack.install(tenant, USERS[0])
    writer = Writer(stack, tenant)
    await writer.until(20)

    ended = await stack.install(tenant, USERS[2])
    await writer.check()

    (line,) = ended["modules"]
    assert ended["outcome"] == "rolled_back"
    assert (line["via"], line["reached"], line["stage"]) == ([USERS[1]], USERS[1], "invoke")
    assert "check GET /users/count: expected 200, got 500" in line["message"]
    assert await stack.enabled(tenant) == [USERS[1]]
    assert (await stack.ask(tenant, "/users/_version")).json()["version"] in (USERS[1], "2.0.0")


@pytest.mark.soak
async def test_a_product_goes_and_comes_in_one_job_without_a_check(stack: Any) -> None:
    """Each line by itself, in the order that was given: two tenant inits, and neither is taken for the other."""
    tenant, product = await stack.tenant(), stack.product()
    await versions(stack, [product], "1.0.0", "2.0.0", dialect="okapi1")
    old, new = f"{product}-1.0.0", f"{product}-2.0.0"
    await stack.install(tenant, old)

    body = [{"id": old, "action": "disable"}, {"id": new, "action": "enable"}]
    answer = await stack.http.post(f"/_/proxy/tenants/{tenant}/install?async=true&depCheck=false", json=body)
    ended = await stack.ended(answer.headers["Location"])

    assert ended["outcome"] == "done"
    assert await stack.enabled(tenant) == [new]
    assert [(line["action"], line["stage"]) for line in ended["modules"]] == [("disable", "done"), ("enable", "done")]
    assert [body["module_to"] for body in await stack.inits(new, tenant)] == [new]


@pytest.mark.soak
async def test_groups_that_no_interface_connects_run_side_by_side(stack: Any) -> None:
    tenant, products = await stack.tenant(), [stack.product() for _ in range(3)]
    await versions(stack, products, "1.0.0")
    modules = [f"{product}-1.0.0" for product in products]

    job = await stack.begin(tenant, *modules, query=f"{init(do='hang')}&parallel=3")
    async with asyncio.timeout(60):
        while not all([await stack.inits(module, tenant) for module in modules]):
            await asyncio.sleep(0.05)
    during = await stack.ok("GET", job)
    await stack.ok("DELETE", job)
    ended = await stack.ended(job)

    assert during["complete"] is False
    assert ended["outcome"] == "aborted"
    assert {line["message"] for line in ended["modules"]} == {"aborted"}
    assert await stack.enabled(tenant) == []
