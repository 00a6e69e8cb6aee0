"""The module of the random driver: rows of its tenants in Postgres, and a log of every tenant init that it works on.

Run as `python module.py --id mod-a-1.0.0 --port N --log FILE`, with the database in `DB_HOST`, …. It speaks `_tenant` 2.0.
Tenant parameters: `do` (`ok`, `job`, `error`, `joberror`) and `seconds` (how long the migration works).

A migration commits a first part (the data is at no version then) and works on in a second transaction, so that one that is cut or
fails leaves something to be undone. While it works, its session holds an advisory lock: a second one of the same tenant and
product that works at the same time cannot get it and says `overlap` in the log. When its session is gone, it can do no more.
"""

import argparse
import asyncio
import contextlib
import json
import os
import time
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg

_LOCKS = 4711
_FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)


class ToldToFail(Exception):
    """The parameters say so."""


class Service:
    def __init__(self, options: argparse.Namespace) -> None:
        self.id: str = options.id
        self.product, _, version = options.id.rpartition("-")
        self.level = int(version.split(".")[0])
        self.log = Path(options.log).open("a", buffering=1, encoding="utf-8")  # noqa: SIM115 - for the process's life
        self.jobs: dict[str, dict[str, Any]] = {}
        self.changed = asyncio.Condition()
        self.pending: set[asyncio.Task[None]] = set()
        self.pool: asyncpg.Pool | None = None

    def write(self, event: str, tenant: str, **members: Any) -> None:
        line = {"at": time.time(), "event": event, "id": self.id, "product": self.product, "pid": os.getpid(), "tenant": tenant}
        self.log.write(json.dumps(line | members) + "\n")

    async def connect(self) -> asyncpg.Connection:
        return await asyncpg.connect(
            host=os.environ["DB_HOST"],
            port=int(os.environ["DB_PORT"]),
            user=os.environ["DB_USERNAME"],
            password=os.environ["DB_PASSWORD"],
            database=os.environ["DB_DATABASE"],
            server_settings={"application_name": f"driver {os.getpid()}"},
            timeout=5,
        )

    def schema(self, tenant: str) -> str:
        return f"{tenant}_{self.product.replace('-', '_')}"

    async def answer(self, method: str, target: str, tenant: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        url = urlsplit(target)
        try:
            if url.path == "/_/tenant":
                return await self.begin_init(tenant, json.loads(body))
            if url.path.startswith("/_/tenant/"):
                return await self.job(method, url.path.rsplit("/", 1)[1], parse_qs(url.query))
            if url.path.startswith(f"/{self.product}/"):
                return await self.use(method, url.path.rsplit("/", 1)[1], tenant)
        except _FAILURES as error:
            return 500, {"module": self.id, "error": f"{type(error).__name__}: {error}"}, {}
        return 200, "up", {}

    async def use(self, method: str, name: str, tenant: str) -> tuple[int, Any, dict[str, str]]:
        """A user's request: write a row, read one, or ask what version the data is at."""
        if self.pool is None:
            self.pool = await asyncpg.create_pool(connect=lambda *_, **__: self.connect(), min_size=0, max_size=3)
        said: dict[str, Any] = {"module": self.id}
        schema = self.schema(tenant)
        async with self.pool.acquire() as connection:
            if name == "version":
                said["version"] = await connection.fetchval(f"select version from {schema}.meta")
            elif method == "PUT":
                await connection.execute(
                    f"insert into {schema}.rows (id, level) values ($1, $2) on conflict (id) do nothing", name, self.level
                )
            else:
                said["found"] = await connection.fetchval(f"select true from {schema}.rows where id = $1", name) or False
        return 200, said, {}

    async def job(self, method: str, name: str, query: dict[str, list[str]]) -> tuple[int, Any, dict[str, str]]:
        if method == "DELETE":
            return (204, None, {}) if self.jobs.pop(name, None) else (404, "Job not found", {})
        if name not in self.jobs:
            return 404, "Job not found", {}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(float(query.get("wait", ["0"])[0]) / 1000), self.changed:
                await self.changed.wait_for(lambda: self.jobs.get(name, {"complete": True})["complete"])
        return (200, self.jobs[name], {}) if name in self.jobs else (404, "Job not found", {})

    async def begin_init(self, tenant: str, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        given = {item["key"]: item.get("value", "") for item in body.get("parameters") or []}
        if not given.get("do", "ok").startswith("job"):
            error = await self.migrate(tenant, body, given)
            return (500, error, {}) if error else (204, None, {})
        name = str(uuid.uuid4())
        self.jobs[name] = {"id": name, "complete": False}
        task = asyncio.create_task(self.follow(name, tenant, body, given))
        self.pending.add(task)
        task.add_done_callback(self.pending.discard)
        return 201, dict(self.jobs[name]), {"Location": f"/_/tenant/{name}"}

    async def follow(self, name: str, tenant: str, body: dict[str, Any], given: dict[str, str]) -> None:
        error = await self.migrate(tenant, body, given)
        async with self.changed:
            if name in self.jobs:
                self.jobs[name] |= {"complete": True} | ({"error": error} if error else {})
            self.changed.notify_all()

    async def migrate(self, tenant: str, body: dict[str, Any], given: dict[str, str]) -> str:
        """Do what tenant init asks for; gives the error, or nothing."""
        try:
            connection = await self.connect()
        except _FAILURES as error:
            return f"the database is away: {error}"
        outcome = "cut"
        try:
            if other := await self.other_at_work(connection, tenant):
                self.write("overlap", tenant, body=body, other=other)
                return "another tenant init works on it"
            self.write("begin", tenant, body=body)
            if body.get("purge"):
                await connection.execute(f"drop schema if exists {self.schema(tenant)} cascade")
            elif body.get("module_to"):
                await self.change(connection, tenant, body["module_to"], given)
            outcome = "done"
        except ToldToFail as error:
            outcome = "failed"
            return str(error)
        except _FAILURES as error:
            return f"the migration was cut: {type(error).__name__}: {error}"
        else:
            return ""
        finally:
            self.write("end", tenant, outcome=outcome)
            with contextlib.suppress(*_FAILURES):
                await connection.execute("select pg_advisory_unlock_all()")
            connection.terminate()

    async def other_at_work(self, connection: asyncpg.Connection, tenant: str) -> str:
        """The living process that works on the tenant's data, or nothing: then we have the lock.

        Postgres may notice a moment late that a killed process is gone.
        """
        while True:
            if await connection.fetchval("select pg_try_advisory_lock($1::int, hashtext($2))", _LOCKS, self.schema(tenant)):
                return ""
            holder = await connection.fetchval(
                "select a.application_name from pg_locks l join pg_stat_activity a using (pid) where l.locktype = 'advisory'"
                " and l.granted and l.classid = $1::int::oid and l.objid = (hashtext($2)::bigint & 4294967295)::oid",
                _LOCKS, self.schema(tenant),
            )  # fmt: skip
            if holder is not None and Path(f"/proc/{holder.split()[1]}/stat").exists():
                return str(holder)
            await asyncio.sleep(0.05)

    async def change(self, connection: asyncpg.Connection, tenant: str, module_to: str, given: dict[str, str]) -> None:
        schema, version = self.schema(tenant), module_to.rpartition("-")[2]
        async with connection.transaction():
            await connection.execute(
                f"create schema if not exists {schema};"
                f"create table if not exists {schema}.rows (id text primary key, level integer not null);"
                f"create table if not exists {schema}.meta (version text not null);"
            )
            if await connection.execute(f"update {schema}.meta set version = 'none'") == "UPDATE 0":
                await connection.execute(f"insert into {schema}.meta values ('none')")
        async with connection.transaction():
            await connection.execute(f"update {schema}.rows set level = $1", int(version.split(".")[0]))
            await asyncio.sleep(float(given.get("seconds", "0")))
            if given.get("do", "ok").endswith("error"):
                raise ToldToFail("the migration fails as asked")
            await connection.execute(f"update {schema}.meta set version = $1", version)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while head := (await reader.readuntil(b"\r\n\r\n")).decode("latin-1"):
                first, *rest = head.split("\r\n")
                method, target, _ = first.split(" ")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest if line)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                status, said, more = await self.answer(method, target, headers.get("x-okapi-tenant", ""), body)
                text = b"" if said is None else json.dumps(said).encode() if not isinstance(said, str) else said.encode()
                lines = [f"HTTP/1.1 {status} Said", *(f"{name}: {value}" for name, value in more.items())]
                if status != 204:
                    lines += [f"Content-Length: {len(text)}", "Content-Type: application/json"]
                writer.write("\r\n".join([*lines, "", ""]).encode() + text)
                await writer.drain()
        writer.close()


async def run(options: argparse.Namespace) -> None:
    service = Service(options)
    server = await asyncio.start_server(service.serve, "127.0.0.1", options.port)
    service.write("start", "")
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--id", "--log"):
        parser.add_argument(name, required=True)
    parser.add_argument("--port", type=int, required=True)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
