"""`/_/env`: variables of every instance that is deployed from now on."""

from aiohttp import web

from gateway.admin.http import ApiError, Call, answer
from gateway.admin.wire import EnvironmentWire


async def post(call: Call) -> web.Response:
    """Set a variable."""
    wire = call.json(EnvironmentWire)
    if not wire.name:
        raise ApiError(400, "missing name")
    if wire.value is None:
        raise ApiError(400, "missing value")
    if "=" in wire.name or not wire.name.isprintable():
        raise ApiError(400, f"name: {wire.name!r} is no name of an environment variable")
    await call.platform.registry.put_environment(wire.name, wire.value, wire.description)
    return answer(wire.model_dump(exclude_none=True), status=201, headers=call.location(wire.name))


async def get_all(call: Call) -> web.Response:
    """All variables."""
    return answer([_wire(*row) for row in await call.platform.registry.environment()])


async def get(call: Call) -> web.Response:
    """One variable."""
    for row in await call.platform.registry.environment():
        if row[0] == call.path["name"]:
            return answer(_wire(*row))
    raise ApiError(404, call.path["name"])


async def delete(call: Call) -> web.Response:
    """Forget a variable."""
    if not await call.platform.registry.remove_environment(call.path["name"]):
        raise ApiError(404, call.path["name"])
    return answer()


def _wire(name: str, value: str, description: str | None) -> dict[str, str]:
    return {"name": name, "value": value} | ({} if description is None else {"description": description})
