"""What must be there in Temporal is made sure of again and again (requirement D3)."""

import asyncio

from worker.ensuring import Ensuring


async def test_what_was_lost_is_there_again() -> None:
    there: set[str] = set()
    again = asyncio.Event()

    async def attributes() -> None:
        if there:
            again.set()
        there.add("attributes")

    task = asyncio.create_task(Ensuring({"attributes": attributes}, interval=0.001).run())
    async with asyncio.timeout(10):
        await again.wait()
    task.cancel()


async def test_one_that_fails_keeps_no_other_from_being_tried() -> None:
    tried: list[str] = []

    async def broken() -> None:
        tried.append("broken")
        raise RuntimeError("Temporal is away")

    async def well() -> None:
        tried.append("well")

    assert not await Ensuring({"broken": broken, "well": well}, interval=1).once()
    assert tried == ["broken", "well"]


async def test_one_that_failed_is_tried_again_soon_however_long_the_interval() -> None:
    tries = 0
    back = asyncio.Event()

    async def ensure() -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise RuntimeError("Temporal is away")
        back.set()

    task = asyncio.create_task(Ensuring({"attributes": ensure}, interval=3600).run())
    async with asyncio.timeout(10):
        await back.wait()
    task.cancel()
