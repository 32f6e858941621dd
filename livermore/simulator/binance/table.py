"""What Binance.com and Binance.US differ in, and the streams both have."""

from __future__ import annotations

import attrs

from livermore.market.timeframe import DAY, HOUR, MINUTE

INTERVALS = {
    "1m": MINUTE,
    "3m": 3 * MINUTE,
    "5m": 5 * MINUTE,
    "15m": 15 * MINUTE,
    "30m": 30 * MINUTE,
    "1h": HOUR,
    "2h": 2 * HOUR,
    "4h": 4 * HOUR,
    "6h": 6 * HOUR,
    "8h": 8 * HOUR,
    "12h": 12 * HOUR,
    "1d": DAY,
}
"""Name -> ms. Seconds, three days, weeks and months are not played."""

CHANNELS = frozenset({"kline", "ticker", "miniTicker", "trade", "aggTrade", "bookTicker"})
"""Kinds of streams."""


@attrs.frozen
class Weights:
    """What requests cost."""

    klines: int
    exchange_info: int
    ticker_one: int
    """24hr ticker of 1 to 20 symbols."""
    ticker_some: int
    """Of 21 to 100."""
    ticker_all: int
    price_one: int
    price_all: int
    trades: int
    account: int
    """What an account has, and what it traded of a symbol."""


@attrs.frozen
class Table:
    """One of the two."""

    name: str
    quote: str
    """Of the symbols that are followed."""
    quote_name: str
    liveliness: float
    """Trades per slot, against those of the busiest exchange we play."""
    weights: Weights
    raw_requests: int
    """Requests in five minutes, as exchangeInfo says; not enforced."""
    ids: str
    """What a client may number its messages with: ``any`` (also text and null) or ``unsigned``."""
    idle_frames: bool
    """Whether candles without trades are told and closed. (In 2021 neither did; Binance TR in 2023
    does, on the engine of Binance.com.)"""
    straggling: float
    """Share of closing frames that come as late as 1.756 s, as one of Binance.US did."""
    permission_sets: bool
    """Whether exchangeInfo says ``permissionSets``; it said ``permissions`` before."""
    order_ids: bool
    """Whether trades carry the ids of the orders of buyer and seller."""
    shuts_down: bool
    """Whether a connection is told that its server goes away."""
    tells_rights: bool
    """Whether a key can be asked what it may do."""
    usd_places: int
    """Decimals in which prices in USD are written; all others have eight."""


COM = Table(
    name="binance",
    quote="USDT",
    quote_name="Tether",
    liveliness=1.0,
    weights=Weights(2, 20, 2, 40, 80, 2, 4, 25, 20),
    raw_requests=300_000,
    ids="any",
    idle_frames=True,
    straggling=0.0,
    permission_sets=True,
    order_ids=False,
    shuts_down=True,
    tells_rights=True,
    usd_places=8,
)

US = Table(
    name="binance_us",
    quote="USD",
    quote_name="US Dollar",
    liveliness=0.03,
    weights=Weights(1, 10, 1, 20, 40, 1, 2, 1, 10),
    raw_requests=6_100,
    ids="unsigned",
    idle_frames=False,
    straggling=0.3,
    permission_sets=False,
    order_ids=True,
    shuts_down=False,
    tells_rights=False,
    usd_places=4,
)
