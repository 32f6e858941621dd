"""The language of Binance.com and Binance.US."""

from __future__ import annotations

import json
from typing import Any

import pytest

from livermore.dialect import CloseRule, Dialect, Row
from livermore.errors import (
    LivermoreError,
    MalformedMessage,
    RateLimited,
    Refused,
    RestError,
    UnknownSymbol,
)
from livermore.exchanges.binance import BINANCE, BINANCE_US
from livermore.market.events import (
    Closing,
    Confirmed,
    Frame,
    Rejected,
    Sample,
    Ticker,
    Unknown,
)
from livermore.market.product import Product, resolve, top
from livermore.market.timeframe import TIMEFRAMES, Timeframe

STAMP = 1775572202789
SLOT = 1775572200000
ROW: dict[str, Any] = {
    "t": SLOT,
    "T": SLOT + 299_999,
    "s": "BTCUSDT",
    "i": "5m",
    "f": 100,
    "L": 200,
    "o": "2.0",
    "c": "3.0",
    "h": "4.0",
    "l": "1.0",
    "v": "0.5",
    "n": 101,
    "x": False,
    "q": "1.5",
    "V": "0.2",
    "Q": "0.6",
    "B": "0",
}
TICKER: dict[str, Any] = {
    "e": "24hrTicker",
    "E": STAMP,
    "s": "BTCUSDT",
    "x": "9.0",
    "c": "68900.50",
    "b": "68900.40",
    "B": "31.2",
    "a": "68900.60",
    "A": "40.6",
    "v": "15328.5",
    "q": "18",
}
SAMPLE = Sample("BTCUSDT", SLOT, 2.0, 4.0, 1.0, 3.0, 0.5)

each_shape = pytest.mark.parametrize("wrapped", [True, False], ids=["combined", "raw"])
both = pytest.mark.parametrize("dialect", [BINANCE, BINANCE_US], ids=lambda d: d.name)


def read(payload: object, *, wrapped: bool = True, stream: str = "x@y") -> Frame:
    frame = {"stream": stream, "data": payload} if wrapped else payload
    return BINANCE.read(json.dumps(frame, separators=(",", ":")))


def kline(wrapped: bool = True, *, row: object = None, **changes: object) -> Frame:
    payload = {"e": "kline", "E": STAMP, "s": "BTCUSDT", "k": ROW if row is None else row}
    return read(payload | changes, wrapped=wrapped, stream="btcusdt@kline_5m")


def without(row: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k != key}


# Candles


@each_shape
def test_a_candle_is_read_raw_and_combined(wrapped: bool) -> None:
    assert kline(wrapped) == Frame(STAMP, None, [SAMPLE])


@each_shape
@pytest.mark.parametrize("closed", [True, False])
def test_a_candle_is_closed_when_its_flag_says_so(wrapped: bool, closed: bool) -> None:
    # The stamp is before the end of the slot: only the flag counts.
    (sample,) = kline(wrapped, row=ROW | {"x": closed}).events
    assert isinstance(sample, Sample)
    assert (sample.closed, sample.snapshot) == (closed, False)


@pytest.mark.parametrize("flag", [None, "", "perhaps", 2, [], {}])
def test_a_candle_whose_flag_cannot_be_read_is_counted_and_skipped(flag: object) -> None:
    assert kline(row=ROW | {"x": flag}) == Frame(STAMP, None, [], 1)
    assert kline(row=without(ROW, "x")) == Frame(STAMP, None, [], 1)


def test_a_candle_without_trades_is_flat_and_possible() -> None:
    flat = dict.fromkeys("ohlc", "2.5") | {"v": "0.00000000", "n": 0, "f": -1, "L": -1, "x": True}
    expected = Sample("BTCUSDT", SLOT, 2.5, 2.5, 2.5, 2.5, 0.0, closed=True)
    assert kline(row=ROW | flat) == Frame(STAMP, None, [expected])


@each_shape
@pytest.mark.parametrize("interval", ["1s", "1m", "15m", "1h", "5M", ""])
def test_candles_of_other_lengths_are_not_taken_for_ours(wrapped: bool, interval: str) -> None:
    read = kline(wrapped, row=ROW | {"i": interval})
    assert read == Frame(STAMP, None, [Unknown(f"kline_{interval}")])


