"""The listening sockets of a gateway's parent: those it was given, else its own."""

import os
import socket
from collections.abc import MutableMapping

_BACKLOG = 4096
_FIRST_PASSED = 3
"""Descriptor of the first socket that systemd passes (sd_listen_fds)."""


def listening_sockets(*, host: str, port: int, processes: int, env: MutableMapping[str, str]) -> tuple[socket.socket, ...]:
    """One listening socket for each process where the system spreads connections over several (SO_REUSEPORT), else one.

    Args:
        host: Address.
        port: Port; 0: a free one.
        processes: How many will accept.
        env: Environment; what names sockets is taken out: `UPLIFT_LISTEN_FD` of our supervisor, `LISTEN_FDS` of systemd.

    Raises:
        OSError: The address cannot be listened on. The message names it.
    """
    if given := _given(env):
        return given
    spread = processes > 1 and hasattr(socket, "SO_REUSEPORT")
    try:
        # Without SO_REUSEPORT first: a port that another program shares must not be taken for a free one.
        with _bound(host, port, shared=False) as probe:
            port = probe.getsockname()[1]
        sockets = tuple(_bound(host, port, shared=spread) for _ in range(processes if spread else 1))
        for each in sockets:
            each.listen(_BACKLOG)
    except OSError as error:
        text = f"cannot listen on {host}:{port} (gateway.host, gateway.port): {error.strerror}; is another gateway running?"
        raise OSError(error.errno, text) from error
    return sockets


def _given(env: MutableMapping[str, str]) -> tuple[socket.socket, ...]:
    handed, pid, count = (env.pop(name, "") for name in ("UPLIFT_LISTEN_FD", "LISTEN_PID", "LISTEN_FDS"))
    env.pop("LISTEN_FDNAMES", None)
    if handed:
        numbers = range(int(handed), int(handed) + 1)
    elif pid == str(os.getpid()):
        numbers = range(_FIRST_PASSED, _FIRST_PASSED + int(count))
    else:
        return ()
    sockets = tuple(socket.socket(fileno=number) for number in numbers)
    for each in sockets:
        each.set_inheritable(False)
    return sockets


def _bound(host: str, port: int, *, shared: bool) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind((host, port))
    except OSError:
        made.close()
        raise
    return made
