"""upgrade_core.problems: which requirements count as unresolved, and what each problem says."""

from typing import Any

import pytest

from upgrade_core import problems
from upgrade_core.descriptors import ModuleDescriptor, parse_descriptor
from upgrade_core.problems import Problem, Severity, unresolved


def module(
    text: str, *, needs: dict[str, str] | None = None, offers: dict[str, str] | None = None, kind: str = "proxy"
) -> ModuleDescriptor:
    wire: dict[str, Any] = {
        "id": text,
        "requires": [{"id": name, "version": version} for name, version in (needs or {}).items()],
        "provides": [
            {"id": name, "version": version, "interfaceType": kind, "handlers": []} for name, version in (offers or {}).items()
        ],
    }
    return parse_descriptor(wire)


def found(*modules: ModuleDescriptor, **bindings: list[str]) -> dict[str, Problem]:
    tenants = {tenant: {each.rsplit("-", 1)[0]: each for each in enabled} for tenant, enabled in bindings.items()}
    return {problem.key: problem for problem in unresolved({each.id: each for each in modules}, tenants)}


def test_a_module_that_needs_what_nobody_registered_is_a_warning() -> None:
    problem = found(module("a-1.0.0", needs={"users": "1.0"}))["unresolved:a-1.0.0:users"]
    assert (problem.severity, problem.module, problem.tenant) == (Severity.WARNING, "a-1.0.0", None)
    assert problem.message == "Missing dependency: a-1.0.0 requires users: 1.0"


def test_a_module_that_needs_another_version_is_told_what_there_is() -> None:
    offers = [module("u-1.0.0", offers={"users": "1.2"}), module("u-2.0.0", offers={"users": "2.0"})]
    problem = found(module("a-1.0.0", needs={"users": "3.0"}), *offers)["unresolved:a-1.0.0:users"]
    assert problem.message == ("Incompatible version for module a-1.0.0 interface users. Need 3.0. Have 2.0/u-2.0.0 1.2/u-1.0.0")


def test_any_registered_version_that_fits_is_enough() -> None:
    offers = [module("u-1.0.0", offers={"users": "1.2"}), module("u-2.0.0", offers={"users": "2.0"})]
    assert found(module("a-1.0.0", needs={"users": "1.1"}), *offers) == {}


def test_optional_requirements_are_no_problem() -> None:
    optional = parse_descriptor({"id": "a-1.0.0", "optional": [{"id": "users", "version": "1.0"}]})
    assert found(optional, t=["a-1.0.0"]) == {}


def test_a_tenants_module_whose_provider_the_tenant_does_not_have_is_an_error() -> None:
    user, provider = module("a-1.0.0", needs={"users": "1.0"}), module("u-1.0.0", offers={"users": "1.0"})
    seen = found(user, provider, t=["a-1.0.0"], other=["a-1.0.0", "u-1.0.0"])
    assert list(seen) == ["unresolved:t:a-1.0.0:users"]
    problem = seen["unresolved:t:a-1.0.0:users"]
    assert (problem.severity, problem.tenant, problem.module) == (Severity.ERROR, "t", "a-1.0.0")


def test_a_tenant_needs_the_provider_in_a_version_that_fits() -> None:
    user = module("a-1.0.0", needs={"users": "2.0"})
    offers = [module("u-1.0.0", offers={"users": "1.0"}), module("u-2.0.0", offers={"users": "2.1"})]
    assert list(found(user, *offers, t=["a-1.0.0", "u-1.0.0"])) == ["unresolved:t:a-1.0.0:users"]
    assert found(user, *offers, t=["a-1.0.0", "u-2.0.0"]) == {}


def test_for_a_tenant_an_interface_that_is_called_by_the_system_only_meets_nothing() -> None:
    user, provider = module("a-1.0.0", needs={"users": "1.0"}), module("u-1.0.0", offers={"users": "1.0"}, kind="system")
    assert list(found(user, provider, t=["a-1.0.0", "u-1.0.0"])) == ["unresolved:t:a-1.0.0:users"]


def test_a_binding_to_a_module_that_is_not_registered_is_not_judged() -> None:
    assert found(t=["gone-1.0.0"]) == {}


@pytest.mark.parametrize(
    ("problem", "key", "mentions"),
    [
        (problems.closed("m-1.0.0"), "closed:m-1.0.0", "start it again"),
        (problems.overdue("h1", product="m", tenant="t", holder="Ann"), "overdue:h1", "RESUME with hold h1"),
        (problems.run_lost("j1", tenant="t", why="gone"), "run-lost:j1", "uplift resolve j1"),
        (problems.hold_left("h1", product="m", tenant="t", job="j1"), "hold-left:h1", "uplift resolve j1"),
        (problems.hold_left("h1", product="m", tenant="t", job="j1", ended=False), "hold-left:h1", "let the job end"),
        (problems.newer_blocked("t", "m-2.0.0", why="w"), "newer-blocked:t:m-2.0.0", "PUT /_/lifecycle/routing/t"),
    ],
)
def test_each_problem_has_its_key_its_kind_and_a_remedy(problem: Problem, key: str, mentions: str) -> None:
    assert problem.key == key
    assert problem.kind == key.partition(":")[0]
    assert mentions in problem.remedy


def test_a_hold_on_all_tenants_is_of_no_tenant() -> None:
    problem = problems.overdue("h1", product="m", tenant="*", holder="Ann")
    assert problem.tenant is None
    assert "all tenants" in problem.message
