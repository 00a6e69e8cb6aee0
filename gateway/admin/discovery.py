"""`/_/discovery/modules`: instances that the site runs itself are registered here; deployed ones are shown."""

import json
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from gateway.admin.http import ApiError, Call, answer
from gateway.admin.wire import DeploymentWire
from gateway.store import Conflict, InstanceRow


async def post(call: Call) -> web.Response:
    """Register an instance: `srvcId`, `instId`, `url`. Deploying is done by install jobs."""
    wire = call.json(DeploymentWire)
    table = call.platform.table
    if wire.srvcId is None:
        raise ApiError(400, "Needs srvcId")
    if not wire.srvcId:
        raise ApiError(400, "Empty srvcId not allowed")
    call.check_product(wire.srvcId)
    if wire.srvcId not in table.modules:
        raise ApiError(404, wire.srvcId)
    if wire.url is None:
        raise ApiError(400, "url: is missing; instances are deployed by install jobs, here running ones are registered")
    if not wire.instId:
        raise ApiError(400, "Needs instId")
    if wire.nodeId is not None or wire.descriptor is not None:
        raise ApiError(400, "nodeId, descriptor: not with url; an instance is either registered or deployed")
    check_url(wire.url)
    row = InstanceRow(id=wire.instId, module=wire.srvcId, url=wire.url.rstrip("/"))
    try:
        await call.platform.instances.put(row, replace=False)
    except Conflict as error:
        raise ApiError(409 if "retired" in str(error) else 400, str(error)) from error
    await call.platform.spread()
    return answer(_wire(row), status=201, headers=call.location(row.module, row.id))


async def get_all(call: Call) -> web.Response:
    """All instances."""
    return answer(
        [_wire(row) for module in sorted(call.platform.table.instances) for row in call.platform.table.instances[module]]
    )


async def get_module(call: Call) -> web.Response:
    """The instances of a module."""
    rows = call.platform.table.instances.get(call.path["module"], [])
    if not rows:
        raise ApiError(404, call.path["module"])
    return answer([_wire(row) for row in rows])


async def get(call: Call) -> web.Response:
    """One instance."""
    return answer(_wire(_known(call)))


async def delete_module(call: Call) -> web.Response:
    """Forget the instances of a module that the site registered."""
    rows = call.platform.table.instances.get(call.path["module"], [])
    if not rows:
        raise ApiError(404, call.path["module"])
    for row in list(rows):
        await _remove(call, row)
    return answer()


async def delete(call: Call) -> web.Response:
    """Forget one instance that the site registered."""
    await _remove(call, _known(call))
    return answer()


def check_url(url: str) -> None:
    """Refuse what cannot be proxied to.

    Raises:
        ApiError: 400.
    """
    try:
        parts = urlsplit(url)
        port_fits = parts.port is None or parts.port > 0
    except ValueError:
        port_fits, parts = False, urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_fits or parts.query or parts.fragment:
        raise ApiError(400, f"url: {url!r} is no http:// or https:// address")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ApiError(400, f"url: {url!r} has characters that no address has")


async def _remove(call: Call, row: InstanceRow) -> None:
    if row.node is not None:
        raise ApiError(409, f"instance {row.id} was deployed by a run; it is retired when no tenant needs {row.module}")
    for job in await call.platform.jobs.open():
        if any(line["id"] == row.module for line in job.modules):
            raise ApiError(409, f"instance {row.id} is used by job {job.id} of tenant {job.tenant}")
    await call.platform.instances.remove(row.id, row.module)
    await call.platform.spread()


def _known(call: Call) -> InstanceRow:
    row = call.platform.table.instance(call.path["instance"])
    if row is None or row.module != call.path["module"]:
        raise ApiError(404, f"{call.path['module']}/{call.path['instance']}")
    return row


def _wire(row: InstanceRow) -> dict[str, Any]:
    members = {"instId": row.id, "srvcId": row.module, "nodeId": row.node, "url": row.url}
    if row.descriptor:
        members["descriptor"] = json.loads(row.descriptor)
    return {name: value for name, value in members.items() if value is not None}
