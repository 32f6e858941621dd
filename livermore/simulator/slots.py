"""Rows of candles as integer arrays: prices in ticks, volumes in units, so that sums are exact."""

from __future__ import annotations

import attrs
import numpy as np

from livermore.market.timeframe import MINUTE
from livermore.simulator.chance import Ints

SLOT = 5 * MINUTE
"""Length of the shortest slot in ms; every longer candle is folded from these."""

SLOTS_PER_DAY = 288

_NEVER = np.int64(2**62)


@attrs.frozen(eq=False)
class Slots:
    """Consecutive candles of one length. Where ``count`` is 0 nothing traded and all is 0."""

    first: int
    """Index of the first row: its open time divided by ``length``."""
    length: int
    """Length of each row in ms."""
    open: Ints
    high: Ints
    low: Ints
    close: Ints
    volume: Ints
    count: Ints

    def __len__(self) -> int:
        return len(self.count)

    def open_time(self, row: int) -> int:
        """Open time (ms) of a row."""
        return (self.first + row) * self.length

    def cut(self, first: int, count: int) -> Slots:
        """``count`` rows from index ``first`` on."""
        at = slice(first - self.first, first - self.first + count)
        return Slots(
            first,
            self.length,
            self.open[at],
            self.high[at],
            self.low[at],
            self.close[at],
            self.volume[at],
            self.count[at],
        )


def joined(parts: list[Slots]) -> Slots:
    """Neighbouring rows as one."""
    return Slots(
        parts[0].first,
        parts[0].length,
        *(
            np.concatenate([getattr(part, column) for part in parts])
            for column in ("open", "high", "low", "close", "volume", "count")
        ),
    )


def fold(slots: Slots, children: int) -> Slots:
    """Every ``children`` rows as one; the rows must be aligned and whole."""
    rows = len(slots) // children
    if slots.first % children or len(slots) % children:
        raise ValueError(f"rows {slots.first}+{len(slots)} do not lie on a grid of {children}")
    traded = (slots.count > 0).reshape(rows, children)
    first = traded.argmax(axis=1)
    last = children - 1 - traded[:, ::-1].argmax(axis=1)
    each = np.arange(rows)
    alive = traded.any(axis=1)
    high = np.where(traded, slots.high.reshape(rows, children), 0).max(axis=1)
    low = np.where(traded, slots.low.reshape(rows, children), _NEVER).min(axis=1)
    return Slots(
        slots.first // children,
        slots.length * children,
        np.where(alive, slots.open.reshape(rows, children)[each, first], 0),
        np.where(alive, high, 0),
        np.where(alive, low, 0),
        np.where(alive, slots.close.reshape(rows, children)[each, last], 0),
        np.where(traded, slots.volume.reshape(rows, children), 0).sum(axis=1),
        slots.count.reshape(rows, children).sum(axis=1),
    )
