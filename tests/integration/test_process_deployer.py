"""Instances as processes: real processes, real HTTP, real kill -9."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

import deployers
from deployers import (
    Deployer,
    DeployError,
    ExitedEarly,
    Launch,
    LaunchRefused,
    NeverHealthy,
    NoFreePort,
    ProcessDeployer,
    Running,
)
from deployers.commands import INSTANCE_MARK
from deployers.records import Record, Records, file_name
from uplift_settings.tree import DeploySettings

SERVER = """
import http.server, json, os, signal, sys
port, *flags = sys.argv[1:]
if "deaf" in flags:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "child" in flags and os.fork() == 0:
    signal.pause()
if "daemon" in flags:
    if os.fork():
        os._exit(0)
    os.setsid()
    os.closerange(3, 256)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"pid": os.getpid(), "env": dict(os.environ)}).encode()
        self.send_response(404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
with open(sys.argv[0] + ".pid", "w") as file:
    file.write(str(os.getpid()))
print("serving on", port, flush=True)
http.server.HTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
"""

DRIVER = """
import asyncio, json, os, sys
from pathlib import Path
from deployers import Launch, ProcessDeployer
from uplift_settings.tree import DeploySettings

moment, folder, settings, launch = sys.argv[1:]

class Killed(ProcessDeployer):
    pass

def die_before(name):
    def method(self, *args, **kwargs):
        os.kill(os.getpid(), 9)
    setattr(Killed, name, method)

if moment.startswith("_"):
    die_before(moment)

async def main():
    deployer = Killed(settings=DeploySettings.model_validate_json(settings), folder=Path(folder))
    running = await deployer.start(Launch(**json.loads(launch)))
    print(running.pid, flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


@dataclass(frozen=True)
class Site:
    """One folder of instances, and what is needed to start some."""

    folder: Path
    settings: DeploySettings
    server: Path
    driver: Path

    def deployer(self, **changes: object) -> Deployer:
        """A new deployer on the folder, as another process would have."""
        return ProcessDeployer(settings=self.settings.model_copy(update=changes), folder=self.folder)

    def launch(self, *flags: str) -> Launch:
        return Launch(inst_id=str(uuid.uuid4()), module_id="mod-a-1.0.0", exec=self.command(*flags))

    def command(self, *flags: str) -> str:
        return " ".join([sys.executable, str(self.server), "%p", *flags])

    def script(self, text: str) -> str:
        """The `exec` of a script that has the port as its argument."""
        path = self.folder.parent / f"{uuid.uuid4().hex}.py"
        path.write_text(text)
        return f"{sys.executable} {path} %p"

    def start_and_die(self, launch: Launch, moment: str) -> str:
        """Start in another process, which is killed with -9 at that moment; what it said."""
        fields = {name: value for name in Launch.__slots__ if (value := getattr(launch, name)) is not None}
        done = subprocess.run(
            [sys.executable, self.driver, moment, self.folder, self.settings.model_dump_json(), json.dumps(fields)],
            env={**os.environ, "PYTHONPATH": str(Path(deployers.__file__).parents[1])},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        return done.stdout.strip()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    first = free_range()
    made = Site(
        folder=tmp_path / "instances",
        settings=DeploySettings(port_first=first, port_last=first + 9, health_wait=30, health_interval=0.02, stop_grace=5),
        server=tmp_path / "server.py",
        driver=tmp_path / "driver.py",
    )
    made.server.write_text(SERVER)
    made.driver.write_text(DRIVER)
    yield made
    try:
        for record in Records(made.folder).all():
            await made.deployer(stop_grace=0.5).stop(record.launch.inst_id)
    finally:
        left = [process for process in psutil.process_iter() if str(tmp_path) in command_line(process)]
        for process in left:
            process.kill()
    assert left == []


def free_range() -> int:
    """First of ten ports that nobody listens on."""
    for first in range(20_000 + os.getpid() % 500 * 20, 32_000, 20):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + 10):
                stack.enter_context(socket.socket()).bind(("", port))
            return first
    raise AssertionError("no ten free ports")


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def processes_of(inst_id: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(INSTANCE_MARK) == inst_id:
                found.append(process.pid)
    return found


async def pid_answering(running: Running) -> int:
    async with httpx.AsyncClient() as client:
        return int((await client.get(running.url)).json()["pid"])


async def until(condition: Callable[[], bool], *, seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


@contextlib.contextmanager
def listening(port: int) -> Iterator[None]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        yield


# starting


async def test_exec_is_started_on_the_lowest_port_and_answers(site: Site) -> None:
    launch = site.launch()
    running = await site.deployer().start(launch)
    assert running.port == site.settings.port_first
    assert running.url == f"http://127.0.0.1:{running.port}"
    assert await pid_answering(running) == running.pid
    assert "serving on" in Path(running.log).read_text()
    assert await site.deployer().find(launch.inst_id) == running


async def test_a_stock_http_server_is_a_module(site: Site) -> None:
    launch = replace(site.launch(), exec=f"{sys.executable} -m http.server %p --bind 127.0.0.1 --directory {site.folder}")
    running = await site.deployer().start(launch)
    assert processes_of(launch.inst_id) == [running.pid]


async def test_cmdline_start_that_stays_in_the_foreground(site: Site) -> None:
    launch = replace(site.launch(), exec=None, cmdline_start=site.command())
    running = await site.deployer().start(launch)
    assert running.pid == await pid_answering(running)
    assert await site.deployer().find(launch.inst_id) == running
    await site.deployer().stop(launch.inst_id)
    assert processes_of(launch.inst_id) == []


async def test_cmdline_start_of_a_daemon_that_closes_its_files(site: Site) -> None:
    launch = replace(site.launch(), exec=None, cmdline_start=site.command("daemon"))
    running = await site.deployer().start(launch)
    again = await site.deployer().start(launch)
    assert again == running
    assert await pid_answering(running) == running.pid
    assert processes_of(launch.inst_id) == [running.pid]


async def test_a_daemon_without_any_trace_is_known_by_its_port_and_stopped_by_its_command(site: Site) -> None:
    launch = replace(
        site.launch(),
        exec=None,
        cmdline_start=f"env -i {site.command('daemon')}",
        cmdline_stop=f"kill $(cat {site.server}.pid) && echo stopped on %p",
    )
    running = await site.deployer().start(launch)
    assert running.pid is None
    assert await site.deployer().start(launch) == running
    await site.deployer().stop(launch.inst_id)
    assert Path(running.log).read_text().endswith(f"stopped on {running.port}\n")
    assert await site.deployer().find(launch.inst_id) is None


async def test_starting_twice_is_one_process(site: Site) -> None:
    launch = site.launch()
    first = await site.deployer().start(launch)
    assert await site.deployer().start(launch) == first
    assert processes_of(launch.inst_id) == [first.pid]


async def test_concurrent_starts_of_one_id_are_one_process(site: Site) -> None:
    launch = site.launch()
    one, other = site.deployer(), site.deployer()
    found = await asyncio.gather(*(deployer.start(launch) for deployer in (one, one, other, other)))
    assert len(set(found)) == 1
    assert processes_of(launch.inst_id) == [found[0].pid]


async def test_concurrent_starts_of_many_get_distinct_ports(site: Site) -> None:
    one, other = site.deployer(), site.deployer()
    launches = [site.launch() for _ in range(6)]
    found = await asyncio.gather(*((one, other)[n % 2].start(launch) for n, launch in enumerate(launches)))
    assert {running.port for running in found} == set(range(site.settings.port_first, site.settings.port_first + 6))
    assert await site.deployer().list() == tuple(sorted(found, key=lambda running: running.inst_id))


async def test_an_occupied_port_is_skipped(site: Site) -> None:
    with listening(site.settings.port_first):
        running = await site.deployer().start(site.launch())
    assert running.port == site.settings.port_first + 1


async def test_the_port_it_had_is_taken_again(site: Site) -> None:
    wanted = site.settings.port_first + 5
    running = await site.deployer().start(replace(site.launch(), port=wanted))
    assert running.port == wanted


async def test_the_port_it_had_is_not_waited_for(site: Site) -> None:
    wanted = site.settings.port_first + 5
    with listening(wanted):
        running = await site.deployer().start(replace(site.launch(), port=wanted))
    assert running.port == site.settings.port_first


async def test_no_port_left(site: Site) -> None:
    first = site.settings.port_first
    await site.deployer(port_last=first).start(site.launch())
    launch = site.launch()
    with pytest.raises(NoFreePort, match=f"all ports in use: {first}-{first} .*deploy.port_first"):
        await site.deployer(port_last=first).start(launch)
    assert await site.deployer().find(launch.inst_id) is None


async def test_progress_is_told_while_waiting(site: Site) -> None:
    told: list[str] = []
    done = asyncio.Event()

    async def progress(text: str) -> None:
        told.append(text)
        if len(told) == 2:
            done.set()

    deployer = site.deployer()
    launch = replace(site.launch(), exec=site.script("import signal; signal.pause()"))
    start = asyncio.create_task(deployer.start(launch, progress=progress))
    await asyncio.wait_for(done.wait(), 10)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert told[0] == f"waiting for mod-a-1.0.0 to answer on http://127.0.0.1:{site.settings.port_first}/ for 1 s"


# the environment


async def test_environment_of_an_instance(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret\n")
    for name, value in {"UPLIFT_DATABASE_URL": "x", "UPLIFT_INSTANCE": "x", "PORT": "1", "SITE_VALUE": "inherited"}.items():
        monkeypatch.setenv(name, value)
    launch = replace(site.launch(), env={"OVER": "descriptor", "UPLIFT_INSTANCE": "forged"})
    deployer = site.deployer(env={"DB_PASSWORD": f"file:{tmp_path / 'password'}", "OVER": "settings", "PLAIN": "v"})
    running = await deployer.start(launch)
    async with httpx.AsyncClient() as client:
        env = (await client.get(running.url)).json()["env"]
    assert (env["DB_PASSWORD"], env["OVER"], env["PLAIN"], env["SITE_VALUE"]) == ("s3cret", "descriptor", "v", "inherited")
    assert env["PATH"] == os.environ["PATH"]
    assert "PORT" not in env
    assert {name for name in env if name.startswith("UPLIFT_")} == {"UPLIFT_INSTANCE", "UPLIFT_GENERATION"}
    assert env["UPLIFT_INSTANCE"] == launch.inst_id


async def test_secrets_of_the_settings_are_not_written_down(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITE_SECRET", "hush-hush")
    await site.deployer(env={"DB_PASSWORD": "env:SITE_SECRET"}).start(site.launch())
    files = [path for path in site.folder.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if b"hush-hush" in path.read_bytes()] == []
    assert [path for path in files if path.stat().st_mode & 0o077] == []


# refusals


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "Can not deploy: No exec, no CmdlineStart in LaunchDescriptor"),
        ({"exec": "run it"}, "Can not deploy: No %p in the exec line"),
        ({"exec": "run it", "cmdline_start": "run %p"}, "Can not deploy: No %p in the exec line"),
        ({"cmdline_start": "run it"}, "Can not deploy: No %p in the cmdlineStart line"),
        ({"exec": "/no/such/program %p"}, "Can not deploy: mod-a-1.0.0 cannot be run here: .*No such file"),
        ({"exec": "a\0b %p"}, "Can not deploy: mod-a-1.0.0 cannot be run here: .*null byte"),
        ({"exec": "true %p", "env": {"A=B": "c"}}, "Can not deploy: mod-a-1.0.0 cannot be run here: "),
    ],
)
async def test_refused_launches(site: Site, fields: dict[str, Any], text: str) -> None:
    changes: dict[str, Any] = {"exec": None, **fields}
    launch = replace(site.launch(), **changes)
    with pytest.raises(LaunchRefused, match=text):
        await site.deployer().start(launch)
    assert Records(site.folder).all() == ()


async def test_a_secret_that_is_nowhere_refuses_the_launch(site: Site) -> None:
    deployer = site.deployer(env={"DB_PASSWORD": "env:NO_SUCH_VARIABLE"})
    with pytest.raises(LaunchRefused, match=r"deploy\.env DB_PASSWORD: environment variable NO_SUCH_VARIABLE is not set"):
        await deployer.start(site.launch())


# a starter that is killed


@pytest.mark.parametrize("style", ["exec", "cmdline_start", "without marks"])
@pytest.mark.parametrize("moment", ["_choose_port", "_spawn", "_note_started", "_has_ended", "_settle", "after the start"])
async def test_a_starter_killed_at_any_moment_leaves_at_most_one_process(site: Site, moment: str, style: str) -> None:
    launch = site.launch()
    if style == "cmdline_start":
        launch = replace(launch, exec=None, cmdline_start=site.command("daemon"))
    elif style == "without marks":
        # told by the lock alone
        launch = replace(launch, exec=f"env -i {site.command()}")
    said = site.start_and_die(launch, moment)
    left = [
        process.pid for process in psutil.process_iter() if f"{site.server} {site.settings.port_first}" in command_line(process)
    ]
    running = await site.deployer().start(launch)
    assert running.port == site.settings.port_first
    after = [process.pid for process in psutil.process_iter() if f"{site.server} " in command_line(process)]
    assert after == [running.pid]
    assert await pid_answering(running) == running.pid
    if style != "cmdline_start":
        # a daemon's shell may be seen in the middle of its fork
        assert left == ([] if moment in {"_choose_port", "_spawn"} else [running.pid])
    if said:
        assert said == str(running.pid)
    assert await site.deployer().start(launch) == running


async def test_find_tells_of_a_process_whose_starter_could_not_write_it_down(site: Site) -> None:
    launch = site.launch()
    site.start_and_die(launch, "_note_started")
    found = await site.deployer().find(launch.inst_id)
    assert found is not None
    assert processes_of(launch.inst_id) == [found.pid]
    await site.deployer().stop(launch.inst_id)
    assert processes_of(launch.inst_id) == []


async def test_a_half_started_instance_gets_another_port_if_its_own_is_taken(site: Site) -> None:
    launch = site.launch()
    site.start_and_die(launch, "_spawn")
    with listening(site.settings.port_first):
        running = await site.deployer().start(launch)
    assert running.port == site.settings.port_first + 1


async def test_a_cancelled_start_goes_on_and_is_adopted(site: Site) -> None:
    launch = site.launch()
    start = asyncio.create_task(site.deployer().start(launch))
    await until(lambda: bool(Records(site.folder).all()))
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    found = await site.deployer().find(launch.inst_id)
    assert found is not None
    assert await site.deployer().start(launch) == found
    assert processes_of(launch.inst_id) == [found.pid]


async def test_a_recycled_pid_is_not_taken_for_the_instance(site: Site) -> None:
    launch = site.launch()
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        port = site.settings.port_first
        record = Record(launch=launch, port=port, generation="g", log_from=0, pid=stranger.pid, birth="another boot/1")
        records = Records(site.folder)
        with records.locked():
            records.write(record)
        assert await site.deployer().find(launch.inst_id) is None
        running = await site.deployer().start(launch)
        assert running.pid != stranger.pid
        await site.deployer().stop(launch.inst_id)
        with records.locked():
            records.write(record)
        await site.deployer().stop(launch.inst_id)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


# ends


async def test_a_process_that_dies_is_no_zombie_instance_and_starts_anew(site: Site) -> None:
    launch = site.launch()
    first = await site.deployer().start(launch)
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    await until(lambda: psutil.Process(first.pid).status() == psutil.STATUS_ZOMBIE)
    assert await site.deployer().find(launch.inst_id) is None
    assert not psutil.pid_exists(first.pid)
    other = await site.deployer().start(site.launch())
    assert other.port != first.port
    again = await site.deployer().start(launch)
    assert (again.port, again.pid == first.pid, again.generation == first.generation) == (first.port, False, False)


async def test_what_a_dead_process_left_behind_is_ended_before_it_starts_anew(site: Site) -> None:
    launch = site.launch("child")
    first = await site.deployer().start(launch)
    assert first.pid is not None
    (child,) = set(processes_of(launch.inst_id)) - {first.pid}
    os.kill(first.pid, signal.SIGKILL)
    await until(lambda: first.pid not in processes_of(launch.inst_id))
    assert await site.deployer().find(launch.inst_id) is None
    again = await site.deployer().start(launch)
    assert child not in processes_of(launch.inst_id)
    assert again.pid in processes_of(launch.inst_id)


@pytest.mark.parametrize("style", ["exec", "cmdline_start"])
async def test_an_early_exit_is_told_with_the_end_of_its_output(site: Site, style: str) -> None:
    command = site.script("import sys; print('x' * 5000); print('port', sys.argv[1], 'is cursed'); sys.exit(7)")
    changes: dict[str, Any] = {"exec": None, style: command}
    launch = replace(site.launch(), **changes)
    with pytest.raises(ExitedEarly) as raised:
        await site.deployer(log_tail=50).start(launch)
    text = str(raised.value)
    assert text.startswith("Service mod-a-1.0.0 returned with exit code 7; ")
    assert text.endswith(f"xxx\nport {site.settings.port_first} is cursed")
    assert text.count("x" * 10) < 6
    assert Records(site.folder).all() == ()
    assert await site.deployer().find(launch.inst_id) is None


async def test_the_output_of_an_earlier_start_is_not_shown(site: Site, tmp_path: Path) -> None:
    launch = replace(site.launch(), exec=site.script("import sys; sys.exit('first words')"))
    with pytest.raises(ExitedEarly, match="first words"):
        await site.deployer().start(launch)
    silent = replace(launch, exec=site.script("import os; os.kill(os.getpid(), 9)"))
    with pytest.raises(ExitedEarly, match="returned with exit code 137; it wrote nothing") as raised:
        await site.deployer().start(silent)
    assert "first words" not in str(raised.value)


async def test_an_early_exit_takes_its_children_along(site: Site) -> None:
    launch = replace(site.launch(), exec=site.script("import os, signal\nif os.fork() == 0: signal.pause()\nos._exit(0)"))
    with pytest.raises(ExitedEarly, match="exit code 0"):
        await site.deployer().start(launch)
    assert processes_of(launch.inst_id) == []


async def test_an_instance_that_never_answers_is_stopped(site: Site) -> None:
    launch = replace(site.launch(), exec=site.script("import signal\nprint('thinking', flush=True)\nsignal.pause()"))
    with pytest.raises(NeverHealthy, match=r"Could not connect to http.* within 0\.7 s .*\n?thinking"):
        await site.deployer(health_wait=0.7).start(launch)
    assert processes_of(launch.inst_id) == []
    assert Records(site.folder).all() == ()


async def test_one_that_accepts_but_never_answers_is_not_healthy(site: Site) -> None:
    text = "import socket, sys, signal\ns = socket.create_server(('127.0.0.1', int(sys.argv[1])))\nsignal.pause()"
    launch = replace(site.launch(), exec=site.script(text))
    with pytest.raises(NeverHealthy):
        await site.deployer(health_wait=1).start(launch)
    assert processes_of(launch.inst_id) == []


# stopping


async def test_stop_ends_it_keeps_the_log_and_may_be_repeated(site: Site) -> None:
    launch = site.launch("child")
    running = await site.deployer().start(launch)
    await site.deployer().stop(launch.inst_id)
    await site.deployer().stop(launch.inst_id)
    assert processes_of(launch.inst_id) == []
    assert running.pid is not None
    assert not psutil.pid_exists(running.pid)
    assert Path(running.log).exists()
    assert list((site.folder / "instances").iterdir()) == []
    assert await site.deployer().list() == ()


async def test_stopping_what_never_was_is_fine(site: Site) -> None:
    await site.deployer().stop("nobody")


async def test_a_process_that_ignores_sigterm_is_killed(site: Site) -> None:
    launch = site.launch("deaf", "child")
    await site.deployer().start(launch)
    begun = time.monotonic()
    await site.deployer(stop_grace=0.5).stop(launch.inst_id)
    assert 0.5 <= time.monotonic() - begun < 5
    assert processes_of(launch.inst_id) == []


async def test_the_stop_command_runs_before_any_signal(site: Site, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    launch = replace(
        site.launch(),
        exec=None,
        cmdline_start=site.command("daemon"),
        cmdline_stop=f'kill -0 $(cat {site.server}.pid) && echo "alive on %p $REASON" > {seen}; sleep 60',
        env={"REASON": "because"},
    )
    running = await site.deployer().start(launch)
    await site.deployer(stop_grace=0.5).stop(launch.inst_id)
    assert seen.read_text() == f"alive on {running.port} because\n"
    assert processes_of(launch.inst_id) == []


async def test_stop_during_a_start_ends_both(site: Site) -> None:
    launch = replace(site.launch(), exec=site.script("import signal; signal.pause()"))
    start = asyncio.create_task(site.deployer().start(launch))
    await until(lambda: bool(processes_of(launch.inst_id)))
    await site.deployer().stop(launch.inst_id)
    with pytest.raises(ExitedEarly, match="exit code 143"):
        await start
    assert processes_of(launch.inst_id) == []


# what is on disk


@pytest.mark.parametrize("inst_id", ["", ".", "..", "../../etc/passwd", "a/b", "ümlaut", "x" * 300, "a\0b", ".hidden"])
async def test_ids_are_made_safe_as_file_names(inst_id: str, tmp_path: Path) -> None:
    name = file_name(inst_id)
    assert (tmp_path / name / "x").resolve().parent.parent == tmp_path.resolve()
    assert len(name.encode()) < 200
    assert not name.startswith(".")


def test_different_ids_have_different_file_names() -> None:
    ids = ["", ".", "%2E", "%-", "a/b", "a%2Fb", "x" * 300, "x" * 301, "A", "a"]
    assert len({file_name(inst_id) for inst_id in ids}) == len(ids)


async def test_a_damaged_record_is_told_with_its_remedy(site: Site) -> None:
    path = site.folder / "instances" / "broken" / "state"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    try:
        with pytest.raises(DeployError, match=r"cannot read .*state.* then remove the file"):
            await site.deployer().find("broken")
    finally:
        path.unlink()


def test_the_folder_lock_excludes_threads_of_one_process(tmp_path: Path) -> None:
    records, inside, overlaps = Records(tmp_path), threading.Semaphore(1), []

    def enter() -> None:
        with records.locked():
            overlaps.append(not inside.acquire(blocking=False))
            time.sleep(0.005)
            inside.release()

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert overlaps == [False] * 8
