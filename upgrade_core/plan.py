"""In which steps a decision is carried out: groups of changes, each with its steps and their undo.

A *change* moves one product of one tenant; a *group* is held, initialised and switched together (one change a group for now). The
plan has a digest: a run refuses when the world has moved since it was made. Requirements B1, B3, B4, B8, D1, D2.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum

from upgrade_core.descriptors import ModuleDescriptor, Undo, accepts_upgrade_from
from upgrade_core.errors import ResolutionError
from upgrade_core.ids import ModuleId, product_of
from upgrade_core.resolution import Decision


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
    UPDATE = "update"
    SNAPSHOT = "snapshot"
    INIT = "init"
    VERIFY = "verify"
    SWITCH = "switch"
    WATCH = "watch"
    RELEASE = "release"


class UndoStep(StrEnum):
    """What takes a step back."""

    GIVE_BACK = "give back"
    RESUME_OLD = "resume old"
    DROP_COPY = "drop copy"
    UNDO_INIT = "undo init"


UNDO_OF: dict[Step, UndoStep] = {
    Step.ACQUIRE: UndoStep.GIVE_BACK,
    Step.UPDATE: UndoStep.RESUME_OLD,
    Step.SNAPSHOT: UndoStep.DROP_COPY,
    Step.INIT: UndoStep.UNDO_INIT,
}
"""The undo of each step that has one. It is pushed before the step runs; after the switch nothing is undone by itself."""

STEPS: dict[Kind, tuple[Step, ...]] = {
    Kind.INSTALL: tuple(Step),
    Kind.UPGRADE: tuple(Step),
    Kind.DOWNGRADE: tuple(Step),
    Kind.REINSTALL: tuple(Step),
    Kind.DISABLE: (Step.CHECK, Step.UPDATE, Step.INIT, Step.SWITCH, Step.RELEASE),
    Kind.PURGE: (Step.CHECK, Step.ACQUIRE, Step.UPDATE, Step.SNAPSHOT, Step.INIT, Step.SWITCH, Step.RELEASE),
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
    """

    kind: Kind
    product: str
    bound: str | None = None
    version_from: str | None = None
    version_to: str | None = None
    undo: Undo | None = None

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
    """

    digest: str
    groups: tuple[Group, ...]


def build_plan(
    decisions: tuple[Decision, ...],
    *,
    enabled: tuple[str, ...],
    data_versions: Mapping[str, str],
    catalogue: Mapping[str, ModuleDescriptor],
    purge: bool = False,
    undo: Undo | None = None,
) -> Plan:
    """The groups and changes of an ordered set of decisions.

    Args:
        decisions: What `resolve` answered; `uptodate` lines need nothing.
        enabled: Ids of the tenant's enabled modules.
        data_versions: Product to the module id that the tenant's data is at.
        catalogue: All registered descriptors by id.
        purge: Whether disabling destroys the data (always asked for explicitly, requirement B4).
        undo: Undo mode that the request names, over the descriptors'.

    Raises:
        ResolutionError: A module declares that it cannot be upgraded from the version the data is at.
    """
    bound = {product_of(module): module for module in enabled}
    data = bound | dict(data_versions)
    groups: list[Group] = []
    reasons: list[str] = []
    for decision in decisions:
        if decision.action == "uptodate":
            continue
        product = product_of(decision.module)
        at = data.get(product)
        if decision.action == "disable":
            change = Change(
                kind=Kind.PURGE if purge else Kind.DISABLE,
                product=product,
                bound=bound.pop(product, None),
                version_from=at or decision.module,
                undo=_undo_of_purge(undo, catalogue.get(decision.module)) if purge else None,
            )
            if purge:
                data.pop(product, None)
        else:
            descriptor = catalogue[decision.module]
            kind = change_kind(at, decision.module)
            if at and kind is Kind.UPGRADE:
                version = str(ModuleId.parse(at).version)
                if not accepts_upgrade_from(descriptor.uplift.upgrade_from, version):
                    reasons.append(
                        f"Module {decision.module} cannot be upgraded from {at}: it accepts {descriptor.uplift.upgrade_from}"
                    )
            change = Change(
                kind=kind, product=product, bound=bound.get(product), version_from=at, version_to=decision.module,
                undo=undo or descriptor.uplift.undo,
            )  # fmt: skip
            bound[product] = data[product] = decision.module
        before = tuple(group.key for group in groups if _connected(group.changes[0], change, catalogue))
        groups.append(Group(key=f"{len(groups) + 1}-{product}", changes=(change,), after=before))
    if reasons:
        raise ResolutionError(tuple(reasons))
    digest = hashlib.sha256(
        json.dumps(
            [[asdict(group) for group in groups], sorted(enabled), sorted(data_versions.items())],
            sort_keys=True,
        ).encode()
    ).hexdigest()[:16]
    return Plan(digest=digest, groups=tuple(groups))


def change_kind(version_from: str | None, version_to: str) -> Kind:
    """Install, upgrade, downgrade or reinstall, by comparing the versions in two module ids (requirement B3)."""
    if version_from is None:
        return Kind.INSTALL
    old, new = ModuleId.parse(version_from).version, ModuleId.parse(version_to).version
    if new > old:
        return Kind.UPGRADE
    return Kind.DOWNGRADE if new < old else Kind.REINSTALL


def _undo_of_purge(asked: Undo | None, descriptor: ModuleDescriptor | None) -> Undo | None:
    """The undo mode of a purge. Modes that speak of two versions of a schema say nothing about one that is destroyed."""
    undo = asked or (descriptor.uplift.undo if descriptor is not None else None)
    return None if undo in (Undo.REVERSIBLE, Undo.COMPATIBLE) else undo


def _connected(one: Change, other: Change, catalogue: Mapping[str, ModuleDescriptor]) -> bool:
    """Whether two changes are of one product, or an interface connects any of their versions, in either direction."""
    if one.product == other.product:
        return True
    return _provides_to(one, other, catalogue) or _provides_to(other, one, catalogue)


def _provides_to(provider: Change, user: Change, catalogue: Mapping[str, ModuleDescriptor]) -> bool:
    provided = {
        interface.id
        for module in provider.touches
        if module in catalogue
        for interface in catalogue[module].provides
        if not interface.is_system
    }
    return any(
        need.id in provided
        for module in user.touches
        if module in catalogue
        for need in (*catalogue[module].requires, *catalogue[module].optional)
    )
