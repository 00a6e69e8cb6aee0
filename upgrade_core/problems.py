"""What an administrator should know: problems as values, and the rule for unresolved dependencies (requirements A1, A7).

A problem's key says what it is about and is the same each time it is found, so that it is told once. Its remedy is what the
operator does next.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from upgrade_core.descriptors import Interface, ModuleDescriptor, Requirement
from upgrade_core.reconcile import Difference
from upgrade_core.versions import interface_satisfies

UNRESOLVED = "unresolved"
CLOSED = "closed"
OVERDUE = "overdue"
RUN_LOST = "run-lost"
HOLD_LEFT = "hold-left"
NEWER_BLOCKED = "newer-blocked"
DATABASE_RESTORED = "database-restored"
DIFFERENCE = "difference"

_Offers = dict[str, list[tuple[str, str]]]


class Severity(StrEnum):
    """How much it matters now."""

    WARNING = "warning"
    """Nobody is refused yet."""
    ERROR = "error"
    """Requests fail or wait because of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that an administrator should know.

    Attributes:
        key: What it is about, beginning with its kind; the same for the same problem.
        kind: `unresolved`, `closed`, `overdue`, `run-lost`, `hold-left`, `newer-blocked`, `database-restored`, `difference`.
        message: The fact.
        remedy: What to do next.
        module: Id of the module it is about, or the product of a hold.
        tenant: The tenant it is about.
        job: The install job it is about.
    """

    key: str
    kind: str
    severity: Severity
    message: str
    remedy: str
    module: str | None = None
    tenant: str | None = None
    job: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmet:
    """A requirement that nothing meets.

    Attributes:
        interface: Id of the required interface.
        text: Why, in Okapi's words.
    """

    interface: str
    text: str


class Providers:
    """The interfaces that some modules provide, to ask many requirements of."""

    def __init__(self, modules: Iterable[ModuleDescriptor], *, system: bool) -> None:
        """Collect the interfaces, those of the newest modules first.

        Args:
            modules: Who provides.
            system: Whether system interfaces count.
        """
        self._offers: _Offers = {}
        self._answers: dict[Requirement, str | None] = {}
        for module in sorted(modules, key=lambda module: module.module_id, reverse=True):
            for interface in module.provides:
                if system or not interface.is_system:
                    self._add(interface, module.id)

    def unmet(self, module: ModuleDescriptor) -> tuple[Unmet, ...]:
        """The requirements of a module that nothing meets, in the descriptor's order."""
        found = []
        for need in module.requires:
            have = self._have(need)
            if have is None:
                continue
            text = (
                f"Incompatible version for module {module.id} interface {need.id}. Need {need.version}. Have {have}"
                if have
                else f"Missing dependency: {module.id} requires {need.id}: {need.version}"
            )
            found.append(Unmet(interface=need.id, text=text))
        return tuple(found)

    def _add(self, interface: Interface, module: str) -> None:
        self._offers.setdefault(interface.id, []).append((interface.version, module))

    def _have(self, need: Requirement) -> str | None:
        """None if it is met; else what there is instead."""
        if need not in self._answers:
            offers = self._offers.get(need.id, [])
            met = any(interface_satisfies(version, need.version) for version, _ in offers)
            self._answers[need] = None if met else " ".join(f"{version}/{module}" for version, module in offers)
        return self._answers[need]


def unresolved(modules: Mapping[str, ModuleDescriptor], bindings: Mapping[str, Mapping[str, str]]) -> tuple[Problem, ...]:
    """Requirements that are not met, by key.

    A registered module's by any registered module: nobody can install it as it is. A tenant's module's by the modules that the
    tenant has enabled: its users meet it.

    Args:
        modules: All registered descriptors by id.
        bindings: Tenant to product to module id.
    """
    found: dict[str, Problem] = {}
    registered = Providers(modules.values(), system=True)
    for module in modules.values():
        for unmet in registered.unmet(module):
            problem = _unresolved_module(module.id, unmet)
            found[problem.key] = problem
    # Tenants mostly have the same modules enabled: the answer is made once for each combination.
    combinations: dict[frozenset[str], tuple[tuple[str, Unmet], ...]] = {}
    for tenant, bound in bindings.items():
        enabled = frozenset(bound.values())
        if enabled not in combinations:
            combinations[enabled] = _unmet_together([modules[module] for module in enabled if module in modules])
        for module_id, unmet in combinations[enabled]:
            problem = _unresolved_tenant(tenant, module_id, unmet)
            found[problem.key] = problem
    return tuple(found[key] for key in sorted(found))


def closed(module: str) -> Problem:
    """The last instance of a module was lost and did not come back in time: requests are answered MISSING."""
    return Problem(
        key=f"{CLOSED}:{module}",
        kind=CLOSED,
        severity=Severity.ERROR,
        message=f"{module} has lost its last instance and it did not come back in time: requests to it are answered MISSING",
        remedy="look at the instance's log and start it again; it is used again once it registers or answers its health check",
        module=module,
    )


