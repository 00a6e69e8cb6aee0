"""Requests on their way to an instance: what was tried, and bodies that are streamed, and kept where they may be sent again."""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from gateway.instances import Instance
from gateway.observation import Current
from gateway.parking import has_left
from gateway.replies import say_continue
from gateway.routing import OverlayRoute

IDEMPOTENT = frozenset(["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"])
"""Methods whose requests may be sent again (RFC 9110, 9.2.2)."""


class Body:
    """The body of one request, for one try after the other.

    Args:
        request: Whose.
        keep: Bytes that are kept at most; a longer body is sent once.
    """

    def __init__(self, request: web.BaseRequest, *, keep: int) -> None:
        self._request = request
        self._keep = keep
        self._kept: list[bytes] = []
        self._size = 0
        self._reading = False
        self.is_kept = True
        """Whether all that was read so far can be sent again."""
        self.client_left = False
        """Whether it was the requester who broke off."""

    async def again(self, *, was_parked: bool) -> AsyncIterator[bytes]:
        """The body from its beginning; all of it only while `is_kept`.

        Args:
            was_parked: Whether the request waited. Its client may have given up while the end of the body was still on its
                way, where no probe could see that: without its end it is not executed.
        """
        request = self._request
        while self._reading:  # the last try is being cancelled
            await asyncio.sleep(0)
        position = 0
        while position < len(self._kept):
            yield self._kept[position]
            position += 1
        while chunk := await self._read():
            if was_parked and request.content.is_eof() and has_left(request):
                break
            yield chunk
        if was_parked and has_left(request):
            self.client_left = True
            raise ConnectionResetError("the client has left")

    async def _read(self) -> bytes:
        self._reading = True
        try:
            chunk = await self._request.content.readany()
        finally:
            self._reading = False
        self._note(chunk)
        return chunk

    def _note(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size <= self._keep:
            self._kept.append(chunk)
        elif self.is_kept:
            self.is_kept = False
            self._kept.clear()


class Passage:
    """What is known of one request on its way.

    Args:
        tenant: For whom it is made.
        target: Path and query, as the module gets them.
        current: By which it is observed.
        url: Where the module shall reach the gateway.
        token: That the requester sent; empty without one.
    """

    overlay: OverlayRoute | None = None
    """Through which it came; None: through none."""
    is_invoked = False
    """Whether its tenant stands in the path."""
    pattern = ""
    """Of the handler that answers."""
    own_cors = False
    """Whether the module itself says who may call it from another origin."""
    arrival: int | None = None
    """Its place among those parked, once it was."""
    deadline = 0.0
    """When its patience ends, by the loop's clock, once it was parked."""
    expired = False
    """Whether it may wait no more."""
    tried: frozenset[Instance] = frozenset()
    """Instances that did not answer."""
    tries = 0
    """How often an instance was tried."""
    sent = 0
    """How often it may have reached one of them."""
    body: Body | None = None
    """Where it is streamed, and may have to be sent again."""
    whole: bytes | None = None
    """Where all of it was here at the first try."""
    may_keep = True
    """Whether that is short enough to be sent again."""
    asked = False
    """Whether the requester was told to send it."""
    only_while_open: str | None = None
    """The product whose link must still be open when the first byte is sent; None: it goes past a hold."""

    def __init__(self, *, tenant: str, target: str, current: Current, url: str, token: str) -> None:
        self.tenant = tenant
        self.target = target
        self.path = target.partition("?")[0]
        self.current = current
        self.url = url
        self.token = token

    def open_body(self, request: web.BaseRequest, *, repeat_max: int) -> bytes | AsyncIterator[bytes] | None:
        """The body for the next try: all of it if it is here, else as it comes; or None."""
        was_parked = self.arrival is not None
        if self.whole is not None:
            return self.whole
        if self.body is None:
            if not request.body_exists or request.content.at_eof():
                return None
            if not was_parked and request.content.is_eof():
                self.whole = request.content.read_nowait()
                self.may_keep = len(self.whole) <= repeat_max
                return self.whole
            if not self.asked:
                self.asked = True
                say_continue(request)
            may_repeat = request.method in IDEMPOTENT
            if not was_parked and not may_repeat:
                return request.content.iter_any().__aiter__()
            self.body = Body(request, keep=repeat_max if may_repeat else 0)
        return self.body.again(was_parked=was_parked)

    def client_left(self, request: web.BaseRequest) -> bool:
        """Whether what broke off is the requester's side."""
        if self.body is not None and self.body.client_left:
            return True
        return request.content.exception() is not None or request.transport is None or request.transport.is_closing()

    def may_repeat(self, request: web.BaseRequest, *, most: int) -> bool:
        """Whether a request that may have reached an instance may be sent again."""
        return request.method in IDEMPOTENT and self.sent < most and self.may_keep and (self.body is None or self.body.is_kept)
