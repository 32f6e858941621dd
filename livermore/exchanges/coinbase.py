"""Coinbase Advanced Trade: public market data, no key; for those with one, see the file beside it.

Its peculiarities, and what is made of them:

- Candles are streamed in five minutes only, as samples taken every 10 s and shown 6.7 s later.
  Trades are current and their ids contiguous per product: trades close a slot, samples check it.
- A subscription to ``BTC-USDC`` is answered under ``BTC-USD``; events carry the id that came.
- Numbers are strings, except where they are not (``heartbeat_counter``): both are read everywhere.
- Arrays come newest first, or in no promised order: they are sorted here.

A frame is decoded by msgspec in one go. Only if that fails is it taken apart row by row, so that
one damaged row does not cost the good ones beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import attrs
import msgspec

from livermore.dialect import CloseRule, Dialect, Fees, Request, Row, Subscription
from livermore.errors import (
    LivermoreError,
    MalformedMessage,
    RateLimited,
    Refused,
    RestError,
    UnknownSymbol,
)
from livermore.exchanges.coinbase_account import ACCOUNT
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
    Unknown,
)
from livermore.market.product import Product
from livermore.market.timeframe import Timeframe
from livermore.market.wire import (
    LATEST,
    MOST,
    converted,
    decoded,
    figure,
    one_line,
    retry_after,
    unreadable,
)

GRANULARITIES = {
    Timeframe.M5: "FIVE_MINUTE",
    Timeframe.M15: "FIFTEEN_MINUTE",
    Timeframe.H1: "ONE_HOUR",
    Timeframe.H4: "FOUR_HOUR",
    Timeframe.D1: "ONE_DAY",
}

CHANNELS = ("candles", "ticker", "market_trades")
"""What is subscribed per product, in this order; ``heartbeats`` goes before them."""

REPLY_ROWS = 350
"""The documented maximum of ``limit``; reports differ between 349 and 350, so pages are 300."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

GRID = 300
"""Seconds: the starts of all timeframes here are multiples."""

LARGEST_SIZE = Decimal("1E+18")
"""No trade is larger; also keeps a damaged exponent out of exact sums."""

WAIT = {"untold": 10.0, "least": 1.0, "most": 86_400.0}
"""Seconds to stay away after a 429 that does not say how long; what we believe of one that does."""


class TradeRow(msgspec.Struct, gc=False):
    trade_id: int
    product_id: str
    price: float
    size: Decimal
    time: str


class CandleRow(msgspec.Struct, gc=False):
    product_id: str
    start: int
    open: float
    high: float
    low: float
    close: float
    volume: float


class TickerRow(msgspec.Struct, gc=False):
    product_id: str
    price: float
    volume_24_h: str | float | None = None
    best_bid: str | float | None = None
    best_ask: str | float | None = None


class HeartbeatEvent(msgspec.Struct, gc=False):
    heartbeat_counter: int


class SubscriptionsEvent(msgspec.Struct):
    subscriptions: dict[str, Any]


class TradesEvent(msgspec.Struct):
    trades: list[TradeRow]
    type: str = ""


class CandlesEvent(msgspec.Struct):
    candles: list[CandleRow]
    type: str = ""


class TickersEvent(msgspec.Struct):
    tickers: list[TickerRow]
    type: str = ""


class TradesFrame(msgspec.Struct, tag_field="channel", tag="market_trades"):
    timestamp: str
    sequence_num: int
    events: list[TradesEvent]


class CandlesFrame(msgspec.Struct, tag_field="channel", tag="candles"):
    timestamp: str
    sequence_num: int
    events: list[CandlesEvent]


class TickerFrame(msgspec.Struct, tag_field="channel", tag="ticker"):
    timestamp: str
    sequence_num: int
    events: list[TickersEvent]


class TickerBatchFrame(msgspec.Struct, tag_field="channel", tag="ticker_batch"):
    timestamp: str
    sequence_num: int
    events: list[TickersEvent]


class HeartbeatsFrame(msgspec.Struct, tag_field="channel", tag="heartbeats"):
    timestamp: str
    sequence_num: int
    events: list[HeartbeatEvent]


