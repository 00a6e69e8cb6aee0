"""Tenant init on the wire, call by call and answer by answer (requirements B1, B2, B4, C3)."""

import json
from dataclasses import replace
from typing import Any

import pytest

from upgrade_core.descriptors import Handler, Interface, ModuleDescriptor
from upgrade_core.errors import InvalidDescriptor
from upgrade_core.tenant_init import (
    MAX_MESSAGE,
    MAX_MESSAGES,
    Call,
    Dialect,
    Effect,
    InitAnswer,
    Purpose,
    dialect_of,
    init_call,
    job_call,
    read_answer,
    read_job,
)


def speaks(version: str, *handlers: Handler, name: str = "_tenant", kind: str = "system") -> ModuleDescriptor:
    return ModuleDescriptor(
        id="m-2.0.0", product="m", provides=(Interface(id=name, version=version, type=kind, handlers=handlers),)
    )


def on(pattern: str, *methods: str) -> Handler:
    return Handler(methods=methods, pattern=pattern)


OKAPI_10 = speaks("1.0", on("/_/tenant", "POST", "DELETE"))
OKAPI_11 = speaks("1.1", on("/_/tenant/disable", "POST"), on("/_/tenant", "POST", "DELETE"))
OKAPI_12 = speaks("1.2", on("/_/tenant/disable", "POST"), on("/_/tenant", "POST", "DELETE"))
OKAPI_20 = speaks("2.0", on("/_/tenant", "POST"), on("/_/tenant/{id}", "GET", "DELETE"))
UPLIFT = speaks("1.0", on("/_/tenant", "POST", "DELETE"), on("/_/tenant/{id}", "GET", "DELETE"), name="_tenantInit")
SILENT = ModuleDescriptor(id="m-2.0.0", product="m")

INSTALL = (Purpose.INIT, None, "m-2.0.0")
UPGRADE = (Purpose.INIT, "m-1.0.0", "m-2.0.0")
DOWNGRADE = (Purpose.INIT, "m-3.0.0", "m-2.0.0")
REINSTALL = (Purpose.INIT, "m-2.0.0", "m-2.0.0")
DISABLE = (Purpose.DISABLE, "m-2.0.0", None)
PURGE = (Purpose.PURGE, "m-2.0.0", None)

PARAMETERS = [{"key": "loadSample", "value": "true"}, {"key": "flag"}]
OURS = {"parameters": PARAMETERS, "run": "job-1"}


