"""Higher timeframes from five-minute candles."""

from __future__ import annotations

import math
import random

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from livermore.market.candle import Candle, Evidence, Kind, Series, empty
from livermore.market.folding import (
    CHILD,
    PARENT,
    Folder,
    child_series,
    children_range,
    fold,
    fold_all,
    parent_series,
)
from livermore.market.timeframe import TIMEFRAMES, Timeframe
from livermore.market.tracker import Forming

M5 = Series("coinbase", "BTC-USD", Timeframe.M5)
M15 = Series("coinbase", "BTC-USD", Timeframe.M15)
DAY = 20_000 * Timeframe.D1.ms


def run(count: int, seed: int = 1, start: int = DAY) -> list[Candle]:
    chance, price, candles = random.Random(seed), 100.0, []
    for n in range(count):
        open_time = start + n * M5.timeframe.ms
        if chance.random() < 0.3:
            candles.append(empty(M5, open_time, price, Evidence.REST, n))
            continue
        opened, price = price + 0.1, price + chance.choice((-1, 1))
        candles.append(
            Candle(M5, open_time, opened, max(opened, price) + 1, min(opened, price) - 1, price,
                   chance.random(), Kind.TRADED, chance.choice((Evidence.STREAM, Evidence.REST)), n)
        )  # fmt: skip
    return candles


@given(st.integers(0, 1000))
def test_a_day_folded_level_by_level_equals_the_day_folded_from_its_traded_candles(
    seed: int,
) -> None:
    children = run(288, seed)
    candles: list[Candle] = children
    for timeframe in TIMEFRAMES[1:]:
        candles = list(fold_all(Series("coinbase", "BTC-USD", timeframe), candles))
        assert len(candles) == Timeframe.D1.ms // timeframe.ms
    traded = [c for c in children if c.kind is Kind.TRADED]
    day = candles[0]
    assert (day.open, day.close) == (traded[0].open, traded[-1].close)
    assert (day.high, day.low) == (max(c.high for c in traded), min(c.low for c in traded))
    assert day.volume == pytest.approx(math.fsum(c.volume for c in traded), rel=1e-12)
    assert day.strength == min(c.strength for c in children)


def test_a_parent_is_no_better_known_than_its_weakest_child() -> None:
    children = [attrs.evolve(c, evidence=Evidence.REST) for c in run(3)]
    children[1] = attrs.evolve(children[1], evidence=Evidence.ASSUMED)
    folded = fold(M15, DAY, children)
    assert folded is not None
    assert folded.evidence is Evidence.ASSUMED
    assert folded.as_of == children[1].as_of


def test_a_parent_of_empties_is_empty_at_their_price() -> None:
    children = [empty(M5, DAY + n * M5.timeframe.ms, 7.0, Evidence.REST, n) for n in range(3)]
    assert fold(M15, DAY, children) == empty(M15, DAY, 7.0, Evidence.REST, 0)