class SubscriptionsFrame(msgspec.Struct, tag_field="channel", tag="subscriptions"):
    timestamp: str
    sequence_num: int
    events: list[SubscriptionsEvent]


AnyRow = TradeRow | CandleRow | TickerRow
AnyEvent = TradesEvent | CandlesEvent | TickersEvent | HeartbeatEvent | SubscriptionsEvent
AnyFrame = (
    TradesFrame
    | CandlesFrame
    | TickerFrame
    | TickerBatchFrame
    | HeartbeatsFrame
    | SubscriptionsFrame
)

# Not strict: a number in quotes is a number, and the other way round.
_DECODER = msgspec.json.Decoder(AnyFrame, strict=False)

_SHAPES: Mapping[str, tuple[type[AnyEvent], str, type[AnyRow] | None]] = {
    "market_trades": (TradesEvent, "trades", TradeRow),
    "candles": (CandlesEvent, "candles", CandleRow),
    "ticker": (TickersEvent, "tickers", TickerRow),
    "ticker_batch": (TickersEvent, "tickers", TickerRow),
    "heartbeats": (HeartbeatEvent, "", None),
    "subscriptions": (SubscriptionsEvent, "", None),
}
"""Per channel: the event, its field of rows, a row."""


def read(frame: bytes | str) -> Frame:
    """What ``frame`` means; raises :class:`MalformedMessage`, and nothing else."""
    try:
        text = frame if isinstance(frame, str) else frame.decode()
        try:
            wire = _DECODER.decode(text)
        except msgspec.ValidationError:
            return _read_by_rows(text)
        return _understand(wire.timestamp, wire.sequence_num, wire.events, 0)
    # msgspec's and Unicode's errors are ValueErrors; deep nesting exhausts the stack.
    except (ValueError, RecursionError) as error:
        raise unreadable("coinbase", error, frame) from None


def _understand(
    timestamp: object, sequence: object, wire: Sequence[AnyEvent], malformed: int
) -> Frame:
    stamp = _milliseconds(timestamp)
    if stamp is None:
        malformed += 1
    if type(sequence) is not int or not 0 <= sequence < MOST:
        sequence = None
        malformed += 1
    events: list[Event] = []
    for event in wire:
        if type(event) is TradesEvent:
            malformed += _trades(event, events)
        elif type(event) is TickersEvent:
            malformed += _tickers(event, stamp, events)
        elif type(event) is CandlesEvent:
            malformed += _samples(event, events)
        elif type(event) is HeartbeatEvent:
            if 0 <= event.heartbeat_counter < MOST:
                events.append(Heartbeat(event.heartbeat_counter))
            else:
                malformed += 1
        elif type(event) is SubscriptionsEvent:
            events.append(_acknowledged(event))
    return Frame(stamp, sequence, events, malformed)


def _trades(event: TradesEvent, events: list[Event]) -> int:
    snapshot = event.type != "update"  # a kind we do not know is no news either
    malformed = 0
    by_product: dict[str, list[Trade]] = {}
    for row in event.trades:
        time = _milliseconds(row.time)
        size = row.size
        if (
            time is None
            or not row.product_id
            or not 0 <= row.trade_id < MOST
            or not 0 < row.price < math.inf
            or not size.is_finite()  # first: comparing a NaN raises
            or not 0 < size < LARGEST_SIZE
        ):
            malformed += 1
            continue
        trade = Trade(row.trade_id, row.price, size, time)
        if row.product_id in by_product:
            by_product[row.product_id].append(trade)
        else:
            by_product[row.product_id] = [trade]
    for native, trades in by_product.items():
        if len(trades) > 1:
            trades.sort(key=_trade_id)
        events.append(Trades(native, trades, snapshot))
    return malformed


def _samples(event: CandlesEvent, events: list[Event]) -> int:
    snapshot = event.type != "update"
    samples: list[Sample] = []
    for row in event.candles:
        if row.product_id and _possible(row):
            samples.append(
                Sample(
                    row.product_id,
                    row.start * 1000,
                    row.open,
                    row.high,
                    row.low,
                    row.close,
                    row.volume,
                    snapshot,
                )
            )
    if len(samples) > 1:
        samples.sort(key=_open_time)
    events.extend(samples)
    return len(event.candles) - len(samples)


