"""The protocol's tables, walked pair by pair (requirements A2, A4, A6, A8)."""

import itertools
from pathlib import Path

import pytest

from upgrade_core.errors import IllegalSignal
from upgrade_core.protocol import (
    AVAILABILITIES,
    HOLDS,
    REPLIES,
    ROUTINGS,
    SERVICES,
    Availability,
    Effect,
    Hold,
    Reply,
    Routing,
    Service,
    Signal,
    on_availability,
    on_hold,
    on_routing,
    on_service,
    reply_to,
)
from upgrade_core.protocol_docs import BEGIN, END, render_protocol_tables, with_tables

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "protocol.md"


@pytest.mark.parametrize(("state", "signal"), list(itertools.product(Hold, Signal)))
def test_a_signal_to_a_hold_has_a_row_or_is_illegal_and_changes_nothing(state: Hold, signal: Signal) -> None:
    before = dict(HOLDS)
    if (state, signal) in HOLDS:
        assert on_hold(state, signal) == HOLDS[state, signal]
    else:
        with pytest.raises(IllegalSignal, match=f"^{signal} is not allowed while the link is {state}$"):
            on_hold(state, signal)
    assert before == HOLDS


@pytest.mark.parametrize(("state", "signal"), list(itertools.product(Availability, Signal)))
def test_a_signal_to_an_availability_has_a_row_or_is_illegal_and_changes_nothing(state: Availability, signal: Signal) -> None:
    before = dict(AVAILABILITIES)
    if (state, signal) in AVAILABILITIES:
        assert on_availability(state, signal) == AVAILABILITIES[state, signal]
    else:
        with pytest.raises(IllegalSignal, match=f"^{signal} is not allowed while the product is {state}$"):
            on_availability(state, signal)
    assert before == AVAILABILITIES


@pytest.mark.parametrize(("state", "signal"), list(itertools.product(Service, Signal)))
def test_a_signal_to_an_instance_has_a_row_or_is_illegal(state: Service, signal: Signal) -> None:
    if (state, signal) in SERVICES:
        assert on_service(state, signal) == SERVICES[state, signal]
    else:
        with pytest.raises(IllegalSignal, match=f"^{signal} is not allowed while the instance is {state}$"):
            on_service(state, signal)


@pytest.mark.parametrize(("state", "signal"), list(itertools.product(Routing, Signal)))
def test_only_a_newer_version_concerns_routing_and_only_where_the_tenant_follows(state: Routing, signal: Signal) -> None:
    if signal is Signal.NEWER:
        assert on_routing(state, signal) == (state, (Effect.UPGRADE,) if state is Routing.NEWEST else ())
    else:
        with pytest.raises(IllegalSignal, match=f"^{signal} is not allowed for routing {state}$"):
            on_routing(state, signal)


def test_every_signal_is_used_and_those_of_holds_move_nothing_else() -> None:
    holds, others = {signal for _, signal in HOLDS}, {signal for _, signal in (*AVAILABILITIES, *SERVICES, *ROUTINGS)}
    assert holds | others == set(Signal)
    assert holds & others == set()


def test_every_effect_is_used() -> None:
    rows = (*HOLDS.values(), *AVAILABILITIES.values(), *SERVICES.values(), *ROUTINGS.values())
    assert {effect for _, effects in rows for effect in effects} == set(Effect)


@pytest.mark.parametrize("table", [HOLDS, AVAILABILITIES, SERVICES])
def test_every_state_can_be_reached_and_left(table: dict[tuple[Hold, Signal], tuple[Hold, tuple[Effect, ...]]]) -> None:
    states = {type(state) for state, _ in table}.pop()
    assert {after for after, _ in table.values()} == set(states)
    assert {state for (state, _), (after, _) in table.items() if after is not state} == set(states)


def test_replies_are_complete() -> None:
    assert set(REPLIES) == set(itertools.product(Hold, Availability))


@pytest.mark.parametrize(("hold", "availability"), list(itertools.product(Hold, Availability)))
def test_a_request_passes_only_an_open_link_that_is_up(hold: Hold, availability: Availability) -> None:
    passes = reply_to(hold, availability) is Reply.PASS
    assert passes is (hold is Hold.OPEN and availability is Availability.UP)


@pytest.mark.parametrize("availability", list(Availability))
def test_a_hold_that_is_overdue_promises_nothing(availability: Availability) -> None:
    assert {reply_to(hold, availability, overdue=True) for hold in (Hold.DRAINING, Hold.HELD)} == {Reply.MISSING}
    assert reply_to(Hold.OPEN, availability, overdue=True) is reply_to(Hold.OPEN, availability)


def test_the_page_shows_exactly_the_tables() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_tables(page), "run `make docs`"
    assert page.partition(BEGIN)[2].partition(END)[0].strip() == render_protocol_tables()


@pytest.mark.parametrize("page", ["", BEGIN, f"{END}\n{BEGIN}"])
def test_a_page_without_its_markers_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="the page needs a line"):
        with_tables(page)
