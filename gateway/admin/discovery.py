"""`/_/discovery/modules`: instances that the site runs itself are registered here; others are deployed, shown, taken away."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from gateway.admin.http import ApiError, Call, answer
from gateway.admin.wire import DeploymentWire, NodeWire
from gateway.deploying import NotDeployed
from gateway.pipelines import TemporalAway
from gateway.store import Conflict, InstanceRow
from upgrade_core.addresses import BadAddress, parse_address
from upgrade_core.descriptors import parse_launch
from upgrade_core.ids import instance_id


async def post(call: Call) -> web.Response:
    """Register an instance (`srvcId`, `instId`, `url`), or deploy one (`srvcId`, `nodeId`) and wait until it answers."""
    wire = call.json(DeploymentWire)
    module = module_of(call, wire)
    if wire.url is None and wire.nodeId is not None:
        return await deploy(call, wire, module, await _known_node(call, wire.nodeId))
    if wire.url is None and wire.descriptor is not None:
        raise ApiError(400, "missing nodeId")
    if not wire.instId:
        raise ApiError(400, "Needs instId")
    if wire.url is None:
        raise ApiError(400, "url: is missing, where the instance is; or nodeId, where one is to be deployed")
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
    """Forget all instances, and take away those that were deployed; none, where one of these is needed."""
    await remove(call, _all(call))
    return answer()


async def delete_module(call: Call) -> web.Response:
    """Forget the instances of a module, and take away those that were deployed; none, where they are needed."""
    await remove(call, of_module(call))
    return answer()


async def delete(call: Call) -> web.Response:
    """Forget one instance; one that was deployed is taken away, unless it is needed."""
    await remove(call, [known(call)])
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
        parse_address(url)
    except BadAddress as error:
        raise ApiError(400, f"url: {error}") from error


async def deploy(call: Call, wire: DeploymentWire, module: str, node: str) -> web.Response:
    """Deploy a version on a node, and answer when it runs.

    Raises:
        ApiError: 400 with the reason, in Okapi's form; 409 while the version is on its way out or runs elsewhere.
    """
    launch = call.platform.table.modules[module].launch
    if launch is None:
        raise ApiError(400, f"Module {module} has no launchDescriptor")
    if wire.descriptor is not None and parse_launch(wire.descriptor.model_dump(exclude_none=True)) != launch:
        raise ApiError(400, f"descriptor: is not the launchDescriptor that module {module} is registered with; leave it out")
    if not launch.is_process:
        raise ApiError(
            400, f"{call.platform.url}/deploy Module {module}: only processes are deployed here (exec or cmdlineStart)"
        )
    if wire.instId not in (None, instance_id(module, node)):
        raise ApiError(400, f"instId: an instance that is deployed here is called {instance_id(module, node)}; leave it out")
    try:
        row = await call.services.deploying.deploy(module, node)
    except NotDeployed as error:
        raise ApiError(400, f"{call.platform.url}/deploy {error}") from error
    except Conflict as error:
        raise ApiError(409, str(error)) from error
    except TemporalAway as error:
        raise ApiError(503, f"{error}; module {module} is deployed when it is back") from error
    return answer(describe(row), status=201, headers=call.location(row.module, row.id))


async def remove(call: Call, rows: Sequence[InstanceRow]) -> None:
    """Forget instances that the site registered, take away those that were deployed.

    Raises:
        ApiError: 409: a tenant or a job needs one of those that were deployed; then nothing is changed.
    """
    deployed = [row for row in rows if row.node is not None]
    for row in deployed:
        _refuse_needed(row, await call.services.deploying.needed_by(row.module))
    try:
        for row in deployed:
            _refuse_needed(row, await call.services.deploying.take_away(row.module))
        await call.platform.instances.forget([(row.id, row.module) for row in rows if row.node is None])
    except TemporalAway as error:
        raise ApiError(503, str(error)) from error
    except Conflict as error:
        raise ApiError(409, str(error)) from error
    await call.platform.spread()


def _refuse_needed(row: InstanceRow, needed_by: Sequence[str]) -> None:
    if needed_by:
        raise ApiError(
            409, f"instance {row.id} is needed by {', '.join(needed_by)}; it is retired when nothing needs {row.module}"
        )


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
