"""Who hears what and when: candles every two seconds, tickers every second, trades at once.

A candle is told while something changes, and closed once: by a frame that says so, up to two
seconds after its end. Nothing of the next candle comes before it on the same stream.
"""

from __future__ import annotations

import re
import urllib.parse

import attrs

from livermore.simulator.binance import words
from livermore.simulator.binance.desk import Desk
from livermore.simulator.binance.table import INTERVALS, Table
from livermore.simulator.binance.words import Frame, Spelling
from livermore.simulator.chance import key_of, once
from livermore.simulator.exchange import Stage
from livermore.simulator.faults import Active
from livermore.simulator.pace import Pace
from livermore.simulator.socket import Socket
from livermore.simulator.tape import SLOT_NS, Tape
from livermore.simulator.trades import NS, Row

_SECOND = 1_000 * NS
_GRID = 100 * NS
"""Streams take turns, so that not all speak at once."""
_TURNS = 20
"""2000 ms: how often a candle is told [DOC]."""
_TICKER_TURNS = 10
_CLOSES = (5, 200, 2_000)
"""Quickest, median and slowest closing frame, in ms after the candle's end [CAP]."""
_STRAGGLER = 1_756
_RULES = 1008
_AWAY = 1001
_STREAM = re.compile(r"(.+)@(?:kline_(\w+)|(ticker|miniTicker|trade|aggTrade|bookTicker))")


@attrs.define(eq=False)
class Line:
    """A stream that somebody hears."""

    stream: str
    channel: str
    tape: Tape
    spelt: Spelling
    turn: int
    interval: str = ""
    length: int = 0
    """ms"""
    open_time: int = 0
    """Of the candle that is told (ms)."""
    told: int = 0
    """Id after the newest trade that was told."""
    fresh: bool = False
    """Nothing of this candle has been told."""
    hearers: dict[Socket, None] = attrs.field(factory=dict)


