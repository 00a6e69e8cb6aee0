"""The embedded Temporal: a dev server on a SQLite file, with its UI."""

from dataclasses import dataclass
from pathlib import Path

from uplift_cli.stack.parts import Part, port_opens
from uplift_cli.stack.temporal_binary import require

HOST = "127.0.0.1"
# A write-ahead log makes the file four times faster and survives kill -9.
_PRAGMAS = ("journal_mode=wal", "synchronous=1")

# A server of one shard looks for work 20 times a second unless told otherwise: each step of a run would wait for it.
_DYNAMIC = (
    "system.enableActivityEagerExecution=true",
    "history.transferProcessorMaxPollRPS=1000",
    "history.timerProcessorMaxPollRPS=1000",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedTemporal:
    """A Temporal server in a folder.

    Attributes:
        home: The stack's folder; runs are kept in `temporal.sqlite`.
        port: Port of the frontend, on loopback.
        ui_port: Port of the UI, on loopback.
    """

    home: Path
    port: int
    ui_port: int

    @property
    def address(self) -> str:
        """host:port of the frontend."""
        return f"{HOST}:{self.port}"

    @property
    def ui_url(self) -> str:
        """Base address of the UI."""
        return f"http://{HOST}:{self.ui_port}"

    def part(self) -> Part:
        """Temporal for the supervisor.

        Raises:
            TemporalMissing: There is no `temporal` command line.
        """
        pragmas = (word for pragma in _PRAGMAS for word in ("--sqlite-pragma", pragma))
        settings = (word for setting in _DYNAMIC for word in ("--dynamic-config-value", setting))
        place = ("--ip", HOST, "--port", str(self.port), "--ui-port", str(self.ui_port))
        # An own configuration of the operator's command line (profiles, TLS) is not meant for this server.
        alone = ("--disable-config-file", "--disable-config-env")
        return Part(
            name="temporal",
            command=(
                str(require()),
                "server",
                "start-dev",
                "--db-filename",
                str(self.home / "temporal.sqlite"),
                *pragmas,
                *place,
                *settings,
                "--log-level",
                "warn",
                *alone,
            ),
            address=f"{self.address} (UI {self.ui_url})",
            ready=self._answers,
            umask=0o077,
        )

    async def _answers(self, pid: int) -> None:
        del pid
        await port_opens(HOST, self.port)
