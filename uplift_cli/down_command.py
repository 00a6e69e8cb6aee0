"""`uplift down`."""

import asyncio
from pathlib import Path

import click

from uplift_cli.options import config_option, home_option, overrides
from uplift_cli.stack.shutdown import shut_down
from uplift_settings import load


@click.command()
@home_option
@config_option
def down(home: Path | None, config: Path | None) -> None:
    """Stop what `uplift up` runs in a folder, and wait until it has ended. Data stays.

    Also ends what a killed `uplift up` left running. Nothing to stop is fine.
    """
    settings = load(config=config, overrides=overrides(home))
    found = asyncio.run(shut_down(settings, say=lambda line: click.echo(line, err=True)))
    click.echo(f"stopped ({settings.home_folder})" if found else f"not running ({settings.home_folder})")
