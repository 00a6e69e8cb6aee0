"""One try with one instance: the request goes up, its answer comes down, both as streams."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from time import perf_counter, time

from aiohttp import hdrs, web
from multidict import istr

from gateway.answer import Answer
from gateway.cors import allowed_raw
from gateway.headers import upwards
from gateway.instances import Instance
from gateway.links import Exchange
from gateway.passage import Passage
from gateway.platform import Platform
from gateway.tunnel import PROTOCOL, asks_for_upgrade, join
from gateway.upstream import SWITCHING, Connection, Head, UpstreamError, address_of, connections_of
from upgrade_core.addresses import Address

_REQUEST_ID = istr("X-Okapi-Request-Id")
_WITHOUT_LENGTH = frozenset([hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS, hdrs.METH_TRACE])
_REFUSED = 400
_END = "\r\n"
_UPGRADE = f"Connection: Upgrade\r\nUpgrade: {PROTOCOL}\r\n"


class TooLate(Exception):
    """The lease ran out, or the link was held, while the connection was made; nothing was sent."""


class TooSlow(Exception):
    """The requester does not send its body. Whether the instance did anything is not known."""


class BodyBrokenOff(Exception):
    """The requester's body did not come to its end. Whether the instance did anything is not known."""


class Forwarding:
    """Sends requests to instances and passes their answers on.

    Args:
        platform: Says whether a request may still be sent when its connection is there.
    """

    def __init__(self, platform: Platform) -> None:
        self._membership = platform.membership
        self._table = platform.table
        self._settings = platform.settings
        self._connections = connections_of(platform.settings)

    async def close(self) -> None:
        """Close all connections."""
        await self._connections.close()

    async def exchange(
        self, request: web.BaseRequest, exchange: Exchange, instance: Instance, passage: Passage
    ) -> web.StreamResponse:
        """Send a request to an instance, and its answer to the requester.

        Raises:
            TooLate: It must not be sent any more.
            CannotConnect: Nothing was sent.
            UpstreamError: No whole answer came.
            TooSlow: The requester does not send its body.
            BodyBrokenOff: It does not come to its end.
            ConnectionResetError: The requester has left.
        """
        connections, address = self._connections, address_of(instance.row.url)
        settings = self._settings
        may_repeat = not request.body_exists and passage.may_repeat(request, most=settings.repeat_most)
        connection = connections.idle(address, may_repeat=may_repeat)
        if connection is None:
            connection = await connections.connect(address)
            if not self._may_send(passage):
                connections.give_back(address, connection)
                raise TooLate
        sending: asyncio.Task[None] | None = None
        begun = perf_counter()
        try:
            body = passage.open_body(request, repeat_max=settings.repeat_max)
            is_head = request.method == hdrs.METH_HEAD
            upgrades = hdrs.UPGRADE in request.headers and asks_for_upgrade(request)
            start = _head(request, exchange, passage, address, body, upgrades=upgrades)
            if body is None or isinstance(body, bytes):
                connection.begin(start + body if body else start, is_head=is_head, upgrades=upgrades)
            else:
                connection.begin(start, is_head=is_head)
                in_chunks = hdrs.CONTENT_LENGTH not in request.headers
                sending = asyncio.create_task(_send(connection, body, in_chunks=in_chunks, patience=settings.client_timeout))
            head = await connection.head()
            instead, besides = ((), b"") if passage.own_cors else allowed_raw(request.headers)
            if settings.trace_headers:
                besides += _trace(request, instance, passage, head, begun)
            answer = Answer(
                request, head, instead=instead, besides=besides, token=passage.token, patience=settings.client_timeout
            )
            if head.status == SWITCHING:
                exchange.started = True
                await join(request, answer, connection)
            elif not connection.is_complete:
                exchange.started = True
                await answer.write(connection.take())  # also if it is empty: the head is worth something by itself
                while not connection.is_complete:
                    await answer.write(await connection.read())
            last = connection.take()
            exchange.answered = True
            if sending is None or sending.done():
                connections.give_back(address, connection)
                return answer.end(last)
            sent = answer.end(last)
            if not await self._sees_off(sending, head.status):
                connection.abort()
        except BaseException:
            connection.abort()
            if sending is not None:
                sending.cancel()
            raise
        connections.give_back(address, connection)
        return sent

    async def _sees_off(self, sending: "asyncio.Task[None]", status: int) -> bool:
        """Whether all of a request came through whose module answered before its end.

        It may want the rest all the same, but not for ever; a module that refused the request does not.
        """
        if status >= _REFUSED:
            sending.cancel()
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.client_timeout):
                await sending
                return True
        return False

    def _may_send(self, passage: Passage) -> bool:
        """Looked at before the first byte where a connection was made: that takes time, and an UPDATE may have come meanwhile."""
        product = passage.only_while_open
        return self._membership.may_route and (product is None or not self._table.is_held(passage.tenant, product))


