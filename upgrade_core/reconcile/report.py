"""What a comparison found, what is to be done about it, and the report of it all."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

MOST = 500
"""Differences of one report; what is beyond is only counted, so that a report fits where it is kept."""


class Kind(StrEnum):
    """What a difference is about; the first word of its key."""

    CLAIM = "claim"
    DATA = "data"
    FILE = "file"
    HOLD = "hold"
    INSTANCE = "instance"
    INTENT = "intent"
    JOB = "job"
    NODE = "node"
    OVERLAY = "overlay"
    PROCESS = "process"
    RETIREMENT = "retirement"
    RUN = "run"
    SNAPSHOT = "snapshot"
    UNSERVED = "unserved"
    VERSION = "version"


class Verb(StrEnum):
    """What a repair does."""

    GIVE_BACK = "give back"
    CLOSE_OVERLAY = "close overlay"
    END_INTENT = "end intent"
    KEEP_SNAPSHOT = "keep snapshot"
    FINISH_RETIREMENT = "finish retirement"
    TELL_UNNEEDED = "tell unneeded"
    STOP_PROCESS = "stop process"
    REMOVE_FILE = "remove file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """How a difference is repaired.

    Attributes:
        node: The node on which it is done; empty: anywhere.
        subject: Key of an intent, id of a snapshot or an instance, path of a file below the folder of copies.
        generation: Of the process to stop.
    """

    verb: Verb
    node: str = ""
    job: str = ""
    module: str = ""
    product: str = ""
    subject: str = ""
    generation: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that does not fit together.

    Attributes:
        key: What it is about, beginning with its kind; the same each time it is found.
        message: The fact.
        remedy: What to do about it.
        node: The node on which it was seen, if it was.
        repair: What a reconcile run does about it; None: a person decides.
    """

    key: str
    kind: Kind
    message: str
    remedy: str
    node: str | None = None
    module: str | None = None
    tenant: str | None = None
    job: str | None = None
    repair: Repair | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one look found: `more` differences are beyond the first `MOST`."""

    differences: tuple[Difference, ...] = ()
    more: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a reconcile run came to.

    Attributes:
        request: Id of who asked for it on demand; empty: the schedule.
        repair: Whether it was to repair.
        looked: Nodes that answered at both looks.
        silent: Nodes that did not.
        differences: What is left.
        repaired: What was a difference.
        more: How many differences beyond those.
    """

    started: datetime
    ended: datetime
    request: str = ""
    repair: bool = False
    looked: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    differences: tuple[Difference, ...] = ()
    repaired: tuple[Difference, ...] = ()
    more: int = 0


def first(found: tuple[Difference, ...]) -> Found:
    """What fits into a report: those that can be repaired before those that are only told."""
    chosen = sorted(found, key=lambda difference: (difference.repair is None, difference.key))[:MOST]
    return Found(differences=tuple(sorted(chosen, key=lambda difference: difference.key)), more=len(found) - len(chosen))


def with_unseen(report: Report, before: Report) -> Report:
    """A report with what the one before had found on nodes that did not answer this time."""
    known = {difference.key for difference in report.differences}
    unseen = [each for each in before.differences if each.node in report.silent and each.key not in known]
    if not unseen:
        return report
    return replace(report, differences=tuple(sorted([*report.differences, *unseen], key=lambda each: each.key)))
