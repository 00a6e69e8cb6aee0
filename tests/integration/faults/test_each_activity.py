"""Each activity against each fault between worker and gateway: the same end state as without, by its retry policy alone.

Requirements D2 and D3: no activity needs luck. `test_wire_of_modules.py` has the wire between worker and modules.
"""

import asyncio
import contextlib
import inspect
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities import signatures
from tests.integration.faults.cases import CASES, Case
from tests.integration.faults.world import Obeyed, Subject, World, obey
from tests.wire.faults import (
    DropAnswer,
    Duplicate,
    Fault,
    Garbage,
    Half,
    Hang,
    Refuse,
    ResetAfter,
    ResetBefore,
    Slow,
    Status,
)

FAULTS: dict[str, tuple[Fault, int]] = {
    "refuse": (Refuse(), 2),
    "hang": (Hang(), 1),
    "reset before the body": (ResetBefore(), 1),
    "reset after the body": (ResetAfter(), 1),
    "answer dropped": (DropAnswer(), 2),
    "503 three times": (Status(503), 3),
    "500": (Status(500), 1),
    "delivered twice": (Duplicate(), 1),
    "slow": (Slow(0.7), 1),  # longer than the worker waits
    "half an answer": (Half(), 1),
    "garbage": (Garbage(), 1),
}
"""By name: the fault, and how many requests in a row get it."""
QUICK = "garbage"
"""That of `make test`: each request took effect and its answer says nothing; the others ask the same of an activity, or less."""
_undisturbed: dict[str, tuple[str, dict[str, Any], tuple[tuple[str, str], ...]]] = {}


async def undisturbed(world: World, case: Case) -> tuple[str, dict[str, Any], tuple[tuple[str, str], ...]]:
    """Without a fault: the result, the end state, and the calls of the gateway as regular expressions; once for each case."""
    if case.id not in _undisturbed:
        subject = await world.subject(**case.subject)
        ready = await case.ready(world, subject)
        world.proxy.seen.clear()
        result = await ActivityEnvironment().run(ready.method, ready.request)
        calls = []
        for one in world.proxy.seen:
            path = one.path.replace(subject.job.id, "JOB").replace(subject.product, "PRODUCT").replace(subject.tenant, "TENANT")
            calls.append((one.method, path))
        _undisturbed[case.id] = (
            world.plain(case.of(result, subject), subject),
            await world.state(subject),
            tuple(dict.fromkeys(calls)),
        )
        await cleaned(world, subject)
    return _undisturbed[case.id]


async def cleaned(world: World, subject: Subject) -> None:
    for found in await world.deployer.list():
        if found.module_id == subject.new:
            await world.deployer.stop(found.inst_id)


def of_subject(path: str, subject: Subject) -> str:
    return path.replace("JOB", subject.job.id).replace("PRODUCT", subject.product).replace("TENANT", subject.tenant)


@pytest.mark.parametrize("fault", [fault if fault == QUICK else pytest.param(fault, marks=pytest.mark.soak) for fault in FAULTS])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
async def test_a_fault_on_the_wire_to_the_gateway_changes_nothing(world: World, case: Case, fault: str) -> None:
    """Each of its calls in turn gets the fault."""
    result, state, calls = await undisturbed(world, case)
    what, times = FAULTS[fault]
    if (attempts := case.options["retry_policy"].maximum_attempts) != 0:
        times = min(times, attempts - 1)  # who gives up for good tells so, and is asked again by the next run
    for method, path in calls:
        if method == "GET" and fault not in ("refuse", "hang", "503 three times", "half an answer", "garbage"):
            continue  # a look has no effect that could be lost or doubled
        subject = await world.subject(**case.subject)
        ready = await case.ready(world, subject)
        world.gateway._descriptors.clear()
        rule = world.proxy.add(method=method, path=of_subject(path, subject), fault=what, times=times)
        with world.hasty() if isinstance(what, Hang | Slow) else contextlib.nullcontext():
            found: Obeyed = await obey(case.options, ready.method, ready.request)
        # Whether a look is needed at all, such as at a hold that still drains, is a matter of time.
        assert rule.struck or method == "GET", (method, path)
        world.proxy.clear()
        where = f"{method} {path}"
        assert found.failure is None, (where, found.failure)
        assert (where, world.plain(case.of(found.result, subject), subject)) == (where, result)
        assert (where, await world.state(subject)) == (where, state)
        await cleaned(world, subject)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
async def test_an_activity_done_twice_is_done_once(world: World, case: Case) -> None:
    _, state, _ = await undisturbed(world, case)
    subject = await world.subject(**case.subject)
    ready = await case.ready(world, subject)
    for _ in range(2):
        await ActivityEnvironment().run(ready.method, ready.request)
    assert await world.state(subject) == state
    await cleaned(world, subject)


@pytest.mark.parametrize("case", [case for case in CASES if case.twice_at_once], ids=lambda case: case.id)
async def test_two_attempts_at_once_do_what_one_does(world: World, case: Case) -> None:
    """Their heartbeats are short: an attempt that is taken for dead may live on."""
    _, state, _ = await undisturbed(world, case)
    subject = await world.subject(**case.subject)
    ready = await case.ready(world, subject)
    await asyncio.gather(*(ActivityEnvironment().run(ready.method, ready.request) for _ in range(2)))
    assert await world.state(subject) == state


def test_every_activity_has_a_case() -> None:
    """Who adds one says here how it is tried."""
    names = set()
    for _, kind in inspect.getmembers(signatures, inspect.isclass):
        for _, method in inspect.getmembers(kind, inspect.isfunction):
            definition = getattr(method, "__temporal_activity_definition", None)
            if definition is not None:
                names.add(definition.name)
    assert names == {case.name for case in CASES}
