"""``livermore compare``: one market beside another, of the same or of another exchange.

Prices are compared where they are of one moment, or not at all: the tickers where both are young,
else the closes of one slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import msgspec
import typer

from livermore.cli import latest, options, output, store, times
from livermore.cli.options import Json, Place, placed
from livermore.cli.screen import price as spelled
from livermore.cli.store import Status
from livermore.errors import UsageError
from livermore.market.candle import Candle, Kind, Series
from livermore.market.product import DOLLARS
from livermore.market.timeframe import Timeframe

if TYPE_CHECKING:
    from livermore.adapters.redis import Client
    from livermore.config import Settings
    from livermore.signals.lead import Lead

TOGETHER = 10_000
"""Milliseconds by which two tickers may differ and still be of one moment."""
MOST_CLOSES = 1000


class TickerWords(msgspec.Struct):
    """A stored ticker, as far as it is read here. ``time`` is the exchange's (ms)."""

    price: float
    time: int
    bid: float | None = None
    ask: float | None = None


@attrs.frozen
class Side:
    """One of the two, as it lies in Redis. ``now`` is its exchange's time (ms)."""

    series: Series
    status: Status | None
    ticker: TickerWords | None
    candles: Sequence[Candle]
    now: int

    @property
    def name(self) -> str:
        """``BTC-USD@coinbase``."""
        return f"{self.series.symbol}@{self.series.exchange}"

    @property
    def quote(self) -> str:
        """What its prices are in."""
        return self.series.symbol.rpartition("-")[2]

    @property
    def close(self) -> Candle | None:
        """Its newest closed candle in which anything traded."""
        return next((one for one in reversed(self.candles) if one.kind is Kind.TRADED), None)

    def age(self, time: int) -> int:
        """Milliseconds since ``time``."""
        return max(0, self.now - time)


@attrs.frozen
class Difference:
    """The first price less the second: ``basis`` says of which prices, ``at`` when (ms)."""

    first: float
    second: float
    basis: str
    at: int

    @property
    def price(self) -> float:
        """In the quote currency, without the dust of binary fractions."""
        return float(f"{self.first - self.second:.12g}")

    @property
    def basis_points(self) -> float:
        """Ten-thousandths of the mean of both."""
        return (self.first - self.second) / ((self.first + self.second) / 2) * 10_000


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "compare",
        epilog="Example: `livermore compare BTC-USD@coinbase BTC-USDT@binance`, "
        "`livermore compare ETH-USD@coinbase ETH-USD@binance_us --last 1000 --json`. "
        "The difference is the first price less the second, in basis points of their mean: of the "
        "tickers where they are within 10 s of each other, else of the newest slot in which both "
        "traded. One market led where its five-minute returns go with the next ones of the other "
        "more closely than the other way round, by more than chance makes of it "
        "(correlations, 2·√(2/n)); a pair of returns counts only where both traded in three "
        "slots in a row, and fewer than 30 pairs are not enough.",
    )(placed(compare))


def compare(
    place: Place,
    first: Annotated[
        str, typer.Argument(metavar="SYMBOL@EXCHANGE", help="Such as BTC-USD@coinbase.")
    ],
    second: Annotated[
        str, typer.Argument(metavar="SYMBOL@EXCHANGE", help="Such as BTC-USDT@binance.")
    ],
    last: Annotated[
        int,
        typer.Option(
            "--last", min=3, max=MOST_CLOSES, metavar="N", help="Closes in which one may have led."
        ),
    ] = 288,
    json: Json = False,
) -> int:
    """Put two markets side by side: prices, their difference, and which of them led."""
    wanted = [market(text) for text in (first, second)]
    if wanted[0] == wanted[1]:
        raise UsageError(f"{first} twice: name two markets")
    settings = place.settings()
    with store.open_store(settings, wanted[0][1]) as client:
        one, other = (read(client, settings, exchange, symbol) for symbol, exchange in wanted)
    if one.name == other.name:
        raise UsageError(f"{first} and {second} are one market: name two")
    sides = (one, other)
    found, pair, remarks = difference(one, other), lead_of(one, other, last), remarks_on(one, other)
    if json:
        output.document(document(sides, found, pair, last, remarks))
    else:
        _show(sides, found, pair, remarks)
    for exchange, status in {side.series.exchange: side.status for side in sides}.items():
        if (why := latest.doubt(exchange, status)) is not None:
            output.say(why)
    return 0


def market(text: str) -> tuple[str, str]:
    """Symbol and exchange of ``BTC-USD@coinbase``; raises :class:`UsageError`."""
    symbol, mark, exchange = text.partition("@")
    if not mark:
        raise UsageError(f"{text}: say where, such as {text}@coinbase")
    return options.symbol(symbol), options.known_exchange(exchange)


def read(client: Client, settings: Settings, exchange: str, symbol: str) -> Side:
    """What is stored of one market."""
    from livermore.adapters.store import decode_candles, newest_call, ticker_key

    status = store.read_status(client, exchange)
    name = store.known_symbol(client, exchange, symbol, status, settings.user)
    [series] = store.series_of(client, settings, exchange, [name], status, [Timeframe.M5])
    text, members = client.run(
        [("GET", ticker_key(exchange, series.symbol)), newest_call(series, MOST_CLOSES)]
    )
    candles, _ = decode_candles(series, members)
    return Side(series, status, ticker_of(text), candles, latest.clock(status))


def ticker_of(text: bytes | None) -> TickerWords | None:
    """The stored ticker; what cannot be read is none."""
    if text is None:
        return None
    try:
        found = msgspec.json.decode(text, type=TickerWords)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return found if found.price > 0 else None


