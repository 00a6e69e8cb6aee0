"""In which steps a decision is carried out: groups of changes, each with its steps and their undo.

A *change* moves one product of one tenant; a *group* is held, initialised and switched together, and is the smallest set of
changes after which every enabled module's requirements are met again. The plan has a digest: a run refuses when the world has
moved since it was made, and says what moved. Requirements B1, B3, B4, B8, D1, D2.
"""

from upgrade_core.plan.building import Mode, build_plan
from upgrade_core.plan.estimate import Estimate, HeldTime, estimate, held_times, name_together
from upgrade_core.plan.values import STEPS, UNDO_OF, Change, Group, Kind, Plan, Step, UndoStep, change_kind
from upgrade_core.plan.world import World, differing, moved

__all__ = [
    "STEPS",
    "UNDO_OF",
    "Change",
    "Estimate",
    "Group",
    "HeldTime",
    "Kind",
    "Mode",
    "Plan",
    "Step",
    "UndoStep",
    "World",
    "build_plan",
    "change_kind",
    "differing",
    "estimate",
    "held_times",
    "moved",
    "name_together",
]
