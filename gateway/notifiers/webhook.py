"""To a URL, as CloudEvents 1.0 in structured JSON.

aiohttp carries it: the gateway's data path has that client in the process anyway.
"""

import hashlib
import hmac
import json
from typing import Any

import aiohttp

from gateway.notifiers.base import Notification

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
SIGNATURE = "X-Uplift-Signature"
_TYPE = "org.uplift.problem."


class WebhookRefused(Exception):
    """The receiver answered something other than 2xx. Look at its log; the notification is tried again."""


class WebhookNotifier:
    """POSTs each notification.

    Args:
        url: Where to.
        secret: Key of the signature; empty: nothing is signed.
        timeout: Seconds for one attempt.
    """

    def __init__(self, *, url: str, secret: str, timeout: float) -> None:
        self._url = url
        self._secret = secret
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._session: aiohttp.ClientSession | None = None

    async def notify(self, event: Notification) -> None:
        """POST it; redirects are not followed.

        Raises:
            WebhookRefused: The answer is not 2xx.
            aiohttp.ClientError: There is none.
            TimeoutError: It did not come in time.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar())
        body = json.dumps(cloud_event(event), ensure_ascii=False).encode()
        headers = {"Content-Type": CONTENT_TYPE}
        if self._secret:
            headers[SIGNATURE] = signature(self._secret, body)
        async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as answer:
            if not 200 <= answer.status < 300:  # noqa: PLR2004
                raise WebhookRefused(f"the receiver answered {answer.status}")

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()


def cloud_event(event: Notification) -> dict[str, Any]:
    """The event as CloudEvents 1.0 wants it; the same for every attempt."""
    problem = event.problem
    data = {
        "key": problem.key,
        "kind": problem.kind,
        "severity": problem.severity.value,
        "message": problem.message,
        "remedy": problem.remedy,
        "module": problem.module,
        "tenant": problem.tenant,
        "job": problem.job,
        "since": event.since.isoformat(),
        "resolved": event.time.isoformat() if event.event == "resolved" else None,
    }
    return {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": _TYPE + event.event,
        "subject": problem.key,
        "time": event.time.isoformat(),
        "datacontenttype": "application/json",
        "data": {name: value for name, value in data.items() if value is not None},
    }


def signature(secret: str, body: bytes) -> str:
    """What the receiver computes as well: `sha256=` and the hexadecimal HMAC-SHA256 of the body's bytes."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
