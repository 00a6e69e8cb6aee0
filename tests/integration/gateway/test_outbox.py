"""The outbox: at least once, once if nobody dies, by whichever gateway gets it, and what modules are pushed."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from aiohttp import web

from gateway.notifiers import load_notifiers
from gateway.outbox import ID_HEADER, Outbox, push_message
from gateway.store import Database, OutboxStore
from gateway.store.outbox import Message, add_messages
from uplift_settings.tree import GatewaySettings

QUICK = {"delivery_interval": 0.05, "push_retry": 0.02, "push_retry_max": 0.05, "stop_grace": 0.2}


class Box:
    """Gateways' delivery loops on one database, without the rest of the gateways."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.store = OutboxStore(database)
        self.loops: list[Outbox] = []

    def deliver(self, **settings: Any) -> Outbox:
        """Another gateway's loop; its event is its own, as in another process."""
        given = GatewaySettings(**{**QUICK, **settings})
        loop = Outbox(store=OutboxStore(self.database), notifiers=load_notifiers(given), settings=given)
        loop.start()
        self.loops.append(loop)
        return loop

    async def stop(self, loop: Outbox) -> None:
        self.loops.remove(loop)
        await loop.close()

    async def push(self, url: str, *, count: int = 1, subject: str = "h1", lifetime: float = 60.0, **body: Any) -> list[Message]:
        messages = [
            push_message(
                url=url, body={"number": number, **body}, headers={"X-Okapi-Tenant": "t"}, subject=subject, lifetime=lifetime
            )
            for number in range(count)
        ]
        async with self.database.transaction() as connection:
            await add_messages(connection, messages)
        return messages

    async def empty(self) -> bool:
        async with self.database.connection() as connection:
            return await connection.fetchval("select count(*) from outbox") == 0


@pytest.fixture
async def box(postgres_dsn: Any) -> AsyncIterator[Box]:
    database = Database(dsn=await asyncio.to_thread(postgres_dsn), pool_size=8)
    await database.open(wait=5.0)
    box = Box(database)
    yield box
    for loop in list(box.loops):
        await box.stop(loop)
    await database.close()


async def test_a_push_is_a_post_of_json_with_its_headers_and_an_id(box: Box, upstream: Any, until: Any) -> None:
    (message,) = await box.push(upstream.url + "/_/lifecycle", event="DELAY")
    assert await box.store.pending("h1") == 1
    box.deliver()
    await until(box.empty)
    (request,) = upstream.requests
    assert (request.method, request.raw_path) == ("POST", "/_/lifecycle")
    assert (request.headers["X-Okapi-Tenant"], request.headers[ID_HEADER]) == ("t", message.id)
    assert json.loads(upstream.bodies[0]) == {"number": 0, "event": "DELAY"}
    assert await box.store.pending("h1") == 0


async def test_a_push_is_tried_until_it_is_understood_always_under_one_id(box: Box, upstream: Any, until: Any) -> None:
    answers = iter([500, 404, 301])
    seen = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request.headers[ID_HEADER])
        return web.Response(status=next(answers, 204))

    upstream.answer = answer
    (message,) = await box.push(upstream.url)
    box.deliver()
    await until(box.empty)
    assert seen == [message.id] * 4


async def test_pending_counts_what_is_neither_understood_nor_expired(box: Box, upstream: Any, until: Any) -> None:
    async def refuse(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=500)

    upstream.answer = refuse
    await box.push(upstream.url, subject="h1", lifetime=0.3)
    await box.push(upstream.url, subject="h2", lifetime=60.0)
    box.deliver()
    await until(lambda: _is_zero(box, "h1"))
    assert await box.store.pending("h2") == 1
    await until(lambda: _count(box, 1))  # the one that expired is removed


async def test_a_transaction_that_is_rolled_back_pushes_nothing(box: Box) -> None:
    async def fail() -> None:
        async with box.database.transaction() as connection:
            await add_messages(connection, [push_message(url="http://x", body={}, headers={}, subject="h", lifetime=1.0)])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await box.empty()


async def test_a_message_that_is_added_again_under_its_id_is_one(box: Box) -> None:
    messages = await box.push("http://127.0.0.1:1")
    async with box.database.transaction() as connection:
        await add_messages(connection, messages)
    assert await box.store.pending("h1") == 1


async def test_two_gateways_on_one_database_deliver_each_message_once(box: Box, upstream: Any, until: Any) -> None:
    messages = await box.push(upstream.url, count=200)
    for _ in range(2):
        box.deliver(deliveries=7)
    await until(box.empty)
    ids = [request.headers[ID_HEADER] for request in upstream.requests]
    assert sorted(ids) == sorted(message.id for message in messages)


