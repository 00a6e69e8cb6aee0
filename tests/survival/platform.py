"""A whole embedded stack whose worker reaches its gateway through a proxy of the test, and what a test does to it."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Self

import asyncpg
import httpx
import psutil

from deployers.process_tree import observe
from deployers.records import Records
from examples.descriptors import descriptor
from tests.wire.http_proxy import WireProxy
from uplift_cli.demo.requests import Caller
from uplift_cli.stack.postgres import GATEWAY_DATABASE, MODULES_DATABASE, EmbeddedPostgres
from uplift_cli.stack.state import StackRecord, read_record

ROOT = Path(__file__).parents[2]
UPLIFT = (sys.executable, "-m", "uplift_cli.main")
PARTS = ("worker", "gateway", "temporal", "postgres")
PATIENCE = 90.0
"""Seconds for whatever a test waits for, beside the time that something stays away."""
_LOOK = 0.1
_CONFIG = """
[gateway]
url = "{proxy}"
settle = 0.5
sweep_interval = 0.3
lease_renew = 0.5
probe_interval = 0.1
health_interval = 1
[worker]
gateway_url = "{proxy}"
keeper_interval = {comeback}
sticky_timeout = 1
heartbeat_every = 0.5
[deploy]
retire_after = 0.2
stop_grace = 2
health_wait = 30
external_wait = 1
[init]
quiet = 1
connect_retry = {patience}
poll_max = 1
[snapshots]
keep = 0.2
prune_every = 0.3
[reconcile]
interval = 0
[stack]
restart_pause = {comeback}
"""


@dataclass
class Platform:
    """A running stack.

    Attributes:
        home: Its folder.
        url: The gateway itself, as users reach it.
        proxy: Between worker and gateway.
        comeback: Seconds after which what died is started again.
        http: For admin calls, past the proxy.
        caller: For users' requests, past the proxy.
        broken: Whether a case failed on it, so that others want another one.
    """

    home: Path
    url: str
    proxy: WireProxy
    comeback: float
    process: asyncio.subprocess.Process
    http: httpx.AsyncClient
    caller: Caller
    numbers: Any = field(default_factory=count)
    broken: bool = False

    @classmethod
    @asynccontextmanager
    async def running(cls, home: Path, *, comeback: float) -> AsyncIterator[Self]:
        """Start one on a fresh folder; stop it afterwards."""
        async with WireProxy(upstream="http://127.0.0.1:9") as proxy:  # nobody is there until the stack is
            config = _CONFIG.format(proxy=proxy.url, comeback=max(comeback, 0.2), patience=10 + 2 * comeback)
            (home / "uplift.toml").write_text(config)
            process, url = await _up(home)
            proxy.upstream = url
            caller = Caller(url=url)
            try:
                async with httpx.AsyncClient(base_url=url, timeout=PATIENCE) as http:
                    platform = cls(home, url, proxy, comeback, process, http, caller)
                    await platform.register()
                    yield platform
            finally:
                await caller.close()
                proxy.clear()
                if process.returncode is None:
                    process.send_signal(signal.SIGTERM)
                    async with asyncio.timeout(PATIENCE):
                        await process.wait()

    @property
    def record(self) -> StackRecord:
        """What the stack says of itself now."""
        record = read_record(self.home)
        assert record is not None
        return record

    def dsn(self, database: str = MODULES_DATABASE) -> str:
        """A database's address."""
        return EmbeddedPostgres(home=self.home, port=self.record.ports["postgres"]).dsn(database)

    async def register(self) -> None:
        """Make the releases known that the cases need."""
        for version in ("1.0.0", "1.1.0", "2.0.0", "2.2.0", "3.0.0"):
            uplift: dict[str, Any] = {"undo": "reversible" if version == "2.2.0" else "snapshot"}
            if version == "2.0.0":
                uplift["soak"] = 1
            described = descriptor("mod-users", version, python=sys.executable, uplift=uplift)
            await self.ok("POST", "/_/proxy/modules", described)

    async def ok(self, method: str, path: str, body: Any = None) -> Any:
        """One admin call that must succeed; it is sent again where a kill cut it or its server is away."""
        async with asyncio.timeout(PATIENCE + self.comeback):
            while True:
                with suppress(httpx.TransportError):
                    answer = await self.http.request(method, path, json=body)
                    if answer.status_code < 500:
                        break
                await asyncio.sleep(_LOOK)
        assert answer.status_code < 400, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    async def tenant(self) -> str:
        """A new tenant."""
        tenant = f"t{next(self.numbers)}"
        await self.ok("POST", "/_/proxy/tenants", {"id": tenant})
        return tenant

    async def begin(self, tenant: str, module: str, *, action: str = "enable", query: str = "") -> str:
        """Begin a job; gives its id."""
        path = f"/_/proxy/tenants/{tenant}/install?async=true&{query}"
        answer = await self.http.post(path, json=[{"id": module, "action": action}])
        assert answer.status_code == 201, answer.text
        return answer.headers["Location"].rsplit("/", 1)[1]

    async def job(self, tenant: str, job: str) -> dict[str, Any]:
        """A job as it is now."""
        found: dict[str, Any] = await self.ok("GET", f"/_/proxy/tenants/{tenant}/install/{job}")
        return found

    async def install(self, tenant: str, module: str) -> None:
        """Bring a tenant to a version."""
        job = await self.begin(tenant, module)
        ended = await self.until(lambda: self.job(tenant, job), lambda row: row["complete"])
        assert ended["status"] == "done", ended

    async def until(self, look: Callable[[], Any], good: Callable[[Any], bool], *, within: float = PATIENCE) -> Any:
        """What a look gives, when it is as wanted."""
        found = None
        try:
            async with asyncio.timeout(within):
                while not good(found := await look()):
                    await asyncio.sleep(_LOOK)
        except TimeoutError:
            raise AssertionError(f"not within {within:g} s: {found}") from None
        return found

    @asynccontextmanager
    async def connection(self, database: str = MODULES_DATABASE) -> AsyncIterator[asyncpg.Connection]:
        """A session of the test's own. What it holds is given up at the end."""
        connection = await asyncpg.connect(self.dsn(database), server_settings={"application_name": "test"})
        try:
            yield connection
        finally:
            connection.terminate()

    def pids(self, component: str, *, old: str, new: str) -> dict[str, int]:
        """The living processes of a component, by name: parts, or instances of a version."""
        if component in PARTS:
            return {
                part.name: part.process.pid for part in self.record.parts if part.name == component and part.process is not None
            }
        if component == "everything":
            found: dict[str, int] = {}
            for each in (*PARTS, "instances"):
                found |= self.pids(each, old=old, new=new)
            return found
        wanted = {"old-instance": (old,), "new-instance": (new,)}.get(component)
        return {
            record.launch.inst_id: record.pid
            for record in Records(self.home / "instances").all()
            if (wanted is None or record.launch.module_id in wanted) and record.pid and observe(record.pid) is not None
        }

    def kill(self, pids: dict[str, int]) -> None:
        """kill -9, all at once; Postgres with its sessions, which would go on for a moment and might commit."""
        server = psutil.Process(pids["postgres"]).children() if "postgres" in pids else []
        for pid in (*pids.values(), *(child.pid for child in server)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def remove(self, tenant: str) -> None:
        """Delete a tenant, and wait until what only it needed is gone, if that is soon."""
        await self.ok("DELETE", f"/_/proxy/tenants/{tenant}")
        if not self.comeback:  # else it takes minutes until the keeper sees it, and does the next case no harm
            await self.until(lambda: self.ok("GET", "/_/versions"), lambda rows: all(row["neededBy"] for row in rows))

    def needed(self, pids: dict[str, int]) -> bool:
        """Whether all that was killed is to come back: an instance that nobody needs any more does not."""
        known = {record.launch.inst_id for record in Records(self.home / "instances").all()}
        return all(name in PARTS or name in known for name in pids)

    def back(self, pids: dict[str, int]) -> bool:
        """Whether all that was killed runs again and is ready."""
        parts = {part.name: part for part in self.record.parts}
        records = {record.launch.inst_id: record for record in Records(self.home / "instances").all()}
        return all(
            (name in parts and parts[name].condition == "ready" and parts[name].process is not None
             and parts[name].process.pid != pid)  # type: ignore[union-attr]
            or (name in records and records[name].pid not in (None, pid) and observe(records[name].pid or 0) is not None)
            for name, pid in pids.items()
        )  # fmt: skip


async def _up(home: Path) -> tuple[asyncio.subprocess.Process, str]:
    """`uplift up`, ready, and where its gateway is."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("UPLIFT_") or name == "UPLIFT_CACHE"}
    with (home / "up.err").open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *UPLIFT, "up", "--home", str(home), "--port", "0", "--config", str(home / "uplift.toml"),
            cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, env=env, start_new_session=True,
        )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        line = (await process.stdout.readline()).decode()
    assert line.startswith("ready: "), (home / "up.err").read_text()
    return process, line.removeprefix("ready: ").strip()


__all__ = ["GATEWAY_DATABASE", "MODULES_DATABASE", "PARTS", "PATIENCE", "Platform"]
