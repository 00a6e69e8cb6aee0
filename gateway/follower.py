"""Following the rows: whatever any replica commits reaches this one's routing table through here, and in no other way."""

import asyncio
import logging
from collections.abc import Callable, Iterable

from gateway.store import Changed, ChangeStore, Database, DatabaseError, NodeStore, Picture

_log = logging.getLogger(__name__)
KINDS = ("tenant", "module", "binding", "retirement", "instance", "overlay", "hold")
"""Kinds of rows in the order in which they are applied."""


class Follower:
    """Keeps a routing table in step with the rows.

    Args:
        database: Where the rows are.
        generation: Names this process among the replicas.
        known: Keys of a kind that are in memory now.
        apply: Takes one changed row into memory; must not wait.
        applied: Called after a picture was applied, with the kinds that were in it.
        restored: Called after everything was loaded anew because the database is an earlier state of the one that was followed,
            with its epoch and the one that had been followed.
    """

    def __init__(
        self,
        *,
        database: Database,
        generation: str,
        known: Callable[[str], Iterable[tuple[str, str]]],
        apply: Callable[[Changed], None],
        applied: Callable[[set[str]], None],
        restored: Callable[[int, int], None],
    ) -> None:
        self._changes = ChangeStore(database)
        self._nodes = NodeStore(database)
        self._generation = generation
        self._known = known
        self._apply = apply
        self._applied = applied
        self._restored = restored
        self._lock = asyncio.Lock()
        self._asked = self._done = 0
        self._published = -1
        self._stamp: str | None = None
        self.epoch = -1
        """Number of the last change that is in memory."""
        self.key = b""
        """Signs request ids, the same in all replicas."""
        self.others: dict[str, int] = {}
        """Other live replicas and the epochs they had applied, as of the last look."""

    async def catch_up(self) -> None:
        """Everything that was committed before this call is in memory afterwards.

        Raises:
            DatabaseError: Postgres is away.
        """
        self._asked += 1
        ticket = self._asked
        async with self._lock:
            if self._done >= ticket:
                return
            now = self._asked
            await self._take(await self._changes.since(self.epoch, self._stamp))
            self._done = now

    async def resync(self) -> None:
        """Everything anew, from one consistent picture.

        Raises:
            DatabaseError: Postgres is away.
        """
        async with self._lock:
            await self._take(await self._changes.everything(self.epoch, self._stamp))

    async def forget_old(self) -> None:
        """Drop old changes from the log."""
        await self._changes.forget_old()

    async def _take(self, picture: Picture) -> None:
        self.key = picture.key
        if picture.changes or picture.whole:
            changes = list(picture.changes)
            if picture.whole:
                there = {(change.kind, change.a, change.b) for change in changes}
                changes += [
                    Changed(kind, a, b, None) for kind in KINDS for a, b in list(self._known(kind)) if (kind, a, b) not in there
                ]
            changes.sort(key=lambda change: KINDS.index(change.kind))
            for change in changes:
                try:
                    self._apply(change)
                except Exception:
                    _log.exception("the row %s %s %s cannot be applied", change.kind, change.a, change.b)
                    if change.kind == "hold":  # nobody may believe that we keep it; any other odd row must not stop the rest
                        raise
            self._applied({change.kind for change in changes})
        before, self.epoch, self._stamp = self.epoch, picture.epoch, picture.stamp
        if picture.restored:
            _log.error(
                "the gateway's database is an older copy of itself: change %d is not the one that was followed (it is at %d now);"
                " everything was loaded anew",
                before,
                picture.epoch,
            )
            self._published = -1  # whatever is said of us there
            self._restored(picture.epoch, before)
        self.others = {generation: epoch for generation, epoch in picture.applied.items() if generation != self._generation}
        if self.others and self._published != self.epoch:
            try:
                await self._nodes.set_applied(self._generation, self.epoch)
                self._published = self.epoch
            except DatabaseError as error:
                _log.debug("the others are told later how far we are: %s", error)
