"""Stands in for a gateway process: the same way in and out, but no platform behind it. A folder tells it what to do."""

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path

import uvloop
from aiohttp import web

from gateway.departure import Departure
from gateway.server import Server

FOLDER = Path(os.environ["UPLIFT_TEST_FOLDER"])
FACTS = {
    "pid": os.getpid(),
    "node": os.environ["UPLIFT_GATEWAY__NODE"],
    "address": f"{os.environ['UPLIFT_GATEWAY__HOST']}:{os.environ['UPLIFT_GATEWAY__PORT']}",
    "replaces": os.environ.get("UPLIFT_GATEWAY_REPLACES"),
    "group": os.getpgid(0),
}


async def handle(request: web.BaseRequest) -> web.StreamResponse:
    if request.path == "/slow":
        (FOLDER / f"slow-{request.query_string}").touch()
        while not (FOLDER / "open").exists():
            await asyncio.sleep(0.01)
    return web.json_response(FACTS)


async def main() -> None:
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked_to_end() -> None:
        (FOLDER / "asked").touch()
        if not (FOLDER / "stubborn").exists():
            (hurry if stop.is_set() else stop).set()

    loop.add_signal_handler(signal.SIGTERM, asked_to_end)
    if (FOLDER / "hang").exists():
        await stop.wait()
        return
    if (FOLDER / "exit").exists():
        sys.exit("this release is broken")
    departure = Departure(linger=2.0, grace=20.0)
    server = Server(handle, departure=departure, handler_cancellation=True, access_log=None)
    listener = await loop.create_server(server, sock=socket.socket(fileno=int(os.environ["UPLIFT_LISTEN_FD"])), backlog=4096)
    channel = socket.socket(fileno=int(os.environ["UPLIFT_READY_FD"]))
    channel.setblocking(False)
    loop.add_reader(channel, lambda: (loop.remove_reader(channel), stop.set()))
    channel.send(b"1")
    with (FOLDER / "children").open("a") as children:
        children.write(json.dumps(FACTS) + "\n")
    await stop.wait()
    listener.close()
    await departure.wait(server, hurry=hurry)
    await server.shutdown(timeout=0.1)


uvloop.run(main())
