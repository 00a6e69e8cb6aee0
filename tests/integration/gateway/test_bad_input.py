"""Bad input on every route: a clear 4xx that names what is wrong, and nothing changed."""

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import asyncpg
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from gateway.admin.routes import ROUTES
from gateway.admin.wire import DeploymentWire, EnvironmentWire, ModuleDescriptorWire, NodeWire, TenantWire

EXAMPLES = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
WITHOUT_BODY = {
    ("POST", "/_/runs/{job}/begin"),
    ("POST", "/_/versions/{module}/instances/{instance}/secret"),
    ("POST", "/_/versions/{module}/retire"),
    ("POST", "/_/reconcile"),
    ("PUT", "/_/reconcile/nodes/{node}"),
}
HANDLER = {
    "methods": ["GET"], "pathPattern": "/x/{id}", "permissionsRequired": ["a.b"], "permissionsDesired": ["c"],
    "modulePermissions": ["d"], "permissionsRequiredTenant": [], "type": "request-response", "delegateCORS": False,
    "unit": "hour", "delay": "1",
}  # fmt: skip
DESCRIPTOR = {
    "id": "bad-1.0.0",
    "name": "n",
    "tags": ["t"],
    "requires": [{"id": "ok", "version": "1.0"}],
    "optional": [{"id": "opt", "version": "1.0 2.0"}],
    "provides": [
        {"id": "i", "version": "1.0", "interfaceType": "multiple", "handlers": [HANDLER], "scope": ["s"]},
        {"id": "_timer", "version": "1.0", "interfaceType": "system", "handlers": [HANDLER]},
    ],
    "filters": [{"methods": ["*"], "path": "/", "phase": "auth", "type": "headers"}],
    "permissionSets": [{"permissionName": "p", "subPermissions": ["q"], "visible": True}],
    "env": [{"name": "E", "value": "v", "description": "d"}],
    "metadata": {"a": {"b": [1, None]}, "uplift": {"undo": "snapshot", "soak": 1.5, "upgrade_from": ">=1", "rerunnable": True}},
    "uiDescriptor": {"npm": "x"},
    "launchDescriptor": {"exec": "run %p", "dockerPull": False, "env": [{"name": "E", "value": "v"}], "dockerArgs": {"a": 1}},
    "replaces": ["other"],
}
CHANGE = {"product": "ok", "subject": "ok-1.0.0"}
NOTICE = {"message": "m", "type": "t", "code": "c", "parameters": [{"key": "k", "value": "v"}]}
BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/_/proxy/modules"): DESCRIPTOR,
    ("POST", "/_/proxy/import/modules"): [DESCRIPTOR],
    ("POST", "/_/proxy/tenants"): {"id": "t1", "name": "n", "description": "d"},
    ("PUT", "/_/proxy/tenants/{tenant}"): {"id": "{tenant}", "name": "n", "description": "d"},
    ("POST", "/_/proxy/tenants/{tenant}/modules"): {"id": "{module}"},
    ("POST", "/_/proxy/tenants/{tenant}/modules/{module}"): {"id": "{module}"},
    ("POST", "/_/proxy/tenants/{tenant}/install"): [{"id": "ok-2.0.0", "action": "enable", "from": "ok-1.0.0"}],
    ("POST", "/_/proxy/tenants/{tenant}/upgrade"): [],
    ("POST", "/_/discovery/modules"): {"srvcId": "{module}", "instId": "{instance}", "url": "http://10.0.0.1:80"},
    ("PUT", "/_/discovery/nodes/{node}"): {"nodeId": "{node}", "url": "http://10.0.0.1:80", "nodeName": "{node}"},
    ("POST", "/_/deployment/modules"): {"srvcId": "{module}", "instId": "new", "descriptor": {"exec": "run %p"}},
    ("POST", "/_/env"): {"name": "E", "value": "v", "description": "d"},
    ("PUT", "/_/runs/{job}/phase"): {"phase": "copying", "subject": "ok-1.0.0", "stage": "invoke"},
    ("POST", "/_/runs/{job}/claims"): {"module": "{module}", "subject": "{module}"},
    ("POST", "/_/runs/{job}/holds"): {"group": "g", "changes": [CHANGE], "grace": 1, "reason": "r"},
    ("POST", "/_/runs/{job}/open"): {
        "group": "g", "moves": [{**CHANGE, "bind": True, "module": "{module}", "purged": False}], "stage": "x",
    },
    ("POST", "/_/runs/{job}/intents"): {
        "key": "{key}", "product": "ok", "module": "{module}", "subject": "{module}", "instance": "i", "generation": "1",
    },
    ("PUT", "/_/runs/{job}/intents/{key}"): {
        "state": "asked", "subject": "{module}", "jobPath": "/_/tenant/1", "effect": "e", "outcome": "o", "messages": ["m"],
        "warnings": ["w"], "errors": ["e"], "progress": "p", "askedAgain": False, "instance": "i", "generation": "1",
        "dataVersion": "{module}",
    },
    ("PUT", "/_/runs/{job}/data-versions/{product}"): {"module": "{module}"},
    ("POST", "/_/runs/{job}/overlays"): {"product": "ok", "module": "{module}"},
    ("POST", "/_/runs/{job}/snapshots"): {
        "id": "s", "job": "{job}", "tenant": "{tenant}", "product": "ok", "module": "{module}", "node": "n", "dsn": "env:X",
        "schemaName": "x", "path": "/p", "size": 1, "digest": "d", "existed": True,
    },
    ("POST", "/_/runs/{job}/resolve"): {"decision": "skip", "reason": "r", "force": False},
    ("PATCH", "/_/runs/{job}/snapshots"): {"keep": 5},
    ("POST", "/_/runs/{job}/finish"): {"outcome": "failed", "errors": [NOTICE], "warnings": [NOTICE]},
    ("POST", "/_/lifecycle/{module}"): {
        "event": "UPDATE", "instance": "i0", "tenant": "{tenant}", "hold": "a-hold-of-mine", "ttl": 5, "grace": 0, "reason": "r",
    },
    ("PUT", "/_/lifecycle/routing/{tenant}"): {"routing": "newest"},
    ("PUT", "/_/reconcile"): {
        "report": {
            "started": "2026-01-01T00:00:00Z", "ended": "2026-01-01T00:00:01Z", "request": "r", "repair": True, "looked": ["n"],
            "silent": ["m"], "more": 1, "repaired": [],
            "differences": [
                {
                    "key": "claim:ok", "kind": "claim", "message": "m", "remedy": "r", "node": "n", "module": "ok", "tenant": "t",
                    "job": "j", "repair": {"verb": "give back", "job": "j", "module": "ok"},
                }
            ],
        },
    },
    ("POST", "/_/reconcile/repairs"): {
        "verb": "keep snapshot", "job": "j", "module": "ok", "product": "ok", "subject": "s", "keep": 5,
    },
    ("PUT", "/_/versions/{module}/instances/{instance}"): {
        "id": "{instance}", "module": "{module}", "url": "http://10.0.0.1:80", "node": "n", "generation": "1",
    },
}  # fmt: skip
QUERIES: dict[tuple[str, str], tuple[str, ...]] = {
    ("GET", "/_/proxy/modules"): (
        "full", "latest", "orderBy", "order", "preRelease", "npmSnapshot", "filter", "provide", "require", "scope", "dot",
    ),
    ("POST", "/_/proxy/modules"): ("check", "preRelease", "npmSnapshot"),
    ("POST", "/_/proxy/import/modules"): ("check", "preRelease", "npmSnapshot"),
    ("GET", "/_/proxy/tenants/{tenant}/modules"): (
        "full", "latest", "orderBy", "order", "preRelease", "npmSnapshot", "filter", "provide", "require", "scope",
    ),
    ("GET", "/_/proxy/tenants/{tenant}/interfaces"): ("full", "type"),
    ("GET", "/_/proxy/tenants/{tenant}/interfaces/{interface}"): ("type",),
    ("POST", "/_/proxy/tenants/{tenant}/install"): (
        "async", "simulate", "dryRun", "deploy", "purge", "tenantParameters", "invoke", "ignoreErrors", "reinstall", "parallel",
        "depCheck", "preRelease", "npmSnapshot", "undo", "plan",
    ),
    ("GET", "/_/lifecycle/links"): ("tenant",),
    ("GET", "/_/lifecycle/delays/{hold}"): ("wait", "for"),
    ("POST", "/_/reconcile"): ("repair",),
    ("GET", "/_/snapshots"): ("tenant", "expired"),
    ("GET", "/_/versions/{module}"): ("wait", "gone"),
}  # fmt: skip

