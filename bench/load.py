"""Load: GETs over connections that stay open, each connection asking anew when it was answered; no two for the same address.

Runs in a process of its own, `python -m bench.load PORT PATH …`, and prints what it saw as JSON. Less than 20 µs a request: a
third of what the fastest server here needs, so that the server is measured and not this.
"""

import argparse
import asyncio
import json
import sys
import time
from itertools import count
from typing import cast

import uvloop

from bench.figures import percentile

_WARM = 0.3
"""Seconds before what is seen counts."""


class Asking(asyncio.Protocol):
    """One connection. `seen` gets (when it was answered, seconds that took)."""

    def __init__(self, *, path: str, head: bytes, numbers: "count[int]", seen: list[tuple[float, float]]) -> None:
        self._path = path.encode()
        self._head = head
        self._numbers = numbers
        self._seen = seen
        self._left = 0
        self._pending = b""
        self._asked = 0.0
        self.stop = False
        self.error = ""
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.stop and not self.error:
            self.error = f"the connection was closed: {exc}"
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self._left:
            self._left -= len(data)
        else:
            data = self._pending + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._pending = data
                return
            self._pending = b""
            at = data.find(b"Content-Length: ", 0, end)
            if not data.startswith(b"HTTP/1.1 200 ") or at < 0:
                self.error = data[:300].decode(errors="replace")
                self._transport.close()
                return
            self._left = end + 4 + int(data[at + 16 : data.find(b"\r\n", at)]) - len(data)
        if self._left == 0:
            now = time.perf_counter()
            self._seen.append((now, now - self._asked))
            if self.stop:
                self._transport.close()
            else:
                self._ask()

    def _ask(self) -> None:
        self._asked = time.perf_counter()
        self._transport.write(b"GET %s/%d %s" % (self._path, next(self._numbers), self._head))


async def run(*, port: int, path: str, tenant: str, connections: int, seconds: float) -> dict[str, float]:
    """Ask for a while.

    Returns:
        `rate` in requests/s, `p50` and `p99` in seconds, `requests` with those of the warm-up.
    """
    head = f"HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-Okapi-Tenant: {tenant}\r\nAccept: application/json\r\n\r\n".encode()
    seen: list[tuple[float, float]] = []
    numbers = count()
    loop = asyncio.get_running_loop()
    asking = [
        (await loop.create_connection(lambda: Asking(path=path, head=head, numbers=numbers, seen=seen), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    begin = time.perf_counter() + _WARM
    end = begin + seconds
    await asyncio.sleep(_WARM + seconds)
    for each in asking:
        each.stop = True
    async with asyncio.timeout(30):
        await asyncio.gather(*(each.closed for each in asking))
    errors = [each.error for each in asking if each.error]
    if errors:
        sys.exit(f"{len(errors)} of {connections} connections failed: {errors[0]}")
    counted = sorted(took for when, took in seen if begin <= when < end)
    return {
        "rate": len(counted) / seconds,
        "p50": percentile(counted, 50),
        "p99": percentile(counted, 99),
        "requests": len(seen),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("--tenant", required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    print(json.dumps(uvloop.run(run(**vars(parser.parse_args())))))
