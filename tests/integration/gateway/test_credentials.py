"""Who may call a real gateway: tokens with roles, secrets of real instances, and answers that tell strangers nothing."""

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from aiohttp import web
from click.testing import CliRunner
from folioclient import FolioClient

from activities.deploy import NodeInstances
from deployers import ProcessDeployer
from gateway.admin.routes import ROUTES
from gateway_client import GatewayClient, GatewayRefused, NotFound
from upgrade_core.ids import instance_id
from uplift_cli.main import cli
from uplift_settings.tree import DeploySettings

MODULE = """
import http.server, json, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(dict(os.environ)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@dataclass
class Guarded:
    """A gateway with a tokens file."""

    site: Any
    path: Path

    def token(self, name: str, *roles: str, product: str = "") -> str:
        arguments = [part for role in roles for part in ("--role", role)] + (["--product", product] if product else [])
        shown = CliRunner().invoke(cli, ["token", "add", name, *arguments, "--file", str(self.path)])
        assert shown.exit_code == 0, shown.output
        return shown.stdout.strip()

    def revoke(self, name: str) -> None:
        assert CliRunner().invoke(cli, ["token", "remove", name, "--file", str(self.path)]).exit_code == 0

    def client(self, token: str = "") -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.AsyncClient(base_url=self.site.url, headers=headers, trust_env=False, timeout=30)

    async def status(self, token: str, method: str = "GET", path: str = "/_/proxy/modules") -> int:
        async with self.client(token) as client:
            return (await client.request(method, path)).status_code


@pytest.fixture
async def guarded(new_site: Any, tmp_path: Path) -> Guarded:
    path = tmp_path / "tokens.toml"
    made = Guarded(site=None, path=path)
    made.token("first", "read")
    made.site = await new_site(token="one for all", tokens_file=str(path))
    return made


async def answer(guarded: Guarded, token: str, method: str, path: str, **headers: str) -> bytes:
    """The whole answer but its date, byte by byte."""
    reader, writer = await guarded.site.connect()
    lines = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", "Content-Length: 0"]
    lines += [f"Authorization: Bearer {token}"] if token else []
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    found = (await reader.read()).split(b"\r\n")
    return b"\r\n".join(line for line in found if not line.startswith(b"Date: "))


def fill(path: str, ids: dict[str, str]) -> str:
    for name, value in ids.items():
        path = path.replace(f"{{{name}}}", value)
    return path


async def known_ids(guarded: Guarded, upstream: Any, name: Callable[[str], str]) -> tuple[dict[str, str], dict[str, str]]:
    """The variables of paths: ids of what is there, and of what is not."""
    site = guarded.site
    module = await site.register(f"{name('m')}-1.0.0", upstream.url)
    tenant = await site.tenant(module)
    job = await site.job(tenant, module, action="disable")
    here = {"tenant": tenant, "module": module, "job": job.id, "instance": f"{module}-i", "interface": module[:-6]}
    return here, dict.fromkeys(here, "none-1.0.0")


PATHS = [(method, path) for method, path, _, need in ROUTES if need.roles and "{" in path]


async def test_strangers_cannot_tell_what_is_there_from_what_is_not(guarded: Guarded, upstream: Any, name: Any) -> None:
    here, nowhere = await known_ids(guarded, upstream, name)
    for token in ("", "upl_unknown", "upi_unknown"):
        answers = {await answer(guarded, token, method, fill(path, ids)) for method, path in PATHS for ids in (here, nowhere)}
        (only,) = answers
        assert only.startswith(b"HTTP/1.1 401 ")
        assert b"\r\nWWW-Authenticate: Bearer\r\n" in only
        assert only == await answer(guarded, token, "GET", "/_/no/such/path")
        assert only == await answer(guarded, token, "GET", "/_/proxy/modules/" + "x" * 600)


async def test_a_token_without_the_role_cannot_tell_either(guarded: Guarded, upstream: Any, name: Any) -> None:
    here, nowhere = await known_ids(guarded, upstream, name)
    token = guarded.token("approver", "approve")
    async with asyncio.timeout(15):
        while await guarded.status(token) == 401:
            await asyncio.sleep(0.02)
    answers = {await answer(guarded, token, method, fill(path, ids)) for method, path in PATHS for ids in (here, nowhere)}
    (only,) = answers
    assert only.startswith(b"HTTP/1.1 403 ")
    problems = {await answer(guarded, token, "GET", fill(path, ids), Accept="application/problem+json")
                for method, path in PATHS if method == "GET" for ids in (here, nowhere)}  # fmt: skip
    assert len(problems) == 1


async def test_nothing_was_changed_by_those_who_may_not(guarded: Guarded, upstream: Any, name: Any) -> None:
    here, _ = await known_ids(guarded, upstream, name)
    before = (await guarded.site.http.get("/_/proxy/modules?full=true")).text
    for token in ("", "upl_unknown"):
        for method, path in PATHS:
            if method != "GET":
                await answer(guarded, token, method, fill(path, here))
    assert (await guarded.site.http.get("/_/proxy/modules?full=true")).text == before
    assert (await guarded.site.http.get(f"/_/proxy/tenants/{here['tenant']}")).status_code == 200
    assert (await guarded.site.http.get(f"/_/discovery/modules/{here['module']}")).status_code == 200


async def test_these_are_answered_without_a_token(guarded: Guarded) -> None:
    for path in ("/_/version", "/_/proxy/health", "/_/lifecycle/delays/none"):
        for token in ("", "upl_unknown"):
            assert await guarded.status(token, path=path) == 200


async def test_users_read_what_their_own_tenant_has(guarded: Guarded, upstream: Any, name: Any) -> None:
    here, _ = await known_ids(guarded, upstream, name)
    tenant, module = here["tenant"], here["module"]
    async with guarded.client() as user:
        own = {"X-Okapi-Tenant": tenant, "X-Okapi-Token": "what the auth filter gave"}
        found = await user.get(f"/_/proxy/tenants/{tenant}/modules?full=true", headers=own)
        assert (found.status_code, found.text) == (404, "No suitable module found for path and tenant")
        built_in = await guarded.site.built_in()
        await guarded.site.enable(tenant, built_in)
        found = await user.get(f"/_/proxy/tenants/{tenant}/modules?full=true", headers=own)
        assert [wire["id"] for wire in found.json()] == [module, built_in]
        assert (await user.get(f"/_/proxy/tenants/{tenant}/interfaces", headers=own)).status_code == 200
        for path, headers in [
            (f"/_/proxy/tenants/{tenant}/modules", {"X-Okapi-Tenant": tenant}),
            (f"/_/proxy/tenants/{tenant}/modules", {**own, "X-Okapi-Tenant": "supertenant"}),
            (f"/_/proxy/tenants/{tenant}", own),
            (f"/_/proxy/tenants/{tenant}/install", own),
        ]:
            assert (await user.get(path, headers=headers)).status_code == 401
        assert (await user.post(f"/_/proxy/tenants/{tenant}/modules", headers=own)).status_code == 401


async def test_folioclient_reads_what_its_own_tenant_has_by_the_cookie_of_its_login(
    guarded: Guarded, upstream: Any, name: Any
) -> None:
    """Okapi map 7, 12: a client that knows of no token of ours, nor sends Okapi's."""
    product = name("m")
    handler = {"methods": ["POST"], "pathPattern": "/authn/login-with-expiry", "permissionsRequired": []}
    module = await guarded.site.register(
        f"{product}-1.0.0", upstream.url, provides=[{"id": product, "version": "1.0", "handlers": [handler]}]
    )
    tenant = await guarded.site.tenant(module, await guarded.site.built_in())

    async def log_in(request: web.BaseRequest) -> web.Response:
        assert (await request.json())["username"] == "ada"
        return web.json_response({}, status=201, headers={"Set-Cookie": "folioAccessToken=what.login.gave; Path=/; HttpOnly"})

    upstream.answer = log_in

    def use() -> list[str]:
        with FolioClient(guarded.site.url, tenant, "ada", "secret") as client:
            return list(client.module_versions)

    assert await asyncio.to_thread(use) == sorted([module, await guarded.site.built_in()])


