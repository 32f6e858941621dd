"""Every recorded frame and reply of Binance and Binance.US, read in place.

They are data of others and not part of the project; where they are absent these tests are skipped.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from livermore.dialect import Dialect, Row, tracker_of
from livermore.errors import LivermoreError, RateLimited, Refused, RestError, UnknownSymbol
from livermore.exchanges.binance import BINANCE, BINANCE_US
from livermore.market.candle import Candle, Kind, Series
from livermore.market.events import Closing, Confirmed, Frame, Rejected, Sample, Unknown
from livermore.market.product import Product, top
from livermore.market.timeframe import Timeframe

FRAMES = Path(__file__).resolve().parents[2].parent / "shared" / "frames"
ROOMS = {"binance": BINANCE, "binanceus": BINANCE_US}

pytestmark = pytest.mark.skipif(
    not all((FRAMES / room).is_dir() for room in ROOMS),
    reason=f"NO RECORDED FRAMES: {FRAMES} is absent, nothing real is tested",
)

UNREAD = {"binance/rest_account_response.json"}
"""Replies to questions we do not ask."""

MINUTE = 60_000
FIVE_MINUTES = Timeframe.M5.ms

both = pytest.mark.parametrize(("room", "dialect"), ROOMS.items(), ids=list(ROOMS))


def recorded(name: str) -> Any:
    return json.loads((FRAMES / name).read_text())


def body(name: str) -> bytes:
    return (FRAMES / name).read_bytes()


def read(frame: object, dialect: Dialect = BINANCE) -> Frame:
    """``frame`` read as it would come: text without spaces; also from bytes and indented."""
    text = json.dumps(frame, separators=(",", ":"))
    understood = dialect.read(text)
    assert dialect.read(json.dumps(frame, indent=1).encode()) == understood
    assert understood.malformed == 0
    return understood


def of_five_minutes(recording: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Recorded one-minute frames, moved in time so that the first one's minute ends a slot of five.

    Only one-minute frames were recorded; nothing else about them is changed.
    """
    moved = copy.deepcopy(recording)
    payloads = [frame.get("data", frame) for frame in moved]
    later = -(payloads[0]["k"]["T"] + 1) % FIVE_MINUTES
    for frame, data in zip(moved, payloads, strict=True):
        row = data["k"]
        assert (row["i"], row["T"] + 1 - row["t"]) == ("1m", MINUTE)
        data["E"] += later
        row["T"] += later
        row |= {"i": "5m", "t": Timeframe.M5.floor(row["T"])}
        if "stream" in frame:
            frame["stream"] = frame["stream"].replace("@kline_1m", "@kline_5m")
    return moved


def sequence(name: str, dialect: Dialect) -> list[tuple[dict[str, Any], Frame, Sample]]:
    """Payload, what was read, and its candle, of each frame of a recording."""
    told = []
    for frame in of_five_minutes([entry["frame"] for entry in recorded(name)]):
        understood = read(frame, dialect)
        (sample,) = understood.events
        assert isinstance(sample, Sample)
        told.append((frame["data"], understood, sample))
    return told


def test_one_minute_candles_are_not_taken_for_five() -> None:
    raw = recorded("binance/ws_kline_1m_raw_hummingbot.json")
    combined = [e["frame"] for e in recorded("binance/ws_kline_1m_combined_real.json")]
    theirs = [e["frame"] for e in recorded("binanceus/ws_kline_1m_combined_real.json")]
    for frame in (raw, *combined, *theirs):
        stamp = frame.get("data", frame)["E"]
        assert read(frame) == Frame(stamp, None, [Unknown("kline_1m")])


def test_the_raw_candle() -> None:
    (frame,) = of_five_minutes([recorded("binance/ws_kline_1m_raw_hummingbot.json")])
    understood = read(frame)
    assert understood.stamp is not None
    (sample,) = understood.events
    assert isinstance(sample, Sample)
    assert sample.open_time <= understood.stamp < sample.open_time + FIVE_MINUTES
    assert sample == Sample(
        "BTCUSDT", sample.open_time, 66477.91, 66477.91, 66468.0, 66472.2, 10.75371
    )


def test_combined_candles_are_of_the_product_their_payload_names() -> None:
    told = sequence("binance/ws_kline_1m_combined_real.json", BINANCE)
    assert [sample.native for _, _, sample in told] == ["NKNUSDT", "LRCBTC"]
    for data, understood, sample in told:
        row = data["k"]
        assert understood.stamp == data["E"]
        values = (sample.open, sample.high, sample.low, sample.close, sample.volume)
        assert values == tuple(float(row[key]) for key in "ohlcv")
        assert (sample.closed, sample.snapshot) == (False, False)


