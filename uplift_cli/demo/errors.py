"""Errors of the demo.

```
UpliftError
└── DemoError            the demo cannot go on
    └── StepFailed       a step did not end as it must; what came before is still checked and shown
```
"""

from uplift_cli.errors import UpliftError


class DemoError(UpliftError):
    """The demo cannot go on. The message says where to look."""


class StepFailed(DemoError):
    """A step did not end as it must."""


__all__ = ["DemoError", "StepFailed"]
