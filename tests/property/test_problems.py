"""Laws of unresolved dependencies."""

from hypothesis import given
from hypothesis import strategies as st

from upgrade_core.descriptors import Interface, ModuleDescriptor, Requirement
from upgrade_core.errors import ResolutionError
from upgrade_core.ids import product_of
from upgrade_core.problems import Severity, unresolved
from upgrade_core.resolution import Wanted, resolve

VERSIONS = st.sampled_from(["1.0", "1.1", "2.0"])
IDS = [f"{product}-{version}.0" for product in "abcd" for version in ("1.0", "2.0")]


@st.composite
def catalogues(draw: st.DrawFn) -> dict[str, ModuleDescriptor]:
    return {
        text: ModuleDescriptor(
            id=text,
            product=product_of(text),
            provides=(Interface(id=product_of(text), version=draw(VERSIONS)),),
            requires=tuple(Requirement(id=name, version=draw(VERSIONS)) for name in draw(st.sets(st.sampled_from("abcde")))),
        )
        for text in draw(st.lists(st.sampled_from(IDS), unique=True))
    }


@st.composite
def platforms(draw: st.DrawFn) -> tuple[dict[str, ModuleDescriptor], dict[str, dict[str, str]]]:
    modules = draw(catalogues())
    enabled = st.lists(st.sampled_from(sorted(modules)), unique_by=product_of) if modules else st.just([])
    return modules, {tenant: {product_of(each): each for each in draw(enabled)} for tenant in ("t", "u")}


@given(platforms())
def test_a_tenant_has_a_problem_if_and_only_if_its_modules_could_not_be_installed_together(
    platform: tuple[dict[str, ModuleDescriptor], dict[str, dict[str, str]]],
) -> None:
    modules, bindings = platform
    troubled = {problem.tenant for problem in unresolved(modules, bindings) if problem.tenant is not None}
    for tenant, bound in bindings.items():
        try:
            wanted = tuple(Wanted(id=each) for each in bound.values())
            resolve(wanted, enabled=tuple(bound.values()), catalogue=modules, mend=False)
        except ResolutionError:
            assert tenant in troubled
        else:
            assert tenant not in troubled


@given(platforms())
def test_problems_come_once_each_in_the_order_of_their_keys(
    platform: tuple[dict[str, ModuleDescriptor], dict[str, dict[str, str]]],
) -> None:
    keys = [problem.key for problem in unresolved(*platform)]
    assert keys == sorted(set(keys))


@given(platforms())
def test_what_no_registered_module_provides_is_missing_for_each_tenant_that_has_the_module(
    platform: tuple[dict[str, ModuleDescriptor], dict[str, dict[str, str]]],
) -> None:
    modules, bindings = platform
    found = unresolved(modules, bindings)
    keys = {problem.key for problem in found}
    for problem in found:
        if problem.severity is Severity.WARNING:
            interface = problem.key.rsplit(":", 1)[1]
            having = [tenant for tenant, bound in bindings.items() if problem.module in bound.values()]
            assert keys >= {f"unresolved:{tenant}:{problem.module}:{interface}" for tenant in having}
