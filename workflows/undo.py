"""Compensation: undo steps are pushed before the step they undo, and run shielded, newest first."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError, FailureError

_Result = TypeVar("_Result")
FAILURES = (asyncio.CancelledError, FailureError)
"""What undo answers to: cancellation in either form, and failures of activities and children. A bug in workflow code is neither:
it suspends the task until it is fixed, and rolls nobody back."""


async def shielded(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Run to the end whatever is cancelled meanwhile."""
    task = asyncio.create_task(work)
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
    return task.result()


def stop_if_aborted() -> None:
    """Raise if a cancel was asked for: a step that completed in spite of it has swallowed the exception.

    Raises:
        asyncio.CancelledError: It was.
    """
    if workflow.cancellation_reason() is not None:
        raise asyncio.CancelledError


class UndoStack:
    """The undo steps of a group, in the order of their steps."""

    def __init__(self) -> None:
        self._steps: list[tuple[str, Callable[[], Awaitable[None]]]] = []

    def push(self, name: str, undo: Callable[[], Awaitable[None]]) -> None:
        """Remember an undo, before its step runs: a step that timed out may have taken effect."""
        self._steps.append((name, undo))

    def drop(self) -> None:
        """Forget the newest: what it would undo is gone already."""
        self._steps.pop()

    @property
    def names(self) -> tuple[str, ...]:
        """What is still to be undone, newest first."""
        return tuple(name for name, _ in reversed(self._steps))

    async def unwind(self, tell: Callable[[str], None]) -> None:
        """Run them, newest first; each is retried until it is done."""
        while self._steps:
            name, undo = self._steps[-1]
            tell(name)
            await undo()
            self._steps.pop()


def reason_of(error: BaseException) -> str:
    """The innermost message of a failure, for people."""
    while isinstance(error, ActivityError | ChildWorkflowError) and error.cause is not None:
        error = error.cause
    if isinstance(error, asyncio.CancelledError):
        return "aborted"
    return str(error.message) if isinstance(error, ApplicationError) else str(error) or type(error).__name__


def kind_of(error: BaseException) -> str:
    """The innermost failure's type, for programs."""
    while isinstance(error, ActivityError | ChildWorkflowError) and error.cause is not None:
        error = error.cause
    return (error.type or "Failed") if isinstance(error, ApplicationError) else type(error).__name__
