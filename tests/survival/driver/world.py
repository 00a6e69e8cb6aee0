"""What the driver knows: what users were answered, what it killed, and what the gateway's own tables said at each moment.

The gateway's database gets two tables and triggers of the test's, in a schema of their own: every change of a binding and every
end of a job is written down in the transaction that makes it, so that nothing has to be caught by looking at the right moment.
"""

import json
from dataclasses import dataclass, field
from typing import Any

import asyncpg

_WATCH = """
create schema seen;
create table seen.bindings (
    number bigint generated always as identity, at double precision, tenant text, product text, module text
);
create table seen.jobs (
    number bigint generated always as identity, at double precision, id text, tenant text, purge boolean, reinstall boolean,
    record jsonb
);
create function seen.note_binding() returns trigger language plpgsql as $$
begin
    insert into seen.bindings (at, tenant, product, module) values (
        extract(epoch from clock_timestamp()), coalesce(new.tenant, old.tenant), coalesce(new.product, old.product),
        case when tg_op = 'DELETE' then null else new.module end
    );
    return null;
end $$;
create constraint trigger seen_binding after insert or update or delete on public.bindings
    deferrable initially deferred for each row execute function seen.note_binding();
create function seen.note_job() returns trigger language plpgsql as $$
begin
    insert into seen.jobs (at, id, tenant, purge, reinstall, record) values (
        extract(epoch from clock_timestamp()), new.id, new.tenant, coalesce((new.request ->> 'purge')::boolean, false),
        coalesce((new.request ->> 'reinstall')::boolean, false),
        to_jsonb(new) || jsonb_build_object('asked', extract(epoch from new.start_date))
    );
    return null;
end $$;
create trigger seen_job after update of state on public.jobs
    for each row when (new.state = 'ended' and old.state <> 'ended') execute function seen.note_job();
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a user was answered: by which version, and between which moments (seconds since the epoch)."""

    tenant: str
    product: str
    module: str
    sent: float
    got: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A row whose write was acknowledged."""

    tenant: str
    product: str
    row: str
    sent: float
    got: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A change of a binding; `module` None: there is none from then on."""

    number: int
    at: float
    tenant: str
    product: str
    module: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A job as it was when it ended; `record` is its row."""

    number: int
    at: float
    id: str
    tenant: str
    purge: bool
    reinstall: bool
    record: dict[str, Any]

    @property
    def outcome(self) -> str:
        return str(self.record["outcome"])

    @property
    def lines(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.record["modules"]
        return found

    @property
    def never_began(self) -> bool:
        """Whether it was aborted before anything was done for it."""
        return self.outcome == "aborted" and not any(line.get("stage") for line in self.lines)

    def moves(self) -> dict[str, str | None]:
        """What a job that ended well did to the bindings: product to module."""
        return {
            line["id"].rpartition("-")[0]: line["id"] if line["action"] == "enable" else None
            for line in self.lines
            if line["action"] in ("enable", "disable")
        }


@dataclass(slots=True)
class World:
    """All of it.

    Attributes:
        answers: What users were answered, by whom.
        written: Rows that users were told are there.
        statuses: How often users were answered what, for the report.
        deleted: Tenants that were asked to be deleted, with the moment.
        kills: What was killed, with the moment.
        aborted: Ids of jobs that were asked to stop.
        decided: What was decided at hold points, by job id.
        told: What tenant init of a job was told to do, by job id.
        bindings: Every change of a binding, in order.
        ended: Every job that ended, in order.
        inits: Lines of the modules' log.
    """

    answers: list[Answer] = field(default_factory=list)
    written: list[Written] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    deleted: dict[str, float] = field(default_factory=dict)
    kills: list[tuple[float, str]] = field(default_factory=list)
    aborted: set[str] = field(default_factory=set)
    decided: dict[str, list[str]] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)
    bindings: list[Bound] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    inits: list[dict[str, Any]] = field(default_factory=list)

    @property
    def last_kill(self) -> float:
        return self.kills[-1][0] if self.kills else 0.0


async def watch(connection: asyncpg.Connection) -> None:
    """Begin to write down what happens in the gateway's database."""
    await connection.execute(_WATCH)


async def read(connection: asyncpg.Connection, world: World) -> None:
    """Take over what was written down since the last time."""
    for row in await connection.fetch(
        "select * from seen.bindings where number > $1 order by number", world.bindings[-1].number if world.bindings else 0
    ):
        world.bindings.append(Bound(**dict(row)))
    for row in await connection.fetch(
        "select * from seen.jobs where number > $1 order by number", world.ended[-1].number if world.ended else 0
    ):
        world.ended.append(Ended(**(dict(row) | {"record": json.loads(row["record"])})))