WRITTEN_BY_ITSELF = ("nodes", "outbox", "problem_looks", "problems", "quiet")
"""Tables that the gateway writes without being called."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A gateway of these tests' own, with one of everything."""

    http: httpx.AsyncClient
    database: "asyncpg.Connection[Any]"
    names: dict[str, str]
    everything: str

    def fill(self, value: Any) -> Any:
        text = json.dumps(value)
        for name, real in self.names.items():
            text = text.replace(f"{{{name}}}", real)
        return json.loads(text)

    def path(self, template: str, **names: str) -> str:
        for name, real in {**self.names, **names}.items():
            template = template.replace(f"{{{name}}}", quote(real, safe=""))
        return template

    async def rows(self) -> str:
        return str(await self.database.fetchval(self.everything))

    async def send(self, method: str, path: str, content: bytes | None = None) -> httpx.Response:
        """One call; refused, it has changed nothing and said what is wrong."""
        if path.partition("?")[0].endswith(("/install", "/upgrade")) and "async=" not in path:
            path += "&async=true" if "?" in path else "?async=true"
        while await self.database.fetchval(
            "select exists (select from holds where state = 'DRAINING') or exists (select from instances where not announced)"
            " or not exists (select from migrations where name like '%_post_%')"
        ):
            await asyncio.sleep(0.01)  # the gateway goes on by itself: DRAINED, NEWER, the second half of its migrations
        before = await self.rows()
        found = await self.http.request(method, path, content=content)
        assert found.status_code < 500, (method, path, content, found.text)
        if found.status_code >= 400:
            assert found.text
            assert await self.rows() == before, (method, path, content, found.text)
        return found


