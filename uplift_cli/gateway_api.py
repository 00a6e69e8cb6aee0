"""Calls of the gateway's admin API by commands: which gateway, with which token, and its refusals as messages."""

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import click
import httpx

from uplift_cli.errors import UpliftError
from uplift_cli.stack.state import read_record
from uplift_settings import Settings, read_secret

_Command = TypeVar("_Command", bound=Callable[..., Any])
_TIMEOUT = 10.0
"""Seconds for the gateway's answer."""
_DETAIL = 2_000


class NoAnswer(UpliftError):
    """The gateway did not say what it knows. The message names its address and what to do."""


class Refused(UpliftError):
    """The gateway answered that what was asked does not fit. The message is its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayApi:
    """The admin API of one gateway.

    Attributes:
        url: Its address.
        token: Bearer token; empty: none.
    """

    url: str
    token: str = ""

    def call(self, method: str, path: str, body: Any = None, *, timeout: float = _TIMEOUT) -> Any:
        """One call; the answer's JSON.

        Raises:
            NoAnswer: No answer, or one that no gateway gives.
            Refused: 400, 404 or 409.
        """
        answer = self._ask(method, path, body, timeout)
        try:
            return answer.json()
        except ValueError as error:
            raise self._no_answer(error) from error

    def create(self, path: str, body: Any = None, *, timeout: float = _TIMEOUT) -> str:
        """POST something that gets a place of its own; the path of that place.

        Raises:
            NoAnswer: No answer, or one that no gateway gives.
            Refused: 400, 404 or 409.
        """
        answer = self._ask("POST", path, body, timeout)
        if "Location" not in answer.headers:
            raise self._no_answer("it does not say where what it made is")
        return answer.headers["Location"]

    def _ask(self, method: str, path: str, body: Any, timeout: float) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            answer = httpx.request(method, self.url + path, headers=headers, json=body, timeout=timeout, trust_env=False)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise self._no_answer(error) from error
        if answer.is_success:
            return answer
        if answer.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise NoAnswer(
                f"the gateway at {self.url} refuses us: give a token with the role that this asks for, with --token env:NAME or"
                " file:PATH"
            )
        if answer.status_code in (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
            raise Refused(answer.text[:_DETAIL])
        raise NoAnswer(f"the gateway at {self.url} answered {answer.status_code}: {answer.text[:300]}")

    def _no_answer(self, why: object) -> NoAnswer:
        return NoAnswer(
            f"the gateway at {self.url} does not answer: {why}; is it running (`uplift status`)? --gateway names another"
        )


def gateway_options(command: _Command) -> _Command:
    """`--gateway URL` and `--token REFERENCE`."""
    with_token = click.option(
        "--token", metavar="REFERENCE", help="Its bearer token, as env:NAME or file:PATH.  [default: gateway.token_file]"
    )(command)
    return click.option(
        "--gateway", metavar="URL", help="Ask this gateway.  [default: that of the stack in the folder, else of the settings]"
    )(with_token)


def gateway_api(settings: Settings, *, gateway: str | None, token: str | None) -> GatewayApi:
    """The gateway that a command asks.

    Args:
        settings: The settings.
        gateway: Its address, if the command line names it.
        token: Reference of its token, if the command line names it.

    Raises:
        SecretError: The token cannot be read.
    """
    if token is None and settings.gateway.token_file:
        token = f"file:{Path(settings.gateway.token_file).expanduser()}"
    secret = read_secret(token, what="the gateway's token") if token else ""
    return GatewayApi(url=(gateway or _address(settings)).rstrip("/"), token=secret)


def _address(settings: Settings) -> str:
    record = read_record(settings.home_folder)
    if record is not None and record.url:
        return record.url
    return settings.gateway.url or f"http://{settings.gateway.host}:{settings.gateway.port}"
