"""A series along its candles: the reading at each of them.

What is found here is what was, or would have been, published at that candle, the reasons for which
it is withheld included.
"""

from __future__ import annotations

import numpy as np

from livermore.market.candle import Kind
from livermore.signals.anchor import Start
from livermore.signals.macdv import replay
from livermore.signals.reading import Reading, build_readings
from livermore.signals.state import States


def states_along(start: Start) -> States:
    """Row k is the state of the series after ``start.candles[k]``."""
    candles = start.candles
    states = States.fresh(1) if start.state is None else States.of([start.state])
    if not candles:
        return States.fresh(0)
    steps = replay(
        states,
        np.arange(1),
        np.array([[c.open_time] for c in candles]),
        np.array([[c.high] for c in candles]),
        np.array([[c.low] for c in candles]),
        np.array([[c.close] for c in candles]),
        np.array([[c.kind is Kind.EMPTY] for c in candles]),
        candles[0].series.timeframe.ms,
    )
    return steps.course(0)


def readings_along(start: Start, newest: int) -> list[Reading]:
    """The readings at the newest so many of ``start.candles``, oldest first; of epoch 0."""
    candles = start.candles[-newest:]
    if not candles:
        return []
    series, n, m = candles[0].series, len(candles), len(start.candles)
    built = build_readings(
        states_along(start),
        np.arange(m - n, m),
        exchange=series.exchange,
        epoch=0,
        symbols=[series.symbol] * n,
        timeframes=[series.timeframe] * n,
        revisions=[candle.revision for candle in candles],
    )
    return [reading for reading, _ in built]
