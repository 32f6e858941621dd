#!/usr/bin/env python3
"""What MACD-V costs, beside TA-Lib, talipp and pandas on the same work, as JSON.

    python scripts/bench_signals.py [--batches 1,100,1000,10000] [--repeats 30]

Microseconds; each the best of several calls in a row, in turns, so that all meet the same machine;
``after_others`` is the first call of a turn, when the caches hold others' data. ``close`` is one
more candle for every series of a batch, per series: both EMAs, the ATR, MACD-V and its signal.
``rebuild`` is all of that for 300 candles of every series, per series. Before anything is timed all
must agree to 1e-9. What each is given is what suits it, and is not counted: arrays, floats or
objects are there before the clock starts, and windows have been shifted. ``rules`` is the
evaluation of the default alert rules at one reading. Judges nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Protocol

import msgspec
import numpy as np
import pandas as pd
import talib
from attrs import frozen
from numpy.typing import NDArray
from talib import stream
from talipp.indicators import ATR, EMA
from talipp.ohlcv import OHLCV

from livermore.market.timeframe import Timeframe
from livermore.signals.macdv import advance, replay
from livermore.signals.reading import build_readings, decode_reading, encode_reading
from livermore.signals.rules import DEFAULT_RULES, Memory, Point, adopt, evaluate
from livermore.signals.stage import STAGES, stages
from livermore.signals.state import Floats, Ints, States

TF = Timeframe.M5
START = 1_700_000_100_000
HISTORY = 300
REBUILT = (1, 100, 500)
"""Series at once."""

WORK = {
    "livermore": "one vectorised step of carried states; also keeps count of observed candles, "
    "missing slots, calm closes and the side of the signal, and refuses candles out of order",
    "ta-lib stream": "four O(1) handles per series, a Python loop over them; they keep no count, "
    "cannot be stored and lose their state with the process",
    "ta-lib window": "the functions over the last 301 candles of each series",
    "talipp": "four incremental objects per series, a Python loop over them",
    "pandas window": "ewm over the last 301 candles of all series in one frame",
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batches", default="1,100,1000,10000")
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    batches = [int(text) for text in options.batches.split(",")]

    close = {n: time_closes(n, options.repeats) for n in batches}
    report = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": {
            "numpy": np.__version__,
            "msgspec": msgspec.__version__,
            "ta-lib": talib.__version__,
            "talipp": version("talipp"),
            "pandas": pd.__version__,
        },
        "unit": "microseconds",
        "work": WORK,
        "close_per_series": {n: times.in_a_row for n, times in close.items()},
        "close_per_series_after_others": {n: times.after_others for n, times in close.items()},
        "close_ahead_of_the_fastest_other": {n: times.ahead() for n, times in close.items()},
        "rebuild_of_300_per_series": {
            n: time_rebuilds(n, max(3, options.repeats // 5)).in_a_row for n in REBUILT
        },
        "reading_per_series": {n: time_readings(n, options.repeats).in_a_row for n in batches},
        "rules_per_reading": time_alerts(options.repeats),
    }
    print(json.dumps(rounded(report), indent=2))


# -- candles ----------------------------------------------------------------------------------


@frozen(eq=False)
class Candles:
    """Random walks, every candle traded: arrays of shape (candles, series)."""

    open_time: Ints
    high: Floats
    low: Floats
    close: Floats
    empty: NDArray[np.bool_]

    @classmethod
    def walk(cls, candles: int, n: int) -> Candles:
        """``candles`` of ``n`` series, always the same."""
        dice = np.random.default_rng(1)
        close = 100 * np.exp(np.cumsum(dice.normal(0, 0.002, (candles, n)), axis=0))
        high = close + close * dice.uniform(0, 0.003, (candles, n))
        low = close - close * dice.uniform(0, 0.003, (candles, n))
        at = np.broadcast_to(START + np.arange(candles)[:, None] * TF.ms, (candles, n))
        return cls(at, high, low, close, np.zeros((candles, n), np.bool_))

    def before_the_last(self) -> Candles:
        """Without the newest of each series."""
        at, high, low, close = self.open_time, self.high, self.low, self.close
        return Candles(at[:-1], high[:-1], low[:-1], close[:-1], self.empty[:-1])

    def series(self, k: int) -> tuple[Floats, Floats, Floats]:
        """High, low and close of one series, contiguous."""
        return self.high[:, k].copy(), self.low[:, k].copy(), self.close[:, k].copy()


# -- those that are timed ---------------------------------------------------------------------


class Contender(Protocol):
    """Knows the history of every series and is given the newest candle of each."""

    def close(self) -> None:
        """The newest candle enters every series (again, where it is called again)."""

    def latest(self) -> Floats:
        """MACD-V and signal of every series, shape (2, series)."""


class Ours:
    """States of all series, advanced in one call."""

    def __init__(self, history: Candles, newest: Candles) -> None:
        n = history.close.shape[1]
        self.states = States.fresh(n)
        rebuild_ours(self.states, history)
        # in no order of their own, as series close
        self.rows = np.random.default_rng(2).permutation(n)
        prices = (newest.high, newest.low, newest.close)
        self.prices = [column[-1][self.rows].copy() for column in prices]
        self.empty = np.zeros(n, np.bool_)
        self.at = newest.open_time[-1].copy()

    def close(self) -> None:
        high, low, close = self.prices
        advance(self.states, self.rows, self.at, high, low, close, self.empty, TF.ms)
        self.at += TF.ms

    def latest(self) -> Floats:
        return np.array([self.states.column("macdv"), self.states.column("signal")])


class TalibStream:
    """TA-Lib's handles, four to a series."""

    def __init__(self, history: Candles, newest: Candles) -> None:
        self.handles = []
        for k in range(history.close.shape[1]):
            high, low, close = history.series(k)
            bars = whole_ranges(high, low, close)
            terms = (
                stream.EMA(close, timeperiod=12),
                stream.EMA(close, timeperiod=26),
                stream.ATR(*bars, timeperiod=26),
                stream.EMA(talib_macdv(bars, close), timeperiod=9),
            )
            self.handles.append(tuple(term.update for term in terms))
        self.prices = [column[-1].tolist() for column in (newest.high, newest.low, newest.close)]
        self.found: list[tuple[float, float]] = []

    def close(self) -> None:
        found = self.found = []
        for (fast, slow, atr, smooth), high, low, close in zip(
            self.handles, *self.prices, strict=True
        ):
            macdv = 100.0 * (fast(close) - slow(close)) / atr(high, low, close)
            found.append((macdv, smooth(macdv)))

    def latest(self) -> Floats:
        return np.array(self.found).T


