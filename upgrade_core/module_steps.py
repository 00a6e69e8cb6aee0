"""What answers to `prechecks` and `post_steps` mean: is it done, does it go on as a job, or did it fail?

A step's job is looked at where its descriptor says, or at the Location of a 202. There it is read as modules tell their jobs:
`_tenantInit`'s `{"status": "running" | "done" | "error", "errors", "warnings"}`, or FOLIO's `{"complete", "error"}`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from upgrade_core.descriptors import ModuleStep, StepJob
from upgrade_core.tenant_init import MAX_MESSAGE, MAX_MESSAGES

_SHOWN = 300
_MAX_JOB_PATH = 500
_JOB_PATH = re.compile(r"/[!-~]*", re.ASCII)
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class StepKind(StrEnum):
    """Which list of the descriptor a step is of."""

    PRECHECK = "precheck"
    POST_STEP = "post_step"


class StepEffect(StrEnum):
    """What an answer means for the run."""

    DONE = "done"
    FOLLOW = "follow"
    FAILED = "failed"
    RETRY = "retry"
    """Nothing was learnt: nobody answered, or who answered cannot now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepAnswer:
    """An answer to a step, or the state of its job.

    Attributes:
        job_path: Where the job is looked at, as the module tells it; with FOLLOW only.
        errors: Why it failed, or why nothing was learnt.
        warnings: The module's.
    """

    effect: StepEffect
    job_path: str = ""
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def contains(given: Any, wanted: Any) -> bool:
    """Whether every member that is wanted is there; further ones do not matter."""
    if isinstance(wanted, Mapping):
        return isinstance(given, Mapping) and all(
            name in given and contains(given[name], value) for name, value in wanted.items()
        )
    return bool(given == wanted)


def read_answer(step: ModuleStep, *, status: int, location: str | None, body: str) -> StepAnswer:
    """What a complete HTTP answer to a step means.

    Args:
        step: The step.
        status: HTTP status.
        location: The `Location` header, if any.
        body: The body as text.
    """
    what = f"{step.method} {step.path}"
    good = status == step.status if step.status is not None else 200 <= status < 300  # noqa: PLR2004
    if not good and _is_absent(status):
        return StepAnswer(effect=StepEffect.RETRY, errors=(_cut(f"{what}: {status}: {body}"),))
    value = _json(body)
    if step.job is not None and good:
        return _begun(step, step.job, what, value)
    if status == 202 and location:  # noqa: PLR2004
        path = _path_of(location, step.path)
        if path is None:
            return _failed(f"{what}: 202 with a Location that is no path of the module: {location[:_SHOWN]!r}")
        return StepAnswer(effect=StepEffect.FOLLOW, job_path=path, warnings=_texts(value, "warnings"))
    if not good:
        expected = "2xx" if step.status is None else str(step.status)
        return _failed(f"{what}: expected {expected}, got {status}: {body[:_SHOWN]}")
    return _judged(step, what, value, body)


def read_job(step: ModuleStep, job_path: str, *, status: int, body: str) -> StepAnswer:
    """What the answer to a look at a step's job means; `FOLLOW`: it works on."""
    what = f"GET {job_path}"
    if _is_absent(status):
        return StepAnswer(effect=StepEffect.RETRY, job_path=job_path, errors=(_cut(f"{what}: {status}: {body}"),))
    value = _json(body)
    if status != 200 or not isinstance(value, Mapping):  # noqa: PLR2004
        text = "no JSON object" if status == 200 else str(status)  # noqa: PLR2004
        return _failed(f"{what}: expected the job of {step.method} {step.path}, got {text}: {body[:_SHOWN]}")
    if step.job is not None:
        return _by_descriptor(step, step.job, job_path, value, body)
    state = value.get("status")
    if not (state in ("done", "error") or value.get("complete") is True):
        return StepAnswer(effect=StepEffect.FOLLOW, job_path=job_path, warnings=_texts(value, "warnings"))
    errors = tuple(dict.fromkeys((*_texts({"error": [value.get("error")]} if value.get("error") else {}, "error"),
                                  *_texts(value, "errors"))))  # fmt: skip
    if state == "error" or errors:
        why = "; ".join(errors) or "the module gave no reason"
        return _failed(f"{step.method} {step.path}: {why}", warnings=_texts(value, "warnings"))
    return _judged(step, what, value, body)


