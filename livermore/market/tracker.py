"""From events to closes and gaps.

One tracker per shard. It outlives its connections: trade ids belong to the exchange, so a chain of
ids that goes on after a reconnect proves that nothing was missed. What a connection numbers itself
(``sequence``) is never compared with another connection's.

A slot closes *by trades*: we hold every trade since before its start (``complete_from``), and either
a later trade of the same unbroken chain is there, or the connection was whole and the exchange's
clock passed the end by ``settle``. What cannot be proved waits for the candle channel's final sample;
what that does not show either is missing, and REST is asked. Nothing is invented.

Everything here is synchronous and called from the receive loop.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal

import attrs

from livermore.errors import ImpossibleCandle
from livermore.market.candle import Candle, Evidence, Series, empty, same_volume
from livermore.market.clock import ExchangeClock
from livermore.market.events import (
    Acknowledged,
    Event,
    Frame,
    Heartbeat,
    Rejected,
    Sample,
    Ticker,
    Trade,
    Trades,
)
from livermore.market.timeframe import Timeframe

HEARD = 500
"""A frame stamped this long (ms) after a slot's end has been read before the slot closes by the
clock: frames come in order, so all trades of the slot were read before it."""
AHEAD = 20_000
"""Trades kept per symbol while an id before them is missing."""
PROVABLE_PAST = 288
"""Slots before the connection that a snapshot of trades may prove."""
GRACE = 3.0
"""Seconds after connecting in which nothing is given up: the snapshots that may prove it are on their way."""
KEPT = 3
"""Slots per symbol kept after their end, for late trades and the candle channel's final sample."""


@attrs.define
class _Slot:
    """Trades of one slot, summed."""

    open: float
    high: float
    low: float
    close: float
    volume: Decimal

    def add(self, price: float, size: Decimal) -> None:
        self.high = max(price, self.high)
        self.low = min(price, self.low)
        self.close = price
        self.volume += size


@attrs.frozen
class Forming:
    """The running candle of a series, for the update channel only."""

    series: Series
    open_time: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    as_of: int


@attrs.frozen
class Missing:
    """A slot that ended and cannot be proved."""

    series: Series
    open_time: int
    cause: str


@attrs.frozen
class Suspect:
    """A stored slot that something contradicts: ask REST."""

    series: Series
    open_time: int
    cause: str


@attrs.define
class Pending:
    """What waits for the writer. Bounded by its shape: one entry per series and slot."""

    closes: dict[Series, dict[int, Candle]] = attrs.Factory(dict)
    past: dict[Series, dict[int, Candle]] = attrs.Factory(dict)
    forming: dict[Series, Forming] = attrs.Factory(dict)
    tickers: dict[str, Ticker] = attrs.Factory(dict)
    missing: dict[tuple[Series, int], Missing] = attrs.Factory(dict)
    suspects: dict[tuple[Series, int], Suspect] = attrs.Factory(dict)

    @property
    def urgent(self) -> bool:
        """Whether something waits that must not wait for the next turn."""
        return bool(self.closes or self.past or self.missing or self.suspects)

    def size(self) -> int:
        """Closed candles waiting."""
        return sum(map(len, self.closes.values())) + sum(map(len, self.past.values()))


@attrs.define
class _Tape:
    """What we know of one symbol's trades."""

    series: Series
    native: str
    closed_to: int | None = None
    """Open time of the newest slot that is settled: closed or given up as missing."""
    complete_from: int | None = None
    """Exchange time since which we hold every trade."""
    unsure_from: int | None = None
    """Exchange time since which trades may have been missed; None while the delivery is whole."""
    last_id: int | None = None
    last_time: int = -1
    last_price: float | None = None
    slots: dict[int, _Slot] = attrs.Factory(dict)
    ahead: dict[int, Trade] = attrs.Factory(dict)
    samples: dict[int, tuple[int, Sample]] = attrs.Factory(dict)
    closed: dict[int, Candle] = attrs.Factory(dict)
    before: tuple[int, float] | None = None
    """Open time and close of the newest candle known before the running slot."""
    touched: int = -1
    """Exchange time of the newest ticker: where one fell, somebody traded."""


@attrs.define
class Counts:
    """What a tracker has seen, for status and metrics."""

    frames: int = 0
    trades: int = 0
    duplicates: int = 0
    malformed: int = 0
    unknown: int = 0
    foreign: int = 0
    breaks: int = 0
    closes: int = 0
    late_trades: int = 0


