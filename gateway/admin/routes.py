"""Every route of the admin API, and what it asks of its caller, in one table."""

from collections.abc import Awaitable, Callable
from urllib.parse import unquote

from aiohttp import web

from gateway.admin import (
    bindings,
    deployment,
    discovery,
    environment,
    info,
    install,
    lifecycle,
    reconcile,
    registry,
    resolve,
    runs,
    tenants,
    versions,
)
from gateway.admin.http import Call
from gateway.credentials import Need, Role

Handler = Callable[[Call], Awaitable[web.StreamResponse]]

_TENANT = "/_/proxy/tenants/{tenant}"
_RUN = "/_/runs/{job}"

_PUBLIC = Need()
_READ = Need(roles=(Role.READ,))
_READ_OWN = Need(roles=(Role.READ,), own=True)
_READ_OR_RUN = Need(roles=(Role.READ, Role.RUN))
_REGISTER = Need(roles=(Role.REGISTER,))
_REGISTER_MODULES = Need(roles=(Role.REGISTER,), per_product=True)
_READ_VALUES = Need(roles=(Role.REGISTER, Role.RUN))  # they may be secrets of the instances
_START = Need(roles=(Role.START,))
_START_OR_PLAN = Need(roles=(Role.START,), simulating=(Role.PLAN,))
_ABORT = Need(roles=(Role.ABORT,))
_SIGNAL = Need(roles=(Role.SIGNAL, Role.OVERRIDE))
_OVERRIDE = Need(roles=(Role.OVERRIDE,))
_READ_OR_OVERRIDE = Need(roles=(Role.READ, Role.OVERRIDE))
_RUN_ONLY = Need(roles=(Role.RUN,))
_RUN_OR_OVERRIDE = Need(roles=(Role.RUN, Role.OVERRIDE))

