"""What does not fit together, and whether two looks agree on it: the rules of `docs/how-to/reconcile.md`."""

from upgrade_core.reconcile.report import Difference, Kind, Repair, Verb
from upgrade_core.reconcile.world import HeldLink, Intent, NodeView, Process, World, job_of
from upgrade_core.runs import module_run_id

PART_AGE = 3_600.0
"""Seconds after which nobody writes to a half copy any more: its file grows all the time while one is taken."""
_NAMED = 3  # tenants that a message names


def differences(world: World) -> tuple[Difference, ...]:
    """What does not fit together, by key."""
    look = _Look(world)
    found = [
        *look.rows_of_jobs(), *look.jobs_and_runs(), *look.versions(), *look.tenants(), *look.snapshots(), *look.nodes(),
    ]  # fmt: skip
    return tuple(sorted(found, key=lambda difference: difference.key))


def confirmed(earlier: tuple[Difference, ...], later: tuple[Difference, ...]) -> tuple[Difference, ...]:
    """What both looks found, as the later one saw it: a process that was started anew meanwhile is not the one seen before."""
    before = {difference.key: difference for difference in earlier}
    return tuple(
        difference
        for difference in later
        if difference.key in before and (difference.repair is None or before[difference.key].repair == difference.repair)
    )


def doubtful(found: tuple[Difference, ...]) -> tuple[str, ...]:
    """Ids of the runs whose absence, or presence, makes a difference: a list of runs may be a moment behind."""
    runs = {difference.key.partition(":")[2] for difference in found if difference.kind in (Kind.JOB, Kind.RUN)}
    versions = {difference.module for difference in found if difference.kind in (Kind.RETIREMENT, Kind.VERSION, Kind.PROCESS)}
    return tuple(sorted(runs | {module_run_id(module) for module in versions if module is not None}))


