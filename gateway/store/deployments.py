"""Versions that somebody had deployed by discovery, and where (requirement E2)."""

from dataclasses import dataclass
from datetime import datetime

from gateway.store.database import Database
from gateway.store.instances import is_retiring
from gateway.store.registry import Conflict


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A version that is needed without a tenant or a job.

    Attributes:
        node: Where it was to be deployed.
        made: When that was asked for.
    """

    module: str
    node: str
    made: datetime


class DeploymentStore:
    """Rows of deployments: one for each version."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, module: str, node: str) -> Deployment:
        """Need a version from now on. Again is fine.

        Raises:
            Conflict: It is being retired, or was to be deployed on another node.
        """
        async with self._database.transaction() as connection:
            await connection.execute("select 1 from modules where id = $1 for share", module)
            if await is_retiring(connection, module):
                raise Conflict(f"module {module} is being retired; try again in a moment")
            row = await connection.fetchrow(
                "insert into deployments (module, node) values ($1, $2)"
                " on conflict (module) do update set module = excluded.module returning *",
                module, node,
            )  # fmt: skip
            assert row is not None
            if row["node"] != node:
                raise Conflict(f"module {module} is deployed on {row['node']}; there is one instance of each version")
            return Deployment(**dict(row))

    async def remove(self, module: str) -> bool:
        """It is not needed any more; False if it was not."""
        async with self._database.connection() as connection:
            return (await connection.execute("delete from deployments where module = $1", module)).endswith(" 1")

    async def missing(self) -> list[Deployment]:
        """Those without a deployed instance."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                "select module, node, made from deployments d where not exists"
                " (select 1 from instances i where i.module = d.module and i.node is not null) order by made, module"
            )
        return [Deployment(**dict(row)) for row in rows]
