"""States of a feed: what may follow what, and which command makes sense when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livermore.errors import CommandRefused
from livermore.market.lifecycle import (
    ANNOUNCED,
    NEXT,
    RUNS,
    State,
    check_change,
    check_command,
)

LEADS = {"start": State.STARTING, "stop": State.STOPPING, "pause": State.PAUSED,
         "resume": State.STARTING}  # fmt: skip
BY_ITSELF = [State.STARTING, State.WARMING, State.ACTIVE, State.FAILED, State.IDLE]


def test_every_state_is_known_to_every_table_and_can_be_left():
    assert set(NEXT) == set(ANNOUNCED) == set(State)
    assert all(NEXT[state] and state not in NEXT[state] for state in State)


@given(st.lists(st.sampled_from([*LEADS, *BY_ITSELF]), max_size=60))
def test_whatever_happens_a_feed_is_idle_in_the_end_when_it_is_told_to_stop(story):
    """Commands and what a feed does by itself, in any order: only legal changes happen."""
    state = State.IDLE
    for step in story:
        if isinstance(step, State):
            if step in NEXT[state]:
                state = step
            else:
                with pytest.raises(CommandRefused):
                    check_change("coinbase", state, step)
            continue
        try:
            check_command(step, "coinbase", state)
        except CommandRefused as error:
            assert str(error).startswith(f"coinbase is {state.value}")
            continue
        if step == "stop" and state is State.FAILED:
            state = State.IDLE
            continue
        check_change("coinbase", state, LEADS[step])
        state = LEADS[step]
    if state is State.STOPPING:
        state = State.IDLE
    if state in RUNS | {State.FAILED}:
        check_command("stop", "coinbase", state)
        check_change("coinbase", state, State.IDLE if state is State.FAILED else State.STOPPING)
        check_change("coinbase", State.STOPPING, State.IDLE)
    else:
        assert state is State.IDLE


@pytest.mark.parametrize(
    ("command", "state", "said"),
    [
        ("start", State.ACTIVE, "coinbase is active already"),
        ("pause", State.PAUSED, "coinbase is paused already"),
        ("stop", State.IDLE, "coinbase is idle already"),
        ("resume", State.ACTIVE, "coinbase is active, so resume is not possible"),
        ("pause", State.IDLE, "coinbase is idle, so pause is not possible: start it first"),
        ("add-symbol", State.FAILED, "is not possible: mend that and start it"),
        ("force-backfill", State.PAUSED, "is not possible: resume it first"),
        ("stop", State.STOPPING, "is not possible: wait until it is idle"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused_with_the_next_step(command, state, said):
    with pytest.raises(CommandRefused) as caught:
        check_command(command, "coinbase", state)
    assert said in str(caught.value)


@pytest.mark.parametrize("state", State)
def test_settings_and_status_are_asked_for_in_any_state(state):
    check_command("status", "coinbase", state)
    check_command("reload-settings", "coinbase", state)
