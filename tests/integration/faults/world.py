"""A real gateway behind a fault proxy, modules behind another, two databases, Temporal, and the activities of a worker."""

import asyncio
import contextlib
import dataclasses
import json
import os
import re
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment

from activities.checks import CheckActivities
from activities.clock import Clock
from activities.deploy import DeployActivities, NodeInstances
from activities.gateway_steps import GatewayActivities
from activities.module_calls import ModuleCalls
from activities.module_steps import ModuleStepActivities
from activities.options import Options
from activities.permissions import PermissionActivities
from activities.reconcile import NodeReconcileActivities, ReconcileActivities
from activities.signatures import ChangeRequest, Checked, CheckedChange, GroupStep
from activities.snapshots import SnapshotActivities
from activities.tenant_init import TenantInitActivities
from deployers import ProcessDeployer
from gateway_client import GatewayClient
from tests.integration.faults.module import Migrating
from tests.integration.gateway.conftest import Job, Running, Site, unique
from tests.wire.http_proxy import WireProxy
from upgrade_core.descriptors import Undo
from upgrade_core.ids import step_key
from upgrade_core.plan import Change, Kind
from upgrade_core.runs import module_run_id
from uplift_settings.tree import (
    DataSettings,
    DeploySettings,
    InitSettings,
    PermissionSettings,
    ReconcileSettings,
    SnapshotSettings,
    StepSettings,
    VerifySettings,
)

PATIENT, HASTY = 15.0, 0.5
"""Seconds of one call of the gateway; hasty is the worker for whom the gateway hangs, or is slow."""
FASTER = 0.05
"""Retry intervals of the policies are this much shorter here."""
INIT = InitSettings(poll_first=0.02, poll_max=0.1, connect_retry=5.0, quiet=0.1, stall_after=0.6, synchronous_max=1.0)
STEPS = StepSettings(timeout=0.5, retry=0.5, silence=0.6, poll_max=0.1, precheck_max=5.0, post_step_max=2.0)
SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(204)
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
_TABLES = {
    "jobs": ("position", "held_seconds"),
    "holds": (),
    "claims": (),
    "intents": (),
    "overlays": (),
    "snapshots": ("size",),
    "bindings": (),
    "data_versions": (),
    "instances": ("url", "generation", "seen"),
    "retirements": (),
    "reconcile": (),
    "problems": (),
}
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?(\+\d\d(:\d\d)?)?")


class Caller(GatewayClient):
    """A worker's client; `longest`: seconds that it lets the gateway take beyond its timeout, where the gateway waits itself."""

    longest = 60.0

    async def call(self, *args: Any, wait: float = 0) -> Any:
        return await super().call(*args, wait=min(wait, self.longest))


@dataclass(kw_only=True)
class Subject:
    """A tenant, a product of which it has 1.0.0, and a job that brings it to 2.0.0; the tests of one fault have one each."""

    tenant: str
    product: str
    job: Job
    module: Migrating
    undo: Undo = Undo.SNAPSHOT

    @property
    def old(self) -> str:
        return f"{self.product}-1.0.0"

    @property
    def new(self) -> str:
        return f"{self.product}-2.0.0"

    @property
    def schema(self) -> str:
        return f"{self.tenant}_{self.product}"

    @property
    def change(self) -> Change:
        return Change(kind=Kind.UPGRADE, product=self.product, bound=self.old, version_from=self.old, version_to=self.new)

    @property
    def request(self) -> ChangeRequest:
        return ChangeRequest(job=self.job.id, tenant=self.tenant, group="g", change=self.change)

    @property
    def group(self) -> GroupStep:
        return GroupStep(job=self.job.id, tenant=self.tenant, group="g", changes=(self.change,))


