"""The typed client that runs, the worker's keeper and the CLI use."""

from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from gateway_client._errors import GatewayRefused, GatewayUnavailable, NotFound, Retiring
from gateway_client._models import (
    BeginAnswer,
    ClaimRequest,
    FinishRequest,
    HoldRequest,
    HoldState,
    InitReport,
    Instance,
    IntentRequest,
    IntentState,
    OpenRequest,
    Overlay,
    OverlayRequest,
    Snapshot,
    Version,
)
from upgrade_core.descriptors import ModuleDescriptor, parse_descriptor
from upgrade_core.errors import UpliftError

_Model = TypeVar("_Model", bound=BaseModel)
_NO_CONTENT = 204
_LATER = frozenset({408, 429})  # a balancer's, never the gateway's own


class _Variable(BaseModel):
    """A variable of `/_/env`."""

    name: str
    value: str


class GatewayClient:
    """Calls the gateway. Every call either gives what its type says or raises a `GatewayError`; none is retried here.

    Args:
        url: Base URL of the gateway.
        token: Bearer token of the admin API, or empty.
        timeout: Seconds for one call, beside the seconds that a call is asked to wait.
        transport: For tests of the client itself.
    """

    def __init__(
        self, *, url: str, token: str = "", timeout: float = 15.0, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.url = url.rstrip("/")
        self._timeout = timeout
        self._http = httpx.AsyncClient(
            base_url=self.url,
            timeout=timeout,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=20),
            transport=transport,
            trust_env=False,
        )
        self._descriptors: dict[str, ModuleDescriptor] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def descriptor(self, module: str) -> ModuleDescriptor:
        """A module's descriptor; descriptors never change, so it is asked for once."""
        found = self._descriptors.get(module)
        if found is None:
            wire = await self.call("GET", f"/_/proxy/modules/{_quote(module)}")
            try:
                found = parse_descriptor(wire)
            except (UpliftError, AttributeError, TypeError, KeyError) as error:
                raise GatewayUnavailable(f"the answer is no descriptor of {module}: {error}") from error
            self._descriptors[module] = found
        return found

    async def environment(self) -> dict[str, str]:
        """Variables of every instance that is deployed from now on (`/_/env`)."""
        return {item.name: item.value for item in _read_all(_Variable, await self.call("GET", "/_/env"))}

    async def begin(self, job: str) -> BeginAnswer:
        """Fix the plan of a job and get it; again gives the same."""
        return await self._post(BeginAnswer, f"/_/runs/{_quote(job)}/begin", None)

    async def claim(self, job: str, request: ClaimRequest) -> Version:
        """Say that a job needs an instance of a version.

        Raises:
            Retiring: It is on its way out.
        """
        return await self._post(Version, f"/_/runs/{_quote(job)}/claims", request)

    async def give_back(self, job: str, module: str) -> Version:
        """The job needs the version no more."""
        return _read(Version, await self.call("DELETE", f"/_/runs/{_quote(job)}/claims/{_quote(module)}"))

    async def version(self, module: str, *, wait: float = 0, gone: bool = False) -> Version:
        """One module version.

        Args:
            module: Module id.
            wait: Seconds to wait until it has an instance (or, with `gone`, none that was deployed).
            gone: What to wait for.
        """
        query = f"?wait={wait:.6f}&gone={'true' if gone else 'false'}"
        return _read(Version, await self.call("GET", f"/_/versions/{_quote(module)}{query}", wait=wait))

    async def versions(self) -> tuple[Version, ...]:
        """All module versions that have instances or are being retired."""
        return _read_all(Version, await self.call("GET", "/_/versions"))

    async def put_instance(self, instance: Instance) -> None:
        """Register an instance that a deployer started, or its new process."""
        path = f"/_/versions/{_quote(instance.module)}/instances/{_quote(instance.id)}"
        await self.call("PUT", path, instance)

    async def remove_instance(self, module: str, instance: str) -> None:
        """Forget an instance."""
        await self.call("DELETE", f"/_/versions/{_quote(module)}/instances/{_quote(instance)}")

    async def issue_secret(self, module: str, instance: str) -> str:
        """A new secret for an instance that is about to be started; the one that it had is not known any more."""
        path = f"/_/versions/{_quote(module)}/instances/{_quote(instance)}/secret"
        found = await self.call("POST", path)
        token = found.get("token") if isinstance(found, dict) else None
        if not isinstance(token, str) or not token:  # not quoted: it may hold the secret
            raise GatewayUnavailable(f"POST {path}: the answer is no secret: is this the gateway, and of our version?")
        return token

    async def retire(self, module: str) -> Version:
        """Mark a version as on its way out if nobody needs it; `needed_by` says who does."""
        return await self._post(Version, f"/_/versions/{_quote(module)}/retire", None)

    async def retired(self, module: str) -> None:
        """The version's instances are gone; it may be claimed again."""
        await self.call("DELETE", f"/_/versions/{_quote(module)}/retire")

    async def hold(self, job: str, request: HoldRequest) -> tuple[HoldState, ...]:
        """UPDATE on the links of a group; again gives the holds that stand."""
        answer = await self.call("POST", f"/_/runs/{_quote(job)}/holds", request)
        return _read_all(HoldState, answer)

    async def delay(self, hold: str, *, wait: float) -> HoldState:
        """A hold, after waiting for at most that many seconds until its holder may begin."""
        path = f"/_/lifecycle/delays/{_quote(hold)}?for=holder&wait={wait:.6f}"
        return _read(HoldState, await self.call("GET", path, wait=wait))

    async def open(self, job: str, request: OpenRequest) -> None:
        """RESUME, with the switch where asked for, in one transaction; again is fine."""
        await self.call("POST", f"/_/runs/{_quote(job)}/open", request)

    async def begin_intent(self, job: str, request: IntentRequest) -> IntentState:
        """Write down that tenant init is about to be asked for."""
        return await self._post(IntentState, f"/_/runs/{_quote(job)}/intents", request)

    async def report_init(self, job: str, key: str, report: InitReport) -> None:
        """Write down what became of it."""
        await self.call("PUT", f"/_/runs/{_quote(job)}/intents/{_quote(key)}", report)

    async def set_data_version(self, job: str, product: str, module: str | None) -> None:
        """Say what version the tenant's data is at; None: there is none."""
        await self.call("PUT", f"/_/runs/{_quote(job)}/data-versions/{_quote(product)}", {"module": module})

    async def open_overlay(self, job: str, request: OverlayRequest) -> Overlay:
        """The secret prefix of a job's product; again gives the same."""
        return await self._post(Overlay, f"/_/runs/{_quote(job)}/overlays", request)

    async def close_overlay(self, job: str, product: str) -> None:
        """Close the prefix and wait until nothing of it is at work."""
        await self.call("DELETE", f"/_/runs/{_quote(job)}/overlays/{_quote(product)}", wait=60)

    async def add_snapshot(self, snapshot: Snapshot) -> None:
        """Record a copy."""
        await self.call("POST", f"/_/runs/{_quote(snapshot.job)}/snapshots", snapshot)

    async def keep_snapshots(self, job: str, seconds: float) -> None:
        """Start the time that a job's copies are kept."""
        await self.call("PATCH", f"/_/runs/{_quote(job)}/snapshots", {"keep": seconds})

    async def snapshots(self, *, expired: bool = False) -> tuple[Snapshot, ...]:
        """Copies, oldest first."""
        answer = await self.call("GET", f"/_/snapshots?expired={'true' if expired else 'false'}")
        return _read_all(Snapshot, answer)

    async def remove_snapshot(self, snapshot: str) -> None:
        """Forget a copy whose file is gone."""
        await self.call("DELETE", f"/_/snapshots/{_quote(snapshot)}")

    async def set_phase(self, job: str, phase: str, *, subject: str = "", stage: str = "", message: str = "") -> None:
        """What a job is doing, for people; the message stands in the module's line unless the module gave one."""
        await self.call(
            "PUT", f"/_/runs/{_quote(job)}/phase", {"phase": phase, "subject": subject, "stage": stage, "message": message}
        )

    async def finish(self, job: str, request: FinishRequest) -> None:
        """End a job; again is fine."""
        await self.call("POST", f"/_/runs/{_quote(job)}/finish", request)

    async def call(
        self, method: str, path: str, body: BaseModel | dict[str, Any] | list[Any] | None = None, *, wait: float = 0
    ) -> Any:
        """One call of any route; the answer's JSON, or None.

        Raises:
            GatewayUnavailable: No answer, a 5xx, 408 or 429, or an answer that no gateway gives.
            GatewayRefused: Any other 4xx.
        """
        content: bytes | None = None
        if isinstance(body, BaseModel):
            content = body.model_dump_json(by_alias=True).encode()
        request = self._http.build_request(
            method,
            path,
            content=content,
            json=body if content is None and body is not None else None,
            headers={"Content-Type": "application/json"} if content is not None else None,
            timeout=self._timeout + wait,
        )
        try:
            response = await self._http.send(request)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise GatewayUnavailable(f"{method} {self.url}{path}: {str(error) or type(error).__name__}") from error
        if response.status_code >= 500 or response.status_code in _LATER:  # noqa: PLR2004
            raise GatewayUnavailable(f"{method} {path}: {response.status_code} {response.text[:500]}")
        if response.status_code >= 400:  # noqa: PLR2004
            kinds = {404: NotFound, 409: Retiring if "being retired" in response.text else GatewayRefused}
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
        return _read(model, await self.call("POST", path, body))


def _read(model: type[_Model], answer: Any) -> _Model:
    try:
        return model.model_validate(answer)
    except ValidationError as error:
        raise GatewayUnavailable(
            f"the answer is no {model.__name__}: is this the gateway, and of our version? {error}"
        ) from error


def _read_all(model: type[_Model], answer: Any) -> tuple[_Model, ...]:
    if not isinstance(answer, list):
        raise GatewayUnavailable(f"the answer is no list of {model.__name__}: is this the gateway, and of our version?")
    return tuple(_read(model, item) for item in answer)


def _quote(text: str) -> str:
    return quote(text, safe="")
