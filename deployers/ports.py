"""Ports for new instances."""

import errno
import socket
from collections.abc import Collection, Iterable

from deployers.base import NoFreePort
from uplift_settings.tree import DeploySettings


def can_bind(host: str, port: int) -> bool:
    """Whether a server could listen on this port now, on the host's address and on all addresses.

    Modules mostly listen on all addresses, so a listener on another address of this machine is in their way too.
    A host that is no address of this machine (a name behind NAT) counts for its port only.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return all(_binds(family, address, port) for address in ("", host))


def answers(host: str, port: int, *, timeout: float = 1.0) -> bool:
    """Whether somebody accepts connections there; `timeout` in seconds."""
    try:
        socket.create_connection((host, port), timeout=timeout).close()
    except OSError:
        return False
    return True


def choose(
    settings: DeploySettings,
    *,
    before: Iterable[int | None],
    reserved: Collection[int],
    stale: Collection[int],
) -> int:
    """The port for an instance: one it had before, else the lowest free one.

    Args:
        settings: Range and address.
        before: Ports that it had before, the dearest first.
        reserved: Ports of other instances that live or start. Never taken: a starting one does not listen yet.
        stale: Ports of others that died and may be started again; taken only when nothing else is left.

    Raises:
        NoFreePort: Every port of the range is reserved or in use.
    """
    port_range = range(settings.port_first, settings.port_last + 1)
    wanted = [port for port in before if port is not None] + list(port_range)
    for port in sorted(wanted, key=lambda port: port in stale):
        if port not in reserved and can_bind(settings.host, port):
            return port
    raise NoFreePort(
        f"all ports in use: {settings.port_first}-{settings.port_last} on {settings.host}; "
        "widen deploy.port_first-deploy.port_last or retire instances"
    )


def _binds(family: socket.AddressFamily, address: str, port: int) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        # as servers do: connections that linger after a stop are in nobody's way, a listener is
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((address, port))
        except socket.gaierror:
            return True
        except OSError as error:
            return error.errno == errno.EADDRNOTAVAIL
    return True
