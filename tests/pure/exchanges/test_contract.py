"""What every exchange file must keep, run over the registry.

A new exchange gives examples of its frames in :data:`FRAMES`; the test names it if it does not.
What is text there is a frame that is no JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livermore.dialect import Dialect
from livermore.errors import LivermoreError, MalformedMessage, RateLimited
from livermore.exchanges import DIALECTS
from livermore.market.country import COUNTRIES
from livermore.market.events import Confirmed, Rejected, Sample, Ticker, Trades, Unknown
from livermore.market.timeframe import TIMEFRAMES, Timeframe

T = "2026-04-07T14:30:02.789012Z"
TRADE = {
    "trade_id": "7",
    "product_id": "BTC-USD",
    "price": "68900.50",
    "size": "0.0015",
    "side": "BUY",
    "time": T,
}
CANDLE = {
    "start": "1775572200",
    "high": "3",
    "low": "1",
    "open": "2",
    "close": "2.5",
    "volume": "42.1",
    "product_id": "BTC-USD",
}
TICKER = {
    "type": "ticker",
    "product_id": "BTC-USD",
    "price": "2",
    "volume_24_h": "9",
    "best_bid": "1.9",
    "best_ask": "2.1",
}


def coinbase_frame(channel: str, event: object) -> dict[str, Any]:
    return {
        "channel": channel,
        "client_id": "",
        "timestamp": T,
        "sequence_num": 5,
        "events": [event],
    }


KLINE = {
    "e": "kline",
    "E": 1775572202789,
    "s": "BTCUSDT",
    "k": {
        "t": 1775572200000,
        "T": 1775572499999,
        "s": "BTCUSDT",
        "i": "5m",
        "f": 100,
        "L": 200,
        "o": "2.0",
        "c": "2.5",
        "h": "3.0",
        "l": "1.0",
        "v": "42.1",
        "n": 101,
        "x": True,
        "q": "100.0",
        "V": "20.0",
        "Q": "50.0",
        "B": "0",
    },
}
TICKER_24H = {
    "e": "24hrTicker",
    "E": 1775572202789,
    "s": "BTCUSDT",
    "c": "2",
    "b": "1.9",
    "a": "2.1",
    "v": "9",
    "q": "18",
}
SHUTDOWN = {"e": "serverShutdown", "E": 1775572202789}
BINANCE_FRAMES: list[Any] = [
    {"stream": "btcusdt@kline_5m", "data": KLINE},
    KLINE,
    {"stream": "btcusdt@ticker", "data": TICKER_24H},
    TICKER_24H,
    {"stream": "!serverShutdown", "data": SHUTDOWN},
    SHUTDOWN,
    {"stream": "btcusdt@bookTicker", "data": {"u": 1, "s": "BTCUSDT"}},
    {"stream": "!miniTicker@arr", "data": [TICKER_24H]},
    {"result": None, "id": 7},
    {"result": ["btcusdt@ticker"], "id": 7},
    {"code": 2, "msg": "Invalid request: missing field `method`", "id": 7},
    {"error": {"code": 3, "msg": "Invalid JSON"}, "id": None},
]
BINANCE_REPLIES: list[Any] = [
    [[1775572200000, "2", "3", "1", "2.5", "42.1", 1775572499999, "100", 101, "20", "50", "0"]],
    {
        "symbols": [
            {
                "symbol": "AB",
                "status": "TRADING",
                "baseAsset": "A",
                "quoteAsset": "B",
                "isSpotTradingAllowed": True,
                "permissions": [],
                "permissionSets": [["SPOT", "MARGIN"]],
            }
        ]
    },
    [{"symbol": "AB", "lastPrice": "2", "quoteVolume": "18"}],
    {"serverTime": 1709005034333},
    {"code": -1121, "msg": "Invalid symbol."},
]
FRAMES: dict[str, list[Any]] = {
    "binance": BINANCE_FRAMES,
    "binance_us": BINANCE_FRAMES,
    "coinbase": [
        coinbase_frame(
            "market_trades", {"type": "update", "trades": [TRADE | {"trade_id": "8"}, TRADE]}
        ),
        coinbase_frame("candles", {"type": "snapshot", "candles": [CANDLE, CANDLE]}),
        coinbase_frame("ticker", {"type": "update", "tickers": [TICKER]}),
        coinbase_frame("heartbeats", {"current_time": "x", "heartbeat_counter": 42}),
        coinbase_frame("subscriptions", {"subscriptions": {"ticker": ["BTC-USD"]}}),
        coinbase_frame("status", {"type": "snapshot", "products": []}),
        {"type": "error", "message": "authentication failure"},
    ],
}
REPLIES: dict[str, list[Any]] = {
    "binance": BINANCE_REPLIES,
    "binance_us": BINANCE_REPLIES,
    "coinbase": [
        {"candles": [CANDLE]},
        {
            "products": [
                {"product_id": "A-B", "base_currency_id": "A", "quote_currency_id": "B"},
            ]
        },
        {"epochMillis": "1709005034333"},
        {"error": "NOT_FOUND", "message": "Product NOPE-USD not supported"},
        {"errors": [{"id": "rate_limit_exceeded", "message": "Too many requests"}]},
    ],
}

DAMAGED_TEXT = [
    *("nan", "inf", "-inf", "sNaN", "-1", "0", "1e400", "1E999999999", "9" * 5000, "1_0", "", T),
    *("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "\u0661", "\ud800", "\0"),
]
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(10**60), max_value=10**60)
    | st.floats(allow_nan=True)
    | st.text(max_size=8)
    | st.sampled_from(DAMAGED_TEXT),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
"""Includes what JSON has no word for: Python writes NaN and Infinity, as broken servers do."""

every_exchange = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=list(DIALECTS))


def spelled(example: object) -> str:
    """A frame as it is sent."""
    return example if isinstance(example, str) else json.dumps(example)


def places(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything inside ``value``."""
    inside: Sequence[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        inside = list(value.items())
    elif isinstance(value, list):
        inside = list(enumerate(value))
    return [path] * bool(path) + [p for key, item in inside for p in places(item, (*path, key))]


@st.composite
def damaged(draw: st.DrawFn, examples: list[Any]) -> bytes:
    """One of ``examples``, spoiled: keys lost, types changed, bytes flipped, cut, repeated."""
    value = json.loads(json.dumps(draw(st.sampled_from(examples))))
    for _ in range(draw(st.integers(0, 3))):
        paths = places(value)
        if not paths:
            break
        *way, last = draw(st.sampled_from(paths))
        spot = value
        for key in way:
            spot = spot[key]
        if draw(st.booleans()):
            spot[last] = draw(ANYTHING)
        else:
            del spot[last]
    raw = bytearray(spelled(value).encode())
    for _ in range(draw(st.integers(0, 3))):
        raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.integers(0, len(raw))) if draw(st.booleans()) else len(raw)
    if draw(st.integers(0, 9)) == 0:
        raw[cut:cut] = raw  # keys twice, objects in objects
    return bytes(raw[:cut])


