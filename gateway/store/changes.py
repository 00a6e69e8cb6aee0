"""What changed since an epoch, read in one statement: so it is one consistent picture, whoever is writing meanwhile."""

from dataclasses import dataclass, replace
from typing import Any

from gateway.store.database import Database

_KEPT = 20_000
_ROWS = """
    case c.kind
        when 'module' then (select to_jsonb(t) from modules t where t.id = c.a)
        when 'tenant' then (select to_jsonb(t) from tenants t where t.id = c.a)
        when 'binding' then (select to_jsonb(t) from bindings t where t.tenant = c.a and t.product = c.b)
        when 'instance' then (select to_jsonb(t) from instances t where t.id = c.a)
        when 'retirement' then (select to_jsonb(t) from retirements t where t.module = c.a)
        when 'hold' then (select to_jsonb(t) from holds t where t.tenant = c.a and t.product = c.b)
        when 'overlay' then (select to_jsonb(t) from overlays t where t.token = c.a)
    end as row
"""
_NODES = (
    "(select coalesce(json_agg(json_build_object('generation', generation, 'applied', applied)), '[]') from nodes"
    " where until > now())"
)
_STAMPS = (
    "(select extract(epoch from at)::text from changes where epoch = r.epoch) as stamp,"
    " (select extract(epoch from at)::text from changes where epoch = $1) as ours"
)
_EVERYTHING = """
    select 'tenant' as kind, id as a, '' as b from tenants
    union all select 'module', id, '' from modules
    union all select 'binding', tenant, product from bindings
    union all select 'retirement', module, '' from retirements
    union all select 'instance', id, '' from (select id from instances order by registered, id) i
    union all select 'overlay', token, '' from overlays
    union all select 'hold', tenant, product from holds
"""


@dataclass(frozen=True, slots=True)
class Changed:
    """One row that is not as it was.

    Attributes:
        kind: `module`, `tenant`, `binding`, `instance`, `retirement`, `hold` or `overlay`.
        a: First part of its key.
        b: Second part of its key, or empty.
        row: The row as it is now; None if it is gone.
    """

    kind: str
    a: str
    b: str
    row: dict[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """The platform's rows at one epoch.

    Attributes:
        epoch: The number of the last change that it contains.
        whole: Whether it is everything, or only what changed.
        changes: The rows.
        applied: The epochs that live replicas have applied, by generation.
        key: The key that signs request ids.
        stamp: When the last change was made, in the database's own words: it names the change beside its number. None: it is not
            kept any more, or there was none.
        restored: Whether the database is not the one that the asker had followed, but an earlier state of it.
    """

    epoch: int
    whole: bool
    changes: tuple[Changed, ...]
    applied: dict[str, int]
    key: bytes
    stamp: str | None = None
    restored: bool = False


class ChangeStore:
    """The change log."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def since(self, epoch: int, stamp: str | None = None) -> Picture:
        """What changed after an epoch; everything if the log does not reach back that far or the epoch is unknown.

        Numbers grow again after a restore, so they prove nothing alone: the change of that number must be the very one.

        Args:
            epoch: The last change that the asker has followed.
            stamp: Its stamp.
        """
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                "with c as (select distinct kind, a, b from changes where epoch > $1)"  # noqa: S608
                f" select r.epoch, r.kept_from, r.key, {_STAMPS}, {_NODES} as nodes, c.kind, c.a, c.b, {_ROWS}"
                " from routing r left join c on true",
                epoch,
            )
        first = rows[0]
        if _is_another(first, epoch, stamp) or not first["kept_from"] <= epoch <= first["epoch"]:
            return await self.everything(epoch, stamp)
        return _picture(rows, whole=False)

    async def everything(self, epoch: int = -1, stamp: str | None = None) -> Picture:
        """All rows that routing depends on.

        Args:
            epoch: The last change that the asker has followed; -1: none.
            stamp: Its stamp.
        """
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                f"with c as ({_EVERYTHING}) select r.epoch, r.kept_from, r.key, {_STAMPS}, {_NODES} as nodes,"  # noqa: S608
                f" c.kind, c.a, c.b, {_ROWS} from routing r left join c on true",
                epoch,
            )
        return replace(_picture(rows, whole=True), restored=_is_another(rows[0], epoch, stamp))

    async def forget_old(self) -> None:
        """Drop what every replica that is not far behind has seen long ago."""
        async with self._database.transaction() as connection:
            await connection.execute(
                "with r as (update routing set kept_from = greatest(kept_from, epoch - $1) where epoch - $1 > kept_from + 1000"
                " returning kept_from) delete from changes using r where changes.epoch <= r.kept_from",
                _KEPT,
            )


def _is_another(first: Any, epoch: int, stamp: str | None) -> bool:
    """Whether the change that was followed last is not in the database: it is an earlier state of the one that was followed."""
    return bool(epoch > first["epoch"] or (stamp is not None and epoch > first["kept_from"] and first["ours"] != stamp))


def _picture(rows: list[Any], *, whole: bool) -> Picture:
    first = rows[0]
    return Picture(
        epoch=first["epoch"],
        whole=whole,
        changes=tuple(Changed(row["kind"], row["a"], row["b"], row["row"]) for row in rows if row["kind"] is not None),
        applied={node["generation"]: node["applied"] for node in first["nodes"]},
        key=first["key"],
        stamp=first["stamp"],
    )
