"""How a server leaves: no connection is reset that a client could be about to use.

Answers say `Connection: close` from now on; a connection on which nothing happens stays open for a while, since its client may
already have sent the next request.
"""

import asyncio
import select

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

_LOOK_AGAIN = 0.02
_LOOK_AGAIN_MAX = 0.2


class Departure:
    """The last part of a server's life.

    Args:
        linger: Seconds that an idle connection stays open.
        grace: Seconds that all of it may take.
    """

    def __init__(self, *, linger: float, grace: float) -> None:
        self._linger = linger
        self._grace = grace
        self.leaving = False

    async def wait(self, server: web.Server, *, hurry: asyncio.Event) -> float:
        """Wait until no connection is open, or the time is up.

        Args:
            server: Its listening socket is closed already.
            hurry: Set when the time is up at once.

        Returns:
            The time of the loop at which all of it must end.
        """
        self.leaving = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._grace
        idle_since: dict[RequestHandler, float] = {}
        pause = _LOOK_AGAIN
        await asyncio.sleep(pause)  # what was accepted a moment ago becomes a connection in the loop's next turns
        while (connections := server.connections) and (now := loop.time()) < deadline:
            idle_since = {each: idle_since.get(each, now) for each in connections if _is_idle(each)}
            for each, since in idle_since.items():
                if now - since >= self._linger:
                    each.force_close()
            try:
                await asyncio.wait_for(hurry.wait(), min(pause, deadline - now))
            except TimeoutError:
                pause = min(pause * 1.2, _LOOK_AGAIN_MAX)
            else:
                return loop.time()
        return deadline


def _is_idle(connection: RequestHandler) -> bool:
    """Whether nothing has been asked that is not answered, and nothing has arrived that is not read.

    aiohttp itself tells idle connections by this waiter when their keep-alive time is over.
    """
    waiter = connection._waiter  # noqa: SLF001 - there is no public word for it
    if waiter is None or waiter.done() or connection.transport is None:
        return False
    sock = connection.transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return not poll.poll(0)
