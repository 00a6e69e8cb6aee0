"""`uplift problems`."""

import json
from datetime import datetime
from pathlib import Path

import click

from uplift_cli.gateway_api import gateway_api, gateway_options
from uplift_cli.options import config_option, home_option, overrides
from uplift_cli.tables import print_table
from uplift_settings import load


@click.command()
@home_option
@config_option
@gateway_options
@click.option("--json", "as_json", is_flag=True, help="Print the gateway's list as JSON, for programs.")
def problems(home: Path | None, config: Path | None, gateway: str | None, token: str | None, as_json: bool) -> None:
    """Show what an administrator should know now, and what to do about it.

    What needs nobody any more is not shown. The same is told by the gateway's notifiers (gateway.notifiers).
    """
    api = gateway_api(load(config=config, overrides=overrides(home)), gateway=gateway, token=token)
    found = api.call("GET", "/_/lifecycle/problems")
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif not found:
        click.echo("no problems")
    else:
        rows = [(each["severity"], _when(each["since"]), each["key"], each["message"], each["remedy"]) for each in found]
        print_table(("severity", "since", "problem", "what", "what to do"), rows)


def _when(since: str) -> str:
    return datetime.fromisoformat(since).astimezone().strftime("%Y-%m-%d %H:%M:%S")