@each_shape
@pytest.mark.parametrize(
    "change",
    [
        {"t": SLOT + 60_000},
        {"t": -300_000},
        {"t": SLOT // 1000},
        {"t": SLOT * 1000},
        {"t": 300_000 * 2**60},
        {"t": None},
        {"h": "0.5"},
        {"h": "2.5"},
        {"l": "2.5"},
        {"l": "0"},
        {"o": "5"},
        {"c": "0.9"},
        {"c": "nan"},
        {"c": ""},
        {"c": None},
        {"v": "-1"},
        {"v": "inf"},
        {"v": "nan"},
        {"i": None},
        {"i": 5},
    ],
)
def test_an_impossible_candle_is_counted_and_skipped(
    wrapped: bool, change: dict[str, object]
) -> None:
    assert kline(wrapped, row=ROW | change) == Frame(STAMP, None, [], 1)


@each_shape
@pytest.mark.parametrize("native", ["", None, 5, []])
def test_a_candle_without_a_product_is_counted_and_skipped(wrapped: bool, native: object) -> None:
    assert kline(wrapped, s=native) == Frame(STAMP, None, [], 1)


@each_shape
@pytest.mark.parametrize("row", [[], "x", 5, {}])
def test_a_candle_that_is_none_is_counted_and_skipped(wrapped: bool, row: object) -> None:
    assert kline(wrapped, row=row) == Frame(STAMP, None, [], 1)


@each_shape
@pytest.mark.parametrize("stamp", [None, "", 0, -1, "now", STAMP * 1000, 10**30, 1.5, [], {}])
def test_a_damaged_stamp_is_counted_and_the_candle_is_kept(wrapped: bool, stamp: object) -> None:
    assert kline(wrapped, E=stamp) == Frame(None, None, [SAMPLE], 1)


def test_a_damaged_stamp_of_a_damaged_candle_counts_twice() -> None:
    assert kline(E="x", row=ROW | {"c": ""}) == Frame(None, None, [], 2)
    assert kline(E=-1, row=ROW | {"c": "nan"}) == Frame(None, None, [], 2)


@pytest.mark.parametrize("field", ["o", "h", "l", "c", "v"])
def test_a_number_is_read_with_and_without_quotes(field: str) -> None:
    assert kline(row=ROW | {field: float(ROW[field])}) == kline()
    assert kline(row=ROW | {"t": str(SLOT)}, E=str(STAMP)) == kline()


def test_the_payload_names_the_product_and_not_the_stream() -> None:
    payload = {"e": "kline", "E": STAMP, "s": "ETHBTC", "k": ROW}
    (sample,) = read(payload, stream="btcusdt@kline_5m").events
    assert isinstance(sample, Sample)
    assert sample.native == "ETHBTC"


# Tickers


@each_shape
def test_a_ticker_has_the_time_of_its_payload_and_its_figures(wrapped: bool) -> None:
    expected = Ticker("BTCUSDT", 68900.5, STAMP, 68900.4, 68900.6, 15328.5)
    assert read(TICKER, wrapped=wrapped) == Frame(STAMP, None, [expected])


@pytest.mark.parametrize("absent", ["", None, "nan", "inf", "-1", "x"])
def test_an_absent_figure_is_none_and_costs_nothing(absent: str | None) -> None:
    expected = Frame(STAMP, None, [Ticker("BTCUSDT", 68900.5, STAMP)])
    assert read(TICKER | dict.fromkeys("bav", absent)) == expected
    assert read({key: TICKER[key] for key in "eEsc"}) == expected


def test_no_bid_is_none_but_no_volume_is_zero() -> None:
    (ticker,) = read(TICKER | {"b": "0.00000000", "v": "0.00000000"}).events
    assert isinstance(ticker, Ticker)
    assert (ticker.bid, ticker.volume_24h) == (None, 0.0)


@each_shape
@pytest.mark.parametrize("change", [{"c": p} for p in ("", "nan", "0", "-1", "inf", None)])
def test_a_ticker_without_a_price_is_counted(wrapped: bool, change: dict[str, object]) -> None:
    assert read(TICKER | change, wrapped=wrapped) == Frame(STAMP, None, [], 1)


@pytest.mark.parametrize("native", ["", None, 5])
def test_a_ticker_without_a_product_is_counted(native: object) -> None:
    assert read(TICKER | {"s": native}) == Frame(STAMP, None, [], 1)


@pytest.mark.parametrize("stamp", [None, "", 0, STAMP * 1000])
def test_a_ticker_that_cannot_be_placed_in_time_is_counted(stamp: object) -> None:
    assert read(TICKER | {"E": stamp}) == Frame(None, None, [], 2)


# The end, answers, the unknown


@each_shape
def test_the_end_of_a_connection_is_announced(wrapped: bool) -> None:
    payload = {"e": "serverShutdown", "E": STAMP}
    assert read(payload, wrapped=wrapped) == Frame(STAMP, None, [Closing()])


@each_shape
@pytest.mark.parametrize("stamp", [None, "", "soon", {}])
def test_an_announced_end_with_a_damaged_stamp_is_the_end_all_the_same(
    wrapped: bool, stamp: object
) -> None:
    payload = {"e": "serverShutdown", "E": stamp}
    assert read(payload, wrapped=wrapped) == Frame(None, None, [Closing()], 1)


@pytest.mark.parametrize(("told", "token"), [(7, "7"), ("7", "7"), (0, "0"), ("a-b", "a-b")])
def test_a_null_result_confirms_what_was_asked(told: object, token: str) -> None:
    assert read({"result": None, "id": told}, wrapped=False) == Frame(
        None, None, [Confirmed(token)]
    )


@pytest.mark.parametrize(
    "answer",
    [
        {"result": None},
        {"result": None, "id": None},
        {"result": None, "id": ""},
        {"result": None, "id": True},
        {"result": None, "id": 1.5},
        {"result": None, "id": 10**60},
        {"result": [], "id": 7},
        {"result": True, "id": 7},
        {"result": {}, "id": 7},
    ],
)
def test_an_answer_that_confirms_nothing_we_asked_confirms_nothing(answer: object) -> None:
    assert read(answer, wrapped=False).events == [Unknown("result")]


@pytest.mark.parametrize(
    ("answer", "rejected"),
    [
        ({"code": 2, "msg": "no", "id": 7}, Rejected("no", "7")),
        ({"code": 2, "msg": "no"}, Rejected("no")),
        ({"error": {"code": 2, "msg": "no"}, "id": 7}, Rejected("no", "7")),
        ({"error": {"code": 2, "msg": "no"}, "result": None, "id": 7}, Rejected("no", "7")),
        ({"code": 0, "msg": "two\nlines\x1b[0m", "id": "7"}, Rejected("two lines [0m", "7")),
        ({"code": 2, "id": 7}, Rejected('{"code":2,"id":7}', "7")),
        ({"error": "no", "id": 7}, Rejected('{"error":"no","id":7}', "7")),
    ],
)
def test_an_error_is_a_rejection_in_one_line(answer: object, rejected: Rejected) -> None:
    assert read(answer, wrapped=False) == Frame(None, None, [rejected])


def test_a_result_beside_no_error_is_a_confirmation() -> None:
    answer = {"result": None, "error": None, "id": 7}
    assert read(answer, wrapped=False).events == [Confirmed("7")]


@pytest.mark.parametrize(
    ("payload", "stream", "what"),
    [
        ({"e": "aggTrade", "E": STAMP}, "btcusdt@aggTrade", "aggTrade"),
        ({"e": "depthUpdate", "E": STAMP}, "btcusdt@depth@100ms", "depthUpdate"),
        ({"u": 1, "s": "BTCUSDT"}, "btcusdt@bookTicker", "bookTicker"),
        ([TICKER], "!miniTicker@arr", "!miniTicker@arr"),
        (None, "btcusdt@kline_5m", "kline_5m"),
        ({}, "strange", "strange"),
        ({"e": 5}, "btcusdt@kline_5m", "kline_5m"),
    ],
)
def test_what_we_do_not_know_is_told_without_the_product(
    payload: object, stream: str, what: str
) -> None:
    told = read(payload, stream=stream)
    stamp = STAMP if isinstance(payload, dict) and "E" in payload else None
    assert told == Frame(stamp, None, [Unknown(what)])


def test_the_name_of_the_unknown_is_short_and_printable() -> None:
    for frame in (read({"e": "a\n" * 1000}), read({}, stream="x@" + "a\n" * 1000)):
        (event,) = frame.events
        assert isinstance(event, Unknown)
        assert event.what.isprintable()
        assert len(event.what) <= 40


@pytest.mark.parametrize("frame", [{}, {"s": "BTCUSDT"}, {"stream": ""}, {"stream": 5, "data": {}}])
def test_a_frame_that_names_no_event_is_malformed(frame: object) -> None:
    with pytest.raises(MalformedMessage, match="binance: frame names no event"):
        read(frame, wrapped=False)


# Frames as a whole


def test_good_frames_are_read_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_parts(member: object, text: str) -> Frame:
        pytest.fail(f"the slow way was taken for {text}")

    monkeypatch.setattr("livermore.exchanges.binance._read_by_parts", by_parts)
    for wrapped in (True, False):
        assert kline(wrapped).events
        assert read(TICKER, wrapped=wrapped).events
        assert read({"e": "serverShutdown", "E": STAMP}, wrapped=wrapped).events


def test_the_order_of_keys_and_space_between_them_change_nothing() -> None:
    payload = {"k": ROW, "s": "BTCUSDT", "E": STAMP, "e": "kline"}
    for frame in (payload, {"data": payload, "stream": "x"}, {"stream": "x", "data": payload}):
        assert BINANCE.read(json.dumps(frame, indent=2)) == kline()


def test_keys_we_do_not_know_are_ignored() -> None:
    new: dict[str, Any] = {"new": {"deep": [1]}}
    assert kline(row=ROW | new, **new) == kline()


def test_text_and_bytes_mean_the_same() -> None:
    raw = json.dumps({"code": 2, "msg": "币安人生", "id": 7}, ensure_ascii=False)
    assert BINANCE.read(raw) == BINANCE.read(raw.encode())
    with pytest.raises(MalformedMessage, match="binance: unreadable frame"):
        BINANCE.read(raw.encode()[:-10] + b'\xff"}')


@both
def test_what_cannot_be_read_is_refused_in_the_name_of_the_exchange(dialect: Dialect) -> None:
    with pytest.raises(MalformedMessage) as refused:
        dialect.read('{"stream":"btcusdt@kline_5m",' + "x" * 10_000)
    assert str(refused.value).startswith(f"{dialect.name}: unreadable frame")
    assert len(str(refused.value)) < 400


# Subscribing


def asked(frame: str) -> dict[str, Any]:
    value = json.loads(frame)
    assert isinstance(value, dict)
    return value


def test_candles_are_subscribed_before_tickers_in_streams_of_lower_case() -> None:
    candles, tickers = BINANCE.subscribe(["BTCUSDT", "1INCHUSDT", "BTCUSDT"])
    assert (candles.channel, tickers.channel) == ("kline", "ticker")
    assert candles.natives == tickers.natives == {"BTCUSDT", "1INCHUSDT"}
    assert asked(candles.frame)["method"] == "SUBSCRIBE"
    assert asked(candles.frame)["params"] == ["btcusdt@kline_5m", "1inchusdt@kline_5m"]
    assert asked(tickers.frame)["params"] == ["btcusdt@ticker", "1inchusdt@ticker"]


def test_what_is_unsubscribed_is_what_was_subscribed() -> None:
    natives = [f"A{n}USDT" for n in range(450)]
    ours = [asked(s.frame)["params"] for s in BINANCE.subscribe(natives)]
    frames = [asked(frame) for frame in BINANCE.unsubscribe(natives)]
    assert {frame["method"] for frame in frames} == {"UNSUBSCRIBE"}
    assert [frame["params"] for frame in frames] == ours


@pytest.mark.parametrize(("count", "frames"), [(1, 1), (200, 1), (201, 2), (400, 2), (401, 3)])
def test_no_frame_holds_more_than_200_streams_and_none_is_lost(count: int, frames: int) -> None:
    natives = [f"A{n}USDT" for n in range(count)]
    subscriptions = BINANCE.subscribe(natives)
    assert [s.channel for s in subscriptions] == ["kline"] * frames + ["ticker"] * frames
    assert all(len(asked(s.frame)["params"]) == len(s.natives) <= 200 for s in subscriptions)
    streams = [stream for s in subscriptions for stream in asked(s.frame)["params"]]
    assert sorted(streams) == sorted(
        [f"{n.lower()}@kline_5m" for n in natives] + [f"{n.lower()}@ticker" for n in natives]
    )


@both
def test_an_answer_confirms_the_subscription_it_answers_and_no_other(dialect: Dialect) -> None:
    requests = [
        *(asked(s.frame) for some in (["A"], ["B"], ["A", "B"]) for s in dialect.subscribe(some)),
        *(asked(frame) for some in (["A"], ["B"]) for frame in dialect.unsubscribe(some)),
    ]
    ids = [request["id"] for request in requests]
    assert len(set(ids)) == len(ids) == 10
    # Binance.US takes nothing but numbers without a sign.
    assert all(type(one) is int and 0 <= one < 2**32 for one in ids)
    (subscription, _) = dialect.subscribe(["A"])
    answer = json.dumps({"result": None, "id": asked(subscription.frame)["id"]})
    assert dialect.read(answer).events == [Confirmed(subscription.token)]


def test_an_id_beyond_ascii_is_asked_for_as_it_is_written() -> None:
    (candles, _) = BINANCE.subscribe(["币安人生USDT"])
    assert asked(candles.frame)["params"] == ["币安人生usdt@kline_5m"]
    assert "币安人生usdt@kline_5m" in candles.frame, "UTF-8, not escaped"
    request = BINANCE.candles_request("币安人生USDT", Timeframe.M5, 0, 0)
    assert request.params["symbol"] == "币安人生USDT"
    (sample,) = kline(s="币安人生USDT").events
    assert isinstance(sample, Sample)
    assert sample.native == "币安人生USDT"


# Facts


@both
def test_facts(dialect: Dialect) -> None:
    assert dialect.closes is CloseRule.FLAG
    assert (dialect.streamed, dialect.settle, dialect.sample_lag) == (Timeframe.M5, 10_000, None)
    assert not dialect.empties_omitted
    assert dialect.messages_per_second < 5
    assert not dialect.messages_shared
    assert dialect.maximum_age == 86_400_000
    assert dialect.rest_rows == 1000
    assert dialect.websocket_path == "/stream"
    assert dialect.timeframe_names == {timeframe: timeframe.value for timeframe in TIMEFRAMES}
    assert (dialect.fees.maker, dialect.fees.taker) == (None, None), "no source for them is known"


def test_what_the_two_differ_in() -> None:
    for dialect, host, minute, weights in (
        (BINANCE, "binance.com", 6_000, (2, 20, 80, 1)),
        (BINANCE_US, "binance.us", 1_200, (1, 10, 40, 1)),
    ):
        assert dialect.websocket_url == f"wss://stream.{host}:9443"
        assert dialect.rest_url == f"https://api.{host}"
        assert dialect.rest_per_second * dialect.rest_window == minute
        candles = dialect.candles_request("BTCUSDT", Timeframe.M5, 0, 0)
        requests = (candles, *dialect.products_requests(), dialect.time_request())
        assert tuple(request.weight for request in requests) == weights


def test_each_serves_where_the_other_does_not() -> None:
    served = {
        country: (BINANCE.geo.serves(country), BINANCE_US.geo.serves(country))
        for country in ("US", "CA", "MY", "NL", "DE", "JP")
    }
    assert served == {
        "US": (False, True),
        "CA": (False, False),
        "MY": (False, False),
        "NL": (False, False),
        "DE": (True, False),
        "JP": (True, False),
    }
    assert (BINANCE.geo.alternative, BINANCE_US.geo.alternative) == ("binance_us", "binance")


# REST


def reply(*rows: object) -> bytes:
    return json.dumps(list(rows)).encode()


def rest_row(open_time: int = SLOT, volume: str = "0.5", **changes: Any) -> list[object]:
    prices = {"o": "2.0", "h": "4.0", "l": "1.0", "c": "3.0"} | changes
    end = open_time + 299_999
    return [open_time, *prices.values(), volume, end, "1.5", 101, "0.2", "0.6", "0"]


def test_candles_are_asked_in_milliseconds_with_both_ends() -> None:
    hour = Timeframe.H1.ms
    request = BINANCE.candles_request("BTCUSDT", Timeframe.H1, hour, 300 * hour)
    assert request.path == "/api/v3/klines"
    assert request.params == {
        "symbol": "BTCUSDT",
        "interval": "1h",
        "startTime": "3600000",
        "endTime": str(300 * hour),
        "limit": "300",
    }


@pytest.mark.parametrize(("slots", "limit"), [(1, "1"), (1000, "1000"), (1001, "1000")])
def test_as_many_candles_are_asked_for_as_the_range_holds(slots: int, limit: str) -> None:
    end = SLOT + (slots - 1) * 300_000
    request = BINANCE.candles_request("BTCUSDT", Timeframe.M5, SLOT, end)
    assert request.params["limit"] == limit


def test_rows_are_read_in_the_order_of_time() -> None:
    rows = [rest_row(SLOT + n * 300_000) for n in (0, 1, 2)]
    expected = [Row(SLOT + n * 300_000, 2.0, 4.0, 1.0, 3.0, 0.5) for n in (0, 1, 2)]
    assert BINANCE.read_candles(reply(*rows)) == expected
    assert BINANCE.read_candles(reply(*rows[::-1])) == expected
    assert BINANCE.read_candles(reply()) == []


def test_a_slot_without_trades_is_a_row() -> None:
    (row,) = BINANCE.read_candles(reply(rest_row(volume="0", o="3", h="3", l="3", c="3")))
    assert row == Row(SLOT, 3.0, 3.0, 3.0, 3.0, 0.0)


@pytest.mark.parametrize("order", [1, -1])
def test_of_a_slot_that_comes_twice_the_later_state_counts(order: int) -> None:
    rows = [rest_row(), rest_row(volume="0.6", c="3.5")][::order]
    (row,) = BINANCE.read_candles(reply(*rows))
    assert (row.close, row.volume) == (3.5, 0.6)


@pytest.mark.parametrize(
    "damaged",
    [
        rest_row(c=""),
        rest_row(c="nan"),
        rest_row(volume="-1"),
        rest_row(h="0.5"),
        rest_row(l="0"),
        rest_row(SLOT + 1),
        rest_row()[:5],
        {},
        None,
    ],
)
@both
def test_a_damaged_row_spoils_the_reply_lest_its_slot_pass_for_an_outage(
    dialect: Dialect, damaged: object
) -> None:
    with pytest.raises(MalformedMessage, match=f"^{dialect.name}: "):
        dialect.read_candles(reply(rest_row(SLOT - 300_000), damaged))


@pytest.mark.parametrize("body", [b"", b"{}", b"<html>", b"null", b"[[]]", b"\xff"])
def test_a_reply_that_is_no_reply_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedMessage, match="binance: unreadable candles reply"):
        BINANCE.read_candles(body)
    with pytest.raises(MalformedMessage, match="binance: unreadable time reply"):
        BINANCE.read_time(body)
    for bodies in ([body, b"[]"], [b'{"symbols":[]}', body]):
        with pytest.raises(MalformedMessage, match=r"binance: "):
            BINANCE.read_products(bodies)


