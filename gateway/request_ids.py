"""Ids of requests, marked by this gateway's key: by one, a request shows that it is part of work for a tenant and product.

The mark is of tenant and product alone. Whoever was shown an id could send it again with its number, too, so a signed number
would prove no more: what it opens is that tenant's draining link to that product, for what is left of its grace.
"""

import hashlib
from functools import lru_cache
from itertools import count
from secrets import randbits

_DIGITS = 12
"""Hexadecimal digits of the number, in front of the mark."""
_NUMBER = f"0{_DIGITS}x"
_MARKS_KEPT = 16_384
"""Tenants times products that are called often."""


class RequestIds:
    """Makes ids: a number, counted on from one taken by chance, and the mark of the tenant and product that are called."""

    def __init__(self) -> None:
        self._numbers = count(randbits(4 * _DIGITS - 1))

    def new(self, key: bytes, tenant: str, product: str) -> str:
        """An id for a request of a tenant to a product, under the gateway's key."""
        return format(next(self._numbers), _NUMBER) + _mark(key, tenant, product)


def is_marked(id_: str, key: bytes, tenant: str, product: str) -> bool:
    """Whether an id has the mark that replicas give to requests of a tenant to a product."""
    return id_[_DIGITS:] == _mark(key, tenant, product)


@lru_cache(maxsize=_MARKS_KEPT)
def _mark(key: bytes, tenant: str, product: str) -> str:
    return hashlib.blake2b(f"{tenant} {product}".encode(), digest_size=8, key=key).hexdigest()
