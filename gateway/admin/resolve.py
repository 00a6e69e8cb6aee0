"""`/_/runs/{job}/resolve`: what a person has to decide about a job, and the decision (requirements D2, D3, D4)."""

from typing import Any

from aiohttp import web

from gateway.admin.http import ApiError, Call, answer, caller_name
from gateway.admin.wire import ResolveWire
from gateway.pipelines import TemporalAway
from gateway.resolving import HeldChange, Refused
from gateway.store import Conflict, JobRow
from upgrade_core.decisions import Choice


async def get(call: Call) -> web.Response:
    """What a job holds and waits for, and what may be decided."""
    row = await _job(call)
    standing = await call.services.resolving.look(row)
    shown: dict[str, Any] = {
        "job": row.id,
        "tenant": row.tenant,
        "status": row.status,
        "outcome": row.outcome,
        "phase": row.phase,
        "errors": row.errors,
        "held": [_held(each) for each in standing.held],
        "waiting": None
        if standing.waiting is None
        else [{"run": run, "why": why} for run, why in sorted(standing.waiting.items())],
        "possible": list(standing.possible),
    }
    return answer(shown)


async def post(call: Call) -> web.Response:
    """Decide. 202: it is being carried out, the job says how far it is; 409: the decision does not fit, nothing was changed."""
    wire = call.json(ResolveWire)
    row = await _job(call)
    try:
        found = await call.services.resolving.decide(
            row, Choice(wire.decision), actor=caller_name(call), reason=wire.reason, force=wire.force
        )
    except Refused as error:
        raise ApiError(409, str(error), facts={"possible": " ".join(error.possible)}) from error
    except Conflict as error:
        raise ApiError(409, str(error)) from error
    except TemporalAway as error:
        raise ApiError(503, str(error)) from error
    headers = {"Location": f"/_/proxy/tenants/{row.tenant}/install/{row.id}"}
    return answer(call.services.jobs.describe(found), status=202, headers=headers)


def _held(each: HeldChange) -> dict[str, Any]:
    change, copy = each.change, each.copy
    return {
        "group": each.group,
        "product": change.product,
        "kind": change.kind,
        "old": change.bound,
        "new": change.version_to,
        "hold": each.hold.id,
        "state": each.hold.state,
        "since": each.hold.since.isoformat(),
        "init": each.init,
        "dataVersion": each.data_version,
        "copy": None
        if copy is None
        else {"id": copy.id, "node": copy.node, "path": copy.path, "taken": copy.taken.isoformat(), "schema": copy.schema},
    }


async def _job(call: Call) -> JobRow:
    row = await call.platform.jobs.get(call.path["job"])
    if row is None:
        raise ApiError(404, f"no job {call.path['job']}")
    return row
