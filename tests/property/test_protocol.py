"""Signals in any order: a hold is left by RESUME and by nothing else (requirements A4, A6, A8)."""

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from upgrade_core.errors import IllegalSignal
from upgrade_core.protocol import Availability, Effect, Hold, Reply, Signal, on_availability, on_hold, reply_to

SIGNALS = st.lists(st.sampled_from(Signal), max_size=40)


@given(SIGNALS)
def test_a_hold_is_left_by_resume_only(signals: list[Signal]) -> None:
    hold, availability = Hold.OPEN, Availability.UP
    for signal in signals:
        before = hold
        with contextlib.suppress(IllegalSignal):
            hold, _ = on_hold(hold, signal)
        with contextlib.suppress(IllegalSignal):
            availability, _ = on_availability(availability, signal)
        if before is not Hold.OPEN and hold is Hold.OPEN:
            assert signal is Signal.RESUME
        if before is Hold.OPEN and hold is not Hold.OPEN:
            assert signal is Signal.UPDATE
        if hold is not Hold.OPEN:
            assert reply_to(hold, availability) is Reply.DELAY


@given(SIGNALS)
def test_the_holder_begins_only_after_everything_old_has_drained(signals: list[Signal]) -> None:
    hold, drained = Hold.OPEN, False
    for signal in signals:
        effects: tuple[Effect, ...] = ()
        with contextlib.suppress(IllegalSignal):
            hold, effects = on_hold(hold, signal)
            drained = signal is Signal.DRAINED or (drained and signal is not Signal.UPDATE)
        assert (Effect.GO_ON in effects) is (hold is Hold.HELD and signal is Signal.DRAINED and bool(effects))
        assert drained or hold is not Hold.HELD


@given(SIGNALS)
def test_what_was_parked_is_released_or_answered_before_a_request_passes_again(signals: list[Signal]) -> None:
    hold, availability = Hold.OPEN, Availability.UP
    parked = False
    for signal in signals:
        effects: tuple[Effect, ...] = ()
        with contextlib.suppress(IllegalSignal):
            hold, effects = on_hold(hold, signal)
        with contextlib.suppress(IllegalSignal):
            availability, effects = on_availability(availability, signal)
        parked = parked and not {Effect.RELEASE, Effect.ANSWER_MISSING} & set(effects)
        reply = reply_to(hold, availability)
        assert not (reply is Reply.PASS and parked)
        parked = parked or reply is Reply.DELAY
