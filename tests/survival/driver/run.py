"""Carries operations out on a stack, and looks at the invariants after each."""

import asyncio
import json
import os
import signal
import sys
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, assert_never

import asyncpg
import httpx
import psutil
from temporalio.service import RPCError

from deployers.process_tree import observe
from tests.survival.driver import invariants
from tests.survival.driver.operations import (
    FIRST_VERSIONS,
    PRODUCTS,
    Abort,
    Change,
    DeleteTenant,
    Illegal,
    Kill,
    NewTenant,
    Operation,
    Pair,
    Register,
    Unregister,
    UpgradeAll,
    Use,
)
from tests.survival.driver.world import Answer, World, Written, read, watch

Leftovers = Callable[[Any], Awaitable[list[str]]]
MODULE = Path(__file__).parent / "module.py"
PARTS = ("worker", "gateway", "temporal", "postgres")
OPEN_JOBS = 6
"""Jobs that have not ended, of all tenants, before the driver waits with the next one."""
COMEBACK = 30.0
"""Seconds after a kill in which admin calls may be told to come again."""
ENDING = 90.0
"""Seconds after the last operation in which every job ends: an undo may wait a minute for its next try."""
TIDYING = 45.0
"""Seconds after the last job in which all that nobody needs is gone."""
_SHOWN = 30
_UNDISTURBED = 20.0
_AWAY = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    TimeoutError,
)


class Broken(AssertionError):
    """An invariant does not hold; the text has all that is needed to see it again."""


