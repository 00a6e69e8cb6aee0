"""`/_/proxy/modules`: registering descriptors. A descriptor never changes once it is registered."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web
from pydantic import TypeAdapter

from gateway.admin.filters import candidates, dot, select
from gateway.admin.http import ApiError, Call, answer, json_text
from gateway.admin.wire import ModuleDescriptorWire
from gateway.okapi_json import pretty, pretty_list
from gateway.store import Conflict, UsedByJob
from upgrade_core.descriptors import INTERNAL, ModuleDescriptor, bad_interface_type, parse_descriptor
from upgrade_core.errors import UpliftError
from upgrade_core.problems import Providers
from upgrade_core.resolution import visible

_MANY: TypeAdapter[list[ModuleDescriptorWire]] = TypeAdapter(list[ModuleDescriptorWire])
_IDS: TypeAdapter[list[str]] = TypeAdapter(list[str])
_FREE = ("metadata", "uiDescriptor", "permissionSets", "schedule", "dockerArgs")
"""Members of a descriptor whose form is not ours to know."""


async def post(call: Call) -> web.Response:
    """Register one descriptor; the same again is fine."""
    call.json(ModuleDescriptorWire)
    wire = call.raw_json()
    await _register(call, [wire])
    return json_text(call.platform.table.listing[wire["id"]].text, status=201, headers=call.location(wire["id"]))


async def post_many(call: Call) -> web.Response:
    """Register a list, checked together, all or none."""
    call.json(_MANY)
    await _register(call, call.raw_json())
    return answer()


async def get_all(call: Call) -> web.Response:
    """The registered modules, ascending by product and version; `dot=true`: as a graph. The body may list ids to leave out."""
    full, as_graph = call.flag("full"), call.flag("dot")
    left_out = set(call.json(_IDS) if call.body.strip() else ())
    found = select(call, candidates(call))
    if left_out:
        found = [entry for entry in found if entry.module.id not in left_out]
    if as_graph:
        return web.Response(text=dot(found))
    return json_text(pretty_list([entry.text if full else entry.brief for entry in found]))


async def get(call: Call) -> web.Response:
    """One descriptor, as it was sent."""
    listing, module = call.platform.table.listing, call.path["module"]
    if module not in listing:
        raise ApiError(404, module)
    return json_text(listing[module].text)


async def delete(call: Call) -> web.Response:
    """Forget a module that no tenant, instance or job uses."""
    module, table = call.path["module"], call.platform.table
    if module not in table.modules:
        raise ApiError(404, f"delete: module {module} does not exist")
    product = table.modules[module].product
    users = sorted(tenant for tenant, bound in table.bindings.items() if bound.get(product) == module)
    if users:
        raise ApiError(400, f"delete: module {module} is used by tenant {users[0]}")
    faults = _left_without(call, module)
    if faults:
        raise ApiError(400, f"delete: module {module}: " + "\n".join(faults))
    try:
        await call.platform.registry.remove_module(module)
    except UsedByJob as error:
        raise ApiError(409, str(error)) from error
    except Conflict as error:
        raise ApiError(400, str(error)) from error
    await call.platform.spread()
    call.services.problems.look.set()
    return answer()


async def _register(call: Call, wires: list[dict[str, Any]]) -> None:
    check, pre_release, npm = call.flag("check", default=True), call.choice("preRelease"), call.choice("npmSnapshot")
    table = call.platform.table
    fresh: dict[str, tuple[ModuleDescriptor, str]] = {}
    for wire in wires:
        said = _said(wire)
        module = _parsed(said)
        call.check_product(module.id)
        known = table.texts.get(module.id) or (fresh[module.id][1] if module.id in fresh else None)
        if known is not None and _said(json.loads(known)) != said:
            raise ApiError(400, f"create: module {module.id} already exists")
        if known is None:
            fresh[module.id] = (module, pretty(said))
    if check:
        modules = [module for module, _ in fresh.values()]
        seen = visible(_providers_for(call, modules), pre_release=pre_release, npm_snapshot=npm)
        providers = Providers({**seen, **{module.id: module for module in modules}}.values(), system=True)
        faults = [unmet.text for module in modules for unmet in providers.unmet(module)]
        if faults:
            raise ApiError(400, "\n".join(faults))
    try:
        await call.platform.registry.add_modules([(key, module.product, text) for key, (module, text) in fresh.items()])
    except Conflict as error:
        raise ApiError(400, str(error)) from error
    if fresh:
        await call.platform.spread()
        call.services.problems.look.set()


def _left_without(call: Call, module: str) -> list[str]:
    """What those who require an interface of a module would lack without it; what they lack anyway does not count."""
    listing = call.platform.table.listing
    provided = {interface.id for interface in listing[module].module.provides if not interface.is_system}
    dependents = {key: other for interface in provided for key, other in listing.asking(interface).items() if key != module}
    offers = {key: other for interface in provided for key, other in listing.offering(interface).items() if key != module}
    providers = Providers(offers.values(), system=True)
    return [
        unmet.text for _, other in sorted(dependents.items()) for unmet in providers.unmet(other) if unmet.interface in provided
    ]


def _providers_for(call: Call, modules: Iterable[ModuleDescriptor]) -> dict[str, ModuleDescriptor]:
    """The registered modules that provide anything of what some modules require, by id."""
    listing = call.platform.table.listing
    needed = {need.id for module in modules for need in module.requires}
    return {key: module for interface in sorted(needed) for key, module in listing.offering(interface).items()}


def _parsed(wire: Mapping[str, Any]) -> ModuleDescriptor:
    try:
        module = parse_descriptor(wire)
        for interface in module.provides:
            if interface.type == INTERNAL:
                raise bad_interface_type(INTERNAL, module.id)
    except UpliftError as error:
        raise ApiError(400, str(error)) from error
    return module


def _said(wire: Mapping[str, Any]) -> dict[str, Any]:
    """A descriptor without members that say nothing, as Okapi keeps it; what is free in its form stays as it is."""
    kept = {name: value if name in _FREE else _without_nulls(value) for name, value in wire.items() if value is not None}
    if kept.get("replaces") == []:
        del kept["replaces"]
    return kept


def _without_nulls(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    if isinstance(value, dict):
        return {name: item if name in _FREE else _without_nulls(item) for name, item in value.items() if item is not None}
    return value
