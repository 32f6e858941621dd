"""MACD-V, one candle at a time, for all series of a batch at once.

::

    MACD-V    = 100 * (EMA12 - EMA26) / ATR26           (A. Spiroglou, "MACD-V", 2022)
    signal    = EMA9 of MACD-V
    histogram = MACD-V - signal

An EMA starts as the mean of its first n values. The true range of the first candle is high - low,
then max(high - low, |high - previous close|, |low - previous close|); the ATR is Wilder's over 26,
started as the mean of the first 26 ranges. Empty candles enter the EMAs, flat at the previous
close, and are skipped by the ATR: a market that did not trade is not a market without volatility.
On a series without empty candles the first MACD-V is at index 25 and the first signal at index 33;
before that nothing, never 0.

Without volatility (an ATR of 0, or one so small that the quotient shows nothing but the rounding of
the EMAs) MACD-V is undefined at that candle. Such a candle is no member of the sequence the signal
averages: the signal stands still, and the row of calm closes ends.

Every operation is element by element and correctly rounded, and no sum depends on the order or size
of a batch. So a row has the same bits whatever its neighbours, however often it was saved and
restored, and whether it got here by :func:`advance` or by :func:`replay`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from livermore.signals.stage import CALM
from livermore.signals.state import (
    FAST,
    FLOATS,
    INTS,
    LEAST_ATR,
    SLOW,
    SMOOTH,
    Floats,
    Ints,
    States,
)

_WEIGHTS = np.array([[2 / (FAST + 1)], [2 / (SLOW + 1)]])
"""Of the newest close in the two EMAs."""


def advance(
    states: States,
    rows: Ints,
    open_time: Ints,
    high: Floats,
    low: Floats,
    close: Floats,
    empty: NDArray[np.bool_],
    tf_ms: int | Ints,
) -> None:
    """One candle enters each of ``rows``, all arrays of shape (k,), times in ms.

    Raises ``ValueError`` if a row occurs twice or a candle is not later than the newest of its
    series, and then changes nothing. A candle that leaves slots out is taken, and the newest of
    the missing ones remembered.
    """
    order = np.arange(len(rows))
    last = np.empty(len(states), np.int64)
    ints, floats = states.gather(rows)
    last[rows] = order
    if np.count_nonzero(last[rows] != order):
        raise ValueError("a row occurs twice in one step")
    with np.errstate(all="ignore"):
        _step(ints, floats, open_time, high, low, close, empty, tf_ms)
    states.scatter(rows, ints, floats)


@frozen(eq=False)
class Steps:
    """What :func:`replay` passed through: every field of the states, NaN where there is no number.

    ``_ints`` is of shape (7, m, k), ``_floats`` of (9, m, k); the other arrays are of (m, k).
    """

    _ints: Ints
    _floats: Floats

    def column(self, name: str) -> NDArray[Any]:
        """The field ``name`` of every state, shape (m, k)."""
        ints, floats = self._ints, self._floats
        found: NDArray[Any] = ints[INTS.index(name)] if name in INTS else floats[FLOATS.index(name)]
        return found

    def course(self, k: int, present: NDArray[np.bool_] | None = None) -> States:
        """The states of series ``k`` after each of its candles, oldest first, one to a row."""
        at = slice(None) if present is None else present[:, k]
        ints, floats = self._ints[:, at, k], self._floats[:, at, k]
        return States(ints, floats, ints.shape[1])

    @property
    def ema12(self) -> Floats:
        """The fast EMA."""
        return self.column("ema12")

    @property
    def ema26(self) -> Floats:
        """The slow EMA."""
        return self.column("ema26")

    @property
    def atr26(self) -> Floats:
        """The ATR."""
        return self.column("atr26")

    @property
    def macdv(self) -> Floats:
        """MACD-V."""
        return self.column("macdv")

    @property
    def signal(self) -> Floats:
        """The EMA of MACD-V."""
        return self.column("signal")

    @property
    def calm(self) -> Ints:
        """Calm closes in a row."""
        return self.column("calm")

    @property
    def histogram(self) -> Floats:
        """MACD-V minus its signal."""
        return self.macdv - self.signal


def replay(
    states: States,
    rows: Ints,
    open_time: Ints,
    high: Floats,
    low: Floats,
    close: Floats,
    empty: NDArray[np.bool_],
    tf_ms: int | Ints,
    present: NDArray[np.bool_] | None = None,
) -> Steps:
    """Up to m candles enter each of ``rows``: arrays of shape (m, k), oldest first.

    ``tf_ms`` is one number or of shape (k,). Where ``present`` is False there is no candle: series
    of unequal length share a matrix, and what the other matrices hold there is not looked at.
    Raises, and then changes nothing, as :func:`advance` does.
    """
    if len(np.unique(rows)) != len(rows):
        raise ValueError("a row occurs twice in one replay")
    ints, floats = states.gather(rows)
    if present is None:
        present = np.ones(open_time.shape, np.bool_)
    lengths = np.broadcast_to(np.asarray(tf_ms, np.int64), len(rows))
    passed = np.zeros((len(INTS), *open_time.shape), np.int64)
    trail = np.full((len(FLOATS), *open_time.shape), math.nan)
    everyone: list[bool] = np.all(present, axis=1).tolist()
    with np.errstate(all="ignore"):
        for t, whole in enumerate(everyone):
            if whole:
                _step(ints, floats, open_time[t], high[t], low[t], close[t], empty[t], lengths)
                trail[:, t], passed[:, t] = floats, ints
                continue
            k = np.flatnonzero(present[t])
            if not len(k):
                continue
            i, f = ints[:, k], floats[:, k]
            slot = (open_time[t, k], high[t, k], low[t, k], close[t, k], empty[t, k])
            _step(i, f, *slot, lengths[k])
            ints[:, k], floats[:, k] = i, f
            trail[:, t, k], passed[:, t, k] = f, i
    states.scatter(rows, ints, floats)
    return Steps(passed, trail)


def _step(
    ints: Ints,
    floats: Floats,
    open_time: Ints,
    high: Floats,
    low: Floats,
    close: Floats,
    empty: NDArray[np.bool_],
    tf_ms: int | Ints,
) -> None:
    """The recursion, in place on gathered columns; NaN means "not yet" until a seed replaces it."""
    newest, gap_time, count, observed, values, calm, cross = ints
    before, ema12, ema26, atr26, macdv, signal, close_sum, range_sum, macdv_sum = floats

    expected = newest + tf_ms
    astray = (open_time != expected) & (count > 0)
    if np.count_nonzero(astray):
        early = np.flatnonzero(astray & (open_time < expected)).tolist()
        if early:
            k = early[0]
            raise ValueError(f"a candle at {open_time[k]} is not later than the one at {newest[k]}")
        gap_time[astray] = (open_time - tf_ms)[astray]
    newest[:] = open_time
    count += 1
    # With nine MACD-V values behind it, no average of a series is at its beginning.
    young = np.count_nonzero(values < SMOOTH) > 0

    both = floats[1:3]  # ema12 and ema26
    both += (close - both) * _WEIGHTS
    if young:  # one sum serves both seeds: their first closes are the same
        close_sum += np.where(count <= SLOW, close, 0.0)
        np.copyto(ema12, close_sum / FAST, where=count == FAST)
        np.copyto(ema26, close_sum / SLOW, where=count == SLOW)
        close_sum[count >= SLOW] = 0.0

    traded = ~empty
    observed += traded
    # The greatest of the three ranges, to the last bit: rounding keeps the order of what it rounds.
    # fmax and fmin pass over the NaN that the first candle has for a previous close.
    reach = np.fmax(high, before) - np.fmin(low, before)
    np.add(atr26, (reach - atr26) / SLOW, out=atr26, where=traded)
    if young:
        seeding = traded & (observed <= SLOW)
        range_sum += np.where(seeding, reach, 0.0)
        np.copyto(atr26, range_sum / SLOW, where=seeding & (observed == SLOW))
        range_sum[observed >= SLOW] = 0.0
    before[:] = close

    np.multiply(ema12 - ema26, 100.0, out=macdv)
    macdv /= atr26
    defined = np.isfinite(macdv) & (atr26 > LEAST_ATR * close)
    np.copyto(macdv, math.nan, where=~defined)
    values += defined
    np.add(signal, (macdv - signal) * (2 / (SMOOTH + 1)), out=signal, where=defined)
    if young:
        seeding = defined & (values <= SMOOTH)
        macdv_sum += np.where(seeding, macdv, 0.0)
        np.copyto(signal, macdv_sum / SMOOTH, where=seeding & (values == SMOOTH))
        macdv_sum[values >= SMOOTH] = 0.0
    calm += 1
    calm *= np.abs(macdv) < CALM
    side = np.where(macdv >= signal, 1, -1)
    side *= defined & (values >= SMOOTH) if young else defined
    cross *= cross * side >= 0  # on the other side the row begins anew
    cross += side
