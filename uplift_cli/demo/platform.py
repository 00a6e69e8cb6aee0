"""What the demo asks of the gateway's API, as an operator would with curl."""

import asyncio
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from examples.descriptors import descriptor
from gateway_client import GatewayClient, GatewayUnavailable
from upgrade_core.descriptors import Undo
from uplift_cli.demo.errors import StepFailed

_LOOK = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """A job as the API shows it.

    Attributes:
        phase: What it does.
        progress: Of tenant init, in percent; empty: unknown.
        outcome: How it ended; empty: it runs.
        error: Its first error.
    """

    id: str
    phase: str
    progress: str
    outcome: str
    error: str
    held: float


class Platform:
    """The gateway.

    Args:
        client: Its client.
    """

    def __init__(self, client: GatewayClient) -> None:
        self._client = client

    async def add_module(self, product: str, version: str, *, undo: Undo) -> None:
        """Make a release of an example known.

        Args:
            product: Which module.
            version: Its release.
            undo: How its tenant init is undone, see `upgrade_core.descriptors.Undo`.
        """
        described = descriptor(product, version, python=sys.executable, uplift={"undo": undo})
        await self._client.call("POST", "/_/proxy/modules", described)

    async def add_tenant(self, tenant: str) -> None:
        """Create a tenant."""
        await self._client.call("POST", "/_/proxy/tenants", {"id": tenant})

    async def start(self, tenant: str, *modules: str, migration_seconds: float = 0) -> str:
        """Start a job that brings a tenant to these module ids; returns its id."""
        path = f"/_/proxy/tenants/{tenant}/install"
        known = {job["id"] for job in await self._client.call("GET", path)}
        query = f"?async=true&tenantParameters=migrationSeconds={migration_seconds:g}"
        await self._client.call("POST", path + query, [{"id": module, "action": "enable"} for module in modules])
        return next(str(job["id"]) for job in await self._client.call("GET", path) if job["id"] not in known)

    async def job(self, tenant: str, job: str) -> JobView:
        """A job as it is now."""
        found = await self._client.call("GET", f"/_/proxy/tenants/{tenant}/install/{job}")
        errors = found.get("errors") or [{}]
        return JobView(
            id=found["id"],
            phase=found.get("phase", ""),
            progress=next((str(line["progress"]) for line in found["modules"] if line.get("progress")), ""),
            outcome=found.get("outcome", "") if found["complete"] else "",
            error=str(errors[0].get("message", "")),
            held=float(found.get("heldSeconds", 0)),
        )

    async def follow(self, tenant: str, job: str, *, seen: Callable[[JobView], None], timeout: float) -> JobView:
        """Look at a job until it has ended, also while the gateway is away.

        Raises:
            StepFailed: It does not end in time.
        """
        view: JobView | None = None
        try:
            async with asyncio.timeout(timeout):
                while view is None or not view.outcome:
                    try:
                        view = await self.job(tenant, job)
                        seen(view)
                    except GatewayUnavailable:
                        view = None
                    await asyncio.sleep(_LOOK)
        except TimeoutError as error:
            raise StepFailed(f"job {job} of tenant {tenant} did not end within {timeout:g} s, it is {view}") from error
        return view

    async def versions(self, tenant: str) -> dict[str, str]:
        """The version of each enabled module, by product."""
        found = await self._client.call("GET", f"/_/proxy/tenants/{tenant}/modules")
        return {product: version for product, _, version in (str(item["id"]).rpartition("-") for item in found)}

    async def parked(self) -> Mapping[str, int]:
        """Requests that are held now, by tenant."""
        links: list[dict[str, Any]] = await self._client.call("GET", "/_/lifecycle/links")
        held: dict[str, int] = {}
        for link in links:
            held[link["tenant"]] = held.get(link["tenant"], 0) + int(link["parked"])
        return held

    async def has_instance(self, module: str) -> bool:
        """Whether a module version has an instance, or is being retired."""
        return any(version.module == module for version in await self._client.versions())
