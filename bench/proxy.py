"""The data path against the module directly: the same requests, in turns."""

import asyncio
import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.figures import Figures, Rounds, spread
from bench.module import LARGE, SMALL
from bench.progress import Progress
from bench.stack import BenchError, Site

_ROUNDS = 3
_SECONDS = 2.0
_TENANT = "pilot"
_KINDS = ((SMALL, "/bench/small", "200 B"), (LARGE, "/bench/large", "100 kB"))


@dataclass(slots=True)
class _Rounds(Rounds):
    """With how many cores others used meanwhile."""

    others: list[float] = field(default_factory=list)


async def measure(site: Site, progress: Progress, *, quick: bool) -> list[Figures]:
    """All sizes and numbers of connections."""
    rounds, seconds = (1, 0.5) if quick else (_ROUNDS, _SECONDS)
    module = await site.next_version()
    ports = {"direct": await site.instance_port(module), "gateway": site.stack.record.ports["gateway"]}
    rows: list[tuple[str, ...]] = []
    values: list[dict[str, object]] = []
    with progress.of("proxy and module in turns", len(_KINDS) * 2 * rounds * 2) as step:
        for _, path, name in _KINDS:
            for connections in (1, 16):
                seen = {way: _Rounds() for way in ports}
                for _ in range(rounds):
                    for way, port in ports.items():
                        await _round(site, seen[way], port=port, path=path, connections=connections, seconds=seconds)
                        step()
                rows += [_row(name, connections, way, found) for way, found in seen.items()]
                about = {"size": name, "connections": connections}
                values += [{**about, "way": way, **asdict(found)} for way, found in seen.items()]
    return [
        Figures(
            title="Proxy against the module directly",
            columns=("body", "connections", "", "requests/s", "p50 ms", "p99 ms", "gateway's CPU µs/request", "others' cores"),
            rows=tuple(rows),
            note=f"Aim: ≥ 8,000 small requests/s in one process. Median (least to most) of {rounds} rounds, {seconds:g} s each.",
            values=tuple(values),
        )
    ]


async def _round(site: Site, seen: _Rounds, *, port: int, path: str, connections: int, seconds: float) -> None:
    used = site.watch()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.load", str(port), path,
        "--tenant", _TENANT, "--connections", str(connections), "--seconds", str(seconds),
        cwd=Path(__file__).parent.parent, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    if process.returncode:
        raise BenchError(f"the load ended with {process.returncode}")
    cpu, told = used(), json.loads(out)
    seen.rates.append(told["rate"])
    seen.p50.append(told["p50"])
    seen.p99.append(told["p99"])
    seen.cpu.append(cpu.parts["gateway"] / told["requests"] * 1e6)
    seen.others.append(cpu.disturbance)


def _row(name: str, connections: int, way: str, seen: _Rounds) -> tuple[str, ...]:
    return (
        name,
        str(connections),
        way,
        *seen.cells(),
        spread(seen.cpu) if way == "gateway" else "",
        f"{max(seen.others):.2f}",
    )
