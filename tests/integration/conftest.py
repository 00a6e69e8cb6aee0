"""Load on a server: requests on connections that are kept alive, none of them ever tried twice."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

WITHIN = 40.0
"""Seconds that one answer may take before it counts as a failure: longer than anybody is parked."""


@dataclass
class Load:
    """Clients that ask again and again, each on a connection of its own until the server says that it closes it.

    `failures` names for each the process that answered the connection before, None on a new one, and what went wrong.
    """

    port: int
    request: bytes = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    clients: int = 16
    asked: int = 0
    answered: int = 0
    connections: int = 0
    failures: list[tuple[int | None, str]] = field(default_factory=list)
    by_process: Counter[int] = field(default_factory=Counter)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    enough: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self) -> "Load":
        self.tasks = [asyncio.create_task(self._client()) for _ in range(self.clients)]
        return self

    async def reach(self, answered: int) -> None:
        """Wait until so many more requests have been answered."""
        goal = self.answered + answered
        while self.answered < goal:
            assert not all(task.done() for task in self.tasks), self.failures[:5]
            await asyncio.sleep(0.02)

    async def end(self) -> "Load":
        self.enough.set()
        await asyncio.gather(*self.tasks)
        return self

    async def _client(self) -> None:
        while not self.enough.is_set():
            process: int | None = None
            writer: asyncio.StreamWriter | None = None
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                self.connections += 1
                keep = True
                while keep and not self.enough.is_set():
                    self.asked += 1
                    writer.write(self.request)
                    process, keep = await asyncio.wait_for(self._answer(reader), WITHIN)
                    self.answered += 1
            except (OSError, EOFError, TimeoutError, ValueError) as error:
                self.failures.append((process, repr(error)))
            finally:
                if writer is not None:
                    writer.close()
                    with contextlib.suppress(OSError):
                        await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[int, bool]:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        if not head.startswith(b"http/1.1 200 "):
            raise ValueError(head, body)
        found: dict[str, Any] = json.loads(body)
        process = int(found.get("pid", 0))
        self.by_process[process] += 1
        return process, b"connection: close" not in head


@pytest.fixture
async def load() -> AsyncIterator[Callable[..., Load]]:
    """Starts load on a port."""
    made: list[Load] = []

    def start(port: int, **options: Any) -> Load:
        made.append(Load(port, **options).start())
        return made[-1]

    yield start
    for each in made:
        for task in each.tasks:
            task.cancel()
        await asyncio.gather(*each.tasks, return_exceptions=True)