@pytest.mark.parametrize(
    ("module", "what", "method", "path", "body"),
    [
        (OKAPI_10, INSTALL, "POST", "/_/tenant", {"module_to": "m-2.0.0"}),
        (OKAPI_10, UPGRADE, "POST", "/_/tenant", {"module_to": "m-2.0.0", "module_from": "m-1.0.0"}),
        (OKAPI_10, DOWNGRADE, "POST", "/_/tenant", {"module_to": "m-2.0.0", "module_from": "m-3.0.0"}),
        (OKAPI_10, REINSTALL, "POST", "/_/tenant", {"module_to": "m-2.0.0", "module_from": "m-2.0.0"}),
        (OKAPI_10, DISABLE, None, None, None),
        (OKAPI_10, PURGE, "DELETE", "/_/tenant", None),
        (OKAPI_11, INSTALL, "POST", "/_/tenant", {"module_to": "m-2.0.0"}),
        (OKAPI_11, UPGRADE, "POST", "/_/tenant", {"module_to": "m-2.0.0", "module_from": "m-1.0.0"}),
        (OKAPI_11, DOWNGRADE, "POST", "/_/tenant", {"module_to": "m-2.0.0", "module_from": "m-3.0.0"}),
        (OKAPI_11, REINSTALL, "POST", "/_/tenant", {"module_to": "m-2.0.0", "module_from": "m-2.0.0"}),
        (OKAPI_11, DISABLE, "POST", "/_/tenant/disable", {"module_from": "m-2.0.0"}),
        (OKAPI_11, PURGE, "DELETE", "/_/tenant", None),
        (OKAPI_12, INSTALL, "POST", "/_/tenant", {"module_to": "m-2.0.0", "parameters": PARAMETERS}),
        (
            OKAPI_12,
            UPGRADE,
            "POST",
            "/_/tenant",
            {"module_to": "m-2.0.0", "module_from": "m-1.0.0", "parameters": PARAMETERS},
        ),
        (
            OKAPI_12,
            DOWNGRADE,
            "POST",
            "/_/tenant",
            {"module_to": "m-2.0.0", "module_from": "m-3.0.0", "parameters": PARAMETERS},
        ),
        (
            OKAPI_12,
            REINSTALL,
            "POST",
            "/_/tenant",
            {"module_to": "m-2.0.0", "module_from": "m-2.0.0", "parameters": PARAMETERS},
        ),
        (OKAPI_12, DISABLE, "POST", "/_/tenant/disable", {"module_from": "m-2.0.0"}),
        (OKAPI_12, PURGE, "DELETE", "/_/tenant", None),
        (OKAPI_20, INSTALL, "POST", "/_/tenant", {"module_to": "m-2.0.0", "purge": False, "parameters": PARAMETERS}),
        (
            OKAPI_20,
            UPGRADE,
            "POST",
            "/_/tenant",
            {"module_to": "m-2.0.0", "module_from": "m-1.0.0", "purge": False, "parameters": PARAMETERS},
        ),
        (
            OKAPI_20,
            DOWNGRADE,
            "POST",
            "/_/tenant",
            {"module_to": "m-2.0.0", "module_from": "m-3.0.0", "purge": False, "parameters": PARAMETERS},
        ),
        (
            OKAPI_20,
            REINSTALL,
            "POST",
            "/_/tenant",
            {"module_to": "m-2.0.0", "module_from": "m-2.0.0", "purge": False, "parameters": PARAMETERS},
        ),
        (OKAPI_20, DISABLE, "POST", "/_/tenant", {"module_from": "m-2.0.0", "purge": False, "parameters": PARAMETERS}),
        (OKAPI_20, PURGE, "POST", "/_/tenant", {"module_from": "m-2.0.0", "purge": True, "parameters": PARAMETERS}),
        (UPLIFT, INSTALL, "POST", "/_/tenant", {"version_to": "2.0.0"} | OURS),
        (UPLIFT, UPGRADE, "POST", "/_/tenant", {"version_from": "1.0.0", "version_to": "2.0.0"} | OURS),
        (UPLIFT, DOWNGRADE, "POST", "/_/tenant", {"version_from": "3.0.0", "version_to": "2.0.0"} | OURS),
        (UPLIFT, REINSTALL, "POST", "/_/tenant", {"version_from": "2.0.0", "version_to": "2.0.0"} | OURS),
        (UPLIFT, DISABLE, None, None, None),
        (UPLIFT, PURGE, "DELETE", "/_/tenant", None),
        (SILENT, INSTALL, None, None, None),
        (SILENT, UPGRADE, None, None, None),
        (SILENT, DISABLE, None, None, None),
        (SILENT, PURGE, None, None, None),
    ],
)
def test_what_a_module_is_asked(
    module: ModuleDescriptor,
    what: tuple[Purpose, str | None, str | None],
    method: str | None,
    path: str | None,
    body: dict[str, Any] | None,
) -> None:
    """Requirements B1 (install passes the version to go to only, upgrade both) and B4 (only purge purges)."""
    purpose, module_from, module_to = what
    call = init_call(
        module,
        purpose=purpose,
        module_from=module_from,
        module_to=module_to,
        parameters=(("loadSample", "true"), ("flag", None)),
        run="job-1",
    )
    if method is None:
        assert call is None
        return
    assert call is not None
    assert (call.method, call.path) == (method, path)
    assert (None if call.body is None else json.loads(call.body)) == body


@pytest.mark.parametrize(
    ("module", "body"),
    [
        (OKAPI_12, {"module_to": "m-2.0.0"}),
        (OKAPI_20, {"module_to": "m-2.0.0", "purge": False}),
        (UPLIFT, {"version_to": "2.0.0", "parameters": [], "run": ""}),
    ],
)
def test_parameters_are_passed_where_they_are_given(module: ModuleDescriptor, body: dict[str, Any]) -> None:
    call = init_call(module, purpose=Purpose.INIT, module_from=None, module_to="m-2.0.0")
    assert call is not None
    assert json.loads(call.body or "") == body


