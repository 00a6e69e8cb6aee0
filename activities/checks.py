"""Looking before anybody is held, and checking before the switch."""

import asyncio
import json

import httpx
from temporalio import activity

from activities.databases import must_answer
from activities.signatures import ChangeRequest, Checked, CheckedChange, CheckSteps, Verdict
from activities.translate import final, translated
from gateway_client import GatewayClient, OverlayRequest
from module_data import PostgresData
from upgrade_core.decisions import calls_init
from upgrade_core.descriptors import TENANT_PERMISSIONS, Check, ModuleDescriptor, Undo
from upgrade_core.ids import ModuleId, copy_id, schema_name
from upgrade_core.module_steps import contains
from upgrade_core.plan import Change, Kind
from upgrade_core.tenant_init import is_invoked
from uplift_settings import read_secret
from uplift_settings.tree import DataSettings, SnapshotSettings, VerifySettings

_RETRY = 0.5
_SHOWN = 300


class CheckActivities(CheckSteps):
    """Implementation.

    Args:
        gateway: The gateway.
        data: Where modules keep their data, if their descriptor does not say.
        snapshots: Limits of copies.
        verify: Clocks of checks.
    """

    def __init__(
        self, *, gateway: GatewayClient, data: DataSettings, snapshots: SnapshotSettings, verify: VerifySettings
    ) -> None:
        self._gateway = gateway
        self._data = data
        self._snapshots = snapshots
        self._verify = verify
        self._http = httpx.AsyncClient(timeout=verify.timeout, trust_env=False)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    @activity.defn(name="checks.check")
    async def check(self, request: ChangeRequest) -> Checked:
        """Descriptors, dialect, undo mode, and whether a snapshot would be whole."""
        change = request.change
        with translated():
            subject = await self._gateway.descriptor(change.subject)
            init_module = await self._init_module(change)
            asked = await self._gateway.descriptor(init_module)
            called = calls_init(change, asked, invoke=request.invoke)
            tells = await self._permissions_module(request)
            dsn, schema = self._place(subject, request.tenant)
            undo = change.undo or (Undo.SNAPSHOT if dsn else Undo.MODULE)
            copies = undo is Undo.SNAPSHOT and called and change.kind is not Kind.DISABLE
            if undo is Undo.SNAPSHOT and not copies:
                undo = Undo.MODULE
            warnings: tuple[str, ...] = ()
            if copies and not await self._check_copy(subject, dsn, schema) and change.kind is not Kind.INSTALL:
                # Nothing of it is in the database: what it keeps elsewhere would not be restored.
                undo, copies = Undo.MODULE, False
            elif undo is Undo.MODULE and called and change.kind is not Kind.DISABLE:
                warnings = (
                    f"{change.subject}: nothing here knows where its data is; a failed tenant init is left to the module",
                )
        enables = change.version_to is not None
        return Checked(
            needs_instance=subject.needs_instance,
            calls_init=called,
            undo=undo,
            dsn=dsn,
            schema=schema,
            copies=copies,
            copies_at_once=self._snapshots.at_once,
            init_module=init_module,
            verifies=enables and bool(subject.uplift.checks or subject.uplift.data_version),
            soak=subject.uplift.soak if enables else 0.0,
            warnings=warnings if change.undo is None else (),
            tells=tells,
            is_told=_is_told(request, subject),
            prechecks=len(subject.uplift.prechecks) if enables else 0,
            post_steps=len(subject.uplift.post_steps) if enables else 0,
        )

    @activity.defn(name="checks.recall")
    async def recall(self, request: ChangeRequest) -> Checked:
        """What `check` had found out, from what the lost run left: a copy that is recorded says that there was one to take."""
        change = request.change
        with translated():
            subject = await self._gateway.descriptor(change.subject)
            init_module = await self._init_module(change)
            asked = await self._gateway.descriptor(init_module)
            dsn, schema = self._place(subject, request.tenant)
            wanted = copy_id(request.job, change.key)
            copy = next((found for found in await self._gateway.snapshots() if found.id == wanted), None)
            tells = await self._permissions_module(request)
            undo = change.undo or Undo.MODULE
            if copy is not None:
                undo, dsn, schema = Undo.SNAPSHOT, copy.dsn, copy.schema_name
            elif undo is Undo.SNAPSHOT:  # tenant init is asked for after the copy, or needs none
                undo = Undo.MODULE
        return Checked(
            needs_instance=subject.needs_instance,
            calls_init=calls_init(change, asked, invoke=request.invoke),
            undo=undo,
            dsn=dsn,
            schema=schema,
            copies=copy is not None,
            init_module=init_module,
            tells=tells,
            is_told=_is_told(request, subject),
            post_steps=len(subject.uplift.post_steps) if change.version_to is not None else 0,
        )

    @activity.defn(name="checks.verify")
    async def verify(self, request: CheckedChange) -> Verdict:
        """The descriptor's checks through the overlay, as the tenant."""
        change = request.change
        assert change.version_to is not None
        failures: list[str | None] = []
        with translated():
            descriptor = await self._gateway.descriptor(change.version_to)
            overlay = await self._gateway.open_overlay(
                request.job, OverlayRequest(product=change.product, module=change.version_to)
            )
            failures = [await self._fails(request, overlay.url, check) for check in descriptor.uplift.checks]
            if descriptor.uplift.data_version:
                failures.append(
                    await self._fails_version(request, overlay.url, descriptor.uplift.data_version, change.version_to)
                )
        return Verdict(failures=tuple(failure for failure in failures if failure is not None))

    async def _init_module(self, change: Change) -> str:
        """Whose instance is asked: for a downgrade the higher version, if it knows the way back."""
        if change.version_to is None:
            return change.bound or change.subject
        if change.kind is Kind.DOWNGRADE and change.bound is not None:
            higher = await self._gateway.descriptor(change.bound)
            if higher.uplift.undo is Undo.REVERSIBLE:
                return change.bound
        return change.version_to

    async def _permissions_module(self, request: ChangeRequest) -> str:
        """The enabled permissions module, if it is to be called; the first by its id, if there are several."""
        found = await self._gateway.providers(request.tenant, TENANT_PERMISSIONS)
        return next((module for module in sorted(found)[:1] if is_invoked(request.invoke, module)), "")

    def _place(self, descriptor: ModuleDescriptor, tenant: str) -> tuple[str, str]:
        dsn = descriptor.uplift.data_dsn or self._data.dsn
        pattern = descriptor.uplift.data_schema or self._data.schema_pattern
        return (dsn, schema_name(pattern, tenant=tenant, product=descriptor.product)) if dsn else ("", "")

    async def _check_copy(self, descriptor: ModuleDescriptor, dsn: str, schema: str) -> bool:
        """Whether there is something to copy; refuses where the copy would not be whole."""
        if not dsn:
            raise final(
                f"undo mode snapshot of {descriptor.id}: nothing says where its data is; set data.dsn, or"
                " metadata.uplift.data in its descriptor, or choose another undo mode",
                "CopyRefused",
            )
        pattern = descriptor.uplift.data_schema or self._data.schema_pattern
        reasons: tuple[str, ...] = ()
        if "{tenant}" not in pattern or "{product" not in pattern:
            reasons = (f"schema pattern {pattern!r} is shared by tenants or modules",)
        data = PostgresData(dsn=read_secret(dsn, what=f"data of {descriptor.id}"), tools=self._data.tools)
        exists = True
        if not reasons:
            facts = await data.facts(schema, max_bytes=self._snapshots.max_bytes)
            reasons, exists = facts.refusals, facts.exists
        if reasons:
            raise final(
                f"a snapshot of {descriptor.id} would not be whole: {'; '.join(reasons)}. Mend that or choose another undo mode",
                "CopyRefused",
            )
        return exists

    async def _fails(self, request: CheckedChange, base: str, check: Check) -> str | None:
        answer = await self._ask(request, base, check.method, check.path)
        what = f"check {check.method} {check.path}"
        if isinstance(answer, str):
            return f"{what}: {answer}"
        if answer.status_code != check.status:
            return f"{what}: expected {check.status}, got {answer.status_code}: {answer.text[:_SHOWN]}"
        if check.json is not None:
            wanted = json.loads(check.json)
            try:
                given = answer.json()
            except (ValueError, RecursionError):
                return f"{what}: expected JSON, got {answer.text[:_SHOWN]!r}"
            if not contains(given, wanted):
                return f"{what}: expected {check.json[:_SHOWN]}, got {answer.text[:_SHOWN]}"
        return None

    async def _fails_version(self, request: CheckedChange, base: str, path: str, module: str) -> str | None:
        """Whether the data says another version than tenant init was asked for."""
        answer = await self._ask(request, base, "GET", path)
        if isinstance(answer, str):
            return f"data version at {path}: {answer}"
        try:
            version = answer.json().get("version")
        except (ValueError, RecursionError, AttributeError):
            version = None
        if answer.status_code != 200 or version not in (module, str(ModuleId.parse(module).version)):  # noqa: PLR2004
            return f"data version at {path}: expected {module}, got {answer.status_code}: {answer.text[:_SHOWN]}"
        return None

    async def _ask(self, request: CheckedChange, base: str, method: str, path: str) -> httpx.Response | str:
        """What the module answers, or why there is no answer.

        Raises:
            GatewayUnavailable: The gateway is away: that is no verdict on the module.
            ModuleDataError: The module's database is away: neither is what the module answers without it.
        """
        found: httpx.Response | str = ""
        broken = False
        for attempt in range(self._verify.attempts):
            if attempt:
                await asyncio.sleep(_RETRY)
            try:
                found = await self._http.request(
                    method, base + path, headers={"X-Okapi-Tenant": request.tenant, "Accept": "application/json"}
                )
            except httpx.HTTPError as error:
                found = f"no answer: {str(error) or type(error).__name__}"
                broken = not isinstance(error, httpx.ReadTimeout)
                continue
            if found.status_code < 500:  # noqa: PLR2004
                return found
            broken = False
            if attempt + 1 < self._verify.attempts:
                await must_answer(request, data=self._data, snapshots=self._snapshots)
        if broken:
            # Either the module broke off, which the gateway passes on, or the gateway itself is away: then it is no verdict.
            await self._gateway.versions()
        return found


def _is_told(request: ChangeRequest, subject: ModuleDescriptor) -> bool:
    """Whether the version to go to is a permissions module that is to be called."""
    enables = request.change.version_to is not None
    return enables and subject.is_permissions_module and is_invoked(request.invoke, subject.id)