def test_the_time_is_read_in_milliseconds() -> None:
    assert BINANCE.read_time(b'{"serverTime":1709005034333}') == 1709005034333
    for impossible in (0, -1, 1709005034333000):
        with pytest.raises(MalformedMessage, match="binance: impossible time"):
            BINANCE.read_time(b'{"serverTime":%d}' % impossible)


# Products


def listed(base: str, quote: str = "USDT", **changes: object) -> dict[str, Any]:
    row = {
        "symbol": base + quote,
        "status": "TRADING",
        "baseAsset": base,
        "quoteAsset": quote,
        "isSpotTradingAllowed": True,
        "permissions": [],
        "permissionSets": [["SPOT", "MARGIN", "TRD_GRP_004"]],
    }
    return row | changes


def traded(native: str, volume: str = "10", price: str = "2") -> dict[str, Any]:
    return {"symbol": native, "lastPrice": price, "quoteVolume": volume, "count": 7}


def listing(*rows: object, tickers: list[Any] | None = None) -> list[Product]:
    bodies = [{"timezone": "UTC", "symbols": list(rows)}, tickers or []]
    return list(BINANCE.read_products([json.dumps(body).encode() for body in bodies]))


def test_a_product_is_read_from_both_replies() -> None:
    assert listing(listed("BTC"), tickers=[traded("BTCUSDT", "1004.9", "100.5")]) == [
        Product("BTC-USDT", "BTCUSDT", "BTC", "USDT", True, None, 100.5, 1004.9)
    ]


