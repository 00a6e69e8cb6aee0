"""Copies of a tenant's data, taken while it is held (requirement E5)."""

from pathlib import Path

from temporalio import activity

from activities.databases import database_of
from activities.signatures import CheckedChange, Copied, SnapshotSteps
from activities.translate import translated, until_answered
from gateway_client import GatewayClient, Snapshot
from upgrade_core.ids import copy_id
from uplift_settings.tree import DataSettings, SnapshotSettings


class SnapshotActivities(SnapshotSteps):
    """Implementation.

    Args:
        gateway: Where copies are recorded.
        folder: Where they are kept.
        node: This node, recorded with them.
    """

    def __init__(
        self, *, gateway: GatewayClient, data: DataSettings, snapshots: SnapshotSettings, folder: Path, node: str
    ) -> None:
        self._gateway = gateway
        self._data = data
        self._snapshots = snapshots
        self._folder = folder
        self._node = node

    @activity.defn(name="snapshots.take")
    async def take(self, request: CheckedChange) -> Copied:
        """Copy the data that nobody writes to now, and record the copy before anything may touch the data.

        It is on record before it is begun, too, so that no file is left that nobody knows when this is cut off.
        """
        checked = request.checked
        with translated():
            data = database_of(request, data=self._data, snapshots=self._snapshots)
            assert data is not None, "check has found out where it is"
            name = copy_id(request.job, request.change.key)
            folder = self._folder / request.tenant
            begun = Snapshot(
                id=name,
                job=request.job,
                tenant=request.tenant,
                product=request.change.product,
                module=request.change.version_from,
                node=self._node,
                dsn=checked.dsn,
                schema_name=checked.schema,
                path=str(folder / f"{name}.dump"),
            )
            await until_answered(lambda: self._gateway.add_snapshot(begun))
            copy = await data.copy(checked.schema, folder=folder, name=name)
            record = begun.model_copy(
                update={"path": copy.path, "size": copy.size, "digest": copy.digest, "existed": copy.existed}
            )
            # A gateway that is away is no reason to copy anew, nor to give up after some copies.
            await until_answered(lambda: self._gateway.add_snapshot(record))
        return Copied(bytes=copy.size)
