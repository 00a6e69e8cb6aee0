"""`uplift resolve`: what a job waits for, and a person's decision (requirements D2, D3, D4)."""

import json
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from uplift_cli.gateway_api import GatewayApi, gateway_api, gateway_options
from uplift_cli.options import config_option, home_option, overrides
from uplift_cli.tables import print_table
from uplift_settings import load

_ASK = 40.0
"""Seconds for the gateway's answer: it asks Temporal and the worker."""
_LOOK_EVERY = 0.5
_MEANINGS = {
    "retry": "try again what could not be done",
    "skip": "go on without it",
    "old": "take everything back, open the old version",
    "new": "switch to the new version, open it",
}


@click.command()
@click.argument("job")
@click.argument("decision", required=False, type=click.Choice(tuple(_MEANINGS)))
@click.option("--reason", default="", help="Why, for those who read the job.")
@click.option("--force", is_flag=True, help="With `new`: although tenant init did not end well.")
@click.option("--no-wait", is_flag=True, help="With `old` and `new`: do not wait for the job's end.")
@click.option("--json", "as_json", is_flag=True, help="Print the gateway's answer as JSON, for programs.")
@home_option
@config_option
@gateway_options
def resolve(
    job: str,
    decision: str | None,
    reason: str,
    force: bool,
    no_wait: bool,
    as_json: bool,
    home: Path | None,
    config: Path | None,
    gateway: str | None,
    token: str | None,
) -> None:
    """Show what JOB waits for, or decide about it: retry, skip, old or new.

    A job that waits at a hold point goes on with `retry` or `skip`. One that has ended and left its tenant held goes back to the
    old version with `old`, or on to the new one with `new`. Exit status 1: it ended otherwise than was decided.
    """
    if force and decision != "new":
        raise click.UsageError("--force goes with new only")
    api = gateway_api(load(config=config, overrides=overrides(home)), gateway=gateway, token=token)
    path = f"/_/runs/{quote(job, safe='')}/resolve"
    if decision is None:
        found = api.call("GET", path, timeout=_ASK)
        click.echo(json.dumps(found, indent=2)) if as_json else _show(found)
        return
    found = api.call("POST", path, {"decision": decision, "reason": reason, "force": force}, timeout=_ASK)
    if decision in ("old", "new") and not no_wait:
        found = _ended(api, path)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        click.echo(_told(found, job, decision))
    if found.get("outcome") in ("failed", "aborted", "rollback_failed"):
        sys.exit(1)


def _ended(api: GatewayApi, path: str) -> Any:
    """How the job stands when it has ended, or waits for a person again."""
    while True:
        found = api.call("GET", path, timeout=_ASK)
        if found["outcome"] or found["waiting"]:
            return found
        time.sleep(_LOOK_EVERY)


def _told(found: Any, job: str, decision: str) -> str:
    if not found.get("outcome"):
        again = "; it waits for a decision again: uplift resolve shows it" if found.get("waiting") else ""
        return f"{decision}: job {job} goes on, phase {found['phase']}{again}"
    why = "".join(f"\n  {error['message']}" for error in found["errors"]) if found["status"] == "error" else ""
    return f"{decision}: job {job} has ended as {found['outcome']}{why}"


def _show(found: Any) -> None:
    state = f"has ended as {found['outcome']}" if found["outcome"] else f"is at work, phase {found['phase']}"
    click.echo(f"job {found['job']} of tenant {found['tenant']} {state}")
    for error in found["errors"]:
        click.echo(f"  {error['message']}")
    if found["held"]:
        rows = [
            (
                each["product"],
                each["old"] or "-",
                each["new"] or "-",
                each["since"][:19],
                each["init"],
                each["dataVersion"] or "-",
                (each["copy"] or {}).get("path") or "-",
            )
            for each in found["held"]
        ]
        print_table(("held", "old version", "new version", "since", "tenant init", "data is at", "copy"), rows)
    for each in found["waiting"] or ():
        click.echo(f"run {each['run']} waits: {each['why']}")
    if found["waiting"] is None:
        click.echo("Temporal or its worker does not answer: why it waits cannot be asked now")
    if not found["possible"]:
        click.echo("there is nothing to decide")
    for each in found["possible"]:
        click.echo(f"uplift resolve {found['job']} {each}: {_MEANINGS[each]}")
