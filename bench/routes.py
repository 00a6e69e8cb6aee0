"""Finding the handler of a path, without a stack: how long with more and more routes, and what tenants add to them."""

import time
import tracemalloc
from collections.abc import Iterator

from bench.figures import Figures, percentile
from bench.progress import Progress
from gateway.matching import Routes
from upgrade_core.descriptors import Handler, Interface, ModuleDescriptor

_EACH = 20
"""Handlers of a module, about as many as FOLIO's have."""
_SIZES = (100, 1_000, 10_000)
_TENANTS = 1_000
_LOOKUPS = 2_000
_NOTE = "CPU time. One first segment for all modules, the worst case; memory is that of Python's objects."


def measure(progress: Progress, *, quick: bool) -> list[Figures]:
    """Sizes of a platform."""
    sizes = _SIZES[:2] if quick else _SIZES
    rows, values = [], []
    with progress.of("routes", len(sizes)) as step:
        for size in sizes:
            modules = list(_modules(size // _EACH))
            tracemalloc.start()
            routes = Routes()
            for module in modules:
                routes.add(module)
            of_routes, _ = tracemalloc.get_traced_memory()
            tenants = [{module.product: module.id for module in modules} for _ in range(_TENANTS)]
            of_all, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            paths = [f"/platform/p{number % len(modules)}/r{number % _EACH}/{number}" for number in range(_LOOKUPS)]
            found = sorted(_micros(routes, bound, path) for bound, path in zip(tenants * _LOOKUPS, paths, strict=False))
            added = _seconds_of_one_more(routes, modules[0])
            rows.append(
                (
                    f"{size:,}",
                    f"{percentile(found, 50):.1f}",
                    f"{percentile(found, 99):.1f}",
                    f"{added * 1e3:.2f}",
                    f"{of_routes / 2**20:.1f}",
                    f"{(of_all - of_routes) / 2**20:.1f}",
                )
            )
            values.append({"routes": size, "micros": found, "added": added, "routes_bytes": of_routes, "all_bytes": of_all})
            step()
    columns = ("routes", "µs p50", "µs p99", "ms to add a module", "MB of routes", f"MB of {_TENANTS:,} tenants")
    return [
        Figures(
            title="Routes: finding the handler of a path", columns=columns, rows=tuple(rows), note=_NOTE, values=tuple(values)
        )
    ]


def _modules(number: int) -> Iterator[ModuleDescriptor]:
    for product in range(number):
        handlers = tuple(
            Handler(methods=("GET", "PUT"), pattern=f"/platform/p{product}/r{route}/{{id}}") for route in range(_EACH)
        )
        provides = (Interface(id=f"i{product}", version="1.0", handlers=handlers),)
        yield ModuleDescriptor(id=f"p{product}-1.0.0", product=f"p{product}", provides=provides)


def _micros(routes: Routes, bound: dict[str, str], path: str) -> float:
    begun = time.process_time_ns()
    for _ in range(5):
        routes.match(bound, "GET", path)
    return (time.process_time_ns() - begun) / 5e3


def _seconds_of_one_more(routes: Routes, module: ModuleDescriptor) -> float:
    begun = time.process_time()
    routes.add(module)
    return time.process_time() - begun
