"""What a plan consists of: groups of changes, each with its steps and their undo. Histories record them: members only grow."""

from dataclasses import dataclass
from enum import StrEnum

from upgrade_core.descriptors import Undo
from upgrade_core.ids import ModuleId


class Kind(StrEnum):
    """What a change does; upgrade, downgrade and reinstall differ by their two versions (requirement B3)."""

    INSTALL = "install"
    UPGRADE = "upgrade"
    DOWNGRADE = "downgrade"
    REINSTALL = "reinstall"
    DISABLE = "disable"
    PURGE = "purge"


class Step(StrEnum):
    """The steps of a group, in their order, side by side."""

    CHECK = "check"
    ACQUIRE = "acquire"
    PRECHECK = "precheck"
    UPDATE = "update"
    SNAPSHOT = "snapshot"
    PERMISSIONS = "permissions"
    INIT = "init"
    VERIFY = "verify"
    SWITCH = "switch"
    WATCH = "watch"
    RELEASE = "release"
    POST_STEPS = "post_steps"


class UndoStep(StrEnum):
    """What takes a step back."""

    GIVE_BACK = "give back"
    RESUME_OLD = "resume old"
    DROP_COPY = "drop copy"
    TELL_OLD = "tell old permissions"
    UNDO_INIT = "undo init"


UNDO_OF: dict[Step, UndoStep] = {
    Step.ACQUIRE: UndoStep.GIVE_BACK,
    Step.UPDATE: UndoStep.RESUME_OLD,
    Step.SNAPSHOT: UndoStep.DROP_COPY,
    Step.PERMISSIONS: UndoStep.TELL_OLD,
    Step.INIT: UndoStep.UNDO_INIT,
}
"""The undo of each step that has one. It is pushed before the step runs; after the switch nothing is undone by itself."""

STEPS: dict[Kind, tuple[Step, ...]] = {
    Kind.INSTALL: tuple(Step),
    Kind.UPGRADE: tuple(Step),
    Kind.DOWNGRADE: tuple(Step),
    Kind.REINSTALL: tuple(Step),
    Kind.DISABLE: (Step.CHECK, Step.UPDATE, Step.PERMISSIONS, Step.INIT, Step.SWITCH, Step.RELEASE),
    Kind.PURGE: (
        Step.CHECK,
        Step.ACQUIRE,
        Step.UPDATE,
        Step.SNAPSHOT,
        Step.PERMISSIONS,
        Step.INIT,
        Step.SWITCH,
        Step.RELEASE,
    ),
}
"""Which steps each kind of change takes. A step that has nothing to do (no data to copy, no checks) is left out by `check`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One product of one tenant moves.

    Attributes:
        kind: What it is, from the two versions.
        product: The product.
        bound: Module id that the tenant has enabled now; None if none.
        version_from: Module id that the tenant's data is at (requirement B8); None where there is none.
        version_to: Module id to go to; None for disable and purge.
        undo: Undo mode that the descriptor or the request names; None: `check` chooses by what it sees.
        turn: How many changes of this product stand before this one in the job's plan: of an upgrade by versions in between, or
            of a product that goes and comes back.
    """

    kind: Kind
    product: str
    bound: str | None = None
    version_from: str | None = None
    version_to: str | None = None
    undo: Undo | None = None
    turn: int = 0

    @property
    def key(self) -> str:
        """Names the change within its job, for the keys of its steps: the product, and which of its changes it is.

        No product looks like another's second change: there is no `-` before a digit in one.
        """
        return f"{self.product}-{self.turn}" if self.turn else self.product

    @property
    def subject(self) -> str:
        """The module id that the change is about, as Okapi's clients see it."""
        return self.version_to or self.bound or self.version_from or self.product

    @property
    def touches(self) -> tuple[str, ...]:
        """The module ids that take part."""
        return tuple(dict.fromkeys(m for m in (self.version_to, self.bound, self.version_from) if m))


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Changes that are held, initialised and switched together.

    Attributes:
        key: Names the group within its job, for step keys.
        changes: In dependency order.
        after: Keys of the groups that must have ended well before.
    """

    key: str
    changes: tuple[Change, ...]
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a job does.

    Attributes:
        digest: Names the plan and the world it was made in.
        groups: In order.
        options: Parameters of the request, and their values, by which steps are left out; by name.
    """

    digest: str
    groups: tuple[Group, ...]
    options: tuple[tuple[str, str], ...] = ()


def change_kind(version_from: str | None, version_to: str) -> Kind:
    """Install, upgrade, downgrade or reinstall, by comparing the versions in two module ids (requirement B3)."""
    if version_from is None:
        return Kind.INSTALL
    old, new = ModuleId.parse(version_from).version, ModuleId.parse(version_to).version
    if new > old:
        return Kind.UPGRADE
    return Kind.DOWNGRADE if new < old else Kind.REINSTALL
