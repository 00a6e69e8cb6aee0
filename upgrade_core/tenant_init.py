"""Tenant init on the wire: which call a module's dialect wants, and what an answer means.

| dialect | interface | call |
|---|---|---|
| OKAPI_1 | `_tenant` 1.0, 1.1, 1.2 | `POST` the first declared POST path; disable and purge only where declared |
| OKAPI_2 | `_tenant` 2.0 | one POST for all, `purge` always explicit; may answer with a job |
| UPLIFT | `_tenantInit` 1.0 | `version_from`/`version_to` (requirement B1); may answer 202 with a job |
| NONE | neither | nothing is called |

Sources: requirements B1, B2, B4, C3; Okapi's `TenantManager` for the first two.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from upgrade_core.descriptors import Handler, Interface, ModuleDescriptor
from upgrade_core.errors import InvalidDescriptor
from upgrade_core.ids import ModuleId
from upgrade_core.plan import Kind

_DISABLE_PATH = "/_/tenant/disable"
MAX_MESSAGE = 2_000
"""Longest message of a module that is kept, in characters: a run's payload must stay small."""
MAX_MESSAGES = 50
"""How many messages of a module are kept."""
_GROWTH = 0.1
_MAX_JOB_PATH = 500
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
"""What neither Postgres' JSON nor UTF-8 can carry."""
_JOB_PATH = re.compile(r"/[!-~]*", re.ASCII)


class Dialect(StrEnum):
    """How a module wants to be initialised."""

    OKAPI_1 = "_tenant 1"
    OKAPI_2 = "_tenant 2"
    UPLIFT = "_tenantInit 1"
    NONE = "none"


class Purpose(StrEnum):
    """What tenant init is called for."""

    INIT = "init"
    DISABLE = "disable"
    PURGE = "purge"


def purpose_of(kind: Kind) -> Purpose:
    """What tenant init is called for by a kind of change."""
    return {Kind.DISABLE: Purpose.DISABLE, Kind.PURGE: Purpose.PURGE}.get(kind, Purpose.INIT)


