"""The second half of migrations: what only older releases used goes when none of them lives."""

import asyncio
import logging

import asyncpg

from gateway.store import Database, DatabaseError, Outdated
from gateway.store.database import AWAY

_log = logging.getLogger(__name__)
_AGAIN = 30.0
"""Seconds before a migration that failed is tried again."""


class Aftermath:
    """Applies post migrations.

    Args:
        database: The database.
        interval: Seconds between looks whether an older replica still lives; as often as they renew their leases.
    """

    def __init__(self, database: Database, *, interval: float) -> None:
        self._database = database
        self._interval = interval

    async def run(self) -> None:
        """Look until all are applied; until cancelled."""
        missing: tuple[str, ...] | None = None
        while missing != ():
            pause = self._interval
            try:
                before, missing = missing, await self._database.migrate_after()
            except Outdated as error:
                _log.error("%s", error)
                return
            except (DatabaseError, *AWAY) as error:
                _log.debug("post migrations are put off: %s", error)
            except asyncpg.PostgresError as error:
                _log.error("a post migration cannot be applied, trying again in %.0f s: %s", _AGAIN, error)
                pause = _AGAIN
            else:
                if before is None and missing:
                    _log.info("%s waits until no older gateway runs", ", ".join(missing))
            if missing != ():
                await asyncio.sleep(pause)
