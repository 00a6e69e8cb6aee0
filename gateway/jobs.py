"""Install jobs: from a request to a row, from a row to a plan, and back to what people read (requirements C1-C3)."""

import asyncio
import contextlib
import json
import logging
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from pydantic import TypeAdapter

from gateway.observation import about
from gateway.plans import Planned, Plans, touched
from gateway.platform import Platform
from gateway.problems import Problems
from gateway.store import STILL_HELD, JobRow
from gateway_wire import BeginAnswer, FinishRequest, InitReport, Notice
from upgrade_core.descriptors import Undo
from upgrade_core.ids import split_module_id
from upgrade_core.plan import Mode, Plan, World, build_plan
from upgrade_core.resolution import Catalogue, Decision, Verb, Wanted, resolve, upgrades, visible

MODES = {"rolling": Mode.SMALLEST, "atomic": Mode.ATOMIC}
"""Values of the query parameter `mode`; the first is what is meant without it."""
_PLAN = TypeAdapter(Plan)
_INTERNAL = (
    "Missing DELETE method for tenant interface",
    "Missing id property in JSON response",
    "Tenant operation failed for module",
    "Unexpected Location header in response",
)
"""How the texts begin for which Okapi takes a failed tenant init for an error of its own."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """What somebody asked for, as it is kept in the job's row.

    Attributes:
        wanted: (id, action) lines; empty with `upgrade_all`.
        upgrade_all: Every enabled product to its newest version (requirement B7).
        parameters: Key and value pairs for tenant init (`tenantParameters`).
        deploy: None: deploy what has a launch descriptor and no instance.
        mend: Whether modules that are not named may be brought in, moved or disabled. Not for single bindings (Okapi), and not
            for what nobody asked for.
        plan: Digest of the plan that alone may be executed; None: whatever the plan is when its turn has come.
        actor: Who asked.
        traceparent: The span in which they asked, for the run to continue; empty without tracing.
        mode: `rolling`: each group commits by itself; `atomic`: all in one.
    """

    wanted: tuple[tuple[str, str], ...] = ()
    upgrade_all: bool = False
    purge: bool = False
    parameters: tuple[tuple[str, str | None], ...] = ()
    deploy: bool | None = None
    invoke: str = "true"
    ignore_errors: bool = False
    reinstall: bool = False
    parallel: int = 1
    dep_check: bool = True
    pre_release: str = "true"
    npm_snapshot: str = "true"
    undo: str | None = None
    plan: str | None = None
    actor: str = ""
    traceparent: str = ""
    mend: bool = True
    mode: str = "rolling"


_REQUEST = TypeAdapter(JobRequest)


class Jobs:
    """The gateway's part in install jobs."""

    def __init__(self, platform: Platform, problems: Problems) -> None:
        self._platform = platform
        self._problems = problems
        self.plans = Plans(platform)
        self._ended: dict[str, asyncio.Event] = {}
        self.waiting = asyncio.Event()
        """Set when there may be a job to start or to abort."""
        platform.on_job = self._told

    def _decide(self, request: JobRequest, *, enabled: tuple[str, ...], data_versions: Mapping[str, str]) -> tuple[Decision, ...]:
        """What a request means where these modules are enabled.

        Raises:
            ResolutionError: It cannot be reached.
        """
        table = self._platform.table
        catalogue = Catalogue(
            visible(table.modules, pre_release=request.pre_release, npm_snapshot=request.npm_snapshot, enabled=enabled)
        )
        wanted = (
            upgrades(enabled, catalogue)
            if request.upgrade_all
            else tuple(Wanted(id=module, verb=Verb(action)) for module, action in request.wanted)
        )
        return resolve(
            wanted,
            enabled=enabled,
            catalogue=catalogue,
            reinstall=request.reinstall,
            purgeable=frozenset(data_versions.values()) if request.purge else frozenset(),
            check=request.dep_check,
            mend=request.mend,
        )

    async def plan(self, tenant: str, request: JobRequest) -> Planned:
        """The decisions and the plan of a request for the tenant as it is now.

        Raises:
            ResolutionError: It cannot be reached.
        """
        data_versions = await self._platform.registry.data_versions(tenant)
        enabled = self._platform.table.enabled(tenant)  # nothing is awaited from here on: both are made for one world
        decisions = self._decide(request, enabled=enabled, data_versions=data_versions)
        plan = build_plan(
            decisions,
            enabled=enabled,
            data_versions=data_versions,
            catalogue=self._platform.table.modules,
            purge=request.purge,
            named=frozenset(split_module_id(module)[0] for module, action in request.wanted if action == Verb.DISABLE),
            undo=Undo(request.undo) if request.undo else None,
            mode=MODES[request.mode] if request.dep_check else Mode.AS_GIVEN,
            options=_leaving_out(request),
        )
        world = World.of(enabled=enabled, registered=touched(plan.groups), data_versions=data_versions)
        return Planned(decisions=decisions, plan=plan, world=world)

    async def create(self, tenant: str, request: JobRequest, decisions: tuple[Decision, ...], *, alone: bool = False) -> str:
        """Commit a job row; its run is started afterwards. Returns the job's id.

        Args:
            tenant: The tenant.
            request: What was asked for.
            decisions: What it means now.
            alone: Whether it is refused while another job of the tenant has not ended; else it waits for it.

        Raises:
            Conflict: Another job has not ended, or the tenant or a module was removed a moment ago.
        """
        job = str(uuid.uuid4())
        await self._platform.jobs.add(
            job=job,
            tenant=tenant,
            request=_REQUEST.dump_python(request, mode="json"),
            modules=lines(decisions),
            alone=alone,
        )
        self.waiting.set()
        about(tenant=tenant, job=job)
        what = ", ".join(f"{decision.action} {decision.module}" for decision in decisions) or "nothing to do"
        _log.info("job %s of tenant %s: %s", job, tenant, what)
        return job

    async def begin(self, row: JobRow) -> BeginAnswer:
        """Fix the plan of a job: it is made again from the world as it is when its turn has come; later calls get the same.

        Raises:
            ResolutionError: The world has moved and the request cannot be reached any more.
            PlanMoved: The world has moved and the plan is not the one that the request names.
            Conflict: The job has ended without a plan, or a module that it goes by was removed a moment ago.
        """
        request = _REQUEST.validate_python(row.request)
        fixed = row.plan
        if fixed is None:
            planned = await self.plan(row.tenant, request)
            if request.plan is not None:
                await self.plans.check(row.tenant, request.plan, planned)
            modules = [
                dict(line, stage="done" if line["action"] == "uptodate" else "pending")
                for line in with_ways(lines(planned.decisions), planned.plan)
            ]
            fixed = await self._platform.jobs.set_plan(row.id, json.loads(json.dumps(asdict(planned.plan))), modules)
        return BeginAnswer(
            tenant=row.tenant,
            plan=_PLAN.validate_python(fixed),
            parameters=request.parameters,
            deploy=request.deploy,
            invoke=request.invoke,
            ignore_errors=request.ignore_errors,
            parallel=request.parallel,
        )

    async def report_init(self, row: JobRow, report: InitReport) -> None:
        """Merge what a module said at tenant init into its line of the job (requirement C3)."""
        errors = [_notice(text, "TenantInitFailed", report.outcome) for text in report.errors]
        warnings = [_notice(text, "TenantInitWarning", "warning") for text in report.warnings]
        await self._platform.jobs.update_module(
            row.id,
            report.subject,
            errors=errors or None,
            warnings=warnings or None,
            messages=list(report.messages) or None,
            outcome=report.outcome or None,
            progress=_progress(report.progress),
            message="; ".join(report.errors)[:2_000] or None,
        )

    async def finish(self, job: str, request: FinishRequest, *, run: str = "") -> None:
        """End a job and let the tenant's next one take its turn. A hold that it leaves behind is named: none opens itself.

        Args:
            job: The job.
            request: How it ended.
            run: The run that says so; empty: it did not say which.

        Raises:
            Conflict: Another run works on the job by now.
        """

        def still_held(left: list[str]) -> dict[str, Any]:
            text = f"still held, and it stays so until a person decides: {', '.join(left)}; uplift resolve {job}"
            return _notice(text, STILL_HELD, "still_held")

        row = await self._platform.jobs.finish(
            job,
            outcome=request.outcome,
            errors=[notice.model_dump(mode="json", by_alias=True) for notice in request.errors],
            warnings=[notice.model_dump(mode="json", by_alias=True) for notice in request.warnings],
            still_held=still_held,
            run=run,
        )
        if row is None:
            return
        why = f": {row.errors[0]['message'][:300]}" if row.errors else ""
        _log.info("job %s ended as %s%s", job, row.outcome, why)
        for error in row.errors:
            if error.get("type") == STILL_HELD:
                _log.error("job %s of tenant %s: %s", job, row.tenant, error["message"])
        self._tell_ended(job)
        self.waiting.set()
        self._problems.look.set()  # the tenant's bindings have settled; a hold left behind is one

    async def abort(self, job: str) -> JobRow | None:
        """Ask a job to undo what it did and end; one that never started ends at once."""
        row = await self._platform.jobs.request_abort(job)
        _log.info("job %s: abort asked for", job)
        if row is not None and row.state == "ended":
            self._tell_ended(job)
            self._problems.look.set()  # what it was to settle is held still
        self.waiting.set()
        return row

    async def wait_ended(self, job: str) -> JobRow | None:
        """The row of a job when it has ended; None if it was removed."""
        event = self._ended.setdefault(job, asyncio.Event())
        try:
            while True:
                row = await self._platform.jobs.get(job)
                if row is None or row.state == "ended":
                    return row
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(5):
                        await event.wait()
        finally:
            self._ended.pop(job, None)

    def describe(self, row: JobRow) -> dict[str, Any]:
        """A job on the wire: Okapi's members, and ours."""
        job = {
            "id": row.id,
            "complete": row.state == "ended",
            "startDate": row.start_date.isoformat(),
            "endDate": row.end_date.isoformat() if row.end_date else None,
            "modules": row.modules,
            "mode": row.request.get("mode"),
            "status": row.status,
            "outcome": row.outcome,
            "phase": row.phase,
            "plan": None if row.plan is None else row.plan["digest"],
            "errors": row.errors,
            "warnings": row.warnings,
            "heldSeconds": round(row.held_seconds + self._held_now(row), 3),
            "abortRequested": row.abort_requested or None,
            "run": self._run(row) if row.started else None,
        }
        return {name: value for name, value in job.items() if value is not None}

    def _held_now(self, row: JobRow) -> float:
        """Seconds since the job's hold was set, if it stands."""
        since = [link.row.since for link in self._platform.table.links(row.tenant) if link.row is not None and link.job == row.id]
        return max(0.0, (datetime.now(UTC) - min(since)).total_seconds()) if since else 0.0

    def _run(self, row: JobRow) -> dict[str, str]:
        run = {"workflowId": row.run_id}
        if self._platform.ui_url:
            run["url"] = f"{self._platform.ui_url}/namespaces/{self._platform.namespace}/workflows/{quote(row.run_id, safe='')}"
        return run

    def _told(self, job: str) -> None:
        """A replica, maybe this one, changed a job."""
        self._tell_ended(job)
        self.waiting.set()

    def _tell_ended(self, job: str) -> None:
        event = self._ended.get(job)
        if event is not None:
            event.set()


