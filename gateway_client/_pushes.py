"""What a module answers the gateway: pushes of the lifecycle protocol and health, for any framework."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

HEALTH = "/admin/health"
"""Where the gateway asks whether an instance is well (FOLIO's path); any answer below 500 is."""
_PUSH = "/_/lifecycle"
_EVENTS = frozenset({"UPDATE", "DELAY", "RESUME", "MISSING"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleEvent:
    """What the gateway pushed.

    Attributes:
        event: UPDATE: you are being updated; timers and consumers must be quiet until RESUME. DELAY, RESUME, MISSING: about
            a module that you depend on, or RESUME: your update is over.
        module: Module id or product that it is about.
        tenant: Whose link; `*`: all tenants'.
        delay: Path of the gateway to wait at; empty: none.
    """

    event: str
    module: str
    tenant: str
    delay: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PushAnswer:
    """What to answer; if there is an `event`, after having acted on it."""

    status: int
    text: str = ""
    event: LifecycleEvent | None = None


def push_path(descriptor: Mapping[str, Any]) -> str:
    """Where a module takes pushes: the POST handler of its interface `_lifecycle`, else `/_/lifecycle`."""
    for interface in descriptor.get("provides") or ():
        if interface.get("id") == "_lifecycle":
            for handler in interface.get("handlers") or ():
                if "POST" in handler.get("methods", ()):
                    return str(handler.get("pathPattern") or handler.get("path") or _PUSH)
    return _PUSH


def answer_push(method: str, path: str, body: bytes, *, pushes: str = _PUSH) -> PushAnswer | None:
    """The answer to a request of the gateway; None: it is the module's own business.

    Args:
        method: HTTP method.
        path: Path without its query.
        body: The body.
        pushes: The module's path for pushes, see `push_path`.
    """
    if path == HEALTH and method in ("GET", "HEAD"):
        return PushAnswer(status=200, text="OK")
    if path != pushes or method != "POST":
        return None
    try:
        members = json.loads(body)
        event = LifecycleEvent(
            event=str(members["event"]),
            module=str(members["module"]),
            tenant=str(members["tenant"]),
            delay=str(members.get("delay") or ""),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return PushAnswer(status=400, text="a push is a JSON object with event, module and tenant")
    if event.event not in _EVENTS:
        return PushAnswer(status=204)  # of a newer gateway
    return PushAnswer(status=204, event=event)


__all__ = ["HEALTH", "LifecycleEvent", "PushAnswer", "answer_push", "push_path"]
