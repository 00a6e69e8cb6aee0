"""Who calls the admin API, and what they may do.

Three kinds of bearer tokens are known: those of `gateway.tokens_file`, each with its roles; the one of `gateway.token_file`, with
all roles; and the secrets of instances, which may signal for their own module only. Without any of the settings everybody may do
everything, and the gateway listens on loopback only.

Only SHA-256 digests of tokens are kept. A slow, salted hash protects what people choose, since that can be guessed; our tokens
are 32 random bytes, which nobody guesses at any speed, and a fast digest costs a request nothing. It also makes the comparison
harmless: how long a look-up by digest takes says nothing about tokens.
"""

import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import stat
import time
import tomllib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from upgrade_core.errors import InvalidId
from upgrade_core.ids import product_of, split_module_id
from uplift_settings import SecretError

TOKEN_PREFIX = "upl_"  # noqa: S105 - a mark by which people and scanners know one
INSTANCE_PREFIX = "upi_"
RECHECK = 1.0
"""Seconds between looks at the tokens file: a revoked token is refused within them, and a request costs no system call."""
_BEARER = re.compile(r"bearer +(\S(?:.*\S)?) *", re.ASCII | re.IGNORECASE)
_OTHERS_MAY = 0o077
_log = logging.getLogger(__name__)


class TokensFileError(SecretError):
    """The tokens file cannot be used. The message names the file and what is wrong; tokens that hold already go on holding."""


class Role(StrEnum):
    """What a token is for. Roles are independent of each other: who starts jobs and looks at them has two."""

    READ = "read"
    PLAN = "plan"
    START = "start"
    APPROVE = "approve"
    ABORT = "abort"
    OVERRIDE = "override"
    REGISTER = "register"
    SIGNAL = "signal"
    RUN = "run"


_LIMITED = frozenset({Role.SIGNAL, Role.REGISTER})
_UNLIMITED = frozenset({Role.SIGNAL, Role.READ})