class _Look:
    """One comparison; its parts are the rows of the table in `docs/how-to/reconcile.md`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ledger = world.ledger
        self._jobs = {job.id: job for job in self._ledger.jobs}
        self._runs = {run.id for run in world.runs}
        # what is named after a job works for it: a group may go on undoing when the job's own run was terminated
        self._with_runs = {job for run in world.runs if (job := job_of(run)) is not None}
        self._held = {hold.job for hold in self._ledger.holds}
        self._claimed = {claim.module for claim in self._ledger.claims if not self._is_settled(claim.job)}
        self._claimed |= {*self._ledger.asked_for}
        self._bound = {bound.module: bound for bound in self._ledger.bound}
        self._looked = {view.node for view in world.nodes if not view.silent and not view.trouble}

    def _is_at_work(self, job: str) -> bool:
        return job in self._jobs or job in self._with_runs

    def _is_settled(self, job: str) -> bool:
        """Nothing will ever be done for it again: a job that has ended is opened again only to settle its holds."""
        return not self._is_at_work(job) and job not in self._held

    def _has_lost_run(self, job: str) -> bool:
        return job in self._jobs and self._jobs[job].started and job not in self._with_runs

    def rows_of_jobs(self) -> list[Difference]:
        """Claims, overlays, intents and holds whose job has ended."""
        found = [
            Difference(
                key=f"{Kind.CLAIM}:{claim.module}:{claim.job}",
                kind=Kind.CLAIM,
                message=f"job {claim.job} has ended and still claims {claim.module}, which therefore never retires",
                remedy="the claim is given back",
                module=claim.module,
                job=claim.job,
                repair=Repair(verb=Verb.GIVE_BACK, job=claim.job, module=claim.module),
            )
            for claim in self._ledger.claims
            if self._is_settled(claim.job)
        ]
        found += [
            Difference(
                key=f"{Kind.OVERLAY}:{overlay.job}:{overlay.product}",
                kind=Kind.OVERLAY,
                message=f"job {overlay.job} has ended and its overlay of {overlay.product} is still open: whoever knows its"
                " address reaches what was never switched to",
                remedy="the overlay is closed, and what is at work under it is cut",
                module=overlay.product,
                tenant=overlay.tenant,
                job=overlay.job,
                repair=Repair(verb=Verb.CLOSE_OVERLAY, job=overlay.job, product=overlay.product),
            )
            for overlay in self._ledger.overlays
            if self._is_settled(overlay.job)
        ]
        found += [self._intent(intent) for intent in self._ledger.intents if not self._is_at_work(intent.job)]
        found += [
            self._hold(hold) for hold in self._ledger.holds if not self._is_at_work(hold.job) or self._has_lost_run(hold.job)
        ]
        return found

    def _intent(self, intent: Intent) -> Difference:
        repair = None
        if intent.job in self._held:
            remedy = f"settle the job with `uplift resolve {intent.job}`"
        elif intent.alive:
            remedy = (
                f"look whether {intent.module} is still at work for the tenant; the intent is ended once the process that was"
                " asked is not registered any more: restart it when it is idle"
            )
        else:
            remedy = "the intent is ended: the process that was asked is gone, and nobody holds the tenant any more"
            repair = Repair(verb=Verb.END_INTENT, job=intent.job, product=intent.product, subject=intent.key)
        return Difference(
            key=f"{Kind.INTENT}:{intent.key}",
            kind=Kind.INTENT,
            message=f"job {intent.job} has ended and its tenant init of {intent.module} for tenant {intent.tenant} has not:"
            f" no other init of {intent.product} can begin there",
            remedy=remedy,
            module=intent.module,
            tenant=intent.tenant,
            job=intent.job,
            repair=repair,
        )

    def _hold(self, hold: HeldLink) -> Difference:
        why = "has no run any more" if self._has_lost_run(hold.job) else "has ended"
        return Difference(
            key=f"{Kind.HOLD}:{hold.id}",
            kind=Kind.HOLD,
            message=f"job {hold.job} {why} and {hold.product} of tenant {hold.tenant} is still held: its requests wait",
            remedy=f"settle the job with `uplift resolve {hold.job}`; a hold never opens by itself, since nobody else knows what"
            " state the data is in",
            module=hold.product,
            tenant=hold.tenant,
            job=hold.job,
        )

    def jobs_and_runs(self) -> list[Difference]:
        """Jobs without a run, and runs without a job."""
        found = [
            Difference(
                key=f"{Kind.JOB}:{job.id}",
                kind=Kind.JOB,
                message=f"job {job.id} is open and Temporal has no run of it",
                remedy="the gateway ends it as lost by itself within seconds; if it does not, look at the gateway's log",
                job=job.id,
            )
            for job in self._ledger.jobs
            if self._has_lost_run(job.id)
        ]
        found += [
            Difference(
                key=f"{Kind.RUN}:{run.id}",
                kind=Kind.RUN,
                message=f"run {run.id} ({run.type}) is open and there is no open job of it",
                remedy=f"look at it in the Temporal UI: what is undoing its job comes to its end by itself; else"
                f" `temporal workflow cancel --workflow-id {run.id}`",
                job=job,
            )
            for run in self._world.runs
            if (job := job_of(run)) is not None and job not in self._jobs
        ]
        return found

    def versions(self) -> list[Difference]:
        """Versions that are to go and that nobody takes away."""
        found = [
            Difference(
                key=f"{Kind.RETIREMENT}:{module}",
                kind=Kind.RETIREMENT,
                message=f"{module} is marked as on its way out and no run takes it away: it can be claimed by nobody",
                remedy="a run is started that finishes its retirement",
                module=module,
                repair=Repair(verb=Verb.FINISH_RETIREMENT, module=module),
            )
            for module in self._ledger.retiring
            if module_run_id(module) not in self._runs
        ]
        found += [
            Difference(
                key=f"{Kind.VERSION}:{module}",
                kind=Kind.VERSION,
                message=f"{module} is deployed, nobody needs it, and no run looks after it",
                remedy="a run is told, which retires it after its grace unless somebody comes to need it",
                module=module,
                repair=Repair(verb=Verb.TELL_UNNEEDED, module=module),
            )
            for module in sorted({instance.module for instance in self._ledger.instances})
            if self._is_unneeded(module) and module_run_id(module) not in self._runs
        ]
        return found

    def tenants(self) -> list[Difference]:
        """What tenants have and what runs or what their data is at."""
        found = [
            Difference(
                key=f"{Kind.UNSERVED}:{bound.module}",
                kind=Kind.UNSERVED,
                message=f"{_tenants(bound.tenants, bound.some)} {bound.module} and no instance of it is registered",
                remedy=f"register an instance at /_/discovery/modules, or have ours started:"
                f" `temporal workflow signal --workflow-id {module_run_id(bound.module)} --name restart`",
                module=bound.module,
            )
            for bound in self._ledger.bound
            if not bound.served and bound.module not in self._claimed
        ]
        found += [
            Difference(
                key=f"{Kind.DATA}:{stale.module}:{stale.data}",
                kind=Kind.DATA,
                message=f"{_tenants(stale.tenants, stale.some)} {stale.module} and data of {stale.data}",
                remedy=f"install {stale.module} for each with reinstall=true, which takes the data from {stale.data} to it"
                " (requirement B8)",
                module=stale.module,
                tenant=stale.some[0] if stale.tenants == 1 and stale.some else None,
            )
            for stale in self._ledger.stale
        ]
        return found

    def snapshots(self) -> list[Difference]:
        """Copies whose time never begins: their job ended without saying so."""
        return [
            Difference(
                key=f"{Kind.SNAPSHOT}:{snapshot.id}",
                kind=Kind.SNAPSHOT,
                message=f"job {snapshot.job} has ended and its copy {snapshot.id} would be kept for ever",
                remedy="the time that it is kept begins now (snapshots.keep)",
                job=snapshot.job,
                repair=Repair(verb=Verb.KEEP_SNAPSHOT, job=snapshot.job, subject=snapshot.id),
            )
            for snapshot in self._ledger.snapshots
            if not snapshot.kept and self._is_settled(snapshot.job)
        ]

    def nodes(self) -> list[Difference]:
        """What the nodes have and what is registered."""
        found: list[Difference] = []
        for view in self._world.nodes:
            if view.silent:
                instances = sum(instance.node == view.node for instance in self._ledger.instances)
                if instances:
                    found.append(_silent(view.node, instances))
            elif view.trouble:
                found.append(_troubled(view.node, view.trouble))
            else:
                found += self._processes(view)
                found += self._files(view)
        return found

    def _processes(self, view: NodeView) -> list[Difference]:
        registered = {(instance.id, instance.module) for instance in self._ledger.instances if instance.node == view.node}
        running = {process.instance: process for process in view.processes}
        found = [
            self._stray(process, view.node)
            for process in view.processes
            if (process.instance, process.module) not in registered
            and process.module not in self._claimed
            and process.module not in self._ledger.retiring
        ]
        for instance in self._ledger.instances:
            if instance.node != view.node or instance.module in self._claimed or instance.module in self._ledger.retiring:
                continue
            process = running.get(instance.id)
            if process is None or process.generation != instance.generation:
                found.append(
                    Difference(
                        key=f"{Kind.INSTANCE}:{instance.id}",
                        kind=Kind.INSTANCE,
                        message=f"{instance.id} is registered and its process on node {view.node} is gone",
                        remedy="the worker of that node starts it again by itself; if it does not, its log tells why",
                        node=view.node,
                        module=instance.module,
                    )
                )
        return found

    def _stray(self, process: Process, node: str) -> Difference:
        repair = None
        if process.module in self._bound:
            remedy = (
                "end it by hand if its module said DISCONNECT and does not leave; else have it registered:"
                f" `temporal workflow signal --workflow-id {module_run_id(process.module)} --name restart`"
            )
        elif module_run_id(process.module) in self._runs:
            remedy = "the version's run is told that nobody needs it, and stops it"
            repair = Repair(verb=Verb.TELL_UNNEEDED, module=process.module)
        else:
            remedy = "nobody needs that version: it is stopped"
            repair = Repair(
                verb=Verb.STOP_PROCESS, node=node, module=process.module, subject=process.instance, generation=process.generation
            )
        return Difference(
            key=f"{Kind.PROCESS}:{node}:{process.instance}",
            kind=Kind.PROCESS,
            message=f"{process.instance} runs on node {node} and is not registered: no request reaches it",
            remedy=remedy,
            node=node,
            module=process.module,
            repair=repair,
        )

    def _files(self, view: NodeView) -> list[Difference]:
        found = [
            Difference(
                key=f"{Kind.SNAPSHOT}:{snapshot.id}:{view.node}",
                kind=Kind.SNAPSHOT,
                message=f"the file of copy {snapshot.id} is not on node {view.node} any more: it cannot be restored",
                remedy="if it was moved, move it back; else the record goes when its time is over",
                node=view.node,
                job=snapshot.job,
            )
            for snapshot in view.lost
            if not self._is_at_work(snapshot.job)
        ]
        for file in view.files:
            if not self._is_settled(file.job):
                continue
            worthless = file.age > PART_AGE if file.part else file.over
            repair = None
            if worthless and file.age > self._ledger.oldest_job:
                remedy = "it is removed"
                repair = Repair(verb=Verb.REMOVE_FILE, node=view.node, job=file.job, subject=file.path)
            else:
                remedy = "keep it if you need it; it is removed when it is older than any copy is kept (snapshots.keep)"
            what = "a half copy" if file.part else "a copy"
            found.append(
                Difference(
                    key=f"{Kind.FILE}:{view.node}:{file.path}",
                    kind=Kind.FILE,
                    message=f"{file.path} on node {view.node} is {what} that nobody recorded",
                    remedy=remedy,
                    node=view.node,
                    job=file.job,
                    repair=repair,
                )
            )
        return found

    def _is_unneeded(self, module: str) -> bool:
        return module not in self._bound and module not in self._claimed and module not in self._ledger.retiring


def _silent(node: str, instances: int) -> Difference:
    return Difference(
        key=f"{Kind.NODE}:{node}",
        kind=Kind.NODE,
        message=f"node {node} has {instances} instances registered and no worker there answers",
        remedy="start the worker there: until then nothing of that node is started again, retired or looked at",
        node=node,
    )


def _troubled(node: str, trouble: str) -> Difference:
    return Difference(
        key=f"{Kind.NODE}:{node}",
        kind=Kind.NODE,
        message=f"node {node} cannot be looked at: {trouble}",
        remedy="mend what it names; until then nothing of that node is compared",
        node=node,
    )


def _tenants(number: int, some: tuple[str, ...]) -> str:
    named = ", ".join(some[:_NAMED])
    if number == 1:
        return f"tenant {named} has"
    return f"{number} tenants ({named}{', …' if number > len(some[:_NAMED]) else ''}) have"
