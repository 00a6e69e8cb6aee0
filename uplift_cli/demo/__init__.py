"""`uplift demo`: upgrades under load in an embedded stack of its own, checked row by row."""

import asyncio
import sys
from pathlib import Path

import click

_MOST_WRITES = 200
_MOST_TENANTS = 10


@click.command()
@click.option("--keep", is_flag=True, help="Leave the stack running afterwards, to look around in the Temporal UI.")
@click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    help="Fresh folder to run in; it stays.  [default: a temporary one, removed unless something failed]",
)
@click.option("--port", type=click.IntRange(0, 65_535), default=0, help="Port of the gateway.  [default: a free one]")
@click.option("--tenants", type=click.IntRange(1, _MOST_TENANTS), default=3, show_default=True, help="How many tenants.")
@click.option(
    "--writes",
    type=click.IntRange(2, _MOST_WRITES),
    default=30,
    show_default=True,
    help="Writes per second of each tenant; half as many reads come with them.",
)
@click.option("--plain", is_flag=True, help="Print lines instead of a live view, as without a terminal.")
@click.pass_context
def demo(ctx: click.Context, keep: bool, home: Path | None, port: int, tenants: int, writes: int, plain: bool) -> None:
    """Watch upgrades under load, from an empty folder, in about a minute.

    Starts a stack of its own with two example modules, of which mod-loans asks mod-users, and tenants whose users write and
    read all the time. Then it upgrades all tenants with a migration that splits a column; upgrades one to a release whose
    migration fails half way; goes back; and kills worker, gateway and Temporal with -9 in the middle of another migration.
    After each step every acknowledged write is looked up in the database.

    Exit code 0: no request failed, no acknowledged write was lost or damaged, the rollback left the schema as it was, and the
    runs that were killed ended well. Else 1, with what does not hold.
    """
    # Imported here: `uplift demo --help` must not wait for them.
    from uplift_cli.demo.run import DemoRequest, run_demo  # noqa: PLC0415

    live = not plain and sys.stdout.isatty()
    request = DemoRequest(home=home, port=port, tenants=tenants, writes=writes, keep=keep, live=live)
    try:
        good = asyncio.run(run_demo(request))
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise click.Abort from None
    if not good:
        ctx.exit(1)