def deep(depth: int, opening: str, closing: str) -> str:
    return opening * depth + closing * depth


@every_exchange
def test_examples_of_frames_and_replies_are_here(dialect: Dialect) -> None:
    assert FRAMES[dialect.name]
    assert REPLIES[dialect.name]
    for frame in FRAMES[dialect.name]:
        assert dialect.read(spelled(frame)).malformed == 0


@every_exchange
def test_facts_are_sane(dialect: Dialect) -> None:
    assert dialect.name == dialect.name.lower()
    assert dialect.title
    socket, rest = urlsplit(dialect.websocket_url), urlsplit(dialect.rest_url)
    assert (socket.scheme, rest.scheme) == ("wss", "https")
    assert socket.hostname
    assert rest.hostname
    assert not dialect.rest_url.endswith("/")
    assert 0 < dialect.settle <= 10_000
    assert dialect.sample_lag is None or dialect.settle < dialect.sample_lag <= 30_000
    assert 1_000 <= dialect.subscribe_within <= 60_000
    assert 1 <= dialect.products_per_connection <= 1_000
    assert 1 <= dialect.least_connections <= 10
    assert 0 < dialect.messages_per_second <= 100
    assert 2**20 <= dialect.maximum_message <= 2**26
    assert 0 < dialect.rest_per_second <= 100
    assert 1 <= dialect.rest_window <= 60
    assert 100 <= dialect.rest_rows <= 1_000
    assert dialect.maximum_age is None or 3_600_000 <= dialect.maximum_age <= 86_400_000
    assert dialect.websocket_path == "" or dialect.websocket_path.startswith("/")
    assert not socket.path
    assert urlsplit(dialect.documentation).scheme == "https"


@every_exchange
def test_where_it_is_served_names_countries_and_exchanges_that_are_known(dialect: Dialect) -> None:
    geo = dialect.geo
    assert geo.refuses | geo.only <= COUNTRIES
    assert not geo.refuses & geo.only
    assert geo.alternative == "" or geo.alternative in DIALECTS
    assert geo.alternative != dialect.name
    assert dialect.fees.maker is None or -0.01 < dialect.fees.maker < 0.05
    assert dialect.fees.taker is None or 0 <= dialect.fees.taker < 0.05


