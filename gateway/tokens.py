"""The token of a request, and the tenant that it is made for (Okapi's rules)."""

import base64
import binascii
import json
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie

from aiohttp import hdrs
from multidict import istr

from gateway.observation import as_utf8
from upgrade_core.ids import SUPERTENANT

TENANT = istr("X-Okapi-Tenant")
TOKEN = istr("X-Okapi-Token")
_COOKIE = "folioAccessToken"
DIFFERENT = "Different tokens in Authentication and X-Okapi-Token. Use only one of them"


class BadToken(Exception):
    """A request whose tokens cannot be used. The message says why."""


def token_of(headers: Mapping[str, str]) -> str:
    """The token of a request: of its own header, `Authorization`, or the cookie; empty without any.

    Raises:
        BadToken: There are several, and they differ.
    """
    found = headers.get(TOKEN, "")
    if hdrs.AUTHORIZATION not in headers and hdrs.COOKIE not in headers:
        return found
    for other in (_authorization(headers), _cookie(headers)):
        if other and found and other != found:
            raise BadToken(DIFFERENT)
        found = found or other
    return found


def tenant_of(headers: Mapping[str, str], token: str) -> str:
    """The tenant that a request is made for, by its header or token; without either, the supertenant.

    What is no text becomes one that is no tenant's id: those are ASCII, without `?`.

    Raises:
        BadToken: There is no header, and the token cannot be read.
    """
    tenant = headers.get(TENANT) or (token and _tenant_in(token)) or SUPERTENANT
    return tenant if tenant.isascii() else as_utf8(tenant)


def tenant_of_admin(headers: Mapping[str, str]) -> str:
    """As `tenant_of`, where the token may be one of our own, which names no tenant."""
    try:
        return tenant_of(headers, headers.get(TOKEN) or _authorization(headers))
    except BadToken:
        return SUPERTENANT


def _authorization(headers: Mapping[str, str]) -> str:
    value = headers.get(hdrs.AUTHORIZATION, "")
    if not value:
        return ""
    scheme, _, rest = value.partition(" ")
    return rest.strip() if scheme.lower() == "bearer" else "" if rest else value


def _cookie(headers: Mapping[str, str]) -> str:
    text = headers.get(hdrs.COOKIE, "")
    if _COOKIE not in text:
        return ""
    try:
        morsel = SimpleCookie(text).get(_COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel is not None else ""


def _tenant_in(token: str) -> str:
    """The `tenant` claim of an unverified token, as Okapi reads it; the auth filter verifies."""
    parts = token.split(".")
    if len(parts) != 3:  # noqa: PLR2004 - header, claims and signature
        raise BadToken(f"Invalid Token: it has {len(parts)} parts, not three")
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError, binascii.Error) as error:
        raise BadToken(f"Invalid Token: {error}") from error
    found = claims.get("tenant") if isinstance(claims, dict) else None
    return found if isinstance(found, str) else ""
