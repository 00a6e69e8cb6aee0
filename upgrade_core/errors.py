"""The errors of the core.

```
UpliftError
├── InvalidId            a module id, tenant id or version that cannot be read
├── InvalidDescriptor    a module descriptor that contradicts itself
├── InvalidPattern       an expression that cannot be used to choose module ids
├── ResolutionError      what was asked for cannot be reached; one text for each reason
├── UnknownModule        an id that the catalogue does not hold
└── IllegalSignal        a lifecycle signal that the state does not allow; nothing changed
```

Every message says what is wrong in the words of the caller's own input; the texts that Okapi's clients match on are Okapi's.
"""


class UpliftError(Exception):
    """Root of all errors of the core."""


class InvalidId(UpliftError, ValueError):
    """An id or version cannot be read. Correct the id; nothing was changed."""


class InvalidDescriptor(UpliftError, ValueError):
    """A module descriptor contradicts itself. Correct the descriptor; nothing was registered."""


class InvalidPattern(UpliftError, ValueError):
    """An expression is none, or might be tried for ever. Write it otherwise; nothing was changed."""


class UnknownModule(UpliftError, LookupError):
    """A module id is not in the catalogue. Register its descriptor first."""


class ResolutionError(UpliftError):
    """The wanted set of modules cannot be reached.

    Attributes:
        reasons: One sentence a conflict, in a stable order.
    """

    def __init__(self, reasons: tuple[str, ...]) -> None:
        super().__init__(". ".join(reasons))
        self.reasons = reasons


class IllegalSignal(UpliftError):
    """A lifecycle signal is not allowed in the state the link is in. Nothing changed."""