def test_base_and_quote_part_where_the_exchange_says() -> None:
    pairs = [
        ("1INCH", "USDT"), ("USDC", "USDT"), ("FDUSD", "USDT"), ("TUSD", "USDT"), ("BNB", "ETH"),
        ("BTC", "USDC"), ("币安人生", "USDT"), ("1000SATS", "FDUSD"), ("S", "USDT"), ("ST", "USDT"),
    ]  # fmt: skip
    products = listing(*(listed(*pair) for pair in pairs))
    assert [p.symbol for p in products] == [f"{base}-{quote}" for base, quote in pairs]
    assert [p.native for p in products] == [base + quote for base, quote in pairs]
    assert resolve(products, ["币安人生-usdt"]).products[0].native == "币安人生USDT"


def test_listings_and_statistics_are_asked_for_together() -> None:
    info, tickers = BINANCE.products_requests()
    assert (info.path, tickers.path) == ("/api/v3/exchangeInfo", "/api/v3/ticker/24hr")
    assert info.params == {"permissions": "SPOT", "showPermissionSets": "false"}
    assert not tickers.params
    # Binance.US documents neither, and refuses what it does not know.
    assert not any(request.params for request in BINANCE_US.products_requests())


@pytest.mark.parametrize(
    "change",
    [
        {"status": "HALT"},
        {"status": "BREAK"},
        {"status": "CANCEL_ONLY"},
        {"status": "AUCTION_MATCH"},
        {"status": "trading"},
        {"status": ""},
        {"isSpotTradingAllowed": False},
    ],
)
def test_what_is_stopped_is_listed_but_not_tradable(change: dict[str, Any]) -> None:
    products = listing(listed("BTC", **change), tickers=[traded("BTCUSDT")])
    assert [p.tradable for p in products] == [False]
    assert top(products, 5) == ()
    assert resolve(products, ["BTC-USDT"]).notices == ("BTC-USDT is listed but not trading now",)