async def test_the_data_path_asks_for_no_token(guarded: Guarded, upstream: Any, name: Any) -> None:
    here, _ = await known_ids(guarded, upstream, name)
    async with guarded.client() as user:
        found = await user.get(f"/{here['interface']}", headers={"X-Okapi-Tenant": here["tenant"]})
        assert found.status_code == 200


async def test_a_planner_simulates_and_starts_nothing(guarded: Guarded, upstream: Any, name: Any, until: Any) -> None:
    here, _ = await known_ids(guarded, upstream, name)
    tenant, module = await guarded.site.tenant(), here["module"]
    token = guarded.token("planner", "plan", "read")
    await until(lambda: _is(guarded, token, 200))
    async with guarded.client(token) as planner:
        path, wire = f"/_/proxy/tenants/{tenant}/install", [{"id": module}]
        for query in ("simulate=true", "dryRun=true", "simulate=false&dryRun=true"):
            assert (await planner.post(f"{path}?{query}", json=wire)).status_code == 200, query
        for query in ("", "?simulate=false", "?dryRun=true&dryRun=false", "?simulate=TRUE", "?simulate=true&simulate="):
            assert (await planner.post(path + query, json=wire)).status_code == 403, query
        assert (await planner.post(f"/_/proxy/tenants/{tenant}/modules?simulate=true", json={"id": module})).status_code == 403
        assert (await planner.get(path)).json() == []