@every_exchange
def test_every_timeframe_has_a_name_of_its_own(dialect: Dialect) -> None:
    assert set(dialect.timeframe_names) == set(TIMEFRAMES)
    assert len(set(dialect.timeframe_names.values())) == len(TIMEFRAMES)
    assert dialect.streamed in TIMEFRAMES


@every_exchange
def test_what_is_subscribed_is_text_and_names_the_products(dialect: Dialect) -> None:
    natives = [f"A{n}-USD" for n in range(dialect.products_per_connection)]
    subscriptions = dialect.subscribe(natives)
    named: dict[str, list[str]] = {}
    for subscription in subscriptions:
        named.setdefault(subscription.channel, []).extend(subscription.natives)
        spelled = subscription.frame.upper()  # some name them in lower case
        assert all(native in spelled for native in subscription.natives)
    channels = [sorted(some) for some in named.values() if some]
    assert channels
    assert all(some == sorted(natives) for some in channels), "each product once per channel"
    assert len({s.token for s in subscriptions if s.token}) == sum(
        bool(s.token) for s in subscriptions
    )
    streams = sum(map(len, channels))
    assert dialect.streams_per_connection is None or streams <= dialect.streams_per_connection
    # They must all be sent before the exchange hangs up.
    assert len(subscriptions) / dialect.messages_per_second * 1000 < dialect.subscribe_within
    assert dialect.unsubscribe(natives)
    assert all(isinstance(frame, str) for frame in dialect.unsubscribe(natives))


@every_exchange
def test_requests_of_one_connection_do_not_share_a_token(dialect: Dialect) -> None:
    asked = [dialect.subscribe(some) for some in (["A-B", "C-D"], ["A-B"], ["C-D"])]
    tokens = [one.token for some in asked for one in some if one.token]
    assert len(set(tokens)) == len(tokens)


@every_exchange
def test_no_products_make_no_frame_that_names_one(dialect: Dialect) -> None:
    assert not any(subscription.natives for subscription in dialect.subscribe([]))
    assert not dialect.unsubscribe([])


@every_exchange
def test_a_product_is_subscribed_once_however_often_it_is_named(dialect: Dialect) -> None:
    assert dialect.subscribe(["A-B", "A-B"]) == dialect.subscribe(["A-B"])
    assert dialect.unsubscribe(["A-B", "A-B"]) == dialect.unsubscribe(["A-B"])


@every_exchange
@pytest.mark.parametrize("timeframe", TIMEFRAMES)
@given(first=st.integers(0, 10**6), count=st.integers(1, 300))
def test_a_request_for_candles_is_text_below_the_base_url(
    dialect: Dialect, timeframe: Timeframe, first: int, count: int
) -> None:
    start = first * timeframe.ms
    request = dialect.candles_request("A/B ?#%é-USD", timeframe, start, start + count * 60_000)
    assert request.path.startswith("/")
    assert request.path.isascii()
    assert not set(request.path) & set(" ?#")
    assert "A/B" not in request.path
    assert request.weight >= 1
    assert all(isinstance(value, str) for value in request.params.values())
    assert dialect.timeframe_names[timeframe] in {*request.params.values(), request.path}


@every_exchange
def test_other_requests_have_a_path_and_text(dialect: Dialect) -> None:
    for request in (*dialect.products_requests(), dialect.time_request()):
        assert request.path.startswith("/")
        assert all(isinstance(value, str) for value in request.params.values())


def check_frame(dialect: Dialect, raw: bytes | str) -> None:
    """Whatever can be read is fit for use; what cannot is refused with a quotation."""
    try:
        frame = dialect.read(raw)
    except MalformedMessage as error:
        assert dialect.name in str(error)
        assert "\n" not in str(error)
        return
    assert frame.malformed >= 0
    assert frame.stamp is None or 0 <= frame.stamp < 253_402_300_800_000
    assert frame.sequence is None or 0 <= frame.sequence < 2**63
    for event in frame.events:
        hash(repr(event))
        if isinstance(event, Trades):
            assert event.native
            assert event.trades
            assert [t.trade_id for t in event.trades] == sorted(t.trade_id for t in event.trades)
            for trade in event.trades:
                assert 0 < trade.price < math.inf
                assert trade.size.is_finite()
                assert 0 < trade.size < 10**18
                assert trade.time >= 0
        elif isinstance(event, Sample):
            assert event.native
            assert event.open_time % dialect.streamed.ms == 0
            assert 0 < event.low <= event.open <= event.high < math.inf
            assert event.low <= event.close <= event.high
            assert 0 <= event.volume < math.inf
        elif isinstance(event, Ticker):
            assert event.native
            assert 0 < event.price < math.inf
            for figure in (event.bid, event.ask, event.volume_24h):
                assert figure is None or 0 <= figure < math.inf
        elif isinstance(event, Confirmed):
            assert event.token
            assert event.token.isprintable()
        elif isinstance(event, Rejected):
            assert event.message.isprintable()
            assert event.token.isprintable()
        elif isinstance(event, Unknown):
            assert event.what.isprintable()
            assert len(event.what) <= 40


