"""`uplift config`."""

from collections.abc import Iterator
from pathlib import Path

import click
from pydantic import BaseModel

from uplift_cli.options import config_option, home_option, overrides
from uplift_cli.stack.in_use import with_stack
from uplift_cli.stack.state import read_record
from uplift_cli.tables import print_table
from uplift_settings import Settings, explain, load


@click.command()
@home_option
@config_option
@click.option("--reference", is_flag=True, help="Print keys, variables, defaults and meanings instead, as Markdown.")
def config(home: Path | None, config: Path | None, reference: bool) -> None:
    """Show every setting, its value, where it comes from and what it means.

    A setting comes from the command line, else from its variable (`gateway.port` is `UPLIFT_GATEWAY__PORT`), else from the
    settings file, else it has its default. Secrets are references (`env:NAME`, `file:PATH`): none is shown.

    Where `uplift up` runs or ran in the folder, source `stack` marks the ports and addresses that it chose.
    """
    if reference:
        click.echo(reference_page())
        return
    given = overrides(home)
    found = explain(config=config, overrides=given)
    record = read_record(load(config=config, overrides=given).home_folder)
    if record is not None:
        found = with_stack(found, record)
    print_table(("key", "value", "source", "meaning"), ((each.key, each.value, each.source, each.meaning) for each in found))


def reference_page() -> str:
    """The page of all settings, as Markdown (`docs/reference/settings.md`)."""
    lines = ["# Settings", "", "Written by `make docs`.", "", "| key | variable | default | meaning |", "|---|---|---|---|"]
    lines += (
        f"| `{key}` | `UPLIFT_{key.upper().replace('.', '__')}` | `{default!r}` | {meaning} |"
        for key, default, meaning in _leaves(Settings())
    )
    return "\n".join(lines)


def _leaves(group: BaseModel, prefix: str = "") -> Iterator[tuple[str, object, str]]:
    for name, field in type(group).model_fields.items():
        value = getattr(group, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, str(value) if isinstance(value, Path) else value, field.description or ""
