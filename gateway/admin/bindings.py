"""`…/tenants/{t}/modules`: the versions a tenant has enabled (requirement B5). Changes are jobs, answered when done."""

from dataclasses import replace
from urllib.parse import quote

from aiohttp import web

from gateway.admin.http import ApiError, Call, answer, json_text
from gateway.admin.install import parse_options
from gateway.admin.registry import brief
from gateway.admin.wire import ModuleIdWire
from gateway.jobs import JobRequest, describe_failure
from upgrade_core.errors import UpliftError
from upgrade_core.ids import product_of, split_module_id


async def get_all(call: Call) -> web.Response:
    """The enabled modules: ids, or whole descriptors with `full=true` (Stripes reads those)."""
    tenant, table = call.known_tenant(), call.platform.table
    enabled = sorted(table.enabled(tenant), key=lambda module: table.modules[module].module_id)
    if (wanted := call.query.get("filter")) is not None:
        enabled = [module for module in enabled if module == wanted or product_of(module) == wanted]
    if call.flag("full"):
        return json_text("[" + ",\n".join(table.texts[module] for module in enabled) + "]")
    return answer([{"id": brief(table.texts[module])["id"]} for module in enabled])


async def get(call: Call) -> web.Response:
    """One binding."""
    tenant, module = call.known_tenant(), call.path["module"]
    if module not in call.platform.table.enabled(tenant):
        raise ApiError(404, module)
    return answer({"id": module})


async def post(call: Call) -> web.Response:
    """Enable a module."""
    tenant, module = call.known_tenant(), _known(call, call.json(ModuleIdWire).id)
    if module in call.platform.table.enabled(tenant):
        raise ApiError(400, f"Module {module} already provided")
    await _run(call, tenant, ((module, "enable"),))
    return answer({"id": module}, status=201, headers=call.location(module))


async def post_upgrade(call: Call) -> web.Response:
    """Replace an enabled module by another version of it."""
    tenant, old, new = call.known_tenant(), call.path["module"], _known(call, call.json(ModuleIdWire).id)
    if old not in call.platform.table.enabled(tenant):
        raise ApiError(404, old)
    if product_of(old) != product_of(new):
        raise ApiError(400, f"{new} is no version of {product_of(old)}; enable it, then disable {old}")
    if old == new:
        raise ApiError(400, f"Module {new} already provided")
    await _run(call, tenant, ((new, "enable"),))
    location = f"/_/proxy/tenants/{quote(tenant, safe='')}/modules/{quote(new, safe='')}"
    return answer({"id": new}, status=201, headers={"Location": location})


async def delete(call: Call) -> web.Response:
    """Disable a module; its data stays unless `purge=true` says otherwise (requirement B4)."""
    tenant, module = call.known_tenant(), call.path["module"]
    if module not in call.platform.table.enabled(tenant):
        raise ApiError(404, module)
    await _run(call, tenant, ((module, "disable"),))
    return answer()


async def delete_all(call: Call) -> web.Response:
    """Disable all modules of a tenant."""
    tenant = call.known_tenant()
    enabled = call.platform.table.enabled(tenant)
    if enabled:
        await _run(call, tenant, tuple((module, "disable") for module in enabled))
    return answer()


async def _run(call: Call, tenant: str, wanted: tuple[tuple[str, str], ...]) -> None:
    request: JobRequest = replace(parse_options(call, wanted=wanted), mend=False)
    if request.purge and any(action == "enable" for _, action in wanted):
        raise ApiError(400, "purge destroys data and goes with disabling only")
    try:
        decisions, _ = await call.services.jobs.plan(tenant, request)
    except UpliftError as error:
        raise ApiError(400, str(error)) from error
    row = await call.services.jobs.wait_ended(await call.services.jobs.create(tenant, request, decisions))
    if row is not None and row.status == "error":
        raise ApiError(*describe_failure(row))


def _known(call: Call, module: str) -> str:
    """A full id that is registered; a product alone means its newest version."""
    table = call.platform.table
    try:
        product, version = split_module_id(module)
    except UpliftError as error:
        raise ApiError(400, str(error)) from error
    if version is None:
        found = [known.module_id for known in table.modules.values() if known.product == product]
        if found:
            return max(found).text
    if module not in table.modules:
        raise ApiError(404, module)
    return module
