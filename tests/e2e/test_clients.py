"""What others wrote for Okapi works here: `folioclient` unchanged, and the requests of stripes, stripes-cli and folio-ansible.

The requests are those of stripes-core (`src/discoverServices.js`), stripes-cli (`lib/okapi`) and folio-ansible (roles
`okapi-register-modules`, `okapi-tenant-deploy`, `create-tenant-admin`), with their headers and in their order; of the answers
it is checked what those programs read.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from folioclient import FolioClient

from tests.ports import free_port

LOGIN = Path(__file__).parent / "modules" / "login.py"
RECORDER = Path(__file__).parent / "modules" / "recorder.py"
PASSWORD = "sesame"
ANSIBLE = {"Accept": "application/json, text/plain"}
AS_SUPERTENANT = {**ANSIBLE, "X-Okapi-Tenant": "supertenant", "X-Okapi-Token": ""}
PARAMETERS = "tenantParameters=loadReference%3Dtrue%2CloadSample%3Dtrue"


def login_module() -> dict[str, Any]:
    """A module that people log in at."""
    routes = {"/authn/login": "POST", "/authn/login-with-expiry": "POST", "/whoami": "GET"}
    handlers = [{"methods": [method], "pathPattern": path, "permissionsRequired": []} for path, method in routes.items()]
    return {
        "id": "mod-login-1.0.0",
        "name": "login",
        "provides": [{"id": "login", "version": "7.3", "handlers": handlers}],
        "requires": [{"id": "okapi", "version": "1.9"}],
        "launchDescriptor": {"exec": f"{sys.executable} {LOGIN} --port %p --password {PASSWORD}"},
    }


async def built_in(stack: Any) -> str:
    (found,) = await stack.ok("GET", "/_/proxy/modules?filter=okapi")
    return str(found["id"])


@pytest.fixture
async def campus(stack: Any) -> str:
    """A tenant whose people can log in."""
    await stack.register(login_module())
    tenant: str = await stack.tenant()
    job = await stack.install(tenant, await built_in(stack), "mod-login-1.0.0")
    assert job["status"] == "done", job["errors"]
    return tenant


async def test_folioclient_logs_in_and_lists_a_tenants_modules(stack: Any, campus: str) -> None:
    """Requirement of issue 6: a client written by others, unchanged. It falls back to another platform's routes on any error."""

    def use() -> tuple[list[str], list[dict[str, Any]]]:
        with FolioClient(stack.url, campus, "ada", PASSWORD) as client:
            return client.module_versions, client.folio_get("/whoami", "users")

    modules, (who,) = await asyncio.to_thread(use)

    assert modules == await stack.enabled(campus) == ["mod-login-1.0.0", await built_in(stack)]
    assert who == {"sub": "ada", "tenant": campus}


async def test_folioclient_tells_a_wrong_password_as_what_it_is(stack: Any, campus: str) -> None:
    """The module's 422 comes through: it would try again after a 5xx."""
    with pytest.raises(httpx.HTTPStatusError, match="422"):
        await asyncio.to_thread(FolioClient, stack.url, campus, "ada", "wrong")


async def test_stripes_finds_versions_modules_and_interfaces(stack: Any, campus: str) -> None:
    """Okapi map 12, 1.1: with the user's token and under its own tenant header, which `okapi` has to be enabled for."""
    user = {"X-Okapi-Tenant": campus, "Content-Type": "application/json"}
    login = await stack.http.post("/authn/login", json={"username": "ada", "password": PASSWORD}, headers=user)
    user["X-Okapi-Token"] = login.headers["x-okapi-token"]

    version = await stack.http.get("/_/version", headers=user)
    found = await stack.http.get(f"/_/proxy/tenants/{campus}/modules?full=true", headers=user)

    assert (version.status_code, found.status_code) == (200, 200)
    entries = {entry["id"]: entry for entry in found.json()}
    assert {key: entry["name"] for key, entry in entries.items()} == {
        "mod-login-1.0.0": "login",
        f"okapi-{version.text}": "Okapi",
    }
    interfaces = {each["id"]: each["version"] for entry in entries.values() for each in entry.get("provides") or []}
    assert interfaces == {"login": "7.3", "okapi": "1.9", "okapi-proxy": "1.9"}
    assert entries["mod-login-1.0.0"] == login_module()


async def test_stripes_of_a_tenant_without_the_built_in_module_finds_nothing(stack: Any) -> None:
    """Okapi map 1.1: 404, which Stripes shows as a failed discovery."""
    tenant = await stack.tenant()
    found = await stack.http.get(f"/_/proxy/tenants/{tenant}/modules?full=true", headers={"X-Okapi-Tenant": tenant})
    assert found.status_code == 404


