"""What a machine may do to us: a full disk, no ports, a clock that jumps, a worker or a stack too many (requirements D2, D3)."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from examples.descriptors import descriptor
from module_data import PostgresData

pytestmark = pytest.mark.xdist_group("two stacks")
"""They share two stacks; the last of them stops one."""

ROOT = Path(__file__).parents[2]
CONFIG = """
[gateway]
settle = 0.5
grace = 3
[deploy]
retire_after = 1
stop_grace = 2
health_wait = 20
[init]
quiet = 1
[snapshots]
folder = "{home}/small"
"""
FAKETIME = next((path for path in Path("/usr").glob("lib*/**/faketime/libfaketime.so.1")), None)


@pytest.fixture(scope="module")
async def stack(stacks: Any) -> AsyncIterator[Any]:
    """A stack whose copies go to a folder of its own."""
    async with stacks(CONFIG) as running:
        yield running


class Clock:
    """The wall clock of a stack's processes; the one that measures durations goes on as it does when a machine's clock is set."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "offset"
        self.is_there = FAKETIME is not None
        self.jump(0)

    def jump(self, seconds: int) -> None:
        """Set it so far from the machine's; seen within a second."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{seconds:+d}\n")
        fresh.chmod(0o644)
        fresh.replace(self._file)

    @property
    def variables(self) -> dict[str, str]:
        """The environment of processes that live by it."""
        if FAKETIME is None:
            return {}
        return {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


@pytest.fixture(scope="module")
def clock() -> Iterator[Clock]:
    """Shared by the processes of the other stack; Postgres, another user's, reads it too."""
    folder = Path(tempfile.mkdtemp(prefix="uplift-clock-"))
    folder.chmod(0o755)
    yield Clock(folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
async def other(stacks: Any, stack: Any, clock: Clock) -> AsyncIterator[Any]:
    """A second stack on this machine, beside the first."""
    async with stacks(CONFIG, env=clock.variables) as running:
        running.numbers = iter(range(1_000, 2_000))
        yield running


@contextmanager
def small_disk(folder: Path, *, free: int) -> Iterator[Path]:
    """A file system of its own in a folder, with so many bytes left; removing the `ballast` makes room.

    Skips where mounting is not allowed.
    """
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        ("mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)), capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    try:
        (folder / "ballast").write_bytes(b"x" * (8 * 2**20 - free))
        yield folder
    finally:
        subprocess.run(("umount", "--lazy", str(folder)), check=True)


@contextmanager
def ports_taken(first: int, last: int) -> Iterator[None]:
    """Every free port of a range is taken by somebody else."""
    with ExitStack() as taken:
        for port in range(first, last + 1):
            listener = taken.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                listener.bind(("127.0.0.1", port))
                listener.listen()
        yield


async def users(stack: Any, rows: int = 40) -> str:
    """A tenant with users in 1.0.0."""
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        await stack.register(descriptor("mod-users", version, python=sys.executable))
    tenant: str = await stack.tenant()
    assert (await stack.install(tenant, "mod-users-1.0.0"))["outcome"] == "done"
    for number in range(rows):
        await stack.ok(
            "PUT", f"/users/{uuid.uuid4()}", {"name": f"Ada Lovelace {number}", "seq": number}, **{"X-Okapi-Tenant": tenant}
        )
    return tenant


async def two_versions(stack: Any) -> tuple[str, str, str]:
    """A tenant that has the first of two versions: (tenant, first, second)."""
    tenant, product = await stack.tenant(), stack.product()
    old, new = f"{product}-1.0.0", f"{product}-2.0.0"
    await stack.register(*(stack.descriptor(product, version) for version in ("1.0.0", "2.0.0")))
    assert (await stack.install(tenant, old))["outcome"] == "done"
    return tenant, old, new


async def until_seen(stack: Any, seconds: int) -> None:
    """Wait until Postgres lives by the clock that was set."""
    connection = await asyncpg.connect(stack.modules_dsn())
    async with asyncio.timeout(60):
        while abs(await connection.fetchval("select extract(epoch from clock_timestamp())::float8") - time.time() - seconds) > 60:
            await asyncio.sleep(0.05)
    await connection.close()


async def until_ready(mark: Path, pid: int) -> None:
    """Wait until a worker says that it polls."""
    async with asyncio.timeout(60):
        while True:
            with suppress(OSError):
                if mark.read_text().strip() == str(pid):
                    return
            await asyncio.sleep(0.05)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != "ballast")


@pytest.mark.soak
async def test_a_disk_that_is_full_for_copies_is_named_and_the_upgrade_is_undone(stack: Any) -> None:
    """Requirements D2, E5: no part of a copy is left, users go on; with room again the same upgrade goes well."""
    tenant = await users(stack)
    dsn = stack.modules_dsn()
    connection = await asyncpg.connect(dsn)
    await connection.execute(f"create table {tenant}_mod_users.big as select md5(n::text) from generate_series(1, 9000) n")
    await connection.close()
    folder = stack.home / "small"
    with small_disk(folder, free=65_536):
        before = await PostgresData(dsn=dsn).fingerprint(f"{tenant}_mod_users")
        job = await stack.install(tenant, "mod-users-2.0.0")
        left = files(folder)
        same = await PostgresData(dsn=dsn).fingerprint(f"{tenant}_mod_users") == before
        asked = await stack.ask(tenant, "/users/count")
        (folder / "ballast").unlink()
        again = await stack.install(tenant, "mod-users-2.0.0")

    message = job["errors"][0]["message"]
    assert job["outcome"] == "rolled_back"
    assert f"{folder}/{tenant}" in message
    assert "snapshots.folder" in message
    assert "No space left on device" in message
    assert (left, same, asked.json()) == ([], True, {"count": 40})
    assert again["outcome"] == "done"


@pytest.mark.soak
async def test_a_disk_that_becomes_full_while_a_copy_is_put_back_is_in_nobodys_way(stack: Any) -> None:
    """Requirement D2: putting back reads the copy and writes to Postgres only."""
    tenant = await users(stack)
    folder = stack.home / "small"
    before = await PostgresData(dsn=stack.modules_dsn()).fingerprint(f"{tenant}_mod_users")
    with small_disk(folder, free=2**20):
        path = await stack.begin(tenant, "mod-users-3.0.0", query="tenantParameters=migrationSeconds%3D1,fail%3Djob")
        await stack.until(path, lambda row: row["phase"] == "migrating")
        fill(folder / "more")
        job = await stack.ended(path)
        same = await PostgresData(dsn=stack.modules_dsn()).fingerprint(f"{tenant}_mod_users") == before

    assert (job["outcome"], same) == ("rolled_back", True)
    assert (await stack.ask(tenant, "/users/count")).json() == {"count": 40}


@pytest.mark.soak
async def test_ports_that_are_used_up_are_named_and_the_upgrade_is_undone(stack: Any) -> None:
    """Requirement D2: nothing is left, and with a free port the same upgrade goes well."""
    tenant, old, new = await two_versions(stack)
    ports = json.loads((stack.home / "stack.json").read_text())["ports"]
    first, last = ports["modules_first"], ports["modules_last"]
    with ports_taken(first, last):
        job = await stack.install(tenant, new)
        left = await stack.instances(new)
        asked = await stack.ask(tenant, f"/{old.rpartition('-')[0]}/x")
    again = await stack.install(tenant, new)

    message = job["errors"][0]["message"]
    assert (job["outcome"], left, asked.json()["id"]) == ("rolled_back", [], old)
    assert f"all ports in use: {first}-{last}" in message
    assert "widen deploy.port_first-deploy.port_last or retire instances" in message
    assert again["outcome"] == "done"


@pytest.mark.soak
async def test_a_worker_that_is_started_twice_on_one_host_does_nothing_twice(stack: Any) -> None:
    """Same node, same folder, and each of the two killed in turn: every run ends, nothing was started twice (requirement D3)."""
    first = (await stack.status())["worker"]["pid"]
    env = psutil.Process(first).environ()
    with (stack.home / "second.log").open("wb") as log:
        second = subprocess.Popen((sys.executable, "-m", "worker.main"), cwd=ROOT, env=env, stdout=log, stderr=log)
    try:
        await until_ready(stack.home / "worker.ready", second.pid)
        upgrades = [await two_versions(stack) for _ in range(2)]
        paths = [await stack.begin(tenant, new, query="tenantParameters=do%3Djob,seconds%3D2") for tenant, _, new in upgrades]
        for path in paths:
            await stack.until(path, lambda row: row["phase"] == "migrating" or row["complete"])
        os.kill(first, signal.SIGKILL)
        jobs = [await stack.ended(path) for path in paths]
        os.kill(second.pid, signal.SIGKILL)
        downgrades = [await stack.install(tenant, old) for tenant, old, _ in upgrades]
    finally:
        second.kill()
        second.wait()

    assert {job["outcome"] for job in (*jobs, *downgrades)} == {"done"}
    for _, old, new in upgrades:
        for module in (old, new):
            started, stopped = await stack.own_events(module, "start"), await stack.own_events(module, "stopping")
            assert len(started) <= len(stopped) + 1, module
        assert len(await stack.inits(new)) == 1


@pytest.mark.soak
async def test_two_stacks_side_by_side_are_in_nobodys_way(stack: Any, other: Any) -> None:
    """Each has its folder, its ports, its database and its runs; the same module ids are different instances."""
    ours, theirs = (json.loads((each.home / "stack.json").read_text())["ports"] for each in (stack, other))
    jobs = []
    for each in (stack, other):
        await each.register(each.descriptor("mod-same", "1.0.0"), each.descriptor("mod-same", "2.0.0"))
        await each.ok("POST", "/_/proxy/tenants", {"id": "same"})
    for version in ("1.0.0", "2.0.0"):
        jobs += await asyncio.gather(*(each.install("same", f"mod-same-{version}") for each in (stack, other)))
    urls = [(await each.instances("mod-same-2.0.0"))[0]["url"] for each in (stack, other)]

    singles = ("gateway", "postgres", "temporal", "ui")
    assert {job["outcome"] for job in jobs} == {"done"}
    assert not {ours[name] for name in singles} & {theirs[name] for name in singles}
    assert urls[0] != urls[1]
    assert [len(await each.own_events("mod-same-2.0.0", "start")) for each in (stack, other)] == [1, 1]


@pytest.mark.soak
@pytest.mark.parametrize("seconds", [3_600, -3_600])
async def test_a_machine_whose_clock_jumps_by_an_hour_in_mid_run_ends_the_run(other: Any, clock: Clock, seconds: int) -> None:
    """Gateway, worker, modules and Postgres see the jump (Temporal counts by itself): no write is lost, no hold opens early."""
    if not clock.is_there:
        pytest.skip("libfaketime is not installed: apt-get install faketime")
    tenant, old, new = await two_versions(other)
    stop = asyncio.Event()
    answers: list[tuple[int, str]] = []

    async def write() -> None:
        while not stop.is_set():
            answer = await other.ask(tenant, f"/{old.rpartition('-')[0]}/w?seconds=0.1", "POST")
            answers.append((answer.status_code, answer.text[:200]))

    clock.jump(0)
    await until_seen(other, 0)
    writing = [asyncio.create_task(write()) for _ in range(3)]
    path = await other.begin(tenant, new, query="tenantParameters=do%3Djob,seconds%3D2")
    await other.until(path, lambda row: row["phase"] == "migrating")
    clock.jump(seconds)
    await until_seen(other, seconds)
    job = await other.ended(path)
    after = await other.install(tenant, old)
    stop.set()
    await asyncio.gather(*writing)

    assert (job["outcome"], after["outcome"]) == ("done", "done")
    assert {status for status, _ in answers} == {200}, answers
    written = [line for module in (old, new) for line in other.recorded(module, path=f"/{old.rpartition('-')[0]}/w")]
    assert len(written) == len(answers)
    assert len(await other.inits(new, tenant)) == 1


@pytest.mark.soak
async def test_stopping_one_stack_leaves_the_other_alone(stack: Any, other: Any) -> None:
    """The last test of the second stack: it is started again for its own end."""
    before = await stack.instances("mod-same-2.0.0")

    await other.down()
    asked = await stack.ask("same", "/mod-same/x")
    job = await stack.install("same", "mod-same-1.0.0")
    rows = await stack.status()

    assert (asked.json()["id"], job["outcome"]) == ("mod-same-2.0.0", "done")
    assert len(before) == 1
    assert {row["restarts"] for row in rows.values() if row.get("restarts") is not None} <= {0, 1}
    await other.up()


def fill(path: Path) -> None:
    """Write until the disk is full."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        with suppress(OSError):
            while True:
                os.write(handle, b"x" * 4_096)
    finally:
        os.close(handle)
