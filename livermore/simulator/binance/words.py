"""Binance as it writes: numbers, frames and rows. Pure."""

from __future__ import annotations

import json

import attrs
import numpy as np

from livermore.market.timeframe import DAY
from livermore.simulator.binance.listing import LEVERAGED
from livermore.simulator.binance.table import Table
from livermore.simulator.listing import Listing
from livermore.simulator.market import Market
from livermore.simulator.slots import SLOT, SLOTS_PER_DAY
from livermore.simulator.tape import SLOT_NS, Tape
from livermore.simulator.trades import EMPTY, NS, Row

_PLACES = 8
_STATUS = {"online": "TRADING", "offline": "HALT", "delisted": "BREAK"}


@attrs.frozen
class Frame:
    """A frame as one connection gets it: raw, or in the wrapper of the combined form."""

    channel: str
    symbol: str | None
    time: int
    text: bytes

    def encode(self, sequence: int, skew: int) -> bytes:
        """The text: there are no sequence numbers, and stamps are in it."""
        return self.text


def combined(stream: str, text: bytes) -> bytes:
    """The wrapper of ``/stream``."""
    return b'{"stream":"%b","data":%b}' % (stream.encode(), text)


def number(value: int, decimals: int, places: int = _PLACES) -> str:
    """An integer of ``decimals`` places, written with ``places`` (or more, where it needs them)."""
    if decimals < places:
        value *= 10 ** (places - decimals)
    else:
        places = decimals
    sign, value = ("-", -value) if value < 0 else ("", value)
    whole, part = divmod(value, 10**places)
    return f"{sign}{whole}.{part:0{places}d}" if places else f"{sign}{whole}"


@attrs.frozen
class Spelling:
    """How the numbers of one symbol are written."""

    listing: Listing
    places: int
    """Of prices and what is paid."""

    def price(self, value: int) -> str:
        return number(value, self.listing.price_decimals, self.places)

    def size(self, value: int) -> str:
        return number(value, self.listing.size_decimals)

    def paid(self, volume: int, row: Row) -> str:
        """What ``volume`` cost: at the mean of the candle's four prices.

        Not the sum over its trades, which would have to be made for every old candle. It is the
        same on the stream and on REST, and within the candle's prices.
        """
        listing = self.listing
        four = row.open + row.high + row.low + row.close
        value = volume * four * 10**self.places // (4 * listing.tick * listing.unit)
        return number(value, self.places, self.places)


def spelling(table: Table, listing: Listing) -> Spelling:
    return Spelling(listing, table.usd_places if listing.quote == "USD" else _PLACES)


# --- candles


