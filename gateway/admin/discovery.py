"""`/_/discovery/modules`: instances that the site runs itself are registered here; deployed ones are shown."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from gateway.admin.http import ApiError, Call, answer
from gateway.admin.wire import DeploymentWire, NodeWire
from gateway.store import Conflict, InstanceRow

_DEPLOYING = "is deployed by install jobs with deploy=true, not by this call; a running instance is registered with its url"


async def post(call: Call) -> web.Response:
    """Register an instance: `srvcId`, `instId`, `url`. Deploying is done by install jobs."""
    wire = call.json(DeploymentWire)
    module = module_of(call, wire)
    if wire.url is None:
        await _refuse_to_deploy(call, wire, module)
    if not wire.instId:
        raise ApiError(400, "Needs instId")
    if wire.url is None:
        raise ApiError(400, f"url: is missing; without one, module {module} {_DEPLOYING}")
    if wire.nodeId is not None or wire.descriptor is not None:
        raise ApiError(400, "nodeId, descriptor: not with url; an instance is either registered or deployed")
    check_url(wire.url)
    row = InstanceRow(id=wire.instId, module=module, url=wire.url.rstrip("/"))
    try:
        await call.platform.instances.put(row, replace=False)
    except Conflict as error:
        raise ApiError(409 if "retired" in str(error) else 400, str(error)) from error
    await call.platform.spread()
    return answer(describe(row), status=201, headers=call.location(row.module, row.id))


async def get_all(call: Call) -> web.Response:
    """All instances."""
    return answer([describe(row) for row in _all(call)])


async def get_module(call: Call) -> web.Response:
    """The instances of a module."""
    return answer([describe(row) for row in of_module(call)])


async def get(call: Call) -> web.Response:
    """One instance."""
    return answer(describe(known(call)))


async def delete_all(call: Call) -> web.Response:
    """Forget all instances; where one was deployed, none."""
    await _remove(call, _all(call))
    return answer()


async def delete_module(call: Call) -> web.Response:
    """Forget the instances of a module; where one was deployed, none."""
    await _remove(call, of_module(call))
    return answer()


async def delete(call: Call) -> web.Response:
    """Forget one instance that the site registered."""
    await _remove(call, [known(call)])
    return answer()


async def health(call: Call) -> web.Response:
    """Whether anybody answers at each instance's address."""
    return answer(await _looked_at(call, _all(call)))


async def health_of_module(call: Call) -> web.Response:
    """Whether anybody answers at the addresses of a module's instances."""
    return answer(await _looked_at(call, of_module(call)))


async def health_of(call: Call) -> web.Response:
    """Whether anybody answers at the address of one instance."""
    return answer((await _looked_at(call, [known(call)]))[0])


async def nodes(call: Call) -> web.Response:
    """The nodes that workers deploy on."""
    return answer([_node(call, node) for node in await call.platform.reconcile.living()])


async def node(call: Call) -> web.Response:
    """One node."""
    return answer(_node(call, await _known_node(call, call.path["node"])))


async def put_node(call: Call) -> web.Response:
    """A node's description, which is what its worker's settings say: nothing of it changes here."""
    wire, asked = call.json(NodeWire), call.path["node"]
    described = _node(call, await _known_node(call, asked))
    if wire.nodeId != described["nodeId"]:
        raise ApiError(400, f"Can not change nodeId for node {asked}")
    if wire.url != described["url"]:
        raise ApiError(400, f"Can not change the URL for node {asked}")
    if wire.nodeName not in (None, described["nodeName"]):
        raise ApiError(400, f"Can not change nodeName for node {asked}: it is worker.node of the settings there")
    return answer(described)


def module_of(call: Call, wire: DeploymentWire) -> str:
    """The registered module that a deployment descriptor names.

    Raises:
        ApiError: 400, 403, or 404 with its id.
    """
    if wire.srvcId is None:
        raise ApiError(400, "Needs srvcId")
    if not wire.srvcId:
        raise ApiError(400, "Empty srvcId not allowed")
    call.check_product(wire.srvcId)
    if wire.srvcId not in call.platform.table.modules:
        raise ApiError(404, wire.srvcId)
    return wire.srvcId


def of_module(call: Call) -> list[InstanceRow]:
    """The instances of the module of the path.

    Raises:
        ApiError: 404 with its id, if there is none.
    """
    rows = call.platform.table.instances.get(call.path["module"], [])
    if not rows:
        raise ApiError(404, call.path["module"])
    return list(rows)


def known(call: Call) -> InstanceRow:
    """The instance of the path.

    Raises:
        ApiError: 404 with both ids.
    """
    row = call.platform.table.instance(call.path["instance"])
    if row is None or row.module != call.path["module"]:
        raise ApiError(404, f"{call.path['module']}/{call.path['instance']}")
    return row


def describe(row: InstanceRow) -> dict[str, Any]:
    """An instance on the wire: Okapi's deployment descriptor."""
    members = {"instId": row.id, "srvcId": row.module, "nodeId": row.node, "url": row.url}
    if row.descriptor:
        members["descriptor"] = json.loads(row.descriptor)
    return {name: value for name, value in members.items() if value is not None}


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


def refuse_deployed(rows: Sequence[InstanceRow]) -> None:
    """Leave alone what a run deployed.

    Raises:
        ApiError: 409.
    """
    for row in rows:
        if row.node is not None:
            raise ApiError(409, f"instance {row.id} was deployed by a run; it is retired when no tenant needs {row.module}")


async def _remove(call: Call, rows: Sequence[InstanceRow]) -> None:
    """Forget instances, all or none."""
    refuse_deployed(rows)
    try:
        await call.platform.instances.forget([(row.id, row.module) for row in rows])
    except Conflict as error:
        raise ApiError(409, str(error)) from error
    await call.platform.spread()


async def _refuse_to_deploy(call: Call, wire: DeploymentWire, module: str) -> None:
    """What is wrong with a descriptor that asks for a deployment, in Okapi's words, else that nobody deploys by this call.

    Raises:
        ApiError: 400, or 404 if there is no such node.
    """
    if wire.nodeId is None:
        if wire.descriptor is not None:
            raise ApiError(400, "missing nodeId")
        return
    if wire.descriptor is None and call.platform.table.modules[module].launch is None:
        raise ApiError(400, f"Module {module} has no launchDescriptor")
    await _known_node(call, wire.nodeId)
    raise ApiError(400, f"Module {module} {_DEPLOYING}")


async def _known_node(call: Call, asked: str) -> str:
    """A node by its name or the URL that it is shown with.

    Raises:
        ApiError: 404.
    """
    for name in await call.platform.reconcile.living():
        if asked in (name, call.platform.url):
            return name
    raise ApiError(404, f"Node {asked} not found")


def _node(call: Call, name: str) -> dict[str, str]:
    return {"nodeId": name, "url": call.platform.url, "nodeName": name}


async def _looked_at(call: Call, rows: Sequence[InstanceRow]) -> list[dict[str, Any]]:
    faults = await asyncio.gather(*(call.services.health.fault_at(row.url) for row in rows))
    return [
        {
            "instId": row.id,
            "srvcId": row.module,
            "healthMessage": f"Fail: {fault}" if fault else "OK",
            "healthStatus": not fault,
        }
        for row, fault in zip(rows, faults, strict=True)
    ]


def _all(call: Call) -> list[InstanceRow]:
    instances = call.platform.table.instances
    return [row for module in sorted(instances) for row in instances[module]]
