"""The tables of the lifecycle protocol as Markdown, for `docs/explanation/protocol.md`.

A page and the code cannot differ: the part between the two markers is written from the tables, and a test compares them.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from upgrade_core.protocol import AVAILABILITIES, HOLDS, REPLIES, ROUTINGS, SERVICES, Availability, Effect, Hold, Service, Signal

BEGIN = "<!-- from upgrade_core/protocol.py, written by `make docs`: begin -->"
END = "<!-- from upgrade_core/protocol.py: end -->"

_State = TypeVar("_State", bound=StrEnum)
_Table = Mapping[tuple[_State, Signal], tuple[_State, tuple[Effect, ...]]]


def render_protocol_tables() -> str:
    """The diagrams and tables, without the markers."""
    return "\n\n".join(
        (
            "### Holds",
            _diagram(Hold.OPEN, HOLDS),
            _transitions(HOLDS),
            "### Availability",
            _diagram(Availability.UP, AVAILABILITIES),
            _transitions(AVAILABILITIES),
            "### Instances",
            _diagram(Service.GONE, SERVICES),
            _transitions(SERVICES),
            "### Routing",
            _transitions(ROUTINGS),
            "### Replies",
            _replies(),
        )
    )


def with_tables(page: str) -> str:
    """A page whose part between the markers is what the tables say now.

    Raises:
        ValueError: The page has not both markers, in their order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs a line {BEGIN} and after it a line {END}")
    return f"{before}{BEGIN}\n\n{render_protocol_tables()}\n\n{END}{after}"


def _diagram(start: _State, table: _Table[_State]) -> str:
    arrows = [f"    {state} --> {after}: {signal}" for (state, signal), (after, _) in table.items()]
    return "\n".join(("```mermaid", "stateDiagram-v2", f"    [*] --> {start}", *arrows, "```"))


def _transitions(table: _Table[_State]) -> str:
    rows = [
        f"| {state} | {signal} | {after} | {'; '.join(effects) or '-'} |" for (state, signal), (after, effects) in table.items()
    ]
    return "\n".join(("| state | signal | next state | what the gateway does |", "|---|---|---|---|", *rows))


def _replies() -> str:
    rows = [f"| {hold} | " + " | ".join(REPLIES[hold, availability] for availability in Availability) + " |" for hold in Hold]
    head = "| hold | " + " | ".join(Availability) + " |"
    return "\n".join((head, "|---" * (len(Availability) + 1) + "|", *rows))


__all__ = ["BEGIN", "END", "render_protocol_tables", "with_tables"]
