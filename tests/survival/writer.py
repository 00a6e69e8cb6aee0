"""Users of one tenant of mod-users, who write all the time and remember what was acknowledged."""

import asyncio
import random
from contextlib import suppress
from uuid import uuid4

from uplift_cli.demo.ledger import Ledger, Row, Version
from uplift_cli.demo.requests import Answer, Caller

_EVERY = 0.1
"""Seconds between two writes, whatever the answers do."""
_AGAIN = 0.25
"""Share of the writes that change a row that is there."""


class Writer:
    """Writes at a steady rate.

    Args:
        caller: Sends the requests.
        tenant: Whose.
    """

    def __init__(self, *, caller: Caller, tenant: str) -> None:
        self.tenant = tenant
        self.ledger = Ledger()
        self.failures: list[str] = []
        self._caller = caller
        self._chance = random.Random(tenant)
        self._stream: asyncio.Task[None] | None = None
        self._open: set[asyncio.Task[Answer]] = set()
        self._own: set[Row] = set()

    @property
    def acknowledged(self) -> int:
        """Writes that were answered as done."""
        return self.ledger.acknowledged_writes

    async def row(self) -> Row:
        """A row of the caller's own, which is there and which nobody else writes."""
        row = Row(id=uuid4())
        self._own.add(row)
        answer = await self.write(row)
        assert not answer.failure, answer.failure
        return row

    async def write(self, row: Row) -> Answer:
        """One write of a row."""
        table = self.ledger.users
        seq = table.next_seq()
        name = f"Ada-{seq}" + (" Lovelace" if seq % 3 else "")
        place = table.begin(row, Version(seq=seq, content=(name,)))
        acknowledged = False
        try:
            answer = await self._caller.send("PUT", f"/users/{row.id}", tenant=self.tenant, body={"name": name, "seq": seq})
            acknowledged = answer.status in (201, 204)
        finally:
            table.end(row, place, acknowledged=acknowledged)
        if answer.failure or not acknowledged:
            self.failures.append(answer.failure or str(answer.status))
        return answer

    def start(self) -> None:
        """Begin to write."""
        self._stream = asyncio.create_task(self._write_on())

    async def stop(self) -> None:
        """Write no more, and wait until everything is answered."""
        if self._stream is not None:
            self._stream.cancel()
            with suppress(asyncio.CancelledError):
                await self._stream
            self._stream = None
        while self._open:
            await asyncio.wait(self._open)

    async def _write_on(self) -> None:
        while True:
            row = self.ledger.users.any_readable(self._chance) if self._chance.random() < _AGAIN else None
            if row is None or row.busy or row in self._own:
                row = Row(id=uuid4())
            task = asyncio.create_task(self.write(row))
            self._open.add(task)
            task.add_done_callback(self._open.discard)
            await asyncio.sleep(_EVERY)


__all__ = ["Writer"]
