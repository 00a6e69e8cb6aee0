"""`uplift install` and `uplift upgrade`: jobs of a tenant, and a look at what they would do (requirements B7, C1-C3)."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import click

from uplift_cli.gateway_api import GatewayApi, gateway_api, gateway_options
from uplift_cli.options import config_option, home_option, overrides
from uplift_cli.tables import print_table
from uplift_settings import load

_Command = TypeVar("_Command", bound=Callable[..., Any])
_ASK = 60.0
"""Seconds for the gateway's answer: a whole platform is planned."""
_LOOK_EVERY = 0.5


def _job_options(command: _Command) -> _Command:
    """What both commands take."""
    for option in (
        gateway_options,
        config_option,
        home_option,
        click.option("--json", "as_json", is_flag=True, help="Print the gateway's answer as JSON, for programs."),
        click.option("--no-wait", is_flag=True, help="Do not wait for the job's end."),
        click.option(
            "--option",
            "options",
            multiple=True,
            metavar="NAME=VALUE",
            help="A parameter of the request, such as parallel=4 or ignoreErrors=true; may be given more than once.",
        ),
        click.option("--plan", metavar="DIGEST", help="Do exactly the plan of this digest, or nothing."),
        click.option("--dry-run", is_flag=True, help="Only show the plan."),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("tenant")
@click.argument("modules", nargs=-1, metavar="[MODULE]...")
@click.option("--disable", multiple=True, metavar="MODULE", help="Disable a module; its data stays. Again for more.")
@click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help='A JSON list such as [{"id": "mod-users-2.0.0", "action": "enable"}], as releases publish it.',
)
@_job_options
def install(
    tenant: str,
    modules: tuple[str, ...],
    disable: tuple[str, ...],
    file: Path | None,
    home: Path | None,
    config: Path | None,
    gateway: str | None,
    token: str | None,
    **options: Any,
) -> None:
    """Enable, upgrade or disable modules of TENANT, with what they need.

    MODULE is an id, or a product for its newest version. The job goes on when this command is interrupted. Exit status 1: it
    did not end as `done`.
    """
    lines = _lines(file)
    lines += [{"id": module, "action": "enable"} for module in modules]
    lines += [{"id": module, "action": "disable"} for module in disable]
    if not lines:
        raise click.UsageError("name a module, or --disable one, or give a --file; `uplift upgrade` takes all to the newest")
    api = gateway_api(load(config=config, overrides=overrides(home)), gateway=gateway, token=token)
    _run(api, tenant, "install", lines, **options)


@click.command()
@click.argument("tenant")
@_job_options
def upgrade(tenant: str, home: Path | None, config: Path | None, gateway: str | None, token: str | None, **options: Any) -> None:
    """Take all modules of TENANT to their newest versions, in one job.

    The job goes on when this command is interrupted. Exit status 1: it did not end as `done`.
    """
    api = gateway_api(load(config=config, overrides=overrides(home)), gateway=gateway, token=token)
    _run(api, tenant, "upgrade", None, **options)


def _lines(file: Path | None) -> list[Any]:
    if file is None:
        return []
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise click.UsageError(f"{file} is no JSON: {error}") from error
    if not isinstance(found, list):
        raise click.UsageError(f'{file} is no list such as [{{"id": "mod-users-2.0.0", "action": "enable"}}]')
    return found


def _run(
    api: GatewayApi,
    tenant: str,
    verb: str,
    body: Any,
    *,
    dry_run: bool,
    plan: str | None,
    options: tuple[str, ...],
    no_wait: bool,
    as_json: bool,
) -> None:
    query = dict(_pair(option) for option in options)
    query |= {"dryRun" if dry_run else "async": "true"} | ({} if plan is None else {"plan": plan})
    path = f"/_/proxy/tenants/{quote(tenant, safe='')}/{verb}?{urlencode(query)}"
    if dry_run:
        found = api.call("POST", path, body, timeout=_ASK)
        click.echo(json.dumps(found, indent=2)) if as_json else _show_plan(found)
        return
    place = api.create(path, body, timeout=_ASK)
    job = api.call("GET", place)
    click.echo(f"job {job['id']}", err=True)
    if not no_wait:
        job = _ended(api, place, job)
    click.echo(json.dumps(job, indent=2)) if as_json else _show_job(job)
    if job["status"] == "error":
        sys.exit(1)


def _pair(option: str) -> tuple[str, str]:
    name, equals, value = option.partition("=")
    if not name or not equals:
        raise click.UsageError(f"--option {option}: give NAME=VALUE")
    return name, value


def _ended(api: GatewayApi, place: str, job: Any) -> Any:
    """The job when it has ended; its phases are told on the way."""
    phase = ""
    while True:
        if job["phase"] != phase and not job["complete"]:
            phase = job["phase"]
            remedy = f"; `uplift resolve {job['id']}` shows why" if phase == "needs_operator" else ""
            click.echo(f"{phase}{remedy}", err=True)
        if job["complete"]:
            return job
        time.sleep(_LOOK_EVERY)
        job = api.call("GET", place)


def _show_job(job: Any) -> None:
    rows = [(line["action"], line["id"], line.get("from", "-"), line.get("outcome", "-")) for line in job["modules"]]
    if rows:
        print_table(("action", "module", "from", "tenant init"), rows)
    for each in job["warnings"]:
        click.echo(f"warning: {each['message']}")
    for each in job["errors"]:
        click.echo(f"error: {each['message']}")
    ended = f"has ended as {job['outcome']}; held {_seconds(job['heldSeconds'])}" if job["complete"] else f"is {job['phase']}"
    click.echo(f"job {job['id']} {ended}")


def _show_plan(plan: Any) -> None:
    rows = [
        (
            group["key"],
            change["kind"],
            change["id"],
            change.get("from", "-"),
            change.get("undo", "-"),
            change.get("instance", "-"),
            _seconds(group["heldSeconds"]) if change is group["changes"][0] else "",
        )
        for group in plan["groups"]
        for change in group["changes"]
    ]
    if rows:
        print_table(("group", "change", "module", "data is at", "undo", "instance", "held"), rows)
    else:
        click.echo("nothing to do")
    for text in plan["warnings"]:
        click.echo(f"warning: {text}")
    if plan["deploys"]:
        click.echo(f"started for it: {', '.join(plan['deploys'])}")
    if rows:
        click.echo(f"requests wait: {_held(plan)}")
    click.echo(f"plan: {plan['digest']}")


def _held(plan: Any) -> str:
    unknown = plan["heldUnknown"]
    if plan["heldSeconds"] is None:
        return "nothing is known, since nothing like this was done before"
    about = f"about {_seconds(plan['heldSeconds'])} in all"
    return about if not unknown else f"{about}, and an unknown time for {unknown} group{'s' if unknown > 1 else ''}"


def _seconds(seconds: float | None) -> str:
    return "?" if seconds is None else f"{seconds:.1f} s"
