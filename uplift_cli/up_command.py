"""`uplift up`."""

import asyncio
from pathlib import Path

import click

from uplift_cli.options import config_option, home_option, overrides
from uplift_cli.stack.embedded import UpRequest, run_stack
from uplift_settings import load


class PortRange(click.ParamType[tuple[int, int]]):
    """`A-B`, both included."""

    name = "A-B"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """The first and the last port."""
        first, dash, last = str(value).partition("-")
        if not (dash and first.isdigit() and last.isdigit() and 0 < int(first) <= int(last) <= 65_535):
            self.fail(f"{value!r} is not a range of ports such as 9131-9230", param, ctx)
        return int(first), int(last)


@click.command()
@home_option
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    help="Port of the gateway; 0: a free one, kept for the folder.  [default: the setting `gateway.port`, else the folder's, "
    "else 9130]",
)
@click.option(
    "--module-ports",
    type=PortRange(),
    help="Ports for the modules' instances.  [default: the settings `deploy.port_…`, else the folder's, else the hundred after "
    "the gateway's]",
)
@config_option
def up(home: Path | None, port: int | None, module_ports: tuple[int, int] | None, config: Path | None) -> None:
    """Run everything on this machine, in one folder, until Ctrl-C.

    Starts Postgres, Temporal with its UI, the gateway and a worker; what dies is started again. All state is kept in the
    folder, so that the next `uplift up` goes on where this one ended, also after a crash, at the same ports. Ctrl-C stops all
    parts and the modules they started, in order; a second Ctrl-C kills them.

    Prints `ready: URL` on standard output when the gateway answers and runs are carried out; everything else goes to standard
    error. Modules that ran before are being started again then: that takes as long as they take, `uplift status` shows them.
    """
    settings = load(config=config, overrides=overrides(home))
    request = UpRequest(settings=settings, config=config, port=port, module_ports=module_ports)
    asyncio.run(run_stack(request, say=_say, announce=_announce))


def _say(line: str) -> None:
    click.echo(line, err=True)


def _announce(url: str) -> None:
    click.echo(f"ready: {url}")
