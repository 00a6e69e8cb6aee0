"""Requests and answers of the admin API: parsing at the boundary, errors as Okapi's clients expect them."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote

from aiohttp import web
from pydantic import BaseModel, TypeAdapter, ValidationError

from gateway.credentials import Caller
from gateway.deploying import Deploying
from gateway.health import Health
from gateway.holds import Holds
from gateway.jobs import Jobs
from gateway.observation import as_utf8
from gateway.okapi_json import pretty
from gateway.platform import Platform
from gateway.problems import Problems
from gateway.resolving import Resolving
from gateway.store import CredentialStore

_Model = TypeVar("_Model")
NO_ROLE = "this token has not the role that this call asks for, or not for what the call names: `uplift token list` shows both"
"""The text of every 403: it must not tell what is there."""


class ApiError(Exception):
    """An answer other than success. Nothing was changed.

    Attributes:
        status: HTTP status.
        text: What is wrong, in the caller's terms.
        headers: `Location` of the job that tells more, if there is one, or what else goes with the answer.
        facts: Further members of the problem, for those who accept one.
    """

    def __init__(
        self,
        status: int,
        text: str,
        *,
        location: str = "",
        headers: Mapping[str, str] | None = None,
        facts: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = {"Location": location} if location else headers
        self.facts = dict(facts or {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the routes work with."""

    platform: Platform
    jobs: Jobs
    holds: Holds
    secrets: CredentialStore
    problems: Problems
    resolving: Resolving
    deploying: Deploying
    health: Health


class Call:
    """One request to the admin API.

    Attributes:
        services: The gateway's services.
        caller: Who calls.
        path: The variables of the route, decoded.
        query: The query's parameters; the last of a repeated one.
        body: The body as text.
    """

    __slots__ = ("body", "caller", "path", "query", "raw_path", "request", "services")

    def __init__(
        self, *, services: Services, caller: Caller, request: web.BaseRequest, path: Mapping[str, str], body: str
    ) -> None:
        self.services = services
        self.caller = caller
        self.request = request
        self.path = path
        self.raw_path = request.raw_path.partition("?")[0]
        self.query = query_of(request)
        for name, value in self.query.items():
            if "\x00" in name or "\x00" in value:
                raise ApiError(400, f"parameter {name!r} holds a NUL character")
        self.body = body

    @property
    def platform(self) -> Platform:
        """The stores and the routing table."""
        return self.services.platform

    def check_product(self, module: str) -> None:
        """Refuse a module that the caller's token is not for. Before anybody looks whether it is there.

        Raises:
            ApiError: 403.
        """
        if not self.caller.covers(module):
            raise ApiError(403, NO_ROLE)

    def json(self, kind: type[_Model] | TypeAdapter[_Model]) -> _Model:
        """The body as a model.

        Raises:
            ApiError: 400 with every member that is wrong.
        """
        adapter: TypeAdapter[_Model] = kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)
        try:
            return adapter.validate_json(self.body)
        except ValidationError as error:
            raise ApiError(400, "Failed to decode: " + "; ".join(_fault(item) for item in error.errors()[:10])) from error

    def raw_json(self) -> Any:
        """The body as it is, for what is kept whole; numbers that JSON does not have are refused, since they would come back.

        Raises:
            ApiError: 400.
        """
        try:
            return json.loads(self.body, parse_constant=_finite, parse_float=_finite)
        except (ValueError, RecursionError) as error:
            raise ApiError(400, f"Failed to decode: no valid JSON: {error}") from error

    def flag(self, name: str, default: bool | None = False) -> bool | None:
        """A boolean parameter: exactly `true` or `false`.

        Raises:
            ApiError: 400 with Okapi's text.
        """
        value = self.query.get(name)
        if value is None:
            return default
        if value not in ("true", "false"):
            raise ApiError(400, f"Bad boolean for parameter {name}: {value}")
        return value == "true"

    def choice(self, name: str) -> str:
        """`preRelease` or `npmSnapshot`: `true` (default), `false` or `only`.

        Raises:
            ApiError: 400 with Okapi's text.
        """
        value = self.query.get(name, "true")
        if value not in ("true", "false", "only"):
            raise ApiError(400, f'Expected "true", "false", "only" or undefined/null for parameter {name}, but got: {value}')
        return value

    def number(self, name: str, default: int, *, least: int, most: int) -> int:
        """A whole number within bounds.

        Raises:
            ApiError: 400 that names the parameter and the bounds.
        """
        value = self.query.get(name)
        if value is None:
            return default
        if not re.fullmatch(r"-?\d{1,9}", value, re.ASCII):
            raise ApiError(400, f"Bad integer for parameter '{name}'")
        if not least <= int(value) <= most:
            raise ApiError(400, f"{name} must be {least} or higher" if int(value) < least else f"{name} must be {most} or lower")
        return int(value)

    def seconds(self, name: str, *, most: float) -> float:
        """A time to wait; 0 if not given, and never more than `most`.

        Raises:
            ApiError: 400 that names the parameter.
        """
        value = self.query.get(name, "0")
        if not re.fullmatch(r"\d{1,6}(\.\d{1,6})?", value, re.ASCII):
            raise ApiError(400, f"Bad number of seconds for parameter '{name}': {value}")
        return min(float(value), most)

    def known_tenant(self) -> str:
        """The tenant of the path.

        Raises:
            ApiError: 404 with its id, as Okapi.
        """
        tenant = self.path["tenant"]
        if tenant not in self.platform.table.tenants:
            raise ApiError(404, tenant)
        return tenant

    def location(self, *ids: str) -> dict[str, str]:
        """The `Location` header of something created below this path."""
        return {"Location": "/".join([self.raw_path.rstrip("/"), *(quote(part, safe="") for part in ids)])}


def caller_name(call: Call) -> str:
    """Who asks: the token's name; where none is asked for, the user that the request names."""
    if call.caller.is_known:
        return call.caller.name
    return as_utf8(call.request.headers.get("X-Okapi-User-Id", "")[:200])


def query_of(request: web.BaseRequest) -> dict[str, str]:
    """The query's parameters; the last of a repeated one."""
    return dict(parse_qsl(request.rel_url.raw_query_string, keep_blank_values=True))


def answer(value: Any = None, *, status: int | None = None, headers: Mapping[str, str] | None = None) -> web.Response:
    """A success: JSON as Okapi prints it, or 204 without a value."""
    if value is None:
        return web.Response(status=status or 204, headers=headers)
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", by_alias=True)
    return web.Response(status=status or 200, text=pretty(value), content_type="application/json", headers=headers)


def json_text(text: str, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A success whose JSON is passed on as it was stored."""
    return web.Response(status=status, text=text, content_type="application/json", headers=headers)


def refusal(request: web.BaseRequest, error: ApiError) -> web.Response:
    """An error: plain text, or a problem for those who accept it."""
    if "application/problem+json" in request.headers.get("Accept", ""):
        body: dict[str, Any] = {"type": "about:blank", "title": "Request refused", "status": error.status, "detail": error.text}
        body |= error.facts
        return web.Response(
            status=error.status, text=json.dumps(body), content_type="application/problem+json", headers=error.headers
        )
    return web.Response(status=error.status, text=error.text, headers=error.headers)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number that can be kept")
    return number


def _fault(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] == "json_invalid":
        return f"no valid JSON: {item['msg']}"
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown member"
    return f"{where}: {item['msg']}" if where else str(item["msg"])
