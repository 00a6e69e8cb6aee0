"""Local drains: this replica waits until nothing of its own is at work on a subject, and says so to all."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from gateway.store import NodeStore

_log = logging.getLogger(__name__)
_RETRY = 0.5


class Drains:
    """Background waits of one replica. A subject is `hold:<id>`, `overlay:<token>`, `module:<id>` or `instance:<id>`.

    Args:
        nodes: Where it is said.
        generation: Names this process.
    """

    def __init__(self, *, nodes: NodeStore, generation: str) -> None:
        self._nodes = nodes
        self._generation = generation
        self._tasks: set[asyncio.Task[None]] = set()
        self._subjects: dict[str, int] = {}

    def begin(self, subject: str, work: Coroutine[Any, Any, None] | None = None) -> None:
        """Say that we are quiet on a subject when some work has ended.

        Args:
            subject: See the class.
            work: What has to end first; None: nothing of ours is known to be at work, beside what another call waits for.
        """
        if work is not None:
            self._subjects[subject] = self._subjects.get(subject, 0) + 1
            self.spawn(self._drain(subject, work))
        elif subject not in self._subjects:
            self.spawn(self.say(subject))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something until the gateway closes."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def say(self, subject: str) -> None:
        """Say that we are quiet, as often as it takes."""
        while True:
            try:
                await self._nodes.say_quiet(subject, self._generation)
            except Exception as error:  # noqa: BLE001 - whatever it is: others wait for this
                _log.warning("cannot say that nothing is at work on %s, trying again: %s", subject, error)
                await asyncio.sleep(_RETRY)
            else:
                return

    async def close(self) -> None:
        """Stop waiting; what is not said is taken over by who reads the rows."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _drain(self, subject: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
            await self.say(subject)
        finally:
            self._subjects[subject] -= 1
            if not self._subjects[subject]:
                del self._subjects[subject]

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a drain ended with an error", exc_info=error)