@dataclass(kw_only=True)
class World:
    """Everything that an activity meets. `proxy`: before the gateway; `wire`: before the module."""

    site: Site
    proxy: WireProxy
    wire: WireProxy
    module: Migrating
    modules_dsn: str
    folder: Path
    gateway: Caller
    steps: GatewayActivities
    checks: CheckActivities
    copies: SnapshotActivities
    init: TenantInitActivities
    deploy: DeployActivities
    deployer: ProcessDeployer
    reconcile: ReconcileActivities
    reconcile_here: NodeReconcileActivities
    permissions: PermissionActivities
    module_steps: ModuleStepActivities
    calls: list[ModuleCalls] = field(default_factory=list)

    @contextlib.contextmanager
    def hasty(self) -> Iterator[None]:
        """For a while the worker waits for half a second only."""
        self.gateway._timeout, self.gateway.longest = HASTY, 2 * HASTY
        try:
            yield
        finally:
            self.gateway._timeout, self.gateway.longest = PATIENT, Caller.longest

    def init_with(
        self, clock: Clock | None = None, gateway: GatewayClient | None = None, **settings: Any
    ) -> TenantInitActivities:
        """Tenant init with other clocks; with the gateway itself where thousands of looks need no proxy before it."""
        limits, gateway = INIT.model_copy(update=settings), gateway or self.gateway
        self.calls.append(ModuleCalls(gateway=gateway, settings=limits))
        return TenantInitActivities(
            gateway=gateway,
            temporal=self.steps._temporal,
            calls=self.calls[-1],
            init=limits,
            data=self.checks._data,
            snapshots=self.checks._snapshots,
            clock=clock,
        )

    async def subject(
        self,
        *,
        how: str = "sync",
        undo: Undo = Undo.SNAPSHOT,
        launch: str = "",
        moods: str = "",
        checked: str = "",
        stepped: str = "",
        permissions: str = "",
        **uplift: Any,
    ) -> Subject:
        """A tenant with data, at the point where its job has been planned.

        Args:
            how: See `Migrating`.
            undo: Undo mode of its versions.
            launch: Python source of a server, for versions that are deployed; empty: the module of this world is their instance.
            moods: Its arguments beside the port.
            checked: Path below the product's that is checked before the switch.
            stepped: Path below the product's of a precheck and a post step, whose job is at `/job` there.
            permissions: Version of `_tenantPermissions` that its versions provide, at `/perms`.
            uplift: More of `metadata.uplift`.
        """
        product = unique("modf")
        if checked:
            path = f"/{product}{checked}"
            uplift["checks"] = [{"method": "GET", "path": path, "status": 200, "json": {"path": path}}]
        if stepped:
            job = {"path": f"/{product}/job", "done": {"path": f"/{product}/job"}, "failed": {"path": "nowhere"}}
            uplift |= {kind: [{"path": f"/{product}{stepped}", "job": job}] for kind in ("prechecks", "post_steps")}
        for version in ("1.0.0", "2.0.0"):
            more: dict[str, Any] = {"metadata": {"uplift": {"undo": undo.value, **uplift}}}
            if launch:
                script = self.folder / f"{product}.py"
                script.write_text(launch)
                more["launchDescriptor"] = {"exec": f"{sys.executable} -S {script} %p {moods}".strip()}
            await self._register(
                f"{product}-{version}", None if launch else self.wire.url, uplift=how == "uplift", permissions=permissions, **more
            )
        self.module.how = how
        tenant = await self.site.tenant(f"{product}-1.0.0")
        job = await self.site.job(tenant, f"{product}-2.0.0")
        schema = self.module.schemas[tenant] = f"{tenant}_{product}"
        await self.sql(
            f"create schema {schema}; create table {schema}.inits (n serial, version text);"
            f" create table {schema}.users (name text, version text);"
            f" insert into {schema}.users values ('ann', '{product}-1.0.0'), ('bob', '{product}-1.0.0')"
        )
        await self.site.runs.set_data_version(job.id, product, f"{product}-1.0.0")
        return Subject(tenant=tenant, product=product, job=job, module=self.module, undo=undo)

    async def _register(self, module: str, url: str | None, *, uplift: bool, permissions: str, **more: Any) -> None:
        product, version = module.rsplit("-", 1)
        paths = {"/_/tenant": ["POST"], "/_/tenant/{id}": ["GET", "DELETE"]}
        handlers = [{"methods": methods, "pathPattern": path, "permissionsRequired": []} for path, methods in paths.items()]
        name, number = ("_tenantInit", "1.0") if uplift else ("_tenant", "2.0")
        system = {"id": name, "version": number, "interfaceType": "system", "handlers": handlers}
        own = {
            "id": product,
            "version": version[:3],
            "handlers": [{"methods": ["*"], "pathPattern": f"/{product}*", "permissionsRequired": []}],
        }
        provides = [own, system]
        if permissions:
            entry = {"methods": ["POST"], "pathPattern": "/perms"}
            provides.append({"id": "_tenantPermissions", "version": permissions, "interfaceType": "system", "handlers": [entry]})
            more["permissionSets"] = [{"permissionName": f"{product}.{version}"}]
        await self.site.register(module, url, provides=provides, **more)

    def checked(self, subject: Subject, **more: Any) -> CheckedChange:
        """The request of a step behind `check`."""
        snapshot = subject.undo is Undo.SNAPSHOT
        return CheckedChange(
            job=subject.job.id,
            tenant=subject.tenant,
            group="g",
            change=subject.change,
            checked=Checked(
                undo=subject.undo,
                dsn=self.modules_dsn,
                schema=subject.schema,
                copies=snapshot,
                init_module=subject.new,
                verifies=True,
            ),
            key=step_key(subject.job.id, subject.product, "init"),
            **more,
        )

    async def steps_undisturbed(self, ready: Callable[["World", Subject], Awaitable[Any]], subject: Subject) -> Any:
        """Bring a subject past an activity, before any fault is set."""
        made = await ready(self, subject)
        return await ActivityEnvironment().run(made.method, made.request)

    async def sql(self, text: str) -> None:
        """On the modules' database."""
        connection = await asyncpg.connect(self.modules_dsn)
        try:
            await connection.execute(text)
        finally:
            await connection.close()

    async def data(self, subject: Subject) -> dict[str, Any]:
        """What is in the tenant's schema: its users, and each migration that took effect."""
        connection = await asyncpg.connect(self.modules_dsn)
        try:
            users = await connection.fetch(f"select name, version from {subject.schema}.users order by 1")
            inits = await connection.fetch(f"select version from {subject.schema}.inits order by n")
        finally:
            await connection.close()
        found = {"users": [tuple(row) for row in users], "inits": [row["version"] for row in inits]}
        return dict(json.loads(self._plain(json.dumps(found), subject)))

    async def state(self, subject: Subject) -> dict[str, Any]:
        """All that is known of a subject, without names, times and chance: rows, data, processes, copies, its version's run."""
        connection = await asyncpg.connect(self.site.dsn)
        try:
            found: dict[str, Any] = {}
            for table, left_out in _TABLES.items():
                rows = await connection.fetch(f"select to_jsonb(t) as row from {table} t order by t::text")
                texts = [row["row"] for row in rows if any(name in row["row"] for name in _names(subject))]
                values = [json.loads(self._plain(text, subject)) for text in texts]
                if table == "problems":  # the others come and go with the gateway's own looks
                    values = [row for row in values if row["kind"] == "difference"]
                found[table] = sorted(
                    ({name: value for name, value in row.items() if name not in left_out} for row in values), key=str
                )
        finally:
            await connection.close()
        found["data"] = await self.data(subject)
        running = await self.deployer.list()
        found["processes"] = sorted(self._plain(each.inst_id, subject) for each in running if each.module_id == subject.new)
        files = (self.folder / "copies").glob(f"*/{subject.job.id}-*")
        found["copies"] = sorted(self._plain(file.name, subject) for file in files)
        found["run"] = await self._run_of(subject.new)
        return found

    async def _run_of(self, module: str) -> str:
        """Status of the run that looks after a version; empty if there is none."""
        try:
            status = (await self.steps._temporal.get_workflow_handle(module_run_id(module)).describe()).status
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            return ""
        return status.name if status is not None else ""

    def _plain(self, text: str, subject: Subject) -> str:
        text = text.replace(subject.job.id, "JOB").replace(subject.schema, "SCHEMA").replace(subject.product, "PRODUCT")
        text = re.sub(rf"\b{subject.tenant}\b", "TENANT", text).replace(str(self.folder), "FOLDER")
        text = re.sub(r'"token": "[^"]*"', '"token": "TOKEN"', text)
        text = re.sub(r'"digest": "[^"]*"', '"digest": "DIGEST"', text)
        text = re.sub(r'"bytes": [1-9]\d*', '"bytes": "SOME"', text)  # names of other lengths make copies of other sizes
        return _TIME.sub("TIME", _UUID.sub("UUID", text))

    def plain(self, value: Any, subject: Subject) -> str:
        """A result without names and chance."""
        text = json.dumps(dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value, default=str)
        return self._plain(text, subject)


