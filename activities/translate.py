"""From errors of clients and tools to Temporal failures."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from temporalio import activity
from temporalio.exceptions import ApplicationError

from deployers import DeployError
from gateway_client import DatabaseDiffers, GatewayRefused, GatewayUnavailable
from module_data import CopyRefused, ModuleDataError, ToolsMissing
from upgrade_core.errors import UpliftError
from upgrade_core.runs import DATABASE_DIFFERS
from uplift_settings import SecretError

_Answer = TypeVar("_Answer")
_PAUSE = 0.2
_LONGEST_PAUSE = 5.0
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


async def until_answered(call: Callable[[], Awaitable[_Answer]]) -> _Answer:
    """Call the gateway until it answers, however long it is away.

    For calls of a step that knows more than its next attempt would: whether something was asked for, and what the answer was.
    """
    pause = _PAUSE
    while True:
        try:
            return await call()
        except GatewayUnavailable as error:
            activity.logger.warning("the gateway does not answer, trying again: %s", error)
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 1.6)
