"""`…/install` and `…/upgrade`: install jobs (requirements B7, C1-C3)."""

import difflib

from aiohttp import web
from pydantic import TypeAdapter

from gateway.admin.http import ApiError, Call, answer, caller_name
from gateway.admin.wire import TenantModuleWire
from gateway.builtin import BUILT_IN
from gateway.jobs import MODES, JobRequest, describe_failure, lines, results
from gateway.observation import traceparent
from gateway.store import Conflict, JobRow
from upgrade_core.descriptors import Undo
from upgrade_core.errors import InvalidPattern, UpliftError
from upgrade_core.ids import SUPERTENANT, product_of
from upgrade_core.patterns import check_pattern
from upgrade_core.resolution import Decision

_LINES: TypeAdapter[list[TenantModuleWire]] = TypeAdapter(list[TenantModuleWire])
OPTIONS = (
    "async", "deploy", "depCheck", "dryRun", "ignoreErrors", "invoke", "mode", "npmSnapshot", "parallel", "plan", "preRelease",
    "purge", "reinstall", "simulate", "tenantParameters", "undo",
)  # fmt: skip
"""Query parameters of install jobs. Others are refused: a misspelt `dryRun` must not upgrade anybody."""
BINDING_OPTIONS = tuple(name for name in OPTIONS if name not in ("async", "dryRun", "plan", "simulate"))
"""Those of single bindings, which are neither simulated nor answered before their end."""
MAX_PARALLEL = 1_000
"""Highest `parallel`: more groups than any platform has modules."""


async def post(call: Call) -> web.Response:
    """Install, upgrade, downgrade, reinstall, disable or purge what the body lists."""
    tenant = call.known_tenant()
    wanted = []
    for line in call.json(_LINES):
        action = line.action or "enable"
        if action in ("enable", "uptodate", "disable"):
            wanted.append((line.id, "disable" if action == "disable" else "enable"))
    return await _run(call, tenant, parse_options(call, wanted=tuple(wanted)))


async def post_upgrade(call: Call) -> web.Response:
    """Every enabled module to its newest version, in one operation."""
    tenant = call.known_tenant()
    if call.body.strip():
        raise ApiError(400, "/_/proxy/tenants/{tenant_id}/upgrade (upgrading to latest version) must not have a body.")
    return await _run(call, tenant, parse_options(call, upgrade_all=True))


async def get_all(call: Call) -> web.Response:
    """A tenant's jobs, oldest first."""
    rows = await call.platform.jobs.of_tenant(call.known_tenant())
    return answer([call.services.jobs.describe(row) for row in rows])


async def get(call: Call) -> web.Response:
    """One job."""
    return answer(call.services.jobs.describe(await _job(call)))


async def delete(call: Call) -> web.Response:
    """Abort a running job (202: it undoes what it did, then ends), or remove the record of an ended one (204)."""
    row = await _job(call)
    if row.state == "ended":
        if any(link.job == row.id for link in call.platform.table.links(row.tenant)):
            raise ApiError(409, f"job {row.id} left a hold behind: uplift resolve {row.id}")
        await call.platform.jobs.remove(row.id)
        call.services.problems.look.set()
        return answer()
    aborted = await call.services.jobs.abort(row.id)
    return answer(call.services.jobs.describe(aborted or row), status=202)


async def delete_all(call: Call) -> web.Response:
    """Remove the records of ended jobs."""
    await call.platform.jobs.remove_ended(call.known_tenant())
    call.services.problems.look.set()
    return answer()


