"""The lifecycle protocol: every transition of a link, as literal tables. Nothing else decides what a link does.

A *link* is what requests to one product of one tenant depend on. Its state is a pair of two different things: a **hold**, set by
UPDATE and removed only by the RESUME that names it, never by a clock, a crash or a registration; and an **availability**, which
follows the instances. An illegal signal raises and changes nothing. Requirements A2, A4, A6, A8; `docs/explanation/protocol.md`.
"""

from enum import StrEnum

from upgrade_core.errors import IllegalSignal


class Hold(StrEnum):
    """Whether somebody holds the link."""

    OPEN = "OPEN"
    DRAINING = "DRAINING"
    HELD = "HELD"


class Availability(StrEnum):
    """Whether an instance of the tenant's enabled version answers."""

    UP = "UP"
    LOST = "LOST"
    CLOSED = "CLOSED"


class Service(StrEnum):
    """Whether an instance gets requests."""

    SERVING = "SERVING"
    OUT = "OUT"
    GONE = "GONE"


class Routing(StrEnum):
    """Which version a tenant's requests go to (requirement A5)."""

    PINNED = "pinned"
    NEWEST = "newest"


class Signal(StrEnum):
    """What happens to a link, an instance, or a product."""

    UPDATE = "UPDATE"
    DRAINED = "DRAINED"
    GRACE_EXPIRED = "GRACE_EXPIRED"
    RESUME = "RESUME"
    SEEN = "SEEN"
    LAST_GONE = "LAST_GONE"
    TTL_EXPIRED = "TTL_EXPIRED"
    DISCONNECT = "DISCONNECT"
    DROPPED = "DROPPED"
    NEWER = "NEWER"


class Effect(StrEnum):
    """What the gateway does when a transition has been committed."""

    PARK_NEW = "park new requests"
    CUT_OLD = "cut what is left, answer it MISSING, count it loose"
    GO_ON = "tell the holder that it may begin"
    RELEASE = "release the parked requests, matched anew"
    START_TTL = "start the TTL"
    ANSWER_MISSING = "answer the parked requests MISSING"
    TELL_ADMINISTRATOR = "tell the administrator"
    GO_ELSEWHERE = "send what may be repeated to the next instance, probe this one until it is well"
    LET_FINISH = "let its requests finish"
    UPGRADE = "start the upgrade pipeline"


class Reply(StrEnum):
    """What a requester gets."""

    PASS = "PASS"  # noqa: S105 - no password
    DELAY = "DELAY"
    MISSING = "MISSING"


HOLDS: dict[tuple[Hold, Signal], tuple[Hold, tuple[Effect, ...]]] = {
    (Hold.OPEN, Signal.UPDATE): (Hold.DRAINING, (Effect.PARK_NEW,)),
    (Hold.DRAINING, Signal.GRACE_EXPIRED): (Hold.DRAINING, (Effect.CUT_OLD,)),
    (Hold.DRAINING, Signal.DRAINED): (Hold.HELD, (Effect.GO_ON,)),
    (Hold.DRAINING, Signal.RESUME): (Hold.OPEN, (Effect.RELEASE,)),
    (Hold.HELD, Signal.RESUME): (Hold.OPEN, (Effect.RELEASE,)),
}
"""What signals do to a hold. What is not here is illegal."""

AVAILABILITIES: dict[tuple[Availability, Signal], tuple[Availability, tuple[Effect, ...]]] = {
    (Availability.UP, Signal.SEEN): (Availability.UP, ()),
    (Availability.UP, Signal.LAST_GONE): (Availability.LOST, (Effect.START_TTL,)),
    (Availability.LOST, Signal.SEEN): (Availability.UP, (Effect.RELEASE,)),
    (Availability.LOST, Signal.LAST_GONE): (Availability.LOST, ()),
    (Availability.LOST, Signal.TTL_EXPIRED): (
        Availability.CLOSED,
        (Effect.ANSWER_MISSING, Effect.TELL_ADMINISTRATOR),
    ),
    (Availability.CLOSED, Signal.SEEN): (Availability.UP, (Effect.RELEASE,)),
    (Availability.CLOSED, Signal.LAST_GONE): (Availability.CLOSED, ()),
}
"""What signals do to an availability. What is not here is illegal."""

