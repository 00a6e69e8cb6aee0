"""A permissions module: keeps what it is told for each tenant, one list a product; and a reindex that takes until it is let go.

Run as `python permissions.py --port N`. A set whose name holds `refused` is answered with 400. `GET /permissions` shows a
tenant's sets by module and, in order, what was told. `POST /permissions/reindex` begins a job,
`POST /permissions/let-go` ends it.
"""

import argparse
import re
from collections import defaultdict
from typing import Any

from aiohttp import web

TOLD: dict[str, list[list[Any]]] = defaultdict(list)
SETS: dict[str, dict[str, tuple[str, list[str]]]] = defaultdict(dict)
JOBS: dict[str, dict[str, Any]] = {}


def tenant_of(request: web.Request) -> str:
    return request.headers["X-Okapi-Tenant"]


async def tell(request: web.Request) -> web.Response:
    body = await request.json()
    names = [each["permissionName"] for each in body.get("perms") or ()]
    if any("refused" in name for name in names):
        return web.Response(status=400, text="refused as asked")
    tenant, module = tenant_of(request), body["moduleId"]
    TOLD[tenant].append([module, names])
    SETS[tenant][re.split(r"-(?=\d)", module)[0]] = (module, names)
    return web.Response(status=204)


async def show(request: web.Request) -> web.Response:
    tenant = tenant_of(request)
    return web.json_response({"sets": {module: names for module, names in SETS[tenant].values() if names}, "told": TOLD[tenant]})


async def reindex(request: web.Request) -> web.Response:
    job = JOBS[tenant_of(request)] = {"id": "1", "state": "running"}
    return web.json_response(job)


async def job(request: web.Request) -> web.Response:
    return web.json_response(JOBS[tenant_of(request)])


async def let_go(request: web.Request) -> web.Response:
    JOBS[tenant_of(request)]["state"] = request.query["state"]
    return web.Response(status=204)


async def nothing(request: web.Request) -> web.Response:
    del request
    return web.Response(status=204)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    app = web.Application()
    app.add_routes(
        [
            web.post("/_/tenantpermissions", tell),
            web.post("/_/tenant", nothing),
            web.get("/permissions", show),
            web.post("/permissions/reindex", reindex),
            web.get("/permissions/reindex/{id}", job),
            web.post("/permissions/let-go", let_go),
        ]
    )
    web.run_app(app, host="127.0.0.1", port=options.port, print=None)
