"""The database in which a module keeps a tenant's data, as a step of a change reaches it."""

from activities.signatures import CheckedChange
from module_data import PostgresData
from uplift_settings import read_secret
from uplift_settings.tree import DataSettings, SnapshotSettings


def database_of(request: CheckedChange, *, data: DataSettings, snapshots: SnapshotSettings) -> PostgresData | None:
    """The database of a change's module; None where nobody knows it.

    Raises:
        SecretError: Its address cannot be read.
    """
    if not request.checked.dsn:
        return None
    return PostgresData(
        dsn=read_secret(request.checked.dsn, what=f"data of {request.change.subject}"),
        tools=data.tools,
        lock_wait=snapshots.lock_wait,
    )


async def must_answer(request: CheckedChange, *, data: DataSettings, snapshots: SnapshotSettings) -> None:
    """Look whether the database is there: what a module says without it is no verdict. Nothing is known where none is.

    Raises:
        ModuleDataError: It is away.
        SecretError: Its address cannot be read.
    """
    database = database_of(request, data=data, snapshots=snapshots)
    if database is not None:
        await database.sessions(request.checked.schema)