def _tickers(event: TickersEvent, stamp: int | None, events: list[Event]) -> int:
    snapshot = event.type == "snapshot"  # here the doubt goes the other way: a sign of trading
    malformed = 0
    for row in event.tickers:
        # Rows have no time of their own: without the frame's they cannot be placed.
        if stamp is None or not row.product_id or not 0 < row.price < math.inf:
            malformed += 1
            continue
        bid, ask = figure(row.best_bid) or None, figure(row.best_ask) or None
        volume = figure(row.volume_24_h)
        events.append(Ticker(row.product_id, row.price, stamp, bid, ask, volume, snapshot))
    return malformed


def _acknowledged(event: SubscriptionsEvent) -> Acknowledged:
    """Cumulative lists; what stands behind ``heartbeats`` is undocumented and may be no list."""
    return Acknowledged(
        {
            channel: frozenset(native for native in natives if isinstance(native, str))
            if isinstance(natives, list)
            else frozenset()
            for channel, natives in event.subscriptions.items()
        }
    )


def _read_by_rows(text: str) -> Frame:
    """The way for errors, unknown channels and damaged rows."""
    wire = msgspec.json.decode(text)
    if not isinstance(wire, dict):
        raise MalformedMessage("coinbase: frame is not an object", text)
    if wire.get("type") == "error":  # the only frames without channel and sequence_num
        message = converted(wire.get("message"), str) or text
        return Frame(None, None, [Rejected(one_line(message))])
    channel = wire.get("channel")
    if not isinstance(channel, str):
        raise MalformedMessage("coinbase: frame names no channel", text)
    timestamp, sequence = wire.get("timestamp"), converted(wire.get("sequence_num"), int)
    if channel not in _SHAPES:
        frame = _understand(timestamp, sequence, (), 0)
        return attrs.evolve(frame, events=[Unknown(one_line(channel, 40))])
    if not isinstance(wire.get("events"), list):
        raise MalformedMessage(f"coinbase: {channel} frame without events", text)
    events: list[AnyEvent] = []
    malformed = 0
    for raw in wire["events"]:
        event, left_out = _salvage(raw, *_SHAPES[channel])
        malformed += left_out
        if event is not None:
            events.append(event)
    return _understand(timestamp, sequence, events, malformed)


def _salvage(
    raw: object, kind: type[AnyEvent], field: str, row_kind: type[AnyRow] | None
) -> tuple[AnyEvent | None, int]:
    """The event with its readable rows, and how much had to be left out."""
    left_out = 0
    if row_kind is not None and isinstance(raw, dict) and isinstance(raw.get(field), list):
        rows = [row for row in raw[field] if converted(row, row_kind) is not None]
        left_out = len(raw[field]) - len(rows)
        raw = {field: rows, "type": converted(raw.get("type"), str) or ""}
    event = converted(raw, kind)
    return event, left_out + (event is None)


def _trade_id(trade: Trade) -> int:
    return trade.trade_id


def _open_time(sample: Sample) -> int:
    return sample.open_time


def _possible(row: CandleRow | RestCandle) -> bool:
    """Whether a market can have made this candle; a NaN fails every comparison."""
    return (
        0 < row.low <= row.open <= row.high < math.inf
        and row.low <= row.close <= row.high
        and 0 <= row.volume < math.inf
        and 0 <= row.start * 1000 < LATEST
        and row.start % GRID == 0
    )


def _milliseconds(text: object) -> int | None:
    """RFC 3339, up to nine digits of a second -> epoch ms; None without a zone or before 1970.

    Rounded down, as a trade at 59.9999 belongs to the slot that ends with that second. Measured:
    0.2 us; slicing by hand with the minute looked up takes 0.3, ``timestamp()`` as much and rounds.
    """
    try:
        since = datetime.fromisoformat(text) - EPOCH  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    if since.days < 0:  # Go's zero time is the year 1
        return None
    return since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000


