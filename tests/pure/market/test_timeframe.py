"""The grid of open times."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livermore.errors import UsageError
from livermore.market.timeframe import DAY, TIMEFRAMES, Timeframe

TIMES = st.integers(0, 4_102_444_800_000)
FRAMES = st.sampled_from(TIMEFRAMES)


def test_lengths_are_what_the_names_say() -> None:
    assert {t.value: t.ms // 60_000 for t in Timeframe} == {
        "5m": 5,
        "15m": 15,
        "1h": 60,
        "4h": 240,
        "1d": 1440,
    }
    assert [str(t) for t in TIMEFRAMES] == ["5m", "15m", "1h", "4h", "1d"]


def test_timeframes_are_listed_shortest_first() -> None:
    assert sorted(TIMEFRAMES, key=lambda t: t.ms) == list(TIMEFRAMES)


def test_each_timeframe_is_whole_in_the_next_so_that_candles_can_be_folded() -> None:
    for shorter, longer in itertools.pairwise(TIMEFRAMES):
        assert longer.ms % shorter.ms == 0
    assert DAY % TIMEFRAMES[-1].ms == 0


@given(FRAMES, TIMES)
def test_a_time_lies_in_the_slot_of_its_floor(timeframe: Timeframe, time: int) -> None:
    slot = timeframe.floor(time)
    assert slot % timeframe.ms == 0
    assert slot <= time < slot + timeframe.ms


@given(FRAMES, TIMES)
def test_ceil_is_the_first_open_time_not_before(timeframe: Timeframe, time: int) -> None:
    first = timeframe.ceil(time)
    assert first % timeframe.ms == 0
    assert time <= first < time + timeframe.ms


@given(FRAMES, TIMES)
def test_the_last_closed_slot_has_ended_and_the_next_has_not(
    timeframe: Timeframe, now: int
) -> None:
    closed = timeframe.last_closed(now)
    assert closed + timeframe.ms <= now < closed + 2 * timeframe.ms


def test_a_slot_is_closed_the_moment_the_next_begins() -> None:
    assert Timeframe.M5.last_closed(600_000) == 300_000
    assert Timeframe.M5.last_closed(599_999) == 0


@pytest.mark.parametrize("timeframe", TIMEFRAMES)
def test_a_timeframe_is_found_by_its_name(timeframe: Timeframe) -> None:
    assert Timeframe.parse(timeframe.value) is timeframe


@pytest.mark.parametrize("text", ["1m", "5M", "", "60m", "1d "])
def test_an_unknown_timeframe_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(UsageError, match=r"use one of 5m, 15m, 1h, 4h, 1d"):
        Timeframe.parse(text)