def _names(subject: Subject) -> tuple[str, ...]:
    return (subject.job.id, f'"{subject.tenant}"', subject.product)


@dataclass(frozen=True)
class Obeyed:
    """What an activity came to, by its retry policy: a result or the last failure, and how many attempts it took."""

    result: Any = None
    failure: ApplicationError | None = None
    attempts: int = 1


async def obey(options: Options, method: Callable[[Any], Awaitable[Any]], request: Any, *, most: int = 40) -> Obeyed:
    """Run an activity as the server has it run: again after a failure, as often and long as its policy says."""
    policy = options["retry_policy"]
    pause = policy.initial_interval.total_seconds() * FASTER
    attempts = 0
    while True:
        attempts += 1
        last: Exception
        try:
            return Obeyed(result=await ActivityEnvironment().run(method, request), attempts=attempts)
        except ApplicationError as error:
            if error.non_retryable or attempts == policy.maximum_attempts:
                return Obeyed(failure=error, attempts=attempts)
            last = error
        except Exception as error:  # noqa: BLE001 - the server retries whatever it is
            last = error
        if attempts >= most:
            raise AssertionError(f"it would be tried for ever: {last!r}") from last
        await asyncio.sleep(pause)
        pause = min(pause * policy.backoff_coefficient, 0.5)


