"""After an upgrade (WebSocket, RFC 6455) the gateway passes bytes on, in both directions, and looks at none."""

from typing import Any, cast

from aiohttp import hdrs, web

from gateway.answer import Answer
from gateway.upstream import Connection

PROTOCOL = "websocket"
"""The one protocol that is changed to."""


def asks_for_upgrade(request: web.BaseRequest) -> bool:
    """Whether a requester wants to speak WebSocket."""
    return (
        request.headers.get(hdrs.UPGRADE, "").lower() == PROTOCOL
        and request.method == hdrs.METH_GET
        and hdrs.UPGRADE.lower() in request.headers.get(hdrs.CONNECTION, "").lower()
    )


async def join(request: web.BaseRequest, answer: Answer, connection: Connection) -> None:
    """Pass bytes on until one side closes; a requester that leaves cancels the task that answers it.

    Raises:
        UpstreamError: The module's side broke.
        ConnectionResetError: The requester's did.
    """
    await answer.write(b"")
    request.protocol.set_parser(cast(Any, _Towards(connection, request)))  # what it takes is named after its only use so far
    while part := await connection.read():
        await answer.write(part)


class _Towards:
    """Takes what the requester sends, as aiohttp feeds it."""

    def __init__(self, connection: Connection, request: web.BaseRequest) -> None:
        self._connection = connection
        self._request = request

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Bytes for the module; while it is slow, the requester has to wait."""
        self._connection.write(data)
        if not self._connection.has_room:
            self._request.protocol.pause_reading()
            self._connection.on_room = self._request.protocol.resume_reading
        return False, b""

    def feed_eof(self) -> None:
        """The requester has left; the task that answers it is cancelled."""