async def _is(guarded: Guarded, token: str, status: int) -> bool:
    return await guarded.status(token) == status


async def test_tokens_come_and_go_without_a_restart(guarded: Guarded, until: Any) -> None:
    token = guarded.token("later", "read")
    await until(lambda: _is(guarded, token, 200))
    guarded.revoke("later")
    await until(lambda: _is(guarded, token, 401))
    guarded.path.write_text("[[token")
    assert await guarded.status("one for all") == 200


async def test_a_job_names_the_token_that_asked_for_it(guarded: Guarded, upstream: Any, name: Any, until: Any) -> None:
    here, _ = await known_ids(guarded, upstream, name)
    tenant = await guarded.site.tenant()
    token = guarded.token("night-crew", "start", "read")
    await until(lambda: _is(guarded, token, 200))
    async with guarded.client(token) as crew:
        wire = [{"id": here["module"]}]
        headers = {"X-Okapi-User-Id": "somebody else"}
        found = await crew.post(f"/_/proxy/tenants/{tenant}/install?async=true", json=wire, headers=headers)
    assert found.status_code == 201, found.text
    connection = await asyncpg.connect(guarded.site.dsn)
    request = await connection.fetchval("select request from jobs where tenant = $1", tenant)
    await connection.close()
    assert json.loads(request)["actor"] == "night-crew"


def test_a_gateway_off_loopback_is_content_with_a_tokens_file(gateway_process: Any, tmp_path: Path) -> None:
    Guarded(site=None, path=tmp_path / "tokens.toml").token("first", "read")
    running = gateway_process(host="0.0.0.0", tokens_file=tmp_path / "tokens.toml").start()
    assert httpx.get(f"{running.url}/_/proxy/modules", trust_env=False).status_code == 401


def test_a_gateway_with_a_broken_tokens_file_does_not_start(gateway_process: Any, tmp_path: Path) -> None:
    Guarded(site=None, path=tmp_path / "tokens.toml").token("first", "read")
    (tmp_path / "tokens.toml").chmod(0o644)
    running = gateway_process(tokens_file=tmp_path / "tokens.toml")
    running.launch()
    assert running.process.wait(20) == 1
    assert f"chmod 600 {tmp_path / 'tokens.toml'}" in running.log.read_text()


async def test_a_team_registers_modules_of_its_products_alone(guarded: Guarded, name: Any, describe: Any, until: Any) -> None:
    ours, theirs = f"{name('m')}-1.0.0", await guarded.site.register(f"{name('m')}-1.0.0")
    token = guarded.token("team", "register", "signal", "read", product=ours[:-6])
    await until(lambda: _is(guarded, token, 200))
    refused = []
    async with guarded.client(token) as team:
        assert (await team.post("/_/proxy/modules", json=describe(ours))).status_code == 201
        wire = {"srvcId": ours, "instId": f"{ours}-i", "url": "http://10.0.0.1:80"}
        assert (await team.post("/_/discovery/modules", json=wire)).status_code == 201
        for module in (theirs, "none-1.0.0"):
            refused += [
                await team.post("/_/proxy/modules", json=describe(module)),
                await team.post("/_/proxy/import/modules", json=[describe(ours), describe(module)]),
                await team.post("/_/discovery/modules", json={**wire, "srvcId": module}),
                await team.delete(f"/_/proxy/modules/{module}"),
                await team.delete(f"/_/discovery/modules/{module}"),
            ]
        refused += [await team.post("/_/proxy/tenants", json={"id": "t"}), await team.delete("/_/env/A")]
        assert {(found.status_code, found.text) for found in refused} == {(403, refused[0].text)}
        assert (await team.delete(f"/_/discovery/modules/{ours}/{ours}-i")).status_code == 204
        assert (await team.delete(f"/_/proxy/modules/{ours}")).status_code == 204


# secrets of instances


