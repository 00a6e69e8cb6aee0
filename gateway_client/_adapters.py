"""The kit's answers in ASGI and aiohttp applications."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from gateway_client._pushes import HEALTH, LifecycleEvent, PushAnswer

if TYPE_CHECKING:
    from aiohttp import web

_Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[_Message]]
Send = Callable[[_Message], Awaitable[None]]
AsgiApp = Callable[[_Message, Receive, Send], Awaitable[None]]
Answers = Callable[[str, str, bytes], PushAnswer | None]
Told = Callable[[LifecycleEvent], Awaitable[None]]


def asgi(app: AsgiApp, *, answers: Answers, told: Told, pushes: str) -> AsgiApp:
    """An application that answers pushes and health itself."""

    async def wrapped(scope: _Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in (pushes, HEALTH):
            return await app(scope, receive, send)
        if answers(scope["method"], scope["path"], b"") is None:
            return await app(scope, receive, send)
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
        answer = answers(scope["method"], scope["path"], body)
        assert answer is not None
        if answer.event is not None:
            await told(answer.event)
        headers = [(b"content-type", b"text/plain; charset=utf-8")] if answer.text else []
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.text.encode()})
        return None

    return wrapped


def aiohttp_routes(*, answers: Answers, told: Told, pushes: str) -> "list[web.RouteDef]":
    """Routes for pushes and health."""
    from aiohttp import web  # noqa: PLC0415 - modules of other frameworks need not have it

    async def handle(request: web.Request) -> web.Response:
        answer = answers(request.method, request.path, await request.read())
        assert answer is not None
        if answer.event is not None:
            await told(answer.event)
        return web.Response(status=answer.status, text=answer.text or None)

    return [web.get(HEALTH, handle), web.post(pushes, handle)]


__all__ = ["AsgiApp", "aiohttp_routes", "asgi"]