class TalibWindow:
    """TA-Lib's functions over every window anew."""

    def __init__(self, history: Candles, newest: Candles) -> None:
        self.windows = []
        for k in range(newest.close.shape[1]):
            high, low, close = newest.series(k)
            self.windows.append((whole_ranges(high, low, close), close))
        self.found: list[tuple[float, float]] = []

    def close(self) -> None:
        found = self.found = []
        for bars, close in self.windows:
            macdv = talib_macdv(bars, close)
            found.append((macdv[-1], talib.EMA(macdv, timeperiod=9)[-1]))

    def latest(self) -> Floats:
        return np.array(self.found).T


class Talipp:
    """talipp's objects, four to a series."""

    def __init__(self, history: Candles, newest: Candles) -> None:
        self.series = []
        for k in range(history.close.shape[1]):
            terms = EMA(12), EMA(26), ATR(26), EMA(9)
            for bar in talipp_bars(*(column.tolist() for column in history.series(k))):
                talipp_close(terms, bar, bar.close)
            for term in terms:  # it keeps all it ever saw
                term.purge_oldest(len(term) - 60)
            self.series.append(terms)
        prices = [column[-1].tolist() for column in (newest.high, newest.low, newest.close)]
        self.bars = talipp_bars(*prices)
        self.closes = prices[-1]
        self.found: list[tuple[float, float]] = []

    def close(self) -> None:
        self.found = [
            talipp_close(terms, bar, close)
            for terms, bar, close in zip(self.series, self.bars, self.closes, strict=True)
        ]

    def latest(self) -> Floats:
        return np.array(self.found).T


class PandasWindow:
    """pandas over one frame of all windows."""

    def __init__(self, history: Candles, newest: Candles) -> None:
        prices = (newest.high, newest.low, newest.close)
        self.high, self.low, self.closes = (pd.DataFrame(column) for column in prices)
        self.found: tuple[Any, Any]

    def close(self) -> None:
        macdv, signal = pandas_macdv(self.high, self.low, self.closes)
        self.found = macdv.iloc[-1], signal.iloc[-1]

    def latest(self) -> Floats:
        return np.array([column.to_numpy() for column in self.found])


def rebuild_ours(states: States, candles: Candles) -> Floats:
    """All candles enter ``states``; MACD-V, shape (candles, series)."""
    columns = candles.open_time, candles.high, candles.low, candles.close, candles.empty
    return replay(states, np.arange(len(states)), *columns, TF.ms).macdv


def whole_ranges(high: Floats, low: Floats, close: Floats) -> tuple[Floats, Floats, Floats]:
    """With one bar before the first: TA-Lib's ATR leaves the first true range out."""
    before = low[:1]
    high, low, close = (np.concatenate([before, column]) for column in (high, low, close))
    return high, low, close


