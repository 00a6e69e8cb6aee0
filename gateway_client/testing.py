"""A gateway in memory, for the tests of modules: the same protocol, held to the same contract tests as the real one.

```python
async with InMemoryGateway() as gateway:
    gateway.serve("http://users.test", users)                       # async def users(request: httpx.Request) -> httpx.Response
    async with Module(DESCRIPTOR, gateway=gateway.url, url="http://users.test", transport=gateway.transport) as module:
        gateway.enable("diku", module.id)
        async with httpx.AsyncClient(transport=gateway.transport, base_url=gateway.url) as http:
            await http.get("/users", headers={"X-Okapi-Tenant": "diku"})
```

It keeps nothing, has no install jobs (`enable` binds at once) and no overlays, and trusts whoever knows its one token.
"""

import asyncio
import contextlib
import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Self
from urllib.parse import unquote

import httpx
from pydantic import ValidationError

from gateway_client._client import GatewayClient
from gateway_client._lifecycle import LifecycleRequest, Routing
from gateway_client._memory import ALL, Memory, MemoryFlight, MemoryHold, MemoryInstance, Refused
from gateway_client._pushes import push_path
from upgrade_core.descriptors import parse_descriptor
from upgrade_core.errors import UpliftError
from upgrade_core.ids import SUPERTENANT, product_of
from upgrade_core.protocol import Availability, Hold, Reply

Handler = Callable[[httpx.Request], Awaitable[httpx.Response]]
_LIFECYCLE = "X-Okapi-Lifecycle"
_RETRY_AFTER = 1
_LONGEST_WAIT = 60.0
_ADMIN = "/_/"
_LOST = "lost."


