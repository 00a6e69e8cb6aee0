"""`uplift setup`."""

import click

from uplift_cli.stack.temporal_binary import fetch


@click.command()
def setup() -> None:
    """Fetch what cannot come from the Python lock: the Temporal command line.

    Takes the one in $TEMPORAL_CLI, on PATH, or in the cache ($UPLIFT_CACHE, else ~/.cache/uplift); else downloads it, else
    builds it with Go, into the cache. Prints its path. Quick when it is there already.
    """
    click.echo(str(fetch(say=lambda line: click.echo(line, err=True))))
