"""The whole embedded stack, as a user starts it, for the end-to-end tests; one for all of them."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from temporalio.client import Client

from uplift_settings.tree import TemporalSettings
from worker.temporal import connect

ROOT = Path(__file__).parents[2]
RECORDER = Path(__file__).parent / "modules" / "recorder.py"
UPLIFT = (sys.executable, "-m", "uplift_cli.main")
PATIENCE = 60.0
CONFIG = """
[gateway]
settle = 0.5
grace = 3
[deploy]
retire_after = 1
stop_grace = 2
external_wait = 1
health_wait = 20
[init]
quiet = 1
connect_retry = 3
[snapshots]
keep = 1
prune_every = 0.5
[reconcile]
settle = 1
interval = 3600
"""
_DIALECTS: dict[str, list[dict[str, Any]]] = {
    "okapi1": [{"id": "_tenant", "version": "1.2"}],
    "okapi2": [{"id": "_tenant", "version": "2.0"}],
    "uplift": [{"id": "_tenantInit", "version": "1.0"}],
}


def environment() -> dict[str, str]:
    """Ours, less what only the tests know (`tests/folio.py`): to the stack it would be a setting that does not exist."""
    return {name: value for name, value in os.environ.items() if name != "UPLIFT_SHARED"}


@dataclass
class Stack:
    """A running stack and its gateway's API."""

    home: Path
    url: str
    process: asyncio.subprocess.Process
    http: httpx.AsyncClient
    log: Path
    numbers: Any = field(default_factory=count)
    generation: int = 0

    async def down(self) -> None:
        """SIGTERM, as an operator stops it."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            assert await self.process.wait() == 0

    async def up(self) -> None:
        """Start it again on the same folder and port."""
        self.process, url = await start(self.home, self.url.rsplit(":", 1)[1])
        assert url == self.url
        self.generation += 1

    async def ok(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """One admin call that must succeed; connections that a killed gateway cut are made again."""
        while True:
            try:
                answer = await self.http.request(method, path, json=body, headers=headers)
                break
            except httpx.TransportError:
                continue
        assert answer.status_code < 400, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    async def tenant(self) -> str:
        """A new tenant."""
        tenant = f"t{next(self.numbers)}"
        await self.ok("POST", "/_/proxy/tenants", {"id": tenant})
        return tenant

    def product(self) -> str:
        """A new product."""
        return f"mod-rec{next(self.numbers)}"

    def descriptor(
        self, product: str, version: str, *, dialect: str = "okapi2", start: str = "", slow_stop: float = 0.0, **uplift: Any
    ) -> dict[str, Any]:
        """A descriptor of the recorder, as a version of a product that answers `/<product>/…`."""
        module = f"{product}-{version}"
        entry = {"methods": ["POST"], "pathPattern": "/_/tenant"}
        looks = [{"methods": ["GET", "DELETE"], "pathPattern": "/_/tenant/{id}"}]
        gone = [{"methods": ["DELETE"], "pathPattern": "/_/tenant"}]
        system = [
            dict(interface, interfaceType="system", handlers=[entry, *looks] if dialect == "okapi2" else [entry, *gone, *looks])
            for interface in _DIALECTS[dialect]
        ]
        handler = {"methods": ["*"], "pathPattern": f"/{product}/*", "permissionsRequired": []}
        command = f"{sys.executable} {RECORDER} --id {module} --port %p --log {self.log} --dialect {dialect}"
        return {
            "id": module,
            "provides": [{"id": product, "version": "1.0", "handlers": [handler]}, *system],
            "launchDescriptor": {"exec": command + (f" --start {start}" if start else "") + f" --slow-stop {slow_stop:g}"},
            "metadata": {"uplift": {"undo": "module", **uplift}},
        }

    async def register(self, *descriptors: dict[str, Any]) -> None:
        """Register modules."""
        for descriptor in descriptors:
            await self.ok("POST", "/_/proxy/modules", descriptor)

    async def install(self, tenant: str, *modules: str, action: str = "enable", query: str = "") -> dict[str, Any]:
        """Run a job and give it when it has ended."""
        return await self.ended(await self.begin(tenant, *modules, action=action, query=query))

    async def begin(self, tenant: str, *modules: str, action: str = "enable", query: str = "") -> str:
        """Begin a job; gives its path."""
        body = [{"id": module, "action": action} for module in modules]
        answer = await self.http.post(f"/_/proxy/tenants/{tenant}/install?async=true&{query}", json=body)
        assert answer.status_code == 201, answer.text
        return answer.headers["Location"]

    async def until(self, path: str, good: Callable[[Any], bool], *, within: float = PATIENCE) -> Any:
        """A resource, when it is as wanted. It is looked at less and less often."""
        pause = 0.02
        async with asyncio.timeout(within):
            while not good(found := await self.ok("GET", path)):
                await asyncio.sleep(pause)
                pause = min(0.2, 1.1 * pause)
        return found

    async def ended(self, job: str, *, within: float = PATIENCE) -> dict[str, Any]:
        """A job when it has ended."""
        found: dict[str, Any] = await self.until(job, lambda row: row["complete"], within=within)
        return found

    async def ask(self, tenant: str, path: str, method: str = "GET") -> httpx.Response:
        """A tenant's request."""
        return await self.http.request(method, path, headers={"X-Okapi-Tenant": tenant})

    async def enabled(self, tenant: str) -> list[str]:
        """Ids of a tenant's modules."""
        return [item["id"] for item in await self.ok("GET", f"/_/proxy/tenants/{tenant}/modules")]

    async def instances(self, module: str) -> list[dict[str, Any]]:
        """Instances of a module."""
        found: list[dict[str, Any]] = (await self.ok("GET", f"/_/versions/{module}"))["instances"]
        return found

    async def holds(self, tenant: str) -> list[dict[str, Any]]:
        """The tenant's links that hold requests, or have some parked; one that only works on a request is none of them."""
        found: list[dict[str, Any]] = await self.ok("GET", f"/_/lifecycle/links?tenant={tenant}")
        return [link for link in found if link["hold"] != "OPEN" or link["parked"]]

    def recorded(self, module: str, *, path: str = "", event: str = "begin", tenant: str = "") -> list[dict[str, Any]]:
        """What a recorder wrote down."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [
            line
            for line in lines
            if (line["id"], line["event"]) == (module, event) and line["path"].startswith(path) and tenant in ("", line["tenant"])
        ]

    async def own_events(self, module: str, event: str) -> list[int]:
        """Process ids of a recorder's processes that wrote `start` or `stopping`, in order."""
        found = await asyncio.to_thread(self.recorded, module, event=event)
        return [line["pid"] for line in found]

    async def inits(self, module: str, tenant: str = "") -> list[Any]:
        """Bodies of the tenant inits that a recorder got."""
        found = await asyncio.to_thread(self.recorded, module, path="/_/tenant", tenant=tenant)
        return [line["body"] for line in found if line["method"] == "POST"]

    def modules_dsn(self, database: str = "modules") -> str:
        """Address of the modules' database, or of another one on the same server (`uplift`: the gateway's)."""
        state = json.loads((self.home / "stack.json").read_text())
        password = (self.home / "postgres.password").read_text().strip()
        return f"postgresql://uplift:{password}@127.0.0.1:{state['ports']['postgres']}/{database}"

    async def temporal(self) -> Client:
        """A client of the stack's Temporal."""
        state = json.loads((self.home / "stack.json").read_text())
        return await connect(TemporalSettings(address=f"127.0.0.1:{state['ports']['temporal']}"))

    async def status(self) -> dict[str, dict[str, Any]]:
        """Rows of `uplift status` by part."""
        said = await self._said("status", check=False)
        return {row["part"]: row for row in said["rows"]}

    async def problems(self) -> list[dict[str, Any]]:
        """What `uplift problems` says."""
        found: list[dict[str, Any]] = await self._said("problems", check=True)
        return found

    async def _said(self, command: str, *, check: bool) -> Any:
        """What a command prints as JSON; `check`: it must succeed."""
        done = await asyncio.to_thread(
            lambda: subprocess.run(
                (*UPLIFT, command, "--home", str(self.home), "--json"),
                cwd=ROOT,
                env=environment(),
                capture_output=True,
                text=True,
                check=check,
            )
        )
        return json.loads(done.stdout)

    async def kill(self, *parts: str) -> None:
        """kill -9."""
        rows = await self.status()
        for part in parts:
            os.kill(rows[part]["pid"], signal.SIGKILL)


