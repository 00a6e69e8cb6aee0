"""All modules of a platform's releases in one process, made from their descriptors: tenant init, data in Postgres, routes.

Run as `python release.py --dsn DSN --log FILE --descriptors FILE…`; a file holds descriptors, or `{"modules": […]}`. It prints
the port that it listens on. Module `M` is at `http://127.0.0.1:PORT/M`, which is what discovery is told. Each version reads and
writes a column of its own name, so that no version works on the data of another: the data has to be migrated, and requests must
not reach the wrong version.

Tenant init is answered as the descriptor's `_tenant` has it (1.x: when it is done; 2.0 with a route for jobs: by a job).
Tenant parameters: `seconds` (how long a migration takes), `fail` (the module id that breaks off half-way and leaves what it did).
"""

import argparse
import asyncio
import contextlib
import json
import re
import socket
import time
import uuid
from collections import defaultdict
from pathlib import Path
from typing import Any

import asyncpg
from aiohttp import web

ROWS = 6
"""Rows that an install writes."""
_LONGEST_WAIT = 60.0


class Broken(Exception):
    """A migration that does not succeed."""


class Module:
    """One version of a module.

    Attributes:
        dialect: Version of its `_tenant`; empty: nothing of it is called, and it keeps no data.
        by_job: Whether tenant init is answered with a job.
        column: The column that only this version knows.
    """

    def __init__(self, descriptor: dict[str, Any]) -> None:
        self.id: str = descriptor["id"]
        self.product = re.split(r"-(?=\d)", self.id)[0]
        init: dict[str, Any] = next((each for each in descriptor.get("provides", ()) if each["id"] == "_tenant"), {})
        self.dialect: str = init.get("version", "")
        patterns = [handler.get("pathPattern") for handler in init.get("handlers", ())]
        self.by_job = self.dialect.startswith("2.") and "/_/tenant/{id}" in patterns
        self.column = "at_" + re.sub(r"\W", "_", self.id[len(self.product) + 1 :].lower())

    def schema(self, tenant: str) -> str:
        """FOLIO's habit."""
        return f"{tenant}_{self.product.replace('-', '_')}"


