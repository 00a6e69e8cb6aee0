"""Each invariant sees what it is there for, and lets pass what is right."""

from typing import Any

from tests.survival.driver import invariants
from tests.survival.driver.world import Answer, Bound, Ended, World, Written

ONE, TWO = "mod-a-1.0.0", "mod-a-2.0.0"


def bound(number: int, at: float, module: str | None) -> Bound:
    return Bound(number=number, at=at, tenant="t1", product="mod-a", module=module)


def answer(module: str, sent: float, got: float) -> Answer:
    return Answer(tenant="t1", product="mod-a", module=module, sent=sent, got=got)


def job(
    outcome: str,
    *,
    at: float,
    action: str = "enable",
    module: str = TWO,
    stage: str = "done",
    errors: str = "",
    purge: bool = False,
) -> Ended:
    line = {"id": module, "action": action, "stage": stage}
    wrong = [{"message": errors}] if errors else []
    record: dict[str, Any] = {"outcome": outcome, "modules": [line], "errors": wrong, "asked": at - 1, "phase": "ended"}
    return Ended(number=int(at), at=at, id=f"job-{at:g}", tenant="t1", purge=purge, reinstall=False, record=record)


def init(event: str, pid: int, at: float = 1.0, **more: Any) -> dict[str, Any]:
    return {"event": event, "id": TWO, "pid": pid, "tenant": "t1", "at": at, **more}


SWITCHED = [bound(1, 10, ONE), bound(2, 20, TWO)]


def test_a_run_in_which_nothing_happened_shows_nothing() -> None:
    assert len(invariants.nothing_done(World())) == 5


def test_an_answer_of_the_old_version_that_was_asked_for_after_the_switch_is_wrong() -> None:
    assert len(invariants.wrong_versions([answer(ONE, 25, 26)], SWITCHED)) == 1


def test_an_answer_of_the_new_version_before_the_switch_is_wrong() -> None:
    assert len(invariants.wrong_versions([answer(TWO, 11, 12)], SWITCHED)) == 1


def test_an_answer_of_a_version_that_was_never_enabled_is_wrong() -> None:
    assert len(invariants.wrong_versions([answer("mod-a-3.0.0", 15, 25)], SWITCHED)) == 1


def test_a_request_that_waits_over_the_switch_may_be_answered_by_either() -> None:
    assert invariants.wrong_versions([answer(ONE, 15, 25), answer(TWO, 15, 25)], SWITCHED) == []


def test_an_overlap_that_postgres_saw_is_told() -> None:
    assert len(invariants.two_inits_at_once([init("overlap", 5, other="driver 4")])) == 1


def test_two_begins_of_one_process_without_an_end_between_are_told() -> None:
    assert len(invariants.two_inits_at_once([init("begin", 5), init("begin", 5)])) == 1


def test_a_begin_that_ended_with_its_process_is_no_overlap() -> None:
    assert invariants.two_inits_at_once([init("begin", 5), init("begin", 6), init("end", 6), init("begin", 6)]) == []


def test_two_versions_of_a_product_are_told() -> None:
    assert len(invariants.two_enabled([ONE, TWO], [ONE, TWO], tenant="t1")) == 1


def test_an_api_that_says_something_else_than_the_table_is_told() -> None:
    assert len(invariants.two_enabled([ONE], [TWO], tenant="t1")) == 1


def test_two_jobs_at_work_for_a_tenant_are_told() -> None:
    assert len(invariants.two_active([("t1", "a"), ("t2", "b"), ("t1", "c")])) == 1


def test_a_job_that_says_done_without_its_switch_is_untrue() -> None:
    assert len(invariants.untrue_records(World(ended=[job("done", at=30)]))) == 1


def test_a_job_that_says_rolled_back_although_it_switched_is_untrue() -> None:
    world = World(ended=[job("rolled_back", at=30, stage="invoke")], bindings=[bound(1, 20, TWO)])

    assert len(invariants.untrue_records(world)) == 1


def test_jobs_that_did_what_they_say_are_true() -> None:
    world = World(
        ended=[job("done", at=30), job("rolled_back", at=40, module=ONE, stage="invoke"), job("done", at=50, action="disable")],
        bindings=[bound(1, 20, TWO), bound(2, 45, None)],
    )

    assert invariants.untrue_records(world) == []


def test_a_job_that_is_aborted_while_it_waits_does_not_answer_for_the_one_that_is_at_work() -> None:
    world = World(ended=[job("aborted", at=25, module=ONE, stage=""), job("done", at=30)], bindings=[bound(1, 20, TWO)])

    assert invariants.untrue_records(world) == []


def test_a_job_that_is_aborted_after_its_switch_says_so() -> None:
    said, silent = (
        World(ended=[job("aborted", at=30, stage=stage)], bindings=[bound(1, 20, TWO)]) for stage in ("done", "invoke")
    )

    assert invariants.untrue_records(said) == []
    assert len(invariants.untrue_records(silent)) == 1


def test_a_job_that_was_told_to_fail_and_says_done_is_wrong() -> None:
    world = World(ended=[job("done", at=30)], told={"job-30": "joberror"})

    assert len(invariants.wrong_outcomes(world, around=5)) == 1


def test_a_job_that_nothing_disturbed_and_that_is_rolled_back_is_wrong() -> None:
    world = World(ended=[job("rolled_back", at=30, errors="lost my way")], told={"job-30": "ok"})

    assert len(invariants.wrong_outcomes(world, around=5)) == 1


def test_a_job_during_which_something_was_killed_may_be_rolled_back() -> None:
    world = World(ended=[job("rolled_back", at=30, errors="cut")], told={"job-30": "ok"}, kills=[(29.5, "instance")])

    assert invariants.wrong_outcomes(world, around=5) == []


def test_a_job_that_failed_without_a_cause_is_wrong() -> None:
    world = World(ended=[job("rolled_back", at=30)], kills=[(29.5, "instance")])

    assert len(invariants.wrong_outcomes(world, around=5)) == 1


def test_an_acknowledged_write_that_is_not_there_is_lost() -> None:
    write = Written(tenant="t1", product="mod-a", row="r1", sent=1, got=2)

    assert len(invariants.lost_writes([write], {("t1", "mod-a"): {"r2"}}, [])) == 1


def test_what_a_purge_took_is_not_lost_and_what_came_after_it_is() -> None:
    purge = job("done", at=30, action="disable", purge=True)
    before, after = (Written(tenant="t1", product="mod-a", row=f"r{at:g}", sent=at, got=at) for at in (20.0, 40.0))

    assert len(invariants.lost_writes([before, after], {("t1", "mod-a"): set()}, [purge])) == 1


def test_data_at_another_version_than_the_one_that_is_enabled_is_wrong() -> None:
    assert len(invariants.wrong_data([("t1", TWO, "1.0.0", [1]), ("t2", TWO, "2.0.0", [2, 1]), ("t3", TWO, "2.0.0", [2])])) == 2


def test_a_record_that_changes_after_its_job_ended_is_told() -> None:
    ended = job("done", at=30)

    assert len(invariants.changed_records([ended], {ended.id: ended.record | {"phase": "planned"}})) == 1
    assert invariants.changed_records([ended], {ended.id: dict(ended.record)}) == []