def subscribe(natives: Sequence[str]) -> Sequence[Subscription]:
    """One channel per frame; heartbeats first, as they keep quiet channels from being closed."""
    wanted = list(dict.fromkeys(natives))
    heartbeats = Subscription(
        "heartbeats", _encode({"type": "subscribe", "channel": "heartbeats"}), frozenset()
    )
    if not wanted:
        return (heartbeats,)
    return (
        heartbeats,
        *(
            Subscription(channel, _request("subscribe", wanted, channel), frozenset(wanted))
            for channel in CHANNELS
        ),
    )


def unsubscribe(natives: Sequence[str]) -> Sequence[str]:
    """Without ``product_ids`` a whole channel would be dropped, so no products means no frames."""
    wanted = list(dict.fromkeys(natives))
    return tuple(_request("unsubscribe", wanted, channel) for channel in CHANNELS) if wanted else ()


def _request(kind: str, natives: list[str], channel: str) -> str:
    return _encode({"type": kind, "product_ids": natives, "channel": channel})


def _encode(value: object) -> str:
    return msgspec.json.encode(value).decode()


class RestCandle(msgspec.Struct):
    start: int
    open: float
    high: float
    low: float
    close: float
    volume: float


class RestCandles(msgspec.Struct):
    candles: list[RestCandle]


class RestProduct(msgspec.Struct):
    product_id: str
    base_currency_id: str
    quote_currency_id: str
    product_type: str = "SPOT"
    status: str = ""
    is_disabled: bool = False
    trading_disabled: bool = False
    view_only: bool = False
    cancel_only: bool = False
    post_only: bool = False
    auction_mode: bool = False
    alias: str | None = None
    price: str | float | None = None
    volume_24h: str | float | None = None
    approximate_quote_24h_volume: str | float | None = None


class RestProducts(msgspec.Struct):
    products: list[Any]


class RestTime(msgspec.Struct, rename="camel"):
    epoch_millis: int


class RestComplaintItem(msgspec.Struct):
    id: str = ""
    message: str = ""


class RestComplaint(msgspec.Struct):
    error: str = ""
    error_details: str = ""
    message: str = ""
    errors: list[RestComplaintItem] = []


