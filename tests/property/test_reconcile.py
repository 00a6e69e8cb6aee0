"""Laws of the comparison: what holds for every world."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from upgrade_core.reconcile import (
    Bound,
    Claim,
    CopyFile,
    Deployed,
    HeldLink,
    Intent,
    Ledger,
    NodeView,
    OpenJob,
    OpenRun,
    Overlay,
    Process,
    Repair,
    Snapshot,
    Verb,
    World,
    confirmed,
    differences,
)
from upgrade_core.runs import module_run_id

JOBS = st.sampled_from([f"{digit}0000000-0000-0000-0000-000000000000" for digit in "123"])
PRODUCTS = st.sampled_from(["a", "b"])
MODULES = st.sampled_from(["a-1.0.0", "a-2.0.0", "b-1.0.0"])
NODES = ("n", "m")
TENANTS = st.sampled_from(["s", "t"])


def few(values: st.SearchStrategy, key: object = None) -> st.SearchStrategy:
    return st.lists(values, max_size=3, unique_by=key).map(tuple)  # type: ignore[call-overload]


@st.composite
def views(draw: st.DrawFn, node: str) -> NodeView:
    if draw(st.integers(0, 5)) == 0:
        return NodeView(node=node, silent=True)
    processes = draw(
        few(
            st.builds(
                lambda module, generation: Process(instance=f"{module}@{node}", module=module, generation=generation),
                MODULES,
                st.sampled_from("gh"),
            ),
            lambda each: each.instance,
        )
    )
    files = draw(
        few(
            st.builds(
                lambda job, product, part, over: CopyFile(
                    path=f"t/{job}-{product}.dump{'.part' if part else ''}", job=job, age=1e6, part=part, over=over
                ),
                JOBS,
                PRODUCTS,
                st.booleans(),
                st.booleans(),
            ),
            lambda each: each.path,
        )
    )
    lost = draw(few(st.builds(lambda job: Snapshot(id=f"{job}-a", job=job, node=node), JOBS), lambda each: each.id))
    return NodeView(node=node, processes=processes, files=files, lost=lost)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    ledger = Ledger(
        jobs=draw(few(st.builds(OpenJob, id=JOBS, started=st.booleans()), lambda each: each.id)),
        claims=draw(few(st.builds(Claim, module=MODULES, job=JOBS), lambda each: each)),
        intents=draw(
            few(
                st.builds(
                    lambda job, product, alive: Intent(
                        key=f"{job}:{product}", job=job, tenant="t", product=product, module=f"{product}-1.0.0", alive=alive
                    ),
                    JOBS,
                    PRODUCTS,
                    st.booleans(),
                ),
                lambda each: each.key,
            )
        ),
        overlays=draw(few(st.builds(Overlay, job=JOBS, tenant=TENANTS, product=PRODUCTS), lambda each: (each.job, each.product))),
        holds=draw(
            few(
                st.builds(
                    lambda job, tenant, product: HeldLink(id=f"{tenant}:{product}", job=job, tenant=tenant, product=product),
                    JOBS,
                    TENANTS,
                    PRODUCTS,
                ),
                lambda each: each.id,
            )
        ),
        instances=draw(
            few(
                st.builds(
                    lambda module, node: Deployed(id=f"{module}@{node}", module=module, node=node, generation="g"),
                    MODULES,
                    st.sampled_from(NODES),
                ),
                lambda each: each.id,
            )
        ),
        bound=draw(few(st.builds(Bound, module=MODULES, served=st.booleans()), lambda each: each.module)),
        snapshots=draw(
            few(st.builds(lambda job: Snapshot(id=f"{job}-b", job=job, node="n", kept=False), JOBS), lambda each: each.id)
        ),
        retiring=draw(few(MODULES, lambda each: each)),
        oldest_job=draw(st.sampled_from([0.0, 1e9])),
    )
    runs = draw(
        few(
            st.one_of(
                st.builds(lambda job: OpenRun(id=job, type="TenantJob"), JOBS),
                st.builds(lambda job: OpenRun(id=f"{job}/1-a", type="GroupChange"), JOBS),
                st.builds(lambda module: OpenRun(id=module_run_id(module), type="ModuleVersion"), MODULES),
            ),
            lambda each: each.id,
        )
    )
    return World(ledger=ledger, runs=runs, nodes=tuple(draw(views(node)) for node in NODES))


def repaired(world: World, key: str, repair: Repair) -> World:
    """The world after a repair, as the rows, runs, processes and files say it then."""
    ledger, verb = world.ledger, repair.verb
    run = OpenRun(id=module_run_id(repair.module), type="ModuleVersion")
    if verb is Verb.GIVE_BACK:
        gone = Claim(module=repair.module, job=repair.job)
        return replace(world, ledger=replace(ledger, claims=tuple(each for each in ledger.claims if each != gone)))
    if verb is Verb.CLOSE_OVERLAY:
        kept = tuple(each for each in ledger.overlays if (each.job, each.product) != (repair.job, repair.product))
        return replace(world, ledger=replace(ledger, overlays=kept))
    if verb is Verb.END_INTENT:
        return replace(
            world, ledger=replace(ledger, intents=tuple(each for each in ledger.intents if each.key != repair.subject))
        )
    if verb is Verb.KEEP_SNAPSHOT:
        kept_ = tuple(each for each in ledger.snapshots if each.id != repair.subject)
        return replace(world, ledger=replace(ledger, snapshots=kept_))
    if key.startswith(("version:", "retirement:")):
        return replace(world, runs=(*world.runs, run))
    node, path = (key.split(":")[1], "") if verb is Verb.TELL_UNNEEDED else (repair.node, repair.subject)
    instance = key.split(":", 2)[2]
    return replace(
        world,
        nodes=tuple(
            view
            if view.node != node
            else replace(
                view,
                processes=tuple(each for each in view.processes if each.instance != instance),
                files=tuple(each for each in view.files if each.path != path),
            )
            for view in world.nodes
        ),
    )


@given(worlds())
def test_keys_are_unique_and_ordered(world: World) -> None:
    keys = [each.key for each in differences(world)]
    assert keys == sorted(set(keys))


@given(worlds())
def test_a_repair_removes_its_difference_and_no_other(world: World) -> None:
    found = differences(world)
    for each in found:
        if each.repair is not None:
            after = differences(repaired(world, each.key, each.repair))
            assert {other.key for other in after} == {other.key for other in found} - {each.key}


@given(worlds(), JOBS)
def test_a_job_at_work_shows_nothing_of_its_own(world: World, job: str) -> None:
    ledger = world.ledger
    at_work = replace(
        world,
        ledger=replace(ledger, jobs=(*(each for each in ledger.jobs if each.id != job), OpenJob(id=job))),
        runs=(*(each for each in world.runs if each.id != job), OpenRun(id=job, type="TenantJob")),
    )
    assert [each.key for each in differences(at_work) if each.job == job] == []


@given(worlds())
def test_no_repair_touches_what_a_tenant_has_or_a_job_at_work_claims(world: World) -> None:
    open_jobs = {job.id for job in world.ledger.jobs} | {run.id.partition("/")[0] for run in world.runs}
    needed = {bound.module for bound in world.ledger.bound}
    needed |= {claim.module for claim in world.ledger.claims if claim.job in open_jobs}
    for each in differences(world):
        if each.repair is not None and each.repair.verb in (Verb.STOP_PROCESS, Verb.TELL_UNNEEDED):
            assert each.repair.module not in needed


@given(worlds())
def test_a_world_that_stays_as_it_is_is_believed(world: World) -> None:
    found = differences(world)
    assert confirmed(found, found) == found
