"""What a chart shows: slots, gaps, scales and ticks."""

from __future__ import annotations

import itertools
import math
from datetime import UTC, datetime

import attrs
import numpy as np
import pytest

from livermore.market.candle import Candle, Evidence, Kind, Series, empty
from livermore.market.timeframe import Timeframe
from livermore.signals.anchor import Start
from livermore.signals.course import readings_along, states_along
from livermore.signals.outline import (
    Scale,
    Slot,
    behind,
    figure,
    moment,
    outline,
    price_ticks,
    time_ticks,
)
from livermore.signals.reading import build_readings
from livermore.signals.state import States

H1 = Timeframe.H1
BTC = Series("coinbase", "BTC-USD", H1)
START = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp() * 1000)


def wave(count: int, series: Series = BTC, start: int = START) -> list[Candle]:
    """Candles that go up and down."""
    closes = [100 + 10 * math.sin(k / 7) + 3 * math.sin(k / 2) for k in range(count + 1)]
    return [
        Candle(
            series, start + k * series.timeframe.ms, a, max(a, b) + 0.5, min(a, b) - 0.5, b,
            2.0 + k % 5, Kind.TRADED, Evidence.REST,
        )
        for k, (a, b) in enumerate(itertools.pairwise(closes))
    ]  # fmt: skip


def outlined(candles: list[Candle], bars: int = 60):
    return outline(candles[-bars:], readings_along(Start(None, candles), bars), bars)


def test_the_newest_slots_are_shown_with_their_readings():
    candles = wave(300)
    drawn = outlined(candles)
    assert [slot.candle for slot in drawn.slots] == candles[-60:]
    assert all(slot.reading.open_time == slot.open_time for slot in drawn.slots)
    assert (drawn.missing, drawn.lines) == ([], [(0, 60)])


def test_a_missing_slot_keeps_its_place_and_ends_the_line():
    candles = wave(300)
    del candles[280:283]
    drawn = outlined(candles)
    assert len(drawn.slots) == 60
    assert drawn.missing == [(40, 43)]
    assert drawn.lines == [(0, 40)]  # after it the readings are withheld
    assert all(drawn.slots[k].candle is None for k in (40, 41, 42))
    assert drawn.slots[43].open_time == candles[280].open_time


def test_a_line_goes_on_behind_a_slot_without_a_candle_and_never_across_it():
    candles = wave(300)
    readings = readings_along(Start(None, candles), 60)
    drawn = outline(candles[-60:-20] + candles[-19:], readings[:40] + readings[41:], 60)
    assert drawn.missing == [(40, 41)]
    assert drawn.lines == [(0, 40), (41, 60)]


def test_a_gap_longer_than_the_chart_is_not_made_shorter():
    candles = wave(300)
    del candles[100:290]
    drawn = outlined(candles)
    assert len(drawn.slots) == 60
    assert drawn.missing == [(0, 50)]


def test_there_are_no_slots_before_the_first_candle():
    drawn = outlined(wave(7))
    assert (len(drawn.slots), drawn.missing, drawn.lines) == (7, [], [])


def test_a_chart_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no candles"):
        outline([], [], 60)


def test_the_scales_hold_every_candle_and_both_levels():
    drawn = outlined(wave(300))
    shown = [slot.candle for slot in drawn.slots]
    assert drawn.price.low < min(c.low for c in shown) < max(c.high for c in shown)
    assert max(c.high for c in shown) < drawn.price.high
    assert drawn.volume == Scale(0.0, 6.0)
    assert drawn.macdv.low <= -175
    assert drawn.macdv.high >= 175


def test_the_scale_of_macdv_grows_with_its_values():
    candles = wave(200)
    for _ in range(30):
        last = candles[-1]
        close = last.close * 1.02
        candles.append(Candle(BTC, last.close_time, last.close, close, last.close, close, 1.0))
    drawn = outlined(candles)
    value = drawn.reading.macdv
    assert value is not None
    assert 300 < value < drawn.macdv.high
    assert drawn.macdv.low == -175


def test_a_market_of_one_price_has_a_scale():
    flat = [Candle(BTC, START + k * H1.ms, 5.0, 5.0, 5.0, 5.0, 0.0) for k in range(10)]
    drawn = outlined(flat)
    assert drawn.price.low < 5.0 < drawn.price.high
    assert drawn.volume.high > 0
    assert price_ticks(drawn.price, 4)


