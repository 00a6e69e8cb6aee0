"""Resolving and planning, without a stack: how long, and how it grows with modules and with what is registered of them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.figures import Figures, milliseconds, percentile
from bench.progress import Progress
from upgrade_core.descriptors import Interface, ModuleDescriptor, Requirement
from upgrade_core.plan import build_plan
from upgrade_core.resolution import Catalogue, Verb, Wanted, resolve, upgrades

_PROVIDES = 8
"""Interfaces of a module, about as many as FOLIO's have."""
_NEEDS = 14
"""Requirements of a module, at most; every fourth of them is optional."""
_MAJORS = 6
"""Versions of a product before its interfaces break."""
_NOTE = (
    "CPU time: nothing waits, and other work on the machine does not count; indexes are made anew each time."
    " Aimed at: a platform of 130 below 50 ms, 5,000 registered below 300 ms"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A platform.

    Attributes:
        products: How many products are enabled or asked for.
        versions: How many versions of each are registered.
    """

    products: int
    versions: int


_WIDER = tuple(Size(products=products, versions=2) for products in (33, 65, 130, 260, 520))
_LONGER = tuple(Size(products=60, versions=versions) for versions in (2, 10, 21, 42, 84))


def measure(progress: Progress, *, quick: bool) -> list[Figures]:
    """Platforms that grow in modules, and one that grows in versions."""
    times = 3 if quick else 15
    found = []
    for title, sizes in (("modules of a platform", _WIDER), ("registered versions of 60 products", _LONGER)):
        with progress.of(f"resolver: {title}", len(sizes)) as step:
            found.append(_growth(title, sizes[:3] if quick else sizes, times, step))
    return found


def platform(size: Size) -> dict[str, ModuleDescriptor]:
    """Descriptors by id: each module needs interfaces of products before it, of its time or of the major version before."""
    found = {}
    for product in range(size.products):
        for version in range(1, size.versions + 1):
            major, minor = 1 + version // _MAJORS, version % _MAJORS
            accepted = f"{major - 1}.0 {major}.0" if major > 1 else "1.0"
            others = sorted({product * (n + 1) // (_NEEDS + 1) for n in range(_NEEDS)} - {product})
            needs = [Requirement(id=f"i{other}.{n % _PROVIDES}", version=accepted) for n, other in enumerate(others)]
            module = ModuleDescriptor(
                id=f"mod-p{product:03}-{version}.0.0",
                product=f"mod-p{product:03}",
                provides=tuple(Interface(id=f"i{product}.{n}", version=f"{major}.{minor}") for n in range(_PROVIDES)),
                requires=tuple(need for n, need in enumerate(needs) if n % 4),
                optional=tuple(needs[::4]),
            )
            found[module.id] = module
    return found


def _growth(title: str, sizes: Sequence[Size], times: int, step: Callable[[], None]) -> Figures:
    rows, values = [], []
    for size in sizes:
        modules = platform(size)
        seconds = {name: _seconds(work, times) for name, work in _work(modules, size).items()}
        rows.append(
            (f"{size.products:,}", f"{len(modules):,}", *(milliseconds(percentile(each, 50)) for each in seconds.values()))
        )
        values.append({"products": size.products, "registered": len(modules), "seconds": seconds})
        step()
    return Figures(
        title=f"Resolver: {title} (CPU ms, median of {times})",
        columns=("products", "registered", *_work(platform(sizes[0]), sizes[0])),
        rows=tuple(rows),
        note=_NOTE,
        values=tuple(values),
    )


def _work(modules: dict[str, ModuleDescriptor], size: Size) -> dict[str, Callable[[], object]]:
    """What is measured, by what it is called."""
    newest = tuple(f"mod-p{product:03}-{size.versions}.0.0" for product in range(size.products))
    middle = tuple(f"mod-p{product:03}-{size.versions // 2}.0.0" for product in range(size.products))
    moves = resolve(upgrades(middle, modules), enabled=middle, catalogue=modules)

    def upgrade() -> object:
        catalogue = Catalogue(modules)
        return resolve(upgrades(middle, catalogue), enabled=middle, catalogue=catalogue)

    return {
        "install all": lambda: resolve(tuple(Wanted(id=each) for each in newest), enabled=(), catalogue=modules),
        "upgrade all": upgrade,
        "bring in what one needs": lambda: resolve((Wanted(id=newest[-1]),), enabled=(), catalogue=modules),
        "disable what all need": lambda: resolve((Wanted(id="mod-p000", verb=Verb.DISABLE),), enabled=newest, catalogue=modules),
        "plan the upgrade": lambda: build_plan(moves, enabled=middle, data_versions={}, catalogue=modules),
    }


def _seconds(work: Callable[[], object], times: int) -> list[float]:
    found = []
    for _ in range(times):
        begun = time.process_time()
        work()
        found.append(time.process_time() - begun)
    return sorted(found)
