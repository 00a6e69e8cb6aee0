"""The tree itself. Every leaf has a unit, a default and a reason, shown by `uplift config` and in `docs/reference/settings.md`.

Durations are seconds as floats, sizes are bytes, unless the name says otherwise.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(ge=0)]
Port = Annotated[int, Field(ge=0, le=65535)]


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GatewaySettings(_Group):
    """The platform's API and the data path."""

    host: str = Field("127.0.0.1", description="Address to listen on. Off loopback a file of tokens is required.")
    port: Port = Field(9130, description="Port of the API and of all proxied requests; Okapi's default.")
    url: str = Field("", description="URL under which modules reach the gateway (X-Okapi-Url). Empty: http://host:port.")
    dsn: str = Field(
        "env:UPLIFT_DATABASE_URL",
        description="Postgres of the gateway, by reference (env:NAME or file:PATH): it holds a password in production.",
    )
    node: str = Field("", description="Name of this replica; a restart under the same name takes its place. Empty: host:port.")
    lease: Annotated[float, Field(ge=1)] = Field(
        60.0, description="Seconds that a replica routes without being heard of: Postgres may be away that long unnoticed."
    )
    lease_renew: Annotated[float, Field(gt=0)] = Field(
        1.0, description="Seconds between renewals of the lease; a replica that misses two delays the next UPDATE."
    )
    spread_wait: Seconds = Field(
        2.0, description="Seconds that an admin write waits until every replica follows it. A hold waits as long as it takes."
    )
    database_timeout: Annotated[float, Field(gt=0)] = Field(
        5.0, description="Seconds for a renewal or a look at the database before it counts as away."
    )
    pool: int = Field(8, ge=2, description="Postgres connections. Admin calls are short; more would only queue in Postgres.")
    token_file: str = Field(
        "",
        description="File with one bearer token for the whole admin API. Empty: there is none.",
    )
    tokens_file: str = Field(
        "",
        description="File of bearer tokens with roles, by digest, written by `uplift token`; mode 0600. Empty: there is none.",
    )
    hold_max: Seconds = Field(30.0, description="Seconds a plain client is parked at most; browsers give up soon after.")
    page_after: Seconds = Field(
        3.0, description="Seconds after which a person's browser gets the page that waits on, not a blank one that waits."
    )
    grace: Seconds = Field(10.0, description="Seconds that old in-flight requests get after UPDATE before they are cut.")
    settle: Seconds = Field(5.0, description="Seconds to wait for work whose connection is gone and that nobody can see.")
    parked_per_tenant: int = Field(2_000, ge=0, description="Requests parked per tenant; beyond it 503 at once.")
    parked_bytes_per_tenant: int = Field(
        256 * 2**20, ge=0, description="Bytes that a tenant's parked requests may keep in read buffers; beyond it 503 at once."
    )
    parked_total: int = Field(20_000, ge=0, description="Requests parked in all, about 15 kB each; beyond it 503 at once.")
    parked_bytes: int = Field(
        512 * 2**20,
        ge=0,
        description="Bytes that parked requests may keep in read buffers in all; beyond it 503 at once.",
    )
    release_rate: int = Field(
        1_000,
        ge=1,
        description="Parked requests per second let go on RESUME, so that a new instance is not stampeded.",
    )
    ttl: Seconds = Field(
        60.0, description="Seconds that users of a module without a healthy instance are told DELAY; then MISSING."
    )
    health_interval: Annotated[float, Field(gt=0)] = Field(
        10.0, description="Seconds between health checks of an instance in service; requests notice most failures sooner."
    )
    probe_interval: Annotated[float, Field(gt=0)] = Field(
        0.5, description="Seconds between looks whether an instance that is out of service is back: users wait meanwhile."
    )
    health_timeout: Annotated[float, Field(gt=0)] = Field(
        3.0, description="Seconds for the answer to a health check; a busy but living module needs a moment."
    )
    health_failures: int = Field(3, ge=1, description="Failed health checks in a row that take an instance out of service.")
    health_parallel: int = Field(50, ge=1, description="Health checks at once, so that many instances make no burst.")
    repeat_max: int = Field(
        2**16,
        ge=0,
        description="Bytes of the body of an idempotent request that are kept, so that it can be sent to another instance.",
    )
    repeat_most: int = Field(
        2, ge=0, description="Times an idempotent request is sent again: one that kills each instance must not go round for ever."
    )
    trace_headers: bool = Field(
        default=True, description="Whether answers tell in X-Okapi-Trace which instance gave them and how long it took."
    )
    body_max: int = Field(
        16 * 2**20,
        ge=1024,
        description="Bytes of an admin request's body; whole FOLIO releases fit. Proxied bodies have no limit.",
    )
    read_buffer: int = Field(2**14, ge=1024, description="Bytes buffered per open request before the sender is slowed down.")
    tls_cert_file: str = Field("", description="PEM file of the certificate, with its chain, shown to requesters. Empty: no TLS.")
    tls_key_file: str = Field("", description="PEM file of its key. Empty: it is in the same file.")
    instances_ca_file: str = Field(
        "", description="PEM file of the authorities whose certificates instances may show (https). Empty: the system's."
    )
    connection_keep: Annotated[float, Field(gt=0)] = Field(
        4.0,
        description="Seconds that an idle connection to an instance is kept: less than the usual module does (Node: 5 s), since a"
        " POST must not meet a closing one.",
    )
    uri_max: int = Field(8_192, ge=256, description="Bytes of a request's URI; beyond it 414 (Okapi's).")
    header_max: int = Field(
        16_384, ge=256, description="Bytes of one header of a request; beyond it 431. Tokens with many permissions are long."
    )
    headers_max: int = Field(128, ge=16, description="Headers of a request; beyond it 431. Browsers and proxies send about 30.")
    idle_timeout: Seconds = Field(
        75.0,
        description="Seconds that a requester's connection may be open without the whole head of a request, at first or since the"
        " last answer; longer than balancers keep theirs (nginx: 60).",
    )
    client_timeout: Seconds = Field(
        60.0,
        description="Seconds in which a requester neither sends the next bytes of its body nor takes those of its answer, before"
        " its connection is closed: a slow one keeps a connection of the module, too.",
    )
    answer_head_max: int = Field(
        2**16,
        ge=1024,
        description="Bytes of the head of a module's answer, beyond which it is 502: no module may fill the gateway's memory.",
    )
    connect_timeout: Seconds = Field(5.0, description="Seconds to connect to an instance on the same network.")
    collect_interval: Seconds = Field(
        3_600.0,
        description="Seconds between two looks of the garbage collector through all of memory; nobody is answered during one, for"
        " about 0.1 s.",
    )
    collect_slow: Seconds = Field(
        0.005,
        description="Seconds that a look of the garbage collector may take before what it looked through is set aside until the"
        " next look through all; a few requests' time.",
    )
    sweep_interval: Seconds = Field(1.0, description="Seconds between looks for jobs that were never started or lost their run.")
    stop_grace: Seconds = Field(
        35.0,
        description="Seconds that open and parked requests get when the gateway stops; more than `hold_max`: none is cut.",
    )
    stop_linger: Seconds = Field(
        5.0,
        description="Seconds that an idle connection stays open when the gateway stops, for a request that is on its way.",
    )
    processes: int = Field(1, ge=1, description="Processes of `uplift gateway`, on one port; one for each core that it may use.")
    pid_file: str = Field(
        "", description="Where the parent of `uplift gateway` writes who it is. Empty: `gateway.pid` in the home folder."
    )
    start_timeout: Seconds = Field(
        60.0,
        description="Seconds that a new process gets to listen in a rolling replacement; then the old one stays.",
    )
    restart_pause: Seconds = Field(
        0.1,
        description="Seconds before a process of `uplift gateway` that died young is started again; doubles to 5 s.",
    )
    problems_interval: Annotated[float, Field(gt=0)] = Field(
        30.0, description="Seconds between looks for problems that nothing announced; changes are looked at when they come."
    )
    problems_settle: Seconds = Field(
        1.0,
        description="Seconds between a change and the look at it: modules come in a row, some before what they need.",
    )
    problems_keep: Seconds = Field(
        7 * 86_400.0, description="Seconds that the row of a resolved problem is kept; a week to look back."
    )
    plans_keep: Seconds = Field(
        7 * 86_400.0, description="Seconds that a simulated plan is known, for `plan=` of a request; a week to have it approved."
    )
    plans_per_tenant: int = Field(
        20, ge=1, description="Simulated plans of a tenant that are known, the newest; about 40 kB each for a whole platform."
    )
    estimate_last: int = Field(
        20, ge=1, description="Past changes of a kind whose median is the held time that a plan estimates: recent ones are alike."
    )
    notifiers: tuple[str, ...] = Field(
        ("log",), description="Who is told of problems: `log`, `webhook`, or names of the entry-point group `uplift.notifiers`."
    )
    webhook_url: str = Field("", description="URL for the notifier `webhook`, plain or by reference: some hold a secret.")
    webhook_secret: str = Field("", description="Key that signs the webhook's bodies, by reference. Empty: they are not signed.")
    notify_timeout: Annotated[float, Field(gt=0)] = Field(
        10.0, description="Seconds for one attempt to tell; receivers of webhooks answer at once and work later."
    )
    notify_retry: Seconds = Field(1.0, description="Seconds after the first attempt to tell that failed; doubles with each.")
    notify_retry_max: Seconds = Field(
        300.0, description="Most seconds between attempts to tell; a receiver's outage ends unnoticed."
    )
    notify_expires: Seconds = Field(
        3 * 86_400.0, description="Seconds after which telling is given up and logged; a receiver may be away for a weekend."
    )
    push_timeout: Annotated[float, Field(gt=0)] = Field(
        5.0, description="Seconds for one push to a module; it only notes what it is told."
    )
    push_retry: Seconds = Field(
        0.2, description="Seconds after the first push that failed; doubles with each. A hold waits for it."
    )
    push_retry_max: Seconds = Field(2.0, description="Most seconds between pushes: a hold waits for them.")
    deliveries: int = Field(20, ge=1, description="Notifications, and as many pushes, under way at once; they wait for others.")
    delivery_interval: Annotated[float, Field(gt=0)] = Field(
        1.0, description="Seconds between looks for deliveries that are due again, or were left by a gateway that died."
    )
    delivery_claim: Annotated[float, Field(gt=0)] = Field(
        10.0, description="Seconds beyond its timeout after which a delivery is taken over: its gateway has died."
    )
    metrics_host: str = Field("127.0.0.1", description="Address of `/metrics`, `/readiness`, `/liveness`: they ask for no token.")
    metrics_port: Port = Field(
        0, description="Port of those; a process of `uplift gateway` adds its number, from 0. 0: there is none."
    )
    access_log: bool = Field(default=False, description="Whether each request is logged; a line costs more than the routing.")