class Release:
    """Serves the modules."""

    def __init__(self, modules: dict[str, Module], *, dsn: str, log: Path) -> None:
        self.modules = modules
        self._dsn = dsn
        self._log = log.open("a", buffering=1, encoding="utf-8")
        self._jobs: dict[str, dict[str, Any]] = {}
        self._ended: dict[str, asyncio.Event] = {}
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._pending: set[asyncio.Task[None]] = set()
        self._pool: asyncpg.Pool | None = None

    @property
    def pool(self) -> asyncpg.Pool:
        assert self._pool is not None
        return self._pool

    async def life(self, app: web.Application) -> Any:
        del app
        # Statements are not kept: each tenant and version has its own, and a restored schema makes the kept ones wrong.
        self._pool = await asyncpg.create_pool(self._dsn, min_size=0, max_size=10, statement_cache_size=0)
        yield
        self._pool.terminate()

    def write(self, event: str, module: Module, tenant: str, **members: Any) -> None:
        self._log.write(json.dumps({"at": time.time(), "event": event, "id": module.id, "tenant": tenant, **members}) + "\n")

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """`/{module id}{path of the module}`."""
        name, slash, rest = request.path[1:].partition("/")
        module, path, tenant = self.modules.get(name), slash + rest, request.headers.get("X-Okapi-Tenant", "")
        if module is None:
            return web.Response(status=404, text=f"nobody is {name} here")
        if path in ("", "/", "/admin/health"):
            return web.Response(text="OK")
        body = json.loads(text) if (text := await request.text()) else {}
        if path == "/_/tenantpermissions":
            self.write("permissions", module, tenant, body=body)
            return web.json_response(body)
        if path.startswith("/_/tenant"):
            return await self.tenant_init(request, module, path, tenant, body)
        return await self.answer(request, module, tenant)

    async def answer(self, request: web.Request, module: Module, tenant: str) -> web.Response:
        """A route of the module: GET gives its rows, POST adds one. 500 where the data is not of this version."""
        if not module.dialect:
            return web.json_response({"module": module.id})
        records, column = f"{module.schema(tenant)}.records", module.column
        try:
            if request.method == "POST":
                await self.pool.execute(f"INSERT INTO {records} (id, {column}) VALUES ($1, $2)", uuid.uuid4(), module.id)
                return web.json_response({"module": module.id}, status=201)
            rows = await self.pool.fetch(f"SELECT {column} FROM {records}")
        except (asyncpg.UndefinedColumnError, asyncpg.UndefinedTableError) as error:
            self.write("wrong data", module, tenant, error=str(error))
            return web.Response(status=500, text=f"{module.id} does not know this data: {error}")
        mixed = sum(row[column] != module.id for row in rows)
        return web.json_response({"module": module.id, "totalRecords": len(rows), "mixed": mixed})

    async def tenant_init(
        self, request: web.Request, module: Module, path: str, tenant: str, body: dict[str, Any]
    ) -> web.StreamResponse:
        """Install, upgrade, downgrade, disable and purge, by the module's dialect."""
        if not module.dialect:
            return web.Response(status=404, text=f"{module.id} has no tenant init")
        job = path.removeprefix("/_/tenant").strip("/")
        if request.method == "DELETE" and not job:
            body = {"purge": True}
        elif job and job != "disable":
            return await self.look(request, job)
        source, target = body.get("module_from"), body.get("module_to")
        given = {item["key"]: item.get("value", "") for item in body.get("parameters") or ()}
        self.write("asked", module, tenant, body=body)
        if target is None:
            if body.get("purge"):
                await self.pool.execute(f"DROP SCHEMA IF EXISTS {module.schema(tenant)} CASCADE")
            return web.Response(status=204)
        if module.by_job:
            made = str(uuid.uuid4())
            self._jobs[made] = {"id": made, "tenant": tenant, "complete": False}
            self._ended[made] = asyncio.Event()
            task = asyncio.create_task(self.run_job(made, module, tenant, source, given))
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)
            return web.json_response(self._jobs[made], status=201, headers={"Location": f"/_/tenant/{made}"})
        try:
            await self.migrate(module, tenant, source, given)
        except Broken as error:
            return web.Response(status=500, text=str(error))
        return web.Response(status=200 if source else 201)

    async def look(self, request: web.Request, job: str) -> web.Response:
        """A job: how it is (`?wait=ms` waits for its end), or forget it."""
        if job not in self._jobs:
            return web.Response(status=404, text=f"Job not found {job}")
        if request.method == "DELETE":
            del self._jobs[job], self._ended[job]
            return web.Response(status=204)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(_LONGEST_WAIT, int(request.query.get("wait", "0")) / 1000)):
                await self._ended[job].wait()
        return web.json_response(self._jobs[job]) if job in self._jobs else web.Response(status=404, text="Job not found")

    async def run_job(self, job: str, module: Module, tenant: str, source: str | None, given: dict[str, str]) -> None:
        ended: dict[str, Any] = {"complete": True}
        try:
            await self.migrate(module, tenant, source, given)
        except Exception as error:  # noqa: BLE001 - whatever it is, the job says so
            ended |= {"error": str(error) or repr(error)}
        self._jobs[job].update(ended)
        self._ended[job].set()

    async def migrate(self, module: Module, tenant: str, source: str | None, given: dict[str, str]) -> None:
        """Bring the data to this version, or make it.

        Raises:
            Broken: The data is not at the version that it is said to be at, or `fail` says so.
        """
        schema, column, seconds = module.schema(tenant), module.column, float(given.get("seconds", "0"))
        async with self._locks[schema], self.pool.acquire() as connection:
            known = await connection.fetchval("SELECT to_regclass($1)", f"{schema}.meta")
            at = await connection.fetchval(f"SELECT module FROM {schema}.meta") if known else None
            if at is None and source is not None and not self.modules[source].dialect:
                source = None  # that version kept no data
            if at not in (module.id, source):
                self.write("wrong data", module, tenant, error=f"data is at {at}, not at {source}")
                raise Broken(f"the data is at {at}, not at {source}")
            if at is None:
                async with connection.transaction():
                    await connection.execute(
                        f"""
                        CREATE SCHEMA {schema};
                        CREATE TABLE {schema}.meta (module text NOT NULL);
                        CREATE TABLE {schema}.migrations (number serial PRIMARY KEY, from_ text, to_ text NOT NULL);
                        CREATE TABLE {schema}.records (id uuid PRIMARY KEY, {column} text NOT NULL);
                        INSERT INTO {schema}.meta VALUES ('{module.id}');
                        INSERT INTO {schema}.migrations (to_) VALUES ('{module.id}');
                        INSERT INTO {schema}.records SELECT gen_random_uuid(), '{module.id}' FROM generate_series(1, {ROWS});
                        """
                    )
            elif at != module.id:
                before = self.modules[at].column
                rows = f"{schema}.records"
                await connection.execute(f"ALTER TABLE {rows} RENAME COLUMN {before} TO {column}")
                some = f"SELECT id FROM {rows} LIMIT (SELECT count(*) / 2 FROM {rows})"
                await connection.execute(f"UPDATE {rows} SET {column} = $1 WHERE id IN ({some})", module.id)
                await asyncio.sleep(seconds)
                if given.get("fail") == module.id:
                    self.write("broke off", module, tenant)
                    raise Broken(f"{module.id} breaks off half-way, as asked")
                async with connection.transaction():
                    await connection.execute(f"UPDATE {rows} SET {column} = $1", module.id)
                    await connection.execute(f"UPDATE {schema}.meta SET module = $1", module.id)
                    await connection.execute(f"INSERT INTO {schema}.migrations (from_, to_) VALUES ($1, $2)", at, module.id)
        self.write("migrated", module, tenant, **{"from": source})


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--dsn", "--log"):
        parser.add_argument(name, required=True)
    parser.add_argument("--descriptors", required=True, nargs="+", type=Path)
    options = parser.parse_args()
    modules = {}
    for path in options.descriptors:
        found = json.loads(path.read_text(encoding="utf-8"))
        for descriptor in found if isinstance(found, list) else found["modules"]:
            modules[descriptor["id"]] = Module(descriptor)
    release = Release(modules, dsn=options.dsn, log=Path(options.log))
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", release.handle)
    app.cleanup_ctx.append(release.life)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listener.getsockname()[1], flush=True)
    web.run_app(app, sock=listener, print=None, access_log=None)


if __name__ == "__main__":
    main()
