"""What was simulated: plans by digest, and the worlds that they were made for. Bounded by age and by number."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from gateway.store.database import Database
from gateway.store.registry import Conflict


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRow:
    """A plan that is known; `plan` and `world` are parsed JSON.

    Attributes:
        made: When it was simulated last.
    """

    digest: str
    plan: dict[str, Any]
    world: dict[str, Any]
    made: datetime


class PlanStore:
    """Rows of plans. What an open job is to execute stays."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep(
        self, *, tenant: str, digest: str, plan: dict[str, Any], world: dict[str, Any], seconds: float, most: int
    ) -> None:
        """Know a plan from now on; forget those that are too old, and the tenant's oldest beyond a number.

        Raises:
            Conflict: The tenant was removed a moment ago.
        """
        try:
            async with self._database.connection() as connection:
                await connection.execute(
                    "insert into plans (tenant, digest, plan, world) values ($1, $2, $3, $4) on conflict (tenant, digest)"
                    " do update set plan = excluded.plan, world = excluded.world, made = excluded.made",
                    tenant, digest, plan, world,
                )  # fmt: skip
                await connection.execute(
                    "delete from plans where (tenant, digest) in (select tenant, digest from plans p where"
                    " (made < now() - make_interval(secs => $2) or (tenant = $1 and digest in"
                    " (select digest from plans where tenant = $1 order by made desc, digest offset $3)))"
                    " and not exists (select from jobs j where j.state <> 'ended' and j.tenant = p.tenant"
                    " and j.request ->> 'plan' = p.digest) for update skip locked)",
                    tenant, seconds, most,
                )  # fmt: skip
        except asyncpg.ForeignKeyViolationError as error:
            raise Conflict(f"tenant {tenant} was removed a moment ago") from error

    async def get(self, tenant: str, digest: str) -> PlanRow | None:
        """One plan of a tenant; None if it is not known, or not any more."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(
                "select digest, plan, world, made from plans where tenant = $1 and digest = $2", tenant, digest
            )
        return None if row is None else PlanRow(**dict(row))

    async def registered_since(self, made: datetime) -> list[str]:
        """Ids of the modules that were registered after a plan was made."""
        async with self._database.connection() as connection:
            rows = await connection.fetch("select id from modules where registered >= $1 order by id", made)
        return [row["id"] for row in rows]
