"""Counts of rows, for metrics: the same at every gateway on the database."""

from dataclasses import dataclass

from gateway.store.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """How much waits.

    Attributes:
        outbox: Deliveries that are not made yet.
        jobs: Install jobs that have not ended.
        left: Holds that no run will open: a person decides.
        differences: What the last reconcile run left, by kind.
        reconciled: Seconds since that run; None if there was none.
    """

    outbox: int
    jobs: int
    left: int
    differences: dict[str, int]
    reconciled: float | None


class TotalsStore:
    """Counts rows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self) -> Totals:
        """Count now.

        Raises:
            DatabaseError: Postgres is away.
        """
        async with self._database.connection() as connection:
            row = await connection.fetchrow(
                "select (select count(*) from outbox) as outbox, (select count(*) from jobs where state <> 'ended') as jobs,"
                " (select count(*) from holds h join jobs j on j.id = h.job where j.state = 'ended' or h.left_behind) as left,"
                " (select extract(epoch from now() - reported)::float8 from reconcile) as reconciled"
            )
            kinds = await connection.fetch(
                "select each ->> 'kind' as kind, count(*) as number"
                " from reconcile, json_array_elements(report -> 'differences') each group by 1"
            )
        assert row is not None
        return Totals(
            outbox=row["outbox"],
            jobs=row["jobs"],
            left=row["left"],
            differences={each["kind"]: each["number"] for each in kinds},
            reconciled=row["reconciled"],
        )
