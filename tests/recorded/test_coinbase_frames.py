"""Every recorded Coinbase frame and reply, read in place.

They are data of others and not part of the project; where they are absent these tests are skipped.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from livermore.errors import LivermoreError, RateLimited, Refused, RestError, UnknownSymbol
from livermore.exchanges.coinbase import COINBASE
from livermore.market.candle import Candle, Series
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
from livermore.market.product import resolve, top
from livermore.market.timeframe import Timeframe

ROOM = Path(__file__).resolve().parents[2].parent / "shared" / "frames" / "coinbase"

pytestmark = pytest.mark.skipif(
    not ROOM.is_dir(), reason=f"NO RECORDED FRAMES: {ROOM} is absent, nothing real is tested"
)

UNREAD = {"rest_accounts.json", "rest_transaction_summary.json", "rest_ticker.json"}
"""Replies to questions we do not ask."""

FIVE_MINUTES = Timeframe.M5.ms


def recorded(name: str) -> Any:
    return json.loads((ROOM / name).read_text())


def read(frame: object) -> Frame:
    """``frame`` read as it would come: text without spaces; also from bytes and indented."""
    text = json.dumps(frame, separators=(",", ":"))
    understood = COINBASE.read(text)
    assert COINBASE.read(json.dumps(frame, indent=1).encode()) == understood
    assert understood.malformed == 0
    return understood


def as_candle(sample: Sample) -> Candle:
    series = Series("coinbase", sample.native, Timeframe.M5)
    values = (sample.open, sample.high, sample.low, sample.close, sample.volume)
    return Candle(series, sample.open_time, *values)


def envelope(event: object) -> dict[str, object]:
    """What the capturer dropped."""
    return {
        "channel": "candles",
        "client_id": "",
        "timestamp": "2026-01-22T14:52:33.7839057Z",
        "sequence_num": 9,
        "events": [event],
    }


def test_candles_fixture() -> None:
    sample = Sample("BTC-USD", 1775521800_000, 68900.0, 68950.0, 68850.0, 68920.5, 42.15)
    assert read(recorded("ws_candles_nautilus.json")) == Frame(1775572205000, 3, [sample])


def test_snapshot_with_holes() -> None:
    raw = recorded("ws_candles_snapshot_SYNTH.json")
    rows = raw["events"][0]["candles"]
    understood = read(raw)
    assert understood.stamp == 1769170089123
    assert understood.sequence == 0
    samples = [e for e in understood.events if isinstance(e, Sample)]
    assert len(samples) == len(understood.events) == len(rows)
    assert all(s.snapshot and not s.closed and s.native == "BTC-USD" for s in samples)
    times = [s.open_time for s in samples]
    assert times == sorted(int(row["start"]) * 1000 for row in rows)
    assert (times[-1] - times[0]) // FIVE_MINUTES + 1 > len(times)  # the holes
    assert times[-1] == Timeframe.M5.floor(understood.stamp)  # the newest row is the running slot
    assert [as_candle(s).open_time for s in samples] == times


def test_newest_candles_of_86_real_snapshots() -> None:
    coverage = recorded("ws_candles_snapshot_coverage_real.json")
    assert len(coverage) == 86
    for native, summary in coverage.items():
        row = summary["newest_candle"]
        (sample,) = read(envelope({"type": "snapshot", "candles": [row]})).events
        assert isinstance(sample, Sample)
        assert (sample.native, sample.snapshot) == (native, True)
        assert sample.open_time == int(summary["newest_start"]) * 1000
        assert as_candle(sample).volume == float(row["volume"])
        # Holes in liquid markets too: why a snapshot is never history.
        oldest = int(summary["oldest_start"]) * 1000
        assert summary["candle_count"] <= 100
        assert (sample.open_time - oldest) // FIVE_MINUTES + 1 == summary["slots_spanned"]


def test_real_snapshots_do_not_all_end_with_the_running_slot() -> None:
    coverage = recorded("ws_candles_snapshot_coverage_real.json").values()
    newest = [int(summary["newest_start"]) for summary in coverage]
    assert 0 < sum(start < max(newest) for start in newest) < len(newest)


def test_real_updates_carry_one_candle_of_one_product() -> None:
    entries = recorded("ws_candles_update_events_real.json")
    assert entries
    for entry in entries:
        row = entry["event"]["candles"][0]
        (sample,) = read(envelope(entry["event"])).events
        assert isinstance(sample, Sample)
        assert not sample.snapshot
        assert sample.native == row["product_id"]
        assert sample.open_time == 1769093400_000
        values = (sample.open, sample.high, sample.low, sample.close, sample.volume)
        assert values == tuple(
            float(row[key]) for key in ("open", "high", "low", "close", "volume")
        )
        assert as_candle(sample).close_time == sample.open_time + FIVE_MINUTES


def test_an_alias_is_answered_under_the_name_of_its_market() -> None:
    recording = recorded("ws_candles_alias_SYNTH.json")
    candles = next(
        s for s in COINBASE.subscribe(recording["request"]["product_ids"]) if s.channel == "candles"
    )
    assert json.loads(candles.frame) == recording["request"]
    (sample,) = read(recording["reply_frame"]).events
    assert isinstance(sample, Sample)
    assert sample.native == "BTC-USD"


def test_heartbeats_fixture() -> None:
    understood = read(recorded("ws_heartbeats_nautilus.json"))
    assert understood == Frame(1775572210000, 0, [Heartbeat(42)])


def test_real_heartbeats_repeat_their_counter() -> None:
    first, second = (read(frame) for frame in recorded("ws_heartbeats_real.json"))
    assert first == Frame(1698072193362, 150, [Heartbeat(14191)])
    assert second == Frame(1698072193362, 158, [Heartbeat(14191)])


def test_trades() -> None:
    assert read(recorded("ws_market_trades_nautilus.json")) == Frame(
        1775572202789,
        5,
        [
            Trades(
                "BTC-USD",
                [
                    Trade(995098700, 68900.5, Decimal("0.00150000"), 1775572202789),
                    Trade(995098701, 68900.0, Decimal("0.05000000"), 1775572202800),
                ],
            )
        ],
    )


def test_trades_in_the_order_of_rest() -> None:
    rows = recorded("rest_ticker.json")["trades"]
    event = {"type": "snapshot", "trades": rows}
    (trades,) = read(envelope(event) | {"channel": "market_trades"}).events
    assert isinstance(trades, Trades)
    assert trades.snapshot
    assert [t.trade_id for t in trades.trades] == [995098661, 995098662, 995098663]
    times = [t.time for t in trades.trades]
    assert times == sorted(times)


def test_ticker() -> None:
    ticker = Ticker(
        "BTC-USD", 68900.5, 1775572203000, 68900.0, 68901.0, 15328.12345678, snapshot=True
    )
    assert read(recorded("ws_ticker_nautilus.json")) == Frame(1775572203000, 12, [ticker])


def test_acknowledgements() -> None:
    channels = {
        "level2": frozenset({"BTC-USD"}),
        "market_trades": frozenset({"BTC-USD", "ETH-USD"}),
    }
    assert read(recorded("ws_subscriptions_nautilus.json")) == Frame(
        1775572200000, 0, [Acknowledged(channels)]
    )


def test_the_real_acknowledgement_after_the_last_unsubscription() -> None:
    assert read(recorded("ws_unsubscribe_ack_real.json")) == Frame(
        1757955769901, 3, [Acknowledged({})]
    )


def test_errors_have_neither_stamp_nor_number() -> None:
    assert [read(frame) for frame in recorded("ws_errors.json")] == [
        Frame(None, None, [Rejected("authentication failure")]),
        Frame(None, None, [Rejected("rate limit exceeded")]),
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ws_status_docs.json", Frame(1675974589753, 0, [Unknown("status")])),
        ("ws_user_nautilus.json", Frame(1775572206000, 1, [Unknown("user")])),
    ],
)
def test_channels_we_do_not_use(name: str, expected: Frame) -> None:
    assert read(recorded(name)) == expected


def test_our_requests_are_what_real_clients_send() -> None:
    real = recorded("ws_client_requests.json")
    heartbeats, candles, *_ = COINBASE.subscribe(["BTC-USD", "ETH-USD"])
    assert json.loads(candles.frame) == real[0]
    assert json.loads(heartbeats.frame) == real[1]
    assert json.loads(COINBASE.unsubscribe(["BTC-USD"])[0]) == real[4]


def body(name: str) -> bytes:
    return (ROOM / name).read_bytes()


def test_rest_candles_come_newest_first_and_leave_ascending() -> None:
    rows = COINBASE.read_candles(body("rest_candles.json"))
    assert [row.open_time for row in rows] == [1712188800_000, 1712192400_000]
    assert (rows[0].open, rows[0].high, rows[0].low) == (65984.18, 66387.77, 65857.35)
    assert (rows[0].close, rows[0].volume) == (66314.59, 358.74851052)


def test_rest_products() -> None:
    usd, usdc = COINBASE.read_products([body("rest_products.json")])
    assert (usd.symbol, usd.base, usd.quote) == ("BTC-USD", "BTC", "USD")
    assert (usd.tradable, usd.alias, usd.price) == (True, None, 68925.98)
    assert usd.quote_volume == 758532193.02
    assert (usdc.symbol, usdc.alias) == ("BTC-USDC", "BTC-USD")
    assert top([usd, usdc], 5) == (usd,)
    assert resolve([usd, usdc], ["BTC-USDC"]).products == (usd,)


def test_a_single_product_has_the_shape_of_the_list() -> None:
    rows = json.dumps({"products": [recorded("rest_product.json")], "num_products": "1"})
    (product,) = COINBASE.read_products([rows.encode()])
    assert (product.symbol, product.price, product.tradable) == ("BTC-USD", 68923.67, True)


def test_rest_time() -> None:
    assert COINBASE.read_time(body("rest_time.json")) == 1709005034333


def test_rest_errors() -> None:
    kinds: dict[int, type[LivermoreError]] = {
        429: RateLimited,
        400: RestError,
        404: UnknownSymbol,
        401: Refused,
        403: Refused,
    }
    errors = recorded("rest_errors.json")
    assert {error["status"] for error in errors} == set(kinds)
    for error in errors:
        raw = error["body_text"] if "body_text" in error else json.dumps(error["body"])
        meant = COINBASE.refusal(error["status"], {}, raw.encode())
        assert type(meant) is kinds[error["status"]]
        assert str(error["status"]) in str(meant)
        assert "\n" not in str(meant)
        words = error.get("body_text") or error["body"].get("message") or "Too many requests"
        assert words.strip() in str(meant)


def test_no_recording_is_left_out() -> None:
    source = Path(__file__).read_text()
    left_out = {path.name for path in ROOM.glob("*.json") if f'"{path.name}"' not in source}
    assert not left_out - UNREAD


@pytest.mark.parametrize(
    "read_reply", [COINBASE.read_candles, lambda reply: COINBASE.read_products([reply])]
)
def test_replies_to_other_questions_are_refused(read_reply: Callable[[bytes], object]) -> None:
    for name in sorted(UNREAD):
        with pytest.raises(LivermoreError, match="coinbase: unreadable"):
            read_reply(body(name))
