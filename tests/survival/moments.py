"""The moments of a run at which something is killed: how the run is stopped there, and how it is known that it is there.

The watch makes no call: what is right before it is right after the switch, and what is right after it right before the release.

No hook is in the product and nobody sleeps: a call of the worker is held by the proxy before it reaches the gateway or after it
was carried out, or a session of the test's own holds a lock that the step needs.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import asyncpg
from temporalio.api.enums.v1 import EventType

from tests.survival.platform import GATEWAY_DATABASE, MODULES_DATABASE, PATIENCE, Platform
from tests.survival.writer import Writer
from tests.wire.faults import Pause
from tests.wire.http_proxy import Exchange, Rule
from uplift_settings.tree import TemporalSettings
from worker.temporal import connect

_JOB = r"/_/runs/[^/]+"
_ENDED = r'"state": ?"ended"'
_LOOK = 0.03

When = Literal["before", "during", "after"]


@dataclass(kw_only=True)
class Case:
    """One run that is to be stopped somewhere.

    Attributes:
        held: What keeps it there; closing it lets the run go on.
        begin: Begins the job.
    """

    platform: Platform
    tenant: str
    old: str
    new: str
    writer: Writer
    begin: Callable[[], Awaitable[None]]
    held: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def schema(self) -> str:
        """Of the tenant's data."""
        return f"{self.tenant}_mod_users"

    def pause(self, call: "Call") -> Rule:
        """Hold the first call of that kind."""
        proxy = self.platform.proxy
        rule = proxy.add(
            method=call.method,
            path=call.path.format(job=_JOB, old=self.old, new=self.new),
            fault=Pause(call.where),
            body=call.body,
            query=call.query,
            skip=call.skip,
            times=None if call.all else 1,
        )
        self.held.callback(proxy.remove, rule)
        return rule

    async def met(self, rule: Rule) -> Exchange:
        """Wait until a call is held; after it was carried out, if that is where."""
        proxy, earlier = self.platform.proxy, len(self.platform.proxy.seen)
        async with asyncio.timeout(PATIENCE):
            await rule.met.wait()
            if rule.fault == Pause("after"):
                while not (done := [each for each in proxy.seen[max(0, earlier - 500) :] if _struck(rule, each)]):
                    await asyncio.sleep(_LOOK)
                return done[-1]
        return Exchange(method="", path="")

    async def lock(self, sql: str, *values: Any, database: str = MODULES_DATABASE) -> None:
        """Hold locks in a transaction of our own."""
        connection = await self.held.enter_async_context(self.platform.connection(database))
        await connection.execute("begin")
        await connection.fetch(sql, *values)

    async def until_somebody_waits(self, what: str, *, database: str = MODULES_DATABASE) -> None:
        """Wait until a session other than ours waits for a lock on a relation, or on a row by a statement about it."""
        async with self.platform.connection(database) as connection, asyncio.timeout(PATIENCE):
            while not await _waits(connection, what):
                await asyncio.sleep(_LOOK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call of the worker, and where it is held. `{job}`, `{old}` and `{new}` in its path are the case's."""

    method: str
    path: str
    where: Literal["before", "after"] = "before"
    body: str = ""
    query: str = ""
    skip: int = 0
    all: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A moment of a run.

    Attributes:
        step: Of `design/pipelines.md`, or the undo of one.
        when: Where in the step.
        reach: Begins the case's job and returns when it is there.
        version: To which the tenant goes.
        since: The version that it comes from.
        absent: Components that do not run at that moment.
    """

    step: str
    when: When
    reach: Callable[[Case], Awaitable[None]]
    version: str = "2.0.0"
    since: str = "1.0.0"
    absent: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For ids and tables."""
        return f"{self.step} {self.when}"

    @property
    def fails(self) -> str:
        """What the job's error says if the run fails in any case; empty: it does not."""
        return {"3.0.0": "the migration failed after", "2.2.0": "check GET /users/count: expected 200, got 500"}.get(
            self.version, ""
        )


def _at(method: str, path: str, where: Literal["before", "after"], **more: Any) -> Callable[[Case], Awaitable[None]]:
    """The moment is a call."""
    call = Call(method=method, path=path, where=where, **more)

    async def reach(case: Case) -> None:
        rule = case.pause(call)
        await case.begin()
        await case.met(rule)

    return reach


def _locked(
    first: Call, sql: str, what: str, *, database: str = MODULES_DATABASE, by_tenant: bool = False
) -> Callable[[Case], Awaitable[None]]:
    """The moment is a wait for a lock, which is taken while an earlier call is held."""

    async def reach(case: Case) -> None:
        rule = case.pause(first)
        await case.begin()
        await case.met(rule)
        await case.lock(sql.format(schema=case.schema), *((case.tenant,) if by_tenant else ()), database=database)
        rule.release()
        await case.until_somebody_waits(what, database=database)

    return reach


async def _draining(case: Case) -> None:
    """A user's request is at work on the old version, so that UPDATE is answered with a place to wait."""
    row = await case.writer.row()
    await case.lock(f"select 1 from {case.schema}.users where id = $1 for update", row.id)
    slow = asyncio.create_task(case.writer.write(row))
    case.held.callback(lambda: slow)
    await case.until_somebody_waits("users")
    rule = case.pause(Call(method="GET", path=r"/_/lifecycle/delays/.*"))
    await case.begin()
    await case.met(rule)


async def _acquired(case: Case) -> None:
    """The instance is there, and what acquires it has not been told."""
    case.pause(Call(method="GET", path="/_/versions/{new}", query="wait=1[.]", all=True))
    rule = case.pause(Call(method="PUT", path="/_/versions/{new}/instances/.*", where="after"))
    await case.begin()
    await case.met(rule)


async def _soaking(case: Case) -> None:
    """The timer of the soak runs, as the run's history says."""
    client = await connect(TemporalSettings(address=f"127.0.0.1:{case.platform.record.ports['temporal']}"))
    await case.begin()
    async with asyncio.timeout(PATIENCE):
        while True:
            async for run in client.list_workflows("WorkflowType = 'GroupChange' and ExecutionStatus = 'Running'"):
                history = await client.get_workflow_handle(run.id).fetch_history()
                if any(event.event_type == EventType.EVENT_TYPE_TIMER_STARTED for event in history.events):
                    return
            await asyncio.sleep(_LOOK)


async def _waits(connection: asyncpg.Connection, what: str) -> bool:
    return bool(
        await connection.fetchval(
            "select exists (select 1 from pg_locks l join pg_stat_activity a using (pid)"
            " where not l.granted and a.application_name <> 'test' and a.datname = current_database()"
            " and (l.relation::regclass::text ~ $1 or a.query ~* $1))",
            rf"(^|[.\s]){what}(\s|$)",
        )
    )


def _struck(rule: Rule, exchange: Exchange) -> bool:
    bodied = rule.body is None or rule.body.search(exchange.body) is not None
    return rule.fits(exchange) and bodied and exchange.status is not None


_HOLDS = Call(method="POST", path="{job}/holds")
_WHOLE = r'"digest": ?"[0-9a-f]+"'
_COPIED = Call(method="POST", path="{job}/snapshots", body=_WHOLE)
_VERIFY = Call(method="POST", path="{job}/overlays", skip=1)
_UNDO_INIT = Call(method="DELETE", path="{job}/overlays/.*")
_RESUME_OLD = Call(method="POST", path="{job}/open", body=r'"stage": ?"invoke"')
_SWITCH = r'"stage": ?"done"'
_NEW = ("new-instance",)


def _moments() -> tuple[Moment, ...]:
    def step(name: str, *, before: Any = None, during: Any = None, after: Any = None, **more: Any) -> list[Moment]:
        ways = {"before": before, "during": during, "after": after}
        return [Moment(step=name, when=when, reach=way, **more) for when, way in ways.items() if way is not None]  # type: ignore[arg-type]

    found = [
        Moment(step="acquire", when="before", reach=_at("POST", "{job}/claims", "before"), absent=_NEW),
        Moment(step="acquire", when="during", reach=_at("PUT", "/_/versions/{new}/instances/.*", "before")),
        Moment(step="acquire", when="after", reach=_acquired),
        *step(
            "update",
            before=_at("POST", "{job}/holds", "before"),
            during=_draining,
            after=_at("POST", "{job}/holds", "after"),
        ),
        *step(
            "snapshot",
            before=_at("POST", "{job}/snapshots", "before"),
            during=_locked(_HOLDS, "lock table {schema}.meta in access exclusive mode", "meta"),
            after=_at("POST", "{job}/snapshots", "after", body=_WHOLE),
        ),
        *step(
            "init",
            before=_at("POST", "{job}/intents", "before"),
            during=_locked(_COPIED, "lock table {schema}.meta in share mode", "meta"),
            after=_at("PUT", "{job}/intents/.*", "after", body=_ENDED),
        ),
        *step(
            "verify",
            before=_at("POST", "{job}/overlays", "before", skip=1),
            during=_locked(_VERIFY, "lock table {schema}.users in access exclusive mode", "users"),
            after=_at("GET", "/_/overlay/[^/]+/users/_version", "after"),
        ),
        *step(
            "switch",
            before=_at("POST", "{job}/open", "before", body=_SWITCH),
            during=_locked(
                Call(method="POST", path="{job}/open", body=_SWITCH),
                "select 1 from bindings where tenant = $1 for update",
                "bindings",
                database=GATEWAY_DATABASE,
                by_tenant=True,
            ),
            after=_at("POST", "{job}/open", "after", body=_SWITCH),
        ),
        *step("watch", during=_soaking),
        *step(
            "release",
            before=_at("DELETE", "{job}/claims/{new}", "before"),
            during=_locked(
                Call(method="DELETE", path="{job}/claims/{new}"),
                "select 1 from claims where job in (select id from jobs where tenant = $1) for update",
                "claims",
                database=GATEWAY_DATABASE,
                by_tenant=True,
            ),
            after=_at("DELETE", "{job}/claims/{new}", "after"),
        ),
        *step("finish", before=_at("POST", "{job}/finish", "before"), after=_at("POST", "{job}/finish", "after")),
        Moment(step="retire", when="before", reach=_at("POST", "/_/versions/{old}/retire", "before"), since="1.1.0"),
        Moment(
            step="retire",
            when="during",
            reach=_at("DELETE", "/_/versions/{old}/retire", "before"),
            since="1.1.0",
            absent=("old-instance",),
        ),
        Moment(
            step="retire",
            when="after",
            reach=_at("DELETE", "/_/versions/{old}/retire", "after"),
            since="1.1.0",
            absent=("old-instance",),
        ),
        *step(
            "undo init from the copy",
            before=_at("DELETE", "{job}/overlays/.*", "before"),
            during=_locked(_UNDO_INIT, "lock table pg_catalog.pg_namespace in share mode", "pg_namespace"),
            after=_at("PUT", "{job}/data-versions/.*", "after"),
            version="3.0.0",
        ),
        *step(
            "undo init in reverse",
            before=_at("DELETE", "{job}/overlays/.*", "before"),
            during=_locked(_UNDO_INIT, "lock table {schema}.meta in share mode", "meta"),
            after=_at("PUT", "{job}/data-versions/.*", "after"),
            version="2.2.0",
        ),
        *step(
            "undo update",
            before=_at("POST", "{job}/open", "before", body=r'"stage": ?"invoke"'),
            during=_locked(
                _RESUME_OLD,
                "select 1 from holds where tenant = $1 for update",
                "holds",
                database=GATEWAY_DATABASE,
                by_tenant=True,
            ),
            after=_at("POST", "{job}/open", "after", body=r'"stage": ?"invoke"'),
            version="3.0.0",
        ),
        *step("undo acquire", before=_at("DELETE", "{job}/claims/{new}", "before"), version="3.0.0"),
        *step(
            "undo acquire",
            during=_at("DELETE", "/_/versions/{new}/retire", "before"),
            after=_at("DELETE", "/_/versions/{new}/retire", "after"),
            version="3.0.0",
            absent=_NEW,
        ),
    ]
    return tuple(found)


MOMENTS = _moments()

__all__ = ["MOMENTS", "Call", "Case", "Moment", "When"]
