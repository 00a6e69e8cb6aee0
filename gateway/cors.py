"""Cross-origin requests of browsers: any site may call, with its user's credentials, as with Okapi (Fetch standard, 3.2)."""

from collections.abc import Mapping, Sequence

from aiohttp import hdrs, web

from gateway.headers import Raw

_METHODS = "PUT,PATCH,DELETE,GET,POST"
_EXPOSED = "Location,X-Okapi-Trace,X-Okapi-Token,X-Okapi-Request-Id,X-Okapi-Module-Id,X-Okapi-Lifecycle,Retry-After"
"""Okapi's, and those that say when a service that is interrupted comes back."""
_VARY = b"Vary: Origin\r\n"
_MAX_AGE = "7200"
"""Seconds that a browser need not ask again (Okapi's)."""


def is_preflight(request: web.BaseRequest) -> bool:
    """Whether a browser asks if it may send a request."""
    return (
        request.method == hdrs.METH_OPTIONS
        and hdrs.ORIGIN in request.headers
        and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
    )


def preflight(request: web.BaseRequest) -> web.Response:
    """It may."""
    headers = {
        **allowed(request.headers),
        hdrs.ACCESS_CONTROL_ALLOW_METHODS: _METHODS,
        hdrs.ACCESS_CONTROL_MAX_AGE: _MAX_AGE,
    }
    if asked := request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS):
        headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = asked
    return web.Response(status=204, headers=headers)


def allowed(headers: Mapping[str, str]) -> dict[str, str]:
    """What every answer to a request from another origin says; nothing to others."""
    origin = headers.get(hdrs.ORIGIN)
    if origin is None:
        return {}
    return {
        hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: origin,
        hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS: "true",
        hdrs.ACCESS_CONTROL_EXPOSE_HEADERS: _EXPOSED,
    }


def allow(answer: web.StreamResponse, headers: Mapping[str, str]) -> None:
    """Say it in an answer of the gateway's own to a request with these headers."""
    if found := allowed(headers):
        answer.headers.update(found)
        answer.headers.add(hdrs.VARY, hdrs.ORIGIN)


def allowed_raw(headers: Mapping[str, str]) -> tuple[Sequence[Raw], bytes]:
    """What is said instead of a module, and what besides, as it is sent."""
    found = allowed(headers)
    if not found:
        return (), b""
    return [(name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in found.items()], _VARY
