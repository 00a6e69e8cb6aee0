"""Logging by the settings' group `log`: a line for people or a JSON object a line, with what it is about.

The standard library does it all: records carry their words, `facts` adds what the process is at work on, and it is asked only
when something is logged.
"""

import json
import logging
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from uplift_settings.tree import LogSettings

Facts = Callable[[], Mapping[str, str]]
_TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"


def no_facts() -> Mapping[str, str]:
    """Nothing is known beside the words."""
    return {}


def log_to_stderr(settings: LogSettings | None = None, *, facts: Facts = no_facts) -> None:
    """Log from now on as the settings say; called again, it replaces what held before.

    Args:
        settings: None before they are read: text.
        facts: Says what the calling task is at work on: `request_id`, `tenant`, `job`, `trace_id`, as far as it is known.
    """
    settings = settings or LogSettings()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(facts) if settings.format == "json" else TextLines(facts))
    logging.basicConfig(level=settings.level, handlers=[handler], force=True)


class TextLines(logging.Formatter):
    """Time, severity, logger and words; what it is about follows in brackets, if something is known."""

    def __init__(self, facts: Facts = no_facts) -> None:
        super().__init__(_TEXT)
        self._facts = facts

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the standard library's name
        """One line, without a trace."""
        line = super().formatMessage(record)
        found = self._facts()
        return f"{line} [{' '.join(f'{key}={value}' for key, value in found.items())}]" if found else line


class JsonLines(logging.Formatter):
    """One JSON object: `time` (RFC 3339, UTC), `level`, `logger`, `message`, what it is about, `error` with a trace.

    A record may bring members of its own, as `extra={"facts": ...}`.
    """

    def __init__(self, facts: Facts = no_facts) -> None:
        super().__init__()
        self._facts = facts

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self._facts(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return json.dumps(line, default=str, ensure_ascii=False)
