"""Where an instance listens, as its registered URL tells: over HTTP, HTTPS, or a Unix-domain socket in the file system."""

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit


class BadAddress(ValueError):
    """A URL that no instance can be reached by. The message says which and why."""


@dataclass(frozen=True, slots=True, eq=False)
class Address:
    """Where an instance listens.

    Attributes:
        host: Name or IP address; empty for a socket in the file system.
        port: TCP port; 0 for such a socket.
        socket: Path of a Unix-domain socket; empty for TCP.
        tls: Whether TLS is spoken.
        prefix: What every path begins with; no slash at its end.
        authority: What the `Host` header says.
    """

    host: str
    port: int
    socket: str
    tls: bool
    prefix: str
    authority: str


def parse_address(url: str) -> Address:
    """The address that a URL names: `http`, `https`, or `http+unix` with the quoted path of the socket as its host.

    Raises:
        BadAddress: It names none.
    """
    if not url.isascii() or not url.isprintable() or " " in url:
        raise BadAddress(f"{url!r} has characters that no address has")
    try:
        parts = urlsplit(url)
        tls, port = parts.scheme == "https", parts.port
    except ValueError as error:
        raise BadAddress(f"{url!r} is no address: {error}") from error
    prefix, socket = parts.path.rstrip("/"), unquote(parts.netloc)
    if not parts.query and not parts.fragment:
        if parts.scheme == "http+unix" and socket.startswith("/"):
            return Address("", 0, socket, tls=False, prefix=prefix, authority="localhost")
        if parts.scheme in ("http", "https") and parts.hostname and port != 0:
            authority = parts.netloc.rpartition("@")[2]
            return Address(parts.hostname, port or (443 if tls else 80), "", tls=tls, prefix=prefix, authority=authority)
    raise BadAddress(f"{url!r} is no http://, https:// or http+unix:// address")