async def test_no_more_are_under_way_at_once_than_the_setting_says(box: Box, upstream: Any, until: Any) -> None:
    at_once, full = [0, 0], asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        at_once[0] += 1
        at_once[1] = max(at_once)
        if at_once[0] == 3:
            full.set()
        await full.wait()
        at_once[0] -= 1
        return web.Response(status=204)

    upstream.answer = answer
    await box.push(upstream.url, count=30)
    box.deliver(deliveries=3)
    await until(box.empty)
    assert at_once[1] == 3


async def test_a_slow_receiver_does_not_keep_others_waiting(box: Box, new_upstream: Any, until: Any) -> None:
    slow, quick = await new_upstream(), await new_upstream()
    slow.answer = slow.slowly
    await box.push(slow.url, subject="slow")
    await box.push(quick.url, subject="quick")
    box.deliver()
    await until(lambda: _is_zero(box, "quick"))
    assert await box.store.pending("slow") == 1


async def test_a_gateway_that_stops_leaves_what_it_could_not_finish_to_others_at_once(
    box: Box, upstream: Any, until: Any
) -> None:
    upstream.answer = upstream.slowly
    await box.push(upstream.url)
    first = box.deliver(delivery_claim=600.0, push_timeout=600.0)
    await until(lambda: len(upstream.requests) == 1)
    await box.stop(first)
    upstream.gate.set()
    box.deliver(delivery_claim=600.0)
    await until(box.empty)
    assert len({request.headers[ID_HEADER] for request in upstream.requests}) == 1


async def test_what_another_gateway_is_delivering_is_left_alone(box: Box, upstream: Any, until: Any) -> None:
    await box.push(upstream.url, subject="theirs")
    (theirs,) = await box.store.claim("push", targets=None, limit=1, seconds=600.0)
    await box.push(upstream.url, subject="ours")
    box.deliver()
    await until(lambda: _is_zero(box, "ours"))
    assert [request.headers[ID_HEADER] != theirs.id for request in upstream.requests] == [True]


async def test_a_failure_that_comes_after_the_claim_was_taken_over_changes_nothing(box: Box) -> None:
    await box.push("http://127.0.0.1:1")
    (first,) = await box.store.claim("push", targets=None, limit=1, seconds=0.0)
    (second,) = await box.store.claim("push", targets=None, limit=1, seconds=600.0)
    assert (first.id, first.attempts, second.attempts) == (second.id, 1, 2)
    await box.store.put_off(first, seconds=0.0, error="late")
    assert await box.store.claim("push", targets=None, limit=1, seconds=1.0) == []


async def test_a_notification_for_a_notifier_that_this_gateway_does_not_have_waits_for_one_that_does(
    box: Box, until: Any
) -> None:
    message = Message(kind="notify", target="pager", payload={}, subject="p", lifetime=60.0)
    async with box.database.transaction() as connection:
        await add_messages(connection, [message])
    await box.push("http://127.0.0.1:1", subject="gone", lifetime=0.2)
    box.deliver()
    await until(lambda: _count(box, 1))
    async with box.database.connection() as connection:
        row = await connection.fetchrow("select target, attempts from outbox")
    assert dict(row) == {"target": "pager", "attempts": 0}


async def test_a_gateway_killed_in_the_middle_of_a_delivery_has_it_delivered_again_under_the_same_id(
    gateway_process: Any, upstream: Any, until: Any, site_of: Any, describe: Any
) -> None:
    bodies = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        bodies.append(await request.read())
        await upstream.gate.wait()
        return web.Response(status=204)

    upstream.answer = answer
    settings = {
        "webhook_url": upstream.url,
        "notifiers": '["webhook"]',
        "problems_settle": 0,
        "notify_timeout": 2,
        "delivery_claim": 0.5,
        "delivery_interval": 0.05,
    }
    running = gateway_process(None, **settings)
    await asyncio.to_thread(running.start)
    site = site_of(running.url)
    wire = describe("early-1.0.0", requires=[{"id": "late", "version": "1.0"}])
    assert (await site.http.post("/_/proxy/modules?check=false", json=wire)).status_code == 201
    await site.close()
    await until(lambda: len(bodies) == 1)
    await asyncio.to_thread(running.end, signal.SIGKILL)
    upstream.gate.set()
    await asyncio.to_thread(running.start)
    await until(lambda: len(bodies) == 2)
    assert bodies[0] == bodies[1]
    connection = await asyncpg.connect(running.env["UPLIFT_DATABASE_URL"])
    await until(lambda: _no_rows(connection))
    await connection.close()
    assert len(bodies) == 2


async def _no_rows(connection: Any) -> bool:
    return bool(await connection.fetchval("select count(*) = 0 from outbox"))


async def _is_zero(box: Box, subject: str) -> bool:
    return await box.store.pending(subject) == 0


async def _count(box: Box, wanted: int) -> bool:
    async with box.database.connection() as connection:
        return bool(await connection.fetchval("select count(*) = $1 from outbox", wanted))