@pytest.mark.parametrize("base", ["BTCUP", "BTCDOWN", "ETHBULL", "ETHBEAR"])
@pytest.mark.parametrize(
    "told",
    [
        {"permissionSets": [["LEVERAGED"]]},
        {"permissionSets": [], "permissions": ["LEVERAGED"]},
        {"permissionSets": [["LEVERAGED", "TRD_GRP_004"]]},
        {"permissionSets": []},
    ],
)
def test_leveraged_tokens_are_left_out(base: str, told: dict[str, Any]) -> None:
    products = listing(listed("BTC"), listed("ETH"), listed(base, **told))
    assert [p.base for p in products] == ["BTC", "ETH"]


@pytest.mark.parametrize("base", ["JUP", "SYRUP", "SUP", "UP", "BULL", "BEAR", "DOWN", "GUP"])
@pytest.mark.parametrize("told", [{}, {"permissionSets": []}])
def test_coins_that_only_sound_leveraged_are_kept(base: str, told: dict[str, Any]) -> None:
    others = [listed(other, **told) for other in ("BTC", "S", "G", "J")]
    assert base in [p.base for p in listing(*others, listed(base, **told))]


def test_what_may_be_traded_on_spot_is_kept_whatever_its_name() -> None:
    products = listing(listed("BTC"), listed("BTCUP", permissionSets=[["LEVERAGED"], ["SPOT"]]))
    assert [p.base for p in products] == ["BTC", "BTCUP"]


