"""HTTP calls to instances of modules, as the system: tenant init and its jobs."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx

from gateway_client import GatewayClient, Instance
from upgrade_core.addresses import parse_address
from upgrade_core.tenant_init import Call
from uplift_settings.tree import InitSettings

_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 5.0


class NothingSent(Exception):
    """The instance refused the connection all the time; nothing of the request was sent."""


class NoAnswer(Exception):
    """The request was sent, and what came back is no answer: nobody knows whether the module works on it."""


class ModuleCalls:
    """Calls instances, and tells what was sent from what was answered.

    Args:
        gateway: Knows the instances.
        settings: Clocks.
        on_request: Called with each request before it is sent; may add headers, such as a trace's.
    """

    def __init__(
        self,
        *,
        gateway: GatewayClient,
        settings: InitSettings,
        on_request: Callable[[httpx.Request], Awaitable[None]] | None = None,
    ) -> None:
        self._gateway = gateway
        self._settings = settings
        self._timeout = httpx.Timeout(connect=5, write=60, pool=None, read=settings.synchronous_max)
        self._hooks = {"request": [on_request] if on_request is not None else []}
        self._clients: dict[tuple[str, int], httpx.AsyncClient] = {}

    async def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            await client.aclose()

    def _kept(self, url: str) -> tuple[httpx.AsyncClient, str]:
        """The client for what has no effect, and the address as it knows it."""
        return self._client(url, keep=50)

    def _fresh(self, url: str) -> tuple[httpx.AsyncClient, str]:
        """The client for what has an effect, whose connections are used once, and the address as it knows it.

        One that was kept may lead to a process that is no more, and then nobody could say whether it was sent.
        """
        return self._client(url, keep=0)

    def _client(self, url: str, *, keep: int) -> tuple[httpx.AsyncClient, str]:
        address = parse_address(url)
        client = self._clients.get((address.socket, keep))
        if client is None:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=keep, keepalive_expiry=3)
            transport = httpx.AsyncHTTPTransport(limits=limits, uds=address.socket or None, trust_env=False)
            client = httpx.AsyncClient(transport=transport, timeout=self._timeout, event_hooks=self._hooks, trust_env=False)
            self._clients[address.socket, keep] = client
        return client, f"http://localhost{address.prefix}" if address.socket else url

    async def instance(self, module: str, *, prefer: str = "") -> Instance | None:
        """An instance of a version: the preferred one if it is there."""
        instances = (await self._gateway.version(module)).instances
        return next((found for found in instances if found.id == prefer), instances[0] if instances else None)

    async def post(self, instance: Instance, call: Call, *, tenant: str, url: str) -> httpx.Response:
        """One request that may have an effect: sent once.

        Raises:
            NothingSent: The instance refused connections for `init.connect_retry` seconds.
            NoAnswer: It was sent, and the connection broke.
        """
        deadline = asyncio.get_running_loop().time() + self._settings.connect_retry
        pause = _FIRST_PAUSE
        while True:
            try:
                client, base = self._fresh(instance.url)
                return await client.request(call.method, base + call.path, content=call.body, headers=_headers(tenant, url, call))
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                if asyncio.get_running_loop().time() + pause > deadline:
                    raise NothingSent(f"{instance.id} at {instance.url} cannot be reached: {error}") from error
                await asyncio.sleep(pause)
                pause = min(_LONGEST_PAUSE, pause * 1.6)
            except httpx.HTTPError as error:
                raise NoAnswer(f"{instance.id} at {instance.url} broke off: {str(error) or type(error).__name__}") from error

    async def send(self, instance: Instance, call: Call, *, tenant: str, url: str, timeout: float) -> httpx.Response:
        """One request that does the same when it is repeated; `timeout` seconds are given for its answer.

        Raises:
            NoAnswer: None came.
        """
        headers = _headers(tenant, url, call)
        try:
            client, base = self._fresh(instance.url)
            return await client.request(call.method, base + call.path, content=call.body, headers=headers, timeout=timeout)
        except httpx.HTTPError as error:
            raise NoAnswer(f"{instance.id} at {instance.url}: {str(error) or type(error).__name__}") from error

    async def look(self, instance: Instance, call: Call, *, tenant: str, url: str, wait: float) -> httpx.Response | None:
        """One request without effect; None where no answer came. `wait` seconds are asked for as RMB's long poll."""
        try:
            client, base = self._kept(instance.url)
            return await client.request(
                call.method,
                base + call.path,
                params={"wait": str(round(wait * 1000))} if wait else None,
                headers=_headers(tenant, url, call),
                timeout=wait + self._settings.look_timeout,
            )
        except httpx.HTTPError:
            return None


def _headers(tenant: str, url: str, call: Call) -> dict[str, str]:
    headers = {"X-Okapi-Tenant": tenant, "X-Okapi-Url": url, "Accept": "*/*"}
    if call.body is not None:
        headers["Content-Type"] = "application/json; charset=UTF-8"
    return headers
