"""The HTTP routes of mod-loans."""

from collections.abc import AsyncIterator, Callable
from datetime import date
from typing import Any
from uuid import UUID

import asyncpg
import httpx
from aiohttp import web

from examples.loans.releases import LoansRelease
from examples.resource import Resource, seq_of, text_of
from gateway_client import LifecycleTransport, ModuleInterrupted

_PASSED_ON = ("X-Okapi-Tenant", "X-Okapi-Token", "X-Okapi-Request-Id")
_CLIENT = web.AppKey("client", httpx.AsyncClient)
_BUDGET = 60.0  # seconds to wait for mod-users while it is being upgraded
_TIMEOUT = 60.0  # seconds for an answer
_RETRY_AFTER = 5  # seconds, where the gateway names none


class Loans(Resource):
    """Loans, each of a user that mod-users knows."""

    def __init__(self, release: LoansRelease) -> None:
        self._has_due = release.has_due
        super().__init__(table="loans", columns=("id", "user_id", "item", "seq", *(("due",) if release.has_due else ())))

    def contexts(self) -> list[Callable[[web.Application], AsyncIterator[None]]]:
        """The client for mod-users, too."""
        return [_client]

    async def check(self, values: dict[str, Any], request: web.Request) -> None:
        """Ask mod-users, through the gateway, for the user."""
        gateway = request.headers.get("X-Okapi-Url")
        if not gateway:
            raise web.HTTPBadRequest(text="X-Okapi-Url is missing: without the gateway nobody knows the user")
        url = f"{gateway.rstrip('/')}/users/{values['user_id']}"
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        try:
            # The client's transport waits while mod-users is being upgraded (requirement A3).
            answer = await request.app[_CLIENT].get(url, headers=headers)
        except ModuleInterrupted as interrupted:
            seconds = str(round(interrupted.retry_after or _RETRY_AFTER))
            raise web.HTTPServiceUnavailable(text=interrupted.tell_user, headers={"Retry-After": seconds}) from interrupted
        except httpx.HTTPError as error:
            raise web.HTTPBadGateway(text=f"the gateway does not answer: {error!r}") from error
        status, text, retry = answer.status_code, answer.text, answer.headers.get("Retry-After", str(_RETRY_AFTER))
        if status == 404:
            raise web.HTTPUnprocessableEntity(text=f"user {values['user_id']} does not exist")
        if status == 503:
            raise web.HTTPServiceUnavailable(text=f"Service not available: {text}", headers={"Retry-After": retry})
        if status != 200:
            raise web.HTTPBadGateway(text=f"the gateway answered {status}: {text}")

    def parse(self, body: dict[str, Any]) -> dict[str, Any]:
        """A body has `user_id` and `item`; from 1.1.0 on perhaps `due`, a day."""
        values: dict[str, Any] = {
            "user_id": UUID(text_of(body, "user_id")),
            "item": text_of(body, "item"),
            "seq": seq_of(body),
        }
        if self._has_due:
            values["due"] = date.fromisoformat(text_of(body, "due")) if body.get("due") is not None else None
        return values

    def render(self, row: asyncpg.Record) -> dict[str, Any]:
        """A loan as it was sent, with its id."""
        loan = dict(row) | {"id": str(row["id"]), "user_id": str(row["user_id"])}
        if self._has_due and row["due"] is not None:
            loan["due"] = row["due"].isoformat()
        return loan


async def _client(app: web.Application) -> AsyncIterator[None]:
    transport = LifecycleTransport(budget=_BUDGET)
    async with httpx.AsyncClient(transport=transport, timeout=_TIMEOUT, trust_env=False) as app[_CLIENT]:
        yield


__all__ = ["Loans"]
