"""What a person may decide about a job that cannot go on by itself, and what speaks against it (requirements D2, D3, D4).

| the job | possible |
|---|---|
| works, and a run of it waits at a hold point | `retry`, `skip` |
| has ended and left holds behind | `old`, `new` |
| anything else | nothing |
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from upgrade_core.descriptors import ModuleDescriptor, Undo
from upgrade_core.ids import hold_id, product_of
from upgrade_core.plan import STEPS, Change, Group, Kind, Plan, Step
from upgrade_core.tenant_init import init_call, is_invoked, purpose_of


class Choice(StrEnum):
    """What a person decides."""

    RETRY = "retry"
    """Try again what could not be done."""
    SKIP = "skip"
    """Do not; go on without it."""
    OLD = "old"
    """Take everything back and open the old version."""
    NEW = "new"
    """Switch to the new version and open it."""


class Init(StrEnum):
    """Where the tenant init of a change stands, as far as it was written down."""

    NOT_CALLED = "not called"
    """The module has no call for it, or the job asked for none."""
    NOT_ASKED = "not asked for"
    UNDER_WAY = "under way"
    """It was asked for, and nobody has seen its end."""
    DONE = "done"
    FAILED = "failed"
    UNDONE = "undone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a decision does not fit.

    Attributes:
        text: The reason, and what would fit.
        possible: What would.
    """

    text: str
    possible: tuple[Choice, ...]


def possible_choices(*, has_ended: bool, held: int, waiting: int) -> tuple[Choice, ...]:
    """What may be decided, in the order of the table above.

    Args:
        has_ended: Whether the job has.
        held: How many holds of it stand.
        waiting: How many of its runs wait at a hold point.
    """
    if has_ended:
        return (Choice.OLD, Choice.NEW) if held else ()
    return (Choice.RETRY, Choice.SKIP) if waiting else ()


def refuse_choice(
    choice: Choice, *, job: str, has_ended: bool, held: int, waiting: int, standing: Mapping[str, Init], force: bool = False
) -> Refusal | None:
    """What speaks against a decision; None: nothing.

    Args:
        choice: The decision.
        job: Names the job in the text.
        has_ended: Whether it has.
        held: How many holds of it stand.
        waiting: How many of its runs wait at a hold point.
        standing: Subject of each held change to where its tenant init stands.
        force: Whether `new` is meant although tenant init did not end well.
    """
    possible = possible_choices(has_ended=has_ended, held=held, waiting=waiting)
    if choice not in possible:
        if possible:
            why = "it has ended and left holds behind" if has_ended else "it waits at a hold point"
            text = f"{choice} does not fit job {job}: {why}; {' or '.join(possible)} is possible"
        elif has_ended:
            text = f"there is nothing to decide: job {job} has ended and nothing that it held is held any more"
        else:
            text = (
                f"there is nothing to decide: job {job} is at work and waits for nobody; abort it if it must not go on, or wait"
                " until it has ended"
            )
        return Refusal(text=text, possible=possible)
    if choice is Choice.NEW and not force:
        bad = [f"{subject} is {init}" for subject, init in standing.items() if not is_well(init)]
        if bad:
            text = (
                f"new does not fit job {job}: tenant init of {', of '.join(bad)}; old is possible, or new with force if you know"
                " that the data is the new version's"
            )
            return Refusal(text=text, possible=(Choice.OLD,))
    return None


def is_well(init: Init) -> bool:
    """Whether the data can be taken for the new version's without anybody's word for it."""
    return init in (Init.DONE, Init.NOT_CALLED)


def init_standing(*, calls: bool, state: str | None, effect: str) -> Init:
    """Where a tenant init stands.

    Args:
        calls: Whether it is called for this change at all; see `calls_init`.
        state: Of its intent: `asked`, `following` or `ended`; None: there is none.
        effect: Of its last answer; empty: it was undone, or never asked for.
    """
    if state is None:
        return Init.NOT_ASKED if calls else Init.NOT_CALLED
    if state != "ended":
        return Init.UNDER_WAY
    if effect == "done":
        return Init.DONE
    return Init.FAILED if effect else Init.UNDONE


def calls_init(change: Change, asked: ModuleDescriptor, *, invoke: str) -> bool:
    """Whether tenant init is called for a change.

    Args:
        change: The change.
        asked: The module whose instance is asked.
        invoke: The job's option: `true`, `false`, or an expression.
    """
    call = init_call(asked, purpose=purpose_of(change.kind), module_from=change.version_from, module_to=change.version_to)
    return call is not None and is_invoked(invoke, change.subject)


def planned_steps(
    change: Change, *, describe: Callable[[str], ModuleDescriptor], invoke: str, is_told: bool = False
) -> tuple[Step, ...]:
    """The steps of a change, without those for which the descriptors leave nothing to do.

    Whether there is data to copy is only seen when the change begins: then `snapshot` may turn out to have nothing to do.

    Args:
        change: The change.
        describe: Gives the descriptor of a module id.
        invoke: The job's option, as of `calls_init`.
        is_told: Whether a permissions module is told of it; see `told_changes`.
    """
    subject = describe(change.subject)
    asked = change.version_to or change.bound or change.subject
    if change.kind is Kind.DOWNGRADE and change.bound is not None and describe(change.bound).uplift.undo is Undo.REVERSIBLE:
        asked = change.bound  # it knows the way back
    calls = calls_init(change, describe(asked), invoke=invoke)
    nothing_to_do = {
        Step.ACQUIRE: not subject.needs_instance,
        Step.PRECHECK: not subject.uplift.prechecks,
        Step.PERMISSIONS: not is_told,
        Step.SNAPSHOT: not calls or change.undo not in (None, Undo.SNAPSHOT),
        Step.INIT: not calls,
        Step.VERIFY: not (subject.uplift.checks or subject.uplift.data_version),
        Step.WATCH: not subject.uplift.soak,
        Step.POST_STEPS: not subject.uplift.post_steps,
    }
    return tuple(step for step in STEPS[change.kind] if not nothing_to_do.get(step, False))


def told_changes(
    plan: Plan, *, enabled: Collection[str], describe: Callable[[str], ModuleDescriptor], invoke: str
) -> frozenset[Change]:
    """The changes of a plan of which a permissions module is told at their turn (`workflows.telling`).

    Args:
        plan: The plan.
        enabled: Ids of the modules that the tenant has before.
        describe: Gives the descriptor of a module id.
        invoke: The job's option, as of `calls_init`.
    """
    bound = {product_of(module): module for module in enabled}
    found: set[Change] = set()
    for group in plan.groups:
        teller = next((module for module in sorted(bound.values()) if describe(module).is_permissions_module), "")
        teller = teller if is_invoked(invoke, teller) else ""
        for change in sorted(group.changes, key=lambda each: each.version_to is None):  # what leaves goes last
            to = change.version_to
            if to is not None and describe(to).is_permissions_module and is_invoked(invoke, to):
                found.add(change)
                teller = to
                continue
            if teller and product_of(teller) != change.product and (to or change.bound):
                found.add(change)
            if teller == change.bound:
                teller = ""
        bound |= {change.product: change.version_to or "" for change in group.changes}
        bound = {product: module for product, module in bound.items() if module}
    return frozenset(found)


def held_groups(plan: Plan, job: str, holds: Collection[str]) -> tuple[Group, ...]:
    """The groups of a job's plan of which a hold stands, in the order of the plan.

    Args:
        plan: The job's.
        job: Its id.
        holds: Ids of the holds that stand.
    """
    return tuple(
        group for group in plan.groups if any(hold_id(job, group.key, change.product) in holds for change in group.changes)
    )
