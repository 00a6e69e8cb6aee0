"""Active health checks: who is out of service is looked at often, who is in service now and then.

Any answer below 500 is well: many modules have no health route and say 404, which is an answer all the same.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable

from gateway.instances import Instance, Pool
from gateway.upstream import Connections, UpstreamError, address_of, connections_of
from uplift_settings.tree import GatewaySettings

_SERVER_ERROR = 500
_JITTER = (0.8, 1.2)


class Health:
    """Looks at every instance of a pool until closed.

    Args:
        pool: What is looked at, and told.
        settings: Times and limits.
        path_of: The path to ask, by module id.
    """

    def __init__(self, *, pool: Pool, settings: GatewaySettings, path_of: Callable[[str], str]) -> None:
        self._pool = pool
        self._settings = settings
        self._path_of = path_of
        self._tasks: dict[Instance, asyncio.Task[None]] = {}
        self._turns = asyncio.Semaphore(settings.health_parallel)
        self._turns_asked = asyncio.Semaphore(settings.health_parallel)
        self._connections: Connections | None = None
        self._chance = random.Random()  # noqa: S311 - spreads load, keeps no secret
        pool.on_known = self._begin
        pool.on_forgotten = self._end

    async def open(self) -> None:
        """Begin."""
        self._connections = connections_of(self._settings)
        for instance in self._pool:
            self._begin(instance)

    async def close(self) -> None:
        """Stop looking."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._connections is not None:
            await self._connections.close()
            self._connections = None

    async def fault_at(self, url: str) -> str:
        """Why nobody answers at an address; empty if anybody does, whatever the answer (Okapi's health of an instance)."""
        if self._connections is None:
            return "the gateway is about to stop"
        async with self._turns_asked:
            try:
                async with asyncio.timeout(self._settings.health_timeout):
                    address = address_of(url)
                    await self._connections.status_of(address, "" if address.prefix else "/")
            except TimeoutError:
                return f"no answer within {self._settings.health_timeout:g} s"
            except UpstreamError as error:
                return str(error)
            return ""

    def _begin(self, instance: Instance) -> None:
        if self._connections is not None and instance not in self._tasks:
            self._tasks[instance] = asyncio.create_task(self._watch(instance))

    def _end(self, instance: Instance) -> None:
        task = self._tasks.pop(instance, None)
        if task is not None:
            task.cancel()

    async def _watch(self, instance: Instance) -> None:
        """Look at one; the first look after it was dropped is at once, since a broken connection may be all that there was."""
        settings = self._settings
        while True:
            if instance.in_service:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(settings.health_interval * self._jitter()):
                        await instance.dropped.wait()
            else:
                await asyncio.sleep(settings.probe_interval * self._jitter())
            times_seen = instance.times_seen
            async with self._turns:
                fault = await self._fault(instance)
            if fault:
                self._pool.missed(instance, times_seen=times_seen, most=settings.health_failures, why=fault)
            elif instance.in_service:
                instance.failures = 0
            else:
                self._pool.seen(instance)

    async def _fault(self, instance: Instance) -> str:
        """What is wrong with an instance; empty if it is well."""
        assert self._connections is not None
        try:
            async with asyncio.timeout(self._settings.health_timeout):
                status = await self._connections.status_of(address_of(instance.row.url), self._path_of(instance.row.module))
        except TimeoutError:
            return "the last without an answer in time"
        except UpstreamError as error:
            return f"the last with {type(error).__name__}"
        return f"the last with {status}" if status >= _SERVER_ERROR else ""

    def _jitter(self) -> float:
        return self._chance.uniform(*_JITTER)