async def test_an_instance_may_look_at_nothing(guarded: Guarded, name: Any) -> None:
    module = await guarded.site.register(f"{name('m')}-1.0.0")
    secret = await guarded.site.runs.issue_secret(module, "i")
    others = [(method, path) for method, path in PATHS if (method, path) != ("POST", "/_/lifecycle/{module}")]  # its own signals
    statuses = {await guarded.status(secret, method, fill(path, {"module": module})) for method, path in others}
    assert statuses == {403}


async def test_a_new_secret_takes_the_place_of_the_former(guarded: Guarded, name: Any) -> None:
    module = await guarded.site.register(f"{name('m')}-1.0.0")
    first, other = [await guarded.site.runs.issue_secret(module, instance) for instance in ("a", "b")]
    second = await guarded.site.runs.issue_secret(module, "a")
    assert [await guarded.status(secret) for secret in (first, second, other)] == [401, 403, 403]


async def test_a_secret_is_forgotten_with_its_instance(guarded: Guarded, name: Any) -> None:
    module = await guarded.site.register(f"{name('m')}-1.0.0")
    first, other = [await guarded.site.runs.issue_secret(module, instance) for instance in ("a", "b")]
    await guarded.site.runs.remove_instance(module, "a")
    assert [await guarded.status(secret) for secret in (first, other)] == [401, 403]
    await guarded.site.runs.retired(module)
    assert await guarded.status(other) == 401


async def test_a_secret_is_for_an_instance_of_a_module_that_is_there(guarded: Guarded, name: Any, upstream: Any) -> None:
    with pytest.raises(NotFound):
        await guarded.site.runs.issue_secret("none-1.0.0", "i")
    module, other = [await guarded.site.register(f"{name('m')}-1.0.0", upstream.url) for _ in range(2)]
    with pytest.raises(GatewayRefused, match="is one of"):
        await guarded.site.runs.issue_secret(other, f"{module}-i")


async def test_secrets_are_kept_by_digest_and_shown_once(guarded: Guarded, name: Any, rows: Any) -> None:
    module = await guarded.site.register(f"{name('m')}-1.0.0")
    found = await guarded.site.http.post(f"/_/versions/{module}/instances/i/secret")
    assert (found.status_code, found.headers["Cache-Control"]) == (201, "no-store")
    assert found.json()["token"] not in await rows(guarded.site.dsn)


@dataclass
class Node:
    """A node of a worker, and its folder."""

    instances: NodeInstances
    deployer: ProcessDeployer
    gateway: GatewayClient
    folder: Path
    module: str

    async def variables(self) -> dict[str, str]:
        """The environment of the instance."""
        running = await self.deployer.find(instance_id(self.module, "n"))
        assert running is not None
        async with httpx.AsyncClient(trust_env=False) as client:
            found: dict[str, str] = (await client.get(running.url)).json()
        return found

    async def pid(self) -> int:
        running = await self.deployer.find(instance_id(self.module, "n"))
        assert running is not None
        assert running.pid is not None
        return running.pid


@pytest.fixture
async def node(guarded: Guarded, name: Any, tmp_path: Path) -> AsyncIterator[Node]:
    script = tmp_path / "module.py"
    script.write_text(MODULE)
    launch = {"exec": f"{sys.executable} {script} %p", "env": [{"name": "UPLIFT_INSTANCE_TOKEN", "value": "forged"}]}
    module = await guarded.site.register(f"{name('m')}-1.0.0", launchDescriptor=launch)
    deployer = ProcessDeployer(settings=DeploySettings(port_first=20_000, port_last=29_999), folder=tmp_path / "instances")
    gateway = guarded.site.runs
    made = Node(
        instances=NodeInstances(gateway=gateway, deployer=deployer, node="n"),
        deployer=deployer,
        gateway=gateway,
        folder=tmp_path / "instances",
        module=module,
    )
    yield made
    await made.instances.stop(module)


async def test_an_instance_is_started_with_a_secret_of_its_own(node: Node, guarded: Guarded) -> None:
    await node.instances.start(node.module)
    found = await node.variables()
    assert (found["UPLIFT_INSTANCE"], found["UPLIFT_GATEWAY_URL"]) == (f"{node.module}@n", guarded.site.url)
    assert await guarded.status(found["UPLIFT_INSTANCE_TOKEN"]) == 403  # known, and not allowed to look


async def test_an_instance_that_is_adopted_keeps_its_secret(node: Node, guarded: Guarded) -> None:
    await node.instances.start(node.module)
    secret, pid = (await node.variables())["UPLIFT_INSTANCE_TOKEN"], await node.pid()
    await node.instances.start(node.module)
    await node.instances.keep(node.module)
    assert (await node.pid(), (await node.variables())["UPLIFT_INSTANCE_TOKEN"]) == (pid, secret)
    assert await guarded.status(secret) == 403


