"""Versions of modules and of interfaces, and how they compare.

Modules use Okapi's variant of SemVer (any number of numeric components; metadata takes part in the order); interfaces use
`major.minor[.patch]`. Requirement B3: versions are taken out of module ids and compared.
"""

import functools
import re
from dataclasses import dataclass
from typing import Any

from upgrade_core.errors import InvalidId

_MAX_DIGITS = 18


@functools.total_ordering
@dataclass(frozen=True, slots=True, eq=False)
class ModuleVersion:
    """A module's version, e.g. `1.2.3`, `2.0.0-SNAPSHOT.12`, `1.0.0-rc.1+7`.

    Attributes:
        components: The numbers before the first `-` or `+`; at least one.
        pre_release: The parts after `-`, split at dots; numbers as numbers. Empty for a release.
        metadata: The text after `+`, or None. It takes part in the order, as with Okapi.
    """

    components: tuple[int, ...]
    pre_release: tuple[int | str, ...] = ()
    metadata: str | None = None

    @classmethod
    def parse(cls, text: str) -> "ModuleVersion":
        """Read a version.

        Raises:
            InvalidId: The text is no version; the message is Okapi's.
        """
        rest, plus, metadata = text.partition("+")
        numbers, dash, pre = rest.partition("-")
        if not numbers or not numbers[0].isdigit():
            raise InvalidId(f"missing major version: {text}" if not numbers else f"invalid semver: {text}")
        components = []
        for part in numbers.split("."):
            if not part:
                raise InvalidId("missing version component")
            if not (part.isascii() and part.isdigit()):
                raise InvalidId(f"invalid semver: {text}")
            if len(part) > _MAX_DIGITS:
                raise InvalidId(f"at most {_MAX_DIGITS} digits for numeric component")
            components.append(int(part))
        parts: list[int | str] = []
        if dash:
            for part in pre.split("."):
                if not part:
                    raise InvalidId("missing pre-release version component")
                is_number = part.isascii() and part.isdigit()
                if is_number and len(part) > _MAX_DIGITS:
                    raise InvalidId(f"at most {_MAX_DIGITS} digits for numeric component")
                parts.append(int(part) if is_number else part)
        return cls(tuple(components), tuple(parts), metadata if plus else None)

    @property
    def order_key(self) -> tuple[Any, ...]:
        """Sorts as the versions do; many are sorted faster by it."""
        pre = tuple((0, part, "") if isinstance(part, int) else (1, 0, part) for part in self.pre_release)
        return (
            self.components,
            (0, pre) if pre else (1, ()),
            (0, "") if self.metadata is None else (1, self.metadata),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModuleVersion) and self.order_key == other.order_key

    def __hash__(self) -> int:
        return hash(self.order_key)

    def __lt__(self, other: "ModuleVersion") -> bool:
        return self.order_key < other.order_key

    def __str__(self) -> str:
        text = ".".join(map(str, self.components))
        if self.pre_release:
            text += "-" + ".".join(map(str, self.pre_release))
        return text if self.metadata is None else f"{text}+{self.metadata}"

    @property
    def is_pre_release(self) -> bool:
        """Whether the version has a `-…` part."""
        return bool(self.pre_release)

    @property
    def is_npm_snapshot(self) -> bool:
        """Whether it is an npm snapshot: three components, the last of at least five digits (Okapi's rule)."""
        return len(self.components) == 3 and self.components[2] >= 10_000  # noqa: PLR2004


_INTERFACE = re.compile(r"(\d{1,9})\.(\d{1,9})(?:\.(\d{1,9}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class InterfaceVersion:
    """An interface's version `major.minor[.patch]`; a missing patch counts as -1, below 0."""

    major: int
    minor: int
    patch: int = -1

    @classmethod
    def parse(cls, text: str) -> "InterfaceVersion":
        """Read one version.

        Raises:
            InvalidId: The text is none; the message is Okapi's.
        """
        match = _INTERFACE.fullmatch(text)
        if match is None:
            raise InvalidId(f"Bad version number '{text}'")
        major, minor, patch = match.groups()
        return cls(int(major), int(minor), -1 if patch is None else int(patch))


@functools.lru_cache(maxsize=65_536)
def interface_satisfies(provided: str, required: str) -> bool:
    """Whether a provided interface version meets a requirement with blank-separated alternatives.

    The first alternative with the provided major decides (Okapi's rule): a greater minor is enough, an equal one needs a patch
    at least as great, and later alternatives of that major are not tried.
    """
    have = InterfaceVersion.parse(provided.split(maxsplit=1)[0])
    for alternative in required.split():
        need = InterfaceVersion.parse(alternative)
        if need.major != have.major:
            continue
        return (have.minor, have.patch) >= (need.minor, need.patch) if have.minor == need.minor else have.minor > need.minor
    return False
