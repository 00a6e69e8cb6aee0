"""Errors of the client.

```
GatewayError
├── GatewayUnavailable   no answer, or 502/503/504: try again later
├── GatewayRefused       a 4xx: the request is wrong or the state forbids it; `status` and `text` say why
│   ├── NotFound         404
│   ├── DatabaseDiffers  412: the gateway's database does not hold what the run did; `gateway_client.knowing`
│   └── Retiring         409 of a claim on a version that is being retired: ask again in a moment
├── ModuleInterrupted    the gateway answered instead of the module that was asked; `tell_user` says so to people
│   ├── ModuleDelayed    DELAY: the request was not executed; try again later
│   └── ModuleMissing    MISSING: nothing is promised
└── HoldStays            a module's own update did not end: its hold must be removed by hand; `hold` names it
```
"""

from dataclasses import dataclass
from datetime import datetime


class GatewayError(Exception):
    """Root of the client's errors."""


class GatewayUnavailable(GatewayError):
    """The gateway did not answer, or said that it cannot now. Try again."""


class GatewayRefused(GatewayError):
    """The gateway refused the request; nothing was changed.

    Attributes:
        status: HTTP status.
        text: The gateway's own words.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status
        self.text = text


class NotFound(GatewayRefused):
    """There is no such thing."""


class DatabaseDiffers(GatewayRefused):
    """The gateway's database does not hold what the run did: it was restored from an older copy, or rows were removed by hand."""


class Retiring(GatewayRefused):
    """The version is on its way out. Ask again when it is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interruption:
    """What the gateway said of a module that does not answer.

    Attributes:
        detail: The gateway's words, for logs.
        module: Module id, if it said so.
        tenant: The tenant whose request it was.
        since: When it began.
        until: When DELAY becomes MISSING.
        retry_after: Seconds after which to try again; None: nothing is promised.
    """

    detail: str
    module: str | None = None
    tenant: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    retry_after: float | None = None


class ModuleInterrupted(GatewayError):
    """The gateway answered DELAY or MISSING instead of the module (requirement A2).

    Attributes:
        module: Module id, if the gateway said so.
        tenant: The tenant whose request it was.
        since: When it began, if known.
        until: When DELAY becomes MISSING, if known.
        retry_after: Seconds after which to try again; None: nothing is promised.
        tell_user: What to tell people (requirements A3, A10).
    """

    tell_user = ""

    def __init__(self, interruption: Interruption) -> None:
        super().__init__(interruption.detail)
        self.module = interruption.module
        self.tenant = interruption.tenant
        self.since = interruption.since
        self.until = interruption.until
        self.retry_after = interruption.retry_after


class ModuleDelayed(ModuleInterrupted):
    """DELAY: the module is being updated, or lost for a moment. The request was not executed; send it again later."""

    def __init__(self, interruption: Interruption) -> None:
        super().__init__(interruption)
        when = f"in about {max(1, round(self.retry_after))} seconds" if self.retry_after is not None else "in a moment"
        self.tell_user = f"This service is being updated. Nothing was changed by your request; please try again {when}."


class ModuleMissing(ModuleInterrupted):
    """MISSING: the module is not available, and nobody knows when it will be.

    A request that was at work when an update began may have been executed.
    """

    tell_user = "Service not available. Please try again later; if it stays so, tell your administrator."


class HoldStays(GatewayError):
    """A module's own update did not end as it should: requests to it go on waiting until its hold is removed.

    A hold never opens itself, since the data may be half changed. Mend the data, then `Module.resume(hold)` or
    `POST /_/lifecycle/{module}` with `{"event": "RESUME", "hold": hold}`.

    Attributes:
        hold: The hold's id.
        module: Module id.
        tenant: Whose requests wait; `*`: all tenants'.
    """

    def __init__(self, *, hold: str, module: str, tenant: str, why: str) -> None:
        super().__init__(
            f"{why}; requests to {module} of tenant {tenant} go on waiting. When the data is right again, "
            f'POST /_/lifecycle/{module} {{"event": "RESUME", "hold": "{hold}"}}'
        )
        self.hold = hold
        self.module = module
        self.tenant = tenant
