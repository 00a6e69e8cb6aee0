"""How instances are reached that listen on a socket in the file system (tenant init and its jobs)."""

from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from aiohttp import web

from activities.module_calls import ModuleCalls
from gateway_client import Instance
from upgrade_core.tenant_init import Call
from uplift_settings.tree import InitSettings


async def test_an_instance_behind_a_socket_in_the_file_system_is_called(tmp_path: Path) -> None:
    asked: list[str] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(f"{request.method} {request.raw_path} {request.headers['X-Okapi-Tenant']} {(await request.read()).decode()}")
        return web.Response(status=201)

    runner = web.ServerRunner(web.Server(answer, access_log=None))
    await runner.setup()
    path = str(tmp_path / "a b.sock")
    await web.UnixSite(runner, path).start()
    instance = Instance(id="i", module="m-1.0.0", url=f"http+unix://{quote(path, safe='')}/base", node=None, generation=None)
    nobody = cast("Any", None)
    calls = ModuleCalls(gateway=nobody, settings=InitSettings())
    try:
        found = await calls.post(instance, Call(method="POST", path="/_/tenant", body="{}"), tenant="t", url="http://x")
        looked = await calls.look(instance, Call(method="GET", path="/_/tenant/1", body=None), tenant="t", url="http://x", wait=1)
    finally:
        await calls.close()
        await runner.cleanup()
    assert (found.status_code, looked.status_code if looked else 0) == (201, 201)
    assert asked == ["POST /base/_/tenant t {}", "GET /base/_/tenant/1?wait=1000 t "]