class TemporalSettings(_Group):
    """Where runs are kept."""

    address: str = Field("127.0.0.1:7233", description="host:port of the Temporal frontend.")
    namespace: str = Field("default", description="Temporal namespace; made by the server's set-up, never by us.")
    task_queue: str = Field("uplift", description="Task queue of workflows and of activities that any worker may run.")
    ui_url: str = Field("", description="Base URL of the Temporal UI, for links in jobs. Empty: no links.")
    api_key: str = Field("", description="API key by reference (env:NAME or file:PATH). Empty: none.")
    tls: bool = Field(default=False, description="Whether to connect with TLS (server certificate from the system's roots).")
    connect_timeout: Seconds = Field(60.0, description="Seconds a process tries to reach Temporal at its start.")
    ensure_interval: Annotated[float, Field(gt=0)] = Field(
        5.0,
        description="Seconds between looks whether Temporal knows our search attributes; it forgets them with its history.",
    )


class WorkerSettings(_Group):
    """The process that runs the pipelines."""

    node: str = Field("host", description="Name of this host. Instances it started are touched by its task queue only.")
    gateway_url: str = Field(
        "http://127.0.0.1:9130", description="Where the worker reaches the gateway; `uplift up` knows, unless it is set."
    )
    gateway_token: str = Field("", description="Bearer token for the gateway, by reference. Empty: none.")
    max_activities: int = Field(100, ge=1, description="Activities at once; they mostly wait for others.")
    max_workflow_tasks: int = Field(20, ge=1, description="Workflow tasks at once; they are CPU-bound.")
    cached_runs: int = Field(500, ge=0, description="Runs kept in memory between tasks; 0 replays each time (for tests).")
    stop_grace: Seconds = Field(10.0, description="Seconds that running activities get when the worker stops.")
    heartbeat_every: Annotated[float, Field(gt=0)] = Field(
        1.0, description="Seconds between heartbeats of a running step: an abort reaches it within them."
    )
    sticky_timeout: Seconds = Field(
        2.0,
        description="Seconds before another worker takes over the runs of one that died; Temporal's own default is 10.",
    )
    build: str = Field(
        "",
        pattern=r"^[^\s:]{0,200}$",
        description="Name of this build, new with each release: a job ends on the build that it began on. Empty: jobs go to any.",
    )
    make_current: bool = Field(
        default=True,
        description="Whether a build that starts for the first time gets new jobs at once. Off: somebody decides, by hand.",
    )
    compare_interval: Annotated[float, Field(gt=0)] = Field(
        10.0,
        description=(
            "Seconds between comparisons of what a run knows with the gateway's database while a step works: a restored database"
            " is noticed within them."
        ),
    )
    keeper_interval: Seconds = Field(
        2.0, description="Seconds between looks for instances of this node that died and are started again."
    )
    metrics_address: str = Field(
        "", description="host:port of the worker's `/metrics`, those of Temporal's SDK; it asks for no token. Empty: none."
    )


