"""Where the recursion over what is stored begins."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from livermore.market.candle import Candle, Series
from livermore.market.timeframe import Timeframe
from livermore.signals.anchor import Start, start_of
from livermore.signals.course import states_along

BTC = Series("coinbase", "BTC-USD", Timeframe.H1)
HOUR = Timeframe.H1.ms
T0 = 1_767_322_800_000


def candle(slot: int) -> Candle:
    close = 100.0 + slot % 7
    return Candle(BTC, T0 + slot * HOUR, close, close + 1, close - 1, close, 1.0)


CANDLES = [candle(slot) for slot in range(40)]
ALONG = states_along(Start(None, CANDLES))
EDGE = T0 + 9 * HOUR
AFTER, BEFORE = ALONG.to_json(9), ALONG.to_json(8)


def begin(candles: Sequence[Candle], time: int | None = EDGE, after: bytes = AFTER) -> Start:
    return start_of(candles, time, after, BEFORE)


def test_without_an_edge_the_oldest_candle_is_the_anchor():
    assert begin(CANDLES, None) == Start(None, CANDLES)
    assert begin([]) == Start(None, [])


def test_where_the_candle_at_the_edge_is_gone_the_state_after_it_goes_on():
    assert begin(CANDLES[10:]) == Start(ALONG.state(9), CANDLES[10:])


@pytest.mark.parametrize("oldest", [0, 5, 9])
def test_where_the_candle_at_the_edge_is_there_it_enters_once(oldest: int):
    assert begin(CANDLES[oldest:]) == Start(ALONG.state(8), CANDLES[9:])


def test_an_edge_with_a_hole_behind_it_is_of_no_use_and_says_so():
    begun = begin(CANDLES[11:])
    assert (begun.state, begun.candles) == (None, CANDLES[11:])
    assert "is lost" in (begun.lost or "")


@pytest.mark.parametrize("after", [b"", b"{}", BEFORE, ALONG.to_json(10)])
def test_states_that_are_damaged_or_of_another_candle_are_of_no_use(after: bytes):
    begun = begin(CANDLES[10:], after=after)
    assert (begun.state, begun.candles) == (None, CANDLES[10:])
    assert begun.lost


def test_states_around_another_candle_than_the_one_at_the_edge_are_of_no_use():
    begun = start_of(CANDLES[10:], EDGE, ALONG.to_json(10), ALONG.to_json(9))
    assert begun.state is None
    assert begun.lost
