"""The lifecycle protocol's routes: their wire models and the part of the client that calls them."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from gateway_client._calls import Calls, quoted, read, read_all
from gateway_client._errors import GatewayRefused, NotFound
from gateway_wire import HoldState, Id, Text, Wire

Event = Literal["UPDATE", "RESUME", "DISCONNECT"]
_OWN_HOLD = re.compile(r"[A-Za-z0-9._-]{8,100}")


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


class LifecycleRequest(Wire):
    """A signal of a module (requirement A4).

    Attributes:
        event: UPDATE: I change my database. RESUME: that is over, or I am well again. DISCONNECT: I leave.
        instance: Which instance says so; needed for DISCONNECT and for RESUME without `hold`.
        tenant: Whose data; None or `*`: all tenants'.
        hold: Id of the hold, chosen by who sends UPDATE, so that a retry is the same request; for RESUME the one to remove.
        ttl: Seconds after which waiters get MISSING instead of DELAY. The hold stays.
        grace: Seconds for requests in flight; None: the gateway's setting.
        reason: For people.
    """

    event: Event
    instance: Id | None = None
    tenant: Id | None = None
    hold: Id | None = None
    ttl: Annotated[float, Field(gt=0)] | None = None
    grace: Annotated[float, Field(ge=0, le=3600)] | None = None
    reason: Text | None = None

    @model_validator(mode="after")
    def _hold_that_can_be_chosen(self) -> Self:
        if self.event == "UPDATE" and self.hold is not None and not _OWN_HOLD.fullmatch(self.hold):
            raise ValueError("hold: 8 to 100 of A-Z, a-z, 0-9, '.', '_' and '-'")
        return self


class SignalAnswer(_Answer):
    """What the gateway made of a signal.

    Attributes:
        lifecycle: DELAY: wait at the hold until it says RESUME.
        state: The hold's, if the signal was about one.
        id: The hold's id, likewise.
        holder: Whose it is.
        instance: Which instance left.
        in_flight: Requests that are still at work.
    """

    lifecycle: Literal["DELAY", "RESUME", "MISSING"] = "RESUME"
    state: str = ""
    id: str = ""
    tenant: str | None = None
    product: str | None = None
    holder: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    instance: str | None = None
    in_flight: int = 0
    loose: bool = False
    parked: int = 0


class LinkState(_Answer):
    """A link that is held, in flight or parked on."""

    tenant: str
    product: str
    module: str | None = None
    hold: str
    availability: str | None = None
    hold_id: str | None = None
    holder: str | None = None
    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    in_flight: int = 0
    parked: int = 0


class Problem(_Answer):
    """What an administrator should know now (requirement A7)."""

    key: str
    kind: str
    severity: str
    message: str
    module: str | None = None
    tenant: str | None = None
    since: datetime | None = None
    remedy: str = ""


class Routing(Wire):
    """What a higher version that registers means to a tenant: nothing (`pinned`), or an upgrade (`newest`)."""

    routing: Literal["pinned", "newest"]


class LifecycleCalls(Calls):
    """What modules and operators say to the gateway, and what they ask it."""

    async def register_module(self, descriptor: Mapping[str, Any]) -> None:
        """Register a descriptor, whether or not its dependencies are there yet; the same again is fine.

        Raises:
            GatewayRefused: It is no descriptor, or another one is registered under its id.
        """
        await self.call("POST", "/_/proxy/modules?check=false", dict(descriptor))

    async def register_instance(self, *, module: str, instance: str, url: str) -> None:
        """Register a running instance; the same again is fine.

        Raises:
            GatewayRefused: The id belongs to an instance at another address.
        """
        try:
            await self.call("POST", "/_/discovery/modules", {"srvcId": module, "instId": instance, "url": url})
        except GatewayRefused as refused:
            if "Duplicate" not in refused.text:
                raise
            try:
                known = await self.call("GET", f"/_/discovery/modules/{quoted(module)}/{quoted(instance)}")
            except NotFound:
                raise refused from None
            if not isinstance(known, dict) or str(known.get("url", "")).rstrip("/") != url.rstrip("/"):
                raise

    async def signal(self, module: str, request: LifecycleRequest) -> SignalAnswer:
        """Tell the gateway what a module does. With a hold id of its own, UPDATE may be sent again.

        Raises:
            GatewayRefused: 409: the state forbids it; the text names the holder. 401, 403: not yours to say.
        """
        # DISCONNECT is answered when the instance's requests have ended.
        wait = (10.0 if request.grace is None else request.grace) if request.event == "DISCONNECT" else 0
        answer = await self.call(
            "POST", f"/_/lifecycle/{quoted(module)}", request.model_dump(by_alias=True, exclude_none=True), wait=wait
        )
        return read(SignalAnswer, answer)

    async def delay(self, hold: str, *, wait: float) -> HoldState:
        """A hold, after waiting for at most that many seconds until its holder may begin."""
        path = f"/_/lifecycle/delays/{quoted(hold)}?for=holder&wait={wait:.6f}"
        return read(HoldState, await self.call("GET", path, wait=wait))

    async def links(self, *, tenant: str | None = None) -> tuple[LinkState, ...]:
        """The links that are held, in flight or parked on; of one tenant, or of all."""
        query = "" if tenant is None else f"?tenant={quoted(tenant)}"
        return read_all(LinkState, await self.call("GET", f"/_/lifecycle/links{query}"))

    async def problems(self) -> tuple[Problem, ...]:
        """What an administrator should know now."""
        return read_all(Problem, await self.call("GET", "/_/lifecycle/problems"))

    async def routing(self, tenant: str) -> Routing:
        """What a higher version means to a tenant."""
        return read(Routing, await self.call("GET", f"/_/lifecycle/routing/{quoted(tenant)}"))

    async def set_routing(self, tenant: str, routing: Literal["pinned", "newest"]) -> None:
        """Say it."""
        await self.call("PUT", f"/_/lifecycle/routing/{quoted(tenant)}", Routing(routing=routing))


__all__ = ["Event", "LifecycleCalls", "LifecycleRequest", "LinkState", "Problem", "Routing", "SignalAnswer"]
