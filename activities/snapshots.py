"""Copies of a tenant's data, taken while it is held (requirement E5)."""

from pathlib import Path

from temporalio import activity

from activities.signatures import CheckedChange, Copied, SnapshotSteps
from activities.translate import beating, translated, until_answered
from gateway_client import GatewayClient, Snapshot
from module_data import PostgresData
from uplift_settings import read_secret
from uplift_settings.tree import DataSettings, SnapshotSettings


def snapshot_id(step: CheckedChange) -> str:
    """Id of the one copy of a change."""
    return f"{step.job}-{step.change.product}"


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
        """Copy the data that nobody writes to now, and record the copy before anything may touch the data."""
        checked = request.checked
        with translated():
            async with beating():
                data = PostgresData(
                    dsn=read_secret(checked.dsn, what=f"data of {request.change.subject}"),
                    tools=self._data.tools,
                    lock_wait=self._snapshots.lock_wait,
                )
                copy = await data.copy(checked.schema, folder=self._folder / request.tenant, name=snapshot_id(request))
                record = Snapshot(
                    id=snapshot_id(request),
                    job=request.job,
                    tenant=request.tenant,
                    product=request.change.product,
                    module=request.change.version_from,
                    node=self._node,
                    dsn=checked.dsn,
                    schema_name=copy.schema,
                    path=copy.path,
                    size=copy.size,
                    digest=copy.digest,
                    existed=copy.existed,
                )
                # A gateway that is away is no reason to copy anew, nor to give up after some copies.
                await until_answered(lambda: self._gateway.add_snapshot(record))
        return Copied(bytes=copy.size)
