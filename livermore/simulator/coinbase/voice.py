"""Who hears what and when: trades and tickers at once, candles late, heartbeats each second.

Each frame is stamped with the moment it was due.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs
import numpy as np

from livermore.simulator.chance import key_of, once
from livermore.simulator.coinbase import words
from livermore.simulator.coinbase.desk import Desk
from livermore.simulator.coinbase.words import Frame
from livermore.simulator.exchange import Stage
from livermore.simulator.faults import Active
from livermore.simulator.listing import Listing
from livermore.simulator.market import Candle, Day
from livermore.simulator.slots import SLOT, SLOTS_PER_DAY
from livermore.simulator.socket import Socket
from livermore.simulator.tape import SLOT_NS, Tape
from livermore.simulator.trades import NS, Row, Trades

_SECOND = 1_000 * NS
_BATCH = 250 * NS
"""market_trades come in batches of 250 ms [DOC]."""
_SAMPLE = 10 * _SECOND
"""candles are samples at whole 10-second marks …"""
_SAMPLE_LATE = (6_650 * NS, 160 * NS)
"""… published 6.65 to 6.81 s after the mark."""
_FINE_GRID = 50 * NS
_MATCH_LATE = 20 * NS
_HOLES = 0.38
"""Share of slots missing in candle snapshots, the same for everyone: a lossy cache."""
_STALE = 0.33
"""Share of snapshots whose newest row is not the running slot."""
_LAST_ABSENT, _LAST_LATE = 0.10, 0.10
"""Share of slots whose final sample never comes, or comes seconds later."""
_SNAPSHOT_APART = 2 * NS
_SNAPSHOT_ROWS = 100
_SNAPSHOT_REACH = 330
"""How many slots a snapshot looks back at most."""
_RECENT_TRADES = 100
_RECENT_REACH = 2 * SLOTS_PER_DAY
_COALESCE_FROM = 5.0
"""From this speed on tickers of one batch are one ticker."""


@attrs.define(eq=False)
class Cursor:
    """How far one symbol's trades have been told."""

    tape: Tape
    slot: int
    trades: Trades
    at: int
    day: Day
    year: tuple[int, int]
    running: Row
    """The slot's candle up to ``at``."""
    pending: list[str] = attrs.field(factory=list)
    """Trades of the current batch, as text, oldest first."""
    version: int = 0
    """Rises when what is scheduled for it is void."""


