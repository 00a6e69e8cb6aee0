"""`uplift problems`."""

import json
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

import click
import httpx

from uplift_cli.errors import UpliftError
from uplift_cli.options import config_option, home_option, overrides
from uplift_cli.stack.state import read_record
from uplift_cli.tables import print_table
from uplift_settings import Settings, load, read_secret

_TIMEOUT = 10.0
"""Seconds for the gateway's answer."""


class NoAnswer(UpliftError):
    """The gateway did not say what it knows. The message names its address and what to do."""


@click.command()
@home_option
@config_option
@click.option(
    "--gateway", metavar="URL", help="Ask this gateway.  [default: that of the stack in the folder, else of the settings]"
)
@click.option("--token", metavar="REFERENCE", help="Its bearer token, as env:NAME or file:PATH.  [default: gateway.token_file]")
@click.option("--json", "as_json", is_flag=True, help="Print the gateway's list as JSON, for programs.")
def problems(home: Path | None, config: Path | None, gateway: str | None, token: str | None, as_json: bool) -> None:
    """Show what an administrator should know now, and what to do about it.

    What needs nobody any more is not shown. The same is told by the gateway's notifiers (gateway.notifiers).
    """
    settings = load(config=config, overrides=overrides(home))
    found = _ask((gateway or gateway_address(settings)).rstrip("/"), gateway_token(settings, token))
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif not found:
        click.echo("no problems")
    else:
        rows = [(each["severity"], _when(each["since"]), each["key"], each["message"], each["remedy"]) for each in found]
        print_table(("severity", "since", "problem", "what", "what to do"), rows)


def gateway_address(settings: Settings) -> str:
    """Where the gateway of the stack in the folder is, else of the settings."""
    record = read_record(settings.home_folder)
    if record is not None and record.url:
        return record.url
    return settings.gateway.url or f"http://{settings.gateway.host}:{settings.gateway.port}"


def gateway_token(settings: Settings, reference: str | None) -> str:
    """The gateway's bearer token, by reference, else that of `gateway.token_file`; empty: none."""
    if reference is None and settings.gateway.token_file:
        reference = f"file:{Path(settings.gateway.token_file).expanduser()}"
    return read_secret(reference, what="the gateway's token") if reference else ""


def _ask(url: str, token: str) -> list[dict[str, Any]]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        answer = httpx.get(f"{url}/_/lifecycle/problems", headers=headers, timeout=_TIMEOUT, trust_env=False)
        if answer.status_code == HTTPStatus.OK:
            found: list[dict[str, Any]] = answer.json()
            return found
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise NoAnswer(
            f"the gateway at {url} does not answer: {error}; is it running (`uplift status`)? --gateway names another"
        ) from error
    if answer.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise NoAnswer(f"the gateway at {url} refuses us: give its token with --token env:NAME or file:PATH")
    raise NoAnswer(f"the gateway at {url} answered {answer.status_code}: {answer.text[:300]}")


def _when(since: str) -> str:
    return datetime.fromisoformat(since).astimezone().strftime("%Y-%m-%d %H:%M:%S")
