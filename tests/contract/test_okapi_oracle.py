"""Ours against real Okapi 7.0.0 on real FOLIO releases: the same status, the same actions, the same texts.

`oracle-index.tsv` says how a case compares: Okapi's choices and orders follow Java's hashes here and there. Where several orders
are right, ours is one. Where Okapi enables a version of a product and disables another, ours is an upgrade: both compare equal.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.folio import FOLIO, release
from upgrade_core.descriptors import ModuleDescriptor
from upgrade_core.enabled import Enabled
from upgrade_core.errors import ResolutionError
from upgrade_core.ids import product_of
from upgrade_core.plan import build_plan
from upgrade_core.problems import Providers
from upgrade_core.resolution import Decision, Verb, Wanted, resolve, upgrades, visible

ORACLE = FOLIO / "oracle"
pytestmark = pytest.mark.skipif(not ORACLE.exists(), reason=f"no answers of Okapi in {ORACLE}")

ELSEWHERE = {
    "depcheck-off-parallel": "test_bindings_and_jobs.py::test_a_bad_option_is_named_and_makes_no_job",
    "error-bad-action": "test_bindings_and_jobs.py::test_a_bad_request_is_refused_and_makes_no_job",
    "module-enable-twice": "test_bindings_and_jobs.py::test_what_binding_calls_refuse",
    "register-duplicate": "test_registry.py::test_another_descriptor_of_the_same_id_is_refused",
    "register-same-again": "test_registry.py::test_the_same_descriptor_again_is_fine_in_any_order_of_members",
    "unregister-used-by-tenant": "test_registry.py::test_a_module_that_a_tenant_uses_is_not_deleted",
}
"""Cases of the routes rather than of the rules, and the test of the gateway with its database that has each."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A recorded call.

    Attributes:
        kind: `exact`, `set`, `text`, `no`: how much of Okapi's answer does not depend on hashes.
    """

    name: str
    kind: str
    call: dict[str, Any]

    @property
    def catalogue(self) -> dict[str, ModuleDescriptor]:
        found = {key: module for name in self.call["registered"] for key, module in release(name).items()}
        return {key: module for key, module in found.items() if key not in (self.call.get("unregistered") or ())}

    @property
    def enabled(self) -> tuple[str, ...]:
        return tuple(self.call["enabled"])

    @property
    def hangs(self) -> bool:
        return self.call["response_status"] is None


def cases() -> list[Case]:
    index = FOLIO / "oracle-index.tsv"
    if not index.exists():
        return []
    rows = [row.split("\t") for row in index.read_text(encoding="utf-8").splitlines()[1:]]
    return [Case(name=row[0], kind=row[3], call=json.loads((ORACLE / f"{row[0]}.json").read_bytes())) for row in rows]


CASES = cases()


def chosen(*, refused: bool, installs: bool = True) -> list[Any]:
    found = []
    for case in CASES:
        path = case.call["path"]
        is_install = path.endswith(("/install", "/upgrade"))
        if case.name not in ELSEWHERE and "/tenants/" in path and is_install is installs:
            is_refused = not case.hangs and case.call["response_status"] >= 400
            if is_refused is refused:
                found.append(pytest.param(case, id=case.name))
    return found


def ours(case: Case) -> tuple[Decision, ...]:
    query, request = case.call["query"], case.call["request"]
    catalogue, enabled, path = case.catalogue, case.enabled, case.call["path"]
    seen = visible(
        catalogue,
        pre_release=query.get("preRelease", "true"),
        npm_snapshot=query.get("npmSnapshot", "true"),
        enabled=enabled,
    )
    is_binding = not path.endswith(("/install", "/upgrade"))
    if path.endswith("/upgrade"):
        wanted = upgrades(enabled, seen)
    elif case.call["method"] == "DELETE":
        wanted = tuple(Wanted(id=module, verb=Verb.DISABLE) for module in enabled)
    else:
        lines = [request] if isinstance(request, dict) else request
        wanted = tuple(Wanted(id=line["id"], verb=Verb(line.get("action", "enable"))) for line in lines)
    return resolve(wanted, enabled=enabled, catalogue=seen, reinstall=query.get("reinstall") == "true", mend=not is_binding)


def theirs(case: Case) -> tuple[Decision, ...]:
    return tuple(
        Decision(action=line["action"], module=line["id"], module_from=line.get("from")) for line in case.call["response"]
    )


def merged(decisions: Iterable[Decision]) -> list[Decision]:
    """One line for a product that is disabled and enabled, in the place of the last; Okapi writes two, and sometimes twice."""
    found: dict[str, Decision] = {}
    for each in decisions:
        earlier = found.pop(product_of(each.module), None)
        if earlier is not None and "enable" in (each.action, earlier.action):
            new = each if each.action == "enable" else earlier
            gone = [line for line in (earlier, each) if line.action == "disable"]
            sources = [line.module_from for line in (earlier, each) if line.module_from]
            source = gone[0].module if gone else next(iter(sources), None)
            found[product_of(each.module)] = Decision(action="enable", module=new.module, module_from=source)
        else:
            found[product_of(each.module)] = each
    return list(found.values())


def faults(decisions: Iterable[Decision], case: Case) -> list[str]:
    """Lines that come too early, and what does not fit in the end."""
    catalogue = case.catalogue
    state, found = Enabled(catalogue[module] for module in case.enabled), []
    for each in decisions:
        module = catalogue[each.module]
        if each.action == "enable":
            found += [f"{module.id} comes before {need.id}" for need in state.unmet(module)]
            state.put(module)
        elif each.action == "disable":
            found += [f"{module.id} goes before {user}" for _, user in state.relying_on(module.product)]
            state.drop(module.product)
    return found + [trouble.text for trouble in state.all_troubles()]


def texts(case: Case) -> list[str]:
    return re.split(r"\. (?=Incompatible|interface|Module|Multiple|Cannot)", case.call["response"])


@pytest.mark.parametrize("case", chosen(refused=False))
def test_the_answer_is_okapis_in_a_valid_order(case: Case) -> None:
    decisions = ours(case)
    assert faults(merged(decisions), case) == []
    asked = {product_of(line["id"]): line for line in case.call["request"] or ()}
    after = {product_of(module): module for module in case.enabled} | {
        product_of(each.module): each.module for each in decisions if each.action != "disable"
    }
    gone = {product_of(each.module) for each in decisions if each.action == "disable"}
    for product, line in asked.items():
        if line.get("action", "enable") == "enable":
            assert product not in gone or any(each.module == after[product] for each in decisions if each.action == "enable")
            assert line["id"] in (product, after[product])
    if case.kind == "no" or case.hangs:
        return
    assert set(merged(decisions)) == set(merged(theirs(case)))
    if case.kind == "exact" and not faults(merged(theirs(case)), case):
        assert merged(decisions) == merged(theirs(case))


@pytest.mark.parametrize("case", chosen(refused=False))
def test_the_plan_never_leaves_unmet_what_was_met(case: Case) -> None:
    catalogue = case.catalogue
    plan = build_plan(ours(case), enabled=case.enabled, data_versions={}, catalogue=catalogue)
    state = Enabled(catalogue[module] for module in case.enabled)
    assert state.all_troubles() == []
    for group in plan.groups:
        for change in group.changes:
            if change.version_to is None:
                state.drop(change.product)
            else:
                state.put(catalogue[change.version_to])
        assert [trouble.text for trouble in state.all_troubles()] == [], group.key


@pytest.mark.parametrize("case", chosen(refused=True))
def test_what_okapi_refuses_is_refused_with_its_texts(case: Case) -> None:
    with pytest.raises(ResolutionError) as caught:
        ours(case)
    if case.kind != "no":
        assert sorted(caught.value.reasons) == sorted(texts(case))


@pytest.mark.parametrize("case", chosen(refused=True, installs=False))
def test_a_single_binding_is_refused_with_okapis_texts(case: Case) -> None:
    with pytest.raises(ResolutionError) as caught:
        ours(case)
    assert sorted(caught.value.reasons) == sorted(texts(case))


@pytest.mark.parametrize("case", chosen(refused=False, installs=False))
def test_single_bindings_leave_what_okapi_leaves(case: Case) -> None:
    state = {product_of(module): module for module in case.enabled}
    for each in ours(case):
        if each.action == "disable":
            assert state.pop(product_of(each.module)) == each.module
        else:
            state[product_of(each.module)] = each.module
    assert sorted(state.values()) == sorted(case.call["enabled_after"])


def test_descriptors_that_lack_what_they_require_are_refused_with_okapis_texts() -> None:
    (case,) = [case for case in CASES if case.name == "register-release-checked-incompatible"]
    found = release(case.call["request"].removeprefix("@"))
    providers = Providers([*case.catalogue.values(), *found.values()], system=True)
    assert sorted(unmet.text for module in found.values() for unmet in providers.unmet(module)) == sorted(
        case.call["response"].split("\n")
    )


def test_every_case_is_compared_here_or_at_the_gateway() -> None:
    here = [
        param.values[0].name
        for refused in (False, True)
        for installs in (False, True)
        for param in chosen(refused=refused, installs=installs)
    ]
    assert sorted([*here, *ELSEWHERE, "register-release-checked-incompatible"]) == sorted(
        path.stem for path in ORACLE.glob("*.json")
    )
    for place in ELSEWHERE.values():
        name, _, test = place.partition("::")
        path = Path(__file__).parents[1] / "integration" / "gateway" / name
        assert f"async def {test}(" in path.read_text(encoding="utf-8")
