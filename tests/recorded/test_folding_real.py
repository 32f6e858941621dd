"""Folds of real five-minute candles against the exchange's own higher timeframes."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from livermore.market.candle import Candle, Series
from livermore.market.folding import fold_all
from livermore.market.timeframe import TIMEFRAMES, Timeframe

CANDLES = Path(__file__).resolve().parents[2].parent / "shared" / "candles"
NAMES = ("ts_ms", "open", "high", "low", "close", "volume")

pytestmark = pytest.mark.skipif(
    not (CANDLES / "binance_BTC-USDT_5m.csv").is_file(),
    reason=f"NOT CHECKED AGAINST REAL CANDLES: none recorded at {CANDLES}",
)


def recorded(timeframe: Timeframe) -> list[Candle]:
    series = Series("binance", "BTC-USDT", timeframe)
    with (CANDLES / f"binance_BTC-USDT_{timeframe}.csv").open() as file:
        rows = [[float(row[name]) for name in NAMES] for row in csv.DictReader(file)]
    candles = [Candle(series, int(t), o, h, low, c, v) for t, o, h, low, c, v in rows]
    return sorted(candles, key=lambda candle: candle.open_time)


def test_folds_equal_the_exchanges_own_candles() -> None:
    candles = recorded(Timeframe.M5)
    for timeframe in TIMEFRAMES[1:]:
        candles = list(fold_all(Series("binance", "BTC-USDT", timeframe), candles))
        own = {candle.open_time: candle for candle in recorded(timeframe)}
        compared = [(c, own[c.open_time]) for c in candles if c.open_time in own]
        assert len(compared) >= Timeframe.D1.ms // timeframe.ms * 80, "about ninety days"
        for folded, theirs in compared:
            assert (folded.open, folded.high, folded.low, folded.close) == (
                theirs.open, theirs.high, theirs.low, theirs.close,
            )  # fmt: skip
        # Volumes were restated by the exchange here and there.
        same = sum(c.volume == pytest.approx(t.volume, rel=1e-9) for c, t in compared)
        assert same >= 0.9 * len(compared), timeframe
