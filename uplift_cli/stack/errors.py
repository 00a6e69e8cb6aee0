"""Errors of the embedded stack.

```
StackError
├── AlreadyRunning       another supervisor holds the folder
├── PortTaken            a port that the folder needs is used by something else
├── PartFailed           a part did not get ready at the first start
├── TemporalMissing      no `temporal` command line was found or could be had
└── StillRunning         a supervisor did not end in time
```
"""

from uplift_cli.errors import StackError

__all__ = ["AlreadyRunning", "PartFailed", "PortTaken", "StackError", "StillRunning", "TemporalMissing"]


class AlreadyRunning(StackError):
    """Another `uplift up` runs in this folder. Stop it with `uplift down`, or choose another folder."""


class PortTaken(StackError):
    """A port is used by something else. End that process, or set another port."""


class PartFailed(StackError):
    """A part did not get ready. The message ends with the last lines of its log."""


class TemporalMissing(StackError):
    """There is no `temporal` command line. The message lists each way tried, and what to do."""


class StillRunning(StackError):
    """A supervisor was asked to stop and goes on. The message says how to end it."""