@pytest.mark.parametrize(
    ("module", "purpose", "expected"),
    [
        (speaks("1.0"), Purpose.INIT, ("POST", "/_/tenant")),
        (speaks("1.0", on("/x", "GET"), kind="proxy"), Purpose.INIT, ("POST", "/_/tenant")),
        (speaks("1.0", on("/x", "GET")), Purpose.INIT, None),
        (speaks("1.0", on("/init", "POST")), Purpose.INIT, ("POST", "/init")),
        (speaks("1.0"), Purpose.PURGE, None),
        (speaks("1.1"), Purpose.INIT, None),
        (speaks("1.1", on("/_/tenant/disable", "POST")), Purpose.INIT, None),
        (speaks("1.2", on("/_/tenant", "POST")), Purpose.DISABLE, None),
        (speaks("1.2", on("/_/tenant", "POST")), Purpose.PURGE, None),
        (speaks("2.0"), Purpose.INIT, None),
        (speaks("2.0", on("x", "POST"), on("/y", "POST")), Purpose.INIT, ("POST", "/y")),
        (speaks("1.0", name="_tenantInit"), Purpose.INIT, ("POST", "/_/tenant")),
        (speaks("1.0", on("/init", "POST", "DELETE"), name="_tenantInit"), Purpose.PURGE, ("DELETE", "/init")),
    ],
)
def test_only_what_a_module_declares_is_called(
    module: ModuleDescriptor, purpose: Purpose, expected: tuple[str, str] | None
) -> None:
    to = "m-2.0.0" if purpose is Purpose.INIT else None
    call = init_call(module, purpose=purpose, module_from="m-1.0.0", module_to=to)
    assert (None if call is None else (call.method, call.path)) == expected


@pytest.mark.parametrize(
    ("module", "dialect"),
    [
        (OKAPI_10, Dialect.OKAPI_1),
        (OKAPI_11, Dialect.OKAPI_1),
        (OKAPI_12, Dialect.OKAPI_1),
        (OKAPI_20, Dialect.OKAPI_2),
        (speaks("2.1"), Dialect.OKAPI_2),
        (UPLIFT, Dialect.UPLIFT),
        (replace(UPLIFT, provides=(*OKAPI_20.provides, *UPLIFT.provides)), Dialect.UPLIFT),
        (SILENT, Dialect.NONE),
    ],
)
def test_a_module_speaks_a_dialect(module: ModuleDescriptor, dialect: Dialect) -> None:
    assert dialect_of(module) is dialect


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (speaks("1.3"), "Unsupported interface _tenant: 1.3"),
        (speaks("3.0"), "Unsupported interface _tenant: 3.0"),
        (speaks("2.0", name="_tenantInit"), "Unsupported interface _tenantInit: 2.0"),
    ],
)
def test_a_dialect_that_nobody_knows_is_refused(module: ModuleDescriptor, message: str) -> None:
    with pytest.raises(InvalidDescriptor) as caught:
        init_call(module, purpose=Purpose.INIT, module_from=None, module_to="m-2.0.0")
    assert str(caught.value) == message


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_job_is_looked_at_and_removed_where_it_is(method: str) -> None:
    assert job_call(OKAPI_20, "/_/tenant/7", method=method) == Call(method=method, path="/_/tenant/7", body=None)


CALL = Call(method="POST", path="/_/tenant", body="{}")
FAILED = "POST request for m-2.0.0 /_/tenant failed with"


