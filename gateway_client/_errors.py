"""Errors of the client.

```
GatewayError
├── GatewayUnavailable   no answer, or 502/503/504: try again later
└── GatewayRefused       a 4xx: the request is wrong or the state forbids it; `status` and `text` say why
    ├── NotFound         404
    └── Retiring         409 of a claim on a version that is being retired: ask again in a moment
```
"""


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


class Retiring(GatewayRefused):
    """The version is on its way out. Ask again when it is gone."""
