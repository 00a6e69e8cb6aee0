"""A module that migrates a tenant's data in Postgres, and writes each migration down in the data itself."""

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
from aiohttp import web

SCHEMA = "{tenant}_{product}"


class Migrating:
    """An HTTP server; `how` says how tenant init is answered: `sync`, `job` as `_tenant` 2.0 has it, `uplift` as `_tenantInit`.

    A migration is one transaction: the version and a row in `inits`, so that what was restored was not migrated.
    `hung`: so many jobs begin, and never go on. `seconds`: how long a migration takes. `location`: the header of a job's begin.
    `forget()`: as a restart, which loses the jobs.
    """

    def __init__(self, dsn: str, *, how: str = "sync") -> None:
        self.dsn = dsn
        self.how = how
        self.hung = 0
        self.posts: list[dict[str, Any]] = []
        self.looks = 0
        self.jobs: dict[str, dict[str, Any]] = {}
        self.at_work = 0
        self.most_at_work = 0
        self.location = "/_/tenant/{id}"
        self.seconds = 0.0
        self.schemas: dict[str, str] = {}
        self.answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse] | None] = lambda _: None
        self.checked: list[str] = []
        self._runner: web.ServerRunner | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> "Migrating":
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def stop(self) -> None:
        assert self._runner is not None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._runner.cleanup()

    def forget(self) -> None:
        """What a restart leaves: no job, and nothing at work."""
        for task in self._tasks:
            task.cancel()
        self.jobs.clear()
        self.hung = 0

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        own = self.answer(request)
        if own is not None:
            return await own
        if request.path == "/admin/health":
            return web.Response()
        if not request.path.startswith("/_/tenant"):
            self.checked.append(request.path)
            return web.json_response({"tenant": request.headers.get("X-Okapi-Tenant"), "path": request.path})
        if request.method == "GET":
            self.looks += 1
            job = self.jobs.get(request.path.rsplit("/", 1)[1])
            return web.json_response(job) if job else web.Response(status=404, text="no such job")
        if request.method == "DELETE":
            self.jobs.pop(request.path.rsplit("/", 1)[1], None)
            return web.Response(status=204)
        body = json.loads(await request.read())
        self.posts.append(body)
        schema = self.schemas[request.headers["X-Okapi-Tenant"]]
        if self.how == "sync":
            await self._migrate(schema, body)
            return web.json_response({"messages": ["went well"]})
        job = str(uuid.uuid4())
        self.jobs[job] = {"id": job, "complete": False, "status": "running"}
        if self.hung:
            self.hung -= 1
        else:
            task = asyncio.create_task(self._work(job, schema, body))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        headers = {"Location": self.location.format(id=job, url=self.url)} if self.location else {}
        return web.json_response(self.jobs[job], status=202 if self.how == "uplift" else 201, headers=headers)

    async def _work(self, job: str, schema: str, body: dict[str, Any]) -> None:
        try:
            await self._migrate(schema, body)
        except asyncpg.PostgresError as error:
            self.jobs[job].update(complete=True, status="error", error=str(error))
            return
        if job in self.jobs:
            self.jobs[job].update(complete=True, status="done", messages=["went well"])

    async def _migrate(self, schema: str, body: dict[str, Any]) -> None:
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        try:
            connection = await asyncpg.connect(self.dsn)
            try:
                async with connection.transaction():
                    await connection.execute(f"create schema if not exists {schema}")
                    await connection.execute(f"create table if not exists {schema}.inits (n serial, version text)")
                    await connection.execute(f"create table if not exists {schema}.users (name text, version text)")
                    wanted = body.get("module_to") or body.get("version_to")
                    await connection.execute(f"update {schema}.users set version = $1", wanted)
                    await connection.execute(f"insert into {schema}.inits (version) values ($1)", wanted)
                    await connection.execute("select pg_sleep($1)", self.seconds)
            finally:
                await connection.close()
        finally:
            self.at_work -= 1
