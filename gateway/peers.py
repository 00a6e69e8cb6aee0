"""Whether the other side of a connection is still there, before the event loop has heard of it."""

import asyncio
import select

_GONE = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


def is_gone(transport: asyncio.BaseTransport | None) -> bool:
    """Whether the other side of a connection has closed it, looked up in the kernel."""
    if transport is None or transport.is_closing():
        return True
    probe = probe_of(transport)
    return probe is not None and bool(probe.poll(0))


def probe_of(transport: asyncio.BaseTransport) -> "select.poll | None":
    """What asks the kernel of a connection again and again; None where there is no socket."""
    sock = transport.get_extra_info("socket")
    if sock is None:
        return None
    probe = select.poll()
    probe.register(sock.fileno(), _GONE)
    return probe
