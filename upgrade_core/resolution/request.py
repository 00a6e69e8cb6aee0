"""What is asked for, and what it comes to."""

from dataclasses import dataclass
from enum import StrEnum


class Verb(StrEnum):
    """What a request asks of one module."""

    ENABLE = "enable"
    DISABLE = "disable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One line of a request; the id may be a product alone, which means its newest version."""

    id: str
    verb: Verb = Verb.ENABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One line of the answer.

    Attributes:
        action: `enable`, `disable` or `uptodate`.
        module: The full module id.
        module_from: For an enable of an enabled product: the version it is at.
    """

    action: str
    module: str
    module_from: str | None = None
