"""Parking: requests that wait in the gateway, their bodies unread, within limits that hold for every kind of waiting."""

import asyncio
import contextlib

from aiohttp import web

from gateway.links import Place, Waiter
from gateway.peers import is_gone
from gateway.routing import RoutingTable
from uplift_settings.tree import GatewaySettings

_PROBE = 5.0
"""Seconds between looks whether a parked client, whose body is not read meanwhile, is still there."""


class Parking:
    """Where requests wait: on a link, in an overlay, or for the lease.

    Args:
        table: Counts those parked.
        settings: Limits.
    """

    def __init__(self, *, table: RoutingTable, settings: GatewaySettings) -> None:
        self._table = table
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._stopping = False
        self.lease = Place()
        """Those who wait for this replica's lease."""

    def stop(self) -> None:
        """Let all look anew, and nobody wait any more: the gateway is about to stop."""
        self._stopping = True
        for place in (self.lease, *self._table.places()):
            place.wake()

    async def wait(self, request: web.BaseRequest, place: Place, *, tenant: str, deadline: float, arrival: int) -> bool:
        """Wait until released; False when the time is up or there is no room. Nothing of the body is read meanwhile.

        Raises:
            asyncio.CancelledError: The client has left: it is dropped, not executed.
        """
        table, settings = self._table, self._settings
        here = table.parked_by_tenant.get(tenant, 0)
        kept = request.content.total_bytes
        if (
            self._stopping
            or deadline <= self._loop.time()
            or here >= settings.parked_per_tenant
            or table.parked_total >= settings.parked_total
            or table.parked_bytes + kept > settings.parked_bytes
            or table.parked_bytes_by_tenant.get(tenant, 0) + kept > settings.parked_bytes_per_tenant
        ):
            return False
        waiter = Waiter(arrival)
        place.add(waiter)
        table.parked_total += 1
        table.parkings += 1
        table.parked_bytes += kept
        table.parked_by_tenant[tenant] = here + 1
        table.parked_bytes_by_tenant[tenant] = table.parked_bytes_by_tenant.get(tenant, 0) + kept
        paused = request.body_exists and not request.content.is_eof()
        if paused:
            request.protocol.pause_reading()
        try:
            while not waiter.done():
                left = deadline - self._loop.time()
                if left <= 0:
                    return False
                await asyncio.wait((waiter,), timeout=min(left, _PROBE) if paused else left)
                if paused and has_left(request):
                    raise asyncio.CancelledError
        finally:
            table.parked_total -= 1
            table.parked_bytes -= kept
            table.parked_by_tenant[tenant] -= 1
            table.parked_bytes_by_tenant[tenant] -= kept
            if not table.parked_by_tenant[tenant]:
                del table.parked_by_tenant[tenant], table.parked_bytes_by_tenant[tenant]
            if not waiter.done():
                waiter.cancel()
                with contextlib.suppress(ValueError):
                    place.waiters.remove(waiter)
            if paused and request.transport is not None:
                request.protocol.resume_reading()
        if has_left(request):
            raise asyncio.CancelledError  # who has left is dropped, not executed
        return True


def has_left(request: web.BaseRequest) -> bool:
    """Whether the client has closed its connection, even if that stands behind bytes that were not read yet."""
    return is_gone(request.transport)
