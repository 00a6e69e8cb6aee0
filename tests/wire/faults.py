"""What may go wrong with one HTTP exchange. A fault is a value; `http_proxy.WireProxy` carries it out."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Fault:
    """Root of all."""

    @property
    def reaches_upstream(self) -> bool:
        """Whether the upstream carries the request out."""
        return False


@dataclass(frozen=True, slots=True)
class Refuse(Fault):
    """Reset as soon as the head is read; the upstream sees nothing."""


@dataclass(frozen=True, slots=True)
class Hang(Fault):
    """Read, and then silence; the upstream sees nothing. Reset when the rule is released."""


@dataclass(frozen=True, slots=True)
class ResetBefore(Fault):
    """Reset while the body is being sent; the upstream sees nothing."""


@dataclass(frozen=True, slots=True)
class ResetAfter(Fault):
    """Reset when the whole request is read; the upstream sees nothing."""


@dataclass(frozen=True, slots=True)
class _Executed(Fault):
    @property
    def reaches_upstream(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class DropAnswer(_Executed):
    """Carried out and answered by the upstream; the client's connection is reset instead."""


@dataclass(frozen=True, slots=True)
class Status(Fault):
    """Answered by the proxy with a status; the upstream sees nothing."""

    code: int = 503


@dataclass(frozen=True, slots=True)
class Duplicate(_Executed):
    """Delivered twice, one after the other; the second answer is given."""


@dataclass(frozen=True, slots=True)
class Slow(_Executed):
    """Delivered, and answered after so many seconds."""

    seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class Half(_Executed):
    """Carried out; half of the answer's bytes, head included, then a reset."""


@dataclass(frozen=True, slots=True)
class Garbage(_Executed):
    """Carried out; answered with status 200 and a body that is no JSON."""

    body: bytes = b"<html><body>Welcome to nginx!</body></html>"


@dataclass(frozen=True, slots=True)
class Pause(Fault):
    """Held until the rule is released: `before` the request is forwarded, or `after` the upstream has answered it.

    A client that goes away meanwhile takes its request with it: what was held before is then not forwarded.
    """

    where: Literal["before", "after"] = "before"

    @property
    def reaches_upstream(self) -> bool:
        """Whether the upstream carries the request out."""
        return True
