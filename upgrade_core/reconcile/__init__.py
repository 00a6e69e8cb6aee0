"""What ought to be the same in different places, and is not: found by comparing, repaired where harmless (requirement D3).

The gateway's rows, Temporal's open runs, and the processes and files of each node say what is there; `differences` compares.
Work under way passes through states that look like differences, so one is believed when two looks, some seconds apart, both
find it (`confirmed`), and whatever belongs to a job at work is none.

A repair is offered only where three things hold: it is ours by our own record, nobody can come to need it any more, and what is
taken away is nothing that a person may want to look at. All else is told, with what to do. What a job left is left alone while a
hold of it stands: whoever settles the job needs it.
"""

from upgrade_core.reconcile.comparison import PART_AGE, confirmed, differences, doubtful
from upgrade_core.reconcile.report import MOST, Difference, Found, Kind, Repair, Report, Verb, first, with_unseen
from upgrade_core.reconcile.world import (
    Bound,
    Claim,
    CopyFile,
    Deployed,
    HeldLink,
    Intent,
    Ledger,
    NodeView,
    OpenJob,
    OpenRun,
    Overlay,
    Process,
    Snapshot,
    Stale,
    World,
    job_of,
    read_copy_name,
)

__all__ = [
    "MOST",
    "PART_AGE",
    "Bound",
    "Claim",
    "CopyFile",
    "Deployed",
    "Difference",
    "Found",
    "HeldLink",
    "Intent",
    "Kind",
    "Ledger",
    "NodeView",
    "OpenJob",
    "OpenRun",
    "Overlay",
    "Process",
    "Repair",
    "Report",
    "Snapshot",
    "Stale",
    "Verb",
    "World",
    "confirmed",
    "differences",
    "doubtful",
    "first",
    "job_of",
    "read_copy_name",
    "with_unseen",
]
