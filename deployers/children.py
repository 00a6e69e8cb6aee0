"""Processes that this process has started itself: it alone can reap them and learn their exit code.

Kept for the whole process, not by a deployer: the children are the process's, whichever deployer object asks.
"""

import subprocess
from collections.abc import Mapping, Sequence

_KEPT = 200  # ended children whose exit code may still be asked for, by a start that waits while another caller stops
_children: dict[str, subprocess.Popen[bytes]] = {}


def spawn(generation: str, command: Sequence[str], *, env: Mapping[str, str], lock: int, log: int) -> int:
    """Start a process in a session of its own, which inherits the lock's descriptor.

    Args:
        generation: Under which its exit code can be asked for.
        command: Program and arguments.
        env: Its whole environment.
        lock: Descriptor that it and its children keep open.
        log: Descriptor for its output and errors.

    Returns:
        Its pid.

    Raises:
        OSError: It cannot be run.
        ValueError: The command or the environment has something that the system does not take.
    """
    # not asyncio's: that one kills the process when the loop is closed
    child = subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        pass_fds=(lock,),
        start_new_session=True,
    )
    _children[generation] = child
    return child.pid


def reap() -> None:
    """Reap all children that have ended, and forget the oldest of very many."""
    ended = [generation for generation, child in tuple(_children.items()) if child.poll() is not None]
    for generation in ended[:-_KEPT]:
        _children.pop(generation, None)


def exit_code(generation: str) -> int | None:
    """Exit code of the child, 128 + n for signal n (as the JVM and shells say); None if it runs or is not ours."""
    child = _children.get(generation)
    code = None if child is None else child.poll()
    return 128 - code if code is not None and code < 0 else code
