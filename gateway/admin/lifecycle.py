"""`/_/lifecycle`: what modules and operators signal, what is held, and a place to wait (requirements A2, A4, A6)."""

import uuid

from aiohttp import web

from gateway.admin.http import NO_ROLE, ApiError, Call, answer
from gateway.admin.wire import RoutingWire, SignalWire
from gateway.credentials import Role, may_signal
from gateway.store import EVERY_TENANT, Conflict, HeldByAnother
from gateway.store.problems import ProblemRow
from gateway_wire import HoldState
from upgrade_core.errors import UpliftError
from upgrade_core.ids import product_of
from upgrade_core.protocol import Availability, Hold

MAX_WAIT = 60.0
"""Longest wait of one call, in seconds: proxies in between close silent connections after about a minute."""


async def signal(call: Call) -> web.Response:
    """UPDATE, RESUME or DISCONNECT of a module."""
    wire = call.json(SignalWire)
    module, caller = call.path["module"], call.caller
    if not may_signal(caller, module, wire.instance) and not (wire.event == "RESUME" and Role.OVERRIDE in caller.roles):
        raise ApiError(403, NO_ROLE)
    try:
        product = product_of(module)
    except UpliftError as error:
        raise ApiError(400, str(error)) from error
    if not call.platform.table.listing.of(product):
        raise ApiError(404, f"{module}: no version of {product} is registered; POST /_/proxy/modules registers one")
    if wire.event == "UPDATE":
        return await _update(call, wire, product)
    if wire.event == "RESUME":
        return await _resume(call, wire, product)
    return await _disconnect(call, wire)


async def links(call: Call) -> web.Response:
    """The links that are held, not UP, in flight or parked on; with `tenant=` those of one tenant, and those of all."""
    wanted = call.query.get("tenant")
    found = []
    for link in call.platform.table.all_links():
        if wanted not in (None, link.tenant) and not link.every_tenant:
            continue
        is_called = link.module and not call.platform.table.runs_nowhere(link.module)
        availability = call.platform.table.availability(link.module) if link.module and is_called else None
        is_up = availability in (None, Availability.UP)
        if link.hold is Hold.OPEN and is_up and not link.flow.in_flight and not link.waiters:
            continue
        row = link.row
        version = call.platform.table.pool.version(link.module) if link.module else None
        since = row.since if row else version.lost_since if version else None
        until = row.until if row else version.lost_until if version else None
        found.append(
            {
                "tenant": link.tenant,
                "product": link.product,
                "module": link.module,
                "hold": link.hold,
                "availability": availability,
                "holdId": link.hold_id or None,
                "holder": row.holder if row else None,
                "reason": row.reason if row else None,
                "since": since.isoformat() if since else None,
                "until": until.isoformat() if until else None,
                "inFlight": sum(len(flow.in_flight) for flow in call.platform.table.flows_of(link)),
                "parked": len(link.waiters),
            }
        )
    return answer(found)


async def delay(call: Call) -> web.Response:
    """A hold, or a product without an instance, after waiting for at most `wait` seconds: DELAY, RESUME when it is over, MISSING.

    With `for=holder` a hold is RESUME when its holder may begin.
    """
    asks = call.query.get("for", "requester")
    if asks not in ("requester", "holder"):
        raise ApiError(400, f"Bad value for parameter for: {asks}; one of requester, holder")
    seconds = call.seconds("wait", most=MAX_WAIT)
    return answer(await call.services.holds.wait(call.path["hold"], seconds, holder=asks == "holder"))


async def routing(call: Call) -> web.Response:
    """Whether a tenant follows the newest version of its modules (requirement A5)."""
    return answer({"routing": call.platform.table.tenants[call.known_tenant()].routing})


async def put_routing(call: Call) -> web.Response:
    """Say so: `newest`, or `pinned`, which only jobs change."""
    tenant, wire = call.known_tenant(), call.json(RoutingWire)
    if not await call.platform.registry.set_routing(tenant, wire.routing):
        raise ApiError(404, tenant)
    await call.platform.spread()
    return answer({"routing": wire.routing})


async def problems(call: Call) -> web.Response:
    """What an administrator should know now, oldest first."""
    return answer([_problem(row) for row in await call.services.problems.standing()])