async def test_an_instance_that_died_gets_another_secret(node: Node, guarded: Guarded, until: Any) -> None:
    await node.instances.start(node.module)
    first = (await node.variables())["UPLIFT_INSTANCE_TOKEN"]
    os.kill(await node.pid(), signal.SIGKILL)
    await until(lambda: _is_gone(node))
    await node.instances.keep(node.module)
    second = (await node.variables())["UPLIFT_INSTANCE_TOKEN"]
    assert [await guarded.status(secret) for secret in (first, second)] == [401, 403]


async def _is_gone(node: Node) -> bool:
    return await node.deployer.find(instance_id(node.module, "n")) is None


class DiesWhileAdopted(ProcessDeployer):
    """Its instance is killed between the look at it and the start that was to adopt it, once."""

    died = False

    async def start(self, launch: Any, **more: Any) -> Any:
        running = await self.find(launch.inst_id)
        if running is not None and running.pid is not None and not self.died:
            self.died = True
            os.kill(running.pid, signal.SIGKILL)
            while await self.find(launch.inst_id) is not None:
                await asyncio.sleep(0.01)
        return await super().start(launch, **more)


async def test_an_instance_that_dies_while_it_is_adopted_gets_a_secret_too(node: Node, guarded: Guarded) -> None:
    await node.instances.start(node.module)
    settings = DeploySettings(port_first=20_000, port_last=29_999)
    unlucky = DiesWhileAdopted(settings=settings, folder=node.folder)
    await NodeInstances(gateway=node.gateway, deployer=unlucky, node="n").start(node.module)
    assert unlucky.died
    assert await guarded.status((await node.variables())["UPLIFT_INSTANCE_TOKEN"]) == 403


async def test_of_two_workers_that_start_an_instance_one_does_and_the_other_adopts_it(node: Node, guarded: Guarded) -> None:
    await asyncio.gather(node.instances.start(node.module), second_worker(node).start(node.module))
    assert await guarded.status((await node.variables())["UPLIFT_INSTANCE_TOKEN"]) == 403
    (known,) = (await node.gateway.version(node.module)).instances
    running = await node.deployer.find(known.id)
    assert running is not None
    assert (known.generation, known.url) == (running.generation, running.url)


class Slow(ProcessDeployer):
    """Looks for an instance when it is let."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.looks, self.may_look = asyncio.Event(), asyncio.Event()

    async def find(self, inst_id: str) -> Any:
        self.looks.set()
        await self.may_look.wait()
        return await super().find(inst_id)


async def test_what_one_worker_stops_another_of_the_node_that_looked_before_does_not_start_again(node: Node) -> None:
    """Requirement D3: else a version that is retired would leave a process that nobody knows."""
    await node.instances.start(node.module)
    slow = Slow(settings=DeploySettings(port_first=20_000, port_last=29_999), folder=node.folder)
    keeping = asyncio.create_task(NodeInstances(gateway=node.gateway, deployer=slow, node="n").keep(node.module))
    await slow.looks.wait()
    stopping = asyncio.create_task(node.instances.stop(node.module))
    await asyncio.wait({stopping}, timeout=2)  # it waits for the other; where it does not, the other starts the instance again
    slow.may_look.set()
    await asyncio.gather(keeping, stopping)
    assert await node.deployer.list() == ()
    assert list((node.folder / "turns").iterdir()) == []


def second_worker(node: Node) -> NodeInstances:
    deployer = ProcessDeployer(settings=DeploySettings(port_first=20_000, port_last=29_999), folder=node.folder)
    return NodeInstances(gateway=node.gateway, deployer=deployer, node="n")


async def test_a_secret_is_nowhere_where_others_look(
    node: Node, guarded: Guarded, rows: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        await node.instances.start(node.module)
        await node.instances.start(node.module)
    secret = (await node.variables())["UPLIFT_INSTANCE_TOKEN"]
    assert secret not in caplog.text
    assert secret not in await rows(guarded.site.dsn)
    for path in ("/_/versions", f"/_/versions/{node.module}", "/_/discovery/modules", "/_/env", "/_/proxy/modules?full=true"):
        assert secret not in (await guarded.site.http.get(path)).text
    assert secret not in repr(await node.deployer.list())
    with_secret = [path for path in node.folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert [path.name for path in with_secret] == ["state"]
    assert {path.stat().st_mode & 0o077 for path in [*with_secret, *(path.parent for path in with_secret)]} == {0}
