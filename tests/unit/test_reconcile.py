"""What differs and what is repaired, rule by rule (requirements D2, D3, B8). The table is in docs/how-to/reconcile.md."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from upgrade_core.problems import difference as as_problem
from upgrade_core.reconcile import (
    MOST,
    Bound,
    Claim,
    CopyFile,
    Deployed,
    Difference,
    HeldLink,
    Intent,
    Kind,
    Ledger,
    NodeView,
    OpenJob,
    OpenRun,
    Overlay,
    Process,
    Repair,
    Report,
    Snapshot,
    Stale,
    Verb,
    World,
    confirmed,
    differences,
    doubtful,
    first,
    job_of,
    read_copy_name,
    with_unseen,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
JOB = "11111111-2222-3333-4444-555555555555"
GONE = "00000000-2222-3333-4444-555555555555"
MODULE = "mod-a-1.0.0"
INSTANCE = f"{MODULE}@n"
RUN = OpenRun(id=f"module/{MODULE}", type="ModuleVersion")
STRAY = Process(instance=INSTANCE, module=MODULE, generation="g")
FILE = CopyFile(path=f"t/{JOB}-mod-a.dump", job=JOB, age=9e5, over=True)
CLAIM, OVERLAY = Claim(module=MODULE, job=JOB), Overlay(job=JOB, tenant="t", product="mod-a")
INTENT = Intent(key="k", job=JOB, tenant="t", product="mod-a", module=MODULE, alive=False)
HOLD = HeldLink(id="h", job=JOB, tenant="t", product="mod-a")
REGISTERED = Deployed(id=INSTANCE, module=MODULE, node="n", generation="g")


def world(*runs: OpenRun, nodes: tuple[NodeView, ...] = (), **ledger: Any) -> World:
    return World(ledger=Ledger(**ledger), runs=runs, nodes=nodes)


def found(what: World) -> dict[str, Difference]:
    return {each.key: each for each in differences(what)}


def one(what: World) -> Difference:
    (each,) = differences(what)
    return each


def verb(what: World) -> Verb | None:
    repair = one(what).repair
    return None if repair is None else repair.verb


def test_an_empty_world_has_no_differences() -> None:
    assert differences(World()) == ()


@pytest.mark.parametrize(
    ("ledger", "wanted"),
    [
        ({"claims": (CLAIM,)}, Verb.GIVE_BACK),
        ({"overlays": (OVERLAY,)}, Verb.CLOSE_OVERLAY),
        ({"intents": (INTENT,)}, Verb.END_INTENT),
        ({"intents": (replace(INTENT, alive=True),)}, None),
        ({"holds": (HOLD,)}, None),
        ({"snapshots": (Snapshot(id="s", job=JOB, node="n", kept=False),)}, Verb.KEEP_SNAPSHOT),
    ],
)
def test_what_an_ended_job_left_is_repaired_where_nobody_can_want_it(ledger: dict[str, Any], wanted: Verb | None) -> None:
    assert verb(world(**ledger)) is wanted


@pytest.mark.parametrize(
    "run",
    [
        OpenRun(id=JOB, type="TenantJob"),
        OpenRun(id=f"{JOB}/1-mod-a", type="GroupChange"),
        OpenRun(id=f"{JOB}/resolve-1", type="ResolveJob"),
    ],
)
def test_nothing_that_belongs_to_a_job_at_work_is_a_difference(run: OpenRun) -> None:
    view = NodeView(
        node="n",
        processes=(STRAY,),
        lost=(Snapshot(id="s", job=JOB, node="n"),),
        files=(FILE, replace(FILE, path="x", part=True)),
    )
    rows: dict[str, Any] = {
        "claims": (CLAIM,), "overlays": (OVERLAY,), "intents": (INTENT,), "holds": (HOLD,),
        "snapshots": (Snapshot(id="s", job=JOB, node="n", kept=False),),
    }  # fmt: skip

    assert differences(world(run, nodes=(view,), jobs=(OpenJob(id=JOB),), **rows)) == ()


def test_a_job_whose_group_still_undoes_is_at_work_although_its_row_has_ended() -> None:
    group = OpenRun(id=f"{JOB}/1-mod-a", type="GroupChange")

    assert set(found(world(group, claims=(CLAIM,), holds=(HOLD,)))) == {f"run:{group.id}"}


def test_a_job_that_was_never_started_is_at_work() -> None:
    assert differences(world(jobs=(OpenJob(id=JOB, started=False),), claims=(CLAIM,))) == ()


def test_a_started_job_without_a_run_is_told_and_so_is_its_hold() -> None:
    assert set(found(world(jobs=(OpenJob(id=JOB),), holds=(HOLD,), claims=(CLAIM,)))) == {f"job:{JOB}", "hold:h"}


def test_what_a_job_left_is_left_alone_while_a_hold_of_it_stands() -> None:
    """Whoever settles the job needs it: its hold is told, which says how."""
    rows: dict[str, Any] = {
        "claims": (CLAIM,), "overlays": (OVERLAY,), "instances": (replace(REGISTERED, node="m"),),
        "snapshots": (Snapshot(id="s", job=JOB, node="m", kept=False),),
    }  # fmt: skip

    found = differences(world(nodes=(NodeView(node="n", processes=(STRAY,), files=(FILE,)),), holds=(HOLD,), **rows))

    assert [each.key for each in found] == ["hold:h"]


def test_a_run_that_is_not_named_after_a_job_works_for_none() -> None:
    runs = [OpenRun(id=each, type="Reconcile") for each in ("reconcile", "reconcile-2026-01-01T00:00:00Z")]
    assert [job_of(run) for run in (*runs, RUN, OpenRun(id=f"{JOB}/x", type="Any"))] == [None, None, None, JOB]


def test_an_intent_beside_a_hold_is_left_to_a_person() -> None:
    each = found(world(intents=(INTENT,), holds=(HOLD,)))["intent:k"]

    assert each.repair is None
    assert f"uplift resolve {JOB}" in each.remedy


@pytest.mark.parametrize("type_", ["TenantJob", "GroupChange"])
def test_a_run_without_an_open_job_is_told_with_how_to_cancel_it(type_: str) -> None:
    each = one(world(OpenRun(id=JOB, type=type_)))

    assert (each.kind, each.repair) == (Kind.RUN, None)
    assert f"workflow cancel --workflow-id {JOB}" in each.remedy


def test_a_run_of_another_kind_is_none_of_ours() -> None:
    assert differences(world(OpenRun(id="x", type="Something"), RUN)) == ()


def test_a_deployed_version_that_nobody_needs_and_no_run_looks_after_is_told_so() -> None:
    assert verb(world(instances=(REGISTERED,))) is Verb.TELL_UNNEEDED


@pytest.mark.parametrize(
    "more",
    [
        {"bound": (Bound(module=MODULE),)},
        {"claims": (CLAIM,), "jobs": (OpenJob(id=JOB, started=False),)},
    ],
)
def test_a_version_that_is_needed_stays(more: dict[str, Any]) -> None:
    assert differences(world(instances=(REGISTERED,), **more)) == ()


def test_a_retirement_without_a_run_is_finished_by_one() -> None:
    assert verb(world(retiring=(MODULE,), instances=(REGISTERED,))) is Verb.FINISH_RETIREMENT
    assert differences(world(RUN, retiring=(MODULE,), instances=(REGISTERED,))) == ()


def test_a_process_that_is_not_registered_is_stopped_where_nobody_needs_it() -> None:
    each = one(world(nodes=(NodeView(node="n", processes=(STRAY,)),)))

    assert each.repair == Repair(verb=Verb.STOP_PROCESS, node="n", module=MODULE, subject=INSTANCE, generation="g")


def test_a_process_whose_version_has_a_run_is_left_to_that_run() -> None:
    assert verb(world(RUN, nodes=(NodeView(node="n", processes=(STRAY,)),))) is Verb.TELL_UNNEEDED


@pytest.mark.parametrize(
    "more",
    [{"retiring": (MODULE,)}, {"claims": (CLAIM,), "jobs": (OpenJob(id=JOB, started=False),)}, {"instances": (REGISTERED,)}],
)
def test_a_process_that_somebody_is_about_is_no_difference(more: dict[str, Any]) -> None:
    assert differences(world(RUN, nodes=(NodeView(node="n", processes=(STRAY,)),), **more)) == ()


def test_a_process_of_a_version_that_tenants_have_is_never_stopped() -> None:
    """Its module may have said DISCONNECT and be finishing its work."""
    assert verb(world(bound=(Bound(module=MODULE),), nodes=(NodeView(node="n", processes=(STRAY,)),))) is None


@pytest.mark.parametrize("processes", [(), (replace(STRAY, generation="other"),)])
def test_a_registration_without_its_process_is_told(processes: tuple[Process, ...]) -> None:
    bound = (Bound(module=MODULE),)

    each = one(world(instances=(REGISTERED,), bound=bound, nodes=(NodeView(node="n", processes=processes),)))

    assert (each.key, each.repair) == (f"instance:{INSTANCE}", None)


@pytest.mark.parametrize("view", [NodeView(node="n", silent=True), NodeView(node="n", trouble="unreadable")])
def test_a_node_that_was_not_looked_at_is_told_and_nothing_is_concluded_from_it(view: NodeView) -> None:
    assert set(found(world(instances=(REGISTERED,), bound=(Bound(module=MODULE),), nodes=(view,)))) == {"node:n"}


def test_a_silent_node_without_instances_is_none_of_ours() -> None:
    assert differences(world(nodes=(NodeView(node="n", silent=True),))) == ()


def test_a_version_that_tenants_have_and_nothing_serves_is_told() -> None:
    each = one(world(bound=(Bound(module=MODULE, tenants=5, some=("a", "b", "c", "d"), served=False),)))

    assert (each.kind, each.repair) == (Kind.UNSERVED, None)
    assert each.message.startswith("5 tenants (a, b, c, …) have mod-a-1.0.0 and no instance")


def test_data_at_another_version_means_consider_an_upgrade() -> None:
    """Requirement B8."""
    each = one(world(stale=(Stale(module="mod-a-2.0.0", data=MODULE, some=("t",)),)))

    assert (each.kind, each.tenant, each.repair) == (Kind.DATA, "t", None)
    assert each.message == "tenant t has mod-a-2.0.0 and data of mod-a-1.0.0"


def test_a_copy_of_a_job_that_left_a_hold_is_kept() -> None:
    snapshots = (Snapshot(id="s", job=JOB, node="n", kept=False),)

    assert set(found(world(snapshots=snapshots, holds=(HOLD,)))) == {"hold:h"}


def test_a_record_without_its_file_is_told() -> None:
    assert verb(world(nodes=(NodeView(node="n", lost=(Snapshot(id="s", job=JOB, node="n"),)),))) is None


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        (FILE, Verb.REMOVE_FILE),
        (replace(FILE, over=False), None),
        (replace(FILE, part=True, over=False, age=4_000), Verb.REMOVE_FILE),
        (replace(FILE, part=True, over=False, age=3_000), None),
    ],
)
def test_a_file_that_no_record_names_is_removed_when_nobody_can_want_it(file: CopyFile, wanted: Verb | None) -> None:
    """A copy may be of a record that the database has lost: it is kept as long as if it were recorded."""
    assert verb(world(nodes=(NodeView(node="n", files=(file,)),))) is wanted


def test_a_file_that_is_not_older_than_every_open_job_stays() -> None:
    jobs = (OpenJob(id="other", started=False),)

    assert verb(world(jobs=jobs, oldest_job=1e6, nodes=(NodeView(node="n", files=(FILE,)),))) is None


@pytest.mark.parametrize(
    ("name", "read"),
    [
        (f"{JOB}-mod-a.dump", (JOB, False)),
        (f"{JOB}-mod-a.dump.part", (JOB, True)),
        ("mine.dump", None),
        (f"{JOB}.dump", None),
        (f"{JOB}-mod-a.dump.old", None),
        (f"x{JOB}-mod-a.dump", None),
    ],
)
def test_only_files_that_are_named_like_our_copies_are_ours(name: str, read: Any) -> None:
    assert read_copy_name(name) == read


def test_a_difference_is_believed_at_the_second_look_only() -> None:
    a, b = differences(world(claims=(CLAIM, replace(CLAIM, job="other"))))

    assert confirmed((a,), (a, b)) == (a,)


def test_a_process_that_was_started_anew_between_the_looks_is_not_stopped() -> None:
    looks = [differences(world(nodes=(NodeView(node="n", processes=(replace(STRAY, generation=each),)),))) for each in ("g", "h")]

    assert confirmed(*looks) == ()


def test_a_report_is_bounded_and_repairs_come_before_what_is_only_told() -> None:
    claims = tuple(Claim(module="z-1.0.0", job=f"j{number}") for number in range(3))
    stale = tuple(Stale(module=f"a-{number}.0.0", data="a-0.0.1", some=("t",)) for number in range(MOST))

    shown = first(differences(world(claims=claims, stale=stale)))

    assert (len(shown.differences), shown.more) == (MOST, 3)
    assert sum(each.repair is not None for each in shown.differences) == 3


def test_runs_that_are_missing_or_too_many_are_asked_for_one_by_one() -> None:
    what = world(
        OpenRun(id=GONE, type="TenantJob"),
        jobs=(OpenJob(id=JOB),),
        retiring=(MODULE,),
        instances=(replace(REGISTERED, module="b"),),
    )

    assert doubtful(differences(what)) == tuple(sorted((JOB, GONE, f"module/{MODULE}", "module/b")))


def test_what_was_found_on_a_node_that_is_silent_now_stands() -> None:
    before = Report(started=NOW, ended=NOW, differences=differences(world(nodes=(NodeView(node="n", processes=(STRAY,)),))))

    now = with_unseen(Report(started=NOW, ended=NOW, silent=("n",)), before)

    assert [each.key for each in now.differences] == [f"process:n:{INSTANCE}"]
    assert with_unseen(Report(started=NOW, ended=NOW, looked=("n",)), before).differences == ()


def test_a_difference_is_a_problem_of_its_own_key() -> None:
    problem = as_problem(one(world(claims=(CLAIM,))))

    assert (problem.key, problem.kind, problem.job) == (f"difference:claim:{MODULE}:{JOB}", "difference", JOB)


def test_the_page_names_every_kind_and_every_repair() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "reconcile.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z]+)` \|[^|]*\| ([^|]*) \|", page, re.MULTILINE)

    assert {kind for kind, _ in rows} == set(Kind)
    assert {verb for _, told in rows for verb in re.findall(r"`([a-z ]+)`", told)} == set(Verb)
