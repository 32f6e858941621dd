"""Coinbase Advanced Trade as it writes: numbers, stamps, frames and rows. Pure."""

from __future__ import annotations

import datetime
import functools
import json

import attrs

from livermore.market.timeframe import DAY, HOUR, MINUTE
from livermore.simulator.listing import Listing
from livermore.simulator.market import Candle, Day, Market
from livermore.simulator.trades import NS, Trades

GRANULARITIES = {
    "ONE_MINUTE": MINUTE,
    "FIVE_MINUTE": 5 * MINUTE,
    "FIFTEEN_MINUTE": 15 * MINUTE,
    "THIRTY_MINUTE": 30 * MINUTE,
    "ONE_HOUR": HOUR,
    "TWO_HOUR": 2 * HOUR,
    "FOUR_HOUR": 4 * HOUR,
    "SIX_HOUR": 6 * HOUR,
    "ONE_DAY": DAY,
}

CHANNELS = frozenset({"candles", "market_trades", "ticker", "ticker_batch", "heartbeats", "status"})

_SECOND = 1_000_000_000
_BOOK_SPREAD = 1
"""Ticks between the last price and the best bid; there is no book behind it."""


@attrs.frozen
class Frame:
    """A frame for everyone who subscribed: all but its sequence number is encoded once."""

    channel: str
    symbol: str | None
    """None where the frame concerns no single product."""
    time: int
    """ns; the envelope's timestamp before any skew."""
    events: bytes

    def encode(self, sequence: int, skew: int = 0) -> bytes:
        """The whole frame for one connection."""
        return b'{"channel":"%b","client_id":"","timestamp":"%b","sequence_num":%d,"events":%b}' % (
            self.channel.encode(),
            rfc3339_nano(self.time + skew).encode(),
            sequence,
            self.events,
        )


def number(value: int, decimals: int) -> str:
    """An integer of ``decimals`` places without trailing zeros, as Coinbase writes numbers."""
    if decimals == 0:
        return str(value)
    whole, part = divmod(value, 10**decimals)
    return f"{whole}.{part:0{decimals}d}".rstrip("0").rstrip(".")


@functools.lru_cache(maxsize=4096)
def _second(seconds: int, separator: str) -> str:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.strftime(f"%Y-%m-%d{separator}%H:%M:%S")


def rfc3339_nano(time: int) -> str:
    """``time`` (ns) with nine fractional digits."""
    seconds, part = divmod(time, _SECOND)
    return f"{_second(seconds, 'T')}.{part:09d}Z"


def rfc3339_micro(time: int) -> str:
    """``time`` (ns) with six fractional digits, as trades carry it."""
    seconds, part = divmod(time, _SECOND)
    return f"{_second(seconds, 'T')}.{part // 1_000:06d}Z"


def rfc3339(time: int) -> str:
    """``time`` (ns) in whole seconds."""
    return f"{_second(time // _SECOND, 'T')}Z"


def go_time(time: int, running: float) -> str:
    """``time`` (ns) as Go prints it, with its monotonic reading (s)."""
    seconds, part = divmod(time, _SECOND)
    return f"{_second(seconds, ' ')}.{part:09d} +0000 UTC m=+{running:.9f}"


def spoken_name(symbol: str, market: Market) -> str | None:
    """The product frames will carry for a subscribed id; None when there is no such product."""
    if symbol in market:
        return symbol
    base, _, quote = symbol.partition("-")
    dollars = f"{base}-USD"
    if quote == "USDC" and dollars in market and has_alias(market.listing(dollars)):
        return dollars
    return None


def has_alias(listing: Listing) -> bool:
    """Whether ``X-USDC`` exists beside this ``X-USD``: as for all but stablecoins and oddities."""
    return listing.followed and listing.quote == "USD"


# --- frames


def heartbeat(time: int, started: int, counter: int, skew: int = 0) -> Frame:
    text = go_time(time + skew, 425_760.164580852 + (time - started) / _SECOND)
    events = f'[{{"current_time":"{text}","heartbeat_counter":{counter}}}]'
    return Frame("heartbeats", None, time, events.encode())


def subscriptions(time: int, state: dict[str, list[str]]) -> Frame:
    events = json.dumps([{"subscriptions": state}], separators=(",", ":"))
    return Frame("subscriptions", None, time, events.encode())


def error(message: str) -> bytes:
    """Error frames have neither channel nor sequence number."""
    return json.dumps({"type": "error", "message": message}, separators=(",", ":")).encode()


def candles(listing: Listing, rows: list[Candle], time: int, kind: str) -> Frame:
    """``rows`` newest first."""
    body = ",".join(_candle(listing, row) for row in rows)
    events = f'[{{"type":"{kind}","candles":[{body}]}}]'
    return Frame("candles", listing.symbol, time, events.encode())


def _candle(listing: Listing, candle: Candle) -> str:
    row, decimals = candle.row, listing.price_decimals
    return (
        f'{{"start":"{candle.open_time // 1000}","high":"{number(row.high, decimals)}",'
        f'"low":"{number(row.low, decimals)}","open":"{number(row.open, decimals)}",'
        f'"close":"{number(row.close, decimals)}",'
        f'"volume":"{number(row.volume, listing.size_decimals)}",'
        f'"product_id":"{listing.symbol}"}}'
    )


def trade_texts(listing: Listing, trades: Trades, start: int, stop: int) -> list[str]:
    """Trades ``start`` to ``stop`` as JSON objects, oldest first."""
    decimals, units = listing.price_decimals, listing.size_decimals
    columns = zip(
        trades.time[start:stop].tolist(),
        trades.price[start:stop].tolist(),
        trades.size[start:stop].tolist(),
        trades.buy[start:stop].tolist(),
        strict=True,
    )
    return [
        f'{{"trade_id":"{trade_id}","product_id":"{listing.symbol}",'
        f'"price":"{number(price, decimals)}","size":"{number(size, units)}",'
        f'"time":"{rfc3339_micro(time)}","side":"{"BUY" if buy else "SELL"}"}}'
        for trade_id, (time, price, size, buy) in enumerate(columns, trades.first_id + start)
    ]


