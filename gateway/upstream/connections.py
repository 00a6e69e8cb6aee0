"""Connections that are kept open, by the address of the instance."""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from functools import lru_cache

from gateway.tls import instances_tls
from gateway.upstream.connection import Connection
from gateway.upstream.errors import CannotConnect
from upgrade_core.addresses import Address, BadAddress, parse_address
from uplift_settings.tree import GatewaySettings

_BUFFER = 2**17
"""Bytes read at once: most answers whole."""


@lru_cache(maxsize=4096)
def address_of(url: str) -> Address:
    """The address that a registered URL names; the same object each time, by which connections are kept.

    Raises:
        CannotConnect: It names none.
    """
    try:
        return parse_address(url)
    except BadAddress as error:
        raise CannotConnect(str(error)) from error


class Connections:
    """Makes connections and keeps those that are idle.

    Args:
        connect_timeout: Seconds for a new connection.
        keep: Seconds that an idle one is kept.
        high: As of `Connection`.
        head_max: As of `Connection`.
        tls: How certificates of instances are looked at; asked for when the first is.
    """

    def __init__(
        self, *, connect_timeout: float, keep: float, high: int, head_max: int, tls: Callable[[], ssl.SSLContext]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._buffer = memoryview(bytearray(_BUFFER))
        self._connect_timeout = connect_timeout
        self._keep = keep
        self._high = high
        self._head_max = head_max
        self._tls = tls
        self._idle: dict[Address, deque[Connection]] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._all: set[Connection] = set()
        self._closing = False

    def idle(self, address: Address, *, may_repeat: bool) -> Connection | None:
        """An idle connection that the instance has not closed, the one that was used last; None: there is none.

        Args:
            address: Of the instance.
            may_repeat: Whether what is to be sent can be sent again; then one that was in use a moment ago is taken unseen.
        """
        waiting = self._idle.get(address)
        tick = self._loop.time() if may_repeat else None
        while waiting:
            connection = waiting.pop()
            if not connection.is_gone(tick):
                return connection
            connection.abort()  # what was sent on it could not be called unsent any more
        return None

    async def connect(self, address: Address) -> Connection:
        """A new connection.

        Raises:
            CannotConnect: It was refused, or took too long. The message says which.
        """
        loop = self._loop
        try:
            async with asyncio.timeout(self._connect_timeout):
                if address.socket:
                    _, connection = await loop.create_unix_connection(self._make, address.socket)
                else:
                    tls = self._tls() if address.tls else None
                    _, connection = await loop.create_connection(self._make, address.host, address.port, ssl=tls)
        except TimeoutError as error:
            raise CannotConnect(f"no connection within {self._connect_timeout:g} s (gateway.connect_timeout)") from error
        except (OSError, UnicodeError) as error:
            raise CannotConnect(str(error) or type(error).__name__) from error
        self._all.add(connection)
        connection.closed.add_done_callback(lambda _: self._all.discard(connection))
        return connection

    async def status_of(self, address: Address, path: str) -> int:
        """What is answered to a GET on a connection of its own, which shows that connections are still accepted.

        Raises:
            UpstreamError: Nothing is.
        """
        connection = await self.connect(address)
        try:
            head = f"GET {address.prefix}{path} HTTP/1.1\r\nHost: {address.authority}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
            connection.begin(head.encode(), is_head=False)
            return (await connection.head()).status
        finally:
            connection.abort()

    def give_back(self, address: Address, connection: Connection) -> None:
        """It is kept if it may be used again: nothing was sent on it, or a whole answer came."""
        if not connection.release() or self._closing:
            connection.abort()
            return
        connection.idle_since = self._loop.time()
        waiting = self._idle.get(address)
        if waiting is None:
            waiting = self._idle[address] = deque()
        waiting.append(connection)
        if self._sweep is None:
            self._sweep = self._loop.call_later(self._keep, self._close_old)

    async def close(self) -> None:
        """Close all."""
        self._closing = True
        if self._sweep is not None:
            self._sweep.cancel()
        open_still = list(self._all)
        for connection in open_still:
            connection.abort()
        await asyncio.gather(*(connection.closed for connection in open_still))

    def _make(self) -> Connection:
        return Connection(buffer=self._buffer, high=self._high, head_max=self._head_max)

    def _close_old(self) -> None:
        """Close those that were idle for too long, and those that the other side closed."""
        before = self._loop.time() - self._keep
        for address, waiting in list(self._idle.items()):
            while waiting and (waiting[0].idle_since <= before or waiting[0].is_gone()):
                waiting.popleft().abort()
            if not waiting:
                del self._idle[address]
        self._sweep = self._loop.call_later(self._keep / 4, self._close_old) if self._idle else None


def connections_of(settings: GatewaySettings) -> Connections:
    """Connections as the settings say.

    Raises:
        SettingsError: `gateway.instances_ca_file` cannot be read.
    """
    if settings.instances_ca_file:
        instances_tls(settings)
    return Connections(
        connect_timeout=settings.connect_timeout,
        keep=settings.connection_keep,
        high=settings.read_buffer,
        head_max=settings.answer_head_max,
        tls=lambda: instances_tls(settings),
    )
