"""Plans that people look at before they start a job: what one says, what has moved since, and for how long it will hold."""

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter

from gateway.platform import Platform
from gateway.store import Conflict, DatabaseError, PlanRow
from upgrade_core.decisions import planned_steps, told_changes
from upgrade_core.descriptors import ModuleDescriptor, Undo
from upgrade_core.ids import hold_id, product_of
from upgrade_core.plan import Change, Group, Kind, Plan, World, differing, estimate, held_times, moved
from upgrade_core.resolution import Decision

_PLAN = TypeAdapter(Plan)
_WORLD = TypeAdapter(World)
_log = logging.getLogger(__name__)
_TOLD = 10
"""Clauses of a difference that are told; the others are counted."""
BY_CHECK = "check"
"""What stands for the undo mode that neither the request nor the descriptor names: only the worker knows where the data is."""


class PlanMoved(Conflict):
    """The plan that was named is not what would be done now; the message says what differs. Nothing was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What a request means for a tenant.

    Attributes:
        decisions: What `resolve` answered.
        plan: In which steps.
        world: What both were made for; of the registered modules, those that the plan goes by.
    """

    decisions: tuple[Decision, ...]
    plan: Plan
    world: World


class Plans:
    """The plans of one platform's tenants."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    async def keep(self, tenant: str, planned: Planned) -> None:
        """Know a plan from now on, at every replica, so that a request may name it.

        Raises:
            Conflict: The tenant was removed a moment ago.
        """
        settings = self._platform.settings
        await self._platform.plans.keep(
            tenant=tenant,
            digest=planned.plan.digest,
            plan=json.loads(json.dumps(asdict(planned.plan))),
            world=json.loads(json.dumps(asdict(planned.world))),
            seconds=settings.plans_keep,
            most=settings.plans_per_tenant,
        )

    async def check(self, tenant: str, digest: str, planned: Planned) -> None:
        """Refuse what is not the plan of a digest.

        Raises:
            PlanMoved: It would be another plan now.
        """
        if digest == planned.plan.digest:
            return
        row = await self._platform.plans.get(tenant, digest)
        if row is None:
            raise PlanMoved(
                f"plan {digest} of tenant {tenant} is not known, or not any more, and the plan is {planned.plan.digest} now:"
                " simulate again (dryRun=true), look at the plan, then name it"
            )
        world = await self._moved(row, planned)
        steps = differing(_PLAN.validate_python(row.plan), planned.plan)
        why = "the world has moved" if world else "the request is not the one of that plan"
        if not world and not steps:
            why = "another release of the gateway made that plan"
        clauses = "; ".join(_listed(each) for each in (world, steps) if each)
        raise PlanMoved(f"{why}: the plan is {planned.plan.digest} now, not {digest}; simulate again. {clauses}".rstrip())

    async def _moved(self, row: PlanRow, planned: Planned) -> tuple[str, ...]:
        """What is other than when a plan was made; of the registry, where its products, the tenant's or today's are concerned."""
        before = _WORLD.validate_python(row.world)
        table = self._platform.table
        known = [module for module in before.registered if module in table.modules]
        products = {product_of(module) for module in (*before.enabled, *before.registered, *planned.world.registered)}
        new = [module for module in await self._platform.plans.registered_since(row.made) if product_of(module) in products]
        return moved(
            before,
            World.of(
                enabled=planned.world.enabled,
                registered={*known, *new},
                data_versions=dict(planned.world.data_versions),
            ),
        )

    async def describe(self, tenant: str, planned: Planned, *, deploy: bool | None, invoke: str) -> dict[str, Any]:
        """A plan on the wire, for people (`dryRun=true`).

        Args:
            tenant: The tenant.
            planned: What was planned for it.
            deploy: Whether instances are to be started; None: where possible.
            invoke: Of which modules tenant init is called: `true`, `false`, or an expression.
        """
        plan = planned.plan
        changes = [change for group in plan.groups for change in group.changes]
        past = await self._platform.held_times.of(change.product for change in changes)
        found = estimate(plan, past, last=self._platform.settings.estimate_last)
        told = told_changes(plan, enabled=planned.world.enabled, describe=self._descriptor, invoke=invoke)
        groups = [
            {
                "key": group.key,
                "after": list(group.after),
                "changes": [
                    self._change(change, deploy=deploy, invoke=invoke, is_told=change in told) for change in group.changes
                ],
                "heldSeconds": _rounded(seconds),
            }
            for group, seconds in zip(plan.groups, found.groups, strict=True)
        ]
        return {
            "digest": plan.digest,
            "tenant": tenant,
            "groups": groups,
            "deploys": sorted({change.subject for change in changes if self._instance(change, deploy=deploy) == "deployed"}),
            "warnings": [*await self._waits(tenant, changes), *self._warnings(changes, deploy=deploy)],
            "heldSeconds": _rounded(found.total),
            "heldUnknown": found.unknown,
        }

    async def remember(self, *, job: str, plan: dict[str, Any] | None, group: str, stood: dict[str, float]) -> None:
        """Remember what a group was held for, now that it is switched; that is lost if the database goes away just then.

        Args:
            job: The job.
            plan: Its plan, as its row has it.
            group: Key of the group.
            stood: Ids of the holds that were removed, and the seconds that they stood.
        """
        if plan is None or not stood:
            return
        for each in _PLAN.validate_python(plan).groups:
            if each.key == group and any(hold_id(job, group, change.product) in stood for change in each.changes):
                try:
                    await self._platform.held_times.add(
                        held_times(each, max(stood.values())), last=self._platform.settings.estimate_last
                    )
                except DatabaseError as error:
                    _log.warning("what job %s held for is not remembered: %s", job, error)

    def _change(self, change: Change, *, deploy: bool | None, invoke: str, is_told: bool) -> dict[str, Any]:
        by_place = Undo.SNAPSHOT if self._descriptor(change.subject).uplift.data_dsn else BY_CHECK
        undo = None if change.kind is Kind.DISABLE else (change.undo or by_place)
        members: dict[str, Any] = {
            "kind": change.kind,
            "id": change.subject,
            "from": change.version_from,
            "bound": change.bound,
            "undo": undo,
            "steps": list(planned_steps(change, describe=self._descriptor, invoke=invoke, is_told=is_told)),
            "instance": self._instance(change, deploy=deploy),
        }
        return {name: value for name, value in members.items() if value is not None}

    def _descriptor(self, module: str) -> ModuleDescriptor:
        """A bare one for what nobody registered any more."""
        return self._platform.table.modules.get(module) or ModuleDescriptor(id=module, product=product_of(module))

    def _instance(self, change: Change, *, deploy: bool | None) -> str | None:
        """Where the instance comes from that a change needs: `running`, `deployed` or `awaited`; None: it needs none."""
        descriptor = self._descriptor(change.subject)
        if change.kind is Kind.DISABLE or not descriptor.needs_instance:
            return None
        if self._platform.table.instances.get(change.subject):
            return "running"
        launch = descriptor.launch
        return "deployed" if deploy is not False and launch is not None and launch.is_process else "awaited"

    def _warnings(self, changes: Iterable[Change], *, deploy: bool | None) -> list[str]:
        found = []
        for change in changes:
            if change.kind is Kind.PURGE:
                found.append(f"{change.subject}: the data of {change.product} is destroyed")
            if change.kind is Kind.DOWNGRADE:
                found.append(f"{change.subject} is a downgrade: the data is at {change.version_from}")
            if change.undo is Undo.FORWARD_ONLY:
                found.append(f"{change.subject}: if it fails, it waits for a person, since there is no way back")
            if self._instance(change, deploy=deploy) == "awaited":
                found.append(f"{change.subject} has no instance and none is started for it: start and register one")
        return found

    async def _waits(self, tenant: str, changes: list[Change]) -> list[str]:
        """Jobs that come first, and what somebody else holds."""
        table = self._platform.table
        jobs = [job.id for job in await self._platform.jobs.open() if job.tenant == tenant]
        products = {change.product for change in changes}
        held = [
            (link.product, link.row.holder)
            for link in (*table.links(tenant), *table.stars.values())
            if link.product in products and link.row is not None and link.row.job is None
        ]
        return [
            *(f"job {job} comes first: the plan is made again when it has ended" for job in jobs),
            *(f"{product} is held by {holder}: a group with it fails until that is opened" for product, holder in held),
        ]


def touched(groups: Iterable[Group]) -> tuple[str, ...]:
    """The module ids that a plan goes by."""
    return tuple(sorted({module for group in groups for change in group.changes for module in change.touches}))


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _listed(clauses: tuple[str, ...]) -> str:
    more = len(clauses) - _TOLD
    return "; ".join(clauses[:_TOLD]) + (f"; and {more} more" if more > 0 else "")
