"""`/_/runs/{job}`: what the steps of a run do at the gateway. Every call may be repeated; the answer is the same."""

import json
import logging
from urllib.parse import unquote

from aiohttp import web

from gateway.admin.http import ApiError, Call, answer
from gateway.admin.lifecycle import MAX_WAIT
from gateway.admin.versions import describe
from gateway.admin.wire import DataVersionWire, PhaseWire
from gateway.routing import new_token
from gateway.store import Conflict, IntentRow, JobRow, SnapshotRow, check_run
from gateway_wire import (
    ClaimRequest,
    FinishRequest,
    HoldRequest,
    InitReport,
    IntentRequest,
    IntentState,
    OpenRequest,
    Overlay,
    OverlayRequest,
    Snapshot,
    SnapshotPatch,
)
from upgrade_core.errors import UpliftError
from upgrade_core.ids import ModuleId
from upgrade_core.known import HEADER, differences, explain, from_wire
from upgrade_core.problems import database_differs
from upgrade_core.runs import RUN_HEADER

_log = logging.getLogger(__name__)


async def begin(call: Call) -> web.Response:
    """Fix the plan of a job and answer it."""
    row = await _job(call)
    try:
        return answer(await call.services.jobs.begin(row))
    except UpliftError as error:
        raise ApiError(400, str(error)) from error
    except Conflict as error:
        raise ApiError(409, str(error)) from error


async def phase(call: Call) -> web.Response:
    """What the job is doing now, for people."""
    row, wire = await _job(call), call.json(PhaseWire)
    told = any(wire.subject in (line["id"], *line.get("via", ())) and line.get("message") for line in row.modules)
    message = None if told else wire.message or None
    await call.platform.jobs.update_module(row.id, wire.subject, phase=wire.phase, stage=wire.stage or None, message=message)
    return answer()


async def claim(call: Call) -> web.Response:
    """The job needs an instance of a version."""
    row, wire = await _job(call), call.json(ClaimRequest)
    _known_module(call, wire.module)
    try:
        await call.platform.instances.claim(wire.module, row.id)
    except Conflict as error:
        raise ApiError(409, str(error)) from error
    await call.platform.jobs.update_module(row.id, wire.subject, phase="deploying", stage="deploy")
    return answer(await describe(call, wire.module))


async def known(call: Call) -> web.Response:
    """Whether everything that the run knows (`X-Uplift-Known`) is on record: 204, or 412 with what is not."""
    await _compare(call)
    return answer()


async def give_back(call: Call) -> web.Response:
    """The job needs the version no more."""
    await _compare(call)
    _known_module(call, call.path["module"])
    await _refuse_late(call)
    await call.platform.instances.give_back(call.path["module"], call.path["job"])
    return answer(await describe(call, call.path["module"]))


async def hold(call: Call) -> web.Response:
    """UPDATE on the links of a group at once: 202 DELAY, with a place to wait."""
    row, wire = await _job(call), call.json(HoldRequest)
    try:
        states = await call.services.holds.set(job=row.id, tenant=row.tenant, request=wire, run=_run(call))
    except Conflict as error:
        raise ApiError(409, str(error)) from error
    headers = {"Location": f"/_/lifecycle/delays/{states[0].id}?for=holder", "X-Okapi-Lifecycle": "DELAY"}
    return answer([state.model_dump(mode="json", by_alias=True) for state in states], status=202, headers=headers)


async def open_holds(call: Call) -> web.Response:
    """RESUME, with the switch of the bindings where asked for, in one transaction."""
    row, wire = await _job(call), call.json(OpenRequest)
    for move in wire.moves:
        if move.bind and move.module is not None:
            _known_module(call, move.module)
    try:
        stood = await call.services.holds.open(job=row.id, tenant=row.tenant, request=wire, run=_run(call))
    except Conflict as error:
        raise ApiError(409, str(error)) from error
    switched = any(move.bind for move in wire.moves)
    if switched and row.run is None and row.state != "ended":  # what a person had to settle says nothing of the others
        await call.services.jobs.plans.remember(job=row.id, plan=row.plan, group=wire.group, stood=stood)
    call.services.problems.look.set()
    return answer()


