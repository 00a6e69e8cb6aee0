"""A module that writes down every request it gets, its start and its stop, and answers tenant init as its parameters say.

Run as `python recorder.py --id mod-rec-1.0.0 --port N --log FILE --dialect okapi2 [--start exit|late] [--slow-stop SECONDS]`.
Tenant parameters: `do` (an HTTP status, `job`, `joberror`, `hang`), `seconds` (how long it takes), `warn` (a warning it tells),
`only` (the module id that these are for; others answer 204), `call` (a path that is asked at `X-Okapi-Url`).
"""

import argparse
import asyncio
import json
import os
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web


class Recorder:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.jobs: dict[str, dict[str, Any]] = {}
        self.log = Path(options.log).open("a", buffering=1, encoding="utf-8")  # noqa: SIM115 - for the process's life
        self.pending: set[asyncio.Task[None]] = set()

    def write(self, event: str, request: web.Request, **members: Any) -> None:
        line = {
            "at": time.time(),
            "event": event,
            "id": self.options.id,
            "method": request.method,
            "path": request.path,
            "tenant": request.headers.get("X-Okapi-Tenant"),
            "url": request.headers.get("X-Okapi-Url"),
            **members,
        }
        self.log.write(json.dumps(line) + "\n")

    def write_own(self, event: str) -> None:
        line = {"at": time.time(), "event": event, "id": self.options.id, "path": "", "tenant": None, "pid": os.getpid()}
        self.log.write(json.dumps(line) + "\n")

    async def started(self, app: web.Application) -> None:
        del app
        self.write_own("start")

    async def stopping(self, app: web.Application) -> None:
        del app
        self.write_own("stopping")
        await asyncio.sleep(self.options.slow_stop)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/":
            return web.Response(text="up")
        text = (await request.read()).decode()
        body = json.loads(text) if text else None
        self.write("begin", request, body=body)
        try:
            if request.path.startswith("/_/tenant"):
                return await self.tenant(request, body)
            seconds = float(request.query.get("seconds", "0"))
            if seconds:
                await asyncio.sleep(seconds)
            return web.json_response({"id": self.options.id, "tenant": request.headers.get("X-Okapi-Tenant"), "got": body})
        finally:
            self.write("end", request)

    async def tenant(self, request: web.Request, body: Any) -> web.Response:
        if request.method == "GET":
            job = self.jobs.get(request.path.rsplit("/", 1)[1])
            return web.json_response(job) if job else web.Response(status=404, text="Job not found")
        if request.method == "DELETE":
            return web.Response(status=204)
        given = {item["key"]: item.get("value", "") for item in (body or {}).get("parameters") or []}
        if "call" in given:
            await self.call(request, given["call"])
        if given.get("only", self.options.id) != self.options.id:
            return web.Response(status=204)
        do, seconds = given.get("do", "204"), float(given.get("seconds", "0"))
        if do in ("job", "joberror", "hang"):
            return self.begin_job(do, seconds, given)
        await asyncio.sleep(seconds)
        if do.startswith("2") and do != "204":
            warnings = [{"message": given["warn"]}] if "warn" in given else []
            return web.json_response({"messages": ["went well"], "warnings": warnings}, status=int(do))
        return web.Response(status=int(do), text="" if do == "204" else f"answers {do} as asked")

    async def call(self, request: web.Request, path: str) -> None:
        headers = {"X-Okapi-Tenant": request.headers["X-Okapi-Tenant"], "Prefer": "wait=1"}
        async with (
            aiohttp.ClientSession() as session,
            session.get(request.headers["X-Okapi-Url"] + path, headers=headers) as answer,
        ):
            self.write("called", request, status=answer.status, answer=await answer.text())

    def begin_job(self, do: str, seconds: float, given: dict[str, str]) -> web.Response:
        job = str(uuid.uuid4())
        uplift = self.options.dialect == "uplift"
        self.jobs[job] = {"id": job, "status": "running"} if uplift else {"id": job, "complete": False}
        if do != "hang":
            task = asyncio.create_task(self.end_job(job, do, seconds, given))
            self.pending.add(task)
            task.add_done_callback(self.pending.discard)
        headers = {"Location": f"/_/tenant/{job}"}
        return web.json_response(self.jobs[job], status=202 if uplift else 201, headers=headers)

    async def end_job(self, job: str, do: str, seconds: float, given: dict[str, str]) -> None:
        await asyncio.sleep(seconds)
        failed = do == "joberror"
        if self.options.dialect == "uplift":
            ended: dict[str, Any] = {"status": "error" if failed else "done"}
            ended["errors"] = [{"message": "the job broke"}] if failed else []
            ended["warnings"] = [given["warn"]] if "warn" in given else []
        else:
            ended = {"complete": True, "messages": ["row 7 is odd"]} | ({"error": "the job broke"} if failed else {})
        self.jobs[job].update(ended)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--id", "--port", "--log", "--dialect"):
        parser.add_argument(name, required=True)
    parser.add_argument("--start", default="")
    parser.add_argument("--slow-stop", type=float, default=0.0)
    options = parser.parse_args()
    if options.start == "exit":
        sys.exit("cannot find my configuration")
    if options.start == "late":
        time.sleep(1)
    recorder = Recorder(options)
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", recorder.handle)
    app.on_startup.append(recorder.started)
    app.on_shutdown.append(recorder.stopping)
    web.run_app(app, host="127.0.0.1", port=int(options.port), print=None, handle_signals=True)


if __name__ == "__main__":
    main()