@pytest.fixture(scope="module")
async def target(module_site: Any) -> AsyncIterator[Target]:
    site = module_site
    module = await site.register("ok-1.0.0")
    await site.register("ok-2.0.0")
    wire = {"srvcId": module, "instId": "i0", "url": "http://127.0.0.1:1"}
    assert (await site.http.post("/_/discovery/modules", json=wire)).status_code == 201
    tenant = await site.tenant(module)
    assert (await site.http.post("/_/env", json={"name": "THERE", "value": "v"})).status_code == 201
    job = await site.job(tenant, "ok-2.0.0")
    database = await asyncpg.connect(site.dsn)
    found = await database.fetch("select tablename from pg_tables where schemaname = 'public'")
    tables = [row["tablename"] for row in found if row["tablename"] not in WRITTEN_BY_ITSELF]
    parts = ", ".join(f"'{table}', (select json_agg(t order by t::text) from {table} t)" for table in tables)
    names = {"tenant": tenant, "module": module, "job": job.id, "instance": "i1", "product": "ok", "key": "k1"}
    names |= {"name": "THERE", "hold": "h", "interface": "ok", "snapshot": "s", "node": "n"}
    yield Target(http=site.http, database=database, names=names, everything=f"select json_build_object({parts})::text")
    await database.close()


