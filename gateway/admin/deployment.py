"""`/_/deployment/modules`: the instances that were deployed. Which node is asked makes no difference: all gateways know all."""

from aiohttp import web

from gateway.admin.discovery import describe, module_of, refuse_deployed
from gateway.admin.http import ApiError, Call, answer
from gateway.admin.wire import DeploymentWire
from gateway.store import InstanceRow


async def post(call: Call) -> web.Response:
    """Nothing is deployed here: install jobs do that. What is wrong with the descriptor is said first."""
    wire = call.json(DeploymentWire)
    module = module_of(call, wire)
    if wire.descriptor is None:
        raise ApiError(400, "No LaunchDescriptor")
    if wire.instId and call.platform.table.instance(wire.instId) is not None:
        raise ApiError(400, f"already deployed: {wire.instId}")
    raise ApiError(400, f"Module {module} is deployed by install jobs with deploy=true, not by this call")


async def get_all(call: Call) -> web.Response:
    """The deployed instances."""
    return answer([describe(row) for row in _deployed(call)])


async def get(call: Call) -> web.Response:
    """One deployed instance."""
    return answer(describe(_known(call)))


async def delete(call: Call) -> web.Response:
    """Refused: an instance that a run deployed retires when nothing needs it."""
    refuse_deployed([_known(call)])
    return answer()


def _known(call: Call) -> InstanceRow:
    for row in _deployed(call):
        if row.id == call.path["instance"]:
            return row
    raise ApiError(404, f"not found: {call.path['instance']}")


def _deployed(call: Call) -> list[InstanceRow]:
    instances = call.platform.table.instances
    return [row for module in sorted(instances) for row in instances[module] if row.node is not None]
