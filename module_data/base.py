"""Values and errors of module data."""

from dataclasses import dataclass


class ModuleDataError(Exception):
    """Root of the errors of module data."""


class CopyRefused(ModuleDataError):
    """A copy of the schema would not be whole. Choose another undo mode or remove the reasons.

    Attributes:
        reasons: One sentence each.
    """

    def __init__(self, reasons: tuple[str, ...]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


class ToolsMissing(ModuleDataError):
    """pg_dump, pg_restore or psql is missing or older than the server. Install them or set `data.tools`."""


class CopyFailed(ModuleDataError):
    """The copy could not be taken. Nothing was changed; the message carries the tool's own words."""


class RestoreFailed(ModuleDataError):
    """The copy could not be put back. The schema is as it was before the attempt unless the message says that it differs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A database session that holds locks in a schema."""

    pid: int
    application: str
    state: str
    query: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaFacts:
    """What can be seen of a schema.

    Attributes:
        exists: Whether it is there.
        size: Bytes of its relations with indexes and TOAST.
        refusals: Why a copy would not be whole, one sentence each; empty if it would.
    """

    exists: bool
    size: int
    refusals: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaCopy:
    """A copy of a schema.

    Attributes:
        schema: The schema's name.
        path: The file; empty where the schema was absent (to put that back is to drop it).
        size: Bytes of the file.
        digest: SHA-256 of the file, hexadecimal.
        existed: Whether the schema was there.
    """

    schema: str
    path: str
    size: int
    digest: str
    existed: bool
