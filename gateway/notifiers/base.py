"""What a notifier is given and what it must do."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from upgrade_core.problems import Problem

Event = Literal["opened", "resolved"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """A problem has opened or is resolved.

    Attributes:
        id: The same for every attempt to tell it: who has seen it drops it.
        event: What happened.
        time: When that was.
        since: Since when the problem stood.
        source: URL of the gateway that noticed.
    """

    id: str
    event: Event
    problem: Problem
    time: datetime
    since: datetime
    source: str


class Notifier(Protocol):
    """Tells administrators. The same notification may come more than once, and `resolved` before its `opened`."""

    async def notify(self, event: Notification) -> None:
        """Tell it.

        Raises:
            Exception: It was not told; it is tried again until `gateway.notify_expires` is over.
        """

    async def close(self) -> None:
        """Give back connections; nothing is told afterwards."""