class Driver:
    """One run.

    Args:
        stack: A running stack of its own (tests/e2e/conftest.py).
        seed: What the operations were chosen by, for the report.
        leftovers: What is left over on a stack where nothing is at work.
    """

    def __init__(self, stack: Any, *, seed: int, leftovers: Leftovers) -> None:
        self.world = World()
        self._stack = stack
        self._seed = seed
        self._leftovers = leftovers
        self._recent: deque[str] = deque(maxlen=_SHOWN)
        self._connection: asyncpg.Connection | None = None
        self._users: set[asyncio.Task[None]] = set()
        self._unanswered: list[str] = []
        self._answers_seen = 0
        self._log_read = 0
        self._rows = 0
        self._began = time.time()

    async def begin(self) -> None:
        """Register the first versions and begin to watch."""
        await self._at_database(watch)
        for product in PRODUCTS:
            for version in FIRST_VERSIONS:
                await self._register(Register(product=product, version=version))

    async def do(self, operation: Operation) -> None:
        """Carry out an operation and look at what must be true after it.

        Raises:
            Broken: Something is not.
        """
        self._recent.append(f"{time.time() - self._began:7.1f} {operation}")
        if isinstance(operation, Change | Pair | UpgradeAll):
            await self._until_room()
        match operation:
            case NewTenant():
                await self._call("POST", "/_/proxy/tenants", {"id": operation.tenant}, fine=(201,), again=(400,))
            case DeleteTenant():
                await self._delete_tenant(operation.tenant)
            case Change():
                await self._change(operation)
            case Pair():
                await self._change(operation.first)
                await self._change(operation.second)
            case UpgradeAll():
                answer = await self._call("POST", f"/_/proxy/tenants/{operation.tenant}/upgrade?async=true", fine=(201, 400, 404))
                self._remember(answer, "ok")
            case Abort():
                await self._abort(operation)
            case Use():
                self._use(operation)
            case Register():
                await self._register(operation)
            case Unregister():
                path = f"/_/proxy/modules/{operation.product}-{operation.version}"
                await self._call("DELETE", path, fine=(204, 400, 404, 409))
            case Kill():
                await self._kill(operation)
            case Illegal():
                await self._illegal(operation)
            case _:
                assert_never(operation)
        await self._look(getattr(operation, "tenant", None))

    async def end(self) -> None:
        """Let everything come to rest, and look at all that must be true then.

        Raises:
            Broken: Something is not.
        """
        if self._users:
            await asyncio.wait(self._users)
        await self._until_ended()
        await self._until_tidy()
        await self._look(None)
        world = self.world
        bound = [tuple(row) for row in await self._sql("select tenant, product, module from bindings where product <> 'okapi'")]
        tenants = {row["id"] for row in await self._sql("select id from tenants")}
        there, data = await self._data(bound)
        kept = {row["id"]: json.loads(row["job"]) for row in await self._sql("select id, to_jsonb(j) as job from jobs j")}
        self._must_be_empty(
            [
                *invariants.nothing_done(world),
                *invariants.untrue_records(world),
                *invariants.wrong_outcomes(world, around=_UNDISTURBED),
                *invariants.lost_writes([write for write in world.written if write.tenant in tenants], there, world.ended),
                *invariants.wrong_data(data),
                *invariants.changed_records(world.ended, kept),
            ]
        )
        for tenant in sorted(tenants):
            await self._look_at_bindings(tenant)
        if self._connection is not None:
            self._connection.terminate()

    def summary(self) -> str:
        """What was done, in a line."""
        world = self.world
        outcomes: dict[str, int] = {}
        for job in world.ended:
            outcomes[job.outcome] = outcomes.get(job.outcome, 0) + 1
        kills: dict[str, int] = {}
        for _, part in world.kills:
            kills[part] = kills.get(part, 0) + 1
        inits = sum(line["event"] == "begin" for line in world.inits)
        return (
            f"seed {self._seed}: {time.time() - self._began:.0f} s, jobs {outcomes}, kills {kills}, {inits} tenant inits,"
            f" users {world.statuses}, {len(world.written)} acknowledged writes, hold points {list(world.decided.values())}"
        )

    # what is done

    async def _change(self, change: Change) -> None:
        module = f"{change.product}-{change.version}"
        action = "enable" if change.action in ("enable", "reinstall") else "disable"
        line = {"id": module if action == "enable" else change.product, "action": action}
        query = f"async=true&tenantParameters=do%3D{change.do},seconds%3D{change.seconds:g}"
        query += {"reinstall": "&reinstall=true", "purge": "&purge=true"}.get(change.action, "")
        path = f"/_/proxy/tenants/{change.tenant}/install?{query}"
        self._remember(await self._call("POST", path, [line], fine=(201, 400, 404)), change.do)

    def _remember(self, answer: httpx.Response, told: str) -> None:
        if answer.status_code == 201:
            self.world.told[answer.headers["Location"].rsplit("/", 1)[1]] = told

    async def _delete_tenant(self, tenant: str) -> None:
        asked = time.time()
        answer = await self._call("DELETE", f"/_/proxy/tenants/{tenant}", fine=(204, 409), again=(404,))
        if answer.status_code != 409:
            self.world.deleted[tenant] = asked

    async def _abort(self, abort: Abort) -> None:
        rows = await self._sql(
            "select id from jobs where tenant = $1 and state <> 'ended' order by position desc limit 1", abort.tenant
        )
        if not rows:
            return
        job = rows[0]["id"]
        self.world.aborted.add(job)
        if abort.way == "delete":
            await self._call("DELETE", f"/_/proxy/tenants/{abort.tenant}/install/{job}", fine=(202, 204, 409), again=(404,))
            return
        try:
            async with asyncio.timeout(5):
                client = await self._stack.temporal()
                await client.get_workflow_handle(job).cancel()
        except (RPCError, RuntimeError, OSError, TimeoutError):
            return  # it is away, or the run has not begun

    def _use(self, use: Use) -> None:
        for _ in range(use.writes):
            self._rows += 1
            self._spawn(self._request(use, "PUT", f"r{self._rows}"))
        known = [write.row for write in self.world.written if (write.tenant, write.product) == (use.tenant, use.product)]
        for number in range(use.reads):
            self._spawn(self._request(use, "GET", known[number * len(known) // use.reads] if known else "version"))

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._users.add(task)
        task.add_done_callback(self._user_done)

    def _user_done(self, task: asyncio.Task[None]) -> None:
        self._users.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._unanswered.append(f"a user's request came to nothing: {error!r}")

    async def _request(self, use: Use, method: str, row: str) -> None:
        """A user's request. It is idempotent, so it is sent again when the connection broke; the last one counts."""
        while True:
            sent = time.time()
            try:
                answer = await self._stack.http.request(
                    method, f"/{use.product}/{row}", headers={"X-Okapi-Tenant": use.tenant, "Prefer": "wait=10"}
                )
                break
            except httpx.TransportError:
                self._count("no answer")
                if sent > max(self._began, self.world.last_kill) + 2 * COMEBACK:
                    raise
                await asyncio.sleep(0.2)
        got = time.time()
        self._count(str(answer.status_code))
        if answer.status_code != 200:
            return
        self.world.answers.append(
            Answer(tenant=use.tenant, product=use.product, module=answer.json()["module"], sent=sent, got=got)
        )
        if method == "PUT":
            self.world.written.append(Written(tenant=use.tenant, product=use.product, row=row, sent=sent, got=got))

    def _count(self, status: str) -> None:
        self.world.statuses[status] = self.world.statuses.get(status, 0) + 1

    async def _register(self, register: Register) -> None:
        answer = await self._call("POST", "/_/proxy/modules", self._descriptor(register.product, register.version), fine=(201,))
        assert answer.status_code == 201

    def _descriptor(self, product: str, version: str) -> dict[str, Any]:
        module = f"{product}-{version}"
        looks = [{"methods": ["GET", "DELETE"], "pathPattern": "/_/tenant/{id}"}]
        return {
            "id": module,
            "provides": [
                {
                    "id": product,
                    "version": "1.0",
                    "handlers": [{"methods": ["*"], "pathPattern": f"/{product}/*", "permissionsRequired": []}],
                },
                {
                    "id": "_tenant",
                    "version": "2.0",
                    "interfaceType": "system",
                    "handlers": [{"methods": ["POST"], "pathPattern": "/_/tenant"}, *looks],
                },
            ],
            "launchDescriptor": {"exec": f"{sys.executable} {MODULE} --id {module} --port %p --log {self._stack.log}"},
            "metadata": {"uplift": {"undo": "snapshot", "rerunnable": True, "data_version": f"/{product}/version"}},
        }

    async def _kill(self, kill: Kill) -> None:
        if kill.part == "instance":
            instances = sorted(await asyncio.to_thread(self._instances), key=lambda found: found[1])
            if instances:
                pid, name = instances[kill.which % len(instances)]
                self._send_kill(pid, f"instance {name}", count_as="instance")
            return
        parts = (kill.part,) if kill.part in PARTS else PARTS
        for part in parts:
            pid = self._pid(part)
            if pid is not None:
                self._send_kill(pid, part, count_as=kill.part)
        if kill.part == "everything":
            for pid, name in await asyncio.to_thread(self._instances):
                self._send_kill(pid, name, count_as=kill.part)
            self._stack.process.kill()
            await self._stack.process.wait()
            self.world.kills.append((time.time(), "everything"))
            await self._stack.up()
            self.world.kills.append((time.time(), "comeback"))

    def _send_kill(self, pid: int, name: str, *, count_as: str) -> None:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.world.kills.append((time.time(), count_as))
        self._recent.append(f"{time.time() - self._began:7.1f}   killed {name} ({pid})")

    def _pid(self, part: str) -> int | None:
        record = json.loads((self._stack.home / "stack.json").read_text())
        return next((row["process"]["pid"] for row in record["parts"] if row["name"] == part and row["process"]), None)

    def _instances(self) -> list[tuple[int, str]]:
        """Living instances: (pid, module)."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if str(self._stack.log) in words and "--id" in words and observe(process.pid):
                found.append((process.pid, words[words.index("--id") + 1]))
        return found

    async def _illegal(self, illegal: Illegal) -> None:
        """It must be refused with 4xx and change nothing."""
        tenant, product = illegal.tenant, illegal.product
        if not await self._sql("select from tenants where id = $1", tenant):
            return
        install = f"/_/proxy/tenants/{tenant}/install"
        mark = f"{product}-0.0.{self._rows + 1000}"
        first = f"{product}-{FIRST_VERSIONS[0]}"
        other = self._descriptor(product, FIRST_VERSIONS[0]) | {"name": mark}
        asked: tuple[str, str, Any]
        match illegal.what:
            case "unknown_module":
                asked = ("POST", install, [{"id": "mod-nobody-1.0.0", "action": "enable"}])
            case "unknown_tenant":
                asked = ("POST", "/_/proxy/tenants/nobody/install", [{"id": first, "action": "enable"}])
            case "unknown_version":
                asked = ("POST", install, [{"id": mark, "action": "enable"}])
            case "misspelt_parameter":
                asked = ("POST", f"{install}?tenantParameter=do%3D{mark}", [{"id": first, "action": "enable"}])
            case "purge_and_enable":
                asked = ("POST", f"{install}?purge=true&tenantParameters={mark}", [{"id": first, "action": "enable"}])
            case "tenant_again":
                asked = ("POST", "/_/proxy/tenants", {"id": tenant, "name": mark})
            case "bad_tenant_id":
                asked = ("POST", "/_/proxy/tenants", {"id": f"Not {mark}"})
            case "other_descriptor":
                if not await self._sql("select from modules where id = $1", first):
                    return
                asked = ("POST", "/_/proxy/modules", other)
            case "version_in_use":
                bound = await self._sql("select module from bindings where tenant = $1 limit 1", tenant)
                if not bound:
                    return
                asked = ("DELETE", f"/_/proxy/modules/{bound[0]['module']}", None)
            case "busy_tenant":
                await self._delete_busy(tenant, first)
                return
            case "unknown_job":
                asked = ("DELETE", f"{install}/{uuid.uuid4()}", None)
            case _:
                jobs = await self._sql("select id from jobs where tenant <> $1 limit 1", tenant)
                if not jobs:
                    return
                asked = ("DELETE", f"{install}/{jobs[0]['id']}", None)
        answer = await self._call(*asked, fine=range(200, 500))
        if illegal.what == "version_in_use" and answer.status_code < 400:
            return  # the foreign key says that nobody has it: the tenant left it meanwhile
        ((traces,),) = await self._sql(
            "select (select count(*) from jobs where request::text like $1 or modules::text like any(array[$1, '%nobody%']))"
            " + (select count(*) from tenants where id like $1 or name like $1 or id = 'nobody')"
            " + (select count(*) from modules where descriptor like $1)",
            f"%{mark}%",
        )  # fmt: skip
        if not 400 <= answer.status_code < 500 or traces:
            self._must_be_empty([f"{asked} was answered {answer.status_code} {answer.text[:200]} and left {traces} traces"])

    async def _delete_busy(self, tenant: str, module: str) -> None:
        """A tenant with a job that is at work for sure must not be deleted."""
        path = f"/_/proxy/tenants/{tenant}/install?async=true&reinstall=true&tenantParameters=do%3Djob,seconds%3D3"
        begun = await self._call("POST", path, [{"id": module, "action": "enable"}], fine=(201, 400, 404))
        self._remember(begun, "job")
        if begun.status_code != 201:
            return
        answer = await self._call("DELETE", f"/_/proxy/tenants/{tenant}", fine=(204, 404, 409))
        job = begun.headers["Location"].rsplit("/", 1)[1]
        ended = await self._sql("select from seen.jobs where id = $1", job)
        if answer.status_code != 409 and not ended:
            self._must_be_empty([f"tenant {tenant} was deleted ({answer.status_code}) while its job {job} was at work"])
        if answer.status_code != 409:
            self.world.deleted[tenant] = time.time()

    async def _call(
        self, method: str, path: str, body: Any = None, *, fine: Sequence[int] | range, again: Sequence[int] = ()
    ) -> httpx.Response:
        """An admin call. While something that was killed comes back it is sent again; then `again` are fine, too."""
        tried = False
        while True:
            try:
                answer = await self._stack.http.request(method, path, json=body)
            except httpx.TransportError as error:
                answer, text = None, repr(error)
            else:
                text = f"{answer.status_code} {answer.text[:300]}"
                if answer.status_code in fine or (tried and answer.status_code in again):
                    return answer
                if answer.status_code == 404 and path.startswith("/_/proxy/tenants/t"):
                    return answer  # an operation on a tenant that is gone is refused
            if (answer is not None and answer.status_code != 503) or time.time() > self.world.last_kill + COMEBACK:
                self._must_be_empty([f"{method} {path} was answered {text}"])
            tried = True
            await asyncio.sleep(0.1)

    # what must be true

    async def _look(self, tenant: str | None) -> None:
        """What can be said at any moment."""
        world = self.world
        known = len(world.answers)
        await self._at_database(lambda connection: read(connection, world))
        active = [tuple(row) for row in await self._sql("select tenant, id from jobs where state = 'active'")]
        fresh, self._answers_seen = world.answers[self._answers_seen : known], known
        # Nobody holds a tenant that is being deleted: what was answered meanwhile is not looked at.
        fresh = [answer for answer in fresh if answer.got < world.deleted.get(answer.tenant, answer.got + 1)]
        wrong = [*invariants.wrong_versions(fresh, world.bindings), *invariants.two_active(active), *self._unanswered]
        if self._read_log():
            wrong += invariants.two_inits_at_once(world.inits)
        self._must_be_empty(wrong)
        if tenant is not None and time.time() > world.last_kill + 5:
            await self._look_at_bindings(tenant)

    async def _look_at_bindings(self, tenant: str) -> None:
        wrong: list[str] = []
        for _ in range(40):  # a switch may be committed between the looks
            answer = await self._call("GET", f"/_/proxy/tenants/{tenant}/modules", fine=(200,))
            if answer.status_code == 404:
                return
            rows = [row["module"] for row in await self._sql("select module from bindings where tenant = $1", tenant)]
            wrong = invariants.two_enabled([item["id"] for item in answer.json()], rows, tenant=tenant)
            if not wrong:
                return
            await asyncio.sleep(0.05)
        self._must_be_empty(wrong)

    def _read_log(self) -> bool:
        """Whether the modules have written something."""
        with self._stack.log.open("rb") as log:
            log.seek(self._log_read)
            text = log.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._log_read += len(whole)
        self.world.inits += [json.loads(line) for line in whole.splitlines()]
        return bool(whole)

    async def _data(self, bound: list[Any]) -> tuple[dict[tuple[str, str], set[str]], list[Any]]:
        """Rows by tenant and product, and the version that each tenant's data is at."""
        there: dict[tuple[str, str], set[str]] = {}
        data = []
        connection = await asyncpg.connect(self._stack.modules_dsn())
        for tenant, product, module in bound:
            schema = f"{tenant}_{product.replace('-', '_')}"
            rows = await connection.fetch(f"select id, level from {schema}.rows")
            there[tenant, product] = {row["id"] for row in rows}
            version = await connection.fetchval(f"select version from {schema}.meta")
            data.append((tenant, module, version, [row["level"] for row in rows]))
        await connection.close()
        return there, data

    async def _until_room(self) -> None:
        while len(await self._sql("select from jobs where state <> 'ended'")) >= OPEN_JOBS:
            if time.time() > max(self.world.last_kill, max((job.at for job in self.world.ended), default=self._began)) + ENDING:
                self._must_be_empty(await self._open_jobs())
            await asyncio.sleep(0.05)
            await self._at_database(lambda connection: read(connection, self.world))
            await self._decide()

    async def _decide(self) -> None:
        """Say "retry" where a job asks a person: so it does when what asks its module was killed, and killed again."""
        rows = await self._sql(
            "select id, extract(epoch from start_date)::float as begun from jobs"
            " where state = 'active' and phase = 'needs_operator'"
        )
        for row in rows:
            if not any(at > row["begun"] for at, _ in self.world.kills):
                self._must_be_empty([f"job {row['id']} asks a person, and nothing was killed since it began"])
            body = {"decision": "retry", "reason": "the driver"}
            answer = await self._call("POST", f"/_/runs/{row['id']}/resolve", body, fine=(202, 409, 503), again=(404,))
            if answer.status_code == 202:
                self.world.decided.setdefault(row["id"], []).append("retry")

    async def _until_ended(self) -> None:
        over = time.time() + ENDING
        while (open_jobs := await self._open_jobs()) and time.time() < over:
            await self._decide()
            await asyncio.sleep(0.1)
        self._must_be_empty(open_jobs)

    async def _open_jobs(self) -> list[str]:
        rows = await self._sql(
            "select id, tenant, state, phase, modules, extract(epoch from now() - start_date)::int as age from jobs"
            " where state <> 'ended'"
        )
        return [f"job {row['id']} of {row['tenant']} has not ended: {dict(row)}" for row in rows]

    async def _until_tidy(self) -> None:
        over = time.time() + TIDYING
        left = ["not looked at"]
        while left and time.time() < over:
            try:
                left = await self._leftovers(self._stack)
            except (*_AWAY, RPCError, RuntimeError) as error:
                left = [f"what is left over cannot be looked for: {error!r}"]
            if left:
                await asyncio.sleep(0.5)
        self._must_be_empty(left)

    async def _sql(self, query: str, *values: Any) -> list[Any]:
        """Rows of the gateway's database."""
        found: list[Any] = await self._at_database(lambda connection: connection.fetch(query, *values))
        return found

    async def _at_database(self, look: Callable[[asyncpg.Connection], Awaitable[Any]]) -> Any:
        """A look at the gateway's database; a Postgres that was killed is waited for."""
        over = time.time() + 2 * COMEBACK
        while True:
            try:
                if self._connection is None:
                    self._connection = await asyncpg.connect(self._stack.modules_dsn().replace("/modules", "/uplift"), timeout=5)
                async with asyncio.timeout(10):
                    return await look(self._connection)
            except _AWAY:
                if time.time() > over:
                    raise
                if self._connection is not None:
                    self._connection.terminate()
                self._connection = None
                await asyncio.sleep(0.1)

    def _must_be_empty(self, wrong: Sequence[str]) -> None:
        __tracebackhide__ = True
        if wrong:
            done = "\n".join(self._recent)
            raise Broken(
                f"seed {self._seed} after {time.time() - self._began:.1f} s (UPLIFT_TEST_SEED={self._seed} repeats it;"
                f" logs in {self._stack.home})\nlast operations:\n{done}\nwrong:\n" + "\n".join(wrong[:20])
            )
