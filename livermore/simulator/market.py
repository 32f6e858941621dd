"""The market that keeps the truth: the tape of every listing, and candles folded from it."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable

import attrs
import numpy as np

from livermore.errors import ConfigurationError
from livermore.market.timeframe import DAY
from livermore.simulator.listing import Listing
from livermore.simulator.replay import Replay, read_replay
from livermore.simulator.slots import SLOT, SLOTS_PER_DAY, Slots, fold
from livermore.simulator.tape import SLOT_NS, Halt, Tape
from livermore.simulator.trades import NS, Row


@attrs.frozen
class Candle:
    """One candle as the market made it: prices in ticks, volume in units."""

    open_time: int
    """ms"""
    row: Row


@attrs.frozen
class Day:
    """What happened in the 24 hours before a moment, to the slot."""

    volume: int
    high: int
    low: int
    reference: int
    """The price 24 hours ago, in ticks."""


class Market:
    """All listings by symbol. Pure: time is an argument."""

    def __init__(
        self,
        listed: Iterable[Listing],
        seed: int,
        start: int,
        history_days: int,
        replays: tuple[tuple[str, pathlib.Path], ...] = (),
    ) -> None:
        self.start = start
        self.listed_since = start - start % DAY - history_days * DAY
        """Nothing traded before (ms)."""
        made = {listing.symbol: listing for listing in listed}
        self._tapes: dict[str, Tape] = {}
        files: dict[str, Replay] = {}
        for symbol, path in replays:
            files[symbol] = replay = read_replay(path, start)
            made[symbol] = _like(replay, symbol, made.get(symbol))
        for symbol, listing in made.items():
            self._tapes[symbol] = Tape(listing, seed, start // DAY, files.get(symbol))

    @property
    def listings(self) -> list[Listing]:
        return [tape.listing for tape in self._tapes.values()]

    @property
    def followed(self) -> list[str]:
        """Symbols asked for, busiest first."""
        return [listing.symbol for listing in self.listings if listing.followed]

    def __contains__(self, symbol: object) -> bool:
        return symbol in self._tapes

    def tape(self, symbol: str) -> Tape:
        return self._tapes[symbol]

    def listing(self, symbol: str) -> Listing:
        return self._tapes[symbol].listing

    def halt(self, since: int, until: int, symbols: list[str] | None = None) -> None:
        """No trades in these symbols (all by default) from ``since`` until ``until`` (ns)."""
        for symbol in symbols or list(self._tapes):
            self._tapes[symbol].halt(Halt(since, until))

    def candles(self, symbol: str, length: int, first: int, last: int, now: int) -> list[Candle]:
        """Candles of ``length`` ms that traded, open times ``first`` … ``last`` (ms, inclusive).

        Only trades before ``now`` (ns) count, so the last one may still be running.
        """
        if length < SLOT:
            return self._minutes(symbol, length, first, last, now)
        first = max(first, self.listed_since)
        first -= first % length
        last = min(last, now // NS) // length * length
        if last < first:
            return []
        rows = self._folded(symbol, length, first, last, now)
        found = np.flatnonzero(rows.count)
        columns = zip(
            *(
                getattr(rows, name)[found].tolist()
                for name in ("open", "high", "low", "close", "volume", "count")
            ),
            strict=True,
        )
        return [
            Candle(rows.open_time(at), Row(*values))
            for at, values in zip(found.tolist(), columns, strict=True)
        ]

    def truth(self, symbol: str, length: int, first: int, last: int, now: int) -> list[Candle]:
        """Like :meth:`candles`, but every closed slot, empty ones flat at the close before them."""
        last = min(last, now // NS // length * length - length)
        traded = {c.open_time: c for c in self.candles(symbol, length, first, last, now)}
        first = max(first - first % length, -(-self.listed_since // length) * length)
        before = self.last_close(symbol, first)
        whole: list[Candle] = []
        for open_time in range(first, last + 1, length):
            candle = traded.get(open_time)
            if candle is None:
                if before is None:
                    continue  # nothing has ever traded: there is no price to be flat at
                candle = Candle(open_time, Row(before, before, before, before, 0, 0))
            before = candle.row.close
            whole.append(candle)
        return whole

    def partial(self, symbol: str, slot: int, until: int) -> Row:
        """The five-minute candle of ``slot`` made by trades before ``until`` (ns)."""
        tape = self._tapes[symbol]
        if until >= (slot + 1) * SLOT_NS:
            return tape.row(slot)
        trades = tape.trades(slot)
        return trades.fold(0, trades.before(until))

    def last_close(self, symbol: str, before: int) -> int | None:
        """Close of the newest slot that traded before the slot of ``before`` (ms), in ticks."""
        if self._tapes[symbol].dead:
            return None
        slot, oldest = before // SLOT, self.listed_since // SLOT
        stride = SLOTS_PER_DAY
        while slot > oldest:
            count = min(stride, slot - oldest)
            rows = self._tapes[symbol].slots(slot - count, count)
            found = np.flatnonzero(rows.count)
            if len(found):
                return int(rows.close[found[-1]])
            slot -= count
        return None

    def last_price(self, symbol: str, now: int) -> int:
        """Price (ticks) of the newest trade before ``now`` (ns)."""
        row = self.partial(symbol, now // SLOT_NS, now)
        if row.count:
            return row.close
        close = self.last_close(symbol, now // NS)
        listing = self.listing(symbol)
        return round(listing.price * listing.tick) if close is None else close

    def day_before(self, symbol: str, slot: int) -> Day:
        """The 24 hours before the start of ``slot``."""
        rows = self._tapes[symbol].slots(slot - SLOTS_PER_DAY, SLOTS_PER_DAY)
        found = np.flatnonzero(rows.count)
        if not len(found):
            price = self.last_price(symbol, slot * SLOT_NS)
            return Day(0, price, price, price)
        return Day(
            int(rows.volume.sum()),
            int(rows.high[found].max()),
            int(rows.low[found].min()),
            int(rows.open[found[0]]),
        )

    def _folded(self, symbol: str, length: int, first: int, last: int, now: int) -> Slots:
        children = length // SLOT
        slot, count = first // SLOT, (last - first) // SLOT + children
        rows = self._tapes[symbol].slots(slot, count)
        running = now // SLOT_NS
        if running < slot + count:
            rows = _until(rows, running, self.partial(symbol, running, now))
        return fold(rows, children)

    def _minutes(self, symbol: str, length: int, first: int, last: int, now: int) -> list[Candle]:
        found: list[Candle] = []
        tape = self._tapes[symbol]
        for slot in range(first // SLOT, min(last, now // NS) // SLOT + 1):
            trades = tape.trades(slot)
            for open_time in range(slot * SLOT, (slot + 1) * SLOT, length):
                begin, end = open_time * NS, min((open_time + length) * NS, now)
                row = trades.fold(trades.before(begin), trades.before(end))
                if row.count and first <= open_time <= last:
                    found.append(Candle(open_time, row))
        return found


def _until(rows: Slots, running: int, row: Row) -> Slots:
    """The rows as seen while ``running`` has only made ``row`` and nothing later exists."""
    at = running - rows.first
    columns = {
        name: getattr(rows, name).copy()
        for name in ("open", "high", "low", "close", "volume", "count")
    }
    for name, column in columns.items():
        column[at:] = 0
        column[at] = getattr(row, name)
    return Slots(rows.first, rows.length, **columns)


def _like(replay: Replay, symbol: str, listing: Listing | None) -> Listing:
    if listing is None:
        base, dash, quote = symbol.partition("-")
        if not (base and dash and quote):
            raise ConfigurationError(f"replay: {symbol!r} is not a symbol like BTC-USD")
        listing = Listing(symbol, base, quote, base, quote, 1.0, 2, 8, 200.0, 0.0008)
    return attrs.evolve(
        listing,
        price=replay.last_price,
        price_decimals=replay.price_decimals,
        size_decimals=replay.size_decimals,
        silence=0.0,
        followed=True,
    )
