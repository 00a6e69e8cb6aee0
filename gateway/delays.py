"""Places to wait for what nobody holds: ids that every replica understands without a row, and that nobody else can make."""

import base64
import binascii
import hashlib
import hmac

PATH = "/_/lifecycle/delays/"
_LOST = "lost."
_MARK = 16
"""Bytes of the mark."""


def lost_place(tenant: str, product: str, key: bytes) -> str:
    """Id of the place to wait for a product of a tenant that has no instance.

    Args:
        tenant: Its id.
        product: The product.
        key: The replicas' common key.
    """
    named = f"{tenant}\0{product}".encode()
    return _LOST + base64.urlsafe_b64encode(_mark(named, key) + named).decode().rstrip("=")


def read_lost_place(place: str, key: bytes) -> tuple[str, str] | None:
    """Tenant and product that an id stands for; None if it was not made with this key."""
    if not place.startswith(_LOST) or not place.isascii():
        return None
    text = place[len(_LOST) :]
    try:
        packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        return None
    mark, named = packed[:_MARK], packed[_MARK:]
    if not hmac.compare_digest(mark, _mark(named, key)):
        return None
    tenant, _, product = named.decode().partition("\0")
    return tenant, product


def _mark(named: bytes, key: bytes) -> bytes:
    return hashlib.blake2b(named, digest_size=_MARK, key=key, person=b"uplift lost").digest()
