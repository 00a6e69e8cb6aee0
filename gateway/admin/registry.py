"""`/_/proxy/modules`: registering descriptors. A descriptor never changes once it is registered."""

import json
from typing import Any

from aiohttp import web
from pydantic import TypeAdapter

from gateway.admin.http import ApiError, Call, answer, json_text
from gateway.admin.wire import ModuleDescriptorWire
from gateway.store import Conflict
from upgrade_core.descriptors import ModuleDescriptor, parse_descriptor
from upgrade_core.errors import UpliftError
from upgrade_core.ids import split_module_id
from upgrade_core.problems import Providers
from upgrade_core.resolution import passes, visible
from upgrade_core.versions import interface_satisfies

_MANY: TypeAdapter[list[ModuleDescriptorWire]] = TypeAdapter(list[ModuleDescriptorWire])


async def post(call: Call) -> web.Response:
    """Register one descriptor; the same again is fine."""
    call.json(ModuleDescriptorWire)
    wire = call.raw_json()
    await _register(call, [wire])
    return json_text(call.platform.table.texts[wire["id"]], status=201, headers=call.location(wire["id"]))


async def post_many(call: Call) -> web.Response:
    """Register a list, checked together, all or none."""
    call.json(_MANY)
    await _register(call, call.raw_json())
    return answer()


async def get_all(call: Call) -> web.Response:
    """The registered modules, ascending by product and version."""
    table = call.platform.table
    full, pre_release, npm = call.flag("full"), call.choice("preRelease"), call.choice("npmSnapshot")
    wanted_order = call.query.get("order", "desc" if "orderBy" in call.query else "asc")
    if call.query.get("orderBy", "id") != "id":
        raise ApiError(400, f"unknown orderBy field: {call.query['orderBy']}")
    if wanted_order not in ("asc", "desc"):
        raise ApiError(400, f"invalid order value: {wanted_order}")
    latest = call.number("latest", 0, least=0, most=1_000_000)
    found = sorted(
        (module for module in table.modules.values() if _passes(module, call.query, pre_release, npm)),
        key=lambda module: module.module_id,
    )
    if latest:
        kept: dict[str, list[ModuleDescriptor]] = {}
        for module in found:
            kept.setdefault(module.product, []).append(module)
        found = [module for product in kept.values() for module in product[-latest:]]
    if wanted_order == "desc":
        found.reverse()
    if full:
        return json_text("[" + ",\n".join(table.texts[module.id] for module in found) + "]")
    return answer([brief(table.texts[module.id]) for module in found])


async def get(call: Call) -> web.Response:
    """One descriptor, as it was sent."""
    text = call.platform.table.texts.get(call.path["module"])
    if text is None:
        raise ApiError(404, call.path["module"])
    return json_text(text)


async def delete(call: Call) -> web.Response:
    """Forget a module that no tenant, instance or job uses."""
    module, table = call.path["module"], call.platform.table
    if module not in table.modules:
        raise ApiError(404, f"delete: module {module} does not exist")
    users = sorted(tenant for tenant, bound in table.bindings.items() if module in bound.values())
    if users:
        raise ApiError(400, f"delete: module {module} is used by tenant {users[0]}")
    for job in await call.platform.jobs.open():
        if any(line["id"] == module or line.get("from") == module for line in job.modules):
            raise ApiError(409, f"delete: module {module} is used by job {job.id} of tenant {job.tenant}")
    left = {key: value for key, value in table.modules.items() if key != module}
    provided = {interface.id for interface in table.modules[module].provides if not interface.is_system}
    providers = Providers(left.values(), system=True)
    dependents = (other for other in left.values() if any(need.id in provided for need in other.requires))
    faults = [unmet.text for other in dependents for unmet in providers.unmet(other)]
    if faults:
        raise ApiError(400, f"delete: module {module}: " + "\n".join(faults))
    try:
        await call.platform.registry.remove_module(module)
    except Conflict as error:
        raise ApiError(400, str(error)) from error
    await call.platform.spread()
    call.services.problems.look.set()
    return answer()


def brief(text: str) -> dict[str, Any]:
    """A descriptor's line in a listing."""
    wire = json.loads(text)
    return {key: wire[key] for key in ("id", "name", "tags") if wire.get(key)}


async def _register(call: Call, wires: list[dict[str, Any]]) -> None:
    check, pre_release, npm = call.flag("check", default=True), call.choice("preRelease"), call.choice("npmSnapshot")
    table = call.platform.table
    fresh: dict[str, tuple[ModuleDescriptor, str]] = {}
    for wire in wires:
        try:
            module = parse_descriptor(wire)
        except UpliftError as error:
            raise ApiError(400, str(error)) from error
        call.check_product(module.id)
        text = json.dumps(wire, ensure_ascii=False)
        known = table.texts.get(module.id) or (fresh[module.id][1] if module.id in fresh else None)
        if known is not None and json.loads(known) != wire:
            raise ApiError(400, f"create: module {module.id} already exists")
        if known is None:
            fresh[module.id] = (module, text)
    if check:
        seen = dict(visible(table.modules, pre_release=pre_release, npm_snapshot=npm))
        seen |= {key: module for key, (module, _) in fresh.items()}
        providers = Providers(seen.values(), system=True)
        faults = [unmet.text for module, _ in fresh.values() for unmet in providers.unmet(module)]
        if faults:
            raise ApiError(400, "\n".join(faults))
    try:
        await call.platform.registry.add_modules([(key, module.product, text) for key, (module, text) in fresh.items()])
    except Conflict as error:
        raise ApiError(400, str(error)) from error
    if fresh:
        await call.platform.spread()
        call.services.problems.look.set()


def _passes(module: ModuleDescriptor, query: dict[str, str], pre_release: str, npm: str) -> bool:
    if not passes(module.module_id.version, pre_release=pre_release, npm_snapshot=npm):
        return False
    if (wanted := query.get("filter")) is not None:
        try:
            product, version = split_module_id(wanted)
        except UpliftError as error:
            raise ApiError(400, f"Bad value for parameter filter: {error}") from error
        own_version = split_module_id(module.id)[1] or ""
        if product != module.product:
            return False
        if version is not None and own_version != version and not own_version.startswith((version + ".", version + "-")):
            return False
    if "provide" in query and not any(_offers(module, *want.partition("=")[::2]) for want in query["provide"].split(",")):
        return False
    return "require" not in query or any(
        need.id == name and (not version or need.version == version)
        for name, _, version in (want.partition("=") for want in query["require"].split(","))
        for need in module.requires
    )


def _offers(module: ModuleDescriptor, name: str, version: str) -> bool:
    interface = module.interface(name)
    return interface is not None and (not version or interface_satisfies(interface.version, version))
