"""What the writers were told: every row they wrote, every version of it, and which one was acknowledged."""

import random
from dataclasses import dataclass, field
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A row's content as one write sent it.

    Attributes:
        seq: Number of the write, unique in its tenant and table.
        content: The values: a user's name; a loan's user and item.
    """

    seq: int
    content: tuple[str, ...]


@dataclass(slots=True, kw_only=True, eq=False)
class Row:
    """A row and all versions that were sent of it, oldest first.

    Attributes:
        acknowledged: Place in `sent` of the last version that was answered as written; -1: none was.
        busy: Whether a write of it is under way; a row has one writer at a time, so that its order is known.
    """

    id: UUID
    sent: list[Version] = field(default_factory=list)
    acknowledged: int = -1
    busy: bool = False

    def holds(self, version: Version, *, since: int) -> bool:
        """Whether a version may be what is read: none older than the one acknowledged at place `since`."""
        return version in self.sent[max(since, 0) :]


class Table:
    """The rows of one table of one tenant."""

    def __init__(self) -> None:
        self.rows: dict[UUID, Row] = {}
        self.acknowledged_writes = 0
        self._readable: list[Row] = []
        self._seq = 0

    def next_seq(self) -> int:
        """The number of the next write."""
        self._seq += 1
        return self._seq

    def begin(self, row: Row, version: Version) -> int:
        """Note that a version is being sent; returns its place."""
        self.rows[row.id] = row
        row.busy = True
        row.sent.append(version)
        return len(row.sent) - 1

    def end(self, row: Row, place: int, *, acknowledged: bool) -> None:
        """Note what became of it."""
        row.busy = False
        if acknowledged:
            if row.acknowledged < 0:
                self._readable.append(row)
            row.acknowledged = place
            self.acknowledged_writes += 1

    def any_readable(self, chance: random.Random) -> Row | None:
        """A row that must be there; None while there is none."""
        return chance.choice(self._readable) if self._readable else None

    def acknowledged_places(self) -> dict[UUID, int]:
        """The rows that must be there now, each with the place of its last acknowledged version."""
        return {row.id: row.acknowledged for row in self._readable}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The tables of one tenant."""

    users: Table = field(default_factory=Table)
    loans: Table = field(default_factory=Table)

    @property
    def acknowledged_writes(self) -> int:
        """Writes that were answered as done."""
        return self.users.acknowledged_writes + self.loans.acknowledged_writes
