"""The embedded stack with real Postgres and Temporal, and stand-ins for gateway and worker."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from deployers.base import Launch
from deployers.process_tree import observe
from uplift_cli.stack import instances
from uplift_cli.stack.errors import PortTaken
from uplift_cli.stack.ports import require_free
from uplift_cli.stack.postgres import EmbeddedPostgres, make_reachable
from uplift_cli.stack.shutdown import shut_down
from uplift_cli.stack.state import read_record
from uplift_cli.stack.status import look
from uplift_cli.stack.temporal_binary import require
from uplift_settings import Settings, load

ROOT = Path(__file__).parents[2]
UP = Path(__file__).parent / "stand_ins" / "up.py"
PARTS = ("postgres", "temporal", "gateway", "worker")
PATIENCE = 40.0


class Up:
    """A stack started as a process of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.settings: Settings = load(overrides={"home": home})
        self.url = ""
        self._process: asyncio.subprocess.Process | None = None

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process

    async def launch(self, *more: str) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(UP),
            str(self.home),
            *more,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    async def start(self) -> None:
        await self.launch()
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = (await self.process.stdout.readline()).decode()
        assert line.startswith("ready: http://127.0.0.1:"), f"{line!r} {await self.errors()}"
        self.url = line.removeprefix("ready: ").strip()

    async def errors(self) -> str:
        """What it said until it ended."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            text = (await self.process.stderr.read()).decode()
            await self.process.wait()
        return text

    async def end(self, signum: int = signal.SIGTERM) -> tuple[int | None, str]:
        self.process.send_signal(signum)
        text = await self.errors()
        return self.process.returncode, text

    def pids(self) -> dict[str, int]:
        record = read_record(self.home)
        assert record is not None
        return {part.name: part.process.pid for part in record.parts if part.process is not None}

    def ports(self) -> dict[str, int]:
        record = read_record(self.home)
        assert record is not None
        return dict(record.ports)

    async def connect(self, database: str = "uplift") -> Any:
        return await asyncpg.connect(EmbeddedPostgres(home=self.home, port=self.ports()["postgres"]).dsn(database))

    def left(self) -> list[psutil.Process]:
        """Processes that have the folder in their command line or are a part's own children."""
        found = []
        for process in psutil.process_iter():
            try:
                if str(self.home) in " ".join(process.cmdline()) or process.environ().get("UPLIFT_HOME") == str(self.home):
                    found.append(process)
            except psutil.Error:
                continue
        return found


async def until(condition: Callable[[], Any]) -> Any:
    async with asyncio.timeout(PATIENCE):
        while True:
            got = condition()
            if isinstance(got, Awaitable):
                got = await got
            if got:
                return got
            await asyncio.sleep(0.02)


def temporal(up: Up, *words: str) -> str:
    command = (str(require()), *words, "--address", f"127.0.0.1:{up.ports()['temporal']}")
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE).stdout


