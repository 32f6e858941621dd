"""The simulated Binances keep to what is known of the real ones."""

from __future__ import annotations

import contextlib
import json
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import wsproto.events as ws
from trio.testing import MockClock, wait_all_tasks_blocked

from livermore.simulator import Limits, Simulator, SimulatorSettings, serve
from livermore.simulator.roster import PLAYED
from livermore.simulator.trades import NS
from tests.simulator.binance_client import START, Client, Gone, candles, client, of, rest, simulated

FRAMES = Path(__file__).parents[3] / "shared" / "frames"
BOTH = ("binance", "binance_us")
SLOT = 300_000
MINUTE = 60_000
LENGTHS = {"1m": 1, "3m": 3, "5m": 5, "15m": 15, "30m": 30, "1h": 60, "4h": 240, "1d": 1440}


def captured(name: str) -> Any:
    path = FRAMES / name
    if not path.exists():
        pytest.skip(f"{path} is absent: the shape of real frames is NOT compared")
    return json.loads(path.read_text())


def shape(value: Any) -> Any:
    """Names and kinds of values, without the values."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    return type(value).__name__


def places(text: str) -> int:
    return len(text.partition(".")[2])


def quote(exchange: str) -> str:
    return "USDT" if exchange == "binance" else "USD"


# --- where and how one connects


async def test_a_path_decides_between_raw_and_combined_frames():
    async with simulated(speed=60) as simulator:
        for path, wrapped in (
            ("/ws/btcusdt@kline_5m", False),
            ("/ws/btcusdt%40kline_5m", False),
            ("/ws/ethusdt@ticker/btcusdt@kline_5m", False),
            ("/stream?streams=btcusdt@kline_5m", True),
            ("/stream?streams=ethusdt@ticker/btcusdt%40kline_5m", True),
        ):
            async with client(simulator, path) as one:
                frame = await one.until(lambda f: "kline" in json.dumps(f))
                assert ("stream" in frame) is wrapped, path
                data = frame["data"] if wrapped else frame
                assert (data["e"], data["s"], data["k"]["i"]) == ("kline", "BTCUSDT", "5m")
        for path in ("/ws", "/ws/0", "/ws/17", "/stream"):
            async with client(simulator, path) as one:
                await one.subscribe("btcusdt@kline_5m")
                frame = await one.hear()
                assert ("stream" in frame) is (path == "/stream"), path


async def test_other_paths_are_refused():
    async with simulated() as simulator:
        for path in ("/", "/wss", "/market", "/streams"):
            async with client(simulator, path) as one:
                assert one.status == 404
        assert simulator.stats.refused == 4
        assert simulator.stats.connections_total == 0


async def test_a_connection_without_a_subscription_may_stay_unless_it_is_told_otherwise():
    limits = Limits(subscribe_within=0.1)
    async with simulated(limits=limits) as simulator, client(simulator) as one:
        assert await one.end() == 1008
    assert PLAYED["binance"].limits.subscribe_within == float("inf")


# --- control messages


@pytest.mark.parametrize("number", [0, 1, -5, 2**62, "a1b2", "0d3c44be-29a4-4a1c-9a0b", None])
async def test_ids_are_echoed_as_they_came(number):
    async with simulated() as simulator, client(simulator) as one:
        answer = await one.ask("SUBSCRIBE", "btcusdt@kline_5m", id=number)
        assert answer == {"result": None, "id": number}
        assert isinstance(answer["id"], type(number))


@pytest.mark.parametrize("number", [True, 1.5, 2**63, "x" * 37, "ä", "", {}, []])
async def test_other_ids_are_refused(number):
    async with simulated() as simulator, client(simulator) as one:
        answer = await one.ask("SUBSCRIBE", "btcusdt@kline_5m", id=number)
        assert answer["code"] == 2
        assert "result" not in answer


async def test_binance_us_wants_unsigned_whole_numbers():
    async with simulated("binance_us") as simulator, client(simulator) as one:
        for number in ("a1", None, -1):
            answer = await one.ask("SUBSCRIBE", "btcusd@kline_5m", id=number)
            assert answer == {
                "code": 2,
                "msg": "Invalid request: request ID must be an unsigned integer",
            }
            await trio.sleep(0.25)
        assert await one.ask("SUBSCRIBE", "btcusd@kline_5m", id=7) == {"result": None, "id": 7}


async def test_what_is_no_request_is_answered_with_a_code():
    async with simulated() as simulator, client(simulator) as one:
        for said, code, text in (
            ("{", 3, "Invalid JSON"),
            ("[1]", 2, "Invalid request"),
            ('{"id":1}', 2, "missing field `method`"),
            ('{"method":"SHOUT","id":1}', 2, "unknown variant `SHOUT`"),
            ('{"method":"SUBSCRIBE","params":7,"id":1}', 2, "params"),
            ('{"method":"SUBSCRIBE","params":[7],"id":1}', 2, "names"),
            ('{"method":"SET_PROPERTY","params":[true],"id":1}', 2, "property name"),
            ('{"method":"SET_PROPERTY","params":["tea",true],"id":1}', 0, "Unknown property"),
            ('{"method":"GET_PROPERTY","params":["tea"],"id":1}', 0, "Unknown property"),
            ('{"method":"SET_PROPERTY","params":["combined",1],"id":1}', 1, "expected Boolean"),
        ):
            await one.say(said)
            answer = await one.hear()
            assert answer["code"] == code, said
            assert text in answer["msg"]
            assert answer.get("id", 1) == 1
            await trio.sleep(0.21)  # five a second
        assert simulator.stats.over_rate == 0


async def test_streams_that_do_not_exist_are_acked_and_stay_silent():
    odd = ("nopeusdt@kline_5m", "btcusdt@tea", "BTCUSDT@kline_5m", "btcusdt@kline_7m", "tea")
    async with simulated(speed=60) as simulator, client(simulator) as one:
        await one.subscribe(*odd)
        listed = await one.ask("LIST_SUBSCRIPTIONS", id=2)
        assert sorted(listed["result"]) == sorted(odd)
        assert await one.listen(0.5) == []


async def test_subscriptions_are_listed_and_what_is_unsubscribed_falls_silent():
    async with simulated(speed=60) as simulator, client(simulator) as one:
        await one.subscribe("btcusdt@kline_5m", "ethusdt@kline_5m")
        await one.until(of("btcusdt@kline_5m"))
        answer = await one.ask("UNSUBSCRIBE", "btcusdt@kline_5m", id=312)
        assert answer == {"result": None, "id": 312}
        listed = await one.ask("LIST_SUBSCRIPTIONS", id=3)
        assert listed == {"result": ["ethusdt@kline_5m"], "id": 3}
        heard = await one.listen(1.0)
        assert {frame["stream"] for frame in heard} == {"ethusdt@kline_5m"}


async def test_the_form_of_frames_can_be_changed():
    async with simulated(speed=60) as simulator, client(simulator, "/ws") as one:
        assert (await one.ask("GET_PROPERTY", "combined"))["result"] is False
        await one.subscribe("btcusdt@kline_5m")
        assert "stream" not in await one.hear()
        assert (await one.ask("SET_PROPERTY", "combined", True))["result"] is None
        assert (await one.ask("GET_PROPERTY", "combined"))["result"] is True
        assert "stream" in await one.hear()


# --- limits


async def test_a_connection_has_at_most_1024_streams():
    names = [f"s{n}usdt@kline_5m" for n in range(1_024)]
    async with simulated() as simulator, client(simulator) as one:
        await one.subscribe(*names[:1_000])
        await one.subscribe(*names[:1_024])
        answer = await one.ask("SUBSCRIBE", "btcusdt@kline_5m", id=9)
        assert (answer["code"], answer["id"]) == (2, 9)
        assert len((await one.ask("LIST_SUBSCRIPTIONS"))["result"]) == 1_024
        assert simulator.stats.over_rate == 1


async def test_a_connection_ends_after_24_hours_of_its_clock():
    limits = PLAYED["binance"].limits
    assert limits.maximum_age == 86_400.0
    limits = Limits(maximum_age=30.0)
    async with simulated(speed=60, limits=limits) as simulator, client(simulator) as one:
        begun = simulator.clock.now()
        assert await one.end() == 1000
        assert (simulator.clock.now() - begun) / 1e9 >= 29


# --- what comes


@pytest.mark.parametrize("exchange", BOTH)
async def test_frames_have_the_shape_of_real_ones(exchange):
    folder = exchange.replace("_", "")
    kline = captured(f"{folder}/ws_kline_1m_combined_real.json")[0]["frame"]
    trade = captured(f"{folder}/ws_aggTrade_real.json")
    book = captured(f"{folder}/ws_bookTicker_real.json")
    if isinstance(trade, list):
        trade, book = trade[0]["frame"], book[0]["frame"]
    name = f"btc{quote(exchange).lower()}"
    async with simulated(exchange, speed=60) as simulator, client(simulator) as one:
        for stream, real in (("kline_1m", kline), ("aggTrade", trade), ("bookTicker", book)):
            await one.subscribe(f"{name}@{stream}")
            frame = await one.until(of(f"{name}@{stream}"))
            assert shape(frame) == shape(real), stream
            assert list(frame["data"]) == list(real["data"]), "in the same order"
            if stream == "kline_1m":
                for name_of in "ohlcvqVQ":
                    assert places(frame["data"]["k"][name_of]) == 8 or exchange == "binance_us"
            await trio.sleep(0.25)  # five messages a second


@pytest.mark.parametrize("exchange", BOTH)
async def test_a_closed_candle_is_what_rest_says_and_what_is_true(exchange):
    name = f"btc{quote(exchange).lower()}"
    async with (
        simulated(exchange, speed=300) as simulator,
        client(simulator) as one,
        rest(simulator) as http,
    ):
        await one.subscribe(f"{name}@kline_1m", f"{name}@kline_5m", f"{name}@kline_15m")
        for interval in ("1m", "5m", "15m"):
            stream = f"{name}@kline_{interval}"
            await one.until(of(stream, closed=True))
            k = candles(one.frames, stream, closed=True)[-1]
            asked = {"symbol": name.upper(), "interval": interval, "startTime": k["t"], "limit": 1}
            [row] = (await http.get("klines", params=asked)).json()
            told = [k[n] for n in ("t", "o", "h", "l", "c", "v", "T", "q", "n", "V", "Q", "B")]
            assert row == told
        reply = await http.get(
            f"{simulator.control_url}/truth",
            params={"symbol": f"BTC-{quote(exchange)}", "timeframe": "5m"},
        )
        true = {c["open_time"]: c for c in reply.json()["candles"]}
        k = candles(one.frames, f"{name}@kline_5m", closed=True)[0]
        assert [float(k[n]) for n in "ohlcv"] == [
            true[k["t"]][n] for n in ("open", "high", "low", "close", "volume")
        ]


async def test_an_id_that_is_not_ascii_is_an_id_like_any_other():
    async with simulated(speed=60) as simulator, client(simulator) as one, rest(simulator) as http:
        await one.subscribe("币安人生usdt@kline_1m")
        frame = await one.until(of("币安人生usdt@kline_1m"))
        assert frame["data"]["s"] == "币安人生USDT"
        rows = (
            await http.get("klines", params={"symbol": "币安人生USDT", "interval": "1d"})
        ).json()
        assert rows
        path = "/stream?streams=%E5%B8%81%E5%AE%89%E4%BA%BA%E7%94%9Fusdt@kline_1m"
        async with client(simulator, path) as other:
            await other.until(of("币安人生usdt@kline_1m"))


async def test_a_mini_ticker_and_a_ticker_agree():
    async with simulated(speed=60) as simulator, client(simulator) as one:
        await one.subscribe("btcusdt@ticker", "btcusdt@miniTicker")
        full = (await one.until(of("btcusdt@ticker")))["data"]
        await one.until(lambda f: of("btcusdt@miniTicker")(f) and f["data"]["E"] >= full["E"])
        pairs: dict[int, dict[str, Any]] = {}
        for frame in one.frames:
            if "data" in frame:
                pairs.setdefault(frame["data"]["E"], {})[frame["data"]["e"]] = frame["data"]
        both = [pair for pair in pairs.values() if len(pair) == 2]
        assert both
        for pair in both:
            mini, ticker = pair["24hrMiniTicker"], pair["24hrTicker"]
            assert {n: mini[n] for n in "csohlvq"} == {n: ticker[n] for n in "csohlvq"}
        assert full["C"] == full["E"]
        assert full["L"] - full["F"] + 1 == full["n"]


async def test_a_server_that_goes_says_so_in_the_form_of_the_connection():
    async with (
        simulated(speed=60) as simulator,
        client(simulator, "/stream") as combined,
        client(simulator, "/ws") as raw,
    ):
        for one in (combined, raw):
            await one.ask("LIST_SUBSCRIPTIONS")
        simulator.inject(fault="shutdown", lead=20.0)
        frame = await raw.hear()
        assert frame.keys() == {"e", "E"}
        assert frame["e"] == "serverShutdown"
        wrapped = await combined.hear()
        assert wrapped == {"stream": "!serverShutdown", "data": {**wrapped["data"], **frame}}
        async with client(simulator, "/ws") as later:  # on another server
            assert await raw.end(2) == await combined.end(2) == 1001
            await later.subscribe("btcusdt@kline_5m")
    assert "shutdown" not in PLAYED["binance_us"].faults, "not documented there"


# --- candles over REST


@pytest.mark.parametrize("exchange", BOTH)
@pytest.mark.parametrize("interval", LENGTHS)
async def test_candles_come_oldest_first_the_open_one_last(exchange, interval):
    length = LENGTHS[interval] * MINUTE
    async with simulated(exchange) as simulator, rest(simulator) as http:
        symbol = f"BTC{quote(exchange)}"
        rows = (await http.get("klines", params={"symbol": symbol, "interval": interval})).json()
        now = simulator.clock.now() // NS
        assert len(rows) == min(500, (now - simulator.market.listed_since) // length + 1)
        times = [row[0] for row in rows]
        assert times == list(range(times[0], times[-1] + 1, length)), "without holes"
        assert times[-1] == now // length * length
        real = captured("binance/rest_klines_response.json")[0]
        assert [type(each) for each in rows[0]] == [type(each) for each in real]
        assert all(row[6] == row[0] + length - 1 for row in rows)
        if length >= SLOT:
            true = simulator.market.truth(
                f"BTC-{quote(exchange)}", length, times[0], times[-2], simulator.clock.now()
            )
            listing = simulator.market.listing(f"BTC-{quote(exchange)}")
            assert [float(row[4]) for row in rows[:-1]] == [
                candle.row.close / listing.tick for candle in true
            ]
            assert [row[8] for row in rows[:-1]] == [candle.row.count for candle in true]


async def test_start_and_end_both_count_and_a_limit_cuts_what_is_newest_or_oldest():
    first = START // SLOT * SLOT - 100 * SLOT
    async with simulated() as simulator, rest(simulator) as http:

        async def times(**query: int) -> list[int]:
            asked: dict[str, Any] = {"symbol": "BTCUSDT", "interval": "5m", **query}
            rows = (await http.get("klines", params=asked)).json()
            return [(row[0] - first) // SLOT for row in rows]

        def at(slot: int) -> int:
            return first + slot * SLOT

        assert await times(startTime=at(3), endTime=at(6)) == [3, 4, 5, 6]
        assert await times(startTime=at(3) + 1, endTime=at(6) - 1) == [4, 5]
        assert await times(startTime=at(3), limit=2) == [3, 4]
        assert await times(endTime=at(6), limit=2) == [5, 6]
        assert await times(startTime=at(3), endTime=at(60), limit=2) == [3, 4]
        assert await times(limit=2) == [99, 100]
        assert (await times(startTime=at(90)))[-1] == 100, "with the open one"
        assert await times(startTime=at(6), endTime=at(3)) == []
        assert await times(startTime=at(200)) == []
        assert len(await times(startTime=at(-2_000), limit=5_000)) == 1_000
        assert len(await times()) == 500


async def test_the_open_candle_grows():
    async with simulated(speed=60) as simulator, rest(simulator) as http:
        counts = []
        for _ in range(4):
            asked: dict[str, Any] = {"symbol": "BTCUSDT", "interval": "1d", "limit": 1}
            [row] = (await http.get("klines", params=asked)).json()
            counts.append(row[8])
            await trio.sleep(0.2)
        assert counts == sorted(set(counts))


async def test_minutes_without_trades_are_flat_rows():
    async with simulated() as simulator, rest(simulator) as http:
        asked: dict[str, Any] = {"symbol": "AVAXUSDT", "interval": "1m", "limit": 1000}
        rows = (await http.get("klines", params=asked)).json()
        assert len(rows) == 1_000
        empty = [at for at, row in enumerate(rows) if row[8] == 0]
        assert len(empty) > 500
        for at in empty[1:]:
            row, before = rows[at], rows[at - 1]
            assert row[1] == row[2] == row[3] == row[4] == before[4]
            assert float(row[5]) == float(row[7]) == 0.0


async def test_what_never_traded_has_no_candles():
    async with simulated() as simulator, rest(simulator) as http:
        asked: dict[str, Any] = {"symbol": "DEADUSDT", "interval": "5m"}
        assert (await http.get("klines", params=asked)).json() == []


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"symbol": "NOPE", "interval": "5m"}, -1121),
        ({"symbol": "btcusdt", "interval": "5m"}, -1121),
        ({"symbol": "BTC-USDT", "interval": "5m"}, -1121),
        ({"symbol": "BTCUSDT", "interval": "7m"}, -1120),
        ({"symbol": "BTCUSDT", "interval": "1M"}, -1120),
        ({"interval": "5m"}, -1102),
        ({"symbol": "BTCUSDT"}, -1102),
        ({"symbol": "BTCUSDT", "interval": "5m", "limit": "ten"}, -1100),
        ({"symbol": "BTCUSDT", "interval": "5m", "startTime": "-1"}, -1100),
        ({"symbol": "BTCUSDT", "interval": "5m", "timeZone": "8"}, -1000),
    ],
)
async def test_a_bad_request_is_refused_with_its_code(query, code):
    async with simulated() as simulator, rest(simulator) as http:
        reply = await http.get("klines", params=query)
        assert reply.status_code == 400
        assert reply.json()["code"] == code
        for real in captured("binance/rest_errors.json"):
            if real["body"]["code"] == code:
                assert reply.json() == real["body"]


async def test_other_routes_do_not_exist():
    async with simulated() as simulator, rest(simulator) as http:
        assert (await http.get("tea")).status_code == 404
        assert (await http.get(f"{simulator.rest_url}/api/v1/klines")).status_code == 404
        assert (await http.post("time")).status_code == 405
        assert (await http.get("ping")).json() == {}


# --- symbols


@pytest.mark.parametrize("exchange", BOTH)
async def test_exchange_info_has_the_shape_of_a_real_one(exchange):
    folder = exchange.replace("_", "")
    real = captured(f"{folder}/rest_exchangeInfo_trimmed_real.json")
    async with simulated(exchange) as simulator, rest(simulator) as http:
        info = (await http.get("exchangeInfo")).json()
        assert info.keys() == real.keys()
        assert info["rateLimits"][0] == {
            **real["rateLimits"][0],
            "limit": 6_000 if exchange == "binance" else 1_200,
        }
        mine, theirs = info["symbols"][0], real["symbols"][0]
        assert mine.keys() >= theirs.keys()
        assert {n: shape(mine[n]) for n in theirs} == shape(theirs)
        known = {row["filterType"]: set(row) for row in theirs["filters"]}
        for row in mine["filters"]:
            assert set(row) == known.get(row["filterType"], set(row))
        if exchange == "binance":
            assert mine["permissions"] == []
            assert "SPOT" in mine["permissionSets"][0]
        else:
            assert mine["permissions"] == ["SPOT"]
            assert "permissionSets" not in mine
            assert (mine["symbol"], mine["quotePrecision"]) == ("BTCUSD", 4)


async def test_symbols_that_guessing_would_split_wrongly_are_listed():
    async with simulated() as simulator, rest(simulator) as http:
        info = (await http.get("exchangeInfo")).json()
        rows = {row["symbol"]: row for row in info["symbols"]}
        for native, base, quoted in (
            ("1INCHUSDT", "1INCH", "USDT"),
            ("1INCHBTC", "1INCH", "BTC"),
            ("USDCUSDT", "USDC", "USDT"),
            ("FDUSDUSDT", "FDUSD", "USDT"),
            ("TUSDUSDT", "TUSD", "USDT"),
            ("BNBETH", "BNB", "ETH"),
            ("币安人生USDT", "币安人生", "USDT"),
        ):
            assert (rows[native]["baseAsset"], rows[native]["quoteAsset"]) == (base, quoted)
            assert rows[native]["status"] == "TRADING"
        assert rows["BTCUPUSDT"]["permissionSets"][0][0] == "LEVERAGED"
        assert {row["status"] for row in rows.values()} == {"TRADING", "HALT", "BREAK"}
        volumes = {
            row["symbol"]: float(row["quoteVolume"])
            for row in (await http.get("ticker/24hr")).json()
        }
        assert volumes.keys() == rows.keys()
        usable = sorted(volumes, key=volumes.__getitem__, reverse=True)[:8]
        assert {"BTCUPUSDT", "BTCDOWNUSDT", "HALTUSDT"} <= set(usable), "worth leaving out"


async def test_exchange_info_can_be_asked_for_in_part():
    async with simulated() as simulator, rest(simulator) as http:

        async def named(**query: str) -> list[str]:
            reply = await http.get("exchangeInfo", params=query)
            return [row["symbol"] for row in reply.json()["symbols"]]

        assert await named(symbol="ETHUSDT") == ["ETHUSDT"]
        assert await named(symbols='["ETHUSDT","BNBETH"]') == ["ETHUSDT", "BNBETH"]
        assert await named(symbolStatus="BREAK") == ["OLDCUSDT"]
        rows = (await http.get("exchangeInfo?showPermissionSets=false")).json()["symbols"]
        assert not any("permissionSets" in row for row in rows)
        for query in ({"symbol": "NOPE"}, {"symbols": '["NOPE"]'}, {"symbols": "NOPE"}):
            assert (await http.get("exchangeInfo", params=query)).status_code == 400


async def test_the_day_is_told_of_one_of_some_and_of_all():
    real = captured("binance/rest_ticker_24hr_response.json")
    async with simulated() as simulator, rest(simulator) as http:
        one = (await http.get("ticker/24hr?symbol=BTCUSDT")).json()
        assert shape(one) == shape(real)
        some = (await http.get('ticker/24hr?symbols=["BTCUSDT","1INCHUSDT"]')).json()
        assert [row["symbol"] for row in some] == ["BTCUSDT", "1INCHUSDT"]
        everything = (await http.get("ticker/24hr")).json()
        assert len(everything) == len(simulator.market.listings)
        mini = (await http.get("ticker/24hr?type=MINI&symbol=BTCUSDT")).json()
        assert mini.keys() < one.keys()
        assert "bidPrice" not in mini
        trading = (await http.get("ticker/24hr?symbolStatus=TRADING")).json()
        assert {row["symbol"] for row in everything} - {row["symbol"] for row in trading} == {
            "HALTUSDT",
            "OLDCUSDT",
        }
        [dead] = [row for row in everything if row["symbol"] == "DEADUSDT"]
        assert dead["count"] == 0
        assert dead["openTime"] == dead["closeTime"]
        assert float(dead["quoteVolume"]) == 0.0
        asked: dict[str, Any] = {"symbol": "BTCUSDT", "interval": "5m", "limit": 289}
        rows = (await http.get("klines", params=asked)).json()
        assert float(one["volume"]) == pytest.approx(sum(float(row[5]) for row in rows), rel=0.01)


async def test_exchanges_of_one_seed_have_one_price():
    async with (
        simulated("binance", seed=3) as com,
        simulated("binance_us", seed=3) as us,
        simulated("coinbase", seed=3) as coinbase,
    ):
        now = com.clock.now()
        for base in ("BTC", "ETH", "SOL"):
            prices = []
            for simulator, symbol in ((com, "USDT"), (us, "USD"), (coinbase, "USD")):
                listing = simulator.market.listing(f"{base}-{symbol}")
                prices.append(simulator.market.last_price(listing.symbol, now) / listing.tick)
            assert max(prices) / min(prices) < 1.02
            assert len(set(prices)) > 1, "not the same trades"


async def test_simulators_side_by_side_do_not_hear_of_each_other():
    async with (
        simulated("binance", speed=60) as com,
        simulated("binance_us", speed=60) as us,
        client(com) as one,
        client(us) as two,
        rest(us) as http,
    ):
        com.inject(fault="mute", symbol="BTC-USDT", **{"for": 3600})
        com.inject(fault="429", **{"for": 3600})
        await one.subscribe("btcusdt@kline_5m")
        await two.subscribe("btcusd@kline_5m")
        await two.until(of("btcusd@kline_5m"))
        assert (await http.get("time")).status_code == 200
        assert await one.listen(0.3) == []
        assert us.faults.as_json(us.clock.now()) == []
        assert us.stats.rest_requests == 1
        assert com.stats.rest_requests == 0


# --- weights


@pytest.mark.parametrize(
    ("exchange", "weights"),
    [("binance", (2, 20, 2, 2, 80, 1)), ("binance_us", (1, 10, 1, 1, 40, 1))],
)
async def test_requests_weigh_what_is_documented(exchange, weights):
    native = f"BTC{quote(exchange)}"
    paths = (
        f"klines?symbol={native}&interval=5m",
        "exchangeInfo",
        f"ticker/24hr?symbol={native}",
        f'ticker/24hr?symbols=["{native}"]',
        "ticker/24hr",
        "time",
    )
    limits = Limits(rest_window=1e9)  # the minute does not end
    async with simulated(exchange, limits=limits) as simulator, rest(simulator) as http:
        used = 0
        for path, weight in zip(paths, weights, strict=True):
            reply = await http.get(path)
            assert reply.status_code == 200
            used += weight
            assert reply.headers["X-MBX-USED-WEIGHT-1M"] == str(used), path


# --- the faults that every exchange has


async def test_a_storm_of_429_may_tell_how_long_or_not():
    async with simulated() as simulator, rest(simulator) as http:
        simulator.inject(fault="429", **{"for": 60})
        reply = await http.get("time")
        assert (reply.status_code, reply.headers.get("Retry-After")) == (429, None)
        simulator.inject(fault="429", retry_after=7, **{"for": 60})
        assert (await http.get("time")).headers["Retry-After"] == "7"
        assert simulator.stats.over_rate == 0


async def test_symbols_and_channels_fall_silent_on_command():
    async with simulated(speed=60) as simulator, client(simulator) as one:
        await one.subscribe("btcusdt@kline_5m", "btcusdt@ticker", "ethusdt@kline_5m")
        await one.until(of("btcusdt@ticker"))
        simulator.inject(fault="mute", symbol="BTC-USDT", channel="kline", **{"for": 3600})
        await one.listen(0.1)
        heard = {frame["stream"] for frame in await one.listen(1.0)}
        assert heard == {"btcusdt@ticker", "ethusdt@kline_5m"}
        with pytest.raises(Exception, match="unknown channel candles"):
            simulator.inject(fault="mute", channel="candles")


@pytest.mark.parametrize("beats", [False, True])
async def test_acked_and_mute_may_still_ping(beats):
    limits = Limits(ping_every=0.3, pong_within=100.0)
    async with simulated(speed=60, limits=limits) as simulator, client(simulator) as one:
        simulator.inject(fault="ack-then-mute", heartbeats=beats, **{"for": 3600})
        await one.subscribe("btcusdt@kline_5m", "btcusdt@trade")
        assert await one.listen(1.0) == []
        assert bool(one.pings) is beats
        simulator.inject(fault="heartbeats-only", **{"for": 3600})
        assert await one.listen(0.2) == []


async def test_a_refused_message_is_refused_whole_under_its_id():
    async with simulated(speed=60) as simulator, client(simulator) as one:
        simulator.inject(fault="reject", symbol="BTC-USDT", **{"for": 3600})
        answer = await one.ask("SUBSCRIBE", "btcusdt@kline_5m", "ethusdt@kline_5m", id=4)
        assert (answer["code"], answer["id"]) == (2, 4)
        assert (await one.ask("LIST_SUBSCRIPTIONS"))["result"] == []
        assert (await one.ask("SUBSCRIBE", "ethusdt@kline_5m", id=5))["result"] is None


async def test_an_overlooked_message_is_neither_answered_nor_acted_on():
    async with simulated(speed=60) as simulator, client(simulator) as one:
        simulator.inject(fault="ack-some", share=1.0, **{"for": 3600})
        await one.say({"method": "SUBSCRIBE", "params": ["btcusdt@kline_5m"], "id": 1})
        assert await one.listen(0.4) == []
        assert (await one.ask("LIST_SUBSCRIPTIONS"))["result"] == []


@pytest.mark.parametrize("fault", ["lose", "duplicate", "reorder", "stream-differs"])
async def test_frames_are_bent_on_command(fault):
    async with simulated(speed=60) as simulator, client(simulator) as one:
        if fault != "stream-differs":
            simulator.inject(fault=fault, share=0.5, **{"for": 3600})
        else:
            simulator.inject(fault=fault, **{"for": 3600})
        await one.subscribe("btcusdt@trade", "btcusdt@kline_1m")
        await one.listen(2.5)
        ids = [f["data"]["t"] for f in one.frames if f.get("stream") == "btcusdt@trade"]
        assert len(ids) > 50
        whole = list(range(min(ids), max(ids) + 1))
        if fault == "lose":
            assert len(ids) < 0.8 * len(whole)
            assert simulator.stats.dropped_frames > 10
        elif fault == "duplicate":
            assert len(ids) > 1.2 * len(set(ids))
        elif fault == "reorder":
            assert ids != sorted(ids)
        else:
            [k, *_] = candles(one.frames, "btcusdt@kline_1m", closed=True)
            trades = simulator.market.tape("BTC-USDT").trades(k["t"] // SLOT)
            row = trades.fold(trades.before(k["t"] * NS), trades.before((k["t"] + MINUTE) * NS))
            unit = simulator.market.listing("BTC-USDT").unit
            assert float(k["v"]) > row.volume / unit * 1.005


@pytest.mark.parametrize("fault", ["garbage", "truncate"])
async def test_frames_are_damaged_on_command(fault):
    async with simulated(speed=60) as simulator, client(simulator) as one:
        await one.subscribe("btcusdt@trade")
        simulator.inject(fault=fault, share=1.0, **{"for": 3600})
        with pytest.raises(json.JSONDecodeError):
            await one.until(lambda f: False, 5)


async def test_connections_are_dropped_refused_and_frozen_on_command():
    async with simulated(speed=60) as simulator:
        async with client(simulator) as one, client(simulator) as other:
            await one.subscribe("btcusdt@kline_5m")
            await other.subscribe("ethusdt@kline_5m")
            simulator.inject(fault="drop", symbol="BTC-USDT", code=1012)
            assert await one.end() == 1012
            await other.until(of("ethusdt@kline_5m"))
            simulator.inject(fault="half-open", **{"for": 180})
            await other.listen(0.1)
            assert await other.listen(0.5) == []
            with pytest.raises(Gone):
                await other.until(lambda f: False, 8)
        simulator.inject(fault="refuse", status=503, **{"for": 3600})
        async with client(simulator) as one:
            assert one.status == 503


async def test_every_clock_of_a_skewed_exchange_is_off():
    async with simulated() as simulator, rest(simulator) as http, client(simulator) as one:
        simulator.inject(fault="skew", seconds=-90.0, **{"for": 60})
        assert (await http.get("time")).json()["serverTime"] < START - 80_000
        assert (await http.get("exchangeInfo")).json()["serverTime"] < START - 80_000
        await one.subscribe("btcusdt@kline_5m")
        frame = await one.until(of("btcusdt@kline_5m"))
        assert frame["data"]["E"] < START - 80_000
        assert frame["data"]["k"]["t"] == START // SLOT * SLOT


@pytest.mark.parametrize("exchange", BOTH)
async def test_the_control_port_knows_what_this_exchange_can_suffer(exchange):
    async with simulated(exchange) as simulator, httpx.AsyncClient() as http:
        kinds = (await http.get(f"{simulator.control_url}/faults")).json()["kinds"]
        assert {"unflagged", "late-flag", "ban", "geo", "mute", "halt"} <= kinds.keys()
        assert ("shutdown" in kinds) is (exchange == "binance")
        said = {"fault": "unflagged", "symbol": f"BTC-{quote(exchange)}", "for": 60}
        assert (await http.post(f"{simulator.control_url}/faults", json=said)).status_code == 200
        said = {"fault": "mute", "channel": "market_trades"}
        assert (await http.post(f"{simulator.control_url}/faults", json=said)).status_code == 400


async def test_coinbase_has_none_of_the_faults_that_only_others_have():
    async with simulated("coinbase") as simulator:
        for kind in ("unflagged", "late-flag", "ban", "geo", "shutdown"):
            with pytest.raises(Exception, match=f"unknown fault '{kind}'"):
                simulator.inject(fault=kind)


# --- TLS


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A key and a certificate for localhost and 127.0.0.1, in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl: TLS is NOT tested; install it (Debian: openssl)")
    path = tmp_path / "own.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost".split()
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    made = [*command, *names, "-keyout", str(path), "-out", str(tmp_path / "cert.pem")]
    subprocess.run(made, check=True, capture_output=True)
    path.write_text(path.read_text() + (tmp_path / "cert.pem").read_text())
    return path


async def test_both_ports_speak_tls_beside_plain_text(certificate):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with simulated(speed=60, tls=context) as simulator:
        assert simulator.tls_rest_url.startswith("https://")
        async with httpx.AsyncClient(verify=trusting) as http:
            reply = await http.get(f"{simulator.tls_rest_url}/api/v3/time")
            assert reply.json().keys() == {"serverTime"}
        assert simulator.tls_websocket_url.startswith("wss://")
        port = int(simulator.tls_websocket_url.rpartition(":")[2])
        async with await trio.open_ssl_over_tcp_stream(
            "127.0.0.1", port, ssl_context=trusting
        ) as stream:
            one = Client(stream)
            await one.open("/ws/btcusdt@kline_5m")
            assert (await one.hear())["e"] == "kline"
            simulator.inject(fault="drop")  # a reset, below TLS
            with pytest.raises(Gone):
                await one.until(lambda f: False, 3)
        async with rest(simulator) as plain:
            assert (await plain.get("time")).status_code == 200


async def test_without_a_context_nothing_speaks_tls():
    async with simulated() as simulator:
        assert simulator.tls_rest_url == simulator.tls_websocket_url == ""


# --- what counts in time


class TestOnAClockMovedByHand:
    """What is counted by time, on time that passes when it is told to."""

    @pytest.fixture
    def clock(self):
        return MockClock()

    async def test_the_sixth_message_within_a_second_ends_the_connection(self, clock):
        async with patient() as simulator, client(simulator) as one:
            for number in range(5):
                await one.ask("LIST_SUBSCRIPTIONS", id=number)
            await later(clock, 1.0)
            for number in range(5):
                await one.ask("LIST_SUBSCRIPTIONS", id=number)
            assert simulator.stats.over_rate == 0
            async with client(simulator) as other:  # each connection counts alone
                await other.ask("LIST_SUBSCRIPTIONS")
            await later(clock, 0.9)
            await one.say({"method": "LIST_SUBSCRIPTIONS", "id": 6})
            assert await one.end() == 1008
            assert simulator.stats.over_rate == simulator.stats.rejected_messages == 1

    async def test_pings_and_pongs_count_as_messages(self, clock):
        async with patient() as simulator, client(simulator) as one:
            for _ in range(2):
                await one.ping()
                await one.pong(b"")
            await one.ask("LIST_SUBSCRIPTIONS")
            await one.pong(b"")
            assert await one.end() == 1008

    async def test_nothing_is_said_after_goodbye(self, clock, caplog):
        async with patient() as simulator, client(simulator) as one:
            pings = b"".join(one.protocol.send(ws.Ping()) for _ in range(9))
            await one.stream.send_all(pings)
            assert await one.end() == 1008
            await later(clock, 100)
            await wait_all_tasks_blocked()
        assert caplog.records == []

    async def test_who_answers_pings_may_stay(self, clock):
        async with patient() as simulator, client(simulator) as one:
            for count in range(1, 13):  # four minutes
                await later(clock, 20)
                await answered(one, count)
            assert simulator.stats.connections == 1
            stamps = [int(payload) for payload in one.pings]
            assert stamps == [START + 20_000 * count for count in range(1, 13)]

    async def test_who_does_not_answer_with_the_payload_is_dropped_after_a_minute(self, clock):
        async with patient() as simulator, client(simulator) as one:
            one.pongs = False
            for count in (1, 2, 3):
                await later(clock, 20)
                while len(one.pings) < count:
                    await one._listen()
                await one.pong(b"")  # not what was asked for: does not count
            await later(clock, 19)
            await wait_all_tasks_blocked(0.01)
            assert simulator.stats.connections == 1
            await later(clock, 1)  # a minute after the first ping
            assert await one.end() == 1008

    async def test_binance_us_pings_every_three_minutes(self, clock):
        async with patient("binance_us") as simulator, client(simulator) as one:
            await later(clock, 179)
            await wait_all_tasks_blocked(0.05)
            await later(clock, 1)
            await answered(one, 1)
            assert len(one.pings) == 1
            one.pongs = False
            for count in (2, 3, 4, 5):
                await later(clock, 180)
                while len(one.pings) < count:
                    await one._listen()
            await wait_all_tasks_blocked(0.01)
            assert simulator.stats.connections == 1
            await later(clock, 60)  # ten minutes after the second ping
            assert await one.end() == 1008

    async def test_a_half_open_connection_is_not_dropped_for_missing_pongs(self, clock):
        async with patient() as simulator, client(simulator) as one:
            await later(clock, 1)
            simulator.inject(fault="half-open", **{"for": 300})
            for _ in range(10):
                await later(clock, 20)
                await wait_all_tasks_blocked(0.01)
            assert simulator.stats.connections == 1
            assert one.pings == []

    async def test_three_hundred_connections_in_five_minutes_are_allowed_and_no_more(self, clock):
        async with patient() as simulator:
            for number in range(301):
                async with client(simulator) as one:
                    assert one.status == (101 if number < 300 else 429)
            assert simulator.stats.over_rate == simulator.stats.refused == 1
            await later(clock, 301)
            async with client(simulator) as one:
                assert one.status == 101

    async def test_too_much_weight_is_refused_until_the_minute_is_over(self, clock):
        real = captured("binance/rest_errors.json")[2]
        async with patient() as simulator, rest(simulator) as http:
            for count in range(1, 76):
                reply = await http.get("ticker/24hr")
                assert reply.status_code == 200
                assert reply.headers["X-MBX-USED-WEIGHT-1M"] == str(80 * count)
            await later(clock, 59.5 - trio.current_time() % 60)
            reply = await http.get("time")
            assert reply.status_code == real["status"] == 429
            assert reply.json() == real["body"]
            assert reply.headers["X-MBX-USED-WEIGHT-1M"] == real["headers"]["X-MBX-USED-WEIGHT-1M"]
            assert reply.headers["Retry-After"] == "1"
            await later(clock, 1)
            reply = await http.get("time")
            assert reply.status_code == 200
            assert reply.headers["X-MBX-USED-WEIGHT-1M"] == "1"
            assert simulator.stats.rest_429 == simulator.stats.over_rate == 1

    async def test_who_goes_on_after_a_429_is_banned_for_two_minutes(self, clock):
        limits = Limits(rest_rate=1)
        async with patient(limits=limits) as simulator, rest(simulator) as http:
            seen = [(await http.get("time")) for _ in range(9)]
            assert [reply.status_code for reply in seen] == [200, *[429] * 5, *[418] * 3]
            assert seen[-1].headers["Retry-After"] == "120"
            assert "IP banned until" in seen[-1].json()["msg"]
            assert (simulator.stats.rest_429, simulator.stats.rest_418) == (5, 3)
            await later(clock, 119)
            assert (await http.get("time")).status_code == 418
            await later(clock, 1)
            assert (await http.get("time")).status_code == 200

    async def test_bans_and_borders_on_command(self, clock):
        async with patient(speed=60) as simulator, rest(simulator) as http:
            simulator.inject(fault="ban", retry_after=33, **{"for": 30})
            reply = await http.get("time")
            assert reply.status_code == 418
            assert reply.headers["Retry-After"] == "33"
            await later(clock, 0.6)
            assert (await http.get("time")).status_code == 200
            simulator.inject(fault="geo", **{"for": 60})
            reply = await http.get("time")
            assert reply.status_code == 451
            assert "restricted location" in reply.json()["msg"]
            assert simulator.stats.over_rate == 0

    async def test_rest_fails_breaks_off_and_forgets_on_command(self, clock):
        async with patient(speed=60) as simulator, rest(simulator) as http:
            asked: dict[str, Any] = {"symbol": "BTCUSDT", "interval": "1m", "limit": 5}
            simulator.inject(fault="5xx", status=502, **{"for": 12})
            assert (await http.get("klines", params=asked)).status_code == 502
            await later(clock, 0.3)
            simulator.inject(fault="cut-rest", **{"for": 12})
            with pytest.raises(httpx.RemoteProtocolError):
                await http.get("klines", params=asked)
            await later(clock, 0.3)
            simulator.inject(fault="stale-rest", seconds=180.0, **{"for": 12})
            newest = (await http.get("klines", params=asked)).json()[-1][0]
            assert newest < simulator.clock.now() // NS - 120_000
            await later(clock, 0.3)
            simulator.inject(fault="sparse-rest", share=0.5, **{"for": 60})
            rows = (await http.get("klines", params={**asked, "limit": 1000})).json()
            assert 350 < len(rows) < 650


@contextlib.asynccontextmanager
async def patient(exchange: str = "binance", **settings: Any) -> AsyncIterator[Simulator]:
    """A simulator on a clock that may jump."""
    async with trio.open_nursery() as nursery:
        plan = SimulatorSettings(
            exchange=exchange, symbols=8, start=START, history_days=30, **settings
        )
        yield await nursery.start(serve, plan)
        nursery.cancel_scope.cancel()


async def later(clock: MockClock, seconds: float) -> None:
    """Let time pass when everybody waits for it, and what is due then happen."""
    await wait_all_tasks_blocked(0.01)
    clock.jump(seconds)
    await wait_all_tasks_blocked(0.01)


async def answered(one: Client, count: int) -> None:
    """Wait until ``count`` pings have come and the last one's pong has arrived."""
    while len(one.pings) < count:
        await one._listen()
    await wait_all_tasks_blocked(0.01)