@pytest.mark.parametrize(
    ("status", "body", "answer"),
    [
        (200, "", InitAnswer(effect=Effect.DONE, outcome="upgraded")),
        (201, "", InitAnswer(effect=Effect.DONE, outcome="created")),
        (204, "", InitAnswer(effect=Effect.DONE, outcome="nothing to do")),
        (200, "no JSON", InitAnswer(effect=Effect.DONE, outcome="upgraded")),
        (200, "[1]", InitAnswer(effect=Effect.DONE, outcome="upgraded")),
        (
            200,
            '{"messages": ["a"], "warnings": [{"message": "b"}, {"code": 1}], "errors": ["ignored"]}',
            InitAnswer(effect=Effect.DONE, outcome="upgraded", messages=("a",), warnings=("b", '{"code": 1}')),
        ),
        (400, "no", InitAnswer(effect=Effect.REFUSED, outcome="refused", errors=(f"{FAILED} 400: no",))),
        (
            400,
            '{"errors": [{"message": "from 1 to 2?"}], "warnings": ["w"]}',
            InitAnswer(
                effect=Effect.REFUSED,
                outcome="refused",
                errors=(f'{FAILED} 400: {{"errors": [{{"message": "from 1 to 2?"}}], "warnings": ["w"]}}', "from 1 to 2?"),
                warnings=("w",),
            ),
        ),
        (500, "oh", InitAnswer(effect=Effect.FAILED, outcome="failed", errors=(f"{FAILED} 500: oh",))),
        (404, "", InitAnswer(effect=Effect.FAILED, outcome="failed", errors=(f"{FAILED} 404: ",))),
        (302, "", InitAnswer(effect=Effect.FAILED, outcome="failed", errors=(f"{FAILED} 302: ",))),
        (
            500,
            '{"errors": ["e"], "messages": ["m"]}',
            InitAnswer(
                effect=Effect.FAILED,
                outcome="failed",
                errors=(f'{FAILED} 500: {{"errors": ["e"], "messages": ["m"]}}', "e"),
                messages=("m",),
            ),
        ),
        (502, "x", InitAnswer(effect=Effect.RETRY, errors=("502: x",), over=False)),
        (503, "x", InitAnswer(effect=Effect.RETRY, errors=("503: x",), over=False)),
        (504, "x", InitAnswer(effect=Effect.UNKNOWN, errors=("504, which is not the module's answer: x",), over=False)),
        (
            200,
            "<html>hi</html>",
            InitAnswer(effect=Effect.UNKNOWN, errors=("200, which is not the module's answer: <html>hi</html>",), over=False),
        ),
    ],
)
@pytest.mark.parametrize("module", [OKAPI_10, OKAPI_11, OKAPI_12, OKAPI_20, UPLIFT])
def test_what_an_answer_means(module: ModuleDescriptor, status: int, body: str, answer: InitAnswer) -> None:
    """Requirements B2, C3."""
    assert read_answer(module, CALL, status=status, location=None, body=body) == answer


def test_an_answer_with_a_location_is_a_job_whose_id_is_in_the_body() -> None:
    answer = read_answer(
        OKAPI_20, CALL, status=201, location="http://elsewhere/9", body='{"id": "7", "complete": false, "messages": ["m"]}'
    )
    assert answer == InitAnswer(effect=Effect.FOLLOW, job_path="/_/tenant/7", messages=("m",))


def test_the_id_of_a_job_cannot_lead_elsewhere() -> None:
    answer = read_answer(OKAPI_20, CALL, status=201, location="/x", body=json.dumps({"id": "a?b#c ü\ud800"}))
    assert answer == InitAnswer(effect=Effect.FOLLOW, job_path="/_/tenant/a%3Fb%23c%20%C3%BC%3F")


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ({"id": "7", "complete": True}, InitAnswer(effect=Effect.DONE, outcome="upgraded", job_path="/_/tenant/7")),
        (
            {"id": "7", "complete": True, "error": "oh"},
            InitAnswer(
                effect=Effect.FAILED,
                outcome="failed",
                job_path="/_/tenant/7",
                errors=("Tenant operation failed for module m-2.0.0: oh",),
            ),
        ),
    ],
)
def test_a_job_may_be_complete_at_once(body: dict[str, Any], answer: InitAnswer) -> None:
    assert read_answer(OKAPI_20, CALL, status=201, location="/_/tenant/7", body=json.dumps(body)) == answer


@pytest.mark.parametrize(
    ("module", "body", "message"),
    [
        (
            speaks("2.0", on("/_/tenant", "POST")),
            '{"id": "7"}',
            "Unexpected Location header in response for module m-2.0.0: POST /_/tenant",
        ),
        (
            speaks("2.0", on("/_/tenant", "POST"), on("/_/tenant/{id}", "GET")),
            '{"id": "7"}',
            "Missing DELETE method for tenant interface version 2 for module m-2.0.0",
        ),
        (OKAPI_20, "{}", "Missing id property in JSON response for module m-2.0.0: POST /_/tenant"),
        (OKAPI_20, "no JSON", "Missing id property in JSON response for module m-2.0.0: POST /_/tenant"),
        (OKAPI_20, '{"id": 7}', "Missing id property in JSON response for module m-2.0.0: POST /_/tenant"),
        (OKAPI_20, '{"id": ""}', "Missing id property in JSON response for module m-2.0.0: POST /_/tenant"),
        (OKAPI_20, '{"id": "a/b"}', "Missing id property in JSON response for module m-2.0.0: POST /_/tenant"),
        (OKAPI_20, json.dumps({"id": "x" * 1_000}), "Missing id property in JSON response for module m-2.0.0: POST /_/tenant"),
    ],
)
def test_a_job_that_cannot_be_followed_has_failed_and_may_be_at_work(module: ModuleDescriptor, body: str, message: str) -> None:
    answer = read_answer(module, CALL, status=201, location="/_/tenant/7", body=body)
    assert answer == InitAnswer(effect=Effect.FAILED, outcome="failed", errors=(message,), over=False)