def uplift(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-m", "uplift_cli.main", *words), cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


@pytest.fixture
async def up() -> AsyncIterator[Up]:
    # Not in pytest's folder: that one is closed to other users at each session's start, and Postgres may be one.
    home = Path(tempfile.mkdtemp(prefix="uplift-stack-"))
    stack = Up(home)
    try:
        yield stack
    finally:
        await shut_down(stack.settings, say=print)
        if stack._process is not None:
            await stack.errors()
            stack.process._transport.close()  # type: ignore[attr-defined]
        shutil.rmtree(home)


async def test_an_empty_folder_gets_ready_and_sigterm_leaves_no_process_behind(up: Up) -> None:
    await up.start()
    assert set(up.pids()) == set(PARTS)
    assert {part.condition for part in read_record(up.home).parts} == {"ready"}  # type: ignore[union-attr]
    connection = await up.connect("modules")
    assert await connection.fetchval("SHOW max_connections") == "300"
    assert await connection.fetchval("SHOW fsync") == "on"
    await connection.close()
    made = [*map(up.home.joinpath, ("postgres.password", "stack.json", "stack.lock")), *(up.home / "logs").iterdir()]
    assert {path.name: oct(path.stat().st_mode)[-3:] for path in made} == {path.name: "600" for path in made}
    assert {f"{part}.log" for part in PARTS} < {path.name for path in made}

    code, said = await up.end()

    assert code == 0, said
    assert up.left() == []
    assert [line for line in said.splitlines() if "127.0.0.1" in line and "UI http" in line], said
    assert [line for line in said.splitlines() if "stop" in line] == [
        "stopping",
        "worker stopped",
        "gateway stopped",
        "temporal stopped",
        "postgres stopped",
        "stopped",
    ]


@pytest.mark.soak
async def test_any_part_that_is_killed_is_started_again(up: Up) -> None:
    await up.start()
    for part in PARTS:
        child = int((up.home / "worker.child").read_text())
        await _kill_and_see_it_again(up, part)
        assert {row.part: row.restarts for row in (await look(up.settings)).rows}[part] == 1
        assert part != "worker" or not observe(child)
    _, said = await up.end()
    for part in PARTS:
        assert f"{part} was killed by signal 9; it is started again in 0.2 s" in said


async def test_requests_wait_while_the_gateway_is_started_again(up: Up) -> None:
    await up.start()
    before = up.pids()["gateway"]
    os.kill(before, signal.SIGKILL)

    answer = await asyncio.to_thread(lambda: urllib.request.urlopen(up.url, timeout=PATIENCE).read())

    assert int(answer.split()[0]) != before


@pytest.mark.soak
async def test_data_and_ports_survive_a_kill_of_everything(up: Up) -> None:
    await up.start()
    ports = up.ports()
    connection = await up.connect()
    await connection.execute("CREATE TABLE kept (it text)")
    await connection.execute("INSERT INTO kept VALUES ('yes')")
    await connection.close()
    start = ("workflow", "start", "--type", "Kept", "--task-queue", "nobody", "--workflow-id", "kept")
    temporal(up, *start)
    for pid in (up.process.pid, *up.pids().values()):
        os.kill(pid, signal.SIGKILL)
    await up.errors()

    await up.start()

    assert up.ports() == ports
    connection = await up.connect()
    assert await connection.fetchval("SELECT it FROM kept") == "yes"
    await connection.close()
    assert "Kept" in temporal(up, "workflow", "describe", "--workflow-id", "kept")


@pytest.mark.soak
async def test_the_next_up_takes_over_from_a_killed_supervisor(up: Up) -> None:
    await up.start()
    before = up.pids()
    connection = await up.connect()
    await connection.execute("CREATE TABLE kept (it text)")
    await connection.close()
    os.kill(up.process.pid, signal.SIGKILL)
    await up.errors()
    assert {row.state for row in (await look(up.settings)).rows} == {"orphaned"}

    await up.start()

    assert not set(before.values()) & set(up.pids().values())
    assert not any(observe(pid) for pid in before.values())
    connection = await up.connect()
    assert await connection.fetchval("SELECT count(*) FROM kept") == 0
    await connection.close()


async def test_a_second_up_on_the_same_folder_is_refused(up: Up) -> None:
    await up.start()
    second = Up(up.home)
    await second.launch()

    said = await second.errors()

    assert second.process.returncode == 1
    assert f"is in use by another `uplift up` (pid {up.process.pid})" in said
    assert set(up.pids()) == set(PARTS)


@pytest.mark.soak
async def test_a_kept_port_that_something_else_took_is_named(up: Up) -> None:
    await up.start()
    await up.end()
    taken = up.ports()["temporal"]
    with socket.create_server(("127.0.0.1", taken)):
        await up.launch()
        said = await up.errors()

    assert up.process.returncode == 1
    assert f"port {taken} of temporal is taken by" in said
    assert f"(pid {os.getpid()})" in said
    assert "stack.temporal_port" in said
    assert up.left() == []


@pytest.mark.soak
async def test_ports_of_another_stack_are_named_with_its_folder(up: Up) -> None:
    await up.start()
    for name in ("gateway", "postgres", "temporal"):
        with pytest.raises(PortTaken) as caught:
            require_free({name: (up.ports()[name], "--port")}, host="127.0.0.1")
        assert f"of the stack in {up.home}: stop that with `uplift down --home {up.home}`, or set another" in str(caught.value)


async def test_a_part_that_never_starts_ends_everything_with_its_last_words(up: Up) -> None:
    await up.launch("broken")

    said = await up.errors()

    assert up.process.returncode == 1
    assert "worker does not start: ended with exit code 1" in said
    assert "no such queue" in said
    assert up.left() == []


async def test_instances_of_modules_are_stopped_with_the_stack(up: Up) -> None:
    await up.start()
    deployer = instances.deployer(up.home, up.settings)
    server = f"{sys.executable} -m http.server %p --bind 127.0.0.1"
    await deployer.start(Launch(inst_id="i-1", module_id="mod-files-1.0.0", exec=server))
    assert [row.part for row in (await look(up.settings)).rows] == [*PARTS, "mod-files-1.0.0"]

    _, said = await up.end()

    assert await deployer.find("i-1") is None
    assert "stopping 1 instance (up to 10 s)\nmod-files-1.0.0 stopped\n" in said


async def test_an_instance_that_died_is_shown_as_down(up: Up) -> None:
    await up.start()
    deployer = instances.deployer(up.home, up.settings)
    server = f"{sys.executable} -m http.server %p --bind 127.0.0.1"
    running = await deployer.start(Launch(inst_id="i-1", module_id="mod-files-1.0.0", exec=server))
    assert running.pid is not None
    os.kill(running.pid, signal.SIGKILL)
    await until(lambda: not observe(running.pid or 0))

    row = (await look(up.settings)).rows[-1]

    assert (row.part, row.state, row.pid, row.address) == ("mod-files-1.0.0", "down", None, running.url)
    assert Path(row.log) == Path(running.log)


@pytest.mark.soak
async def test_a_second_interrupt_kills(up: Up) -> None:
    await up.start()
    os.kill(up.pids()["worker"], signal.SIGSTOP)
    assert up.process.stderr is not None
    up.process.send_signal(signal.SIGINT)
    async with asyncio.timeout(PATIENCE):
        while b"stopping" not in await up.process.stderr.readline():
            pass

    await up.end(signal.SIGINT)

    assert up.left() == []


async def test_status_and_down_speak_of_the_same_stack(up: Up) -> None:
    nothing = await asyncio.to_thread(uplift, "status", "--home", str(up.home))
    assert (nothing.returncode, nothing.stdout) == (3, f"not running ({up.home})\n")
    await up.start()

    shown = await asyncio.to_thread(uplift, "status", "--home", str(up.home), "--json")
    table = await asyncio.to_thread(uplift, "status", "--home", str(up.home))
    stopped = await asyncio.to_thread(uplift, "down", "--home", str(up.home))

    assert shown.returncode == 0
    seen = json.loads(shown.stdout)
    assert (seen["running"], seen["supervisor"], seen["url"]) == (True, up.process.pid, up.url)
    assert [row["state"] for row in seen["rows"]] == ["ready"] * 4
    assert all(Path(row["log"]).exists() for row in seen["rows"])
    assert "Temporal UI: http://127.0.0.1:" in table.stdout
    assert (stopped.returncode, stopped.stdout) == (0, f"stopped ({up.home})\n")
    assert f"waiting for `uplift up` (pid {up.process.pid}" in stopped.stderr
    assert {f"{part} stopped" for part in PARTS} <= set(stopped.stderr.splitlines())
    assert up.left() == []
    assert (await asyncio.to_thread(uplift, "status", "--home", str(up.home))).returncode == 3


@pytest.mark.soak
async def test_down_ends_what_a_killed_supervisor_left(up: Up) -> None:
    await up.start()
    os.kill(up.process.pid, signal.SIGKILL)
    await up.errors()

    stopped = await asyncio.to_thread(uplift, "down", "--home", str(up.home))

    assert stopped.stdout == f"stopped ({up.home})\n"
    assert "was left by a killed `uplift up`" in stopped.stderr
    assert up.left() == []


async def _kill_and_see_it_again(up: Up, part: str) -> None:
    before = up.pids()[part]
    os.kill(before, signal.SIGKILL)
    await until(lambda: up.pids().get(part, before) != before)
    await until(lambda: _condition(up, part) == "ready")


def _condition(up: Up, name: str) -> str:
    record = read_record(up.home)
    assert record is not None
    return next(part.condition for part in record.parts if part.name == name)


def test_folders_that_are_opened_to_passing_through_are_told(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    (closed / "open").mkdir(parents=True)
    closed.chmod(0o700)
    (closed / "open").chmod(0o755)
    assert make_reachable(closed / "open" / "data")[-1] == closed
    assert oct(closed.stat().st_mode)[-3:] == "701"
    assert make_reachable(closed / "open" / "data") == ()