@every_exchange
@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_a_damaged_frame_is_only_ever_malformed(dialect: Dialect, data: st.DataObject) -> None:
    raw = data.draw(damaged(FRAMES[dialect.name]))
    check_frame(dialect, raw)
    check_frame(dialect, raw.decode("utf-8", "surrogateescape"))


@every_exchange
@settings(max_examples=100, deadline=None)
@given(raw=st.binary(max_size=60) | st.text(max_size=60))
def test_noise_is_only_ever_malformed(dialect: Dialect, raw: bytes | str) -> None:
    check_frame(dialect, raw)


@every_exchange
@pytest.mark.parametrize("depth", [10, 300, 900, 1_000, 2_000, 100_000])
@pytest.mark.parametrize("brackets", [("[", "]"), ('{"a":', "}"), ('{"events":[', "]}")])
def test_deep_nesting_is_only_ever_malformed(
    dialect: Dialect, depth: int, brackets: tuple[str, str]
) -> None:
    nested = deep(depth, *brackets).replace("}", "1}", 1)
    check_frame(dialect, nested)
    for frame in FRAMES[dialect.name]:
        for key in frame if isinstance(frame, dict) else ():
            whole = json.dumps(frame | {key: "@"}).replace('"@"', nested)
            check_frame(dialect, whole)
            dialect.refusal(400, {}, whole.encode())


@every_exchange
@pytest.mark.parametrize("raw", [b"", b"\xff\xfe", b'{"a":"\xff"}', b"nul", b"[]", b"7", b'"x"'])
def test_what_is_no_frame_is_refused_with_a_quotation(dialect: Dialect, raw: bytes) -> None:
    with pytest.raises(MalformedMessage) as refused:
        dialect.read(raw)
    assert dialect.name in str(refused.value)


@every_exchange
@pytest.mark.parametrize("function", ["read_candles", "read_products", "read_time"])
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_damaged_reply_is_only_ever_malformed(
    dialect: Dialect, function: str, data: st.DataObject
) -> None:
    read: Callable[[Any], Any] = getattr(dialect, function)
    replies = damaged(REPLIES[dialect.name]) | st.binary(max_size=40)
    several = function == "read_products"
    asked = [data.draw(replies) for _ in dialect.products_requests()] if several else []
    try:
        read(asked or data.draw(replies))
    except MalformedMessage as error:
        assert dialect.name in str(error)


@every_exchange
def test_an_answer_is_no_refusal(dialect: Dialect) -> None:
    replies = (json.dumps(reply).encode() for reply in REPLIES[dialect.name])
    assert any(dialect.refusal(200, {}, reply) is None for reply in replies)
    for body in (b"", b"<html></html>", b"[]", b"{"):
        assert dialect.refusal(200, {}, body) is None, "what cannot be read is malformed, not this"


@every_exchange
@settings(max_examples=200, deadline=None)
@given(data=st.data(), status=st.integers(100, 599), told=st.text(max_size=12), date=st.text())
def test_a_refusal_is_one_line_that_names_the_exchange_and_the_status(
    dialect: Dialect, data: st.DataObject, status: int, told: str, date: str
) -> None:
    body = data.draw(damaged(REPLIES[dialect.name]) | st.binary(max_size=40))
    error = dialect.refusal(status, {"retry-after": told, "date": date}, body)
    if error is None:
        assert 200 <= status < 300
        return
    assert isinstance(error, LivermoreError)
    assert dialect.name in str(error)
    assert str(status) in str(error)
    assert str(error).isprintable()
    assert len(str(error)) < 500
    assert isinstance(error, RateLimited) or status != 429
    if isinstance(error, RateLimited):
        assert 0 < error.wait <= 3 * 86_400


@every_exchange
@given(told=st.text(max_size=20) | st.integers().map(str))
def test_what_was_used_of_the_budget_is_a_number_or_not_told(dialect: Dialect, told: str) -> None:
    used = dialect.used_weight({"x-mbx-used-weight-1m": told, "gw-ratelimit-remaining": told})
    assert used is None or 0 <= used < 2**63
    assert dialect.used_weight({}) is None
