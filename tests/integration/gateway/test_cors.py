"""Browsers that call from another origin: answered for every site, as by Okapi, unless a module does that itself."""

from typing import Any

import pytest
from aiohttp import web

ORIGIN = "https://ui.example.org"
PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "PUT",
    "Access-Control-Request-Headers": "x-okapi-tenant,content-type",
}


@pytest.mark.parametrize("path", ["/{p}/x", "/nowhere", "/_/proxy/tenants/{t}/modules", "/_/invoke/tenant/{t}/{p}/x"])
async def test_a_browser_that_asks_may(site: Any, upstream: Any, path: str) -> None:
    """It sends neither tenant nor token with the question, and no module is asked."""
    tenant, product = await site.wired(upstream.url)
    found = await site.http.options(path.replace("{p}", product).replace("{t}", tenant), headers=PREFLIGHT)
    assert (found.status_code, found.content) == (204, b"")
    assert found.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert found.headers["Access-Control-Allow-Credentials"] == "true"
    assert set(found.headers["Access-Control-Allow-Methods"].split(",")) == {"PUT", "PATCH", "DELETE", "GET", "POST"}
    assert found.headers["Access-Control-Allow-Headers"] == "x-okapi-tenant,content-type"
    assert found.headers["Access-Control-Max-Age"] == "7200"
    assert upstream.requests == []


async def test_answers_of_modules_and_of_the_gateway_may_be_read(site: Any, upstream: Any) -> None:
    async def answer(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(headers={"Access-Control-Allow-Origin": "https://nobody.example.org", "Vary": "Accept"})

    upstream.answer = answer
    tenant, product = await site.wired(upstream.url)
    for path, asks, status in ((f"/{product}", tenant, 200), ("/nowhere", tenant, 404), ("/_/version", "supertenant", 200)):
        found = await site.get(asks, path, Origin=ORIGIN)
        assert found.status_code == status
        assert found.headers.get_list("Access-Control-Allow-Origin") == [ORIGIN]
        assert "Location" in found.headers["Access-Control-Expose-Headers"]
        assert "Origin" in found.headers.get_list("Vary")


async def test_others_are_told_nothing_of_it(site: Any, upstream: Any) -> None:
    tenant, product = await site.wired(upstream.url)
    found = await site.get(tenant, f"/{product}")
    assert not [name for name in found.headers if name.lower().startswith("access-control")]


async def test_options_that_are_no_question_of_a_browser_reach_the_module(site: Any, upstream: Any) -> None:
    tenant, product = await site.wired(upstream.url)
    found = await site.http.options(f"/{product}", headers={"X-Okapi-Tenant": tenant})
    assert (found.status_code, found.json()["method"]) == (200, "OPTIONS")


async def test_a_module_that_wants_it_answers_browsers_itself(site: Any, upstream: Any, name: Any) -> None:
    """`delegateCORS`, where the tenant stands in the path: a question names it nowhere else."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(
            status=202, headers={"Access-Control-Allow-Origin": "https://one.example.org", "X-Method": request.method}
        )

    upstream.answer = answer
    product = name("m")
    handlers = [
        {"methods": ["PUT", "OPTIONS"], "pathPattern": f"/{product}/own", "permissionsRequired": [], "delegateCORS": True},
        {"methods": ["PUT"], "pathPattern": f"/{product}/other", "permissionsRequired": []},
    ]
    module = await site.register(
        f"{product}-1.0.0", upstream.url, provides=[{"id": product, "version": "1.0", "handlers": handlers}]
    )
    tenant = await site.tenant(module)
    base = f"/_/invoke/tenant/{tenant}/{product}"

    asked = await site.http.options(f"{base}/own", headers=PREFLIGHT)
    assert (asked.status_code, asked.headers["X-Method"]) == (202, "OPTIONS")
    done = await site.http.put(f"{base}/own", headers={"Origin": ORIGIN})
    assert done.headers.get_list("Access-Control-Allow-Origin") == ["https://one.example.org"]
    assert (await site.http.options(f"{base}/other", headers=PREFLIGHT)).status_code == 204
    other = await site.http.put(f"{base}/other", headers={"Origin": ORIGIN})
    assert other.headers.get_list("Access-Control-Allow-Origin") == [ORIGIN]
