"""Errors of the command line.

```
UpliftError              printed as one message, exit code 1
├── StackError           the embedded stack (uplift_cli.stack.errors has its kinds)
└── NotInstalled         a command whose code is not part of this installation
```
"""


class UpliftError(Exception):
    """Root of what a command reports to the operator. The message names the remedy."""


class NotInstalled(UpliftError):
    """The command's code is missing here. Install the whole distribution (`make setup`)."""


class StackError(UpliftError):
    """The embedded stack cannot do what was asked. Its kinds are in `uplift_cli.stack.errors`."""
