"""Telling the permissions module of a group's changes, in Okapi's order: what it is told stands before tenant init of each.

Users are held while it is told of what they use, and told the old sets again, by the undo, before they go on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities import options
    from activities.signatures import Checked, PermissionSteps, TellStep, UndoResult
    from upgrade_core.ids import product_of
    from upgrade_core.plan import Change, Group
    from upgrade_core.runs import TELLING
    from workflows.hold_point import HoldPoint
    from workflows.undo import FAILURES, reason_of, stop_if_aborted


@dataclass(kw_only=True)
class Telling:
    """What is told on behalf of one group.

    Attributes:
        tenant: The tenant.
        group: The group.
        checked: Product to what `check` found out.
        done: Changes that are initialised.
        begun: Whether anything may have been told.
    """

    tenant: str
    group: Group
    checked: Mapping[str, Checked]
    done: list[Change] = field(default_factory=list)
    begun: bool = False

    @property
    def is_needed(self) -> bool:
        """Whether there is anybody to tell."""
        found = (self.checked.get(change.product) for change in self.group.changes)
        return any(checked.tells or checked.is_told for checked in found if checked is not None)

    def teller(self, change: Change) -> str:
        """The permissions module that is told of a change: one that came before it in the group, or the one that is enabled."""
        teller = self.checked[change.product].tells
        for earlier in self.done:
            if self.checked[earlier.product].is_told and earlier.version_to is not None:
                teller = earlier.version_to
            elif teller == earlier.bound:
                teller = ""
        return teller


class TellsPermissions(HoldPoint):
    """A workflow that initialises modules, and tells the permissions module of them."""

    async def _tell_permissions(self, telling: Telling, change: Change) -> None:
        """Before tenant init: the enabled permissions module is told of the sets that the module has from now on."""
        if not self._does_tell(telling) or not (teller := telling.teller(change)):
            return
        if telling.checked[change.product].is_told or product_of(teller) == change.product:
            return  # a permissions module is told of itself, when it can read it
        if change.version_to is None and change.bound is None:
            return  # the data of what is not enabled is purged: it has no sets
        stop_if_aborted()
        telling.begun = True
        step = self._step_of(telling, teller)
        if change.version_to is not None:
            step = replace(step, modules=(change.version_to,))
        else:
            step = replace(step, gone=(change.subject,))
        await self._tell(replace(step, overlay=any(each.version_to == teller for each in telling.done)))
        self._note(f"✓ told {teller} the permissions of {change.subject}")

    async def _tell_new_permissions_module(self, telling: Telling, change: Change) -> None:
        """After tenant init: a permissions module is told of its own sets, and one that is new of those of all others."""
        if not self._does_tell(telling):
            return
        teller = change.version_to
        if telling.checked[change.product].is_told and teller is not None:
            stop_if_aborted()
            telling.begun = True
            step = replace(
                self._step_of(telling, teller),
                modules=(teller,),
                enabled=change.bound is None,
                changed=(*telling.done, change),
                overlay=True,
            )
            await self._tell(step)
            self._note(f"✓ told {teller} {'the permissions of all modules' if step.enabled else 'its own permissions'}")
        telling.done.append(change)

    async def _tell_upgraded_permissions_module(self, telling: Telling) -> None:
        """After the switch: one that was upgraded is told of all modules once more, as it reads them now (Okapi's refresh).

        Nobody is held for it, and nothing is undone for it: what it knew it still knows.
        """
        if not self._does_tell(telling):
            return
        for change in telling.group.changes:
            teller = change.version_to
            if not telling.checked[change.product].is_told or change.bound is None or teller is None:
                continue
            try:
                await self._tell(replace(self._step_of(telling, teller), enabled=True))
            except FAILURES as error:
                self._warn(f"{teller} was not told the permissions of all modules again: {reason_of(error)}")

    async def _tell_old_permissions(self, telling: Telling) -> None:
        """Undo, when the data is the old versions' again: the enabled permissions module is told what they have."""
        if not telling.begun:
            return
        tellers = dict.fromkeys(telling.checked[change.product].tells for change in telling.group.changes)
        for teller in tellers:
            if not teller:
                continue
            changes = [change for change in telling.group.changes if telling.checked[change.product].tells == teller]
            step = replace(
                self._step_of(telling, teller),
                modules=tuple(change.bound for change in changes if change.bound is not None),
                gone=tuple(change.version_to for change in changes if change.bound is None and change.version_to is not None),
            )
            if not (step.modules or step.gone):
                continue
            while True:
                result = await self._tell_old_once(step)
                self._warn(*result.warnings)
                if result.done:
                    break
                if await self._hold_point("; ".join(result.left)) == "skip":
                    self._left = (*self._left, *result.left)
                    break

    def _does_tell(self, telling: Telling) -> bool:
        return telling.is_needed and workflow.patched(TELLING)

    def _step_of(self, telling: Telling, teller: str) -> TellStep:
        return TellStep(job=self._job, tenant=telling.tenant, group=telling.group.key, teller=teller)

    async def _tell(self, step: TellStep) -> None:
        await self._told(
            lambda known: workflow.execute_activity_method(
                PermissionSteps.tell, replace(step, known=known), summary=f"tell {step.teller}", **options.TELL
            )
        )

    async def _tell_old_once(self, step: TellStep) -> UndoResult:
        return await self._told(
            lambda known: workflow.execute_activity_method(
                PermissionSteps.tell_old, replace(step, known=known), summary=f"tell {step.teller} the old", **options.UNDO
            )
        )