class Voice:
    """Subscribers, and the schedule of what they are sent."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._market = stage.market
        self._clock = stage.clock
        self._faults = stage.faults
        self._agenda = stage.agenda
        self._desk = Desk(stage, self)
        self._key = key_of(stage.seed, "feed")
        self._grid = _FINE_GRID if stage.clock.speed <= _COALESCE_FROM else _BATCH
        self._heard: dict[tuple[str, str], dict[Socket, None]] = {}
        self._cursors: dict[str, Cursor] = {}
        self._years: dict[str, tuple[int, int]] = {}
        self._beats = 14_191
        now = stage.clock.now()
        self._agenda.at(now // _SECOND * _SECOND + _SECOND, self._beat)
        self._agenda.at(now // (5 * _SECOND) * 5 * _SECOND + 5 * _SECOND, self._ticker_batch)
        self._agenda.at(self._sample_due(now // _SAMPLE * _SAMPLE), self._sample)

    # --- sockets

    def refusal(self, target: str) -> int | None:
        """Any path will do."""
        return None

    def join(self, socket: Socket, target: str) -> None:
        """There is no welcome."""

    def hear(self, socket: Socket, text: str | bytes) -> None:
        """Act on a message."""
        self._desk.hear(socket, text)

    def notice(self, socket: Socket) -> None:
        """Pings are free."""

    # --- subscriptions

    def subscribe(self, socket: Socket, channel: str, asked: dict[str, str]) -> None:
        """Add ids (as asked -> as spoken) to a channel; ack, then snapshots."""
        now = self._clock.now()
        state = socket.subscriptions.setdefault(channel, {})
        fresh = [spoken for spoken in dict.fromkeys(asked.values()) if spoken not in state.values()]
        state.update(asked)
        socket.subscribed.set()
        self._ack(socket, now)
        for number, spoken in enumerate(fresh):
            self._await_snapshot(socket, channel, spoken, now + number * _SNAPSHOT_APART)
        self._agenda.changed.set()

    def unsubscribe(self, socket: Socket, channel: str, asked: Iterable[str] | None) -> None:
        """Remove ids, or the whole channel; ack with what is left."""
        self._forget(socket, channel, asked)
        self._ack(socket, self._clock.now())
        self._agenda.changed.set()

    def _ack(self, socket: Socket, now: int) -> None:
        state = _told(socket)
        self._agenda.at(now, lambda due: socket.send(words.subscriptions(due, state)))

    def leave(self, socket: Socket) -> None:
        """Forget a socket that ended."""
        for channel in list(socket.subscriptions):
            self._forget(socket, channel, None)

    def _forget(self, socket: Socket, channel: str, asked: Iterable[str] | None) -> None:
        state = socket.subscriptions.get(channel)
        if state is None:
            return
        before = set(state.values())
        for name in list(state) if asked is None else asked:
            state.pop(name, None)
        if not state:
            del socket.subscriptions[channel]
        for spoken in before - set(state.values()):
            hearers = self._heard.get((channel, spoken), {})
            hearers.pop(socket, None)
            if not hearers:
                self._heard.pop((channel, spoken), None)
            if spoken in self._cursors and not self._hearers(spoken):
                self._cursors.pop(spoken).version += 1

    def _hearers(self, symbol: str) -> bool:
        return ("market_trades", symbol) in self._heard or ("ticker", symbol) in self._heard

    def _send(self, frame: Frame) -> None:
        for socket in list(self._heard.get((frame.channel, frame.symbol or ""), ())):
            socket.send(frame)

    # --- snapshots

    def _await_snapshot(self, socket: Socket, channel: str, symbol: str, time: int) -> None:
        """Updates begin with the snapshot, so that together they are whole."""

        def begin(due: int) -> None:
            if symbol in socket.subscriptions.get(channel, {}).values():
                self._heard.setdefault((channel, symbol), {})[socket] = None
                frame = self._snapshot(channel, symbol, due)
                if frame is not None:
                    socket.send(frame)

        self._agenda.at(time, begin)

    def _snapshot(self, channel: str, symbol: str, now: int) -> Frame | None:
        if channel == "candles":
            return self._candle_snapshot(symbol, now)
        if channel == "market_trades":
            return self._trade_snapshot(symbol, now)
        if channel == "status":
            known = [self._market.listing(symbol)] if symbol else self._market.listings
            return words.status(known, now)
        if channel == "heartbeats":
            return None
        return self._ticker_snapshot(symbol, channel, now)

    def _candle_snapshot(self, symbol: str, now: int) -> Frame | None:
        tape = self._market.tape(symbol)
        mark = (now - _SAMPLE_LATE[0]) // _SAMPLE * _SAMPLE
        running = (mark - 1) // SLOT_NS
        stale = once(tape.key ^ 0x51, now // SLOT_NS) < _STALE
        rows: list[Candle] = []
        for slot in range(running - stale, running - _SNAPSHOT_REACH, -1):
            if len(rows) == _SNAPSHOT_ROWS or slot * SLOT < self._market.listed_since:
                break
            if slot != running and once(tape.key ^ 0x52, slot) < _HOLES:
                continue
            row = self._market.partial(symbol, slot, mark)
            if row.count:
                rows.append(Candle(slot * SLOT, self._shown(symbol, row)))
        if not rows:
            return None  # 14 of 100 products answered nothing at all in a real capture
        return words.candles(self._market.listing(symbol), rows, now, "snapshot")

    def _trade_snapshot(self, symbol: str, now: int) -> Frame | None:
        listing = self._market.listing(symbol)
        cursor = self._cursor(symbol, now)
        slot, trades = cursor.slot, cursor.trades
        stop = cursor.at - len(cursor.pending)
        texts: list[str] = []
        if stop < 0:  # a batch that spans two slots: the pending ones begin in the slot before
            slot, stop = slot - 1, stop + len(cursor.tape.trades(slot - 1))
            trades = cursor.tape.trades(slot)
        oldest = max(slot - _RECENT_REACH, self._market.listed_since // SLOT)
        while True:
            start = max(0, stop - (_RECENT_TRADES - len(texts)))
            texts = words.trade_texts(listing, trades, start, stop) + texts
            slot -= 1
            if len(texts) >= _RECENT_TRADES or slot < oldest:
                break
            if cursor.tape.row(slot).count:
                trades = cursor.tape.trades(slot)
                stop = len(trades)
            else:
                stop = 0
        return words.market_trades(listing, texts, now, "snapshot") if texts else None

    def _ticker_snapshot(self, symbol: str, channel: str, now: int) -> Frame:
        slot = now // SLOT_NS
        day = self._market.day_before(symbol, slot)
        price = self._market.last_price(symbol, now)
        row = self._market.partial(symbol, slot, now)
        if channel == "ticker":
            self._cursor(symbol, now)
        return words.ticker(
            self._market.listing(symbol),
            price,
            _with(day, row),
            self._year(symbol, slot),
            now,
            "snapshot",
            channel,
        )

    # --- trades and tickers

    def _cursor(self, symbol: str, now: int) -> Cursor:
        cursor = self._cursors.get(symbol)
        if cursor is not None:
            return cursor
        # Everything before this boundary has certainly been told to those who heard it live.
        boundary = (now - _BATCH) // _BATCH * _BATCH
        tape, slot = self._market.tape(symbol), boundary // SLOT_NS
        trades = tape.trades(slot)
        at = trades.before(boundary)
        cursor = Cursor(
            tape,
            slot,
            trades,
            at,
            self._market.day_before(symbol, slot),
            self._year(symbol, slot),
            trades.fold(0, at),
        )
        self._cursors[symbol] = cursor
        self._await_match(cursor)
        return cursor

    def _await_match(self, cursor: Cursor) -> None:
        """Schedule the symbol's next trade, or a look into the next slot."""
        version = cursor.version
        if cursor.at < len(cursor.trades):
            time = int(cursor.trades.time[cursor.at])
            boundary = -(-(time + 1) // self._grid) * self._grid
        else:
            boundary = (cursor.slot + 1) * SLOT_NS
        self._agenda.at(
            boundary + _MATCH_LATE,
            lambda due: self._match(cursor, boundary, due) if cursor.version == version else None,
        )

    def _match(self, cursor: Cursor, boundary: int, due: int) -> None:
        listing = cursor.tape.listing
        stop = cursor.trades.before(boundary)
        if stop > cursor.at:
            self._tell(cursor, listing, stop, boundary, due)
        if cursor.at == len(cursor.trades) and boundary >= (cursor.slot + 1) * SLOT_NS:
            cursor.slot += 1
            cursor.trades = cursor.tape.trades(cursor.slot)
            cursor.at = 0
            cursor.day = self._market.day_before(listing.symbol, cursor.slot)
            cursor.running = Row(0, 0, 0, 0, 0, 0)
        self._await_match(cursor)

    def _tell(self, cursor: Cursor, listing: Listing, stop: int, boundary: int, due: int) -> None:
        symbol = listing.symbol
        shown = cursor.trades
        if self._faults and self._spoilt(symbol):
            shown = attrs.evolve(shown, size=shown.size + shown.size // 100 + 1)
        if ("market_trades", symbol) in self._heard:
            if not cursor.pending:
                end = -(-boundary // _BATCH) * _BATCH
                late = (25 + int(40 * once(self._key, end // _BATCH))) * NS  # before the next match
                self._await_flush(cursor, end + late)
            cursor.pending += words.trade_texts(listing, shown, cursor.at, stop)
        fine = self._grid == _FINE_GRID and ("ticker", symbol) in self._heard
        for at in range(cursor.at if fine else stop - 1, stop):
            cursor.running = _grown(cursor.running, cursor.trades.fold(cursor.at, at + 1))
            cursor.at = at + 1
            if ("ticker", symbol) in self._heard:
                day = _with(cursor.day, cursor.running)
                self._send(words.ticker(listing, cursor.running.close, day, cursor.year, due))

    def _await_flush(self, cursor: Cursor, time: int) -> None:
        version = cursor.version
        self._agenda.at(
            time, lambda due: self._flush(cursor, due) if cursor.version == version else None
        )

    def _flush(self, cursor: Cursor, due: int) -> None:
        texts, cursor.pending = cursor.pending, []
        if texts:
            self._send(words.market_trades(cursor.tape.listing, texts, due, "update"))

    def _ticker_batch(self, due: int) -> None:
        self._agenda.at(due + 5 * _SECOND, self._ticker_batch)
        slot = due // SLOT_NS
        for channel, symbol in list(self._heard):
            if channel == "ticker_batch":
                before = self._market.partial(symbol, slot, due - 5 * _SECOND)
                row = self._market.partial(symbol, slot, due)
                if row.count == before.count:
                    continue
                day = _with(self._market.day_before(symbol, slot), row)
                year = self._year(symbol, slot)
                listing = self._market.listing(symbol)
                self._send(words.ticker(listing, row.close, day, year, due, channel="ticker_batch"))

    def _year(self, symbol: str, slot: int) -> tuple[int, int]:
        """Low and high of 52 weeks, from one point a day: enough for a figure nobody checks."""
        if symbol not in self._years:
            tape = self._market.tape(symbol)
            days = np.arange(slot - 365 * SLOTS_PER_DAY, slot, SLOTS_PER_DAY, dtype=np.int64)
            level = tape.level(days) * tape.listing.tick
            self._years[symbol] = (max(1, int(level.min())), max(1, int(level.max())))
        return self._years[symbol]

    # --- candles

    def _sample_due(self, mark: int) -> int:
        jitter = once(self._key ^ 0x61, mark // _SAMPLE) * _SAMPLE_LATE[1]
        return mark + _SAMPLE_LATE[0] + int(jitter)

    def _sample(self, due: int) -> None:
        mark = (due - _SAMPLE_LATE[0]) // _SAMPLE * _SAMPLE
        self._agenda.at(self._sample_due(mark + _SAMPLE), self._sample)
        slot = (mark - 1) // SLOT_NS
        for channel, symbol in list(self._heard):
            if channel == "candles":
                self._sample_of(symbol, slot, mark, due)

    def _sample_of(self, symbol: str, slot: int, mark: int, due: int) -> None:
        tape = self._market.tape(symbol)
        if not tape.row(slot).count:
            return
        trades = tape.trades(slot)
        if trades.before(mark) == trades.before(mark - _SAMPLE):
            return  # only what changed is published
        row = self._market.partial(symbol, slot, mark)
        frame = words.candles(
            tape.listing, [Candle(slot * SLOT, self._shown(symbol, row))], due, "update"
        )
        if mark % SLOT_NS == 0:
            luck = once(tape.key ^ 0x53, slot)
            if luck < _LAST_ABSENT:
                return
            if luck < _LAST_ABSENT + _LAST_LATE:
                late = due + int((2.0 + 6.0 * luck / (_LAST_ABSENT + _LAST_LATE)) * _SECOND)
                self._agenda.at(late, lambda time: self._send(attrs.evolve(frame, time=time)))
                return
        self._send(frame)

    def _shown(self, symbol: str, row: Row) -> Row:
        """What the stream says of a row: the truth, unless a fault spoils it."""
        if self._faults and row.count and self._spoilt(symbol):
            return attrs.evolve(row, volume=row.volume + row.volume // 100 + row.count)
        return row

    def _spoilt(self, symbol: str) -> bool:
        return any(
            not active.fault.symbols or symbol in active.fault.symbols
            for kind in ("stream-differs", "late-correction")
            for active in self._faults.active(kind)
        )

    # --- heartbeats

    def _beat(self, due: int) -> None:
        self._agenda.at(due + _SECOND, self._beat)
        self._beats += 1
        frame = words.heartbeat(due, self._clock.start, self._beats, self._clock.skew)
        for socket in list(self._stage.sockets):
            # One copy per product where products were given, all with the same counter.
            for _ in range(len(socket.subscriptions.get("heartbeats", ()))):
                socket.send(frame)

    # --- faults

    def begin(self, active: Active) -> None:
        """There are no faults of its own; the others ask as they go."""

    def halted(self, active: Active) -> None:
        """What was planned from trades that will not happen is void."""
        for cursor in self._cursors.values():
            cursor.version += 1
            cursor.trades = cursor.tape.trades(cursor.slot)
            self._await_match(cursor)
            if cursor.pending:
                self._await_flush(cursor, active.since + _BATCH)

    def corrected(self, active: Active, due: int) -> None:
        """Publish the true candles of every slot the fault has spoilt."""
        for channel, symbol in list(self._heard):
            if channel != "candles" or (
                active.fault.symbols and symbol not in active.fault.symbols
            ):
                continue
            for slot in range(active.since // SLOT_NS, due // SLOT_NS):
                row = self._market.partial(symbol, slot, due)
                if row.count:
                    candle = Candle(slot * SLOT, row)
                    listing = self._market.listing(symbol)
                    self._send(words.candles(listing, [candle], due, "update"))


def _told(socket: Socket) -> dict[str, list[str]]:
    """The cumulative state an ack shows; ``heartbeats`` without products stands for itself."""
    return {
        channel: [asked or channel for asked in state]
        for channel, state in socket.subscriptions.items()
    }


def _with(day: Day, row: Row) -> Day:
    """24 hours and the running slot on top."""
    if not row.count:
        return day
    return Day(
        day.volume + row.volume, max(day.high, row.high), min(day.low, row.low), day.reference
    )


def _grown(row: Row, more: Row) -> Row:
    if not row.count:
        return more
    return Row(
        row.open,
        max(row.high, more.high),
        min(row.low, more.low),
        more.close,
        row.volume + more.volume,
        row.count + more.count,
    )
