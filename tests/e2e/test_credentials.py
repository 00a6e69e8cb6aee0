"""The whole stack behind tokens: a worker with its own roles alone, and secrets of instances that nothing keeps."""

import asyncio
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]
RECORDER = Path(__file__).parent / "modules" / "recorder.py"
UPLIFT = (sys.executable, "-m", "uplift_cli.main")
PATIENCE = 60.0


@pytest.fixture
async def home() -> AsyncIterator[Path]:
    # Not in pytest's folder: that one is closed to other users at each session's start, and Postgres may be one.
    folder = Path(tempfile.mkdtemp(prefix="uplift-tokens-"))
    yield folder
    await asyncio.to_thread(uplift, "down", "--home", str(folder))
    shutil.rmtree(folder)


def uplift(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run((*UPLIFT, *words), cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)


def token(path: Path, name: str, *roles: str) -> str:
    made = uplift("token", "add", name, *(word for role in roles for word in ("--role", role)), "--file", str(path))
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


async def start(home: Path) -> tuple[asyncio.subprocess.Process, str]:
    with (home / "up.err").open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *UPLIFT, "up", "--home", str(home), "--port", "0", "--config", str(home / "uplift.toml"),
            cwd=ROOT, stdout=subprocess.PIPE, stderr=errors,
        )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        line = (await process.stdout.readline()).decode()
    assert line.startswith("ready: "), (home / "up.err").read_text()
    return process, line.removeprefix("ready: ").strip()


def descriptor(home: Path, module: str) -> dict[str, Any]:
    looks = {"methods": ["GET", "DELETE"], "pathPattern": "/_/tenant/{id}"}
    init = {"id": "_tenant", "version": "2.0", "interfaceType": "system"}
    init["handlers"] = [{"methods": ["POST"], "pathPattern": "/_/tenant"}, looks]  # type: ignore[assignment]
    return {
        "id": module,
        "provides": [init],
        "launchDescriptor": {
            "exec": f"{sys.executable} {RECORDER} --id {module} --port %p --log {home / 'log'} --dialect okapi2"
        },
        "metadata": {"uplift": {"undo": "module"}},
    }


async def install(http: httpx.AsyncClient, tenant: str, module: str) -> dict[str, Any]:
    path = f"/_/proxy/tenants/{tenant}/install"
    begun = await http.post(f"{path}?async=true", json=[{"id": module}])
    assert begun.status_code == 201, begun.text
    async with asyncio.timeout(PATIENCE):
        while not (job := (await http.get(begun.headers["Location"])).json())["complete"]:
            await asyncio.sleep(0.05)
    found: dict[str, Any] = job
    return found


def holding(home: Path, text: str) -> list[str]:
    """The files that hold a text, by their path in the folder."""
    files = [path for path in home.rglob("*") if path.is_file() and not path.is_symlink()]
    return sorted(str(path.relative_to(home)) for path in files if text.encode() in path.read_bytes())


async def test_the_roles_of_a_worker_are_enough_for_runs_and_no_secret_stays_anywhere(home: Path) -> None:
    tokens = home / "tokens.toml"
    (home / "log").touch()
    (home / "worker_token").write_text(await asyncio.to_thread(token, tokens, "worker", "run", "read"))
    crew = await asyncio.to_thread(token, tokens, "crew", "register", "start", "read")
    (home / "uplift.toml").write_text(
        f'[gateway]\ntokens_file = "{tokens}"\n'
        f'[worker]\ngateway_token = "file:{home / "worker_token"}"\n'
        "[deploy]\nretire_after = 1\n"
    )
    process, url = await start(home)
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {crew}"}, timeout=PATIENCE) as http:
        assert (await http.post("/_/proxy/tenants", json={"id": "diku"})).status_code == 201
        for module in ("mod-a-1.0.0", "mod-a-2.0.0"):
            assert (await http.post("/_/proxy/modules", json=descriptor(home, module))).status_code == 201
            job = await install(http, "diku", module)
            assert job["status"] == "done", job
        async with asyncio.timeout(PATIENCE):  # the old version retires by the worker's roles too
            while [each["module"] for each in (await http.get("/_/versions")).json()] != ["mod-a-2.0.0"]:
                await asyncio.sleep(0.05)
    (state,) = (home / "instances").rglob("state")
    secret = json.loads(await asyncio.to_thread(state.read_text))["launch"]["env"]["UPLIFT_INSTANCE_TOKEN"]
    assert re.fullmatch(r"upi_[\w-]{43}", secret)

    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(PATIENCE):
        assert await process.wait() == 0

    assert await asyncio.to_thread(holding, home, secret) == []
    assert await asyncio.to_thread(holding, home, crew) == []
    assert any("temporal" in name for name in await asyncio.to_thread(holding, home, "mod-a-2.0.0"))


async def test_a_stack_whose_worker_would_be_locked_out_does_not_start(home: Path) -> None:
    await asyncio.to_thread(token, home / "tokens.toml", "crew", "start")
    (home / "uplift.toml").write_text(f'[gateway]\ntokens_file = "{home / "tokens.toml"}"\n')
    done = await asyncio.to_thread(uplift, "up", "--home", str(home), "--port", "0", "--config", str(home / "uplift.toml"))
    assert done.returncode == 1
    assert "set worker.gateway_token to the reference of a token with the roles run and read" in done.stderr
