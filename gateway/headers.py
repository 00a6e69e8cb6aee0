"""Headers that pass the gateway as they came: end to end, without those of one hop or what only we may say (RFC 9110, 7.6.1)."""

from collections.abc import Iterable, Sequence

_HOP_BY_HOP = frozenset(
    [
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    ]
)
_OURS = frozenset(
    [
        b"host",
        b"expect",
        b"content-length",
        b"x-okapi-tenant",
        b"x-okapi-token",
        b"x-okapi-url",
        b"x-okapi-request-id",
        b"x-okapi-request-ip",
        b"x-okapi-request-timestamp",
        b"x-okapi-request-method",
        b"x-okapi-match-path-pattern",
        b"x-okapi-module-id",
    ]
)
"""Of requests: what we say ourselves to a module, or what is said to us alone."""
_INSIDE = frozenset(
    [
        b"x-okapi-user-id",
        b"x-okapi-permissions",
        b"x-okapi-permissions-required",
        b"x-okapi-permissions-desired",
        b"x-okapi-module-permissions",
        b"x-okapi-module-tokens",
        b"x-okapi-extra-permissions",
        b"x-okapi-additional-token",
        b"x-okapi-filter",
        b"x-okapi-auth-result",
        b"x-okapi-auth-headers",
        b"x-okapi-handler-result",
        b"x-okapi-handler-headers",
    ]
)
"""What modules believe because only the platform itself can have said it: never taken from a requester, never given to one."""
_NOT_UP = _HOP_BY_HOP | _OURS | _INSIDE
_NOT_UP_AS_TOKEN = _NOT_UP | {b"authorization"}
_NOT_DOWN = _HOP_BY_HOP | _INSIDE
_SAYS_NOTHING = (b"keep-alive", b"close")
"""Values of `Connection` that name no header."""

Raw = tuple[bytes, bytes]


def upwards(headers: Iterable[Raw], *, is_token: bool = False, ours: Sequence[Raw] = ()) -> list[Raw]:
    """The headers of a request that its module gets, without the length of its body.

    Args:
        headers: As they came.
        is_token: Whether `Authorization` is the token, which the module gets by another name.
        ours: What we say besides; it is instead of what came under the same names.
    """
    dropped = _NOT_UP_AS_TOKEN if is_token else _NOT_UP
    if ours:
        names = {name.lower() for name, _ in ours}
        return [*_end_to_end(headers, dropped | names), *ours]
    return _end_to_end(headers, dropped)


def downwards(headers: Iterable[Raw], *, token: bytes = b"") -> list[Raw]:
    """The headers of an answer that the requester gets.

    Args:
        headers: As they came.
        token: The requester's own, which it is not told again.
    """
    kept = _end_to_end(headers, _NOT_DOWN)
    if token:
        return [header for header in kept if header[1] != token or header[0].lower() != b"x-okapi-token"]
    return kept


def lines(headers: Iterable[Raw]) -> bytes:
    """They as they are sent."""
    return b"".join([name + b": " + value + b"\r\n" for name, value in headers])


def _end_to_end(headers: Iterable[Raw], dropped: frozenset[bytes] | set[bytes]) -> list[Raw]:
    kept: list[Raw] = []
    named = b""
    for header in headers:
        name = header[0].lower()
        if name not in dropped:
            kept.append(header)
        elif name == b"connection":
            named = named + b"," + header[1] if named else header[1]
    if named and named.lower() not in _SAYS_NOTHING:
        tokens = {token.strip().lower() for token in named.split(b",")}
        kept = [header for header in kept if header[0].lower() not in tokens]
    return kept