MEANINGS: Mapping[Role, str] = {
    Role.READ: "look at everything but the values of the instances' environment",
    Role.PLAN: "simulate install jobs",
    Role.START: "start install jobs, change bindings",
    Role.APPROVE: "approve what waits for a person",
    Role.ABORT: "abort jobs, remove the records of ended ones",
    Role.OVERRIDE: "decide about jobs that wait for a person, settle what a lost run left held",
    Role.REGISTER: "change modules, tenants, instances and the instances' environment",
    Role.SIGNAL: "send lifecycle signals for modules",
    Role.RUN: "carry out runs: for workers, together with read",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls.

    Attributes:
        name: The token's name, the instance's id, or `anonymous`.
        roles: What the caller may do.
        module: The module of an instance.
        instance: The id of an instance.
        products: The products that signals and registrations are limited to; None: all.
    """

    name: str
    roles: tuple[Role, ...] = ()
    module: str | None = None
    instance: str | None = None
    products: tuple[str, ...] | None = None

    @property
    def is_known(self) -> bool:
        """Whether a token told who it is."""
        return self.name != _ANONYMOUS

    def covers(self, module: str) -> bool:
        """Whether a module, given by id or product, is of the products that this token is limited to."""
        if self.products is None:
            return True
        try:
            return product_of(module) in self.products
        except InvalidId:
            return False


_ANONYMOUS = "anonymous"
NOBODY = Caller(name=_ANONYMOUS)
"""Somebody without a token, where one is needed for most routes."""
ANYBODY = Caller(name=_ANONYMOUS, roles=tuple(Role))
"""Everybody, where the gateway has no credentials."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a route asks of its caller.

    Attributes:
        roles: Any of these is enough; none: everybody may.
        simulating: Any of these is enough too, where the query asks for a simulation only.
        own: Whether users of the tenant in the path may, whatever their roles (Okapi's `permissionsRequiredTenant`).
        per_product: Whether the route is about modules, which it or the path names, so that a token limited to products is let in
            for theirs. To read, and to signal, it is let in anyway: signals have `may_signal`.
    """

    roles: tuple[Role, ...] = ()
    simulating: tuple[Role, ...] = ()
    own: bool = False
    per_product: bool = False

    def allows(self, caller: Caller, query: Mapping[str, str], variables: Mapping[str, str]) -> bool:
        """Whether the caller may, as far as query and path say."""
        enough = self.roles + (self.simulating if _simulates(query) else ())
        has = {role for role in caller.roles if role in enough}
        if not self.roles or caller.products is None or has & _UNLIMITED:
            return bool(has) or not self.roles
        return bool(has) and self.per_product and ("module" not in variables or caller.covers(variables["module"]))

    def is_own(self, headers: Mapping[str, str], variables: Mapping[str, str]) -> bool:
        """Whether a user reads about its own tenant: a token is there, and the tenant of the request is that of the path.

        As in Okapi nobody looks into the token here: that is the work of an `auth` filter.
        """
        if not self.own or headers.get("X-Okapi-Tenant") != variables.get("tenant"):
            return False
        return bool(
            headers.get("X-Okapi-Token") or headers.get("Authorization") or "folioAccessToken=" in headers.get("Cookie", "")
        )

    def __str__(self) -> str:
        """For people: `start`, or `plan` to simulate."""
        words = " or ".join(self.roles) or "none"
        if self.simulating:
            words += f"; to simulate {' or '.join(self.simulating)}"
        return words + ("; none for users of the tenant" if self.own else "")


def may_signal(caller: Caller, module: str, instance: str | None) -> bool:
    """Whether the caller may send lifecycle signals for a module, and as one of its instances.

    Whether `instance` is one of the module's at all is for the signal's own checks.

    Args:
        caller: Who calls.
        module: The id or product of the module that the signal is about.
        instance: The instance that the signal names, if it does.
    """
    if Role.SIGNAL not in caller.roles:
        return False
    return caller.covers(module) and (caller.instance is None or instance in (None, caller.instance))


def new_token(prefix: str) -> str:
    """A fresh token: the prefix and 32 random bytes."""
    return prefix + secrets.token_urlsafe(32)


def digest(token: str) -> bytes:
    """What is kept of a token."""
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()


def bearer(authorization: str | None) -> str | None:
    """The token of an `Authorization` header (RFC 6750), or None."""
    found = _BEARER.fullmatch(authorization or "")
    return found[1] if found else None


class Entry(BaseModel):
    """A token in the tokens file.

    Attributes:
        name: Who has it; stands in jobs and logs.
        sha256: The token's digest, in hexadecimal digits.
        roles: What it is for.
        products: The products that its signals and registrations are limited to; None: all. Only with the roles `signal`,
            `register` and `read`: what a limited token reads is not limited.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,99}$")]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    roles: Annotated[tuple[Role, ...], Field(min_length=1)]
    products: Annotated[tuple[str, ...], Field(min_length=1)] | None = None

    @field_validator("name")
    @classmethod
    def _is_free(cls, name: str) -> str:
        if name == _ANONYMOUS:
            raise ValueError(f"{_ANONYMOUS} is the name of those without a token; choose another")
        return name

    @field_validator("products")
    @classmethod
    def _are_products(cls, products: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for product in products or ():
            if split_module_id(product)[1] is not None or not product.isascii():
                raise ValueError(f"{product} is no product; leave the version away")
        return products

    @model_validator(mode="after")
    def _only_some_are_limited(self) -> "Entry":
        if self.products is not None and (not _LIMITED & set(self.roles) or not set(self.roles) <= _LIMITED | {Role.READ}):
            raise ValueError("products limit the roles signal and register; of the others only read goes with them")
        return self

    @property
    def caller(self) -> Caller:
        """Who calls with this token."""
        return Caller(name=self.name, roles=self.roles, products=self.products)


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    token: tuple[Entry, ...] = ()

    @field_validator("token")
    @classmethod
    def _differ(cls, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        for what, values in (("name", [each.name for each in entries]), ("sha256", [each.sha256 for each in entries])):
            if twice := sorted({value for value in values if values.count(value) > 1}):
                raise ValueError(f"two tokens have the {what} {twice[0]}")
        return entries


def read_tokens(path: Path) -> tuple[Entry, ...]:
    """The tokens of a file.

    Raises:
        TokensFileError: It cannot be read, others than its owner may read it, or it says something else than tokens.
    """
    return _read(path)[0]


def write_tokens(entries: tuple[Entry, ...]) -> str:
    """The text of a tokens file (TOML)."""
    lines = ["# Tokens of the gateway's admin API, by digest. Written by `uplift token`; comments of yours are lost."]
    for entry in entries:
        lines += ["", "[[token]]"]
        lines += [f"{name} = {json.dumps(value)}" for name, value in entry.model_dump(mode="json", exclude_none=True).items()]
    return "\n".join(lines) + "\n"


def _read(path: Path) -> tuple[tuple[Entry, ...], tuple[int, ...]]:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            text = file.read()
    except OSError as error:
        raise TokensFileError(f"cannot read {path} (gateway.tokens_file): {error.strerror}") from error
    if stat.S_IMODE(status.st_mode) & _OTHERS_MAY:
        raise TokensFileError(f"others may read or write {path} (gateway.tokens_file): chmod 600 {path}")
    try:
        entries = _File.model_validate(tomllib.loads(text.decode())).token
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TokensFileError(f"{path} (gateway.tokens_file) is not valid TOML: {error}") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors())
        raise TokensFileError(f"{path} (gateway.tokens_file): {faults}") from error
    return entries, _mark(status)


def _mark(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_mode


class TokensFile:
    """The tokens file as it is now: it is read again when it changed, so that tokens come and go without a restart.

    A new file that cannot be used is logged once, and the old tokens hold on: a slip of the pen locks nobody out.

    Args:
        path: The file.
        recheck: Seconds between looks whether it changed.
        clock: Seconds, from anywhere.

    Raises:
        TokensFileError: It cannot be used.
    """

    def __init__(self, path: Path, *, recheck: float = RECHECK, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._recheck = recheck
        self._clock = clock
        entries, self._seen = _read(path)
        self._callers = {bytes.fromhex(entry.sha256): entry.caller for entry in entries}
        self._looked = clock()

    def find(self, token: bytes) -> Caller | None:
        """Who has the token of this digest."""
        now = self._clock()
        if now - self._looked >= self._recheck:
            self._looked = now
            self._refresh()
        return self._callers.get(token)

    def _refresh(self) -> None:
        try:
            seen = _mark(self._path.stat())
        except OSError:
            seen = ()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            entries, self._seen = _read(self._path)
        except TokensFileError as error:
            _log.error("%s; the tokens that were known hold on", error)
            return
        self._callers = {bytes.fromhex(entry.sha256): entry.caller for entry in entries}
        _log.info("tokens are read anew from %s: %s", self._path, ", ".join(entry.name for entry in entries) or "none")


class Credentials:
    """Tells who calls.

    Args:
        token: The one token with all roles, or empty.
        tokens_file: Path of the tokens file, or empty.
        instance_of: The (module, instance) whose secret has a digest.

    Raises:
        TokensFileError: The file cannot be used.
    """

    def __init__(
        self, *, token: str, tokens_file: str, instance_of: Callable[[bytes], Awaitable[tuple[str, str] | None]]
    ) -> None:
        self._operator = digest(token) if token else None
        self._file = TokensFile(Path(tokens_file).expanduser()) if tokens_file else None
        self._instance_of = instance_of

    @property
    def are_asked_for(self) -> bool:
        """Whether there are any: else everybody may do everything."""
        return self._operator is not None or self._file is not None

    async def identify(self, authorization: str | None) -> Caller | None:
        """The caller of an `Authorization` header; None if it says nothing that is known."""
        if not self.are_asked_for:
            return ANYBODY
        token = bearer(authorization)
        if token is None:
            return None
        given = digest(token)
        if self._operator is not None and hmac.compare_digest(given, self._operator):  # a person may have chosen it
            return Caller(name="operator", roles=tuple(Role))
        found = self._file.find(given) if self._file is not None else None
        if found is None and token.startswith(INSTANCE_PREFIX) and (ours := await self._instance_of(given)) is not None:
            module, instance = ours
            return Caller(name=instance, roles=(Role.SIGNAL,), module=module, instance=instance, products=(product_of(module),))
        return found


def _simulates(query: Mapping[str, str]) -> bool:
    return "true" in (query.get("simulate"), query.get("dryRun"))
