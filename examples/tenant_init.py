"""The HTTP routes of tenant init: install, upgrade, downgrade, disable, purge, and jobs."""

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from aiohttp import web

from examples.database import Database, tenant_of
from examples.dialects import Dialect, InitRequest, parse_init
from examples.jobs import Job, Jobs
from examples.migrations import Migration, MigrationFailed, Migrator, Pace, Progress
from examples.releases import UnknownVersion

_LONGEST_WAIT = 60.0  # seconds that a GET may wait for a job's end


class TenantInit:
    """Answers a gateway's tenant-init calls."""

    def __init__(
        self,
        *,
        database: Database,
        migrator: Migrator,
        jobs: Jobs,
        product: str,
        dialect: Dialect,
        environ: Mapping[str, str],
    ) -> None:
        self._database = database
        self._migrator = migrator
        self._jobs = jobs
        self._product = product
        self._dialect = dialect
        self._environ = environ

    def routes(self) -> list[web.RouteDef]:
        """What to add to the application."""
        return [
            web.post("/_/tenant", self.post),
            web.delete("/_/tenant", self.purge),
            web.post("/_/tenant/disable", self.disable),
            web.get("/_/tenant/{id}", self.get_job),
            web.delete("/_/tenant/{id}", self.delete_job),
        ]

    async def post(self, request: web.Request) -> web.Response:
        """Install, upgrade or downgrade; without a wanted version disable or purge."""
        tenant = tenant_of(request)
        try:
            body = await request.json()
            query_async = request.query.get("async") == "true"
            wanted = parse_init(body, dialect=self._dialect, product=self._product, query_async=query_async)
            pace = Pace.read(wanted.parameters, self._environ)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return self._problem(400, f"this is no tenant-init request: {error!r}")
        if wanted.target is None:
            return await (self.purge if wanted.purge else self.disable)(request)
        try:
            migration = await self._migrator.plan(tenant, source=wanted.source, target=wanted.target)
        except UnknownVersion as error:
            return self._problem(400, str(error))
        await self._database.create_schema(tenant)

        async def work(progress: Progress) -> tuple[str, ...]:
            return await self._migrator.run(tenant, migration, pace=pace, progress=progress)

        if wanted.asynchronous and wanted.parameters.get("fail", "job") == "job":
            return self._accepted(await self._jobs.start(tenant, body, work), tenant)
        return await self._at_once(wanted, migration, tenant, pace)

    async def disable(self, request: web.Request) -> web.Response:
        """The tenant no longer uses the module. Its data stays, so there is nothing to do."""
        tenant_of(request)
        return web.Response(status=204)

    async def purge(self, request: web.Request) -> web.Response:
        """Remove the tenant's data."""
        await self._database.drop_schema(tenant_of(request))
        return web.Response(status=204)

    async def get_job(self, request: web.Request) -> web.Response:
        """A job's state; `?wait=ms` waits for its end."""
        tenant = tenant_of(request)
        try:
            job_id = UUID(request.match_info["id"])
            wait = min(_LONGEST_WAIT, int(request.query.get("wait", "0")) / 1000)
        except ValueError as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        job = await self._jobs.find(tenant, job_id, wait=wait)
        if job is None:
            raise web.HTTPNotFound(text=f"Job not found {job_id}")
        return web.json_response(self._dialect.job_body(job, tenant))

    async def delete_job(self, request: web.Request) -> web.Response:
        """Remove a job's row."""
        try:
            job_id = UUID(request.match_info["id"])
        except ValueError as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        if not await self._jobs.remove(tenant_of(request), job_id):
            raise web.HTTPNotFound(text=f"Job not found {job_id}")
        return web.Response(status=204)

    async def _at_once(self, wanted: InitRequest, migration: Migration, tenant: str, pace: Pace) -> web.Response:
        async def ignore(_percent: int) -> None:
            """Nobody asks."""

        try:
            warnings = await self._migrator.run(tenant, migration, pace=pace, progress=ignore)
        except MigrationFailed as failure:
            status = 400 if wanted.parameters.get("fail") == "400" else 500
            return self._problem(status, str(failure), *failure.messages)
        if migration.same:
            return web.Response(status=204)
        status = 201 if migration.fresh else 200
        if self._dialect is Dialect.UPLIFT:
            body = {"messages": [], "warnings": [{"message": text} for text in warnings], "errors": []}
            return web.json_response(body, status=status)
        return web.Response(status=status)

    def _accepted(self, job: Job, tenant: str) -> web.Response:
        status = 202 if self._dialect is Dialect.UPLIFT else 201
        headers = {"Location": f"/_/tenant/{job.id}"}
        return web.json_response(self._dialect.job_body(job, tenant), status=status, headers=headers)

    def _problem(self, status: int, text: str, *messages: str) -> web.Response:
        if self._dialect is not Dialect.UPLIFT:
            return web.Response(status=status, text="\n".join((text, *messages)))
        body: dict[str, Any] = {"messages": list(messages), "warnings": [], "errors": [{"message": text}]}
        return web.Response(status=status, text=json.dumps(body), content_type="application/json")


__all__ = ["TenantInit"]
