"""Ports for processes that choose none themselves, or come back to theirs.

The kernel gives a port that was found free and let go of to the next who connects somewhere: so these are below those that it
gives away, and each process of the tests has its own.
"""

import os
import socket
from itertools import cycle

_FIRST = 10_000
_EACH = 1_000
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 8
_ports = cycle(range(_FIRST + _worker * _EACH, _FIRST + (_worker + 1) * _EACH))


def free_port(*, and_next: int = 0) -> int:
    """One that nobody listens on, and so many behind it; no other test is given them soon."""
    for _ in range(_EACH):
        ports = [next(_ports) for _ in range(1 + and_next)]
        if ports == list(range(ports[0], ports[0] + len(ports))) and all(map(_is_free, ports)):
            return ports[0]
    raise AssertionError("no port is free")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


__all__ = ["free_port"]
