"""Connections to the instances of modules: HTTP/1.1 as a client, on the C parser, with bodies streamed both ways."""

from gateway.upstream.connection import SWITCHING, Connection, Head
from gateway.upstream.connections import Connections, address_of, connections_of
from gateway.upstream.errors import BadAnswer, BrokenOff, CannotConnect, Closed, UpstreamError

__all__ = [
    "SWITCHING",
    "BadAnswer",
    "BrokenOff",
    "CannotConnect",
    "Closed",
    "Connection",
    "Connections",
    "Head",
    "UpstreamError",
    "address_of",
    "connections_of",
]
