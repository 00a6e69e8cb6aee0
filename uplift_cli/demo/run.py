"""The demo from an empty folder to the last table."""

import asyncio
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import click
from asyncpg import PostgresError

from gateway_client import GatewayClient, GatewayError
from uplift_cli.demo.board import Board, TenantState
from uplift_cli.demo.check import Checker
from uplift_cli.demo.embedded import DemoStack
from uplift_cli.demo.errors import DemoError, StepFailed
from uplift_cli.demo.load import TenantLoad
from uplift_cli.demo.platform import Platform
from uplift_cli.demo.requests import Caller
from uplift_cli.demo.scenario import Scenario
from uplift_cli.demo.verdict import HEAD, STEPS_HEAD, Claim, about_requests, failed, steps_table, table, write_failures
from uplift_cli.demo.view import print_event, shown
from uplift_cli.demo.watcher import watch
from uplift_cli.tables import print_table

_NAMES = ("north", "south", "east", "west", "hill", "lake", "moor", "dale", "ford", "glen")
_HOLD_MAX = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoRequest:
    """What to show.

    Attributes:
        home: Folder; None: a temporary one, removed if all goes well.
        port: The gateway's; 0: a free one.
        tenants: How many.
        writes: Per tenant and second.
        keep: Whether the stack goes on running afterwards.
        live: Whether a picture is drawn; else lines are printed.
    """

    home: Path | None
    port: int
    tenants: int
    writes: int
    keep: bool
    live: bool


async def run_demo(request: DemoRequest) -> bool:
    """Run the demo; whether all that must hold did.

    Raises:
        DemoError: It could not be run at all, or the stack could not be stopped.
    """
    home = _folder(request.home)
    board = Board(announce=(lambda _elapsed, _text: None) if request.live else print_event)
    board.say(f"folder: {home}")
    stack = DemoStack(home=home, port=request.port, settings=_settings(request), say=board.say)
    good = False
    with _cancelled_by_signals():
        try:
            good = await _run(request, board, stack)
        finally:
            if good and request.keep:
                _tell_kept(stack)
            else:
                click.echo("stopping the stack", err=True)
                await stack.stop()
            if not good:
                click.echo(f"the folder is kept: logs are in {home / 'logs'} and {home / 'instances' / 'logs'}", err=True)
            elif request.home is None and not request.keep:
                shutil.rmtree(home)
    return good


async def _run(request: DemoRequest, board: Board, stack: DemoStack) -> bool:
    claims: list[Claim] = []
    scenario: Scenario | None = None
    async with shown(board, live=request.live):
        await stack.start()
        caller = Caller(url=stack.url)
        try:
            async with GatewayClient(url=stack.url) as client:
                for number, name in enumerate(_NAMES[: request.tenants]):
                    load = TenantLoad(tenant=name, caller=caller, writes=request.writes, step=lambda: board.step, seed=number)
                    board.tenants[name] = TenantState(load=load)
                platform = Platform(client)
                checker = Checker(dsn=stack.modules_dsn)
                scenario = Scenario(board=board, stack=stack, platform=platform, caller=caller, checker=checker)
                watching = asyncio.create_task(watch(board, platform))
                try:
                    await scenario.run()
                except (StepFailed, GatewayError, PostgresError) as error:
                    claims.append(Claim(text="every step could be done", holds=False, detail=str(error)))
                finally:
                    watching.cancel()
                    with suppress(asyncio.CancelledError):
                        await watching
        finally:
            await caller.close()
    claims = [*scenario.claims, *claims, *about_requests(board.tenants, writes=request.writes, seconds=scenario.load_seconds)]
    click.echo()
    for claim in claims:
        click.echo(claim.line())
    click.echo()
    print_table(STEPS_HEAD, steps_table(board.tenants))
    click.echo()
    print_table(HEAD, table(board.tenants, scenario.findings))
    click.echo()
    bad = failed(claims)
    click.echo(f"all {len(claims)} hold, after {board.elapsed:.0f} s" if not bad else f"{len(bad)} of {len(claims)} do not hold:")
    for claim in bad:
        click.echo(f"  {claim.text}")
    if bad:
        write_failures(stack.home / "failures.txt", board.tenants, scenario.findings)
        click.echo(f"every failed request and every finding: {stack.home / 'failures.txt'}")
    return not bad


def _folder(wanted: Path | None) -> Path:
    if wanted is None:
        return Path(tempfile.mkdtemp(prefix="uplift-demo-"))
    home = wanted.expanduser().absolute()
    if home.exists() and any(home.iterdir()):
        raise DemoError(f"{home} is not empty: the demo wants a fresh folder, name another one with --home")
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return home


def _settings(request: DemoRequest) -> str:
    # Room for all that a tenant sends while it is held for as long as it may.
    parked = max(2_000, 2 * request.writes * _HOLD_MAX)
    return f"""\
[gateway]
hold_max = {_HOLD_MAX}
parked_per_tenant = {parked}
parked_total = {parked * request.tenants}

[deploy]
# A minute is for users who stay in an old version; here somebody watches.
retire_after = 3.0
"""


def _tell_kept(stack: DemoStack) -> None:
    click.echo(f"gateway: {stack.url}")
    click.echo(f"Temporal UI: {stack.record.ui_url}")
    click.echo(f"it goes on running; to stop it: uplift down --home {stack.home}, then remove the folder")


@contextmanager
def _cancelled_by_signals() -> Iterator[None]:
    """End in order when somebody wants the end: the stack is stopped before."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for signum in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(signum, task.cancel)
    try:
        yield
    finally:
        for signum in (signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(signum)