def overdue(hold: str, *, product: str, tenant: str, holder: str) -> Problem:
    """A hold stands for longer than its holder said: requests are answered MISSING, the hold stays."""
    return Problem(
        key=f"{OVERDUE}:{hold}",
        kind=OVERDUE,
        severity=Severity.ERROR,
        message=f"{product} of {_whose(tenant)} is held by {holder} for longer than was said: requests are answered MISSING",
        remedy=f"find out whether {holder} is still at work; RESUME with hold {hold} opens it, once the data is in order",
        module=product,
        tenant=_one(tenant),
    )


def run_lost(job: str, *, tenant: str, why: str) -> Problem:
    """A started job has no run any more: it is an error and is never run again."""
    return Problem(
        key=f"{RUN_LOST}:{job}",
        kind=RUN_LOST,
        severity=Severity.ERROR,
        message=f"the run of job {job} of tenant {tenant} is lost: {why}",
        remedy=(
            f"`uplift resolve {job}` shows what it left held, and settles it; where nothing is, start the change anew and remove"
            " the record of this job"
        ),
        tenant=tenant,
        job=job,
    )


def hold_left(hold: str, *, product: str, tenant: str, job: str, ended: bool = True) -> Problem:
    """No run will open a hold: its job has ended, or goes on with other groups while the hold's own run is gone."""
    what = f"job {job} has ended" if ended else f"job {job} goes on, the run of its group is lost"
    before = "" if ended else "let the job end, or abort it; then "
    return Problem(
        key=f"{HOLD_LEFT}:{hold}",
        kind=HOLD_LEFT,
        severity=Severity.ERROR,
        message=f"{what} and {product} of tenant {tenant} is still held: its requests wait, nobody will open it",
        remedy=(
            f"{before}`uplift resolve {job}` shows what is held, and goes back to the old version (`old`) or on to the new one"
            " (`new`)"
        ),
        module=product,
        tenant=tenant,
        job=job,
    )


def database_restored(*, epoch: int, applied: int) -> Problem:
    """A gateway that ran meanwhile has seen more than its database knows now."""
    return Problem(
        key=DATABASE_RESTORED,
        kind=DATABASE_RESTORED,
        severity=Severity.ERROR,
        message=(
            f"the gateway's database is an older copy of itself: change {applied} is not the one that a gateway had followed"
            f" (the database is at {epoch} now); what was written since the copy is lost"
        ),
        remedy=(
            "compare what is enabled, held and running with what should be; runs that were at work stop at a hold point and say"
            " what differs"
        ),
    )


def database_differs(job: str, *, why: str) -> Problem:
    """A run did what the database does not know: it waits for a person (or has ended, and its record is open)."""
    return Problem(
        key=f"{DATABASE_RESTORED}:{job}",
        kind=DATABASE_RESTORED,
        severity=Severity.ERROR,
        message=f"the gateway's database is not the one that the run of job {job} worked on: {why}",
        remedy=(
            "its run waits at a hold point: bring back the right database, or what is missing, and decide `retry`; with `skip` it"
            " ends and touches nothing more. What has ended already is compared by hand: the tenant's data may be at another"
            " version than the one that is enabled"
        ),
        job=job,
    )


def newer_blocked(tenant: str, module: str, *, why: str) -> Problem:
    """A tenant follows the newest version and cannot get this one."""
    return Problem(
        key=f"{NEWER_BLOCKED}:{tenant}:{module}",
        kind=NEWER_BLOCKED,
        severity=Severity.WARNING,
        message=f"tenant {tenant} follows the newest version and cannot be upgraded to {module}: {why}",
        remedy=f"mend what is named and install {module} for the tenant, or PUT /_/lifecycle/routing/{tenant} with pinned",
        module=module,
        tenant=tenant,
    )


def difference(found: Difference) -> Problem:
    """A reconcile run found what does not fit together, twice in a row, and left it to a person."""
    return Problem(
        key=f"{DIFFERENCE}:{found.key}",
        kind=DIFFERENCE,
        severity=Severity.WARNING,
        message=found.message,
        remedy=found.remedy,
        module=found.module,
        tenant=found.tenant,
        job=found.job,
    )


def _unmet_together(modules: list[ModuleDescriptor]) -> tuple[tuple[str, Unmet], ...]:
    providers = Providers(modules, system=False)
    return tuple((module.id, unmet) for module in modules for unmet in providers.unmet(module))


def _unresolved_module(module: str, unmet: Unmet) -> Problem:
    return Problem(
        key=f"{UNRESOLVED}:{module}:{unmet.interface}",
        kind=UNRESOLVED,
        severity=Severity.WARNING,
        message=unmet.text,
        remedy=f"register a module that provides {unmet.interface}, or delete {module}; until then no tenant can install it",
        module=module,
    )


def _unresolved_tenant(tenant: str, module: str, unmet: Unmet) -> Problem:
    return Problem(
        key=f"{UNRESOLVED}:{tenant}:{module}:{unmet.interface}",
        kind=UNRESOLVED,
        severity=Severity.ERROR,
        message=f"tenant {tenant}: {unmet.text}",
        remedy=f"install a module that provides {unmet.interface} for the tenant, or disable {module} there",
        module=module,
        tenant=tenant,
    )


def _whose(tenant: str) -> str:
    return "all tenants" if tenant == "*" else f"tenant {tenant}"


def _one(tenant: str) -> str | None:
    return None if tenant == "*" else tenant
