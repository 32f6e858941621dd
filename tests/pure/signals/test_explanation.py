"""A reading taken apart, against the definition computed here candle by candle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

import attrs
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livermore.market.candle import Candle, Evidence, Kind, Series, empty
from livermore.market.timeframe import Timeframe, iso
from livermore.signals.anchor import Start
from livermore.signals.course import states_along
from livermore.signals.explanation import (
    BOUNDS,
    Explanation,
    Seed,
    bound_text,
    differences,
    explain,
)
from livermore.signals.stage import CALM_CLOSES, Stage, stage

BTC = Series("coinbase", "BTC-USD", Timeframe.H1)
HOUR = Timeframe.H1.ms
T0 = 1_767_322_800_000


def market(
    n: int,
    *,
    empties: float = 0.0,
    missing: Sequence[int] = (),
    evidence: Evidence = Evidence.REST,
    seed: int = 1,
) -> list[Candle]:
    """A random walk of ``n`` slots; those in ``missing`` have no candle."""
    random, price, candles = Random(seed), 100.0, list[Candle]()
    for slot in range(n):
        time = T0 + slot * HOUR
        if slot in missing:
            continue
        if candles and random.random() < empties:
            candles.append(empty(BTC, time, price, evidence, time))
            continue
        opened, price = (price * math.exp(random.gauss(0, 0.01)) for _ in range(2))
        high, low = max(opened, price) * 1.002, min(opened, price) * 0.997
        candles.append(
            Candle(BTC, time, opened, high, low, price, 1.0, Kind.TRADED, evidence, time)
        )
    return candles


def newest(candles: Sequence[Candle], start: Start | None = None) -> Explanation:
    return explain(start or Start(None, candles), candles[-1].open_time)


def resumed(candles: Sequence[Candle], cut: int) -> Start:
    """As if the first ``cut`` candles were not stored any more."""
    return Start(states_along(Start(None, candles)).state(cut - 1), candles[cut:])


def mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


# -- the terms --------------------------------------------------------------------------------


@given(st.integers(0, 2**32), st.integers(61, 140), st.sampled_from([0.0, 0.3, 0.7]))
@settings(max_examples=40, deadline=None)
def test_each_term_follows_from_the_one_before_by_the_formula(seed: int, n: int, empties: float):
    candles = market(n, empties=empties, seed=seed)
    told = newest(candles)
    at, before, close = told.at, told.before, candles[-1].close
    assert before is not None
    assert before.open_time == candles[-2].open_time
    for term, length in (("ema12", 12), ("ema26", 26)):
        was, now = getattr(before, term), getattr(at, term)
        assert now == pytest.approx(was + (close - was) * 2 / (length + 1), rel=1e-12)
    if candles[-1].kind is Kind.EMPTY:
        assert told.true_range is None
        assert at.atr26 == before.atr26
    else:
        assert told.true_range is not None
        parts = (
            candles[-1].high - candles[-1].low,
            abs(candles[-1].high - candles[-2].close),
            abs(candles[-1].low - candles[-2].close),
        )
        assert attrs.astuple(told.true_range) == parts
        assert told.true_range.value == max(parts)
        if before.atr26 is not None:
            expected = before.atr26 + (max(parts) - before.atr26) / 26
            assert at.atr26 == pytest.approx(expected, rel=1e-12)
    if at.macdv is not None and before.signal is not None:
        assert at.ema12 is not None
        assert at.ema26 is not None
        assert at.atr26 is not None
        assert at.macdv == pytest.approx(100 * (at.ema12 - at.ema26) / at.atr26, rel=1e-9)
        expected = before.signal + (at.macdv - before.signal) * 2 / 10
        assert at.signal == pytest.approx(expected, rel=1e-9)


def test_only_candles_up_to_the_one_that_is_asked_for_are_used():
    candles = market(120)
    told = explain(Start(None, candles), candles[79].open_time)
    assert list(told.used) == candles[:80]
    assert told.candle is candles[79]
    assert told.reading == newest(candles[:80]).reading


def test_a_candle_that_is_not_there_cannot_be_explained():
    candles = market(80, missing=[40])
    for slot in (-1, 40, 80):
        with pytest.raises(ValueError, match="no candle at"):
            explain(Start(None, candles), T0 + slot * HOUR)


def test_the_first_candle_has_none_before_it():
    told = newest(market(1))
    assert told.before is None
    assert told.true_range is not None
    assert attrs.astuple(told.true_range)[1:] == (None, None)


# -- where terms begin ------------------------------------------------------------------------


def test_seeds_are_the_means_of_the_first_members():
    candles = market(120, empties=0.4)
    traded = [c for c in candles if c.kind is Kind.TRADED]
    along = states_along(Start(None, candles))
    values = [s for s in along.values() if s.macdv is not None]
    ema12, ema26, atr26, signal = newest(candles).seeds
    first = candles[0].open_time
    for seed, length in ((ema12, 12), (ema26, 26)):
        assert (seed.first, seed.last) == (first, candles[length - 1].open_time)
        assert seed.value == pytest.approx(mean([c.close for c in candles[:length]]))
    assert (atr26.first, atr26.last) == (first, traded[25].open_time)
    index = candles.index(traded[25])
    assert atr26.value == along.state(index).atr26
    assert index > 25
    assert (signal.first, signal.last) == (values[0].open_time, values[8].open_time)
    assert signal.value == pytest.approx(mean([s.macdv or 0.0 for s in values[:9]]))


def test_a_term_that_has_not_begun_has_no_value():
    seeds = {seed.term: seed for seed in newest(market(30)).seeds}
    assert seeds["ema26"].value is not None
    assert (seeds["signal"].value, seeds["signal"].last) == (None, None)
    assert seeds["signal"].first == T0 + 25 * HOUR


@pytest.mark.parametrize("cut", [5, 20, 30, 70])
def test_a_carried_state_leads_to_the_same_reading(cut: int):
    candles = market(150, empties=0.3)
    whole, told = newest(candles), newest(candles, resumed(candles, cut))
    assert told.reading == whole.reading
    assert told.at == whole.at
    assert told.carried == cut
    assert len(told.used) == 150 - cut


def test_seeds_from_before_the_edge_are_carried_and_those_across_it_say_so():
    candles = market(150)
    seeds = newest(candles, resumed(candles, 20)).seeds
    assert seeds[0] == Seed("ema12", "closes", 12, carried=True)
    assert (seeds[1].carried, seeds[1].first, seeds[1].last) == (False, None, T0 + 25 * HOUR)
    assert seeds[3].first == T0 + 25 * HOUR
    assert seeds[1].value == pytest.approx(mean([c.close for c in candles[:26]]))
    assert all(seed.carried for seed in newest(candles, resumed(candles, 60)).seeds)


def test_the_first_range_lies_before_the_edge_also_when_nothing_traded_right_behind_it():
    candles = market(80)
    candles[1] = empty(BTC, candles[1].open_time, candles[0].close, Evidence.REST, 0)
    atr26 = newest(candles, resumed(candles, 1)).seeds[2]
    assert (atr26.term, atr26.first, atr26.last) == ("atr26", None, candles[26].open_time)


# -- what is uncertain ------------------------------------------------------------------------


def test_a_confirmed_and_warm_reading_leaves_nothing_uncertain():
    assert newest(market(200)).uncertain == []
    assert any("not warm: 199 of 200" in text for text in newest(market(199)).uncertain)


def test_missing_slots_count_within_the_last_150_and_no_further():
    n, last = 320, 319
    for slot, counts in ((last - 150, True), (last - 151, False)):
        told = newest(market(n, missing=[slot]))
        assert list(told.missing) == ([T0 + slot * HOUR] if counts else [])
        assert (told.reading.withheld is not None) is counts
        assert any("missing" in text for text in told.uncertain) is counts
    told = newest(market(n, missing=[last - 151, last - 150, last - 149]))
    assert list(told.missing) == [T0 + (last - 150) * HOUR, T0 + (last - 149) * HOUR]
    told = newest(market(n, missing=[300, 301, 305]))
    assert list(told.missing) == [T0 + slot * HOUR for slot in (300, 301, 305)]
    assert f"3 slots are missing within the last 150: {iso(T0 + 305 * HOUR)}" in " ".join(
        told.uncertain
    )


def test_a_slot_that_the_carried_state_stepped_over_is_still_missing():
    candles = market(300, missing=[200])
    start = resumed(candles, 250)
    assert list(newest(candles, start).missing) == [T0 + 200 * HOUR]
    assert newest(candles, start).reading.withheld is not None


def test_weak_evidence_is_counted_and_the_newest_are_named():
    candles = market(220, empties=0.05, seed=3)
    quiet = next(c for c in candles if c.kind is Kind.EMPTY)
    weak = [
        attrs.evolve(c, evidence=Evidence.ASSUMED)
        if c is quiet
        else attrs.evolve(c, evidence=Evidence.STREAM)
        if c in candles[-5:]
        else c
        for c in candles
    ]
    said = newest(weak).uncertain
    assert said == [
        f"1 candle is assumed empty, REST has not spoken yet: {iso(quiet.open_time)}",
        "5 candles are not confirmed by REST: "
        + ", ".join(iso(c.open_time) for c in weak[:-4:-1])
        + ", …",
    ]


def test_a_lost_state_and_the_reason_for_no_reading_come_first():
    said = newest(market(40), Start(None, market(40), "it is damaged")).uncertain
    assert said[0] == "withheld: fewer than 60 candles: 40"
    assert "it is damaged" in said[1]


# -- the stage --------------------------------------------------------------------------------


@given(
    st.floats(-400, 400) | st.sampled_from([-150.0, -50.0, 50.0, 150.0]),
    st.floats(-400, 400) | st.sampled_from([-150.0, -50.0, 50.0, 150.0]),
    st.integers(0, 60),
)
def test_the_bounds_that_are_told_are_those_that_made_the_stage(
    macdv: float, signal: float, calm: int
):
    calm = calm if abs(macdv) < 50 else 0
    found = stage(macdv, signal, calm)
    fits = [
        name
        for name, bounds in BOUNDS.items()
        if (bounds.low is None or macdv >= bounds.low)
        and (bounds.high is None or macdv < bounds.high)
        and (bounds.above is None or bounds.above is (macdv >= signal))
    ]
    assert len(fits) == 1
    if found is Stage.RANGING:
        assert calm > CALM_CLOSES
        assert fits[0] in (Stage.REBOUNDING, Stage.RETRACING)
    else:
        assert fits == [found]


@pytest.mark.parametrize(
    ("macdv", "signal", "calm", "text"),
    [
        (87.123, 80, 0, "50 <= 87.12 < 150, at or above the signal 80.00"),
        (-151.0, -200, 0, "-151.00 < -150"),
        (150.0, 150.0, 0, "150 <= 150.00, at or above the signal 150.00"),
        (20, 30, 3, "-50 <= 20.00, below the signal 30.00 (calm for 3 closes, ranging from 26)"),
        (149.999, 149.998, 0, "50 <= 149.9990 < 150, at or above the signal 149.9980"),
        (-50.001, 0, 0, "-150 <= -50.0010 < -50, below the signal 0.0000"),
        (80.001, 80.002, 0, "-50 <= 80.0010, below the signal 80.0020"),
        (20, 30, 26, "|MACD-V| < 50 for 26 closes in a row, more than 25"),
    ],
)
def test_bounds_in_words(macdv: float, signal: float, calm: int, text: str):
    assert bound_text(stage(macdv, signal, calm), macdv, signal, calm) == text


def test_a_withheld_reading_has_no_bound():
    assert newest(market(40)).bound is None
    assert newest(market(200)).bound is not None


# -- beside the stored reading ----------------------------------------------------------------


def test_only_what_the_candles_say_is_compared():
    reading = newest(market(200)).reading
    other = msgspec.structs.replace(reading, revision=4, epoch=17, halted=True, bias_timeframes=3)
    assert differences(reading, other) == {}


@pytest.mark.parametrize(
    "name", ["macdv", "signal", "ema12", "atr26", "stage", "observed", "warm", "crossover"]
)
def test_each_field_that_differs_is_named(name: str):
    reading = newest(market(200)).reading
    value = getattr(reading, name)
    other = value * (1 + 1e-7) if isinstance(value, float) else None
    found = differences(reading, msgspec.structs.replace(reading, **{name: other}))
    assert found == {name: (value, other)}


def test_rounding_is_no_difference():
    reading = newest(market(200)).reading
    assert reading.macdv is not None
    near = msgspec.structs.replace(reading, macdv=reading.macdv * (1 + 1e-11))
    assert differences(reading, near) == {}
