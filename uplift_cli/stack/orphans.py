"""What a supervisor that was killed left behind: ended before the folder is used again."""

from collections.abc import Callable
from pathlib import Path

from uplift_cli.stack.postgres import EmbeddedPostgres
from uplift_cli.stack.processes import end, family
from uplift_cli.stack.state import StackRecord


async def end_orphans(home: Path, record: StackRecord, *, grace: float, say: Callable[[str], None]) -> int:
    """End the recorded parts that still run, clients before what they use. Call while holding the folder.

    Args:
        home: The folder.
        record: What the folder remembers.
        grace: Seconds that each gets.
        say: Told one line for each part that was found.

    Returns:
        How many parts were found.
    """
    count = 0
    for part in reversed(record.parts):
        procs = () if part.process is None or part.name == "postgres" else family(part.process, home=home)
        if procs:
            count += 1
            say(f"{part.name} (pid {', '.join(str(proc.pid) for proc in procs)}) was left by a killed `uplift up`: ending it")
            await end(procs, grace=grace)
    postgres = EmbeddedPostgres(home=home, port=0)
    if await postgres.settle(grace=grace):
        count += 1
        say("postgres was left by a killed `uplift up`: it was shut down")
    return count
