"""What gateway and worker occupy."""

from bench.figures import Figures
from bench.stack import Site

_NAMES = ("gateway", "worker")
_MB = 1e6


class Memory:
    """Looks at the memory of a stack's processes, and keeps what it saw."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._seen: list[tuple[str, dict[str, tuple[int, int]]]] = []

    def look(self, when: str) -> None:
        """Look now."""
        processes = self._site.processes()
        found = {name: processes[name].memory_full_info() for name in _NAMES}
        self._seen.append((when, {name: (info.rss, info.uss) for name, info in found.items()}))

    def figures(self) -> Figures:
        """What was seen."""
        return Figures(
            title="Memory, MB resident (of it its own)",
            columns=("", *_NAMES),
            rows=tuple(
                (when, *(f"{seen[name][0] / _MB:.0f} ({seen[name][1] / _MB:.0f})" for name in _NAMES))
                for when, seen in self._seen
            ),
            values=tuple({"when": when, **{name: list(seen[name]) for name in _NAMES}} for when, seen in self._seen),
        )