async def begin_intent(call: Call) -> web.Response:
    """Tenant init is about to be asked for; an intent that stands already is answered as it stands."""
    row, wire = await _job(call), call.json(IntentRequest)
    try:
        found, fresh = await call.platform.runs.begin_intent(
            key=wire.key,
            job=row.id,
            tenant=row.tenant,
            product=wire.product,
            subject=wire.subject,
            module=wire.module,
            instance=wire.instance,
            generation=wire.generation,
            run=_run(call),
            attempt=wire.attempt,
        )
    except Conflict as error:
        raise ApiError(409, str(error)) from error
    return answer(_intent(found, fresh=fresh))


async def report_init(call: Call) -> web.Response:
    """What became of a tenant init; merged into the job."""
    row, wire = await _job(call), call.json(InitReport)
    _check_version(wire.data_version)
    found = await call.platform.runs.update_intent(
        call.path["key"],
        state=wire.state,
        job_path=wire.job_path,
        answer=wire.model_dump(mode="json", by_alias=True),
        asked_again=wire.asked_again,
        instance=wire.instance,
        generation=wire.generation,
        data_version=wire.data_version,
    )
    if found is None:  # it was written before anything was asked
        raise await _differs(call, (f"nothing tells that tenant init of {wire.subject} was asked for",))
    if found:
        await call.services.jobs.report_init(row, wire)
    return answer()


async def data_version(call: Call) -> web.Response:
    """What version the tenant's data is at."""
    row, wire = await _job(call), call.json(DataVersionWire)
    _check_version(wire.module)
    try:
        await call.platform.runs.set_data_version(row.id, row.tenant, call.path["product"], wire.module)
    except Conflict as error:
        raise ApiError(409, str(error)) from error
    return answer()


async def open_overlay(call: Call) -> web.Response:
    """The secret prefix under which the tenant's new version is reached."""
    row, wire = await _job(call), call.json(OverlayRequest)
    _known_module(call, wire.module)
    try:
        overlay = await call.platform.runs.open_overlay(
            token=new_token(), job=row.id, tenant=row.tenant, product=wire.product, module=wire.module
        )
    except Conflict as error:
        raise ApiError(409, str(error)) from error
    await call.platform.spread()
    return answer(Overlay(url=f"{call.platform.url}/_/overlay/{overlay.token}"))


async def close_overlay(call: Call) -> web.Response:
    """Close it, cut what is at work under it, and answer when nothing is."""
    await _compare(call)
    await _refuse_late(call)
    token = await call.platform.runs.close_overlay(job=call.path["job"], product=call.path["product"])
    if token is not None:
        await call.platform.catch_up()
        if not await call.platform.wait_quiet(f"overlay:{token}", MAX_WAIT):
            raise ApiError(503, "requests under the overlay are still at work; ask again")
        await call.platform.runs.forget_overlay(token)
        await call.platform.catch_up()
    return answer()


async def add_snapshot(call: Call) -> web.Response:
    """Record a copy."""
    row, wire = await _job(call), call.json(Snapshot)
    snapshot = SnapshotRow(
        id=wire.id,
        job=row.id,
        tenant=row.tenant,
        product=wire.product,
        module=wire.module,
        node=wire.node,
        dsn=wire.dsn,
        schema=wire.schema_name,
        path=wire.path,
        size=wire.size,
        digest=wire.digest,
        existed=wire.existed,
        taken=row.start_date,
        expires=None,
    )
    await call.platform.runs.add_snapshot(snapshot)
    return answer()


async def keep_snapshots(call: Call) -> web.Response:
    """Start the time that the job's copies are kept."""
    await _compare(call, ending=True)
    await _refuse_late(call)
    await call.platform.runs.keep_snapshots(call.path["job"], call.json(SnapshotPatch).keep)
    return answer()


