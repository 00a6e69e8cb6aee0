"""What a run knows that it did, against what the gateway's database says (requirement D3, ADR 0019).

A database that was restored from a copy is an earlier state of itself, and whatever was written since. So a run whose last effect
is on record has lost nothing, and one whose last effect is not has proof: nobody else writes or removes its rows. Facts are what
a run knows from its history, which outlives the restore. Numbers of changes would prove nothing: they grow again.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

HEADER = "X-Uplift-Known"
"""Header of a run's calls: facts as `to_wire`."""
MAX_WIRE = 6_000
"""Longest text of facts in a request's header, in characters; servers refuse headers of 8 KiB."""
GROUPS_KEPT = 40
"""Groups that have ended whose facts a job's later steps carry, at most."""


class FactKind(StrEnum):
    """Kinds of facts; the names are wire format."""

    PLAN = "plan"
    """`key`: digest of the job's plan, `about`: the tenant."""
    CLAIM = "claim"
    """`key`: module id that the job claims."""
    HELD = "held"
    """`key`: id of a hold that stands, `about`: its product."""
    MAY_BE_OPEN = "may-be-open"
    """As `held`, while the step that opens the hold is tried: it stands, or this run has opened it."""
    OPENED = "opened"
    """`key`: id of a hold that the run has opened, `about`: its product."""
    COPY = "copy"
    """`key`: id of a snapshot, `about`: its product."""
    INTENT = "intent"
    """`key`: key of the intent of a tenant init that may have been asked for, `about`: its product."""
    INIT_ENDED = "init-ended"
    """As `intent`: its outcome is on record, too."""
    BOUND = "bound"
    """`key`: product, `about`: the module id that the tenant was switched to; empty: to none."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Fact:
    """One thing that a run knows to be on record; see `FactKind` for what the texts are."""

    kind: FactKind
    key: str
    about: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnRecord:
    """What the database says about a job, as of one statement.

    Attributes:
        job: Whether there is a record of the job.
        phase: Its phase.
        plan: Digest of its plan; empty: it has none.
        claims: Module ids that it claims.
        holds: Ids of holds that stand.
        opened: Ids of holds that were opened.
        copies: Ids of snapshots.
        intents: Key of each intent to its state.
        bindings: Product to module id, of the job's tenant.
    """

    job: bool = False
    phase: str = ""
    plan: str = ""
    claims: frozenset[str] = frozenset()
    holds: frozenset[str] = frozenset()
    opened: frozenset[str] = frozenset()
    copies: frozenset[str] = frozenset()
    intents: dict[str, str] = field(default_factory=dict)
    bindings: dict[str, str] = field(default_factory=dict)


def differences(facts: Iterable[Fact], record: OnRecord, *, ending: bool = False) -> tuple[str, ...]:
    """Where the database is not what the run knows, one clause each; empty: nothing of the run is lost.

    What it means for users comes first: requests that are not held any more.

    Args:
        facts: What the run knows.
        record: What the database says.
        ending: Whether the run is about to end its job. It may have done so, and people may have removed the record since: so
            that it is missing counts beside other differences only.
    """
    facts = tuple(facts)
    if not facts:
        return ()
    users: list[str] = []
    lost: list[str] = []
    for fact in facts:
        about = fact.about or fact.key
        match fact.kind:
            case FactKind.PLAN:
                if record.job and record.plan != fact.key:
                    what = "another plan" if record.plan else "no plan"
                    lost.append(f"the job's record is at phase {record.phase} and has {what}")
            case FactKind.CLAIM:
                if fact.key not in record.claims:
                    lost.append(f"the claim on {fact.key} is missing")
            case FactKind.HELD | FactKind.MAY_BE_OPEN:
                was_opened = fact.key in record.opened
                if fact.key not in record.holds and not (was_opened and fact.kind is FactKind.MAY_BE_OPEN):
                    users.append(f"requests to {about} are not held, they go to {_bound(record, fact)}")
                    lost.append(f"the hold {fact.key} {'was opened by somebody else' if was_opened else 'is missing'}")
            case FactKind.OPENED:
                if fact.key in record.holds:
                    users.append(f"requests to {about} are held again, nobody will open them")
                    lost.append(f"the hold {fact.key} stands, though it was opened")
                elif fact.key not in record.opened:
                    lost.append(f"nothing tells that the hold {fact.key} was opened")
            case FactKind.COPY:
                if fact.key not in record.copies:
                    lost.append(f"the copy {fact.key} is not recorded")
            case FactKind.INTENT:
                if fact.key not in record.intents:
                    lost.append(f"nothing tells that tenant init of {about} was asked for")
            case FactKind.INIT_ENDED:
                if record.intents.get(fact.key) != "ended":
                    lost.append(f"nothing tells that tenant init of {about} has ended")
            case FactKind.BOUND:
                if record.bindings.get(fact.key, "") != fact.about:
                    to = record.bindings.get(fact.key) or "no version"
                    users.append(f"the tenant has {to} enabled, it was switched to {fact.about or 'none'}")
    missing = () if record.job or (ending and not users and not lost) else ("the job's record is missing",)
    return (*dict.fromkeys(users), *missing, *dict.fromkeys(lost))


def explain(found: tuple[str, ...]) -> str:
    """Differences in one sentence, with what to do: in front what users meet."""
    return (
        f"{'; '.join(found)}: the gateway's database is not the one that this run worked on (restored from an older copy?)."
        " Bring back the right one and retry, or skip: then the run ends and touches nothing more"
    )


def tenant_of(facts: Iterable[Fact]) -> str:
    """The tenant whose job it is; empty if no plan is known yet."""
    return next((fact.about for fact in facts if fact.kind is FactKind.PLAN), "")


def without(facts: Iterable[Fact], *kinds: FactKind, key: str | None = None) -> tuple[Fact, ...]:
    """Facts but those of some kinds; with a key, but those about it."""
    return tuple(fact for fact in facts if fact.kind not in kinds or key not in (None, fact.key))


def while_opening(facts: Iterable[Fact]) -> tuple[Fact, ...]:
    """Facts while a step is tried that opens the holds: it may have done so and its answer was lost."""
    return tuple(
        Fact(kind=FactKind.MAY_BE_OPEN, key=fact.key, about=fact.about) if fact.kind is FactKind.HELD else fact for fact in facts
    )


def once_opened(facts: Iterable[Fact]) -> tuple[Fact, ...]:
    """Facts after that step."""
    held = (FactKind.HELD, FactKind.MAY_BE_OPEN)
    return tuple(Fact(kind=FactKind.OPENED, key=fact.key, about=fact.about) if fact.kind in held else fact for fact in facts)


def newest(facts: Iterable[Fact]) -> tuple[Fact, ...]:
    """The plan, and the newest facts of as many as fit a header: they come last and imply the older ones.

    A group of a whole platform knows hundreds, and each of its steps is told them: its history would hold them hundreds of times.
    """
    every = tuple(facts)
    room = MAX_WIRE - sum(_length(fact) for fact in every[:1]) - 1
    kept = len(every)
    while kept > 1 and (room := room - _length(every[kept - 1])) >= 0:
        kept -= 1
    return (*every[:1], *every[max(1, min(kept, len(every) - 1)) :])


def to_wire(facts: Iterable[Fact]) -> str:
    """Facts as ASCII text for a header, as many as fit (`newest`)."""
    return json.dumps([_line(fact) for fact in newest(facts)], separators=(",", ":"))


def from_wire(text: str) -> tuple[Fact, ...]:
    """Facts of a header.

    Raises:
        ValueError: It holds none. Kinds that we do not know are left out: a newer worker's.
    """
    lines = json.loads(text)
    if not isinstance(lines, list) or not all(
        isinstance(line, list) and len(line) == 3 and all(isinstance(word, str) for word in line)  # noqa: PLR2004
        for line in lines
    ):
        raise ValueError("no list of [kind, key, about]")
    known = set(FactKind)
    return tuple(Fact(kind=FactKind(kind), key=key, about=about) for kind, key, about in lines if kind in known)


def _line(fact: Fact) -> list[str]:
    return [fact.kind.value, fact.key, fact.about]


def _length(fact: Fact) -> int:
    """Characters of a fact in a header, with what divides it from the next."""
    return len(json.dumps(_line(fact), separators=(",", ":"))) + 1


def _bound(record: OnRecord, fact: Fact) -> str:
    bound = record.bindings.get(fact.about)
    return f"{bound}, while the data may be at another version" if bound else "no version"
