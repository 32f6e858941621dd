"""What MACD-V costs, as JSON on standard output: microseconds, the best of several runs.

``advance`` and ``encode`` are per series, for one close of every series in a batch; ``rebuild`` is
the whole of a replay from stored candles.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable

import msgspec
import numpy as np

from livermore.market.timeframe import Timeframe
from livermore.signals.macdv import advance, replay
from livermore.signals.reading import build_readings, decode_reading
from livermore.signals.state import Floats, Ints, States

TF = Timeframe.M5
START = 1_700_000_100_000


def main() -> None:
    """Measure and print."""
    advanced, encoded, decoded = {}, {}, {}
    for n in (1, 100, 1_000, 10_000):
        advanced[n], encoded[n], decoded[n] = closes(n)
    rebuilt = {
        f"{candles} candles x {n} series": rebuild(candles, n)
        for candles in (300, 1_000)
        for n in (1, 500)
    }
    report = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "msgspec": msgspec.__version__,
        "machine": platform.machine(),
        "unit": "microseconds",
        "advance_per_series": advanced,
        "encode_per_series": encoded,
        "decode_per_series": decoded,
        "rebuild": rebuilt,
    }
    print(json.dumps(report, indent=2))


def walk(candles: int, n: int) -> tuple[Ints, Floats, Floats, Floats]:
    """Open time, high, low and close of ``n`` random walks, shape (candles, n)."""
    dice = np.random.default_rng(1)
    close = 100 * np.exp(np.cumsum(dice.normal(0, 0.002, (candles, n)), axis=0))
    reach = close * dice.uniform(0, 0.003, (candles, n))
    open_time = np.broadcast_to(START + np.arange(candles)[:, None] * TF.ms, (candles, n))
    return open_time, close + reach, close - reach, close


def closes(n: int) -> tuple[float, float, float]:
    """One close for each of ``n`` series in one batch: advance, build and encode, decode."""
    repeats = max(20, 20_000 // n)
    warm = 300
    open_time, high, low, close = walk(warm + 1, n)
    states, rows = States.fresh(n), np.arange(n)
    dense = np.zeros(n, np.bool_)
    whole = np.zeros((warm, n), np.bool_)
    replay(states, rows, open_time[:-1], high[:-1], low[:-1], close[:-1], whole, TF.ms)
    rows = np.random.default_rng(2).permutation(n)
    at = open_time[-1].copy()

    def one_close() -> None:
        advance(states, rows, at, high[-1], low[-1], close[-1], dense, TF.ms)
        at[:] += TF.ms

    symbols = [f"C{k}-USD" for k in range(n)]
    timeframes, revisions = [TF] * n, [0] * n

    def one_reading() -> list[bytes]:
        built = build_readings(
            states,
            rows,
            exchange="coinbase",
            epoch=START,
            symbols=symbols,
            timeframes=timeframes,
            revisions=revisions,
        )
        return [text for _, text in built]

    texts = one_reading()
    advanced = best(one_close, repeats) / n
    encoded = best(one_reading, repeats) / n
    decoded = best(lambda: [decode_reading(text) for text in texts], repeats) / n
    return round(advanced, 3), round(encoded, 3), round(decoded, 3)


def rebuild(candles: int, n: int) -> float:
    """Fresh states for ``n`` series and ``candles`` of each through them."""
    open_time, high, low, close = walk(candles, n)
    empty = np.zeros((candles, n), np.bool_)

    def once() -> None:
        replay(States.fresh(n), np.arange(n), open_time, high, low, close, empty, TF.ms)

    return round(best(once, 5), 1)


def best(function: Callable[[], object], repeats: int) -> float:
    """Microseconds of the fastest of ``repeats`` calls."""
    fastest = float("inf")
    for _ in range(repeats):
        begun = time.perf_counter_ns()
        function()
        fastest = min(fastest, (time.perf_counter_ns() - begun) / 1_000)
    return fastest


if __name__ == "__main__":
    main()
