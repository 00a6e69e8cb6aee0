"""Ports of the embedded stack: chosen once for a folder, kept, and checked before each start."""

import errno
import random
import socket
from collections.abc import Container, Mapping
from pathlib import Path

import psutil

from deployers.ports import can_bind
from uplift_cli.stack.errors import PortTaken, StackError
from uplift_cli.stack.state import read_record

# Below what kernels give to outgoing connections (32768 and up on Linux), so that a kept port is not taken by chance.
_FREE_FIRST, _FREE_LAST = 20_000, 32_000
_TRIES = 500


def choose(wanted: int, *, kept: int | None, avoid: Container[int], host: str) -> int:
    """The port to use.

    Args:
        wanted: The one that was asked for; 0: the kept one, else any free one.
        kept: What the folder used before.
        avoid: Ports that others of the stack use.
        host: Address to listen on.

    Raises:
        PortTaken: Another part uses the one that was asked for, or there is no free one at all.
    """
    if wanted:
        if wanted in avoid:
            raise PortTaken(f"port {wanted} is wanted twice: for the gateway, a part of the stack or the modules' instances")
        return wanted
    if kept and kept not in avoid:
        return kept
    chance = random.Random()  # noqa: S311 - spreads folders over the range; nothing is kept secret by it
    for _ in range(_TRIES):
        port = chance.randint(_FREE_FIRST, _FREE_LAST)
        if port not in avoid and can_bind(host, port):
            return port
    raise PortTaken(f"no free port found between {_FREE_FIRST} and {_FREE_LAST} on {host}: set the ports of `stack` yourself")


def require_free(ports: Mapping[str, tuple[int, str]], *, host: str) -> None:
    """Check that all ports can be had.

    Args:
        ports: Port and the setting that changes it, by the name of its part.
        host: Address to listen on.

    Raises:
        PortTaken: The first that cannot be had, with who has it and the setting to change.
    """
    for name, (port, setting) in ports.items():
        if not can_bind(host, port):
            raise PortTaken(f"port {port} of {name} is taken{_by_whom(port)}, or set another port ({setting})")


def listening_socket(port: int, *, host: str, backlog: int) -> socket.socket:
    """A listening socket to hand to a child: while that child is replaced, connections wait instead of being refused.

    Raises:
        PortTaken: The port is in use.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(backlog)
        listener.setblocking(False)  # noqa: FBT003 - the standard library's signature
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(f"port {port} of gateway is taken{_by_whom(port)}, or set another port (--port)") from error
        raise PortTaken(f"cannot listen on {host}:{port}: {error.strerror}; set another gateway.host or --port") from error
    return listener


def _by_whom(port: int) -> str:
    """Who listens there and how to end that, for the message."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                process = psutil.Process(connection.pid)
                who = f" by {process.name()} (pid {process.pid})"
                home = _stack_of(process, port)
                if home is not None:
                    return f"{who} of the stack in {home}: stop that with `uplift down --home {home}`"
                return f"{who}: end that process"
    except psutil.Error:
        pass
    return " by a process of another user, or kept for root: end that process"


def _stack_of(process: psutil.Process, port: int) -> Path | None:
    """The folder of the stack that uses a port: told by the process, its children and its siblings."""
    parent = process.parent()
    for each in (process, *process.children(), *(parent.children() if parent else ()), *((parent,) if parent else ())):
        try:
            named = each.environ().get("UPLIFT_HOME")
            record = read_record(Path(named)) if named else None
        except (psutil.Error, OSError, StackError):
            continue
        if named and record is not None and record.uses(port):
            return Path(named)
    return None
