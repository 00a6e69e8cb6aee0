"""Every route of the admin API, in one table."""

from collections.abc import Awaitable, Callable
from urllib.parse import unquote

from aiohttp import web

from gateway.admin import bindings, discovery, environment, info, install, lifecycle, registry, runs, tenants, versions
from gateway.admin.http import Call

Handler = Callable[[Call], Awaitable[web.StreamResponse]]

_TENANT = "/_/proxy/tenants/{tenant}"
_RUN = "/_/runs/{job}"

ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/_/version", info.version),
    ("GET", "/_/proxy/health", info.health),
    # registry
    ("POST", "/_/proxy/modules", registry.post),
    ("GET", "/_/proxy/modules", registry.get_all),
    ("GET", "/_/proxy/modules/{module}", registry.get),
    ("DELETE", "/_/proxy/modules/{module}", registry.delete),
    ("POST", "/_/proxy/import/modules", registry.post_many),
    # tenants
    ("POST", "/_/proxy/tenants", tenants.post),
    ("GET", "/_/proxy/tenants", tenants.get_all),
    ("GET", _TENANT, tenants.get),
    ("PUT", _TENANT, tenants.put),
    ("DELETE", _TENANT, tenants.delete),
    ("GET", _TENANT + "/interfaces", tenants.interfaces),
    ("GET", _TENANT + "/interfaces/{interface}", tenants.interface),
    # bindings
    ("GET", _TENANT + "/modules", bindings.get_all),
    ("POST", _TENANT + "/modules", bindings.post),
    ("DELETE", _TENANT + "/modules", bindings.delete_all),
    ("GET", _TENANT + "/modules/{module}", bindings.get),
    ("POST", _TENANT + "/modules/{module}", bindings.post_upgrade),
    ("DELETE", _TENANT + "/modules/{module}", bindings.delete),
    # install jobs
    ("POST", _TENANT + "/install", install.post),
    ("POST", _TENANT + "/upgrade", install.post_upgrade),
    ("GET", _TENANT + "/install", install.get_all),
    ("DELETE", _TENANT + "/install", install.delete_all),
    ("GET", _TENANT + "/install/{job}", install.get),
    ("DELETE", _TENANT + "/install/{job}", install.delete),
    # discovery
    ("POST", "/_/discovery/modules", discovery.post),
    ("GET", "/_/discovery/modules", discovery.get_all),
    ("GET", "/_/discovery/modules/{module}", discovery.get_module),
    ("GET", "/_/discovery/modules/{module}/{instance}", discovery.get),
    ("DELETE", "/_/discovery/modules/{module}", discovery.delete_module),
    ("DELETE", "/_/discovery/modules/{module}/{instance}", discovery.delete),
    # environment of instances
    ("POST", "/_/env", environment.post),
    ("GET", "/_/env", environment.get_all),
    ("GET", "/_/env/{name}", environment.get),
    ("DELETE", "/_/env/{name}", environment.delete),
    # lifecycle
    ("GET", "/_/lifecycle/links", lifecycle.links),
    ("GET", "/_/lifecycle/delays/{hold}", lifecycle.delay),
    ("GET", "/_/lifecycle/problems", lifecycle.problems),
    # what runs do
    ("POST", _RUN + "/begin", runs.begin),
    ("PUT", _RUN + "/phase", runs.phase),
    ("POST", _RUN + "/claims", runs.claim),
    ("DELETE", _RUN + "/claims/{module}", runs.give_back),
    ("POST", _RUN + "/holds", runs.hold),
    ("POST", _RUN + "/open", runs.open_holds),
    ("POST", _RUN + "/intents", runs.begin_intent),
    ("PUT", _RUN + "/intents/{key}", runs.report_init),
    ("PUT", _RUN + "/data-versions/{product}", runs.data_version),
    ("POST", _RUN + "/overlays", runs.open_overlay),
    ("DELETE", _RUN + "/overlays/{product}", runs.close_overlay),
    ("POST", _RUN + "/snapshots", runs.add_snapshot),
    ("PATCH", _RUN + "/snapshots", runs.keep_snapshots),
    ("POST", _RUN + "/finish", runs.finish),
    ("GET", "/_/snapshots", runs.snapshots),
    ("DELETE", "/_/snapshots/{snapshot}", runs.remove_snapshot),
    # module versions and their instances
    ("GET", "/_/versions", versions.get_all),
    ("GET", "/_/versions/{module}", versions.get),
    ("PUT", "/_/versions/{module}/instances/{instance}", versions.put_instance),
    ("DELETE", "/_/versions/{module}/instances/{instance}", versions.delete_instance),
    ("POST", "/_/versions/{module}/retire", versions.retire),
    ("DELETE", "/_/versions/{module}/retire", versions.retired),
)

_BY_SHAPE: dict[tuple[str, int], list[tuple[tuple[str, ...], Handler]]] = {}
for _method, _template, _handler in ROUTES:
    _parts = tuple(_template.split("/")[1:])
    _BY_SHAPE.setdefault((_method, len(_parts)), []).append((_parts, _handler))


def find(method: str, raw_path: str) -> tuple[Handler, dict[str, str]] | None:
    """The handler of a request and the variables of its path; the path is raw, without its query."""
    parts = raw_path.split("/")[1:]
    for template, handler in _BY_SHAPE.get((method, len(parts)), ()):
        variables: dict[str, str] = {}
        for wanted, given in zip(template, parts, strict=True):
            if wanted.startswith("{"):
                if not given:
                    break
                variables[wanted[1:-1]] = unquote(given)
            elif wanted != given:
                break
        else:
            return handler, variables
    return None
