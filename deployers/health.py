"""Waiting until an instance answers."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import httpx

from uplift_settings.tree import DeploySettings

_PROBE_TIMEOUT = 10.0  # seconds; a probe that hangs is given up, the next one may meet a ready instance
_LOOK_INTERVAL = 0.1  # seconds between looks whether the process still lives
_PROGRESS_INTERVAL = 1.0  # seconds
_SHORTEST_PAUSE = 0.01  # seconds; a pause of none would keep this processor from the instance


async def answers_http(client: httpx.AsyncClient, url: str) -> bool:
    """Whether a GET gets any HTTP answer, whatever its status (Okapi's rule for a deployed module)."""
    try:
        async with client.stream("GET", url):
            return True
    except httpx.TransportError:
        return False


async def wait_until_answers(
    url: str,
    *,
    settings: DeploySettings,
    ended: Callable[[], bool],
    progress: Callable[[str], Awaitable[None]] | None,
    what: str,
) -> bool | None:
    """Wait until an instance answers.

    Args:
        url: Where it is asked.
        settings: `health_wait` and `health_interval`.
        ended: Whether its process has ended; asked several times a second, must be cheap.
        progress: Told about once a second what is being waited for.
        what: Its name in progress messages.

    Returns:
        True when it answers, False when its process ended first, None when the time is over.
    """
    begun = time.monotonic()
    told = begun
    # no proxy of the environment: instances are near
    async with httpx.AsyncClient(timeout=_PROBE_TIMEOUT, trust_env=False) as client:
        probe = asyncio.create_task(_probe(client, url, first=settings.health_interval))
        try:
            while True:
                now = time.monotonic()
                left = begun + settings.health_wait - now
                done, _ = await asyncio.wait({probe}, timeout=max(0.0, min(_LOOK_INTERVAL, left)))
                # somebody else may answer on the port while the process is dead
                if ended():
                    return False
                if done:
                    await probe
                    return True
                if left <= 0:
                    return None
                if progress is not None and now - told >= _PROGRESS_INTERVAL:
                    told = now
                    await progress(f"waiting for {what} to answer on {url} for {now - begun:.0f} s")
        finally:
            probe.cancel()
            await asyncio.gather(probe, return_exceptions=True)


async def _probe(client: httpx.AsyncClient, url: str, *, first: float) -> None:
    pause = first = max(first, _SHORTEST_PAUSE)
    while not await answers_http(client, url):
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, first * 10)
