"""`uplift gateway`."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import click

from gateway.parent import Parent
from gateway.slots import Plan
from uplift_cli.gateway_reload import pid_file, reload
from uplift_cli.options import config_option
from uplift_settings import load
from uplift_settings.logs import log_to_stderr

_CHILD = (sys.executable, "-m", "gateway.main")
STOP_MARGIN = 5.0
"""Seconds beyond `gateway.stop_grace` after which a process hangs, and is killed."""


@click.group(invoke_without_command=True)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    help="Processes that share the port; one for each core to use.  [default: the setting `gateway.processes`, 1]",
)
@click.option("--host", help="Address to listen on.  [default: the setting `gateway.host`, 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port; 0: a free one.  [default: the setting `gateway.port`, 9130]")
@config_option
@click.option("--check", is_flag=True, help="Read the settings and end: 0 if it could start.")
@click.pass_context
def gateway(
    ctx: click.Context, processes: int | None, host: str | None, port: int | None, config: Path | None, check: bool
) -> None:
    """Run the gateway until Ctrl-C or SIGTERM, in processes that can be replaced while users work.

    Without a command it runs; `reload` replaces what runs, without a failed request.

    A small parent owns the port and starts the gateway's processes; one that dies is started again. It listens to signals:

    \b
    TERM, INT  stop accepting, finish what is open (up to the setting
               `gateway.stop_grace`), end; a second one ends at once
    HUP        replace the processes, one after the other, without a failed
               request: for new settings or a new version
    USR2       replace the parent's own program, processes untouched

    An upgrade in place is a new version installed, then `uplift gateway reload`, which sends USR2, then HUP, and waits. What
    does not start is logged, and the old goes on.

    The port may be handed over: by systemd (socket activation), or as a descriptor named by $UPLIFT_LISTEN_FD.
    """  # noqa: D301 - click's mark of a list
    given: dict[str, Any] = {"processes": processes, "host": host, "port": port}
    overrides = {"gateway": {key: value for key, value in given.items() if value is not None}}
    if ctx.invoked_subcommand is not None:
        if config is not None or check or overrides["gateway"]:
            raise click.UsageError(f"these options are for running; those of `{ctx.invoked_subcommand}` come after its name")
        return
    found = load(config=config, overrides=overrides)
    settings = found.gateway
    if check:
        return
    if config is not None:
        os.environ["UPLIFT_CONFIG"] = str(config.absolute())
    log_to_stderr(found.log)
    again = (sys.executable, *sys.orig_argv[1:])
    plan = Plan(
        command=_CHILD,
        processes=settings.processes,
        host=settings.host,
        port=settings.port,
        node=settings.node,
        start_timeout=settings.start_timeout,
        stop_timeout=settings.stop_grace + STOP_MARGIN,
        restart_pause=settings.restart_pause,
        again=again,
        check=(*again, "--check"),
        pid_file=str(pid_file(found)),
    )
    ctx.exit(asyncio.run(_run(plan)))


gateway.add_command(reload)


async def _run(plan: Plan) -> int:
    return await Parent(plan, env=os.environ).run()