class DeploySettings(_Group):
    """How instances are started and stopped."""

    host: str = Field("127.0.0.1", description="Address under which the gateway reaches instances of this node.")
    port_first: Port = Field(9131, description="First port for instances (Okapi: gateway's port + 1).")
    port_last: Port = Field(9230, description="Last port for instances. 100 of them; Okapi's ten are used up at once.")
    health_wait: Seconds = Field(360.0, description="Seconds for a new instance to answer; a JVM on a busy host needs minutes.")
    health_interval: Seconds = Field(0.1, description="Seconds between the first health probes; grows to ten times that.")
    stop_grace: Seconds = Field(10.0, description="Seconds between SIGTERM and SIGKILL.")
    retire_after: Seconds = Field(
        60.0,
        description="Seconds that an old version stays after the last tenant left it (its grace as an instance).",
    )
    external_wait: Seconds = Field(10.0, description="Seconds to wait for an instance that the site starts by its own means.")
    log_tail: int = Field(4_000, description="Characters of an instance's output shown in an error.")
    env: dict[str, str] = Field(
        default_factory=dict,
        description="Environment of every instance, beside its descriptor's; values may be references.",
    )


class DataSettings(_Group):
    """Where modules keep their data, for those whose descriptor does not say (`metadata.uplift.data`)."""

    dsn: str = Field(
        "",
        description="Postgres of the modules, by reference. Empty: unknown, so undo is left to the module.",
    )
    schema_pattern: str = Field("{tenant}_{product_}", description="Schema of one tenant's data of one module (FOLIO's habit).")
    tools: str = Field(
        "",
        description="Folder of pg_dump, pg_restore and psql. Empty: those of the Postgres wheel, else PATH.",
    )