class Tracker:
    """Turns the events of one shard into :class:`Pending`."""

    def __init__(
        self,
        series: Iterable[tuple[str, Series]],
        *,
        settle: int,
        sample_lag: int | None,
        pending: Pending | None = None,
    ) -> None:
        self.clock = ExchangeClock()
        self.pending = pending if pending is not None else Pending()
        self.counts = Counts()
        self.rejected: list[str] = []
        self._settle_after = settle
        self._give_up_after = settle if sample_lag is None else max(settle, sample_lag)
        self._tapes = {native: _Tape(one, native) for native, one in series}
        self._by_series = {tape.series: tape for tape in self._tapes.values()}
        self._sequence: int | None = None
        self._connected = False
        self._patient_until = 0.0
        self._now = 0.0
        self._next_due = 0
        first = next(iter(self._tapes.values()), None)
        self._timeframe = first.series.timeframe if first else Timeframe.M5

    # -- the connection's life ------------------------------------------------------------

    def connected(self, now: float) -> None:
        """A new connection: its numbering starts anew, and what happened meanwhile is unknown."""
        self._sequence = None
        self._connected = True
        self._patient_until = now + GRACE

    def lost(self) -> None:
        """The connection is gone: from the last frame on, trades may be missed."""
        self._connected = False
        self._doubt_all()

    def acknowledged(self, natives: Iterable[str], now: float) -> None:
        """The exchange confirmed every channel of these products: from now on they are delivered."""
        time = self.clock.read(now)
        for native in natives:
            tape = self._tapes.get(native)
            if tape is not None and tape.last_id is None and time is not None:
                tape.complete_from = time
                tape.unsure_from = None

    def learn(self, candle: Candle) -> None:
        """A candle the store holds: its close is where the next slot starts from."""
        tape = self._by_series.get(candle.series)
        if tape is not None and (tape.before is None or tape.before[0] <= candle.open_time):
            tape.before = (candle.open_time, candle.close)

    # -- frames ---------------------------------------------------------------------------

    def take(self, frame: Frame, now: float) -> None:
        """Account for one frame heard at ``now`` (monotonic seconds)."""
        self._now = now
        self.counts.frames += 1
        self.counts.malformed += frame.malformed
        if frame.sequence is not None:
            if self._sequence is not None and frame.sequence > self._sequence + 1:
                self.counts.breaks += 1
                self._doubt_all()
            if self._sequence is None or frame.sequence > self._sequence:
                self._sequence = frame.sequence
        if frame.stamp is not None:
            self.clock.hear(frame.stamp, now)
        for event in frame.events:
            self._take_event(event, frame.stamp, now)
        time = self.clock.read(now)
        if time is not None and time >= self._next_due:
            self._settle_all(time)

    def tick(self, now: float) -> None:
        """Close what is due although no frame came."""
        self._now = now
        time = self.clock.read(now)
        if time is not None and time >= self._next_due:
            self._settle_all(time)

    def due_in(self, now: float) -> float:
        """Seconds until :meth:`tick` may have something to do."""
        time = self.clock.read(now)
        if time is None:
            return math.inf
        return max(0.0, (self._next_due - time) / 1000)

    def _take_event(self, event: Event, stamp: int | None, now: float) -> None:
        if isinstance(event, Trades):
            tape = self._tapes.get(event.native)
            if tape is None:
                self.counts.foreign += 1
            elif event.trades:
                self._take_trades(tape, event, now)
        elif isinstance(event, Ticker):
            tape = self._tapes.get(event.native)
            if tape is None:
                self.counts.foreign += 1
                return
            if not event.snapshot:
                tape.touched = max(tape.touched, event.time)
            self.pending.tickers[tape.series.symbol] = event
        elif isinstance(event, Sample):
            tape = self._tapes.get(event.native)
            if tape is None:
                self.counts.foreign += 1
            else:
                self._take_sample(tape, event, stamp, now)
        elif isinstance(event, Rejected):
            self.rejected.append(event.message)
        elif not isinstance(event, Heartbeat | Acknowledged):
            self.counts.unknown += 1

    # -- trades ---------------------------------------------------------------------------

    def _take_trades(self, tape: _Tape, event: Trades, now: float) -> None:
        trades = event.trades
        time = self.clock.read(now)
        if tape.last_id is None:
            self._start_chain(tape, trades, time)
        elif event.snapshot and (trades[-1].trade_id < tape.last_id or trades[0].trade_id > tape.last_id + 1):
            # The exchange started counting anew, or more was traded meanwhile than a snapshot shows.
            self._start_chain(tape, trades, time)
        else:
            self._extend_chain(tape, trades)
        if event.snapshot and tape.last_id == trades[-1].trade_id:
            tape.unsure_from = None
        if time is not None and event.snapshot:
            self._prove_past(tape, time)
        self._settle(tape, time)
        self._show_forming(tape, time)

    def _start_chain(self, tape: _Tape, trades: list[Trade], time: int | None) -> None:
        """Begin at the newest unbroken run of ``trades``; what was summed before stays unprovable."""
        start = len(trades) - 1
        while start > 0 and trades[start - 1].trade_id == trades[start].trade_id - 1:
            start -= 1
        run = trades[start:]
        fresh = tape.last_id is None and tape.complete_from is not None
        if not fresh or (tape.complete_from is not None and run[0].time < tape.complete_from):
            tape.complete_from = run[0].time + 1
        tape.slots.clear()
        tape.ahead.clear()
        tape.unsure_from = None if self._connected else time
        tape.last_id = run[0].trade_id - 1
        tape.last_time = -1
        self._extend_chain(tape, run)

    def _extend_chain(self, tape: _Tape, trades: Iterable[Trade]) -> None:
        for trade in trades:
            assert tape.last_id is not None  # noqa: S101 - callers start the chain first
            if trade.trade_id <= tape.last_id:
                self.counts.duplicates += 1
            elif trade.trade_id == tape.last_id + 1:
                self._add(tape, trade)
                while tape.ahead and (following := tape.ahead.pop(tape.last_id + 1, None)):
                    self._add(tape, following)
                if not tape.ahead and self._connected:
                    tape.unsure_from = None  # the chain went on: nothing was missed
            else:
                tape.ahead[trade.trade_id] = trade
                if tape.unsure_from is None:
                    tape.unsure_from = max(tape.last_time, tape.complete_from or 0)
                if len(tape.ahead) > AHEAD:
                    self._skip_to_ahead(tape)

    def _skip_to_ahead(self, tape: _Tape) -> None:
        """Give up waiting for the missing ids: the chain goes on behind them."""
        waiting = sorted(tape.ahead.values(), key=lambda trade: trade.trade_id)
        self._start_chain(tape, waiting, None)

    def _add(self, tape: _Tape, trade: Trade) -> None:
        self.counts.trades += 1
        tape.last_id = trade.trade_id
        open_time = trade.time - trade.time % self._timeframe.ms
        slot = tape.slots.get(open_time)
        if slot is None:
            tape.slots[open_time] = _Slot(trade.price, trade.price, trade.price, trade.price, trade.size)
        else:
            slot.add(trade.price, trade.size)
        if trade.time >= tape.last_time:
            tape.last_time = trade.time
            tape.last_price = trade.price
        if tape.closed_to is not None and open_time <= tape.closed_to:
            self._correct_late(tape, open_time)

    def _correct_late(self, tape: _Tape, open_time: int) -> None:
        """A trade of a slot that is closed already belongs to that slot, not to the next."""
        closed = tape.closed.get(open_time)
        if closed is None:
            return  # older than what we closed: history's business
        self.counts.late_trades += 1
        if tape.complete_from is not None and tape.complete_from <= open_time:
            self._close(tape, open_time, self.clock.stamp or closed.close_time)
        else:
            self._suspect(tape.series, open_time, "a trade came late")

    # -- samples of the candle channel ----------------------------------------------------

    def _take_sample(self, tape: _Tape, sample: Sample, stamp: int | None, now: float) -> None:
        time = self.clock.read(now)
        heard = stamp if stamp is not None else time
        if heard is None:
            return
        open_time = sample.open_time
        if sample.snapshot and open_time != heard - heard % self._timeframe.ms:
            return  # snapshots are lossy and late: only the running slot counts
        known = tape.samples.get(open_time)
        if known is not None and (known[0] > heard or sample.volume < known[1].volume):
            return
        tape.samples[open_time] = (heard, sample)
        while len(tape.samples) > KEPT:
            del tape.samples[min(tape.samples)]
        closed = tape.closed.get(open_time)
        if closed is not None and heard > closed.close_time and not _agrees(closed, sample):
            self._suspect(tape.series, open_time, "the candles channel differs")
        self._settle(tape, time)
        self._show_forming(tape, time)

    # -- settling -------------------------------------------------------------------------

    def _settle_all(self, time: int) -> None:
        for tape in self._tapes.values():
            self._settle(tape, time)
        ms = self._timeframe.ms
        floor = time - time % ms
        candidates = [floor + after for after in (self._settle_after, self._give_up_after)]
        candidates.append(floor + ms + self._settle_after)
        # Late for a slot that still waits for a frame stamped after its end: look again soon.
        waiting = any(t.closed_to is not None and t.closed_to < floor - ms for t in self._tapes.values())
        upcoming = [at for at in candidates if at > time]
        self._next_due = min([*upcoming, *([time + 100] if waiting else [])])

    def _settle(self, tape: _Tape, time: int | None) -> None:
        """Close, or give up, every slot of one symbol that can be decided at ``time``."""
        if time is None:
            return
        ms = self._timeframe.ms
        if tape.closed_to is None:
            # The first slot that is ours is the running one, or the one whose last trades are on their way.
            settled = time - self._settle_after
            tape.closed_to = settled - settled % ms - ms
        while True:
            open_time = tape.closed_to + ms
            end = open_time + ms
            if time < end and tape.last_time < end:
                return
            complete = tape.complete_from is not None and tape.complete_from <= open_time
            heard = (self.clock.stamp or 0) >= end + min(HEARD, self._settle_after)
            if complete and tape.last_time >= end:
                self._close(tape, open_time, self.clock.stamp or end)
            elif (
                complete
                and tape.unsure_from is None
                and heard
                and self._connected
                and time >= end + self._settle_after
                and self._close_by_clock(tape, open_time)
            ):
                pass
            elif time < end + self._give_up_after:
                return
            elif self._connected and (not heard or self._now < self._patient_until):
                return  # the socket is behind: nothing may be concluded from silence
            elif not self._close_from_sample(tape, open_time):
                self._miss(tape, open_time)
            tape.closed_to = open_time
            self._forget(tape)

    def _close_by_clock(self, tape: _Tape, open_time: int) -> bool:
        """Close a slot no later trade proves; whether it could be closed."""
        if open_time not in tape.slots:
            end = open_time + self._timeframe.ms
            sample = tape.samples.get(open_time)
            ticked = open_time + 1000 <= tape.touched < end
            if ticked or (sample is not None and sample[1].volume > 0) or self._price_before(tape, open_time) is None:
                return False  # somebody traded and we did not see it, or we do not know at what price it rests
        self._close(tape, open_time, self.clock.stamp or 0)
        return True

    def _close(self, tape: _Tape, open_time: int, as_of: int) -> None:
        candle = self._candle(tape, open_time, as_of)
        if candle is None:
            self._miss(tape, open_time)
            return
        if tape.closed.get(open_time) != candle:
            tape.closed[open_time] = candle
            self.counts.closes += 1
            self.pending.closes.setdefault(tape.series, {})[open_time] = candle
        if tape.before is None or tape.before[0] <= open_time:
            tape.before = (open_time, candle.close)
        sampled = tape.samples.get(open_time)
        if sampled is not None and sampled[0] > candle.close_time and not _agrees(candle, sampled[1]):
            self._suspect(tape.series, open_time, "the candles channel differs")

    def _candle(self, tape: _Tape, open_time: int, as_of: int) -> Candle | None:
        """The slot as its trades make it, flat when there are none."""
        slot = tape.slots.get(open_time)
        if slot is not None:
            try:
                return Candle(
                    tape.series, open_time, slot.open, slot.high, slot.low, slot.close,
                    float(slot.volume), evidence=Evidence.STREAM, as_of=as_of,
                )  # fmt: skip
            except ImpossibleCandle:
                return None
        price = self._price_before(tape, open_time)
        if price is None:
            return None
        # A later trade of the unbroken chain proves that nothing traded; the clock alone only suggests it.
        proved = tape.last_time >= open_time + self._timeframe.ms
        return empty(tape.series, open_time, price, Evidence.STREAM if proved else Evidence.ASSUMED, as_of)

    def _price_before(self, tape: _Tape, open_time: int) -> float | None:
        """Close of the newest slot before ``open_time`` that leads up to it without a break."""
        if tape.before is not None and tape.before[0] == open_time - self._timeframe.ms:
            return tape.before[1]
        earlier = [t for t in tape.slots if t < open_time]
        return tape.slots[max(earlier)].close if earlier else None

    def _close_from_sample(self, tape: _Tape, open_time: int) -> bool:
        """Close from the candle channel's final sample; whether it was there."""
        known = tape.samples.get(open_time)
        if known is None or known[0] <= open_time + self._timeframe.ms:
            return False
        heard, sample = known
        try:
            candle = Candle(
                tape.series, open_time, sample.open, sample.high, sample.low, sample.close,
                sample.volume, evidence=Evidence.STREAM, as_of=heard,
            )  # fmt: skip
        except ImpossibleCandle:
            return False
        tape.closed[open_time] = candle
        tape.before = (open_time, candle.close)
        self.counts.closes += 1
        self.pending.closes.setdefault(tape.series, {})[open_time] = candle
        self._suspect(tape.series, open_time, "closed from the candles channel")
        return True

    def _prove_past(self, tape: _Tape, time: int) -> None:
        """Slots that ended before we connected, as far as a snapshot of trades proves them."""
        if tape.complete_from is None or tape.unsure_from is not None:
            return
        ms = self._timeframe.ms
        running = time - time % ms
        if tape.closed_to is not None and tape.closed_to + ms < running:
            return  # not our first connection: settling does it
        first = max(-(-tape.complete_from // ms) * ms, running - PROVABLE_PAST * ms)
        past = self.pending.past.setdefault(tape.series, {})
        for open_time in range(first, running, ms):
            # The snapshot was taken a moment ago: trades of a slot that ended just now may still come.
            if open_time + ms + self._settle_after > time:
                continue
            candle = self._candle(tape, open_time, time)
            if candle is not None:
                past[open_time] = attrs.evolve(candle, evidence=Evidence.STREAM)
                tape.before = (open_time, candle.close)
        if not past:
            del self.pending.past[tape.series]

    def _miss(self, tape: _Tape, open_time: int) -> None:
        if not self._connected:
            cause = "no connection"
        elif tape.complete_from is None or tape.complete_from > open_time:
            cause = "connected in the middle"
        elif tape.unsure_from is not None:
            cause = "frames were lost"
        else:
            cause = "trades seen elsewhere did not arrive"
        if tape.ahead:
            self._skip_to_ahead(tape)
        self.pending.missing[tape.series, open_time] = Missing(tape.series, open_time, cause)

    def _suspect(self, series: Series, open_time: int, cause: str) -> None:
        self.pending.suspects[series, open_time] = Suspect(series, open_time, cause)

    def _doubt_all(self) -> None:
        stamp = self.clock.stamp or 0
        for tape in self._tapes.values():
            if tape.unsure_from is None:
                tape.unsure_from = stamp

    def _forget(self, tape: _Tape) -> None:
        assert tape.closed_to is not None  # noqa: S101 - set by the caller
        oldest = tape.closed_to - (KEPT - 1) * self._timeframe.ms
        for kept in (tape.slots, tape.closed):
            # The newest summed slot before stays: its close is the price of the empties after it.
            stale = sorted(t for t in kept if t < oldest)
            for open_time in stale[:-1] if kept is tape.slots else stale:
                del kept[open_time]

    # -- the running candle ---------------------------------------------------------------

    def _show_forming(self, tape: _Tape, time: int | None) -> None:
        if time is None:
            return
        open_time = time - time % self._timeframe.ms
        slot = tape.slots.get(open_time)
        if slot is not None and tape.complete_from is not None and tape.complete_from <= open_time:
            self.pending.forming[tape.series] = Forming(
                tape.series, open_time, slot.open, slot.high, slot.low, slot.close, float(slot.volume), time
            )
        elif open_time in tape.samples:
            heard, sample = tape.samples[open_time]
            self.pending.forming[tape.series] = Forming(
                tape.series, open_time, sample.open, sample.high, sample.low, sample.close, sample.volume, heard
            )


def _agrees(candle: Candle, sample: Sample) -> bool:
    return (
        candle.open == sample.open
        and candle.high == sample.high
        and candle.low == sample.low
        and candle.close == sample.close
        and same_volume(candle.volume, sample.volume)
    )
