"""Trades that make up one slot: from a candle to the trades of which it is the exact fold.

The direction is deliberate. Deciding the candle first makes any slot of a year of history cheap,
and a replayed candle of a real exchange is then no special case.
"""

from __future__ import annotations

import attrs
import numpy as np
from numpy.typing import NDArray

from livermore.simulator.chance import Ints, uniform
from livermore.simulator.slots import SLOT

NS = 1_000_000
"""Nanoseconds in a millisecond."""

_SLOT_US = SLOT * 1_000


@attrs.frozen
class Row:
    """One candle in ticks and units, and how many trades made it."""

    open: int
    high: int
    low: int
    close: int
    volume: int
    count: int


EMPTY = Row(0, 0, 0, 0, 0, 0)


@attrs.frozen(eq=False)
class Trades:
    """The trades of one slot, oldest first; ids are ``first_id``, ``first_id + 1``, …"""

    first_id: int
    time: Ints
    """ns since the epoch, whole microseconds, never decreasing."""
    price: Ints
    size: Ints
    buy: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.time)

    def before(self, time: int) -> int:
        """How many of them happened before ``time`` (ns)."""
        return int(np.searchsorted(self.time, time, side="left"))

    def fold(self, start: int = 0, stop: int | None = None) -> Row:
        """The candle made by trades ``start`` to ``stop``."""
        price = self.price[start:stop]
        if len(price) == 0:
            return EMPTY
        return Row(
            int(price[0]),
            int(price.max()),
            int(price.min()),
            int(price[-1]),
            int(self.size[start:stop].sum()),
            len(price),
        )


def fewest(row: Row) -> int:
    """How many trades a candle needs at least: both ends, and one per wick."""
    wicks = (row.high > max(row.open, row.close)) + (row.low < min(row.open, row.close))
    return wicks + 2 if wicks or row.open != row.close else 1


def synthesise(row: Row, slot: int, key: int, first_id: int) -> Trades:
    """Trades whose fold is exactly ``row``; ``row.count`` must be 0 or at least ``fewest(row)``."""
    n = row.count
    index = np.arange(n, dtype=np.int64) + slot * 1_000_003
    nothing = np.zeros(0, dtype=np.int64)
    if n == 0:
        return Trades(first_id, nothing, nothing, nothing, np.zeros(0, dtype=np.bool_))
    return Trades(
        first_id,
        _times(n, slot, key, index),
        (price := _prices(row, n, key, index)),
        _sizes(row.volume, n, key, index),
        _sides(price, key, index),
    )


def _times(n: int, slot: int, key: int, index: Ints) -> Ints:
    offsets = np.sort(uniform(key ^ 0x71, index)) * _SLOT_US
    # One taker order fills against several makers: about a quarter share the stamp before them.
    together = uniform(key ^ 0x72, index) < 0.25
    together[0] = False
    offsets = np.maximum.accumulate(np.where(together, 0.0, offsets))
    stamps: Ints = (np.int64(slot) * _SLOT_US + offsets.astype(np.int64)) * 1_000
    return stamps


def _prices(row: Row, n: int, key: int, index: Ints) -> Ints:
    if n == 1:
        return np.array([row.close], dtype=np.int64)
    steps = uniform(key ^ 0x73, index) - 0.5
    path = np.cumsum(steps)
    along = np.linspace(0.0, 1.0, n)
    path -= path[0] + (path[-1] - path[0]) * along  # a bridge: both ends at zero
    reach = max(float(np.abs(path).max()), 1e-9)
    path *= 0.6 * (row.high - row.low) / reach
    price = np.rint(row.open + (row.close - row.open) * along + path).astype(np.int64)
    price = np.clip(price, row.low, row.high)
    price[0], price[-1] = row.open, row.close
    inner = price[1:-1]
    if n > 2:
        top, bottom = int(inner.argmax()), int(inner.argmin())
        if top == bottom:  # all inner prices equal: any two positions will do
            bottom = (top + 1) % len(inner)
        if row.high > max(row.open, row.close):
            inner[top] = row.high
        if row.low < min(row.open, row.close):
            inner[bottom] = row.low
    return price


def _sizes(volume: int, n: int, key: int, index: Ints) -> Ints:
    weight = -(np.log1p(-uniform(key ^ 0x74, index)) ** 3)  # many small, a few large
    weight = np.abs(weight) + 1e-12
    size: Ints = 1 + np.floor((volume - n) * (weight / weight.sum())).astype(np.int64)
    size[int(size.argmax())] += volume - int(size.sum())
    return size


def _sides(price: Ints, key: int, index: Ints) -> NDArray[np.bool_]:
    drift = np.sign(np.diff(price, prepend=price[0])) * 0.3
    return np.asarray(uniform(key ^ 0x75, index) + drift > 0.5)
