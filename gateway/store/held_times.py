"""What past changes were held for. Of each product the newest are kept."""

from collections.abc import Iterable, Sequence

from gateway.store.database import Database
from upgrade_core.plan import HeldTime, Kind

_KEPT = 10
"""For one product: so many times as are looked at for one of its changes."""


class HeldTimeStore:
    """Rows of held times."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, times: Sequence[HeldTime], *, last: int) -> None:
        """Remember what changes were held for; of the same product, kind and versions so many, of one product ten times that."""
        products = sorted({time.product for time in times})
        async with self._database.connection() as connection:
            await connection.executemany(
                "insert into held_times (product, kind, version_from, version_to, together, seconds)"
                " values ($1, $2, $3, $4, $5, $6)",
                [
                    (time.product, time.kind.value, time.version_from, time.version_to, time.together, time.seconds)
                    for time in times
                ],
            )
            await connection.execute(
                "delete from held_times where id in (select h.id from held_times h join (select id,"
                " row_number() over (partition by product, kind, version_from, version_to order by id desc) as alike,"
                " row_number() over (partition by product order by id desc) as all_of_it"
                " from held_times where product = any($1)) n on n.id = h.id"
                " where n.alike > $2 or n.all_of_it > $3 for update of h skip locked)",
                products, last, last * _KEPT,
            )  # fmt: skip

    async def of(self, products: Iterable[str]) -> list[HeldTime]:
        """What is remembered of some products, the newest first."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                "select product, kind, version_from, version_to, together, seconds from held_times where product = any($1)"
                " order by id desc",
                sorted(set(products)),
            )
        return [HeldTime(**dict(row) | {"kind": Kind(row["kind"])}) for row in rows]
