"""What is to be delivered to others, at least once: claimed by one gateway for a time, so that a killed one loses nothing."""

import asyncio
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from gateway.store.database import Connection, Database

Kind = Literal["notify", "push"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """Something to deliver.

    Attributes:
        target: Name of the notifier, or URL of the push.
        subject: What it is about: key of a problem, id of a hold.
        lifetime: Seconds after which it is given up; None: never.
        id: The idempotency id, the same for every attempt.
    """

    kind: Kind
    target: str
    payload: dict[str, Any]
    subject: str
    lifetime: float | None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A message that this gateway has claimed.

    Attributes:
        attempts: How often it was tried, this time included.
        expired: Whether its time was over when it was claimed.
        last_error: Why the attempt before failed.
    """

    id: str
    kind: Kind
    target: str
    payload: dict[str, Any]
    subject: str
    attempts: int
    created: datetime
    expired: bool
    last_error: str | None


class OutboxStore:
    """Rows of the outbox."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.added = asyncio.Event()
        """Set it after a commit that added messages: they are delivered at once, not at the next look."""

    async def claim(self, kind: Kind, *, targets: Sequence[str] | None, limit: int, seconds: float) -> list[Delivery]:
        """Take what is due, and what a gateway that died had taken.

        Args:
            kind: What to deliver.
            targets: Only these, unless their time is over; None: all.
            limit: How many at most.
            seconds: How long nobody else takes them.
        """
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                "update outbox set claimed_until = now() + make_interval(secs => $4), attempts = attempts + 1"
                " where id in (select id from outbox where kind = $1 and due <= now()"
                " and ($2::text[] is null or target = any($2) or expires <= now())"
                " and (claimed_until is null or claimed_until <= now()) order by due limit $3 for update skip locked)"
                " returning id::text, kind, target, payload, subject, attempts, created, last_error,"
                " coalesce(expires <= now(), false) as expired",
                kind, None if targets is None else list(targets), limit, seconds,
            )  # fmt: skip
        return [Delivery(**dict(row)) for row in rows]

    async def add(self, messages: Sequence[Message]) -> None:
        """Add messages; set `added` afterwards."""
        async with self._database.transaction() as connection:
            await add_messages(connection, messages)

    async def remove(self, message: str) -> None:
        """It was delivered, or is given up."""
        async with self._database.connection() as connection:
            await connection.execute(
                "with gone as (delete from outbox where id = $1::uuid returning kind, subject)"
                " select pg_notify('uplift_nodes', '') from gone where kind = 'push' and subject <> ''",  # a hold waits for it
                message,
            )

    async def put_off(self, delivery: Delivery, *, seconds: float, error: str) -> None:
        """Try again later, or at its end to say that it is given up; unless somebody else has taken it meanwhile."""
        async with self._database.connection() as connection:
            await connection.execute(
                "update outbox set due = least(now() + make_interval(secs => $3), expires), claimed_until = null, last_error = $4"
                " where id = $1::uuid and attempts = $2",
                delivery.id, delivery.attempts, seconds, error,
            )  # fmt: skip

    async def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """What this gateway could not finish: another may take it at once."""
        async with self._database.connection() as connection:
            await connection.executemany(
                "update outbox set claimed_until = null where id = $1::uuid and attempts = $2",
                [(delivery.id, delivery.attempts) for delivery in deliveries],
            )

    async def pending(self, subject: str) -> int:
        """How many messages of a subject are neither delivered nor expired."""
        async with self._database.connection() as connection:
            return int(
                await connection.fetchval(
                    "select count(*) from outbox where subject = $1 and (expires is null or expires > now())", subject
                )
            )


async def add_messages(connection: Connection, messages: Sequence[Message]) -> None:
    """Add messages within a transaction; one of the same id is not added again. Set `OutboxStore.added` after its commit."""
    if not messages:
        return
    await connection.execute(
        "insert into outbox (id, kind, target, payload, subject, expires)"
        " select id::uuid, kind, target, payload::json, subject, now() + make_interval(secs => lifetime)"
        " from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::float8[])"
        " as new (id, kind, target, payload, subject, lifetime) on conflict (id) do nothing",
        [message.id for message in messages],
        [message.kind for message in messages],
        [message.target for message in messages],
        [json.dumps(message.payload, separators=(",", ":")) for message in messages],
        [message.subject for message in messages],
        [message.lifetime for message in messages],
    )