class Voice:
    """Subscribers, and the schedule of what they are sent."""

    def __init__(self, table: Table, stage: Stage) -> None:
        self._table = table
        self._stage = stage
        self._market = stage.market
        self._clock = stage.clock
        self._faults = stage.faults
        self._desk = Desk(table, stage, self)
        self._pace = Pace(stage.limits.client_messages)
        self._key = key_of(stage.seed, "feed")
        self._symbols = {one.native.lower(): one.symbol for one in stage.market.listings}
        self._lines: dict[str, Line] = {}
        self._turns: list[dict[str, Line]] = [{} for _ in range(_TURNS)]
        self._wrapped: set[Socket] = set()
        self._windows: dict[str, tuple[int, words.Window]] = {}
        now = stage.clock.now()
        stage.agenda.at(now // _GRID * _GRID + _GRID, self._take_turn)

    # --- sockets

    def refusal(self, target: str) -> int | None:
        """Other paths than ``/ws`` and ``/stream`` are none."""
        path, streams = _asked(target)
        if path.strip("/").split("/")[0] not in {"ws", "stream"}:
            return 404
        return 400 if len(streams) > self._stage.limits.streams else None

    def join(self, socket: Socket, target: str) -> None:
        """Raw or combined, and what was asked for by its path."""
        path, streams = _asked(target)
        self.wrap(socket, path.startswith("/stream"))
        if streams:
            self.subscribe(socket, streams)

    def leave(self, socket: Socket) -> None:
        """Forget a socket that ended."""
        self._wrapped.discard(socket)
        self._pace.forget(str(socket.number))
        for state in list(socket.subscriptions.values()):
            self.unsubscribe(socket, list(state))

    def hear(self, socket: Socket, text: str | bytes) -> None:
        """Act on a message."""
        if not socket.scope.cancel_called:
            self._desk.hear(socket, text)

    def notice(self, socket: Socket) -> None:
        """Messages, pings and pongs count alike; one too many ends the connection."""
        if not self._pace.take(str(socket.number), self._stage.monotonic()):
            self._stage.stats.rejected_messages += 1
            self._stage.stats.over_rate += 1
            socket.drop(_RULES)

    def wrap(self, socket: Socket, yes: bool) -> None:
        """Speak to it in the combined form, or raw."""
        (self._wrapped.add if yes else self._wrapped.discard)(socket)

    def wraps(self, socket: Socket) -> bool:
        """Whether it is spoken to in the combined form."""
        return socket in self._wrapped

    # --- subscriptions

    def symbols(self, streams: list[str]) -> set[str]:
        """The symbols that these streams are of."""
        return {line.tape.listing.symbol for one in streams if (line := self._made(one))}

    def subscribe(self, socket: Socket, streams: list[str]) -> None:
        """Add streams. There are no snapshots; a stream that does not exist stays silent."""
        socket.subscribed.set()
        for stream in streams:
            line = self._lines.get(stream) or self._made(stream)
            if line is None:
                socket.subscriptions.setdefault("", {})[stream] = ""
                continue
            if stream not in self._lines:
                self._begin_line(line)
            line.hearers[socket] = None
            state = socket.subscriptions.setdefault(line.channel, {})
            state[stream] = line.tape.listing.symbol
        self._stage.agenda.changed.set()

    def unsubscribe(self, socket: Socket, streams: list[str]) -> None:
        """Remove streams."""
        for stream in streams:
            for channel, state in list(socket.subscriptions.items()):
                state.pop(stream, None)
                if not state:
                    del socket.subscriptions[channel]
            line = self._lines.get(stream)
            if line is not None:
                line.hearers.pop(socket, None)
                if not line.hearers:
                    del self._lines[stream]
                    for turn in self._turns:
                        turn.pop(stream, None)

    def _made(self, stream: str) -> Line | None:
        """The line of a stream that exists, not begun."""
        match = _STREAM.fullmatch(stream)
        symbol = self._symbols.get(match[1]) if match else None
        if match is None or symbol is None:
            return None
        interval = match[2] or ""
        if interval and interval not in INTERVALS:
            return None
        tape = self._market.tape(symbol)
        return Line(
            stream,
            "kline" if interval else match[3],
            tape,
            words.spelling(self._table, tape.listing),
            tape.key % _TURNS,
            interval,
            INTERVALS.get(interval, 0),
        )

    def _begin_line(self, line: Line) -> None:
        now = self._clock.now()
        self._lines[line.stream] = line
        line.told = self._newest_id(line.tape, now)
        every = {"kline": _TURNS, "ticker": _TICKER_TURNS, "miniTicker": _TICKER_TURNS}
        step = every.get(line.channel, 1)
        for turn in range(line.turn % step, _TURNS, step):
            self._turns[turn][line.stream] = line
        if line.length:
            line.open_time = now // NS // line.length * line.length
            self._await_close(line)

    # --- what is said

    def _say(self, line: Line, time: int, text: bytes) -> None:
        symbol = line.tape.listing.symbol
        raw = Frame(line.channel, symbol, time, text)
        wrapped: Frame | None = None
        for socket in list(line.hearers):
            if socket not in self._wrapped:
                socket.send(raw)
                continue
            if wrapped is None:
                wrapped = Frame(line.channel, symbol, time, words.combined(line.stream, text))
            socket.send(wrapped)

    def _take_turn(self, due: int) -> None:
        self._stage.agenda.at(due + _GRID, self._take_turn)
        for line in list(self._turns[due // _GRID % _TURNS].values()):
            if line.tape.listing.status != "online":
                continue
            if line.length:
                self._tell_candle(line, due)
            elif line.channel in {"ticker", "miniTicker"}:
                self._tell_ticker(line, due)
            else:
                self._tell_trades(line, due)

    def _stamp(self, due: int) -> int:
        return (due + self._clock.skew) // NS

    def _newest_id(self, tape: Tape, now: int) -> int:
        trades = tape.trades(now // SLOT_NS)
        return trades.first_id + trades.before(now)

    def _tell_ticker(self, line: Line, due: int) -> None:
        newest = self._newest_id(line.tape, due)
        if newest == line.told:
            return
        line.told = newest
        symbol, slot = line.tape.listing.symbol, due // SLOT_NS
        day = self._window(symbol, slot).with_running(self._market.partial(symbol, slot, due))
        write = words.ticker if line.channel == "ticker" else words.mini_ticker
        self._say(line, due, write(line.spelt, day, self._stamp(due)))

    def _window(self, symbol: str, slot: int) -> words.Window:
        known = self._windows.get(symbol)
        if known is None or known[0] != slot:
            known = self._windows[symbol] = (slot, words.window(self._market, symbol, slot))
        return known[1]

    def _tell_trades(self, line: Line, due: int) -> None:
        tape, stamp = line.tape, self._stamp(due)
        slot = due // SLOT_NS
        for each in (slot - 1, slot):
            trades = tape.trades(each)
            start, stop = max(0, line.told - trades.first_id), trades.before(due)
            for at in range(start, stop):
                price, size = int(trades.price[at]), int(trades.size[at])
                number = trades.first_id + at
                if line.channel == "bookTicker":
                    text = words.book_ticker(line.spelt, number, price, size)
                else:
                    args = (number, price, size, int(trades.time[at]) // NS, bool(trades.buy[at]))
                    text = (
                        words.trade(self._table, line.spelt, *args, stamp)
                        if line.channel == "trade"
                        else words.agg_trade(line.spelt, *args, stamp)
                    )
                self._say(line, due, text)
            if stop > start:
                line.told = trades.first_id + stop

    # --- candles

    def _tell_candle(self, line: Line, due: int) -> None:
        if due // NS >= line.open_time + line.length:
            return  # its closing frame comes first
        newest = self._newest_id(line.tape, due)
        if newest == line.told and not line.fresh:
            return
        row = words.bar(line.tape, line.open_time, line.length, due)
        if not row.count and not self._table.idle_frames:
            return
        line.told, line.fresh = newest, False
        self._say_candle(line, line.open_time, row, due, closed=False)

    def _await_close(self, line: Line) -> None:
        end = line.open_time + line.length
        late = self._lateness(line.tape, end)
        self._stage.agenda.at((end + late) * NS, lambda due: self._close(line, end, due))

    def _lateness(self, tape: Tape, end: int) -> int:
        """How long (ms) after its end a candle is closed: half of them within the median."""
        if once(tape.key ^ 0x81, end // 60_000) < self._table.straggling:
            return _STRAGGLER
        luck = 2.0 * once(tape.key ^ 0x82, end // 60_000)
        low, high = _CLOSES[:2] if luck < 1.0 else _CLOSES[1:]
        return int(low * (high / low) ** (luck % 1.0))

    def _close(self, line: Line, end: int, due: int, *, held: bool = False) -> None:
        if self._lines.get(line.stream) is not line:
            return
        late = None if held else self._held(line)
        if late is not None:
            self._stage.agenda.at(due + late, lambda time: self._close(line, end, time, held=True))
            return
        row = words.bar(line.tape, line.open_time, line.length, end * NS)
        told = row.count or self._table.idle_frames
        if told and line.tape.listing.status == "online" and not self._unflagged(line, row):
            self._say_candle(line, line.open_time, row, due, closed=True)
        line.open_time, line.fresh = end, True
        line.told = words.first_id(line.tape, end)
        self._await_close(line)

    def _held(self, line: Line) -> int | None:
        """How long (ns) a fault keeps the closing frame."""
        for active in self._faults.active("late-flag"):
            if not active.fault.symbols or line.tape.listing.symbol in active.fault.symbols:
                return int(active.fault.options["seconds"] * _SECOND)
        return None

    def _unflagged(self, line: Line, row: Row) -> bool:
        return any(
            (not active.fault.symbols or line.tape.listing.symbol in active.fault.symbols)
            and not (active.fault.options["idle"] and row.count)
            and self._faults.strikes(active.fault.options["share"])
            for active in self._faults.active("unflagged")
        )

    def _say_candle(
        self, line: Line, open_time: int, row: Row, due: int, *, closed: bool, true: bool = False
    ) -> None:
        """``true``: whatever faults there are."""
        first = words.first_id(line.tape, open_time) if row.count else -1
        if not row.count:
            price = words.price_before(self._market, line.tape.listing.symbol, open_time)
            if price is None:
                return  # it never traded
            row = words.flat(price)
        elif self._faults and not true and self._spoilt(line.tape.listing.symbol):
            row = attrs.evolve(row, volume=row.volume + row.volume // 100 + row.count)
        self._say(
            line,
            due,
            words.kline(
                line.spelt,
                line.interval,
                line.length,
                open_time,
                row,
                first,
                closed=closed,
                time=self._stamp(due),
            ),
        )

    def _spoilt(self, symbol: str) -> bool:
        return any(
            not active.fault.symbols or symbol in active.fault.symbols
            for kind in ("stream-differs", "late-correction")
            for active in self._faults.active(kind)
        )

    # --- faults

    def begin(self, active: Active) -> None:
        """``shutdown``: say so, then end those connections."""
        if active.fault.kind != "shutdown":
            return
        text = words.shutdown(self._stamp(active.since))
        leaving = list(self._stage.sockets)
        for socket in leaving:
            wraps = socket in self._wrapped
            socket.say(words.combined("!serverShutdown", text) if wraps else text)

        def end(due: int) -> None:
            for socket in leaving:
                if socket in self._stage.sockets:
                    socket.drop(_AWAY)

        self._stage.agenda.at(active.since + int(active.fault.options["lead"] * _SECOND), end)

    def halted(self, active: Active) -> None:
        """Nothing is planned from trades. What was told stays told: only the future was halted."""

    def corrected(self, active: Active, due: int) -> None:
        """Close every candle again that was closed with what was not true."""
        for line in list(self._lines.values()):
            symbol = line.tape.listing.symbol
            if not line.length or (active.fault.symbols and symbol not in active.fault.symbols):
                continue
            first = active.since // NS // line.length * line.length
            for open_time in range(first, line.open_time, line.length):
                row = words.bar(line.tape, open_time, line.length, due)
                if row.count:
                    self._say_candle(line, open_time, row, due, closed=True, true=True)


def _asked(target: str) -> tuple[str, list[str]]:
    """A path, and the streams that it names."""
    parts = urllib.parse.urlsplit(target)
    path = urllib.parse.unquote(parts.path)
    if path.startswith("/stream"):
        named = urllib.parse.parse_qs(parts.query).get("streams", [""])[0].split("/")
    else:
        named = path.split("/")[2:]
        named = [one for one in named if "@" in one]  # ``/ws/0`` names none
    return path, list(dict.fromkeys(one for one in named if one))
