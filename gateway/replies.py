"""Answers that the gateway itself gives on the data path: problems, DELAY and MISSING (RFC 9457, requirement A2)."""

import json
from typing import Any

from aiohttp import hdrs, web

from gateway.links import Link

_RETRY_AFTER = 5
"""Seconds after which a delayed client may come back: most holds are over by then."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def say_continue(request: web.BaseRequest) -> None:
    """Ask a client that waits for it to send its body (RFC 9110, `Expect`)."""
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(_CONTINUE)


def problem(
    status: int, detail: str, *, tenant: str | None, module: str | None = None, lifecycle: str | None = None
) -> web.Response:
    """An error: plain text as Okapi's clients expect, or a lifecycle problem as JSON."""
    if lifecycle is None:
        return web.Response(status=status, text=detail)
    return _lifecycle(status, detail, lifecycle, {"tenant": tenant, "module": module})


def delay(request: web.BaseRequest, link: Link) -> web.Response:
    """503 DELAY: held, and may be available again (requirement A2)."""
    response = _lifecycle(503, f"{link.product} is being updated; try again in a moment", "DELAY", _facts(link))
    response.headers["Retry-After"] = str(_RETRY_AFTER)
    if request.headers.get("X-Okapi-Lifecycle", "").lower() == "delay" and link.hold_id:
        response.headers["Location"] = f"/_/lifecycle/delays/{link.hold_id}"
    return response


def missing(request: web.BaseRequest, link: Link, detail: str) -> web.Response:
    """503 MISSING: not available, and nothing is promised."""
    del request
    return _lifecycle(503, detail, "MISSING", _facts(link))


def _facts(link: Link) -> dict[str, Any]:
    row = link.row
    facts: dict[str, Any] = {"tenant": link.tenant, "module": link.module or link.product}
    if row is not None:
        facts |= {"since": row.since.isoformat(), "until": row.until.isoformat() if row.until else None, "run": row.job}
    return facts


def _lifecycle(status: int, detail: str, lifecycle: str, facts: dict[str, Any]) -> web.Response:
    body = {
        "type": f"urn:uplift:lifecycle:{lifecycle.lower()}",
        "title": "Service interrupted" if lifecycle == "DELAY" else "Service not available",
        "status": status,
        "detail": detail,
        "lifecycle": lifecycle,
        **{key: value for key, value in facts.items() if value is not None},
    }
    return web.Response(
        status=status,
        text=json.dumps(body),
        content_type="application/problem+json",
        headers={"X-Okapi-Lifecycle": lifecycle},
    )