def _trace(request: web.BaseRequest, instance: Instance, passage: Passage, head: Head, begun: float) -> bytes:
    """The header that says who answered, and in which time, as Okapi does."""
    spent = int((perf_counter() - begun) * 1e6)
    dots = ".." if len(passage.path) < len(passage.target) else ""
    told = f"X-Okapi-Trace: {request.method} {instance.trace}{passage.path}{dots} : {head.status} {spent}us\r\n"
    return told.encode("utf-8", "surrogateescape")


def _head(
    request: web.BaseRequest,
    exchange: Exchange,
    passage: Passage,
    address: Address,
    body: "bytes | AsyncIterator[bytes] | None",
    *,
    upgrades: bool,
) -> bytes:
    """Request line and headers as the module gets them."""
    incoming, target = request.headers, passage.target
    chain = incoming.get(_REQUEST_ID)
    own = f"{exchange.id}/{passage.path.split('/', 2)[1]}"
    chain = own if chain is None else f"{chain};{own}"
    spans = passage.current.sent_on(chain)
    token = passage.token
    length = incoming.get(hdrs.CONTENT_LENGTH)
    method = request.method
    if isinstance(body, bytes):
        framing = f"Content-Length: {len(body)}\r\n"
    elif body is not None:
        framing = "Transfer-Encoding: chunked\r\n" if length is None else f"Content-Length: {length}\r\n"
    elif length is not None or method not in _WITHOUT_LENGTH:
        framing = "Content-Length: 0\r\n"
    else:
        framing = _UPGRADE if upgrades else ""
    ours = (
        f"{method} {address.prefix}{target} HTTP/1.1\r\nHost: {address.authority}\r\n"
        f"X-Okapi-Tenant: {passage.tenant}\r\nX-Okapi-Url: {passage.url}\r\nX-Okapi-Request-Id: {chain}\r\n"
        f"X-Okapi-request-ip: {request.remote or ''}\r\nX-Okapi-request-timestamp: {int(time() * 1_000)}\r\n"
        f"X-Okapi-request-method: {method}\r\nX-Okapi-Match-Path-Pattern: {passage.pattern}\r\n"
        f"{f'X-Okapi-Token: {token}{_END}' if token else ''}{framing}"
    )
    theirs = upwards(request.raw_headers, is_token=token != "", ours=spans)
    return ours.encode("utf-8", "surrogateescape") + theirs + b"\r\n"


async def _send(connection: Connection, body: AsyncIterator[bytes], *, in_chunks: bool, patience: float) -> None:
    """Send a body as it comes; why it cannot be is told to whoever waits for the answer."""
    try:
        while True:
            async with asyncio.timeout(patience):
                part = await anext(body, None)
            if part is None:
                break
            if part:
                connection.write(b"%x\r\n%b\r\n" % (len(part), part) if in_chunks else part)
                await connection.drain()
        if in_chunks:
            connection.write(b"0\r\n\r\n")
    except UpstreamError:
        pass  # the answer tells it, or came before
    except TimeoutError:
        connection.fail(TooSlow(f"nothing of the body came for {patience:g} s (gateway.client_timeout)"))
    except Exception as error:  # noqa: BLE001 - whatever keeps a requester's body from coming to its end
        connection.fail(BodyBrokenOff(f"the request did not come to its end: {error}"))