def candles_request(native: str, timeframe: Timeframe, start: int, end: int) -> Request:
    """The public mirror; ``start`` and ``end`` are open times in ms, both included."""
    buckets = (end - start) // timeframe.ms + 1
    return Request(
        f"/api/v3/brokerage/market/products/{quote(native, safe='')}/candles",
        {
            "start": str(start // 1000),
            "end": str(end // 1000),
            "granularity": GRANULARITIES[timeframe],
            "limit": str(min(max(buckets, 1), REPLY_ROWS)),
        },
    )


def read_candles(body: bytes) -> Sequence[Row]:
    """Rows, ascending, one per open time. One damaged row spoils the reply.

    A row left out silently would later pass for a slot without trades.
    """
    reply = decoded(body, RestCandles, "coinbase", "candles")
    rows: dict[int, Row] = {}
    for wire in reply.candles:
        if not _possible(wire):
            raise MalformedMessage(
                f"coinbase: impossible candle at {wire.start} in the reply", repr(wire)
            )
        row = Row(wire.start * 1000, wire.open, wire.high, wire.low, wire.close, wire.volume)
        known = rows.get(row.open_time)
        if (
            known is None or row.volume > known.volume
        ):  # within a slot volume only grows: the later state
            rows[row.open_time] = row
    return [rows[open_time] for open_time in sorted(rows)]


def products_requests() -> Sequence[Request]:
    """All spot listings in one reply; ``get_all_products`` would add expired futures and more."""
    return (Request("/api/v3/brokerage/market/products", {"product_type": "SPOT"}),)


def read_products(bodies: Sequence[bytes]) -> Sequence[Product]:
    """Spot listings; a damaged row is left out, a reply without one good row is damaged."""
    [body] = bodies
    listed = decoded(body, RestProducts, "coinbase", "products").products
    readable = (converted(row, RestProduct) for row in listed)
    rows = [
        row
        for row in readable
        if row and row.product_id and row.base_currency_id and row.quote_currency_id
    ]
    if listed and not rows:
        raise MalformedMessage("coinbase: no row of the products reply can be read", body)
    return [_product(row) for row in rows if row.product_type == "SPOT"]


def _product(row: RestProduct) -> Product:
    price = figure(row.price) or None
    volume = figure(row.approximate_quote_24h_volume)
    if volume is None:
        volume = (figure(row.volume_24h) or 0.0) * (price or 0.0)
    stopped = (
        row.is_disabled
        or row.trading_disabled
        or row.view_only
        or row.cancel_only
        or row.post_only
        or row.auction_mode
    )
    return Product(
        symbol=row.product_id,
        native=row.product_id,
        base=row.base_currency_id,
        quote=row.quote_currency_id,
        tradable=row.status == "online" and not stopped,
        alias=row.alias or None,
        price=price,
        quote_volume=volume if volume < math.inf else 0.0,
    )


def time_request() -> Request:
    """The exchange's clock."""
    return Request("/api/v3/brokerage/time")


def read_time(body: bytes) -> int:
    """Exchange time, ms."""
    time = decoded(body, RestTime, "coinbase", "time").epoch_millis
    if not 0 < time < LATEST:
        raise MalformedMessage("coinbase: impossible time", body)
    return time


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> LivermoreError | None:
    """What a reply other than 2xx means.

    A 403 in Coinbase's own words will not change until a person acts; one in other words (a page
    of the edge in front of it) may, so we go on asking.
    """
    if 200 <= status < 300:
        return None
    code, said = _complaint(body)
    message = f"coinbase: {status} {code or said or 'without a reason'}"
    if code and said:
        message = f"coinbase: {status} {code}: {said}"
    if status in (418, 429):
        return RateLimited(message, retry_after(headers, **WAIT))
    if status in (401, 451) or (status == 403 and code):
        return Refused(message)
    if status == 404 and code == "NOT_FOUND":
        return UnknownSymbol(message)
    if "retry-after" in headers:  # such as a 503: whatever it is, it names its end
        return RateLimited(message, retry_after(headers, **WAIT))
    return RestError(message)


def _complaint(body: bytes) -> tuple[str, str]:
    """Their code and their words, one line each; a body that is not theirs is all words."""
    try:
        reply = msgspec.json.decode(body, type=RestComplaint)
    except (ValueError, RecursionError):
        reply = RestComplaint()
    code, said = reply.error, reply.message or reply.error_details
    if reply.errors:
        code, said = reply.errors[0].id, reply.errors[0].message
    if not code and not said:
        said = body.decode("utf-8", "replace")
    return one_line(code), one_line(said)


COINBASE = Dialect(
    name="coinbase",
    title="Coinbase",
    websocket_url="wss://advanced-trade-ws.coinbase.com",
    rest_url="https://api.coinbase.com",
    streamed=Timeframe.M5,
    timeframe_names=GRANULARITIES,
    closes=CloseRule.TRADES,
    settle=2_000,  # trades arrive 0.1-0.2 s late
    sample_lag=8_000,  # the last sample of a slot is shown 6.7 s after its end
    sample_every=10_000,
    sample_delay=6_000,  # 6.65-6.81 s were seen
    subscribe_within=5_000,
    # Not published. A hundred in one subscribe is the most that was seen to work, and what one lost
    # socket or one missing sequence number puts in doubt stays small.
    products_per_connection=100,
    messages_per_second=6.0,  # documented: 8 per address, which a second connection shares
    messages_shared=True,
    rest_per_second=10.0,  # public, per address; from older documentation
    rest_rows=300,
    empties_omitted=True,
    fees=Fees(note="by volume: GET /api/v3/brokerage/transaction_summary tells yours"),
    documentation="https://docs.cdp.coinbase.com",
    subscribe=subscribe,
    unsubscribe=unsubscribe,
    read=read,
    candles_request=candles_request,
    read_candles=read_candles,
    products_requests=products_requests,
    read_products=read_products,
    time_request=time_request,
    read_time=read_time,
    refusal=refusal,
    account=ACCOUNT,
)
