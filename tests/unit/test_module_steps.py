"""What answers to prechecks and post steps mean."""

import json
from typing import Any

import pytest

from upgrade_core.descriptors import ModuleStep, StepJob, parse_uplift
from upgrade_core.module_steps import StepAnswer, StepEffect, contains, read_answer, read_job

DONE, FOLLOW, FAILED, RETRY = StepEffect.DONE, StepEffect.FOLLOW, StepEffect.FAILED, StepEffect.RETRY
POST = ModuleStep(method="POST", path="/r")
STRICT = ModuleStep(method="GET", path="/d", status=200, json='{"count": 0}')
REINDEX = ModuleStep(
    method="POST", path="/r", job=StepJob(path="/r/{id}", done='{"s": "Ids published"}', failed='{"s": "failed"}')
)


def answer(step: ModuleStep, status: int, body: Any = None, location: str | None = None) -> StepAnswer:
    return read_answer(step, status=status, location=location, body="" if body is None else json.dumps(body))


def job(step: ModuleStep, status: int, body: Any) -> StepAnswer:
    return read_job(step, "/r/7", status=status, body=body if isinstance(body, str) else json.dumps(body))


@pytest.mark.parametrize(
    ("step", "status", "body", "effect", "error"),
    [
        (POST, 200, None, DONE, ""),
        (POST, 204, None, DONE, ""),
        (POST, 202, None, DONE, ""),  # no job: it is taken at its word
        (POST, 302, None, FAILED, "POST /r: expected 2xx, got 302: "),
        (POST, 404, {"why": 1}, FAILED, 'POST /r: expected 2xx, got 404: {"why": 1}'),
        (POST, 500, None, RETRY, "POST /r: 500: "),
        (POST, 503, None, RETRY, "POST /r: 503: "),
        (POST, 429, None, RETRY, "POST /r: 429: "),
        (STRICT, 200, {"count": 0, "more": 1}, DONE, ""),
        (STRICT, 200, {"count": 3}, FAILED, 'GET /d: expected {"count": 0}, got {"count": 3}'),
        (STRICT, 200, [0], FAILED, 'GET /d: expected {"count": 0}, got [0]'),
        (STRICT, 201, {"count": 0}, FAILED, 'GET /d: expected 200, got 201: {"count": 0}'),
        (ModuleStep(method="GET", path="/d", status=503), 503, None, DONE, ""),
        (REINDEX, 200, {"id": "7/8"}, FOLLOW, ""),
        (REINDEX, 200, {"id": 7, "s": "Ids published"}, DONE, ""),
        (REINDEX, 200, {"id": "7", "s": "failed"}, FAILED, "POST /r: its job /r/7 has failed: "),
        (REINDEX, 200, {}, FAILED, "POST /r: the answer has no id of its job, for /r/{id}"),
        (REINDEX, 200, {"id": True}, FAILED, "POST /r: the answer has no id of its job, for /r/{id}"),
        (REINDEX, 200, {"id": "x" * 600}, FAILED, "POST /r: the path of its job must not exceed 500 characters"),
        (REINDEX, 409, {"id": "7"}, FAILED, "POST /r: expected 2xx, got 409: "),
    ],
)
def test_an_answer(step: ModuleStep, status: int, body: Any, effect: StepEffect, error: str) -> None:
    found = answer(step, status, body)
    assert found.effect is effect
    assert "; ".join(found.errors).startswith(error)
    assert bool(found.errors) is bool(error)


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("/r/7", "/r/7"),
        ("http://gateway/_/overlay/x/r/7?a=1", "/_/overlay/x/r/7?a=1"),
        ("7", "/7"),
        ("http://[", None),
        ("/r/ä", None),
        ("/" + "x" * 500, None),
    ],
)
def test_the_job_of_a_202_is_at_its_location(location: str, path: str | None) -> None:
    found = answer(STRICT, 202, {"warnings": ["w"]}, location)
    assert (found.effect, found.job_path) == ((FOLLOW, path) if path else (FAILED, ""))


def test_the_job_of_the_descriptor_is_named_by_the_id_of_the_answer() -> None:
    assert answer(REINDEX, 200, {"id": "7/8"}).job_path == "/r/7%2F8"


@pytest.mark.parametrize(
    ("step", "status", "body", "effect", "error"),
    [
        (POST, 200, {"status": "running"}, FOLLOW, ""),
        (POST, 200, {"status": "done"}, DONE, ""),
        (POST, 200, {"status": "error", "errors": ["a", {"message": "b"}]}, FAILED, "POST /r: a; b"),
        (POST, 200, {"status": "error"}, FAILED, "POST /r: the module gave no reason"),
        (POST, 200, {"status": "done", "errors": ["a"]}, FAILED, "POST /r: a"),
        (POST, 200, {"complete": False}, FOLLOW, ""),
        (POST, 200, {"complete": True}, DONE, ""),
        (POST, 200, {"complete": True, "error": "disk full"}, FAILED, "POST /r: disk full"),
        (POST, 200, "no json", FAILED, "GET /r/7: expected the job of POST /r, got no JSON object: no json"),
        (POST, 404, "no such job", FAILED, "GET /r/7: expected the job of POST /r, got 404: no such job"),
        (POST, 502, "", RETRY, "GET /r/7: 502: "),
        (STRICT, 200, {"status": "done", "count": 0}, DONE, ""),
        (STRICT, 200, {"status": "done", "count": 1}, FAILED, 'GET /r/7: expected {"count": 0}, got '),
        (REINDEX, 200, {"s": "In progress"}, FOLLOW, ""),
        (REINDEX, 200, {"s": "Ids published"}, DONE, ""),
        (REINDEX, 200, {"s": "failed"}, FAILED, "POST /r: its job /r/7 has failed: "),
    ],
)
def test_a_look_at_a_job(step: ModuleStep, status: int, body: Any, effect: StepEffect, error: str) -> None:
    found = job(step, status, body)
    assert found.effect is effect
    assert "; ".join(found.errors).startswith(error)
    assert bool(found.errors) is bool(error)


def test_a_modules_warnings_are_kept_and_long_texts_cut() -> None:
    assert answer(POST, 200, {"warnings": ["odd", {"message": "rows"}, 7]}).warnings == ("odd", "rows", "7")
    (text,) = answer(POST, 404, "x" * 10_000).errors
    assert len(text) < 500


@pytest.mark.parametrize(
    ("given", "wanted", "fits"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}, True),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, False),
        ({"a": [1, 2]}, {"a": [1]}, False),
        ([1], {"a": 1}, False),
        (0, 0, True),
    ],
)
def test_what_is_contained(given: Any, wanted: Any, fits: bool) -> None:
    assert contains(given, wanted) is fits


def test_steps_are_read_from_the_descriptor() -> None:
    found = parse_uplift(
        {
            "prechecks": [{"path": "/d"}, {"path": "/d", "on": "old", "status": 204, "json": {"b": 1, "a": 2}}],
            "post_steps": [
                {"path": "/r", "body": None},
                {"method": "PUT", "path": "/r", "job": {"path": "/j", "done": {"s": 1}}},
            ],
        }
    )
    assert found.prechecks == (
        ModuleStep(method="GET", path="/d"),
        ModuleStep(method="GET", path="/d", on_old=True, status=204, json='{"a": 2, "b": 1}'),
    )
    assert found.post_steps == (
        ModuleStep(method="POST", path="/r", body="null"),
        ModuleStep(method="PUT", path="/r", job=StepJob(path="/j", done='{"s": 1}')),
    )