@given(st.sets(st.integers(0, 11), max_size=11))
def test_a_parent_with_a_missing_child_is_not_folded(kept: set[int]) -> None:
    children = [c for n, c in enumerate(run(12)) if n in kept]
    whole = [n for n in range(4) if {3 * n, 3 * n + 1, 3 * n + 2} <= kept]
    ms = M15.timeframe.ms
    assert [(c.open_time - DAY) // ms for c in fold_all(M15, children)] == whole
    folder = Folder()
    assert [
        (p.open_time - DAY) // ms for c in children for p in folder.take(c) if p.series == M15
    ] == whole


def test_three_candles_that_are_not_the_three_children_make_no_parent() -> None:
    a, b, c, d = run(4)
    assert fold(M15, DAY, [a, b, b]) is None
    assert fold(M15, DAY, [a, c, d]) is None
    assert fold(M15, DAY, [b, c, d]) is None
    assert fold(M15, DAY, [a, b, c]) is not None


def test_the_last_child_closes_all_its_parents_lowest_first() -> None:
    folder = Folder()
    closed = [folder.take(candle) for candle in run(288)]
    assert [p.series.timeframe for p in closed[-1]] == list(TIMEFRAMES[1:])
    assert sum(map(len, closed)) == 96 + 24 + 6 + 1


def test_a_corrected_child_folds_its_running_parents_again() -> None:
    folder = Folder()
    children = run(3)
    for candle in children:
        folder.take(candle)
    higher = attrs.evolve(
        children[1], high=500.0, kind=Kind.TRADED, evidence=Evidence.REST, as_of=9
    )
    assert [p.high for p in folder.take(higher)] == [500.0]


def test_weaker_news_of_a_child_does_not_replace_what_is_known_better() -> None:
    folder = Folder()
    first, second, third = (attrs.evolve(c, evidence=Evidence.REST, as_of=50) for c in run(3))
    folder.take(first)
    weak = attrs.evolve(first, high=900.0, kind=Kind.TRADED, evidence=Evidence.STREAM, as_of=60)
    folder.take(weak)
    folder.take(second)
    assert [p.high for p in folder.take(third)] != [900.0]


def test_children_of_an_earlier_parent_are_old_and_fold_nothing() -> None:
    folder = Folder()
    children = run(4)
    for candle in (children[0], children[1], children[3]):
        folder.take(candle)
    assert folder.is_old(children[2])
    assert folder.take(children[2]) == []
    assert not folder.is_old(children[3])


def forming(open_time: int) -> Forming:
    return Forming(M5, open_time, 50.0, 500.0, 5.0, 60.0, 7.0, open_time + 1_000)


@pytest.mark.parametrize("at", [0, 1, 2, 3, 17, 48, 200, 287])
def test_running_parents_are_their_children_and_the_running_candle(at: int) -> None:
    candles, folder = run(at), Folder()
    for candle in candles:
        folder.take(candle)
    shown = folder.running(forming(DAY + at * M5.timeframe.ms))
    assert [one.series.timeframe for one in shown] == list(TIMEFRAMES[1:])
    for one in shown:
        own = [c for c in candles if c.open_time >= one.open_time and c.kind is Kind.TRADED]
        assert one.open_time == one.series.timeframe.floor(DAY + at * M5.timeframe.ms)
        assert (one.open, one.high, one.low, one.close) == (
            own[0].open if own else 50.0,
            500.0,
            5.0,
            60.0,
        )
        assert math.isclose(one.volume, 7.0 + sum(c.volume for c in own))


def test_a_running_parent_with_a_missing_child_is_not_shown() -> None:
    candles, folder = run(4), Folder()
    for candle in [*candles[:1], *candles[2:]]:
        folder.take(candle)
    shown = folder.running(forming(DAY + 4 * M5.timeframe.ms))
    assert [one.series.timeframe for one in shown] == [Timeframe.M15]


def test_nothing_is_old_to_a_folder_that_knows_nothing() -> None:
    assert not Folder().is_old(run(1)[0])
    assert not Folder().is_old(attrs.evolve(run(1)[0], series=Series("c", "B", Timeframe.D1)))


@given(st.integers(1, 287))
def test_a_restart_seeded_with_the_running_parents_children_goes_on_folding(at: int) -> None:
    children = run(288)
    whole, before, after = Folder(), Folder(), Folder()
    expected = [p for c in children for p in whole.take(c)]
    first = [p for c in children[:at] for p in before.take(c)]
    now = children[at].open_time
    known = children[:at] + first
    for timeframe in TIMEFRAMES[:-1]:
        lowest, highest = after.seed_range(Series("coinbase", "BTC-USD", timeframe), now)
        for candle in sorted(known, key=lambda c: c.open_time):
            if candle.series.timeframe is timeframe and lowest <= candle.open_time <= highest:
                after.take(candle)
    assert first + [p for c in children[at:] for p in after.take(c)] == expected


def test_the_levels_lead_from_five_minutes_to_a_day_and_back() -> None:
    assert parent_series(M5) == M15
    assert child_series(M15) == M5
    assert child_series(M5) is None
    assert parent_series(Series("coinbase", "BTC-USD", Timeframe.D1)) is None
    alice = [attrs.evolve(series, owner="alice") for series in (M5, M15)]
    assert [parent_series(alice[0]), child_series(alice[1])] == alice[::-1], "whose it is stays"
    assert {CHILD[parent]: parent for parent in CHILD} == PARENT
    assert children_range(Timeframe.M15, DAY) == (DAY, DAY + 600_000)
