"""The language of Coinbase Advanced Trade."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livermore.dialect import CloseRule, Row
from livermore.errors import (
    LivermoreError,
    MalformedMessage,
    RateLimited,
    Refused,
    RestError,
    UnknownSymbol,
)
from livermore.exchanges.coinbase import COINBASE
from livermore.market.events import (
    Acknowledged,
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

STAMP = "2026-04-07T14:30:02.789012Z"
STAMP_MS = 1775572202789
SLOT = 1775572200
TRADE = {
    "trade_id": "100",
    "product_id": "BTC-USD",
    "price": "68900.50",
    "size": "0.00150000",
    "side": "BUY",
    "time": "2026-04-07T14:30:02.6Z",
}
CANDLE = {
    "start": str(SLOT),
    "high": "4",
    "low": "1",
    "open": "2",
    "close": "3",
    "volume": "0.5",
    "product_id": "BTC-USD",
}
TICKER = {"type": "ticker", "product_id": "BTC-USD", "price": "68900.50"}


def frame(channel: str, *events: object, **changes: object) -> Frame:
    envelope = {
        "channel": channel,
        "client_id": "",
        "timestamp": STAMP,
        "sequence_num": 5,
        "events": list(events),
    }
    return COINBASE.read(json.dumps(envelope | changes))


def trades(*rows: object, kind: str = "update", **changes: object) -> Frame:
    return frame("market_trades", {"type": kind, "trades": list(rows)}, **changes)


def candles(*rows: object, kind: str = "update", **changes: object) -> Frame:
    return frame("candles", {"type": kind, "candles": list(rows)}, **changes)


def tickers(*rows: object, kind: str = "update", **changes: object) -> Frame:
    return frame("ticker", {"type": kind, "tickers": list(rows)}, **changes)


def without(row: dict[str, str], key: str) -> dict[str, str]:
    return {k: v for k, v in row.items() if k != key}


def ids(read: Frame) -> list[list[int]]:
    return [[t.trade_id for t in e.trades] for e in read.events if isinstance(e, Trades)]


# Trades


def test_a_trade_is_read_with_its_exact_size() -> None:
    assert trades(TRADE) == Frame(
        STAMP_MS,
        5,
        [Trades("BTC-USD", [Trade(100, 68900.5, Decimal("0.00150000"), STAMP_MS - 189)], False)],
    )


def test_trades_that_come_newest_first_are_ascending() -> None:
    rows = [TRADE | {"trade_id": str(n)} for n in (102, 101, 9, 100)]
    assert ids(trades(*rows)) == [[9, 100, 101, 102]]


def test_trades_of_several_products_in_one_event_are_told_apart() -> None:
    other = TRADE | {"product_id": "ETH-USD", "trade_id": "3"}
    read = trades(TRADE | {"trade_id": "101"}, other, TRADE)
    assert [e.native for e in read.events if isinstance(e, Trades)] == ["BTC-USD", "ETH-USD"]
    assert ids(read) == [[100, 101], [3]]


@pytest.mark.parametrize(
    ("kind", "snapshot"), [("update", False), ("snapshot", True), ("", True), ("replay", True)]
)
def test_only_updates_of_trades_and_candles_are_news(kind: str, snapshot: bool) -> None:
    (event,) = trades(TRADE, kind=kind).events
    assert isinstance(event, Trades)
    assert event.snapshot is snapshot
    (sample,) = candles(CANDLE, kind=kind).events
    assert isinstance(sample, Sample)
    assert sample.snapshot is snapshot


@pytest.mark.parametrize(
    ("kind", "snapshot"), [("update", False), ("snapshot", True), ("", False), ("replay", False)]
)
def test_a_ticker_is_a_sign_of_trading_unless_it_is_a_snapshot(kind: str, snapshot: bool) -> None:
    (ticker,) = tickers(TICKER, kind=kind).events
    assert isinstance(ticker, Ticker)
    assert ticker.snapshot is snapshot


@pytest.mark.parametrize("kind", [None, 3, ["update"]])
def test_an_event_of_an_unreadable_kind_is_no_news(kind: object) -> None:
    read = frame("market_trades", {"type": kind, "trades": [TRADE]})
    (event,) = read.events
    assert isinstance(event, Trades)
    assert event.snapshot


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *itertools.product(
            ("trade_id", "product_id", "price", "size", "time"), ("", None, [], {}, True)
        ),
        *itertools.product(("trade_id", "price", "size", "time"), ("nan", "-1", "x")),
    ],
)
def test_a_damaged_trade_is_counted_and_the_good_ones_beside_it_are_kept(
    field: str, value: object
) -> None:
    good = TRADE | {"trade_id": "99"}
    read = trades(TRADE | {field: value}, good, without(TRADE, field))
    assert ids(read) == [[99]]
    assert (read.malformed, read.stamp, read.sequence) == (2, STAMP_MS, 5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("price", "0"),
        ("price", "inf"),
        ("price", "1e400"),
        ("price", "-5"),
        ("size", "0"),
        ("size", "Infinity"),
        ("size", "sNaN"),
        ("size", "1E+18"),
        ("size", "1E+999999"),
        ("size", "1E9999999999999999999999"),
        ("trade_id", str(2**63)),
        ("trade_id", 10**30),
        ("trade_id", "9" * 5000),
        ("time", "0001-01-01T00:00:00Z"),
        ("time", "2026-04-07T14:30:02"),
        ("time", "2023-10-23 14:43:13.362521689 +0000 UTC m=+425760.164580852"),
    ],
)
def test_a_trade_no_market_made_is_counted_and_skipped(field: str, value: object) -> None:
    read = trades(TRADE | {field: value}, TRADE)
    assert ids(read) == [[100]]
    assert read.malformed == 1


@pytest.mark.parametrize("field", ["trade_id", "price", "size"])
def test_a_number_is_read_with_and_without_quotes(field: str) -> None:
    bare = json.dumps(TRADE).replace(f'"{TRADE[field]}"', TRADE[field])
    assert bare != json.dumps(TRADE)
    raw = (
        f'{{"channel":"market_trades","timestamp":"{STAMP}","sequence_num":"5",'
        f'"events":[{{"type":"update","trades":[{bare}]}}]}}'
    )
    assert COINBASE.read(raw) == trades(TRADE)


def test_a_frame_of_damaged_trades_only_has_no_events() -> None:
    read = trades(TRADE | {"price": "nan"}, TRADE | {"price": ""})
    assert (read.events, read.malformed) == ([], 2)


# Candles


def test_a_candle_is_read_with_its_start_in_milliseconds() -> None:
    expected = Sample("BTC-USD", SLOT * 1000, 2.0, 4.0, 1.0, 3.0, 0.5)
    assert candles(CANDLE) == Frame(STAMP_MS, 5, [expected])


def test_candles_are_ascending_whatever_the_order_of_the_array() -> None:
    starts = [SLOT - 300, SLOT, SLOT - 900]
    read = candles(*(CANDLE | {"start": start} for start in starts), kind="snapshot")
    times = [e.open_time for e in read.events if isinstance(e, Sample)]
    assert times == [(SLOT - 900) * 1000, (SLOT - 300) * 1000, SLOT * 1000]


@pytest.mark.parametrize(
    "change",
    [
        {"start": str(SLOT + 60)},
        {"start": "-300"},
        {"start": str(300 * 2**60)},
        {"start": "now"},
        {"high": "0.5"},
        {"high": "2.5"},
        {"low": "2.5"},
        {"low": "0"},
        {"open": "5"},
        {"close": "0.9"},
        {"close": "nan"},
        {"volume": "-1"},
        {"volume": "inf"},
        {"volume": "nan"},
        {"product_id": ""},
        {"product_id": None},
    ],
)
def test_an_impossible_candle_is_counted_and_skipped(change: dict[str, object]) -> None:
    good = CANDLE | {"product_id": "ETH-USD"}
    read = candles(CANDLE | change, good)
    assert [e.native for e in read.events if isinstance(e, Sample)] == ["ETH-USD"]
    assert read.malformed == 1


def test_a_candle_without_trades_is_possible() -> None:
    flat = dict.fromkeys(("open", "high", "low", "close"), "2")
    assert candles(CANDLE | flat | {"volume": "0"}).malformed == 0


def test_a_candle_without_product_is_counted() -> None:
    assert candles(without(CANDLE, "product_id")) == Frame(STAMP_MS, 5, [], 1)


# Tickers


def test_a_ticker_has_the_time_of_its_frame_and_its_figures() -> None:
    figures = {"best_bid": "68900", "best_ask": 68901, "volume_24_h": "15328.5"}
    assert tickers(TICKER | figures) == Frame(
        STAMP_MS, 5, [Ticker("BTC-USD", 68900.5, STAMP_MS, 68900.0, 68901.0, 15328.5)]
    )


@pytest.mark.parametrize("absent", ["", None, "nan", "inf", "-1", "x"])
def test_an_absent_figure_is_none_and_costs_nothing(absent: str | None) -> None:
    figures = dict.fromkeys(("best_bid", "best_ask", "volume_24_h"), absent)
    read = tickers(TICKER | figures)
    assert read == Frame(STAMP_MS, 5, [Ticker("BTC-USD", 68900.5, STAMP_MS)])


def test_no_bid_is_none_but_no_volume_is_zero() -> None:
    (ticker,) = tickers(TICKER | {"best_bid": "0", "volume_24_h": "0"}).events
    assert isinstance(ticker, Ticker)
    assert (ticker.bid, ticker.volume_24h) == (None, 0.0)


def test_the_batched_channel_is_read_like_the_other() -> None:
    assert frame("ticker_batch", {"type": "update", "tickers": [TICKER]}) == tickers(TICKER)


@pytest.mark.parametrize("price", ["", "nan", "0", "-1", "inf", None])
def test_a_ticker_without_a_price_is_counted(price: str | None) -> None:
    assert tickers(TICKER | {"price": price}) == Frame(STAMP_MS, 5, [], 1)


def test_a_ticker_without_a_product_is_counted() -> None:
    assert tickers(TICKER | {"product_id": ""}).malformed == 1
    assert tickers(without(TICKER, "product_id")).malformed == 1


def test_a_ticker_that_cannot_be_placed_in_time_is_counted() -> None:
    assert tickers(TICKER, timestamp="") == Frame(None, 5, [], 2)


# Heartbeats, acknowledgements, errors, the unknown


@pytest.mark.parametrize("counter", [42, "42"])
def test_a_heartbeat_counts_in_numbers_or_text(counter: object) -> None:
    event = {
        "current_time": "2023-10-23 14:43:13.362521689 +0000 UTC m=+425760.1",
        "heartbeat_counter": counter,
    }
    assert frame("heartbeats", event) == Frame(STAMP_MS, 5, [Heartbeat(42)])


@pytest.mark.parametrize("counter", [None, "", -1, 10**30, "x"])
def test_a_heartbeat_with_a_damaged_counter_still_tells_the_time(counter: object) -> None:
    read = frame("heartbeats", {"heartbeat_counter": counter})
    assert read == Frame(STAMP_MS, 5, [], 1)


def test_an_acknowledgement_lists_every_channel() -> None:
    lists = {"level2": ["A-USD"], "ticker": ["A-USD", "B-USD"], "candles": []}
    (event,) = frame("subscriptions", {"subscriptions": lists}).events
    assert event == Acknowledged(
        {
            "level2": frozenset({"A-USD"}),
            "ticker": frozenset({"A-USD", "B-USD"}),
            "candles": frozenset(),
        }
    )


@pytest.mark.parametrize("value", [None, True, "", "all", ["heartbeats"], [None], {}])
def test_whatever_stands_behind_heartbeats_does_not_spoil_the_acknowledgement(
    value: object,
) -> None:
    lists = {"heartbeats": value, "ticker": ["A-USD"]}
    read = frame("subscriptions", {"subscriptions": lists})
    (event,) = read.events
    assert isinstance(event, Acknowledged)
    assert event.channels["ticker"] == {"A-USD"}
    assert "heartbeats" in event.channels
    assert read.malformed == 0


def test_after_the_last_unsubscription_the_list_is_empty() -> None:
    assert frame("subscriptions", {"subscriptions": {}}).events == [Acknowledged({})]


def test_an_acknowledgement_without_lists_is_counted() -> None:
    assert frame("subscriptions", {"subscriptions": None}, {}).malformed == 2


@pytest.mark.parametrize(
    ("said", "understood"),
    [
        ({"message": "authentication failure"}, "authentication failure"),
        ({"message": "two\nlines\x1b[0m"}, "two lines [0m"),
        ({"message": None}, '{"type": "error", "message": null}'),
        ({}, '{"type": "error"}'),
    ],
)
def test_an_error_frame_is_a_rejection_in_one_line(said: dict[str, Any], understood: str) -> None:
    assert COINBASE.read(json.dumps({"type": "error"} | said)) == Frame(
        None, None, [Rejected(understood)]
    )


def test_an_error_that_names_a_channel_is_a_rejection_too() -> None:
    said = {"type": "error", "channel": "candles", "message": "rate limit exceeded"}
    assert COINBASE.read(json.dumps(said)).events == [Rejected("rate limit exceeded")]


@pytest.mark.parametrize("channel", ["l2_data", "user", "status", "futures_balance_summary"])
def test_an_unknown_channel_is_told_with_its_stamp_and_number(channel: str) -> None:
    assert frame(channel, {"type": "x"}) == Frame(STAMP_MS, 5, [Unknown(channel)])


def test_the_name_of_an_unknown_channel_is_short_and_printable() -> None:
    (event,) = frame("a\n" * 1000).events
    assert isinstance(event, Unknown)
    assert event.what.isprintable()
    assert len(event.what) <= 40


# Frames as a whole


def test_keys_we_do_not_know_are_ignored() -> None:
    new = {"new": {"deep": [1]}}
    read = frame("market_trades", {"type": "update", "trades": [TRADE | new]} | new, **new)
    assert read == trades(TRADE)


def test_good_frames_are_read_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_rows(text: str) -> Frame:
        pytest.fail(f"the slow way was taken for {text}")

    monkeypatch.setattr("livermore.exchanges.coinbase._read_by_rows", by_rows)
    assert trades(TRADE, sequence_num="5").events
    assert candles(CANDLE | {"start": SLOT}).events
    assert tickers(TICKER).events
    assert frame("heartbeats", {"heartbeat_counter": "7"}).events
    assert frame("subscriptions", {"subscriptions": {"heartbeats": None}}).events


def test_text_and_bytes_mean_the_same() -> None:
    raw = json.dumps({"type": "error", "message": "é"}, ensure_ascii=False)
    assert COINBASE.read(raw) == COINBASE.read(raw.encode())


@pytest.mark.parametrize("number", [None, "", -1, "x", 2**63, 1.5, "\u0661"])
def test_a_damaged_sequence_number_is_counted_and_the_trades_are_kept(number: object) -> None:
    read = trades(TRADE, sequence_num=number)
    assert (read.sequence, read.stamp, read.malformed) == (None, STAMP_MS, 1)
    assert ids(read) == [[100]]


@pytest.mark.parametrize("number", [0, "0", 7, "7", 2**63 - 1])
def test_a_sequence_number_is_read_with_and_without_quotes(number: int | str) -> None:
    assert trades(TRADE, sequence_num=number).sequence == int(number)
    assert frame("l2_data", sequence_num=number).sequence == int(number)


@pytest.mark.parametrize("stamp", [None, "", 5, "yesterday", "0001-01-01T00:00:00Z"])
def test_a_damaged_stamp_is_counted_and_the_trades_are_kept(stamp: object) -> None:
    read = trades(TRADE, timestamp=stamp)
    assert (read.sequence, read.stamp, read.malformed) == (5, None, 1)
    assert ids(read) == [[100]]


@pytest.mark.parametrize("events", [None, {}, "x", 5])
def test_a_frame_whose_events_are_no_list_is_malformed(events: object) -> None:
    with pytest.raises(MalformedMessage, match="coinbase: candles frame without events"):
        frame("candles", events=events)


@pytest.mark.parametrize("event", [None, {}, 5, [], {"type": "update"}, {"trades": {}}])
def test_a_damaged_event_is_counted_and_the_good_one_beside_it_is_kept(event: object) -> None:
    read = frame("market_trades", event, {"type": "update", "trades": [TRADE]})
    assert (ids(read), read.malformed) == ([[100]], 1)


@pytest.mark.parametrize("raw", ["{}", '{"channel":5}', '{"type":"hello"}'])
def test_a_frame_that_names_no_channel_is_malformed(raw: str) -> None:
    with pytest.raises(MalformedMessage, match="coinbase: frame names no channel"):
        COINBASE.read(raw)


def test_a_malformed_frame_is_quoted_by_its_beginning() -> None:
    with pytest.raises(MalformedMessage) as refused:
        COINBASE.read('{"channel":"candles",' + "x" * 10_000)
    assert '{"channel":"candles",xxx' in str(refused.value)
    assert len(str(refused.value)) < 400


def test_bytes_that_are_not_utf_8_are_malformed_even_where_nobody_looks() -> None:
    raw = json.dumps({"type": "error", "message": "x", "extra": "@"}).encode()
    with pytest.raises(MalformedMessage):
        COINBASE.read(raw.replace(b"@", b"\xff"))


# Times


def stamped(text: str) -> int | None:
    return COINBASE.read(json.dumps({"channel": "x", "timestamp": text, "sequence_num": 0})).stamp


INSTANTS = st.datetimes(
    min_value=datetime(1970, 1, 1),  # noqa: DTZ001 - the zone comes from the other argument
    timezones=st.just(UTC),
)


@given(INSTANTS, st.integers(0, 9), st.integers(0, 999))
def test_times_are_rounded_down_to_the_millisecond(
    instant: datetime, digits: int, nanoseconds: int
) -> None:
    fraction = f"{instant.microsecond:06}{nanoseconds:03}"[:digits]
    text = instant.strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0") + "." * bool(digits) + fraction
    whole = (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    assert stamped(text + "Z") == whole * 1000 + int((fraction + "000")[:3])
    assert stamped(text + "+00:00") == stamped(text + "Z")


def test_the_end_of_a_slot_does_not_round_into_the_next() -> None:
    assert stamped("2026-04-07T14:34:59.999999999Z") == 1775572499999


@pytest.mark.parametrize(
    ("text", "stamp"),
    [
        ("2025-09-15T17:02:49.90120868Z", 1757955769901),
        ("2025-09-15T17:02:49Z", 1757955769000),
        ("2025-09-15T19:02:49+02:00", 1757955769000),
        ("2025-09-15T17:02:49", None),
        ("2025-09-15T17:02:60Z", None),
        ("2025-02-29T17:02:49Z", None),
        ("1969-12-31T23:59:59.999Z", None),
        ("0001-01-01T00:00:00+23:59", None),
        ("Z", None),
    ],
)
def test_times_in_other_spellings(text: str, stamp: int | None) -> None:
    assert stamped(text) == stamp


# Subscribing


def test_heartbeats_are_subscribed_first_and_then_one_channel_at_a_time() -> None:
    subscriptions = COINBASE.subscribe(["BTC-USD", "ETH-USD", "BTC-USD"])
    assert [json.loads(s.frame) for s in subscriptions] == [
        {"type": "subscribe", "channel": "heartbeats"},
        *(
            {"type": "subscribe", "product_ids": ["BTC-USD", "ETH-USD"], "channel": channel}
            for channel in ("candles", "ticker", "market_trades")
        ),
    ]
    both = frozenset({"BTC-USD", "ETH-USD"})
    assert [(s.channel, s.natives) for s in subscriptions] == [
        ("heartbeats", frozenset()),
        ("candles", both),
        ("ticker", both),
        ("market_trades", both),
    ]


def test_without_products_only_heartbeats_are_subscribed_and_nothing_is_dropped() -> None:
    # Without product_ids Coinbase would take a request for a whole channel.
    assert [s.channel for s in COINBASE.subscribe([])] == ["heartbeats"]
    assert COINBASE.unsubscribe([]) == ()


def test_heartbeats_outlive_the_products() -> None:
    assert [json.loads(f) for f in COINBASE.unsubscribe(["BTC-USD"])] == [
        {"type": "unsubscribe", "product_ids": ["BTC-USD"], "channel": channel}
        for channel in ("candles", "ticker", "market_trades")
    ]


def test_facts() -> None:
    assert COINBASE.closes is CloseRule.TRADES
    assert COINBASE.streamed is Timeframe.M5
    assert (COINBASE.settle, COINBASE.sample_lag, COINBASE.subscribe_within) == (2000, 8000, 5000)
    assert COINBASE.messages_per_second < 8
    assert COINBASE.rest_rows < 350
    assert COINBASE.empties_omitted
    assert COINBASE.timeframe_names[Timeframe.H4] == "FOUR_HOUR"


# REST


def reply(*rows: object) -> bytes:
    return json.dumps({"candles": list(rows)}).encode()


def test_candles_are_asked_in_seconds_with_both_ends() -> None:
    request = COINBASE.candles_request("BTC-USD", Timeframe.H1, 3_600_000, 300 * 3_600_000)
    assert request.path == "/api/v3/brokerage/market/products/BTC-USD/candles"
    assert request.params == {
        "start": "3600",
        "end": "1080000",
        "granularity": "ONE_HOUR",
        "limit": "300",
    }


def test_one_candle_is_asked_by_the_same_start_and_end() -> None:
    request = COINBASE.candles_request("BTC-USD", Timeframe.M5, 300_000, 300_000)
    assert (request.params["start"], request.params["end"]) == ("300", "300")
    assert request.params["limit"] == "1"


def test_no_more_is_asked_than_the_documented_limit() -> None:
    request = COINBASE.candles_request("BTC-USD", Timeframe.M5, 0, 300_000 * 1000)
    assert request.params["limit"] == "350"


def test_a_strange_id_stays_one_segment_of_the_path() -> None:
    request = COINBASE.candles_request("../x?y=1 #é", Timeframe.M5, 0, 0)
    assert request.path == "/api/v3/brokerage/market/products/..%2Fx%3Fy%3D1%20%23%C3%A9/candles"


def test_candles_that_come_newest_first_are_ascending() -> None:
    rows = [CANDLE | {"start": str(SLOT - 300 * n)} for n in range(4)]
    read = COINBASE.read_candles(reply(*rows))
    assert [r.open_time for r in read] == [(SLOT - 300 * n) * 1000 for n in (3, 2, 1, 0)]
    assert read[0] == Row((SLOT - 900) * 1000, 2.0, 4.0, 1.0, 3.0, 0.5)


@pytest.mark.parametrize("order", [1, -1])
def test_of_a_slot_that_comes_twice_the_later_state_counts(order: int) -> None:
    rows = [CANDLE, CANDLE | {"close": "3.5", "volume": "0.6"}][::order]
    (row,) = COINBASE.read_candles(reply(*rows))
    assert (row.close, row.volume) == (3.5, 0.6)


def test_no_candles_are_no_rows() -> None:
    assert list(COINBASE.read_candles(reply())) == []


@pytest.mark.parametrize(
    "change",
    [
        {"close": ""},
        {"close": "nan"},
        {"volume": None},
        {"start": str(SLOT + 1)},
        {"high": "0.5"},
        {"low": "0"},
    ],
)
def test_a_damaged_candle_spoils_the_reply_lest_its_slot_pass_for_empty(
    change: dict[str, object],
) -> None:
    with pytest.raises(MalformedMessage, match="coinbase"):
        COINBASE.read_candles(reply(CANDLE | {"start": SLOT - 300}, CANDLE | change))


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"<html>", b'{"candles":null}', b"\xff"])
def test_a_reply_that_is_no_reply_is_malformed(body: bytes) -> None:
    reads: list[Callable[[bytes], object]] = [
        COINBASE.read_candles, lambda body: COINBASE.read_products([body]), COINBASE.read_time,
    ]  # fmt: skip
    for read in reads:
        with pytest.raises(MalformedMessage, match="coinbase: unreadable"):
            read(body)


def test_a_reply_that_is_not_utf_8_is_malformed_even_where_nobody_looks() -> None:
    with pytest.raises(MalformedMessage):
        COINBASE.read_candles(b'{"candles":[],"extra":"\xff"}')


LISTED: dict[str, Any] = {
    "product_id": "BTC-USD",
    "base_currency_id": "BTC",
    "quote_currency_id": "USD",
    "product_type": "SPOT",
    "status": "online",
    "price": "100.5",
    "volume_24h": "10",
    "approximate_quote_24h_volume": "1004.9",
    "alias": "",
    "is_disabled": False,
}


def listing(*rows: object, count: object = 1) -> list[Product]:
    body = json.dumps({"products": list(rows), "num_products": count, "pagination": None})
    return list(COINBASE.read_products([body.encode()]))


@pytest.mark.parametrize("count", [1, "1", None, "many"])
def test_a_product_is_read_however_they_are_counted(count: object) -> None:
    expected = Product("BTC-USD", "BTC-USD", "BTC", "USD", True, None, 100.5, 1004.9)
    assert listing(LISTED, count=count) == [expected]


def test_only_spot_products_are_asked_for_and_read() -> None:
    assert COINBASE.products_requests()[0].params["product_type"] == "SPOT"
    assert listing(LISTED | {"product_type": "FUTURE"}) == []


@pytest.mark.parametrize(
    "flag",
    ["is_disabled", "trading_disabled", "view_only", "cancel_only", "post_only", "auction_mode"],
)
def test_a_product_that_is_stopped_is_not_tradable(flag: str) -> None:
    (product,) = listing(LISTED | {flag: True})
    assert not product.tradable


@pytest.mark.parametrize("status", ["offline", "delisted", "", "ONLINE"])
def test_a_product_that_is_not_online_is_not_tradable(status: str) -> None:
    (product,) = listing(LISTED | {"status": status})
    assert not product.tradable


def test_a_product_with_limit_orders_only_still_trades() -> None:
    (product,) = listing(LISTED | {"limit_only": True})
    assert product.tradable


def test_an_alias_is_kept() -> None:
    (product,) = listing(LISTED | {"product_id": "BTC-USDC", "alias": "BTC-USD"})
    assert (product.symbol, product.alias) == ("BTC-USDC", "BTC-USD")


@pytest.mark.parametrize(
    ("change", "price", "volume"),
    [
        ({"approximate_quote_24h_volume": ""}, 100.5, 1005.0),
        ({"approximate_quote_24h_volume": None, "volume_24h": ""}, 100.5, 0.0),
        ({"approximate_quote_24h_volume": "0"}, 100.5, 0.0),
        ({"approximate_quote_24h_volume": "nan"}, 100.5, 1005.0),
        ({"price": ""}, None, 1004.9),
        ({"price": "0"}, None, 1004.9),
        ({"price": "", "approximate_quote_24h_volume": ""}, None, 0.0),
        (
            {"price": "1e200", "volume_24h": "1e200", "approximate_quote_24h_volume": ""},
            1e200,
            0.0,
        ),
    ],
)
def test_volume_falls_back_to_base_volume_times_price(
    change: dict[str, Any], price: float | None, volume: float
) -> None:
    (product,) = listing(LISTED | change)
    assert (product.price, product.quote_volume) == (price, volume)


@pytest.mark.parametrize(
    "row",
    [
        None,
        {},
        [],
        LISTED | {"product_id": ""},
        LISTED | {"product_id": 5},
        LISTED | {"base_currency_id": ""},
        LISTED | {"quote_currency_id": None},
        LISTED | {"is_disabled": "perhaps"},
    ],
)
def test_a_damaged_product_is_left_out_unless_all_are_damaged(row: object) -> None:
    assert [p.symbol for p in listing(row, LISTED)] == ["BTC-USD"]
    with pytest.raises(MalformedMessage, match="no row of the products reply can be read"):
        listing(row)


def test_the_time_is_read_in_milliseconds() -> None:
    body = b'{"iso":"2024-02-27T03:37:14Z","epochSeconds":"1709005034","epochMillis":"%s"}'
    assert COINBASE.read_time(body % b"1709005034333") == 1709005034333
    for impossible in (b"0", b"-1", b"99999999999999999"):
        with pytest.raises(MalformedMessage):
            COINBASE.read_time(body % impossible)


# Refusals

TOO_MANY = b'{"errors":[{"id":"rate_limit_exceeded","message":"Too many requests"}]}'


def refused(status: int, body: bytes = b"", **headers: str) -> LivermoreError:
    error = COINBASE.refusal(status, {k.replace("_", "-"): v for k, v in headers.items()}, body)
    assert error is not None
    return error


@pytest.mark.parametrize("status", [200, 204, 299])
def test_an_answer_is_no_refusal(status: int) -> None:
    assert COINBASE.refusal(status, {"retry-after": "5"}, TOO_MANY) is None


@pytest.mark.parametrize(
    ("told", "wait"),
    [
        ("7", 7.0),
        ("0", 1.0),
        ("999999999", 86_400.0),
        ("9" * 5000, 86_400.0),
        ("Fri, 20 Nov 2026 05:00:30 GMT", 30.0),
        ("Fri, 20 Nov 2026 04:00:00 GMT", 1.0),
        ("", 10.0),
        ("soon", 10.0),
        ("-5", 10.0),
        ("nan", 10.0),
    ],
)
def test_too_many_requests_say_how_long_to_wait(told: str, wait: float) -> None:
    error = refused(429, TOO_MANY, retry_after=told, date="Fri, 20 Nov 2026 05:00:00 GMT")
    assert isinstance(error, RateLimited)
    assert error.wait == wait
    assert str(error) == "coinbase: 429 rate_limit_exceeded: Too many requests"


def test_without_being_told_we_wait_all_the_same() -> None:
    for headers in ({}, {"retry_after": "Fri, 20 Nov 2026 05:00:30 GMT"}):
        error = refused(429, TOO_MANY, **headers)
        assert isinstance(error, RateLimited)
        assert error.wait == 10.0


@pytest.mark.parametrize("status", [418, 429])
def test_being_sent_away_is_a_wait_whether_or_not_they_say_how_long(status: int) -> None:
    for headers, wait in (({"retry_after": "60"}, 60.0), ({}, 10.0)):
        error = refused(status, b"", **headers)
        assert isinstance(error, RateLimited)
        assert error.wait == wait


def test_any_failure_that_says_when_to_come_back_is_a_wait() -> None:
    error = refused(503, b"maintenance", retry_after="120")
    assert isinstance(error, RateLimited)
    assert error.wait == 120.0
    assert type(refused(401, b"", retry_after="120")) is Refused, "that needs a person"


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (401, b"Unauthorized\n", Refused, "coinbase: 401 Unauthorized"),
        (
            403,
            b'{"error":"PERMISSION_DENIED","error_details":"Missing required scopes"}',
            Refused,
            "coinbase: 403 PERMISSION_DENIED: Missing required scopes",
        ),
        (403, b"<html>\n<h1>Blocked</h1>", RestError, "coinbase: 403 <html> <h1>Blocked</h1>"),
        (451, b"", Refused, "coinbase: 451 without a reason"),
        (
            404,
            b'{"error":"NOT_FOUND","message":"Product NOPE-USD not supported"}',
            UnknownSymbol,
            "coinbase: 404 NOT_FOUND: Product NOPE-USD not supported",
        ),
        (404, b"404 page not found", RestError, "coinbase: 404 404 page not found"),
        (400, b'{"message":"bad\\r\\nrange"}', RestError, "coinbase: 400 bad range"),
        (400, b'{"error":"INVALID_ARGUMENT"}', RestError, "coinbase: 400 INVALID_ARGUMENT"),
        (500, b"", RestError, "coinbase: 500 without a reason"),
        (503, b'{"error":5}', RestError, 'coinbase: 503 {"error":5}'),
        (302, b"", RestError, "coinbase: 302 without a reason"),
    ],
)
def test_refusals(status: int, body: bytes, kind: type[LivermoreError], message: str) -> None:
    error = refused(status, body)
    assert type(error) is kind
    assert str(error) == message
