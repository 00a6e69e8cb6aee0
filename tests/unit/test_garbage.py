"""Pauses of the collector: what is there is set aside, and still looked through once in a while (requirement E4)."""

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from gateway.garbage import Garbage

NEVER = 3_600.0


class Ring:
    """Garbage that only the collector finds, once nobody has it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    threshold, callbacks = gc.get_threshold(), list(gc.callbacks)
    yield
    gc.callbacks[:] = callbacks
    gc.set_threshold(*threshold)
    gc.unfreeze()


def test_what_is_there_at_the_start_is_looked_through_no_more() -> None:
    ring = Ring()
    seen = weakref.ref(ring)
    Garbage(interval=NEVER, slow=NEVER).open()
    del ring

    gc.collect()

    assert gc.get_freeze_count() > 0
    assert seen() is not None


def test_what_came_later_is() -> None:
    Garbage(interval=NEVER, slow=NEVER).open()
    ring = Ring()
    seen = weakref.ref(ring)
    del ring

    gc.collect()

    assert seen() is None


@pytest.mark.parametrize(("slow", "grows"), [(0.0, True), (NEVER, False)])
def test_what_made_a_look_slow_is_set_aside(slow: float, grows: bool) -> None:
    Garbage(interval=NEVER, slow=slow).open()
    before = gc.get_freeze_count()
    tables = [[number] for number in range(10_000)]

    gc.collect()

    assert (gc.get_freeze_count() >= before + len(tables)) is grows


def test_a_look_at_new_objects_alone_sets_nothing_aside() -> None:
    Garbage(interval=NEVER, slow=0.0).open()
    before = gc.get_freeze_count()

    gc.collect(0)
    gc.collect(1)

    assert gc.get_freeze_count() <= before


async def test_garbage_that_was_set_aside_is_found_by_the_next_look_through_all() -> None:
    ring = Ring()
    found = asyncio.Event()
    weakref.finalize(ring, found.set)
    garbage = Garbage(interval=0.01, slow=NEVER)
    garbage.open()
    del ring
    looking = asyncio.create_task(garbage.run())

    async with asyncio.timeout(20):
        await found.wait()

    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    assert gc.get_freeze_count() > 0
