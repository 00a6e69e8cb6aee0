"""What a run knows proves that a database is not the one it worked on, whatever else was written there (requirement D3)."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upgrade_core.known import (
    MAX_WIRE,
    Fact,
    FactKind,
    OnRecord,
    differences,
    from_wire,
    newest,
    once_opened,
    to_wire,
    while_opening,
    without,
)

HOLD, KEY, COPY = "j:a:1-a", "j:a:init", "j-a"
OLD, NEW = "a-1.0.0", "a-2.0.0"
Effect = Callable[[OnRecord], OnRecord]

PLAN = Fact(kind=FactKind.PLAN, key="digest", about="t")
CLAIM = Fact(kind=FactKind.CLAIM, key=NEW)
HELD = Fact(kind=FactKind.HELD, key=HOLD, about="a")
COPIED = Fact(kind=FactKind.COPY, key=COPY, about="a")
ASKED = Fact(kind=FactKind.INTENT, key=KEY, about="a")
ENDED = Fact(kind=FactKind.INIT_ENDED, key=KEY, about="a")
OPENED = Fact(kind=FactKind.OPENED, key=HOLD, about="a")
SWITCHED = Fact(kind=FactKind.BOUND, key="a", about=NEW)

# A run as its database sees it: each effect is one transaction. Beside it, what the run knows once it was told of it.
FORWARD: tuple[tuple[Effect, tuple[Fact, ...]], ...] = (
    (lambda r: replace(r, job=True, phase="planned", plan="digest"), (PLAN,)),
    (lambda r: replace(r, claims=r.claims | {NEW}), (PLAN, CLAIM)),
    (lambda r: replace(r, holds=r.holds | {HOLD}), (PLAN, CLAIM, HELD)),
    (lambda r: replace(r, copies=r.copies | {COPY}), (PLAN, CLAIM, HELD, COPIED)),
    (lambda r: replace(r, intents={**r.intents, KEY: "following"}), (PLAN, CLAIM, HELD, COPIED, ASKED)),
    (lambda r: replace(r, intents={**r.intents, KEY: "ended"}), (PLAN, CLAIM, HELD, COPIED, ASKED, ENDED)),
)
SWITCH: tuple[tuple[Effect, tuple[Fact, ...]], ...] = (
    (
        lambda r: replace(r, holds=r.holds - {HOLD}, opened=r.opened | {HOLD}, bindings={**r.bindings, "a": NEW}),
        (PLAN, OPENED, SWITCHED),
    ),
)
UNDO: tuple[tuple[Effect, tuple[Fact, ...]], ...] = (
    (
        lambda r: replace(r, holds=r.holds - {HOLD}, opened=r.opened | {HOLD}),
        (PLAN, CLAIM, OPENED, COPIED, ASKED, ENDED),
    ),
)
RUNS = (FORWARD + SWITCH, FORWARD + UNDO)


def states(run: tuple[tuple[Effect, tuple[Fact, ...]], ...]) -> list[OnRecord]:
    """The database before the job, and after each effect."""
    found = [OnRecord(bindings={"a": OLD, "b": "b-1.0.0"})]
    for effect, _ in run:
        found.append(effect(found[-1]))
    return found


@st.composite
def moments(draw: st.DrawFn) -> tuple[tuple[tuple[Effect, tuple[Fact, ...]], ...], int, int]:
    run = draw(st.sampled_from(RUNS))
    known = draw(st.integers(1, len(run)))
    return run, known, draw(st.integers(0, len(run)))


@st.composite
def written_by_others(draw: st.DrawFn) -> Effect:
    """What other runs and people write: never rows of this run."""
    names = st.sampled_from(["x", "y", "z"])
    more = [frozenset(f"other-{name}" for name in draw(st.sets(names))) for _ in range(4)]
    bound = draw(st.dictionaries(st.sampled_from(["b", "c"]), st.just("b-2.0.0")))

    def write(record: OnRecord) -> OnRecord:
        return replace(
            record,
            claims=record.claims | more[0],
            holds=record.holds | more[1],
            opened=record.opened | more[2],
            copies=record.copies | more[3],
            bindings=record.bindings | bound,
        )

    return write


@given(moments(), written_by_others())
def test_a_copy_from_before_the_last_effect_is_always_noticed(
    moment: tuple[tuple[tuple[Effect, tuple[Fact, ...]], ...], int, int], others: Effect
) -> None:
    run, known, copied = moment
    if copied < known:
        assert differences(run[known - 1][1], others(states(run)[copied]))


@given(moments(), written_by_others())
def test_the_database_as_the_run_left_it_never_differs(
    moment: tuple[tuple[tuple[Effect, tuple[Fact, ...]], ...], int, int], others: Effect
) -> None:
    run, known, _ = moment
    assert differences(run[known - 1][1], others(states(run)[known])) == ()


@pytest.mark.parametrize("run", RUNS, ids=["switch", "undo"])
def test_a_step_that_opens_holds_may_be_tried_again(run: tuple[tuple[Effect, tuple[Fact, ...]], ...]) -> None:
    """It was done and its answer was lost."""
    facts = while_opening(run[-2][1])
    assert differences(facts, states(run)[-2]) == ()
    assert differences(facts, states(run)[-1]) == ()


@pytest.mark.parametrize("position", range(1, len(FORWARD)))
def test_a_forward_step_may_be_tried_again(position: int) -> None:
    """It knows what it knew before it was tried, and finds what it did."""
    assert differences(FORWARD[position - 1][1], states(FORWARD)[position + 1]) == ()


def test_giving_back_may_be_tried_again() -> None:
    facts = without(FORWARD[-1][1], FactKind.CLAIM, key=NEW)
    record = states(FORWARD)[-1]
    assert differences(facts, replace(record, claims=frozenset())) == differences(facts, record) == ()


def test_what_users_meet_is_said_first() -> None:
    found = differences(FORWARD[-1][1], OnRecord(bindings={"a": OLD}))
    assert found[0] == "requests to a are not held, they go to a-1.0.0, while the data may be at another version"
    assert found[1] == "the job's record is missing"


def test_a_hold_that_somebody_opened_differs() -> None:
    record = states(FORWARD)[-1]
    found = differences(FORWARD[-1][1], replace(record, holds=frozenset(), opened=frozenset({HOLD})))
    assert found[1] == f"the hold {HOLD} was opened by somebody else"


def test_nothing_known_never_differs() -> None:
    assert differences((), OnRecord()) == ()


def test_a_record_that_people_removed_is_no_proof_for_a_job_that_ends() -> None:
    last = states(RUNS[0])[-1]
    facts = (PLAN, OPENED)
    assert differences(facts, replace(last, job=False), ending=True) == ()
    assert differences(facts, OnRecord(), ending=True)[0] == "the job's record is missing"


def test_opening_turns_holds_into_opened_ones() -> None:
    assert once_opened(while_opening((PLAN, HELD))) == once_opened((PLAN, HELD)) == (PLAN, OPENED)


TEXTS = st.text(max_size=40)
FACTS = st.lists(st.builds(Fact, kind=st.sampled_from(FactKind), key=TEXTS, about=TEXTS), max_size=300)


@given(FACTS)
def test_facts_fit_a_header_and_come_back(facts: list[Fact]) -> None:
    text = to_wire(facts)
    back = from_wire(text)
    assert text.isascii()
    assert len(text) <= MAX_WIRE
    assert back == tuple(facts) or (back[0] == facts[0] and back[1:] == tuple(facts[len(facts) - len(back) + 1 :]))


@given(FACTS)
def test_what_does_not_fit_a_header_needs_not_be_told(facts: list[Fact]) -> None:
    """The plan and the newest stay: a group of a whole platform knows hundreds of facts, and tells each step those only."""
    kept = newest(facts)
    assert to_wire(kept) == to_wire(facts)
    assert newest(kept) == kept


@given(st.text() | st.sampled_from(["[1]", '{"a": 1}', '[["held", 1, ""]]', '[["held", "a"]]']))
def test_a_header_without_facts_is_a_value_error(text: str) -> None:
    try:
        found = from_wire(text)
    except ValueError:
        return
    assert found == ()


def test_kinds_of_a_newer_worker_are_left_out() -> None:
    assert from_wire('[["newer", "a", "b"], ["held", "c", "d"]]') == (Fact(kind=FactKind.HELD, key="c", about="d"),)