def is_invoked(invoke: str, module: str) -> bool:
    """Okapi's option `invoke`: true, false, or an expression that `check_pattern` took and that matches the whole module id."""
    return invoke == "true" or (invoke != "false" and re.fullmatch(invoke, module) is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One HTTP request to a module.

    Attributes:
        body: JSON text, or None for no body.
    """

    method: str
    path: str
    body: str | None


class Effect(StrEnum):
    """What an answer means for the run."""

    DONE = "done"
    FOLLOW = "follow"
    REFUSED = "refused"
    FAILED = "failed"
    RETRY = "retry"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class InitAnswer:
    """An answer to tenant init, or the state of its job.

    Attributes:
        effect: What the run does now.
        outcome: `nothing to do`, `created`, `upgraded`, `refused`, `failed`, or empty while it works.
        job_path: Where the job is looked at, if there is one.
        messages, warnings, errors: The module's own words.
        progress: The module's progress as it tells it, for people.
        over: Whether the module is done with it for sure; if not, its data must not be touched before that is made sure of.
    """

    effect: Effect
    outcome: str = ""
    job_path: str = ""
    messages: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    progress: str = ""
    over: bool = True


def dialect_of(module: ModuleDescriptor) -> Dialect:
    """The dialect a module speaks; `_tenantInit` wins over `_tenant`.

    Raises:
        InvalidDescriptor: A version of `_tenant` or `_tenantInit` that nobody knows.
    """
    if (ours := module.interface("_tenantInit")) is not None:
        if ours.version.split(".")[0] != "1":
            raise InvalidDescriptor(f"Unsupported interface _tenantInit: {ours.version}")
        return Dialect.UPLIFT
    okapis = module.interface("_tenant")
    if okapis is None:
        return Dialect.NONE
    if okapis.version in ("1.0", "1.1", "1.2"):
        return Dialect.OKAPI_1
    if okapis.version.split(".")[0] == "2":
        return Dialect.OKAPI_2
    raise InvalidDescriptor(f"Unsupported interface _tenant: {okapis.version}")


def init_call(
    module: ModuleDescriptor,
    *,
    purpose: Purpose,
    module_from: str | None,
    module_to: str | None,
    parameters: tuple[tuple[str, str | None], ...] = (),
    run: str = "",
) -> Call | None:
    """The request that a module wants, or None where its dialect has none for the purpose (which counts as success).

    Args:
        module: The module whose instance is called.
        purpose: Init (install, upgrade, downgrade, reinstall), disable, or purge.
        module_from: Module id that the tenant's data is at; None for an install.
        module_to: Module id to go to; None for disable and purge.
        parameters: Key and value pairs of the administrator's `tenantParameters`.
        run: The job's id, so that a module can recognise a repeated request (`_tenantInit` only).
    """
    dialect = dialect_of(module)
    if dialect is Dialect.NONE:
        return None
    if dialect is Dialect.UPLIFT:
        return _uplift_call(module, purpose, module_from, module_to, parameters, run)
    interface = module.interface("_tenant")
    assert interface is not None
    if dialect is Dialect.OKAPI_2:
        path = _path(interface, "POST", lambda handler: "/" in handler.pattern)
        if path is None:
            return None
        body: dict[str, Any] = _from_to(module_from, module_to)
        body["purge"] = purpose is Purpose.PURGE
        if parameters:
            body["parameters"] = _parameters(parameters)
        return Call(method="POST", path=path, body=json.dumps(body))
    return _okapi_1_call(interface, purpose, module_from, module_to, parameters)


def job_call(module: ModuleDescriptor, job_path: str, *, method: str = "GET") -> Call:
    """The request that looks at (GET) or removes (DELETE) a tenant-init job."""
    del module
    return Call(method=method, path=job_path, body=None)


def read_answer(module: ModuleDescriptor, call: Call, *, status: int, location: str | None, body: str) -> InitAnswer:
    """What a complete HTTP answer to tenant init means (the table of `docs/reference/tenant-init.md`).

    Args:
        module: The module that answered.
        call: What it was asked.
        status: HTTP status.
        location: The `Location` header, if any.
        body: The body as text.
    """
    if status in (502, 503):
        return InitAnswer(effect=Effect.RETRY, errors=(_cut(f"{status}: {body}"),), over=False)
    if status == 504 or (200 <= status < 300 and _is_page(body)):  # noqa: PLR2004
        # Somebody between us and the module says that, who may have passed the request on: no answer of the module's.
        return InitAnswer(
            effect=Effect.UNKNOWN, errors=(_cut(f"{status}, which is not the module's answer: {body}"),), over=False
        )
    value = _json(body)
    told = _told(value)
    if 200 <= status < 300:  # noqa: PLR2004
        dialect = dialect_of(module)
        if dialect is Dialect.UPLIFT and status == 202:  # noqa: PLR2004
            return _uplift_job_answer(module, call, location, told)
        if dialect is Dialect.OKAPI_2 and location:
            return _okapi_job_answer(module, call, value)
        outcome = {204: "nothing to do", 201: "created"}.get(status, "upgraded")
        return InitAnswer(effect=Effect.DONE, outcome=outcome, messages=told[0], warnings=told[1])
    text = _cut(f"{call.method} request for {module.id} {call.path} failed with {status}: {body}")
    if status == 400:  # noqa: PLR2004
        return InitAnswer(
            effect=Effect.REFUSED,
            outcome="refused",
            errors=(text, *told[2]),
            messages=told[0],
            warnings=told[1],
        )
    return InitAnswer(effect=Effect.FAILED, outcome="failed", errors=(text, *told[2]), messages=told[0], warnings=told[1])


def read_job(module: ModuleDescriptor, job_path: str, *, status: int, body: str) -> InitAnswer:
    """What the answer to a look at a tenant-init job means.

    `FOLLOW` means that it works on, `RETRY` that nothing was learnt (the module restarts, or its proxy says so).
    """
    value = _json(body)
    nothing_learnt = status == 200 and not isinstance(value, Mapping)  # noqa: PLR2004
    if status >= 500 or status in (408, 429) or nothing_learnt:  # noqa: PLR2004
        return InitAnswer(effect=Effect.RETRY, job_path=job_path, errors=(_cut(f"{status}: {body}"),))
    if status != 200:  # noqa: PLR2004
        text = _cut(f"GET request for {module.id} {job_path} failed with {status}: {body}")
        return InitAnswer(effect=Effect.FAILED, outcome="failed", job_path=job_path, errors=(text,), over=False)
    return _read_job_value(module, job_path, value)


def _read_job_value(module: ModuleDescriptor, job_path: str, value: Mapping[str, Any]) -> InitAnswer:
    messages, warnings, errors = _told(value)
    progress = _shown(value["progress"]) if value.get("progress") is not None else ""
    if dialect_of(module) is Dialect.UPLIFT:
        state = value.get("status")
        complete, failed = state in ("done", "error"), state == "error" or bool(errors)
    else:
        complete, failed = value.get("complete") is True, bool(value.get("error"))
    if not complete:
        return InitAnswer(effect=Effect.FOLLOW, job_path=job_path, messages=messages, warnings=warnings, progress=progress)
    if failed:
        text = value.get("error") or "; ".join(errors) or "the module gave no reason"
        head = _cut(f"Tenant operation failed for module {module.id}: {text}")
        return InitAnswer(
            effect=Effect.FAILED,
            outcome="failed",
            job_path=job_path,
            errors=(head, *errors) if value.get("error") else (head,),  # what the head says is not said again
            messages=messages,
            warnings=warnings,
        )
    return InitAnswer(
        effect=Effect.DONE,
        outcome="upgraded",
        job_path=job_path,
        messages=messages,
        warnings=warnings,
        progress=progress,
    )


def next_look(taken: float, *, first: float, longest: float) -> float:
    """Seconds until a tenant-init job is looked at again (requirement C4).

    A tenth of the time that it has taken, so that hours of work cost few looks and seconds of work are noticed at once.

    Args:
        taken: Seconds since it was followed first.
        first: The shortest pause.
        longest: The longest, which wins.
    """
    return min(longest, max(first, taken * _GROWTH))


def _uplift_call(
    module: ModuleDescriptor,
    purpose: Purpose,
    module_from: str | None,
    module_to: str | None,
    parameters: tuple[tuple[str, str | None], ...],
    run: str,
) -> Call | None:
    interface = module.interface("_tenantInit")
    assert interface is not None
    if purpose is Purpose.DISABLE:
        return None
    if purpose is Purpose.PURGE:
        path = _path(interface, "DELETE", lambda handler: "{" not in handler.pattern)
        return Call(method="DELETE", path=path or "/_/tenant", body=None)
    body: dict[str, Any] = {}
    if module_from is not None:
        body["version_from"] = str(ModuleId.parse(module_from).version)
    if module_to is not None:
        body["version_to"] = str(ModuleId.parse(module_to).version)
    body["parameters"] = _parameters(parameters)
    body["run"] = run
    return Call(method="POST", path=_path(interface, "POST") or "/_/tenant", body=json.dumps(body))


def _okapi_1_call(
    interface: Interface,
    purpose: Purpose,
    module_from: str | None,
    module_to: str | None,
    parameters: tuple[tuple[str, str | None], ...],
) -> Call | None:
    if purpose is Purpose.PURGE:
        path = _path(interface, "DELETE")
        return None if path is None else Call(method="DELETE", path=path, body=None)
    if purpose is Purpose.DISABLE:
        path = None if interface.version == "1.0" else _path(interface, "POST", lambda handler: handler.pattern == _DISABLE_PATH)
        return None if path is None else Call(method="POST", path=path, body=json.dumps(_from_to(module_from, None)))
    path = _path(interface, "POST", lambda handler: handler.pattern != _DISABLE_PATH)
    if path is None:
        if interface.version != "1.0" or (interface.type == "system" and interface.handlers):
            return None
        path = "/_/tenant"
    body = _from_to(module_from, module_to)
    if parameters and interface.version == "1.2":
        body["parameters"] = _parameters(parameters)
    return Call(method="POST", path=path, body=json.dumps(body))


def _uplift_job_answer(
    module: ModuleDescriptor, call: Call, location: str | None, told: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
) -> InitAnswer:
    """202 of `_tenantInit`: the job is at the Location, an address or a path of the module itself."""
    try:
        parts = urlsplit(urljoin(call.path, location or ""))
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    except ValueError:
        path = ""
    if not location or len(path) > _MAX_JOB_PATH or _JOB_PATH.fullmatch(path) is None:
        text = _cut(f"202 without the Location of a job in response for module {module.id}: {call.method} {call.path}")
        return InitAnswer(effect=Effect.FAILED, outcome="failed", errors=(text,), over=False)
    return InitAnswer(effect=Effect.FOLLOW, job_path=path, messages=told[0], warnings=told[1])


def _okapi_job_answer(module: ModuleDescriptor, call: Call, value: Any) -> InitAnswer:
    """2xx with a Location of `_tenant` 2.0: the job is named by the body's id, not by the Location (Okapi's rule)."""
    interface = module.interface("_tenant")
    assert interface is not None
    job_id = value.get("id") if isinstance(value, Mapping) else None
    get = _path(interface, "GET", lambda handler: "{id}" in handler.pattern)
    if get is None:
        text = f"Unexpected Location header in response for module {module.id}: {call.method} {call.path}"
    elif _path(interface, "DELETE", lambda handler: "{id}" in handler.pattern) is None:
        text = f"Missing DELETE method for tenant interface version 2 for module {module.id}"
    elif not isinstance(job_id, str) or not job_id or "/" in job_id or len(job_id) > _MAX_JOB_PATH // 2:
        text = f"Missing id property in JSON response for module {module.id}: {call.method} {call.path}"
    else:
        path = get.replace("{id}", quote(job_id, safe="", errors="replace"))
        if value.get("complete") is True:
            return _read_job_value(module, path, value)
        messages, warnings, _ = _told(value)
        return InitAnswer(effect=Effect.FOLLOW, job_path=path, messages=messages, warnings=warnings)
    return InitAnswer(effect=Effect.FAILED, outcome="failed", errors=(_cut(text),), over=False)


def _path(interface: Interface, method: str, accept: Callable[[Handler], bool] | None = None) -> str | None:
    for handler in interface.handlers:
        if method in handler.methods and (accept is None or accept(handler)):
            return handler.pattern
    return None


def _from_to(module_from: str | None, module_to: str | None) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if module_to is not None:
        body["module_to"] = module_to
    if module_from is not None:
        body["module_from"] = module_from
    return body


def _parameters(parameters: tuple[tuple[str, str | None], ...]) -> list[dict[str, str]]:
    return [{"key": key} if value is None else {"key": key, "value": value} for key, value in parameters]


def _is_page(body: str) -> bool:
    """Whether it is what servers show to people: no module answers tenant init with it, but balancers do."""
    return body.lstrip()[:1] == "<"


def _json(body: str) -> Any:
    try:
        return json.loads(body) if body.strip() else None
    except (ValueError, RecursionError):
        return None


def _told(value: Any) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """(messages, warnings, errors) of a module's answer."""
    if not isinstance(value, Mapping):
        return (), (), ()
    return _texts(value.get("messages")), _texts(value.get("warnings")), _texts(value.get("errors"))


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        return ()
    texts = []
    for item in value[:MAX_MESSAGES]:
        if isinstance(item, str):
            texts.append(_cut(item))
        elif isinstance(item, Mapping) and isinstance(item.get("message"), str):
            texts.append(_cut(item["message"]))
        else:
            texts.append(_shown(item))
    return tuple(texts)


def _shown(value: Any) -> str:
    try:
        return _cut(json.dumps(value))
    except RecursionError:
        return "…"


def _cut(text: str) -> str:
    short = text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"
    return _UNSTORABLE.sub("\ufffd", short)
