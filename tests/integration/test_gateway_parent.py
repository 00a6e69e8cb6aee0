"""The parent of gateway processes, with small servers as children: who asks notices nothing of what it does."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

STAND_INS = Path(__file__).with_name("stand_ins") / "replicas"
ROOT = Path(__file__).parents[2]
PATIENCE = 30.0
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def eventually(fact: Callable[[], Any], *, within: float = PATIENCE) -> Any:
    async with asyncio.timeout(within):
        while not (found := fact()):
            await asyncio.sleep(0.01)
        return found


class Site:
    """A parent in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def launch(
        self, *, pass_fds: tuple[int, ...] = (), env: dict[str, str] | None = None, before: str = "", **plan: Any
    ) -> "Site":
        """`before` is run in the process first, as systemd does what it does before it runs a program."""
        command: tuple[str, ...] = (sys.executable, str(STAND_INS / "parent.py"), json.dumps(plan))
        if before:
            named = "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')"
            command = (sys.executable, "-c", f"import os, sys; {before}; {named}; os.execv(sys.argv[1], sys.argv[1:])", *command)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "UPLIFT_TEST_FOLDER": str(self.folder), **(env or {})},
                stdout=log,
                stderr=log,
                pass_fds=pass_fds,
                start_new_session=True,
            )
        return self

    async def start(self, processes: int = 2, **more: Any) -> "Site":
        self.launch(processes=processes, **more)
        await eventually(lambda: len(self.children()) == processes)
        return self

    @property
    def port(self) -> int:
        return int((self.folder / "port").read_text())

    @property
    def said(self) -> str:
        return self.log.read_text()

    def children(self) -> list[dict[str, Any]]:
        """Those that ever listened, in order."""
        path = self.folder / "children"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def living(self) -> set[int]:
        return {each["pid"] for each in self.children() if Path(f"/proc/{each['pid']}").exists()}

    def send(self, signum: int) -> None:
        assert self.process is not None
        self.process.send_signal(signum)

    async def ended(self) -> int:
        process = self.process
        assert process is not None
        return await asyncio.to_thread(process.wait, PATIENCE)

    async def ask(self, request: bytes = GET) -> dict[str, Any]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            found: dict[str, Any] = json.loads(await reader.readexactly(length))
            return found
        finally:
            writer.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    assert site.process is not None
    for pid in [each["pid"] for each in site.children()]:
        if pid in site.living():
            os.kill(pid, signal.SIGKILL)
    site.process.kill()
    site.process.wait(PATIENCE)


async def test_children_have_names_of_their_own_and_groups_that_no_ctrl_c_reaches(site: Site) -> None:
    await site.start(processes=2)
    first, second = sorted(site.children(), key=lambda each: each["node"])
    assert first["node"].startswith("test-0.")
    assert second["node"].startswith("test-1.")
    assert {first["group"], second["group"]} == {first["pid"], second["pid"]}
    assert first["replaces"] is None
    assert first["address"] == f"127.0.0.1:{site.port}"


async def test_a_child_that_is_killed_costs_its_own_connections_only(site: Site, load: Any) -> None:
    await site.start(processes=2)
    running = load(site.port)
    await running.reach(1_000)
    victim = site.children()[0]
    os.kill(victim["pid"], signal.SIGKILL)
    await eventually(lambda: len(site.children()) == 3)
    await running.reach(2_000)
    await running.end()
    assert {process for process, _ in running.failures} <= {victim["pid"], None}, running.failures
    assert len(running.failures) <= running.clients
    heir = site.children()[2]
    assert heir["replaces"] == victim["node"]
    assert heir["node"] not in {each["node"] for each in site.children()[:2]}
    assert "was ended by SIGKILL; it is started again" in site.said


