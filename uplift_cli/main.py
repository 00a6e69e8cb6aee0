"""`uplift`: the table of its commands, and the way out of the process."""

import os
import sys
from typing import NoReturn

import click

from uplift_cli.lazy import Entry, LazyGroup

COMMANDS = {
    "up": Entry(target="uplift_cli.up_command:up", summary="Run everything on this machine, in one folder."),
    "status": Entry(target="uplift_cli.status_command:status", summary="Show what runs where."),
    "install": Entry(
        target="uplift_cli.install_command:install", summary="Enable, upgrade or disable modules of a tenant; show the plan."
    ),
    "upgrade": Entry(
        target="uplift_cli.install_command:upgrade", summary="Take all modules of a tenant to their newest versions."
    ),
    "problems": Entry(target="uplift_cli.problems_command:problems", summary="Show what an administrator should know now."),
    "resolve": Entry(target="uplift_cli.resolve_command:resolve", summary="Decide about a job that waits for a person."),
    "reconcile": Entry(
        target="uplift_cli.reconcile_command:reconcile", summary="Compare what rows, runs, processes and files say."
    ),
    "down": Entry(target="uplift_cli.down_command:down", summary="Stop what `uplift up` runs in a folder."),
    "demo": Entry(target="uplift_cli.demo:demo", summary="Watch an upgrade under load, from an empty folder."),
    "gateway": Entry(target="uplift_cli.gateway_command:gateway", summary="Run the gateway, in processes that can be replaced."),
    "config": Entry(target="uplift_cli.config_command:config", summary="Show every setting, its value and its source."),
    "token": Entry(target="uplift_cli.token_command:token", summary="Make, list and revoke tokens of the admin API."),
    "setup": Entry(target="uplift_cli.setup_command:setup", summary="Fetch what cannot come from the Python lock."),
}


@click.group(cls=LazyGroup, entries=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="uplift-upgrades", prog_name="uplift")
def cli() -> None:
    """Upgrade the modules of a multi-tenant platform while its users go on working."""


def main() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    code: int
    try:
        cli(prog_name="uplift")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    sys.stdout.flush()
    sys.stderr.flush()
    if "temporalio" in sys.modules:
        # The SDK's threads may crash the interpreter on its way out, after correct work (sdk-python issue 300).
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
