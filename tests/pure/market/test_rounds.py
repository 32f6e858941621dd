"""Whose turn it is to be compared."""

from __future__ import annotations

import itertools
import math

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from livermore.market.candle import Series
from livermore.market.rounds import LOOK_AFTER, MARGIN, Rounds, period
from livermore.market.timeframe import HOUR, TIMEFRAMES, Timeframe

M5 = Timeframe.M5


def series(count: int, timeframe: Timeframe = M5) -> list[Series]:
    return [Series("coinbase", f"S{number}-USD", timeframe) for number in range(count)]


@attrs.define
class Run:
    """Turns as they are taken, each of which takes ``costs`` seconds."""

    rounds: Rounds
    costs: float = 0.0
    moment: float = 0.0
    turns: list[tuple[float, Series]] = attrs.Factory(list)

    def until(self, end: float) -> list[tuple[float, Series]]:
        before = len(self.turns)
        while self.moment < end:
            found = self.rounds.take(self.moment)
            if found is None:
                self.moment += min(max(self.rounds.due_in(self.moment), 1e-3), end - self.moment)
            else:
                self.turns.append((self.moment, found))
                self.moment += self.costs
        return self.turns[before:]


@pytest.mark.parametrize("timeframe", TIMEFRAMES)
def test_a_candle_that_had_not_settled_at_one_turn_is_compared_in_time_at_the_next(
    timeframe: Timeframe,
):
    bound = min(timeframe.ms, HOUR)
    just_missed = LOOK_AFTER - 1
    assert just_missed + period(timeframe) * 1000 <= bound - MARGIN


def test_each_series_has_one_turn_in_each_period_evenly_spread():
    run = Run(Rounds(series(100), 50.0), moment=50.0)
    turns = run.until(50.0 + 3 * period(M5))
    assert len(turns) == 300
    assert {one for _, one in turns[:100]} == set(series(100))
    apart = [b[0] - a[0] for a, b in itertools.pairwise(turns)]
    assert max(apart) <= 1.01 * period(M5) / 100
    assert min(apart) >= 0.99 * period(M5) / 100


def test_one_that_is_asked_for_sooner_goes_first_at_its_time_and_not_twice():
    those = series(10)
    run = Run(Rounds(those, 0.0))
    wanted = those[7]
    run.rounds.soon(wanted, 5.0)
    run.rounds.soon(wanted, 9.0)
    run.rounds.soon(Series("coinbase", "UNKNOWN-USD", M5), 1.0)
    assert run.until(10.0) == [(5.0, wanted)]


def test_a_turn_of_the_round_serves_what_was_asked_for_before_it_but_not_what_is_for_later():
    one = series(1)[0]
    due = period(M5) / 2
    run = Run(Rounds([one], 0.0))
    run.rounds.soon(one, due)
    assert len(run.until(due + 1)) == 1
    run = Run(Rounds([one], 0.0))
    run.rounds.soon(one, due + 20)
    assert [moment for moment, _ in run.until(due + 30)] == pytest.approx([due, due + 20])


def test_with_too_many_the_round_takes_longer_and_nobody_starves():
    those = series(200)
    costs = 2 * period(M5) / 200  # twice what there is time for
    run = Run(Rounds(those, 0.0), costs=costs)
    turns = run.until(6 * period(M5))
    counts = [sum(one == taken for _, taken in turns) for one in those]
    assert min(counts) >= 2
    assert max(counts) <= 3


def test_those_that_are_asked_for_take_no_more_than_every_other_turn():
    those = series(50)
    rounds = Rounds(those, 0.0)
    moment, turns = period(M5), []
    for _ in range(40):
        rounds.soon(those[0], 0.0)
        rounds.soon(those[1], 0.0)
        turns.append(rounds.take(moment))
    assert all(one is not None for one in turns)
    urgent = sum(one in those[:2] for one in turns)
    assert 18 <= urgent <= 22
    assert turns[0] == those[0], "and go first"


def test_after_a_standstill_the_turns_are_spread_again():
    those = series(40)
    run = Run(Rounds(those, 0.0))
    run.moment = 10 * period(M5)
    assert len(run.until(run.moment + 0.5)) >= 40
    later = run.until(run.moment + 2 * period(M5))
    apart = [b[0] - a[0] for a, b in itertools.pairwise(later)]
    assert max(apart) < 2 * period(M5) / 40


@given(
    st.lists(st.tuples(st.integers(0, 4), st.floats(0, 2000)), max_size=30),
    st.integers(1, 5),
)
def test_every_series_keeps_its_turns_whatever_is_asked_for(
    wishes: list[tuple[int, float]], count: int
):
    those = series(5)[:count]
    run = Run(Rounds(those, 0.0))
    for number, due in wishes:
        run.rounds.soon(series(5)[number], due)
    turns = run.until(2500.0)
    for one in those:
        moments = [0.0, *(moment for moment, taken in turns if taken == one)]
        assert all(b - a <= period(M5) + 0.1 for a, b in itertools.pairwise(moments))
        for number, due in wishes:
            if series(5)[number] == one:
                assert any(math.isclose(due, moment, abs_tol=0.01) or moment > due
                           for moment in moments)  # fmt: skip


def test_nobody_to_compare_is_nothing_to_wait_for():
    rounds = Rounds([], 0.0)
    assert rounds.take(1e9) is None
    assert rounds.due_in(0.0) == math.inf