class InMemoryGateway:
    """A gateway for tests.

    Args:
        url: Its address for those who use `transport`.
        ttl: Seconds that a module without instances is waited for.
        grace: Seconds that requests in flight have after UPDATE, if that does not say.
        hold_max: Seconds that a plain requester is parked at most.
        token: What its admin API asks for; empty: nothing.
        upstream: How instances are reached that `serve` does not know; None: they refuse.
    """

    def __init__(
        self,
        *,
        url: str = "http://gateway.test",
        ttl: float = 60.0,
        grace: float = 10.0,
        hold_max: float = 30.0,
        token: str = "",
        upstream: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url
        self._grace, self._hold_max, self._token, self._upstream = grace, hold_max, token, upstream
        self._memory = Memory(ttl=ttl, told=self._push)
        self._handlers: dict[str, Handler] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._routes: tuple[tuple[str, str, Callable[..., Awaitable[httpx.Response]]], ...] = (
            ("POST", "/_/proxy/modules", self._post_module),
            ("GET", "/_/proxy/modules/([^/]+)", self._get_module),
            ("POST", "/_/discovery/modules", self._post_instance),
            ("GET", "/_/discovery/modules", self._get_instances),
            ("GET", "/_/discovery/modules/([^/]+)/([^/]+)", self._get_instance),
            ("DELETE", "/_/discovery/modules/([^/]+)/([^/]+)", self._delete_instance),
            ("GET", "/_/lifecycle/links", self._links),
            ("GET", "/_/lifecycle/problems", self._problems),
            ("GET", "/_/lifecycle/delays/([^/]+)", self._delay),
            ("GET", "/_/lifecycle/routing/([^/]+)", self._get_routing),
            ("PUT", "/_/lifecycle/routing/([^/]+)", self._put_routing),
            ("POST", "/_/lifecycle/([^/]+)", self._signal),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._upstream is not None:
            await self._upstream.aclose()

    @property
    def transport(self) -> httpx.AsyncBaseTransport:
        """What makes an `httpx.AsyncClient` or a `GatewayClient` speak to this gateway."""
        return httpx.MockTransport(self.handle)

    def client(self) -> GatewayClient:
        """A typed client of this gateway."""
        return GatewayClient(url=self.url, token=self._token, transport=self.transport)

    def serve(self, url: str, handler: Handler) -> None:
        """Answer at an instance's address. Instances there that had been lost are seen again."""
        self._handlers[url.rstrip("/")] = handler
        for instance in list(self._memory.instances.values()):
            if instance.url == url.rstrip("/") and not instance.well:
                self._memory.put(instance)

    def stop(self, url: str) -> None:
        """Refuse connections at an instance's address, as after a crash."""
        self._handlers.pop(url.rstrip("/"), None)

    def enable(self, tenant: str, *modules: str) -> None:
        """Bind registered modules to a tenant, which is made if it is not there."""
        bound = self._memory.bindings.setdefault(tenant, {})
        for module in modules:
            if module not in self._memory.modules:
                raise ValueError(f"register {module} first")
            bound[product_of(module)] = module
        self._memory.changed()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Serve on a loopback port too, for modules in processes of their own; gives the address. Needs aiohttp."""
        from aiohttp import web  # noqa: PLC0415 - needed here only

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            headers = [(name, value) for name, value in request.headers.items() if name.lower() != "transfer-encoding"]
            found = await self.handle(
                httpx.Request(request.method, f"{self.url}{request.raw_path}", headers=headers, content=await request.read())
            )
            kept = {name: value for name, value in found.headers.items() if name not in ("content-length", "transfer-encoding")}
            return web.Response(status=found.status_code, body=await found.aread(), headers=kept)

        runner = web.ServerRunner(web.Server(answer))
        await runner.setup()
        before = self.url
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield self.url
        finally:
            self.url = before
            await runner.cleanup()

    async def handle(self, request: httpx.Request) -> httpx.Response:
        """Answer one request, of the admin API or of the data path."""
        await request.aread()
        path = request.url.raw_path.decode().partition("?")[0]
        if not path.startswith(_ADMIN):
            return await self._pass_on(request, path)
        if self._token and "/delays/" not in path and request.headers.get("Authorization") != f"Bearer {self._token}":
            return httpx.Response(401, text="a token is needed")
        for method, pattern, route in self._routes:
            if method == request.method and (found := re.fullmatch(pattern, path)):
                try:
                    return await route(request, *map(unquote, found.groups()))
                except Refused as refused:
                    return _refusal(request, refused)
                except (ValidationError, UpliftError, ValueError) as error:
                    return _refusal(request, Refused(400, str(error)))
        return httpx.Response(404, text="No suitable module found for path and tenant")

    # -- admin API ---------------------------------------------------------------------------------------------------------

    async def _post_module(self, request: httpx.Request) -> httpx.Response:
        wire, memory = _object(request), self._memory
        module = parse_descriptor(wire)
        if memory.texts.get(module.id, wire) != wire:
            raise Refused(400, f"create: module {module.id} already exists")
        memory.texts[module.id], memory.modules[module.id] = wire, module
        return httpx.Response(201, json=wire)

    async def _get_module(self, _: httpx.Request, module: str) -> httpx.Response:
        return httpx.Response(200, json=self._known(self._memory.texts, module))

    async def _post_instance(self, request: httpx.Request) -> httpx.Response:
        wire, memory = _object(request), self._memory
        made = MemoryInstance(id=str(wire["instId"]), module=str(wire["srvcId"]), url=str(wire["url"]).rstrip("/"))
        if made.module not in memory.modules:
            raise Refused(404, made.module)
        known = memory.instances.get(made.id)
        if known is not None and (known.module, known.url) != (made.module, made.url):
            raise Refused(400, f"Duplicate instId {made.id}")
        memory.put(known or made)
        return httpx.Response(201, json=_instance(made))

    async def _get_instances(self, _: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=[_instance(instance) for instance in self._memory.instances.values()])

    async def _get_instance(self, _: httpx.Request, module: str, instance: str) -> httpx.Response:
        return httpx.Response(200, json=_instance(self._instance(module, instance)))

    async def _delete_instance(self, _: httpx.Request, module: str, instance: str) -> httpx.Response:
        self._memory.drop(self._instance(module, instance), forget=True)
        return httpx.Response(204)

    async def _signal(self, request: httpx.Request, module: str) -> httpx.Response:
        wire, memory = LifecycleRequest.model_validate_json(request.content), self._memory
        if module not in memory.modules:
            raise Refused(404, module)
        sender = None if wire.instance is None else f"module {wire.instance}"
        if wire.event == "UPDATE":
            hold = memory.update(
                module=module,
                hold_id=wire.hold or secrets.token_hex(16),
                tenant=wire.tenant or ALL,
                holder=sender or "operator",
                ttl=wire.ttl,
                grace=self._grace if wire.grace is None else wire.grace,
            )
            place = {"Location": f"/_/lifecycle/delays/{hold.id}?for=holder", _LIFECYCLE: "DELAY"}
            return httpx.Response(202, json=self._hold(hold, "DELAY"), headers=place)
        if wire.event == "RESUME" and wire.hold is not None:
            memory.resume(module=module, hold_id=wire.hold, sender=sender)
            body = {"id": wire.hold, "lifecycle": "RESUME", "state": Hold.OPEN, "inFlight": 0, "loose": False, "parked": 0}
            return httpx.Response(200, json=body)
        if wire.instance is None:
            raise Refused(400, f"{wire.event} needs instance" + (" or hold" if wire.event == "RESUME" else ""))
        instance = self._instance(module, wire.instance)
        if wire.event == "RESUME":
            memory.put(instance)
            return httpx.Response(200, json={"lifecycle": "RESUME"})
        memory.drop(instance, forget=True)

        def at_work() -> list[MemoryFlight]:
            return [flight for flight in memory.flights if flight.instance == instance.id]

        grace = self._grace if wire.grace is None else wire.grace
        await memory.until(lambda: not at_work(), deadline=time.monotonic() + grace)
        return httpx.Response(200, json={"instance": instance.id, "inFlight": len(at_work())})

    async def _delay(self, request: httpx.Request, hold_id: str) -> httpx.Response:
        memory = self._memory
        asks_holder = request.url.params.get("for") == "holder"
        wait = min(float(request.url.params.get("wait", "0")), _LONGEST_WAIT)

        def lifecycle() -> str:
            if hold_id.startswith(_LOST):
                module = hold_id.removeprefix(_LOST)
                return {Availability.LOST: "DELAY", Availability.CLOSED: "MISSING"}.get(memory.availability(module), "RESUME")
            hold = memory.holds.get(hold_id)
            if hold is None or (asks_holder and hold.state is Hold.HELD):
                return "RESUME"
            overdue = hold.overdue_at is not None and time.monotonic() >= hold.overdue_at
            return "MISSING" if overdue and not asks_holder else "DELAY"

        await memory.until(lambda: lifecycle() != "DELAY", deadline=time.monotonic() + wait)
        hold = memory.holds.get(hold_id)
        if hold is not None:
            return httpx.Response(200, json=self._hold(hold, lifecycle()))
        return httpx.Response(200, json={"id": hold_id, "lifecycle": lifecycle(), "state": Hold.OPEN})

    async def _links(self, request: httpx.Request) -> httpx.Response:
        wanted = request.url.params.get("tenant")
        self._memory.look()
        found = [
            self._hold(hold, "DELAY") | {"hold": hold.state, "holdId": hold.id}
            for hold in self._memory.holds.values()
            if wanted in (None, hold.tenant)
        ]
        return httpx.Response(200, json=found)

    async def _problems(self, _: httpx.Request) -> httpx.Response:
        memory = self._memory
        memory.look()
        found = [
            {
                "key": f"missing:{tenant}:{module}",
                "kind": "missing",
                "severity": "error",
                "message": f"no instance of {module} answers",
                "module": module,
                "tenant": tenant,
                "since": None,
                "remedy": f"start {module}, or register it",
            }
            for tenant, bound in memory.bindings.items()
            for module in bound.values()
            if memory.availability(module) is Availability.CLOSED
        ]
        return httpx.Response(200, json=found)

    async def _get_routing(self, _: httpx.Request, tenant: str) -> httpx.Response:
        self._known(self._memory.bindings, tenant)
        return httpx.Response(200, json={"routing": self._memory.routing.get(tenant, "pinned")})

    async def _put_routing(self, request: httpx.Request, tenant: str) -> httpx.Response:
        self._known(self._memory.bindings, tenant)
        wire = Routing.model_validate_json(request.content)
        self._memory.routing[tenant] = wire.routing
        return httpx.Response(200, json={"routing": wire.routing})

    # -- data path ---------------------------------------------------------------------------------------------------------

    async def _pass_on(self, request: httpx.Request, path: str) -> httpx.Response:
        memory = self._memory
        tenant = request.headers.get("X-Okapi-Tenant", SUPERTENANT)
        if tenant not in memory.bindings:
            return httpx.Response(400, text=f"No such Tenant {tenant}")
        aware = request.headers.get(_LIFECYCLE, "").lower() == "delay"
        wanted = re.search(r"(?:^|[,\s])wait=(\d+)", request.headers.get("Prefer", ""))
        patience = 0.0 if aware else min(self._hold_max, float(wanted[1])) if wanted else self._hold_max
        deadline = time.monotonic() + patience
        while True:
            module = memory.match(tenant, request.method, path)
            if module is None:
                return httpx.Response(404, text="No suitable module found for path and tenant")
            reply = memory.reply(tenant, module)
            if reply is Reply.MISSING:
                return self._interrupted("MISSING", tenant, module, f"No running module instance found for {module}")
            if reply is Reply.PASS:
                answer = await self._forward(request, tenant, module)
                if answer is not None:
                    return answer
                continue
            if not await memory.until(self._goes_on(tenant, module), deadline=deadline):
                said = f"{product_of(module)} is being updated; try again in a moment"
                return self._interrupted("DELAY", tenant, module, said, aware=aware)

    def _goes_on(self, tenant: str, module: str) -> Callable[[], bool]:
        return lambda: self._memory.reply(tenant, module) is not Reply.DELAY

    async def _forward(self, request: httpx.Request, tenant: str, module: str) -> httpx.Response | None:
        """The module's answer; None: no instance took the request, look again."""
        memory = self._memory
        instance = memory.well(module)[0]
        flight = MemoryFlight(tenant=tenant, product=product_of(module), instance=instance.id)
        memory.flights.append(flight)
        headers = httpx.Headers([pair for pair in request.headers.multi_items() if pair[0] not in ("host", "content-length")])
        headers["X-Okapi-Tenant"], headers["X-Okapi-Url"] = tenant, self.url
        passed_on = httpx.Request(
            request.method, instance.url + request.url.raw_path.decode(), headers=headers, content=request.content
        )
        work = asyncio.ensure_future(self._reach(instance.url, passed_on))
        work.add_done_callback(lambda _: memory.changed())
        try:
            await memory.until(lambda: work.done() or flight.cut)
            if not work.done():
                return self._interrupted("MISSING", tenant, module, "the update went on without this request's answer")
            return work.result()
        except httpx.ConnectError:
            memory.drop(instance, forget=False)
            return None
        except httpx.HTTPError as error:
            return httpx.Response(502, text=f"{module} broke off: {error}")
        finally:
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await work
            memory.flights.remove(flight)
            memory.changed()

    async def _reach(self, url: str, request: httpx.Request) -> httpx.Response:
        handler = self._handlers.get(url)
        if handler is not None:
            answer = await handler(request)
        elif self._upstream is not None:
            answer = await self._upstream.handle_async_request(request)
        else:
            raise httpx.ConnectError(f"nothing answers at {url}", request=request)
        body = await answer.aread()
        kept = [(name, value) for name, value in answer.headers.multi_items() if name not in _OF_ONE_HOP]
        return httpx.Response(answer.status_code, content=body, headers=kept)

    def _interrupted(self, lifecycle: str, tenant: str, module: str, detail: str, *, aware: bool = False) -> httpx.Response:
        hold = self._memory.hold_of(tenant, product_of(module))
        body = {
            "type": f"urn:uplift:lifecycle:{lifecycle.lower()}",
            "title": "Service interrupted" if lifecycle == "DELAY" else "Service not available",
            "status": 503,
            "detail": detail,
            "lifecycle": lifecycle,
            "module": module,
            "tenant": tenant,
        }
        headers = {_LIFECYCLE: lifecycle, "Content-Type": "application/problem+json"}
        if hold is not None:
            body |= {"since": hold.since.isoformat()} | ({"until": hold.until.isoformat()} if hold.until else {})
        if lifecycle == "DELAY":
            headers["Retry-After"] = str(_RETRY_AFTER)
            if aware:
                headers["Location"] = f"/_/lifecycle/delays/{hold.id if hold else _LOST + module}"
        return httpx.Response(503, content=json.dumps(body), headers=headers)

    # -- pushes ------------------------------------------------------------------------------------------------------------

    def _push(self, event: str, product: str, tenant: str, hold_id: str) -> None:
        """Tell the modules that provide `_lifecycle`: the product's own ones, and those that depend on it."""
        memory = self._memory
        tenants = list(memory.bindings) if tenant == ALL else [tenant]
        about = {name for each in tenants for name in memory.dependents(each, product)}
        for instance in memory.instances.values():
            own = product_of(instance.module) == product
            if not instance.well or not ((own and hold_id) or instance.module in about):
                continue
            if any(interface.id == "_lifecycle" for interface in memory.modules[instance.module].provides):
                told = event if own else {"UPDATE": "DELAY"}.get(event, event)
                self._spawn(self._tell(instance, told, product, tenant, hold_id))

    async def _tell(self, instance: MemoryInstance, event: str, product: str, tenant: str, hold_id: str) -> None:
        url = instance.url + push_path(self._memory.texts[instance.module])
        body = {"event": event, "module": product, "tenant": tenant}
        if hold_id:
            body["delay"] = f"/_/lifecycle/delays/{hold_id}"
        with contextlib.suppress(httpx.HTTPError):
            await self._reach(instance.url, httpx.Request("POST", url, json=body))

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- wire --------------------------------------------------------------------------------------------------------------

    def _hold(self, hold: MemoryHold, lifecycle: str) -> dict[str, Any]:
        memory = self._memory
        return {
            "id": hold.id,
            "lifecycle": lifecycle,
            "state": hold.state,
            "tenant": hold.tenant,
            "product": hold.product,
            "holder": hold.holder,
            "since": hold.since.isoformat(),
            "until": hold.until.isoformat() if hold.until else None,
            "inFlight": len(memory.at_work(hold.tenant, hold.product)),
            "loose": False,
            "parked": 0,
        }

    def _instance(self, module: str, instance: str) -> MemoryInstance:
        found = self._memory.instances.get(instance)
        if found is None or found.module != module:
            raise Refused(404, f"{module}/{instance}")
        return found

    @staticmethod
    def _known(table: Mapping[str, Any], key: str) -> Any:
        if key not in table:
            raise Refused(404, key)
        return table[key]


def _object(request: httpx.Request) -> dict[str, Any]:
    found = json.loads(request.content)
    if not isinstance(found, dict):
        raise Refused(400, "Failed to decode: no object")
    return found


def _instance(instance: MemoryInstance) -> dict[str, str]:
    return {"instId": instance.id, "srvcId": instance.module, "url": instance.url}


def _refusal(request: httpx.Request, refused: Refused) -> httpx.Response:
    if "application/problem+json" not in request.headers.get("Accept", ""):
        return httpx.Response(refused.status, text=refused.text)
    body = {"type": "about:blank", "title": "Request refused", "status": refused.status, "detail": refused.text} | refused.facts
    return httpx.Response(refused.status, content=json.dumps(body), headers={"Content-Type": "application/problem+json"})


_OF_ONE_HOP = frozenset({"content-length", "content-encoding", "transfer-encoding", "connection", "keep-alive"})

__all__ = ["Handler", "InMemoryGateway"]
