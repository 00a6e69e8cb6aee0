"""From errors of clients and tools to Temporal failures, and heartbeats while something is waited for."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

from temporalio import activity
from temporalio.exceptions import ApplicationError

from deployers import DeployError
from gateway_client import DatabaseDiffers, GatewayRefused, GatewayUnavailable
from module_data import CopyRefused, ModuleDataError, ToolsMissing
from upgrade_core.errors import UpliftError
from upgrade_core.runs import DATABASE_DIFFERS
from uplift_settings import SecretError

_BEAT = 1.0
MAX_MESSAGE = 4_000
"""Longest message of a failure, in characters: an oversize one would be replaced by the server."""


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Refusals end a step; absence is retried. Messages are cut to a size that history carries."""
    try:
        yield
    except GatewayRefused as error:
        kind = DATABASE_DIFFERS if isinstance(error, DatabaseDiffers) else "GatewayRefused"
        raise final(error.text, kind) from error
    except GatewayUnavailable as error:
        raise ApplicationError(str(error)[:MAX_MESSAGE], type="GatewayUnavailable") from error
    except (UpliftError, SecretError, CopyRefused, ToolsMissing) as error:
        raise final(str(error), type(error).__name__) from error
    except DeployError as error:
        raise final(str(error), type(error).__name__) from error
    except ModuleDataError as error:
        raise ApplicationError(str(error)[:MAX_MESSAGE], type=type(error).__name__) from error


def final(message: str, kind: str) -> ApplicationError:
    """A failure that no retry mends."""
    return ApplicationError(message[:MAX_MESSAGE], type=kind, non_retryable=True)


@contextlib.asynccontextmanager
async def beating() -> AsyncIterator[None]:
    """Heartbeat while the body runs, so that a dead worker is noticed and a cancel arrives."""

    async def beat() -> None:
        while True:
            activity.heartbeat()
            await asyncio.sleep(_BEAT)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