@pytest.mark.parametrize(
    ("ticker", "price", "volume"),
    [
        (traded("BTCUSDT", "", "100.5"), 100.5, 0.0),
        (traded("BTCUSDT", "nan", "100.5"), 100.5, 0.0),
        (traded("BTCUSDT", "-1", "100.5"), 100.5, 0.0),
        (traded("BTCUSDT", "10", "0.00000000"), None, 10.0),
        (traded("BTCUSDT", "10", "inf"), None, 10.0),
        (traded("ETHUSDT"), None, 0.0),
        ({"symbol": "BTCUSDT"}, None, 0.0),
    ],
)
def test_what_the_statistics_do_not_tell_is_not_known(
    ticker: dict[str, Any], price: float | None, volume: float
) -> None:
    (product,) = listing(listed("BTC"), tickers=[ticker])
    assert (product.price, product.quote_volume) == (price, volume)


@pytest.mark.parametrize(
    "row",
    [
        None,
        {},
        [],
        listed("BTC", symbol=""),
        listed("BTC", symbol=5),
        listed("BTC", baseAsset=""),
        listed("BTC", baseAsset=None),
        listed("BTC", baseAsset="B:C"),
        listed("BTC", baseAsset="B-C"),
        listed("BTC", baseAsset="B@C"),
        listed("BTC", quoteAsset=" USDT"),
        listed("BTC", isSpotTradingAllowed="perhaps"),
        listed("BTC", permissionSets=5),
    ],
)
def test_a_damaged_product_is_left_out_unless_all_are_damaged(row: object) -> None:
    assert [p.symbol for p in listing(row, listed("ETH"))] == ["ETH-USDT"]
    with pytest.raises(MalformedMessage, match="no row of the products reply can be read"):
        listing(row)


