"""A registry that grows to 10,000 modules and 1,000 tenants: what listing, filtering and installing cost, and how that grows."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.figures import Figures, milliseconds, percentile
from bench.progress import Progress
from bench.stack import Site, module_command

_BATCH = 250
"""Modules in one import: a release has half of that."""
_VERSIONS = 20
"""Versions of each product."""
_PLATFORM = 130
"""Modules of a tenant that has a whole platform."""
_PROVIDES = 4
_TENANT = "whole"
_INSTALLED = "mod-r0000-1.0.0"
"""Requires nothing, and is the only one that can be run."""
_NOTE = (
    "One call at a time, median. After the slash: microseconds for each entry of the answer."
    " Aimed at: no faster growth than that of the answer."
    " What is installed has no tenant init, and runs after the first time."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much there is.

    Attributes:
        modules: Registered modules.
        tenants: Tenants.
    """

    modules: int
    tenants: int


_SIZES = tuple(Size(modules=modules, tenants=modules // 10) for modules in (1_000, 2_500, 5_000, 10_000))


async def measure(site: Site, progress: Progress, *, quick: bool) -> list[Figures]:
    """Fill it in steps, and ask the same at each."""
    sizes = _SIZES[:2] if quick else _SIZES
    times = 3 if quick else 9
    modules, tenants = 0, 0
    figures: dict[str, list[tuple[float, int]]] = {}
    with progress.of("registry: modules and tenants", sizes[-1].modules + sizes[-1].tenants) as step:
        for size in sizes:
            taken = []
            while modules < size.modules:
                batch = [descriptor(number) for number in range(modules, modules + _BATCH)]
                if not modules:
                    batch[0]["launchDescriptor"] = {"exec": f"{sys.executable} {module_command(_INSTALLED, site.log)}"}
                begun = time.perf_counter()
                await site.call("POST", "/_/proxy/import/modules?check=false", batch)
                taken.append(time.perf_counter() - begun)
                modules += _BATCH
                for _ in batch:
                    step()
            while tenants < size.tenants:
                await site.call("POST", "/_/proxy/tenants", {"id": f"r{tenants}"})
                tenants += 1
                step()
            if size is sizes[0]:
                await site.call("POST", "/_/proxy/tenants", {"id": _TENANT})
            figures.setdefault(f"register {_BATCH}", []).append((percentile(sorted(taken), 50), _BATCH))
            for name, (method, path, body) in _calls(size).items():
                figures.setdefault(name, []).append(await _asked(site, method, path, body, times=times))
            figures.setdefault("install one, really", []).append(await _installed(site, size, times=times))
    return [_figures(sizes, figures, times)]


def descriptor(number: int) -> dict[str, Any]:
    """A module: products first, so that each size has all versions of its products."""
    product, version = divmod(number, _VERSIONS)
    return {
        "id": f"mod-r{product:04}-1.{version}.0",
        "name": f"Product {product}",
        "provides": [
            {
                "id": f"r{product}.{n}",
                "version": f"1.{version}",
                "handlers": [
                    {
                        "methods": [method],
                        "pathPattern": f"/r{product}/{n}/{{id}}",
                        "permissionsRequired": [f"r{product}.{n}.{method}"],
                    }
                    for method in ("GET", "PUT", "DELETE")
                ],
            }
            for n in range(_PROVIDES)
        ],
        "requires": [{"id": f"r{product - back}.0", "version": "1.0"} for back in (1, 2, 3) if product >= back],
    }


def _calls(size: Size) -> dict[str, tuple[str, str, Any]]:
    newest = [f"mod-r{product:04}-1.{_VERSIONS - 1}.0" for product in range(min(_PLATFORM, size.modules // _VERSIONS))]
    return {
        "list modules": ("GET", "/_/proxy/modules", None),
        "list, whole": ("GET", "/_/proxy/modules?full=true", None),
        "of one product": ("GET", "/_/proxy/modules?filter=mod-r0007", None),
        "newest of each": ("GET", "/_/proxy/modules?latest=1", None),
        "that provide": ("GET", "/_/proxy/modules?provide=r7.0", None),
        "that require": ("GET", "/_/proxy/modules?require=r7.0", None),
        "list tenants": ("GET", "/_/proxy/tenants", None),
        "simulate a platform": (
            "POST",
            f"/_/proxy/tenants/{_TENANT}/install?simulate=true",
            [{"id": module, "action": "enable"} for module in newest],
        ),
    }


async def _asked(site: Site, method: str, path: str, body: Any, *, times: int) -> tuple[float, int]:
    """Median of seconds, and entries of the answer."""
    taken, entries = [], 0
    for _ in range(times):
        begun = time.perf_counter()
        answer = await site.call(method, path, body)
        taken.append(time.perf_counter() - begun)
        entries = len(answer)
    return percentile(sorted(taken), 50), entries


async def _installed(site: Site, size: Size, *, times: int) -> tuple[float, int]:
    """Median of seconds of an install job, from the call to its answer; each for another tenant."""
    taken = []
    for number in range(times):
        begun = time.perf_counter()
        tenant = f"r{size.tenants - 1 - number}"
        await site.call("POST", f"/_/proxy/tenants/{tenant}/install", [{"id": _INSTALLED, "action": "enable"}])
        taken.append(time.perf_counter() - begun)
    return percentile(sorted(taken), 50), 1


def _figures(sizes: Sequence[Size], figures: dict[str, list[tuple[float, int]]], times: int) -> Figures:
    return Figures(
        title=f"Registry (ms / µs for each entry, median of {times})",
        columns=("", *(f"{size.modules:,} modules, {size.tenants:,} tenants" for size in sizes)),
        rows=tuple(
            (name, *(f"{milliseconds(seconds)} / {seconds / max(1, entries) * 1e6:,.0f}" for seconds, entries in found))
            for name, found in figures.items()
        ),
        note=_NOTE,
        values=tuple(
            {"what": name, "modules": size.modules, "tenants": size.tenants, "seconds": seconds, "entries": entries}
            for name, found in figures.items()
            for size, (seconds, entries) in zip(sizes, found, strict=True)
        ),
    )
