"""Into the gateway's log."""

import logging

from gateway.notifiers.base import Notification
from upgrade_core.problems import Severity

_log = logging.getLogger("gateway.problems")
_LEVELS = {Severity.WARNING: logging.WARNING, Severity.ERROR: logging.ERROR}


class LogNotifier:
    """One line for each problem that opens, and one when it is resolved."""

    async def notify(self, event: Notification) -> None:
        """Write the line."""
        problem = event.problem
        if event.event == "resolved":
            _log.info("resolved: %s (%s)", _line(problem.message), _line(problem.key))
        else:
            text = f"{_line(problem.message)}; {_line(problem.remedy)}"
            _log.log(_LEVELS[problem.severity], "problem: %s (%s)", text, _line(problem.key))

    async def close(self) -> None:
        """Nothing to give back."""


def _line(text: str) -> str:
    """Ids come from others: they must not begin lines of their own."""
    return " ".join(text.split())
