"""Ids of modules and tenants, and the ids that are derived from them.

Payloads and rows carry ids as plain text; the rules parse them here.
"""

import functools
import re
from dataclasses import dataclass
from typing import Any

from upgrade_core.errors import InvalidId
from upgrade_core.versions import ModuleVersion

_TENANT = re.compile(r"[a-z][a-z0-9]{0,30}", re.ASCII)
_LEGACY_TENANT = re.compile(r"[A-Za-z0-9_-]{1,63}", re.ASCII)
_SPLIT = re.compile(r"-(?=[0-9])", re.ASCII)
MAX_MODULE_ID = 200
"""Longest module id, in characters: it must fit a search attribute, a file name and a schema name's comment."""

SUPERTENANT = "supertenant"
"""The tenant that requests without a tenant belong to (Okapi)."""


@functools.total_ordering
@dataclass(frozen=True, slots=True)
class ModuleId:
    """`product-version`; split at the first `-` that a digit follows (Okapi's rule)."""

    product: str
    version: ModuleVersion
    text: str

    @classmethod
    @functools.lru_cache(maxsize=16_384)
    def parse(cls, text: str) -> "ModuleId":
        """Read a full module id.

        Raises:
            InvalidId: There is no version in it, or it is none.
        """
        product, version = split_module_id(text)
        if version is None:
            raise InvalidId(f"Missing semantic version for: {text}")
        return cls(product, ModuleVersion.parse(version), text)

    def __lt__(self, other: "ModuleId") -> bool:
        return self.order_key < other.order_key

    @property
    def order_key(self) -> tuple[Any, ...]:
        """Sorts as the ids do, by product and version; many are sorted faster by it."""
        return (self.product, self.version.order_key, self.text)

    def __str__(self) -> str:
        return self.text


def split_module_id(text: str) -> tuple[str, str | None]:
    """Split a module id into product and version text; the version is None for a product alone.

    Raises:
        InvalidId: Empty, too long, without a product, or with a character that no URL path can carry.
    """
    if not text:
        raise InvalidId("id is missing for module")
    if len(text) > MAX_MODULE_ID:
        raise InvalidId(f"Module id must not exceed {MAX_MODULE_ID} characters: {text[:50]}…")
    if not text.isprintable() or any(c in "/?#%\\ " for c in text):
        raise InvalidId(f"Module id must not contain blanks, slashes or control characters: {text!r}")
    product, *version = _SPLIT.split(text, maxsplit=1)
    if not product:
        raise InvalidId(f"Missing product for: {text}")
    return product, version[0] if version else None


def product_of(module_id: str) -> str:
    """The product of a full module id.

    Raises:
        InvalidId: As `split_module_id`.
    """
    return split_module_id(module_id)[0]


def check_new_tenant_id(text: str) -> None:
    """Refuse an id that a new tenant may not have (Okapi's rule and texts).

    Raises:
        InvalidId: With the reason.
    """
    if _TENANT.fullmatch(text):
        return
    if "_" in text:
        raise InvalidId(f"Tenant id must not contain underscore: {text}")
    if "-" in text:
        raise InvalidId(f"Tenant id must not contain minus: {text}")
    if len(text) > 31:  # noqa: PLR2004
        raise InvalidId(f"Tenant id must not exceed 31 characters: {text}")
    if text[:1].isdigit():
        raise InvalidId(f"Tenant id must not start with a digit: {text}")
    raise InvalidId(f"Invalid tenant id, may only contain a-z and 0-9 and must match [a-z][a-z0-9]{{0,30}} but it is {text}")


def is_tenant_id(text: str) -> bool:
    """Whether a text can be a tenant's id at all, old ids with `_` and `-` included."""
    return _LEGACY_TENANT.fullmatch(text) is not None


def schema_name(pattern: str, *, tenant: str, product: str) -> str:
    """The Postgres schema that a module keeps a tenant's data in.

    Args:
        pattern: Text with `{tenant}`, `{product}` and `{product_}` (the product with `-` as `_`, FOLIO's habit).
        tenant: The tenant's id.
        product: The module's product.
    """
    return pattern.replace("{tenant}", tenant).replace("{product_}", product.replace("-", "_")).replace("{product}", product)


def step_key(job: str, change: str, step: str) -> str:
    """The key of one step of one change: the same for every retry, so that a retry is the same request.

    Args:
        job: The job.
        change: The change's key within it (`Change.key`).
        step: The step.
    """
    return f"{job}:{change}:{step}"


def hold_id(job: str, group: str, product: str) -> str:
    """Id of the hold of one product by one group of a job: the same for every retry."""
    return step_key(job, product, group)


def copy_id(job: str, change: str) -> str:
    """Id of the one copy of a job's change, which `Change.key` names."""
    return f"{job}-{change}"


def instance_id(module: str, node: str) -> str:
    """Id of a version's one instance that is deployed on a node: the same for every attempt."""
    return f"{module}@{node}"
