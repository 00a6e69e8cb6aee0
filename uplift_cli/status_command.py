"""`uplift status`."""

import asyncio
import dataclasses
import json
from datetime import datetime
from pathlib import Path

import click

from uplift_cli.options import config_option, home_option, overrides
from uplift_cli.stack.status import Status, look
from uplift_cli.tables import print_table
from uplift_settings import load

NOT_RUNNING = 3


@click.command()
@home_option
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
@click.pass_context
def status(ctx: click.Context, home: Path | None, config: Path | None, as_json: bool) -> None:
    """Show what runs where: parts of the stack and the modules' instances.

    An instance whose process died is `down` until the worker has started it again.

    Exit code 3 when nothing runs in the folder.
    """
    seen = asyncio.run(look(load(config=config, overrides=overrides(home))))
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(seen), "running": seen.running}, indent=2))
    else:
        _show(seen)
    if not seen.running:
        ctx.exit(NOT_RUNNING)


def _show(seen: Status) -> None:
    if not seen.running:
        click.echo(f"not running ({seen.home})")
        return
    rows = [
        (row.part, row.state, str(row.pid or "-"), _count(row.restarts), row.address, _when(row.since), row.log)
        for row in seen.rows
    ]
    print_table(("part", "state", "pid", "restarts", "address", "since", "log"), rows)
    click.echo(f"gateway: {seen.url}\nTemporal UI: {seen.ui_url}")
    if seen.supervisor is None:
        click.echo("no `uplift up` looks after these: the next one takes the folder over, `uplift down` ends them")


def _count(number: int | None) -> str:
    return "-" if number is None else str(number)


def _when(since: float | None) -> str:
    return "-" if since is None else datetime.fromtimestamp(since).astimezone().strftime("%Y-%m-%d %H:%M:%S")
