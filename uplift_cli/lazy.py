"""A click group that imports a command when it is called, so that `uplift --help` answers at once."""

import errno
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from uplift_cli.errors import NotInstalled, UpliftError


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Where a command is found.

    Attributes:
        target: `package.module:attribute` of a click command.
        summary: One line for the list of commands; the command's own help says the rest.
    """

    target: str
    summary: str


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports each only when it runs."""

    def __init__(self, *args: Any, entries: Mapping[str, Entry], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._entries = dict(entries)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the table: the way of a newcomer through them."""
        return [*self._entries, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now.

        Raises:
            click.ClickException: Its code is not installed.
        """
        entry = self._entries.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = entry.target.partition(":")
        try:
            command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                raise
            missing = NotInstalled(f"`{cmd_name}` is not part of this installation ({module} is missing): run `make setup`")
            raise click.ClickException(str(missing)) from error
        if not isinstance(command, click.Command):
            raise TypeError(f"{entry.target} is a {type(command).__name__}, not a click command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from the table: nothing is imported for it."""
        rows = [(name, entry.summary) for name, entry in self._entries.items()]
        rows += [
            (name, command.get_short_help_str())
            for name in super().list_commands(ctx)
            if (command := super().get_command(ctx, name)) is not None
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what it reports to the operator becomes a message and exit code 1."""
        try:
            return super().invoke(ctx)
        except UpliftError as error:
            raise click.ClickException(str(error)) from error
        except Exception as error:
            # Imported here: by now the command has paid for it, and `uplift --help` must not.
            from uplift_settings import SecretError, SettingsError  # noqa: PLC0415

            if isinstance(error, SecretError | SettingsError):
                raise click.ClickException(str(error)) from error
            # The system's own refusals (no permission, disk full) say what to do; a closed pipe is click's affair.
            if isinstance(error, OSError) and error.strerror and error.errno != errno.EPIPE:
                place = f"{error.filename}: " if error.filename else ""
                raise click.ClickException(f"{place}{error.strerror}") from error
            raise
