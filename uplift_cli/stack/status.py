"""What runs where in a folder, judged now: a record says what was, the processes say what is."""

from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from deployers.base import Running
from deployers.records import Record
from uplift_cli.stack import instances
from uplift_cli.stack.state import PartRecord, read_record
from uplift_settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One process that belongs to a folder.

    Attributes:
        part: The part's name, or the module's id.
        state: `ready`, `starting`, `restarting`, `waiting`, `stopped`; `orphaned` without a supervisor. For instances
            `running`, or `down`: its process died, and the worker starts it again.
        pid: Its process; None where none runs.
        address: Where it answers.
        since: Start, seconds since the epoch; None where none runs.
        log: Path of its output.
        restarts: How often it was started again since `uplift up` began; None for instances.
    """

    part: str
    state: str
    pid: int | None
    address: str
    since: float | None
    log: str
    restarts: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A folder's stack as it is now.

    Attributes:
        home: The folder.
        supervisor: Pid of the `uplift up` process; None if none runs.
        url: The gateway's address; empty before the first start.
        ui_url: The Temporal UI's address; empty before the first start.
        rows: The parts, then the modules' instances.
    """

    home: str
    supervisor: int | None
    url: str
    ui_url: str
    rows: tuple[Row, ...]

    @property
    def running(self) -> bool:
        """Whether any process of the folder runs."""
        return self.supervisor is not None or any(row.pid is not None for row in self.rows)


async def look(settings: Settings) -> Status:
    """Look at a folder.

    Raises:
        StackError: Its record cannot be read.
    """
    home = settings.home_folder
    record = read_record(home)
    if record is None:
        return Status(home=str(home), supervisor=None, url="", ui_url="", rows=())
    supervisor = record.supervisor.pid if record.supervisor is not None and record.supervisor.alive() else None
    rows = tuple(_part_row(part, supervised=supervisor is not None) for part in record.parts)
    modules: Sequence[Running] = await instances.running(home, settings)
    alive = {each.inst_id for each in modules}
    down = [_down_row(each, settings) for each in instances.recorded(home) if each.launch.inst_id not in alive]
    return Status(
        home=str(home),
        supervisor=supervisor,
        url=record.url,
        ui_url=record.ui_url,
        rows=rows + tuple(sorted((*(_instance_row(each) for each in modules), *down), key=lambda row: row.part)),
    )


def _part_row(part: PartRecord, *, supervised: bool) -> Row:
    alive = part.process is not None and part.process.alive()
    if alive:
        state = part.condition if supervised else "orphaned"
    else:
        # A supervisor that lives is about to start it again; the record is only a moment old.
        state = part.condition if supervised and part.condition != "ready" else "restarting" if supervised else "stopped"
    pid = part.process.pid if part.process is not None and alive else None
    return Row(
        part=part.name,
        state=state,
        pid=pid,
        address=part.address,
        since=part.since if alive else None,
        log=part.log,
        restarts=part.restarts,
    )


def _instance_row(instance: Running) -> Row:
    since = None
    if instance.pid is not None:
        try:
            since = psutil.Process(instance.pid).create_time()
        except psutil.Error:
            since = None
    return Row(part=instance.module_id, state="running", pid=instance.pid, address=instance.url, since=since, log=instance.log)


def _down_row(record: Record, settings: Settings) -> Row:
    return Row(
        part=record.launch.module_id,
        state="down",
        pid=None,
        address=f"http://{settings.deploy.host}:{record.port}",
        since=None,
        log=str(instances.log(settings.home_folder, record.launch.inst_id)),
    )