def difference(first: Side, second: Side) -> Difference | None:
    """Of prices of one moment; None where there are none."""
    ours, theirs = first.ticker, second.ticker
    if ours is not None and theirs is not None and abs(ours.time - theirs.time) <= TOGETHER:
        return Difference(ours.price, theirs.price, "tickers", min(ours.time, theirs.time))
    closes = [traded(side) for side in (first, second)]
    common = closes[0].keys() & closes[1].keys()
    if not common:
        return None
    slot = max(common)
    return Difference(closes[0][slot], closes[1][slot], "closes", slot + Timeframe.M5.ms)


def traded(side: Side) -> dict[int, float]:
    """Open time -> close of the slots in which something traded."""
    return {one.open_time: one.close for one in side.candles if one.kind is Kind.TRADED}


def lead_of(first: Side, second: Side, slots: int) -> Lead:
    """Which led in the newest so many slots of which both may have a candle."""
    from livermore.signals.lead import lead

    ours, theirs = traded(first), traded(second)
    newest = min(max(ours, default=0), max(theirs, default=0))
    since = newest - (slots - 1) * Timeframe.M5.ms
    return lead(
        {time: close for time, close in ours.items() if since <= time <= newest},
        {time: close for time, close in theirs.items() if since <= time <= newest},
        Timeframe.M5.ms,
    )


def remarks_on(first: Side, second: Side) -> list[str]:
    """What a reader must know before he believes the figures."""
    remarks = []
    if first.quote != second.quote:
        dollars = {first.quote, second.quote} <= set(DOLLARS)
        remarks.append(
            f"{first.quote} is not {second.quote}"
            + (": the difference holds their rate as well" if dollars else ": compare with care")
        )
    bases = [side.series.symbol.rpartition("-")[0] for side in (first, second)]
    if bases[0] != bases[1]:
        remarks.append(f"{bases[0]} is not {bases[1]}: the difference says little")
    return remarks


def _show(
    sides: Sequence[Side], found: Difference | None, pair: Lead, remarks: Sequence[str]
) -> None:
    table = output.table("", *(side.name for side in sides), loose=[side.name for side in sides])
    table.columns[0].style = "dim"
    for label, cells in (
        ("state", [_state(side) for side in sides]),
        ("price", [_ticker(side) for side in sides]),
        ("bid/ask", [_book(side) for side in sides]),
        ("close", [_close(side) for side in sides]),
    ):
        table.add_row(label, *cells)
    output.show(table)
    if found is None:
        output.line("difference: none: no prices of one moment are stored")
    else:
        at = "" if found.basis == "tickers" else f" of {times.iso(found.at)}"
        price = output.number(found.price)
        output.line(
            f"difference: {price} ({found.basis_points:+.2f} basis points), by the "
            f"{found.basis}{at}"
        )
    output.line(f"led: {told(sides, pair)}")
    for remark in remarks:
        output.line(f"! {remark}")


def told(sides: Sequence[Side], pair: Lead) -> str:
    """Which led, and by what that is known."""
    if pair.first is None or pair.second is None or pair.chance is None:
        return pair.why
    who = "neither" if pair.leader is None else sides[pair.leader].name
    return (
        f"{who} ({pair.first:.2f} against {pair.second:.2f} in {pair.pairs} pairs of returns, "
        f"chance makes {pair.chance:.2f})"
    )


def _state(side: Side) -> str:
    return "not running" if side.status is None else side.status.words.state or "unknown"


def _ticker(side: Side) -> str:
    if side.ticker is None:
        return "no ticker of the last minute"
    return f"{spelled(side.ticker.price)}, {times.length(side.age(side.ticker.time))} ago"


def _book(side: Side) -> str:
    if side.ticker is None:
        return "–"
    return f"{spelled(side.ticker.bid)} / {spelled(side.ticker.ask)}"


def _close(side: Side) -> str:
    if side.close is None:
        return "no traded candle is stored"
    return f"{spelled(side.close.close)}, {times.length(side.age(side.close.close_time))} ago"


def document(
    sides: Sequence[Side],
    found: Difference | None,
    pair: Lead,
    slots: int,
    remarks: Sequence[str],
) -> dict[str, Any]:
    """The same as JSON; ages are ms, what is not known is null."""
    leader = None if pair.leader is None else sides[pair.leader].name
    return {
        "markets": [_side(side) for side in sides],
        "difference": None
        if found is None
        else {
            "price": found.price,
            "basis_points": found.basis_points,
            "of": found.basis,
            "at": times.iso(found.at),
        },
        "lead": {
            "leader": leader,
            "verdict": "not enough" if pair.first is None else leader or "neither",
            "why": pair.why or None,
            "slots": slots,
            "pairs": pair.pairs,
            "correlations": None if pair.first is None else [pair.first, pair.second],
            "chance": pair.chance if pair.first is not None else None,
        },
        "remarks": list(remarks),
    }


def _side(side: Side) -> dict[str, Any]:
    ticker, close = side.ticker, side.close
    return {
        "exchange": side.series.exchange,
        "symbol": side.series.symbol,
        "quote": side.quote,
        "state": side.status.words.state if side.status is not None else None,
        "price": ticker.price if ticker is not None else None,
        "age": side.age(ticker.time) if ticker is not None else None,
        "bid": ticker.bid if ticker is not None else None,
        "ask": ticker.ask if ticker is not None else None,
        "close": close.close if close is not None else None,
        "close_time": times.iso(close.close_time) if close is not None else None,
        "close_age": side.age(close.close_time) if close is not None else None,
        "evidence": close.evidence.label if close is not None else None,
    }