@pytest.mark.parametrize("row", [None, {}, [], {"symbol": 5}, traded("A") | {"lastPrice": []}])
def test_damaged_statistics_are_left_out_unless_all_are_damaged(row: object) -> None:
    (product,) = listing(listed("BTC"), tickers=[row, traded("BTCUSDT", "10", "2")])
    assert (product.price, product.quote_volume) == (2.0, 10.0)
    with pytest.raises(MalformedMessage, match="no row of the tickers reply can be read"):
        listing(listed("BTC"), tickers=[row])


def test_the_most_traded_are_followed_in_the_dollar_they_trade_most_in() -> None:
    rows = [
        listed("BTC"), listed("BTC", "USDC"), listed("BTC", "FDUSD"), listed("ETH"),
        listed("ETH", "BTC"), listed("NEW", "BTC"), listed("USDC"), listed("FDUSD"),
        listed("EUR"), listed("USDT", "TRY"), listed("OLD", status="BREAK"), listed("IDLE"),
    ]  # fmt: skip
    tickers = [
        traded("BTCUSDT", "900", "100"), traded("BTCUSDC", "400", "100"),
        traded("BTCFDUSD", "5000", "100"), traded("ETHUSDT", "500", "10"),
        traded("ETHBTC", "90", "0.1"), traded("NEWBTC", "2", "0.001"),
        traded("USDCUSDT", "9000", "1"), traded("FDUSDUSDT", "8000", "0.999"),
        traded("EURUSDT", "7000", "1.1"), traded("USDTTRY", "6000", "40"),
        traded("OLDUSDT", "99999", "1"), traded("IDLEUSDT", "0.0", "1"),
    ]  # fmt: skip
    products = listing(*rows, tickers=tickers)
    assert [p.symbol for p in top(products, 9)] == ["BTC-USDT", "ETH-USDT", "NEW-BTC"]


# Refusals

TOO_MUCH = b'{"code":-1003,"msg":"Too much request weight used; current limit is 6000."}'


def refused(
    status: int, body: bytes = b"", dialect: Dialect = BINANCE, **headers: str
) -> LivermoreError:
    error = dialect.refusal(status, {k.replace("_", "-"): v for k, v in headers.items()}, body)
    assert error is not None
    return error


@pytest.mark.parametrize("status", [200, 204, 299])
def test_an_answer_is_no_refusal(status: int) -> None:
    assert BINANCE.refusal(status, {"retry-after": "5"}, TOO_MUCH) is None


