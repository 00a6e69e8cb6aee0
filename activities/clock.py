"""The clock of what takes long: tests of hours hand in one that runs faster."""

import asyncio


class Clock:
    """Monotonic time, and waiting."""

    def now(self) -> float:
        """Seconds since some moment."""
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
