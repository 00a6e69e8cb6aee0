"""What the stack of one folder is made of: ports, parts and what each is told, from the settings and the folder's memory."""

import json
import socket
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from uplift_cli.errors import StackError
from uplift_cli.stack import ports
from uplift_cli.stack.errors import PortTaken
from uplift_cli.stack.parts import Part, answers_ok, file_names
from uplift_cli.stack.postgres import GATEWAY_DATABASE, HOST, MODULES_DATABASE, ROLE, EmbeddedPostgres
from uplift_cli.stack.state import StackRecord
from uplift_cli.stack.temporal import EmbeddedTemporal
from uplift_settings import Settings

BACKLOG = 4096
MODULES_REFERENCE = "env:UPLIFT_MODULES_URL"
_MODULE_PORTS = 100
_PORT_MAX = 65_535
_ALL_ADDRESSES = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what was configured, not what is bound here


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """What is run as gateway and worker.

    Attributes:
        gateway: Program and arguments.
        worker: Program and arguments.
    """

    gateway: tuple[str, ...] = (sys.executable, "-m", "gateway.main")
    worker: tuple[str, ...] = (sys.executable, "-m", "worker.main")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Every port of a folder's stack; `modules` is the first and the last one."""

    gateway: int
    postgres: int
    temporal: int
    ui: int
    modules: tuple[int, int]

    def kept(self) -> dict[str, int]:
        """What the folder remembers."""
        first, last = self.modules
        inner = {"postgres": self.postgres, "temporal": self.temporal, "ui": self.ui}
        return {"gateway": self.gateway, **inner, "modules_first": first, "modules_last": last}


def choose_ports(
    settings: Settings,
    *,
    port: int | None,
    modules: tuple[int, int] | None,
    kept: StackRecord,
    say: Callable[[str], None],
) -> Ports:
    """The ports to use, all of them free now: those asked for on the command line, else configured, else kept, else the defaults.

    Args:
        settings: Configured ports; 0 is a free one, kept.
        port: The gateway's, from the command line.
        modules: First and last port of instances, from the command line.
        kept: What the folder used before.
        say: Told one line for each thing that is not as it was or as one would expect.

    Raises:
        PortTaken: One is used by something else, or wanted twice.
    """
    host, stack = settings.gateway.host, settings.stack
    before = kept.ports.get("gateway")
    if port is None:
        asked = "port" in settings.gateway.model_fields_set or before is None
        port = settings.gateway.port if asked else 0
    gateway = ports.choose(port, kept=before, avoid=(), host=host)
    if before is not None and gateway != before:
        say(f"the gateway moves from port {before} to {gateway}: whoever remembers the old address needs the new one")
    first, last = _module_ports(settings, asked=modules, gateway=gateway, kept=kept.module_ports, say=say)
    used = {gateway, *range(first, last + 1)}
    inner = {}
    for name, number in (("postgres", stack.postgres_port), ("temporal", stack.temporal_port), ("ui", stack.ui_port)):
        inner[name] = ports.choose(number, kept=kept.ports.get(name), avoid=used, host=HOST)
        used.add(inner[name])
    ports.require_free({"gateway": (gateway, "--port")}, host=host)
    ports.require_free({name: (number, f"stack.{name}_port") for name, number in inner.items()}, host=HOST)
    return Ports(gateway=gateway, modules=(first, last), **inner)