ROUTES: tuple[tuple[str, str, Handler, Need], ...] = (
    ("GET", "/_/version", info.version, _PUBLIC),
    ("GET", "/_/proxy/health", info.health, _PUBLIC),
    # registry
    ("POST", "/_/proxy/modules", registry.post, _REGISTER_MODULES),
    ("GET", "/_/proxy/modules", registry.get_all, _READ),
    ("GET", "/_/proxy/modules/{module}", registry.get, _READ),
    ("DELETE", "/_/proxy/modules/{module}", registry.delete, _REGISTER_MODULES),
    ("POST", "/_/proxy/import/modules", registry.post_many, _REGISTER_MODULES),
    # tenants
    ("POST", "/_/proxy/tenants", tenants.post, _REGISTER),
    ("GET", "/_/proxy/tenants", tenants.get_all, _READ),
    ("GET", _TENANT, tenants.get, _READ),
    ("PUT", _TENANT, tenants.put, _REGISTER),
    ("DELETE", _TENANT, tenants.delete, _REGISTER),
    ("GET", _TENANT + "/interfaces", tenants.interfaces, _READ_OWN),
    ("GET", _TENANT + "/interfaces/{interface}", tenants.interface, _READ_OWN),
    # bindings
    ("GET", _TENANT + "/modules", bindings.get_all, _READ_OWN),
    ("POST", _TENANT + "/modules", bindings.post, _START),
    ("DELETE", _TENANT + "/modules", bindings.delete_all, _START),
    ("GET", _TENANT + "/modules/{module}", bindings.get, _READ_OWN),
    ("POST", _TENANT + "/modules/{module}", bindings.post_upgrade, _START),
    ("DELETE", _TENANT + "/modules/{module}", bindings.delete, _START),
    # install jobs
    ("POST", _TENANT + "/install", install.post, _START_OR_PLAN),
    ("POST", _TENANT + "/upgrade", install.post_upgrade, _START_OR_PLAN),
    ("GET", _TENANT + "/install", install.get_all, _READ),
    ("DELETE", _TENANT + "/install", install.delete_all, _ABORT),
    ("GET", _TENANT + "/install/{job}", install.get, _READ),
    ("DELETE", _TENANT + "/install/{job}", install.delete, _ABORT),
    # discovery
    ("POST", "/_/discovery/modules", discovery.post, _REGISTER_MODULES),
    ("GET", "/_/discovery/modules", discovery.get_all, _READ),
    ("GET", "/_/discovery/modules/{module}", discovery.get_module, _READ),
    ("GET", "/_/discovery/modules/{module}/{instance}", discovery.get, _READ),
    ("DELETE", "/_/discovery/modules", discovery.delete_all, _REGISTER),
    ("DELETE", "/_/discovery/modules/{module}", discovery.delete_module, _REGISTER_MODULES),
    ("DELETE", "/_/discovery/modules/{module}/{instance}", discovery.delete, _REGISTER_MODULES),
    ("GET", "/_/discovery/health", discovery.health, _READ),
    ("GET", "/_/discovery/health/{module}", discovery.health_of_module, _READ),
    ("GET", "/_/discovery/health/{module}/{instance}", discovery.health_of, _READ),
    ("GET", "/_/discovery/nodes", discovery.nodes, _READ),
    ("GET", "/_/discovery/nodes/{node}", discovery.node, _READ),
    ("PUT", "/_/discovery/nodes/{node}", discovery.put_node, _REGISTER),
    ("POST", "/_/deployment/modules", deployment.post, _REGISTER_MODULES),
    ("GET", "/_/deployment/modules", deployment.get_all, _READ),
    ("GET", "/_/deployment/modules/{instance}", deployment.get, _READ),
    ("DELETE", "/_/deployment/modules/{instance}", deployment.delete, _REGISTER),
    # environment of instances
    ("POST", "/_/env", environment.post, _REGISTER),
    ("GET", "/_/env", environment.get_all, _READ_VALUES),
    ("GET", "/_/env/{name}", environment.get, _READ_VALUES),
    ("DELETE", "/_/env/{name}", environment.delete, _REGISTER),
    # lifecycle
    ("POST", "/_/lifecycle/{module}", lifecycle.signal, _SIGNAL),
    ("GET", "/_/lifecycle/links", lifecycle.links, _READ_OR_RUN),
    ("GET", "/_/lifecycle/delays/{hold}", lifecycle.delay, _PUBLIC),
    ("GET", "/_/lifecycle/problems", lifecycle.problems, _READ),
    ("GET", "/_/lifecycle/routing/{tenant}", lifecycle.routing, _READ),
    ("PUT", "/_/lifecycle/routing/{tenant}", lifecycle.put_routing, _START),
    # what a person decides about a job
    ("GET", _RUN + "/resolve", resolve.get, _READ_OR_OVERRIDE),
    ("POST", _RUN + "/resolve", resolve.post, _OVERRIDE),
    # what runs do
    ("POST", _RUN + "/begin", runs.begin, _RUN_ONLY),
    ("GET", _RUN + "/known", runs.known, _RUN_ONLY),
    ("PUT", _RUN + "/phase", runs.phase, _RUN_ONLY),
    ("POST", _RUN + "/claims", runs.claim, _RUN_ONLY),
    ("DELETE", _RUN + "/claims/{module}", runs.give_back, _RUN_ONLY),
    ("POST", _RUN + "/holds", runs.hold, _RUN_ONLY),
    ("POST", _RUN + "/open", runs.open_holds, _RUN_OR_OVERRIDE),
    ("POST", _RUN + "/intents", runs.begin_intent, _RUN_ONLY),
    ("PUT", _RUN + "/intents/{key}", runs.report_init, _RUN_ONLY),
    ("PUT", _RUN + "/data-versions/{product}", runs.data_version, _RUN_ONLY),
    ("POST", _RUN + "/overlays", runs.open_overlay, _RUN_ONLY),
    ("DELETE", _RUN + "/overlays/{product}", runs.close_overlay, _RUN_ONLY),
    ("POST", _RUN + "/snapshots", runs.add_snapshot, _RUN_ONLY),
    ("PATCH", _RUN + "/snapshots", runs.keep_snapshots, _RUN_ONLY),
    ("POST", _RUN + "/finish", runs.finish, _RUN_ONLY),
    ("GET", "/_/snapshots", runs.snapshots, _READ_OR_RUN),
    ("DELETE", "/_/snapshots/{snapshot}", runs.remove_snapshot, _RUN_ONLY),
    # what does not fit together
    ("POST", "/_/reconcile", reconcile.post, _OVERRIDE),
    ("GET", "/_/reconcile", reconcile.get, _READ),
    ("PUT", "/_/reconcile", reconcile.put, _RUN_ONLY),
    ("GET", "/_/reconcile/ledger", reconcile.ledger, _RUN_ONLY),
    ("POST", "/_/reconcile/repairs", reconcile.repair, _RUN_ONLY),
    ("PUT", "/_/reconcile/nodes/{node}", reconcile.put_node, _RUN_ONLY),
    # module versions and their instances
    ("GET", "/_/versions", versions.get_all, _READ_OR_RUN),
    ("GET", "/_/versions/{module}", versions.get, _READ_OR_RUN),
    ("PUT", "/_/versions/{module}/instances/{instance}", versions.put_instance, _RUN_ONLY),
    ("DELETE", "/_/versions/{module}/instances/{instance}", versions.delete_instance, _RUN_ONLY),
    ("POST", "/_/versions/{module}/instances/{instance}/secret", versions.issue_secret, _RUN_ONLY),
    ("POST", "/_/versions/{module}/retire", versions.retire, _RUN_ONLY),
    ("DELETE", "/_/versions/{module}/retire", versions.retired, _RUN_ONLY),
)

_BY_SHAPE: dict[tuple[str, int], list[tuple[tuple[str, ...], Handler, Need]]] = {}
for _method, _template, _handler, _need in ROUTES:
    _parts = tuple(_template.split("/")[1:])
    _BY_SHAPE.setdefault((_method, len(_parts)), []).append((_parts, _handler, _need))


def find(method: str, raw_path: str) -> tuple[Handler, Need, dict[str, str]] | None:
    """The handler of a request, what it asks of its caller, and the variables of its path, which is raw, without its query.

    Only the shape of the path counts: whether there is such a module or tenant is not looked at.
    """
    parts = raw_path.split("/")[1:]
    for template, handler, need in _BY_SHAPE.get((method, len(parts)), ()):
        variables: dict[str, str] = {}
        for wanted, given in zip(template, parts, strict=True):
            if wanted.startswith("{"):
                if not given:
                    break
                variables[wanted[1:-1]] = unquote(given)
            elif wanted != given:
                break
        else:
            return handler, need, variables
    return None