async def _update(call: Call, wire: SignalWire, product: str) -> web.Response:
    tenant = wire.tenant or EVERY_TENANT
    if tenant != EVERY_TENANT and tenant not in call.platform.table.tenants:
        limited = call.caller.instance is not None or call.caller.products is not None
        raise ApiError(403, NO_ROLE) if limited else ApiError(404, tenant)
    try:
        state = await call.services.holds.update(
            hold=wire.hold or str(uuid.uuid4()),
            tenant=tenant,
            product=product,
            sender=call.path["module"],
            holder=_sender(call, wire),
            reason=wire.reason,
            grace=wire.grace,
            ttl=wire.ttl,
        )
    except Conflict as error:
        raise _refused(error) from error
    headers = {"Location": f"/_/lifecycle/delays/{state.id}?for=holder", "X-Okapi-Lifecycle": "DELAY"}
    return _state(state.model_copy(update={"lifecycle": "DELAY"}), status=202, headers=headers)


async def _resume(call: Call, wire: SignalWire, product: str) -> web.Response:
    if wire.hold is None:
        if wire.instance is None:
            raise ApiError(400, "RESUME names a hold that it opens, or an instance that is well again")
        if not await call.platform.instances.seen(wire.instance, call.path["module"]):
            raise _unknown_instance(call.path["module"], wire.instance)
        await call.platform.spread()
        return answer({"instance": wire.instance, "lifecycle": "RESUME"}, headers={"X-Okapi-Lifecycle": "RESUME"})
    try:
        state = await call.services.holds.resume(
            wire.hold, product=product, sender=call.path["module"], holder=_sender(call, wire), override=_may_override(call, wire)
        )
    except HeldByAnother as error:
        raise _refused(error) from error
    return _state(state, headers={"X-Okapi-Lifecycle": "RESUME"})


async def _disconnect(call: Call, wire: SignalWire) -> web.Response:
    module, platform = call.path["module"], call.platform
    if wire.instance is None:
        raise ApiError(400, "DISCONNECT names the instance that leaves")
    if not await platform.instances.disconnect(wire.instance, module):
        raise _unknown_instance(module, wire.instance)
    await platform.catch_up()
    await platform.membership.barrier()
    grace = platform.settings.grace if wire.grace is None else min(wire.grace, MAX_WAIT)
    quiet = await platform.wait_quiet(f"instance:{wire.instance}", grace)
    return answer({"instance": wire.instance, "inFlight": 0 if quiet else max(1, platform.table.in_flight_to(wire.instance))})


def _sender(call: Call, wire: SignalWire) -> str:
    """Who holds: an instance of the module, or else an operator."""
    instance = call.caller.instance or wire.instance
    return f"module {instance}" if instance else f"operator {call.caller.name}"


def _unknown_instance(module: str, instance: str) -> ApiError:
    return ApiError(404, f"{module}/{instance}: no such instance is registered; GET /_/discovery/modules lists those that are")


def _may_override(call: Call, wire: SignalWire) -> bool:
    """Whether somebody else's hold may be opened: by an operator who signals for no instance."""
    return Role.OVERRIDE in call.caller.roles and call.caller.instance is None and wire.instance is None


def _refused(error: Conflict) -> ApiError:
    hold = error.hold if isinstance(error, HeldByAnother) else None
    facts = {} if hold is None else {"state": hold.state, "holder": hold.holder, "since": hold.since.isoformat()}
    return ApiError(409, str(error), facts=facts or {"state": Hold.OPEN.value})


def _state(state: HoldState, *, status: int = 200, headers: dict[str, str]) -> web.Response:
    return answer(state.model_dump(mode="json", by_alias=True, exclude_none=True), status=status, headers=headers)


def _problem(row: ProblemRow) -> dict[str, str]:
    problem = row.problem
    members = {
        "key": problem.key,
        "kind": problem.kind,
        "severity": problem.severity,
        "message": problem.message,
        "module": problem.module,
        "tenant": problem.tenant,
        "since": row.since.isoformat(),
        "remedy": problem.remedy,
    }
    return {name: value for name, value in members.items() if value is not None}
