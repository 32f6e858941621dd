"""The simulated market: what a seed decides, and that everything is the fold of its trades."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from livermore.market.timeframe import DAY, MINUTE, TIMEFRAMES, Timeframe
from livermore.simulator.chance import key_of, once, uniform
from livermore.simulator.listing import listings
from livermore.simulator.market import Market
from livermore.simulator.slots import SLOT, SLOTS_PER_DAY
from livermore.simulator.tape import SLOT_NS
from livermore.simulator.trades import NS, Row, fewest, synthesise

START = 1_763_600_000_000
SLOT_NOW = START // SLOT


def market(count: int = 25, seed: int = 7) -> Market:
    return Market(listings(count, seed), seed, START, history_days=40)


def fold_rows(rows: list[Row]) -> Row:
    rows = [row for row in rows if row.count]
    if not rows:
        return Row(0, 0, 0, 0, 0, 0)
    return Row(
        rows[0].open,
        max(row.high for row in rows),
        min(row.low for row in rows),
        rows[-1].close,
        sum(row.volume for row in rows),
        sum(row.count for row in rows),
    )


def test_the_same_seed_makes_the_same_market_in_any_order():
    one, other = market(), market()
    slots = range(SLOT_NOW - 20, SLOT_NOW + 20)
    forward = [one.tape("ETH-USD").trades(slot) for slot in slots]
    backward = [other.tape("ETH-USD").trades(slot) for slot in reversed(slots)][::-1]
    for a, b in zip(forward, backward, strict=True):
        assert a.first_id == b.first_id
        for column in ("time", "price", "size", "buy"):
            assert np.array_equal(getattr(a, column), getattr(b, column))


def test_another_seed_makes_another_market():
    rows = [market(seed=seed).tape("BTC-USD").row(SLOT_NOW) for seed in (7, 8)]
    assert rows[0] != rows[1]


def test_long_stretches_agree_with_single_days():
    tape = market().tape("SOL-USD")
    long = tape.slots(SLOT_NOW - 30 * SLOTS_PER_DAY, 30 * SLOTS_PER_DAY)
    for slot in range(SLOT_NOW - 30 * SLOTS_PER_DAY, SLOT_NOW, 1_001):
        row, at = tape.row(slot), slot - long.first
        for column in ("open", "high", "low", "close", "volume", "count"):
            assert getattr(row, column) == getattr(long, column)[at]


@pytest.mark.parametrize("symbol", ["BTC-USD", "SHIB-USD", "NEAR-USD", "ZRX-USD"])
def test_every_candle_is_the_fold_of_its_trades(symbol):
    tape = market().tape(symbol)
    for slot in range(SLOT_NOW - 150, SLOT_NOW + 150):
        assert tape.trades(slot).fold() == tape.row(slot)


@pytest.mark.parametrize("symbol", ["BTC-USD", "AAVE-USD", "ZRX-USD"])
def test_trade_ids_are_contiguous_and_times_never_go_back(symbol):
    tape = market().tape(symbol)
    following = None
    last_time = 0
    # Across the day boundary at which ids are pinned, and the one before it.
    anchor = START // DAY * SLOTS_PER_DAY
    for slot in range(anchor - 2 * SLOTS_PER_DAY - 5, anchor + SLOTS_PER_DAY + 5):
        assert following is None or tape.first_id(slot) == following
        following = tape.first_id(slot) + tape.row(slot).count
        if slot % 40 == 0 or slot % SLOTS_PER_DAY in (0, SLOTS_PER_DAY - 1):
            trades = tape.trades(slot)
            assert trades.first_id == tape.first_id(slot)
            assert tape.first_id(slot + 1) == trades.first_id + len(trades)
            assert (np.diff(trades.time) >= 0).all()
            if len(trades):
                assert last_time <= trades.time[0]
                assert slot * SLOT_NS <= trades.time[0]
                assert trades.time[-1] < (slot + 1) * SLOT_NS
                assert (trades.time % 1_000 == 0).all()
                last_time = int(trades.time[-1])


@pytest.mark.parametrize("symbol", ["BTC-USD", "NEAR-USD", "ZRX-USD"])
def test_longer_candles_are_exact_folds_of_shorter_ones(symbol):
    made = market()
    now = START * NS
    since = START - 12 * DAY
    since -= since % DAY
    children = {c.open_time: c.row for c in made.candles(symbol, SLOT, since, START, now)}
    for timeframe in TIMEFRAMES[1:]:
        parents = made.candles(symbol, timeframe.ms, since, START, now)
        assert parents
        for parent in parents:
            slots = range(parent.open_time, parent.open_time + timeframe.ms, SLOT)
            assert parent.row == fold_rows([children[s] for s in slots if s in children])
        covered = {p.open_time for p in parents}
        assert {timeframe.floor(open_time) for open_time in children} == covered


def test_four_hours_and_days_lie_on_the_utc_grid():
    made = market()
    for timeframe in (Timeframe.H4, Timeframe.D1):
        found = made.candles("BTC-USD", timeframe.ms, START - 5 * DAY, START, START * NS)
        assert all(candle.open_time % timeframe.ms == 0 for candle in found)
        assert [b.open_time - a.open_time for a, b in itertools.pairwise(found)] == [
            timeframe.ms
        ] * (len(found) - 1)


def test_minutes_fold_to_five_minutes():
    made = market()
    first = (SLOT_NOW - 3) * SLOT
    minutes = made.candles("ETH-USD", MINUTE, first, first + 4 * MINUTE, START * NS)
    assert fold_rows([m.row for m in minutes]) == made.tape("ETH-USD").row(SLOT_NOW - 3)


def test_the_running_candle_knows_only_the_trades_so_far():
    made = market()
    tape = made.tape("BTC-USD")
    trades = tape.trades(SLOT_NOW)
    now = int(trades.time[len(trades) // 2])
    (running,) = made.candles("BTC-USD", SLOT, SLOT_NOW * SLOT, SLOT_NOW * SLOT, now)
    assert running.row == trades.fold(0, trades.before(now))
    assert 0 < running.row.count < len(trades)
    (hour,) = made.candles("BTC-USD", Timeframe.H1.ms, now // NS, now // NS, now)
    assert hour.row.close == running.row.close


def test_truth_fills_silent_slots_flat_at_the_close_before():
    made = market()
    truth = made.truth("ZRX-USD", SLOT, START - DAY, START, START * NS)
    assert [b.open_time - a.open_time for a, b in itertools.pairwise(truth)] == [SLOT] * (
        len(truth) - 1
    )
    assert truth[-1].open_time == (SLOT_NOW - 1) * SLOT, "only closed candles"
    kinds = {candle.row.count > 0 for candle in truth}
    assert kinds == {True, False}
    for before, candle in itertools.pairwise(truth):
        if not candle.row.count:
            close = before.row.close
            assert candle.row == Row(close, close, close, close, 0, 0)
        else:
            assert candle.row == made.tape("ZRX-USD").row(candle.open_time // SLOT)


def test_nothing_is_known_from_before_the_listing():
    made = Market(listings(3, 7), 7, START, history_days=3)
    truth = made.truth("BTC-USD", DAY, 0, START, START * NS)
    assert truth[0].open_time == made.listed_since
    assert len(truth) == 3


def test_symbols_reach_from_liquid_to_silent_for_hours():
    made = market()
    counts = {
        symbol: made.tape(symbol).slots(SLOT_NOW - 288 * 5, 288 * 5).count
        for symbol in made.followed
    }
    assert (counts["BTC-USD"] > 0).all()
    assert counts["BTC-USD"].mean() > 900, "several trades a second"
    quiet = counts["ZRX-USD"]
    gaps = np.diff(np.flatnonzero(quiet))
    assert gaps.max() >= 36, "hours without a trade"
    assert quiet.sum() > 20, "but not dead"


def test_a_thousand_symbols_have_a_thousand_names():
    names = [listing.symbol for listing in listings(1_000, 7)]
    assert len(set(names)) == len(names) >= 1_000
    assert names[:3] == ["BTC-USD", "ETH-USD", "SOL-USD"]


def test_a_halt_removes_trades_and_keeps_ids_contiguous():
    calm, made = market(), market()
    since = START * NS + 100 * 10**9
    until = since + 3 * SLOT_NS
    for row_before in (SLOT_NOW, SLOT_NOW + 1):
        made.tape("BTC-USD").trades(row_before)  # what was cached must not survive
    made.halt(since, until)
    tape = made.tape("BTC-USD")
    following = tape.first_id(SLOT_NOW - 1)
    for slot in range(SLOT_NOW - 1, SLOT_NOW + 8):
        trades = tape.trades(slot)
        assert trades.first_id == following
        following += len(trades)
        assert trades.fold() == tape.row(slot)
        assert not ((trades.time >= since) & (trades.time < until)).any()
    assert tape.row(SLOT_NOW + 2).count == 0
    assert tape.row(SLOT_NOW - 1) == calm.tape("BTC-USD").row(SLOT_NOW - 1)
    assert tape.row(SLOT_NOW + 7) == calm.tape("BTC-USD").row(SLOT_NOW + 7)
    after = [made.tape("BTC-USD").first_id(START // SLOT + 2 * SLOTS_PER_DAY) for _ in range(2)]
    assert after[0] == after[1] < calm.tape("BTC-USD").first_id(SLOT_NOW + 2 * SLOTS_PER_DAY)


@given(
    st.integers(1, 10**7),
    st.integers(1, 10**7),
    st.integers(0, 10**5),
    st.integers(0, 10**5),
    st.integers(0, 400),
    st.integers(0, 10**15),
    st.integers(0, 10**6),
)
def test_any_candle_can_be_made_of_trades(opened, close, above, below, extra, volume, slot):
    high = max(opened, close) + above
    low = max(1, min(opened, close) - below)
    bare = Row(opened, high, low, close, 0, 0)
    count = fewest(bare) + extra
    row = Row(opened, high, low, close, volume + count, count)
    trades = synthesise(row, slot, key_of("any", slot), 5)
    assert trades.fold() == row
    assert (trades.size > 0).all()


@given(st.integers(0, 2**63), st.integers(0, 2**40))
def test_a_single_throw_equals_the_vectorised_one(key, index):
    assert once(key, index) == uniform(key, np.array([index], dtype=np.int64))[0]
