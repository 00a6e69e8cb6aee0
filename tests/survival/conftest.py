"""One stack at a time, for all cases that want the same time of coming back."""

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.survival.platform import Platform
from tests.survival.writer import Writer


class Stacks:
    """Starts a stack when it is first asked for, and stops the one before."""

    def __init__(self) -> None:
        self._open = AsyncExitStack()
        self._now: tuple[Platform, Writer] | None = None

    async def get(self, comeback: float) -> tuple[Platform, Writer]:
        """A stack where what dies is started again after so many seconds, and a tenant on the old version there."""
        if self._now is None or self._now[0].comeback != comeback or self._now[0].broken:
            await self.close()
            home = Path(tempfile.mkdtemp(prefix="uplift-survival-"))
            platform = await self._open.enter_async_context(Platform.running(home, comeback=comeback))
            tenant = await platform.tenant()
            await platform.install(tenant, "mod-users-1.0.0")
            self._now = platform, Writer(caller=platform.caller, tenant=tenant)
        return self._now

    async def close(self) -> None:
        """Stop the one that runs. The folder of one in which a case failed stays, to be looked at."""
        before, self._now = self._now, None
        await self._open.aclose()
        if before is not None and not before[0].broken:
            shutil.rmtree(before[0].home)


@pytest.fixture(scope="session")
async def stacks() -> AsyncIterator[Stacks]:
    """One stack at a time."""
    running = Stacks()
    yield running
    await running.close()