def test_old_modules_have_no_jobs() -> None:
    answer = read_answer(OKAPI_12, CALL, status=201, location="/_/tenant/7", body='{"id": "7"}')
    assert answer == InitAnswer(effect=Effect.DONE, outcome="created")


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("/_/tenant/7", "/_/tenant/7"),
        ("http://host:8081/_/tenant/7", "/_/tenant/7"),
        ("//host/_/tenant/7", "/_/tenant/7"),
        ("tenant/7", "/_/tenant/7"),
        ("/jobs/7?next=http://x/y#part", "/jobs/7?next=http://x/y"),
        ("http://host", "/"),
    ],
)
def test_a_202_names_a_job_by_its_location(location: str, path: str) -> None:
    answer = read_answer(UPLIFT, CALL, status=202, location=location, body='{"warnings": ["w"]}')
    assert answer == InitAnswer(effect=Effect.FOLLOW, job_path=path, warnings=("w",))


@pytest.mark.parametrize("location", [None, "", "http://[", "/a b", "/ü", "/" + "x" * 1_000])
def test_a_202_without_a_job_that_can_be_found_has_failed_and_may_be_at_work(location: str | None) -> None:
    answer = read_answer(UPLIFT, CALL, status=202, location=location, body="")
    message = "202 without the Location of a job in response for module m-2.0.0: POST /_/tenant"
    assert answer == InitAnswer(effect=Effect.FAILED, outcome="failed", errors=(message,), over=False)


@pytest.mark.parametrize(("status", "outcome"), [(200, "upgraded"), (201, "created"), (204, "nothing to do")])
def test_only_a_202_is_a_job_for_us(status: int, outcome: str) -> None:
    """Requirement B2: 201 says created, and may well tell where."""
    answer = read_answer(UPLIFT, CALL, status=status, location="/tenants/t", body="")
    assert answer == InitAnswer(effect=Effect.DONE, outcome=outcome)


JOB = "/_/tenant/7"


