"""Delivering what the outbox holds: notifications to administrators, pushes to modules.

Every gateway on the database delivers; a row is claimed by one of them for a time. It is removed after it was delivered, so a
gateway that is killed in between has it delivered again, with the same id.
"""

import asyncio
import json
import logging
import random
from collections.abc import Mapping

import aiohttp
from pydantic import TypeAdapter

from gateway.notifiers import Notification, Notifier
from gateway.store import DatabaseError
from gateway.store.outbox import Delivery, Kind, Message, OutboxStore
from uplift_settings.tree import GatewaySettings

_log = logging.getLogger(__name__)
_NOTIFICATION = TypeAdapter(Notification)
_KINDS: tuple[Kind, ...] = ("push", "notify")
ID_HEADER = "Idempotency-Key"
"""Header of a push: the same for every attempt."""


class PushRefused(Exception):
    """A module answered a push with something other than 2xx; it is tried again."""


class Outbox:
    """One gateway's part in delivering.

    Args:
        store: The rows.
        notifiers: Who can be told, by name; what is for others stays for other gateways.
        settings: Limits and pauses.
    """

    def __init__(self, *, store: OutboxStore, notifiers: Mapping[str, Notifier], settings: GatewaySettings) -> None:
        self._store = store
        self._notifiers = notifiers
        self._settings = settings
        self._running: dict[Kind, dict[asyncio.Task[None], Delivery]] = {kind: {} for kind in _KINDS}
        self._full = False
        self._away = False
        self._stopping = False
        self._loop: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None

    def start(self) -> None:
        """Deliver from now on."""
        self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        self._loop = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Let open deliveries end within `gateway.stop_grace`; others may take the rest at once."""
        self._stopping = True
        self._store.added.set()
        if self._loop is not None:
            await asyncio.wait({self._loop}, timeout=self._settings.stop_grace)
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        left = {task: delivery for running in self._running.values() for task, delivery in running.items()}
        if left:
            _, late = await asyncio.wait(left, timeout=self._settings.stop_grace)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
            try:
                await self._store.give_back([left[task] for task in late])
            except DatabaseError as error:
                _log.warning("what was being delivered is taken over once its claim is over: %s", error)
        for notifier in self._notifiers.values():
            await notifier.close()
        if self._session is not None:
            await self._session.close()

    async def _run(self) -> None:
        added = self._store.added
        while not self._stopping:
            added.clear()
            try:
                for kind in _KINDS:
                    await self._claim(kind)
                self._say_away(None)
            except DatabaseError as error:
                self._say_away(error)
            except Exception:  # noqa: BLE001 - a bug must not end the deliveries; it is logged whole
                _log.exception("deliveries put off")
            if not self._stopping:
                await _wait(added, self._settings.delivery_interval)

    async def _claim(self, kind: Kind) -> None:
        running = self._running[kind]
        free = self._settings.deliveries - len(running)
        if free <= 0:
            self._full = True
            return
        targets = list(self._notifiers) if kind == "notify" else None
        seconds = self._limit(kind) + self._settings.delivery_claim
        found = await self._store.claim(kind, targets=targets, limit=free, seconds=seconds)
        self._full = self._full or len(found) == free
        for delivery in found:
            task = asyncio.create_task(self._deliver(delivery))
            running[task] = delivery
            task.add_done_callback(lambda task: self._ended(kind, task))

    def _ended(self, kind: Kind, task: "asyncio.Task[None]") -> None:
        del self._running[kind][task]
        if self._full:
            self._full = False
            self._store.added.set()

    async def _deliver(self, delivery: Delivery) -> None:
        what = f"{delivery.kind} {delivery.id} about {delivery.subject}"
        try:
            if delivery.expired:
                why = delivery.last_error or "no gateway could try"
                _log.error("%s was not delivered in its time and is given up: %s", what, why)
                await self._store.remove(delivery.id)
                return
            try:
                async with asyncio.timeout(self._limit(delivery.kind)):
                    await self._send(delivery)
            except Exception as error:  # noqa: BLE001 - whatever a notifier raises means: try again
                text = _text(error)
                seconds = self._pause(delivery)
                level = logging.WARNING if delivery.attempts == 1 else logging.INFO
                _log.log(level, "%s: attempt %d failed, again in %.1f s: %s", what, delivery.attempts, seconds, text)
                await self._store.put_off(delivery, seconds=seconds, error=text)
            else:
                await self._store.remove(delivery.id)
        except DatabaseError as error:
            _log.warning("%s: its outcome cannot be written, it is delivered again: %s", what, error)

    async def _send(self, delivery: Delivery) -> None:
        if delivery.kind == "notify":
            await self._notifiers[delivery.target].notify(_NOTIFICATION.validate_json(json.dumps(delivery.payload)))
            return
        assert self._session is not None
        headers = {**delivery.payload["headers"], ID_HEADER: delivery.id}
        body = delivery.payload["body"]
        async with self._session.post(delivery.target, json=body, headers=headers, allow_redirects=False) as answer:
            if not 200 <= answer.status < 300:  # noqa: PLR2004
                raise PushRefused(f"the module answered {answer.status}")

    def _limit(self, kind: Kind) -> float:
        return self._settings.notify_timeout if kind == "notify" else self._settings.push_timeout

    def _pause(self, delivery: Delivery) -> float:
        settings = self._settings
        chance = random.random()  # noqa: S311 - spreads attempts
        if delivery.kind == "notify":
            return pause(delivery.attempts, first=settings.notify_retry, most=settings.notify_retry_max, chance=chance)
        return pause(delivery.attempts, first=settings.push_retry, most=settings.push_retry_max, chance=chance)

    def _say_away(self, error: Exception | None) -> None:
        if error is not None and not self._away:
            _log.warning("deliveries wait: %s", error)
        self._away = error is not None


def notify_message(*, notification: Notification, target: str, lifetime: float) -> Message:
    """A notification for one notifier, whose id is the message's."""
    payload = _NOTIFICATION.dump_python(notification, mode="json")
    return Message(
        kind="notify",
        target=target,
        payload=payload,
        subject=notification.problem.key,
        lifetime=lifetime,
        id=notification.id,
    )


def push_message(*, url: str, body: Mapping[str, object], headers: Mapping[str, str], subject: str, lifetime: float) -> Message:
    """A POST of JSON to a module.

    Args:
        url: Where to.
        body: The JSON.
        headers: Beside `Content-Type` and `Idempotency-Key`.
        subject: Id of the hold: `OutboxStore.pending` counts by it.
        lifetime: Seconds after which it is of no use any more.
    """
    return Message(
        kind="push", target=url, payload={"headers": dict(headers), "body": dict(body)}, subject=subject, lifetime=lifetime
    )


def pause(attempts: int, *, first: float, most: float, chance: float) -> float:
    """Seconds before the next attempt: they double up to the most, less up to a half by chance.

    Args:
        attempts: How many have failed, from 1.
        first: Seconds after the first.
        most: Most seconds.
        chance: 0 to 1.
    """
    return float(min(most, first * 2 ** min(attempts - 1, 60))) * (1 - chance / 2)


def _text(error: Exception) -> str:
    return (str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__))[:1_000]


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
