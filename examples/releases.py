"""What a release of a module does to a tenant's data, as values.

A release's `steps` are its whole history: the data of any two releases differ by the steps that only one of them has.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar


class UnknownVersion(Exception):
    """No way leads from the one version to the other here (400). Ask the higher version; nothing was touched."""


class Fault(StrEnum):
    """What goes wrong on purpose, for tests and demos."""

    NONE = "none"
    HALF = "half"
    """Fails after half of the rows, and leaves them changed."""
    HANG = "hang"
    """Never ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One direction of a step. May be run again at any point; `{schema}` in SQL is the tenant's.

    Attributes:
        prepare: SQL of the first transaction.
        assign: What a row gets (the text after SET); empty: no row is rewritten.
        rows: Which rows still need it (the text after WHERE).
        finish: SQL of the last transaction, with the version if it is the migration's last.
        doubtful: Which rows somebody should look at afterwards (the text after WHERE).
        doubt: What is the matter with them, after their number.
        uses_up: Column that is gone when the change has been made; empty: every part of it may be run again anyway.
        fault: What goes wrong on purpose.
    """

    prepare: str = ""
    assign: str = ""
    rows: str = ""
    finish: str = ""
    doubtful: str = ""
    doubt: str = ""
    uses_up: str = ""
    fault: Fault = Fault.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A change of the schema and its reverse.

    Attributes:
        version: The release that brought it.
    """

    version: str
    forward: Change
    backward: Change


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A version of a module.

    Attributes:
        steps: Everything that its schema has gone through, oldest first.
        interface: Version of the interface that it provides.
        rerunnable: Whether a migration that broke off may be asked for again.
    """

    version: str
    steps: tuple[Step, ...]
    interface: str = "1.0"
    rerunnable: bool = True

    @property
    def order(self) -> tuple[int, ...]:
        """By what releases compare."""
        return version_key(self.version)


R_co = TypeVar("R_co", bound=Release, covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Module(Generic[R_co]):
    """All releases of a module.

    Attributes:
        product: Its name without a version, e.g. `mod-users`.
        releases: All of them by version.
        table: The table whose rows migrations rewrite.
    """

    product: str
    table: str
    releases: Mapping[str, R_co]


def version_key(version: str) -> tuple[int, ...]:
    """By what versions compare: `10.0.0` is above `9.0.0`."""
    return tuple(int(number) for number in version.split("."))


def path(source: Release | None, target: Release) -> tuple[Change, ...]:
    """The changes that lead from one release's data to another's, never empty.

    Args:
        source: Where the data is; None: there is none yet.
        target: Where it is wanted: above the source (upgrade), below (downgrade), or the same.

    Raises:
        UnknownVersion: Neither history is the beginning of the other.
    """
    have, want = source.steps if source else (), target.steps
    shared = min(len(have), len(want))
    if have[:shared] != want[:shared]:
        raise UnknownVersion(f"no way leads from {source.version if source else 'nothing'} to {target.version}")
    upwards = tuple(step.forward for step in want[shared:])
    downwards = tuple(step.backward for step in reversed(have[shared:]))
    return upwards + downwards or (Change(),)


__all__ = ["Change", "Fault", "Module", "Release", "Step", "UnknownVersion", "path", "version_key"]