@pytest.mark.soak
async def test_a_rolling_replacement_under_load_fails_no_request(site: Site, load: Any) -> None:
    await site.start(processes=2)
    before = site.living()
    running = load(site.port)
    await running.reach(5_000)
    site.send(signal.SIGHUP)
    await eventually(lambda: "all 2 processes are replaced" in site.said)
    await running.reach(max(5_000, 20_000 - running.answered))
    await running.end()
    assert running.failures == []
    assert running.answered == running.asked >= 20_000
    assert site.living().isdisjoint(before)
    assert len(site.living()) == 2
    assert site.living() <= set(running.by_process), "both new ones serve"


async def test_a_replacement_asked_for_twice_happens_twice(site: Site) -> None:
    await site.start(processes=1)
    site.send(signal.SIGHUP)
    await eventually(lambda: len(site.children()) >= 2)
    site.send(signal.SIGHUP)
    await eventually(lambda: len(site.children()) == 3)
    await eventually(lambda: len(site.living()) == 1)
    assert site.living() == {site.children()[2]["pid"]}


@pytest.mark.soak
async def test_the_parent_becomes_its_new_program_and_its_children_go_on(site: Site, load: Any) -> None:
    await site.start(processes=2)
    before = site.living()
    running = load(site.port)
    await running.reach(1_000)
    for count in (2, 3):
        site.send(signal.SIGUSR2)
        await eventually(lambda count=count: site.said.count("the parent's program begins") == count)
    await running.reach(1_000)
    assert site.living() == before
    site.send(signal.SIGHUP)
    await eventually(lambda: "all 2 processes are replaced" in site.said)
    await running.reach(1_000)
    victim = site.living().copy().pop()
    await running.end()
    assert running.failures == []
    os.kill(victim, signal.SIGKILL)
    await eventually(lambda: len(site.children()) == 5)
    assert len({each["node"] for each in site.children()}) == 5


async def test_signals_that_come_while_the_parent_changes_are_not_lost(site: Site) -> None:
    await site.start(processes=1)
    site.send(signal.SIGUSR2)
    await eventually(lambda: "runs its program anew" in site.said)
    site.send(signal.SIGHUP)
    await eventually(lambda: "all 1 processes are replaced" in site.said)
    assert site.said.count("the parent's program begins") == 2


async def test_a_program_that_does_not_work_is_not_run(site: Site) -> None:
    await site.start(processes=1)
    (site.folder / "check-fails").touch()
    site.send(signal.SIGUSR2)
    await eventually(lambda: "the new program does not work" in site.said)
    assert (await site.ask())["pid"] == site.children()[0]["pid"]
    assert site.said.count("the parent's program begins") == 1


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("exit", "ended with exit code 1 before it listened"),
        pytest.param("hang", "does not listen after 5 s", marks=pytest.mark.soak),
    ],
)
async def test_a_successor_that_does_not_get_ready_leaves_the_old_child_where_it_is(
    fault: str, told: str, site: Site, load: Any
) -> None:
    await site.start(processes=2, start_timeout=5.0)
    before = site.living()
    running = load(site.port)
    (site.folder / fault).touch()
    site.send(signal.SIGHUP)
    await eventually(lambda: "the replacement ends here" in site.said)
    await running.reach(500)
    await running.end()
    assert told in site.said
    assert running.failures == []
    assert site.living() == before
    (site.folder / fault).unlink()
    site.send(signal.SIGHUP)
    await eventually(lambda: "all 2 processes are replaced" in site.said)


async def test_a_gateway_that_cannot_start_at_all_ends_with_an_error(site: Site) -> None:
    (site.folder / "exit").touch()
    site.launch()
    assert await site.ended() == 1
    assert "this release is broken" in site.said
    assert "the gateway does not start" in site.said


async def test_a_child_that_dies_young_again_and_again_is_started_again_more_and_more_slowly(site: Site) -> None:
    await site.start(processes=1)
    (site.folder / "exit").touch()
    os.kill(site.children()[0]["pid"], signal.SIGKILL)
    await eventually(lambda: site.said.count("it is started again") >= 3)
    (site.folder / "exit").unlink()
    await eventually(lambda: len(site.children()) == 2)
    assert site.children()[1]["replaces"] == site.children()[0]["node"], "it stands in for the one that served"


