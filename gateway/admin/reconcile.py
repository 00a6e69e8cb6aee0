"""`/_/reconcile`: what reconcile runs read, repair and report (requirement D3)."""

import json
import uuid
from dataclasses import replace
from typing import Any

from aiohttp import web
from pydantic import TypeAdapter

from gateway.admin.http import ApiError, Call, answer
from gateway.admin.lifecycle import MAX_WAIT
from gateway_wire import ReconcileReport, RepairRequest
from upgrade_core.reconcile import Bound, Ledger, Stale, Verb
from upgrade_core.tenant_init import Purpose, init_call

_LEDGER = TypeAdapter(Ledger)


async def post(call: Call) -> web.Response:
    """Ask for a run: 202; its report is at the same place when it has ended."""
    request, repair = str(uuid.uuid4()), bool(call.flag("repair", default=True))
    await call.platform.reconcile.ask(request, repair=repair)
    call.services.jobs.waiting.set()
    return answer({"request": request, "repair": repair}, status=202, headers={"Location": "/_/reconcile"})


async def get(call: Call) -> web.Response:
    """The last report, and what was asked for and is not reported yet."""
    row = await call.platform.reconcile.row()
    pending: dict[str, Any] | None = None
    if row.request is not None:
        since = row.since.isoformat() if row.since else None
        pending = {"request": row.request, "repair": row.repair, "since": since, "started": row.started}
    return answer({"pending": pending, "report": row.report})


async def put(call: Call) -> web.Response:
    """What a run came to."""
    await call.services.problems.report_differences(call.json(ReconcileReport).report)
    return answer()


async def ledger(call: Call) -> web.Response:
    """What the database says, as of one moment."""
    found = await call.platform.reconcile.ledger()
    found = replace(
        found,
        bound=tuple(_as_served(call, bound) for bound in found.bound),
        stale=tuple(stale for stale in found.stale if _may_leave(call, stale)),
    )
    return answer({"ledger": json.loads(_LEDGER.dump_json(found))})


async def repair(call: Call) -> web.Response:
    """Repair one thing, if that is still harmless: `{"done": …}`. Again is fine."""
    wire, store = call.json(RepairRequest), call.platform.reconcile
    match wire.verb:
        case Verb.GIVE_BACK:
            done = await store.give_back(module=wire.module, job=wire.job)
        case Verb.END_INTENT:
            done = await store.end_intent(key=wire.subject, job=wire.job)
        case Verb.KEEP_SNAPSHOT:
            done = await store.keep_snapshot(snapshot=wire.subject, seconds=wire.keep)
        case Verb.CLOSE_OVERLAY:
            done = await _close_overlay(call, wire)
        case _:
            raise ApiError(400, f"verb: {wire.verb} is not done by the gateway")
    return answer({"done": done})


async def put_node(call: Call) -> web.Response:
    """A worker runs on a node: reconcile runs look there, too."""
    await call.platform.reconcile.heard_of(call.path["node"])
    return answer()


async def _close_overlay(call: Call, wire: RepairRequest) -> bool:
    token, stays = await call.platform.reconcile.close_overlay(product=wire.product, job=wire.job)
    if token is None:
        return not stays
    await call.platform.catch_up()
    if not await call.platform.wait_quiet(f"overlay:{token}", MAX_WAIT):
        raise ApiError(503, "requests under the overlay are still at work; ask again")
    await call.platform.runs.forget_overlay(token)
    await call.platform.catch_up()
    return True


def _as_served(call: Call, bound: Bound) -> Bound:
    """A module that nothing runs for needs no instance."""
    descriptor = call.platform.table.modules.get(bound.module)
    return bound if bound.served or (descriptor is not None and descriptor.needs_instance) else replace(bound, served=True)


def _may_leave(call: Call, stale: Stale) -> bool:
    """Whether tenant init of the enabled version would be called at all."""
    descriptor = call.platform.table.modules.get(stale.module)
    return descriptor is not None and (
        init_call(descriptor, purpose=Purpose.INIT, module_from=stale.data, module_to=stale.module) is not None
    )