@contextlib.asynccontextmanager
async def make_world(
    gateway_dsn: str, modules_dsn: str, folder: Path, temporal: Client, *, line: str = "", **gateway_settings: Any
) -> AsyncIterator[World]:
    """Start everything, and stop it. `line`: the gateway's own way to its database, if it is another one than the test's."""
    settings_of_gateway = {"settle": 0.02, "grace": 1.0, **gateway_settings}
    running = await asyncio.to_thread(Running(line or gateway_dsn, **settings_of_gateway).start)
    site = Site(running.url, gateway_dsn, running=running)
    module = await Migrating(modules_dsn).start()
    data = DataSettings(dsn=modules_dsn, schema_pattern="{tenant}_{product_}")
    snapshots = SnapshotSettings(lock_wait=2.0)
    first = 21_000 + 100 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])  # two that choose a port at once choose the same
    settings = DeploySettings(
        health_wait=20, stop_grace=1, retire_after=0.1, external_wait=0.5, port_first=first, port_last=first + 99
    )
    deployer = ProcessDeployer(settings=settings, folder=folder / "instances")
    queue = f"faults-{uuid.uuid4()}"
    async with (
        WireProxy(upstream=running.url) as proxy,
        WireProxy(upstream=module.url) as wire,
        Caller(url=proxy.url, timeout=PATIENT) as gateway,
    ):
        calls = ModuleCalls(gateway=gateway, settings=INIT)
        instances = NodeInstances(gateway=gateway, deployer=deployer, node="n")
        steps = GatewayActivities(
            gateway=gateway, temporal=temporal, task_queue=queue, deploy=settings, data=data, keep_copies=60.0
        )
        world = World(
            site=site,
            proxy=proxy,
            wire=wire,
            module=module,
            modules_dsn=modules_dsn,
            folder=folder,
            gateway=gateway,
            steps=steps,
            checks=CheckActivities(
                gateway=gateway, data=data, snapshots=snapshots, verify=VerifySettings(timeout=0.5, attempts=2)
            ),
            copies=SnapshotActivities(gateway=gateway, data=data, snapshots=snapshots, folder=folder / "copies", node="n"),
            init=TenantInitActivities(
                gateway=gateway,
                temporal=temporal,
                calls=calls,
                init=INIT,
                data=data,
                snapshots=snapshots,
            ),
            deploy=DeployActivities(gateway=gateway, instances=instances, settings=settings),
            deployer=deployer,
            reconcile=ReconcileActivities(
                gateway=gateway,
                temporal=temporal,
                task_queue=queue,
                tell_unneeded=steps.tell_unneeded,
                settings=ReconcileSettings(),
                keep_copies=60.0,
            ),
            reconcile_here=NodeReconcileActivities(
                gateway=gateway, instances=instances, folder=folder / "copies", keep_copies=60.0
            ),
            permissions=PermissionActivities(gateway=gateway, calls=calls, settings=PermissionSettings(timeout=0.5, retry=1.5)),
            module_steps=ModuleStepActivities(gateway=gateway, settings=STEPS),
        )
        try:
            yield world
        finally:
            await calls.close()
            await world.checks.close()
            await world.module_steps.close_connections()
            for found in await deployer.list():
                await deployer.stop(found.inst_id)
            await module.stop()
            await site.close()
            await asyncio.to_thread(running.stop)
