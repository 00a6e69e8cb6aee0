"""The checks before the switch, and the health of a new instance, against faults between gateway, worker and module (D1, E1)."""

import asyncio
from dataclasses import replace

import pytest

from activities import options
from activities.signatures import ModuleRef
from tests.integration.faults.cases import SNAPSHOT, Ready, verify
from tests.integration.faults.world import Subject, World, obey
from tests.wire.faults import DropAnswer, Fault, Garbage, Half, Hang, Refuse, ResetAfter, Slow, Status
from tests.wire.tcp_proxy import Line

MOODY = """
import socket, struct, sys, time
port, *moods = sys.argv[1:]
server = socket.create_server(("127.0.0.1", int(port)))
while True:
    connection, _ = server.accept()
    mood = moods.pop(0) if moods else "well"
    if mood == "reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        continue
    connection.recv(65536)
    if mood == "garbage":
        connection.sendall(b"\\x00\\x01\\x02 this is no HTTP\\r\\n\\r\\n")
    elif mood == "half":
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Le")
    elif mood == "500":
        connection.sendall(b"HTTP/1.1 500 Not yet\\r\\nContent-Length: 0\\r\\n\\r\\n")
    elif mood == "well":
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
    connection.close()
"""


async def verified(world: World) -> tuple[Subject, Ready]:
    """A subject whose new version has a check of a path of its own."""
    subject = await world.subject(**SNAPSHOT, checked="/a")
    return subject, await verify(world, subject)


@pytest.mark.parametrize(
    ("fault", "times"),
    [(Refuse(), 1), (Hang(), 1), (ResetAfter(), 1), (DropAnswer(), 1), (Slow(0.1), 1), (Half(), 1)],
    ids=["refuse", "hang", "reset", "answer dropped", "slow", "half an answer"],
)
async def test_a_check_that_is_not_answered_once_is_tried_again(world: World, fault: Fault, times: int) -> None:
    subject, ready = await verified(world)
    rule = world.wire.add(path=f"/{subject.product}/a", fault=fault, times=times)
    found = await obey(options.VERIFY, ready.method, ready.request)
    assert rule.struck
    assert found.result.failures == ()


@pytest.mark.parametrize(
    ("fault", "cause"),
    [(Status(500), "expected 200, got 500"), (Garbage(), "expected JSON, got"), (Hang(), "no answer")],
    ids=["500", "garbage", "hang"],
)
async def test_a_check_that_is_answered_wrongly_fails_and_says_why(world: World, fault: Fault, cause: str) -> None:
    subject, ready = await verified(world)
    world.wire.add(path=f"/{subject.product}/a", fault=fault, times=None)
    found = await obey(options.VERIFY, ready.method, ready.request)
    assert len(found.result.failures) == 1
    assert cause in found.result.failures[0]


async def test_a_module_whose_database_is_away_gets_no_verdict(world: World) -> None:
    """Requirement D2: killing Postgres under a check undoes nothing; it is made again when the database answers."""
    subject, ready = await verified(world)
    line = await Line(world.modules_dsn).start()
    line.refuse()
    away = replace(ready.request, checked=replace(ready.request.checked, dsn=line.dsn))
    rule = world.wire.add(path=f"/{subject.product}/a", fault=Status(500), times=None)
    try:
        async with asyncio.timeout(60):
            running = asyncio.create_task(obey(options.VERIFY, ready.method, away, most=400))
            await line.refused.wait()
            world.wire.remove(rule)
            line.mend()
            found = await running
    finally:
        await line.stop()
    assert found.attempts > 1
    assert found.result.failures == ()


async def test_a_gateway_that_is_away_is_no_verdict_on_the_module(world: World) -> None:
    """Requirement D2: killing the gateway undoes nothing; the checks are tried until it is back."""
    _, ready = await verified(world)
    platform = world.site.running.platform
    platform.url, direct = world.proxy.url, platform.url  # the address that modules, and so the checks, are told
    rules = [world.proxy.add(path=path, fault=Refuse(), times=None) for path in ("/_/overlay/.*", "/_/versions")]
    try:
        async with asyncio.timeout(60):
            running = asyncio.create_task(obey(options.VERIFY, ready.method, ready.request, most=400))
            await rules[1].met.wait()
            world.proxy.clear()
            found = await running
    finally:
        platform.url = direct
    assert found.attempts > 1
    assert found.result.failures == ()


@pytest.mark.parametrize("mood", ["reset", "garbage", "half", "500"])
async def test_an_instance_that_answers_badly_at_first_is_waited_for(world: World, mood: str) -> None:
    subject = await world.subject(launch=MOODY, moods=f"{mood} {mood}")
    found = await obey(options.DEPLOY, world.deploy.start, ModuleRef(module=subject.new, node="n"))
    assert found.failure is None
    assert [row["id"] for row in (await world.state(subject))["instances"]] == ["PRODUCT-2.0.0@n"]
    await world.deployer.stop(f"{subject.new}@n")
