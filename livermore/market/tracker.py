"""From events to closes and gaps.

One tracker per shard. It outlives its connections: trade ids belong to the exchange, so a chain of
ids that goes on after a reconnect proves that nothing was missed. What a connection numbers itself
(``sequence``) is never compared with another connection's.

A slot closes *by trades*: we hold every trade since before its start (``complete_from``), and
either a later trade of the same unbroken chain is there, or the connection was whole and the
exchange's clock passed the end by ``settle``. What cannot be proved waits for the candle channel's
final sample; what that does not show either is missing, and REST is asked. Nothing is invented.

Two things can be wrong with a chain, and are kept apart. Ids may be missing *before* trades we hold
(``ahead``): they may still come. Or trades may be missing *behind* the newest (``unsure``): after a
break, until the next id tells. A slot that neither heals is given up, and the next one starts clean
where the delivery has been whole since before it.

Everything here is synchronous and called from the receive loop.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import TypeVar

import attrs

from livermore.errors import ImpossibleCandle
from livermore.market.candle import Candle, Evidence, Kind, Series, empty, same_volume
from livermore.market.clock import ExchangeClock
from livermore.market.events import (
    Acknowledged,
    Closing,
    Confirmed,
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

T = TypeVar("T")

HEARD = 500
"""A frame stamped this long (ms) after a slot's end has been read before the slot closes by the
clock: frames come in order, so all trades of the slot were read before it."""
AHEAD = 20_000
"""Trades kept per symbol while an id before them is missing."""
BELIEVED = 30_000
"""A trade whose time is further (ms) ahead of the exchange's clock is damaged: it would end slots
that still run. Stamps of a skewed exchange are a few seconds beside the times of its trades."""
TICKED = 1_000
"""A ticker stamped this long (ms) after the newest trade arrived speaks of a trade we lack."""
LONGEST = 1_000
"""Slots that are given up one by one; what the clock jumps over beyond that is not kept anyway."""
PROVABLE_PAST = 288
"""Slots before the connection that a snapshot of trades may prove."""
GRACE = 3.0
"""Seconds after connecting in which nothing is given up: snapshots that may prove it will come."""
DIFFERS = "the candles channel differs"
"""The cause of what the candle channel contradicts."""
JOINED = "connected in the middle"
"""The cause of what is not proved by trades because we were not there from the start."""
KEPT = 3
"""Slots per symbol kept after their end, for late trades and the candle channel's final sample."""
STEADY = 30_000
"""Stamps further apart (ms) than this, either way, are two clocks with nothing heard between."""
PACE = 3600.0
"""Seconds over which a symbol's longest silence is remembered, at least."""


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


@attrs.define
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

    def forget(self, series: Series) -> None:
        """Nothing of ``series`` waits any more."""
        for kept in (self.closes, self.past, self.forming):
            kept.pop(series, None)
        self.tickers.pop(series.symbol, None)
        self._take(self.missing, series)
        self._take(self.suspects, series)

    def move(self, before: Series, after: Series) -> None:
        """What waits of ``before`` is of ``after`` from now on."""
        for batch in (self.closes, self.past):
            if slots := batch.pop(before, None):
                batch[after] = moved(slots, after)
        if forming := self.forming.pop(before, None):
            self.forming[after] = attrs.evolve(forming, series=after)
        for one in self._take(self.missing, before):
            self.missing[after, one.open_time] = attrs.evolve(one, series=after)
        for other in self._take(self.suspects, before):
            self.suspects[after, other.open_time] = attrs.evolve(other, series=after)

    @staticmethod
    def _take(slots: dict[tuple[Series, int], T], series: Series) -> list[T]:
        return [slots.pop(key) for key in [key for key in slots if key[0] == series]]

    def size(self) -> int:
        """Closed candles waiting."""
        return sum(map(len, self.closes.values())) + sum(map(len, self.past.values()))


def moved(slots: dict[int, Candle], series: Series) -> dict[int, Candle]:
    """The same candles, of ``series``."""
    return {time: attrs.evolve(candle, series=series) for time, candle in slots.items()}


