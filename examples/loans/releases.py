"""The releases of mod-loans and their schema."""

from dataclasses import dataclass

from examples.releases import Change, Module, Release, Step

_CREATE = Step(
    version="1.0.0",
    forward=Change(
        finish="""
        CREATE TABLE IF NOT EXISTS {schema}.loans (
            id uuid PRIMARY KEY,
            user_id uuid NOT NULL,
            item text NOT NULL,
            seq bigint
        )
        """
    ),
    backward=Change(),
)

_DUE = Step(
    version="1.1.0",
    forward=Change(finish="ALTER TABLE {schema}.loans ADD COLUMN IF NOT EXISTS due date"),
    backward=Change(finish="ALTER TABLE {schema}.loans DROP COLUMN IF EXISTS due"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoansRelease(Release):
    """A release of mod-loans.

    Attributes:
        has_due: Whether a loan has a day on which it is due.
    """

    has_due: bool


_RELEASES = (
    LoansRelease(version="1.0.0", steps=(_CREATE,), has_due=False),
    LoansRelease(version="1.1.0", steps=(_CREATE, _DUE), has_due=True),
)

MOD_LOANS = Module(product="mod-loans", table="loans", releases={release.version: release for release in _RELEASES})

__all__ = ["MOD_LOANS", "LoansRelease"]