def test_the_closing_sequence_closes_every_symbol_after_its_end_the_idle_ones_too() -> None:
    told = sequence("binance/ws_kline_1m_close_sequence_TR_real.json", BINANCE)
    closes, news = told[:4], told[4:]
    assert [sample.closed for _, _, sample in told] == [True] * 4 + [False] * 4
    assert [data["E"] - data["k"]["T"] for data, _, _ in closes] == [5, 5, 5, 6]
    assert {sample.native for _, _, sample in closes} == {sample.native for _, _, sample in news}
    idle = {sample.native for _, _, sample in closes if sample.volume == 0}
    assert idle == {"BELBTC", "ELFBUSD"}
    for _, _, sample in closes:
        assert (sample.open == sample.high == sample.low == sample.close) or sample.volume > 0
    ends = {sample.native: sample.open_time + FIVE_MINUTES for _, _, sample in closes}
    last = {sample.native: sample.close for _, _, sample in closes}
    for _, _, sample in news:
        assert sample.open_time == ends[sample.native]
        # The new candle is flat at the last price before anything trades in it.
        assert (sample.open, sample.volume) == (last[sample.native], 0.0)


def test_the_closing_sequence_of_binance_us_opens_closes_late_and_goes_on() -> None:
    told = sequence("binanceus/ws_kline_1m_combined_real.json", BINANCE_US)
    assert {sample.native for _, _, sample in told} == {"OMGBUSD"}
    assert [sample.closed for _, _, sample in told] == [False, False, False, True, False]
    (close,) = (data for data, _, sample in told if sample.closed)
    assert close["E"] - close["k"]["T"] == 1756
    volumes = [sample.volume for _, _, sample in told]
    assert volumes == [183.49, 319.42, 536.51, 536.51, 28.25]
    assert told[4][2].open_time == told[3][2].open_time + FIVE_MINUTES


def closed_by(dialect: Dialect, name: str) -> dict[str, Candle]:
    """What a tracker closes that hears a recording and was connected during its first slot."""
    told = sequence(name, dialect)
    natives = {sample.native for _, _, sample in told}
    series = {native: Series(dialect.name, native, Timeframe.M5) for native in natives}
    tracker = tracker_of(dialect, list(series.items()))
    begun = min(sample.open_time for _, _, sample in told) + MINUTE
    tracker.connected(0.0)
    tracker.take(Frame(begun, None, [Unknown("the time")]), 0.0)
    tracker.acknowledged(natives, 0.0)
    for data, understood, _ in told:
        tracker.take(understood, (data["E"] - begun) / 1000)
    assert not tracker.pending.missing
    closes = {
        native: list(tracker.pending.closes.get(one, {}).values()) for native, one in series.items()
    }
    assert all(len(candles) <= 1 for candles in closes.values())
    return {native: candles[0] for native, candles in closes.items() if candles}


def test_the_closing_sequences_close_what_they_say() -> None:
    closed = closed_by(BINANCE, "binance/ws_kline_1m_close_sequence_TR_real.json")
    assert {native: (one.kind, one.close, one.volume) for native, one in closed.items()} == {
        "XEMUSDT": (Kind.TRADED, 0.0411, 243.0),
        "LTCBRL": (Kind.TRADED, 473.1, 0.534),
        "BELBTC": (Kind.EMPTY, 0.00002369, 0.0),
        "ELFBUSD": (Kind.EMPTY, 0.3117, 0.0),
    }
    closed = closed_by(BINANCE_US, "binanceus/ws_kline_1m_combined_real.json")
    assert {native: (one.close, one.volume) for native, one in closed.items()} == {
        "OMGBUSD": (13.7664, 536.51)
    }


@both
@pytest.mark.parametrize(
    ("name", "kind", "stamped"),
    [
        ("ws_aggTrade_real.json", "aggTrade", True),
        ("ws_bookTicker_real.json", "bookTicker", False),
        ("ws_depth_100ms_real.json", "depthUpdate", True),
    ],
)
def test_streams_we_do_not_use(
    room: str, dialect: Dialect, name: str, kind: str, stamped: bool
) -> None:
    frame = recorded(f"{room}/{name}")
    stamp = frame["data"]["E"] if stamped else None
    assert read(frame, dialect) == Frame(stamp, None, [Unknown(kind)])


@both
def test_the_documented_answers(room: str, dialect: Dialect) -> None:
    documented = recorded("binance/ws_control_docs.json")
    assert read(documented["ack"], dialect) == Frame(None, None, [Confirmed("1")])
    assert read(documented["list_ack"], dialect) == Frame(None, None, [Unknown("result")])
    assert [read(error, dialect).events for error in documented["errors"]] == [
        [Rejected("Invalid request: missing field `method` at line 1 column 73")],
        [Rejected("Invalid JSON: expected value at line 1 column 1")],
    ]
    for shape in ("serverShutdown_raw", "serverShutdown_combined"):
        assert read(documented[shape], dialect) == Frame(1770123456789, None, [Closing()])


