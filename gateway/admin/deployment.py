"""`/_/deployment/modules`: the instances that were deployed. Which node is asked makes no difference: all gateways know all."""

from aiohttp import web

from gateway.admin.discovery import deploy, describe, module_of, remove
from gateway.admin.http import ApiError, Call, answer
from gateway.admin.wire import DeploymentWire
from gateway.store import InstanceRow


async def post(call: Call) -> web.Response:
    """Deploy a version, on the gateway's node or the only one that there is."""
    wire = call.json(DeploymentWire)
    module = module_of(call, wire)
    if wire.descriptor is None:
        raise ApiError(400, "No LaunchDescriptor")
    if wire.instId and call.platform.table.instance(wire.instId) is not None:
        raise ApiError(400, f"already deployed: {wire.instId}")
    return await deploy(call, wire, module, await _node(call, module))


async def get_all(call: Call) -> web.Response:
    """The deployed instances."""
    return answer([describe(row) for row in _deployed(call)])


async def get(call: Call) -> web.Response:
    """One deployed instance."""
    return answer(describe(_known(call)))


async def delete(call: Call) -> web.Response:
    """Take one away, unless it is needed."""
    await remove(call, [_known(call)])
    return answer()


async def _node(call: Call, module: str) -> str:
    """Where this gateway deploys.

    Raises:
        ApiError: 400: nobody says which of several nodes is meant, or no worker runs.
    """
    nodes = await call.platform.reconcile.living()
    own = call.platform.membership.name
    if own in nodes:
        return own
    if len(nodes) == 1:
        return nodes[0]
    if nodes:
        raise ApiError(400, f"nodeId: which of {', '.join(nodes)}? Say so at /_/discovery/modules")
    raise ApiError(400, f"Module {module} cannot be deployed: no worker runs that could; start one with uplift worker")


def _known(call: Call) -> InstanceRow:
    for row in _deployed(call):
        if row.id == call.path["instance"]:
            return row
    raise ApiError(404, f"not found: {call.path['instance']}")


def _deployed(call: Call) -> list[InstanceRow]:
    instances = call.platform.table.instances
    return [row for module in sorted(instances) for row in instances[module] if row.node is not None]