def parse_options(
    call: Call,
    *,
    wanted: tuple[tuple[str, str], ...] = (),
    upgrade_all: bool = False,
    options: tuple[str, ...] = OPTIONS,
) -> JobRequest:
    """The query's options (Okapi's names and defaults, and `undo`).

    Args:
        call: The request.
        wanted: What it asks for.
        upgrade_all: Whether it asks for everything's newest version.
        options: The parameters that it may have.

    Raises:
        ApiError: 400 that names the parameter.
    """
    for name in call.query:
        if name not in options:
            near = difflib.get_close_matches(name, options, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ApiError(
                400, f"{name}: unknown parameter{hint} Known are {', '.join(options)}".replace("parameter K", "parameter; k")
            )
    invoke = call.query.get("invoke", "true")
    if invoke not in ("true", "false"):
        try:
            check_pattern(invoke)
        except InvalidPattern as error:
            raise ApiError(400, f"Bad regular expression for parameter invoke: {error}") from error
    undo = call.query.get("undo")
    if undo is not None and undo not in set(Undo):
        raise ApiError(400, f"Bad value for parameter undo: {undo}; one of {', '.join(Undo)}")
    dep_check = bool(call.flag("depCheck", default=True))
    mode = call.query.get("mode", "rolling")
    if mode not in MODES:
        raise ApiError(400, f"Bad value for parameter mode: {mode}; one of {', '.join(MODES)}")
    if mode == "atomic" and not dep_check:
        raise ApiError(
            400, "Install Option mode can not be atomic when Install Option depCheck is false: then each line is by itself"
        )
    parallel = call.number("parallel", 1, least=1, most=MAX_PARALLEL)
    if parallel > 1 and not dep_check:
        raise ApiError(400, "Install Option parallel can not be greater than 1 when Install Option depCheck is false")
    return JobRequest(
        wanted=wanted,
        upgrade_all=upgrade_all,
        purge=bool(call.flag("purge")),
        parameters=parse_parameters(call.query.get("tenantParameters", "")),
        deploy=call.flag("deploy", default=None),
        invoke=invoke,
        ignore_errors=bool(call.flag("ignoreErrors")),
        reinstall=bool(call.flag("reinstall")),
        parallel=parallel,
        dep_check=dep_check,
        pre_release=call.choice("preRelease"),
        npm_snapshot=call.choice("npmSnapshot"),
        undo=undo,
        plan=call.query.get("plan"),
        actor=caller_name(call),
        traceparent=traceparent(),
        mode=mode,
    )


def parse_parameters(text: str) -> tuple[tuple[str, str | None], ...]:
    """`k=v,k2` as pairs; a value keeps any further `=`."""
    pairs = []
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        pairs.append((key, value if equals else None))
    return tuple(pairs)


def check_kept(tenant: str, decisions: tuple[Decision, ...]) -> None:
    """Refuse to take the built-in module from the supertenant: nobody could call Okapi's routes any more.

    Raises:
        ApiError: 400.
    """
    for decision in decisions:
        if tenant == SUPERTENANT and decision.action == "disable" and product_of(decision.module) == BUILT_IN:
            raise ApiError(400, f"module {decision.module} is built in, the supertenant keeps it: nobody could call here without")


async def _run(call: Call, tenant: str, request: JobRequest) -> web.Response:
    if request.purge and any(action == "enable" for _, action in request.wanted):
        raise ApiError(400, "purge destroys data and goes with action disable only; disable with purge first, then enable")
    asynchronous, dry_run, simulate = call.flag("async"), call.flag("dryRun"), call.flag("simulate")
    jobs = call.services.jobs
    try:
        planned = await jobs.plan(tenant, request)
    except UpliftError as error:
        raise ApiError(400, str(error)) from error
    decisions = planned.decisions
    check_kept(tenant, decisions)
    try:
        if request.plan is not None:
            await jobs.plans.check(tenant, request.plan, planned)
        if dry_run or simulate:
            await jobs.plans.keep(tenant, planned)
            found = (
                await jobs.plans.describe(tenant, planned, deploy=request.deploy, invoke=request.invoke)
                if dry_run
                else lines(decisions)
            )
            status = 201 if asynchronous and not dry_run else 200  # Okapi's; there is no job that a Location could name
            return answer(found, status=status, headers={"X-Uplift-Plan": planned.plan.digest})
        job = await jobs.create(tenant, request, decisions)
        if request.plan is not None:
            await jobs.plans.keep(tenant, planned)  # until its turn has come
    except Conflict as error:
        raise ApiError(409, str(error)) from error
    base = f"/_/proxy/tenants/{tenant}/install/{job}"
    if asynchronous:
        return answer(lines(decisions), status=201, headers={"Location": base})
    row = await call.services.jobs.wait_ended(job)
    if row is None:
        raise ApiError(500, f"job {job} was removed while it ran")
    ignored = request.ignore_errors and row.outcome == "rolled_back"
    if row.status == "error" and not ignored:
        raise ApiError(*describe_failure(row), location=base)
    return answer(results(row), headers={"Location": base})


async def _job(call: Call) -> JobRow:
    tenant, job = call.known_tenant(), call.path["job"]
    row = await call.platform.jobs.get(job)
    if row is None or row.tenant != tenant:
        raise ApiError(404, f"{tenant}/{job}")
    return row
