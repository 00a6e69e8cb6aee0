"""What every example module is: a web application with tenant init and its own routes, run on 127.0.0.1 until SIGTERM."""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

import asyncpg
from aiohttp import web

from examples.database import Database
from examples.descriptors import descriptor
from examples.dialects import Dialect
from examples.jobs import Jobs
from examples.migrations import Migrator
from examples.releases import Module, Release
from examples.resource import DATABASE, Resource
from examples.tenant_init import TenantInit

JOBS = web.AppKey("jobs", Jobs)

_LAST_REQUESTS = 60.0  # seconds that requests in flight have after SIGTERM
_PATIENCE = 30.0  # seconds to look for the gateway

R = TypeVar("R", bound=Release)


def build_app(
    module: Module[R],
    *,
    version: str,
    resource: Resource,
    dialect: Dialect,
    environ: Mapping[str, str],
) -> web.Application:
    """The application of one release.

    Args:
        module: Which module.
        version: Which release.
        resource: The routes of its table.
        dialect: How it speaks about tenant init.
        environ: Where the database is (`DB_HOST`, …), and how fast to migrate (`MIGRATION_SECONDS`, `MIGRATION_BATCH`).
    """
    database = Database(product=module.product, application=f"{module.product}-{version}", environ=environ)
    jobs = Jobs(database=database)
    tenant_init = TenantInit(
        database=database,
        migrator=Migrator(database=database, module=module, version=version),
        jobs=jobs,
        product=module.product,
        dialect=dialect,
        environ=environ,
    )
    app = web.Application(middlewares=[_database_errors])
    app[DATABASE] = database
    app[JOBS] = jobs
    app.cleanup_ctx.extend([_connections, *resource.contexts()])
    # At shutdown, not cleanup: requests that wait for a job are in flight, and get their answer now.
    app.on_shutdown.append(_break_off)
    app.add_routes([web.get("/", _healthy), web.get("/admin/health", _healthy)])
    app.add_routes([*resource.routes(), *tenant_init.routes()])
    return app


def main(module: Module[R], resource_of: Callable[[R], Resource]) -> None:
    """The command of a module: `python -m examples.users --version 1.0.0 --port 9131`, by hand also `--gateway http://…`."""
    parser = argparse.ArgumentParser(prog=module.product)
    parser.add_argument("--version", required=True, choices=module.releases)
    parser.add_argument("--port", required=True, type=int, help="0: a free one, which the first line of output names")
    parser.add_argument("--dialect", default="async", choices=[str(dialect) for dialect in Dialect])
    parser.add_argument("--gateway", help="register there while it runs; not for instances that Uplift starts")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of every request
    app = build_app(
        module,
        version=chosen.version,
        resource=resource_of(module.releases[chosen.version]),
        dialect=Dialect(chosen.dialect),
        environ=os.environ,
    )
    described = descriptor(module.product, chosen.version, python=sys.executable, dialect=chosen.dialect)
    asyncio.run(_serve(app, described, port=chosen.port, gateway=chosen.gateway))


async def _serve(app: web.Application, described: dict[str, Any], *, port: int, gateway: str | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_LAST_REQUESTS)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with contextlib.AsyncExitStack() as registered:
            if gateway is not None:
                from gateway_client import Module as Registration  # noqa: PLC0415 - others start sooner without it

                await registered.enter_async_context(Registration(described, gateway=gateway, url=url, patience=_PATIENCE))
            logging.getLogger(__name__).info("%s answers at %s", described["id"], url)
            await stop.wait()
    finally:
        await runner.cleanup()


async def _connections(app: web.Application) -> AsyncIterator[None]:
    await app[DATABASE].open()
    yield
    await app[DATABASE].close()


async def _break_off(app: web.Application) -> None:
    await app[JOBS].close()


async def _healthy(_request: web.Request) -> web.Response:
    return web.Response(text="OK")


@web.middleware
async def _database_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        logging.getLogger(__name__).warning("%s %s: %s", request.method, request.path, error)
        raise web.HTTPInternalServerError(text=f"{type(error).__name__}: {error}") from error


__all__ = ["build_app", "main"]