def _begun(step: ModuleStep, job: StepJob, what: str, value: Any) -> StepAnswer:
    """A step whose descriptor says where its job is."""
    path = job.path
    if "{id}" in path:
        job_id = value.get("id") if isinstance(value, Mapping) else None
        if not isinstance(job_id, str | int) or isinstance(job_id, bool) or not str(job_id):
            return _failed(f"{what}: the answer has no id of its job, for {path}")
        path = path.replace("{id}", quote(str(job_id), safe="", errors="replace"))
    if len(path) > _MAX_JOB_PATH:
        return _failed(f"{what}: the path of its job must not exceed {_MAX_JOB_PATH} characters")
    if isinstance(value, Mapping):
        at_once = _by_descriptor(step, job, path, value, json.dumps(value)[:_SHOWN])
        if at_once.effect is not StepEffect.FOLLOW:
            return at_once
    return StepAnswer(effect=StepEffect.FOLLOW, job_path=path, warnings=_texts(value, "warnings"))


def _by_descriptor(step: ModuleStep, job: StepJob, path: str, value: Mapping[str, Any], body: str) -> StepAnswer:
    if job.failed is not None and contains(value, json.loads(job.failed)):
        return _failed(f"{step.method} {step.path}: its job {path} has failed: {body[:_SHOWN]}")
    if contains(value, json.loads(job.done)):
        return _judged(step, f"GET {path}", value, body)
    return StepAnswer(effect=StepEffect.FOLLOW, job_path=path, warnings=_texts(value, "warnings"))


def _judged(step: ModuleStep, what: str, value: Any, body: str) -> StepAnswer:
    """The end of a step, against what it was expected to answer."""
    if step.json is not None and not contains(value, json.loads(step.json)):
        return _failed(f"{what}: expected {step.json[:_SHOWN]}, got {body[:_SHOWN]}")
    return StepAnswer(effect=StepEffect.DONE, warnings=_texts(value, "warnings"))


def _failed(text: str, *, warnings: tuple[str, ...] = ()) -> StepAnswer:
    return StepAnswer(effect=StepEffect.FAILED, errors=(_cut(text),), warnings=warnings)


def _is_absent(status: int) -> bool:
    """Whether it is said by who cannot answer now: a module that restarts, what stands before it, or a busy one."""
    return status >= 500 or status in (408, 429)  # noqa: PLR2004


def _path_of(location: str, path: str) -> str | None:
    """The path of a Location, which may be an address."""
    try:
        parts = urlsplit(urljoin(path, location))
    except ValueError:
        return None
    found = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return found if len(found) <= _MAX_JOB_PATH and _JOB_PATH.fullmatch(found) else None


def _json(body: str) -> Any:
    try:
        return json.loads(body) if body.strip() else None
    except (ValueError, RecursionError):
        return None


def _texts(value: Any, member: str) -> tuple[str, ...]:
    """A list of a module's answer, as texts."""
    items = value.get(member) if isinstance(value, Mapping) else None
    if not isinstance(items, list):
        return ()
    texts = []
    for item in items[:MAX_MESSAGES]:
        text = item.get("message") if isinstance(item, Mapping) else item
        texts.append(_cut(text if isinstance(text, str) else json.dumps(item)))
    return tuple(texts)


def _cut(text: str) -> str:
    short = text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"
    return _UNSTORABLE.sub("\ufffd", short)


__all__ = [
    "StepAnswer",
    "StepEffect",
    "StepKind",
    "contains",
    "read_answer",
    "read_job",
]
