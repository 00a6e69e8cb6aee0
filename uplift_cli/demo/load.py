"""Steady writes and reads of one tenant, at a fixed rate whatever the answers do.

So requests that are held pile up as those of real users would, and a wait is not hidden by a client that sends less.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any
from uuid import uuid4

from uplift_cli.demo.ledger import Ledger, Row, Table, Version
from uplift_cli.demo.requests import Answer, Books, Caller, Record

LOANS_SHARE = 8  # every eighth write is a loan
_AGAIN = 0.25  # share of the writes of users that change one that is there
_SEED_AT_ONCE = 16
_FIRST = ("Ada", "Grace", "Émilie", "Hedy", "Mary-Jane", "陳", "Sofja")
_LAST = ("Lovelace", "Hopper", "du Châtelet", "Lamarr", "O'Neill", "van der Berg", "Ковалевская", "")


class TenantLoad:
    """The users of one tenant.

    Args:
        tenant: Whose requests.
        caller: Sends them.
        writes: Writes per second; half as many reads are sent beside them.
        step: Names the demo's step, for the records.
        seed: Of chance: what is written differs between tenants, and is the same in every demo.
    """

    def __init__(self, *, tenant: str, caller: Caller, writes: int, step: Callable[[], str], seed: int) -> None:
        self.tenant = tenant
        self.ledger = Ledger()
        self.books = Books()
        self._caller = caller
        self._writes = writes
        self._step = step
        self._chance = random.Random(seed)  # noqa: S311 - nothing is kept secret by it
        self._streams: list[asyncio.Task[None]] = []
        self._open: set[asyncio.Task[None]] = set()

    @property
    def in_flight(self) -> int:
        """Requests without an answer yet."""
        return len(self._open)

    async def seed(self, rows: int, *, progress: Callable[[int], None]) -> None:
        """Write some users first, as fast as they are taken.

        Args:
            rows: How many.
            progress: Told how many are written.
        """
        for first in range(0, rows, _SEED_AT_ONCE):
            await asyncio.gather(*(self._write_user() for _ in range(min(_SEED_AT_ONCE, rows - first))))
            progress(min(first + _SEED_AT_ONCE, rows))

    def start(self) -> None:
        """Begin to send."""
        loans = max(1, self._writes // LOANS_SHARE)
        rates = ((self._write_user, self._writes - loans), (self._write_loan, loans), (self._read, max(1, self._writes // 2)))
        self._streams = [asyncio.create_task(self._stream(work, rate)) for work, rate in rates if rate]

    async def stop(self) -> None:
        """Send no more, and wait until everything is answered."""
        for stream in self._streams:
            stream.cancel()
        await asyncio.gather(*self._streams, return_exceptions=True)
        while self._open:
            await asyncio.wait(self._open)

    async def _stream(self, work: Callable[[], Coroutine[Any, Any, None]], rate: int) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            task = asyncio.create_task(work())
            self._open.add(task)
            task.add_done_callback(self._open.discard)
            due += 1 / rate
            await asyncio.sleep(due - loop.time())

    async def _write_user(self) -> None:
        table, chance = self.ledger.users, self._chance
        row = table.any_readable(chance) if chance.random() < _AGAIN else None
        if row is None or row.busy:
            row = Row(id=uuid4())
        seq = table.next_seq()
        last = chance.choice(_LAST)
        # A name without a blank is written too: the migration must keep it as it is.
        name = f"{chance.choice(_FIRST)}-{self.tenant}-{seq}" + (f" {last}" if last else "")
        await self._write("users", table, row, Version(seq=seq, content=(name,)), {"name": name, "seq": seq})

    async def _write_loan(self) -> None:
        user = self.ledger.users.any_readable(self._chance)
        if user is None:
            return
        table = self.ledger.loans
        seq = table.next_seq()
        version = Version(seq=seq, content=(str(user.id), f"book {seq} of {self.tenant}"))
        body = {"user_id": version.content[0], "item": version.content[1], "seq": seq}
        await self._write("loans", table, Row(id=uuid4()), version, body)

    async def _write(self, name: str, table: Table, row: Row, version: Version, body: dict[str, Any]) -> None:
        place = table.begin(row, version)
        self.books.writes_sent += 1
        acknowledged = False
        try:
            answer = await self._timed(
                f"PUT {name}", lambda: self._caller.send("PUT", f"/{name}/{row.id}", tenant=self.tenant, body=body)
            )
            acknowledged = answer.status in (201, 204)
        finally:
            table.end(row, place, acknowledged=acknowledged)

    async def _read(self) -> None:
        name, table = ("loans", self.ledger.loans) if self._chance.random() < 1 / LOANS_SHARE else ("users", self.ledger.users)
        row = table.any_readable(self._chance)
        if row is None:
            return
        since = row.acknowledged

        def wrong(answer: Answer) -> str:
            found = read_version(name, answer.body)
            return "" if found and row.holds(found, since=since) else f"read {answer.body}, acknowledged {row.sent[since]}"

        await self._timed(f"GET {name}", lambda: self._caller.send("GET", f"/{name}/{row.id}", tenant=self.tenant), wrong)

    async def _timed(
        self, kind: str, send: Callable[[], Awaitable[Answer]], wrong: Callable[[Answer], str] = lambda _: ""
    ) -> Answer:
        step = self._step()
        answer = await send()
        self.books.add(
            Record(
                kind=kind,
                step=step,
                status=answer.status,
                began=answer.began,
                took=asyncio.get_running_loop().time() - answer.began,
                repeats=answer.repeats,
                failure=answer.failure or wrong(answer),
            )
        )
        return answer


def read_version(table: str, body: Any) -> Version | None:
    """The version that an answer of `users` or `loans` shows; None if it shows none."""
    names = ("name",) if table == "users" else ("user_id", "item")
    if not isinstance(body, dict) or not isinstance(body.get("seq"), int):
        return None
    return Version(seq=body["seq"], content=tuple(str(body.get(name)) for name in names))
