"""Errors of the gateway's database."""


class DatabaseError(Exception):
    """Postgres cannot be reached or used. The message says which address and why."""


class Outdated(DatabaseError):
    """The database was migrated beyond this release, which must not touch it any more. The message says what to run."""
