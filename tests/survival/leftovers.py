"""What a run must not leave behind, looked for in the gateway's database, in the folder, among the processes and in Temporal.

Nothing that the gateway, the worker or a module says is believed: rows are read with SQL of our own, files and processes are
looked up (requirements D2, D3).
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import asyncpg
import psutil
from temporalio.client import Client

from deployers.commands import GENERATION_MARK, INSTANCE_MARK
from deployers.records import Records
from uplift_cli.stack.postgres import GATEWAY_DATABASE, MODULES_DATABASE, EmbeddedPostgres
from uplift_cli.stack.state import read_record
from uplift_settings.tree import TemporalSettings
from worker.temporal import connect

_LOOK_EVERY = 0.2
_LISTED = 20

_ROWS = {
    "job {id} is {state}, in phase {phase}": "select id, state, phase from jobs where state <> 'ended' and {tenant}",
    "hold {id} of {tenant} on {product} is {state} by {holder}": """
        select id, tenant, product, state, holder from holds where job is not null and {tenant}
    """,
    "overlay of job {job} on {product} of {tenant} is {state}": """
        select job, tenant, product, state from overlays where state <> 'alias' and {tenant}
    """,
    "overlay of job {job} stands for {module}, which {tenant} does not have": """
        select job, tenant, module from overlays o where state = 'alias' and {tenant}
            and not exists (select 1 from bindings b where b.tenant = o.tenant and b.product = o.product)
    """,
    "job {job} claims {module}": """
        select job, module from claims where $1::text is null or job in (select id from jobs where tenant = $1)
    """,
    "intent {key} of {tenant} on {product} is {state}": """
        select key, tenant, product, state from intents where state <> 'ended' and {tenant}
    """,
    "snapshot {id} of {tenant} is kept for ever: its time has not begun": """
        select id, tenant from snapshots s where expires is null and {tenant}
            and not exists (select 1 from jobs j where j.id = s.job and j.state <> 'ended')
    """,
}
"""Sentence and query; `{tenant}` in a query stands for the tenant that is looked at, or all."""

_PLATFORM_ROWS = {
    "{module} is being retired": "select module from retirements",
    "instance {id} of {module} has no process": """
        select id, module from instances where node is not null and coalesce(generation, '') <> all($1::text[])
    """,
    "nobody needs {module}, which has instance {id}": """
        select id, module from instances i where node is not null
            and not exists (select 1 from bindings b where b.module = i.module)
            and not exists (select 1 from claims c where c.module = i.module)
    """,
    "the secret of instance {instance} is kept, which is not there": """
        select instance from instance_secrets s where not exists (select 1 from instances i where i.id = s.instance)
    """,
}
"""Sentence and query about versions and instances, whose `$1` are the generations of the processes that live."""


class Folder(Protocol):
    """Any stack of a test: only its folder counts."""

    home: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class _Process:
    """One process of an instance, by the marks in its environment."""

    pid: int
    instance: str
    generation: str


async def leftovers(stack: Folder, tenant: str | None = None) -> list[str]:
    """What is left over now, a sentence each; empty: nothing is.

    Retirement (step 9) goes on after a job's end: `settled` waits for it.

    Args:
        stack: A running embedded stack.
        tenant: Look at this tenant's runs only, and not at versions and instances, which tenants share; None: at everything.
    """
    processes = await asyncio.to_thread(lambda: list(_instances(stack.home)))
    async with _connection(stack.home, GATEWAY_DATABASE) as connection:
        found = await _rows(connection, tenant)
        found += await _files(connection, stack.home, tenant)
        if tenant is None:
            found += await _platform(connection, stack.home, processes)
    if tenant is None:
        async with _connection(stack.home, MODULES_DATABASE) as connection:
            found += await _sessions(connection)
    return found + await _workflows(stack.home, tenant)


async def settled(stack: Folder, tenant: str | None = None, *, within: float = 30.0) -> list[str]:
    """What is still left over after waiting until nothing is, at most that many seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while (found := await leftovers(stack, tenant)) and loop.time() < deadline:
        await asyncio.sleep(_LOOK_EVERY)
    return found


