"""`/_/proxy/tenants` and what a tenant's modules provide."""

import secrets

from aiohttp import web

from gateway.admin.bindings import entries_of
from gateway.admin.http import ApiError, Call, answer, json_text
from gateway.admin.wire import TenantWire
from gateway.okapi_json import pretty_list
from gateway.store import Conflict, TenantRow
from upgrade_core.errors import InvalidId
from upgrade_core.ids import SUPERTENANT, check_new_tenant_id, is_tenant_id


async def post(call: Call) -> web.Response:
    """Create a tenant; without an id it gets one."""
    wire = call.json(TenantWire)
    tenant = TenantRow(id=wire.id or "t" + secrets.token_hex(15), name=wire.name, description=wire.description)
    try:
        check_new_tenant_id(tenant.id)
    except InvalidId as error:
        raise ApiError(400, str(error)) from error
    if not await call.platform.registry.add_tenant(tenant):
        raise ApiError(400, f"Duplicate tenant id {tenant.id}")
    await call.platform.spread()
    return answer(_wire(tenant), status=201, headers=call.location(tenant.id))


async def get_all(call: Call) -> web.Response:
    """All tenants by id."""
    return answer([_wire(tenant) for _, tenant in sorted(call.platform.table.tenants.items())])


async def get(call: Call) -> web.Response:
    """One tenant."""
    return answer(_wire(call.platform.table.tenants[call.known_tenant()]))


async def put(call: Call) -> web.Response:
    """Create or rename a tenant; its modules stay."""
    wire, tenant = call.json(TenantWire), call.path["tenant"]
    if wire.id != tenant:
        raise ApiError(400, f"The tenant id must not be changed, old='{tenant}', new='{wire.id or ''}'")
    if tenant not in call.platform.table.tenants:
        try:
            check_new_tenant_id(tenant)
        except InvalidId as error:
            if not is_tenant_id(tenant) or "_" not in tenant:
                raise ApiError(400, str(error)) from error
    row = TenantRow(id=tenant, name=wire.name, description=wire.description)
    await call.platform.registry.put_tenant(row)
    await call.platform.spread()
    return answer(_wire(row))


async def delete(call: Call) -> web.Response:
    """Forget a tenant; its modules' data stays where it is (requirement B4)."""
    tenant = call.known_tenant()
    if tenant == SUPERTENANT:
        raise ApiError(400, f"Can not delete the superTenant {tenant}")
    try:
        await call.platform.registry.remove_tenant(tenant)
    except Conflict as error:
        raise ApiError(409, str(error)) from error
    await call.platform.spread()
    call.services.problems.look.set()
    return answer()


async def interfaces(call: Call) -> web.Response:
    """The interfaces that a tenant's modules provide: each id once, or with `full=true` whole."""
    entries, kind = entries_of(call, call.known_tenant()), call.query.get("type")
    if call.flag("full"):
        whole = [
            text
            for entry in entries
            for interface, text in zip(entry.module.provides, entry.provided, strict=True)
            if kind in (None, interface.type)
        ]
        return json_text(pretty_list(whole))
    versions: dict[str, str] = {}
    for entry in entries:
        for interface in entry.module.provides:
            if kind in (None, interface.type):
                versions.setdefault(interface.id, interface.version)
    return answer([{"id": interface, "version": version} for interface, version in versions.items()])


async def interface(call: Call) -> web.Response:
    """The modules of a tenant that provide an interface."""
    kind, found = call.query.get("type"), []
    for entry in entries_of(call, call.known_tenant()):
        provided = entry.module.interface(call.path["interface"])
        if provided is not None and kind in (None, provided.type):
            found.append({"id": entry.module.id})
    return answer(found)


def _wire(tenant: TenantRow) -> dict[str, str]:
    members = {"id": tenant.id, "name": tenant.name, "description": tenant.description}
    return {name: value for name, value in members.items() if value is not None}
