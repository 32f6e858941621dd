"""Candles: what cannot be constructed, and which evidence is stronger."""

from __future__ import annotations

import itertools
import math
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from livermore.errors import ImpossibleCandle
from livermore.market.candle import (
    REST_SETTLED,
    Candle,
    Evidence,
    Kind,
    Series,
    empty,
    rest_evidence,
    same_volume,
)
from livermore.market.timeframe import Timeframe

SERIES = Series("coinbase", "BTC-USD", Timeframe.M5)
GOOD: dict[str, Any] = {
    "series": SERIES,
    "open_time": 300_000,
    "open": 10.0,
    "high": 12.0,
    "low": 9.0,
    "close": 11.0,
    "volume": 5.0,
}

PRICES = st.floats(min_value=1e-12, max_value=1e12)


def candle(**changes: object) -> Candle:
    return Candle(**(GOOD | changes))


@given(st.lists(PRICES, min_size=4, max_size=4), st.floats(0, 1e15), st.integers(0, 10**7))
def test_what_trades_can_make_can_be_constructed(
    prices: list[float], volume: float, slot: int
) -> None:
    low, *inside, high = sorted(prices)
    built = Candle(SERIES, slot * 300_000, inside[0], high, low, inside[1], volume)
    assert built.close_time - built.open_time == 300_000


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *itertools.product(
            ("open", "high", "low", "close"), (math.nan, math.inf, -math.inf, 0.0, -1.0)
        ),
        *itertools.product(("volume",), (math.nan, math.inf, -1.0)),
        ("high", 8.0),
        ("low", 12.5),
        ("open", 8.9),
        ("open", 12.1),
        ("close", 8.9),
        ("close", 12.1),
        ("open_time", 300_001),
        ("open_time", 60_000),
        ("open_time", -300_000),
    ],
)
def test_impossible_values_cannot_be_constructed(field: str, value: float) -> None:
    with pytest.raises(ImpossibleCandle, match="coinbase: impossible candle BTC-USD 5m"):
        candle(**{field: value})
    changed: dict[str, Any] = {field: value}
    with pytest.raises(ImpossibleCandle):
        attrs.evolve(candle(), **changed)


def test_the_grid_is_that_of_the_timeframe() -> None:
    hour = Series("coinbase", "BTC-USD", Timeframe.H1)
    with pytest.raises(ImpossibleCandle):
        candle(series=hour)
    assert candle(series=hour, open_time=3_600_000).close_time == 7_200_000


def test_a_series_is_named_for_people_and_for_keys() -> None:
    assert str(SERIES) == "BTC-USD 5m"
    assert SERIES.name == "coinbase:BTC-USD:5m"


def test_series_of_different_timeframes_are_different_keys() -> None:
    series = {Series("coinbase", "BTC-USD", timeframe) for timeframe in Timeframe}
    assert len(series) == len(Timeframe)
    assert Series("coinbase", "BTC-USD", Timeframe.M5) in series


def test_an_empty_slot_is_flat_at_the_price_without_volume() -> None:
    slot = empty(SERIES, 600_000, 11.0, Evidence.ASSUMED, 7)
    assert (slot.open, slot.high, slot.low, slot.close, slot.volume) == (11.0,) * 4 + (0.0,)
    assert (slot.kind, slot.evidence, slot.as_of, slot.revision) == (
        Kind.EMPTY,
        Evidence.ASSUMED,
        7,
        0,
    )


def test_rest_outranks_the_stream_and_the_stream_an_assumption() -> None:
    late_stream = candle(evidence=Evidence.STREAM, as_of=10**15)
    assert candle(evidence=Evidence.ASSUMED, as_of=10**15).strength < late_stream.strength
    assert late_stream.strength < candle(evidence=Evidence.REST, as_of=1).strength


def test_within_one_rank_the_later_word_counts() -> None:
    assert candle(as_of=1).strength < candle(as_of=2).strength


@pytest.mark.parametrize(
    ("asked_after", "evidence"),
    [(0, "stream"), (REST_SETTLED - 1, "stream"), (REST_SETTLED, "rest"), (10**9, "rest")],
)
def test_rest_read_too_early_is_no_better_than_the_stream(asked_after: int, evidence: str) -> None:
    assert rest_evidence(300_000, 300_000 + asked_after).label == evidence


def test_evidence_is_read_back_from_its_label() -> None:
    assert [Evidence.parse(e.label) for e in Evidence] == list(Evidence)
    with pytest.raises(KeyError):
        Evidence.parse("confirmed")


def test_volumes_are_the_same_up_to_rounding() -> None:
    assert same_volume(sum([0.1] * 10), 1.0)
    assert same_volume(0.0, 0.0)
    assert not same_volume(1.0, 1.0 + 3e-9)
    assert not same_volume(0.0, 1e-12)


@pytest.mark.parametrize(
    "change",
    [
        {"open": 10.5},
        {"high": 12.5},
        {"low": 8.5},
        {"close": 10.5},
        {"volume": 5.001},
        {"kind": Kind.EMPTY},
    ],
)
def test_a_change_of_kind_or_of_any_value_is_a_change(change: dict[str, Any]) -> None:
    assert not candle().same_values(candle(**change))


def test_better_evidence_for_the_same_values_is_no_change() -> None:
    better = candle(evidence=Evidence.REST, as_of=9, revision=3, volume=5.0 + 1e-12)
    assert candle().same_values(better)


def test_whose_a_series_is_makes_it_another_one() -> None:
    shared, alice, bob = (attrs.evolve(SERIES, owner=owner) for owner in ("", "alice", "bob"))
    assert len({shared, alice, bob}) == 3
    assert alice == Series("coinbase", "BTC-USD", Timeframe.M5, "alice") != shared
    assert hash(alice) == hash(Series("coinbase", "BTC-USD", Timeframe.M5, "alice"))
    assert attrs.evolve(alice, owner="") == shared
    assert (shared.name, alice.name) == ("coinbase:BTC-USD:5m", "alice:coinbase:BTC-USD:5m")
    assert str(shared) == str(alice) == "BTC-USD 5m"
