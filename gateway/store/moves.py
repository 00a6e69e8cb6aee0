"""Switches: what a RESUME of a run does to bindings and data versions, within its transaction."""

from dataclasses import dataclass

from gateway.store.database import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What a switch or a RESUME does to one product of a tenant.

    Attributes:
        module: The module id to bind; None to unbind; ignored unless `bind`.
        bind: Whether the binding changes.
        purged: Whether its data is gone, so that its data version is forgotten.
        subject: The line of the job that it is about.
    """

    product: str
    subject: str
    bind: bool = False
    module: str | None = None
    purged: bool = False


async def make_move(connection: Connection, job: str, tenant: str, move: Move) -> None:
    """Carry out what happens to one product of a tenant."""
    if move.purged:
        await set_data_version(connection, tenant, move.product, None)
    if not move.bind:
        return
    if move.module is None:
        await connection.execute("delete from bindings where tenant = $1 and product = $2", tenant, move.product)
        await connection.execute(  # aliases of what the tenant does not have any more, and what it was asked through as it went
            "delete from overlays where tenant = $1 and product = $2 and (state = 'alias' or job = $3)", tenant, move.product, job
        )
    else:
        await connection.execute(
            "insert into bindings (tenant, product, module) values ($1, $2, $3)"
            " on conflict (tenant, product) do update set module = excluded.module",
            tenant, move.product, move.module,
        )  # fmt: skip
    await connection.execute("update overlays set state = 'alias' where job = $1 and product = $2", job, move.product)


async def set_data_version(connection: Connection, tenant: str, product: str, module: str | None) -> None:
    """Say what version a tenant's data is at; None: there is none."""
    if module is None:
        await connection.execute("delete from data_versions where tenant = $1 and product = $2", tenant, product)
    else:
        await connection.execute(
            "insert into data_versions (tenant, product, module) values ($1, $2, $3)"
            " on conflict (tenant, product) do update set module = excluded.module",
            tenant, product, module,
        )  # fmt: skip
