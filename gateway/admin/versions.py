"""`/_/versions`: module versions, their deployed instances, and their retirement."""

import asyncio
import contextlib

from aiohttp import web

from gateway.admin.discovery import check_url
from gateway.admin.http import ApiError, Call, answer
from gateway.admin.lifecycle import MAX_WAIT
from gateway.credentials import INSTANCE_PREFIX, digest, new_token
from gateway.store import Conflict, InstanceRow
from gateway_wire import Instance, Version

_QUIET_WAIT = 5.0
"""Seconds that one call waits for the last requests of a version; the caller asks again."""


async def get_all(call: Call) -> web.Response:
    """The versions that have instances or are being retired."""
    table = call.platform.table
    modules = sorted(set(table.instances) | table.retiring)
    # One question for all of them: every worker looks here all the time, and a platform has hundreds of versions.
    needed = await call.platform.instances.needed_by(modules)
    return answer([_described(call, module, needed[module]).model_dump(mode="json", by_alias=True) for module in modules])


async def get(call: Call) -> web.Response:
    """One version, after waiting until it has an instance, or with `gone=true` none that was deployed."""
    module, gone = _known(call), bool(call.flag("gone"))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(call.seconds("wait", most=MAX_WAIT)):
            while _has_instance(call, module, deployed=gone) == gone:
                await call.platform.instances_changed.wait()
    return answer(await describe(call, module))


async def put_instance(call: Call) -> web.Response:
    """A deployer's instance, or its new process."""
    module, wire = _known(call), call.json(Instance)
    if (wire.module, wire.id) != (module, call.path["instance"]):
        raise ApiError(400, "module, id: must be those of the path")
    if wire.node is None:
        raise ApiError(400, "node: is missing; instances without a node are registered at /_/discovery/modules")
    check_url(wire.url)
    row = InstanceRow(id=wire.id, module=module, url=wire.url.rstrip("/"), node=wire.node, generation=wire.generation)
    try:
        await call.platform.instances.put(row, replace=True)
    except Conflict as error:
        raise ApiError(409, f"id: {error}; it is an instance of another module") from error
    await call.platform.spread()
    return answer()


async def delete_instance(call: Call) -> web.Response:
    """A deployed instance is gone."""
    module, instance = call.path["module"], call.path["instance"]
    await call.platform.instances.remove(instance, module)
    await call.services.secrets.forget(module, instance)
    await call.platform.spread()
    return answer()


async def issue_secret(call: Call) -> web.Response:
    """A new secret for an instance that is about to be started; the former is not known any more."""
    module, instance = _known(call), call.path["instance"]
    known = call.platform.table.instance(instance)
    if known is not None and known.module != module:
        raise ApiError(409, f"instance {instance} is one of {known.module}")
    token = new_token(INSTANCE_PREFIX)
    await call.services.secrets.put(instance=instance, module=module, digest=digest(token))
    return answer({"token": token}, status=201, headers={"Cache-Control": "no-store"})


async def retire(call: Call) -> web.Response:
    """Mark a version as on its way out, if no binding, claim or request needs it; `retiring` when no replica is at work on it."""
    module, table = _known(call), call.platform.table
    if table.in_flight(module):
        # also where an earlier call marked it: a request that had just begun then is at work
        return answer((await describe(call, module)).model_copy(update={"retiring": False}))
    needed = await call.platform.instances.retire(module)
    await call.platform.catch_up()
    quiet = not needed and await call.platform.wait_quiet(f"module:{module}", _QUIET_WAIT)
    version = await describe(call, module)
    return answer(version.model_copy(update={"retiring": quiet}))


async def retired(call: Call) -> web.Response:
    """It is gone and may be claimed again."""
    module = _known(call)
    gone = await call.platform.instances.retired(module)
    await call.platform.spread()
    if gone or not _has_instance(call, module, deployed=True):
        await call.services.secrets.forget(module)
    return answer()


async def describe(call: Call, module: str) -> Version:
    """A version on the wire."""
    return _described(call, module, (await call.platform.instances.needed_by([module]))[module])


def _described(call: Call, module: str, needed_by: tuple[str, ...]) -> Version:
    table = call.platform.table
    return Version(
        module=module,
        instances=tuple(
            Instance(id=row.id, module=row.module, url=row.url, node=row.node, generation=row.generation)
            for row in table.instances.get(module, [])
        ),
        needed_by=needed_by,
        in_flight=table.in_flight(module),
        retiring=module in table.retiring,
    )


def _has_instance(call: Call, module: str, *, deployed: bool) -> bool:
    rows = call.platform.table.instances.get(module, [])
    return any(row.node is not None for row in rows) if deployed else bool(rows)


def _known(call: Call) -> str:
    module = call.path["module"]
    if module not in call.platform.table.modules:
        raise ApiError(404, module)
    return module
