"""The data path against nginx and HAProxy doing the same static routing: one backend, one generator, the same requests."""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from statistics import median
from tempfile import mkdtemp

import psutil

from bench.debian import NoPackages, Programs, unpack
from bench.figures import Figures, Rounds
from bench.progress import Progress
from bench.stack import BenchError, Site
from tests.ports import free_port

_ROUNDS, _SECONDS = 3, 3
_CONNECTIONS = (1, 16, 64)
_LARGE, _POST = 100_000, 10_000
_KINDS = (("GET 200 B", "GET", "small", 0), ("GET 100 kB", "GET", "large", 0), ("POST 10 kB", "POST", "post", _POST))
_OLD, _NEW = "mod-peer-1.0.0", "mod-peer-2.0.0"
_TENANT = "peers"
_TWO = "gateway, 2 processes"
_OTHERS, _PARKED = 1_000, 5_000
_NOTE = (
    "Median (least to most) of {rounds} rounds of {seconds:g} s, all in turns; wrk with one thread, another id in every request;"
    " backend: nginx with one process. CPU of the proxy alone. Aims: one process ≥ 12,000 small requests/s, two ≥ 18,000; bodies"
    " of 100 kB ≥ 8,000/s"
)

_SCRIPT = """
local method, path, size, tenant = table.unpack and nil
function init(args)
  method, path, size, tenant = args[1], args[2], tonumber(args[3]), args[4]
  body = size > 0 and string.rep("x", size) or nil
  headers = { ["X-Okapi-Tenant"] = tenant, ["Accept"] = "application/json" }
  number = 0
end
function request()
  number = number + 1
  return wrk.format(method, path .. "/" .. number, headers, body)
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('{"requests": %d, "seconds": %f, "p50": %f, "p99": %f, "errors": %d}\\n', summary.requests,
    summary.duration / 1e6, latency:percentile(50) / 1e6, latency:percentile(99) / 1e6,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""
_NGINX_HEAD = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr error;
events {{ worker_connections 4000; }}
http {{
  access_log off; keepalive_requests 1000000000; client_body_buffer_size 64k;
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3; uwsgi_temp_path {folder}/4;
  scgi_temp_path {folder}/5;
"""
_BACKEND = (
    _NGINX_HEAD
    + """
  server {{
    listen 127.0.0.1:{port} backlog=4096; root {files};
    location /peer/small/ {{ default_type application/json; return 200 '"{small}"'; }}
    location /peer/large/ {{ default_type application/json; try_files /large =404; }}
    location /peer/post/ {{ default_type application/json; return 200 '""'; }}
    location / {{ return 200 'up'; }}
  }}
}}
"""
)
_NGINX = (
    _NGINX_HEAD
    + """
  upstream module {{ server 127.0.0.1:{backend}; keepalive 128; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location /peer/ {{
      if ($http_x_okapi_tenant != "{tenant}") {{ return 404; }}
      proxy_http_version 1.1; proxy_set_header Connection ""; proxy_request_buffering off; proxy_pass http://module;
    }}
  }}
}}
"""
)
_HAPROXY = """
global
  nbthread 1
  maxconn 2000
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend requesters
  bind 127.0.0.1:{port} backlog 4096
  use_backend module if {{ hdr(X-Okapi-Tenant) {tenant} }} {{ path_beg /peer/ }}
backend module
  http-reuse always
  server one 127.0.0.1:{backend} maxconn 1000
"""


@dataclass(frozen=True, kw_only=True)
class _Way:
    """One way to the backend.

    Attributes:
        pids: Processes whose CPU and memory count, their children included.
    """

    name: str
    port: int
    pids: tuple[int, ...] = ()

    def used(self) -> tuple[float, int]:
        """Seconds of CPU so far, and bytes of memory now that are its own."""
        cpu, memory = 0.0, 0
        for process in {each for pid in self.pids for each in _family(pid)}:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                cpu += times.user + times.system
                memory += process.memory_full_info().uss
        return cpu, memory


async def measure(site: Site, progress: Progress, *, quick: bool) -> list[Figures]:
    """All kinds of requests over all ways; then small ones while the gateway has other things to do."""
    folder = Path(mkdtemp(prefix="uplift-peers-"))
    try:
        programs = await asyncio.to_thread(unpack, folder)
    except NoPackages as error:
        progress.say(f"no nginx, HAProxy and wrk to compare with: {error}")
        return []
    rounds, seconds = (1, 1) if quick else (_ROUNDS, _SECONDS)
    others, parked = (100, 500) if quick else (_OTHERS, _PARKED)
    async with _ways(site, programs, folder) as ways:
        script = folder / "load.lua"
        script.write_text(_SCRIPT)
        load = _Load(programs=programs, script=script, seconds=seconds)
        found = [await _kinds(ways, load, progress, rounds)]
        ours = [way for way in ways if way.name.startswith("gateway")]
        found.append(await _while_busy(site, ours[0], load, progress, rounds=rounds, tenants=others, parked=parked))
        return found


