"""One call of the gateway: its connection, its errors and the reading of answers."""

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from gateway_client._errors import DatabaseDiffers, GatewayRefused, GatewayUnavailable, NotFound, Retiring
from upgrade_core.known import HEADER, Fact, to_wire

_Model = TypeVar("_Model", bound=BaseModel)
_NO_CONTENT = 204
_LATER = frozenset({408, 429})  # a balancer's, never the gateway's own
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=16, keepalive_expiry=20)
"""The pool looks at every connection that is kept, at each request: 64 of them took more CPU than the request itself."""

_known: ContextVar[tuple[Fact, ...]] = ContextVar("known", default=())
OnRequest = Callable[[httpx.Request], Awaitable[None]]
"""Called with each request before it is sent; may add headers, such as a trace's."""


class Calls:
    """A connection to the gateway; the routes are in its subclasses. See `GatewayClient`."""

    def __init__(
        self,
        *,
        url: str,
        token: str = "",
        timeout: float = 15.0,
        transport: httpx.AsyncBaseTransport | None = None,
        on_request: OnRequest | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._timeout = timeout
        self._http = httpx.AsyncClient(
            base_url=self.url,
            timeout=timeout,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            limits=_LIMITS,
            transport=transport,
            trust_env=False,
            event_hooks={"request": [on_request] if on_request is not None else []},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def call(
        self, method: str, path: str, body: BaseModel | dict[str, Any] | list[Any] | None = None, *, wait: float = 0
    ) -> Any:
        """One call of any route; the answer's JSON, or None.

        Raises:
            GatewayUnavailable: No answer, a 5xx, 408 or 429, or an answer that no gateway gives.
            DatabaseDiffers: 412: what the caller knows (`knowing`) is not on record.
            GatewayRefused: Any other 4xx.
        """
        content: bytes | None = None
        headers: dict[str, str] = {}
        if isinstance(body, BaseModel):
            content = body.model_dump_json(by_alias=True).encode()
            headers["Content-Type"] = "application/json"
        if path.startswith("/_/runs/") and (known := _known.get()):
            headers[HEADER] = to_wire(known)
        request = self._http.build_request(
            method,
            path,
            content=content,
            json=body if content is None and body is not None else None,
            headers=headers,
            timeout=self._timeout + wait,
        )
        try:
            response = await self._http.send(request)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise GatewayUnavailable(f"{method} {self.url}{path}: {str(error) or type(error).__name__}") from error
        if response.status_code >= 500 or response.status_code in _LATER:  # noqa: PLR2004
            raise GatewayUnavailable(f"{method} {path}: {response.status_code} {response.text[:500]}")
        if response.status_code >= 400:  # noqa: PLR2004
            kinds = {404: NotFound, 412: DatabaseDiffers, 409: Retiring if "being retired" in response.text else GatewayRefused}
            raise kinds.get(response.status_code, GatewayRefused)(response.status_code, response.text[:2_000])
        if response.status_code == _NO_CONTENT or not response.content:
            return None
        if not response.is_success:
            raise GatewayUnavailable(f"{method} {path}: {response.status_code}, which no gateway answers")
        try:
            return response.json()
        except ValueError as error:
            raise GatewayUnavailable(f"{method} {path}: the answer is no JSON: {response.text[:200]}") from error

    async def _post(self, model: type[_Model], path: str, body: BaseModel | None) -> _Model:
        return read(model, await self.call("POST", path, body))


@contextlib.contextmanager
def knowing(facts: tuple[Fact, ...]) -> Iterator[None]:
    """Calls of runs inside carry what the run knows to be on record: the gateway refuses them with 412 if it is not.

    It goes with the task, and the tasks it starts, since it concerns every call that a step makes.
    """
    token = _known.set(facts)
    try:
        yield
    finally:
        _known.reset(token)


def read(model: type[_Model], answer: Any) -> _Model:
    """An answer as its type.

    Raises:
        GatewayUnavailable: It is none.
    """
    try:
        return model.model_validate(answer)
    except ValidationError as error:
        raise GatewayUnavailable(
            f"the answer is no {model.__name__}: is this the gateway, and of our version? {error}"
        ) from error


def read_all(model: type[_Model], answer: Any) -> tuple[_Model, ...]:
    """An answer that is a list.

    Raises:
        GatewayUnavailable: It is none, or of something else.
    """
    if not isinstance(answer, list):
        raise GatewayUnavailable(f"the answer is no list of {model.__name__}: is this the gateway, and of our version?")
    return tuple(read(model, item) for item in answer)


def quoted(text: str) -> str:
    """An id as one segment of a path."""
    return quote(text, safe="")
