"""Bad input on every route: a clear 4xx that names what is wrong, and nothing changed."""

import ast
import asyncio
import base64
import copy
import inspect
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
from pydantic import TypeAdapter

from gateway.admin.install import BINDING_OPTIONS, OPTIONS
from gateway.admin.routes import ROUTES
from gateway_client import FinishRequest, GatewayClient, GatewayRefused, MoveRequest, Notice, OpenRequest
from upgrade_core.descriptors import Undo
from upgrade_core.ids import product_of

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
    ("POST", "/_/proxy/tenants/{tenant}/modules"): {"id": "ok-2.0.0"},
    ("POST", "/_/proxy/tenants/{tenant}/modules/{module}"): {"id": "ok-2.0.0"},
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
READS = ("flag", "choice", "number", "seconds")
"""Methods of a call that read a parameter by its name."""


def reads(function: Any, seen: set[Any] | None = None) -> Iterator[tuple[str, Any]]:
    """What a handler reads by itself or through others that get its call: `("parameter", name)`, `("body", model)`."""
    seen = {function} if seen is None else seen
    for node in ast.walk(ast.parse(inspect.getsource(function))):
        match node:
            case ast.Call(func=ast.Attribute(attr=read), args=[ast.Constant(value=str(name)), *_]) if read in READS:
                yield "parameter", name
            case (
                ast.Call(func=ast.Attribute(value=ast.Attribute(attr="query"), attr="get"), args=[ast.Constant(value=name), *_])
                | ast.Subscript(value=ast.Name(id="query") | ast.Attribute(attr="query"), slice=ast.Constant(value=name))
                | ast.Call(func=ast.Attribute(value=ast.Name(id="query"), attr="get"), args=[ast.Constant(value=name), *_])
            ):
                yield "parameter", name
            case ast.Call(func=ast.Attribute(value=ast.Name(id="call"), attr="json"), args=[ast.Name(id=model)]):
                yield "body", function.__globals__[model]
            case ast.Call(func=ast.Name(id=name), args=[*args]) if any(
                isinstance(each, ast.Name) and each.id == "call" for each in args
            ):
                inner = function.__globals__.get(name)
                if inspect.isfunction(inner) and inner not in seen:
                    seen.add(inner)
                    yield from reads(inner, seen)


FOUND = {(method, path): tuple(reads(handler)) for method, path, handler, *_ in ROUTES}
QUERIES = {
    route: names for route, found in FOUND.items() if (names := sorted({name for what, name in found if what == "parameter"}))
}
"""The parameters of every route, as its handler reads them."""
SCHEMAS = {
    route: TypeAdapter(model).json_schema() if not isinstance(model, TypeAdapter) else model.json_schema()
    for route, found in FOUND.items()
    if route in BODIES
    for what, model in found
    if what == "body"
}
"""What the body of every route holds, as its handler reads it."""
JOBS = [route for route, names in QUERIES.items() if set(BINDING_OPTIONS) <= set(names)]
"""The routes that begin jobs."""

WRITTEN_BY_ITSELF = ("nodes", "outbox", "problem_looks", "problems", "quiet")
"""Tables that the gateway writes without being called."""


