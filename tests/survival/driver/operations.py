"""What the driver does, as values that a seed chooses: the same seed, the same operations, whatever becomes of them."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

PRODUCTS = ("mod-a", "mod-b")
FIRST_VERSIONS = ("1.0.0", "2.0.0")
TENANTS = 6
"""At most so many at a time, so that jobs of different tenants are under way at once, and two of the same tenant as well."""
VERSIONS = 4
"""At most so many of a product: each that is needed is a process."""
ILLEGAL = (
    "unknown_module", "unknown_tenant", "unknown_version", "misspelt_parameter", "purge_and_enable", "tenant_again",
    "bad_tenant_id", "other_descriptor", "version_in_use", "busy_tenant", "unknown_job", "job_of_another_tenant",
)  # fmt: skip
_SENSIBLE = 0.9
"""Share of users' requests that go to a product which the tenant probably has."""
_PARTS = {"instance": 10, "worker": 4, "gateway": 3, "temporal": 3, "postgres": 2, "all parts": 1, "everything": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTenant:
    tenant: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteTenant:
    tenant: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A job about one product.

    Attributes:
        action: `enable` (install, upgrade or downgrade, as the tenant happens to be), `reinstall`, `disable`, `purge`.
        do: What tenant init does: `ok`, `job`, `error`, `joberror`.
        seconds: How long it works.
    """

    tenant: str
    product: str
    version: str
    action: str = "enable"
    do: str = "ok"
    seconds: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two jobs of one tenant, one after the other without waiting: the second queues."""

    first: Change
    second: Change


@dataclass(frozen=True, slots=True, kw_only=True)
class UpgradeAll:
    tenant: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort:
    """Abort the tenant's newest job, with `delete` at the gateway or `cancel` at Temporal."""

    tenant: str
    way: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """Requests of a tenant's users, while the driver goes on."""

    tenant: str
    product: str
    writes: int
    reads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Register:
    product: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unregister:
    product: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """kill -9 of a part, of the `which`-th instance, of all parts, or of everything with its supervisor."""

    part: str
    which: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Illegal:
    """Something that must be refused and change nothing."""

    what: str
    tenant: str
    product: str


Operation = NewTenant | DeleteTenant | Change | Pair | UpgradeAll | Abort | Use | Register | Unregister | Kill | Illegal


@dataclass(slots=True)
class _Guess:
    """What is there if everything went well: so that most operations make sense."""

    tenants: list[str] = field(default_factory=list)
    enabled: list[tuple[str, str]] = field(default_factory=list)
    made: int = 0
    versions: dict[str, list[str]] = field(default_factory=lambda: {product: list(FIRST_VERSIONS) for product in PRODUCTS})
    highest: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PRODUCTS, len(FIRST_VERSIONS)))


def choose(seed: int, count: int) -> Iterator[Operation]:
    """The operations of a seed."""
    chance, guess = random.Random(seed), _Guess()
    for number in range(count):
        make = _NEW_TENANT if number < TENANTS // 2 else chance.choices(_MAKERS, _WEIGHTS)[0]
        yield make(chance, guess)


def _new_tenant(chance: random.Random, guess: _Guess) -> Operation:
    if len(guess.tenants) >= TENANTS:
        return _use(chance, guess)
    guess.made += 1
    guess.tenants.append(f"t{guess.made}")
    return NewTenant(tenant=guess.tenants[-1])


def _delete_tenant(chance: random.Random, guess: _Guess) -> Operation:
    if len(guess.tenants) <= TENANTS // 2:
        return _new_tenant(chance, guess)
    tenant = guess.tenants.pop(chance.randrange(len(guess.tenants)))
    guess.enabled = [pair for pair in guess.enabled if pair[0] != tenant]
    return DeleteTenant(tenant=tenant)


def _one(chance: random.Random, guess: _Guess, tenant: str) -> Change:
    product = chance.choice(PRODUCTS)
    change = Change(
        tenant=tenant,
        product=product,
        version=chance.choice(guess.versions[product]),
        action=chance.choices(("enable", "reinstall", "disable", "purge"), (12, 1, 2, 1))[0],
        do=chance.choices(("ok", "job", "error", "joberror"), (5, 5, 1, 2))[0],
        seconds=chance.choice((0, 0, 0.2, 1.5)),
    )
    pair, enables = (tenant, product), change.action in ("enable", "reinstall")
    if enables and not change.do.endswith("error") and pair not in guess.enabled:
        guess.enabled.append(pair)
    elif not enables and pair in guess.enabled:
        guess.enabled.remove(pair)
    return change


def _change(chance: random.Random, guess: _Guess) -> Operation:
    return _one(chance, guess, chance.choice(guess.tenants))


def _pair(chance: random.Random, guess: _Guess) -> Operation:
    tenant = chance.choice(guess.tenants)
    return Pair(first=_one(chance, guess, tenant), second=_one(chance, guess, tenant))


def _upgrade_all(chance: random.Random, guess: _Guess) -> Operation:
    return UpgradeAll(tenant=chance.choice(guess.tenants))


def _abort(chance: random.Random, guess: _Guess) -> Operation:
    return Abort(tenant=chance.choice(guess.tenants), way=chance.choice(("delete", "cancel")))


def _use(chance: random.Random, guess: _Guess) -> Operation:
    tenant, product = chance.choice(guess.tenants), chance.choice(PRODUCTS)
    if guess.enabled and chance.random() < _SENSIBLE:
        tenant, product = chance.choice(guess.enabled)
    return Use(tenant=tenant, product=product, writes=chance.randint(0, 4), reads=chance.randint(1, 4))


def _register(chance: random.Random, guess: _Guess) -> Operation:
    product = chance.choice(PRODUCTS)
    if len(guess.versions[product]) >= VERSIONS:
        return _unregister(chance, guess)
    guess.highest[product] += 1
    guess.versions[product].append(f"{guess.highest[product]}.0.0")
    return Register(product=product, version=guess.versions[product][-1])


def _unregister(chance: random.Random, guess: _Guess) -> Operation:
    product = chance.choice(PRODUCTS)
    versions = guess.versions[product]
    version = chance.choice(versions)
    if len(versions) >= VERSIONS:
        versions.remove(version)  # if it is refused, it is only not asked for any more
    return Unregister(product=product, version=version)


def _kill(chance: random.Random, guess: _Guess) -> Operation:
    del guess
    return Kill(part=chance.choices(list(_PARTS), list(_PARTS.values()))[0], which=chance.randrange(100))


def _illegal(chance: random.Random, guess: _Guess) -> Operation:
    return Illegal(what=chance.choice(ILLEGAL), tenant=chance.choice(guess.tenants), product=chance.choice(PRODUCTS))


_Maker = Callable[[random.Random, _Guess], Operation]
_NEW_TENANT: _Maker = _new_tenant
_TABLE: tuple[tuple[_Maker, int], ...] = (
    (_use, 34), (_change, 26), (_abort, 7), (_kill, 6), (_illegal, 7), (_new_tenant, 5), (_delete_tenant, 3), (_upgrade_all, 4),
    (_pair, 4), (_register, 3), (_unregister, 1),
)  # fmt: skip
_MAKERS = [maker for maker, _ in _TABLE]
_WEIGHTS = [weight for _, weight in _TABLE]