def _leaving_out(request: JobRequest) -> dict[str, str]:
    """The parameters by which a job leaves steps of its plan out. The others are in its changes, or change no step."""
    deploy = {"deploy": "false"} if request.deploy is False else {}
    return deploy | ({"invoke": request.invoke} if request.invoke != "true" else {})


def lines(decisions: tuple[Decision, ...]) -> list[dict[str, Any]]:
    """Decisions as Okapi's TenantModuleDescriptors."""
    return [
        {"id": decision.module, **({"from": decision.module_from} if decision.module_from else {}), "action": decision.action}
        for decision in decisions
    ]


def with_ways(modules: list[dict[str, Any]], plan: Plan) -> list[dict[str, Any]]:
    """Lines of a job, each with the ids of the versions in between that it goes by (`via`), if there are any."""
    named = {line["id"] for line in modules}
    steps: dict[str, list[str]] = {}
    ways: dict[str, list[str]] = {}
    for change in (change for group in plan.groups for change in group.changes):
        if change.subject in named:
            ways[change.subject] = steps.pop(change.product, [])
        else:
            steps.setdefault(change.product, []).append(change.subject)
    return [{**line, "via": way} if (way := ways.get(line["id"])) else line for line in modules]


def results(row: JobRow) -> list[dict[str, Any]]:
    """The lines of an ended job for callers that waited for it: Okapi's members, without stages.

    Where errors were ignored, what was not done says why.
    """
    found = []
    for line in row.modules:
        told: dict[str, Any] = {name: line[name] for name in ("id", "from", "action") if name in line}
        if row.status == "error" and line.get("stage") != "done":
            told["message"] = line.get("message") or "not started: what it needs has failed"
        found.append(told)
    return found


def describe_failure(row: JobRow) -> tuple[int, str]:
    """Status and text of the first error of an ended job, for callers that waited for it. Both are Okapi's."""
    for line in row.modules:
        if line.get("errors"):
            text = str(line["errors"][0]["message"])
            return (500 if text.startswith(_INTERNAL) else 400), text
    errors = [Notice.model_validate(error) for error in row.errors]
    return (400, errors[0].message) if errors else (500, f"job {row.id} ended as {row.outcome}")


def _progress(text: str) -> Any:
    """A module's progress as it told it: JSON is not wrapped into text again."""
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text


def _notice(message: str, kind: str, code: str) -> dict[str, Any]:
    return {"message": message, "type": kind, "code": code, "parameters": []}