FAILED = "a run of these tests failed"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A gateway of these tests' own, with one of everything.

    Attributes:
        names: Of these, the tenant has a job that is begun.
        free: A tenant without a job.
        served: A tenant whose module `up` answers.
    """

    http: httpx.AsyncClient
    runs: GatewayClient
    database: "asyncpg.Connection[Any]"
    names: dict[str, str]
    free: str
    served: str
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

    async def renew(self) -> None:
        """Begin another job in place of one that was ended."""
        if await self.database.fetchval("select exists (select from jobs where id = $1 and state <> 'ended')", self.names["job"]):
            return
        place = self.path("/_/proxy/tenants/{tenant}/install?async=true")
        found = await self.http.post(place, json=[{"id": "ok-2.0.0"}])
        assert found.status_code == 201, found.text
        self.names["job"] = found.headers["Location"].rsplit("/", 1)[1]
        await self.runs.begin(self.names["job"])

    async def restore(self) -> None:
        """Give the free tenant the first version of one module again, and no other."""
        enabled = {row["module"] for row in await self.database.fetch("select module from bindings where tenant = $1", self.free)}
        if enabled != {"ok-1.0.0"}:
            lines = [{"id": module, "action": "disable"} for module in enabled if product_of(module) != "ok"]
            place = f"/_/proxy/tenants/{self.free}/install?async=true&depCheck=false"
            found = await self.http.post(place, json=[*lines, {"id": "ok-1.0.0", "action": "enable"}])
            assert found.status_code == 201, found.text
            await self.settle()

    async def settle(self) -> bool:
        """Do what jobs other than the one that is begun ask for, as their runs would; whether there was one."""
        rows = await self.database.fetch(
            "select id, tenant, state, modules from jobs where state <> 'ended' and id <> $1", self.names["job"]
        )
        for row in rows:
            outcome = "done" if row["tenant"] != self.names["tenant"] and row["state"] == "active" else "failed"
            moves = tuple(
                MoveRequest(
                    product=product_of(line["id"]),
                    subject=line["id"],
                    bind=True,
                    module=line["id"] if line["action"] == "enable" else None,
                )
                for line in json.loads(row["modules"])
                if line["action"] != "uptodate"
            )
            try:
                if outcome == "done":
                    await self.runs.begin(row["id"])
                    if moves:
                        await self.runs.open(row["id"], OpenRequest(group="g", moves=moves))
            except GatewayRefused:
                outcome = "failed"
            errors = () if outcome == "done" else (Notice(message=FAILED),)
            await self.runs.finish(row["id"], FinishRequest(outcome=outcome, errors=errors))
        return bool(rows)

    async def send(
        self, method: str, path: str, content: bytes | None = None, *, headers: dict[bytes, bytes] | None = None
    ) -> httpx.Response:
        """One call; refused, it has changed nothing and said what is wrong, unless it was a job's end that it told."""
        while await self.database.fetchval(
            "select exists (select from holds where state = 'DRAINING') or exists (select from instances where not announced)"
            " or not exists (select from migrations where name like '%_post_%')"
        ):
            await asyncio.sleep(0.01)  # the gateway goes on by itself: DRAINED, NEWER, the second half of its migrations
        before = await self.rows()
        call = asyncio.create_task(self.http.request(method, path, content=content, headers=headers))
        settled = False
        while not (await asyncio.wait([call], timeout=0.05))[0]:
            settled = await self.settle() or settled
        found = call.result()
        assert found.status_code < 500, (method, path, content, headers, found.text)
        if found.status_code >= 400:
            assert found.text
            assert settled or await self.rows() == before, (method, path, content, headers, found.text)
        await self.settle()
        return found


@pytest.fixture(scope="module")
async def target(module_site: Any, module_upstream: Any) -> AsyncIterator[Target]:
    site = module_site
    module = await site.register("ok-1.0.0")
    await site.register("ok-2.0.0")
    await site.register("ok-2.1.0-rc.1")
    await site.register("needs-1.0.0", requires=[{"id": "ok", "version": "1.0"}])
    wire = {"srvcId": module, "instId": "i0", "url": "http://127.0.0.1:1"}
    assert (await site.http.post("/_/discovery/modules", json=wire)).status_code == 201
    tenant = await site.tenant(module)
    served = await site.tenant(await site.register("up-1.0.0", module_upstream.url))
    free = await site.tenant()
    assert (await site.http.post("/_/env", json={"name": "THERE", "value": "v"})).status_code == 201
    job = await site.job(tenant, "ok-2.0.0")
    database = await asyncpg.connect(site.dsn)
    found = await database.fetch("select tablename from pg_tables where schemaname = 'public'")
    tables = [row["tablename"] for row in found if row["tablename"] not in WRITTEN_BY_ITSELF]
    parts = ", ".join(f"'{table}', (select json_agg(t order by t::text) from {table} t)" for table in tables)
    names = {"tenant": tenant, "module": module, "job": job.id, "instance": "i1", "product": "ok", "key": "k1"}
    names |= {"name": "THERE", "hold": "h", "interface": "ok", "snapshot": "s", "node": "n"}
    everything = f"select json_build_object({parts})::text"
    yield Target(http=site.http, runs=site.runs, database=database, names=names, free=free, served=served, everything=everything)
    await database.close()