async def test_stripes_shows_what_the_site_says_about_its_release(stack: Any, campus: str) -> None:
    """The about page reads the environment as a list of names and values."""
    await stack.ok("POST", "/_/env", {"name": "ABOUT_INSTALL_VERSION", "value": "Quesnelia"})
    found = await stack.ok("GET", "/_/env", **{"X-Okapi-Tenant": campus, "X-Okapi-Token": "a.b.c"})
    await stack.ok("DELETE", "/_/env/ABOUT_INSTALL_VERSION")
    assert {each["name"]: each["value"] for each in found}["ABOUT_INSTALL_VERSION"] == "Quesnelia"


class StripesCli:
    """Its requests: no tenant, no token, and errors known by their text."""

    def __init__(self, stack: Any) -> None:
        self._http = stack.http

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = await self._http.request(method, path, json=body, headers={"content-type": "application/json"})
        if answer.is_success:
            return answer.json() if answer.content else None
        return answer.text

    async def install(self, tenant: str, modules: list[Any], *, simulate: bool = False, deploy: bool = False) -> Any:
        flags = f"simulate={str(simulate).lower()}&deploy={str(deploy).lower()}&preRelease=false"
        body = [{"action": "enable"} | (module if isinstance(module, dict) else {"id": module}) for module in modules]
        return await self.ask("POST", f"/_/proxy/tenants/{tenant}/install?{flags}", body)


async def test_stripes_cli_brings_up_a_platform(stack: Any) -> None:
    """Okapi map 12, `platform backend`: what a simulation answered is posted, the backend's with deploy, then the UI modules."""
    cli, tenant, product = StripesCli(stack), await stack.tenant(), stack.product()
    old, new, ui = f"{product}-1.0.0", f"{product}-2.0.0", f"folio_{product}-1.0.0"
    page = {"id": ui, "name": ui, "requires": [{"id": product, "version": "1.0"}], "permissionSets": []}
    for wire in (stack.descriptor(product, "1.0.0"), page):
        assert (await cli.ask("POST", "/_/proxy/modules", wire))["id"] == wire["id"]
    await cli.install(tenant, [old], deploy=True)
    await cli.ask("POST", "/_/proxy/modules", stack.descriptor(product, "2.0.0"))

    simulated = await cli.install(tenant, [product, ui], simulate=True)
    backend = await cli.install(tenant, [each for each in simulated if not each["id"].startswith("folio_")], deploy=True)
    pages = await cli.install(tenant, [each for each in simulated if each["id"].startswith("folio_")])

    assert simulated == [{"id": new, "from": old, "action": "enable"}, {"id": ui, "action": "enable"}]
    assert backend == [{"id": new, "from": old, "action": "enable"}]
    assert pages == [{"id": ui, "action": "enable"}]
    listed = await cli.ask("GET", f"/_/proxy/tenants/{tenant}/modules")
    assert [each["id"] for each in listed] == [ui, new]
    assert (await stack.ask(tenant, f"/{product}/x")).json()["id"] == new


async def test_stripes_cli_knows_errors_by_their_text(stack: Any) -> None:
    """Okapi map 12: `already exists`, `already provided`, and `is used by tenant` with the tenant as the last word."""
    cli, tenant, product = StripesCli(stack), await stack.tenant(), stack.product()
    page = {"id": f"folio_{product}-1.0.0", "name": "a page"}
    module, modules = f"/_/proxy/modules/{page['id']}", f"/_/proxy/tenants/{tenant}/modules"
    await cli.ask("POST", "/_/proxy/modules", page)
    await cli.ask("POST", modules, {"id": page["id"]})

    assert "already exists" in await cli.ask("POST", "/_/proxy/modules", page | {"name": "another page"})
    assert "already provided" in await cli.ask("POST", modules, {"id": page["id"]})
    refused = await cli.ask("DELETE", module)
    assert "is used by tenant" in refused
    assert refused.split(" ")[-1] == tenant

    assert await cli.ask("DELETE", f"{modules}/{page['id']}") is None
    assert await cli.ask("DELETE", module) is None
    assert await cli.ask("POST", "/_/proxy/modules", page | {"name": "another page"}) == page | {"name": "another page"}
    assert await cli.ask("POST", modules, {"id": page["id"]}) == {"id": page["id"]}


async def test_stripes_cli_registers_and_removes_instances(stack: Any) -> None:
    """An answer that names the module is one without instances; else it is an error."""
    cli, product = StripesCli(stack), stack.product()
    module = f"{product}-1.0.0"
    await stack.register(stack.descriptor(product, "1.0.0"))
    instances = f"/_/discovery/modules/{module}"

    assert module in await cli.ask("GET", instances)
    made = await cli.ask("POST", "/_/discovery/modules", {"srvcId": module, "instId": f"{module}-x", "url": "http://localhost:1"})
    assert (made["instId"], made["srvcId"]) == (f"{module}-x", module)
    assert [each["instId"] for each in await cli.ask("GET", instances)] == [f"{module}-x"]
    assert await cli.ask("DELETE", instances) is None
    assert module in await cli.ask("DELETE", instances)


