"""The typed client that runs, the worker's keeper, the CLI and modules use."""

import httpx
from pydantic import BaseModel

from gateway_client._calls import OnRequest, quoted, read, read_all
from gateway_client._errors import GatewayUnavailable
from gateway_client._lifecycle import LifecycleCalls
from gateway_wire import (
    BeginAnswer,
    ClaimRequest,
    FinishRequest,
    HoldRequest,
    HoldState,
    InitReport,
    Instance,
    IntentRequest,
    IntentState,
    LedgerAnswer,
    OpenRequest,
    Overlay,
    OverlayRequest,
    ReconcileReport,
    RepairAnswer,
    RepairRequest,
    Snapshot,
    Version,
)
from upgrade_core.descriptors import ModuleDescriptor, parse_descriptor
from upgrade_core.errors import UpliftError
from upgrade_core.permissions import PermissionList, parse_permissions
from upgrade_core.reconcile import Ledger, Report


class _Enabled(BaseModel):
    """A line of `/_/proxy/tenants/{tenant}/modules`."""

    id: str


class _Variable(BaseModel):
    """A variable of `/_/env`."""

    name: str
    value: str


class GatewayClient(LifecycleCalls):
    """Calls the gateway. Every call either gives what its type says or raises a `GatewayError`; none is retried here.

    Args:
        url: Base URL of the gateway.
        token: Bearer token of the admin API, or empty.
        timeout: Seconds for one call, beside the seconds that a call is asked to wait.
        transport: For tests of the client itself.
        on_request: Called with each request before it is sent; may add headers, such as a trace's.
    """

    def __init__(
        self,
        *,
        url: str,
        token: str = "",
        timeout: float = 15.0,
        transport: httpx.AsyncBaseTransport | None = None,
        on_request: OnRequest | None = None,
    ) -> None:
        super().__init__(url=url, token=token, timeout=timeout, transport=transport, on_request=on_request)
        self._descriptors: dict[str, ModuleDescriptor] = {}

    async def descriptor(self, module: str) -> ModuleDescriptor:
        """A module's descriptor; descriptors never change, so it is asked for once."""
        found = self._descriptors.get(module)
        if found is None:
            wire = await self.call("GET", f"/_/proxy/modules/{quoted(module)}")
            try:
                found = parse_descriptor(wire)
            except (UpliftError, AttributeError, TypeError, KeyError) as error:
                raise GatewayUnavailable(f"the answer is no descriptor of {module}: {error}") from error
            self._descriptors[module] = found
        return found

    async def permissions(self, module: str) -> PermissionList:
        """What a module's descriptor says of permissions."""
        wire = await self.call("GET", f"/_/proxy/modules/{quoted(module)}")
        try:
            return parse_permissions(wire)
        except (AttributeError, TypeError, KeyError) as error:
            raise GatewayUnavailable(f"the answer is no descriptor of {module}: {error}") from error

    async def enabled(self, tenant: str) -> tuple[str, ...]:
        """Ids of the modules that a tenant has enabled."""
        answer = await self.call("GET", f"/_/proxy/tenants/{quoted(tenant)}/modules")
        return tuple(found.id for found in read_all(_Enabled, answer))

    async def providers(self, tenant: str, interface: str) -> tuple[str, ...]:
        """Ids of a tenant's modules that provide a system interface."""
        answer = await self.call("GET", f"/_/proxy/tenants/{quoted(tenant)}/interfaces/{quoted(interface)}?type=system")
        return tuple(found.id for found in read_all(_Enabled, answer))

    async def environment(self) -> dict[str, str]:
        """Variables of every instance that is deployed from now on (`/_/env`)."""
        return {item.name: item.value for item in read_all(_Variable, await self.call("GET", "/_/env"))}

    async def begin(self, job: str) -> BeginAnswer:
        """Fix the plan of a job and get it; again gives the same."""
        return await self._post(BeginAnswer, f"/_/runs/{quoted(job)}/begin", None)

    async def compare(self, job: str) -> None:
        """Ask whether everything that the caller knows (`knowing`) is on record.

        Raises:
            DatabaseDiffers: It is not.
        """
        await self.call("GET", f"/_/runs/{quoted(job)}/known")

    async def claim(self, job: str, request: ClaimRequest) -> Version:
        """Say that a job needs an instance of a version.

        Raises:
            Retiring: It is on its way out.
        """
        return await self._post(Version, f"/_/runs/{quoted(job)}/claims", request)

    async def give_back(self, job: str, module: str) -> Version:
        """The job needs the version no more."""
        return read(Version, await self.call("DELETE", f"/_/runs/{quoted(job)}/claims/{quoted(module)}"))

    async def version(self, module: str, *, wait: float = 0, gone: bool = False) -> Version:
        """One module version.

        Args:
            module: Module id.
            wait: Seconds to wait until it has an instance (or, with `gone`, none that was deployed).
            gone: What to wait for.
        """
        query = f"?wait={wait:.6f}&gone={'true' if gone else 'false'}"
        return read(Version, await self.call("GET", f"/_/versions/{quoted(module)}{query}", wait=wait))

    async def versions(self) -> tuple[Version, ...]:
        """All module versions that have instances or are being retired."""
        return read_all(Version, await self.call("GET", "/_/versions"))

    async def put_instance(self, instance: Instance) -> None:
        """Register an instance that a deployer started, or its new process."""
        path = f"/_/versions/{quoted(instance.module)}/instances/{quoted(instance.id)}"
        await self.call("PUT", path, instance)

    async def remove_instance(self, module: str, instance: str) -> None:
        """Forget an instance."""
        await self.call("DELETE", f"/_/versions/{quoted(module)}/instances/{quoted(instance)}")

    async def issue_secret(self, module: str, instance: str) -> str:
        """A new secret for an instance that is about to be started; the one that it had is not known any more."""
        path = f"/_/versions/{quoted(module)}/instances/{quoted(instance)}/secret"
        found = await self.call("POST", path)
        token = found.get("token") if isinstance(found, dict) else None
        if not isinstance(token, str) or not token:  # not quoted: it may hold the secret
            raise GatewayUnavailable(f"POST {path}: the answer is no secret: is this the gateway, and of our version?")
        return token

    async def retire(self, module: str) -> Version:
        """Mark a version as on its way out if nobody needs it; `needed_by` says who does."""
        return await self._post(Version, f"/_/versions/{quoted(module)}/retire", None)

    async def retired(self, module: str) -> None:
        """The version's instances are gone; it may be claimed again."""
        await self.call("DELETE", f"/_/versions/{quoted(module)}/retire")

    async def hold(self, job: str, request: HoldRequest) -> tuple[HoldState, ...]:
        """UPDATE on the links of a group; again gives the holds that stand."""
        answer = await self.call("POST", f"/_/runs/{quoted(job)}/holds", request)
        return read_all(HoldState, answer)

    async def open(self, job: str, request: OpenRequest) -> None:
        """RESUME, with the switch where asked for, in one transaction; again is fine."""
        await self.call("POST", f"/_/runs/{quoted(job)}/open", request)

    async def begin_intent(self, job: str, request: IntentRequest) -> IntentState:
        """Write down that tenant init is about to be asked for."""
        return await self._post(IntentState, f"/_/runs/{quoted(job)}/intents", request)

    async def report_init(self, job: str, key: str, report: InitReport) -> None:
        """Write down what became of it."""
        await self.call("PUT", f"/_/runs/{quoted(job)}/intents/{quoted(key)}", report)

    async def set_data_version(self, job: str, product: str, module: str | None) -> None:
        """Say what version the tenant's data is at; None: there is none."""
        await self.call("PUT", f"/_/runs/{quoted(job)}/data-versions/{quoted(product)}", {"module": module})

    async def open_overlay(self, job: str, request: OverlayRequest) -> Overlay:
        """The secret prefix of a job's product; again gives the same."""
        return await self._post(Overlay, f"/_/runs/{quoted(job)}/overlays", request)

    async def close_overlay(self, job: str, product: str) -> None:
        """Close the prefix and wait until nothing of it is at work."""
        await self.call("DELETE", f"/_/runs/{quoted(job)}/overlays/{quoted(product)}", wait=60)

    async def add_snapshot(self, snapshot: Snapshot) -> None:
        """Record a copy."""
        await self.call("POST", f"/_/runs/{quoted(snapshot.job)}/snapshots", snapshot)

    async def keep_snapshots(self, job: str, seconds: float) -> None:
        """Start the time that a job's copies are kept."""
        await self.call("PATCH", f"/_/runs/{quoted(job)}/snapshots", {"keep": seconds})

    async def snapshots(self, *, expired: bool = False) -> tuple[Snapshot, ...]:
        """Copies, oldest first."""
        answer = await self.call("GET", f"/_/snapshots?expired={'true' if expired else 'false'}")
        return read_all(Snapshot, answer)

    async def remove_snapshot(self, snapshot: str) -> None:
        """Forget a copy whose file is gone."""
        await self.call("DELETE", f"/_/snapshots/{quoted(snapshot)}")

    async def set_phase(self, job: str, phase: str, *, subject: str = "", stage: str = "", message: str = "") -> None:
        """What a job is doing, for people; the message stands in the module's line unless the module gave one."""
        await self.call(
            "PUT", f"/_/runs/{quoted(job)}/phase", {"phase": phase, "subject": subject, "stage": stage, "message": message}
        )

    async def finish(self, job: str, request: FinishRequest) -> None:
        """End a job; again is fine."""
        await self.call("POST", f"/_/runs/{quoted(job)}/finish", request)

    async def ledger(self) -> Ledger:
        """What the gateway's database says, as of one moment, for reconcile runs."""
        return read(LedgerAnswer, await self.call("GET", "/_/reconcile/ledger")).ledger

    async def repair(self, request: RepairRequest) -> bool:
        """Repair one thing; False if it is not harmless any more. Again is fine."""
        return read(RepairAnswer, await self.call("POST", "/_/reconcile/repairs", request, wait=60)).done

    async def report_reconcile(self, report: Report) -> None:
        """Tell what a reconcile run came to."""
        await self.call("PUT", "/_/reconcile", ReconcileReport(report=report))

    async def put_node(self, node: str) -> None:
        """Say that a worker runs on a node."""
        await self.call("PUT", f"/_/reconcile/nodes/{quoted(node)}")
