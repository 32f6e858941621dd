"""The simulated Coinbase keeps to what is known of the real one."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_websocket import ConnectionClosed, ConnectionRejected

from livermore.simulator import Limits
from livermore.simulator.slots import SLOT
from livermore.simulator.trades import NS
from tests.simulator.exchange_client import START, client, port_of, rest, rows, simulated

CANDLES = "/api/v3/brokerage/market/products/{}/candles"


async def candles(http, symbol="BTC-USD", **query) -> Any:
    query.setdefault("granularity", "FIVE_MINUTE")
    return await http.get(CANDLES.format(symbol), params=query)


# --- websocket


async def test_one_sequence_runs_through_all_channels_of_a_connection():
    async with simulated(speed=20) as simulator, client(simulator) as one:
        await one.subscribe("heartbeats")
        await one.subscribe("candles", "BTC-USD", "ETH-USD")
        await one.subscribe("market_trades", "BTC-USD")
        await one.subscribe("ticker", "BTC-USD")
        await one.listen(1.0)
        assert [f["sequence_num"] for f in one.frames] == list(range(len(one.frames)))
        heard = {f["channel"] for f in one.frames}
        assert heard == {"subscriptions", "heartbeats", "candles", "market_trades", "ticker"}
        assert all(f["client_id"] == "" for f in one.frames)
        stamp = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")
        assert all(stamp.fullmatch(f["timestamp"]) for f in one.frames)
        stamps = [f["timestamp"] for f in one.frames]
        assert stamps == sorted(stamps)
        async with client(simulator) as other:
            await other.subscribe("heartbeats")
            assert (await other.hear())["sequence_num"] == 0


async def test_acks_show_the_cumulative_state_down_to_nothing():
    async with simulated() as simulator, client(simulator) as one:
        await one.subscribe("candles", "BTC-USD", "NOPE-USD")
        state = (await one.of("subscriptions"))["events"][0]["subscriptions"]
        assert state == {"candles": ["BTC-USD"]}
        await one.subscribe("candles", "ETH-USD")
        await one.of("subscriptions")
        await one.say("subscribe", "heartbeats", product_ids=[])
        state = (await one.of("subscriptions"))["events"][0]["subscriptions"]
        assert state == {"candles": ["BTC-USD", "ETH-USD"], "heartbeats": ["heartbeats"]}
        await one.say("unsubscribe", "candles", "BTC-USD")
        state = (await one.of("subscriptions"))["events"][0]["subscriptions"]
        assert state["candles"] == ["ETH-USD"]
        await one.say("unsubscribe", "candles")
        await one.of("subscriptions")
        await one.say("unsubscribe", "heartbeats")
        state = (await one.of("subscriptions"))["events"][0]["subscriptions"]
        assert state == {}


async def test_unsubscribed_channels_fall_silent():
    async with simulated(speed=20) as simulator, client(simulator) as one:
        await one.subscribe("market_trades", "BTC-USD")
        await one.of("market_trades", "update")
        await one.say("unsubscribe", "market_trades", "BTC-USD")
        await one.of("subscriptions")
        assert await one.listen(0.3) == []


async def test_candle_snapshots_have_holes_and_are_sometimes_stale():
    stale, filled = 0, 0.0
    for seed in range(12):
        async with simulated(seed=seed) as simulator, client(simulator) as one:
            await one.subscribe("candles", "BTC-USD")
            event = (await one.of("candles", "snapshot"))["events"][0]
            starts = [int(row["start"]) for row in event["candles"]]
            assert starts == sorted(starts, reverse=True), "newest first"
            assert len(starts) == len(set(starts)) == 100
            assert all(isinstance(v, str) for row in event["candles"] for v in row.values())
            assert {row["product_id"] for row in event["candles"]} == {"BTC-USD"}
            filled += 100 / ((starts[0] - starts[-1]) / 300 + 1)
            stale += starts[0] * 1000 != START // SLOT * SLOT
    assert 0.52 < filled / 12 < 0.72
    assert 1 <= stale <= 8


async def test_snapshot_rows_are_true_candles():
    async with simulated() as simulator, client(simulator) as one, rest(simulator) as http:
        await one.subscribe("candles", "ETH-USD")
        event = (await one.of("candles", "snapshot"))["events"][0]
        reply = await http.get("/control/truth", params={"symbol": "ETH-USD", "timeframe": "5m"})
        truth = {c["open_time"]: c for c in reply.json()["candles"]}
        for row in event["candles"]:
            at = int(row["start"]) * 1000
            if at != START // SLOT * SLOT:
                assert {k: float(row[k]) for k in ("open", "high", "low", "close", "volume")} == {
                    k: truth[at][k] for k in ("open", "high", "low", "close", "volume")
                }


async def test_trades_are_contiguous_from_the_snapshot_on_and_newest_first():
    async with simulated(speed=300) as simulator, client(simulator) as one:
        await one.subscribe("market_trades", "BTC-USD", "SOL-USD")
        await one.listen(0.4)
        async with client(simulator) as late:  # joins symbols others hear already
            await late.subscribe("market_trades", "BTC-USD", "SOL-USD")
            await late.listen(1.2)
        for heard in (one, late):
            for symbol in ("BTC-USD", "SOL-USD"):
                ids = []
                for frame in heard.frames:
                    for event in frame["events"] if frame["channel"] == "market_trades" else ():
                        trades = [t for t in event["trades"] if t["product_id"] == symbol]
                        ids += [int(t["trade_id"]) for t in reversed(trades)]
                assert len(ids) > 100
                assert ids == list(range(ids[0], ids[0] + len(ids)))
        crossed = {int(r["time"][14:16]) // 5 for r in rows(late.frames, "market_trades", "trades")}
        assert len(crossed) > 1, "the test must see a slot end"


async def test_trades_sum_to_the_truth():
    async with simulated(speed=600) as simulator, client(simulator) as one, rest(simulator) as http:
        await one.subscribe("market_trades", "ETH-USD")
        end = (START // SLOT + 2) * SLOT
        while simulator.clock.now() // NS < end + 5_000:
            await one.listen(0.2)
        listing = simulator.market.listing("ETH-USD")
        trades = simulator.market.tape("ETH-USD").trades(START // SLOT + 1)
        ids = range(trades.first_id, trades.first_id + len(trades))
        told = [t for t in rows(one.frames, "market_trades", "trades") if int(t["trade_id"]) in ids]
        assert len(told) == len(trades)
        reply = await http.get("/control/truth", params={"symbol": "ETH-USD", "timeframe": "5m"})
        truth = next(c for c in reply.json()["candles"] if c["open_time"] == end - SLOT)
        prices = [float(t["price"]) for t in told]
        assert (max(prices), min(prices)) == (truth["high"], truth["low"])
        units = sum(round(float(t["size"]) * listing.unit) for t in told)
        assert units / listing.unit == truth["volume"]
        assert {t["side"] for t in told} == {"BUY", "SELL"}


async def test_candles_are_late_samples_at_ten_second_marks():
    async with simulated(speed=300) as simulator, client(simulator) as one:
        await one.subscribe("candles", "BTC-USD")
        await one.listen(1.4)
        market = simulator.market
        whole = 0
        for frame in one.frames:
            if frame["channel"] != "candles" or frame["events"][0]["type"] != "update":
                continue
            (row,) = frame["events"][0]["candles"]
            second = int(frame["timestamp"][17:19]) + float("0" + frame["timestamp"][19:29])
            late = second % 10
            if 6.64 <= late <= 6.82:
                whole += 1
                minute = int(frame["timestamp"][14:16])
                slot = int(row["start"]) // 300
                at = slot * 300 + (minute % 5) * 60 + int(second - late)
                if minute % 5 == 0 and second < 10:
                    at += 300  # the last sample of the slot before
                state = market.partial("BTC-USD", slot, at * 1_000 * NS)
                assert row["close"] == f"{state.close / 100:.2f}".rstrip("0").rstrip(".")
                assert round(float(row["volume"]) * 10**8) == state.volume
        assert whole > 25


async def test_heartbeats_count_once_per_simulated_second():
    async with simulated(speed=30) as simulator, client(simulator) as one:
        await one.say("subscribe", "heartbeats")
        await one.listen(1.0)
        beats = [f["events"][0] for f in one.frames if f["channel"] == "heartbeats"]
        counters = [b["heartbeat_counter"] for b in beats]
        assert 20 <= len(beats) <= 40
        assert counters == list(range(counters[0], counters[0] + len(counters)))
        go = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{9} \+0000 UTC m=\+\d+\.\d+")
        assert all(go.fullmatch(b["current_time"]) for b in beats)


async def test_heartbeats_with_products_come_once_per_product():
    async with simulated(speed=30) as simulator, client(simulator) as one:
        await one.subscribe("heartbeats", "BTC-USD", "ETH-USD")
        await one.listen(0.5)
        beats = [f["events"][0] for f in one.frames if f["channel"] == "heartbeats"]
        counters = [b["heartbeat_counter"] for b in beats]
        del counters[len(counters) // 2 * 2 :]  # we stopped listening between two
        assert counters == sorted([*range(counters[0], counters[-1] + 1)] * 2)


async def test_usdc_products_speak_under_their_dollar_name_but_for_two():
    async with simulated(speed=30) as simulator, client(simulator) as one:
        await one.subscribe("candles", "BTC-USDC", "ETH-USDC", "USDT-USDC", "EURC-USDC")
        ack = await one.hear()
        assert ack["events"][0]["subscriptions"]["candles"][0] == "BTC-USDC"
        await one.listen(1.0)
        ids = {row["product_id"] for row in rows(one.frames, "candles", "candles")}
        assert ids == {"BTC-USD", "ETH-USD", "USDT-USDC", "EURC-USDC"}


async def test_asking_for_both_names_brings_one_frame():
    async with simulated(speed=30) as simulator, client(simulator) as one:
        await one.subscribe("candles", "BTC-USDC", "BTC-USD")
        await one.listen(0.5)
        snapshots = rows(one.frames, "candles", "candles", "snapshot")
        assert len(snapshots) == 100
        await one.say("unsubscribe", "candles", "BTC-USDC")
        await one.of("subscriptions")
        assert await one.of("candles", "update"), "the other name still stands"


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ('{"type":"subscribe","channel":"orders","product_ids":["BTC-USD"]}', "not supported"),
        ('{"type":"shout","channel":"candles","product_ids":["BTC-USD"]}', "not supported"),
        ('{"type":"subscribe","channel":"candles"}', "product_ids"),
        ('{"type":"subscribe","channel":"candles","product_ids":["NOPE-USD"]}', "NOPE-USD"),
        ("}{", "parse"),
        ('{"type":"subscribe"}', "parse"),
    ],
)
async def test_errors_have_neither_channel_nor_sequence(said, text):
    async with simulated() as simulator, client(simulator) as one:
        await one.socket.send_message(said)
        frame = await one.hear()
        assert set(frame) == {"type", "message"}
        assert frame["type"] == "error"
        assert text in frame["message"]
        await one.subscribe("heartbeats")
        assert (await one.hear())["sequence_num"] == 0, "an error takes no number"


async def test_a_ninth_message_within_a_second_is_refused():
    async with simulated(limits=Limits()) as simulator, client(simulator) as one:
        for symbol in simulator.market.followed[:8]:
            await one.subscribe("candles", symbol)
        await one.subscribe("candles", "DAI-USD")
        refused = await one.until(lambda f: "channel" not in f)
        assert refused["message"] == "rate limit exceeded"
        assert simulator.stats.rejected_messages == 1
        await trio.sleep(1.05)
        await one.subscribe("candles", "DAI-USD")
        await one.until(
            lambda f: "DAI-USD" in f["events"][0].get("subscriptions", {}).get("candles", ())
        )


async def test_who_does_not_subscribe_is_dropped():
    limits = Limits(subscribe_within=0.2)
    async with simulated(limits=limits) as simulator, client(simulator) as one:
        with pytest.raises(ConnectionClosed), trio.fail_after(2):
            await one.socket.get_message()
        async with client(simulator) as other:
            await other.subscribe("heartbeats")
            await trio.sleep(0.4)
            assert await other.hear()
            assert simulator.stats.connections == 1


async def test_connections_beyond_the_rate_are_turned_away():
    async with simulated(limits=Limits(connections=2)) as simulator:
        async with client(simulator), client(simulator):
            with pytest.RaisesGroup(ConnectionRejected, flatten_subgroups=True):
                async with client(simulator):
                    pass
        assert simulator.stats.refused == 1


async def test_ticker_moves_with_every_trade():
    async with simulated(speed=5) as simulator, client(simulator) as one:
        await one.subscribe("ticker", "BTC-USD")
        await one.subscribe("market_trades", "BTC-USD")
        await one.listen(1.0)
        told = rows(one.frames, "ticker", "tickers", "update")
        traded = rows(one.frames, "market_trades", "trades", "update")
        assert abs(len(told) - len(traded)) < 25
        prices = {t["price"] for t in told}
        assert {t["price"] for t in traded[:5]} <= prices
        for row in told:
            assert float(row["low_52_w"]) <= float(row["low_24_h"]) <= float(row["price"])
            assert float(row["price"]) <= float(row["high_24_h"]) <= float(row["high_52_w"])
            assert float(row["best_bid"]) < float(row["best_ask"])


async def test_ticker_batch_has_no_book_and_status_lists_products():
    async with simulated(speed=60) as simulator, client(simulator) as one:
        await one.subscribe("ticker_batch", "BTC-USD")
        frame = await one.of("ticker_batch", "update")
        assert "best_bid" not in frame["events"][0]["tickers"][0]
        await one.subscribe("status")
        frame = await one.of("status")
        assert {"id", "base_increment", "status"} <= set(frame["events"][0]["products"][0])


async def test_a_slow_reader_loses_frames_not_our_memory():
    limits = Limits(1_000, 1_000, 1_000, outbox_bytes=40_000)
    async with simulated(speed=500, limits=limits) as simulator:
        stream = await trio.open_tcp_stream("127.0.0.1", port_of(simulator.websocket_url))
        stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
        await stream.send_all(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        said = json.dumps(
            {
                "type": "subscribe",
                "channel": "candles",
                "product_ids": simulator.market.followed,
            }
        ).encode()
        await stream.send_all(b"\x81\xfe" + len(said).to_bytes(2, "big") + bytes(4) + said)
        simulator_feed = simulator.feed
        with trio.fail_after(5):
            while not simulator.stats.dropped_frames:
                await trio.sleep(0.02)
                for socket in simulator_feed.sockets:
                    socket.say(b"x" * 20_000)
        await stream.aclose()


# --- REST


async def test_rest_candles_are_strings_newest_first_without_empty_rows():
    async with simulated() as simulator, rest(simulator) as http:
        end = START // 1000
        reply = await candles(http, "USDT-USDC", start=end - 300 * 299, end=end)
        body = reply.json()["candles"]
        assert set(body[0]) == {"start", "low", "high", "open", "close", "volume"}
        assert all(isinstance(value, str) for row in body for value in row.values())
        starts = [int(row["start"]) for row in body]
        assert starts == sorted(starts, reverse=True)
        quiet = (await candles(http, "DAI-USD", start=end - 300 * 299, end=end)).json()["candles"]
        assert 20 < len(quiet) < 295
        assert reply.headers["cache-control"] == "public, max-age=14400"


@pytest.mark.parametrize(
    ("granularity", "timeframe", "seconds"),
    [
        ("FIVE_MINUTE", "5m", 300),
        ("FIFTEEN_MINUTE", "15m", 900),
        ("ONE_HOUR", "1h", 3600),
        ("FOUR_HOUR", "4h", 14400),
        ("ONE_DAY", "1d", 86400),
    ],
)
async def test_rest_rows_are_the_truth(granularity, timeframe, seconds):
    async with simulated() as simulator, rest(simulator) as http:
        last = (START // 1000) // seconds * seconds - seconds
        reply = await candles(
            http, "DAI-USD", granularity=granularity, start=last - 99 * seconds, end=last
        )
        truth = await http.get(
            "/control/truth",
            params={
                "symbol": "DAI-USD",
                "timeframe": timeframe,
                "since": (last - 99 * seconds) * 1000,
            },
        )
        told = {int(row["start"]) * 1000: row for row in reply.json()["candles"]}
        true = {c["open_time"]: c for c in truth.json()["candles"] if c["kind"] == "traded"}
        assert told.keys() == true.keys()
        assert told
        for at, row in told.items():
            for name in ("open", "high", "low", "close", "volume"):
                assert float(row[name]) == true[at][name]


async def test_both_paths_answer_and_a_body_with_a_get_does_no_harm():
    async with simulated() as simulator, rest(simulator) as http:
        for path in (
            "/api/v3/brokerage/products/BTC-USD/candles",
            "/api/v3/brokerage/market/products/BTC-USDC/candles",
        ):
            reply = await http.request(
                "GET", path, params={"granularity": "ONE_HOUR", "limit": 5}, json={}
            )
            assert len(reply.json()["candles"]) == 5


async def test_350_rows_pass_and_351_do_not():
    async with simulated() as simulator, rest(simulator) as http:
        end = START // 1000 // 300 * 300
        assert (await candles(http, start=end - 349 * 300, end=end)).status_code == 200
        reply = await candles(http, start=end - 350 * 300, end=end)
        assert reply.status_code == 400
        assert reply.json()["error"] == "INVALID_ARGUMENT"
        assert "should be less than 350" in reply.json()["message"]


async def test_without_a_range_the_newest_rows_come_with_the_running_one():
    async with simulated() as simulator, rest(simulator) as http:
        body = (await candles(http, limit=10)).json()["candles"]
        assert len(body) == 10
        assert int(body[0]["start"]) * 1000 == START // SLOT * SLOT
        assert len((await candles(http)).json()["candles"]) == 350


async def test_rest_is_a_moment_behind_and_then_right():
    async with simulated(start=START // SLOT * SLOT + SLOT - 50, speed=1) as simulator:
        at = START // SLOT * 300
        volumes = {
            symbol: simulator.market.tape(symbol).row(START // SLOT).volume
            / simulator.market.listing(symbol).unit
            for symbol in ("BTC-USD", "ETH-USD", "SOL-USD", "BTC-EUR", "USDT-USD")
        }

        async def told(http) -> dict[str, float]:
            replies = {s: (await candles(http, s, start=at, end=at)).json() for s in volumes}
            return {s: float(reply["candles"][0]["volume"]) for s, reply in replies.items()}

        async with rest(simulator) as http:
            soon = await told(http)
            assert soon != volumes
            assert all(soon[symbol] <= volumes[symbol] for symbol in volumes)
            await trio.sleep(2.1)
            assert await told(http) == volumes


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"granularity": "5m"}, 400),
        ({"start": "x"}, 400),
        ({"start": START // 1000, "end": START // 1000 - 900}, 400),
    ],
)
async def test_bad_questions_are_invalid_arguments(query, status):
    async with simulated() as simulator, rest(simulator) as http:
        reply = await candles(http, **query)
        assert reply.status_code == status
        assert reply.json()["error"] == "INVALID_ARGUMENT"


async def test_unknown_products_are_not_found():
    async with simulated() as simulator, rest(simulator) as http:
        for path in (
            "products/NOPE-USD",
            "products/NOPE-USD/candles?granularity=ONE_DAY",
            "products/NOPE-USD/ticker",
        ):
            reply = await http.get(f"/api/v3/brokerage/market/{path}")
            assert reply.status_code == 404
            assert reply.json() == {
                "error": "NOT_FOUND",
                "message": "Product NOPE-USD not supported",
            }


async def test_the_product_list_has_aliases_oddities_and_pages():
    async with simulated() as simulator, rest(simulator) as http:
        path = "/api/v3/brokerage/market/products"
        body = (await http.get(path)).json()
        found = {row["product_id"]: row for row in body["products"]}
        assert body["num_products"] == len(found)
        assert found["BTC-USDC"]["alias"] == "BTC-USD"
        assert found["BTC-USD"]["alias_to"] == ["BTC-USDC"]
        assert found["USDT-USDC"]["alias"] == ""
        assert {"USD", "USDC", "USDT", "EUR", "BTC"} <= {
            row["quote_currency_id"] for row in found.values()
        }
        assert found["VIEW-USD"]["view_only"]
        assert found["HALT-USD"]["trading_disabled"]
        assert found["OLDC-USD"]["status"] != "online"
        assert all(float(row["approximate_quote_24h_volume"]) >= 0 for row in found.values())
        page = (await http.get(path, params={"limit": 3, "offset": 2})).json()["products"]
        assert [row["product_id"] for row in page] == list(found)[2:5]
        assert (await http.get(f"{path}/ETH-USD")).json() == found["ETH-USD"]


async def test_rest_ticker_and_time():
    async with simulated() as simulator, rest(simulator) as http:
        reply = await http.get("/api/v3/brokerage/market/products/BTC-USD/ticker?limit=5")
        ids = [int(trade["trade_id"]) for trade in reply.json()["trades"]]
        assert ids == list(range(ids[0], ids[0] - 5, -1))
        told = (await http.get("/api/v3/brokerage/time")).json()
        assert 0 <= int(told["epochMillis"]) - START < 5_000
        assert set(told) == {"iso", "epochSeconds", "epochMillis"}


async def test_the_eleventh_request_within_a_second_is_refused():
    async with simulated(limits=Limits()) as simulator, rest(simulator) as http:
        replies = [await http.get("/api/v3/brokerage/time") for _ in range(11)]
        assert [r.status_code for r in replies] == [200] * 10 + [429]
        assert replies[-1].json()["errors"][0]["id"] == "rate_limit_exceeded"
        assert "retry-after" not in replies[-1].headers
        assert (await http.get("/control/now")).status_code == 200, "control is not counted"
        assert simulator.stats.rest_429 == 1
        await trio.sleep(1.05)
        assert (await http.get("/api/v3/brokerage/time")).status_code == 200


# --- control and clocks


async def test_control_tells_counts_time_and_symbols():
    async with simulated(speed=10) as simulator, rest(simulator) as http, client(simulator) as one:
        await one.subscribe("heartbeats")
        await one.of("heartbeats")
        await candles(http)
        stats = (await http.get("/control/stats")).json()
        assert stats["rest_requests"] == 1
        assert stats["paths"] == {CANDLES.format("BTC-USD"): 1}
        assert (stats["connections"], stats["connections_total"]) == (1, 1)
        assert stats["frames"] >= 2
        assert stats["client_messages"] == 1
        assert stats["now"] > START
        symbols = (await http.get("/control/symbols")).json()["symbols"]
        assert [row["symbol"] for row in symbols] == simulator.market.followed
        rates = [row["trades_per_slot"] for row in symbols]
        assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(
    "query",
    [
        {"symbol": "NOPE-USD", "timeframe": "5m"},
        {"symbol": "BTC-USD", "timeframe": "7m"},
        {"symbol": "BTC-USD"},
        {"symbol": "BTC-USD", "timeframe": "5m", "since": "soon"},
    ],
)
async def test_control_answers_nonsense_with_a_reason(query):
    async with simulated() as simulator, rest(simulator) as http:
        reply = await http.get("/control/truth", params=query)
        assert reply.status_code == 400
        assert reply.json()["error"]
        assert (await http.get("/control/nothing")).status_code == 404


async def test_truth_is_the_newest_thousand_closed_candles():
    async with simulated() as simulator, rest(simulator) as http:
        reply = await http.get("/control/truth", params={"symbol": "DAI-USD", "timeframe": "5m"})
        found = reply.json()["candles"]
        assert len(found) == 1000
        assert found[-1]["open_time"] == (START // SLOT - 1) * SLOT
        assert {candle["kind"] for candle in found} == {"traded", "empty"}
        assert all(c["volume"] == 0 for c in found if c["kind"] == "empty")


class TestOnAFastMockClock:
    @pytest.fixture
    def clock(self):
        return MockClock(rate=3)  # nothing may take more than 20 of its seconds

    async def test_simulated_time_follows_trio(self, clock):
        async with simulated(speed=2) as simulator, client(simulator) as one:
            await one.subscribe("heartbeats")
            began, now = trio.current_time(), simulator.clock.now()
            first = await one.of("heartbeats")
            while (last := await one.of("heartbeats")) and len(one.frames) < 40:
                pass
            passed = (simulator.clock.now() - now) / 1e9
            assert passed == pytest.approx((trio.current_time() - began) * 2, abs=0.5)
            beats = last["events"][0]["heartbeat_counter"] - first["events"][0]["heartbeat_counter"]
            assert beats == len([f for f in one.frames if f["channel"] == "heartbeats"]) - 1
