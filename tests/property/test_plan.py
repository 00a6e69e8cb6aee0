"""Laws of plans."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from upgrade_core.descriptors import Interface, ModuleDescriptor, Requirement, Undo, UpliftMetadata
from upgrade_core.errors import ResolutionError
from upgrade_core.ids import ModuleId, product_of
from upgrade_core.plan import Kind, Mode, build_plan
from upgrade_core.resolution import Decision, Verb, Wanted, resolve

UNDOS = st.none() | st.sampled_from(Undo)
IDS = [f"{product}-{version}" for product in "abcde" for version in ("1.0.0", "1.1.0", "2.0.0")]


@st.composite
def catalogues(draw: st.DrawFn) -> dict[str, ModuleDescriptor]:
    return {
        text: ModuleDescriptor(
            id=text,
            product=product_of(text),
            provides=(Interface(id=product_of(text), version=text.split("-")[1][:3]),),
            requires=tuple(
                Requirement(id=name, version=draw(st.sampled_from(["1.0", "1.1", "1.0 2.0"])))
                for name in draw(st.lists(st.sampled_from("abcde"), max_size=1))
                if name < product_of(text)
            ),
            uplift=UpliftMetadata(undo=draw(UNDOS)),
        )
        for text in draw(st.lists(st.sampled_from(IDS), unique=True))
    }


@st.composite
def tenants(draw: st.DrawFn) -> tuple[str, ...]:
    ids = draw(st.permutations(IDS))
    return tuple({product_of(text): text for text in ids[: draw(st.integers(0, 4))]}.values())


WANTED = st.lists(
    st.builds(Wanted, id=st.sampled_from([*IDS, *"abcde"]), verb=st.sampled_from([*[Verb.ENABLE] * 4, Verb.DISABLE])), max_size=5
).map(tuple)


@given(asked=UNDOS, declared=UNDOS, kind=st.sampled_from(["install", "upgrade", "downgrade", "reinstall"]))
def test_the_requests_undo_mode_is_over_the_descriptors(asked: Undo | None, declared: Undo | None, kind: str) -> None:
    at = {"install": None, "upgrade": "m-1.0.0", "downgrade": "m-3.0.0", "reinstall": "m-2.0.0"}[kind]
    module = ModuleDescriptor(id="m-2.0.0", product="m", uplift=UpliftMetadata(undo=declared))
    plan = build_plan(
        (Decision(action="enable", module="m-2.0.0"),),
        enabled=() if at is None else (at,),
        data_versions={},
        catalogue={module.id: module},
        undo=asked,
    )
    (change,) = plan.groups[0].changes
    assert change.undo is (asked if asked is not None else declared)
    assert change.kind == kind


def resolved(
    wanted: tuple[Wanted, ...],
    enabled: tuple[str, ...],
    catalogue: dict[str, ModuleDescriptor],
    *,
    check: bool = True,
    mend: bool = True,
) -> tuple[Decision, ...] | None:
    try:
        return resolve(wanted, enabled=enabled, catalogue=catalogue, check=check, mend=mend)
    except ResolutionError:
        return None


@given(catalogues(), tenants(), WANTED, st.booleans())
def test_a_request_is_carried_out_or_refused_whole(
    catalogue: dict[str, ModuleDescriptor], enabled: tuple[str, ...], wanted: tuple[Wanted, ...], check: bool
) -> None:
    """Requirement E8: what was decided, done in its order, leaves what was asked for."""
    decisions = resolved(wanted, enabled, catalogue, check=check, mend=False)
    if decisions is None:
        return
    state = {product_of(module): module for module in enabled}
    for decision in decisions:
        product = product_of(decision.module)
        if decision.action == "disable":
            assert state.pop(product) == decision.module
        else:
            assert decision.action == "uptodate" or decision.module_from == state.get(product)
            state[product] = decision.module
            assert decision.module in catalogue
    last = {product_of(line.id): line for line in wanted}
    for product, line in last.items():
        assert (product in state) is (line.verb is Verb.ENABLE)
        assert line.verb is Verb.DISABLE or line.id in (state[product], product)
    untouched = {product_of(module): module for module in enabled if product_of(module) not in last}
    assert untouched.items() <= state.items()


@given(catalogues(), tenants(), WANTED, st.randoms(use_true_random=False))
def test_the_answer_is_the_same_whatever_the_order_of_the_world(
    catalogue: dict[str, ModuleDescriptor], enabled: tuple[str, ...], wanted: tuple[Wanted, ...], random: Random
) -> None:
    items, others = list(catalogue.items()), list(enabled)
    random.shuffle(items)
    random.shuffle(others)
    assert resolved(wanted, enabled, catalogue) == resolved(wanted, tuple(others), dict(items))


@given(catalogues(), tenants(), tenants(), WANTED, st.booleans())
def test_without_the_check_every_decision_becomes_one_group_that_fits_the_world(
    catalogue: dict[str, ModuleDescriptor],
    enabled: tuple[str, ...],
    data_at: tuple[str, ...],
    wanted: tuple[Wanted, ...],
    purge: bool,
) -> None:
    """Requirements B3, B8."""
    decisions = resolved(wanted, enabled, catalogue, check=False)
    if decisions is None:
        return
    data = {product_of(module): module for module in data_at}
    plan = build_plan(decisions, enabled=enabled, data_versions=data, catalogue=catalogue, purge=purge, mode=Mode.AS_GIVEN)
    changes = [change for group in plan.groups for change in group.changes]
    done = [decision for decision in decisions if decision.action != "uptodate"]
    assert [change.product for change in changes] == [product_of(decision.module) for decision in done]
    state, at = {product_of(module): module for module in enabled}, dict(data)
    for change in changes:
        assert change.bound == state.get(change.product)
        if change.version_to is None:
            assert change.kind is (Kind.PURGE if purge else Kind.DISABLE)
            state.pop(change.product, None)
            at = {product: module for product, module in at.items() if not purge or product != change.product}
            continue
        assert change.version_from == at.get(change.product, change.bound)
        if change.version_from is None:
            assert change.kind is Kind.INSTALL
        else:
            old, new = ModuleId.parse(change.version_from), ModuleId.parse(change.version_to)
            assert (change.kind is Kind.UPGRADE) is (new > old)
            assert (change.kind is Kind.DOWNGRADE) is (new < old)
        state[change.product] = at[change.product] = change.version_to
    keys = [group.key for group in plan.groups]
    assert len(set(keys)) == len(keys)
    for position, group in enumerate(plan.groups):
        assert set(group.after) <= set(keys[:position])