def test_empty_and_unconfirmed_candles_are_known():
    candles = wave(300)
    last = candles[-1]
    candles.append(empty(BTC, last.close_time, last.close, Evidence.ASSUMED, 0))
    candles.append(attrs.evolve(last, open_time=last.close_time + H1.ms, evidence=Evidence.STREAM))
    slots = outlined(candles).slots
    assert [(slot.empty, slot.unconfirmed) for slot in slots[-3:]] == [
        (False, False),
        (True, True),
        (False, True),
    ]


@pytest.mark.parametrize(
    ("low", "high", "most", "labels"),
    [
        (53_200.0, 56_900.0, 4, ["54,000", "55,000", "56,000"]),
        (0.0000482, 0.00004849, 3, ["0.0000482", "0.0000483", "0.0000484"]),
        (99.97, 100.04, 4, ["99.98", "100.00", "100.02", "100.04"]),
    ],
)
def test_prices_on_the_axis_are_round(low, high, most, labels):
    assert [label for _, label in price_ticks(Scale(low, high), most)] == labels


def test_prices_on_the_axis_lie_within_it():
    for k in range(200):
        scale = Scale(1.7**k / 1e20, 1.7**k / 1e20 * (1 + 10 ** -(k % 5)))
        ticks = price_ticks(scale, 5)
        assert 1 <= len(ticks) <= 6, scale
        assert all(scale.low <= value <= scale.high for value, _ in ticks)


@pytest.mark.parametrize(
    ("timeframe", "bars", "labels"),
    [
        (Timeframe.M5, 60, ["20:00", "21:00", "22:00", "23:00", "2 Mar"]),
        (Timeframe.H1, 60, ["28 Feb", "12:00", "1 Mar", "12:00", "2 Mar"]),
        (Timeframe.D1, 60, ["7 Jan", "17 Jan", "27 Jan", "6 Feb", "16 Feb", "26 Feb"]),
        (Timeframe.D1, 900, ["Mar 2024", "Oct 2024", "Apr 2025", "Nov 2025"]),
    ],
)
def test_times_on_the_axis_are_round_and_few(timeframe, bars, labels):
    end = START + 24 * H1.ms
    slots = [Slot(end - k * timeframe.ms, None, None) for k in reversed(range(bars))]
    ticks = time_ticks(slots, timeframe, 6)
    assert [label for _, label in ticks] == labels
    assert all(0 <= index < bars for index, _ in ticks)


def test_closed_slots_after_the_newest_candle_are_counted():
    newest = wave(1)[0]
    end = newest.close_time
    assert [behind(newest, end + ms) for ms in (0, H1.ms - 1, H1.ms, 5 * H1.ms)] == [0, 0, 1, 5]
    assert behind(newest, 0) == 0


def test_figures_are_exact_and_times_say_their_zone():
    assert figure(0.0000048293) == "0.0000048293"
    assert figure(54866.0) == "54,866"
    assert moment(START + 300_000) == "2026-03-01 00:05 UTC"


def test_readings_along_are_those_that_would_have_been_published():
    candles = wave(300)
    del candles[250]
    along = readings_along(Start(None, candles), 100)
    for back in (1, 20, 50, 100):
        upto = candles[: len(candles) - back + 1]
        alone = readings_along(Start(None, upto), 1)
        assert along[-back] == alone[0]


def test_readings_go_on_from_a_state_that_was_kept():
    candles = wave(300)
    before = states_along(Start(None, candles[:100])).state(99)
    rest = candles[100:]
    assert readings_along(Start(before, rest), 60) == readings_along(Start(None, candles), 60)
    assert readings_along(Start(None, rest), 60) != readings_along(Start(None, candles), 60)


def test_the_state_after_each_candle_builds_the_last_reading():
    candles = wave(120)
    last = states_along(Start(None, candles)).state(119)
    (built, _), *_ = build_readings(
        States.of([last]),
        np.array([0]),
        exchange="coinbase",
        epoch=0,
        symbols=["BTC-USD"],
        timeframes=[H1],
        revisions=[0],
    )
    assert readings_along(Start(None, candles), 1) == [built]


def test_empty_candles_enter_the_readings_as_empty():
    candles = wave(300)
    for k in (100, 200, 299):
        candles[k] = empty(BTC, candles[k].open_time, candles[k - 1].close, Evidence.REST, 0)
    (reading,) = readings_along(Start(None, candles), 1)
    assert (reading.count, reading.observed, reading.empty) == (300, 297, 3)


def test_no_candles_have_no_readings():
    assert readings_along(Start(None, []), 60) == []
    assert len(states_along(Start(None, []))) == 0
