"""`uplift up` as an operator runs it: the real gateway and worker in an empty folder."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from deployers.process_tree import observe

ROOT = Path(__file__).parents[2]
UPLIFT = (sys.executable, "-m", "uplift_cli.main")
PATIENCE = 60.0


@pytest.fixture
async def home() -> AsyncIterator[Path]:
    # Not in pytest's folder: that one is closed to other users at each session's start, and Postgres may be one.
    folder = Path(tempfile.mkdtemp(prefix="uplift-up-"))
    yield folder
    await asyncio.to_thread(uplift, "down", "--home", str(folder))
    shutil.rmtree(folder)


def uplift(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run((*UPLIFT, *words), cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)


def status(home: Path) -> dict[str, Any]:
    seen: dict[str, Any] = json.loads(uplift("status", "--home", str(home), "--json").stdout)
    return seen


async def start(home: Path, *words: str) -> tuple[asyncio.subprocess.Process, str]:
    with (home / "up.err").open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *UPLIFT, "up", "--home", str(home), *words, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors
        )
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        line = (await process.stdout.readline()).decode()
    assert re.fullmatch(r"ready: http://127\.0\.0\.1:\d+\n", line), line + (home / "up.err").read_text()
    return process, line.removeprefix("ready: ").strip()


def send(url: str, body: Any, method: str = "POST") -> None:
    request = urllib.request.Request(
        url, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}, method=method
    )
    urllib.request.urlopen(request, timeout=PATIENCE).read()


async def end(process: asyncio.subprocess.Process) -> None:
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(PATIENCE):
        assert await process.wait() == 0


@pytest.mark.soak
async def test_an_empty_folder_gets_ready_and_answers(home: Path) -> None:
    process, url = await start(home, "--port", "0")

    answer = await asyncio.to_thread(lambda: urllib.request.urlopen(f"{url}/_/proxy/health", timeout=PATIENCE).status)
    seen = await asyncio.to_thread(status, home)
    await end(process)

    assert answer == 200
    assert [(row["part"], row["state"]) for row in seen["rows"]] == [
        ("postgres", "ready"),
        ("temporal", "ready"),
        ("gateway", "ready"),
        ("worker", "ready"),
    ]
    assert [row["pid"] for row in seen["rows"] if observe(row["pid"])] == []


async def test_a_killed_gateway_refuses_no_connection(home: Path) -> None:
    process, url = await start(home, "--port", "0")
    gateway = next(row["pid"] for row in (await asyncio.to_thread(status, home))["rows"] if row["part"] == "gateway")
    os.kill(gateway, signal.SIGKILL)

    answer = await asyncio.to_thread(lambda: urllib.request.urlopen(f"{url}/_/proxy/health", timeout=PATIENCE).status)

    assert answer == 200
    await end(process)


@pytest.mark.soak
async def test_what_the_gateway_was_told_is_there_after_a_kill_of_everything(home: Path) -> None:
    process, url = await start(home, "--port", "0")
    body = {"id": "kept", "name": "Kept"}
    await asyncio.to_thread(send, f"{url}/_/proxy/tenants", body)
    rows = (await asyncio.to_thread(status, home))["rows"]
    for pid in (process.pid, *(row["pid"] for row in rows)):
        os.kill(pid, signal.SIGKILL)
    await process.wait()

    process, again = await start(home)

    assert again == url
    kept = await asyncio.to_thread(lambda: urllib.request.urlopen(f"{url}/_/proxy/tenants/kept", timeout=PATIENCE).read())
    assert json.loads(kept)["id"] == "kept"
    await end(process)


@pytest.mark.soak
async def test_instances_that_are_started_again_are_told_before_ready(home: Path) -> None:
    process, url = await start(home, "--port", "0")
    module, instance = "mod-gone-1.0.0", "mod-gone-1.0.0@host"
    server = {"exec": f"{sys.executable} -m http.server %p --bind 127.0.0.1"}
    await asyncio.to_thread(send, f"{url}/_/proxy/modules", {"id": module, "launchDescriptor": server})
    wire = {"id": instance, "module": module, "url": "http://127.0.0.1:1", "node": "host", "generation": "1"}
    await asyncio.to_thread(send, f"{url}/_/versions/{module}/instances/{instance}", wire, "PUT")
    await end(process)

    process, _ = await start(home)

    assert "starting 1 instance again" in (home / "up.err").read_text()
    await end(process)
