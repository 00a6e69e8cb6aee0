"""What an administrator should know: found, kept, told once, and told again when it is over (requirements A1, A7).

Several gateways may work on the database. Who looks holds a row lock, and what changes is committed with what is to be told.
"""

import asyncio
import contextlib
import json
import logging
import uuid
from collections.abc import Callable, Sequence

from pydantic import TypeAdapter

from gateway.notifiers import Notification
from gateway.outbox import notify_message
from gateway.platform import Platform
from gateway.store import DatabaseError
from gateway.store.database import Connection
from gateway.store.outbox import add_messages
from gateway.store.problems import ProblemRow, World
from upgrade_core.descriptors import ModuleDescriptor, parse_descriptor
from upgrade_core.problems import (
    DIFFERENCE,
    HOLD_LEFT,
    UNRESOLVED,
    Problem,
    database_restored,
    difference,
    hold_left,
    unresolved,
)
from upgrade_core.reconcile import Kind, Report, with_unseen

_REPORT = TypeAdapter(Report)
_log = logging.getLogger(__name__)


class Problems:
    """The gateway's part in problems."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self.look = asyncio.Event()
        """Set it after a commit that may open or resolve something: modules, bindings, holds, jobs."""
        self._restored: Problem | None = None
        platform.on_restored = self._note_restored

    async def standing(self) -> list[ProblemRow]:
        """What stands now, oldest first."""
        return await self._platform.problems.standing()

    async def report(self, problem: Problem) -> None:
        """Open a problem and tell it. One that stands is not told again; a new text replaces the old one."""
        store = self._platform.problems
        async with self._platform.database.transaction() as connection:
            await self._tell(connection, opened=await store.open(connection, [problem]))
        self._platform.outbox.added.set()

    async def resolve(self, key: str) -> None:
        """It is over, if it stood."""
        store = self._platform.problems
        async with self._platform.database.transaction() as connection:
            await self._tell(connection, resolved=await store.resolve(connection, [key]))
        self._platform.outbox.added.set()

    async def reconcile(self, kind: str, found: tuple[Problem, ...]) -> None:
        """Open what is new, resolve what stands of the kind and was not found; one transaction."""
        async with self._platform.database.transaction() as connection:
            await self._reconcile(connection, kind, found)
        self._platform.outbox.added.set()

    async def report_differences(self, report: Report) -> None:
        """Keep what a reconcile run came to, and tell what it left; one transaction.

        What was found on a node that did not answer this time stands: nobody knows that it is over.
        """
        async with self._platform.database.transaction() as connection:
            store = self._platform.reconcile
            before = await store.last(connection)
            if before is not None:
                report = with_unseen(report, _REPORT.validate_python(before))
            await store.report(connection, _REPORT.dump_python(report, mode="json"), request=report.request)
            # a hold of a job has a problem of its own kind as soon as the job has ended
            found = [difference(each) for each in report.differences if each.kind is not Kind.HOLD]
            await self._reconcile(connection, DIFFERENCE, found)
        self._platform.outbox.added.set()

    async def check(self, *, unless_within: float | None = None) -> bool:
        """Look at modules, bindings and holds, and bring the problems up to date.

        Args:
            unless_within: Do nothing if a gateway has looked within these seconds; None: look in any case.

        Returns:
            Whether this gateway has looked.
        """
        store = self._platform.problems
        async with self._platform.database.transaction() as connection:
            if not await store.take_look(connection, unless_within=unless_within):
                return False
            world = await store.world(connection)
            modules = await self._descriptors(connection, world)
            found = await asyncio.to_thread(unresolved, modules, world.bindings)
            await self._reconcile(connection, UNRESOLVED, found, leave=lambda problem: problem.tenant in world.busy)
            left = tuple(
                hold_left(hold, product=product, tenant=tenant, job=job, ended=ended)
                for hold, product, tenant, job, ended in world.left
            )
            await self._reconcile(connection, HOLD_LEFT, left)
            await self._tell(connection, resolved=await store.resolve_moot(connection))
            await store.forget(connection, older=self._platform.settings.problems_keep)
        self._platform.outbox.added.set()
        return True

    async def run(self) -> None:
        """Look until cancelled: soon after something changed, and every `gateway.problems_interval`."""
        settings = self._platform.settings
        woken = True
        while True:
            if woken:  # what follows at once is seen by the same look: modules often come in a row, before what they need
                await asyncio.sleep(settings.problems_settle)
                self.look.clear()
            try:
                if (restored := self._restored) is not None:
                    await self.report(restored)
                    self._restored = None
                await self.check(unless_within=None if woken else settings.problems_interval)
                woken = False
            except DatabaseError as error:
                _log.warning("look for problems put off: %s", error)
            except Exception:  # noqa: BLE001 - a bug must not end the looks; it is logged whole
                _log.exception("look for problems failed; it is tried again")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(settings.problems_interval):
                    await self.look.wait()
                    woken = True

    def _note_restored(self, epoch: int, applied: int) -> None:
        """Told by the next look, when the database answers."""
        self._restored = database_restored(epoch=epoch, applied=applied)
        self.look.set()

    async def _reconcile(
        self, connection: Connection, kind: str, found: Sequence[Problem], *, leave: Callable[[Problem], bool] = lambda _: False
    ) -> None:
        """As `reconcile`, within a transaction; what is to be left stays as it is."""
        store = self._platform.problems
        standing = {row.problem.key: row.problem for row in await store.standing_of(connection, kind)}
        wanted = {problem.key: problem for problem in found}
        changed = [each for key, each in wanted.items() if standing.get(key) != each and not leave(each)]
        over = [key for key, each in standing.items() if key not in wanted and not leave(each)]
        await self._tell(
            connection,
            opened=await store.open(connection, changed),
            resolved=await store.resolve(connection, over) if over else (),
        )

    async def _tell(
        self, connection: Connection, *, opened: Sequence[ProblemRow] = (), resolved: Sequence[ProblemRow] = ()
    ) -> None:
        """Write who is to be told what."""
        settings, source = self._platform.settings, self._platform.url
        messages = [
            notify_message(
                notification=Notification(
                    id=str(uuid.uuid4()),
                    event="opened" if row.resolved_at is None else "resolved",
                    problem=row.problem,
                    time=row.resolved_at or row.since,
                    since=row.since,
                    source=source,
                ),
                target=notifier,
                lifetime=settings.notify_expires,
            )
            for row in (*opened, *resolved)
            for notifier in settings.notifiers
        ]
        await add_messages(connection, messages)

    async def _descriptors(self, connection: Connection, world: World) -> dict[str, ModuleDescriptor]:
        """The registered descriptors; those that this gateway has not heard of yet come from the database."""
        known = self._platform.table.modules
        unheard = await self._platform.problems.descriptors(connection, [each for each in world.modules if each not in known])
        fresh = {module: parse_descriptor(json.loads(text)) for module, text in unheard.items()}
        return {module: fresh.get(module) or known[module] for module in world.modules if module in fresh or module in known}
