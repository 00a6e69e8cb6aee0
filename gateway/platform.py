"""The gateway's stores and its routing table together: what the services work on."""

import asyncio
import time

from gateway.routing import RoutingTable
from gateway.store import Database, InstanceStore, JobStore, OutboxStore, ProblemStore, RegistryStore, RunStore
from upgrade_core.protocol import Hold
from uplift_settings.tree import GatewaySettings


class Platform:
    """One gateway's state."""

    def __init__(self, *, database: Database, settings: GatewaySettings, url: str, ui_url: str, namespace: str) -> None:
        self.database = database
        self.settings = settings
        self.url = url
        self.ui_url = ui_url
        self.namespace = namespace
        self.registry = RegistryStore(database)
        self.instances = InstanceStore(database)
        self.jobs = JobStore(database)
        self.runs = RunStore(database)
        self.problems = ProblemStore(database)
        self.outbox = OutboxStore(database)
        self.table = RoutingTable()
        self.instances_changed = asyncio.Event()
        self.loose_until = 0.0

    async def load(self) -> None:
        """Build the routing table from the rows.

        After a gateway that did not stop cleanly, requests that it cut off may still be at work: for `settle` seconds everything
        counts as loose.
        """
        if not await self.registry.take_clean_mark():
            self.loose_until = time.monotonic() + self.settings.settle
        table = self.table
        for module, text in await self.registry.modules():
            table.add_module(module, text)
        for tenant in await self.registry.tenants():
            table.tenants[tenant.id] = tenant
        for tenant_id, product, bound in await self.registry.bindings():
            table.bind(tenant_id, product, bound)
        for instance in await self.instances.all():
            table.put_instance(instance)
        table.retiring = await self.instances.retiring()
        for overlay in await self.runs.overlays():
            table.put_overlay(overlay)
        for row in await self.runs.holds():
            link = table.link(row.tenant, row.product)
            link.hold, link.hold_id, link.holder = Hold(row.state), row.id, row.job or ""
            link.since = row.since.isoformat()

    async def refresh(self) -> None:
        """Learn what was committed while the database went away and the commit's answer was lost."""
        for tenant in await self.registry.tenants():
            self.table.tenants[tenant.id] = tenant
        for instance in await self.instances.all():
            self.table.put_instance(instance)
        self.tell_instances_changed()

    def tell_instances_changed(self) -> None:
        """Wake those who wait for an instance to come or go."""
        self.instances_changed.set()
        self.instances_changed = asyncio.Event()