@pytest.mark.parametrize(
    ("module", "body", "answer"),
    [
        (
            OKAPI_20,
            {
                "id": "7",
                "tenant": "t",
                "tenantAttributes": {"module_to": "m-2.0.0", "purge": False},
                "complete": False,
                "messages": ["creating"],
            },
            InitAnswer(effect=Effect.FOLLOW, messages=("creating",)),
        ),
        (
            OKAPI_20,
            {"id": "7", "tenant": "t", "tenantAttributes": {"module_to": "m-2.0.0"}, "complete": True, "messages": []},
            InitAnswer(effect=Effect.DONE, outcome="upgraded"),
        ),
        (
            OKAPI_20,
            {"id": "7", "complete": True, "error": "oh", "messages": ["m"], "errors": ["e"]},
            InitAnswer(
                effect=Effect.FAILED,
                outcome="failed",
                errors=("Tenant operation failed for module m-2.0.0: oh", "e"),
                messages=("m",),
            ),
        ),
        (OKAPI_20, {"complete": True, "error": ""}, InitAnswer(effect=Effect.DONE, outcome="upgraded")),
        (OKAPI_20, {"complete": False, "error": "later"}, InitAnswer(effect=Effect.FOLLOW)),
        (OKAPI_20, {"complete": "true"}, InitAnswer(effect=Effect.FOLLOW)),
        (OKAPI_20, {"status": "done"}, InitAnswer(effect=Effect.FOLLOW)),
        (
            UPLIFT,
            {"status": "running", "progress": {"done": 1, "of": 2}, "warnings": ["w"]},
            InitAnswer(effect=Effect.FOLLOW, warnings=("w",), progress='{"done": 1, "of": 2}'),
        ),
        (UPLIFT, {"status": "queued"}, InitAnswer(effect=Effect.FOLLOW)),
        (UPLIFT, {"complete": True}, InitAnswer(effect=Effect.FOLLOW)),
        (
            UPLIFT,
            {"status": "done", "warnings": ["w"], "progress": 1.0},
            InitAnswer(effect=Effect.DONE, outcome="upgraded", warnings=("w",), progress="1.0"),
        ),
        (
            UPLIFT,
            {"status": "error"},
            InitAnswer(
                effect=Effect.FAILED,
                outcome="failed",
                errors=("Tenant operation failed for module m-2.0.0: the module gave no reason",),
            ),
        ),
        (
            UPLIFT,
            {"status": "error", "errors": ["a", {"message": "b"}]},
            InitAnswer(
                effect=Effect.FAILED,
                outcome="failed",
                errors=("Tenant operation failed for module m-2.0.0: a; b",),
            ),
        ),
        (
            UPLIFT,
            {"status": "done", "errors": ["a"]},
            InitAnswer(effect=Effect.FAILED, outcome="failed", errors=("Tenant operation failed for module m-2.0.0: a",)),
        ),
    ],
)
def test_what_a_job_says(module: ModuleDescriptor, body: dict[str, Any], answer: InitAnswer) -> None:
    """Requirement C3."""
    assert read_job(module, JOB, status=200, body=json.dumps(body)) == replace(answer, job_path=JOB)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_look_at_a_job_that_shows_nothing_is_taken_again(status: int) -> None:
    """Requirement C4: no proxy in between ends a tenant init."""
    answer = read_job(OKAPI_20, JOB, status=status, body="busy")
    assert answer == InitAnswer(effect=Effect.RETRY, job_path=JOB, errors=(f"{status}: busy",))


@pytest.mark.parametrize("body", ["no JSON", "[]", "", '{"complete": tr', "<html>Welcome!</html>"])
def test_a_look_that_is_answered_without_a_job_says_nothing_of_it(body: str) -> None:
    """Requirement C4: half an answer, or a balancer's page, ends no tenant init."""
    assert read_job(OKAPI_20, JOB, status=200, body=body).effect is Effect.RETRY


@pytest.mark.parametrize(("status", "body"), [(404, "gone"), (400, "{}"), (204, "")])
def test_a_job_that_cannot_be_looked_at_has_failed_and_may_be_at_work(status: int, body: str) -> None:
    answer = read_job(OKAPI_20, JOB, status=status, body=body)
    message = f"GET request for m-2.0.0 {JOB} failed with {status}: {body}"
    assert answer == InitAnswer(effect=Effect.FAILED, outcome="failed", job_path=JOB, errors=(message,), over=False)


def test_long_messages_are_cut() -> None:
    body = json.dumps({"messages": ["x" * (MAX_MESSAGE + 1), "y" * MAX_MESSAGE], "warnings": ["w"] * (MAX_MESSAGES + 1)})
    answer = read_answer(OKAPI_12, CALL, status=200, location=None, body=body)
    assert answer.messages == ("x" * (MAX_MESSAGE - 1) + "…", "y" * MAX_MESSAGE)
    assert len(answer.warnings) == MAX_MESSAGES
    long = read_answer(OKAPI_12, CALL, status=500, location=None, body="z" * 1_000_000)
    assert [len(error) for error in long.errors] == [MAX_MESSAGE]


def test_messages_hold_nothing_that_cannot_be_stored() -> None:
    answer = read_answer(OKAPI_12, CALL, status=200, location=None, body='{"messages": ["a\\u0000b\\ud800c"]}')
    assert answer.messages == ("a\ufffdb\ufffdc",)


@pytest.mark.parametrize("body", ["[" * 100_000, '{"messages": ' + "[" * 100_000, "9" * 100_000])
def test_json_that_is_made_to_hurt_is_no_json(body: str) -> None:
    assert read_answer(OKAPI_12, CALL, status=200, location=None, body=body).effect is Effect.DONE
    assert read_job(OKAPI_20, JOB, status=200, body=body).effect is Effect.RETRY