def talib_macdv(bars: tuple[Floats, Floats, Floats], close: Floats) -> Floats:
    """MACD-V of one series; ``bars`` are :func:`whole_ranges`."""
    spread: Floats = talib.EMA(close, timeperiod=12) - talib.EMA(close, timeperiod=26)
    return 100.0 * spread / talib.ATR(*bars, timeperiod=26)[1:]


def talipp_bars(high: list[float], low: list[float], close: list[float]) -> list[Any]:
    """What talipp's ATR takes."""
    return list(map(OHLCV, close, high, low, close))


def talipp_close(terms: Sequence[Any], bar: Any, close: float) -> tuple[float, float]:
    """One candle enters the four objects of a series; NaN until there are numbers."""
    fast, slow, atr, smooth = terms
    fast.add(close)
    slow.add(close)
    atr.add(bar)
    if slow[-1] is None or atr[-1] is None:
        return np.nan, np.nan
    macdv = 100.0 * (fast[-1] - slow[-1]) / atr[-1]
    smooth.add(macdv)
    return macdv, smooth[-1]


def pandas_macdv(high: Any, low: Any, close: Any) -> tuple[Any, Any]:
    """MACD-V and signal of all series, from the row on where there are any."""
    before = close.shift()
    reach = np.maximum((high - before).abs(), (low - before).abs())
    atr = begun_with_mean(np.fmax(high - low, reach), 26, 1 / 26)
    spread = begun_with_mean(close, 12, 2 / 13).iloc[14:] - begun_with_mean(close, 26, 2 / 27)
    macdv = 100.0 * spread / atr
    return macdv, begun_with_mean(macdv, 9, 2 / 10)


def begun_with_mean(frame: Any, n: int, alpha: float) -> Any:
    """An exponential average of each column whose first value is the mean of the first ``n``."""
    seeded = frame.iloc[n - 1 :].copy()
    seeded.iloc[0] = frame.iloc[:n].mean()
    return seeded.ewm(alpha=alpha, adjust=False).mean()


# -- timing -----------------------------------------------------------------------------------