@attrs.define
class _Tape:
    """What we know of one symbol's trades."""

    series: Series
    native: str
    first_own: int | None = None
    """Open time of the first slot that is ours to close."""
    closed_to: int | None = None
    """Open time of the newest slot that is settled: closed or given up as missing."""
    complete_from: int | None = None
    """Exchange time since which we hold every trade, up to the end of the chain."""
    whole_since: int | None = None
    """Exchange time since which this connection delivers everything; None before it said so."""
    unsure: bool = False
    """Whether trades behind the newest one we know may have been lost."""
    open: bool = True
    """Whether the chain has yet to begin: the next id is the first since ``complete_from``."""
    first_id: int = 0
    last_id: int = -1
    """Ends of the unbroken chain of ids."""
    top: int = -1
    """Highest id known; above ``last_id`` while ids between them are missing."""
    excused: bool = False
    """Whether the newest missing ids are explained by a break before ``whole_since``."""
    last_time: int = -1
    """Time of the newest trade in the chain."""
    newest_time: int = -1
    """Time of the newest trade there ever was, in the chain or not."""
    arrived: int = -1
    """Exchange time at which the newest trade arrived."""
    slots: dict[int, _Slot] = attrs.Factory(dict)
    ahead: dict[int, Trade] = attrs.Factory(dict)
    samples: dict[int, tuple[int, Sample]] = attrs.Factory(dict)
    closed: dict[int, Candle] = attrs.Factory(dict)
    base: tuple[int, Sample] | None = None
    """The newest sample of a running slot that trades do not prove, and the mark it shows."""
    partial: list[Trade] = attrs.Factory(list)
    """Trades of that slot since the mark."""
    joined: int | None = None
    """Open time of a slot that became whole by a sample and the trades since."""
    missed: dict[int, None] = attrs.Factory(dict)
    """Slots given up: REST is asked for them, so nothing about them needs another look."""
    before: tuple[int, float] | None = None
    """Open time and close of the newest candle known before the running slot."""
    ticked: dict[int, int] = attrs.Factory(dict)
    """Time of the newest ticker of a slot: where one fell, somebody traded."""
    ignored: bool = False
    """Whether the exchange does not serve this symbol: nothing of it is ours to close."""
    acknowledged_at: float | None = None
    """Monotonic time since which this connection promises to deliver it."""
    heard_at: float | None = None
    """Monotonic time of its newest trades on this connection."""
    spoke: bool = False
    """Whether they were news, not a snapshot."""
    told_at: float | None = None
    """Monotonic time of the first ticker since then that speaks of a later trade."""
    unsampled_at: float | None = None
    """Monotonic time of the first trades of a slot that no sample has followed yet."""
    unsampled_slot: int = -1
    longest: float = 0.0
    longest_before: float = 0.0
    """Longest silence between trades in seconds: since ``pace_since``, and in the time before."""
    pace_since: float = 0.0


