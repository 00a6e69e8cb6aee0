"""Options that several commands share, and how they become settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])


def home_option(command: _Command) -> _Command:
    """`--home DIR`."""
    return click.option(
        "--home",
        type=click.Path(path_type=Path, file_okay=False),
        help="Folder of state, logs and copies.  [default: the setting `home`, ~/.local/state/uplift]",
    )(command)


def config_option(command: _Command) -> _Command:
    """`--config FILE`."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Settings file (TOML).  [default: $UPLIFT_CONFIG, else none]",
    )(command)


def overrides(home: Path | None) -> dict[str, Any]:
    """What the command line says about settings."""
    return {} if home is None else {"home": home}