async def test_what_is_open_is_answered_before_the_end(site: Site) -> None:
    await site.start(processes=2)
    asked = [asyncio.create_task(site.ask(f"GET /slow?{number} HTTP/1.1\r\nHost: x\r\n\r\n".encode())) for number in range(8)]
    await eventually(lambda: len(list(site.folder.glob("slow-*"))) == 8)
    site.send(signal.SIGTERM)
    await eventually(lambda: refuses(site.port))
    (site.folder / "open").touch()
    assert {found["pid"] for found in await asyncio.gather(*asked)} <= {each["pid"] for each in site.children()}
    assert await site.ended() == 0
    assert site.living() == set()


def refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


async def test_a_second_signal_ends_at_once(site: Site) -> None:
    await site.start(processes=2)
    asked = asyncio.create_task(site.ask(b"GET /slow?1 HTTP/1.1\r\nHost: x\r\n\r\n"))
    await eventually((site.folder / "slow-1").exists)
    site.send(signal.SIGTERM)
    await eventually(lambda: refuses(site.port))
    site.send(signal.SIGTERM)
    assert await site.ended() == 0
    assert site.living() == set()
    with pytest.raises((OSError, EOFError)):
        await asked


async def test_a_child_that_does_not_leave_is_killed(site: Site) -> None:
    (site.folder / "stubborn").touch()
    await site.start(processes=1, stop_timeout=0.5)
    site.send(signal.SIGTERM)
    assert await site.ended() == 0
    assert (site.folder / "asked").exists()
    assert site.living() == set()


async def test_children_whose_parent_was_killed_answer_what_is_open_and_leave(site: Site) -> None:
    await site.start(processes=2)
    asked = asyncio.create_task(site.ask(b"GET /slow?1 HTTP/1.1\r\nHost: x\r\n\r\n"))
    await eventually((site.folder / "slow-1").exists)
    site.send(signal.SIGKILL)
    await eventually(lambda: refuses(site.port))
    (site.folder / "open").touch()
    assert (await asked)["pid"] in {each["pid"] for each in site.children()}
    await eventually(lambda: not site.living())


@pytest.mark.parametrize("processes", [1, 2])
async def test_a_port_that_somebody_else_listens_on_is_named(processes: int, site: Site) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # also one that would share it
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        site.launch(processes=processes, port=port)
        assert await site.ended() == 1
        assert f"cannot listen on 127.0.0.1:{port} (gateway.host, gateway.port): Address already in use" in site.said


async def test_a_socket_that_was_handed_over_serves_all_children(site: Site, load: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours:
        number = ours.fileno()
        await site.start(processes=2, pass_fds=(number,), env={"UPLIFT_LISTEN_FD": str(number)})
        assert site.port == ours.getsockname()[1]
        running = load(site.port, clients=64)
        site.send(signal.SIGHUP)
        await eventually(lambda: "all 2 processes are replaced" in site.said)
        await running.reach(500)
        await running.end()
        assert running.failures == []


async def test_a_socket_that_systemd_hands_over_is_listened_on(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours:
        await site.start(processes=1, pass_fds=(ours.fileno(),), before=f"os.dup2({ours.fileno()}, 3)")
        assert site.port == ours.getsockname()[1]
        assert (await site.ask())["address"] == f"127.0.0.1:{site.port}"
        site.send(signal.SIGUSR2)
        await eventually(lambda: site.said.count("the parent's program begins") == 2)
        site.send(signal.SIGHUP)
        await eventually(lambda: "all 1 processes are replaced" in site.said)
        assert (await site.ask())["pid"] == site.children()[1]["pid"]


def test_the_parent_needs_nothing_but_the_standard_library() -> None:
    code = "import sys; before = set(sys.modules); import gateway.parent; print(*(set(sys.modules) - before))"
    found = subprocess.run((sys.executable, "-c", code), cwd=ROOT, capture_output=True, text=True, check=True).stdout
    foreign = {name.partition(".")[0] for name in found.split()} - set(sys.stdlib_module_names)
    assert foreign == {"gateway"}
