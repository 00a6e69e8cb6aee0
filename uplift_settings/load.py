"""Reading the tree: overrides, then `UPLIFT_…` variables, then a TOML file, then defaults.

`UPLIFT_GATEWAY__PORT=9140` sets `gateway.port`; `[gateway] port = 9140` in the file does the same. The file is `--config`, else
`$UPLIFT_CONFIG`, else none. A variable that begins with `UPLIFT_` and says nothing is refused: a misspelt one must not pass
for a default.
"""

import difflib
import os
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from uplift_settings.tree import Settings

PREFIX = "UPLIFT_"
# Known, but no settings: for the command line, from the embedded stack to its parts, from the gateway's parent to its children
# and its successor, marks of instances, for the tests.
_NOT_SETTINGS = frozenset(
    {
        "UPLIFT_CACHE",
        "UPLIFT_CONFIG",
        "UPLIFT_DATABASE_URL",
        "UPLIFT_GATEWAY_REPLACES",
        "UPLIFT_GATEWAY_SLOT",
        "UPLIFT_GATEWAY_STATE",
        "UPLIFT_GENERATION",
        "UPLIFT_INSTANCE",
        "UPLIFT_LISTEN_FD",
        "UPLIFT_MODULES_URL",
        "UPLIFT_READY_FD",
    }
)
# What an instance finds in its environment beside its mark; elsewhere they are misspelt settings.
_FOR_INSTANCES = frozenset({"UPLIFT_GATEWAY_URL", "UPLIFT_INSTANCE_TOKEN"})
_TESTS_PREFIX = "UPLIFT_TEST_"


class SettingsError(Exception):
    """A setting is wrong. The message names the key, its source and what it must be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """One leaf of the tree: its dotted key, its value as text, where it came from, and what it means."""

    key: str
    value: str
    source: str
    meaning: str


class _Environment(BaseSettings, Settings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="ignore", frozen=True)


def load(*, config: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """The settings that hold here.

    Args:
        config: A TOML file; None: `$UPLIFT_CONFIG`, else no file.
        overrides: Nested values that win over everything (from the command line).

    Raises:
        SettingsError: A file, variable or value is wrong.
    """
    merged: dict[str, Any] = {}
    for _, values in _sources(config, overrides or {}):
        _merge(merged, values)
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise SettingsError(_explain_errors(error, config, overrides or {})) from error


def explain(*, config: Path | None = None, overrides: Mapping[str, Any] | None = None) -> tuple[Origin, ...]:
    """Every leaf with its value and where it came from, in the tree's order.

    Raises:
        SettingsError: As `load`.
    """
    settings = load(config=config, overrides=overrides)
    sources = _sources(config, overrides or {})
    return tuple(
        Origin(key=key, value=_show(value), source=_source_of(key, sources), meaning=meaning)
        for key, value, meaning in _leaves(settings)
    )


def _sources(config: Path | None, overrides: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """(name, nested values), weakest first."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    path = config or (Path(named) if (named := os.environ.get("UPLIFT_CONFIG")) else None)
    if path is not None:
        try:
            found.append((f"file {path}", tomllib.loads(path.read_text(encoding="utf-8"))))
        except OSError as error:
            raise SettingsError(f"cannot read settings file {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"settings file {path} is not valid TOML: {error}") from error
    try:
        found.append(("environment", EnvSettingsSource(_Environment)()))
    except ValueError as error:
        raise SettingsError(f"environment: {error}") from error
    found.append(("command line", overrides))
    # References may name variables of any name, also one that a stronger source has replaced.
    _refuse_unknown_variables(allowed=_NOT_SETTINGS.union(*(_references(values) for _, values in found), _references(_DEFAULTS)))
    return found


def _refuse_unknown_variables(*, allowed: Collection[str]) -> None:
    if "UPLIFT_INSTANCE" in os.environ:
        allowed = _FOR_INSTANCES.union(allowed)
    unknown = [
        f"unknown setting: environment variable {name}{_did_you_mean(name.upper(), _VARIABLES | _NOT_SETTINGS)}; "
        f"`uplift config` lists the keys (gateway.port is {PREFIX}GATEWAY__PORT), and variables of your own need another prefix"
        for name in sorted(os.environ)
        if name.upper().startswith(PREFIX)
        and not name.upper().startswith(_TESTS_PREFIX)
        and name not in allowed
        and not _is_variable(name.upper())
    ]
    if unknown:
        raise SettingsError("\n".join(unknown))


def _is_variable(name: str) -> bool:
    """Whether a variable sets a leaf, a group as JSON, or something in a group that is judged with the group's values."""
    top, _, rest = name.removeprefix(PREFIX).partition("__")
    return name in _VARIABLES or (top in _GROUPS and (bool(rest) or name == PREFIX + top))


def _references(values: Any) -> set[str]:
    """Names of the variables that values refer to as `env:NAME`."""
    if isinstance(values, Mapping):
        return set().union(*(_references(value) for value in values.values()))
    return {values.removeprefix("env:")} if isinstance(values, str) and values.startswith("env:") else set()


def _did_you_mean(word: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.75)
    return f" (did you mean {close[0]}?)" if close else ""


def _merge(target: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        elif isinstance(value, Mapping):
            target[key] = {}
            _merge(target[key], value)
        else:
            target[key] = value


def _leaves(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, field.description or ""


def _source_of(key: str, sources: list[tuple[str, Mapping[str, Any]]]) -> str:
    for name, values in reversed(sources):
        here: Any = values
        for part in key.split("."):
            here = here.get(part) if isinstance(here, Mapping) else None
        if here is not None:
            return f"${PREFIX}{key.replace('.', '__').upper()}" if name == "environment" else name
    return "default"


def _show(value: Any) -> str:
    return repr(value) if isinstance(value, str | dict) else str(value)


def _explain_errors(error: ValidationError, config: Path | None, overrides: Mapping[str, Any]) -> str:
    sources = _sources(config, overrides)
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            meant = _did_you_mean(key, _KEYS)
            lines.append(f"unknown setting {key} ({_source_of(key, sources)}){meant}; `uplift config` lists the keys")
        else:
            lines.append(f"setting {key} ({_source_of(key, sources)}): {item['msg']}, got {item['input']!r}")
    return "\n".join(lines)


_DEFAULTS = Settings().model_dump(mode="json")
_KEYS = tuple(key for key, _, _ in _leaves(Settings()))
_VARIABLES = frozenset(PREFIX + key.replace(".", "__").upper() for key in _KEYS)
_GROUPS = frozenset(name.upper() for name, value in Settings() if isinstance(value, BaseModel))
