"""What must hold in the end, and whether it does."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from uplift_cli.demo.board import TenantState
from uplift_cli.demo.check import Findings

_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Something that must hold.

    Attributes:
        text: What.
        holds: Whether it does.
        detail: What was seen, above all if it does not.
    """

    text: str
    holds: bool
    detail: str = ""

    def line(self) -> str:
        """For people."""
        return f"{'ok    ' if self.holds else 'FAILED'}  {self.text}" + (f" ({self.detail})" if self.detail else "")


HEAD = (
    "tenant",
    "requests",
    "failed",
    "longest wait",
    "repeated after the kill",
    "acknowledged writes",
    "lost",
    "damaged",
    "twice",
)


def table(tenants: dict[str, TenantState], findings: dict[str, Findings]) -> list[tuple[str, ...]]:
    """The rows of the last table, the sum last."""
    rows = []
    for name, state in tenants.items():
        books, found = state.load.books, findings.get(name)
        counts = (found.acknowledged, len(found.lost), len(found.damaged), len(found.twice)) if found else None
        rows.append((name, len(books.records), len(books.failures), books.longest, books.repeated, counts))
    checked = [counts for *_, counts in rows if counts]
    rows.append(
        (
            "all",
            sum(row[1] for row in rows),
            sum(row[2] for row in rows),
            max((row[3] for row in rows), default=0.0),
            sum(row[4] for row in rows),
            # Not known for one tenant is not known for all.
            tuple(map(sum, zip(*checked, strict=True))) if checked and len(checked) == len(tenants) else None,  # type: ignore[arg-type]
        )
    )
    return [
        (
            name,
            str(requests),
            str(failed),
            f"{longest:.1f} s",
            str(repeated),
            *(map(str, counts) if counts else ("not checked",) * 4),
        )
        for name, requests, failed, longest, repeated, counts in rows
    ]


STEPS_HEAD = ("step", "requests", "failed", "longest wait")


def steps_table(tenants: dict[str, TenantState]) -> list[tuple[str, ...]]:
    """Requests by the step in which they were sent, in the order of the steps."""
    records = sorted((record for state in tenants.values() for record in state.load.books.records), key=lambda each: each.began)
    rows = list[tuple[str, ...]]()
    for step in dict.fromkeys(record.step for record in records):
        mine = [record for record in records if record.step == step]
        bad, longest = sum(bool(record.failure) for record in mine), max(record.took for record in mine)
        rows.append((step, str(len(mine)), str(bad), f"{longest:.1f} s"))
    return rows


def write_failures(path: Path, tenants: dict[str, TenantState], findings: dict[str, Findings]) -> None:
    """All that went wrong with requests and rows, a line each; the messages show the first few only."""
    lines = [
        f"{name}\t{record.step}\t{record.kind}\t{record.began:.3f}\t{record.took:.3f}\t{record.repeats}\t{record.failure}"
        for name, state in tenants.items()
        for record in state.load.books.failures
    ]
    lines += [sentence for found in findings.values() for sentence in found.sentences]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def about_requests(tenants: dict[str, TenantState], *, writes: int, seconds: float) -> list[Claim]:
    """Whether all were answered, and whether as many were sent as was said.

    Args:
        tenants: All.
        writes: Writes per second and tenant that were asked for.
        seconds: How long they were sent.
    """
    failures = [(name, record) for name, state in tenants.items() for record in state.load.books.failures]
    some = "; ".join(f"{name} {record.kind} in '{record.step}': {record.failure}" for name, record in failures[:_SHOWN])
    slowest = min((state.load.books.writes_sent / seconds for state in tenants.values()), default=0.0) if seconds else 0.0
    return [
        Claim(text="no request failed", holds=not failures, detail=some and f"{len(failures)} failed: {some}"),
        Claim(
            text=f"each tenant sent {writes} writes a second",
            holds=slowest >= 0.95 * writes,
            detail=f"{slowest:.1f} a second over {seconds:.0f} s",
        ),
    ]


def about_data(step: str, findings: dict[str, Findings]) -> Claim:
    """Whether the database holds what was acknowledged."""
    bad = [sentence for found in findings.values() for sentence in found.sentences]
    some = "; ".join(bad[:_SHOWN])
    compared = f"{sum(found.rows for found in findings.values())} rows compared"
    return Claim(
        text=f"{step}: no acknowledged write is lost, damaged or there twice",
        holds=not bad,
        detail=f"{len(bad)} are: {some}" if bad else compared,
    )


def failed(claims: Iterable[Claim]) -> list[Claim]:
    """Those that do not hold."""
    return [claim for claim in claims if not claim.holds]
