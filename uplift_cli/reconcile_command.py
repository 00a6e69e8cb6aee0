"""`uplift reconcile`."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from uplift_cli.errors import UpliftError
from uplift_cli.gateway_api import GatewayApi, NoAnswer, Refused, gateway_api, gateway_options
from uplift_cli.options import config_option, home_option, overrides
from uplift_cli.tables import print_table
from uplift_settings import load

_PAUSE = 0.5
"""Seconds between looks for the report."""


class NoReport(UpliftError):
    """The run did not report. The message says what is missing."""


@click.command()
@home_option
@config_option
@gateway_options
@click.option("--repair/--dry-run", default=True, help="Repair what is harmless to repair, or only tell.  [default: repair]")
@click.option("--wait", default=300.0, show_default=True, metavar="SECONDS", help="How long to wait for the report.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, for programs.")
@click.pass_context
def reconcile(
    context: click.Context,
    home: Path | None,
    config: Path | None,
    gateway: str | None,
    token: str | None,
    *,
    repair: bool,
    wait: float,
    as_json: bool,
) -> None:
    """Compare what rows, runs, processes and files say, and repair what is harmless.

    Exit status: 0 when everything fits together, 1 when differences are left, 2 when there is no report.
    """
    api = gateway_api(load(config=config, overrides=overrides(home)), gateway=gateway, token=token)
    try:
        report = _run(api, repair=repair, wait=wait, tell=lambda line: click.echo(line, err=True))
    except (NoReport, NoAnswer, Refused) as error:
        click.echo(f"Error: {error}", err=True)
        context.exit(2)
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        _show(report)
    context.exit(1 if report["differences"] or report["more"] else 0)


def _run(api: GatewayApi, *, repair: bool, wait: float, tell: Callable[[str], None]) -> dict[str, Any]:
    asked = api.call("POST", f"/_/reconcile?repair={'true' if repair else 'false'}")["request"]
    tell("asked for; the run begins when Temporal and a worker are there")
    deadline, told = time.monotonic() + wait, False
    while True:
        found = api.call("GET", "/_/reconcile")
        report, pending = found["report"], found["pending"]
        if report is not None and report["request"] == asked:
            return dict(report)
        if pending is None or pending["request"] != asked:
            raise NoReport("somebody else has asked for a run meanwhile: GET /_/reconcile has its report")
        if pending["started"] and not told:
            tell("it looks twice, some seconds apart (reconcile.settle)")
            told = True
        if time.monotonic() > deadline:
            why = "its run has not ended yet" if pending["started"] else "its run has not begun: is Temporal there?"
            raise NoReport(f"no report after {wait:g} s: {why} GET /_/reconcile has it when it comes")
        time.sleep(_PAUSE)


def _show(report: dict[str, Any]) -> None:
    rows = [("repaired", each["key"], each["message"], each["remedy"]) for each in report["repaired"]]
    rows += [("left", each["key"], each["message"], each["remedy"]) for each in report["differences"]]
    if rows:
        print_table(("", "difference", "what", "what to do"), rows)
    else:
        click.echo("no differences")
    if report["more"]:
        click.echo(f"and {report['more']} more; the next run tells them when these are gone")
    for node in report["silent"]:
        click.echo(f"node {node} did not answer and was not looked at")