async def _rows(connection: asyncpg.Connection, tenant: str | None) -> list[str]:
    found = []
    for sentence, query in _ROWS.items():
        sql = query.replace("{tenant}", "($1::text is null or tenant = $1)")
        found += [sentence.format(**dict(row)) for row in await connection.fetch(sql, tenant)]
    return found


async def _files(connection: asyncpg.Connection, home: Path, tenant: str | None) -> list[str]:
    rows = await connection.fetch("select id, path from snapshots where path <> '' and ($1::text is null or tenant = $1)", tenant)
    recorded = {row["path"] for row in rows}
    folder = home / "snapshots" / (tenant or "")
    there = {str(path) for path in await asyncio.to_thread(lambda: list(folder.rglob("*"))) if path.is_file()}
    # What was pruned or recorded between the two looks is neither.
    again = await connection.fetch("select path from snapshots where path = any($1)", [*recorded, *there])
    recorded = {row["path"] for row in again}
    return [f"snapshot file {path} is not there" for path in sorted(recorded - there)] + [
        f"file {path} belongs to no snapshot" for path in sorted(there - recorded) if Path(path).exists()
    ]


async def _platform(connection: asyncpg.Connection, home: Path, processes: list[_Process]) -> list[str]:
    generations = sorted({process.generation for process in processes})
    found = []
    for sentence, query in _PLATFORM_ROWS.items():
        values = (generations,) if "$1" in query else ()
        found += [sentence.format(**dict(row)) for row in await connection.fetch(query, *values)]
    rows = await connection.fetch("select generation from instances where generation = any($1)", generations)
    registered = {row["generation"] for row in rows}
    found += [
        f"process {process.pid} of {process.instance} is not registered"
        for process in processes
        if process.generation not in registered
    ]
    known = {process.instance for process in processes}
    for record in await asyncio.to_thread(Records(home / "instances").all):
        if record.launch.inst_id not in known:
            found.append(f"the record of instance {record.launch.inst_id} has no process")
    return found


async def _sessions(connection: asyncpg.Connection) -> list[str]:
    """Sessions of our tools that outlived who started them."""
    rows = await connection.fetch(
        "select pid, application_name from pg_stat_activity"
        " where datname = current_database() and application_name like 'uplift %' and pid <> pg_backend_pid()"
    )
    return [f"session {row['pid']} ({row['application_name']}) is still in the modules' database" for row in rows]


async def _workflows(home: Path, tenant: str | None) -> list[str]:
    record = read_record(home)
    assert record is not None
    client = await _temporal(record.ports["temporal"])
    found = []
    query = "ExecutionStatus = 'Running' and (WorkflowType = 'TenantJob' or WorkflowType = 'GroupChange')"
    async for run in client.list_workflows(query if tenant is None else f"{query} and UpliftTenant = '{tenant}'"):
        # The list lags behind.
        description = await client.get_workflow_handle(run.id, run_id=run.run_id).describe()
        if description.status is not None and description.status.name == "RUNNING":
            found.append(f"workflow {run.id} is open")
    return found[:_LISTED]


_clients: dict[int, Client] = {}


async def _temporal(port: int) -> Client:
    """One client for each server: to connect takes longer than to look."""
    if port not in _clients:
        _clients[port] = await connect(TemporalSettings(address=f"127.0.0.1:{port}"))
    return _clients[port]


@asynccontextmanager
async def _connection(home: Path, database: str) -> AsyncIterator[asyncpg.Connection]:
    record = read_record(home)
    assert record is not None
    connection = await asyncpg.connect(
        EmbeddedPostgres(home=home, port=record.ports["postgres"]).dsn(database),
        server_settings={"application_name": "leftovers"},
    )
    try:
        yield connection
    finally:
        await connection.close()


def _instances(home: Path) -> Iterable[_Process]:
    """The living processes that were started as instances from a folder: their locks or logs are in it."""
    folder = str(home / "instances")
    for pid in psutil.pids():
        with suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            env = process.environ()
            if INSTANCE_MARK not in env or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if any(target.startswith(folder) for target in _open_files(pid)):
                yield _Process(pid=pid, instance=env[INSTANCE_MARK], generation=env[GENERATION_MARK])


def _open_files(pid: int) -> list[str]:
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            found.append(str(entry.readlink()))
    return found


__all__ = ["leftovers", "settled"]