SERVICES: dict[tuple[Service, Signal], tuple[Service, tuple[Effect, ...]]] = {
    (Service.GONE, Signal.SEEN): (Service.SERVING, ()),
    (Service.SERVING, Signal.SEEN): (Service.SERVING, ()),
    (Service.SERVING, Signal.DROPPED): (Service.OUT, (Effect.GO_ELSEWHERE,)),
    (Service.SERVING, Signal.DISCONNECT): (Service.GONE, (Effect.LET_FINISH,)),
    (Service.OUT, Signal.SEEN): (Service.SERVING, ()),
    (Service.OUT, Signal.DROPPED): (Service.OUT, ()),
    (Service.OUT, Signal.DISCONNECT): (Service.GONE, (Effect.LET_FINISH,)),
}
"""What signals do to an instance. SEEN means UP for its version; the last one that serves no more means LAST_GONE."""

ROUTINGS: dict[tuple[Routing, Signal], tuple[Routing, tuple[Effect, ...]]] = {
    (Routing.PINNED, Signal.NEWER): (Routing.PINNED, ()),
    (Routing.NEWEST, Signal.NEWER): (Routing.NEWEST, (Effect.UPGRADE,)),
}
"""What a higher version that registers does for a tenant."""

REPLIES: dict[tuple[Hold, Availability], Reply] = {
    (Hold.OPEN, Availability.UP): Reply.PASS,
    (Hold.OPEN, Availability.LOST): Reply.DELAY,
    (Hold.OPEN, Availability.CLOSED): Reply.MISSING,
    (Hold.DRAINING, Availability.UP): Reply.DELAY,
    (Hold.DRAINING, Availability.LOST): Reply.DELAY,
    (Hold.DRAINING, Availability.CLOSED): Reply.DELAY,
    (Hold.HELD, Availability.UP): Reply.DELAY,
    (Hold.HELD, Availability.LOST): Reply.DELAY,
    (Hold.HELD, Availability.CLOSED): Reply.DELAY,
}
"""What a request gets in each state, as long as a hold has not passed its `until`."""


def on_hold(state: Hold, signal: Signal) -> tuple[Hold, tuple[Effect, ...]]:
    """The next hold state and its effects.

    Raises:
        IllegalSignal: The table has no such pair; nothing changed.
    """
    try:
        return HOLDS[state, signal]
    except KeyError:
        raise IllegalSignal(f"{signal} is not allowed while the link is {state}") from None


def on_availability(state: Availability, signal: Signal) -> tuple[Availability, tuple[Effect, ...]]:
    """The next availability and its effects.

    Raises:
        IllegalSignal: The table has no such pair; nothing changed.
    """
    try:
        return AVAILABILITIES[state, signal]
    except KeyError:
        raise IllegalSignal(f"{signal} is not allowed while the product is {state}") from None


def on_service(state: Service, signal: Signal) -> tuple[Service, tuple[Effect, ...]]:
    """What an instance does next, and the effects.

    Raises:
        IllegalSignal: The table has no such pair; nothing changed.
    """
    try:
        return SERVICES[state, signal]
    except KeyError:
        raise IllegalSignal(f"{signal} is not allowed while the instance is {state}") from None


def on_routing(state: Routing, signal: Signal) -> tuple[Routing, tuple[Effect, ...]]:
    """What becomes of a tenant's routing, and the effects.

    Raises:
        IllegalSignal: The table has no such pair; nothing changed.
    """
    try:
        return ROUTINGS[state, signal]
    except KeyError:
        raise IllegalSignal(f"{signal} is not allowed for routing {state}") from None


def reply_to(hold: Hold, availability: Availability, *, overdue: bool = False) -> Reply:
    """What a request gets.

    Args:
        hold: The link's hold.
        availability: The link's availability.
        overdue: Whether the hold has passed its `until`: it stays, but nobody is promised anything any more.
    """
    if overdue and hold is not Hold.OPEN:
        return Reply.MISSING
    return REPLIES[hold, availability]