def market_trades(listing: Listing, texts: list[str], time: int, kind: str) -> Frame:
    """``texts`` oldest first; the frame has them newest first."""
    events = f'[{{"type":"{kind}","trades":[{",".join(reversed(texts))}]}}]'
    return Frame("market_trades", listing.symbol, time, events.encode())


def ticker(
    listing: Listing,
    price: int,
    day: Day,
    year: tuple[int, int],
    time: int,
    kind: str = "update",
    channel: str = "ticker",
) -> Frame:
    """``year``: low and high of 52 weeks."""
    p, s = listing.price_decimals, listing.size_decimals
    change = (price / day.reference - 1.0) * 100.0 if day.reference else 0.0
    book = ""
    if channel == "ticker":
        depth = number(max(1, day.volume // 20_000), s)
        book = (
            f',"best_bid":"{number(max(price - _BOOK_SPREAD, 1), p)}",'
            f'"best_bid_quantity":"{depth}","best_ask":"{number(price, p)}",'
            f'"best_ask_quantity":"{depth}"'
        )
    events = (
        f'[{{"type":"{kind}","tickers":[{{"type":"ticker","product_id":"{listing.symbol}",'
        f'"price":"{number(price, p)}","volume_24_h":"{number(day.volume, s)}",'
        f'"low_24_h":"{number(min(day.low, price), p)}",'
        f'"high_24_h":"{number(max(day.high, price), p)}",'
        f'"low_52_w":"{number(min(year[0], day.low, price), p)}",'
        f'"high_52_w":"{number(max(year[1], day.high, price), p)}",'
        f'"price_percent_chg_24_h":"{change:.14g}"{book}}}]}}]'
    )
    return Frame(channel, listing.symbol, time, events.encode())


def status(listings: list[Listing], time: int, kind: str = "snapshot") -> Frame:
    products = [
        {
            "product_type": "SPOT",
            "id": listing.symbol,
            "base_currency": listing.base,
            "quote_currency": listing.quote,
            "base_increment": number(1, listing.size_decimals),
            "quote_increment": number(1, listing.price_decimals),
            "display_name": f"{listing.base}/{listing.quote}",
            "status": listing.status,
            "status_message": "",
            "min_market_funds": "1",
        }
        for listing in listings
    ]
    events = json.dumps([{"type": kind, "products": products}], separators=(",", ":"))
    return Frame("status", None, time, events.encode())


# --- REST


def candle_row(listing: Listing, candle: Candle) -> dict[str, str]:
    row, decimals = candle.row, listing.price_decimals
    return {
        "start": str(candle.open_time // 1000),
        "low": number(row.low, decimals),
        "high": number(row.high, decimals),
        "open": number(row.open, decimals),
        "close": number(row.close, decimals),
        "volume": number(row.volume, listing.size_decimals),
    }


def product_row(listing: Listing, price: int, day: Day, *, usdc: bool = False) -> dict[str, object]:
    """A row of the product list; ``usdc`` is the alias row beside an ``X-USD``."""
    symbol = f"{listing.base}-USDC" if usdc else listing.symbol
    quote = "USDC" if usdc else listing.quote
    worth = day.volume / listing.unit * (price / listing.tick)
    change = (price / day.reference - 1.0) * 100.0 if day.reference else 0.0
    tick = number(1, listing.price_decimals)
    return {
        "product_id": symbol,
        "price": number(price, listing.price_decimals),
        "price_percentage_change_24h": f"{change:.14g}",
        "volume_24h": number(day.volume, listing.size_decimals),
        "volume_percentage_change_24h": "0",
        "base_increment": number(1, listing.size_decimals),
        "quote_increment": tick,
        "quote_min_size": "1",
        "quote_max_size": "150000000",
        "base_min_size": number(1, listing.size_decimals),
        "base_max_size": "100000000",
        "base_name": listing.name,
        "quote_name": "USDC" if usdc else listing.quote_name,
        "watched": False,
        "is_disabled": listing.disabled,
        "new": False,
        "status": listing.status,
        "cancel_only": False,
        "limit_only": False,
        "post_only": False,
        "trading_disabled": listing.disabled,
        "auction_mode": False,
        "product_type": "SPOT",
        "quote_currency_id": quote,
        "base_currency_id": listing.base,
        "fcm_trading_session_details": None,
        "mid_market_price": "",
        "alias": listing.symbol if usdc else "",
        "alias_to": [f"{listing.base}-USDC"] if has_alias(listing) and not usdc else [],
        "base_display_symbol": listing.base,
        "quote_display_symbol": "USD" if usdc else listing.quote,
        "view_only": listing.view_only,
        "price_increment": tick,
        "display_name": symbol,
        "product_venue": "CBE",
        "approximate_quote_24h_volume": f"{worth:.2f}",
        "new_at": "2023-01-01T00:00:00Z",
        "market_cap": "",
        "base_cbrn": "",
        "quote_cbrn": "",
        "product_cbrn": "",
        "icon_color": "",
        "icon_url": "",
        "display_name_overwrite": "",
        "is_alpha_testing": False,
        "about_description": "",
        "best_bid_price": "",
        "best_ask_price": "",
    }


def time_reply(now: int) -> dict[str, str]:
    return {
        "iso": rfc3339(now),
        "epochSeconds": str(now // _SECOND),
        "epochMillis": str(now // NS),
    }