def test_every_route_with_a_body_is_among_these() -> None:
    with_body = {(method, path) for method, path, *_ in ROUTES if method in ("POST", "PUT", "PATCH")}
    assert with_body - WITHOUT_BODY == set(BODIES)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["", "\x00", "ok-1.0.0", "x" * 5000, "../..", "a\nb", "\ud800", "\U0001f600", "-1", "NaN", "Infinity"]),
    st.sampled_from([2**31, 2**63, -(2**63) - 1, 1e308, -1e-300]),
)
ANY_JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=8
)
DEEP = st.integers(10, 3000).map(lambda depth: b"[" * depth + b"]" * depth)
RAW = st.one_of(
    ANY_JSON.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=50),
    DEEP,
    st.integers(10, 3000).map(lambda depth: b'{"metadata":' * depth + b"1" + b"}" * depth),
    st.sampled_from(
        [b"", b"null", b"\xff\xfe", b"{", b'{"id":', b"[{}]", b'{"id": "\\u0000"}', b'{"id": "\\ud800"}', b'{"a": 1, "a": 2}']
    ),
    st.integers(4000, 6000).map(lambda digits: b'{"id": "bad-1.0.0", "metadata": {"a": ' + b"9" * digits + b"}}"),
)


@EXAMPLES
@given(route=st.sampled_from(sorted(BODIES)), content=RAW)
async def test_no_body_whatever_makes_an_error_of_ours(target: Target, route: tuple[str, str], content: bytes) -> None:
    await target.send(route[0], target.path(route[1]), content)