class SnapshotSettings(_Group):
    """Copies of a tenant's data, taken while it is held."""

    folder: str = Field("", description="Where copies are kept. Empty: `snapshots` in the home folder.")
    max_bytes: int = Field(
        10 * 2**30,
        ge=0,
        description="Largest schema to copy, in bytes: a copy is taken while users wait (about 100 MB/s).",
    )
    keep: Seconds = Field(7 * 86_400.0, description="Seconds that a copy is kept after its change ended; a week to notice.")
    prune_every: Annotated[float, Field(gt=0)] = Field(60.0, description="Seconds between looks for copies whose time is over.")
    at_once: int = Field(
        4,
        ge=1,
        description="Copies taken at once of a group of several modules, all of which are held meanwhile; each is a `pg_dump`, so"
        " about as many as the database server has cores to spare.",
    )
    lock_wait: Seconds = Field(30.0, description="Seconds a restore waits for locks before it ends sessions again.")


class InitSettings(_Group):
    """Tenant init."""

    poll_first: Seconds = Field(0.3, description="Seconds before the second look at a tenant-init job (Okapi's).")
    poll_max: Seconds = Field(15.0, description="Longest pause between looks; hours of work are noticed within it.")
    look_timeout: Seconds = Field(30.0, description="Seconds for the answer to a look at a tenant-init job; then the next one.")
    connect_retry: Seconds = Field(60.0, description="Seconds that an instance may refuse connections before init fails.")
    quiet: Seconds = Field(
        30.0,
        description="Seconds without a lock in the schema after which an init of unknown fate counts as over.",
    )
    stall_after: Seconds = Field(
        600.0,
        description="Seconds without any change, from a module that was restarted, before a job counts as stalled.",
    )
    synchronous_max: Seconds = Field(
        86_400.0,
        description="Seconds a synchronous module may take to answer. A day: no timeout is taken for the truth.",
    )


class VerifySettings(_Group):
    """Checks between init and switch."""

    timeout: Seconds = Field(10.0, description="Seconds for one check's answer.")
    attempts: int = Field(
        3,
        ge=1,
        description="Tries of a check that is not answered, or with 5xx, half a second apart; while the module's database is away"
        " they do not count. Any other wrong answer is not retried.",
    )


class PermissionSettings(_Group):
    """Telling a tenant's permissions module (`_tenantPermissions`)."""

    timeout: Annotated[float, Field(gt=0)] = Field(
        60.0, description="Seconds for the answer to one list; it may write hundreds of permissions and assign them to users."
    )
    retry: Seconds = Field(
        30.0,
        description="Seconds that a permissions module which is away, or answers with 5xx, is asked again: users wait meanwhile.",
    )


