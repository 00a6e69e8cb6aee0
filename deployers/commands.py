"""What is run for a launch descriptor, and with which environment."""

import os
from collections.abc import Mapping

from deployers.base import Launch, LaunchRefused
from uplift_settings import SecretError, read_secret
from uplift_settings.tree import DeploySettings

INSTANCE_MARK = "UPLIFT_INSTANCE"
GENERATION_MARK = "UPLIFT_GENERATION"
_OWN_PREFIX = "UPLIFT_"


def check_launch(launch: Launch) -> None:
    """Check that a launch can be carried out.

    Raises:
        LaunchRefused: With Okapi's texts; nothing to run, or no place for the port.
    """
    if launch.exec is not None:
        if "%p" not in launch.exec:
            raise LaunchRefused("Can not deploy: No %p in the exec line")
    elif launch.cmdline_start is not None:
        if "%p" not in launch.cmdline_start:
            raise LaunchRefused("Can not deploy: No %p in the cmdlineStart line")
    else:
        raise LaunchRefused("Can not deploy: No exec, no CmdlineStart in LaunchDescriptor")


def start_command(launch: Launch, port: int) -> list[str]:
    """The command that starts an instance: `exec` split at blanks (no quoting, as Okapi), else the shell's."""
    if launch.exec is not None:
        return with_port(launch.exec, port).split()
    assert launch.cmdline_start is not None
    return shell(launch.cmdline_start, port)


def shell(command: str, port: int) -> list[str]:
    """A shell command with the port in place of each `%p`."""
    return ["sh", "-c", with_port(command, port)]


def with_port(command: str, port: int) -> str:
    """The command with the port in place of each `%p`."""
    return command.replace("%p", str(port))


def environment(settings: DeploySettings, launch: Launch) -> dict[str, str]:
    """The environment of an instance, without the marks: inherited, then `deploy.env`, then the descriptor's.

    Of the inherited one everything of Uplift's own is left out (it may hold or name secrets), and `PORT`, which would
    be the port of this process.

    Raises:
        LaunchRefused: A reference in `deploy.env` points nowhere.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OWN_PREFIX)}
    inherited.pop("PORT", None)
    try:
        ours = {name: read_secret(value, what=f"deploy.env {name}") for name, value in settings.env.items()}
    except SecretError as error:
        raise LaunchRefused(f"Can not deploy: {error}") from error
    return inherited | ours | dict(launch.env)


def marked(env: Mapping[str, str], *, inst_id: str, generation: str) -> dict[str, str]:
    """The environment with the marks by which the processes of one start of one instance are found again."""
    return {**env, INSTANCE_MARK: inst_id, GENERATION_MARK: generation}
