"""How a parent hands its sockets and children to the next program of the same process."""

import asyncio
import json
import logging
import os
import socket
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

_log = logging.getLogger("gateway.parent")
_STATE = "UPLIFT_GATEWAY_STATE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Heritage:
    """What is handed over.

    Attributes:
        sockets: The listening sockets.
        slots: Number of children to keep.
        children: Records of those that live, see `gateway.children.Children.records`; members are only ever added.
    """

    sockets: tuple[socket.socket, ...]
    slots: int
    children: Sequence[Mapping[str, Any]]


def take_heritage(env: MutableMapping[str, str]) -> Heritage | None:
    """What the program before has left to us in the environment, taken out of it; None: we are the first."""
    text = env.pop(_STATE, None)
    if text is None:
        return None
    state = json.loads(text)
    sockets = tuple(socket.socket(fileno=number) for number in state["sockets"])
    for each in sockets:
        each.set_inheritable(False)
    return Heritage(sockets=sockets, slots=state["slots"], children=state["children"])


def become(command: tuple[str, ...], *, heritage: Heritage, env: Mapping[str, str]) -> None:
    """Replace the program of this process. Returns only if that could not be done, and everything is as it was then."""
    handed = [each.fileno() for each in heritage.sockets] + [record["channel"] for record in heritage.children]
    state = {"sockets": handed[: len(heritage.sockets)], "slots": heritage.slots, "children": list(heritage.children)}
    for number in handed:
        os.set_inheritable(number, True)  # noqa: FBT003 - its only words
    try:
        os.execve(command[0], command, {**env, _STATE: json.dumps(state)})  # noqa: S606 - our own command line
    except OSError as error:
        _log.error("cannot run %s: %s; the parent goes on as it is", command[0], error.strerror)
        for number in handed:
            os.set_inheritable(number, False)  # noqa: FBT003


async def works(check: Sequence[str], *, env: Mapping[str, str], within: float) -> bool:
    """Whether a program can be run: its check ends with 0. An empty check is not run.

    Args:
        check: Program and arguments.
        env: Its environment.
        within: Seconds that it gets.
    """
    if not check:
        return True
    try:
        process = await asyncio.create_subprocess_exec(*check, env=env, stdin=asyncio.subprocess.DEVNULL)
    except OSError as error:
        _log.error("cannot run %s: %s; the parent goes on as it is", check[0], error.strerror)
        return False
    try:
        code = await asyncio.wait_for(process.wait(), within)
    except TimeoutError:
        process.kill()
        code = await process.wait()
    except asyncio.CancelledError:
        process.kill()
        raise
    if code:
        _log.error("the new program does not work (%s: exit code %d): the parent goes on as it is", " ".join(check), code)
    return code == 0