@attrs.frozen
class Silence:
    """How long one symbol has been silent on a connection that promises to deliver it, in s."""

    native: str
    symbol: str
    since: float
    """Monotonic time of its newest trades, or of the promise."""
    seconds: float
    spoke: bool
    """Whether it has traded on this connection: a snapshot alone is not that."""
    usual: float
    """The longest silence in its last hour or two."""
    told: float | None
    """For how long the tickers have spoken of a trade that did not arrive."""
    unsampled: float | None
    """For how long its trades have not been followed by a sample of the candle channel."""


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
        sample_every: int | None = None,
        sample_delay: int = 0,
        pending: Pending | None = None,
    ) -> None:
        self.clock = ExchangeClock()
        self.pending = pending if pending is not None else Pending()
        self.counts = Counts()
        self.rejected: list[str] = []
        self.witness: Callable[[str, object, float | None], None] | None = None
        """Hears what this tracker is told beside frames, just before it acts on it."""
        self.fed_at = 0.0
        """Monotonic time of the newest trades or sample of any symbol, 0 before the first."""
        self._halted = False
        self._settle_after = settle
        self._sample_every = sample_every
        self._sample_delay = sample_delay
        self._give_up_after = settle if sample_lag is None else max(settle, sample_lag)
        self._tapes = {native: _Tape(one, native) for native, one in series}
        self._by_series = {tape.series: tape for tape in self._tapes.values()}
        self._sequence: int | None = None
        self._telling = True
        self._connected = False
        self._patient_until = 0.0
        self._now = 0.0
        self._settled_at = 0
        self._next_due = 0
        self._steady_since = 0
        first = next(iter(self._tapes.values()), None)
        self._timeframe = first.series.timeframe if first else Timeframe.M5

    # -- what is followed -----------------------------------------------------------------

    def add(self, native: str, series: Series) -> None:
        """Follow this product as well; its first slot is the running one."""
        self._tell_witness("added", [native, series.symbol])
        tape = self._tapes[native] = _Tape(series, native)
        self._by_series[series] = tape
        self._next_due = 0  # what is its first slot is settled now, not at the next boundary

    def forget(self, native: str) -> None:
        """Follow this product no more: nothing of it waits, and nothing will."""
        self._tell_witness("forgotten", [native])
        tape = self._tapes.pop(native, None)
        if tape is not None:
            del self._by_series[tape.series]
            self.pending.forget(tape.series)

    def move(self, native: str, series: Series) -> None:
        """This product lives in other keys from now on; all that is known of it stays."""
        tape = self._tapes[native]
        self.pending.move(tape.series, series)
        del self._by_series[tape.series]
        tape.series = series
        self._by_series[series] = tape

    # -- the connection's life ------------------------------------------------------------

    def connected(self, now: float) -> None:
        """A new connection: its numbering starts anew, and what happened meanwhile is unknown."""
        self._tell_witness("connected", now=now)
        self._sequence = None
        self._connected = True
        self._patient_until = now + GRACE

    def handed_over(self) -> None:
        """Another connection goes on where this one was, and delivers since before its end."""
        self._tell_witness("handed over")
        self._sequence = None

    def lost(self) -> None:
        """The connection is gone: from the last frame on, trades may be missed."""
        self._tell_witness("lost")
        self._connected = False
        for tape in self._tapes.values():
            tape.unsure = True
            tape.whole_since = None
            tape.acknowledged_at = tape.heard_at = tape.told_at = tape.unsampled_at = None
            tape.spoke = False

    def acknowledged(self, natives: Iterable[str], now: float) -> None:
        """The exchange confirmed every channel of these products: they are delivered now."""
        natives = list(natives)
        self._tell_witness("acknowledged", natives, now)
        time = self.clock.read(now)
        for native in natives:
            tape = self._tapes.get(native)
            if tape is None or time is None:
                continue
            tape.whole_since = time
            tape.acknowledged_at = now
            if tape.ignored:
                # Served after all: what ended meanwhile is the scan's to find, we begin anew.
                tape.ignored = False
                tape.closed_to = tape.first_own = None
                tape.open = True
                tape.slots.clear()
                tape.ahead.clear()
                self._part(tape)
                tape.last_time = -1
            if tape.open:
                tape.complete_from = time
                tape.unsure = False

    def ignore(self, native: str) -> None:
        """The exchange does not serve this symbol: until it does, none of its slots are ours."""
        self._tell_witness("ignored", native)
        tape = self._tapes.get(native)
        if tape is not None:
            tape.ignored = True
            tape.unsure = True
            tape.whole_since = None

    def doubt(self, native: str) -> None:
        """This connection does not deliver what the symbol trades, although it promised to.

        What closed since it was heard last is suspect, and nothing of it closes by the clock.
        """
        self._tell_witness("doubted", native)
        tape = self._tapes.get(native)
        if tape is None:
            return
        tape.unsure = True
        tape.whole_since = None
        for open_time, candle in tape.closed.items():
            if candle.close_time > tape.last_time:
                self._suspect(tape.series, open_time, "its trades do not arrive")

    def trust(self, natives: Iterable[str], now: float) -> None:
        """What was doubted is delivered again, for all we know: from now on the slots are whole.

        A symbol that trades rarely would be doubted until it does.
        """
        natives = list(natives)
        self._tell_witness("trusted", natives, now)
        time = self.clock.read(now)
        for native in natives:
            tape = self._tapes.get(native)
            if tape is None or tape.ignored or tape.acknowledged_at is None or time is None:
                continue
            if tape.whole_since is None:
                tape.whole_since = time

    def silences(self, now: float) -> list[Silence]:
        """Every symbol this connection promises to deliver, and how long it has been silent."""
        time = self.clock.read(now) or 0
        running = time - time % self._timeframe.ms  # the last sample of a slot need not come
        return [
            Silence(
                tape.native,
                tape.series.symbol,
                since := max(tape.acknowledged_at, tape.heard_at or 0.0),
                now - since,
                tape.spoke,
                max(tape.longest, tape.longest_before),
                now - tape.told_at if tape.told_at is not None else None,
                now - tape.unsampled_at
                if tape.unsampled_at is not None and tape.unsampled_slot == running
                else None,
            )
            for tape in self._tapes.values()
            if tape.acknowledged_at is not None and not tape.ignored
        ]

    def held(self, native: str, open_time: int) -> float | None:
        """Volume of a slot as we hold it; None where that is not known from its start on."""
        tape = self._tapes.get(native)
        if tape is None:
            return None
        closed = tape.closed.get(open_time)
        if closed is not None:
            return closed.volume
        if not self._is_whole(tape, open_time) or tape.ahead:
            return None
        slot = tape.slots.get(open_time)
        return float(slot.volume) if slot is not None else 0.0

    @property
    def newest_trade(self) -> int:
        """Time (ms) of the newest trade of any symbol; -1 before one was heard."""
        return max((tape.newest_time for tape in self._tapes.values()), default=-1)

    @property
    def halted(self) -> bool:
        """Whether nothing trades at all: an empty slot is then not assumed, REST is asked."""
        return self._halted

    @halted.setter
    def halted(self, halted: bool) -> None:
        self._tell_witness("halted" if halted else "resumed")
        self._halted = halted

    def _tell_witness(self, what: str, about: object = None, now: float | None = None) -> None:
        if self.witness is not None:
            self.witness(what, about, now)

    def learn(self, candle: Candle) -> None:
        """A candle the store holds: its close is where the next slot starts from."""
        self._tell_witness("learned", candle)
        tape = self._by_series.get(candle.series)
        if tape is not None and (tape.before is None or tape.before[0] <= candle.open_time):
            tape.before = (candle.open_time, candle.close)

    # -- frames ---------------------------------------------------------------------------

    def take(self, frame: Frame, now: float) -> None:
        """Account for one frame heard at ``now`` (monotonic seconds)."""
        self._now = now
        self.counts.frames += 1
        self.counts.malformed += frame.malformed
        if frame.stamp is not None:
            before = self.clock.stamp
            self.clock.hear(frame.stamp, now)
            stamp = self.clock.stamp or 0
            if before is None or abs(stamp - before) > STEADY:
                self._steady_since = stamp
        time = self.clock.read(now)
        # A frame from before others, or with damaged rows, does not tell what is the newest.
        self._telling = not frame.malformed
        if frame.sequence is not None:
            if self._sequence is not None and frame.sequence <= self._sequence:
                self._telling = False
            else:
                if self._sequence is not None and frame.sequence > self._sequence + 1:
                    self.counts.breaks += 1
                    self._doubt_all(frame.stamp, time)
                self._sequence = frame.sequence
        if frame.malformed:
            self._doubt_all(frame.stamp, time)
        for event in frame.events:
            self._take_event(event, frame.stamp, now)
        self._settle_due(time)

    def told_time(self, time: int, now: float) -> None:
        """The exchange's time (ms), from elsewhere than a frame."""
        self._tell_witness("told the time", time, now)
        self.clock.hear(time, now)

    def tick(self, now: float) -> None:
        """Close what is due although no frame came."""
        self._tell_witness("tick", now=now)
        self._now = now
        self._settle_due(self.clock.read(now))

    def due_in(self, now: float) -> float:
        """Seconds until :meth:`tick` may have something to do."""
        time = self.clock.read(now)
        if time is None:
            return math.inf
        return max(0.0, (self._next_due - time) / 1000)

    def _doubt_all(self, stamp: int | None, time: int | None) -> None:
        """Frames or rows were lost before this moment; what comes after it is delivered."""
        since = time
        if stamp is not None and time is not None and time < stamp < time + self._timeframe.ms:
            since = stamp  # not believed by the clock yet, but the later moment is the careful one
        for tape in self._tapes.values():
            tape.unsure = True
            if tape.whole_since is not None:
                tape.whole_since = since

    def _take_event(self, event: Event, stamp: int | None, now: float) -> None:
        if isinstance(event, Trades):
            tape = self._tapes.get(event.native)
            if tape is None:
                self.counts.foreign += 1
            elif event.trades:
                self.fed_at = now
                self._take_trades(tape, event, stamp, now)
        elif isinstance(event, Ticker):
            tape = self._tapes.get(event.native)
            if tape is None:
                self.counts.foreign += 1
                return
            if not event.snapshot:
                self._take_ticker(tape, event, now)
            self.pending.tickers[tape.series.symbol] = event
        elif isinstance(event, Sample):
            tape = self._tapes.get(event.native)
            if tape is None:
                self.counts.foreign += 1
            else:
                self.fed_at = now
                self._take_sample(tape, event, stamp, now)
        elif isinstance(event, Rejected):
            self.rejected.append(event.message)
        elif not isinstance(event, Heartbeat | Acknowledged | Confirmed | Closing):
            self.counts.unknown += 1

    def _take_ticker(self, tape: _Tape, event: Ticker, now: float) -> None:
        """Where a ticker fell, somebody traded."""
        slot = event.time - event.time % self._timeframe.ms
        if event.time > tape.ticked.get(slot, -1):
            tape.ticked[slot] = event.time
            while len(tape.ticked) > KEPT:
                del tape.ticked[min(tape.ticked)]
        if tape.told_at is None and event.time > tape.arrived + TICKED:
            tape.told_at = now

    # -- trades ---------------------------------------------------------------------------

    def _take_trades(self, tape: _Tape, event: Trades, stamp: int | None, now: float) -> None:
        trades = event.trades
        time = self.clock.read(now)
        self._keep_pace(tape, -1 if event.snapshot else trades[-1].time, now)
        tape.spoke = tape.spoke or not event.snapshot
        if event.snapshot:  # what it shows of the past is the first thing known of its pace
            times = [trade.time for trade in trades] + ([] if time is None else [time])
            apart = [later - earlier for earlier, later in itertools.pairwise(times)]
            tape.longest = max([tape.longest, *(gap / 1000 for gap in apart)])
        if time is not None:
            self._own(tape, time)
            trades = [trade for trade in trades if trade.time <= time + BELIEVED]
            tape.arrived = max(tape.arrived, time if stamp is None else min(stamp, time))
        if trades:
            self._take_believed(tape, trades, event.snapshot)
        if len(trades) < len(event.trades):
            self.counts.malformed += len(event.trades) - len(trades)
            tape.unsure = True
        if time is not None and event.snapshot:
            self._prove_past(tape, time)
        self._settle(tape, time)
        self._show_forming(tape, time)

    def _keep_pace(self, tape: _Tape, newest: int, now: float) -> None:
        if tape.heard_at is not None and tape.whole_since is not None:  # mute is not its pace
            tape.longest = max(tape.longest, now - tape.heard_at)
        if now - tape.pace_since > PACE:
            tape.longest_before, tape.longest, tape.pace_since = tape.longest, 0.0, now
        tape.heard_at = now
        tape.told_at = None
        slot = newest - newest % self._timeframe.ms
        if newest >= 0 and (tape.unsampled_at is None or slot > tape.unsampled_slot):
            tape.unsampled_at, tape.unsampled_slot = now, slot

    def _take_believed(self, tape: _Tape, trades: list[Trade], snapshot: bool) -> None:
        first, last = trades[0].trade_id, trades[-1].trade_id
        if first <= tape.last_id and any(
            trade.trade_id <= tape.last_id and trade.time > tape.newest_time for trade in trades
        ):
            self._count_anew(tape, trades)
        elif tape.open:
            self._begin(tape, [trade for trade in trades if trade.trade_id > tape.last_id])
        elif snapshot and first > tape.last_id + 1 and last > tape.top:
            # More was traded meanwhile than a snapshot shows: what is missing will not come.
            for trade in trades:
                self._know(tape, trade)
                tape.ahead[trade.trade_id] = trade
            self._skip_to_ahead(tape)
        else:
            self._extend(tape, trades)
        if snapshot and last == tape.top and self._telling:
            tape.unsure = False

    def _count_anew(self, tape: _Tape, trades: list[Trade]) -> None:
        """The exchange started its ids anew: what happened in between is unknown."""
        self._doubt_unproved(tape)
        tape.ahead.clear()
        tape.top = tape.last_id = -1
        tape.complete_from = None
        self._begin(tape, [trade for trade in trades if trade.time > tape.newest_time])

    def _begin(self, tape: _Tape, trades: Sequence[Trade]) -> None:
        """Begin the chain at the newest unbroken run of ``trades`` (ascending)."""
        if not trades:
            return
        start = _newest_run(trades)
        # Trades of one moment need not be in the order of their ids.
        held = trades[start].time + 1 + self._settle_after
        if tape.complete_from is None or tape.unsure:
            tape.complete_from = held
        elif start == 0 or trades[start].time < tape.complete_from:
            tape.complete_from = min(tape.complete_from, held)
        else:
            tape.complete_from = held
        self._start_chain(tape, trades[start:])

    def _start_chain(self, tape: _Tape, run: Sequence[Trade]) -> None:
        """The chain is this run; what was summed before stays unprovable."""
        tape.open = False
        tape.slots.clear()
        tape.ahead.clear()
        self._part(tape)
        tape.first_id = run[0].trade_id
        tape.last_id = run[0].trade_id - 1
        tape.last_time = -1
        for trade in run:
            self._know(tape, trade)
            self._add(tape, trade)

    def _know(self, tape: _Tape, trade: Trade) -> None:
        if trade.trade_id > tape.top:
            if trade.trade_id > tape.top + 1:
                tape.excused = tape.unsure and self._telling
            tape.top = trade.trade_id
            if self._telling:
                tape.unsure = False  # ids tell what is missing before this one
        tape.newest_time = max(tape.newest_time, trade.time)

    def _extend(self, tape: _Tape, trades: Iterable[Trade]) -> None:
        for trade in trades:
            if trade.trade_id <= tape.last_id:
                self.counts.duplicates += 1
                if trade.trade_id < tape.first_id:
                    self._admit(tape, trade)
            elif trade.trade_id == tape.last_id + 1:
                self._know(tape, trade)
                self._add(tape, trade)
                while tape.ahead and (following := tape.ahead.pop(tape.last_id + 1, None)):
                    self._add(tape, following)
            else:
                self._know(tape, trade)
                tape.ahead[trade.trade_id] = trade
                if len(tape.ahead) > AHEAD:
                    self._skip_to_ahead(tape)

    def _admit(self, tape: _Tape, trade: Trade) -> None:
        """A trade from before the chain: we do not hold everything since ``complete_from``."""
        if tape.complete_from is None or trade.time < tape.complete_from:
            return
        tape.complete_from = trade.time + 1 + self._settle_after
        self._part(tape)
        open_time = trade.time - trade.time % self._timeframe.ms
        for closed in tape.closed:
            if closed >= open_time:
                self._suspect(tape.series, closed, "a trade came late")

    def _skip_to_ahead(self, tape: _Tape) -> None:
        """Give up waiting for the missing ids: the chain goes on behind them."""
        self._doubt_unproved(tape)
        waiting = sorted(tape.ahead.values(), key=lambda trade: trade.trade_id)
        run = waiting[_newest_run(waiting) :]
        tape.complete_from = run[0].time + 1 + self._settle_after
        if tape.excused and tape.whole_since is not None:
            # What is missing was lost in a break: from its end on we hold everything.
            tape.complete_from = min(tape.complete_from, tape.whole_since)
        self._start_chain(tape, run)

    def _doubt_unproved(self, tape: _Tape) -> None:
        """Trades are lost for good: a late one may belong to a slot that the clock closed."""
        for open_time in sorted(tape.closed)[-2:]:
            if tape.closed[open_time].close_time > tape.last_time:
                self._suspect(tape.series, open_time, "trades were lost soon after its end")

    def _go_on(self, tape: _Tape, end: int) -> None:
        """After a slot that was not proved: what is missing of it must not spoil the next."""
        if tape.ahead:
            if tape.last_time < end:  # else ids of later slots are missing, and may still come
                self._skip_to_ahead(tape)
        elif tape.unsure and tape.whole_since is not None and tape.whole_since <= end:
            self._doubt_unproved(tape)
            tape.open = True
            tape.slots.clear()
            self._part(tape)
            tape.last_time = -1
            tape.complete_from = tape.whole_since
            tape.unsure = False

    def _add(self, tape: _Tape, trade: Trade) -> None:
        self.counts.trades += 1
        tape.last_id = trade.trade_id
        open_time = trade.time - trade.time % self._timeframe.ms
        slot = tape.slots.get(open_time)
        if slot is None:
            tape.slots[open_time] = _Slot(
                trade.price, trade.price, trade.price, trade.price, trade.size
            )
        else:
            slot.add(trade.price, trade.size)
        tape.last_time = max(tape.last_time, trade.time)
        if tape.complete_from is not None and open_time < tape.complete_from:
            tape.partial.append(trade)
        if tape.closed_to is not None and open_time <= tape.closed_to:
            self._correct_late(tape, open_time)

    def _correct_late(self, tape: _Tape, open_time: int) -> None:
        """A trade of a slot that is closed already belongs to that slot, not to the next."""
        closed = tape.closed.get(open_time)
        if closed is None:
            own = tape.first_own is not None and open_time >= tape.first_own
            if own and open_time not in tape.missed:  # closed too long ago to sum it
                self._suspect(tape.series, open_time, "a trade came late")
            return  # older than what we close: history's business
        self.counts.late_trades += 1
        if tape.complete_from is not None and tape.complete_from <= open_time:
            self._close(tape, open_time, self.clock.stamp or closed.close_time)
            self._flatten_after(tape, open_time)
        else:
            self._suspect(tape.series, open_time, "a trade came late")

    def _flatten_after(self, tape: _Tape, open_time: int) -> None:
        """The empties behind a changed close are flat at it."""
        price = tape.closed[open_time].close
        ms = self._timeframe.ms
        while (
            behind := tape.closed.get(open_time := open_time + ms)
        ) and behind.kind is Kind.EMPTY:
            candle = empty(
                tape.series, open_time, price, behind.evidence, self.clock.stamp or behind.as_of
            )
            tape.closed[open_time] = candle
            self.pending.closes.setdefault(tape.series, {})[open_time] = candle
            if tape.before is not None and tape.before[0] == open_time:
                tape.before = (open_time, price)

    # -- samples of the candle channel ----------------------------------------------------

    def _take_sample(self, tape: _Tape, sample: Sample, stamp: int | None, now: float) -> None:
        time = self.clock.read(now)
        if time is None:
            return
        # A stamp ahead of the clock is not believed yet; one behind it was read late.
        heard = time if stamp is None else min(stamp, time)
        open_time = sample.open_time
        if open_time > time + BELIEVED:
            self.counts.malformed += 1
            return
        if sample.snapshot and open_time != heard - heard % self._timeframe.ms:
            return  # snapshots are lossy and late: only the running slot counts
        known = tape.samples.get(open_time)
        tape.unsampled_at = None
        if known is not None and (known[0] > heard or sample.volume < known[1].volume):
            return
        tape.samples[open_time] = (heard, sample)
        while len(tape.samples) > KEPT:
            del tape.samples[min(tape.samples)]
        closed = tape.closed.get(open_time)
        if closed is not None and _contradicts(heard, sample, closed):
            self._suspect(tape.series, open_time, DIFFERS)
        if not sample.snapshot:
            self._join(tape, sample, heard)
        self._settle(tape, time)
        self._show_forming(tape, time)

    def _join(self, tape: _Tape, sample: Sample, heard: int) -> None:
        """Make a slot whole that we joined in the middle, from a sample and the trades since.

        A sample is the state at its mark, and we hold every trade since before the mark. Which mark
        that was is not said, only inferred from the time of sending; so one sample and the trades
        up to the next have to make exactly that next one before either is believed.
        """
        open_time = sample.open_time
        complete = tape.complete_from
        if (
            self._sample_every is None
            or complete is None
            or complete <= open_time
            or tape.joined == open_time
            or (tape.closed_to is not None and open_time <= tape.closed_to)
        ):
            return
        mark = heard - self._sample_delay
        mark -= mark % self._sample_every
        if mark < max(complete, open_time + 1) or mark >= open_time + self._timeframe.ms:
            return
        before, tape.base = tape.base, (mark, sample)
        since = tape.partial
        tape.partial = [trade for trade in since if trade.time >= mark]
        if before is None or before[1].open_time != open_time or mark <= before[0]:
            return
        between = [trade for trade in since if before[0] <= trade.time < mark]
        summed = _onto(before[1], between)
        if tape.ahead or not between or not _makes(summed, sample):
            return
        tape.slots[open_time] = _onto(sample, tape.partial)
        tape.joined = open_time
        tape.partial = []

    @staticmethod
    def _part(tape: _Tape) -> None:
        """Trades may be missing: what was whole by a sample is not any more."""
        tape.joined = tape.base = None
        tape.partial = []

    # -- settling -------------------------------------------------------------------------

    def _settle_due(self, time: int | None) -> None:
        # Earlier than the last time: the exchange's clock was set back, and so are we.
        if time is not None and not self._settled_at <= time < self._next_due:
            self._settle_all(time)

    def _settle_all(self, time: int) -> None:
        for tape in self._tapes.values():
            self._settle(tape, time)
        self._settled_at = time
        ms = self._timeframe.ms
        floor = time - time % ms
        candidates = [floor + after for after in (self._settle_after, self._give_up_after)]
        candidates.append(floor + ms + self._settle_after)
        # Late for a slot that still waits for a frame stamped after its end: look again soon.
        late = self._late(floor, time)
        waiting = any(t.closed_to is not None and t.closed_to < late for t in self._tapes.values())
        upcoming = [at for at in candidates if at > time]
        self._next_due = min([*upcoming, *([time + 100] if waiting else [])])

    def _late(self, floor: int, time: int) -> int:
        """Open time of the newest slot that may have to be looked at without a frame."""
        return floor - self._timeframe.ms

    def _own(self, tape: _Tape, time: int) -> int:
        """Open time of the newest settled slot; the first that is ours is the next one."""
        ms = self._timeframe.ms
        if tape.closed_to is None:
            # The running one is our first, or the one whose last trades are on their way.
            settled = time - self._settle_after
            tape.closed_to = settled - settled % ms - ms
            tape.first_own = tape.closed_to + ms
        elif tape.closed_to + ms > time + BELIEVED:
            # The clock was ahead: what was settled has not ended, and much of it has not begun.
            tape.closed_to = time - time % ms - ms
            tape.first_own = min(tape.first_own or 0, tape.closed_to + ms)
            kept: dict[int, Candle] | dict[int, None]
            for kept in (tape.closed, tape.missed):
                for open_time in [t for t in kept if t > tape.closed_to]:
                    del kept[open_time]
            if tape.before is not None and tape.before[0] > tape.closed_to:
                tape.before = None
        elif tape.closed_to < time - LONGEST * ms:
            tape.closed_to = time - time % ms - LONGEST * ms
        return tape.closed_to

    def _settle(self, tape: _Tape, time: int | None) -> None:
        """Close, or give up, every slot of one symbol that can be decided at ``time``."""
        if time is None or tape.ignored:
            return
        ms = self._timeframe.ms
        tape.closed_to = self._own(tape, time)
        while True:
            open_time = tape.closed_to + ms
            end = open_time + ms
            if time < end and tape.last_time < end:
                return
            complete = self._is_whole(tape, open_time)
            heard = (self.clock.stamp or 0) >= end + min(HEARD, self._settle_after)
            if complete and tape.last_time >= end:
                self._close(tape, open_time, self.clock.stamp or end)
            elif (
                complete
                and not tape.unsure
                and not tape.ahead
                and heard
                and self._connected
                and self._steady_since <= open_time
                and time >= end + self._settle_after
                and self._close_by_clock(tape, open_time)
            ):
                pass
            elif time < end + self._give_up_after:
                return
            elif self._connected and (not heard or self._now < self._patient_until):
                return  # the socket is behind: nothing may be concluded from silence
            else:
                if not self._close_from_sample(tape, open_time):
                    self._miss(tape, open_time)
                self._go_on(tape, end)
            tape.closed_to = open_time
            self._forget(tape)

    @staticmethod
    def _is_whole(tape: _Tape, open_time: int) -> bool:
        """Whether we hold what was traded in the slot from its start on."""
        complete = tape.complete_from
        return (complete is not None and complete <= open_time) or tape.joined == open_time

    def _close_by_clock(self, tape: _Tape, open_time: int) -> bool:
        """Close a slot no later trade proves; whether it could be closed."""
        ticked = tape.ticked.get(open_time, -1)
        if ticked >= open_time + TICKED and ticked > tape.arrived + TICKED:
            return False  # somebody traded and we did not see it
        if open_time not in tape.slots:
            if self.halted:
                return False
            sample = tape.samples.get(open_time)
            if sample is not None and sample[1].volume > 0:
                return False
            if self._price_before(tape, open_time) is None:
                return False  # nothing says at what price it rests
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
        if tape.joined == open_time:
            self._suspect(tape.series, open_time, JOINED)  # verified first
        sampled = tape.samples.get(open_time)
        if sampled is not None and _contradicts(*sampled, candle):
            self._suspect(tape.series, open_time, DIFFERS)

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
        # A later trade of the chain proves that nothing traded; the clock alone only suggests it.
        proved = tape.last_time >= open_time + self._timeframe.ms
        return empty(
            tape.series, open_time, price, Evidence.STREAM if proved else Evidence.ASSUMED, as_of
        )

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
        candle = _closed(tape.series, *known)
        if candle is None:
            return False
        tape.closed[open_time] = candle
        tape.before = (open_time, candle.close)
        self.counts.closes += 1
        self.pending.closes.setdefault(tape.series, {})[open_time] = candle
        self._suspect(tape.series, open_time, "closed from the candles channel")
        return True

    def _prove_past(self, tape: _Tape, time: int) -> None:
        """Slots that ended before we connected, as far as a snapshot of trades proves them."""
        if tape.complete_from is None or tape.unsure or tape.ahead:
            return
        ms = self._timeframe.ms
        own = tape.first_own
        if own is None or tape.closed_to is None or tape.closed_to + ms != own:
            return  # what is ours is settled when it is due, and older sums are forgotten
        first = max(-(-tape.complete_from // ms) * ms, own - PROVABLE_PAST * ms)
        past = self.pending.past.setdefault(tape.series, {})
        for open_time in range(first, own, ms):
            candle = self._candle(tape, open_time, time)
            if candle is not None:
                past[open_time] = attrs.evolve(candle, evidence=Evidence.STREAM)
                if tape.before is None or tape.before[0] <= open_time:
                    tape.before = (open_time, candle.close)
        if not past:
            del self.pending.past[tape.series]

    def _why_missing(self, tape: _Tape, open_time: int) -> str:
        if not self._connected:
            return "no connection"
        if tape.complete_from is None or tape.complete_from > open_time:
            return JOINED
        if tape.unsure or tape.ahead:
            return "frames were lost"
        if self.halted:
            return "nothing trades"
        return "trades seen elsewhere did not arrive"

    def _miss(self, tape: _Tape, open_time: int) -> None:
        tape.missed[open_time] = None
        if len(tape.missed) > PROVABLE_PAST:
            del tape.missed[next(iter(tape.missed))]
        cause = self._why_missing(tape, open_time)
        self.pending.missing[tape.series, open_time] = Missing(tape.series, open_time, cause)

    def _suspect(self, series: Series, open_time: int, cause: str) -> None:
        self.pending.suspects[series, open_time] = Suspect(series, open_time, cause)

    def _forget(self, tape: _Tape) -> None:
        assert tape.closed_to is not None  # set by the caller
        if tape.complete_from is not None and tape.complete_from <= tape.closed_to:
            tape.base = None
            tape.partial = []
        oldest = tape.closed_to - (KEPT - 1) * self._timeframe.ms
        for kept in (tape.slots, tape.closed):
            if not kept:
                continue
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
        if slot is not None and self._is_whole(tape, open_time):
            self.pending.forming[tape.series] = Forming(
                tape.series,
                open_time,
                slot.open,
                slot.high,
                slot.low,
                slot.close,
                float(slot.volume),
                time,
            )
        elif open_time in tape.samples:
            heard, sample = tape.samples[open_time]
            self.pending.forming[tape.series] = Forming(
                tape.series,
                open_time,
                sample.open,
                sample.high,
                sample.low,
                sample.close,
                sample.volume,
                heard,
            )


def _closed(series: Series, heard: int, sample: Sample) -> Candle | None:
    """The candle a final sample shows; None where no market can have made it."""
    try:
        if sample.volume > 0:
            return Candle(
                series, sample.open_time, sample.open, sample.high, sample.low, sample.close,
                sample.volume, evidence=Evidence.STREAM, as_of=heard,
            )  # fmt: skip
        return empty(series, sample.open_time, sample.close, Evidence.STREAM, heard)
    except ImpossibleCandle:
        return None


def _onto(sample: Sample, trades: Iterable[Trade]) -> _Slot:
    """The slot as ``sample`` shows it, and ``trades`` after that."""
    volume = Decimal(repr(sample.volume))
    slot = _Slot(sample.open, sample.high, sample.low, sample.close, volume)
    for trade in trades:
        slot.add(trade.price, trade.size)
    return slot


def _makes(slot: _Slot, sample: Sample) -> bool:
    return (slot.high, slot.low, slot.close) == (
        sample.high,
        sample.low,
        sample.close,
    ) and same_volume(float(slot.volume), sample.volume)


def _newest_run(trades: Sequence[Trade]) -> int:
    """Where the newest unbroken run of ids begins."""
    start = len(trades) - 1
    while start > 0 and trades[start - 1].trade_id == trades[start].trade_id - 1:
        start -= 1
    return start


def _contradicts(heard: int, sample: Sample, closed: Candle) -> bool:
    """Whether the candle channel doubts what was closed: volume only grows within a slot."""
    if heard > closed.close_time:
        return not _agrees(closed, sample)
    return sample.volume > closed.volume and not same_volume(sample.volume, closed.volume)


def _agrees(candle: Candle, sample: Sample) -> bool:
    return (
        candle.open == sample.open
        and candle.high == sample.high
        and candle.low == sample.low
        and candle.close == sample.close
        and same_volume(candle.volume, sample.volume)
    )