class StepSettings(_Group):
    """Prechecks and post steps of descriptors."""

    timeout: Annotated[float, Field(gt=0)] = Field(
        60.0, description="Seconds for the answer to one request; what takes longer begins a job and answers 202."
    )
    retry: Seconds = Field(
        30.0, description="Seconds that a request which is not answered, or with 5xx, is sent again; a restart ends within them."
    )
    silence: Seconds = Field(
        600.0, description="Seconds that looks at a job may fail before it counts as lost; as long as tenant-init jobs get."
    )
    poll_max: Annotated[float, Field(gt=0)] = Field(
        15.0, description="Longest pause between looks at a job, in seconds; as for tenant-init jobs."
    )
    precheck_max: Seconds = Field(
        3_600.0, description="Seconds for one precheck with its job. Nobody is held yet, but the job does not go on either."
    )
    post_step_max: Seconds = Field(
        2 * 86_400.0, description="Seconds for one post step with its job; a full reindex of a large site takes a day."
    )


class ReconcileSettings(_Group):
    """Comparing what rows, runs, processes and files say."""

    interval: Seconds = Field(
        600.0, description="Seconds between reconcile runs by Temporal's schedule; what they find stands for hours. 0: none."
    )
    settle: Seconds = Field(
        10.0,
        description="Seconds between the two looks that must both find a difference: work under way passes through such states.",
    )
    node_wait: Annotated[float, Field(gt=0)] = Field(
        20.0, description="Seconds that a look at a node may take; a node whose worker is away is told as silent, not waited for."
    )
    repair: bool = Field(
        default=True, description="Whether scheduled runs repair what is harmless to repair; they tell the rest in any case."
    )


class StackSettings(_Group):
    """The embedded stack (`uplift up`)."""

    postgres_port: Port = Field(0, description="Port of the embedded Postgres. 0: a free one, kept for the folder.")
    temporal_port: Port = Field(0, description="Port of the embedded Temporal. 0: a free one, kept for the folder.")
    ui_port: Port = Field(0, description="Port of the Temporal UI. 0: a free one, kept for the folder.")
    start_timeout: Seconds = Field(60.0, description="Seconds for one part to get ready.")
    restart_pause: Seconds = Field(
        0.2, description="Seconds before a part that died is started again; doubles to 5 s, or stays where it is longer."
    )
    stop_grace: Seconds = Field(15.0, description="Seconds that a part gets to stop before it is killed.")


class LogSettings(_Group):
    """What gateway and worker log, on standard error."""

    format: Literal["text", "json"] = Field("text", description="`text` for people, `json` for collectors: one object a line.")
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least severity that is logged.")


class TracingSettings(_Group):
    """OpenTelemetry traces from requests to runs. Off unless `endpoint` is set; wants the extra `tracing`."""

    endpoint: str = Field(
        "", description="URL to which spans are sent, OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces. Empty: off."
    )
    ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0, description="Share of traces begun here that are kept; who sends a traceparent has decided for theirs."
    )
    timeout: Annotated[float, Field(gt=0)] = Field(
        5.0, description="Seconds to send a batch of spans, also at the end; what cannot be sent is dropped."
    )


class Settings(_Group):
    """All settings of Uplift."""

    home: Path = Field(Path("~/.local/state/uplift"), description="Folder of state, logs and copies.")
    gateway: GatewaySettings = GatewaySettings()
    temporal: TemporalSettings = TemporalSettings()
    worker: WorkerSettings = WorkerSettings()
    deploy: DeploySettings = DeploySettings()
    data: DataSettings = DataSettings()
    snapshots: SnapshotSettings = SnapshotSettings()
    init: InitSettings = InitSettings()
    verify: VerifySettings = VerifySettings()
    permissions: PermissionSettings = PermissionSettings()
    steps: StepSettings = StepSettings()
    reconcile: ReconcileSettings = ReconcileSettings()
    stack: StackSettings = StackSettings()
    log: LogSettings = LogSettings()
    tracing: TracingSettings = TracingSettings()

    @property
    def home_folder(self) -> Path:
        """The home folder, absolute."""
        return self.home.expanduser().absolute()

    @property
    def snapshot_folder(self) -> Path:
        """Where snapshots are kept, absolute."""
        return Path(self.snapshots.folder).expanduser().absolute() if self.snapshots.folder else self.home_folder / "snapshots"