def members(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The paths of all members of a body."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from members(inner, (*path, key))


SPOTS = [(route, path) for route, body in sorted(BODIES.items()) for path in members(body)]


@settings(EXAMPLES, max_examples=500)
@given(spot=st.sampled_from(SPOTS), junk=ANY_JSON, more=st.booleans())
async def test_a_bad_member_is_named(
    target: Target, spot: tuple[tuple[str, str], tuple[str | int, ...]], junk: Any, more: bool
) -> None:
    (method, template), path = spot
    body = target.fill(copy.deepcopy(BODIES[method, template]))
    place = body
    for key in path[:-1]:
        place = place[key]
    name = next((str(key) for key in reversed(path) if isinstance(key, str)), "")
    if more and isinstance(place, dict):
        name = "surplus"
        place[name] = junk
    else:
        place[path[-1]] = junk
    content = json.dumps(body).encode()
    found = await target.send(method, target.path(template), content)
    if found.status_code in (400, 422) and b"\\u0000" not in content and b"\\ud800" not in content:
        known = [
            name,
            *(str(key) for key in path),
            "Module",
            "module",
            "interface",
            "Tenant",
            "tenant",
            "dependency",
            "JSON",
            "pathPattern",
        ]
        assert any(word in found.text for word in known), (name, junk, found.text)


JUNK_TEXT = st.one_of(
    st.text(max_size=30), st.sampled_from(["", "true", "-1", "1e9", "9" * 30, "\x00", "a,b=,=c", "(", "x" * 3000])
)


@settings(EXAMPLES, max_examples=200)
@given(spot=st.sampled_from([(route, name) for route, names in sorted(QUERIES.items()) for name in names]), value=JUNK_TEXT)
async def test_a_bad_parameter_is_named(target: Target, spot: tuple[tuple[str, str], str], value: str) -> None:
    (method, template), name = spot
    content = json.dumps(target.fill(BODIES[method, template])).encode() if (method, template) in BODIES else None
    text = quote(value.encode(errors="replace"), safe="")
    if (name, value) == ("async", "false") or (name == "wait" and value.isdigit()):
        return  # it would wait, rightly
    found = await target.send(method, f"{target.path(template)}?{name}={text}", content)
    if found.status_code == 400 and name not in ("purge", "depCheck", "check", "preRelease", "npmSnapshot"):
        assert name in found.text, found.text


def fits(schema: dict[str, Any], definitions: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values of a JSON schema, with some junk among them."""
    if "$ref" in schema:
        return fits(definitions[schema["$ref"].rsplit("/", 1)[1]], definitions)
    if "anyOf" in schema:
        return st.one_of([fits(each, definitions) for each in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema.get("type"):
        case "object" if "properties" in schema:
            members = {name: fits(each, definitions) | SCALARS for name, each in schema["properties"].items()}
            needed = set(schema.get("required", ()))
            optional = {name: each for name, each in members.items() if name not in needed}
            return st.fixed_dictionaries({name: members[name] for name in needed}, optional=optional)
        case "array":
            return st.lists(fits(schema.get("items", {}), definitions), max_size=2)
        case "string":
            return TEXTS
        case "integer":
            return st.integers(-1, 5)
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case _:
            return ANY_JSON


TEXTS = st.text(max_size=5) | st.sampled_from(
    [
        "ok-1.0.0",
        "ok-3.0.0+x",
        "new-1.0.0-a.1",
        "ok",
        "1.0",
        "1.0 2.0",
        "2.0.1",
        "i",
        "_tenant",
        "system",
        "internal",
        "auth",
        "/x/{id}",
        "GET",
        "*",
    ]
)
OKAPIS: dict[tuple[str, str], tuple[type[BaseModel], bool]] = {
    ("POST", "/_/proxy/modules?check=false"): (ModuleDescriptorWire, False),
    ("POST", "/_/proxy/import/modules"): (ModuleDescriptorWire, True),
    ("POST", "/_/proxy/tenants"): (TenantWire, False),
    ("PUT", "/_/proxy/tenants/{tenant}"): (TenantWire, False),
    ("POST", "/_/discovery/modules"): (DeploymentWire, False),
    ("PUT", "/_/discovery/nodes/{node}"): (NodeWire, False),
    ("POST", "/_/deployment/modules"): (DeploymentWire, False),
    ("POST", "/_/env"): (EnvironmentWire, False),
}
"""Bodies of Okapi's routes: what they hold, and whether it is a list."""
SCHEMAS = {wire: wire.model_json_schema() for wire, _ in OKAPIS.values()}
FITTING = {wire: fits(schema, schema.get("$defs", {})) for wire, schema in SCHEMAS.items()}


@EXAMPLES
@given(route=st.sampled_from(sorted(OKAPIS)), data=st.data())
async def test_bodies_of_the_right_form_are_taken_or_refused(target: Target, route: tuple[str, str], data: st.DataObject) -> None:
    wire, many = OKAPIS[route]
    body = data.draw(st.lists(FITTING[wire], max_size=3) if many else FITTING[wire])
    found = await target.send(route[0], target.path(route[1]), json.dumps(body).encode())
    if found.status_code in (200, 201) and route[0] == "POST":
        there = await target.http.get(found.headers["Location"])
        assert (there.status_code, there.json()) == (200, found.json())


LISTINGS = sorted(route for route in QUERIES if route[0] == "GET" and route[1].startswith("/_/proxy"))
PARAMETERS = sorted({name for route in LISTINGS for name in QUERIES[route]})


@EXAMPLES
@given(
    route=st.sampled_from(LISTINGS),
    query=st.dictionaries(
        st.sampled_from(PARAMETERS),
        st.sampled_from(["true", "false", "only", "id", "asc", "desc", "1", "ok", "ok-1", "ok=1.0,i", ",=,", "=", "proxy"])
        | TEXTS,
        max_size=5,
    ),
)
async def test_any_parameters_together_are_taken_or_refused(
    target: Target, route: tuple[str, str], query: dict[str, str]
) -> None:
    text = "&".join(f"{name}={quote(value.encode(errors='replace'), safe='')}" for name, value in query.items())
    found = await target.send(route[0], f"{target.path(route[1])}?{text}")
    if found.status_code == 200 and query.get("dot") != "true":
        assert isinstance(found.json(), list)


ROUTES_WITH_VARIABLES = [
    (method, template, name.strip("{}"))
    for method, template, *_ in ROUTES
    for name in template.split("/")
    if name.startswith("{") and name != "{hold}"
]


@settings(EXAMPLES, max_examples=200)
@given(
    route=st.sampled_from(ROUTES_WITH_VARIABLES),
    junk=st.text(min_size=1, max_size=30) | st.sampled_from(["\x00", "x" * 3000, "%", "\\", "é"]),
)
async def test_a_path_of_any_text_is_answered(target: Target, route: tuple[str, str, str], junk: str) -> None:
    method, template, name = route
    if method == "DELETE" and junk in target.names.values():
        return
    junk = junk.encode(errors="replace").decode()
    content = json.dumps(target.fill(BODIES[method, template])).encode() if (method, template) in BODIES else None
    await target.send(method, target.path(template, **{name: junk}), content)


@pytest.mark.parametrize(("method", "template", "name"), ROUTES_WITH_VARIABLES)
async def test_an_unknown_id_is_a_404(target: Target, method: str, template: str, name: str) -> None:
    if (method, name) in IDEMPOTENT_OR_FREE:
        return
    body = copy.deepcopy(BODIES.get((method, template)))
    if (method, template) == ("POST", "/_/proxy/tenants/{tenant}/upgrade"):
        body = None
    content = None if body is None else json.dumps(target.fill(body)).encode()
    unknown = "nobody-9.9.9" if name == "module" else "nobody"
    found = await target.send(method, target.path(template, **{name: unknown}), content)
    if (method, template, name) in ANSWER_THE_SAME_AGAIN | NOT_LOOKED_UP:
        assert found.status_code < 300, found.text
    elif (method, template, name) == ("PUT", "/_/runs/{job}/intents/{key}", "key"):
        assert found.status_code == 412, found.text  # it was written down before anybody was asked
    else:
        assert (found.status_code, unknown in found.text) == (404, True), found.text


IDEMPOTENT_OR_FREE = {("PUT", "instance"), ("PUT", "product"), ("PUT", "tenant")}
ANSWER_THE_SAME_AGAIN = {
    ("DELETE", "/_/runs/{job}/claims/{module}", "job"),
    ("DELETE", "/_/runs/{job}/overlays/{product}", "job"),
    ("DELETE", "/_/runs/{job}/overlays/{product}", "product"),
    ("DELETE", "/_/snapshots/{snapshot}", "snapshot"),
}
"""A repeated step of a run gets the answer of the first: what is gone is gone."""
NOT_LOOKED_UP = {
    ("GET", "/_/runs/{job}/known", "job"),
    ("GET", "/_/proxy/tenants/{tenant}/interfaces/{interface}", "interface"),
    ("DELETE", "/_/versions/{module}/instances/{instance}", "instance"),
    ("DELETE", "/_/versions/{module}/instances/{instance}", "module"),
    ("POST", "/_/versions/{module}/instances/{instance}/secret", "instance"),
    ("PATCH", "/_/runs/{job}/snapshots", "job"),
    ("PUT", "/_/reconcile/nodes/{node}", "node"),
}


async def test_a_body_that_is_too_large_is_refused_by_its_name(new_site: Any) -> None:
    site = await new_site(body_max=2048)
    found = await site.http.post("/_/proxy/modules", json={"id": "m-1.0.0", "name": "x" * 5000})
    assert (found.status_code, "gateway.body_max" in found.text) == (413, True)
    assert (await site.http.get("/_/proxy/modules?filter=m")).json() == []


async def test_a_body_in_another_encoding_is_refused(target: Target) -> None:
    found = await target.http.post("/_/proxy/tenants", content=b"x", headers={"Content-Encoding": "gzip"})
    assert (found.status_code, "Content-Encoding" in found.text) == (415, True)


async def test_numbers_that_are_no_json_are_not_kept(target: Target) -> None:
    for number in ("NaN", "Infinity", "-Infinity", "1e400"):
        await target.send("POST", "/_/proxy/modules", f'{{"id": "nan-1.0.0", "metadata": {{"a": {number}}}}}'.encode())
        found = await target.http.get("/_/proxy/modules?full=true")
        json.loads(found.text, parse_constant=pytest.fail)


async def test_several_faults_are_told_at_once(target: Target) -> None:
    found = await target.send("POST", "/_/proxy/tenants", b'{"id": 1, "name": [], "more": {}}')
    assert found.status_code == 400
    assert all(word in found.text for word in ("Failed to decode", "id", "name", "more: unknown member"))
