"""One request as a browser behind a load balancer sends it, and the books about all of them."""

import asyncio
import json
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import aiohttp

PATIENCE = 60.0
"""Seconds for one try; a held request is answered within `gateway.hold_max`."""
PAUSE_MAX = 1.0
"""Longest pause before a request that was cut is sent again, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One request, whatever became of it.

    Attributes:
        kind: Method and table, e.g. `PUT users`.
        step: The step of the demo in which it was sent.
        status: HTTP status of the answer; 0: none came.
        began: When it was first sent, on the loop's clock.
        took: Seconds from the first try to the end.
        repeats: How often it was sent again because a kill had cut its connection.
        failure: Why it counts as failed; empty: it does not.
    """

    kind: str
    step: str
    status: int
    began: float
    took: float
    repeats: int
    failure: str


@dataclass(slots=True, kw_only=True)
class Books:
    """All requests of one tenant."""

    records: list[Record] = field(default_factory=list)
    failures: list[Record] = field(default_factory=list)
    writes_sent: int = 0
    longest: float = 0.0
    repeated: int = 0

    def add(self, record: Record) -> None:
        """Enter a request that has ended."""
        self.records.append(record)
        if record.failure:
            self.failures.append(record)
        self.longest = max(self.longest, record.took)
        self.repeated += record.repeats > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a request came to; `status` 0: no answer."""

    status: int
    body: Any
    began: float
    repeats: int
    failure: str


class Caller:
    """Sends requests to the gateway.

    A cut connection is a failure, except while `kill_under_way`: then the request is sent again, which is allowed for all
    that are sent here (GET and PUT). An answer is never asked for again, whatever its status.
    """

    def __init__(self, *, url: str) -> None:
        self.kill_under_way = False
        self._url = url
        tries = aiohttp.TraceConfig()
        # aiohttp sends an idempotent request again by itself where its connection was cut: that must not go unseen.
        tries.on_connection_create_end.append(self._count)
        tries.on_connection_reuseconn.append(self._count)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=PATIENCE),
            trace_configs=[tries],
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def send(self, method: str, path: str, *, tenant: str, body: dict[str, Any] | None = None) -> Answer:
        """Send a request until it is answered, or has failed."""
        clock = asyncio.get_running_loop().time
        began, repeats = clock(), 0
        while True:
            tries = SimpleNamespace(connections=0, cut=False)
            try:
                async with self._session.request(
                    method, self._url + path, json=body, headers={"X-Okapi-Tenant": tenant}, trace_request_ctx=tries
                ) as response:
                    text = await response.text()
            except TimeoutError:
                return Answer(status=0, body=None, began=began, repeats=repeats, failure=f"no answer within {PATIENCE:g} s")
            except (aiohttp.ClientError, OSError) as error:
                if not self.kill_under_way:
                    return Answer(status=0, body=None, began=began, repeats=repeats, failure=f"cut: {error!r}")
                repeats += 1
                await asyncio.sleep(min(0.1 * repeats, PAUSE_MAX))
                continue
            failure = "" if response.ok else f"{response.status} {text[:300]}"
            if tries.connections > 1 and not tries.cut:
                repeats += 1
            elif tries.cut and not failure:
                failure = "its connection was cut, then it was answered on another one"
            answer = json.loads(text) if text and response.content_type == "application/json" else None
            return Answer(status=response.status, body=answer, began=began, repeats=repeats, failure=failure)

    async def _count(self, _session: aiohttp.ClientSession, context: SimpleNamespace, _params: object) -> None:
        tries = context.trace_request_ctx
        tries.connections += 1
        # Judged now: the answer may come long after the kill.
        if tries.connections > 1 and not self.kill_under_way:
            tries.cut = True