def test_every_route_with_a_body_is_among_these() -> None:
    with_body = {(method, path) for method, path, *_ in ROUTES if method in ("POST", "PUT", "PATCH")}
    assert with_body - WITHOUT_BODY == set(BODIES)
    assert {*SCHEMAS, ("POST", "/_/proxy/tenants/{tenant}/upgrade")} == set(BODIES)


def test_the_parameters_are_found_of_every_route_that_has_some() -> None:
    assert set(JOBS) == {
        ("POST", "/_/proxy/tenants/{tenant}/install"),
        ("POST", "/_/proxy/tenants/{tenant}/upgrade"),
        ("POST", "/_/proxy/tenants/{tenant}/modules"),
        ("POST", "/_/proxy/tenants/{tenant}/modules/{module}"),
        ("DELETE", "/_/proxy/tenants/{tenant}/modules"),
        ("DELETE", "/_/proxy/tenants/{tenant}/modules/{module}"),
    }
    filters = {"filter", "full", "latest", "npmSnapshot", "order", "orderBy", "preRelease", "provide", "require", "scope"}
    assert {route: set(names) for route, names in QUERIES.items() if route not in JOBS} == {
        ("GET", "/_/proxy/modules"): {*filters, "dot"},
        ("POST", "/_/proxy/modules"): {"check", "preRelease", "npmSnapshot"},
        ("POST", "/_/proxy/import/modules"): {"check", "preRelease", "npmSnapshot"},
        ("GET", "/_/proxy/tenants/{tenant}/modules"): filters,
        ("GET", "/_/proxy/tenants/{tenant}/interfaces"): {"full", "type"},
        ("GET", "/_/proxy/tenants/{tenant}/interfaces/{interface}"): {"type"},
        ("GET", "/_/lifecycle/links"): {"tenant"},
        ("GET", "/_/lifecycle/delays/{hold}"): {"wait", "for"},
        ("POST", "/_/reconcile"): {"repair"},
        ("GET", "/_/snapshots"): {"tenant", "expired"},
        ("GET", "/_/versions/{module}"): {"wait", "gone"},
    }


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
    await target.renew()
    await target.send(route[0], target.path(route[1]), content)


def members(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The paths of all members of a body."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from members(inner, (*path, key))


SPOTS = [(route, path) for route, body in sorted(BODIES.items()) for path in members(body)]


@settings(EXAMPLES, max_examples=100)
@given(spot=st.sampled_from(SPOTS), junk=ANY_JSON, more=st.booleans())
async def test_a_bad_member_is_named(
    target: Target, spot: tuple[tuple[str, str], tuple[str | int, ...]], junk: Any, more: bool
) -> None:
    await target.renew()
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


BAD_PATTERNS = ["(", "(" * 1400, "a{99999999999999999999}", "([a-z0-9.-]+)+!", "[[a]", "(?i)a", "x" * 5000]
JUNK_TEXT = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["", "true", "-1", "1e9", "9" * 30, "\x00", "a,b=,=c", "x" * 3000]),
    st.sampled_from(BAD_PATTERNS),
)


