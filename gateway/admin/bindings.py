"""`…/tenants/{t}/modules`: the versions a tenant has enabled (requirement B5). Changes are jobs, answered when done."""

from dataclasses import replace
from urllib.parse import quote

from aiohttp import web

from gateway.admin.filters import select
from gateway.admin.http import ApiError, Call, answer, json_text
from gateway.admin.install import BINDING_OPTIONS, check_kept, parse_options
from gateway.admin.wire import TenantModuleWire
from gateway.builtin import BUILT_IN
from gateway.jobs import JobRequest, describe_failure
from gateway.listing import Entry
from gateway.okapi_json import pretty, pretty_list
from gateway.store import Conflict
from upgrade_core.errors import UpliftError
from upgrade_core.ids import SUPERTENANT, product_of, split_module_id
from upgrade_core.resolution import visible


async def get_all(call: Call) -> web.Response:
    """The enabled modules: ids, or whole descriptors with `full=true` (Stripes reads those); filters as for all modules."""
    full, enabled = call.flag("full"), entries_of(call, call.known_tenant())
    found = select(call, sorted(enabled, key=lambda entry: entry.key))
    return json_text(pretty_list([entry.text if full else pretty({"id": entry.module.id}) for entry in found]))


async def get(call: Call) -> web.Response:
    """One binding."""
    tenant, module = call.known_tenant(), call.path["module"]
    if module not in call.platform.table.enabled(tenant):
        raise ApiError(404, module)
    return answer({"id": module})


async def post(call: Call) -> web.Response:
    """Enable a module."""
    tenant, module = call.known_tenant(), _asked_for(call)
    if module in call.platform.table.enabled(tenant):
        raise ApiError(400, f"Module {module} already provided")
    await _run(call, tenant, ((module, "enable"),))
    return answer({"id": module}, status=201, headers=call.location(module))


async def post_upgrade(call: Call) -> web.Response:
    """Replace an enabled module by another version of it."""
    tenant, old, new = call.known_tenant(), call.path["module"], _asked_for(call)
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
    """Disable a module; its data stays unless `purge=true` says otherwise (requirement B4). Not enabled: that is so already."""
    tenant, module = call.known_tenant(), call.path["module"]
    if module in call.platform.table.enabled(tenant) or (call.flag("purge") and await _left_data(call, tenant, module)):
        await _run(call, tenant, ((module, "disable"),))
    elif module not in call.platform.table.modules:
        raise ApiError(404, module)
    return answer()


async def delete_all(call: Call) -> web.Response:
    """Disable all modules of a tenant; the supertenant keeps the built-in one, without which nobody could call here."""
    tenant = call.known_tenant()
    kept = BUILT_IN if tenant == SUPERTENANT else None
    enabled = [module for product, module in sorted(call.platform.table.bindings.get(tenant, {}).items()) if product != kept]
    if enabled:
        await _run(call, tenant, tuple((module, "disable") for module in enabled))
    return answer()


async def _run(call: Call, tenant: str, wanted: tuple[tuple[str, str], ...]) -> None:
    request: JobRequest = replace(parse_options(call, wanted=wanted, options=BINDING_OPTIONS), mend=False)
    if request.purge and any(action == "enable" for _, action in wanted):
        raise ApiError(400, "purge destroys data and goes with disabling only")
    try:
        decisions = (await call.services.jobs.plan(tenant, request)).decisions
    except UpliftError as error:
        raise ApiError(400, str(error)) from error
    check_kept(tenant, decisions)
    try:
        job = await call.services.jobs.create(tenant, request, decisions, alone=True)
    except Conflict as error:
        raise ApiError(409, str(error)) from error
    row = await call.services.jobs.wait_ended(job)
    if row is not None and row.status == "error":
        raise ApiError(*describe_failure(row))


def _asked_for(call: Call) -> str:
    """The id of a registered module, which the body names; a product alone means the newest version that may be chosen."""
    module, table = call.json(TenantModuleWire).id, call.platform.table
    try:
        product, version = split_module_id(module)
    except UpliftError as error:
        raise ApiError(400, str(error)) from error
    if version is None:
        shown = visible(
            {entry.module.id: entry.module for entry in table.listing.of(product)},
            pre_release=call.choice("preRelease"),
            npm_snapshot=call.choice("npmSnapshot"),
            enabled=table.enabled(call.path["tenant"]),
        )
        module = [module, *shown][-1]
    if module not in table.modules:
        raise ApiError(404, module)
    return module


async def _left_data(call: Call, tenant: str, module: str) -> bool:
    """Whether data of a module that is not enabled is there at this version."""
    return module in (await call.platform.registry.data_versions(tenant)).values()


def entries_of(call: Call, tenant: str) -> list[Entry]:
    """The tenant's enabled modules, by id; not those that only a newer release of the gateway can read."""
    table = call.platform.table
    return [table.listing[module] for module in table.enabled(tenant) if module in table.listing]
