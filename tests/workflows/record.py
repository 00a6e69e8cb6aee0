"""Records histories of real runs for `test_replay.py`, from an embedded stack of its own: `python tests/workflows/record.py`."""

import asyncio
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
from temporalio.client import Client, WorkflowFailureError
from temporalio.contrib.pydantic import pydantic_data_converter

from examples.descriptors import descriptor

FOLDER = Path(__file__).parents[1] / "histories"
TENANT = "recorded"


async def main() -> None:
    with tempfile.TemporaryDirectory(prefix="uplift-record-") as home:
        config = Path(home) / "uplift.toml"
        config.write_text("[deploy]\nretire_after = 1\n")
        command = ("-m", "uplift_cli.main", "up", "--home", home, "--port", "0", "--config", str(config))
        process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().removeprefix("ready: ").strip()
        try:
            async with httpx.AsyncClient(base_url=url, timeout=60) as http:
                state = json.loads((Path(home) / "stack.json").read_text())
                address = f"127.0.0.1:{state['ports']['temporal']}"
                await record(http, await Client.connect(address, data_converter=pydantic_data_converter))
        finally:
            process.terminate()
            await process.wait()


async def record(http: httpx.AsyncClient, client: Client) -> None:
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        (await http.post("/_/proxy/modules", json=descriptor("mod-users", version, python=sys.executable))).raise_for_status()
    (await http.post("/_/proxy/tenants", json={"id": TENANT})).raise_for_status()
    await job(http, "mod-users-1.0.0")
    aborted = await job(http, "mod-users-2.0.0", "tenantParameters=migrationSeconds%3D30", abort=True)
    done = await job(http, "mod-users-2.0.0")
    failed = await job(http, "mod-users-3.0.0")
    await save(client, "tenant-job-done", done["id"])
    await save(client, "tenant-job-rolled-back", failed["id"])
    await save(client, "tenant-job-aborted", aborted["id"])
    await save(client, "group-change-done", f"{done['id']}/1-mod-users")
    await save(client, "group-change-rolled-back", f"{failed['id']}/1-mod-users")
    await save(client, "group-change-aborted", f"{aborted['id']}/1-mod-users")
    await save(client, "module-version-retired", "module/mod-users-1.0.0")


async def job(http: httpx.AsyncClient, module: str, query: str = "", *, abort: bool = False) -> dict[str, Any]:
    answer = await http.post(f"/_/proxy/tenants/{TENANT}/install?async=true&{query}", json=[{"id": module}])
    path = answer.headers["Location"]
    while not (row := (await http.get(path)).json())["complete"]:
        if abort and row["phase"] == "migrating":
            await http.delete(path)
            abort = False
        await asyncio.sleep(0.05)
    return dict(row)


async def save(client: Client, name: str, run: str) -> None:
    handle = client.get_workflow_handle(run)
    try:
        await handle.result()
    except WorkflowFailureError as error:
        print(f"{name}: {error.cause}")
    history = json.loads((await handle.fetch_history()).to_json())
    text = re.sub(r'"identity": "[^"]*"', '"identity": "worker"', json.dumps(history, indent=1))
    text = re.sub(r'"stackTrace": "(\\.|[^"\\])*"', '"stackTrace": ""', text)
    (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main())