@EXAMPLES
@given(spot=st.sampled_from([(route, name) for route, names in sorted(QUERIES.items()) for name in names]), value=JUNK_TEXT)
async def test_a_bad_parameter_is_named(target: Target, spot: tuple[tuple[str, str], str], value: str) -> None:
    await target.renew()
    (method, template), name = spot
    content = json.dumps(target.fill(BODIES[method, template])).encode() if BODIES.get((method, template)) else None
    text = quote(value.encode(errors="replace"), safe="")
    if name == "wait" and value.isdigit():
        return  # it would wait, rightly
    found = await target.send(method, f"{target.path(template)}?{name}={text}", content)
    if (
        found.status_code == 400
        and found.text != FAILED
        and name not in ("purge", "depCheck", "check", "preRelease", "npmSnapshot")
    ):
        assert name in found.text, found.text


def mostly(fitting: st.SearchStrategy[Any], other: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Seldom the other one: else a body of many members would never be taken."""
    return st.sampled_from([fitting] * 19 + [other]).flatmap(lambda chosen: chosen)


def fits(schema: dict[str, Any], definitions: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values of a JSON schema, with some junk among them."""
    if "$ref" in schema:
        return fits(definitions[schema["$ref"].rsplit("/", 1)[1]], definitions)
    if "anyOf" in schema:
        return st.one_of([fits(each, definitions) for each in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "const" in schema:
        return st.just(schema["const"])
    match schema.get("type"):
        case "object" if "properties" in schema:
            members = {name: mostly(fits(each, definitions), SCALARS) for name, each in schema["properties"].items()}
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
        case "number":
            return st.sampled_from([0, 0.5, 5, -1, 1e9])
        case "null":
            return st.none()
        case _:
            return ANY_JSON


KNOWN = st.sampled_from(
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
        "ok-2.0.0",
        "needs-1.0.0",
        "{tenant}",
        "{job}",
        "{product}",
        "{instance}",
        "http://10.0.0.1:80",
    ]
)
TEXTS = mostly(KNOWN, st.text(max_size=5))
FITTING = {route: fits(schema, schema.get("$defs", {})) for route, schema in SCHEMAS.items()}
NEWEST = {"routing": "newest"}
"""The gateway would begin jobs by itself."""


@settings(EXAMPLES, max_examples=250)
@given(route=st.sampled_from(sorted(FITTING)), data=st.data())
async def test_bodies_of_the_right_form_are_taken_or_refused(target: Target, route: tuple[str, str], data: st.DataObject) -> None:
    await target.renew()
    method, template = route
    body = target.fill(data.draw(FITTING[route].filter(lambda body: body != NEWEST)))
    query = "?check=false" if template == "/_/proxy/modules" else ""
    tenant = data.draw(st.sampled_from([target.names["tenant"], target.free]))
    found = await target.send(method, target.path(template, tenant=tenant) + query, json.dumps(body).encode())
    if found.status_code == 201 and not template.endswith("/install"):
        there = await target.http.get(found.headers["Location"])
        assert (there.status_code, there.json()) == (200, found.json())


MANY = ["ok", "ok-1.0.0", "ok-2.0.0", "ok-2.1.0-rc.1", "needs-1.0.0", "up-1.0.0", "nobody-1.0.0"]
VALUES = {
    "invoke": ["true", "false", "ok-.*", *BAD_PATTERNS],
    "mode": ["rolling", "atomic", "x"],
    "npmSnapshot": ["true", "false", "only", "x"],
    "parallel": ["1", "2", "0", "x"],
    "plan": ["0" * 64, ""],
    "preRelease": ["true", "false", "only", "x"],
    "tenantParameters": ["a=b,c", ",=,", ""],
    "undo": [*Undo, "x"],
}
"""Values that an option takes, and some that it does not; of the others `true`, `false` and some that are not."""


@EXAMPLES
@given(route=st.sampled_from(JOBS), names=st.sets(st.sampled_from([*OPTIONS, "surplus"]), max_size=5), data=st.data())
async def test_any_options_of_a_job_together_are_taken_or_refused(
    target: Target, route: tuple[str, str], names: set[str], data: st.DataObject
) -> None:
    await target.restore()
    method, template = route
    query = {
        name: data.draw(st.sampled_from(VALUES.get(name, ["true", "true", "false", "false", "1"]))) for name in sorted(names)
    }
    one = st.sampled_from(MANY)
    lines = st.lists(st.fixed_dictionaries({"id": one}, optional={"action": st.sampled_from(["enable", "disable"])}), max_size=3)
    body = data.draw(lines if template.endswith("/install") else st.builds(dict, id=one))
    content = None if method == "DELETE" or template.endswith("/upgrade") else json.dumps(body).encode()
    text = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
    before = await target.database.fetchval("select count(*) from jobs")
    path = target.path(template, tenant=target.free, module=data.draw(st.just("ok-1.0.0") | one))
    found = await target.send(method, f"{path}?{text}", content)
    if "true" in (query.get("dryRun"), query.get("simulate")):
        assert await target.database.fetchval("select count(*) from jobs") == before, (path, query, found.text)


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


def token(tenant: Any) -> bytes:
    """A token as a client may make one up."""
    claims = base64.urlsafe_b64encode(json.dumps({"tenant": tenant}).encode()).rstrip(b"=")
    return b"e30." + claims + b".x"


VISIBLE = st.binary(max_size=40).map(lambda junk: bytes(byte for byte in junk if byte >= 0x20 and byte != 0x7F).strip())
"""What a header may hold: anything from a blank on, text or not."""
HEADER_JUNK = st.one_of(
    VISIBLE,
    ANY_JSON.map(token),
    ANY_JSON.map(lambda tenant: b"Bearer " + token(tenant)),
    VISIBLE.map(lambda junk: b"Bearer " + junk),
    VISIBLE.map(lambda junk: b"123456/x;" + junk + b"/y"),
    VISIBLE.map(lambda junk: b"wait=" + junk + b", wait=9" + b"9" * 400),
    VISIBLE.map(lambda junk: b"text/html;q=" + junk + b", application/problem+json"),
    st.sampled_from([b"\xff", b"\xed\xa0\x80", "é".encode(), b"supertenant", b"e30.\xff.x", b"e30." + b"W1tb" * 1000 + b".x"]),
).map(bytes.strip)
HEADERS = [
    b"X-Okapi-Tenant", b"X-Okapi-Token", b"X-Okapi-Request-Id", b"X-Okapi-Module-Id", b"Authorization", b"Prefer", b"Accept",
]  # fmt: skip
ASKED = [
    ("GET", "/_/proxy/modules", None),
    ("GET", "/_/proxy/tenants/{tenant}/modules", None),
    ("GET", "/_/proxy/tenants/nobody", None),
    ("GET", "/_/lifecycle/links", None),
    ("POST", "/_/proxy/tenants/{tenant}/install?simulate=true", b'[{"id": "ok-2.0.0"}]'),
    ("POST", "/_/proxy/tenants/{tenant}/install?async=true", b'[{"id": "ok-2.0.0"}]'),
    ("GET", "/up/x", None),
    ("POST", "/up/x", b"x"),
    ("GET", "/nobody", None),
    ("GET", "/_/invoke/tenant/{tenant}/up/x", None),
    ("GET", "/_/overlay/x/up/x", None),
]


@settings(EXAMPLES, max_examples=120)
@given(asked=st.sampled_from(ASKED), headers=st.dictionaries(st.sampled_from(HEADERS), HEADER_JUNK, min_size=1, max_size=3))
async def test_headers_of_any_bytes_are_no_error_of_ours(
    target: Target, asked: tuple[str, str, bytes | None], headers: dict[bytes, bytes]
) -> None:
    method, template, content = asked
    path = target.path(template, tenant=target.served)
    if not path.startswith("/_/"):
        headers = {b"X-Okapi-Tenant": target.served.encode(), **headers}
    await target.send(method, path, content, headers=headers)


ROUTES_WITH_VARIABLES = [
    (method, template, name.strip("{}"))
    for method, template, *_ in ROUTES
    for name in template.split("/")
    if name.startswith("{") and name != "{hold}"
]


@settings(EXAMPLES, max_examples=100)
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
