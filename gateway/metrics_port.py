"""The port for those who watch: `/metrics`, `/readiness`, `/liveness`. It asks for no token and tells no secret."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

_log = logging.getLogger(__name__)
_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_OK, _NOT_FOUND, _NOT_READY = 200, 404, 503


class MetricsPort:
    """A small server in the gateway's own loop.

    Args:
        host: Address to listen on.
        port: Port of the first process.
        slot: Number of this process among those of its parent, added to the port; None: it has no parent.
        page: Writes the metrics.
        reasons: Why this replica should not be sent requests; none: it should.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        slot: int | None,
        page: Callable[[], Awaitable[bytes]],
        reasons: Callable[[], list[str]],
    ) -> None:
        self._host = host
        self._port = port + (slot or 0)
        self._in_slot = slot is not None
        self._page = page
        self._reasons = reasons
        self._server = web.Server(self._handle, access_log=None)
        self._listener: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen.

        Raises:
            OSError: The port is taken. The message names the setting.
        """
        try:
            # The successor in a slot listens while its predecessor still serves; else a port that is taken is a mistake.
            self._listener = await asyncio.get_running_loop().create_server(
                self._server, self._host, self._port, reuse_port=self._in_slot or None
            )
        except OSError as error:
            what = "gateway.metrics_host, gateway.metrics_port"
            raise OSError(f"cannot listen on {self._host}:{self._port} ({what}): {error.strerror or error}") from error
        _log.info("metrics are on port %d", self._port)

    def leave(self) -> None:
        """The gateway begins to leave: under a parent the port is the successor's from now on."""
        if self._in_slot and self._listener is not None:
            self._listener.close()

    async def close(self) -> None:
        """Stop."""
        if self._listener is not None:
            self._listener.close()
        await self._server.shutdown(timeout=1)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        answer = await self._answer(request)
        answer.force_close()  # the next one may be for another process
        return answer

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        match request.method, request.path:
            case "GET", "/metrics":
                return web.Response(body=await self._page(), headers={"Content-Type": _TEXT})
            case "GET" | "HEAD", "/readiness":
                reasons = self._reasons()
                return _json(_NOT_READY if reasons else _OK, {"ready": not reasons, "reasons": reasons})
            case "GET" | "HEAD", "/liveness":
                return _json(_OK, {"alive": True})
            case _:
                return _json(_NOT_FOUND, {"there are": ["/metrics", "/readiness", "/liveness"]})


def _json(status: int, value: object) -> web.Response:
    return web.Response(status=status, text=json.dumps(value), content_type="application/json")
