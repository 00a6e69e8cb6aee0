"""Answers that the gateway itself gives on the data path: errors, DELAY and MISSING (RFC 9457, requirements A2 and A10)."""

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime

from aiohttp import hdrs, web

from gateway.delays import PATH, lost_place
from gateway.instances import Pool
from gateway.links import Link
from gateway.pages import CSP, page, prefers_html

_RETRY_AFTER = 5
"""Seconds after which a delayed client may come back: most holds are over by then."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interruption:
    """Why a request was not answered by a module.

    Attributes:
        lifecycle: DELAY or MISSING.
        service: What is not there, for people: a product, or the gateway.
        detail: Why.
        run: The job that holds it.
        place: Path at which the end of a DELAY can be waited for, or empty.
        certain: Whether the request was surely not carried out.
    """

    lifecycle: str
    service: str
    detail: str
    tenant: str | None = None
    module: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    run: str | None = None
    place: str = ""
    certain: bool = True

    def retry_after(self, now: datetime) -> int:
        """Seconds after which to come back: not later than what is promised ends."""
        if self.until is None:
            return _RETRY_AFTER
        return max(1, min(_RETRY_AFTER, math.ceil((self.until - now).total_seconds())))

    def problem(self) -> dict[str, object]:
        """The body of RFC 9457."""
        facts = {
            "module": self.module,
            "tenant": self.tenant,
            "since": self.since and self.since.isoformat(),
            "until": self.until and self.until.isoformat(),
            "run": self.run,
        }
        return {
            "type": f"urn:uplift:lifecycle:{self.lifecycle.lower()}",
            "title": "Service interrupted" if self.lifecycle == "DELAY" else "Service not available",
            "status": 503,
            "detail": self.detail,
            "lifecycle": self.lifecycle,
            **{name: value for name, value in facts.items() if value is not None},
        }


def say_continue(request: web.BaseRequest) -> None:
    """Ask a client that waits for it to send its body (RFC 9110, `Expect`)."""
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(_CONTINUE)


def problem(status: int, detail: str) -> web.Response:
    """An error: plain text, as Okapi's clients expect."""
    return web.Response(status=status, text=detail)


def held(link: Link, *, tenant: str, lifecycle: str, detail: str = "") -> Interruption:
    """Somebody holds the link: DELAY, or MISSING where nothing is promised any more."""
    row = link.row
    return Interruption(
        lifecycle=lifecycle,
        service=link.product,
        detail=detail or f"{link.product} is being updated; try again in a moment",
        tenant=tenant,
        module=link.module or link.product,
        since=row.since if row else None,
        until=row.until if row else None,
        run=row.job if row else None,
        place=PATH + link.hold_id if link.hold_id else "",
    )


def lost(pool: Pool, *, tenant: str, product: str, module: str, key: bytes) -> Interruption:
    """No instance is in service, but one may come back within the TTL."""
    version = pool.version(module)
    return Interruption(
        lifecycle="DELAY",
        service=product,
        detail=f"no instance of {module} answers; it is waited for",
        tenant=tenant,
        module=module,
        since=version.lost_since if version else None,
        until=version.lost_until if version else None,
        place=PATH + lost_place(tenant, product, key),
    )


def closed(*, tenant: str, product: str, module: str) -> Interruption:
    """No instance is in service, and nothing is promised."""
    return Interruption(
        lifecycle="MISSING",
        service=product,
        detail=f"No running module instance found for {module}",
        tenant=tenant,
        module=module,
    )


def interrupted(request: web.BaseRequest, why: Interruption) -> web.Response:
    """503 as the requester understands it: a page for a browser, else a problem as JSON."""
    retry_after = why.retry_after(datetime.now(UTC))
    headers = {"X-Okapi-Lifecycle": why.lifecycle, "Cache-Control": "no-store", "Vary": "Accept"}
    if why.lifecycle == "DELAY":
        headers["Retry-After"] = str(retry_after)
        if why.place and request.headers.get("X-Okapi-Lifecycle", "").lower() == "delay":
            headers["Location"] = why.place
    if prefers_html(",".join(request.headers.getall(hdrs.ACCEPT, ()))):
        headers["Content-Security-Policy"] = CSP
        text = page(
            lifecycle=why.lifecycle,
            service=why.service,
            detail=why.detail,
            since=why.since,
            method=request.method,
            certain=why.certain,
            place=why.place,
            retry_after=retry_after,
        )
        return web.Response(status=503, text=text, content_type="text/html", headers=headers)
    return web.Response(status=503, text=json.dumps(why.problem()), content_type="application/problem+json", headers=headers)