@pytest.mark.parametrize(
    ("status", "told", "wait"),
    [
        (429, "7", 7.0),
        (429, "0", 1.0),
        (429, "", 60.0),
        (429, "soon", 60.0),
        (418, "120", 120.0),
        (418, "", 120.0),
        (418, "259200", 259_200.0),
        (418, "9" * 5000, 259_200.0),
        (418, "Fri, 20 Nov 2026 05:00:30 GMT", 30.0),
        (503, "30", 30.0),
        (403, "30", 30.0),
    ],
)
def test_being_sent_away_is_a_wait_as_long_as_told(status: int, told: str, wait: float) -> None:
    date = "Fri, 20 Nov 2026 05:00:00 GMT"
    error = refused(status, TOO_MUCH, date=date, retry_after=told)
    assert isinstance(error, RateLimited)
    assert error.wait == wait
    words = "Too much request weight used; current limit is 6000."
    assert str(error) == f"binance: {status} -1003: {words}"


@pytest.mark.parametrize(
    ("dialect", "start", "end"),
    [
        (BINANCE, "binance: 451: it serves nobody where we ask from (Service unavailable from a",
         "; in the US: livermore run binance_us"),
        (BINANCE_US, "binance_us: 451: it serves nobody where we ask from (Service unavailable",
         "; outside the US: livermore run binance"),
    ],
)  # fmt: skip
def test_where_it_is_not_served_a_person_is_told_what_to_do(
    dialect: Dialect, start: str, end: str
) -> None:
    words = "Service unavailable from a restricted location according to 'b. Eligibility' in " * 9
    body = json.dumps({"code": 0, "msg": words}).encode()
    error = refused(451, body, dialect, retry_after="5")
    assert type(error) is Refused, "and not something to wait for"
    assert str(error).startswith(start)
    assert str(error).endswith(end)
    assert len(str(error)) < 280


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (
            "Service unavailable from a restricted location according to 'b. Eligibility' in "
            "https://www.binance.com/en/terms. Please contact customer service if you believe you "
            "received this message in error.",
            " (Service unavailable from a restricted location according to 'b. Eligibility')",
        ),
        ("Not here. Go away.", " (Not here)"),
        ("https://www.binance.com/en/terms", ""),
        ("word " * 40, f" ({' '.join(['word'] * 23)} …)"),
    ],
)
def test_their_words_are_cut_at_a_sentence_or_a_word(said: str, wanted: str) -> None:
    message = str(refused(451, json.dumps({"code": 0, "msg": said}).encode()))
    start = f"binance: 451: it serves nobody where we ask from{wanted}; "
    assert message == start + "in the US: livermore run binance_us"


def test_where_it_is_not_served_without_a_word_is_told_all_the_same() -> None:
    assert str(refused(451)) == (
        "binance: 451: it serves nobody where we ask from; in the US: livermore run binance_us"
    )


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (400, b'{"code":-1121,"msg":"Invalid symbol."}', UnknownSymbol,
         "binance: 400 -1121: Invalid symbol."),
        (400, b'{"code":-1120,"msg":"Invalid\\r\\ninterval."}', RestError,
         "binance: 400 -1120: Invalid interval."),
        (400, b'{"code":-1220}', RestError, "binance: 400 -1220"),
        (403, b"<html>\n<h1>Blocked</h1>", RestError, "binance: 403 <html> <h1>Blocked</h1>"),
        (403, b'{"code":-1,"msg":"x"}', RestError, "binance: 403 -1: x"),
        (401, b'{"code":-2014,"msg":"API-key format invalid."}', Refused,
         "binance: 401 -2014: API-key format invalid."),
        (404, b"", RestError, "binance: 404 without a reason"),
        (502, b'{"code":[]}', RestError, 'binance: 502 {"code":[]}'),
        (302, b"", RestError, "binance: 302 without a reason"),
    ],
)  # fmt: skip
def test_refusals(status: int, body: bytes, kind: type[LivermoreError], message: str) -> None:
    error = refused(status, body)
    assert type(error) is kind
    assert str(error) == message
    assert str(refused(status, body, BINANCE_US)) == message.replace("binance:", "binance_us:")


@pytest.mark.parametrize(
    ("told", "used"),
    [("0", 0), ("6001", 6001), ("", None), ("-1", None), ("1.5", None), ("9" * 5000, None),
     ("\u0661", None)],
)  # fmt: skip
def test_what_was_used_of_the_running_minute_is_read(told: str, used: int | None) -> None:
    headers = {"x-mbx-used-weight-1m": told, "x-mbx-used-weight": "77"}
    assert BINANCE.used_weight(headers) == used
    assert BINANCE_US.used_weight(headers) == used
