"""The table of the kill matrix promises what was shown, and no more."""

from tests.survival.matrix import QUICK, Cell, matrix
from tests.survival.moments import MOMENTS
from tests.survival.report import PROMISE, Results


def told(cells: list[Cell], *, failed: Cell | None = None) -> Results:
    results = Results()
    for cell in cells:
        properties = {"component": cell.component, "moment": cell.moment.name, "comeback": cell.comeback}
        results.add({**properties, "seconds": 0.5, "outcome": cell.outcome}, passed=cell is not failed)
    return results


def test_the_promise_stands_first_when_every_case_was_run_and_passed() -> None:
    assert told(list(matrix())).page().splitlines()[0] == PROMISE


def test_one_case_that_failed_takes_the_promise_back() -> None:
    cells = list(matrix())
    assert told(cells, failed=cells[-1]).first_line() == f"not yet: 1 of {len(cells)} cases failed"


def test_one_case_that_was_not_run_takes_the_promise_back() -> None:
    cells = list(matrix())
    assert told(cells[1:]).first_line() == f"{len(cells) - 1} of {len(cells)} cases were run, all of them passed"


def test_each_case_is_a_cell_of_the_table() -> None:
    page = told(list(matrix())).page()
    # The second table shows its first row a second time.
    assert page.count("✓") == sum(1 for _ in matrix()) + sum(1 for cell in matrix() if cell.moment.name == "init during") // 3


def test_names_of_cases_are_unique() -> None:
    names = [cell.name for cell in matrix()]
    assert len(set(names)) == len(names)


def test_every_quick_case_is_one_of_the_matrix() -> None:
    assert {(cell.component, cell.moment.name) for cell in matrix() if cell.quick} == set(QUICK)


def test_every_step_that_is_not_a_look_has_a_moment() -> None:
    """Steps 2 to 9 of the pipeline, and the undo of each that has one."""
    steps = {moment.step for moment in MOMENTS}
    assert steps >= {"acquire", "update", "snapshot", "init", "verify", "switch", "watch", "release", "retire"}
    assert steps >= {"undo acquire", "undo update", "undo init from the copy", "undo init in reverse"}