def bar(tape: Tape, open_time: int, length: int, until: int) -> Row:
    """The candle from ``open_time`` (ms) made by trades before ``until`` (ns), traded or not."""
    begin, end = open_time * NS, min(until, (open_time + length) * NS)
    first, last = -(-begin // SLOT_NS), end // SLOT_NS
    if end <= begin:
        return EMPTY
    if first > last:  # within one slot
        trades = tape.trades(last)
        return trades.fold(trades.before(begin), trades.before(end))
    row = EMPTY
    if begin < first * SLOT_NS:
        trades = tape.trades(first - 1)
        row = trades.fold(trades.before(begin))
    if last == first + 1:
        row = joined(row, tape.row(first))
    elif last > first:
        row = joined(row, _whole(tape, first, last - first))
    if end > last * SLOT_NS:
        trades = tape.trades(last)
        row = joined(row, trades.fold(0, trades.before(end)))
    return row


def _whole(tape: Tape, first: int, count: int) -> Row:
    rows = tape.slots(first, count)
    found = np.flatnonzero(rows.count)
    if not len(found):
        return EMPTY
    return Row(
        int(rows.open[found[0]]),
        int(rows.high[found].max()),
        int(rows.low[found].min()),
        int(rows.close[found[-1]]),
        int(rows.volume.sum()),
        int(rows.count.sum()),
    )


def joined(row: Row, more: Row) -> Row:
    """One candle and what came after it."""
    if not row.count or not more.count:
        return row if row.count else more
    return Row(
        row.open,
        max(row.high, more.high),
        min(row.low, more.low),
        more.close,
        row.volume + more.volume,
        row.count + more.count,
    )


def first_id(tape: Tape, open_time: int) -> int:
    """Id of the first trade at or after ``open_time`` (ms)."""
    slot = open_time // SLOT
    if open_time % SLOT == 0:
        return tape.first_id(slot)
    trades = tape.trades(slot)
    return trades.first_id + trades.before(open_time * NS)


def price_before(market: Market, symbol: str, time: int) -> int | None:
    """Price (ticks) of the newest trade before ``time`` (ms); None when nothing ever traded."""
    row = market.partial(symbol, time // SLOT, time * NS)
    return row.close if row.count else market.last_close(symbol, time)


def flat(price: int) -> Row:
    """A candle in which nothing traded."""
    return Row(price, price, price, price, 0, 0)


def kline(
    spelt: Spelling,
    interval: str,
    length: int,
    open_time: int,
    row: Row,
    first: int,
    *,
    closed: bool,
    time: int,
) -> bytes:
    """``first``: id of its first trade, when it has one; ``time``: ms."""
    symbol = spelt.listing.native
    ids = f'"f":{first},"L":{first + row.count - 1}' if row.count else '"f":-1,"L":-1'
    return (
        f'{{"e":"kline","E":{time},"s":"{symbol}","k":{{"t":{open_time},'
        f'"T":{open_time + length - 1},"s":"{symbol}","i":"{interval}",{ids},'
        f'"o":"{spelt.price(row.open)}","c":"{spelt.price(row.close)}",'
        f'"h":"{spelt.price(row.high)}","l":"{spelt.price(row.low)}",'
        f'"v":"{spelt.size(row.volume)}","n":{row.count},"x":{"true" if closed else "false"},'
        f'"q":"{spelt.paid(row.volume, row)}","V":"{spelt.size(row.volume // 2)}",'
        f'"Q":"{spelt.paid(row.volume // 2, row)}","B":"0"}}}}'
    ).encode()


def kline_row(spelt: Spelling, length: int, open_time: int, row: Row) -> list[object]:
    """The same as REST has it."""
    return [
        open_time,
        spelt.price(row.open),
        spelt.price(row.high),
        spelt.price(row.low),
        spelt.price(row.close),
        spelt.size(row.volume),
        open_time + length - 1,
        spelt.paid(row.volume, row),
        row.count,
        spelt.size(row.volume // 2),
        spelt.paid(row.volume // 2, row),
        "0",
    ]


# --- 24 hours


@attrs.frozen
class Window:
    """The 24 hours before a moment, to the slot."""

    row: Row
    first_id: int
    before: int
    """The last price before it; 0 where there is none."""
    since: int
    """ms"""

    def with_running(self, row: Row) -> Window:
        """These, and what the running slot has made so far."""
        return attrs.evolve(self, row=joined(self.row, row))


def window(market: Market, symbol: str, slot: int) -> Window:
    """The 24 hours before the start of ``slot``."""
    tape = market.tape(symbol)
    since = (slot - SLOTS_PER_DAY) * SLOT
    row = _whole(tape, slot - SLOTS_PER_DAY, SLOTS_PER_DAY)
    return Window(
        row, tape.first_id(slot - SLOTS_PER_DAY), market.last_close(symbol, since) or 0, since
    )


def _figures(spelt: Spelling, day: Window) -> dict[str, str]:
    """The figures that REST and the stream both have."""
    row, listing = day.row, spelt.listing
    if not row.count:
        row = flat(day.before)
    change = row.close - row.open
    percent = change / row.open * 100.0 if row.open else 0.0
    mean = (row.open + row.high + row.low + row.close) // 4 if row.count else 0
    last = row.volume // row.count if row.count else 0  # a size nobody checks
    depth = max(1, row.volume // 20_000) if row.open else 0
    return {
        "change": number(change, listing.price_decimals, spelt.places),
        "percent": f"{percent:.3f}",
        "mean": spelt.price(mean),
        "before": spelt.price(day.before),
        "last": spelt.price(row.close),
        "size": spelt.size(last),
        "bid": spelt.price(max(row.close - 1, min(row.close, 1))),
        "depth": spelt.size(depth),
        "open": spelt.price(row.open),
        "high": spelt.price(row.high),
        "low": spelt.price(row.low),
        "volume": spelt.size(row.volume),
        "paid": spelt.paid(row.volume, row),
    }


def _ids(day: Window) -> tuple[int, int]:
    count = day.row.count
    return (day.first_id, day.first_id + count - 1) if count else (-1, -1)


def ticker(spelt: Spelling, day: Window, time: int) -> bytes:
    """``time``: ms."""
    f = _figures(spelt, day)
    first, last = _ids(day)
    return (
        f'{{"e":"24hrTicker","E":{time},"s":"{spelt.listing.native}","p":"{f["change"]}",'
        f'"P":"{f["percent"]}","w":"{f["mean"]}","x":"{f["before"]}","c":"{f["last"]}",'
        f'"Q":"{f["size"]}","b":"{f["bid"]}","B":"{f["depth"]}","a":"{f["last"]}",'
        f'"A":"{f["depth"]}","o":"{f["open"]}","h":"{f["high"]}","l":"{f["low"]}",'
        f'"v":"{f["volume"]}","q":"{f["paid"]}","O":{time - DAY},"C":{time},"F":{first},'
        f'"L":{last},"n":{day.row.count}}}'
    ).encode()


def mini_ticker(spelt: Spelling, day: Window, time: int) -> bytes:
    """``time``: ms."""
    f = _figures(spelt, day)
    return (
        f'{{"e":"24hrMiniTicker","E":{time},"s":"{spelt.listing.native}","c":"{f["last"]}",'
        f'"o":"{f["open"]}","h":"{f["high"]}","l":"{f["low"]}","v":"{f["volume"]}",'
        f'"q":"{f["paid"]}"}}'
    ).encode()


def ticker_row(spelt: Spelling, day: Window, time: int, *, mini: bool) -> dict[str, object]:
    """The same as REST has it."""
    f = _figures(spelt, day)
    first, last = _ids(day)
    ends = {
        # Nothing for a day: both ends are the same.
        "openTime": time - DAY if day.row.count else time,
        "closeTime": time,
        "firstId": first,
        "lastId": last,
        "count": day.row.count,
    }
    if mini:
        return {
            "symbol": spelt.listing.native,
            "openPrice": f["open"],
            "highPrice": f["high"],
            "lowPrice": f["low"],
            "lastPrice": f["last"],
            "volume": f["volume"],
            "quoteVolume": f["paid"],
            **ends,
        }
    return {
        "symbol": spelt.listing.native,
        "priceChange": f["change"],
        "priceChangePercent": f["percent"],
        "weightedAvgPrice": f["mean"],
        "prevClosePrice": f["before"],
        "lastPrice": f["last"],
        "lastQty": f["size"],
        "bidPrice": f["bid"],
        "bidQty": f["depth"],
        "askPrice": f["last"],
        "askQty": f["depth"],
        "openPrice": f["open"],
        "highPrice": f["high"],
        "lowPrice": f["low"],
        "volume": f["volume"],
        "quoteVolume": f["paid"],
        **ends,
    }


# --- trades


def trade(
    table: Table,
    spelt: Spelling,
    number: int,
    price: int,
    size: int,
    at: int,
    maker: bool,
    time: int,
) -> bytes:
    """``at``: ms of the trade; ``maker``: whether the buyer's order was there first."""
    orders = f'"b":{2 * number},"a":{2 * number + 1},' if table.order_ids else ""
    return (
        f'{{"e":"trade","E":{time},"s":"{spelt.listing.native}","t":{number},'
        f'"p":"{spelt.price(price)}","q":"{spelt.size(size)}",{orders}"T":{at},'
        f'"m":{"true" if maker else "false"},"M":true}}'
    ).encode()


def agg_trade(
    spelt: Spelling, number: int, price: int, size: int, at: int, maker: bool, time: int
) -> bytes:
    """Each trade is an aggregate of its own."""
    return (
        f'{{"e":"aggTrade","E":{time},"s":"{spelt.listing.native}","a":{number},'
        f'"p":"{spelt.price(price)}","q":"{spelt.size(size)}","f":{number},"l":{number},'
        f'"T":{at},"m":{"true" if maker else "false"},"M":true}}'
    ).encode()


def book_ticker(spelt: Spelling, update: int, price: int, size: int) -> bytes:
    """It says neither its name nor a time."""
    return (
        f'{{"u":{update},"s":"{spelt.listing.native}","b":"{spelt.price(max(price - 1, 1))}",'
        f'"B":"{spelt.size(size)}","a":"{spelt.price(price)}","A":"{spelt.size(size)}"}}'
    ).encode()


# --- control


def result(value: object, number: object) -> bytes:
    """The answer to a message that was understood; ``number`` is its id."""
    return _json({"result": value, "id": number})


def refusal(code: int, message: str, number: object = None, *, numbered: bool = False) -> bytes:
    """The answer to one that was not; with its id where that could be read."""
    said: dict[str, object] = {"code": code, "msg": message}
    return _json({**said, "id": number} if numbered else said)


def shutdown(time: int) -> bytes:
    """``time``: ms."""
    return _json({"e": "serverShutdown", "E": time})


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


# --- REST


def symbol_row(
    table: Table, listing: Listing, *, permission_sets: bool = True
) -> dict[str, object]:
    """A row of exchangeInfo."""
    spelt = spelling(table, listing)
    leveraged = listing.base in LEVERAGED
    permission = "LEVERAGED" if leveraged else "SPOT"
    if not table.permission_sets:
        permissions: dict[str, object] = {"permissions": [permission]}
    elif permission_sets:
        permissions = {"permissions": [], "permissionSets": [[permission, "TRD_GRP_004"]]}
    else:
        permissions = {"permissions": []}
    tick, step = spelt.price(1), spelt.size(1)
    return {
        "symbol": listing.native,
        "status": status(listing),
        "baseAsset": listing.base,
        "baseAssetPrecision": 8,
        "quoteAsset": listing.quote,
        "quotePrecision": spelt.places,
        "quoteAssetPrecision": spelt.places,
        "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8 if spelt.places == _PLACES else 2,
        "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS_LIMIT", "TAKE_PROFIT_LIMIT"],
        "icebergAllowed": True,
        "ocoAllowed": True,
        "otoAllowed": True,
        "quoteOrderQtyMarketAllowed": True,
        "allowTrailingStop": True,
        "cancelReplaceAllowed": True,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": spelt.price(10**12),
             "tickSize": tick},
            {"filterType": "LOT_SIZE", "minQty": step, "maxQty": spelt.size(10**13),
             "stepSize": step},
            {"filterType": "ICEBERG_PARTS", "limit": 10},
            {"filterType": "MARKET_LOT_SIZE", "minQty": spelt.size(0),
             "maxQty": spelt.size(10**12), "stepSize": spelt.size(0)},
            {"filterType": "NOTIONAL", "minNotional": number(5, 0, spelt.places),
             "applyMinToMarket": True, "maxNotional": number(9_000_000, 0, spelt.places),
             "applyMaxToMarket": False, "avgPriceMins": 5},
            {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": 200},
            {"filterType": "MAX_NUM_ALGO_ORDERS", "maxNumAlgoOrders": 5},
        ],
        **permissions,
        "defaultSelfTradePreventionMode": "EXPIRE_MAKER",
        "allowedSelfTradePreventionModes": ["EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH"],
    }  # fmt: skip


def status(listing: Listing) -> str:
    """Its status in the exchange's word."""
    return _STATUS.get(listing.status, listing.status)


def rate_limits(table: Table, weight: int) -> list[dict[str, object]]:
    return [
        {"rateLimitType": kind, "interval": interval, "intervalNum": number, "limit": limit}
        for kind, interval, number, limit in (
            ("REQUEST_WEIGHT", "MINUTE", 1, weight),
            ("ORDERS", "SECOND", 10, 100),
            ("ORDERS", "DAY", 1, 200_000),
            ("RAW_REQUESTS", "MINUTE", 5, table.raw_requests),
        )
    ]
