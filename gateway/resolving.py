"""What a job cannot go on with by itself, shown to a person, and what they decide (requirements D2, D3, D4)."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from gateway.jobs import JobRequest, Jobs
from gateway.pipelines import Pipelines, TemporalAway
from gateway.platform import Platform
from gateway.problems import Problems
from gateway.store import Conflict, HoldRow, IntentRow, JobRow, SnapshotRow
from upgrade_core.decisions import Choice, Init, calls_init, held_groups, init_standing, possible_choices, refuse_choice
from upgrade_core.ids import copy_id, hold_id, step_key
from upgrade_core.plan import Change, Group, Plan
from upgrade_core.runs import group_run_id, resolve_run_id

_PLAN = TypeAdapter(Plan)
_REQUEST = TypeAdapter(JobRequest)
_log = logging.getLogger(__name__)


class Refused(Exception):
    """A decision does not fit; nothing was changed.

    Attributes:
        possible: What would.
    """

    def __init__(self, text: str, possible: Sequence[Choice]) -> None:
        super().__init__(text)
        self.possible = tuple(possible)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldChange:
    """A change of a job whose hold stands.

    Attributes:
        group: Key of its group.
        init: Where its tenant init stands.
        data_version: The module id that the tenant's data is at, as far as it was written down.
        copy: The copy that was taken before tenant init.
    """

    group: str
    change: Change
    hold: HoldRow
    init: Init
    data_version: str | None
    copy: SnapshotRow | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is to be decided about a job.

    Attributes:
        groups: Those of which a hold stands.
        held: Their changes.
        waiting: Run at a hold point to why it waits; None: Temporal or the worker cannot be asked now.
        possible: What may be decided.
    """

    groups: tuple[Group, ...]
    held: tuple[HeldChange, ...]
    waiting: Mapping[str, str] | None
    possible: tuple[Choice, ...]


class Resolving:
    """Settles jobs that wait for a person."""

    def __init__(self, *, platform: Platform, jobs: Jobs, pipelines: Pipelines, problems: Problems) -> None:
        self._platform = platform
        self._jobs = jobs
        self._pipelines = pipelines
        self._problems = problems

    async def look(self, row: JobRow) -> Standing:
        """What is held, how far it had come, and what may be decided."""
        platform = self._platform
        holds = {hold.id: hold for hold in await platform.holds.of_job(row.id)}
        groups = () if row.plan is None else held_groups(_PLAN.validate_python(row.plan), row.id, holds)
        intents = {intent.key: intent for intent in await platform.runs.intents(row.id)}
        copies = {copy.id: copy for copy in await platform.runs.snapshots(tenant=row.tenant) if copy.job == row.id}
        versions = await platform.registry.data_versions(row.tenant)
        held = tuple(
            HeldChange(
                group=group.key,
                change=change,
                hold=holds[key],
                init=self._init(row, change, intents.get(step_key(row.id, change.key, "init"))),
                data_version=versions.get(change.product),
                copy=copies.get(copy_id(row.id, change.key)),
            )
            for group in groups
            for change in group.changes
            if (key := hold_id(row.id, group.key, change.product)) in holds
        )
        waiting: Mapping[str, str] | None = {}
        if row.state == "active" and row.started:
            waiting = await self._waiting(row, groups)
        # Where nobody can be asked, the job's phase is what was heard last.
        count = int(row.phase == "needs_operator") if waiting is None else len(waiting)
        possible = possible_choices(has_ended=row.state == "ended", held=len(holds), waiting=count)
        return Standing(groups=groups, held=held, waiting=waiting, possible=possible)

    async def decide(self, row: JobRow, choice: Choice, *, actor: str, reason: str, force: bool) -> JobRow:
        """Carry out a decision; `old` and `new` are begun.

        Args:
            row: The job.
            choice: The decision.
            actor: Who decides.
            reason: Why, for people.
            force: `new` although tenant init did not end well.

        Raises:
            Refused: It does not fit.
            Conflict: It cannot be carried out now.
            TemporalAway: Temporal or the worker cannot be asked now.
        """
        standing = await self.look(row)
        if standing.waiting is None:
            raise TemporalAway("whether the job waits for a decision cannot be asked now: Temporal or its worker does not answer")
        refusal = refuse_choice(
            choice,
            job=row.id,
            has_ended=row.state == "ended",
            held=len(standing.held),
            waiting=len(standing.waiting),
            standing={each.change.subject: each.init for each in standing.held},
            force=force,
        )
        if refusal is not None:
            raise Refused(refusal.text, refusal.possible)
        notice = _notice(choice, actor=actor, reason=reason, force=force)
        if choice in (Choice.RETRY, Choice.SKIP):
            heard = [run for run in standing.waiting if await self._pipelines.decide(run, choice)]
            if not heard:
                raise Refused(f"there is nothing to decide any more: job {row.id} went on a moment ago", ())
            await self._platform.jobs.add_warning(row.id, notice)
            found = row
        else:
            await self._check_nothing_runs(row, standing.groups)
            found = await self._platform.jobs.reopen(
                row.id,
                decision=choice,
                groups=[group.key for group in standing.groups],
                holds=[each.hold.id for each in standing.held],
                warning=notice,
                run=lambda number: resolve_run_id(row.id, number),
            )
            self._jobs.waiting.set()
        self._problems.look.set()
        _log.info("job %s of tenant %s: %s", row.id, row.tenant, notice["message"])
        return await self._platform.jobs.get(row.id) or found

    def _init(self, row: JobRow, change: Change, intent: IntentRow | None) -> Init:
        asked = self._platform.table.modules.get(intent.module if intent else change.version_to or change.bound or change.subject)
        invoke = _REQUEST.validate_python(row.request).invoke
        return init_standing(
            calls=asked is None or calls_init(change, asked, invoke=invoke),
            state=intent.state if intent else None,
            effect=str((intent.answer or {}).get("effect", "")) if intent else "",
        )

    async def _waiting(self, row: JobRow, groups: Sequence[Group]) -> Mapping[str, str] | None:
        runs = [*(group_run_id(row.id, group.key) for group in groups), row.id] if row.run is None else [row.run]
        try:
            found = {run: await self._pipelines.hold_point(run) for run in runs}
        except TemporalAway:
            return None
        return {run: why for run, why in found.items() if why}

    async def _check_nothing_runs(self, row: JobRow, groups: Sequence[Group]) -> None:
        """A job that ended without its groups, since its run was lost, may have groups that still undo what they did.

        Raises:
            Conflict: One does.
        """
        for group in groups:
            run = group_run_id(row.id, group.key)
            if await self._pipelines.is_running(run):
                raise Conflict(f"run {run} is still at work: it undoes what it did. Wait until it has ended, then look again")


def _notice(choice: Choice, *, actor: str, reason: str, force: bool) -> dict[str, Any]:
    who, how, why = actor or "anonymous", " by force" if force and choice is Choice.NEW else "", f": {reason}" if reason else ""
    return {"message": f"resolved by {who} as {choice}{how}{why}", "type": "Resolved", "code": "resolved", "parameters": []}