@dataclass(frozen=True, kw_only=True)
class _Load:
    programs: Programs
    script: Path
    seconds: int

    async def run(self, way: _Way, seen: Rounds, *, method: str, path: str, size: int, connections: int) -> None:
        """One round."""
        before, _ = way.used()
        process = await asyncio.create_subprocess_exec(
            self.programs.wrk, "-t1", f"-c{connections}", f"-d{self.seconds}s", "-s", self.script,
            f"http://127.0.0.1:{way.port}", "--", method, f"/peer/{path}", str(size), _TENANT,
            env=self.programs.env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, errors = await process.communicate()
        lines = [line for line in out.decode().splitlines() if line.startswith("{")]
        if process.returncode or not lines:
            raise BenchError(f"wrk ended with {process.returncode}: {errors.decode()}{out.decode()}")
        told = json.loads(lines[-1])
        if told["errors"] or not told["requests"]:
            raise BenchError(f"{told['errors']} of {told['requests']} requests by way of {way.name} failed")
        seen.rates.append(told["requests"] / told["seconds"])
        seen.p50.append(told["p50"])
        seen.p99.append(told["p99"])
        seen.cpu.append((way.used()[0] - before) / told["requests"] * 1e6)


async def _kinds(ways: Sequence[_Way], load: _Load, progress: Progress, rounds: int) -> Figures:
    rows, values = [], []
    with progress.of("peers in turns", len(_KINDS) * len(_CONNECTIONS) * rounds * len(ways)) as step:
        for title, method, path, size in _KINDS:
            for connections in _CONNECTIONS:
                seen = {way: Rounds() for way in ways}
                for _ in range(rounds):
                    for way in ways:
                        await load.run(way, seen[way], method=method, path=path, size=size, connections=connections)
                        step()
                for way, each in seen.items():
                    memory = way.used()[1]
                    rows.append((title, str(connections), way.name, *_cells(each, memory)))
                    values.append({"kind": title, "connections": connections, "way": way.name, "memory": memory, **asdict(each)})
    return Figures(
        title="Data path against its peers",
        columns=("request", "connections", "", "requests/s", "p50 ms", "p99 ms", "CPU µs/request", "MB"),
        rows=tuple(rows),
        note=_NOTE.format(rounds=rounds, seconds=load.seconds),
        values=tuple(values),
    )


async def _while_busy(
    site: Site, way: _Way, load: _Load, progress: Progress, *, rounds: int, tenants: int, parked: int
) -> Figures:
    """Small requests at 16 connections, alone and while something else goes on; all in turns would undo what goes on."""
    rows: list[tuple[str, ...]] = []

    async def look(name: str) -> None:
        seen = Rounds()
        for _ in range(rounds):
            await load.run(way, seen, method="GET", path="small", size=0, connections=16)
        rows.append((name, *_cells(seen, way.used()[1])))

    await look("one tenant")
    others = await site.tenants("peer", tenants)
    with progress.of("peers: bind tenants", tenants) as step:
        for tenant in others:
            await _enable(site, tenant, _OLD)
            step()
    await look(f"{tenants:,} tenants bound")
    async with _switched_all_the_time(site, others[0]):
        await look("another tenant switched all the time")
    async with _parked(site, others[1:6], way.port, parked):
        await look(f"{parked:,} requests parked")
    await look("one tenant, again")
    return Figures(
        title="Data path while other things go on (GET 200 B, 16 connections)",
        columns=("", "requests/s", "p50 ms", "p99 ms", "CPU µs/request", "MB"),
        rows=tuple(rows),
        note="One after the other, since what goes on stays: compare with the first and the last line.",
    )


def _cells(seen: Rounds, memory: int) -> tuple[str, ...]:
    return (*seen.cells(), f"{median(seen.cpu):.0f}", f"{memory / 2**20:.0f}" if memory else "")


@contextlib.asynccontextmanager
async def _ways(site: Site, programs: Programs, folder: Path) -> AsyncIterator[list[_Way]]:
    """The backend, and all ways to it."""
    (folder / "large").write_bytes(b'"' + b"l" * (_LARGE - 2) + b'"')
    folder.chmod(0o755)
    backend, nginx, haproxy, two = (free_port() for _ in range(4))
    own = {name: folder / name for name in ("backend", "nginx")}
    for each in own.values():
        each.mkdir(mode=0o755)
    (own["backend"] / "conf").write_text(_BACKEND.format(folder=own["backend"], files=folder, port=backend, small="s" * 198))
    (own["nginx"] / "conf").write_text(_NGINX.format(folder=own["nginx"], port=nginx, backend=backend, tenant=_TENANT))
    (folder / "haproxy.cfg").write_text(_HAPROXY.format(port=haproxy, backend=backend, tenant=_TENANT))
    gateway = site.processes()["gateway"]
    env = {name: value for name, value in gateway.environ().items() if not name.startswith("UPLIFT_LISTEN")}
    env |= {"UPLIFT_GATEWAY__PORT": str(two), "UPLIFT_GATEWAY__PID_FILE": str(folder / "gateway.pid")}
    commands: dict[str, tuple[int, list[object], dict[str, str]]] = {
        "backend": (backend, [programs.nginx, "-c", own["backend"] / "conf", "-p", own["backend"]], programs.env),
        "nginx": (nginx, [programs.nginx, "-c", own["nginx"] / "conf", "-p", own["nginx"]], programs.env),
        "HAProxy": (haproxy, [programs.haproxy, "-db", "-f", folder / "haproxy.cfg"], programs.env),
        _TWO: (two, [sys.executable, "-m", "uplift_cli.main", "gateway", "--processes", "2"], env),
    }
    async with contextlib.AsyncExitStack() as stack:
        pids = {
            name: await stack.enter_async_context(_running(command, env, port=port, log=folder / f"{name}.log"))
            for name, (port, command, env) in commands.items()
        }
        for module in (_OLD, _NEW):
            await _register(site, module, f"http://127.0.0.1:{backend}")
        await site.call("POST", "/_/proxy/tenants", {"id": _TENANT})
        await _enable(site, _TENANT, _OLD)
        yield [
            _Way(name="direct", port=backend),
            _Way(name="nginx", port=nginx, pids=(pids["nginx"],)),
            _Way(name="HAProxy", port=haproxy, pids=(pids["HAProxy"],)),
            _Way(name="gateway, 1 process", port=site.stack.record.ports["gateway"], pids=(gateway.pid,)),
            _Way(name=_TWO, port=two, pids=(pids[_TWO],)),
        ]


@contextlib.asynccontextmanager
async def _running(command: Sequence[object], env: dict[str, str], *, port: int, log: Path) -> AsyncIterator[int]:
    """A program from when it listens on its port until it has ended; its process id.

    Raises:
        BenchError: It ends before, or does not listen within a minute. The message is what it wrote.
    """
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(*map(str, command), env=env, stdout=errors, stderr=errors)
    try:
        await _listens(process, port=port, log=log)
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _listens(process: asyncio.subprocess.Process, *, port: int, log: Path) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(60):
            while process.returncode is None:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    return
                await asyncio.sleep(0.05)
    raise BenchError(f"nothing listens on {port}: {log.read_text(errors='replace')[-2_000:]}")


def _family(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


async def _register(site: Site, module: str, url: str) -> None:
    """A version of the module behind all ways."""
    handlers = [{"methods": ["GET", "POST"], "pathPattern": "/peer/*", "permissionsRequired": []}]
    provides = [{"id": "peer", "version": f"{module.rsplit('-', 1)[1].rpartition('.')[0]}", "handlers": handlers}]
    await site.call("POST", "/_/proxy/modules", {"id": module, "provides": provides})
    await site.call("POST", "/_/discovery/modules", {"srvcId": module, "instId": module, "url": url})


async def _enable(site: Site, tenant: str, module: str) -> None:
    await site.call("POST", f"/_/proxy/tenants/{tenant}/install", [{"id": module, "action": "enable"}])


@contextlib.asynccontextmanager
async def _switched_all_the_time(site: Site, tenant: str) -> AsyncIterator[None]:
    """A tenant that goes to the other version every second, if that is time enough."""

    async def again() -> None:
        for module in cycle((_NEW, _OLD)):
            since = time.monotonic()
            await _enable(site, tenant, module)
            await asyncio.sleep(max(0.0, 1.0 - (time.monotonic() - since)))

    task = asyncio.create_task(again())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.asynccontextmanager
async def _parked(site: Site, tenants: Sequence[str], port: int, count: int) -> AsyncIterator[None]:
    """Requests that wait for the RESUME of their tenant's module, which comes at the end."""
    writers = []
    holds = [{"event": "UPDATE", "hold": f"bench-{name}", "tenant": name, "reason": "bench", "ttl": 600} for name in tenants]
    for hold in holds:
        await site.call("POST", f"/_/lifecycle/{_OLD}", hold)
    try:
        for number in range(count):
            tenant = tenants[number % len(tenants)]
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            head = f"GET /peer/small/1 HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {tenant}\r\nPrefer: wait=600\r\n\r\n"
            writer.write(head.encode())
            writers.append(writer)
        async with asyncio.timeout(60):
            while await _count_parked(site, tenants) < count:
                await asyncio.sleep(0.1)
        yield
    finally:
        for hold in holds:
            await site.call("POST", f"/_/lifecycle/{_OLD}", {**hold, "event": "RESUME"})
        async with asyncio.timeout(60):
            while await _count_parked(site, tenants):
                await asyncio.sleep(0.1)
        for writer in writers:
            writer.close()


async def _count_parked(site: Site, tenants: Sequence[str]) -> int:
    links = [link for tenant in tenants for link in await site.call("GET", f"/_/lifecycle/links?tenant={tenant}")]
    return sum(link["parked"] for link in links)
