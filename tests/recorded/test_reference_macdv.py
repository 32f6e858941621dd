"""MACD-V of real candles against values computed elsewhere, to 1e-9."""

import csv
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from livermore.signals.macdv import Steps, replay
from livermore.signals.stage import STAGES, Stage, stage, stages
from livermore.signals.state import States

CANDLES = Path(__file__).resolve().parents[2].parent / "shared" / "candles"
EXPECTED = CANDLES / "expected"

pytestmark = pytest.mark.skipif(
    not EXPECTED.is_dir(),
    reason=f"NOT CHECKED AGAINST THE REFERENCES: no recorded candles at {CANDLES}",
)

FILES = {"5m": 300_000, "15m": 900_000, "1h": 3_600_000, "4h": 14_400_000, "1d": 86_400_000}
COLUMNS = {
    "ema12": "ema12",
    "ema26": "ema26",
    "atr26": "atr26",
    "macdv": "macdv",
    "signal": "signal",
    "hist": "histogram",
}


def table(path: Path) -> dict[str, list[str]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows] for name in rows[0]}


def floats(column: list[str]) -> NDArray[np.float64]:
    return np.array([float(text) if text else np.nan for text in column])


def run(candles: dict[str, list[str]], n: int, tf_ms: int, empty: NDArray[np.bool_]) -> Steps:
    open_time = np.array([int(text) for text in candles["ts_ms"][:n]])[:, None]
    high, low, close = (floats(candles[name][:n])[:, None] for name in ("high", "low", "close"))
    columns = open_time, high, low, close, empty[:n, None]
    return replay(States.fresh(1), np.arange(1), *columns, tf_ms)


def assert_equal(steps: Steps, expected: dict[str, list[str]], prefix: str) -> None:
    for theirs, ours in COLUMNS.items():
        right, found = floats(expected[prefix + theirs]), getattr(steps, ours)[:, 0]
        assert np.isfinite(right).sum() > 50
        # defined at the same candles, to the first one
        assert np.flatnonzero(np.isnan(right) != np.isnan(found)).tolist() == [], theirs
        # 1e-9 of a small price would be no agreement at all: terms also relative to their size
        loose = (
            1e-9 * np.minimum(1.0, np.abs(right)) if theirs in ("ema12", "ema26", "atr26") else 1e-9
        )
        assert np.flatnonzero(np.abs(found - right) > loose).tolist() == [], theirs


@pytest.mark.parametrize("timeframe", FILES)
def test_dense_candles_give_the_reference(timeframe):
    expected = table(EXPECTED / f"binance_BTC-USDT_{timeframe}.csv")
    candles = table(CANDLES / f"binance_BTC-USDT_{timeframe}.csv")
    n = len(expected["ts_ms"])
    assert candles["ts_ms"][:n] == expected["ts_ms"]
    steps = run(candles, n, FILES[timeframe], np.zeros(n, np.bool_))
    assert_equal(steps, expected, "a_")


def test_sparse_candles_give_the_reference():
    expected = table(EXPECTED / "sparse_XRP-ETH_1m_filled.csv")
    empty = np.array([text == "1" for text in expected["synthetic"]])
    assert 0.2 < empty.mean() < 0.5
    assert_equal(run(expected, len(empty), 60_000, empty), expected, "")


def test_stages_of_sparse_candles_differ_only_where_the_reference_knows_no_range():
    expected = table(EXPECTED / "sparse_XRP-ETH_1m_filled.csv")
    empty = np.array([text == "1" for text in expected["synthetic"]])
    steps = run(expected, len(empty), 60_000, empty)
    codes = stages(steps.macdv, steps.signal, steps.calm)[:, 0].tolist()
    compared = 0
    for i, (code, theirs) in enumerate(zip(codes, expected["stage"], strict=True)):
        ours = str(STAGES[code]) if code >= 0 else "unknown"
        if ours == Stage.RANGING:
            assert theirs in (Stage.REBOUNDING, Stage.RETRACING)
            assert np.abs(steps.macdv[i - 25 : i + 1]).max() < 50
        else:
            assert ours == theirs
            compared += 1
    assert 0.5 < compared / len(codes) < 1


def test_stages_at_the_edges_differ_only_where_the_reference_takes_equal_for_a_range():
    """It calls equal numbers under 50 a range without asking since when."""
    edges = table(EXPECTED / "stages.csv")
    numbers = zip(floats(edges["macdv"]).tolist(), floats(edges["signal"]).tolist(), strict=True)
    different = [
        (pair, ours, theirs)
        for pair, theirs in zip(numbers, edges["original_ts"], strict=True)
        if theirs not in (ours := stage(*pair, calm=0), "unknown")
    ]
    assert different == [
        ((v, v), Stage.REBOUNDING, "ranging") for v in (-49.999, -10.0, 0.0, 10.0, 49.999)
    ]
