"""Headers that pass the gateway as they came: end to end, without those of one hop or what only we may say (RFC 9110, 7.6.1)."""

from collections.abc import Collection, Iterable, Sequence

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
_TOKEN = b"x-okapi-token"
_SAYS_NOTHING = (b"keep-alive", b"close")
"""Values of `Connection` that name no header."""

Raw = tuple[bytes, bytes]


def upwards(headers: Sequence[Raw], *, is_token: bool = False, ours: Sequence[Raw] = ()) -> bytes:
    """The headers of a request that its module gets, as they are sent, without the length of its body.

    Args:
        headers: As they came.
        is_token: Whether `Authorization` is the token, which the module gets by another name.
        ours: What we say besides; it is instead of what came under the same names.
    """
    dropped = _NOT_UP_AS_TOKEN if is_token else _NOT_UP
    if not ours:
        return _passing(headers, dropped)
    return _passing(headers, dropped.union(name.lower() for name, _ in ours)) + lines(ours)


def downwards(headers: Sequence[Raw], *, token: bytes = b"", without: Collection[bytes] = ()) -> bytes:
    """The headers of an answer that the requester gets, as they are sent.

    Args:
        headers: As they came.
        token: The requester's own, which it is not told again.
        without: Names, in small letters, of others that it does not get.
    """
    if token:
        headers = [header for header in headers if header[1] != token or header[0].lower() != _TOKEN]
    return _passing(headers, _NOT_DOWN.union(without) if without else _NOT_DOWN)


def lines(headers: Iterable[Raw]) -> bytes:
    """They as they are sent."""
    return b"\r\n".join([*map(b": ".join, headers), b""])


def _passing(headers: Sequence[Raw], dropped: frozenset[bytes]) -> bytes:
    """Those that are end to end and not to be dropped."""
    kept: list[bytes] = []
    named = b""
    for header in headers:
        known = header[0].lower()
        if known not in dropped:
            kept.append(b": ".join(header))
        elif known == b"connection":
            named = named + b"," + header[1] if named else header[1]
    if named and named.lower() not in _SAYS_NOTHING:
        tokens = {token.strip().lower() for token in named.split(b",")}
        if not tokens <= dropped:
            return _passing(headers, dropped | tokens)
    kept.append(b"")
    return b"\r\n".join(kept)
