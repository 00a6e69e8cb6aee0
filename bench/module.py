"""The module that is measured against: as fast as Python gets, so that it does not stand in the way of what is measured.

Run as `python module.py --id mod-bench-1.0.0 --port N --log FILE`. It answers `GET /bench/small/…` with 200 bytes and
`GET /bench/large/…` with 100 kB. Tenant init takes as many seconds as its parameter `seconds` says; when it began and when it
ended is written down, since what a tenant was held beyond that is ours. With the parameter `job` it is a job instead, over as
soon as there is a file `<module>-<tenant>.gate` beside the log: it survives this process.
"""

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import TextIO, cast

import uvloop

SMALL, LARGE = 200, 100_000
"""Bytes of the two bodies."""


def _answer(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


_SMALL = _answer(b'"' + b"s" * (SMALL - 2) + b'"')
_LARGE = _answer(b'"' + b"l" * (LARGE - 2) + b'"')
_UP = _answer(b'"up"')
_NOTHING = b"HTTP/1.1 204 No Content\r\n\r\n"
_JOB = b"/_/tenant/"


class Served(asyncio.Protocol):
    """One connection."""

    def __init__(self, *, module: str, log: TextIO, folder: Path) -> None:
        self._folder = folder
        self._module = module
        self._log = log
        self._pending = b""
        self._inits: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        data = self._pending + data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            if data.startswith((b"GET ", b"DELETE ")):
                self._answer_look(data)
                data = data[end + 4 :]
                continue
            length = int(_header(data[:end], b"content-length") or 0)
            if len(data) < end + 4 + length:
                break
            task = asyncio.create_task(self._init(data[:end], data[end + 4 : end + 4 + length]))
            self._inits.add(task)
            task.add_done_callback(self._inits.discard)
            data = data[end + 4 + length :]
        self._pending = data

    def _answer_look(self, data: bytes) -> None:
        if data.startswith(b"GET /bench/small"):
            self._transport.write(_SMALL)
        elif data.startswith(b"GET /bench/large"):
            self._transport.write(_LARGE)
        elif data.startswith(b"GET " + _JOB):
            self._transport.write(_answer(self._job(_header(data, b"x-okapi-tenant"))))
        elif data.startswith(b"DELETE "):
            self._transport.write(_NOTHING)
        else:
            self._transport.write(_UP)

    def _job(self, tenant: bytes | None) -> bytes:
        name = (tenant or b"").decode()
        complete = (self._folder / f"{self._module}-{name}.gate").exists()
        return json.dumps({"id": name, "tenant": name, "complete": complete}).encode()

    async def _init(self, head: bytes, body: bytes) -> None:
        begun = time.time()
        parameters = {item["key"]: item.get("value") for item in (json.loads(body) if body else {}).get("parameters") or []}
        tenant = (_header(head, b"x-okapi-tenant") or b"").decode()
        if parameters.get("job"):
            location = b"201 Created\r\nLocation: " + _JOB + tenant.encode()
            self._transport.write(_answer(self._job(tenant.encode()), status=location))
            return
        await asyncio.sleep(float(parameters.get("seconds") or 0))
        line = {"module": self._module, "tenant": tenant, "begun": begun, "ended": time.time()}
        self._log.write(json.dumps(line) + "\n")
        self._transport.write(_NOTHING)


def _header(head: bytes, name: bytes) -> bytes | None:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.lower() == name:
            return value.strip()
    return None


async def _serve(module: str, port: int, log: Path) -> None:
    with log.open("a", buffering=1, encoding="utf-8") as lines:
        server = await asyncio.get_running_loop().create_server(
            lambda: Served(module=module, log=lines, folder=log.parent), "127.0.0.1", port, backlog=1024
        )
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--id", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True)
    options = parser.parse_args()
    uvloop.run(_serve(options.id, options.port, options.log))