@pytest.fixture(scope="session")
async def stack() -> AsyncIterator[Stack]:
    """A stack on a fresh folder."""
    async with running_stack(CONFIG) as running:
        yield running


@contextlib.asynccontextmanager
async def running_stack(config: str, *, env: Mapping[str, str] | None = None) -> AsyncIterator[Stack]:
    """A stack on a fresh folder, with settings and variables of its own; it is stopped as an operator stops it."""
    home = Path(tempfile.mkdtemp(prefix="uplift-e2e-"))
    (home / "uplift.toml").write_text(config.replace("{home}", str(home)))
    log = home / "recorder.jsonl"
    log.touch()
    process, url = await start(home, env=env)
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, limits=httpx.Limits(max_connections=None)) as http:
        running = Stack(home=home, url=url, process=process, http=http, log=log)
        try:
            yield running
        finally:
            await running.down()
    shutil.rmtree(home)


@pytest.fixture(scope="session")
def stack_kind() -> type[Stack]:
    """For stacks of a test's own."""
    return Stack


@pytest.fixture(scope="session")
def start_stack() -> Callable[..., Any]:
    """`uplift up` on a folder of a test's own, ready."""
    return start


@pytest.fixture(scope="session")
def stacks() -> Callable[..., contextlib.AbstractAsyncContextManager[Stack]]:
    """Makes stacks of a test's own: `async with stacks(config) as stack`."""
    return running_stack


async def start(home: Path, port: str = "0", env: Mapping[str, str] | None = None) -> tuple[asyncio.subprocess.Process, str]:
    """`uplift up`, ready."""
    with (home / "up.err").open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *UPLIFT, "up", "--home", str(home), "--port", port, "--config", str(home / "uplift.toml"),
            cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, env=environment() | dict(env or {}),
        )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE):
            line = (await process.stdout.readline()).decode()
    except TimeoutError:
        process.terminate()
        await process.wait()
        line = ""
    assert line.startswith("ready: "), (home / "up.err").read_text()
    return process, line.removeprefix("ready: ").strip()
