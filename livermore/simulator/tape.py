"""One symbol's whole past and future: its slots, and the trades of any slot.

A tape is a function of (seed, symbol, slot), cached by day. The log price is a sum of value noise
over octaves from 5 minutes to 113 days with amplitudes growing as the square root of the period:
a walk whose value at any slot is known without walking there.
"""

from __future__ import annotations

from collections import OrderedDict

import attrs
import numpy as np

from livermore.simulator.chance import Floats, Ints, key_of, uniform
from livermore.simulator.listing import Listing
from livermore.simulator.replay import Replay
from livermore.simulator.slots import SLOT, SLOTS_PER_DAY, Slots, joined
from livermore.simulator.trades import NS, Row, Trades, synthesise

_OCTAVES = 16
_SILENT_BLOCK = 36
"""Slots in a block that may be silent as a whole: three hours."""
_MEAN_NOTIONAL = 500.0
"""Mean value of a trade in USD."""
_DAYS_KEPT = 24
_TRADES_KEPT = 8
_FIRST_ID = 400_000_000
SLOT_NS = SLOT * NS


@attrs.frozen
class Halt:
    """No trade happens from ``since`` until ``until`` (ns)."""

    since: int
    until: int


class Tape:
    """The slots and trades of one listing."""

    def __init__(self, listing: Listing, seed: int, anchor: int, replay: Replay | None) -> None:
        """``anchor``: the day (since the epoch) at which trade ids are pinned."""
        self.listing = listing
        self.key = key_of(seed, listing.symbol)
        self._path = key_of(seed, listing.path or listing.symbol)
        self._replay = replay
        self._halts: list[Halt] = []
        self._days: OrderedDict[int, Slots] = OrderedDict()
        self._trades: OrderedDict[int, Trades] = OrderedDict()
        self._anchor = anchor
        self._day_ids = {anchor: _FIRST_ID + self.key % 600_000_000}

    @property
    def dead(self) -> bool:
        """Whether nothing ever trades."""
        return self._replay is None and not self.listing.rate

    def slots(self, first: int, count: int) -> Slots:
        """``count`` five-minute rows from slot ``first`` on, whole ones, past or future."""
        day, last_day = first // SLOTS_PER_DAY, (first + count - 1) // SLOTS_PER_DAY
        if last_day - day >= _DAYS_KEPT // 2:
            start = day * SLOTS_PER_DAY  # a long stretch is one vectorised piece, not kept
            return self._made(start, (last_day - day + 1) * SLOTS_PER_DAY).cut(first, count)
        parts = [self._day(each) for each in range(day, last_day + 1)]
        return (parts[0] if len(parts) == 1 else joined(parts)).cut(first, count)

    def row(self, slot: int) -> Row:
        """One five-minute row."""
        return _row_at(self._day(slot // SLOTS_PER_DAY), slot % SLOTS_PER_DAY)

    def trades(self, slot: int) -> Trades:
        """The trades of a slot; the whole slot, also what is still to come."""
        kept = self._trades.get(slot)
        if kept is None:
            first_id = self.first_id(slot)
            kept = self._unhalted(self._raw_trades(slot, first_id), first_id)
            self._trades[slot] = kept
            if len(self._trades) > _TRADES_KEPT:
                self._trades.popitem(last=False)
        return kept

    def first_id(self, slot: int) -> int:
        """Id of the first trade at or after the start of a slot."""
        day = slot // SLOTS_PER_DAY
        return self._day_id(day) + int(self._day(day).count[: slot % SLOTS_PER_DAY].sum())

    def halt(self, halt: Halt) -> None:
        """Stop trading for a while. Only the future may be halted: the past is known already."""
        self._halts.append(halt)
        day = halt.since // (SLOT_NS * SLOTS_PER_DAY)
        for known in [d for d in self._days if d >= day]:
            del self._days[known]
        for known in [d for d in self._day_ids if d > max(day, self._anchor)]:
            del self._day_ids[known]
        self._trades.clear()

    def level(self, slots: Ints) -> Floats:
        """The price path (in quote units) at the start of slots: rough, for 52-week figures."""
        return np.exp(_walk(self._path, slots, self.listing.volatility)) * self.listing.price

    def _day(self, day: int) -> Slots:
        kept = self._days.get(day)
        if kept is None:
            kept = self._made(day * SLOTS_PER_DAY, SLOTS_PER_DAY)
            self._days[day] = kept
            if len(self._days) > _DAYS_KEPT:
                self._days.popitem(last=False)
        else:
            self._days.move_to_end(day)
        return kept

    def _day_id(self, day: int) -> int:
        ids = self._day_ids
        if day not in ids:
            if day > self._anchor:
                start = max(known for known in ids if known < day)
                for each in range(start, day):
                    ids[each + 1] = ids[each] + int(self._day(each).count.sum())
            else:
                start = min(known for known in ids if known > day)
                for each in range(start, day, -1):
                    ids[each - 1] = ids[each] - int(self._day(each - 1).count.sum())
        return ids[day]

    def _made(self, first: int, count: int) -> Slots:
        slots = self._source(first, count)
        for halt in self._halts:
            self._apply(halt, slots)
        return slots

    def _source(self, first: int, count: int) -> Slots:
        replay = self._replay
        if replay is None:
            return _seeded(
                self.listing, self.key, self._path, first, count, self.listing.price, None
            )
        parts: list[Slots] = []
        end = first + count
        if first < replay.first:
            n = min(end, replay.first) - first
            parts.append(self._chance(first, n, replay.first_price, replay.first))
        start, stop = max(first, replay.first), min(end, replay.end)
        if start < stop:
            parts.append(replay.slots.cut(start, stop - start))
        if end > replay.end:
            start = max(first, replay.end)
            parts.append(self._chance(start, end - start, replay.last_price, replay.end))
        return joined(parts)  # copies, so that halts never write into the replay

    def _chance(self, first: int, count: int, price: float, at: int | None) -> Slots:
        return _seeded(self.listing, self.key, self._path, first, count, price, at)

    def _raw_trades(self, slot: int, first_id: int) -> Trades:
        # A day already holds what halts have left; what they left is cut from the original.
        row = _row_at(self._source(slot, 1), 0) if self._halts else self.row(slot)
        return synthesise(row, slot, self.key, first_id)

    def _unhalted(self, trades: Trades, first_id: int) -> Trades:
        keep = np.ones(len(trades), dtype=np.bool_)
        for halt in self._halts:
            keep &= (trades.time < halt.since) | (trades.time >= halt.until)
        if keep.all():
            return trades
        return Trades(
            first_id, trades.time[keep], trades.price[keep], trades.size[keep], trades.buy[keep]
        )

    def _apply(self, halt: Halt, slots: Slots) -> None:
        first = max(halt.since // SLOT_NS, slots.first)
        last = min((halt.until - 1) // SLOT_NS, slots.first + len(slots) - 1)
        for slot in range(first, last + 1):
            row = self._unhalted(self._raw_trades(slot, 0), 0).fold()
            at = slot - slots.first
            slots.open[at], slots.high[at] = row.open, row.high
            slots.low[at], slots.close[at] = row.low, row.close
            slots.volume[at], slots.count[at] = row.volume, row.count


def _row_at(slots: Slots, at: int) -> Row:
    return Row(
        int(slots.open[at]),
        int(slots.high[at]),
        int(slots.low[at]),
        int(slots.close[at]),
        int(slots.volume[at]),
        int(slots.count[at]),
    )


def _walk(key: int, slots: Ints, volatility: float) -> Floats:
    total = np.zeros(len(slots))
    dense = int(slots[-1] - slots[0]) < 2 * len(slots)
    for octave in range(_OCTAVES):
        period = 1 << octave
        cell = slots >> octave
        here = key ^ (0x1000 + octave)
        if dense:
            first = int(cell[0])
            noise = uniform(here, np.arange(first, int(cell[-1]) + 2, dtype=np.int64))
            left, right = noise[cell - first], noise[cell - first + 1]
        else:
            left, right = uniform(here, cell), uniform(here, cell + 1)
        part = (slots - cell * period) / period
        total += (left + (right - left) * part - 0.5) * (2.0 * volatility * period**0.5)
    return total


def _seeded(
    listing: Listing,
    key: int,
    path_key: int,
    first: int,
    count: int,
    price: float,
    pinned: int | None,
) -> Slots:
    """Rows from chance; with ``pinned`` the path passes through ``price`` at that slot."""
    edges = np.arange(first, first + count + 1, dtype=np.int64)
    path = _walk(path_key, edges, listing.volatility)
    if pinned is not None:
        path = path - _walk(path_key, np.array([pinned], dtype=np.int64), listing.volatility)[0]
    ticks = np.exp(path) * (price * listing.tick)
    index = edges[:-1]
    counts = _counts(listing, key, index)
    opened = np.maximum(np.rint(ticks[:-1] + (uniform(key ^ 0x21, index) - 0.5) * 4.0), 1.0)
    closed = np.maximum(np.rint(ticks[1:]), 1.0)
    opened = np.where(counts == 1, closed, opened)
    swing = ticks[1:] * listing.volatility * 1.5
    above = np.rint(swing * uniform(key ^ 0x22, index) ** 2) * (counts >= 3)
    below = np.rint(swing * uniform(key ^ 0x23, index) ** 2) * (counts >= 4)
    high = np.maximum(opened, closed) + above
    low = np.maximum(np.minimum(opened, closed) - below, 1.0)
    units = _MEAN_NOTIONAL / listing.price * listing.unit
    size = units * np.exp(1.2 * (uniform(key ^ 0x24, index) + uniform(key ^ 0x25, index) - 1.0))
    volume = np.maximum(np.rint(size * counts), counts)
    alive = counts > 0
    opened, high, low, closed, volume = (
        np.where(alive, column, 0).astype(np.int64)
        for column in (opened, high, low, closed, volume)
    )
    return Slots(first, SLOT, opened, high, low, closed, volume, counts)


def _counts(listing: Listing, key: int, index: Ints) -> Ints:
    bell = sum((uniform(key ^ (0x31 + n), index) for n in range(3)), np.zeros(len(index))) - 1.5
    hour = (index % SLOTS_PER_DAY) / SLOTS_PER_DAY
    busy = 1.0 + 0.4 * np.sin((hour - 0.35) * 2.0 * np.pi)
    rate = listing.rate * busy * np.exp(bell - 0.125)
    counts = np.floor(rate + uniform(key ^ 0x36, index)).astype(np.int64)
    silent = uniform(key ^ 0x37, index // _SILENT_BLOCK) < listing.silence
    quiet: Ints = np.where(silent, 0, counts)
    return quiet