@both
def test_our_requests_are_the_documented_ones(room: str, dialect: Dialect) -> None:
    documented = recorded("binance/ws_control_docs.json")
    ours = json.loads(dialect.subscribe(["BTCUSDT", "ETHUSDT"])[0].frame)
    assert ours | {"id": 1} == documented["subscribe"]
    ours = json.loads(dialect.unsubscribe(["BTCUSDT"])[0])
    assert ours | {"id": 312} == documented["unsubscribe"]


def test_real_rest_candles_of_an_hour() -> None:
    rows = BINANCE.read_candles(body("binance/rest_klines_1h_real.json"))
    hour = Timeframe.H1.ms
    assert [row.open_time for row in rows] == [1672984800000 + n * hour for n in range(3)]
    assert rows[0] == Row(1672984800000, 16809.74, 16816.45, 16779.96, 16786.86, 6529.22759)


def test_the_documented_rest_candle() -> None:
    (row,) = BINANCE.read_candles(body("binance/rest_klines_response.json"))
    assert row == Row(1499040000000, 0.0163479, 0.8, 0.015758, 0.015771, 148976.11427815)


def test_products_of_binance_with_the_documented_statistics() -> None:
    # The recorded reply is of one symbol; asked for all, as we do, it is a list of such.
    tickers = json.dumps([recorded("binance/rest_ticker_24hr_response.json")]).encode()
    listing = body("binance/rest_exchangeInfo_trimmed_real.json")
    products = {p.symbol: p for p in BINANCE.read_products([listing, tickers])}
    assert list(products) == ["ETH-BTC", "BNB-BTC", "BTC-USDT", "ETH-USDT", "BTC-USDC"]
    assert products["BNB-BTC"] == Product(
        "BNB-BTC", "BNBBTC", "BNB", "BTC", price=4.000002, quote_volume=15.3
    )
    assert products["BTC-USDT"].price is None, "nothing was told of it"
    assert all(p.tradable for p in products.values())


def test_products_of_binance_us_have_dollars_of_two_kinds() -> None:
    listing = body("binanceus/rest_exchangeInfo_trimmed_real.json")
    traded = {"BTCUSD": 5e6, "BTCUSDT": 9e6, "ETHUSDT": 4e6}
    tickers = [
        {"symbol": native, "lastPrice": "2", "quoteVolume": str(volume)}
        for native, volume in traded.items()
    ]
    products = BINANCE_US.read_products([listing, json.dumps(tickers).encode()])
    assert [(p.symbol, p.native) for p in products] == [
        ("BTC-USD", "BTCUSD"),
        ("BTC-USDT", "BTCUSDT"),
        ("ETH-USDT", "ETHUSDT"),
        ("ETH-BTC", "ETHBTC"),
        ("BNB-BTC", "BNBBTC"),
        ("BTC-USDC", "BTCUSDC"),
    ]
    assert [p.symbol for p in top(products, 9)] == ["BTC-USD", "ETH-USDT"]


def test_rest_time() -> None:
    assert BINANCE.read_time(body("binance/rest_server_time_response.json")) == 1499827319559


@both
def test_rest_errors(room: str, dialect: Dialect) -> None:
    kinds: dict[tuple[int, int], type[LivermoreError]] = {
        (400, -1121): UnknownSymbol,
        (400, -1120): RestError,
        (429, -1003): RateLimited,
        (418, -1003): RateLimited,
        (400, -1021): RestError,
        (451, 0): Refused,
    }
    errors = recorded("binance/rest_errors.json")
    assert {(error["status"], error["body"]["code"]) for error in errors} == set(kinds)
    for error in errors:
        headers = {name.lower(): value for name, value in error.get("headers", {}).items()}
        status, said = error["status"], error["body"]
        meant = dialect.refusal(status, headers, json.dumps(said).encode())
        assert type(meant) is kinds[status, said["code"]]
        assert f"{dialect.name}: {status}" in str(meant)
        assert "\n" not in str(meant)
        assert said["msg"][:60] in str(meant)
        if isinstance(meant, RateLimited):
            assert meant.wait == float(headers["retry-after"])
            used = headers.get("x-mbx-used-weight-1m")
            assert dialect.used_weight(headers) == (int(used) if used else None)


def test_no_recording_is_left_out() -> None:
    source = Path(__file__).read_text()
    left_out = {
        f"{room}/{path.name}"
        for room in ROOMS
        for path in (FRAMES / room).glob("*.json")
        if f'"{room}/{path.name}"' not in source and f'"{path.name}"' not in source
    }
    assert not left_out - UNREAD


@both
def test_replies_to_other_questions_are_refused(room: str, dialect: Dialect) -> None:
    for name in sorted(UNREAD):
        for read_reply in (
            dialect.read_candles,
            dialect.read_time,
            lambda reply: dialect.read_products([reply, b"[]"]),
        ):
            with pytest.raises(LivermoreError, match=f"{dialect.name}: unreadable"):
                read_reply(body(name))
