"""What modules and requesters are told in headers, and what not: as Okapi does, but trust is never taken from outside."""

import base64
import json
import time
from typing import Any

import pytest
from aiohttp import web

TRUSTED = [
    "X-Okapi-User-Id", "X-Okapi-Permissions", "X-Okapi-Permissions-Required", "X-Okapi-Permissions-Desired",
    "X-Okapi-Module-Permissions", "X-Okapi-Module-Tokens", "X-Okapi-Extra-Permissions", "X-Okapi-Additional-Token",
    "X-Okapi-Filter", "X-Okapi-Auth-Result", "X-Okapi-Auth-Headers", "X-Okapi-Handler-Result", "X-Okapi-Handler-Headers",
]  # fmt: skip


def token(**claims: Any) -> str:
    return f"h.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.s"


async def test_a_module_is_told_who_asks_when_and_how(site: Any, upstream: Any) -> None:
    tenant, product = await site.wired(upstream.url)
    before = time.time() * 1_000
    await site.http.patch(f"/{product}/a?b=c", headers={"X-Okapi-Tenant": tenant, "X-Other": "kept"})
    (request,) = upstream.requests
    told = request.headers
    assert told["X-Okapi-Tenant"] == tenant
    assert told["X-Okapi-Url"] == site.url
    assert told["X-Okapi-request-ip"] == "127.0.0.1"
    assert told["X-Okapi-request-method"] == "PATCH"
    assert before - 1 <= int(told["X-Okapi-request-timestamp"]) <= time.time() * 1_000
    assert told["X-Okapi-Match-Path-Pattern"] == f"/{product}*"
    assert told["X-Okapi-Request-Id"].endswith(f"/{product}")
    assert told["X-Other"] == "kept"
    assert told["Host"] == upstream.url.removeprefix("http://")


@pytest.mark.parametrize("header", TRUSTED)
@pytest.mark.parametrize("spelt", [str.title, str.lower, str.upper])
async def test_nobody_outside_says_what_modules_believe(site: Any, upstream: Any, header: str, spelt: Any) -> None:
    tenant, product = await site.wired(upstream.url)
    await site.get(tenant, f"/{product}", **{spelt(header): "forged"})
    (request,) = upstream.requests
    assert header not in request.headers


@pytest.mark.parametrize(
    "header",
    ["X-Okapi-request-ip", "X-Okapi-request-timestamp", "X-Okapi-request-method", "X-Okapi-Match-Path-Pattern", "X-Okapi-Url"],
)
async def test_what_the_gateway_says_is_said_by_it_alone(site: Any, upstream: Any, header: str) -> None:
    tenant, product = await site.wired(upstream.url)
    await site.get(tenant, f"/{product}", **{header.upper(): "forged"})
    (request,) = upstream.requests
    assert len(request.headers.getall(header)) == 1
    assert request.headers[header] != "forged"


@pytest.mark.parametrize(
    "sent",
    [{"X-Okapi-Token": "{token}"}, {"Authorization": "Bearer {token}"}, {"Authorization": "bearer  {token}"},
     {"Authorization": "{token}"}, {"Cookie": "a=b; folioAccessToken={token}; c=d"},
     {"X-Okapi-Token": "{token}", "Authorization": "Bearer {token}", "Cookie": "folioAccessToken={token}"}],
)  # fmt: skip
async def test_a_module_gets_the_token_wherever_it_was(site: Any, upstream: Any, sent: dict[str, str]) -> None:
    tenant, product = await site.wired(upstream.url)
    value = token(tenant=tenant)
    found = await site.http.get(f"/{product}", headers={name: text.replace("{token}", value) for name, text in sent.items()})
    assert found.status_code == 200
    (request,) = upstream.requests
    assert (request.headers.getall("X-Okapi-Token"), request.headers["X-Okapi-Tenant"]) == ([value], tenant)
    assert "Authorization" not in request.headers


async def test_another_scheme_is_no_token_and_is_passed_on(site: Any, upstream: Any) -> None:
    tenant, product = await site.wired(upstream.url)
    await site.get(tenant, f"/{product}", Authorization="Basic YTpi")
    (request,) = upstream.requests
    assert (request.headers["Authorization"], "X-Okapi-Token" in request.headers) == ("Basic YTpi", False)


@pytest.mark.parametrize("other", [{"Authorization": "Bearer {other}"}, {"Cookie": "folioAccessToken={other}"}])
async def test_tokens_that_differ_are_refused_with_okapis_text(site: Any, upstream: Any, other: dict[str, str]) -> None:
    tenant, product = await site.wired(upstream.url)
    headers = {name: text.replace("{other}", token(tenant=tenant, x=1)) for name, text in other.items()}
    found = await site.get(tenant, f"/{product}", **{"X-Okapi-Token": token(tenant=tenant)}, **headers)
    text = "Different tokens in Authentication and X-Okapi-Token. Use only one of them"
    assert (found.status_code, found.text, upstream.requests) == (400, text, [])


async def test_a_requester_is_not_told_what_is_between_modules(site: Any, upstream: Any) -> None:
    async def answer(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(headers={**dict.fromkeys(TRUSTED, "inside"), "X-Okapi-Token": "a new one", "X-Other": "kept"})

    upstream.answer = answer
    tenant, product = await site.wired(upstream.url)
    told = (await site.get(tenant, f"/{product}")).headers
    assert not {name.lower() for name in TRUSTED} & set(told)
    assert (told["X-Okapi-Token"], told["X-Other"]) == ("a new one", "kept")


async def test_a_requester_is_not_told_its_own_token(site: Any, upstream: Any) -> None:
    tenant, product = await site.wired(upstream.url)
    value = token(tenant=tenant)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(headers={"X-Okapi-Token": request.headers["X-Okapi-Token"]})

    upstream.answer = answer
    assert "X-Okapi-Token" not in (await site.get(tenant, f"/{product}", **{"X-Okapi-Token": value})).headers


async def test_of_modules_that_provide_an_interface_at_once_the_one_that_is_named_is_asked(
    site: Any, new_upstream: Any, name: Any
) -> None:
    """`X-Okapi-Module-Id`; without it they are invisible, with it nothing else is seen."""
    path, modules, products = name("codes"), [], []
    for each in ("one", "two"):
        started, product = await new_upstream(each), name("m")
        handlers = [{"methods": ["GET"], "pathPattern": f"/{path}", "permissionsRequired": []}]
        provides = [{"id": "codes", "version": "1.0", "interfaceType": "multiple", "handlers": handlers}]
        modules.append(await site.register(f"{product}-1.0.0", started.url, provides=provides))
        products.append(started)
    plain = await new_upstream("plain")
    other = await site.register(f"{name('p')}-1.0.0", plain.url)
    tenant = await site.tenant(*modules, other)

    for module, started in zip(modules, ("one", "two"), strict=True):
        found = await site.get(tenant, f"/{path}", **{"X-Okapi-Module-Id": module})
        assert found.json()["name"] == started
    assert all("X-Okapi-Module-Id" not in each.requests[0].headers for each in products)
    assert (await site.get(tenant, f"/{path}")).status_code == 404
    assert (await site.get(tenant, f"/{other.rsplit('-', 1)[0]}", **{"X-Okapi-Module-Id": other})).status_code == 404
    assert (await site.get(await site.tenant(), f"/{path}", **{"X-Okapi-Module-Id": modules[0]})).status_code == 404
