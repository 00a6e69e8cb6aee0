"""The stack that is measured: one `uplift up` on a folder of its own, the bench module's versions, and who used how much CPU."""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from temporalio.client import Client

from uplift_cli.demo.embedded import DemoStack
from uplift_settings.tree import TemporalSettings
from worker.temporal import connect

PRODUCT = "mod-bench"
_MODULE = Path(__file__).with_name("module.py")
_PARTS = ("gateway", "worker", "temporal", "postgres")
# Old versions stay: stopping them would be measured too.
_SETTINGS = """
[deploy]
retire_after = 3600
"""


class BenchError(Exception):
    """What is measured does not do what it should. The message says what; the folder of its logs is told beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """Seconds of CPU used since some moment.

    Attributes:
        parts: By part of the stack.
        others: By what is not ours: it disturbs.
        elapsed: Seconds by the clock.
    """

    parts: dict[str, float]
    others: float
    elapsed: float

    @property
    def disturbance(self) -> float:
        """Cores that others used."""
        return max(0.0, self.others) / self.elapsed if self.elapsed else 0.0


class Site:
    """A running stack with the bench module.

    Args:
        stack: It.
        http: A client of its gateway.
        log: Where the module writes down its inits.
    """

    def __init__(self, *, stack: DemoStack, http: aiohttp.ClientSession, log: Path, start_seconds: float) -> None:
        self.stack = stack
        self.http = http
        self.start_seconds = start_seconds
        self.log = log
        self._version = 0

    async def call(self, method: str, path: str, body: Any = None, *, tenant: str = "") -> Any:
        """One call that must succeed."""
        headers = {"X-Okapi-Tenant": tenant} if tenant else None
        async with self.http.request(method, f"{self.stack.url}{path}", json=body, headers=headers) as response:
            if response.status >= 400:
                raise BenchError(f"{method} {path}: {response.status} {await response.text()}")
            return await response.json() if response.status != 204 else None

    async def tenants(self, prefix: str, number: int) -> list[str]:
        """New tenants."""
        names = [f"{prefix}{position}" for position in range(number)]
        for name in names:
            await self.call("POST", "/_/proxy/tenants", {"id": name})
        return names

    async def next_version(self) -> str:
        """A version that is newer than all before, registered, and running for a tenant of its own."""
        self._version += 1
        module = f"{PRODUCT}-{self._version}.0.0"
        handler = {"methods": ["GET"], "pathPattern": "/bench/*", "permissionsRequired": []}
        system = {"methods": ["POST"], "pathPattern": "/_/tenant"}
        await self.call(
            "POST",
            "/_/proxy/modules",
            {
                "id": module,
                "provides": [
                    {"id": "bench", "version": "1.0", "handlers": [handler]},
                    {"id": "_tenant", "version": "1.2", "interfaceType": "system", "handlers": [system]},
                ],
                "launchDescriptor": {"exec": f"{sys.executable} {module_command(module, self.log)}"},
                "metadata": {"uplift": {"undo": "module"}},
            },
        )
        if self._version == 1:
            await self.call("POST", "/_/proxy/tenants", {"id": "pilot"})
        await self.call("POST", "/_/proxy/tenants/pilot/install", [{"id": module, "action": "enable"}])
        return module

    async def instance_port(self, module: str) -> int:
        """Port of a version's instance."""
        version = await self.call("GET", f"/_/versions/{module}")
        return int(version["instances"][0]["url"].rsplit(":", 1)[1])

    def inits(self) -> dict[tuple[str, str], tuple[float, float]]:
        """Begin and end of every tenant init, by module and tenant, in seconds since the epoch."""
        lines = [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]
        return {(line["module"], line["tenant"]): (line["begun"], line["ended"]) for line in lines}

    def gate(self, module: str, tenant: str) -> Path:
        """The file that ends a tenant-init job of the bench module by being there."""
        return self.log.with_name(f"{module}-{tenant}.gate")

    async def temporal(self) -> Client:
        """A client of the stack's Temporal."""
        return await connect(TemporalSettings(address=f"127.0.0.1:{self.stack.record.ports['temporal']}"))

    def processes(self) -> dict[str, psutil.Process]:
        """The process of each part."""
        parts = {part.name: part.process for part in self.stack.record.parts}
        return {name: psutil.Process(found.pid) for name in _PARTS if (found := parts[name]) is not None}

    def watch(self) -> Callable[[], Cpu]:
        """Begin to count CPU; what is returned tells what was used since."""
        before, busy, begun = self._used(), _busy(), time.perf_counter()

        def used() -> Cpu:
            after = self._used()
            parts = {name: after[name] - before[name] for name in after}
            elapsed = time.perf_counter() - begun
            return Cpu(parts=parts, others=_busy() - busy - sum(parts.values()), elapsed=elapsed)

        return used

    def _used(self) -> dict[str, float]:
        """Seconds of CPU so far, by part; `rest` is instances, load and this process."""
        owners = {process.pid: name for name, process in self.processes().items()}
        seconds = dict.fromkeys((*_PARTS, "rest"), 0.0)
        root = psutil.Process()
        parents = {process.pid: process for process in (root, *root.children(recursive=True))}
        for process in parents.values():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                owner = self._owner(process, owners)
                seconds[owner] += times.user + times.system + times.children_user + times.children_system
        return seconds

    @staticmethod
    def _owner(process: psutil.Process, owners: dict[int, str]) -> str:
        """The part that a process belongs to. The module's instances are children of the worker, and not it."""
        if str(_MODULE) in process.cmdline():
            return "rest"
        for each in (process, *process.parents()):
            if each.pid in owners:
                return owners[each.pid]
        return "rest"


@contextlib.asynccontextmanager
async def running(home: Path, say: Callable[[str], None]) -> AsyncIterator[Site]:
    """Start a stack in a folder, and stop it."""
    log = home / "inits.jsonl"
    log.touch()
    stack = DemoStack(home=home, port=0, settings=_SETTINGS, say=say)
    begun = time.perf_counter()
    try:
        await stack.start()
        took = time.perf_counter() - begun
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=300)) as http:
            yield Site(stack=stack, http=http, log=log, start_seconds=took)
    finally:
        say("stopping")
        await asyncio.shield(stack.stop())


def module_command(module: str, log: Path) -> str:
    """What starts the bench module as a version, after the interpreter; `%p` is its port."""
    return f"{_MODULE} --id {module} --port %p --log {log}"


def _busy() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)