def time_closes(n: int, repeats: int) -> Times:
    """One close for each of ``n`` series in one batch, per series."""
    newest = Candles.walk(HISTORY + 1, n)
    history = newest.before_the_last()
    contenders: dict[str, Contender] = {
        "livermore": Ours(history, newest),
        "ta-lib stream": TalibStream(history, newest),
        "ta-lib window": TalibWindow(history, newest),
        "talipp": Talipp(history, newest),
        "pandas window": PandasWindow(history, newest),
    }
    for contender in contenders.values():
        contender.close()
    found = {name: contender.latest() for name, contender in contenders.items()}
    check_agreement(found, f"{n} series")
    functions = {name: contender.close for name, contender in contenders.items()}
    return per_series(best(functions, max(5, repeats * 1_000 // max(n, 1_000))), n)


def time_rebuilds(n: int, repeats: int) -> Times:
    """MACD-V of 300 candles of ``n`` series at once, per series."""
    candles = Candles.walk(HISTORY, n)
    prices = (candles.high, candles.low, candles.close)
    frames = [pd.DataFrame(column) for column in prices]
    series = [candles.series(k) for k in range(n)]
    windows = [(whole_ranges(*bars), bars[2]) for bars in series]
    objects = [talipp_bars(*(column.tolist() for column in bars)) for bars in series]

    def ours() -> Floats:
        states = States.fresh(n)
        rebuild_ours(states, candles)
        return np.array([states.column("macdv"), states.column("signal")])

    def talib_batch() -> Floats:
        found = []
        for bars, close in windows:
            macdv = talib_macdv(bars, close)
            found.append((macdv[-1], talib.EMA(macdv, timeperiod=9)[-1]))
        return np.array(found).T

    def talipp_rebuild() -> Floats:
        found = []
        for bars in objects:
            terms = EMA(12), EMA(26), ATR(26), EMA(9)
            for bar in bars:
                newest = talipp_close(terms, bar, bar.close)
            found.append(newest)
        return np.array(found).T

    def pandas_batch() -> Floats:
        return np.array([column.iloc[-1].to_numpy() for column in pandas_macdv(*frames)])

    functions: dict[str, Callable[[], Floats]] = {
        "livermore": ours,
        "ta-lib": talib_batch,
        "talipp": talipp_rebuild,
        "pandas": pandas_batch,
    }
    check_agreement({name: function() for name, function in functions.items()}, f"rebuild of {n}")
    return per_series(best(functions, repeats), n)


def time_readings(n: int, repeats: int) -> Times:
    """Building and encoding, and decoding, the readings of ``n`` series, per series."""
    newest = Candles.walk(HISTORY + 1, n)
    ours = Ours(newest.before_the_last(), newest)
    symbols = [f"C{k}-USD" for k in range(n)]

    def encode() -> list[bytes]:
        built = build_readings(
            ours.states,
            ours.rows,
            exchange="coinbase",
            epoch=START,
            symbols=symbols,
            timeframes=[TF] * n,
            revisions=[0] * n,
        )
        return [encode_reading(reading, state) for reading, state in built]

    texts = encode()
    functions = {"encode": encode, "decode": lambda: [decode_reading(text) for text in texts]}
    return per_series(best(functions, repeats), n)


def time_alerts(repeats: int) -> dict[str, float]:
    """The default rules at one reading, the making of its point included.

    One candle at a time of each series in turn, after 2,000 candles that the memories are full of.
    """
    before, slots, many = 2_000, 200, 20
    swing = 100 * np.sin(np.arange(before + slots) / 4)[:, None] * np.ones(many)
    walk = Candles.walk(60 + before + slots, many)
    walked = rebuild_ours(States.fresh(many), walk)[60:]
    courses = {
        "idle": swing,
        "random walk": walked,
        "swing over +-400, an alert at every third candle": 4 * swing,
    }
    return {
        name: min(time_rules(macdv, before) for _ in range(max(3, repeats // 5)))
        for name, macdv in courses.items()
    }


def time_rules(macdv: Floats, before: int) -> float:
    """The default rules along ``macdv`` (candles, series), from the candle ``before`` on."""
    slots, many = macdv.shape
    signal = begun_with_mean(pd.DataFrame(macdv), 1, 2 / 10).to_numpy()
    codes = stages(macdv, signal, np.zeros(macdv.shape, np.int64))
    above = macdv - signal
    columns = (macdv, signal, above, codes)
    readings = [list(zip(*(x[t].tolist() for x in columns), strict=True)) for t in range(slots)]
    rules = [rule for rule in DEFAULT_RULES if rule.covers("BTC-USD", TF)]

    def point(t: int, k: int) -> Point:
        v, s, histogram, code = readings[t][k]
        return Point(START + t * TF.ms, v, s, histogram, STAGES[code], 100.0, t)

    memories, newest = [Memory() for _ in range(many)], []
    for k, memory in enumerate(memories):
        adopt(rules, memory, (), TF.ms, now=START)
        points = [point(t, k) for t in range(before)]
        evaluate(rules, memory, points, TF.ms, previous=None)
        newest.append(points[-1])

    def evaluate_all() -> None:
        for t in range(before, slots):
            for k, memory in enumerate(memories):
                here = point(t, k)
                evaluate(rules, memory, (here,), TF.ms, previous=newest[k])
                newest[k] = here

    return microseconds(evaluate_all) / float((slots - before) * many)


def check_agreement(found: Mapping[str, Floats], what: str) -> None:
    """Raise if MACD-V or signal of anyone differ from ours by more than 1e-9."""
    ours = found["livermore"]
    for name, numbers in found.items():
        apart = np.max(np.abs(numbers - ours))
        if not apart <= 1e-9:
            raise AssertionError(f"{what}: {name} is {apart} off, so it does other work")


@frozen
class Times:
    """Microseconds by name."""

    in_a_row: dict[str, float]
    after_others: dict[str, float]
    """Of the first call after the others had their turn: caches hold nothing of it."""

    def ahead(self) -> dict[str, Any]:
        """The fastest of the others, and how many times as long as we it takes."""
        others = {name: us for name, us in self.in_a_row.items() if name != "livermore"}
        name = min(others, key=lambda other: others[other])
        return {
            "than": name,
            "times": others[name] / self.in_a_row["livermore"],
            "times_after_others": self.after_others[name] / self.after_others["livermore"],
        }


def best(functions: Mapping[str, Callable[[], object]], turns: int) -> Times:
    """The fastest call of each; in every turn each is called for 5 ms, at least twice."""
    again = dict.fromkeys(functions, math.inf)
    first = dict.fromkeys(functions, math.inf)
    gc.collect()
    gc.disable()
    for _ in range(turns):
        for name, function in functions.items():
            spent = took = microseconds(function)
            first[name] = min(first[name], took)
            while spent < 5_000 or spent == took:
                took = microseconds(function)
                again[name] = min(again[name], took)
                spent += took
    gc.enable()
    return Times(again, first)


def microseconds(function: Callable[[], object]) -> float:
    """Of one call."""
    begun = time.perf_counter_ns()
    function()
    return (time.perf_counter_ns() - begun) / 1_000


def per_series(times: Times, n: int) -> Times:
    """``times`` of ``n`` series, of each of them."""
    return Times(
        {name: us / n for name, us in times.in_a_row.items()},
        {name: us / n for name, us in times.after_others.items()},
    )


def rounded(value: Any) -> Any:
    """With three digits that mean something."""
    if isinstance(value, dict):
        return {key: rounded(x) for key, x in value.items()}
    return float(f"{value:.3g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