async def snapshots(call: Call) -> web.Response:
    """Copies, oldest first; with `expired=true` those whose time is over."""
    rows = await call.platform.runs.snapshots(tenant=call.query.get("tenant"), expired=bool(call.flag("expired")))
    return answer([_snapshot(row).model_dump(mode="json", by_alias=True) for row in rows])


async def remove_snapshot(call: Call) -> web.Response:
    """Forget a copy whose file is gone."""
    await call.platform.runs.remove_snapshot(call.path["snapshot"])
    return answer()


async def finish(call: Call) -> web.Response:
    """End a job."""
    row = await _job(call, ending=True)
    try:
        await call.services.jobs.finish(row.id, call.json(FinishRequest), run=_run(call))
    except Conflict as error:
        raise ApiError(409, str(error)) from error
    return answer()


async def _job(call: Call, *, ending: bool = False) -> JobRow:
    """The job's row, once everything that its run knows was found on record, unless that run was replaced by another.

    Raises:
        ApiError: 404, 409 or 412.
    """
    await _compare(call, ending=ending)
    row = await _refuse_late(call)
    if row is None:
        raise ApiError(404, f"no job {call.path['job']}")
    return row


async def _compare(call: Call, *, ending: bool = False) -> None:
    """Compare what the run knows with the database, before anything is done (requirement D3).

    Raises:
        ApiError: 412: it is not the database that the run worked on. 400: no facts.
    """
    text = call.request.headers.get(HEADER, "")
    if not text:
        return
    try:
        facts = from_wire(text)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"{HEADER}: {error}") from error
    job = call.path["job"]
    problem = database_differs(job, why="").key
    record, told = await call.platform.runs.on_record(job, facts, problem=problem)
    found = differences(facts, record, ending=ending)
    if found:
        raise await _differs(call, found)
    if told:
        await call.services.problems.resolve(problem)


async def _differs(call: Call, found: tuple[str, ...]) -> ApiError:
    """The refusal of a run's step; administrators are told as well."""
    text = explain(found)
    _log.error("a step of job %s is refused: %s", call.path["job"], text)
    await call.services.problems.report(database_differs(call.path["job"], why="; ".join(found)))
    return ApiError(412, text)


async def _refuse_late(call: Call) -> JobRow | None:
    """The job's row, unless a run asks that was replaced by another: what it still does comes too late.

    Raises:
        ApiError: 409.
    """
    row = await call.platform.jobs.get(call.path["job"])
    if row is not None:
        try:
            check_run(row.id, row.run, _run(call))
        except Conflict as error:
            raise ApiError(409, str(error)) from error
    return row


def _run(call: Call) -> str:
    """The run on whose behalf the caller works; empty if it does not say."""
    return unquote(call.request.headers.get(RUN_HEADER, ""))


def _check_version(module: str | None) -> None:
    """Refuse a data version that no later plan could read."""
    try:
        if module:
            ModuleId.parse(module)
    except UpliftError as error:
        raise ApiError(400, str(error)) from error


def _known_module(call: Call, module: str) -> None:
    if module not in call.platform.table.modules:
        raise ApiError(404, module)


def _intent(row: IntentRow, *, fresh: bool) -> IntentState:
    return IntentState(
        key=row.key,
        state=row.state,
        fresh=fresh,
        instance=row.instance,
        generation=row.generation,
        job_path=row.job_path,
        asked=row.asked,
        answer=InitReport.model_validate_json(json.dumps(row.answer)) if row.answer and "state" in row.answer else None,
        since=row.since,
    )


def _snapshot(row: SnapshotRow) -> Snapshot:
    return Snapshot(
        id=row.id, job=row.job, tenant=row.tenant, product=row.product, module=row.module, node=row.node, dsn=row.dsn,
        schema_name=row.schema, path=row.path, size=row.size, digest=row.digest, existed=row.existed, taken=row.taken,
        expires=row.expires,
    )  # fmt: skip
