"""`uplift gateway reload`."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import click

from gateway.parent_file import Record, Tally, read_parent
from uplift_cli.errors import UpliftError
from uplift_cli.options import config_option, home_option, overrides
from uplift_settings import Settings, load

_LOOK = 0.1
"""Seconds between looks at the parent's file."""


class NotReloaded(UpliftError):
    """The gateway is not what was asked for. The message says why, and what serves now."""


def pid_file(settings: Settings) -> Path:
    """Where the parent says who it is."""
    given = settings.gateway.pid_file
    return Path(given).expanduser().absolute() if given else settings.home_folder / "gateway.pid"


@click.command("reload")
@home_option
@config_option
@click.option(
    "--pid-file",
    "given",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The parent's file.  [default: the setting `gateway.pid_file`, `gateway.pid` in the home folder]",
)
@click.option("--only-children", is_flag=True, help="Replace the processes, but not the parent's own program.")
def reload(home: Path | None, config: Path | None, given: Path | None, only_children: bool) -> None:
    """Replace a running gateway, process by process, without a failed request.

    First the parent replaces its own program, then its processes, one after the other; each finishes what it has begun. For
    new settings, or a new version that was installed over the old one. Ends when all are replaced.

    Where the new program does not start, it ends with 1 and the reason, and what served before goes on.
    """
    path = given or pid_file(load(config=config, overrides=overrides(home)))
    record = read_parent(path)
    if record is None or not record.lives:
        raise NotReloaded(
            f"no gateway runs that says so in {path}: start it with `uplift gateway`, or name its file with --pid-file"
        )
    if not only_children:
        asked = _ask(record, record.program, signal.SIGUSR2)
        record = next(state for state in _states(path, record) if state.program.done > asked)
        if record.program.reason:
            raise NotReloaded(f"nothing was replaced: {record.program.reason}")
        click.echo(f"the parent (pid {record.pid}) runs its new program")
    _replace_children(path, record)


def _replace_children(path: Path, parent: Record) -> None:
    names = {each["slot"]: each["name"] for each in parent.slots}
    total = len(names)
    asked = _ask(parent, parent.children, signal.SIGHUP)
    for state in _states(path, parent):
        for each in state.slots:
            if each["name"] != names.get(each["slot"]):
                names[each["slot"]] = each["name"]
                click.echo(f"place {each['slot'] + 1} of {total}: {each['name']} (pid {each['pid']}) is there")
        if state.children.done > asked:
            if state.children.reason:
                raise NotReloaded(f"not all were replaced: {state.children.reason}. What serves goes on as it is")
            click.echo(f"all {total} processes are replaced")
            return


def _ask(record: Record, tally: Tally, signum: signal.Signals) -> int:
    """Send a signal; how often it had been asked for before."""
    try:
        os.kill(record.pid, signum)
    except OSError as error:
        raise NotReloaded(
            f"the gateway's parent (pid {record.pid}) cannot be told: {error.strerror}; run this as its user"
        ) from error
    return tally.asked


def _states(path: Path, record: Record) -> Iterator[Record]:
    """What the parent writes, for as long as it lives: it bounds each of its steps itself (gateway.start_timeout, stop_grace).

    Raises:
        NotReloaded: It is gone.
    """
    while True:
        found = read_parent(path)
        if found is not None and (found.pid, found.started) == (record.pid, record.started):
            yield found
        if found is None or not record.lives:
            raise NotReloaded(f"the gateway's parent (pid {record.pid}) has ended meanwhile; its log says why")
        time.sleep(_LOOK)