class Ansible:
    """Its module `uri`: fails on any status but those that a task expects (200 unless it says so)."""

    def __init__(self, stack: Any) -> None:
        self._http = stack.http

    async def uri(
        self,
        path: str,
        body: Any = None,
        *,
        method: str = "",
        headers: dict[str, str] | None = None,
        status: tuple[int, ...] = (200,),
    ) -> Any:
        method = method or ("GET" if body is None else "POST")
        answer = await self._http.request(method, path, json=body, headers=headers or {})
        assert answer.status_code in status, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.is_success and answer.content else None


async def test_folio_ansible_registers_discovers_and_installs(stack: Any) -> None:
    """Okapi map 12: roles `okapi-register-modules` and `okapi-tenant-deploy`, whose installs are synchronous."""
    ansible, tenant = Ansible(stack), await stack.tenant()
    deployed, own = stack.product(), stack.product()
    port = free_port()
    for product in (deployed, own):
        wire = stack.descriptor(product, "1.0.0")
        assert await ansible.uri(f"/_/proxy/modules/{wire['id']}", status=(200, 404)) is None
        made = await ansible.uri("/_/proxy/modules", wire, headers=ANSIBLE, status=(201,))
        assert made["id"] == wire["id"]
    module = f"{own}-1.0.0"
    command = (RECORDER, "--id", module, "--port", str(port), "--log", stack.log, "--dialect", "okapi2")
    running = await asyncio.create_subprocess_exec(sys.executable, *command)
    try:
        await ansible.uri("/_/env", {"name": "LANG_OF", "value": "ansible"}, headers=AS_SUPERTENANT, status=(201,))
        (newest, *_) = await ansible.uri(f"/_/proxy/modules?filter={own}")
        assert newest["id"] == module
        assert await ansible.uri(f"/_/discovery/modules/{module}", status=(200, 404)) is None
        url = f"http://127.0.0.1:{port}"
        await ansible.uri("/_/discovery/modules", {"srvcId": module, "instId": module, "url": url}, status=(201,))
        assert [each["instId"] for each in await ansible.uri(f"/_/discovery/modules/{module}", status=(200, 404))] == [module]

        install = f"/_/proxy/tenants/{tenant}/install"
        first = [{"action": "enable", "id": f"{deployed}-1.0.0"}]
        second = [{"action": "enable", "id": own}]
        at_first = await ansible.uri(f"{install}?deploy=true&{PARAMETERS}", first, headers=AS_SUPERTENANT)
        then = await ansible.uri(f"{install}?{PARAMETERS}", second, headers=AS_SUPERTENANT)

        assert at_first == [{"id": f"{deployed}-1.0.0", "action": "enable"}]
        assert then == [{"id": module, "action": "enable"}]
        given = [{"key": "loadReference", "value": "true"}, {"key": "loadSample", "value": "true"}]
        for each in (f"{deployed}-1.0.0", module):
            assert [body["parameters"] for body in await stack.inits(each, tenant)] == [given]

        again = await ansible.uri(f"{install}?{PARAMETERS}", second, headers=AS_SUPERTENANT)
        assert again == [{"id": module, "action": "uptodate"}]
    finally:
        running.terminate()
        await running.wait()
        await stack.ok("DELETE", "/_/env/LANG_OF")


async def test_folio_ansible_makes_an_administrator_while_authtoken_is_disabled(stack: Any) -> None:
    """Okapi map 12, role `create-tenant-admin`: it enables the answered list again, reversed: that must be whole and in order."""
    ansible, tenant = Ansible(stack), await stack.tenant()
    token, users, pages = stack.product(), stack.product(), stack.product()
    wires = [stack.descriptor(product, "1.0.0") for product in (token, users, pages)]
    wires[0]["provides"].append({"id": f"authtoken{token}", "version": "2.0", "handlers": []})
    wires[1]["requires"] = [{"id": f"authtoken{token}", "version": "2.0"}]
    wires[2]["requires"] = [{"id": users, "version": "1.0"}]
    await stack.register(*wires)
    install = f"/_/proxy/tenants/{tenant}/install"
    ids = [wire["id"] for wire in wires]
    assert (await stack.install(tenant, *ids))["status"] == "done"

    (found,) = await ansible.uri(f"/_/proxy/tenants/{tenant}/interfaces/authtoken{token}", headers=ANSIBLE)
    disabled = await ansible.uri(install, [{"id": found["id"], "action": "disable"}], headers=ANSIBLE)
    assert [each["id"] for each in disabled] == ids[::-1]
    assert await stack.enabled(tenant) == []

    enabled = await ansible.uri(install, [{"id": each["id"], "action": "enable"} for each in reversed(disabled)], headers=ANSIBLE)
    assert enabled == [{"id": each, "action": "enable"} for each in ids]
    assert await stack.enabled(tenant) == sorted(ids)
    assert await ansible.uri(f"/_/proxy/tenants/{tenant}/interfaces/authtoken{token}", headers=ANSIBLE) == [
        {"id": token + "-1.0.0"}
    ]
