"""What every deployer promises."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol


class DeployError(Exception):
    """Root of the errors of deployers."""


class LaunchRefused(DeployError):
    """The launch descriptor cannot be carried out here. Correct the descriptor; nothing was started."""


class NoFreePort(DeployError):
    """All ports of the range are in use. Widen the range or retire instances; nothing was started."""


class ExitedEarly(DeployError):
    """The process ended before it answered. The message ends with its output's tail; nothing is left behind."""


class NeverHealthy(DeployError):
    """It never answered and was stopped again. The message ends with its output's tail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What to start.

    Attributes:
        inst_id: The instance's id, chosen by the caller: starting it again is the same instance.
        module_id: The module's id.
        exec: Command with `%p` for the port, split at blanks (Okapi's LaunchDescriptor).
        cmdline_start: Shell command with `%p` that starts the instance and returns (`sh -c`).
        cmdline_stop: Shell command with `%p` that stops it; used with `cmdline_start`.
        env: Environment beside the inherited one. It may hold secrets: it is never shown.
        port: The port it had before; taken again where it is free.
        avoid: Ports that others are still known by: requests of other instances may yet be sent there.
    """

    inst_id: str
    module_id: str
    exec: str | None = None
    cmdline_start: str | None = None
    cmdline_stop: str | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    port: int | None = None
    avoid: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """An instance that runs.

    Attributes:
        pid: Process id; None where the start command's child could not be told.
        generation: Names this very start: another process of the same instance has another one.
        url: Where it answers, without a trailing slash.
        log: Path of its output.
        adopted: In the answer to `start`: whether the process was there already, so that the given launch counted for nothing.
    """

    inst_id: str
    module_id: str
    pid: int | None
    generation: str
    port: int
    url: str
    log: str
    adopted: bool = field(default=False, compare=False)


class Deployer(Protocol):
    """Starts and stops instances on one node."""

    async def start(self, launch: Launch, *, progress: Callable[[str], Awaitable[None]] | None = None) -> Running:
        """Start an instance and wait until it answers; adopt it if it runs already. Never two processes for one id.

        Args:
            launch: What to start.
            progress: Told, about once a second, what is being waited for.

        Raises:
            DeployError: One of its kinds; nothing is left running.
        """

    def turn(self, inst_id: str) -> AbstractAsyncContextManager[None]:
        """Be the only one at work on an instance while the block runs; two workers may run on one node by mistake."""

    async def find(self, inst_id: str) -> Running | None:
        """The instance if its process lives, whoever started it; None otherwise."""

    async def stop(self, inst_id: str) -> None:
        """Stop an instance (SIGTERM, then SIGKILL after the grace) and forget it. Nothing to stop is fine."""

    async def list(self) -> tuple[Running, ...]:
        """All living instances of this node, by id."""
