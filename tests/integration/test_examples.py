"""The example modules, as processes, on a real Postgres."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from aiohttp import web

from examples.descriptors import descriptor
from examples.releases import UnknownVersion, path
from examples.users.releases import MOD_USERS
from upgrade_core.descriptors import parse_descriptor

ROOT = Path(__file__).parents[2]
NAMES = ("Ada Lovelace", "Grace  Hopper", "Plato", " Nobody", "Trailing ", "Jean Luc de la Tour", "", "Zoë Ångström")
_TENANTS = (f"t{number}" for number in count(1))


@dataclass(kw_only=True)
class Service:
    """A running module."""

    process: asyncio.subprocess.Process
    url: str
    client: httpx.AsyncClient
    product: str
    dialect: str
    log: asyncio.Task[None] | None = field(default=None, repr=False)

    async def call(self, method: str, target: str, tenant: str, body: Any = None, **headers: str) -> httpx.Response:
        return await self.client.request(method, self.url + target, json=body, headers={"X-Okapi-Tenant": tenant, **headers})

    async def init(
        self, tenant: str, *, source: str | None, target: str | None, query: str = "", **parameters: str
    ) -> httpx.Response:
        names = ("version_from", "version_to") if self.dialect == "uplift" else ("module_from", "module_to")
        body: dict[str, Any] = {
            name: f"{self.product}-{version}"
            for name, version in zip(names, (source, target), strict=True)
            if version is not None
        }
        if self.dialect != "uplift":
            body["purge"] = False
        body["parameters"] = [{"key": key, "value": value} for key, value in parameters.items()]
        return await self.call("POST", f"/_/tenant{query}", tenant, body)

    async def job(self, tenant: str, started: httpx.Response, wait: int = 20_000) -> dict[str, Any]:
        answer = await self.call("GET", f"{started.headers['Location']}?wait={wait}", tenant)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    async def migrate(self, tenant: str, source: str | None, target: str, **parameters: str) -> None:
        """Whatever the dialect: afterwards it has succeeded."""
        answer = await self.init(tenant, source=source, target=target, **parameters)
        assert answer.is_success, answer.text
        if "Location" in answer.headers:
            job = await self.job(tenant, answer)
            assert job.get("complete", job.get("status") == "done"), job
            assert not job.get("error"), job
            assert not job.get("errors"), job

    async def version(self, tenant: str) -> str | None:
        answer = await self.call("GET", "/users/_version", tenant)
        return answer.json()["version"] if answer.status_code == 200 else None

    async def write(self, tenant: str, names: tuple[str, ...] = NAMES) -> None:
        for number, name in enumerate(names):
            answer = await self.call("PUT", f"/users/{UUID(int=number)}", tenant, {"name": name, "seq": number})
            assert answer.status_code in (201, 204), answer.text

    async def names(self, tenant: str) -> tuple[str, ...]:
        answer = await self.call("GET", "/users?limit=1000", tenant)
        assert answer.status_code == 200, answer.text
        assert answer.json()["totalRecords"] == len(answer.json()["users"])
        return tuple(user["name"] for user in answer.json()["users"])

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.process.wait()


Start = Callable[..., Awaitable[Service]]


@pytest.fixture(scope="session")
def database(postgres_dsn: Callable[[], str]) -> str:
    return postgres_dsn()


@pytest.fixture(scope="session")
async def start_any(database: str) -> AsyncIterator[Start]:
    """Starts an instance; all are ended with the tests."""
    address = urlsplit(database)
    env = os.environ | {
        "DB_HOST": address.hostname or "",
        "DB_PORT": str(address.port),
        "DB_USERNAME": unquote(address.username or ""),
        "DB_PASSWORD": unquote(address.password or ""),
        "DB_DATABASE": address.path.removeprefix("/"),
    }
    running: list[Service] = []
    async with httpx.AsyncClient(timeout=30) as client:

        async def start(version: str, dialect: str = "async", *, product: str = "mod-users") -> Service:
            command = (
                descriptor(product, version, python=sys.executable, dialect=dialect)["launchDescriptor"]["exec"]
                .replace("%p", "0")
                .split()
            )
            process = await asyncio.create_subprocess_exec(
                *command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            assert process.stderr is not None
            lines = []
            while line := (await process.stderr.readline()).decode():
                lines.append(line)
                if found := re.search(r"answers at (\S+)", line):
                    break
            else:
                pytest.fail("".join(lines))
            service = Service(process=process, url=found[1], client=client, product=product, dialect=dialect)
            service.log = asyncio.create_task(_drain(process.stderr))
            running.append(service)
            return service

        yield start
        for service in running:
            await service.end(signal.SIGKILL)
            assert service.log is not None
            await service.log


@pytest.fixture(scope="session")
async def module(start_any: Start) -> Start:
    """An instance that tests share, by version and dialect."""
    shared: dict[tuple[str, str], Service] = {}

    async def get(version: str, dialect: str = "async") -> Service:
        if (version, dialect) not in shared:
            shared[version, dialect] = await start_any(version, dialect)
        return shared[version, dialect]

    return get


@pytest.fixture
def tenant() -> str:
    return next(_TENANTS)


@pytest.fixture
async def sql(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


async def _drain(stream: asyncio.StreamReader) -> None:
    while line := await stream.readline():
        print(line.decode(), end="", file=sys.stderr)


async def columns(sql: asyncpg.Connection, tenant: str, table: str = "users") -> set[str]:
    rows = await sql.fetch(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = $1 AND table_name = $2",
        f"{tenant}_mod_{table}",
        table,
    )
    return {row["column_name"] for row in rows}


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(15):
        while not await condition():
            await asyncio.sleep(0.02)


DIALECTS = pytest.mark.parametrize("dialect", ["async", "sync", "uplift"])


@DIALECTS
async def test_an_upgrade_keeps_every_name_and_drops_the_old_column(
    module: Start, tenant: str, sql: asyncpg.Connection, dialect: str
) -> None:
    old, new = await module("1.0.0", dialect), await module("2.0.0", dialect)
    await old.migrate(tenant, None, "1.0.0")
    assert await old.version(tenant) == "mod-users-1.0.0"
    await old.write(tenant)
    await new.migrate(tenant, "1.0.0", "2.0.0")
    assert await new.names(tenant) == NAMES
    assert await new.version(tenant) == "mod-users-2.0.0"
    assert await columns(sql, tenant) == {"id", "first_name", "last_name", "seq", "written_at", "email"}


@DIALECTS
@pytest.mark.parametrize("target", ["1.1.0", "2.1.0", "2.2.0"])
async def test_other_releases_upgrade_too(module: Start, tenant: str, dialect: str, target: str) -> None:
    old, new = await module("1.0.0", dialect), await module(target, dialect)
    await old.migrate(tenant, None, "1.0.0")
    await old.write(tenant)
    await new.migrate(tenant, "1.0.0", target)
    assert await new.names(tenant) == NAMES
    assert await new.version(tenant) == f"mod-users-{target}"


async def test_2_1_brings_an_index(module: Start, tenant: str, sql: asyncpg.Connection) -> None:
    new = await module("2.1.0")
    await new.migrate(tenant, None, "2.1.0")
    assert await sql.fetchval("SELECT to_regclass($1)::text", f"{tenant}_mod_users.users_by_name")


async def test_the_sync_dialect_says_what_it_did(module: Start, tenant: str) -> None:
    old, new = await module("1.0.0", "sync"), await module("2.0.0", "sync")
    assert (await old.init(tenant, source=None, target="1.0.0")).status_code == 201
    assert (await old.init(tenant, source="1.0.0", target="1.0.0")).status_code == 204
    assert (await new.init(tenant, source="1.0.0", target="2.0.0")).status_code == 200
    assert (await new.init(tenant, source="1.0.0", target="2.0.0")).status_code == 200
    assert (await new.init(tenant, source="2.0.0", target="1.0.0")).status_code == 200


async def test_the_uplift_dialect_warns_of_single_names(module: Start, tenant: str) -> None:
    old, new = await module("1.0.0", "uplift"), await module("2.0.0", "uplift")
    await old.migrate(tenant, None, "1.0.0")
    await old.write(tenant, ("Plato", "Ada Lovelace"))
    answer = await new.init(tenant, source="1.0.0", target="2.0.0")
    assert answer.status_code == 200
    assert answer.json() == {
        "messages": [],
        "warnings": [{"message": "1 user(s) have one name only, taken as the first name"}],
        "errors": [],
    }


@pytest.mark.parametrize("by_query", [True, False])
async def test_the_uplift_dialect_has_jobs(module: Start, tenant: str, by_query: bool) -> None:
    old, new = await module("1.0.0", "uplift"), await module("2.0.0", "uplift")
    await old.migrate(tenant, None, "1.0.0")
    await old.write(tenant, ("Plato", "Ada Lovelace"))
    asked = {"query": "?async=true"} if by_query else {"async": "true"}
    started = await new.init(tenant, source="1.0.0", target="2.0.0", **asked)
    assert started.status_code == 202
    assert started.headers["Location"] == f"/_/tenant/{started.json()['id']}"
    job = await new.job(tenant, started)
    assert (job["status"], job["progress"], job["errors"]) == ("done", 100, [])
    assert job["warnings"] == [{"message": "1 user(s) have one name only, taken as the first name"}]


@DIALECTS
async def test_what_is_not_known_is_refused_and_touches_nothing(
    module: Start, tenant: str, sql: asyncpg.Connection, dialect: str
) -> None:
    old, new = await module("1.0.0", dialect), await module("2.0.0", dialect)
    for source, target in ((None, "9.9.9"), ("0.9.0", "2.0.0"), ("1.0.0", "2.0.0")):
        assert (await new.init(tenant, source=source, target=target)).status_code == 400
    assert not await sql.fetchval("SELECT to_regnamespace($1)::text", f"{tenant}_mod_users")
    await new.migrate(tenant, None, "2.0.0")
    assert (await old.init(tenant, source="2.0.0", target="1.0.0")).status_code == 400
    assert (await new.init(tenant, source="1.0.0", target="1.1.0")).status_code == 400
    assert await new.version(tenant) == "mod-users-2.0.0"


async def test_a_bad_request_is_told(module: Start, tenant: str) -> None:
    service = await module("1.0.0")
    assert (await service.init(tenant, source=None, target="1.0.0", migrationSeconds="soon")).status_code == 400
    assert (await service.call("POST", "/_/tenant", tenant, ["no"])).status_code == 400
    assert (await service.call("GET", "/users", "No Tenant!")).status_code == 400
    assert (await service.call("GET", "/users/nobody", tenant)).status_code == 400


async def test_old_code_fails_on_the_new_schema(module: Start, tenant: str) -> None:
    old, new = await module("1.0.0"), await module("2.0.0")
    await old.migrate(tenant, None, "1.0.0")
    await old.write(tenant)
    await new.migrate(tenant, "1.0.0", "2.0.0")
    for method, target in (("GET", "/users"), ("GET", f"/users/{UUID(int=0)}"), ("PUT", f"/users/{uuid4()}")):
        answer = await old.call(method, target, tenant, {"name": "A B", "seq": 1} if method == "PUT" else None)
        assert answer.status_code == 500
        assert 'column "name"' in answer.text


async def test_new_code_takes_the_old_body_and_the_new_one(module: Start, tenant: str) -> None:
    service = await module("2.0.0")
    await service.migrate(tenant, None, "2.0.0")
    user = f"/users/{uuid4()}"
    for body, status in (
        ({"name": "Ada Lovelace", "seq": 1}, 201),
        ({"first_name": "Ada", "last_name": "Lovelace", "seq": 2, "email": "ada@example.org"}, 204),
    ):
        assert (await service.call("PUT", user, tenant, body)).status_code == status
        read = (await service.call("GET", user, tenant)).json()
        assert (read["name"], read["first_name"], read["last_name"]) == ("Ada Lovelace", "Ada", "Lovelace")
        assert (read["seq"], read["email"]) == (body["seq"], body.get("email"))


async def test_rows_are_written_again_counted_listed_and_deleted(module: Start, tenant: str) -> None:
    service = await module("1.0.0")
    await service.migrate(tenant, None, "1.0.0")
    await service.write(tenant)
    user = f"/users/{UUID(int=0)}"
    before = (await service.call("GET", user, tenant)).json()
    assert (await service.call("PUT", user, tenant, {"name": "B C", "seq": 7})).status_code == 204
    after = (await service.call("GET", user, tenant)).json()
    assert (after["name"], after["seq"]) == ("B C", 7)
    assert after["written_at"] > before["written_at"]
    assert len((await service.call("GET", "/users?limit=3", tenant)).json()["users"]) == 3
    assert (await service.call("DELETE", user, tenant)).status_code == 204
    assert (await service.call("DELETE", user, tenant)).status_code == 404
    assert (await service.call("GET", user, tenant)).status_code == 404
    assert (await service.call("GET", "/users/count", tenant)).json() == {"count": len(NAMES) - 1}
    for body in ({"seq": 1}, {"name": "A", "seq": "one"}, ["A"]):
        assert (await service.call("PUT", user, tenant, body)).status_code == 400


@DIALECTS
async def test_2_0_joins_the_names_again_exactly(module: Start, tenant: str, sql: asyncpg.Connection, dialect: str) -> None:
    old, new = await module("1.0.0", dialect), await module("2.0.0", dialect)
    await old.migrate(tenant, None, "1.0.0")
    await old.write(tenant)
    await new.migrate(tenant, "1.0.0", "2.0.0")
    await new.write(tenant, ("Someone Else",))
    await new.migrate(tenant, "2.0.0", "1.0.0")
    assert await old.names(tenant) == ("Someone Else", *NAMES[1:])
    assert await old.version(tenant) == "mod-users-1.0.0"
    assert await columns(sql, tenant) == {"id", "name", "seq", "written_at"}
    await old.write(tenant, ("Written again",))


@pytest.mark.parametrize(
    ("dialect", "mode", "status"),
    [
        ("async", "500", 500),
        ("async", "400", 400),
        ("sync", "", 500),
        ("sync", "400", 400),
        ("uplift", "", 500),
        ("uplift", "400", 400),
    ],
)
async def test_3_0_leaves_the_schema_half_changed(
    module: Start, tenant: str, sql: asyncpg.Connection, dialect: str, mode: str, status: int
) -> None:
    new, failing = await module("2.1.0", dialect), await module("3.0.0", dialect)
    await new.migrate(tenant, None, "2.1.0")
    await new.write(tenant, tuple(f"First{n} Last{n}" for n in range(100)))
    answer = await failing.init(tenant, source="2.1.0", target="3.0.0", **({"fail": mode} if mode else {}))
    assert answer.status_code == status
    assert "failed after 5 of 10 batches" in answer.text
    lost = await sql.fetchval(f"SELECT count(*) FROM {tenant}_mod_users.users WHERE first_name IS NULL")
    assert lost == 50
    assert await new.version(tenant) == "mod-users-2.1.0"


async def test_3_0_fails_as_a_job_and_leads_back(module: Start, tenant: str) -> None:
    old, failing = await module("1.0.0"), await module("3.0.0")
    await old.migrate(tenant, None, "1.0.0")
    await old.write(tenant)
    started = await failing.init(tenant, source="1.0.0", target="3.0.0")
    assert started.status_code == 201
    job = await failing.job(tenant, started)
    assert job["complete"] is True
    assert job["error"] == "the migration failed after 5 of 10 batches"
    assert job["messages"][1] == "Nothing was rolled back"
    assert (await old.call("GET", "/users", tenant)).status_code == 500
    await failing.migrate(tenant, "3.0.0", "1.0.0")
    assert await old.names(tenant) == NAMES


async def test_3_0_fails_as_a_job_of_the_uplift_dialect(module: Start, tenant: str) -> None:
    failing = await module("3.0.0", "uplift")
    started = await failing.init(tenant, source=None, target="3.0.0", query="?async=true")
    job = await failing.job(tenant, started)
    assert job["status"] == "error"
    assert job["errors"][0] == {"message": "the migration failed after 5 of 10 batches"}


async def test_2_2_cannot_count(module: Start, tenant: str) -> None:
    service = await module("2.2.0")
    await service.migrate(tenant, None, "2.2.0")
    assert (await service.call("GET", "/users/count", tenant)).status_code == 500
    assert await service.names(tenant) == ()


@DIALECTS
async def test_disable_keeps_and_an_install_after_it_knows_the_data(module: Start, tenant: str, dialect: str) -> None:
    old, new = await module("1.0.0", dialect), await module("2.0.0", dialect)
    await old.migrate(tenant, None, "1.0.0")
    await old.write(tenant)
    assert (await old.init(tenant, source="1.0.0", target=None)).status_code == 204
    assert (await old.call("POST", "/_/tenant/disable", tenant, {})).status_code == 204
    assert await old.names(tenant) == NAMES
    await new.migrate(tenant, None, "2.0.0")
    assert await new.names(tenant) == NAMES


async def test_purge_removes_the_schema(module: Start, tenant: str, sql: asyncpg.Connection) -> None:
    service = await module("1.0.0")
    body = {"module_from": "mod-users-1.0.0", "purge": True}
    for method, sent in (("POST", body), ("DELETE", None)):
        await service.migrate(tenant, None, "1.0.0")
        assert (await service.call(method, "/_/tenant", tenant, sent)).status_code == 204
        assert not await sql.fetchval("SELECT to_regnamespace($1)::text", f"{tenant}_mod_users")
        assert await service.version(tenant) is None


async def test_a_job_is_waited_for_told_by_any_instance_and_removed(module: Start, start_any: Start, tenant: str) -> None:
    service, other = await module("2.0.0"), await start_any("2.0.0")
    await (await module("1.0.0")).migrate(tenant, None, "1.0.0")
    started = await service.init(tenant, source="1.0.0", target="2.0.0", migrationSeconds="1")
    body = started.json()
    assert started.headers["Location"] == f"/_/tenant/{body['id']}"
    assert body["complete"] is False
    assert body["tenant"] == tenant
    assert body["tenantAttributes"]["module_from"] == "mod-users-1.0.0"
    assert (await service.job(tenant, started, wait=0))["complete"] is False
    assert (await other.job(tenant, started, wait=10))["complete"] is False
    both = await asyncio.gather(service.job(tenant, started), other.job(tenant, started))
    assert [job["complete"] for job in both] == [True, True]
    target = started.headers["Location"]
    assert (await other.call("DELETE", target, tenant)).status_code == 204
    assert (await service.call("DELETE", target, tenant)).status_code == 404
    assert (await service.call("GET", target, tenant)).status_code == 404
    assert (await service.call("GET", target, next(_TENANTS))).status_code == 404
    assert (await service.call("GET", "/_/tenant/none", tenant)).status_code == 400


async def test_many_tenants_and_two_at_once_for_one(module: Start) -> None:
    old, new = await module("1.0.0"), await module("2.0.0")
    tenants = [next(_TENANTS) for _ in range(8)]

    async def upgrade(tenant: str) -> tuple[str, ...]:
        await asyncio.gather(*(old.migrate(tenant, None, "1.0.0") for _ in range(2)))
        await old.write(tenant, (tenant, *NAMES))
        await asyncio.gather(
            *(new.migrate(tenant, "1.0.0", "2.0.0", migrationSeconds="0.2", migrationBatch="1") for _ in range(2))
        )
        return await new.names(tenant)

    assert await asyncio.gather(*map(upgrade, tenants)) == [(tenant, *NAMES) for tenant in tenants]


@pytest.mark.parametrize("written", [False, True])
async def test_a_killed_migration_stays_incomplete_and_a_rerun_completes(
    module: Start, start_any: Start, tenant: str, sql: asyncpg.Connection, written: bool
) -> None:
    old, doomed = await module("1.0.0"), await start_any("2.0.0")
    await old.migrate(tenant, None, "1.0.0")
    names = tuple(f"First{n} Last{n}" for n in range(40))
    await old.write(tenant, names)
    started = await doomed.init(tenant, source="1.0.0", target="2.0.0", migrationSeconds="60")
    schema = f"{tenant}_mod_users"

    async def begun() -> bool:
        return "first_name" in await columns(sql, tenant) and bool(
            await sql.fetchval(f"SELECT count(*) FROM {schema}.users WHERE first_name IS NOT NULL")
        )

    await until(begun)
    await doomed.end(signal.SIGKILL)
    converted = await sql.fetchval(f"SELECT count(*) FROM {schema}.users WHERE first_name IS NOT NULL")
    assert 0 < converted < len(names)
    assert {"name", "first_name"} <= await columns(sql, tenant)
    if written:  # the old version went on with the half changed schema
        names = ("Someone Else", *names[1:])
        await old.write(tenant, names[:1])
    again = await module("2.0.0")
    assert (await again.job(tenant, started, wait=0))["complete"] is False
    assert await again.version(tenant) == "mod-users-1.0.0"
    await again.migrate(tenant, "1.0.0", "2.0.0")
    assert (await again.job(tenant, started, wait=0))["complete"] is False
    assert await again.names(tenant) == names
    assert await again.version(tenant) == "mod-users-2.0.0"


async def test_a_half_done_migration_is_undone_by_the_reverse(
    module: Start, start_any: Start, tenant: str, sql: asyncpg.Connection
) -> None:
    old, doomed = await module("1.0.0"), await start_any("2.0.0")
    await old.migrate(tenant, None, "1.0.0")
    await old.write(tenant)
    await doomed.init(tenant, source="1.0.0", target="2.0.0", migrationSeconds="60")

    async def begun() -> bool:
        return "first_name" in await columns(sql, tenant)

    await until(begun)
    await doomed.end(signal.SIGKILL)
    await (await module("2.0.0")).migrate(tenant, "2.0.0", "1.0.0")
    assert await old.names(tenant) == NAMES
    assert await columns(sql, tenant) == {"id", "name", "seq", "written_at"}


async def test_4_0_hangs_until_it_is_killed(start_any: Start, module: Start, tenant: str, sql: asyncpg.Connection) -> None:
    hanging = await start_any("4.0.0")
    await (await module("2.1.0")).migrate(tenant, None, "2.1.0")
    started = await hanging.init(tenant, source="2.1.0", target="4.0.0")

    async def begun() -> bool:
        return "nickname" in await columns(sql, tenant)

    await until(begun)
    assert (await hanging.job(tenant, started, wait=300))["complete"] is False
    await hanging.end(signal.SIGKILL)
    assert (await (await module("2.1.0")).job(tenant, started, wait=0))["complete"] is False


async def test_sigterm_lets_requests_finish_and_breaks_jobs_off(
    start_any: Start, module: Start, tenant: str, sql: asyncpg.Connection
) -> None:
    service = await start_any("4.0.0")
    await service.migrate(tenant, None, "2.1.0")
    started = await service.init(tenant, source="2.1.0", target="4.0.0")
    waiting = asyncio.create_task(service.job(tenant, started))
    async with sql.transaction():
        await sql.execute(f"LOCK TABLE {tenant}_mod_users.users")
        writing = asyncio.create_task(service.call("PUT", f"/users/{UUID(int=1)}", tenant, {"name": "A B", "seq": 1}))

        async def blocked() -> bool:
            return bool(await sql.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'relation'"))

        await until(blocked)
        service.process.send_signal(signal.SIGTERM)
        assert (await waiting)["complete"] is False
        assert service.process.returncode is None
    assert (await writing).status_code == 201
    assert await service.process.wait() == 0
    assert await (await module("2.1.0")).names(tenant) == ("A B",)


async def test_it_starts_at_once_and_is_healthy_without_a_database(start_any: Start) -> None:
    started = time.monotonic()
    service = await start_any("1.0.0")
    took = time.monotonic() - started
    for target in ("/", "/admin/health"):
        assert (await service.client.get(service.url + target)).status_code == 200
    assert took < 5  # far below a second on an idle machine
    assert await service.end() == 0


@pytest.fixture(scope="session")
async def gateway(module: Start) -> AsyncIterator[tuple[str, list[dict[str, str]]]]:
    """What mod-loans sees of a gateway: it leads to mod-users, or says that nothing is available."""
    seen: list[dict[str, str]] = []
    users = await module("1.0.0")

    async def forward(request: web.Request) -> web.Response:
        seen.append(dict(request.headers))
        if request.headers["X-Okapi-Tenant"] == "held":
            return web.Response(status=503, text="held", headers={"Retry-After": "7"})
        answer = await users.call(request.method, request.path, request.headers["X-Okapi-Tenant"])
        return web.Response(status=answer.status_code, body=answer.content)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", forward)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", seen
    await runner.cleanup()


async def test_a_loan_needs_a_user_whom_the_gateway_knows(
    module: Start, start_any: Start, tenant: str, gateway: tuple[str, list[dict[str, str]]]
) -> None:
    url, seen = gateway
    users = await module("1.0.0")
    loans, newer = await start_any("1.0.0", product="mod-loans"), await start_any("1.1.0", product="mod-loans")
    await users.migrate(tenant, None, "1.0.0")
    await users.write(tenant)
    await loans.migrate(tenant, None, "1.0.0")
    okapi = {"X-Okapi-Url": url, "X-Okapi-Token": "t.o.k", "X-Okapi-Request-Id": "1/loans"}
    loan, body = f"/loans/{uuid4()}", {"user_id": str(UUID(int=1)), "item": "Logic", "seq": 3}
    assert (await loans.call("PUT", loan, tenant, body, **okapi)).status_code == 201
    assert (await loans.call("PUT", loan, tenant, body, **okapi)).status_code == 204
    assert seen[-1]["X-Okapi-Tenant"] == tenant
    assert (seen[-1]["X-Okapi-Token"], seen[-1]["X-Okapi-Request-Id"]) == ("t.o.k", "1/loans")
    unknown = body | {"user_id": str(uuid4())}
    assert (await loans.call("PUT", f"/loans/{uuid4()}", tenant, unknown, **okapi)).status_code == 422
    held = await loans.call("PUT", loan, "held", body, **okapi)
    assert (held.status_code, held.headers["Retry-After"]) == (503, "7")
    assert (await loans.call("PUT", loan, tenant, body)).status_code == 400
    gone = okapi | {"X-Okapi-Url": "http://127.0.0.1:1"}
    assert (await loans.call("PUT", loan, tenant, body, **gone)).status_code == 502
    assert (await loans.call("GET", "/loans/count", tenant)).json() == {"count": 1}
    await newer.migrate(tenant, "1.0.0", "1.1.0")
    stored = {"id": loan.removeprefix("/loans/"), **body}
    assert (await newer.call("GET", loan, tenant)).json() == stored | {"due": None}
    assert (await newer.call("PUT", loan, tenant, body | {"due": "2030-01-31"}, **okapi)).status_code == 204
    assert (await newer.call("GET", loan, tenant)).json() == stored | {"due": "2030-01-31"}
    assert (await newer.call("GET", "/loans/_version", tenant)).json() == {"version": "mod-loans-1.1.0"}


@DIALECTS
@pytest.mark.parametrize(("product", "version"), [*(("mod-users", v) for v in MOD_USERS.releases), ("mod-loans", "1.1.0")])
def test_descriptors_are_understood(product: str, version: str, dialect: str) -> None:
    made = descriptor(product, version, python="python3", dialect=dialect, uplift={"undo": "reversible"})
    parsed = parse_descriptor(made)
    assert parsed.id == f"{product}-{version}"
    assert parsed.uplift.undo == "reversible"
    assert parsed.uplift.data_version == f"/{product.removeprefix('mod-')}/_version"
    assert parsed.launch is not None
    assert parsed.launch.is_process
    system = parsed.provides[-1]
    expected = {"async": ("_tenant", "2.0"), "sync": ("_tenant", "1.2"), "uplift": ("_tenantInit", "1.0")}
    assert (system.id, system.version) == expected[dialect]
    assert system.is_system


def test_the_descriptor_command_prints_json() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.descriptors", "mod-users", "2.0.0", "--dialect", "sync"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == descriptor("mod-users", "2.0.0", python=sys.executable, dialect="sync")


def test_releases_that_are_no_relatives_are_told() -> None:
    with pytest.raises(UnknownVersion, match=r"no way leads from 3\.0\.0 to 4\.0\.0"):
        path(MOD_USERS.releases["3.0.0"], MOD_USERS.releases["4.0.0"])


def test_the_readme_names_every_release() -> None:
    text = (ROOT / "examples" / "README.md").read_text()
    assert [version for version in MOD_USERS.releases if f"| {version} |" not in text] == []
