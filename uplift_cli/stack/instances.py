"""The modules' processes of an embedded stack: shown by `uplift status`, stopped with the stack."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from deployers.base import DeployError, Running
from deployers.process import ProcessDeployer
from deployers.records import Record, Records
from uplift_cli.stack.errors import StackError
from uplift_settings import SecretError, Settings, read_secret

_GATEWAY_WAIT = 2.0


def deployer(home: Path, settings: Settings) -> ProcessDeployer:
    """The deployer of a folder's instances, as the worker has it."""
    return ProcessDeployer(folder=home / "instances", settings=settings.deploy)


async def running(home: Path, settings: Settings) -> Sequence[Running]:
    """Instances whose processes live, by id; none where none was ever started.

    Raises:
        StackError: A record cannot be read.
    """
    if not (home / "instances").exists():
        return ()
    try:
        return await deployer(home, settings).list()
    except DeployError as error:
        raise StackError(str(error)) from error


def recorded(home: Path) -> Sequence[Record]:
    """Instances that were started here and neither stopped nor retired, by id, whether their processes live or not.

    Raises:
        StackError: A record cannot be read.
    """
    try:
        return Records(home / "instances").all()
    except DeployError as error:
        raise StackError(str(error)) from error


def log(home: Path, inst_id: str) -> Path:
    """Path of an instance's output."""
    return Records(home / "instances").log(inst_id)


async def known(settings: Settings, *, url: str) -> frozenset[str]:
    """Ids of the instances that the gateway knows as deployed here; none where it does not say.

    Args:
        settings: For a token of the gateway's and the node's name.
        url: The gateway's address.
    """
    from gateway_client import GatewayClient, GatewayError  # noqa: PLC0415 - a tenth of a second that a first start saves

    file, reference = settings.gateway.token_file, settings.worker.gateway_token
    try:
        token = read_secret(reference, what="worker.gateway_token") if reference else ""
        token = read_secret(f"file:{Path(file).expanduser()}", what="gateway.token_file") if file else token
        async with GatewayClient(url=url, token=token, timeout=_GATEWAY_WAIT) as gateway:
            versions = [version for version in await gateway.versions() if not version.retiring]
    except (GatewayError, SecretError):
        return frozenset()
    return frozenset(each.id for version in versions for each in version.instances if each.node == settings.worker.node)


async def stop_all(home: Path, settings: Settings, *, say: Callable[[str], None]) -> None:
    """Stop all instances. The gateway remembers them: the worker's keeper starts them again with the next `uplift up`.

    Args:
        home: The folder.
        settings: How long each gets.
        say: Told one line for each that is waited for and has stopped.
    """
    modules = deployer(home, settings)

    async def stop(each: Running) -> None:
        await modules.stop(each.inst_id)
        say(f"{each.module_id} stopped")

    found = await running(home, settings)
    if found:
        say(f"stopping {count(len(found))} (up to {settings.deploy.stop_grace:g} s)")
    await asyncio.gather(*(stop(each) for each in found))


def count(number: int) -> str:
    """`1 instance`, `2 instances`."""
    return f"{number} instance{'' if number == 1 else 's'}"


async def kill_all(home: Path, settings: Settings) -> None:
    """Kill all instances at once."""
    for each in await running(home, settings):
        if each.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(each.pid, signal.SIGKILL)