def _module_ports(
    settings: Settings,
    *,
    asked: tuple[int, int] | None,
    gateway: int,
    kept: tuple[int, int] | None,
    say: Callable[[str], None],
) -> tuple[int, int]:
    deploy, source = settings.deploy, "--module-ports"
    if asked is None and {"port_first", "port_last"} & deploy.model_fields_set:
        asked, source = (deploy.port_first, deploy.port_last), "deploy.port_first, deploy.port_last"
    if asked is not None:
        first, last = asked
        if not 0 < first <= last:
            raise PortTaken(f"{first}-{last} is no range of ports ({source}): set both, the first not above the last")
        if first <= gateway <= last:
            raise PortTaken(
                f"the modules' ports {first}-{last} ({source}) contain the gateway's port {gateway}: choose other ones"
            )
        return asked
    if kept is not None and not kept[0] <= gateway <= kept[1]:
        return kept
    first, last = gateway + 1, min(gateway + _MODULE_PORTS, _PORT_MAX)
    if first > last:
        raise PortTaken(f"no port is left for instances above the gateway's {gateway}: choose some with --module-ports A-B")
    if last - first + 1 < _MODULE_PORTS:
        say(f"only {last - first + 1} ports are left for instances above the gateway's; --module-ports A-B sets others")
    elif kept is not None:
        say(f"the modules' instances move from ports {kept[0]}-{kept[1]} to {first}-{last}, out of the gateway's way")
    return first, last


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The stack of one folder.

    Attributes:
        home: The folder.
        settings: The operator's settings.
        config: Their file, passed on; None: none.
        ports: All ports.
        programs: What is run as gateway and worker.
    """

    home: Path
    settings: Settings
    config: Path | None
    ports: Ports
    programs: Programs

    @property
    def url(self) -> str:
        """The gateway's address, as one reaches it from this machine."""
        host = self._gateway_host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.ports.gateway}"

    @property
    def postgres(self) -> EmbeddedPostgres:
        """The embedded Postgres."""
        return EmbeddedPostgres(home=self.home, port=self.ports.postgres)

    @property
    def temporal(self) -> EmbeddedTemporal:
        """The embedded Temporal."""
        return EmbeddedTemporal(home=self.home, port=self.ports.temporal, ui_port=self.ports.ui)

    def parts(
        self, *, listener: socket.socket, stop_modules: Callable[[], Awaitable[None]], say: Callable[[str], None]
    ) -> tuple[Part, ...]:
        """The parts in the order of their start.

        Args:
            listener: The gateway's listening socket.
            stop_modules: Stops the modules' instances; runs once worker and gateway have ended.
            say: Told one line for each thing that is changed outside the folder.
        """
        self.postgres.prepare_password()
        shared = self._environment()
        mark = self.home / "worker.ready"

        async def forget_mark() -> None:
            mark.unlink(missing_ok=True)

        async def gateway_answers(pid: int) -> None:
            del pid
            await answers_ok(self._gateway_host, self.ports.gateway, "/_/proxy/health")

        gateway = Part(
            name="gateway",
            command=self.programs.gateway,
            address=self.url,
            ready=gateway_answers,
            env={**shared, **self._quick_stop(), "UPLIFT_LISTEN_FD": str(listener.fileno())},
            after=("postgres",),
            afterwards=stop_modules,
            pass_fds=(listener.fileno(),),
        )
        worker = Part(
            name="worker",
            command=self.programs.worker,
            address=f"task queue {self.settings.temporal.task_queue}",
            ready=partial(file_names, mark),
            env=shared,
            after=("temporal",),
            prepare=forget_mark,
        )
        return (self.postgres.part(say=say), self.temporal.part(), gateway, worker)

    @property
    def _gateway_host(self) -> str:
        host = self.settings.gateway.host
        return _ALL_ADDRESSES.get(host, host)

    @property
    def _gateway_url(self) -> str:
        """Where the worker reaches the gateway: there may be something between them, so what was configured counts."""
        worker = self.settings.worker
        return worker.gateway_url if "gateway_url" in worker.model_fields_set else self.url

    def _quick_stop(self) -> dict[str, str]:
        """Nobody answers while the only gateway is away, so it leaves soon, unless the operator says otherwise."""
        quick = {"stop_grace": "5", "stop_linger": "0"}
        given = self.settings.gateway.model_fields_set
        return {f"UPLIFT_GATEWAY__{name.upper()}": value for name, value in quick.items() if name not in given}

    def _environment(self) -> dict[str, str]:
        settings, postgres = self.settings, self.postgres
        first, last = self.ports.modules
        # Modules of FOLIO read these; the password goes by reference, so that showing the settings shows no secret.
        database = {
            "DB_HOST": HOST,
            "DB_PORT": str(self.ports.postgres),
            "DB_USERNAME": ROLE,
            "DB_PASSWORD": f"file:{postgres.password_file}",
            "DB_DATABASE": MODULES_DATABASE,
        }
        env = {
            "UPLIFT_HOME": str(self.home),
            "UPLIFT_GATEWAY__PORT": str(self.ports.gateway),
            "UPLIFT_GATEWAY__DSN": "env:UPLIFT_DATABASE_URL",
            "UPLIFT_DATABASE_URL": postgres.dsn(GATEWAY_DATABASE),
            "UPLIFT_TEMPORAL__ADDRESS": self.temporal.address,
            "UPLIFT_TEMPORAL__UI_URL": self.temporal.ui_url,
            "UPLIFT_WORKER__GATEWAY_URL": self._gateway_url,
            "UPLIFT_DEPLOY__PORT_FIRST": str(first),
            "UPLIFT_DEPLOY__PORT_LAST": str(last),
            "UPLIFT_DEPLOY__ENV": json.dumps(database | settings.deploy.env),
            "UPLIFT_DATA__DSN": settings.data.dsn or MODULES_REFERENCE,
            "UPLIFT_MODULES_URL": postgres.dsn(MODULES_DATABASE),
        }
        if self.config is not None:
            env["UPLIFT_CONFIG"] = str(self.config.absolute())
        if settings.gateway.tokens_file and not (settings.gateway.token_file or settings.worker.gateway_token):
            raise StackError(
                "gateway.tokens_file locks the worker out: set worker.gateway_token to the reference of a token with the roles"
                " run and read (`uplift token add worker --role run --role read`)"
            )
        if settings.gateway.token_file and not settings.worker.gateway_token:
            env["UPLIFT_WORKER__GATEWAY_TOKEN"] = f"file:{Path(settings.gateway.token_file).expanduser().absolute()}"
        return env
